"""The card of a trained model: what it is, what it was trained on, how well it does, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from ..report_text import without_folders
from ..version import __version__
from ..writing import folder_written_whole, write_whole


def model_card(config, facts: Mapping[str, object]) -> str:
    """A README for a sparse VAE.

    Args:
        config: of the model: says encoder, layer and pooling.
        facts: further lines of the table of training, such as `{"test accuracy": "0.61 (chance 0.125)"}`.

    Returns:
        Markdown with front matter.

    Example:
        >>> from hf_repgeo.sparse_vae import SparseVAEConfig
        >>> card = model_card(SparseVAEConfig(encoder="me/encoder", pooling="mean"), {"epochs": 50})
        >>> "| encoder | `me/encoder` |" in card, "| epochs | 50 |" in card
        (True, True)
    """
    base = config.encoder if isinstance(config.encoder, str) and config.encoder.count("/") == 1 else None
    hub = f"base_model: {base}\n" if base and not base.startswith((".", "/", "~")) else ""
    told = {
        "encoder": f"`{without_folders(config.encoder or '') or 'not known'}`",
        "embeddings": f"`{config.embedding or 'not known'}`",
        "layer": config.layer,
        "pooling": config.pooling,
        "dimensions": config.hidden_size,
        **facts,
        "hf_repgeo": __version__,
    }
    table = "\n".join(f"| {name} | {_cell(fact)} |" for name, fact in told.items())
    return f"""---
library_name: transformers
{hub}tags:
- sparse-vae
---

# A sparse VAE over sentence embeddings

Made with `hf_repgeo`, after Nastase & Merlo (arXiv 2407.18119). What it was trained on:

| | |
|---|---|
{table}

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("THIS_FOLDER_OR_ID", trust_remote_code=True)
latents = model(inputs_embeds=embeddings).latents
```

`embeddings` are rows of the encoder above, of its layer and pooling; `model.encode_sentences([...])` makes them itself
if transformers finds the encoder. A model that recovers a property does not show where in the embedding it lies:
`hf-repgeo locate` tests that, with controls.
"""


def _cell(fact: object) -> str:
    """A fact in a cell of the table: nothing in it ends the cell or is read as HTML."""
    return escape(" ".join(str(fact).split()).replace("|", "/"), quote=False)


def save_with_card(model, folder: str | Path, facts: Mapping[str, object]) -> Path:
    """Writes a model, the code that it needs, and its card.

    Args:
        model: any model of `hf_repgeo.sparse_vae`.
        folder: created if needed.
        facts: as in `model_card`.

    Returns:
        The folder.
    """
    folder = Path(folder)
    with folder_written_whole(folder) as unfinished:
        model.save_pretrained(unfinished)
        write_whole(unfinished / "README.md", model_card(model.config, facts))
    return folder
