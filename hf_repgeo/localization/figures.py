"""Figures of latents, choices and places. Every function returns its figure; nothing is shown or saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from ..errors import MissingExtra, UnknownName
from ..plots.glyphs import drawable
from ..rows.forward import undisturbed
from ..sparse_vae.scoring import CORRECT, NO_CHOICE, Selection
from .ablation import Localization
from .attention import ChunkAttention
from .probing import ProbeResult
from .regions import cell_map
from .transfer import RungTransfer, Transfer

MOST = 3.0  # largest multiple of an even spread that colours distinguish
MOST_NAMES = 40  # values that a figure names one by one


def _subplots(rows: int = 1, columns: int = 1, *, squeeze: bool = True, figsize: tuple[float, float]):
    """A figure outside pyplot's registry, so that nothing has to be closed."""
    figure = Figure(layout="constrained", figsize=figsize)
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


def latents_of(model, x: torch.Tensor) -> torch.Tensor:
    """Latent means of sentence embeddings, `(n, L)`, by a sentence model or the sentence level of a two-level one."""
    with undisturbed(model):  # in train mode the masks are drawn at random
        return model.sentence.encode(x)[0]


def plot_latents(latents: torch.Tensor, labels: Sequence[str], method: str = "pca", seed: int = 0):
    """Latents in two dimensions, coloured by pattern, as in the paper's figures; a legend names up to 40 patterns.

    Args:
        latents: `(n, L)`.
        labels: of the points.
        method: `"pca"` or `"tsne"` (scikit-learn's defaults).
        seed: of t-SNE.

    Returns:
        A matplotlib figure.

    Raises:
        UnknownName: another method.
    """
    if method not in ("pca", "tsne"):
        raise UnknownName("method", method, ("pca", "tsne"))
    centred = latents.double() - latents.double().mean(0)
    points = (
        centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T if method == "pca" else _tsne(latents, seed)
    )
    figure, axes = _subplots(figsize=(8, 5))
    names = sorted(set(labels))
    colors = colormaps["rainbow"]
    for place, name in enumerate(names):
        at = [i for i, label in enumerate(labels) if label == name]
        axes.scatter(
            points[at, 0], points[at, 1], s=12, color=colors(place / max(1, len(names) - 1)), label=drawable(name)
        )
    axes.set(xlabel=f"{method} 1", ylabel=f"{method} 2")
    if len(names) <= MOST_NAMES:
        figure.legend(loc="outside right upper", fontsize="small")
    else:
        axes.set_title(f"{len(names)} labels, in alphabetical order from violet to red", fontsize="small")
    return figure


def _tsne(latents: torch.Tensor, seed: int):
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MissingExtra("scikit-learn", "sparse-vae", "t-SNE") from error
    return TSNE(n_components=2, random_state=seed).fit_transform(latents.numpy())


