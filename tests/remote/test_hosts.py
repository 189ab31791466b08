"""Where a job may go, and who may be given the key: the host that the configuration names, and nobody else."""

from __future__ import annotations

import pytest
from nnsight.schema.config import CONFIG

from lostattn.errors import InputError
from lostattn.remote.failures import UnreadableResult
from lostattn.remote.hosts import address, checked_host, confirmed_host, is_here, key_for, result_address

NAMED, KEY = "https://api.ndif.us", "the-key-of-mine"


@pytest.fixture(autouse=True)
def configured(monkeypatch):
    monkeypatch.setattr(CONFIG.API, "HOST", NAMED)
    monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)
    monkeypatch.delenv("NDIF_HOST", raising=False)


SAME = ["https://api.ndif.us", "https://api.ndif.us/", "https://API.NDIF.us", "https://api.ndif.us:443/any/where"]
OTHERS = [
    "https://evil.example",
    "http://api.ndif.us",
    "https://api.ndif.us:444",
    "https://api.ndif.us.evil.example",
    "https://evil.example/api.ndif.us",
    "https://api-ndif.us",
    "https://\u0430pi.ndif.us",  # its first letter is Cyrillic
    "http://127.0.0.1.evil.example",
    "http://localhost.evil.example",
    "http://0.0.0.0:8000",
    "http://169.254.169.254",
    "http://2130706433",
    "http://127.1",
    "http://[::ffff:127.0.0.1]",
]
NO_ADDRESSES = [
    "https://api.ndif.us@evil.example",
    "https://evil.example\\@api.ndif.us",
    "https://evil.example#@api.ndif.us",
    "https://evil.example?@api.ndif.us",
    "https://evil.example/\r\nndif-api-key: x",
    "https://evil.example/ api.ndif.us",
    "https://user:word@api.ndif.us",
    "https://",
    "https:///api.ndif.us",
    "http://[::1%25lo]/",
    "https://api.ndif.us:80:90",
    "https://" + "a" * 3000,
    "ftp://api.ndif.us",
    "file:///etc/passwd",
    "api.ndif.us",
    "",
    None,
    3,
    b"https://api.ndif.us",
]
HERE = ["http://127.0.0.1:8399", "http://localhost:8399", "http://[::1]:8399", "https://127.7.7.7"]


@pytest.mark.parametrize("host", SAME)
def test_the_configured_host_is_given_the_key(host):
    assert key_for(host) == KEY
    assert checked_host(host) == host.rstrip("/")
    assert checked_host(True) == NAMED


@pytest.mark.parametrize("host", OTHERS)
def test_another_host_is_given_nothing(host):
    assert key_for(host) == ""
    with pytest.raises(InputError, match="does not name .it names https://api.ndif.us.*NDIF_HOST"):
        checked_host(host)
    with pytest.raises(InputError, match=r"does not choose .*Job.load\(path, model, host="):
        confirmed_host(host, None, "job.json")
    with pytest.raises(InputError, match="name the one it is on"):
        confirmed_host(host, NAMED, "job.json")
    assert confirmed_host(host, host, "job.json") == host
    assert key_for(host) == "", "to name a job's host does not make the key that host's"


@pytest.mark.parametrize("host", NO_ADDRESSES)
def test_what_is_no_address_is_refused(host):
    for asked in (address, checked_host, lambda one: confirmed_host(one, None, "job.json")):
        with pytest.raises(InputError, match="expected the address of a service"):
            asked(host)
    with pytest.raises(InputError, match="expected the address of a service"):
        confirmed_host(NAMED, "" if host is None else host, "job.json")


@pytest.mark.parametrize("host", HERE)
def test_a_server_on_this_machine_may_be_tried_without_the_key(host, monkeypatch):
    assert is_here(address(host)) and checked_host(host) == host and key_for(host) == ""
    with pytest.raises(InputError, match="does not choose"):
        confirmed_host(host, None, "job.json")
    monkeypatch.setenv("NDIF_HOST", host)
    assert key_for(host) == KEY, "named, it is given the key, over a line that nobody else reads"
    assert confirmed_host(host + "/deeper", None, "job.json") == host, "the address is the user's, not the file's"


def test_the_key_goes_over_no_line_that_others_read(monkeypatch):
    monkeypatch.setattr(CONFIG.API, "HOST", "http://ndif.example")
    for remote in (True, "http://ndif.example"):
        with pytest.raises(InputError, match="over a line that others can read .*unset NDIF_API_KEY"):
            checked_host(remote)
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    assert checked_host(True) == "http://ndif.example"


@pytest.mark.parametrize("key", ["MY\nKEY", "КЛЮЧ", " MYKEY", "MYKEY\x00"])
def test_a_key_that_is_none_is_refused_and_not_shown(key, monkeypatch):
    monkeypatch.setattr(CONFIG.API, "APIKEY", key)
    with pytest.raises(InputError, match="that no key holds; set it again") as told:
        checked_host(True)
    assert key not in str(told.value)


@pytest.mark.parametrize(
    ("url", "host", "fetched"),
    [
        ("https://store.example/a?sig=x%20y", NAMED, True),
        (NAMED + "/result/1", NAMED, True),
        ("http://store.example/a", NAMED, False),
        ("http://api.ndif.us/a", NAMED, False),
        ("http://127.0.0.1:6379/", NAMED, False),
        ("https://localhost/", NAMED, False),
        ("http://127.0.0.1:9399/a", "http://127.0.0.1:8399", True),
        ("http://store.example/a", "http://127.0.0.1:8399", True),
        ("http://127.0.0.1:6379/", "http://ndif.example", False),
        ("file:///etc/passwd", "http://127.0.0.1:8399", False),
        ("https://user:word@store.example", NAMED, False),
        ("https://store.example\\@127.0.0.1", NAMED, False),
        ("gopher://store.example", NAMED, False),
        ("", NAMED, False),
        ("https://" + "a" * 9000, NAMED, False),
    ],
)
def test_a_result_is_fetched_where_a_service_may_keep_it(url, host, fetched):
    if fetched:
        assert result_address(url, host) == url
    else:
        with pytest.raises(UnreadableResult, match="says that its result is at"):
            result_address(url, host)
