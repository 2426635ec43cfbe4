"""Blackbird Language Matrices and chunk-pattern sentences: puzzles that ask what a sentence embedding knows."""

from .agreement import agreement_matrices
from .alternation import alternation_matrices, role_sentences
from .chunks import PATTERNS, PairInstance, Sentence, build_sentence, chunk_sentences, minimal_neighbors, pair_instances
from .export import data_card, generate, push_dataset, save_dataset, to_dataset
from .ladder import chunk_labels, complexity_ladder, natural_sentences
from .lexicon import Row, load_alternation_lexicon, load_lexicon
from .loaders import load_fragments, load_genbench, load_matrices, load_sequences
from .matrices import Matrix, Part

__all__ = [
    "PATTERNS",
    "Matrix",
    "PairInstance",
    "Part",
    "Row",
    "Sentence",
    "agreement_matrices",
    "alternation_matrices",
    "build_sentence",
    "chunk_labels",
    "chunk_sentences",
    "complexity_ladder",
    "data_card",
    "generate",
    "load_alternation_lexicon",
    "load_fragments",
    "load_genbench",
    "load_lexicon",
    "load_matrices",
    "load_sequences",
    "minimal_neighbors",
    "natural_sentences",
    "pair_instances",
    "push_dataset",
    "role_sentences",
    "save_dataset",
    "to_dataset",
]
