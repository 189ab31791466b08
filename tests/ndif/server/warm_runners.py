#!/usr/bin/env python3
"""Runners of the sandbox that begin in a few tenths of a second, where a new Python spends four on its imports.

NDIF starts a Python for each job that runs in the sandbox. Here that Python is this file: it takes the same command
line and the same environment to a process that has imported what every runner imports, which forks, and the fork runs
NDIF's own runner as ``python -m`` would. A job still has a process of its own, in which nothing ran before it.

Without arguments this file is the process that forks (``start`` runs it).
"""

import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time

ADDRESS = "\0lostattn-warm-runners"  # of the network namespace, which no other server shares
IMPORTED = (
    "torch._dynamo",
    "nnsight",
    "transformers.pipelines",
    "transformers.processing_utils",
    "transformers.image_processing_utils",
    "transformers.models.llava.modeling_llava",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
)
PATIENCE = 30.0  # seconds for the imports at the start of the server


def serve() -> None:
    """Fork a runner for each connection."""
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: a connection's end tells
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(ADDRESS)
        listening.listen()
        while True:
            line, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                become_runner(line)
            line.close()


def become_runner(line: socket.socket) -> None:
    """Do what the other end was started for, until it is done or the other end is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked, streams, _, _ = socket.recv_fds(line, 1 << 20, 2)
    arguments, environment = json.loads(asked)
    for stream, number in zip(streams, (1, 2), strict=True):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    threading.Thread(target=lambda: (line.recv(1), os._exit(1)), daemon=True).start()
    module, sys.argv[1:] = arguments[1], arguments[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    os._exit(0)


def stand_in(arguments: list[str]) -> None:
    """Stay for as long as the runner and the process that asked for it do: whichever ends, the others follow."""
    asker, until = os.getppid(), time.monotonic() + PATIENCE
    with socket.socket(socket.AF_UNIX) as line:
        while line.connect_ex(ADDRESS) != 0:
            if time.monotonic() > until:
                sys.exit("the process that starts runners does not answer")
            time.sleep(0.05)
        socket.send_fds(line, [json.dumps([arguments, dict(os.environ)]).encode()], [1, 2])
        line.settimeout(1.0)
        while os.getppid() == asker:
            try:
                sys.exit(len(line.recv(1)))
            except TimeoutError:
                pass


if __name__ == "__main__":
    stand_in(sys.argv[1:]) if sys.argv[1:] else serve()
