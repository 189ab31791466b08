"""A service in this process: it takes jobs as NDIF does, runs each when it comes, and remembers how often it ran."""

from __future__ import annotations

import io
import json
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import torch

from lostattn.remote.rehearsal import ABSENT, absent, classes_apart, execute_trace, sources_kept


class PlayedService:
    """``ran`` counts by job id; ``troubles`` are texts with which the next jobs end instead of a result."""

    def __init__(self, model: Any, troubles: list[str] | None = None) -> None:
        self.model = model
        self.troubles = list(troubles or [])
        self.ran: Counter[str] = Counter()
        self.told: dict[str, dict[str, Any]] = {}
        self.results: dict[str, bytes] = {}
        self._one_at_a_time = Lock()

    def __enter__(self) -> PlayedService:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if len(body) < int(self.headers["Content-Length"]):
                    return  # a request that broke off
                mark = b"--" + self.headers["Content-Type"].partition("boundary=")[2].encode()
                data, blob = (part.partition(b"\r\n\r\n")[2][:-2] for part in body.split(mark)[1:3])
                envelope = json.loads(data)
                with service._one_at_a_time:
                    told = service.run(envelope["id"], blob, f"http://{self.headers['Host']}")
                self.give(200, json.dumps({**told, "status": "RECEIVED", "data": None}).encode())

            def do_GET(self) -> None:
                _, kind, name = self.path.split("/")
                if kind == "result":
                    return self.give(200, service.results[name])
                told = service.told.get(name)
                self.give(404 if told is None else 200, json.dumps(told).encode())

            def give(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def run(self, name: str, blob: bytes, here: str) -> dict[str, Any]:
        """Run a job, or end it with the next trouble."""
        import zstandard
        from nnsight.schema.request import RequestModel

        if self.troubles:
            self.told[name] = {"id": name, "status": "ERROR", "description": self.troubles.pop(0)}
            return self.told[name]
        self.ran[name] += 1
        with sources_kept(), classes_apart(), absent(ABSENT), torch.no_grad():
            tracer = RequestModel.deserialize(blob, self.model._remoteable_persistent_objects(), compress=True)
            result = execute_trace(tracer)
        torch.load(io.BytesIO(result), weights_only=False)
        self.results[name] = zstandard.ZstdCompressor(level=3).compress(result)
        self.told[name] = {"id": name, "status": "COMPLETED", "data": f"{here}/result/{name}"}
        return self.told[name]
