"""The software and the machine that made a report, for its provenance."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

import torch

from ..measures.kernels.switch import family
from ..rows.processes import current_team
from ..version import __version__


def versions() -> dict:
    """Versions and kernels that decide the numbers: part of a run's identity."""
    known = {"hf_repgeo": __version__, **_installed(), "python": platform.python_version()}
    return {"kernels": family(), "versions": known}


@cache
def _installed() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "numpy")}


def machine() -> dict:
    """The processor, for provenance only: a run may be resumed on another one."""
    cores = f"{torch.get_num_threads()} threads"
    several = {"processes": current_team().size} if current_team().size > 1 else {}
    return {"processor": f"{torch.backends.cpu.get_cpu_capability()}, {platform.machine()}, {cores}"} | several
