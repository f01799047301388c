"""Pairs of sentences as training batches of a few static shapes.

A pair is (source, target) text. Length buckets keep the padding small; the batches and their order are a
function of the seed and the step.
"""

import collections
import io
import lzma
import random
import struct
import unicodedata
import warnings
import zipfile
import zlib

import numpy as np

from homl_models.errors import UserError
from homl_models.pipelines import lines
from homl_models.pipelines.download import download
from homl_models.pipelines.random_access import batch_indices, bucketed, length_buckets, num_batches
from homl_models.tokenizers.base import END, PAD, START, UNKNOWN

SPA_ENG_URL = "https://storage.googleapis.com/download.tensorflow.org/data/spa-eng.zip"
# Raised by `zipfile` for archives that are damaged, encrypted (RuntimeError) or of an unknown compression.
ZIP_ERRORS = OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error
MAX_MALFORMED = 0.01  # fraction of the lines
VARIATION_SELECTORS = {*map(chr, range(0xFE00, 0xFE10))}  # a heart in colour or not


# Reading.


def spa_eng():
    """The book's 118,964 English-Spanish pairs (Tatoeba, by manythings.org), from Keras' cache or the network."""
    otherwise = "pass --pairs-file PATH, or train dates, which needs no data"
    return read_pairs(download("spa-eng.zip", SPA_ENG_URL, otherwise))


def read_pairs(path):
    """Pairs of a file with a source, a tab and a target per line; further columns are ignored.

    The file is UTF-8 text, plain, gzipped, or zipped (the largest .txt or .tsv in it). Lines without two
    texts are left out with a warning that has their numbers; more than 1 % of them raise `UserError`.
    """
    data = lines.read_bytes(path)
    if zipfile.is_zipfile(io.BytesIO(data)):
        data = _largest(data, path)
    text = lines.decode(data, path)
    pairs, malformed, count, widths = [], [], 0, {}
    for number, line in enumerate(lines.split(text), 1):
        if not line.strip():
            continue
        count += 1
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) > 1 and columns[0] and columns[1]:
            pairs.append((columns[0], columns[1]))
            widths.setdefault(len(columns), []).append(number)
        else:
            malformed.append(number)
    if not count:
        raise UserError(f"{path} is empty; give a file with a source, a tab and a target per line")
    if malformed:
        which = ", ".join(map(str, malformed[:10])) + (", ..." if len(malformed) > 10 else "")
        message = f"{path}: {len(malformed)} of {count} lines are not a source, a tab and a target (lines {which})"
        if len(malformed) > MAX_MALFORMED * count:
            raise UserError(f"{message}; that is too many, correct the file")
        warnings.warn(f"{message}; they are left out", stacklevel=2)
    if len(widths) > 1:
        usual = max(widths, key=lambda width: len(widths[width]))
        others = ", ".join(str(number) for width in widths if width != usual for number in widths[width][:10])
        warnings.warn(
            f"{path}: most lines have {usual} columns, but not lines {others}; only the first two are read",
            stacklevel=2,
        )
    return pairs


