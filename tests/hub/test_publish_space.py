"""Publishing a Space: what would go up, and the real client against the loopback double."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi
from loopback_double import ME, LoopbackDouble

from hf_repgeo.cli.main import main
from hf_repgeo.errors import BadInput
from hf_repgeo.hub.spaces import publish_space

SPACES = Path(__file__).parents[2] / "spaces"


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "hf_repgeo-0.1.0-py3-none-any.whl"
    path.write_bytes(b"a wheel")
    return path


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
def test_a_dry_run_holds_the_folder_and_names_the_wheel_inside_the_space(name, wheel, tmp_path, api):
    publish_space(SPACES / name, "me/look", wheel=wheel, to=tmp_path / "out", api=api)
    out = tmp_path / "out" / "spaces" / "me" / "look"
    assert (out / "app.py").read_bytes() == (SPACES / name / "app.py").read_bytes()
    assert (out / wheel.name).read_bytes() == b"a wheel"
    first = (out / "requirements.txt").read_text().splitlines()[0]
    assert first == f"hf_repgeo[demo,evaluate,spaces] @ {api.endpoint}/spaces/me/look/resolve/main/{wheel.name}"
    assert not any("__pycache__" in str(path) for path in out.rglob("*"))


def test_a_space_arrives_as_it_was_written(wheel, tmp_path, api, monkeypatch):
    monkeypatch.setenv("HF_REPGEO_CACHE", str(tmp_path / "cache"))
    publish_space(SPACES / "anisotropy", "me/anisotropy", wheel=wheel, to=tmp_path / "out", api=api)
    pushed = publish_space(SPACES / "anisotropy", "me/anisotropy", wheel=wheel, api=api, sleep=lambda seconds: None)
    assert "me/anisotropy" in pushed.commits
    out = tmp_path / "out" / "spaces" / "me" / "anisotropy"
    names = [name for name in api.list_repo_files("me/anisotropy", repo_type="space") if name != ".gitattributes"]
    fetch = {"repo_type": "space", "cache_dir": tmp_path / "hub"}
    there = {name: api.hf_hub_download("me/anisotropy", name, **fetch) for name in names}
    assert {path: Path(file).read_bytes() for path, file in there.items()} == {
        str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()
    }


def test_what_is_no_space_or_no_wheel_is_refused(tmp_path, wheel, capsys):
    with pytest.raises(BadInput, match="without app.py, README.md, requirements.txt; wanted the folder of a Space"):
        publish_space(tmp_path, "me/x")
    with pytest.raises(BadInput, match="`wheel`: got .*wanted a wheel of hf_repgeo. pip wheel --no-deps"):
        publish_space(SPACES / "anisotropy", "me/x", wheel=tmp_path / "other.whl")
    assert main(["space", "publish", str(tmp_path), "me/x"]) == 2
    assert "wanted the folder of a Space" in capsys.readouterr().err
