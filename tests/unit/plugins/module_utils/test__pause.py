# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whom a pause concerns, and the watcher over it. With a real pooler: tests/integration/real."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _pause
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pause import Pause, PauseError, Watchdog, databases_of, session_pools, stale_seconds
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer import PgbouncerError, PgbouncerTimeout
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import Login

SESSION = {"pool_mode": "session"}
LOGIN = Login("192.0.2.1", 6432, "admin", "hush-word", "pgbouncer")
DATABASES: list[dict[str, str]] = [
    {"name": "fhirdb", "host": "postgres-fhir", "port": "5432", "pool_mode": "", "paused": "0"},
    {"name": "reports", "host": "replica,postgres-fhir", "port": "5432", "pool_mode": "session", "paused": "0"},
    {"name": "auditdb", "host": "postgres-audit", "port": "5432", "pool_mode": "", "paused": "0"},
    {"name": "other-port", "host": "postgres-fhir", "port": "5433", "pool_mode": "", "paused": "0"},
    {"name": "pgbouncer", "host": "", "port": "6432", "pool_mode": "statement", "paused": "0"},
]


def test_databases_of_a_server() -> None:
    assert databases_of(DATABASES, ["postgres-fhir", "192.0.2.7"], 5432) == ["fhirdb", "reports"]
    assert databases_of(DATABASES, ["postgres"], 5432) == []


@pytest.mark.parametrize(
    ("config", "users", "pools", "names", "found"),
    [
        ({"pool_mode": "transaction"}, [], [], ["fhirdb"], []),
        ({"pool_mode": "session"}, [], [], ["fhirdb"], ["database fhirdb"]),
        ({}, [], [], ["fhirdb"], ["database fhirdb"]),
        ({"pool_mode": "transaction"}, [], [], ["fhirdb", "reports"], ["database reports"]),
        ({"pool_mode": "transaction"}, [{"name": "bob", "pool_mode": "session"}], [], ["fhirdb"], ["user bob"]),
        ({"pool_mode": "transaction"}, [], [{"database": "fhirdb", "user": "x", **SESSION}], ["fhirdb"], ["database fhirdb with user x"]),
        ({"pool_mode": "transaction"}, [], [{"database": "auditdb", "user": "x", **SESSION}], ["fhirdb"], []),
    ],
)
def test_session_mode_is_seen_wherever_it_is_set(
    config: dict[str, str], users: list[dict[str, str]], pools: list[dict[str, str]], names: list[str], found: list[str]
) -> None:
    assert session_pools(DATABASES, users, pools, config, names) == found


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        ([{"hostname": "db", "ttl": "14", "addrs": "172.20.0.5:0"}], 15),
        ([{"hostname": "db", "ttl": "14", "addrs": "172.20.0.2:0"}], 0),
        ([{"hostname": "db", "ttl": "14", "addrs": "172.20.0.2:0,172.20.0.5:0"}], 15),
        ([{"hostname": "db", "ttl": "0", "addrs": "172.20.0.5:0"}], 1),
        ([{"hostname": "other", "ttl": "14", "addrs": "172.20.0.5:0"}], 0),
        ([{"hostname": "db", "ttl": "14", "addrs": ""}], 0),
        ([], 0),
    ],
)
def test_for_how_long_the_pooler_has_a_former_address(rows: list[dict[str, str]], seconds: int) -> None:
    assert stale_seconds(rows, ["db"], ["172.20.0.2"]) == seconds


class Acts:
    """An action of the watcher, which is seen by a file, since it happens in another process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> None:
        self.path.write_text("acted")

    def seen(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.path.exists():
            time.sleep(0.02)
        return self.path.exists()


@pytest.fixture
def acts(tmp_path: Path) -> Acts:
    return Acts(tmp_path / "acted")


def test_watcher_that_is_told_that_all_is_well(acts: Acts) -> None:
    watchdog = Watchdog.start(0.6, lambda: True, acts)
    watchdog.cancel()
    watchdog.cancel()
    assert not acts.seen(0.9)
    with pytest.raises(ProcessLookupError):
        os.kill(watchdog._pid, 0)


def test_watcher_after_too_much_time(acts: Acts) -> None:
    watchdog = Watchdog.start(0.2, lambda: True, acts)
    assert acts.seen(5)
    watchdog.cancel()


@pytest.mark.parametrize(("ready", "patience"), [(lambda: True, 30.0), (lambda: False, 0.1), (lambda: 1 / 0, 0.1)])
def test_watcher_after_a_kill(acts: Acts, ready: Callable[[], bool], patience: float) -> None:
    """SIGKILL of the process that has started it: the clients are let go on."""
    pid = os.fork()
    if not pid:
        try:
            Watchdog.start(600, ready, acts, patience)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert acts.seen(5)


def test_watcher_tries_again(tmp_path: Path) -> None:
    count = tmp_path / "count"

    def action() -> None:
        with count.open("a") as handle:
            handle.write("x")
        if count.stat().st_size < 2:
            raise PgbouncerError("not yet")

    watchdog = Watchdog.start(0.05, lambda: True, action)
    end = time.monotonic() + 10
    while time.monotonic() < end and not (count.exists() and count.stat().st_size == 2):
        time.sleep(0.05)
    assert count.read_text() == "xx"
    watchdog.cancel()


def test_watcher_holds_nothing_of_ours_open(tmp_path: Path) -> None:
    """Ansible waits until everybody has closed the module's output, and the next run until the lock is free."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    watchdog = Watchdog.start(600, lambda: True, lambda: None)
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    watchdog.cancel()