def plot_confusion(selection: Selection):
    """True against chosen patterns, counts as colours and, of up to 40 patterns, digits.

    Args:
        selection: of `evaluate_model` on pairs.

    Returns:
        A matplotlib figure.
    """
    true = list(selection.confusion)
    chosen = sorted({name for row in selection.confusion.values() for name in row} - {NO_CHOICE} | set(true))
    if any(NO_CHOICE in row for row in selection.confusion.values()):
        chosen.append(NO_CHOICE)
    counts = [[selection.confusion[one].get(other, 0) for other in chosen] for one in true]
    figure, axes = _subplots(figsize=(2 + 0.5 * min(len(chosen), MOST_NAMES), 2 + 0.45 * min(len(true), MOST_NAMES)))
    axes.imshow(counts, cmap="Blues")
    across, down = (range(0, len(names), -(-len(names) // MOST_NAMES)) for names in (chosen, true))
    axes.set_xticks(across, [drawable(chosen[i]) for i in across], rotation=90)
    axes.set_yticks(down, [drawable(true[i]) for i in down])
    axes.set(xlabel="chosen pattern", ylabel="true pattern")
    for row, values in enumerate(counts if len(chosen) <= MOST_NAMES else []):
        for column, count in enumerate(values):
            if count:
                colour = "white" if 2 * count > max(map(max, counts)) else "black"  # on dark cells, on light ones
                axes.text(column, row, str(count), ha="center", va="center", fontsize="x-small", color=colour)
    return figure


def plot_errors(selections: Mapping[str, Sequence[Selection]]):
    """Which wrong answers are chosen: the share of each error among all answers, a group of bars per error.

    Args:
        selections: name of a model or of its data -> what its runs chose (`evaluate_model` on matrices).

    Returns:
        A matplotlib figure. Bars: means over runs, with their standard deviations; the dotted line: chance. Errors are
        in the order of their mean share, and the legend says how many answers were right.
    """
    shares = {name: [_shares(run.errors) for run in runs] for name, runs in selections.items()}
    every = {error for runs in shares.values() for run in runs for error in run} - {CORRECT}
    mean = {error: sum(_mean(error, runs) for runs in shares.values()) for error in every}
    names = sorted(every, key=lambda error: (-mean[error], error))
    figure, axes = _subplots(figsize=(2.5 + 0.45 * max(4, len(names)) * len(shares) ** 0.5, 3.6))
    width = 0.8 / len(shares)
    for place, (name, runs) in enumerate(shares.items()):
        at = [i + (place - (len(shares) - 1) / 2) * width for i in range(len(names))]
        spread = [torch.tensor([run.get(error, 0.0) for run in runs]).std(correction=0).item() for error in names]
        told = f"{drawable(name)}: {_mean(CORRECT, runs):.0%} right"
        axes.bar(at, [_mean(error, runs) for error in names], width, yerr=spread, capsize=2, label=told)
    axes.axhline(next(iter(selections.values()))[0].chance, color="black", linestyle=":", linewidth=0.8)
    axes.set_xticks(range(len(names)), [drawable(name) for name in names])
    axes.set(xlabel="error", ylabel="share of all answers")
    axes.legend(fontsize="small")
    return figure


def _shares(chosen: Mapping[str, int]) -> dict[str, float]:
    return {error: count / sum(chosen.values()) for error, count in chosen.items()}


def _mean(error: str, runs: Sequence[Mapping[str, float]]) -> float:
    return sum(run.get(error, 0.0) for run in runs) / len(runs)


@torch.no_grad()
def plot_traversals(model, x: torch.Tensor, steps: int = 5, reach: float = 2.0):
    """What each latent does to the decoded array: one row per latent, from minus to plus `reach` standard deviations.

    Args:
        model: a sentence model.
        x: `(n, hidden_size)` embeddings, from which means and standard deviations of the latents are taken.
        steps: columns.
        reach: in standard deviations.

    Returns:
        A matplotlib figure of differences to the decoded mean.
    """
    latents = latents_of(model, x)
    centre, spread = latents.mean(0), latents.std(0)
    shifts = torch.linspace(-reach, reach, steps)
    moved = centre + shifts[:, None, None] * torch.diag(spread)  # (steps, L, L)
    arrays = model.sentence.decode(moved.flatten(0, 1)) - model.sentence.decode(centre[None])
    arrays = arrays.view(steps, len(centre), *model.config.shape)
    limit = float(arrays.abs().max()) or 1.0
    figure, axes = _subplots(len(centre), steps, squeeze=False, figsize=(1.3 * steps, 1.6 * len(centre)))
    for column in range(steps):
        for latent in range(len(centre)):
            axes[latent][column].imshow(arrays[column, latent].numpy(), cmap="coolwarm", vmin=-limit, vmax=limit)
            axes[latent][column].set_axis_off()
            axes[latent][column].set_title(f"z{latent} {float(shifts[column]):+.1f}", fontsize="x-small")
    return figure


def plot_localizations(found: dict[str, Localization], regions: torch.Tensor, shape: Sequence[int]):
    """Heat maps of effect per cell over the array, one per property, each with its index, its interval and verdict.

    Colours are multiples of an even spread of the whole effect; white: the effect of any cell by chance.

    Args:
        found: name -> `Localization` over the same regions.
        regions: bool `(regions, hidden_size)`.
        shape: of the array.

    Returns:
        A matplotlib figure.
    """
    figure, axes = _subplots(1, len(found), squeeze=False, figsize=(1.4 + 1.9 * len(found), 3.6))
    for axis, (name, one) in zip(axes[0], found.items(), strict=True):
        effects = cell_map(one.effects(), regions, shape)
        multiples = effects / effects.mean() if effects.mean() > 0 else torch.zeros_like(effects)
        picture = axis.imshow(multiples.numpy(), cmap="RdBu_r", vmin=1 - MOST, vmax=1 + MOST)
        index = "no effect" if one.index is None else f"{one.index:.2f} [{one.null_low:.2f}, {one.null_high:.2f}]"
        axis.set_title(f"{drawable(name)}\n{index}\n{one.verdict}", fontsize="small")
        axis.tick_params(labelleft=axis is axes[0, 0])
    label = "effect of a cell (1: all alike)"
    figure.colorbar(picture, ax=axes, shrink=0.7, extend="both", label=label)
    return figure


def plot_chunk_attention(found: ChunkAttention, reading: Mapping[str, Sequence[ProbeResult]] | None = None):
    """Attention of the pooled token per token of each chunk, by layer, as a multiple of even attention.

    Args:
        found: of `chunk_attention`.
        reading: of `read_by_layer` on the same model: the probes' accuracy on that token is drawn beside it, the same
            layers at the same height.

    Returns:
        A matplotlib figure: attention to all tokens, and what falls to chunks, divided among them. Digits are the
        multiples, colours their base-2 logarithm.
    """
    chunks, among = found.among_chunks()
    share = found.share[[found.kinds.index(kind) for kind in chunks]]
    widths = [len(found.kinds), len(chunks), *([] if reading is None else [5])]
    figure = Figure(layout="constrained", figsize=(1.5 + 0.75 * sum(widths), 1.6 + 0.32 * len(found.layers)))
    axes = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
    _draw_multiples(axes[0], found.relative, found.kinds, found.share, found.layers)
    picture = _draw_multiples(axes[1], among, chunks, share / share.sum(), found.layers)
    axes[0].set(ylabel="layer", ylim=(found.layers[0] - 0.5 - (reading is not None), found.layers[-1] + 0.5))
    axes[0].set_title(f"attention of the {found.pooled} token", fontsize="small")
    axes[1].set_title("among chunks", fontsize="small")
    colors = figure.colorbar(picture, ax=axes[1], shrink=0.8, ticks=range(-3, 4))
    colors.ax.set_yticklabels(["1/8", "1/4", "1/2", "even", "2", "4", "8"])
    if reading is not None:
        _draw_reading(axes[2], reading)
    return figure


def _draw_multiples(axis, multiples: torch.Tensor, kinds: Sequence[str], share: torch.Tensor, layers: Sequence[int]):
    """A heat map of multiples of even attention, `(layers, kinds)`; below each kind, its share of the tokens."""
    extent = (-0.5, len(kinds) - 0.5, layers[0] - 0.5, layers[-1] + 0.5)
    colors = {"cmap": "RdBu_r", "vmin": -3, "vmax": 3}
    shown = multiples.clamp(min=1 / 8, max=8).log2().numpy()
    picture = axis.imshow(shown, origin="lower", extent=extent, aspect="auto", **colors)
    for layer, values in zip(layers, multiples.tolist(), strict=True):
        for column, value in enumerate(values):
            color = "white" if value > 4 or value < 1 / 4 else "black"
            axis.text(column, layer, f"{value:.2g}", ha="center", va="center", fontsize="x-small", color=color)
    names = [f"{kind}\n{part:.0%}" for kind, part in zip(kinds, share.tolist(), strict=True)]
    axis.set_xticks(range(len(kinds)), names, fontsize="small")
    axis.set_xlabel("share of tokens below", fontsize="small")
    return picture


def _draw_reading(axis, reading: Mapping[str, Sequence[ProbeResult]]) -> None:
    """Accuracy against layer, dotted for shuffled labels."""
    for place, (name, results) in enumerate(reading.items()):
        layers = range(len(results))
        axis.plot([one.accuracy for one in results], layers, marker=".", color=f"C{place}", label=name)
        axis.plot([one.control_accuracy for one in results], layers, linestyle=":", color=f"C{place}", linewidth=1)
    axis.set(xlabel="accuracy (dotted: shuffled labels)", xlim=(0, 1.02))
    axis.set_title("what a probe reads off it", fontsize="small")
    axis.legend(fontsize="small", loc="lower left")


def plot_transfer(found: Mapping[str, Transfer]):
    """Accuracy of a probe of simple sentences on every rung, one panel per property.

    Args:
        found: property -> `Transfer`.

    Returns:
        A matplotlib figure. Points: accuracy with two standard errors; crosses: a probe fitted to the rung itself;
        grey bars: 95 % of probes of shuffled labels. The probe was fitted to the rungs above the line.
    """
    names = list(dict.fromkeys(name for one in found.values() for name in one.rungs))
    figure, axes = _subplots(1, len(found), squeeze=False, figsize=(1.4 + 2.5 * len(found), 1.4 + 0.35 * len(names)))
    for axis, (prop, one) in zip(axes[0], found.items(), strict=True):
        for name, rung in one.rungs.items():
            _draw_rung(axis, names.index(name), rung)
        fitted = [names.index(name) for name in one.simple]
        axis.axhline(max(fitted) + 0.5, color="black", linewidth=0.6)
        axis.set(xlabel="accuracy", xlim=(0, 1.02), ylim=(len(names) - 0.5, -0.5))
        axis.set_title(prop, fontsize="small")
        axis.set_yticks(range(len(names)), names if axis is axes[0][0] else [""] * len(names))
    handles = dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True))  # one entry for each label
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), fontsize="small")
    return figure


def _draw_rung(axis, height: int, rung: RungTransfer) -> None:
    bar = {"color": "lightgrey", "linewidth": 7, "solid_capstyle": "butt", "label": "shuffled labels"}
    axis.plot([rung.control_low, rung.control_high], [height] * 2, **bar)
    error = 2 * (rung.standard_error or 0.0)
    point = {"marker": "o", "markersize": 4, "color": "C0", "linestyle": "", "elinewidth": 1}
    axis.errorbar(rung.accuracy, height, xerr=error, label="probe of the rungs above the line", **point)
    if rung.own_accuracy is not None:
        axis.plot(rung.own_accuracy, height, marker="x", linestyle="", color="C1", label="probe of the rung itself")
