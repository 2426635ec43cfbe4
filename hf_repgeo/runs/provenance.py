"""The software and the machine that made a report, for its provenance."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from ..measures.kernels.switch import family
from ..rows.processes import current_team
from ..version import __version__


def versions() -> dict:
    """Versions and kernels that decide the numbers: part of a run's identity."""
    others = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return {"kernels": family(), "versions": {"hf_repgeo": __version__, **others, "python": platform.python_version()}}


def machine() -> dict:
    """The processor, for provenance only: a run may be resumed on another one."""
    cores = f"{torch.get_num_threads()} threads"
    several = {"processes": current_team().size} if current_team().size > 1 else {}
    return {"processor": f"{torch.backends.cpu.get_cpu_capability()}, {platform.machine()}, {cores}"} | several