class FakeConsole:
    """A pooler in a dict; `answers` says which commands time out."""

    paused: dict[str, str] = {}
    commands: list[str] = []
    slow: tuple[str, ...] = ()
    stubborn: tuple[str, ...] = ()

    @classmethod
    def open(cls, login: Login) -> FakeConsole:
        return cls()

    def __enter__(self) -> FakeConsole:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def show(self, what: str) -> list[dict[str, str]]:
        if what == "DATABASES":
            return [{"name": name, "paused": value} for name, value in self.paused.items()]
        return [{"database": "a", "user": "app", "sv_active": "2"}]

    def command(self, text: str, timeout: float | None = None) -> None:
        self.commands.append(text)
        verb, dummy, name = text.replace('"', "").partition(" ")
        if text not in self.stubborn:
            self.paused[name] = "1" if verb == "PAUSE" else "0"
        if text in self.slow:
            raise PgbouncerTimeout("too slow")


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> type[FakeConsole]:
    monkeypatch.setattr(_pause, "Console", FakeConsole)
    monkeypatch.setattr(Watchdog, "start", classmethod(lambda cls, *args: Quiet()))
    FakeConsole.paused, FakeConsole.commands = {"a": "0", "b": "0"}, []
    FakeConsole.slow, FakeConsole.stubborn = (), ()
    return FakeConsole


class Quiet:
    cancelled = False

    def cancel(self) -> None:
        Quiet.cancelled = True


def hold(pause: Pause, **more: Any) -> None:
    pause.hold(5, 60, lambda: True, **more)


def test_hold_and_release(console: type[FakeConsole]) -> None:
    pause = Pause(LOGIN, ["a", "b"])
    hold(pause)
    assert console.paused == {"a": "1", "b": "1"}
    pause.release()
    pause.release()
    assert console.commands == ['PAUSE "a"', 'PAUSE "b"', 'RESUME "a"', 'RESUME "b"']
    assert Quiet.cancelled


def test_transactions_that_do_not_end(console: type[FakeConsole]) -> None:
    console.slow = ('PAUSE "b"',)
    with pytest.raises(PauseError) as caught:
        hold(Pause(LOGIN, ["a", "b"]))
    assert console.paused == {"a": "0", "b": "0"}
    assert all(word in str(caught.value) for word in ("Nothing was restarted", "2 of user app in a", "pause_timeout"))
    assert "hush" not in str(caught.value)


def test_session_mode_does_not_wait(console: type[FakeConsole]) -> None:
    console.slow = ('PAUSE "a"',)
    pause = Pause(LOGIN, ["a"])
    hold(pause, wait=False)
    assert console.paused["a"] == "1"
    pause.release()
    assert console.paused["a"] == "0"


def test_a_pause_that_is_none(console: type[FakeConsole]) -> None:
    console.stubborn = ('PAUSE "a"',)
    with pytest.raises(PauseError, match="does not hold"):
        hold(Pause(LOGIN, ["a"]))


def test_a_release_that_does_not_take_leaves_the_watcher(console: type[FakeConsole]) -> None:
    console.stubborn = ('RESUME "a"',)
    pause = Pause(LOGIN, ["a"])
    hold(pause)
    Quiet.cancelled = False
    with pytest.raises(PauseError, match="still holds"):
        pause.release()
    assert not Quiet.cancelled


def test_names_are_quoted() -> None:
    assert _pause.identifier('fhir-"db') == '"fhir-""db"'
