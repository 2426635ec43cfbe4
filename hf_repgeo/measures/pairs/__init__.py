"""Comparisons: pure mathematics about two clouds whose rows belong together one by one.

Each comparison is a function `CloudPair -> Estimate`; `COMPARISONS` lists for each what it needs, its range, what
leaves it unchanged, what chance gives, and its source. Tests use the same table.
"""

from __future__ import annotations

from .cka_matrix import cka_matrix
from .differences import paired_differences
from .neighbourhoods import information_imbalance, neighbourhood_overlap
from .pair import CloudPair
from .redrawn import redrawn_scatter, scatter_of_cells
from .similarity import linear_cka, linearity_score, orthogonal_procrustes, subspace_novelty
from .table import COMPARISONS, Comparison, evaluate_pair, resolve_comparisons

__all__ = [
    "COMPARISONS",
    "CloudPair",
    "Comparison",
    "cka_matrix",
    "evaluate_pair",
    "information_imbalance",
    "linear_cka",
    "linearity_score",
    "neighbourhood_overlap",
    "orthogonal_procrustes",
    "paired_differences",
    "redrawn_scatter",
    "resolve_comparisons",
    "scatter_of_cells",
    "subspace_novelty",
]
