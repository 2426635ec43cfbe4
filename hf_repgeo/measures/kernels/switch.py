"""One switch between the fast paths and plain PyTorch.

    HF_REPGEO_KERNELS=reference hf_repgeo profile ...     # every measure in plain float32 and float64 products
    with kernels("reference"): ...                        # the same inside a block of code

The fast paths ask `fast()`. The reference is the definition: slower, and free of private operations of PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ...errors import UnknownName

VARIABLE = "HF_REPGEO_KERNELS"
FAMILIES = ("fast", "reference")
_chosen: ContextVar[str | None] = ContextVar("kernels", default=None)


def family() -> str:
    """The kernels in use, `"fast"` or `"reference"`: the enclosing `kernels` block decides, else the environment.

    Raises:
        UnknownName: the environment names another.

    Example:
        >>> from hf_repgeo.measures.kernels.switch import family, kernels
        >>> with kernels("reference"):
        ...     family()
        'reference'
    """
    return _chosen.get() or _known(os.environ.get(VARIABLE) or "fast")


def fast() -> bool:
    """Whether the fast paths may be taken."""
    return family() == "fast"


@contextmanager
def kernels(name: str) -> Iterator[None]:
    """Inside the block, in this thread or task, measures run on the kernels `name`, whatever the environment says."""
    token = _chosen.set(_known(name))
    try:
        yield
    finally:
        _chosen.reset(token)


def _known(name: str) -> str:
    if name not in FAMILIES:
        raise UnknownName(f"kernel family ({VARIABLE})", name, FAMILIES)
    return name
