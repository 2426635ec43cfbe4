"""Commits files to a repository on the Hub, with retries; if a push fails, the files stay on disk."""

from __future__ import annotations

import logging
import secrets
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import RepgeoError
from ..writing import write_whole

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Conflicts get more attempts than broken connections: whenever one occurs, another push has succeeded.
ATTEMPTS = {"transient": 5, "conflict": 20}
LONGEST_PAUSE = 60.0


class HubError(RepgeoError):
    """The Hub refused, or could not be reached.

    Attributes:
        folder: holds the files that were to be pushed; `None` if there are none.
    """

    def __init__(self, message: str, folder: Path | None = None):
        super().__init__(message)
        self.folder = folder


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit.

    Attributes:
        commit: its SHA; `None` for a repository that does not exist or cannot be read.
        paths: the files in it.
        local: downloads a file and returns its path.
    """

    commit: str | None
    paths: frozenset[str]
    local: Callable[[str], Path]

    def read(self, path: str) -> bytes:
        """The content of a file; empty if it does not exist."""
        return Path(self.local(path)).read_bytes() if path in self.paths else b""


@dataclass(frozen=True)
class Upload:
    """The files for one repository.

    Attributes:
        repo_id: `OWNER/NAME`.
        repo_type: `"model"`, `"dataset"` or `"space"`.
        title: of the commit or pull request.
        files_for: maps the repository as it stands to path and content of the files that change.
        by_request: always by pull request, also into a repository that is the user's.
    """

    repo_id: str
    repo_type: str
    title: str
    files_for: Callable[[Snapshot], dict[str, bytes]]
    by_request: bool = False

    @property
    def place(self) -> str:
        """The folder for its files, beside those of other repositories."""
        return f"{self.repo_type}s/{self.repo_id}"


@dataclass(frozen=True)
class Landed:
    """Where an upload ended.

    Attributes:
        url: of the commit that holds it, or of the pull request.
        by_request: whether it is a pull request.
    """

    url: str
    by_request: bool


NOTHING = Snapshot(None, frozenset(), Path)


def snapshot(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> Snapshot:
    """The repository as it stands now; later reads are of the same commit."""
    info = api.repo_info(repo_id, repo_type=repo_type, revision=revision or "main")
    names = [file.rfilename for file in getattr(info, "siblings", None) or ()]  # a repository of kernels has none

    def local(path: str) -> Path:
        return Path(api.hf_hub_download(repo_id, path, repo_type=repo_type, revision=info.sha))

    return Snapshot(info.sha, frozenset(names), local)


# --- the dry run ------------------------------------------------------------------------------------------------------


def dry_run(api: HfApi, uploads: list[Upload], folder: Path) -> Path:
    """Writes the files of a push into `folder` and returns it. Reads the Hub if it can; never writes to it."""
    for upload in uploads:
        _write(folder / upload.place, _planned(api, upload))
    return folder


def _planned(api: HfApi, upload: Upload) -> dict[str, bytes]:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return upload.files_for(snapshot(api, upload.repo_id, upload.repo_type))
    except RepositoryNotFoundError:
        pass
    except _failures() as error:
        reason = explain(error, api)
        logger.warning("%s cannot be read (%s): the dry run treats it as empty", upload.repo_id, reason)
    return upload.files_for(NOTHING)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, content)


# --- the push ---------------------------------------------------------------------------------------------------------


def push(
    api: HfApi,
    uploads: list[Upload],
    folder: Path,
    *,
    private: bool | None,
    create_pr: bool | None,
    sleep: Callable[[float], None],
    retry: str,
) -> dict[str, Landed]:
    """Writes the files into `folder` and commits them, one repository after the other.

    Args:
        api: the client.
        uploads: what goes where.
        folder: for the files; it is kept even if the push fails.
        private: visibility of a repository that is created.
        create_pr: by pull request or not; `None`: where the repository is not the user's.
        sleep: waits between attempts.
        retry: the command that tries again, for the message.

    Returns:
        dict: where each upload is, by repository.

    Raises:
        HubError: a repository could not be written; those before it were.
    """
    failures: tuple[type[Exception], ...] = (*_failures(), ValueError)
    who = cache(lambda: with_retries(api.whoami, sleep))
    done: dict[str, Landed] = {}
    for upload in uploads:
        try:
            author = _author(who, upload.repo_id, True if upload.by_request else create_pr)
            if author is None or (upload.by_request and _may_write(who(), upload.repo_id)):
                with_retries(partial(_make_sure_it_exists, api, upload, private), sleep)
            done[upload.repo_id] = with_retries(partial(_commit, api, upload, folder, author), sleep)
        except RepgeoError:
            raise
        except failures as error:
            before = f" {' and '.join(done)} was pushed." if done else ""
            message = (
                f"pushing to {upload.repo_id} failed: {explain(error, api)}.{before} Nothing is lost: the files are in "
                f"{folder}. To try again: {retry}"
            )
            raise HubError(message, folder) from error
    return done


def _author(who: Callable[[], dict], repo_id: str, create_pr: bool | None) -> str | None:
    """The author of a pull request; `None` if a commit is allowed."""
    by_request = not _may_write(who(), repo_id) if create_pr is None else create_pr
    return who()["name"] if by_request else None


def _may_write(user: dict, repo_id: str) -> bool:
    """Whether the user owns the repository, or its organization lets the user write."""
    writers = {user["name"]} | {o["name"] for o in user.get("orgs") or () if o.get("roleInOrg") in ("write", "admin")}
    return repo_id.split("/")[0] in writers


def _make_sure_it_exists(api: HfApi, upload: Upload, private: bool | None) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        api.repo_info(upload.repo_id, repo_type=upload.repo_type)
    except RepositoryNotFoundError:
        sdk = "gradio" if upload.repo_type == "space" else None
        api.create_repo(upload.repo_id, repo_type=upload.repo_type, private=private, space_sdk=sdk, exist_ok=True)


def _commit(api: HfApi, upload: Upload, folder: Path, author: str | None) -> Landed:
    """One attempt: read the repository, compute the files, write them, commit them if the head is still the same."""
    branch, request = (_open_request(api, upload, author) if author else None) or (None, None)
    there = snapshot(api, upload.repo_id, upload.repo_type, branch)
    files = upload.files_for(there)
    _write(folder / upload.place, files)
    new = {path for path, content in files.items() if there.read(path) != content}
    if not new:
        kind = "" if upload.repo_type == "model" else f"{upload.repo_type}s/"
        return Landed(request or f"{api.endpoint}/{kind}{upload.repo_id}/commit/{there.commit}", request is not None)
    info = _send(api, upload, folder, new, revision=branch, create_pr=bool(author and not branch), parent=there.commit)
    request = request or info.pr_url
    return Landed(request or info.commit_url, request is not None)


def _send(
    api: HfApi,
    upload: Upload,
    folder: Path,
    paths: set[str],
    *,
    revision: str | None,
    create_pr: bool,
    parent: str | None,
) -> CommitInfo:
    from huggingface_hub import CommitOperationAdd

    with warnings.catch_warnings():  # the Parquet file belongs in the model repository
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        return api.create_commit(
            upload.repo_id,
            [CommitOperationAdd(path, folder / upload.place / path) for path in sorted(paths)],
            commit_message=upload.title,
            repo_type=upload.repo_type,
            revision=revision,
            create_pr=create_pr,
            parent_commit=parent,
        )


def _open_request(api: HfApi, upload: Upload, author: str) -> tuple[str | None, str] | None:
    """Branch and address of the pull request that an earlier attempt, or push, opened."""
    found = api.get_repo_discussions(
        upload.repo_id,
        repo_type=upload.repo_type,
        author=author,
        discussion_type="pull_request",
        discussion_status="open",
    )
    return next(((request.git_reference, request.url) for request in found if request.title == upload.title), None)


# --- what can go wrong ------------------------------------------------------------------------------------------------


def with_retries(action: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """The result of `action`, repeated after connection errors, server errors and conflicting commits.

    Args:
        action: may be repeated without harm.
        sleep: waits the given number of seconds: longer each time, or as long as the server asks, up to a minute.

    Raises:
        Exception: the last one after `ATTEMPTS`, or the first that a repetition cannot cure.
    """
    seen: Counter[str] = Counter()
    while True:
        try:
            return action()
        except _failures() as error:
            trouble = _trouble(error)
            seen[trouble] += 1
            if seen[trouble] >= ATTEMPTS.get(trouble, 0):
                raise
            pause = _pause(error, seen[trouble])
            logger.warning("%s, attempt %d; again in %.1f s", trouble, seen[trouble], pause)
            sleep(pause)


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions the client raises: its own, those of its HTTP library, and built-in ones that wrap them."""
    from huggingface_hub.errors import HfHubHTTPError

    # The client's HTTP library has changed its name between versions; its errors share a base with the client's own.
    return (OSError, RuntimeError, HfHubHTTPError.__bases__[0])


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and what caused it: an upload's failure arrives wrapped."""
    errors: list[BaseException] = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__
    return errors


