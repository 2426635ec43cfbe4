"""after_import: a callback right after another module's import, which leaves no trace and never breaks the import."""

import importlib
import inspect
import sys
import threading

import pytest

from hf_repgeo.registration import import_hooks as _import_hooks
from hf_repgeo.registration.import_hooks import after_import


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Writes importable modules; their traces in the interpreter go with the test."""
    names = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_import_hooks, "_callbacks", {})

    def write(name, code):
        path = tmp_path.joinpath(*name.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(code)
        names.append(name)
        importlib.invalidate_caches()

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_the_callback_waits_for_the_import_and_imports_nothing_itself(write_module):
    write_module("hooked_later", "value = 1")
    seen = []
    after_import("hooked_later", lambda module: seen.append(module.value))
    assert "hooked_later" not in sys.modules and not seen
    importlib.import_module("hooked_later")
    assert seen == [1]


def test_the_callback_runs_at_once_if_the_module_is_already_imported(write_module):
    write_module("hooked_now", "value = 2")
    importlib.import_module("hooked_now")
    seen = []
    after_import("hooked_now", lambda module: seen.append(module.value))
    assert seen == [2]


def test_several_callbacks_of_a_submodule_run_in_order(write_module):
    write_module("hooked_package.__init__", "")
    write_module("hooked_package.part", "value = 3")
    seen = []
    after_import("hooked_package.part", lambda module: seen.append("first"))
    after_import("hooked_package.part", lambda module: seen.append("second"))
    import hooked_package

    assert not seen
    importlib.import_module("hooked_package.part")
    assert seen == ["first", "second"] and hooked_package.part.value == 3


def test_names_imported_from_the_module_are_those_that_the_callback_left(write_module):
    write_module("hooked_patch", "def greet():\n    return 'theirs'")
    after_import("hooked_patch", lambda module: setattr(module, "greet", lambda: "ours"))
    from hooked_patch import greet

    assert greet() == "ours"


def test_reloading_a_module_runs_the_callback_again(write_module):
    write_module("hooked_reload", "value = 4")
    seen = []
    after_import("hooked_reload", lambda module: seen.append(module.value))
    importlib.reload(importlib.import_module("hooked_reload"))
    assert seen == [4, 4]


def test_the_module_keeps_its_own_loader_and_its_source(write_module):
    write_module("hooked_source", "def function():\n    return 5")
    after_import("hooked_source", lambda module: None)
    spec = importlib.util.find_spec("hooked_source")
    assert spec.loader.get_filename("hooked_source") == spec.origin  # before the import: the loader answers for its own
    module = importlib.import_module("hooked_source")
    assert isinstance(module.__loader__, importlib.machinery.SourceFileLoader)
    assert module.__spec__.loader is module.__loader__
    assert "return 5" in inspect.getsource(module.function)


def test_a_failing_callback_warns_and_the_import_goes_on(write_module):
    write_module("hooked_failure", "value = 6")
    seen = []

    def breaks(module):
        raise AttributeError("no such function")

    after_import("hooked_failure", breaks)
    after_import("hooked_failure", lambda module: seen.append(module.value))
    with pytest.warns(RuntimeWarning, match=r"breaks failed after the import of hooked_failure.*no such function"):
        assert importlib.import_module("hooked_failure").value == 6
    assert seen == [6]


def test_an_error_in_the_module_is_the_modules_own(write_module):
    write_module("hooked_broken", "raise RuntimeError('theirs')")
    seen = []
    after_import("hooked_broken", seen.append)
    with pytest.raises(RuntimeError, match="theirs"):
        importlib.import_module("hooked_broken")
    assert not seen and "hooked_broken" not in sys.modules


def test_a_module_that_is_not_installed_still_raises_module_not_found(write_module):
    after_import("hooked_nowhere", lambda module: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("hooked_nowhere")


def test_a_module_that_replaces_itself_is_handed_over_as_what_it_became(write_module):
    write_module("hooked_lazy", "import sys, types\nsys.modules[__name__] = types.SimpleNamespace(value=7)")
    seen = []
    after_import("hooked_lazy", lambda module: seen.append(module.value))
    importlib.import_module("hooked_lazy")
    assert seen == [7]


def test_a_module_that_another_thread_is_still_importing_is_waited_for(write_module):
    write_module("hooked_slow", "import time, hooked_signal\nhooked_signal.begun.set()\ntime.sleep(0.3)\nvalue = 8")
    write_module("hooked_signal", "import threading\nbegun = threading.Event()")
    signal = importlib.import_module("hooked_signal")
    thread = threading.Thread(target=importlib.import_module, args=["hooked_slow"])
    thread.start()
    signal.begun.wait()
    seen = []
    after_import("hooked_slow", lambda module: seen.append(module.value))
    thread.join()
    assert seen == [8]


def test_one_finder_serves_all_registered_modules(write_module):
    after_import("hooked_nowhere", lambda module: None)
    after_import("hooked_elsewhere", lambda module: None)
    assert sys.meta_path.count(_import_hooks._watcher) == 1
