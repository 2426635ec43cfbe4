"""The small trained model that ships with the package."""

from __future__ import annotations

from pathlib import Path


def example_checkpoint() -> str:
    """Folder of a trained sparse VAE (87 kB) for 768-dimensional embeddings; its README says on what and how well.

    Returns:
        A path for `AutoModel.from_pretrained`, after `import hf_repgeo`.

    Example:
        >>> from hf_repgeo.sparse_vae import SparseVAEForSentenceEmbedding, example_checkpoint
        >>> SparseVAEForSentenceEmbedding.from_pretrained(example_checkpoint()).num_unmasked_parameters()
        19731
    """
    return str(Path(__file__).parent / "example")
