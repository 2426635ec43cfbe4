"""Callbacks for the moment right after another library's module was imported, without importing it ourselves.

after_import("evaluate.loading", teach_evaluate)      # at once if it is loaded already, else when it is

So `import hf_repgeo` stays quick, and a user who never imports that library pays nothing.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

Callback = Callable[[ModuleType], None]

_callbacks: dict[str, list[Callback]] = {}


def after_import(name: str, callback: Callback) -> None:
    """Calls `callback(module)` right after the module `name` has been imported; now, if it has been already.

    It is called again when the module is reloaded, so it must recognise its own work. If it fails, the import continues
    and a `RuntimeWarning` says what failed: an import of another library never breaks because of us.

    Args:
        name: full name of the module, such as `"evaluate.loading"`.
        callback: gets the module.

    Example:
        >>> from hf_repgeo.registration.import_hooks import after_import
        >>> after_import("json", lambda module: print("imported", module.__name__))
        imported json
    """
    if _watcher not in sys.meta_path:
        sys.meta_path.insert(0, _watcher)
    known = _callbacks.setdefault(name, [])
    if callback not in known:
        known.append(callback)
    if sys.modules.get(name) is not None:
        _call(callback, importlib.import_module(name))  # waits while another thread is still importing it


def _call(callback: Callback, module: ModuleType) -> None:
    try:
        callback(module)
    except Exception as error:
        said = f"hf_repgeo: {_title(callback)} failed after the import of {module.__name__}: {error!r}"
        warnings.warn(said, RuntimeWarning, stacklevel=2)


def _title(callback: Callback) -> str:
    return getattr(callback, "__qualname__", repr(callback))


class _Watcher:
    """A finder that asks the other finders, and wraps the loader of a watched module so that it notifies us."""

    def find_spec(self, name: str, path=None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _callbacks:
            return None
        spec = _found_by_others(name, path, target)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = cast(Loader, _NotifyingLoader(spec.loader))
        return spec


def _found_by_others(name: str, path, target: ModuleType | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        if finder is _watcher or find_spec is None:
            continue
        spec = find_spec(name, path, target)
        if spec is not None:
            return spec
    return None


class _NotifyingLoader:
    """Loads a module with its own loader, restores that loader, and then calls the callbacks."""

    def __init__(self, loader: Any):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = cast(ModuleSpec, module.__spec__)
        spec.loader = module.__loader__ = self._loader  # inspect, pickle and importlib.resources look there
        name = spec.name
        self._loader.exec_module(module)
        imported = sys.modules.get(name, module)  # a module may have put another object into its place
        for callback in list(_callbacks[name]):
            _call(callback, imported)

    def __getattr__(self, name: str) -> Any:
        """The attributes that callers of `importlib.util.find_spec` use: source, path, code."""
        if name == "_loader":  # not there yet while being copied
            raise AttributeError(name)
        return getattr(self._loader, name)


_watcher = _Watcher()
