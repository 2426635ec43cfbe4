"""Repairs of embeddings, fitted on any texts and applied to others: centring, fewer directions, whitening."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import torch
from torch import nn

from ..errors import BadInput
from ..measures.nulls import gaussian_shrinkage
from ..writing import write_whole


class Repair(nn.Module, ABC):
    """An affine change of embeddings that can be added to a SentenceTransformer as its last module.

    `SentenceTransformer(modules=[*model, repair])`; it is saved and loaded with the model, in environments that have
    this package.
    """

    @abstractmethod
    def apply_to(self, rows: torch.Tensor) -> torch.Tensor:
        """`(n, d)` rows, repaired."""

    def forward(self, features: dict[str, torch.Tensor], **options) -> dict[str, torch.Tensor]:
        """The features of a SentenceTransformer, their `sentence_embedding` repaired."""
        return {**features, "sentence_embedding": self.apply_to(features["sentence_embedding"])}

    def save(self, output_path: str, *args, **options) -> None:
        """Writes `config.json` and `model.safetensors` into a folder."""
        from safetensors.torch import save

        folder = Path(output_path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        write_whole(folder / "model.safetensors", save(weights))
        shapes = {name: list(value.shape) for name, value in weights.items()}
        write_whole(folder / "config.json", json.dumps(shapes) + "\n")

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options) -> Self:
        """Reads what `save` wrote; a name on the Hub is downloaded.

        Raises:
            BadInput: no such file, or one of something else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(model_name_or_path, subfolder)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(model_name_or_path, allow_patterns=[f"{subfolder}/*"]), subfolder)
        try:
            return cls(**load_file(folder / "model.safetensors"))
        except (OSError, SafetensorError, TypeError) as error:
            came = f"{str(folder)!r} ({str(error).splitlines()[0]})"
            raise BadInput("model_name_or_path", came=came, wanted=f"what {cls.__name__}.save wrote") from None


class Centred(Repair):
    """y = x - mean - sum_k <x - mean, u_k> u_k, for every embedding x.

    Args:
        mean: `(d,)`.
        directions: `(k, d)` of unit length, orthogonal; k may be 0.

    Source: Mu, Viswanath, "All-but-the-Top" (ICLR 2018), equation 2.

    Example:
        >>> import torch
        >>> from hf_repgeo.decisions import Centred
        >>> rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
        >>> Centred.fit(rows).apply_to(rows).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """

    mean: torch.Tensor
    directions: torch.Tensor

    def __init__(self, mean: torch.Tensor, directions: torch.Tensor | None = None):
        super().__init__()
        self.register_buffer("mean", mean.detach().float())
        directions = torch.zeros(0, len(mean)) if directions is None else directions
        self.register_buffer("directions", directions.detach().float())

    @classmethod
    def fit(cls, rows: torch.Tensor, directions: int = 0) -> Centred:
        """From `(n, d)` rows: their mean, and the `directions` first right singular vectors of the centred rows.

        Raises:
            BadInput: `directions` is not between 0 and the lesser of n - 1 and d - 1.
        """
        most = min(len(rows), rows.shape[1]) - 1
        if not 0 <= directions <= most:
            raise BadInput("directions", came=str(directions), wanted=f"0 to {most}, for rows of {tuple(rows.shape)}")
        mean = rows.double().mean(0)
        if directions == 0:
            return cls(mean)
        centred = rows.double() - mean
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        return cls(mean, vectors[:, -directions:].T.flip(0))

    def apply_to(self, rows: torch.Tensor) -> torch.Tensor:
        centred = rows - self.mean
        return centred - (centred @ self.directions.T) @ self.directions


class Whitened(Repair):
    """y = S^(-1/2) (x - mean), for every embedding x, with a covariance S: all directions count alike.

    Args:
        mean: `(d,)`.
        matrix: `(d, d)`, S^(-1/2), symmetric.

    Source: Su, Cao, Liu, Ou, "Whitening Sentence Representations" (2021), equation 6, but with the symmetric root,
    which changes no cosine, and with a shrunk covariance, since few rows leave directions without variance.

    Example:
        >>> import torch
        >>> from hf_repgeo.decisions import Whitened
        >>> rows = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0, 9.0])
        >>> Whitened.fit(rows).apply_to(rows).std(0).round(decimals=1).tolist()
        [1.0, 1.0, 1.0]
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, mean: torch.Tensor, matrix: torch.Tensor):
        super().__init__()
        self.register_buffer("mean", mean.detach().float())
        self.register_buffer("matrix", matrix.detach().float())

    @classmethod
    def fit(cls, rows: torch.Tensor) -> Whitened:
        """From `(n, d)` rows: their mean, and their covariance, shrunk towards a multiple of the identity.

        Raises:
            BadInput: fewer than two distinct rows.
        """
        mean = rows.double().mean(0)
        centred = rows.double() - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / max(1, len(rows)))
        values = values.clamp_min(0)
        trace = float(values.sum())
        if trace == 0:
            raise BadInput("rows", came="rows that are all equal", wanted="at least two distinct rows")
        n, d = rows.shape
        shrinkage = gaussian_shrinkage(n, d, trace, float(values.square().sum()))
        shrunk = (1 - shrinkage) * values + shrinkage * trace / d
        return cls(mean, (vectors * shrunk.clamp_min(trace * torch.finfo(torch.float32).eps).rsqrt()) @ vectors.T)

    def apply_to(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows - self.mean) @ self.matrix
