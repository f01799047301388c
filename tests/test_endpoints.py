"""Endpoints: one declaration gives the check in Python, the assertion in the graph, the flag and the documentation."""

import functools
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from homl_models.endpoints import COUNT, SEED, Array, Endpoint, Float, Image, Int, Ints, String, Text
from tests import checks
from tests.kinds import ROOT

RANGES = [  # input, values inside, values outside, the rule
    (COUNT, [0, 3], [-1], "count must be 0 or more"),
    (SEED, [0, 2**31 - 1], [-1, 2**31], "seed must lie in 0 to 2^31 - 1"),
    (Int("steps", 1, 50), [1, np.int32(50)], [0, 51], "steps must lie in 1 to 50"),
    (Float("top_p", 0, 1), [0, 0.5, 1.0], [-0.1, 1.1, math.nan], "top_p must lie in [0, 1]"),
    (Float("strength", 0, 1, exclusive=True), [1e-6, 1], [0, 1.1], "strength must lie in (0, 1]"),
    (Float("noise", 0, hint="0 is none"), [0, 1e9], [-1, math.inf, math.nan], "noise must be 0 or more"),
    (Float("rate", 0, exclusive=True), [0.1], [0.0], "rate must be above 0"),
    (Ints("labels", -1, 2), [[0], [-1, 2]], [[0, 3], [-2]], "labels must lie in -1 to 2"),
    (Image("images", (2,)), [[[0.0, 1.0]]], [[[0.0, 255.0]]], "images must lie in [0, 1]"),
    (Int("anything"), [-5, 5], [], "anything "),
    (Array("codings", None, 2), [[[-9.0, math.inf]]], [], "codings "),
]


@pytest.mark.parametrize(("declared", "inside", "outside", "rule"), RANGES, ids=lambda x: getattr(x, "name", ""))
def test_a_range_is_checked_in_python_and_in_the_graph_with_the_same_words(declared, inside, outside, rule):
    assert declared.message().startswith(rule)
    endpoint = Endpoint(lambda x: {"x": x}, [declared])
    graph = tf.function(lambda x: endpoint(x), input_signature=endpoint.signature)
    for value in inside:
        declared.check(value)
        checks.close(graph(tf.constant(value, declared.dtype))["x"], np.asarray(value, declared.dtype))
    for value in outside:
        checks.fails(re.escape(rule), functools.partial(endpoint.check, **{declared.name: value}))
        if declared.dtype == "int32" and np.max(value) >= 2**31:
            continue  # no such tensor
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            graph(tf.constant(value, declared.dtype))
        assert declared.message() in error.value.message


def test_whole_numbers_are_whole_and_a_hint_is_added():
    checks.fails("steps must be a whole number, not 2.5", lambda: Int("steps", 1).check(2.5))
    checks.fails("labels must be whole numbers", lambda: Ints("labels", 0, 2).check([0.5, 1]))
    checks.fails("noise must be 0 or more, not -1; 0 is none", lambda: Float("noise", 0, hint="0 is none").check(-1))
    checks.fails("count must be 0 or more, not 0.5|a whole number", lambda: COUNT.check(0.5))


@pytest.mark.parametrize(
    ("declared", "text", "value"),
    [
        (Int("n", 0), "3", 3),
        (Float("x"), "3", 3.0),
        (Ints("labels", -1, 9), "[1, 2]", [1, 2]),
        (Ints("labels", -1, 9), "4", [4]),
        (Array("codings", None, 2), "[0.5, 1]", [[0.5, 1.0]]),
        (Array("codings", None, 2), "[[0.5, 1], [2, 3]]", [[0.5, 1.0], [2.0, 3.0]]),
        (String("stop"), "[1]", "[1]"),
    ],
)
def test_a_word_of_the_command_line_is_parsed(declared, text, value):
    found = declared.parse(text)
    assert np.asarray(found).tolist() == value


@pytest.mark.parametrize(
    ("declared", "text", "message"),
    [
        (Int("n", 0), "x", "n must be int32, not 'x'"),
        (Int("n", 0), "2.5", "n must be int32, not '2.5'"),
        (Int("n", 0), "true", "n must be int32"),
        (Int("n", 0), "-1", "n must be 0 or more, not -1"),
        (Ints("labels", -1, 9), "[[1]]", r"labels must be int32\[n\]"),
        (Array("codings", None, 2), "[1, 2, 3]", r"codings must be float32\[n, 2\]"),
        (Float("x"), "1" * 5000, "x must be float32"),
        (String("stop"), "\udcff", "is not UTF-8 text"),
    ],
)
def test_a_word_that_does_not_fit_is_refused(declared, text, message):
    checks.fails(message, lambda: declared.parse(text))


def sample(name, count, labels):
    """New samples."""
    return {"images": tf.zeros([count, 2]), "names": name}


def test_an_endpoint_comes_back_from_json_with_everything_but_its_function():
    endpoint = Endpoint(sample, [Text("name"), COUNT, Ints("labels", -1, 2, default=(-1,))])
    endpoint.outputs = {"images": Array("images", None, 2)}
    again = Endpoint.from_json(json.loads(json.dumps(endpoint.to_json())))
    assert str(again) == str(endpoint).replace("(-1,)", "[-1]")
    assert again.doc == "New samples."
    assert again.main_input == "name"
    assert again.defaults == {"count": 64, "labels": [-1]}
    checks.fails("labels must lie in -1 to 2", lambda: again.check(labels=[3]))


def test_declarations_need_neither_tensorflow_nor_keras():
    script = "import sys, homl_models.endpoints, homl_models.serving, homl_models.prediction; "
    script += "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
