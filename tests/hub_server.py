"""A stand-in for the Hugging Face Hub that serves repositories of models and data sets from memory on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Branches and tags, each with its files' contents by path. `gated` refuses every file."""

    branches: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False

    def revision(self, name: str) -> dict[str, bytes] | None:
        """The files of a branch, a tag or a commit."""
        refs = self.tags | self.branches
        by_commit = {commit(ref, files): files for ref, files in refs.items()}
        return refs.get(name, by_commit.get(name))

    def sha(self, name: str) -> str:
        """The commit that a branch, a tag or a commit stands for."""
        refs = self.tags | self.branches
        return commit(name, refs[name]) if name in refs else name


@dataclass
class Fault:
    """What befalls the next `times` requests whose `METHOD path` holds `where`: a delay in seconds, then a refusal.

    `status` None lets the request through after the delay; `headers` go with the refusal. `body` says what becomes of
    a file that is let through: `cut` (the connection closes after half), `reset` (it is torn down after half),
    `flipped` (one byte is another) or `short` (the last byte is missing, and so it says).
    """

    where: str = ""
    status: int | None = 500
    times: int = 1
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""


@dataclass
class Hub:
    """A running stand-in: its address, its repositories, and the requests made so far, as `METHOD path`.

    `failing` answers every request with status 500; files in `broken` are sent by half; `faults` befall requests.
    `ranges` are the parts of files that were asked for, `tokens` the credentials that came; `most_at_once` is the
    largest number of requests that were being answered at one time.
    """

    endpoint: str
    repositories: dict[str, Repository]
    requests: list[str]
    failing: bool = False
    broken: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, request: str) -> Fault | None:
        """The fault that befalls this request, counted down."""
        with self._turn:
            for fault in self.faults:
                if fault.where in request and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count a request as one that is being answered, for the length of the block."""
        with self._turn:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            with self._turn:
                self.at_once -= 1

    def listings(self) -> list[str]:
        """The listings of files that were asked for."""
        return [request for request in self.requests if "/tree/" in request]

    def downloaded(self) -> set[str]:
        """The paths of all files whose contents were sent, as `revision-or-commit/path`."""
        sent = (request.removeprefix("GET ") for request in self.requests if request.startswith("GET "))
        return {path.split("/resolve/")[1].split("/", 1)[1] for path in sent if "/resolve/" in path}


def commit(name: str, files: dict[str, bytes]) -> str:
    """A commit hash for a ref's contents."""
    digest = hashlib.sha1(name.encode())
    for path in sorted(files):
        digest.update(path.encode() + files[path])
    return digest.hexdigest()


@contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Run the stand-in in a thread for the length of the block."""
    hub = Hub("", repositories, [])
    members = {"hub": hub, "do_GET": _Handler.counted, "do_HEAD": _Handler.counted}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), members))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output clean."""

    def counted(self) -> None:
        with self.hub.answering():
            self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        path = path.replace("/api/datasets/", "/api/models/").replace("/datasets/", "/", 1)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.failing:
            return self.refuse(500, "", "out of order")
        self.hub.tokens |= set(self.headers.get_all("Authorization", []))
        fault = self.hub.fault(f"{self.command} {path}")
        if fault is not None:
            threading.Event().wait(fault.delay)  # tests patch time.sleep
            if fault.status is not None:
                return self.refuse(fault.status, "", "a fault", fault.headers)
        is_api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        repository = self.hub.repositories.get("/".join(parts[:2]))
        if repository is None:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        if is_api and parts[2:] == ["refs"]:
            return self.send_json(_refs(repository))
        kind, name, *rest = parts[2:]
        files = repository.revision(name)
        if files is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {name}")
        if is_api and kind == "revision":
            return self.send_json(_info("/".join(parts[:2]), repository.sha(name), files))
        if is_api and kind == "tree":
            return self.send_json([_entry(path, content) for path, content in files.items()])
        if repository.gated:
            return self.refuse(403, "GatedRepo", "Access to this model is restricted")
        return self.send_file(files, "/".join(rest), repository.sha(name), fault.body if fault else "")

    def send_file(self, files: dict[str, bytes], path: str, sha: str, spoiled: str) -> None:
        if path not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        content = files[path]
        if self.command == "GET" and path in self.hub.broken:
            spoiled = "cut"
        if spoiled in ("cut", "reset"):
            return self.send_half(content, spoiled)
        if spoiled:
            content = content[:-1] + (bytes([content[-1] ^ 1]) if spoiled == "flipped" else b"")
        etag = _sha256(files[path]) if _is_large(path) else _blob(files[path])
        headers = {"X-Repo-Commit": sha, "ETag": f'"{etag}"'}
        asked = self.headers.get("Range", "")
        if not asked.startswith("bytes="):
            return self.send(200, content, "application/octet-stream", headers)
        self.hub.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.send(206, content[start:], "application/octet-stream", headers)

    def send_half(self, content: bytes, spoiled: str) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        if spoiled == "reset":
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), "application/json", {})

    def refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.send(status, b"", "text/plain", {"X-Error-Code": code, "X-Error-Message": message} | (headers or {}))

    def send(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _refs(repository: Repository) -> dict[str, list[dict[str, str]]]:
    def listed(kind: str, refs: dict[str, dict[str, bytes]]) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit(name, files)}
            for name, files in refs.items()
        ]

    return {"branches": listed("heads", repository.branches), "tags": listed("tags", repository.tags), "converts": []}


def _info(repository: str, sha: str, files: dict[str, bytes]) -> dict[str, object]:
    siblings = [{"rfilename": path} for path in files]
    return {"_id": "0", "id": repository, "modelId": repository, "sha": sha, "private": False, "siblings": siblings}


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
    if _is_large(path):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
    return entry


def _is_large(path: str) -> bool:
    """Whether the Hub would keep the file by git-lfs, and so know its contents by their sha256."""
    return path.endswith((".safetensors", ".bin", ".gguf"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
