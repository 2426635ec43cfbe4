"""A double of the Hub on 127.0.0.1: enough of its HTTP interface for the unmodified huggingface_hub client.

It is a double and not the Hub: it shows that the client and we agree on what is sent, not what huggingface.co does with
it. Repositories are commits of whole trees in memory. A test can make any request fail, cut its connection, or let
somebody else act just before it.

    with LoopbackDouble() as double:
        api = HfApi(endpoint=double.endpoint, token=ME)
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

ME, COLLEAGUE, STRANGER = "hf_token_of_me", "hf_token_of_colleague", "hf_token_of_stranger"
USERS = {ME: "me", COLLEAGUE: "colleague", STRANGER: "stranger"}
ORGANIZATIONS = {"lab": {"me": "write", "colleague": "admin"}, "library": {"me": "read"}}
LARGE = (".parquet", ".png", ".safetensors", ".bin", ".npy")
KIND = r"(?P<kind>model|dataset|space)s"
REPO = r"(?P<repo>[^/]+/[^/]+)"


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


@dataclass
class Repo:
    """A repository: trees by commit, commits by branch."""

    private: bool = False
    sdk: str | None = None
    trees: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    requests: list[dict] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.commit("main", {".gitattributes": b"*.bin filter=lfs\n"}, "initial commit")

    def commit(self, branch: str, tree: dict[str, bytes], title: str) -> str:
        oid = hashlib.sha1(f"{len(self.titles)} {branch} {title}".encode()).hexdigest()
        self.trees[oid], self.branches[branch] = tree, oid
        self.titles.append(title)
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.trees else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.trees[self.branches[revision]]


@dataclass
class Trouble:
    """What happens to the next `times` requests whose `METHOD /path` matches `pattern`."""

    pattern: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: str | None = None
    act: Callable[[], None] | None = None


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str | None = None, message: str = "refused"):
        self.status, self.code, self.message = status, code, message


class LoopbackDouble:
    """The server and what is in it; `with` starts and stops it."""

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.troubles: list[Trouble] = []
        self.log: list[str] = []
        self.lock = threading.RLock()

    def __enter__(self) -> LoopbackDouble:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"double": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    # --- for tests ----------------------------------------------------------------------------------------------------

    def add(self, repo_id: str, files: dict[str, bytes] | None = None, kind: str = "model", **facts) -> Repo:
        """A repository that is there already."""
        repo = self.repos[kind, repo_id] = Repo(**facts)
        if files:
            repo.commit("main", {**repo.files(), **files}, "files")
        return repo

    def fail(self, pattern: str, status: int, times: int = 1, **headers: str) -> None:
        """Answers with an error."""
        self.troubles.append(Trouble(pattern, times, status=status, headers=headers))

    def cut(self, pattern: str, when: str, times: int = 1) -> None:
        """Ends the connection `before` the request is read whole, or `after` it was done and before the answer, or
        `midway` through the answer."""
        self.troubles.append(Trouble(pattern, times, cut=when))

    def meanwhile(self, pattern: str, act: Callable[[], None], times: int = 1) -> None:
        """Somebody else acts just before the request is served."""
        self.troubles.append(Trouble(pattern, times, act=act))

    def seen(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(re.search(pattern, line) is not None for line in self.log)

    def trouble_for(self, line: str) -> Trouble | None:
        with self.lock:
            self.log.append(line)
            for trouble in self.troubles:
                if trouble.times and re.search(trouble.pattern, line):
                    trouble.times -= 1
                    return trouble
        return None


class Handler(BaseHTTPRequestHandler):
    """Reads a request, finds its route, answers."""

    protocol_version = "HTTP/1.1"
    double: LoopbackDouble

    def log_message(self, *_) -> None:
        pass

    def serve(self) -> None:
        address = urlsplit(self.path)
        self.where, self.query = unquote(address.path), {k: v[0] for k, v in parse_qs(address.query).items()}
        trouble = self.double.trouble_for(f"{self.command} {self.where}") or Trouble("", 0)
        if trouble.cut == "before":
            return self.hang_up()
        self.body = self.read_body()
        if trouble.act:
            trouble.act()
        if trouble.status:
            return self.answer(trouble.status, {"error": "trouble"}, trouble.headers)
        try:
            with self.double.lock:
                status, content, headers = self.route()
        except Refusal as refusal:
            codes = {"X-Error-Code": refusal.code} if refusal.code else {}
            codes["X-Error-Message"] = refusal.message
            status, content, headers = refusal.status, {"error": refusal.message}, codes
        if trouble.cut == "after":
            return self.hang_up()
        self.answer(status, content, headers, midway=trouble.cut == "midway")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status: int, content, headers: dict[str, str], midway: bool = False) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw[: len(raw) // 2] if midway else raw)
        if midway:
            self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    # --- routes -------------------------------------------------------------------------------------------------------

    def route(self) -> tuple[int, object, dict[str, str]]:
        for method, pattern, name in ROUTES:
            found = re.fullmatch(pattern, self.where)
            if found and self.command in method:
                return getattr(self, name)(**found.groupdict())
        raise Refusal(404, message=f"the double knows no {self.command} {self.where}")

    @property
    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return USERS.get(token)

    def role(self, owner: str) -> str | None:
        return "admin" if owner == self.user else ORGANIZATIONS.get(owner, {}).get(self.user)

    def must_write(self, owner: str) -> None:
        if self.user is None:
            raise Refusal(401, message="Invalid username or password.")
        if self.role(owner) not in ("write", "admin"):
            raise Refusal(403, message="you have no write access")

    def find(self, kind: str, repo: str) -> Repo:
        found = self.double.repos.get((kind, repo))
        if found is None or found.private and self.role(repo.split("/")[0]) is None:
            raise Refusal(404 if self.user else 401, "RepoNotFound", "Repository not found")
        return found

    def tree(self, kind: str, repo: str, rev: str | None) -> tuple[Repo, str, dict[str, bytes]]:
        there = self.find(kind, repo)
        oid = there.resolve(rev or "main")
        if oid is None:
            raise Refusal(404, "RevisionNotFound", "Invalid rev id")
        return there, oid, there.trees[oid]

    def whoami(self):
        if self.user is None:
            raise Refusal(401, message="Invalid username or password.")
        orgs = [
            {"name": org, "roleInOrg": roles[self.user]} for org, roles in ORGANIZATIONS.items() if self.user in roles
        ]
        return 200, {"type": "user", "name": self.user, "orgs": orgs}, {}

    def create(self):
        wish = json.loads(self.body)
        owner = wish.get("organization") or self.user
        self.must_write(owner)
        key = wish.get("type") or "model", f"{owner}/{wish['name']}"
        prefix = "" if key[0] == "model" else f"{key[0]}s/"
        url = {"url": f"{self.double.endpoint}/{prefix}{key[1]}"}
        if key in self.double.repos:
            return 409, {**url, "error": "You already created this repo"}, {}
        self.double.repos[key] = Repo(private=wish.get("visibility") == "private", sdk=wish.get("sdk"))
        return 200, url, {}

    def delete(self):
        wish = json.loads(self.body)
        owner = wish.get("organization") or self.user
        self.must_write(owner)
        self.find(wish.get("type") or "model", f"{owner}/{wish['name']}")
        del self.double.repos[wish.get("type") or "model", f"{owner}/{wish['name']}"]
        return 200, {}, {}

    def info(self, kind: str, repo: str, rev: str | None = None):
        there, oid, tree = self.tree(kind, repo, rev)
        facts = {"id": repo, "modelId": repo, "sha": oid, "private": there.private, "tags": [], "sdk": there.sdk}
        return 200, {**facts, "siblings": [{"rfilename": path} for path in sorted(tree)]}, {}

    def spaces(self):
        public = [repo for (kind, repo), there in self.double.repos.items() if kind == "space" and not there.private]
        return 200, [{"id": repo, "tags": []} for repo in public], {}

    def entries(self, kind: str, repo: str, rev: str, path: str | None = None):
        _, _, tree = self.tree(kind, repo, rev)
        start = f"{path}/" if path else ""
        inside = {name: content for name, content in tree.items() if name.startswith(start)}
        if path and not inside:
            raise Refusal(404, "EntryNotFound", "no such folder")
        found, deep = {}, self.query.get("recursive", "").lower() in ("true", "1")
        for name, content in inside.items():
            parts = name[len(start) :].split("/")
            for depth in range(1, len(parts)) if deep else range(1, min(len(parts), 2)):
                folder = start + "/".join(parts[:depth])
                found[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            if deep or len(parts) == 1:
                found[name] = _entry(name, content)
        return 200, list(found.values()), {}

    def paths_info(self, kind: str, repo: str, rev: str):
        _, _, tree = self.tree(kind, repo, rev)
        form = parse_qs(self.body.decode()) if not self.body.startswith(b"{") else json.loads(self.body)
        return 200, [_entry(path, tree[path]) for path in form["paths"] if path in tree], {}

    def refs(self, kind: str, repo: str):
        branches = self.find(kind, repo).branches.items()
        named = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in branches if "/" not in n]
        return 200, {"branches": named, "tags": [], "converts": []}, {}

    def resolve(self, repo: str, rev: str, path: str, kind: str | None = None):
        _, oid, tree = self.tree(kind or "model", repo, rev)
        if path not in tree:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        content = tree[path]
        headers = {"ETag": f'"{_oid(path, content)}"', "X-Repo-Commit": oid}
        if is_large(path):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
        return 200, content, headers

    def validate_yaml(self):
        found = re.match(r"\A---\s*\n(.*?)^---", json.loads(self.body)["content"], re.DOTALL | re.MULTILINE)
        try:
            errors = _wrong_metadata(yaml.safe_load(found[1] if found else "") or {})
        except yaml.YAMLError as error:
            errors = [str(error)]
        if errors:
            return 400, {"errors": [{"message": error} for error in errors], "warnings": []}, {}
        return 200, {"errors": [], "warnings": []}, {}

    def preupload(self, kind: str, repo: str, rev: str):
        self.may_commit(repo)
        _, _, tree = self.tree(kind, repo, rev)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                "shouldIgnore": False,
                "oid": _oid(file["path"], tree[file["path"]]) if file["path"] in tree else None,
            }
            for file in json.loads(self.body)["files"]
        ]
        return 200, {"files": files}, {}

    def lfs_batch(self, repo: str, kind: str | None = None):
        self.find(kind or "model", repo)
        objects = [
            thing
            if thing["oid"] in self.double.blobs
            else {**thing, "actions": {"upload": {"href": f"{self.double.endpoint}/lfs/{thing['oid']}"}}}
            for thing in json.loads(self.body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}, {}

    def lfs_put(self, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, message="not the bytes announced")
        self.double.blobs[oid] = self.body
        return 200, {}, {}

    def may_commit(self, repo: str) -> None:
        if self.query.get("create_pr") == "1":
            if self.user is None:
                raise Refusal(401, message="Invalid username or password.")
            return
        rev = re.search(r"/(?:commit|preupload)/(.*)", self.where)[1]
        opened = [r for there in self.double.repos.values() for r in there.requests if r["author"]["name"] == self.user]
        if not (rev.startswith("refs/pr/") and any(r["num"] == int(rev.split("/")[-1]) for r in opened)):
            self.must_write(repo.split("/")[0])

    def commit(self, kind: str, repo: str, rev: str):
        self.may_commit(repo)
        there, head, tree = self.tree(kind, repo, rev)
        header, *changes = (json.loads(line) for line in self.body.splitlines())
        parent, by_request = header["value"].get("parentCommit"), self.query.get("create_pr") == "1"
        if by_request:
            tree = there.trees[parent or head]
        elif parent not in (None, head):
            raise Refusal(412, message="A commit has happened since. Please refresh and try again.")
        title = header["value"]["summary"]
        branch = self.open_request(kind, repo, there, title) if by_request else rev
        oid = there.commit(branch, self.changed(tree, changes), title)
        prefix = f"{self.double.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo}"
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{prefix}/commit/{oid}"}
        answer["pullRequestUrl"] = f"{prefix}/discussions/{branch.split('/')[-1]}" if by_request else None
        return 200, answer, {}

    def changed(self, tree: dict[str, bytes], changes: list[dict]) -> dict[str, bytes]:
        tree = dict(tree)
        for change in changes:
            what, value = change["key"], change["value"]
            if what == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif what == "lfsFile":
                if value["oid"] not in self.double.blobs:
                    raise Refusal(400, message="an LFS pointer without its object")
                tree[value["path"]] = self.double.blobs[value["oid"]]
            else:
                gone = value["path"].rstrip("/")
                tree = {path: c for path, c in tree.items() if path != gone and not path.startswith(gone + "/")}
        return tree

    def open_request(self, kind: str, repo: str, there: Repo, title: str) -> str:
        number = len(there.requests) + 1
        facts = {"title": title, "author": {"name": self.user}, "status": "open", "isPullRequest": True}
        place = {"num": number, "createdAt": "2024-01-01T00:00:00.000Z", "repo": {"name": repo, "type": kind}}
        there.requests.append({**facts, **place})
        return f"refs/pr/{number}"

    def discussions(self, kind: str, repo: str):
        found = self.find(kind, repo).requests
        author = self.query.get("author")
        found = [request for request in found if author in (None, request["author"]["name"])]
        return 200, {"discussions": found, "count": len(found), "start": 0}, {}


def _wrong_metadata(metadata: dict) -> list[str]:
    """What the Hub's schema of a model card refuses, of the keys that we write."""
    wrong = [f'"{key}" must be a string' for key in ("license", "library_name") if not _is_text(metadata.get(key, ""))]
    tags = metadata.get("tags", [])
    if not isinstance(tags, list) or not all(map(_is_text, tags)):
        wrong.append('"tags" must be an array of strings')
    for entry in metadata.get("model-index") or []:
        for result in entry.get("results") or []:
            dataset, metrics = result.get("dataset") or {}, result.get("metrics")
            if not _is_text((result.get("task") or {}).get("type")) or not metrics:
                wrong.append('"model-index[0].results[0]" wants a task with a type, and metrics')
            if not _is_text(dataset.get("name")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset.get("type") or ""):
                wrong.append('"model-index[0].results[0].dataset.type" must be the id of a data set')
            if any(not _is_text(m.get("type")) or not isinstance(m.get("value"), (int, float)) for m in metrics or []):
                wrong.append('"metrics" want a type and a value each')
    return wrong


