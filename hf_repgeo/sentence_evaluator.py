"""GeometryEvaluator: the shape of a SentenceTransformer's embeddings, in that library's own idiom."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BadInput, MissingExtra, RepgeoError
from .measures import check_options
from .profiling import measure
from .report import GeometryReport
from .rows.forward import undisturbed
from .training.log_values import default_pairs, name_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.evaluation import BaseEvaluator
else:
    try:
        from sentence_transformers.base.evaluation import BaseEvaluator
    except ImportError:  # the class can be named and read about without the package, but not made
        BaseEvaluator = object

logger = logging.getLogger(__name__)

SMALLER_IS_BETTER = ("anisotropy", "mean_cosine", "patchiness")  # of embeddings that should tell texts apart


class GeometryEvaluator(BaseEvaluator):
    """Measures the embeddings that a SentenceTransformer gives to fixed texts.

    Used like every evaluator of sentence-transformers: called with a model, or given to `SentenceTransformerTrainer`,
    which logs `eval_<name>_anisotropy` and so on and can choose the best checkpoint by them. The numbers reach the
    model card.

    Args:
        texts: one row each; at least 4096, so that the numbers hardly depend on how many there are.
        measures: names as in `hf_repgeo.measure`, but a bare name stands for its default convention only. Default:
            anisotropy, effective rank, intrinsic dimension and patchiness.
        name: put in front of every key.
        primary_metric: the measure by which checkpoints are chosen; default: effective rank, or the first one.
        greater_is_better: whether a larger primary metric is better; default: no for anisotropy, mean cosine and
            patchiness, which grow when texts become more alike, yes for the others.
        batch_size: texts per forward pass.
        truncate_dim: number of leading columns to measure; default: the model's own setting.
        show_progress_bar: while embedding.
        write_csv: append a line to `geometry_evaluation_<name>_results.csv` in the output folder.
        seed: of the quantizers.
        options: as in `hf_repgeo.measure`.

    Attributes:
        report: the last evaluation as a `GeometryReport`, with standard errors and warnings.

    Raises:
        MissingExtra: sentence-transformers is not installed.
        UnknownName: an unknown measure or option.
        BadInput: no texts, or a `primary_metric` that is not measured.

    Example:
        >>> from hf_repgeo.sentence_evaluator import GeometryEvaluator
        >>> evaluator = GeometryEvaluator(texts, name="wiki")  # doctest: +SKIP
        >>> evaluator(model)["wiki_anisotropy"]  # doctest: +SKIP
        0.06
    """

    def __init__(
        self,
        texts: list[str],
        *,
        measures: str | list[str] | None = None,
        name: str = "",
        primary_metric: str | None = None,
        greater_is_better: bool | None = None,
        batch_size: int = 32,
        truncate_dim: int | None = None,
        show_progress_bar: bool = False,
        write_csv: bool = True,
        seed: int = 0,
        **options,
    ):
        if BaseEvaluator is object:
            raise MissingExtra("sentence-transformers", "sentence-transformers", "GeometryEvaluator")
        super().__init__()
        self.pairs = default_pairs(measures)
        check_options(options, self.pairs)
        self.texts = list(texts)
        if len(self.texts) < 2:
            raise BadInput("texts", came=str(len(self.texts)), wanted="at least 2, and better thousands")
        self.primary_metric = self._primary(primary_metric)
        smaller = self.primary_metric.startswith(SMALLER_IS_BETTER)
        self.greater_is_better = not smaller if greater_is_better is None else greater_is_better
        self.name, self.batch_size, self.truncate_dim = name, batch_size, truncate_dim
        self.show_progress_bar, self.write_csv = show_progress_bar, write_csv
        self.csv_file = "_".join(part for part in ("geometry_evaluation", name, "results.csv") if part)
        self.seed, self.options = seed, options
        self.report = GeometryReport()

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Embeds the texts and measures the embeddings.

        Args:
            model: a SentenceTransformer.
            output_path: folder for the CSV file.
            epoch, steps: of the training; -1 outside of one.

        Returns:
            dict: measure -> value, `name` in front. A value that cannot be computed is left out; the log says why.

        Raises:
            BadInput: the embeddings are not finite numbers.

        Cost: one pass of `encode`, and what the measures cost.
        """
        self.report = self._measure(model)
        found = {self._key(row): row["value"] for row in self.report if row["value"] is not None}
        for row in self.report:
            if row["value"] is None:
                logger.warning("%s cannot be computed: %s", self._key(row), row["warnings"][0])
        logger.info("Geometry of %d embeddings %s: %s", len(self.texts), self.name, found)
        if output_path is not None and self.write_csv:
            self._write(Path(output_path), epoch, steps, found)
        metrics = self.prefix_name_to_metrics(found, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the evaluation."""
        config = {"texts": len(self.texts), "measures": [f"{name}:{convention}" for name, convention in self.pairs]}
        return config | ({} if self.truncate_dim is None else {"truncate_dim": self.truncate_dim})

    def _measure(self, model: SentenceTransformer) -> GeometryReport:
        with undisturbed(model):  # `encode` itself would leave the model in eval mode
            embeddings = model.encode(
                self.texts,
                batch_size=self.batch_size,
                show_progress_bar=self.show_progress_bar,
                convert_to_tensor=True,
                truncate_dim=self.truncate_dim,
            )
        names = [f"{name}:{convention}" for name, convention in self.pairs]
        return measure(embeddings, names, seed=self.seed, **self.options)

    def _primary(self, asked: str | None) -> str:
        known = [name_of(*pair) for pair in self.pairs]
        if not known:
            raise RepgeoError("`measures` is empty: there is nothing to evaluate")
        if asked is None:
            return "effective_rank" if "effective_rank" in known else known[0]
        if asked not in known:
            raise BadInput("primary_metric", came=repr(asked), wanted="one that is measured: " + ", ".join(known))
        return asked

    def _key(self, row: dict) -> str:
        return name_of(row["measure"], row["convention"])

    def _write(self, folder: Path, epoch: int, steps: int, found: dict[str, float]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.csv_file
        keys = [name_of(*pair) for pair in self.pairs]
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["epoch", "steps", *keys])
            writer.writerow([epoch, steps, *(found.get(key, "") for key in keys)])
