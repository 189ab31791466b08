"""A line to a service that breaks where it is told to, on real sockets."""

from __future__ import annotations

import http.client
import socket
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

# What may befall a request, each named by the moment at which the line breaks.
FAULTS = ("at once", "in the request", "before the answer", "in the answer", "busy")


class BreakingLine:
    """Passes requests on to ``host``. ``faults[kind]`` befall the requests of a kind in turn; then the line is whole.

    The kind is the first part of the path: ``request`` sends a job, ``response`` looks one up, ``result`` fetches.
    """

    def __init__(self, host: str, faults: dict[str, list[str]] | None = None) -> None:
        self.host = urlsplit(host).netloc
        self.faults = {kind: list(befall) for kind, befall in (faults or {}).items()}
        self.passed: Counter[str] = Counter()  # requests that reached the service, by kind
        self.broken: list[str] = []

    def __enter__(self) -> BreakingLine:
        line = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                line.pass_on(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self.handler = Handler
        self.listen(0)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def listen(self, port: int) -> None:
        """Take requests, after :meth:`close` again."""
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self.handler)
        self.server.daemon_threads = True
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Take no more requests: connections are refused."""
        self.server.shutdown()
        self.server.server_close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        """Pass one request on, or break."""
        kind = request.path.split("/")[1]
        waiting = self.faults.get(kind) or []
        fault = waiting.pop(0) if waiting else ""
        assert fault in ("", *FAULTS), fault
        request.close_connection = True
        if fault:
            self.broken.append(f"{kind}: {fault}")
        if fault == "at once":
            return hang_up(request)
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if fault == "busy":
            return answer(request, 503, b'{"detail": "Service temporarily unavailable."}')
        if fault == "in the request":
            self.send_half(request, body)
            return hang_up(request)
        status, found = self.ask(request, body)
        self.passed[kind] += 1
        if fault == "before the answer":
            return hang_up(request)
        answer(request, status, found, len(found) // 2 if fault == "in the answer" else None)

    def ask(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        """The service's whole answer."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.request(request.command, request.path, body or None, dict(request.headers))
        reply = connection.getresponse()
        found = reply.status, reply.read()
        connection.close()
        return found

    def send_half(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        """Half of a request, after which the service hears nothing more."""
        name, _, port = self.host.partition(":")
        lines = [f"{request.command} {request.path} HTTP/1.1", *(f"{k}: {v}" for k, v in request.headers.items())]
        with socket.create_connection((name, int(port))) as upstream:
            upstream.sendall("\r\n".join([*lines, "", ""]).encode() + body[: len(body) // 2])


def hang_up(request: BaseHTTPRequestHandler) -> None:
    """Close the connection without a word."""
    request.connection.shutdown(socket.SHUT_RDWR)


def answer(request: BaseHTTPRequestHandler, status: int, body: bytes, n: int | None = None) -> None:
    """Answer with a body, or with its first ``n`` bytes and nothing after them."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[:n])
    if n is not None:
        hang_up(request)
