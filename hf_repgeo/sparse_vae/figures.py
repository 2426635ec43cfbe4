"""Figures of latents, choices and places. Every function returns its figure; nothing is shown or saved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from ..errors import MissingExtra, UnknownName
from .evaluation import NO_CHOICE, Selection
from .localization import Localization
from .regions import cell_map


def _subplots(rows: int = 1, columns: int = 1, *, squeeze: bool = True, figsize: tuple[float, float]):
    """A figure outside pyplot's registry, so that nothing has to be closed."""
    figure = Figure(layout="constrained", figsize=figsize)
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


@torch.no_grad()
def latents_of(model, x: torch.Tensor) -> torch.Tensor:
    """Latent means of sentence embeddings, `(n, L)`, by a sentence model or the sentence level of a two-level one."""
    return model.sentence.encode(x)[0]


def plot_latents(latents: torch.Tensor, labels: Sequence[str], method: str = "pca", seed: int = 0):
    """Latents in two dimensions, coloured by pattern, as in the paper's figures.

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
        axes.scatter(points[at, 0], points[at, 1], s=12, color=colors(place / max(1, len(names) - 1)), label=name)
    axes.set(xlabel=f"{method} 1", ylabel=f"{method} 2")
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def _tsne(latents: torch.Tensor, seed: int):
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MissingExtra("scikit-learn", "sparse-vae", "t-SNE") from error
    return TSNE(n_components=2, random_state=seed).fit_transform(latents.numpy())


def plot_confusion(selection: Selection):
    """True against chosen patterns, counts as colours and digits.

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
    figure, axes = _subplots(figsize=(2 + 0.5 * len(chosen), 2 + 0.45 * len(true)))
    axes.imshow(counts, cmap="Blues")
    axes.set_xticks(range(len(chosen)), chosen, rotation=90)
    axes.set_yticks(range(len(true)), true)
    axes.set(xlabel="chosen pattern", ylabel="true pattern")
    for row, values in enumerate(counts):
        for column, count in enumerate(values):
            if count:
                axes.text(column, row, str(count), ha="center", va="center", fontsize="x-small")
    return figure


@torch.no_grad()
def plot_traversals(model, x: torch.Tensor, steps: int = 5, reach: float = 2.0):
    """What each latent does to the decoded array: one row per latent, from minus to plus `reach` standard deviations.

    Args:
        model: a sentence model.
        x: `(n, hidden_size)` embeddings that say what is usual: means and deviations of the latents are theirs.
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
    """Heat maps of effect per cell over the array, one per property, each with its index and verdict.

    Args:
        found: name -> `Localization` over the same regions.
        regions: bool `(regions, hidden_size)`.
        shape: of the array.

    Returns:
        A matplotlib figure.
    """
    figure, axes = _subplots(1, len(found), squeeze=False, figsize=(2.6 * len(found), 3.6))
    for axis, (name, one) in zip(axes[0], found.items(), strict=True):
        picture = axis.imshow(cell_map(one.effects(), regions, shape).numpy(), cmap="viridis")
        index = "no effect" if one.index is None else f"{one.index:.2f} [{one.null_low:.2f}, {one.null_high:.2f}]"
        axis.set_title(f"{name}\n{index}\n{one.verdict}", fontsize="small")
        figure.colorbar(picture, ax=axis, shrink=0.6)
    return figure
