"""The embedded Reber grammar, against a regular expression written down by hand."""

import random
import re

import pytest

from homl_models.pipelines import reber

INNER = "B(TS*X(XT*VP)*(S|XT*VV)|PT*V(PXT*V)*(PS|V))E"
EMBEDDED = re.compile(f"BT{INNER}TE|BP{INNER}PE")
LETTERS = "BEPSTVX"


@pytest.fixture(scope="module")
def strings():
    return reber.generate(2000, seed=1)


def test_generated_strings_obey_the_grammar(strings):
    assert len(strings) == 2000
    assert all(EMBEDDED.fullmatch(string) for string in strings)
    assert all(reber.accepts(string) for string in strings)


def test_both_transitions_of_every_state_are_taken(strings):
    for halves in (("BTB", "BPB"), ("TE", "PE")):
        share = sum(halves[0] in (string[:3], string[-2:]) for string in strings) / len(strings)
        assert 0.45 < share < 0.55
    assert 0.45 < sum(string[3] == "T" for string in strings) / len(strings) < 0.55
    assert len({string[2:-2] for string in strings}) > 200
    assert max(map(len, strings)) > 20
    assert min(map(len, strings)) == len("BTBTXSETE")


def test_known_strings():
    assert reber.accepts("BPBTSXXVPSEPE")
    assert reber.accepts("BPBTSSSSSSSXXTTTTTVPXTTTTTVVEPE")
    assert not reber.accepts("BPBTSSSSSSSXXTTTTTVPXVVETE")  # the second letter forgotten
    assert not reber.accepts("BTXSE")  # the grammar that is not embedded
    for string in ("", "B", "BTTE", "BTBTXSET", "TBTXSETE", "BTBTXSETEE", "BTBTXSETE\n", "btbtxsete", "BTBTXQETE"):
        assert not reber.accepts(string)


def test_accepts_what_the_expression_matches_after_any_change(strings):
    draw, accepted, total = random.Random(0), 0, 0
    for string in strings[:300]:
        i = draw.randrange(len(string))
        changes = [string[:i] + letter + string[i + 1 :] for letter in LETTERS.replace(string[i], "")]
        changes += [string[:i] + string[i + 1 :], string[:i] + draw.choice(LETTERS) + string[i:], string[::-1]]
        for changed in changes:
            assert reber.accepts(changed) == bool(EMBEDDED.fullmatch(changed)), changed
        accepted += sum(map(reber.accepts, changes[:6]))
        total += 6
    assert accepted < 0.05 * total


def test_strings_with_one_outer_letter_swapped_are_never_accepted(strings):
    swap = {"T": "P", "P": "T"}
    for string in strings:
        assert not reber.accepts(string[0] + swap[string[1]] + string[2:])
        assert not reber.accepts(string[:-2] + swap[string[-2]] + string[-1])


def test_strings_are_a_function_of_the_seed(strings):
    assert reber.generate(2000, seed=1) == strings
    assert reber.generate(10, seed=1) == strings[:10]
    assert reber.generate(10, seed=2) != strings[:10]
