"""A server on loopback that means no good."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

KEY = "the-key-of-mine"


class Reply:
    """What a server answers: a status, headers, and a body that may have no end."""

    def __init__(self, body: Any = b"", status: int = 200, **headers: str) -> None:
        self.body = json.dumps(body).encode() if isinstance(body, dict | list | str) else body
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class HostileServer:
    """Answers by the first part of the path; ``seen`` holds every request with its headers, ``keys`` what they gave."""

    def __init__(self, **replies: Any) -> None:
        self.replies = replies
        self.seen: list[tuple[str, dict[str, str]]] = []

    @property
    def keys(self) -> list[str]:
        """Everything in a request's headers that holds the key."""
        return [value for _, headers in self.seen for value in headers.values() if KEY in value]

    @property
    def asked(self) -> list[str]:
        """The paths that were asked for."""
        return [path for path, _ in self.seen]

    def __enter__(self) -> HostileServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                reply = server.replies.get(self.path.strip("/").split("/")[0], Reply(status=404))
                reply = reply(server) if callable(reply) else reply
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if isinstance(reply.body, bytes):
                    if "content-length" not in reply.headers:
                        self.send_header("content-length", str(len(reply.body)))
                    self.end_headers()
                    self.wfile.write(reply.body)
                    return
                self.end_headers()
                for part in reply.body:
                    self.wfile.write(part)

            do_POST = do_CONNECT = do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except (BrokenPipeError, ConnectionResetError):  # nobody listens any more, as it should be
                    pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def done(data: Any = None, **more: Any) -> Callable[[HostileServer], Reply]:
    """A job that is done, with its result at ``/result``."""
    return lambda server: Reply(
        {"id": "abc", "status": "COMPLETED", "data": f"{server.url}/result" if data is None else data, **more}
    )
