"""Pairs of sentences as training batches of a few static shapes.

A pair is (source, target) text. Sentences of like length share a batch, so that little of it is
padding; which, and in which order, is a function of the seed and the step.
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
# What `zipfile` raises for what is damaged, encrypted (RuntimeError) or compressed in another way.
DAMAGED = OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error
MALFORMED = 0.01  # share of lines that may be
VARIATIONS = {*map(chr, range(0xFE00, 0xFE10))}  # variation selectors: a heart in colour or not


# Reading.


def spa_eng():
    """The book's 118,964 English-Spanish pairs (Tatoeba, by manythings.org), from Keras' cache or the network."""
    otherwise = "pass --pairs-file PATH, or train dates, which needs no data"
    return read_pairs(download("spa-eng.zip", SPA_ENG_URL, otherwise))


def read_pairs(path):
    """Pairs of a file with a source, a tab and a target per line; columns after these are left out.

    The file is UTF-8 text, plain, gzipped, or zipped (the largest .txt or .tsv in it). Lines without two
    texts are warned about by number and left out; more than 1 % of them raise `UserError`.
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
        if len(malformed) > MALFORMED * count:
            raise UserError(f"{message}; that is too many, correct the file")
        warnings.warn(f"{message}; they are left out", stacklevel=2)
    if len(widths) > 1:
        usual = max(widths, key=lambda width: len(widths[width]))
        which = ", ".join(str(number) for width in widths if width != usual for number in widths[width][:10])
        warnings.warn(
            f"{path}: most lines have {usual} columns, but not lines {which}; only the first two are read", stacklevel=2
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
    except DAMAGED as error:
        raise UserError(f"cannot read {path}: {error}; check the file") from error


# Splitting.


def book_split(pairs, seed, train=100_000):
    """Shuffled pairs -> training (100,000 as in the book), and halves of the rest for validation and test.

    Of fewer pairs, 84 % are for training, the share of the book's.
    """
    pairs = list(pairs)
    random.Random(seed).shuffle(pairs)
    if len(pairs) <= train:
        train = int(0.84 * len(pairs))
    half = (len(pairs) - train) // 2
    return pairs[:train], pairs[train : train + half], pairs[train + half :]


def group_split(pairs, seed, share=0.03):
    """Training, validation and test part without a sentence in common, on either side.

    Pairs that share a sentence (compared as `normalized` has it), directly or over
    others, stay together. Validation and test have `share` of the pairs each; groups above a
    thousandth of them are for training.
    """
    groups = list(_connected(pairs).values())
    random.Random(seed).shuffle(groups)
    parts = [], [], []
    wanted = share * len(pairs)
    for group in groups:
        small = len(group) <= max(1, wanted / 10)
        part = next((i for i in (1, 2) if small and len(parts[i]) + len(group) <= wanted), 0)
        parts[part].extend(group)
    for part in parts:
        random.Random(seed).shuffle(part)
    return parts


def normalized(sentence):
    """A sentence as `group_split` compares it: letters, their marks and digits alone, in one case and one form.

    The form is NFKC: composed and decomposed letters, ligatures and letters of full width are the same to a reader.
    """
    if not sentence.isascii():
        sentence = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sentence).casefold())
        kept = "".join(c for c in sentence if unicodedata.category(c)[0] in "LMN" and c not in VARIATIONS)
        return kept or sentence
    return "".join(filter(str.isalnum, sentence.casefold())) or sentence


def _connected(pairs):
    """{group: its pairs} for the graph whose nodes are sentences and whose edges are pairs."""
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
    """Pairs -> two lists of id arrays: sources with `END`, targets from `START` to `END`."""
    import tensorflow as tf

    sides = []
    kinds = ("sources", source_tokenizer, []), ("targets", target_tokenizer, [START])
    for texts, (side, tokenizer, begin) in zip(zip(*pairs), kinds):
        ids = tokenizer.encode(tf.constant(texts))
        _warn_of_unknown(side, ids.flat_values.numpy(), len(tokenizer.vocabulary))
        rows = np.split(ids.flat_values.numpy(), ids.row_splits.numpy()[1:-1])
        sides.append([np.array([*begin, *row, END], np.int32) for row in rows])
    return sides


def _warn_of_unknown(side, ids, vocab_size):
    """Warn where most tokens of a side are `UNKNOWN`: whoever always writes that seems to be right."""
    unknown = np.mean(ids == UNKNOWN) if len(ids) else 0
    if unknown > 0.5:
        warnings.warn(
            f"{unknown:.0%} of the words of the {side} are unknown to the vocabulary of {vocab_size}, so that accuracy "
            "and BLEU mean little; raise --vocab-size, or, of a language without spaces between words, take "
            "--tokenizer subwords or characters",
            stacklevel=3,
        )


def short_enough(pairs, sources, targets, max_length):
    """Pairs, and their ids, that have at most `max_length` tokens on each side; a warning counts the others.

    Counted with `END` of the source, and with either `START` or `END` of the target. `UserError` if none is left.
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
    """Encoded pairs -> [(sources (n, s), targets (n, t)), ...] by length, zeros at the right.

    Of at most `num_buckets` lengths, those that leave the least padding.
    """
    return [
        tuple(_padded([side[i] for i in rows]) for side in (sources, targets))
        for rows, _ in length_buckets(_lengths(sources, targets), num_buckets)
    ]


def _padded(rows):
    ids = np.full((len(rows), max(map(len, rows))), PAD, np.int32)
    for place, row in zip(ids, rows):
        place[: len(row)] = row
    return ids


def batches(buckets, batch_size, seed=None):
    """`RandomAccessDataset` of ((sources (b, s), targets so far (b, t)), targets (b, t)), each batch from one bucket.

    Each pair once an epoch; the last batch of a bucket is filled up with empty rows, which losses and metrics leave
    out. seed: draws an order of the pairs of a bucket, and of all batches, for each epoch; None takes them as they
    come.
    """
    import tensorflow as tf

    counts = [len(source) for source, _ in buckets]
    constants = [tuple(tf.constant(np.pad(ids, [(0, 1), (0, 0)])) for ids in pair) for pair in buckets]

    def make_batch(i, epoch, number, step):
        rows = batch_indices(i, epoch, number, counts[i], batch_size, seed)
        source, target = (tf.gather(ids, rows) for ids in constants[i])
        return (source, target[:, :-1]), target[:, 1:]

    return bucketed(make_batch, [num_batches(count, batch_size) for count in counts], seed)
