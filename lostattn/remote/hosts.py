"""Where a job may go, and who may be given the key.

The key belongs to the host that your own configuration names: nnsight's ``CONFIG.API.HOST``, which ``NDIF_HOST`` sets,
and it goes there alone, over TLS or within this machine. Another host is asked nothing at all, whoever names it: an
argument that was copied, or a stored job from somebody else. Servers on this machine are the exception: they may be
tried out by their address, but get no key before the configuration names them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TYPE_CHECKING, Any

from nnsight.schema.config import CONFIG

from lostattn.errors import InputError
from lostattn.remote.failures import UnreadableResult
from lostattn.remote.told import said

if TYPE_CHECKING:
    import httpx

NAMED_BY = "NDIF_HOST"
LONGEST, LONGEST_SIGNED = 2000, 8000  # characters of an address, and of one with a signature in it
# What no address of a service holds: blanks and control characters, and what parsers of addresses read differently.
STRANGE = re.compile(r"[\s\x00-\x1f\x7f\\<>\"`{}|^]")


def address(host: object, what: str = "the host") -> httpx.URL:
    """An address as the client will understand it.

    Raises:
        InputError: it is no address of a service: another scheme, a name and password in it, a query.
    """
    import httpx

    def refused(why: str) -> InputError:
        return InputError(
            f"{what} is {str(host)[:200]!r}, {why}; expected the address of a service, such as https://api.ndif.us."
        )

    if not isinstance(host, str) or not host.startswith(("http://", "https://")):
        raise refused("which begins with neither http:// nor https://")
    if len(host) > LONGEST or STRANGE.search(host):
        raise refused("which holds what no address holds")
    try:
        found = httpx.URL(host)
        readable = bool(found.host) and "%" not in found.host
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise refused(f"which is no address ({error})") from error
    if not readable:
        raise refused("which names no host")
    if found.userinfo or "@" in host:
        raise refused("which holds a name or password; a key is set with `nnsight login` or NDIF_API_KEY")
    if found.query or found.fragment or "?" in host or "#" in host:
        raise refused("which holds more than a host and a path")
    return found


def origin(url: httpx.URL) -> tuple[str, str, int]:
    """Scheme, host and port: what has to be the same for two addresses to be one host."""
    return url.scheme, url.host.rstrip("."), url.port or {"http": 80, "https": 443}[url.scheme]


def is_here(url: httpx.URL) -> bool:
    """Whether a host is this machine itself, by what is written: no name is looked up but ``localhost``."""
    name = url.host.rstrip(".")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def named_hosts() -> list[str]:
    """The hosts that the user's own configuration names, the one that ``remote=True`` means first."""
    named = [CONFIG.API.HOST, os.environ.get(NAMED_BY)]
    return [one.rstrip("/") for one in dict.fromkeys(named) if one]


def is_named(url: httpx.URL) -> bool:
    """Whether the user's own configuration names this host."""
    return origin(url) in [origin(address(one, NAMED_BY)) for one in named_hosts()]


def key_for(host: str) -> str:
    """The key, where this host may be given it; otherwise none.

    Raises:
        InputError: the configuration names the host, but the key would go there for everybody to read.
    """
    url, key = address(host), CONFIG.API.APIKEY or ""
    if not key or not is_named(url):
        return ""
    if url.scheme != "https" and not is_here(url):
        raise InputError(
            f"{host} would be given your key over a line that others can read (http://). Name it by https://, or dig a "
            "tunnel to it and name http://127.0.0.1:PORT, or unset NDIF_API_KEY if it wants no key."
        )
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise InputError(
            "the key that is set (NDIF_API_KEY, or by `nnsight login`) holds blanks, line breaks or other characters "
            "that no key holds; set it again."
        )
    return key


def checked_host(remote: object) -> str:
    """The address that ``remote=`` means: the configured one for ``True``, or a URL that may be asked.

    Raises:
        InputError: a host that the configuration does not name, or no address.
    """
    if remote is True:
        host = named_hosts()[0] if named_hosts() else CONFIG.API.HOST
        address(host, NAMED_BY)
        key_for(host)
        return host
    url = address(remote, "remote")
    assert isinstance(remote, str)
    if not is_named(url) and not is_here(url):
        raise InputError(
            f"remote is {remote!r}, a host that your configuration does not name (it names {_told_named()}). Prompts "
            f"and the key go to a host only where you name it yourself: set {NAMED_BY}={remote} before Python starts, "
            f"or nnsight.CONFIG.API.HOST = {remote!r}, and pass remote=True."
        )
    key_for(remote)
    return remote.rstrip("/")


def confirmed_host(stored: Any, confirmed: Any, where: str) -> str:
    """The host of a stored job, once the user names it too: the address is the user's, not the file's.

    Args:
        stored: what the file says.
        confirmed: what the user says; ``None`` leaves it to the configuration.
        where: the file, for messages.

    Raises:
        InputError: the user does not name it.
    """
    wanted = address(stored, f"the host in {where}")
    given = named_hosts() if confirmed is None else [confirmed]
    for one in given:
        if origin(address(one, "host")) == origin(wanted):
            return one.rstrip("/")
    if confirmed is not None:
        raise InputError(f"{where} holds a job on {str(wanted)!r}, and host is {confirmed!r}; name the one it is on.")
    raise InputError(
        f"{where} holds a job on {str(wanted)!r}, which your configuration does not name (it names {_told_named()}). A "
        "file does not choose where you connect to: if you know this host, name it, with "
        f"Job.load(path, model, host={str(wanted)!r}) or {NAMED_BY}."
    )


def result_address(url: str, host: str) -> str:
    """Where a service says that a result lies, if it may be fetched there: it goes out without the key.

    Raises:
        UnreadableResult: over a line that is less safe than the one to the service, or on this machine, where the
            service is not.
    """
    import httpx

    asked = address(host)
    try:
        found = httpx.URL(url)
        whole = len(url) <= LONGEST_SIGNED and bool(found.host) and not found.userinfo and not STRANGE.search(url)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        whole = False
    if not whole or found.scheme not in ("http", "https"):
        raise UnreadableResult(f"{host} says that its result is at {said(url)[:200]!r}, which is no address.")
    if origin(found) != origin(asked) and (
        (found.scheme == "http" and asked.scheme != "http") or (is_here(found) and not is_here(asked))
    ):
        raise UnreadableResult(
            f"{host} says that its result is at {str(found)[:200]!r}; it is fetched over https, or from the service "
            "itself, and from this machine only where the service is on it."
        )
    return url


def _told_named() -> str:
    return ", ".join(named_hosts()) or "none"