def _is_text(value) -> bool:
    return isinstance(value, str)


def _oid(path: str, content: bytes) -> str:
    """What the Hub calls a file's content: the LFS object, or git's blob."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "oid": _oid(path, content)[:40], "size": len(content)}
    pointer = {"oid": _oid(path, content), "size": len(content), "pointerSize": 130}
    return {**entry, "lfs": pointer} if is_large(path) else entry


ROUTES = [
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("DELETE", "/api/repos/delete", "delete"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("GET", "/api/spaces", "spaces"),
    ("GET", rf"/api/{KIND}/{REPO}(?:/revision/(?P<rev>.+))?", "info"),
    ("GET", rf"/api/{KIND}/{REPO}/discussions", "discussions"),
    ("GET", rf"/api/{KIND}/{REPO}/refs", "refs"),
    ("GET", rf"/api/{KIND}/{REPO}/tree/(?P<rev>refs/pr/\d+|[^/]+)(?:/(?P<path>.+))?", "entries"),
    ("POST", rf"/api/{KIND}/{REPO}/paths-info/(?P<rev>.+)", "paths_info"),
    ("POST", rf"/api/{KIND}/{REPO}/preupload/(?P<rev>.+)", "preupload"),
    ("POST", rf"/api/{KIND}/{REPO}/commit/(?P<rev>.+)", "commit"),
    ("POST", rf"/(?:(?P<kind>dataset|space)s/)?{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    (
        "GET HEAD",
        rf"/(?:(?P<kind>dataset|space)s/)?{REPO}/resolve/(?P<rev>refs/pr/\d+|[^/]+)/(?P<path>.+)",
        "resolve",
    ),
]
