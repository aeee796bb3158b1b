# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The admin console where no pooler is at hand; with real ones: tests/integration/real."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _pgbouncer
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer import (
    Console,
    PgbouncerError,
    PgbouncerTimeout,
    environment_of,
    explain_login,
    listen_port,
)
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import Login

FIXTURES = Path(__file__).parents[1] / "fixtures/pgbouncer"


class FakeCursor:
    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection
        self.description: list[tuple[str]] | None = None
        self.found: list[tuple[Any, ...]] = []

    def execute(self, text: str) -> None:
        self.connection.said.append(text)
        answer = self.connection.answers.get(text)
        if isinstance(answer, Exception):
            raise answer
        if answer:
            self.description = [(name,) for name in answer[0]]
            self.found = [tuple(row.values()) for row in answer]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.found


class FakeConnection:
    """An asynchronous connection that is always ready."""

    def __init__(self, answers: dict[str, Any], notices: list[str] | None = None) -> None:
        self.answers, self.notices = answers, notices or []
        self.said: list[str] = []
        self.closed = False

    def cursor(self) -> FakeCursor:
        return FakeCursor(self)

    def poll(self) -> int:
        return int(psycopg2.extensions.POLL_OK)

    def close(self) -> None:
        self.closed = True


def console(answers: dict[str, Any] | None = None, notices: list[str] | None = None) -> tuple[Console, FakeConnection]:
    connection = FakeConnection(answers or {}, notices)
    return Console(connection, Login("10.0.0.5", 6432, "app", "s3cret", "pgbouncer"), 1), connection


@pytest.mark.parametrize(("name", "version"), [("1.15-before", (1, 15, 0)), ("1.18", (1, 18, 0)), ("1.24", (1, 24, 1))])
def test_recorded_answers(name: str, version: tuple[int, ...]) -> None:
    rows = json.loads((FIXTURES / f"{name}.json").read_text())
    made, dummy = console({f"SHOW {what}": rows[what] for what in rows})
    assert made.version() == version
    assert made.config()["default_pool_size"] == "20"
    assert made.show("DATABASES")[0]["pool_size"] == "20"
    assert made.show("DATABASES")[0]["pool_mode"] == ""


def test_a_version_that_comes_as_a_notice() -> None:
    assert console({}, ["NOTICE:  PgBouncer version 1.7.2 (debian)\n"])[0].version() == (1, 7, 2)
    with pytest.raises(PgbouncerError, match="not a pgBouncer"):
        console({"SHOW VERSION": [{"version": "PostgreSQL 15"}]})[0].version()


def test_set() -> None:
    made, connection = console()
    made.set("default_pool_size", "30")
    made.set("server_reset_query", "it's")
    assert connection.said == ["SET default_pool_size = '30'", "SET server_reset_query = 'it''s'"]
    with pytest.raises(PgbouncerError, match="not the name"):
        made.set("a = 1; SHUTDOWN", "1")


def test_what_the_console_refuses() -> None:
    made, dummy = console({"SET a = '1'": psycopg2.DatabaseError("ERROR:  admin access needed\n"), "SHOW X": psycopg2.DatabaseError("no\nsuch")})
    with pytest.raises(PgbouncerError, match=r"10\.0\.0\.5:6432.*admin access needed.*stats_users"):
        made.set("a", "1")
    with pytest.raises(PgbouncerError, match="no such.*log"):
        made.show("X")


def test_close_as_a_context() -> None:
    made, connection = console()
    with made as item:
        item.command("RELOAD")
    assert connection.closed
    assert connection.said == ["RELOAD"]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_nobody_answers(silent: int) -> None:
    with pytest.raises(PgbouncerTimeout, match=f"127.0.0.1:{silent}.*within 1 seconds") as raised:
        Console.open(Login("127.0.0.1", silent, "app", "s3cret", "pgbouncer", 1))
    assert "s3cret" not in str(raised.value)


def test_nobody_listens(silent: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(PgbouncerError, match="Check that the container runs"):
        Console.open(Login("127.0.0.1", port, "app", "s3cret", "pgbouncer", 2))


def test_something_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            taken, dummy = server.accept()
            taken.recv(100)
            taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            taken.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(PgbouncerError, match="log"):
            Console.open(Login("127.0.0.1", server.getsockname()[1], "app", "s3cret", "pgbouncer", 2))
        thread.join()


def test_a_password_that_can_not_be_sent() -> None:
    with pytest.raises(PgbouncerError, match="NUL") as raised:
        Console.open(Login("127.0.0.1", 1, "app", "s3cret\0x", "pgbouncer", 1))
    assert "s3cret" not in str(raised.value)


def test_psycopg2_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg2", None)
    with pytest.raises(PgbouncerError, match="python3-psycopg2"):
        Console.open(Login("127.0.0.1", 1, "app", "s3cret", "pgbouncer", 1))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("FATAL:  not allowed\n", "admin_users"),
        ("FATAL:  SASL authentication failed\n", "auth_file"),
        ('FATAL:  password authentication failed for user "app"\n', "RELOAD"),
        ("FATAL:  no such user: app\n", "auth_file"),
        ("Connection refused\n\tIs the server running?", "listens"),
        ("something new", "log"),
    ],
)
def test_explained_logins(answer: str, words: str) -> None:
    text = explain_login(answer, "app")
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("config", "port"),
    [
        ({}, 6432),
        ({"Env": ["A=b", "PGBOUNCER_PORT=6543"], "ExposedPorts": {"6432/tcp": {}}}, 6543),
        ({"Env": ["LISTEN_PORT=5432"]}, 5432),
        ({"Env": ["LISTEN_PORT="], "ExposedPorts": {"5432/tcp": {}}}, 5432),
        ({"Env": None, "ExposedPorts": {"5432/tcp": {}, "6432/tcp": {}, "1/udp": {}}}, 6432),
    ],
)
def test_listen_port(config: dict[str, Any], port: int) -> None:
    assert listen_port(config) == port


def test_environment_of() -> None:
    assert environment_of({"Env": ["A=b=c", "B="]}) == {"A": "b=c", "B": ""}


def test_port_and_console_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container is found by its service, and its port by itself, unless one is given."""

    class FakeDocker:
        def inspect(self, ids: list[str]) -> list[dict[str, Any]]:
            return [{"Config": {"Env": ["LISTEN_PORT=7000"]}}] if ids == ["c1"] else []

    class FakeContainer:
        id = "c1"

    logins = []
    monkeypatch.setattr(_pgbouncer, "container_of", lambda docker, service: FakeContainer())
    monkeypatch.setattr(_pgbouncer, "address_of", lambda container, port: "10.0.0.9")
    monkeypatch.setattr(Console, "open", logins.append)
    docker: Any = FakeDocker()
    _pgbouncer.console_of(docker, "pooler", "app", "pw")
    _pgbouncer.console_of(docker, "pooler", "app", "pw", 6432, 9)
    assert [(item.host, item.port, item.database, item.connect_timeout) for item in logins] == [
        ("10.0.0.9", 7000, "pgbouncer", 5),
        ("10.0.0.9", 6432, "pgbouncer", 9),
    ]
