"""A Space of ours onto the Hub: `publish_space`. Until the package is on PyPI, its wheel goes along."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput
from .commits import Snapshot, Upload, dry_run, push
from .push import Pushed, check_id, checked_folder, client, staging_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PACKAGE = "hf_repgeo"
LEFT_OUT = ("__pycache__", ".")  # beginnings of the names of folders and files that are not uploaded


def publish_space(
    folder: str | Path,
    repo_id: str,
    *,
    wheel: str | Path | None = None,
    to: str | Path | None = None,
    private: bool | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Pushed:
    """Puts a folder of `spaces/` onto the Hub as a Space.

    With a wheel, `requirements.txt` names that wheel inside the Space instead of the package on PyPI, with the same
    extras. The Hub reads requirements without the Space's own credentials, so a wheel wants a public Space.

    Args:
        folder: with `app.py`, `README.md` and `requirements.txt`.
        repo_id: `OWNER/NAME` of the Space; created when it is not there.
        wheel: the package's wheel, as `pip wheel --no-deps .` makes it.
        to: a folder for a dry run, which writes the files there and pushes nothing.
        private: visibility of a Space that is created.
        api: the client; default: huggingface_hub's, with its token.
        sleep: waits between attempts.

    Returns:
        Pushed: the folder of a dry run, or the address of the commit.

    Raises:
        BadInput: no such Space folder or wheel, or a name that cannot be one.
        HubError: the Hub refused, or could not be reached in several attempts; the files stay.
    """
    folder, wheel = _space_folder(folder), _checked_wheel(wheel)
    check_id("repo_id", repo_id)
    api = api or client(None)
    files_for = partial(
        _space_files, folder=folder, wheel=wheel, address=f"{api.endpoint}/spaces/{repo_id}/resolve/main"
    )
    upload = Upload(repo_id, "space", f"hf_repgeo: {folder.name}", files_for)
    if to is not None:
        return Pushed(folder=dry_run(api, [upload], checked_folder(to)))
    staged = staging_folder()
    retry = f"hf-repgeo space publish {folder} {repo_id}" + (f" --wheel {wheel}" if wheel else "")
    landed = push(api, [upload], staged, private=private, create_pr=False, sleep=sleep, retry=retry)
    shutil.rmtree(staged)
    return Pushed(commits={repo: there.url for repo, there in landed.items()})


def _space_files(there: Snapshot, *, folder: Path, wheel: Path | None, address: str) -> dict[str, bytes]:
    files = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith(LEFT_OUT) for part in file.relative_to(folder).parts)
    }
    if wheel:
        requirements = files["requirements.txt"].decode()
        files["requirements.txt"] = with_wheel(requirements, f"{address}/{wheel.name}").encode()
        files[wheel.name] = wheel.read_bytes()
    return files


def with_wheel(requirements: str, url: str) -> str:
    """The requirements with the package taken from `url`, its extras kept.

    Example:
        >>> from hf_repgeo.hub.spaces import with_wheel
        >>> with_wheel("hf_repgeo[demo]>=0.1\\npandas\\n", "https://example.org/hf_repgeo-0.1.0-py3-none-any.whl")
        'hf_repgeo[demo] @ https://example.org/hf_repgeo-0.1.0-py3-none-any.whl\\npandas\\n'
    """
    lines = requirements.splitlines()
    for place, line in enumerate(lines):
        if line.startswith(PACKAGE):
            extras = line[line.index("[") : line.index("]") + 1] if "[" in line else ""
            lines[place] = f"{PACKAGE}{extras} @ {url}"
    return "\n".join(lines) + "\n"


def _space_folder(folder: str | Path) -> Path:
    folder = Path(folder)
    lacking = [name for name in ("app.py", "README.md", "requirements.txt") if not (folder / name).is_file()]
    if lacking:
        raise BadInput("folder", came=f"{str(folder)!r} without {', '.join(lacking)}", wanted="the folder of a Space")
    return folder


def _checked_wheel(wheel: str | Path | None) -> Path | None:
    if wheel is None:
        return None
    wheel = Path(wheel)
    if not wheel.is_file() or not wheel.name.startswith(PACKAGE) or wheel.suffix != ".whl":
        cure = "pip wheel --no-deps --wheel-dir dist ."
        raise BadInput("wheel", came=repr(str(wheel)), wanted=f"a wheel of {PACKAGE}", cure=cure)
    return wheel
