"""The documentation site builds without a warning, and names everything that is public."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_repgeo

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_site_builds_strictly_and_every_public_name_has_its_place(site):
    anchors = {
        anchor for page in (site / "api").rglob("*.html") for anchor in re.findall(r'id="([\w.]+)"', page.read_text())
    }
    public = {f"hf_repgeo.{name}" for name in hf_repgeo.__all__ if name != "__version__"}
    assert public - anchors == set()


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in navigation, page
