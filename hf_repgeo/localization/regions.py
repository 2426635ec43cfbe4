"""Regions of the array: the cells that a kernel sees, the latents that it feeds, and random regions of equal sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import BadInput, MissingExtra
from ..sparse_vae.layers_sparse_vae import array_tiling


def receptive_fields(config) -> torch.Tensor:
    """Which cells of the array each CNN region sees, from the arithmetic of the convolution.

    Args:
        config: a `SparseVAEConfig`.

    Returns:
        bool `(regions, rows, columns)`; region `r * grid_columns + q` is the kernel in row r and column q.

    Example:
        >>> from hf_repgeo.sparse_vae import SparseVAEConfig, receptive_fields
        >>> receptive_fields(SparseVAEConfig()).sum((1, 2)).tolist()
        [18, 30, 135, 225, 135, 225]
    """
    pads, counts, _ = array_tiling(config)
    sides = zip(config.shape, config.kernel, config.stride, pads, counts, strict=True)
    rows, columns = (_covered(*side) for side in sides)
    fields = rows[:, None, :, None] & columns[None, :, None, :]  # (grid rows, grid columns, rows, columns)
    return fields.flatten(0, 1)


def _covered(length: int, kernel: int, stride: int, pad: int, count: int) -> torch.Tensor:
    """bool `(count, length)`: the cells under each kernel along one side."""
    start = torch.arange(count)[:, None] * stride - pad
    cells = torch.arange(length)
    return (cells >= start) & (cells < start + kernel)


def region_dimensions(model) -> torch.Tensor:
    """Which dimensions of the embedding each region of a model sees, its permutation of the input included.

    Args:
        model: a `SparseVAEForSentenceEmbedding` or `SparseVAEForBLM`.

    Returns:
        bool `(regions, hidden_size)`.
    """
    cells = receptive_fields(model.config).flatten(1)
    permutation = model.sentence.permutation
    return cells if permutation is None else cells[:, permutation.inverse.cpu()]


@torch.no_grad()
def region_to_latent(model) -> dict[str, torch.Tensor]:
    """Which regions feed which latent means.

    Args:
        model: a model with a routing (any mask but `"none"`).

    Returns:
        `units` `(regions, L)` int64: how many channels of a region are routed to a latent; `weight` `(regions, L)`: the
        sum of the absolute weights that go there.

    Raises:
        BadInput: the model has no routing.
    """
    routing = model.sentence.routing
    if routing is None:
        raise BadInput("model", came="a model without a mask", wanted="one with `mask` other than 'none'")
    mask = routing.hard()
    weight = model.sentence.encoder.mean_head.weight.T.abs() * mask  # (units, L)
    by_channel = (model.config.channels, -1, model.config.latent_dim)
    return {"units": mask.view(by_channel).sum(0), "weight": weight.view(by_channel).sum(0)}


@dataclass(frozen=True)
class MaskOverlap:
    """How far two masks group the same units, compared with chance.

    Args:
        jaccard: units that both masks send to matched latents, over those that either does; 0 to 1.
        null_mean, null_low, null_high: the same with the second mask's units shuffled (95 % interval).
    """

    jaccard: float
    null_mean: float
    null_low: float
    null_high: float


def mask_overlap(first: torch.Tensor, second: torch.Tensor, n_null: int = 200, seed: int = 0) -> MaskOverlap:
    """Whether two masks agree. Latents have no names, so they are first matched as well as possible, also by chance.

    Args:
        first, second: bool `(units, L)`, such as `model.sentence.routing.hard()` of two runs. Channels of different
            runs have no common names either: compare `region_to_latent(...)["units"]` by region, or masks of models
            that share their start.
        n_null: shufflings.
        seed: of the shuffling.

    Returns:
        A `MaskOverlap`.

    Raises:
        BadInput: masks of different shapes.
        MissingExtra: scikit-learn (which brings scipy) is not installed.

    Example:
        >>> mask = torch.eye(3, dtype=torch.bool).repeat(20, 1)
        >>> mask_overlap(mask, mask[:, [2, 0, 1]]).jaccard
        1.0
    """
    if first.shape != second.shape or first.dim() != 2:
        came = f"shapes {tuple(first.shape)} and {tuple(second.shape)}"
        raise BadInput("second", came=came, wanted="two masks (units, L) of one shape")
    generator = torch.Generator().manual_seed(seed)
    shuffled = [second[torch.randperm(len(second), generator=generator)] for _ in range(n_null)]
    null = torch.tensor([_matched_jaccard(first, other) for other in shuffled], dtype=torch.float64)
    low, high = null.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return MaskOverlap(_matched_jaccard(first, second), float(null.mean()), low, high)


def _matched_jaccard(first: torch.Tensor, second: torch.Tensor) -> float:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingExtra("scikit-learn", "sparse-vae", "Comparing masks") from error
    shared = first.double().T @ second.double()  # (L, L) units in common
    common = float(shared.numpy()[linear_sum_assignment(shared.numpy(), maximize=True)].sum())
    return common / (float(first.sum()) + float(second.sum()) - common)


def random_partition(regions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Regions of the same sizes and overlaps over shuffled dimensions, bool `(regions, hidden_size)`."""
    return regions[:, torch.randperm(regions.shape[1], generator=generator)]


def cell_map(effects: torch.Tensor, regions: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Effects per cell over the array, `(rows, columns)`: each region's effect spread evenly over its cells.

    Args:
        effects: `(regions,)`.
        regions: bool `(regions, hidden_size)`.
        shape: of the array.
    """
    density = effects.double() / regions.sum(-1)
    return (density[:, None] * regions).sum(0).view(*shape)
