"""Pipelines of texts: parity with those of `transformers`, in Python and from a SavedModel without Keras."""

import dataclasses
import json
import unicodedata

import keras
import numpy as np
import pytest

from homl_models import models
from homl_models.checkpoints import huggingface
from homl_models.errors import UserError
from homl_models.models.bert_heads import POOLINGS
from homl_models.models.electra import OBJECTIVES as ELECTRA_OBJECTIVES
from homl_models.training.saved_model import write_saved_model
from tests import checks, processes

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "who", "where", "is", "in", "house", ".", ",", "?", "!", "it"]
WORDS += ["was", "un", "##aff", "##able", "caf", "##e", "##s", "中"]
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
TEXTS = ["The cat sat on the mat.", "It was in the Cafés, unaffable!", "a dog 中"]
CONTEXTS = ["The unaffable cat sat, it was on the mat.", "In the house is a dog.", "dog"]
QUESTIONS = ["Where is the cat?", "Who is in the house?", "Who?"]


def make(kind, seed=0, **settings):
    keras.utils.set_random_seed(seed)
    sizes = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24, "max_position_embeddings": 32}
    family = huggingface.FAMILIES["electra" if kind.__name__.startswith("Electra") else "bert"]
    sizes |= {"embedding_size": 8} if family.model_type == "electra" else {}
    backbone = family.backbone(family.config(**sizes), **family.backbone_arguments(kind))
    model = kind(backbone, vocabulary=VOCABULARY, **settings)
    model.build()
    for i, weight in enumerate(model.trainable_weights):
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.4, seed=i))
    return model


def theirs(task, model, folder, **settings):
    """A pipeline of `transformers` on what we saved."""
    import transformers

    huggingface.save_pretrained(model, folder)
    return transformers.pipeline(task, str(folder), framework="pt", device="cpu", **settings)


def endpoint(model, name, *texts, **numbers):
    """Outputs of an endpoint in a graph."""
    import tensorflow as tf

    found = model.endpoints()[name]
    given = found.defaults | dict(zip(found.inputs, texts)) | numbers
    graph = tf.function(lambda *tensors: found(*tensors), input_signature=found.signature)
    return {key: x.numpy() for key, x in graph(*checks.tensors(found, [given[key] for key in found.inputs])).items()}


@pytest.mark.parity
@pytest.mark.parametrize("kind", [models.BertForSequenceClassification, models.ElectraForSequenceClassification])
def test_classify_as_their_pipeline(kind, tmp_path):
    model = make(kind, num_labels=3, labels=("bad", "fair", "good"))
    labels, scores = model.classify(TEXTS)
    for row, found in zip(scores, theirs("text-classification", model, tmp_path, top_k=None)(TEXTS)):
        wanted = {one["label"]: one["score"] for one in found}
        checks.close(row, np.array([wanted[label] for label in model.label_names]))
    assert labels == [model.label_names[row.argmax()] for row in scores]
    again = huggingface.from_pretrained(tmp_path)
    assert (again.labels, again.vocabulary) == (model.labels, VOCABULARY)


def test_classify_is_the_same_in_a_graph():
    model = make(models.BertForSequenceClassification, num_labels=3, labels=("bad", "fair", "good"))
    labels, scores = model.classify(TEXTS)
    ours = endpoint(model, "classify", TEXTS)
    assert [label.decode() for label in ours["labels"]] == labels
    checks.close(ours["scores"], scores)
    labels, scores = model.classify(QUESTIONS, CONTEXTS)
    checks.close(endpoint(model, "classify_pairs", QUESTIONS, CONTEXTS)["scores"], scores)
    assert endpoint(model, "classify", ["cat " * 100])["scores"].shape == (1, 3)  # cut


MASKED = ["The [MASK] sat on the [MASK].", "[MASK] dog", "It was [MASK] [MASK] [MASK]!"]


@pytest.mark.parity
@pytest.mark.parametrize("kind", [models.BertForMaskedLM, models.ElectraForMaskedLM])
def test_fill_masks_as_their_pipeline(kind, tmp_path):
    model = make(kind)
    ours = model.fill_mask(MASKED, top_k=4)
    for masks, found in zip(ours, theirs("fill-mask", model, tmp_path, top_k=4)(MASKED)):
        found = found if isinstance(found[0], list) else [found]
        assert len(masks) == len(found)
        for mine, wanted in zip(masks, found):
            assert [token for token, _ in mine] == [one["token_str"] for one in wanted]
            checks.close(np.array([p for _, p in mine]), np.array([one["score"] for one in wanted]))


