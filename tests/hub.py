"""A stand-in of the Hugging Face hub: the part of its API by which repositories are made and files
are uploaded, in memory, on a port of this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_this_test"


class Hub(ThreadingHTTPServer):
    """The server and what it has been given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.repositories: dict[str, dict[str, Any]] = {}
        """Name -> `visibility`, `files` (path -> content) and `messages` of its commits."""
        self.objects: dict[str, bytes] = {}
        """SHA-256 -> content of a large file."""
        self.asked: list[str] = []
        """Method and path of each request."""
        self.full = False
        """Whether commits are refused."""

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub() -> Iterator[Hub]:
    """A running server."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Requests(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._note()
        if self.path != "/api/whoami-v2":
            self._answer(404, {"error": "there is no such page"})
        elif self._known():
            self._answer(200, {"name": "me", "type": "user", "auth": {}})

    def do_PUT(self) -> None:
        self._note()
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.server.objects[self.path.rpartition("/")[2]] = content
        self._answer(200, {})

    def do_POST(self) -> None:
        self._note()
        body = self._body()
        if not self._known():
            return
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            new = {"visibility": asked.get("visibility"), "files": {}, "messages": []}
            self.server.repositories.setdefault(name, new)
            self._answer(200, {"url": f"{self.server.address}/{name}", "id": name, "name": name})
        elif path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {
                    **each,
                    "actions": {"upload": {"href": f"{self.server.address}/objects/{each['oid']}"}},
                }
                for each in json.loads(body)["objects"]
            ]
            self._answer(200, {"objects": objects, "transfer": "basic"})
        elif "/preupload/" in path:
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs"
                    if each["path"].endswith((".safetensors", ".onnx"))
                    else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for each in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif "/commit/" in path:
            self._commit(path.split("/api/models/")[1].partition("/commit/")[0], body)
        else:
            self._answer(404, {"error": "there is no such page"})

    def _commit(self, name: str, body: bytes) -> None:
        if self.server.full:
            self._answer(403, {"error": "the storage of this account is full"})
            return
        repository = self.server.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository["messages"].append(value["summary"])
            elif line["key"] == "file":
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile"
                repository["files"][value["path"]] = self.server.objects[value["oid"]]
        place = f"{self.server.address}/{name}/commit/1"
        self._answer(200, {"commitUrl": place, "commitOid": "1" * 40, "hookOutput": ""})

    def _note(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _known(self) -> bool:
        """Whether the request has the right token; if not, say so."""
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._answer(401, {"error": "Invalid username or password."})
        return False

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if "error" in content:
            self.send_header("X-Error-Message", content["error"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
