"""The line to a service: every request that this package makes, and every answer that it reads, passes here.

The key goes out with a request only where :mod:`lostattn.remote.hosts` allows it for that address, redirects are not
followed, and an answer is read up to a length and no further, as it came: what a server packs, it may also make burst.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lostattn.remote.failures import UnreadableResult
from lostattn.remote.hosts import is_here, key_for

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT, READ = 10.0, 600.0  # seconds, as nnsight has them
LEAST = 1.0  # seconds that an answer has, even where the time is over
SHORT = 1 << 24  # bytes of an answer that is no result: a server's whole traceback is in it
KEY = "ndif-api-key"


class Line:
    """Requests to one host, over one connection for as long as somebody waits.

    nnsight's own opens a new connection, and reads every certificate anew, each time that it asks.
    """

    def __init__(self, host: str, key: str) -> None:
        self.host = host
        self.key = key
        self.until: float | None = None  # the time after which nobody waits any more, as time.monotonic() counts
        self._client: httpx.Client | None = None

    @contextmanager
    def connected(self) -> Iterator[httpx.Client]:
        """One connection for every request while this is open; what breaks is made anew by the next."""
        if self._client is not None and not self._client.is_closed:
            yield self._client
            return
        with client_for(self.host) as self._client:
            try:
                yield self._client
            finally:
                self._client = None

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        """One request to the host and its whole answer, whatever its status.

        Raises:
            httpx.TransportError: the line broke.
            UnreadableResult: the answer is longer than it may be, or packed.
        """
        import httpx

        sent = dict(headers or {})
        # Asked for anew each time: a configuration may have changed since the job was made.
        if self.key and self.key == key_for(self.host):
            sent[KEY] = self.key
        # What is asked for without a body has a time of its own, however slowly it drips; to send a job may take long.
        until = self.until if method != "GET" else min(self.until or math.inf, time.monotonic() + READ)
        try:
            with self.connected() as client:
                return answer(client, method, f"{self.host}{path}", SHORT, until, headers=sent, **more)
        except TimeoutError as error:
            if self.until is not None and time.monotonic() >= self.until:
                raise
            raise httpx.ReadTimeout(str(error)) from error


def client_for(url: str) -> httpx.Client:
    """A client for one address, which has been looked at. What goes to this machine goes through no proxy."""
    import httpx

    return httpx.Client(
        timeout=httpx.Timeout(CONNECT, read=READ),
        verify=certificates(),
        trust_env=not is_here(httpx.URL(url)),
        follow_redirects=False,
        headers={"accept-encoding": "identity"},
    )


def answer(
    client: httpx.Client,
    method: str,
    url: str,
    most: int,
    until: float | None = None,
    told: Callable[[int, int | None], None] | None = None,
    **more: Any,
) -> httpx.Response:
    """One request and its answer, of ``most`` bytes at the most; ``told`` hears how many are here, of how many.

    Raises:
        httpx.TransportError: the line broke.
        TimeoutError: the time was over before the answer was whole, at whatever it was.
        UnreadableResult: the answer is longer than it may be, or packed.
    """
    import httpx

    left = math.inf if until is None else max(until - time.monotonic(), LEAST)
    if left < READ:
        more = {"timeout": httpx.Timeout(min(CONNECT, left), read=left, write=left), **more}
    # A server may also send one byte of its headers at a time, each within the time of a read.
    watch = threading.Timer(min(left, threading.TIMEOUT_MAX), client.close)
    watch.daemon = True
    try:
        watch.start()
        return _read_answer(client, method, url, most, until, told, **more)
    except TimeoutError:
        raise
    except (httpx.TransportError, RuntimeError, OSError) as error:  # RuntimeError: of a client that was closed
        if until is not None and time.monotonic() >= until:
            raise TimeoutError(f"{httpx.URL(url).host} did not answer within the time; ask again.") from error
        raise
    finally:
        watch.cancel()


def _read_answer(
    client: httpx.Client,
    method: str,
    url: str,
    most: int,
    until: float | None,
    told: Callable[[int, int | None], None] | None,
    **more: Any,
) -> httpx.Response:
    import httpx

    with client.stream(method, url, **more) as response:
        if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise UnreadableResult(
                f"{response.url.host} sent an answer packed as {response.headers['content-encoding'][:40]!r}, which "
                "was not asked for and is not unpacked."
            )
        stated = response.headers.get("content-length", "")
        total = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 16 else None
        content = bytearray()
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > most or (total or 0) > most:
                raise UnreadableResult(
                    f"{response.url.host} sent {total or 'endless'} bytes in answer, and up to {most} are read here. "
                    "Ask for fewer points at a time."
                )
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"{response.url.host} was still sending when the time was over; ask again.")
            if told is not None:
                told(len(content), total)
        kept = {name: value for name, value in response.headers.items() if name in ("content-type", "location")}
        return httpx.Response(response.status_code, headers=kept, content=bytes(content), request=response.request)


@functools.cache
def certificates() -> ssl.SSLContext:
    """The certificates that this machine trusts, read once."""
    import httpx

    return httpx.create_ssl_context()
