"""A sweep over a Hub model's revisions, which lie in the cache: eviction, missing revisions, full disks."""

import errno
import hashlib
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

import hf_repgeo
import hf_repgeo.sweeps as sweeps
import hf_repgeo.writing as writing
from hf_repgeo import GeometryReport
from hf_repgeo.cli.main import main

CHEAP = {"measures": ["anisotropy"], "tokens": "all", "rows": 200, "progress": False, "device": "cpu"}
STEPS = ["step2", "step10"]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache as the client leaves it, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def download(cache: Path, revision: str, files: dict[str, bytes]) -> None:
    """Puts a revision of me/model into the cache: a ref, a snapshot of links, and each content once."""
    root = cache / "models--me--model"
    commit = hashlib.sha1(revision.encode()).hexdigest()
    for folder in (root / "refs", root / "blobs", root / "snapshots" / commit):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(commit)
    for name, content in files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (root / "snapshots" / commit / name).symlink_to(Path("../../blobs") / blob.name)


@pytest.fixture
def model(cache, encoder_folder, tmp_path) -> dict[str, dict[str, bytes]]:
    """A training in a repository's branches; the tokenizer's files are the same in all of them."""
    from transformers import AutoModel

    network, found = AutoModel.from_pretrained(encoder_folder), {}
    for name in (*STEPS, "main"):
        with torch.no_grad():
            network.encoder.layer[1].output.LayerNorm.weight[:4] *= 1.5
        network.save_pretrained(tmp_path / name)
        files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        found[name] = {path.name: path.read_bytes() for path in encoder_folder.iterdir()} | files
        download(cache, name, found[name])
    return found


def cached(cache: Path) -> set[str]:
    """Revisions whose files lie in the cache."""
    repos = huggingface_hub.scan_cache_dir(cache).repos if cache.is_dir() else ()
    return {ref for repo in repos for revision in repo.revisions for ref in revision.refs}


def weights(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("blobs/*") if path.stat().st_size > 20_000]


def test_eviction_deletes_each_revision_once_it_is_measured_and_no_other(
    model, documents, cache, tmp_path, monkeypatch
):
    held, profile = [], sweeps.profile

    def watched(*arguments, **options):
        held.append(cached(cache))
        return profile(*arguments, **options)

    monkeypatch.setattr(sweeps, "profile", watched)
    kept = hf_repgeo.sweep("me/model", documents, revisions=STEPS, out=tmp_path / "kept", **CHEAP)
    assert cached(cache) == {"main", *STEPS} and len(weights(cache)) == 3
    evicted = hf_repgeo.sweep("me/model", documents, revisions=STEPS, out=tmp_path / "out", evict=True, **CHEAP)
    assert [row["value"] for row in evicted] == [row["value"] for row in kept]
    assert held[2:] == [{"main", "step2", "step10"}, {"main", "step10"}]
    assert cached(cache) == {"main"} and len(weights(cache)) == 1
    alone = hf_repgeo.sweep("me/model", documents, revisions=["main"], out=tmp_path / "main", **CHEAP)
    assert alone.provenance["failed"] == {}  # it shares its tokenizer with the others
    again = hf_repgeo.sweep("me/model", documents, revisions=STEPS, out=tmp_path / "out", evict=True, **CHEAP)
    assert len(held) == 5 and again.rows == evicted.rows  # nothing is downloaded for a number that is there


def test_a_missing_revision_and_one_cut_in_half_are_rows_with_their_reasons(model, documents, cache, tmp_path):
    torn = model["step10"] | {"model.safetensors": model["step10"]["model.safetensors"][:5000]}
    download(cache, "step20", torn)
    asked = {"revisions": ["step2", "step7", "step20"], "out": tmp_path / "out", "evict": True}
    report = hf_repgeo.sweep("me/model", documents, **asked, **CHEAP)
    failed = report.provenance["failed"]
    assert list(failed) == ["step7", "step20"] and "me/model" in failed["step7"] and "step7" in failed["step7"]
    assert "cut short" in failed["step20"] and "network" not in failed["step20"]
    steps = [row["details"]["step"] for row in report if row["protocol"] == "failed"]
    assert steps == [7, 20] and {row["details"]["step"] for row in report if row["value"] is not None} == {2}
    assert cached(cache) == {"main", "step10"}  # what is torn is evicted too, so that it can be downloaded again
    assert GeometryReport.from_json(tmp_path / "out" / "sweep.json").rows == report.rows


@pytest.mark.parametrize("full", ["note.json", "sweep.json", "sweep.parquet"])
def test_a_disk_that_fills_up_ends_the_sweep_with_a_sentence_and_earlier_rows_stay(
    model, documents, tmp_path, monkeypatch, capsys, full
):
    """The second model finds no room for one of its files."""
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    (tmp_path / "models.txt").write_text("me/model step2\nme/model step10\n")
    command = ["sweep", "--models", str(tmp_path / "models.txt"), "--text", str(tmp_path / "text.txt"), "--quiet"]
    command += ["--measures", "anisotropy", "--tokens", "all", "--rows", "200", "--device", "cpu"]
    command += ["--out", str(tmp_path / "out")]
    flush, seen = writing._flush_to_disk, []

    def fills_up(path):
        seen.append(path.name)
        ours = f".{Path(full).stem}."
        if path.name.startswith(ours) and sum(name.startswith(ours) for name in seen) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_flush_to_disk", fills_up)
        assert main(command) == 2
    assert "No space left on device" in capsys.readouterr().err
    earlier = GeometryReport.from_json(tmp_path / "out" / "sweep.json")
    assert {row["details"]["step"] for row in earlier if row["value"] is not None} >= {2}
    assert {path.name for path in (tmp_path / "out").rglob(".*")} <= {".lock"}
    assert main(command) == 0
    whole = GeometryReport.from_json(tmp_path / "out" / "sweep.json")
    assert {row["details"]["step"] for row in whole if row["value"] is not None} == {2, 10}
