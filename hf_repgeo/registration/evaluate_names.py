"""The door to Hugging Face evaluate: after `import hf_repgeo`, `evaluate.load("anisotropy")` finds our measurements.

evaluate has no place to register modules. So its `evaluation_module_factory`, which turns a name into a module, is
wrapped once evaluate is imported. For our names, three measurements and two comparisons, it returns our own installed
modules: offline, and without writing anything to a cache. A user's own folder of the same name and a `revision=` are
still left to evaluate.

This file imports neither evaluate nor torch.
"""

from __future__ import annotations

import functools
import os
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from ..errors import UnknownName
from ..version import __version__
from .import_hooks import after_import

__all__ = ["MEASUREMENTS", "install", "measurement_path"]

MEASUREMENTS = {name: f"hf_repgeo.evaluation.{name}" for name in ("anisotropy", "intrinsic_dimension", "patchiness")}
COMPARISONS = {name: f"hf_repgeo.evaluation.{name}" for name in ("linear_cka", "geometry_difference")}
MODULES = MEASUREMENTS | COMPARISONS


def install() -> None:
    """Registers our names with evaluate, now or as soon as it is imported; calling it twice is harmless."""
    after_import("evaluate.loading", teach_evaluate)


def measurement_path(name: str) -> str:
    """Path of a measurement for `evaluate.load`, as an explicit alternative to its name.

    evaluate copies a script that it loads by path into its modules cache; loading by name copies nothing.

    Args:
        name: `"anisotropy"`, `"intrinsic_dimension"` or `"patchiness"`; or one of the comparisons
            `"linear_cka"` and `"geometry_difference"`.

    Returns:
        str: an absolute path to a Python file.

    Raises:
        UnknownName: no such measurement.

    Example:
        >>> from hf_repgeo import measurement_path
        >>> measurement_path("anisotropy").rsplit("/", 2)[1:]
        ['evaluation', 'anisotropy.py']
    """
    if name not in MODULES:
        raise UnknownName("measurement", name, MODULES)
    return str(Path(__file__).parents[1] / "evaluation" / f"{name}.py")


def teach_evaluate(loading: ModuleType) -> None:
    """Wraps the factory of `evaluate.loading`, which its `load` looks up at each call: names bound earlier work too.

    `evaluate.inspect_evaluation_module` copies scripts and cannot do so for a bare name; it keeps evaluate's factory.

    Args:
        loading: the module `evaluate.loading`.
    """
    ask_evaluate = loading.evaluation_module_factory
    if getattr(ask_evaluate, "knows_hf_repgeo", False):
        return

    @functools.wraps(ask_evaluate)
    def evaluation_module_factory(path, *args, **options):
        if args or not _ours(path, options):
            return ask_evaluate(path, *args, **options)
        return loading.ImportableModule(MODULES[path], _fingerprint(path))

    evaluation_module_factory.__dict__["knows_hf_repgeo"] = True
    loading.__dict__["evaluation_module_factory"] = evaluation_module_factory


def _ours(path, options: dict) -> bool:
    """Whether we return the module: it has one of our names, and no user's folder or revision is asked for."""
    if path not in MODULES or options.get("revision") or options.get("force_local_path"):
        return False
    return not os.path.isfile(os.path.join(path, f"{path}.py"))


def _fingerprint(name: str) -> str:
    """The module's hash for evaluate, which changes with our version."""
    return sha256(f"{name} {__version__}".encode()).hexdigest()