def _status(error: BaseException) -> tuple[int | None, dict]:
    """Status and headers of the answer that the error is about."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if response is not None:
            return response.status_code, response.headers
    return None, {}


def _trouble(error: BaseException) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    status, _ = _status(error)
    if status in (409, 412):
        return "conflict"
    if status in (408, 425, 429) or (status or 0) >= 500:
        return "transient"
    if status is not None or any(isinstance(one, OfflineModeIsEnabled) for one in _chain(error)):
        return "refused"
    line_broke = (_failures()[-1], ConnectionError, TimeoutError)
    return "transient" if any(isinstance(one, line_broke) for one in _chain(error)) else "refused"


def _pause(error: BaseException, attempt: int) -> float:
    asked = _status(error)[1].get("Retry-After", "")
    if asked.isdigit():
        return min(float(asked), LONGEST_PAUSE)
    # Jitter separates two pushes that collided; `secrets` leaves the user's random state alone.
    return min(2.0 ** (attempt - 1), 16.0) * (0.75 + secrets.randbelow(500) / 1000)


def explain(error: BaseException, api: HfApi) -> str:
    """Why the Hub refused, in a sentence that contains no token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    chain = _chain(error)
    if any(isinstance(one, LocalTokenNotFoundError) for one in chain):
        return "no token; log in with `hf auth login`"
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return "offline mode is on (HF_HUB_OFFLINE)"
    if any(isinstance(one, RepositoryNotFoundError) for one in chain):
        return "no such repository, or a private one that the token may not see"
    status = _status(error)[0]
    # The client's own errors are the most specific; the errors it wraps, or that wrap it, say less.
    telling = next((one for one in chain if isinstance(one, (HfHubHTTPError, ValueError))), chain[-1])
    words = " ".join((str(telling).strip() or type(telling).__name__).split())[:300]
    for token in (api.token, get_token()):
        if isinstance(token, str):
            words = words.replace(token, "<token>")
    return {
        401: "the Hub does not accept the token; log in again with `hf auth login`",
        403: "the token may not write there; take one with write permission, or create_pr=True",
        409: "others kept writing to it at the same time",
        412: "others kept writing to it at the same time",
        429: "too many requests; wait a while",
    }.get(status or 0, f"the Hub answered {status} ({words})" if status else words)
