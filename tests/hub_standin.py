"""A stand-in for a hub of models: what ``huggingface_hub`` asks of one over HTTP, on this machine, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

COMMIT = "0" * 39 + "1"


class Hub:
    """Repositories of files by name; ``requests`` are those that came, ``refused`` answers uploads by 403."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.refused = False
        handler = type("Bound", (Answers,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def put(self, name: str, folder: Path) -> None:
        self.repositories[name] = {path.name: path.read_bytes() for path in folder.iterdir()}


class Answers(BaseHTTPRequestHandler):
    """One request."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:  # noqa: N802
        self.hub.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            return self.about(match[1], match[2], match[3] or "main")
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self.file(match[1], match[2])
        return self.answer({"error": "not found"}, 404)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:  # noqa: N802
        self.hub.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.hub.refused:
            return self.answer({"error": "this token may not write"}, 403)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.hub.repositories.setdefault(name, {})
            return self.answer({"url": f"{self.hub.address}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        name = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return self.answer({"files": files})
        for line in filter(None, body.split(b"\n")):
            said = json.loads(line)
            if said["key"] == "file":
                self.hub.repositories[name][said["value"]["path"]] = base64.b64decode(said["value"]["content"])
        return self.answer({"commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT,
                            "pullRequestUrl": None, "success": True})  # fmt: skip

    def about(self, name: str, what: str | None, revision: str) -> None:
        files = self.hub.repositories.get(name)
        if files is None:
            return self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", COMMIT):
            return self.answer({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if what == "tree":
            return self.answer([{"type": "file", "path": path, "size": len(content), "oid": oid(content)}
                                for path, content in files.items()])  # fmt: skip
        siblings = [{"rfilename": path} for path in files]
        return self.answer({"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": [],
                            "private": False, "downloads": 0, "likes": 0})  # fmt: skip

    def file(self, name: str, path: str) -> None:
        content = self.hub.repositories.get(name, {}).get(path)
        if content is None:
            return self.answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        self.send(content, 200, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

    def answer(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def oid(content: bytes) -> str:
    """The name of a content, as git has it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
