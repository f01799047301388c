"""The tokenizer of a Hugging Face folder as arguments of `text_model.TextModel`, in and out.

It reads vocab.txt, tokenizer_config.json and special_tokens_map.json, and from tokenizer.json what these do not have:
vocabulary, settings, special tokens and length. Settings that are not supported here are named in a warning.
"""

import os
import warnings

from homl_models.checkpoints.hub import read_json
from homl_models.errors import UserError
from homl_models.tokenizers.wordpiece import SETTINGS, SPECIAL, has_capitals, read_vocabulary
from homl_models.training import files

ARGUMENTS = ("vocabulary", "model_max_length", *SETTINGS)  # of `TextModel`
KINDS = ("BertTokenizer", "ElectraTokenizer", "DistilBertTokenizer", "PreTrainedTokenizer")  # also with "Fast"
SPECIAL_KEYS = "pad_token", "unk_token", "cls_token", "sep_token", "mask_token"
CONFIG = {"pad_token_id": 0}  # entries of config.json
NO_LIMIT = 1 << 30  # a model_max_length of this or more means none


def read(folder, config, settings=()):
    """{argument: value} of `ARGUMENTS`, or {} where the folder has no WordPiece vocabulary.

    config: the model's config.json, which may name a class of tokenizers. settings: names of arguments that the caller
    gives. `UserError` for invalid files. A tokenizer of another kind is named in a warning.
    """
    own = read_json(os.path.join(folder, "tokenizer_config.json"), {})
    path = os.path.join(folder, "vocab.txt")
    whole = read_json(os.path.join(folder, "tokenizer.json"), {})
    if not whole and not os.path.exists(path):
        return {}
    other = _other_kind(own, config) or (whole and _other_parts(whole))
    if other:
        warnings.warn(
            f"{folder} reads texts by {other}, which is not known here: the model is read without its vocabulary and "
            "takes ids alone",
            stacklevel=4,
        )
        return {}
    normalizer = whole and _single(whole.get("normalizer"))
    added = _added(folder, own, whole)
    tokens = read_vocabulary(path) if os.path.exists(path) else _tokens_by_id(_vocabulary(whole, folder))
    tokens = _tokens_by_id(added, tokens)
    found = {"vocabulary": tokens, "special_names": _special_names(folder, own, whole)}
    found |= _normalization(own, normalizer, folder)
    if "lowercase" not in found and "lowercase" not in settings:
        found["lowercase"] = _guess_lowercase(tokens, folder)
    if length := own.get("model_max_length") or _part(whole, "truncation").get("max_length"):
        if isinstance(length, bool) or not isinstance(length, (int, float)) or not length >= 1:
            raise UserError(f"{folder}: model_max_length must be a number above 0, not {length!r}")
        found |= {"model_max_length": int(length)} if length < NO_LIMIT else {}
    ignored = [name for name in ("never_split", "additional_special_tokens") if own.get(name)]
    ignored += ["do_basic_tokenize"] if own.get("do_basic_tokenize") is False else []
    ignored += ["clean_text"] if normalizer and normalizer.get("clean_text") is False else []
    ignored += sorted(set(added) - set(found["special_names"]))[:5]
    if ignored:
        warnings.warn(f"{folder}: the tokenizer's {', '.join(ignored)} are not followed here", stacklevel=4)
    return found


def _other_kind(own, config):
    """The class of tokenizers and its word tokenizers if it is none of `KINDS`; or else ""."""
    kind = own.get("tokenizer_class") or config.get("tokenizer_class") or KINDS[0]
    parts = {name: own[name] for name in ("word_tokenizer_type", "subword_tokenizer_type") if own.get(name)}
    usual = all(value in ("basic", "wordpiece") for value in parts.values())
    if str(kind).removesuffix("Fast") in KINDS and usual:
        return ""
    return " ".join([str(kind), *(f"({name} {value})" for name, value in parts.items())])


def _single(part):
    """A component of tokenizer.json, taken out of a sequence of one."""
    kinds = ("normalizers", "pretokenizers")
    while isinstance(part, dict) and part.get("type") == "Sequence":
        some = next((part[name] for name in kinds if part.get(name)), [])
        if len(some) != 1:
            break
        (part,) = some
    return part if isinstance(part, dict) else {}


def _other_parts(whole):
    """Components of tokenizer.json that are not BERT's, or ""."""
    model, last = _part(whole, "model"), _part(whole, "post_processor")
    parts = {
        "model": (model.get("type", "WordPiece"), "WordPiece"),
        "normalizer": (_single(whole.get("normalizer")).get("type"), "BertNormalizer"),
        "pre_tokenizer": (_single(whole.get("pre_tokenizer")).get("type"), "BertPreTokenizer"),
        "prefix": (model.get("continuing_subword_prefix", "##"), "##"),
        "post_processor": (last.get("type"), last.get("type") if _ends_of(whole) or not last else "BertProcessing"),
    }
    other = [f"a {name} {value}" for name, (value, usual) in parts.items() if value != usual]
    return f"{', '.join(other)} in tokenizer.json" if other else ""


def _part(whole, name):
    """A component of tokenizer.json, {} where there is none."""
    found = whole.get(name)
    return found if isinstance(found, dict) else {}


