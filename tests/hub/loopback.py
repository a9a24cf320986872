"""A Hub on this machine: enough of its HTTP API for the real client to publish and to load.

It keeps repositories in memory and large files in a folder, and it can be told to fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

USER = "someone"
_ID = r"([\w.-]+/[\w.-]+)"

# Path to content.
Files = dict[str, bytes]


@dataclass
class Fault:
    """A failure of some requests.

    Attributes:
        method: of the requests.
        path: regular expression, searched in the path.
        kind: `status` answers with that status; `cut` breaks off in the middle of the request's
            body; `lost` does what was asked and breaks off before it answers; `stall` breaks off
            in the middle of the answer's body; `short` answers with half of the body as if it
            were all; `corrupt` flips a bit of it.
        status: of the answer.
        headers: of the answer.
        body: of the answer.
        first: number of the first such request that fails, from 1.
        times: how many fail from then on.
    """

    method: str
    path: str
    kind: Literal["status", "cut", "lost", "stall", "short", "corrupt"] = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "as was asked for"}'
    first: int = 1
    times: int = 1
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Count a request, and return True if it fails."""
        if method != self.method or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.first <= self.seen < self.first + self.times


@dataclass
class Repository:
    """A repository: commits by their id, and the branches that point to them."""

    name: str
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit(self, branch: str, files: Files) -> str:
        """Put a branch on a new commit, in one step."""
        sha = hashlib.sha1(f"{self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def sha(self, revision: str) -> str | None:
        """Return the commit of a branch or of a commit's id."""
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


class Refusal(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.headers = {**({"X-Error-Code": code} if code else {}), **(headers or {})}


class Broken(Exception):
    """A broken connection."""


@dataclass
class Answer:
    """An answer; `length` is the one that HEAD gives, where it differs from the body's."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


def is_large(path: str) -> bool:
    """Return True for a file that is uploaded as a large one."""
    return path.endswith(".safetensors")


def blob_sha1(content: bytes) -> str:
    """Return the id that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class LoopbackHub:
    """The state of the server and its answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self.lock = threading.RLock()

    def files(self, repo_id: str, revision: str = "main") -> Files:
        """Return the files of a revision, without the one that the Hub itself adds."""
        repository = self.repositories[repo_id]
        found = repository.commits[repository.sha(revision) or ""]
        return {path: content for path, content in found.items() if path != ".gitattributes"}

    def count(self, method: str, path: str) -> int:
        """Return the number of requests."""
        return sum(m == method and bool(re.search(path, p)) for m, p in self.requests)

    def find(self, repo_id: str) -> Repository:
        if repo_id not in self.repositories:
            raise Refusal(404, "RepoNotFound")
        return self.repositories[repo_id]

    def commit_of(self, repo_id: str, revision: str) -> tuple[str, Files]:
        repository = self.find(repo_id)
        sha = repository.sha(unquote(revision))
        if sha is None:
            raise Refusal(404, "RevisionNotFound")
        return sha, repository.commits[sha]

    # Answers. Each gets the request's groups, its JSON or bytes, and its query.

    def create(self, request: Request) -> Answer:
        given = request.json()
        name = f"{given.get('organization') or USER}/{given['name']}"
        there = name in self.repositories
        if not there:
            private = given.get("visibility") == "private"
            self.repositories[name] = Repository(name, private=private)
        body = {"url": f"{self.url}/{name}", "name": name, "id": name}
        return as_json(body, status=409 if there else 200)

    def whoami(self, request: Request) -> Answer:
        return as_json({"type": "user", "name": USER, "orgs": [], "auth": {}})

    def validate(self, request: Request) -> Answer:
        return as_json({"warnings": [], "errors": []})

    def preupload(self, request: Request, repo_id: str, revision: str) -> Answer:
        _, there = self.commit_of(repo_id, revision)
        answers = []
        for file in request.json()["files"]:
            path = file["path"]
            mode = "lfs" if is_large(path) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if path in there:
                answer["oid"] = etag_of(path, there[path])
            answers.append(answer)
        return as_json({"files": answers})

    def batch(self, request: Request, repo_id: str) -> Answer:
        self.find(repo_id)
        answers = []
        for given in request.json()["objects"]:
            answer = {"oid": given["oid"], "size": given["size"]}
            if not (self.folder / given["oid"]).exists():
                upload = {"href": f"{self.url}/lfs/{given['oid']}"}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.url}/verify"}}
            answers.append(answer)
        return as_json({"transfer": "basic", "objects": answers})

    def upload(self, request: Request, oid: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refusal(400)
        (self.folder / oid).write_bytes(request.body)
        return Answer()

    def verify(self, request: Request) -> Answer:
        given = request.json()
        path = self.folder / given["oid"]
        if not path.exists() or path.stat().st_size != given["size"]:
            raise Refusal(400)
        return as_json({})

    def commit(self, request: Request, repo_id: str, revision: str) -> Answer:
        repository, branch = self.find(repo_id), unquote(revision)
        _, before = self.commit_of(repo_id, revision)
        files = dict(before)
        for line in request.body.splitlines():
            self._apply(files, json.loads(line))
        opened: dict[str, Any] = {}
        if request.query.get("create_pr"):
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.branches)
            branch = f"refs/pr/{number}"
            opened = {"pullRequestUrl": f"{self.url}/{repo_id}/discussions/{number}"}
        sha = repository.commit(branch, files)
        url = f"{self.url}/{repo_id}/commit/{sha}"
        return as_json({"success": True, "commitUrl": url, "commitOid": sha, **opened})

    def _apply(self, files: Files, line: dict[str, Any]) -> None:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = (self.folder / value["oid"]).read_bytes()
        elif line["key"] == "deletedFile":
            del files[value["path"]]

    def branch(self, request: Request, repo_id: str, branch: str) -> Answer:
        repository = self.find(repo_id)
        if unquote(branch) in repository.branches:
            raise Refusal(409)
        repository.branches[unquote(branch)] = repository.branches["main"]
        return Answer()

    def info(self, request: Request, repo_id: str, revision: str = "main") -> Answer:
        sha, files = self.commit_of(repo_id, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        body = {"id": repo_id, "modelId": repo_id, "sha": sha, "siblings": siblings, "tags": []}
        return as_json({**body, "private": self.find(repo_id).private, "downloads": 0, "likes": 0})

    def tree(self, request: Request, repo_id: str, revision: str) -> Answer:
        _, files = self.commit_of(repo_id, revision)
        return as_json([entry(path, content) for path, content in sorted(files.items())])

    def resolve(self, request: Request, repo_id: str, revision: str, path: str) -> Answer:
        sha, files = self.commit_of(repo_id, revision)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if path not in files:
            raise Refusal(404, "EntryNotFound", headers)
        content = files[path]
        headers["ETag"] = f'"{etag_of(path, content)}"'
        if is_large(path):
            headers["X-Linked-Etag"] = headers["ETag"]
            headers["X-Linked-Size"] = str(len(content))
        return ranged(content, headers, request.range)


def etag_of(path: str, content: bytes) -> str:
    """Return the identifiers of a file on the Hub."""
    return hashlib.sha256(content).hexdigest() if is_large(path) else blob_sha1(content)


def entry(path: str, content: bytes) -> dict[str, Any]:
    """Return the entry of a file in a listing."""
    listed = {"type": "file", "path": path, "size": len(content), "oid": blob_sha1(content)}
    if is_large(path):
        oid = etag_of(path, content)
        listed["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
    return listed


def ranged(content: bytes, headers: dict[str, str], wanted: str | None) -> Answer:
    """Return the whole content, or the rest of it for a download that continues."""
    if wanted is None:
        return Answer(content, headers)
    start = int(wanted.removeprefix("bytes=").split("-")[0])
    shown = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
    return Answer(content[start:], {**headers, **shown}, status=206)


def as_json(value: Any, status: int = 200) -> Answer:
    """Return an answer in JSON."""
    return Answer(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)


@dataclass
class Request:
    """The parts of a request that an answer may need."""

    body: bytes
    query: dict[str, list[str]]
    range: str | None

    def json(self) -> Any:
        return json.loads(self.body)


# Method, path, and what answers. A route that stands earlier wins.
_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("POST", "/api/repos/create", LoopbackHub.create),
    ("GET", "/api/whoami-v2", LoopbackHub.whoami),
    ("POST", "/api/validate-yaml", LoopbackHub.validate),
    ("POST", f"/api/models/{_ID}/preupload/([^/]+)", LoopbackHub.preupload),
    ("POST", f"/{_ID}.git/info/lfs/objects/batch", LoopbackHub.batch),
    ("PUT", "/lfs/([0-9a-f]{64})", LoopbackHub.upload),
    ("POST", "/verify", LoopbackHub.verify),
    ("POST", f"/api/models/{_ID}/commit/([^/]+)", LoopbackHub.commit),
    ("POST", f"/api/models/{_ID}/branch/([^/]+)", LoopbackHub.branch),
    ("GET", f"/api/models/{_ID}/tree/([^/]+)", LoopbackHub.tree),
    ("GET", f"/api/models/{_ID}/revision/([^/]+)", LoopbackHub.info),
    ("GET", f"/api/models/{_ID}", LoopbackHub.info),
    ("GET", f"/{_ID}/resolve/([^/]+)/(.+)", LoopbackHub.resolve),
]


class _Handler(BaseHTTPRequestHandler):
    """A handler that reads a request, applies the faults and writes the answer."""

    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        path = urlsplit(self.path).path
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            faults = [fault for fault in self.hub.faults if fault.strikes(self.command, path)]
        fault = faults[0] if faults else None
        try:
            body = self._read(fault)
            answer = self._answer(path, body, fault)
            self._write(answer, fault)
        except (Broken, OSError):
            self._break_off()

    def _read(self, fault: Fault | None) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(self._chunks())
        length = int(self.headers.get("Content-Length", 0))
        if fault is not None and fault.kind == "cut":
            self.rfile.read(length // 2)
            raise Broken
        return self.rfile.read(length)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, path: str, body: bytes, fault: Fault | None) -> Answer:
        if fault is not None and fault.kind == "status":
            return Answer(fault.body, dict(fault.headers), fault.status)
        query = parse_qs(urlsplit(self.path).query)
        request = Request(body, query, self.headers.get("Range"))
        try:
            with self.hub.lock:
                answer = self._route(path, request)
        except Refusal as refusal:
            return Answer(b"{}", refusal.headers, refusal.status)
        if fault is not None and fault.kind == "lost":
            raise Broken
        return answer

    def _route(self, path: str, request: Request) -> Answer:
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if method == wanted and found is not None:
                return answer(self.hub, request, *found.groups())
        raise Refusal(404)

    def _write(self, answer: Answer, fault: Fault | None) -> None:
        body, kind = answer.body, fault.kind if fault is not None else None
        if kind == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if kind == "short":
            body = body[: len(body) // 2]
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if kind == "stall" else body)
        if kind == "stall":
            raise Broken

    def _break_off(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was faster


@contextmanager
def loopback_hub(folder: Path) -> Iterator[LoopbackHub]:
    """Run a server on a free port until the block ends."""
    hub = LoopbackHub(folder)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
