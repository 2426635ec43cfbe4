"""A repair of embeddings: their mean, and perhaps their strongest directions, are taken out.

Fitted on texts of no importance, applied to any; Mu and Viswanath, "All-but-the-Top" (ICLR 2018), equation 2.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from ..errors import BadInput
from ..writing import write_whole


class Centred(nn.Module):
    """y = x - mean - sum_k <x - mean, u_k> u_k, for every embedding x.

    Works on tensors, and as a further module of a SentenceTransformer: `SentenceTransformer(modules=[*model, repair])`;
    it is saved and loaded with the model, in environments that have this package.

    Args:
        mean: `(d,)`.
        directions: `(k, d)` of unit length, orthogonal; k may be 0.

    Example:
        >>> import torch
        >>> from hf_repgeo.decisions import Centred
        >>> rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
        >>> Centred.fit(rows).apply_to(rows).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """

    config_keys = ("width", "n_directions")
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
        """`(n, d)` rows, repaired."""
        centred = rows - self.mean
        return centred - (centred @ self.directions.T) @ self.directions

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
        sizes = {"width": len(self.mean), "n_directions": len(self.directions)}
        write_whole(folder / "config.json", json.dumps(sizes) + "\n")

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options) -> Centred:
        """Reads what `save` wrote; a name on the Hub is downloaded."""
        from safetensors.torch import load_file

        folder = Path(model_name_or_path, subfolder)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(model_name_or_path, allow_patterns=[f"{subfolder}/*"]), subfolder)
        return cls(**load_file(folder / "model.safetensors"))