def _largest(data, path):
    """The bytes of the largest text in a zip file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = [i for i in archive.infolist() if i.filename.lower().endswith((".txt", ".tsv"))]
            infos = [i for i in infos if not any(part.startswith((".", "_")) for part in i.filename.split("/"))]
            if not infos:
                raise UserError(
                    f"{path} holds no .txt or .tsv file; give one with a source, a tab and a target per line"
                )
            return archive.read(max(infos, key=lambda info: info.file_size))
    except UserError:
        raise
    except ZIP_ERRORS as error:
        raise UserError(f"cannot read {path}: {error}; check the file") from error


# Splitting.


def book_split(pairs, seed, train=100_000):
    """Random split: shuffled pairs -> training (100,000 as in the book), validation and test, half of the rest each.

    Of fewer pairs 84 % are for training, the book's fraction.
    """
    pairs = list(pairs)
    random.Random(seed).shuffle(pairs)
    if len(pairs) <= train:
        train = int(0.84 * len(pairs))
    half = (len(pairs) - train) // 2
    return pairs[:train], pairs[train : train + half], pairs[train + half :]


def group_split(pairs, seed, fraction=0.03):
    """Group split: training, validation and test pairs without a common sentence, on either side.

    A group is a connected component of pairs that share a sentence (by `normalized`). Validation and test have
    `fraction` of the pairs each; a group larger than a tenth of that (0.3 % of the pairs) is for training.
    """
    groups = list(_connected_components(pairs).values())
    random.Random(seed).shuffle(groups)
    splits = [], [], []
    size = fraction * len(pairs)
    for group in groups:
        small = len(group) <= max(1, size / 10)
        i = next((i for i in (1, 2) if small and len(splits[i]) + len(group) <= size), 0)
        splits[i].extend(group)
    for split in splits:
        random.Random(seed).shuffle(split)
    return splits


def normalized(sentence):
    """Normal form of a sentence for `group_split`: casefolded letters, their marks and digits, in NFKC.

    So composed and decomposed letters, ligatures and full-width letters are equal, as they are to a reader.
    """
    if not sentence.isascii():
        sentence = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sentence).casefold())
        kept = "".join(c for c in sentence if unicodedata.category(c)[0] in "LMN" and c not in VARIATION_SELECTORS)
        return kept or sentence
    return "".join(filter(str.isalnum, sentence.casefold())) or sentence


def _connected_components(pairs):
    """Union-find: {root: pairs of a component} of the graph whose nodes are sentences and whose edges are pairs."""
    parent = {}

    def root(node):
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    edges = [((0, normalized(source)), (1, normalized(target))) for source, target in pairs]
    for source, target in edges:
        parent[root(source)] = root(target)
    groups = collections.defaultdict(list)
    for pair, (source, _) in zip(pairs, edges):
        groups[root(source)].append(pair)
    return groups


# Batches.


def encode(pairs, source_tokenizer, target_tokenizer):
    """Tokenize pairs -> two lists of id arrays: sources with `END`, targets from `START` to `END`."""
    import tensorflow as tf

    encoded = []
    sides = ("sources", source_tokenizer, []), ("targets", target_tokenizer, [START])
    for texts, (side, tokenizer, prefix) in zip(zip(*pairs), sides):
        ids = tokenizer.encode(tf.constant(texts))
        _warn_of_unknown(side, ids.flat_values.numpy(), len(tokenizer.vocabulary))
        rows = np.split(ids.flat_values.numpy(), ids.row_splits.numpy()[1:-1])
        encoded.append([np.array([*prefix, *row, END], np.int32) for row in rows])
    return encoded


def _warn_of_unknown(side, ids, vocab_size):
    """Warn if most tokens of a side are `UNKNOWN`: a model that always predicts that seems to be right."""
    unknown = np.mean(ids == UNKNOWN) if len(ids) else 0
    if unknown > 0.5:
        warnings.warn(
            f"{unknown:.0%} of the words of the {side} are unknown to the vocabulary of {vocab_size}, so that accuracy "
            "and BLEU mean little; raise --vocab-size, or, of a language without spaces between words, take "
            "--tokenizer subwords or characters",
            stacklevel=3,
        )


def filter_by_length(pairs, sources, targets, max_length):
    """Leave out pairs, and their ids, with more than `max_length` tokens on a side; a warning counts them.

    Tokens of a source include `END`, of a target either `START` or `END`. `UserError` if no pair is left.
    """
    lengths = _lengths(sources, targets)
    kept = np.flatnonzero(lengths <= max_length)
    if not len(kept):
        raise UserError(f"no pair has at most {max_length} tokens on both sides; raise --max-length")
    if left_out := len(pairs) - len(kept):
        warnings.warn(
            f"{left_out} of {len(pairs)} pairs have more than {max_length} tokens on a side and are left out",
            stacklevel=2,
        )
    return tuple([rows[i] for i in kept] for rows in (pairs, sources, targets))


def _lengths(sources, targets):
    return np.array([max(len(s), len(t) - 1) for s, t in zip(sources, targets)])


def bucket(sources, targets, num_buckets):
    """Length buckets: encoded pairs -> [(sources (n, s), targets (n, t)), ...], padded with zeros at the right.

    At most `num_buckets`, with the least padding; see `random_access.length_buckets`.
    """
    return [
        tuple(_pad([side[i] for i in rows]) for side in (sources, targets))
        for rows, _ in length_buckets(_lengths(sources, targets), num_buckets)
    ]


def _pad(rows):
    ids = np.full((len(rows), max(map(len, rows))), PAD, np.int32)
    for padded, row in zip(ids, rows):
        padded[: len(row)] = row
    return ids


def batches(buckets, batch_size, seed=None):
    """`RandomAccessDataset` of ((sources (b, s), targets shifted right (b, t)), targets (b, t)), each from one bucket.

    Each pair once an epoch; the last batch of a bucket is padded with empty rows, which losses and metrics mask.

    Args:
        seed: of the order of the pairs within a bucket, and of all batches, another one in each epoch; None takes
            them in order.
    """
    import tensorflow as tf

    counts = [len(source) for source, _ in buckets]
    constants = [tuple(tf.constant(np.pad(ids, [(0, 1), (0, 0)])) for ids in pair) for pair in buckets]

    def make_batch(i, epoch, number, step):
        rows = batch_indices(i, epoch, number, counts[i], batch_size, seed)
        source, target = (tf.gather(ids, rows) for ids in constants[i])
        return (source, target[:, :-1]), target[:, 1:]

    return bucketed(make_batch, [num_batches(count, batch_size) for count in counts], seed)