def test_fill_masks_is_the_same_in_a_graph():
    model = make(models.BertForMaskedLM)
    ours, graph = model.fill_mask(MASKED, top_k=4), endpoint(model, "fill_mask", MASKED, top_k=4)
    for i, masks in enumerate(ours):
        assert len(masks) == MASKED[i].count("[MASK]")
        for j, mine in enumerate(masks):
            assert [token.decode() for token in graph["tokens"][i, j]] == [token for token, _ in mine]
            checks.close(graph["scores"][i, j], np.array([p for _, p in mine]))
        assert not graph["scores"][i, len(masks) :].any()


@pytest.mark.parity
def test_answers_as_their_pipeline(tmp_path):
    model = make(models.BertForQuestionAnswering)
    pipeline = theirs("question-answering", model, tmp_path)
    ours, graph = model.answer(QUESTIONS, CONTEXTS), endpoint(model, "answer", QUESTIONS, CONTEXTS)
    for i, (question, context) in enumerate(zip(QUESTIONS, CONTEXTS)):
        wanted = pipeline(question=question, context=context, max_answer_len=30, align_to_words=False)
        assert ours[i][0] == wanted["answer"]
        checks.close(ours[i][1], wanted["score"])
        assert (graph["starts"][i], graph["ends"][i]) == (wanted["start"], wanted["end"])


def test_answers_are_the_same_in_a_graph_and_lie_where_it_says():
    model = make(models.BertForQuestionAnswering)
    ours, graph = model.answer(QUESTIONS, CONTEXTS), endpoint(model, "answer", QUESTIONS, CONTEXTS)
    for i, (answer, p) in enumerate(ours):
        assert answer == graph["answers"][i].decode() == CONTEXTS[i][graph["starts"][i] : graph["ends"][i]]
        checks.close(graph["scores"][i], p)


@pytest.mark.parity
@pytest.mark.parametrize("kind", [models.BertForTokenClassification, models.ElectraForTokenClassification])
def test_tag_as_their_pipeline(kind, tmp_path):
    model = make(kind, num_labels=3, labels=("O", "B-X", "B-Y"))
    pipeline = theirs("token-classification", model, tmp_path, ignore_labels=[])
    for text, ours in zip(TEXTS, model.tag(TEXTS)):
        wanted = [one for one in pipeline(text) if not one["word"].startswith("##")]
        assert [label for _, label, _ in ours] == [one["entity"] for one in wanted]
        checks.close(np.array([p for *_, p in ours]), np.array([one["score"] for one in wanted]))


def test_tag_is_the_same_in_a_graph():
    model = make(models.BertForTokenClassification, num_labels=3, labels=("O", "B-X", "B-Y"))
    ours, graph = model.tag(TEXTS), endpoint(model, "tag", TEXTS)
    for i, text in enumerate(TEXTS):
        words, labels, scores = zip(*ours[i])
        assert "".join(words) == text.replace(" ", "")
        assert list(words) == [word.decode() for word in graph["words"][i] if word]
        assert list(labels) == [label.decode() for label in graph["labels"][i] if label]
        checks.close(graph["scores"][i][: len(scores)], np.array(scores))


def test_long_texts_are_tagged_in_windows_each_word_where_it_has_more_context():
    model = make(models.BertForTokenClassification, num_labels=3, labels=("O", "B-X", "B-Y"))
    texts = [*TEXTS, " ".join(TEXTS * 4), "", "unaffable " * 50]
    found, graph = model.tag(texts), endpoint(model, "tag", texts)
    for i, (text, rows) in enumerate(zip(texts, found)):
        assert "".join(word for word, *_ in rows) == text.replace(" ", "")
        assert [word for word, *_ in rows] == [word.decode() for word in graph["words"][i] if word]
        assert [label for _, label, _ in rows] == [label.decode() for label in graph["labels"][i] if label]
        checks.close(graph["scores"][i][: len(rows)], np.float32([p for *_, p in rows]))
    text = texts[3]
    tokens = model.tokenizer.encode([text], offsets=True)
    room, overlap = 30, 8
    windows = model.tokenizer.text_windows([text], 32, overlap)
    assert len(windows["input_ids"]) > 1
    p = np.array(keras.ops.softmax(model({name: windows[name] for name in TOKENS})))
    words = tokens["word_ids"][0, 1:-1]
    firsts = [int(np.flatnonzero(words == word)[0]) for word in range(words.max() + 1)]
    for (_, label, score), first in zip(found[3], firsts, strict=True):
        rows = [k for k in range(len(windows["input_ids"])) if 0 <= first - k * (room - overlap) < room]
        chosen = [k for k in rows if windows["is_owned"][k, 1 + first - k * (room - overlap)]]
        assert len(chosen) == 1
        row = p[chosen[0], 1 + first - chosen[0] * (room - overlap)]
        assert (label, pytest.approx(score, rel=1e-4)) == (model.label_names[row.argmax()], row.max())


