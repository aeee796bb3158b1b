# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import builtins
import os
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _postgres
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import Container
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import Login, PostgresError

PASSWORD = "pass word's"
LOGIN = Login("10.0.0.5", 5432, "postgres", PASSWORD, "fhirdb")


def container(service: str = "postgres", state: str = "running", number: int = 1, addresses: dict[str, str] | None = None) -> Container:
    return Container(
        id=f"{service}{number}", name=f"p-{service}-{number}", service=service, number=number, oneoff=False, state=state, health="none", exit_code=1,
        oom_killed=False, image_ref="", image_id="", config_hash="", created="", started_at="", restart_count=0, restart_policy="no",
        addresses={"b": "10.0.0.5", "a": "10.0.1.5"} if addresses is None else addresses,
    )  # fmt: skip


class Docker:
    """As much of Docker as is asked for a service and a secret."""

    env_file = "/site/.env"

    def __init__(self, *containers: Container, **values: str) -> None:
        self._containers = containers
        self._values = values

    def containers(self, service: str | None = None) -> list[Container]:
        return [item for item in self._containers if service in (None, item.service)]

    def project_name(self) -> str:
        return "p"

    def env_values(self) -> dict[str, str]:
        return self._values


def error(call: Any, *args: Any, **more: Any) -> PostgresError:
    with pytest.raises(PostgresError) as raised:
        call(*args, **more)
    assert PASSWORD not in str(raised.value)
    return raised.value


@pytest.mark.parametrize(
    ("containers", "text"),
    [
        ([container("other"), container("stopped", "exited")], "no container of a service postgres. Services that run: other."),
        ([], "Services that run: none."),
        ([container(state="exited"), container(number=2, state="created")], "p-postgres-1 is exited (exit code 1), p-postgres-2 is created"),
        ([container(), container(number=2)], "has 2 running containers (p-postgres-1, p-postgres-2) where one is expected"),
    ],
)
def test_not_exactly_one_container(containers: list[Container], text: str) -> None:
    found = error(_postgres.container_of, Docker(*containers), "postgres")
    assert text in str(found)
    assert found.kind == "container"


def test_the_one_that_runs() -> None:
    assert _postgres.container_of(Docker(container(state="exited"), container(number=2)), "postgres").number == 2


def test_an_address_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _postgres.address_of(container()) == "10.0.1.5"
    monkeypatch.setattr(_postgres, "choose_address", lambda addresses, port: addresses[1])
    assert _postgres.address_of(container(), 5432) == "10.0.0.5"
    assert "is on no network" in str(error(_postgres.address_of, container(addresses={})))


def test_secrets_come_from_the_option_or_from_the_file() -> None:
    docker = Docker(SECRET=PASSWORD, EMPTY="")
    assert _postgres.secret_of(docker, PASSWORD, "NOT_ASKED_FOR") == PASSWORD
    assert _postgres.secret_of(docker, None, "SECRET") == PASSWORD
    assert "NO_SUCH is not set in /site/.env" in str(error(_postgres.secret_of, docker, None, "NO_SUCH"))
    assert "EMPTY is empty in /site/.env" in str(error(_postgres.secret_of, docker, "", "EMPTY"))
    assert "No password was given" in str(error(_postgres.secret_of, docker, None, None))


def test_a_login_does_not_show_its_password() -> None:
    assert PASSWORD not in repr(LOGIN)
    assert LOGIN.where() == "10.0.0.5:5432, database fhirdb"
    assert Login("fd00::5", 5432, "u", "p", "d").where().startswith("[fd00::5]:5432")


