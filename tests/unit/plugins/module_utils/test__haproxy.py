# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import Callable

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _haproxy
from ansible_collections.dghs.bd_fhir.plugins.module_utils._haproxy import HAProxy, HAProxyError, Server

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "haproxy"


def recorded(name: str) -> tuple[str, str]:
    return (FIXTURES / (name + ".state.txt")).read_text(), (FIXTURES / (name + ".stat.csv")).read_text()


def servers(name: str) -> dict[str, Server]:
    return {item.name: item for item in _haproxy.parse_servers(*recorded(name), "hapi")}


def test_mixed() -> None:
    found = servers("mixed")
    assert list(found) == ["hapi-%d" % number for number in range(1, 11)]
    drained, maint, busy, free, stuck = (found["hapi-%d" % number] for number in (1, 2, 3, 4, 9))
    assert (drained.drained, drained.alive, drained.up, drained.unresolved) == (True, True, False, False)
    assert (maint.forced_maint, maint.alive, maint.up, maint.unresolved) == (True, False, False, False)
    assert (busy.up, busy.sessions, busy.queued, busy.status, busy.check_status) == (True, 1, 0, "UP", "L7OK")
    assert busy.address is not None
    assert busy.port == 8080
    assert busy.checked
    assert busy.check_health_full == 3
    assert (free.address, free.unresolved, free.up, free.drained) == (None, True, False, False)
    assert (stuck.address, stuck.unresolved, stuck.drained) == (None, True, True)
    assert not _haproxy.idle(busy)
    assert _haproxy.idle(drained)
    assert "hapi-1 (" in drained.describe()
    assert "DRAIN" in drained.describe()


def test_up_before_its_first_check_is_not_up() -> None:
    """HAProxy calls a slot that just got an address UP; it is not counted as ready before a check has passed."""
    server = servers("resolved")["hapi-4"]
    assert server.op_state == _haproxy.OP_RUNNING
    assert server.status.startswith("UP")
    assert not server.alive
    assert not server.up
    assert not servers("starting")["hapi-4"].alive
    assert servers("starting")["hapi-1"].up


def test_find_by_address() -> None:
    found = servers("mixed")
    address = found["hapi-3"].address
    assert address is not None
    assert _haproxy.find_by_address(found.values(), ["10.0.0.9", address]) == found["hapi-3"]
    assert _haproxy.find_by_address(found.values(), ["10.0.0.9"]) is None
    assert _haproxy.find_by_address(found.values(), []) is None


def test_left() -> None:
    found = servers("starting")
    up, down, free = found["hapi-1"], found["hapi-4"], found["hapi-5"]
    assert up.address
    assert down.address
    assert not _haproxy.left([up.address])(up)
    assert _haproxy.left([down.address])(down)
    assert _haproxy.left(["10.9.9.9"])(up)
    assert _haproxy.left(["10.9.9.9"])(free)


def test_other_backend_has_no_servers() -> None:
    assert _haproxy.parse_servers(*recorded("mixed"), "other") == []


@pytest.mark.parametrize(
    ("state", "stat"),
    [
        ("", None),
        ("2\n# be_id\n", None),
        ("1\n# be_id be_name srv_id srv_name\n3 hapi 1 hapi-1\n", None),
        (None, "Unknown command"),
    ],
)
def test_unknown_answers(state: str, stat: str) -> None:
    good_state, good_stat = recorded("mixed")
    with pytest.raises(ValueError, match="show s"):
        _haproxy.parse_servers(good_state if state is None else state, good_stat if stat is None else stat, "hapi")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/run/h.sock", "/run/h.sock"),
        ("127.0.0.1:9999", ("127.0.0.1", 9999)),
        ("[::1]:9999", ("::1", 9999)),
        ("lb:1", ("lb", 1)),
    ],
)
def test_parse_socket(text: str, expected: object) -> None:
    assert _haproxy.parse_socket(text) == expected


@pytest.mark.parametrize("text", ["", "run/h.sock", "lb", "lb:", ":99", "lb:0", "lb:70000", "lb:x"])
def test_parse_socket_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="neither an absolute path"):
        _haproxy.parse_socket(text)
    with pytest.raises(HAProxyError, match="socket is wrong"):
        HAProxy(text)