def test_embed_and_detect(tmp_path):
    model = make(models.TextEmbedder)
    vectors = model.embed(TEXTS)
    for text, vector in zip(TEXTS, vectors):
        ids = model.tokenizer.encode([text])["input_ids"]
        checks.close(vector, np.mean(model.backbone(ids)["last_hidden_state"], axis=1)[0])
    checks.close(endpoint(model, "embed", TEXTS)["embeddings"], vectors)
    model = make(models.ElectraForPreTraining)
    ours, graph = model.detect_replaced(TEXTS), endpoint(model, "detect_replaced", TEXTS)
    for i, text in enumerate(TEXTS):
        ids = model.tokenizer.encode([text])["input_ids"]
        p = 1 / (1 + np.exp(-np.array(model(ids))[0, 1:-1]))
        assert [token for token, _ in ours[i]] == [VOCABULARY[j] for j in ids[0, 1:-1]]
        checks.close(np.array([score for _, score in ours[i]]), p)
        checks.close(graph["scores"][i][graph["scores"][i] > 0], p)


WITHOUT_KERAS = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
found = model.answer(questions=tf.constant(json.loads(sys.argv[2])), contexts=tf.constant(json.loads(sys.argv[3])))
print(json.dumps([x.decode() for x in found["answers"].numpy()]))
"""


def test_a_saved_model_answers_where_there_is_no_keras(tmp_path):
    model = make(models.BertForQuestionAnswering)
    write_saved_model(model, tmp_path / "saved_model")
    given = json.dumps(QUESTIONS), json.dumps(CONTEXTS)
    done = processes.run(WITHOUT_KERAS, tmp_path / "saved_model", *given, process=processes.NO_KERAS)
    assert done == [answer for answer, _ in model.answer(QUESTIONS, CONTEXTS)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: make(models.BertForMaskedLM).fill_mask(["no mask"]), r"every text needs a \[MASK\]"),
        (lambda: make(models.BertForMaskedLM).fill_mask("[MASK]"), "give a list of texts, not one text"),
        (
            lambda: make(models.BertForMaskedLM).fill_mask(["a " * 39 + "[MASK]"]),
            "42 tokens; this model takes 32 at most",
        ),
        (lambda: make(models.BertForTokenClassification, labels=("a",)), "1 names are given for 2 labels"),
        (lambda: named(()).tag(["a"]), "this model has no vocabulary and takes ids alone"),
        (lambda: more_words(), "the vocabulary has 31 tokens, the model 30"),
        (lambda: make(models.BertForMaskedLM).fill_mask(["[MASK]"], 31), "top_k must lie in 1 to 30"),
        (lambda: make(models.BertForMaskedLM).fill_mask(["[MASK]"], 0), "top_k must lie in 1 to 30"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()


def more_words():
    model = make(models.BertForTokenClassification)
    return type(model)(model.backbone, vocabulary=(*VOCABULARY, "more"))


def named(vocabulary):
    model = make(models.BertForTokenClassification)
    model.vocabulary = vocabulary
    return model


def test_a_long_context_is_read_in_windows_and_the_best_answer_of_all_is_taken():
    model = make(models.BertForQuestionAnswering)
    context = " ".join(["The cat sat on the mat, it was in the house."] * 9)
    [(answer, p)] = model.answer(QUESTIONS[:1], [context])
    windows = model.tokenizer.windows(QUESTIONS[:1], [context], 32, 8)
    assert len(windows["overflow_to_sample_mapping"]) > 3
    spans = []
    for i in range(len(windows["overflow_to_sample_mapping"])):
        row = {name: windows[name][i : i + 1] for name in ("input_ids", "token_type_ids", "attention_mask")}
        (first,), (last,), (score,), _ = (np.array(x) for x in model.best_spans(row))
        start, end = windows["offsets"][i, first, 0], windows["offsets"][i, last, 1]
        spans.append((float(score), context[start:end]))
    best = max(spans)
    assert answer in {text for score, text in spans if score > best[0] - 1e-6}
    checks.close(np.array(p), np.array(best[0]))
    several = model.answer([QUESTIONS[1], QUESTIONS[0], QUESTIONS[2]], [CONTEXTS[1], context, CONTEXTS[2]])
    checks.close(np.array([p for _, p in several])[1], np.array(p))


def test_texts_of_all_lengths_come_back_in_their_order():
    model = make(models.BertForSequenceClassification, num_labels=3)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS[:8], rng.integers(1, 25))) for _ in range(70)]
    checks.close(model.classify(texts)[1], np.concatenate([model.classify([text])[1] for text in texts]), 1e-5)
    assert model.classify([])[0] == []


def test_model_max_length_truncates_texts(tmp_path):
    model = make(models.BertForSequenceClassification, model_max_length=8)
    assert model.max_length == 8
    long, cut = ("the cat sat on the mat in the house", "the cat sat on the mat")  # 9 and 6 tokens
    checks.close(model.classify([long])[1], model.classify([cut])[1], 0)
    checks.close(endpoint(model, "classify", [long])["scores"], model.classify([cut])[1])
    huggingface.save_pretrained(model, tmp_path)
    assert huggingface.from_pretrained(tmp_path).max_length == 8
    assert make(models.BertForSequenceClassification, model_max_length=999).max_length == 32  # its positions


SLOW_OBJECTIVES = {"electra_15", "all_tokens_mlm"}
OBJECTIVES = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW_OBJECTIVES else ()) for name in ELECTRA_OBJECTIVES
]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_pretrainer_has_the_endpoints_of_its_heads(objective):
    sizes = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24, "max_position_embeddings": 32, "embedding_size": 8}
    text, config = ["the [MASK] sat"], models.ElectraConfig(**sizes)
    small = dataclasses.replace(config, hidden_size=8)
    model = models.ElectraPretrainer(models.Electra(config), small, objective=objective, vocabulary=VOCABULARY)
    model.build()
    head = model.mlm_head or model.generator
    found = endpoint(model, "fill_mask", text, top_k=3)
    assert [x.decode() for x in found["tokens"][0, 0]] == [token for token, _ in head.fill_mask(text, 3)[0][0]]
    assert ("detect_replaced" in model.endpoints()) == (objective != "replace_mlm")
    if model.discriminator_head:
        found, wanted = endpoint(model, "detect_replaced", TEXTS), model.discriminator_head.detect_replaced(TEXTS)
        checks.close(found["scores"][1][found["tokens"][1] != b""], np.array([p for _, p in wanted[1]]))


# No texts, many labels, no answer, long contexts, padded vocabularies.

METHODS = {  # of each head with a method of texts, and how many lists of texts it takes
    "classify": (models.BertForSequenceClassification, 1),
    "classify_pairs": (models.BertForSequenceClassification, 2),
    "fill_mask": (models.BertForMaskedLM, 1),
    "answer": (models.BertForQuestionAnswering, 2),
    "tag": (models.BertForTokenClassification, 1),
    "detect_replaced": (models.ElectraForPreTraining, 1),
    "embed": (models.TextEmbedder, 1),
}


PLAIN = {"classify", "tag", "embed", "detect_replaced"}  # as the other three, with less


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in PLAIN else ()) for n in METHODS])
def test_of_no_texts_there_are_results_with_no_rows(name):
    kind, lists = METHODS[name]
    model = make(kind)
    none = np.array([], "S")
    found = endpoint(model, name, *[none] * lists, **({"top_k": 3} if name == "fill_mask" else {}))
    assert {len(rows) for rows in found.values()} == {0}
    given = getattr(model, name.removesuffix("_pairs"))(*[[]] * lists)
    assert {len(rows) for rows in (given if isinstance(given, tuple) else [given])} == {0}


@pytest.mark.parametrize("num_labels", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_several_labels_and_numbers_come_back_as_such(num_labels):
    names = ("a", "b", "c")[:num_labels]
    kind = models.BertForSequenceClassification
    model = make(kind, num_labels=num_labels, labels=names, problem_type="multi_label_classification")
    logits = np.array(model(model.tokenizer.encode(TEXTS)))
    labels, scores = model.classify(TEXTS)
    checks.close(scores, 1 / (1 + np.exp(-logits)), 1e-5)
    assert labels == [tuple(name for name, x in zip(names, row) if x > 0) for row in logits]
    assert {len(some) for some in labels} != {1} or num_labels == 1
    found = endpoint(model, "classify", TEXTS)
    assert [tuple(x.decode() for x in row if x) for row in found["labels"]] == labels
    checks.close(found["scores"], scores)

    model = make(kind, num_labels=num_labels, problem_type="regression")
    logits = np.array(model(model.tokenizer.encode(TEXTS)))
    numbers, scores = model.classify(TEXTS)
    checks.close(np.reshape(numbers, logits.shape), logits, 1e-5)
    assert isinstance(numbers[0], float if num_labels == 1 else tuple)
    found = endpoint(model, "classify", TEXTS)
    assert list(found) == ["scores"]
    checks.close(found["scores"], scores)


def test_an_answer_is_empty_where_cls_is_as_probable_in_every_window():
    """By hand, from the logits: p of the best answer against the least p of [CLS] in any part of the context."""
    long = " ".join(["The cat sat on the mat, it was in the house."] * 5)
    questions, contexts = [*QUESTIONS, QUESTIONS[0]], [*CONTEXTS, long]
    seen = set()
    for seed in range(4):
        model = make(models.BertForQuestionAnswering, seed, unanswerable=True)
        windows = model.tokenizer.windows(questions, contexts, 32, 8)
        found = [np.array(x) for x in model.best_spans({name: windows[name] for name in TOKENS})]
        logits = {name: np.float64(x) for name, x in model({name: windows[name] for name in TOKENS}).items()}
        inside = windows["token_type_ids"] + (np.arange(32) == 0) - 0.0
        inside[np.arange(len(inside)), windows["attention_mask"].sum(1) - 1] = 0  # the last [SEP]
        p = [np.exp(logits[f"{name}_logits"]) * inside for name in ("start", "end")]
        none = np.prod([part[:, 0] / part.sum(1) for part in p], axis=0)
        checks.close(found[3], none, 1e-5)
        answers = model.answer(questions, contexts)
        model.unanswerable = False
        for i, ((text, p), (best, best_p)) in enumerate(zip(answers, model.answer(questions, contexts))):
            least = none[windows["overflow_to_sample_mapping"] == i].min()
            seen.add(least >= best_p)
            assert best
            assert text == ("" if least >= best_p else best)
            assert p == pytest.approx(max(least, best_p), rel=1e-4)
    assert seen == {True, False}


TOKENS = "input_ids", "token_type_ids", "attention_mask"


@pytest.mark.parametrize("unanswerable", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_endpoint_reads_long_contexts_in_windows_as_python_does(unanswerable):
    long = " ".join(["The cat sat on the mat, it was in the house."] * 9)
    questions = [*QUESTIONS, QUESTIONS[0], "who " * 40, ""]
    contexts = [*CONTEXTS, long, "中" + long, ""]
    model = make(models.BertForQuestionAnswering, unanswerable=unanswerable)
    expected, found = model.answer(questions, contexts), endpoint(model, "answer", questions, contexts)
    assert [text.decode() for text in found["answers"]] == [text for text, _ in expected]
    checks.close(found["scores"], np.float32([p for _, p in expected]), 1e-5)
    parts = [text[a:b] for text, a, b in zip(contexts, found["starts"], found["ends"])]
    assert parts == [text for text, _ in expected]


ODD_TEXTS = [  # emoji (also of several code points), combining marks, CRLF, a byte order mark
    "The 🐈\u200d⬛ cat sat on 👩\u200d👩\u200d👧 the ❤\ufe0f mat.\r\nIt was in the house 🏠!\r\n",
    "cafe\u0301s was cafe\u0301\u0323 unaffable. 中e\u0301\r\n\r\nin the cafe\u0301",
    "\ufeffa dog\u0301\u200b,\tin\u00a0the\u2028cafe\u0301",
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [models.BertForQuestionAnswering, models.BertForTokenClassification])
def test_offsets_count_characters_of_the_text_as_it_was_given(kind):
    texts = [" ".join([text] * 3) for text in ODD_TEXTS]
    for seed in range(3 if kind is models.BertForQuestionAnswering else 1):
        model = make(kind, seed)
        if kind is models.BertForTokenClassification:
            found, graph = model.tag(texts), endpoint(model, "tag", texts)
            words = [[word for word, *_ in rows] for rows in found]
            assert words == [[word.decode() for word in row if word] for row in graph["words"]]
            assert ["".join(row) for row in words] == ["".join(filter(is_kept, text)) for text in texts]
            continue
        questions = QUESTIONS[:3]
        answers = [answer for answer, _ in model.answer(questions, texts)]
        graph = endpoint(model, "answer", questions, texts)
        assert [answer.decode() for answer in graph["answers"]] == answers
        for text, answer, start, end in zip(texts, answers, graph["starts"], graph["ends"]):
            assert answer
            assert text[start:end] == answer
            assert unicodedata.category(answer[0])[0] != "M"  # no mark is cut off
            assert unicodedata.category(text[end : end + 1] or " ")[0] != "M"


def is_kept(character):
    return not character.isspace() and character not in "\ufeff\u200b"


@pytest.mark.slow
def test_a_null_threshold_moves_the_answers_that_are_none_in_python_and_in_a_graph(tmp_path):
    questions, contexts = [*QUESTIONS, QUESTIONS[0]], [*CONTEXTS, " ".join(CONTEXTS * 4)]
    model = make(models.BertForQuestionAnswering, unanswerable=True)
    best = model.best_answers(questions, contexts)
    scores = [np.log(none / p) for _, p, none in best]
    for threshold in (-99.0, float(np.mean(scores)), 99.0):
        model.null_threshold = threshold
        found = model.answer(questions, contexts)
        wanted = [("", none) if s >= threshold else (text, p) for s, (text, p, none) in zip(scores, best)]
        assert found == wanted
        graph = endpoint(model, "answer", questions, contexts)
        assert [text.decode() for text in graph["answers"]] == [text for text, _ in wanted]
        checks.close(graph["scores"], np.float32([p for _, p in wanted]), 1e-5)
    assert len({text for text, _ in found} & {""}) == 0
    huggingface.save_pretrained(model, tmp_path)
    again = huggingface.from_pretrained(tmp_path)
    assert (again.unanswerable, again.null_threshold) == (True, 99.0)


def test_masks_are_filled_from_the_vocabulary_where_there_are_more_embeddings():
    sizes = {"vocab_size": len(VOCABULARY) + 7, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = models.BertForMaskedLM(models.Bert(models.BertConfig(**sizes, intermediate_size=24)), vocabulary=VOCABULARY)
    model.build()
    model.bias.assign(np.float32(np.arange(len(VOCABULARY) + 7) >= len(VOCABULARY)) * 9)  # most probable are no words
    [[best]] = model.fill_mask(["the [MASK] sat"], len(VOCABULARY))
    assert {token for token, _ in best} == set(VOCABULARY)
    found = endpoint(model, "fill_mask", ["the [MASK] sat"], top_k=3)
    assert [token.decode() for token in found["tokens"][0, 0]] == [token for token, _ in best[:3]]


@pytest.mark.parametrize(
    "pooling", [p if p in ("cls", "max") else pytest.param(p, marks=pytest.mark.slow) for p in POOLINGS]
)
def test_texts_are_pooled_as_asked(pooling, tmp_path):
    model = make(models.TextEmbedder, pooling=pooling, normalize=pooling == "max")
    expected = []
    for text in TEXTS:
        [x] = np.array(model.backbone(model.tokenizer.encode([text])["input_ids"])["last_hidden_state"])
        x = {"mean": x.mean(0), "cls": x[0], "max": x.max(0), "mean_sqrt_len": x.sum(0) / np.sqrt(len(x))}[pooling]
        expected.append(x / np.linalg.norm(x) if pooling == "max" else x)
    checks.close(model.embed(TEXTS), np.array(expected), 1e-5)
    checks.close(endpoint(model, "embed", TEXTS)["embeddings"], np.array(expected), 1e-5)
    huggingface.save_pretrained(model, tmp_path)
    again = huggingface.from_pretrained(tmp_path, models.TextEmbedder)
    assert (again.pooling, again.normalize) == (model.pooling, model.normalize)
    checks.close(again.embed(TEXTS), model.embed(TEXTS), 1e-5)
