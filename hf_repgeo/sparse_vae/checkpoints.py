"""The small trained model that ships with the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..rows.packaged import cache_folder
from ..version import __version__
from ..writing import written_whole

HERE = Path(__file__).parent
CODE = tuple(f"{name}_sparse_vae.py" for name in ("configuration", "layers", "losses", "modeling"))
AUTO_MAP = {
    "AutoConfig": "configuration_sparse_vae.SparseVAEConfig",
    "AutoModel": "modeling_sparse_vae.SparseVAEForSentenceEmbedding",
}


def example_checkpoint() -> str:
    """Folder of a trained sparse VAE (87 kB) for 768-dimensional embeddings; its README says on what and how well.

    The folder is written into the cache and holds the model's code too, so that a copy of it can be loaded without this
    package.

    Returns:
        A path for `AutoModel.from_pretrained`, after `import hf_repgeo` or with `trust_remote_code=True`.

    Example:
        >>> from hf_repgeo.sparse_vae import SparseVAEForSentenceEmbedding, example_checkpoint
        >>> SparseVAEForSentenceEmbedding.from_pretrained(example_checkpoint()).num_unmasked_parameters()
        19731
    """
    folder = cache_folder() / f"sparse-vae-example-{__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    for source in (*(HERE / "example").iterdir(), *(HERE / name for name in CODE)):
        if source.name != "config.json":
            _copy(source, folder / source.name)
    settings = json.loads((HERE / "example" / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(settings | {"auto_map": AUTO_MAP}, indent=2) + "\n"
    if not (folder / "config.json").is_file() or (folder / "config.json").read_text(encoding="utf-8") != text:
        with written_whole(folder / "config.json") as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return str(folder)


def _copy(source: Path, target: Path) -> None:
    if not target.is_file() or target.read_bytes() != source.read_bytes():
        with written_whole(target) as unfinished:
            shutil.copyfile(source, unfinished)
