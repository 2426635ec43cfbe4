"""Where does a sentence embedding keep its information? The sparse VAE, its training, and what it localises.

Names are imported when first asked for: importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib

_HOMES = {
    ".configuration_sparse_vae": ("BLMBaselineConfig", "SparseVAEConfig", "SparseVAEForBLMConfig"),
    ".modeling_sparse_vae": ("SparseVAEForSentenceEmbedding", "SparseVAEOutput"),
    ".modeling_sparse_vae_blm": ("SparseVAEForBLM",),
    ".modeling_blm_baseline": ("BLMBaseline",),
    ".losses_sparse_vae": ("choose", "cosine_scores", "kl_divergence", "max_margin", "normalised_max_margin"),
    ".checkpoints": ("example_checkpoint",),
    ".embeddings": ("EmbeddingTable", "embed_dataset", "embed_sentences"),
    ".training": ("TrainingRun", "build_model", "train", "train_runs", "training_arguments"),
    ".scoring": (
        "Selection",
        "evaluate_model",
        "evaluate_scores",
        "identity_scores",
        "over_runs",
        "pattern_properties",
        "scores_of",
    ),
    "..localization": (  # the functions that analyse these models
        "ChunkAttention",
        "EffectAgreement",
        "Localization",
        "MaskOverlap",
        "ProbeResult",
        "Readout",
        "RungTransfer",
        "Transfer",
        "ablate",
        "ablation_effects",
        "carry_over",
        "cell_map",
        "chunk_attention",
        "chunk_spans",
        "counterfactual_pairs",
        "interchange_flips",
        "latents_of",
        "locality_index",
        "localize",
        "localize_property",
        "mask_overlap",
        "permuted",
        "planted_table",
        "plot_chunk_attention",
        "plot_confusion",
        "plot_errors",
        "plot_latents",
        "plot_localizations",
        "plot_transfer",
        "plot_traversals",
        "pooled_states",
        "probe",
        "probe_score",
        "probe_scores",
        "read_by_layer",
        "read_columns",
        "receptive_fields",
        "region_dimensions",
        "region_to_latent",
        "selection_score",
        "without_outliers",
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