def _ends_of(whole):
    """The two tokens that tokenizer.json puts around a text; () where it says nothing like it."""
    last = _part(whole, "post_processor")
    try:
        if last["type"] == "BertProcessing":
            return last["cls"][0], last["sep"][0]
        if last["type"] == "TemplateProcessing":
            first, sequence, end = last["single"]
            return (first["SpecialToken"]["id"], end["SpecialToken"]["id"]) if "Sequence" in sequence else ()
    except (KeyError, ValueError, TypeError, IndexError):
        pass
    return ()


def _vocabulary(whole, folder):
    found = _part(whole, "model").get("vocab")
    return _checked(found, folder) or _refuse(f"{folder}: tokenizer.json holds no vocabulary")


def _checked(ids, folder):
    """{token: id}; `UserError` for anything else."""
    whole = isinstance(ids, dict) and all(type(i) is int and 0 <= i < NO_LIMIT for i in ids.values())
    return ids if whole else _refuse(f"{folder}: the ids of its tokens are no whole numbers")


def _refuse(message):
    raise UserError(message)


def _tokens_by_id(ids, tokens=()):
    """{token: id} -> tokens, each at the index of its id, "" for ids without one. tokens: to be completed."""
    size = max((*ids.values(), len(tokens) - 1)) + 1
    if size > 2 * (len(ids) + len(tokens)) + 10_000:
        raise UserError(f"a token has the id {size - 1}, of {len(ids) + len(tokens)} tokens: the vocabulary is broken")
    slots = [*tokens, *[""] * (size - len(tokens))]
    for token, i in ids.items():
        slots[i] = slots[i] or token
    return tuple(slots)


def _added(folder, own, whole):
    """{token: id} of tokens added to the vocabulary, without BERT's special tokens."""
    found = dict(_checked(read_json(os.path.join(folder, "added_tokens.json"), {}), folder))
    listed = whole.get("added_tokens") or []
    decoder = own.get("added_tokens_decoder") or {}
    try:
        found |= {entry["content"]: entry["id"] for entry in listed}
        found |= {entry["content"]: int(i) for i, entry in decoder.items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f"{folder}: what its tokenizer adds to the vocabulary cannot be read") from None
    return {token: i for token, i in _checked(found, folder).items() if token not in SPECIAL}


def _names_in(whole):
    """{key of `SPECIAL_KEYS`: token} where tokenizer.json says so."""
    found = {"pad_token": _part(whole, "padding").get("pad_token"), "unk_token": _part(whole, "model").get("unk_token")}
    found |= zip(("cls_token", "sep_token"), _ends_of(whole))
    listed = [entry["content"] for entry in whole.get("added_tokens") or () if entry.get("special")]
    by_letters = {name.lower().strip("[<|>]"): name for name in listed if isinstance(name, str)}
    return {"pad_token": by_letters.get("pad"), "mask_token": by_letters.get("mask")} | {
        key: name for key, name in found.items() if name
    }


def _special_names(folder, own, whole):
    """Names of the special tokens, in the order of `SPECIAL`."""
    files = own, read_json(os.path.join(folder, "special_tokens_map.json"), {}), _names_in(whole)
    names = [
        next(filter(None, [*(some.get(key) for some in files), usual])) for key, usual in zip(SPECIAL_KEYS, SPECIAL)
    ]
    names = [name.get("content") if isinstance(name, dict) else name for name in names]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{folder}: its special tokens are no texts: {names}")
    return tuple(names)


def _normalization(own, normalizer, folder):
    """Settings of text normalization; tokenizer_config.json takes precedence over tokenizer.json."""
    keys = {
        "lowercase": ("do_lower_case", "lowercase"),
        "strip_accents": ("strip_accents", "strip_accents"),
        "tokenize_chinese_chars": ("tokenize_chinese_chars", "handle_chinese_chars"),
    }
    found = {}
    for name, (key, other) in keys.items():
        value = own[key] if own.get(key) is not None else (normalizer or {}).get(other)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{folder}: {key} must be true or false, not {value!r}")
        found |= {} if value is None else {name: value}
    return found


def _guess_lowercase(tokens, folder):
    """Whether texts are lowercased where no file says so: unless the vocabulary has capitals."""
    if not has_capitals(tokens):
        return True
    warnings.warn(
        f"{folder} does not say whether texts are in lower case (do_lower_case in tokenizer_config.json); its "
        "vocabulary has capitals, so they are read as they are: give lowercase=True if that is wrong",
        stacklevel=5,
    )
    return False


def write(folder, model):
    """vocab.txt and tokenizer_config.json of a `TextModel`, if it has a vocabulary."""
    if not getattr(model, "vocabulary", ()):
        return
    with files.atomic_write(os.path.join(folder, "vocab.txt")) as aside:
        aside.write_text("\n".join(model.vocabulary) + "\n", encoding="utf-8")
    no_types = getattr(getattr(model, "backbone", model).config, "type_vocab_size", None) == 0  # a DistilBERT
    tokenizer = {
        "tokenizer_class": "DistilBertTokenizer" if no_types else "BertTokenizer",
        "do_lower_case": model.lowercase,
        "strip_accents": model.strip_accents,
        "tokenize_chinese_chars": model.tokenize_chinese_chars,
        "model_max_length": model.max_length,
    }
    if no_types:
        tokenizer["model_input_names"] = ["input_ids", "attention_mask"]
    files.write_json(
        os.path.join(folder, "tokenizer_config.json"), tokenizer | dict(zip(SPECIAL_KEYS, model.special_names))
    )
