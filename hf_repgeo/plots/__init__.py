"""Figures from reports; every function returns its figure and shows nothing."""

from .layers import DEFAULT_PANELS, plot_comparison, plot_layers, plot_scale_curves, plot_sequences
from .training import plot_sweep, plot_training

__all__ = [
    "DEFAULT_PANELS",
    "plot_comparison",
    "plot_layers",
    "plot_scale_curves",
    "plot_sequences",
    "plot_sweep",
    "plot_training",
]
