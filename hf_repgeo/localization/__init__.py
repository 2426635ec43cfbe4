"""Where does a sentence embedding keep its information? Probing, ablation, regions, controls, transfer, figures.

Names are imported when first asked for: importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib

_HOMES = {
    ".probing": ("ProbeResult", "probe", "probe_scores"),
    ".ablation": ("Localization", "ablate", "ablation_effects", "corrected", "localize", "locality_index"),
    ".scores": ("localize_property", "probe_score", "selection_score"),
    ".readout": ("Readout", "read_columns"),
    ".regions": (
        "MaskOverlap",
        "cell_map",
        "mask_overlap",
        "receptive_fields",
        "region_dimensions",
        "region_to_latent",
    ),
    ".controls": ("counterfactual_pairs", "interchange_flips", "permuted", "planted_table", "without_outliers"),
    ".reports": ("localization_report",),
    ".subspaces": ("erase",),
    ".verdict": ("VERDICTS", "Interval", "Where", "where_is"),
    ".where_report": ("WhereReport", "plot_where", "where_report"),
    ".transfer": ("EffectAgreement", "RungTransfer", "Transfer", "carry_over"),
    ".attention": ("ChunkAttention", "chunk_attention", "chunk_spans", "pooled_states", "read_by_layer"),
    ".figures": (
        "latents_of",
        "plot_chunk_attention",
        "plot_confusion",
        "plot_errors",
        "plot_latents",
        "plot_localizations",
        "plot_transfer",
        "plot_traversals",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