# What libpq 15 and PostgreSQL 15 and pgBouncer 1.18 really say.
REFUSALS = {
    'connection to server at "10.0.0.5", port 5432 failed: FATAL:  password authentication failed for user "postgres"\n': "password",
    'connection to server at "10.0.0.5", port 5432 failed: fe_sendauth: no password supplied\n': "password",
    'connection to server at "10.0.0.5", port 6432 failed: FATAL:  SASL authentication failed\n': "password",
    'connection to server at "10.0.0.5", port 5432 failed: FATAL:  database "nothing" does not exist\n': "database",
    'connection to server at "10.0.0.5", port 5432 failed: FATAL:  role "x" does not exist\n': "role",
    'connection to server at "10.0.0.5", port 5432 failed: FATAL:  role "x" is not permitted to log in\n': "refused",
    'connection to server at "10.0.0.5", port 5432 failed: FATAL:  too many connections for role "x"\n': "full",
    'connection to server at "10.0.0.5", port 5432 failed: FATAL:  sorry, too many clients already\n': "full",
    'connection failed: FATAL:  remaining connection slots are reserved for non-replication superuser connections\n': "full",
    'connection failed: FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "postgres", database "fhirdb", no encryption\n': "hba",
    "connection failed: FATAL:  the database system is starting up\n": "starting",
    'connection to server at "10.0.0.5", port 5433 failed: Connection refused\n\tIs the server running on that host?': "unreachable",
    'connection to server at "10.0.0.5", port 5432 failed: timeout expired\n': "unreachable",
    'connection to server at "10.0.0.5", port 5432 failed: No route to host\n': "unreachable",
    "something new": "refused",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_each_refusal_has_its_kind_and_next_step(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: Any) -> None:
        raise psycopg2.OperationalError(text + PASSWORD)

    monkeypatch.setattr(psycopg2, "connect", refuse)
    found = error(_postgres.connect, LOGIN)
    assert found.kind == REFUSALS[text]
    assert "No session as postgres on PostgreSQL at 10.0.0.5:5432, database fhirdb" in str(found)
    assert "********" in str(found)
    assert "\n" not in str(found)
    assert str(found).endswith(".")


def test_the_environment_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(psycopg2, "connect", lambda **args: given.update(args) or SimpleNamespace(autocommit=False))
    assert _postgres.open_connection(LOGIN).autocommit is True
    assert (given["options"], given["sslmode"], given["passfile"], given["connect_timeout"]) == ("", "prefer", "/dev/null", 5)


class Asynchronous:
    """An asynchronous connection, readable at once, that is ready after so many questions."""

    def __init__(self, states: list[int]) -> None:
        self.states = states
        self.closed = False
        self.pipe, self.other = os.pipe()
        os.write(self.other, b"x")

    def poll(self) -> int:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def fileno(self) -> int:
        return self.pipe

    def cursor(self) -> Asynchronous:
        return self

    def execute(self, statement: str) -> None:
        self.statement = statement

    def close(self) -> None:
        self.closed = True
        os.close(self.pipe)
        os.close(self.other)


READ, OK = psycopg2.extensions.POLL_READ, psycopg2.extensions.POLL_OK


def test_a_login_and_a_statement_with_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    connection = Asynchronous([READ, READ, OK])
    monkeypatch.setattr(psycopg2, "connect", lambda **args: given.update(args) or connection)
    assert _postgres.open_with_time_limit(LOGIN, 5) is connection
    assert (given["options"], given["sslmode"], given["passfile"], given["gssencmode"], given["async_"]) == ("", "prefer", "/dev/null", "disable", 1)
    cursor: Any = _postgres.ask_with_time_limit(connection, "SELECT 1", 5)
    assert cursor.statement == "SELECT 1"
    assert not connection.closed
    connection.states = [READ]
    with pytest.raises(TimeoutError):
        _postgres.ask_with_time_limit(connection, "SELECT 2", 0.01)
    connection.close()


def test_a_login_that_takes_too_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Asynchronous([READ])
    monkeypatch.setattr(psycopg2, "connect", lambda **args: connection)
    with pytest.raises(TimeoutError):
        _postgres.open_with_time_limit(LOGIN, 0.01)
    assert connection.closed


def test_a_password_that_can_not_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: Any) -> None:
        raise ValueError("embedded null byte in " + PASSWORD)

    monkeypatch.setattr(psycopg2, "connect", refuse)
    assert "holds a character that can't be sent" in str(error(_postgres.connect, LOGIN))


def test_without_the_driver_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("psycopg2"):
            raise ImportError("No module named 'psycopg2'")
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    found = error(_postgres.connect, LOGIN)
    assert found.kind == "driver"
    assert "Install the distribution's package python3-psycopg2" in str(found)


class Failed(psycopg2.ProgrammingError):
    """An error of a statement, as psycopg2 makes it: what str() shows quotes the statement."""

    pgcode = "42501"
    diag = SimpleNamespace(message_primary=f"permission denied for {PASSWORD}")

    def __str__(self) -> str:
        return f"permission denied\nLINE 1: ALTER ROLE x PASSWORD 'another-secret {PASSWORD}'"


class Connection:
    """A psycopg2 connection whose statements fail, or answer rows."""

    closed = 0

    def __init__(self, rows: list[tuple[Any, ...]] | Exception, names: list[str] | None = None) -> None:
        self._rows = rows
        self.description = [(name,) for name in names] if names else None
        self.ran: list[Any] = []

    def cursor(self) -> Connection:
        return self

    def execute(self, query: str, params: Any) -> None:
        self.ran.append((query, params))
        if isinstance(self._rows, Exception):
            raise self._rows

    def fetchall(self) -> Any:
        return self._rows

    def close(self) -> None:
        pass


def test_a_statement_that_fails_is_not_quoted() -> None:
    session = _postgres.Session(Connection(Failed()), LOGIN)
    found = error(session.execute, "ALTER ROLE x PASSWORD 'another-secret'")
    assert (found.kind, found.sqlstate) == ("statement", "42501")
    assert "another-secret" not in str(found)
    assert "SQLSTATE 42501" in str(found)
    assert "pg_monitor" in str(found)


def test_a_session_that_was_lost() -> None:
    connection = Connection(psycopg2.OperationalError("server closed the connection unexpectedly\n\tThis probably means"))
    connection.closed = 2
    found = error(_postgres.Session(connection, LOGIN).value, "SELECT 1")
    assert (found.kind, "server closed the connection unexpectedly" in str(found)) == ("lost", True)


def test_rows_and_values() -> None:
    connection = Connection([(1, "a"), (2, "b")], ["id", "name"])
    with _postgres.Session(connection, LOGIN) as session:
        assert session.rows("SELECT %s", ("x",)) == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
        assert session.value("SELECT") == 1
    assert connection.ran == [("SELECT %s", ("x",)), ("SELECT", None)]
    assert _postgres.Session(Connection([], ["id"]), LOGIN).value("SELECT") is None
    assert _postgres.Session(Connection([]), LOGIN).rows("SET x = 1") == []


def test_statements_have_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection([])
    monkeypatch.setattr(_postgres, "open_connection", lambda login: connection)
    _postgres.connect(LOGIN, statement_timeout=7)
    assert connection.ran == [("SELECT pg_catalog.set_config('statement_timeout', %s, false)", ("7s",))]
