"""Where the situations from public bug reports find the functions that they call; see `.ci/run`."""

from homl_models.pipelines.tagged_text import read_tagged
from homl_models.pipelines.text_files import read_documents, read_questions
from homl_models.pipelines.text_files import read_labelled as read_table
from homl_models.pipelines.text_windows import read_text
from homl_models.pipelines.translation import group_split as split_pairs

__all__ = ["SPLIT_WORDS", "read_documents", "read_questions", "read_table", "read_tagged", "read_text", "split_pairs"]

SPLIT_WORDS = """
import sys
import tensorflow as tf
from homl_models.tokenizers.words import split_words
print(" ".join(word.decode() for word in split_words(tf.constant([{text!r}])).flat_values.numpy()))
"""
