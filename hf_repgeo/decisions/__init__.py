"""Decisions: answers to practical questions about a model or its embeddings, from their geometry.

Every function returns a `Decision`: a verdict or `"cannot tell"`, the evidence with intervals, one picture, and what
would change the verdict. Where labelled pairs are given they decide, and the decision says what geometry alone would
have said.
"""

from .checkpoint import choose_checkpoint
from .decision import CANNOT_TELL, Curve, Decision, Picture
from .dedup import dedup_threshold
from .dimensions import choose_dimensions
from .embeddings import POOLINGS, Embeddings, embed
from .finetune import check_finetune
from .floor import cosine_floor
from .index import check_index
from .inputs import GroupedTexts, Pairs, read_groups, read_pairs, unrelated_domains
from .layer import choose_layer
from .quantization import check_quantization
from .repair import Centred, Whitened

__all__ = [
    "CANNOT_TELL",
    "Centred",
    "Curve",
    "Decision",
    "Embeddings",
    "GroupedTexts",
    "POOLINGS",
    "Pairs",
    "Picture",
    "Whitened",
    "check_finetune",
    "check_index",
    "check_quantization",
    "choose_checkpoint",
    "choose_dimensions",
    "choose_layer",
    "cosine_floor",
    "dedup_threshold",
    "embed",
    "read_groups",
    "read_pairs",
    "unrelated_domains",
]