class Fake:
    """Answers like a runtime API that is given here; what is exercised is the client's side of the talk."""

    def __init__(self, path: str, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                text = self.rfile.readline().decode().strip()
                fake.asked.append(text)
                self.wfile.write(fake.answers.get(text, "Unknown command: '%s'\n" % text).encode())

        self.server = socketserver.ThreadingUnixStreamServer(path, Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def fake(tmp_path: pathlib.Path) -> Iterator[Fake]:
    state, stat = recorded("mixed")
    answers = {
        "show servers state hapi": state,
        "show stat hapi 4 -1": stat,
        "show servers state nope": "Can't find backend.\n\n",
        "show cli level": "admin\n\n",
        "set server hapi/hapi-3 state drain": "\n",
        "set server hapi/hapi-1 state drain": "\n",
        "set server hapi/nope state ready": "No such server.\n",
        "set server hapi/hapi-3 state ready": "Permission denied.\n",
    }
    made = Fake(str(tmp_path / "s"), answers)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def client(fake: Fake) -> HAProxy:
    return HAProxy(str(fake.server.server_address), patience=0)


def test_client(fake: Fake, client: HAProxy) -> None:
    assert client.level() == "admin"
    assert len(client.servers("hapi")) == 10
    assert client.set_state("hapi", "hapi-1", "drain").drained
    assert client.wait("hapi", "hapi-1", _haproxy.idle, 1, 0, times=2)[0]
    begun = time.monotonic()
    held, last = client.wait("hapi", "hapi-3", _haproxy.idle, 0.2, 0.05)
    assert not held
    assert last.sessions == 1
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.servers("nope"), ["show servers state nope", "Can't find backend", "backend's name"]),
        (lambda c: c.server("hapi", "hapi-77"), ["no server hapi-77"]),
        (lambda c: c.set_state("hapi", "nope", "ready"), ["set server hapi/nope state ready", "No such server"]),
        (lambda c: c.set_state("hapi", "hapi-3", "ready"), ["Permission denied", "level admin"]),
        # Answered with nothing, but it did not take.
        (
            lambda c: c.set_state("hapi", "hapi-3", "drain"),
            ["after 'set server hapi/hapi-3 state drain'", "Somebody else"],
        ),
        (lambda c: c.servers("hapi; shutdown sessions server hapi/hapi-1"), ["can't be the name"]),
        (lambda c: c.set_state("hapi", "x\nset", "ready"), ["can't set"]),
        (lambda c: c.set_state("hapi", "hapi-1", "gone"), ["can't set"]),
    ],
)
def test_client_errors(client: HAProxy, fake: Fake, call: Callable[[HAProxy], object], words: list[str]) -> None:
    with pytest.raises(HAProxyError) as caught:
        call(client)
    for word in words:
        assert word in str(caught.value)
    assert not any(";" in text or "gone" in text for text in fake.asked)


def test_level_of_something_else(client: HAProxy, fake: Fake) -> None:
    fake.answers["show cli level"] = "Unknown command, but ...\n"
    with pytest.raises(HAProxyError, match="not HAProxy's runtime API"):
        client.level()


def test_nobody_listens(tmp_path: pathlib.Path) -> None:
    with pytest.raises(HAProxyError) as caught:
        HAProxy(str(tmp_path / "none.sock"), patience=0).command("show info")
    assert str(tmp_path / "none.sock") in str(caught.value)
    assert "stats socket" in str(caught.value)
    with pytest.raises(HAProxyError, match=r"127\.0\.0\.1:1: sending 'show info'"):
        HAProxy("127.0.0.1:1", patience=0).command("show info")


def test_a_reload_is_outlived(tmp_path: pathlib.Path) -> None:
    """The socket is away for a moment while HAProxy reloads."""
    path = str(tmp_path / "s")
    made: list[Fake] = []

    def later() -> None:
        time.sleep(0.4)
        made.append(Fake(path, {"show cli level": "admin\n"}))

    thread = threading.Thread(target=later)
    thread.start()
    assert HAProxy(path, patience=5).level() == "admin"
    thread.join()
    made[0].server.shutdown()
    made[0].server.server_close()
