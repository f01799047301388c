"""Tokenizers: characters, words, subwords and BERT's WordPiece."""

from homl_models.tokenizers.characters import Characters
from homl_models.tokenizers.subwords import Subwords
from homl_models.tokenizers.words import Words

TOKENIZERS = {"words": Words, "subwords": Subwords, "characters": Characters}
