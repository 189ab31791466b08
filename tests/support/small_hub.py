"""A hub on loopback that serves data sets as the real one does: commits, gates, ranges, broken downloads."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class DataSet:
    """Files by commit, the newest last; names of branches and tags."""

    commits: dict[str, dict[str, bytes]]
    names: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        newest = list(self.commits)[-1]
        named = {"main": newest, **self.names}.get(revision, revision)
        return named if named in self.commits else None


class SmallHub:
    """Serves data sets by id while it is entered; ``asked`` has every request, with its range.

    Args:
        sets: the data sets by id.
        breaking: how many bytes of a file are sent before the line breaks, once for each number.
    """

    def __init__(self, sets: dict[str, DataSet], breaking: list[int] | None = None) -> None:
        self.sets, self.breaking, self.gone = sets, list(breaking or []), False
        self.asked: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.answer(self, body=True, posted=content)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> SmallHub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gone = True  # for lines that are open still
        self.server.shutdown()
        self.server.server_close()

    def answer(self, call: Any, body: bool, posted: bytes = b"") -> None:
        if self.gone:
            call.close_connection = True
            call.connection.shutdown(socket.SHUT_RDWR)
            return None
        path = unquote(urlsplit(call.path).path)
        self.asked.append((call.command, path, call.headers.get("Range")))
        about = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path)
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = about or file
        held = self.sets.get(found[1]) if found else None
        if held is None:
            return self._refuse(call, 401, "RepoNotFound", "no such data set")
        commit = held.commit((about[3] if about else file[2]) or "main")  # type: ignore[index]
        if commit is None:
            return self._refuse(call, 404, "RevisionNotFound", "no such revision")
        if file is not None:
            if held.gated:
                return self._refuse(call, 403, "GatedRepo", "ask for access")
            if file[3] not in held.commits[commit]:
                return self._refuse(call, 404, "EntryNotFound", "no such file")
            return self._file(call, held.commits[commit][file[3]], commit, body)
        files = held.commits[commit]
        if about is not None and about[2] in ("tree", "paths-info"):
            wanted = json.loads(posted)["paths"] if posted.startswith(b"{") else list(files)
            told: Any = [
                {"type": "file", "path": name, "size": len(files[name]), "oid": hashlib.sha1(files[name]).hexdigest()}
                for name in wanted
                if name in files
            ]
        else:
            told = {
                "id": found[1],  # type: ignore[index]
                "sha": commit,
                "private": False,
                "gated": "auto" if held.gated else False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": name} for name in files],
            }
        self._send(call, 200, json.dumps(told).encode(), {"Content-Type": "application/json"}, body)
        return None

    def _file(self, call: Any, content: bytes, commit: str, body: bool) -> None:
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range") or "")
        if asked is None:
            return self._send(call, 200, content, headers, body)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._send(call, 206, content[first : last + 1], headers, body)

    def _send(self, call: Any, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        call.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            call.send_header(name, value)
        call.end_headers()
        if not body:
            return
        if self.breaking and headers["Content-Type"] == "application/octet-stream":
            call.wfile.write(content[: self.breaking.pop(0)])
            call.wfile.flush()
            call.close_connection = True
            call.connection.shutdown(socket.SHUT_RDWR)
            return
        call.wfile.write(content)

    def _refuse(self, call: Any, status: int, code: str, words: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": words, "Content-Type": "application/json"}
        self._send(call, status, json.dumps({"error": words}).encode(), headers, call.command != "HEAD")
