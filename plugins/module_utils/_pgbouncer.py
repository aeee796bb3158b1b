# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pgBouncer: its admin console, its port, its ini file, and which version can do what."""

from __future__ import annotations

import re

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from ._compose import version_tuple
from ._postgres import Login, PostgresError, address_of, ask_with_time_limit, container_of, driver, open_with_time_limit, without_secret

if TYPE_CHECKING:
    from ._compose import Container, Docker

CONSOLE_ARGUMENTS: dict[str, Any] = {
    "admin_user": {"type": "str"},
    "admin_password": {"type": "str", "no_log": True},
    # The name of a variable, not its value.
    "admin_password_variable": {"type": "str", "no_log": False},
    "port": {"type": "int"},
}

DEFAULT_PORT = 6432

# Names under which the well-known images take the port on which pgBouncer listens.
PORT_VARIABLES = ("PGBOUNCER_PORT", "PGBOUNCER_LISTEN_PORT", "LISTEN_PORT")

_SETTING = re.compile(r"[a-z][a-z0-9_]*\Z")


class PgbouncerError(Exception):
    """The pooler can't be reached or refuses. The text is complete and never holds a password."""


class PgbouncerTimeout(PgbouncerError):
    """The pooler did not answer in time; the console is closed. What it was asked for may still come to pass."""


class Console:
    """The admin console of one pgBouncer, the database `pgbouncer`.

    The connection is asynchronous, so that no answer is waited for without end: PAUSE answers when the last transaction
    has ended, and that may be never. The console knows no transactions, no parameters, and no statement_timeout.
    """

    def __init__(self, connection: Any, login: Login, reply_timeout: float) -> None:
        self._connection = connection
        self._login = login
        self._reply_timeout = reply_timeout

    @classmethod
    def open(cls, login: Login, reply_timeout: float = 10) -> Console:
        """Log in; login.database is not used. reply_timeout: seconds within which each later command has to answer.

        Raises PgbouncerError that tells apart: unreachable, wrong password, a user who may not use the console.
        """
        try:
            psycopg2 = driver()
        except PostgresError as exc:
            raise PgbouncerError(str(exc)) from None
        where = "No login as %s on pgBouncer at %s:%d" % (login.user, login.host, login.port)
        try:
            connection = open_with_time_limit(replace(login, database="pgbouncer"), login.connect_timeout)
        except psycopg2.Error as exc:
            raise PgbouncerError("%s. %s" % (where, explain_login(without_secret(str(exc), login.password), login.user))) from None
        except ValueError:
            # Its text may quote the password.
            raise PgbouncerError("%s: the user or the password holds a character that can't be sent (NUL, or not UTF-8)." % where) from None
        except TimeoutError:
            raise PgbouncerTimeout(
                "%s: no answer within %d seconds. Check that the container runs and that the port is the one on which it listens."
                % (where, login.connect_timeout)
            ) from None
        return cls(connection, login, reply_timeout)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _query(self, text: str, timeout: Optional[float]) -> list[dict[str, str]]:
        psycopg2 = driver()
        seconds = self._reply_timeout if timeout is None else timeout
        where = "pgBouncer at %s:%d" % (self._login.host, self._login.port)
        try:
            cursor = ask_with_time_limit(self._connection, text, seconds)
            if cursor.description is None:
                return []
            names = [column[0] for column in cursor.description]
            return [{name: "" if value is None else str(value) for name, value in zip(names, row)} for row in cursor.fetchall()]
        except psycopg2.Error as exc:
            answer = " ".join(str(exc).split())
            hint = "Look at the pooler's log."
            if "admin access needed" in answer:
                hint = "The user %s is only in stats_users: give one that admin_users in the pooler's configuration names." % self._login.user
            raise PgbouncerError("%s refuses `%s`: %s. %s" % (where, text, answer.rstrip("."), hint)) from None
        except TimeoutError:
            self.close()
            raise PgbouncerTimeout("%s did not answer `%s` within %g seconds." % (where, text, seconds)) from None

    def show(self, what: str) -> list[dict[str, str]]:
        """Return the rows of SHOW, each value as text, NULL as empty text."""
        return self._query("SHOW " + what, None)

    def command(self, text: str, timeout: Optional[float] = None) -> None:
        """Run a command such as PAUSE, RESUME, RELOAD. timeout: seconds for this one; PgbouncerTimeout when it has passed.

        A PAUSE that was given up goes on waiting in the pooler and holds new clients back: send RESUME through a new console.
        """
        self._query(text, timeout)

    def set(self, name: str, value: str) -> None:
        """Change a setting of the running pooler. It holds until the pooler reads its file again."""
        if not _SETTING.match(name):
            raise PgbouncerError("%r is not the name of a pgBouncer setting." % name)
        self._query("SET %s = '%s'" % (name, value.replace("'", "''")), None)

    def config(self) -> dict[str, str]:
        """Return SHOW CONFIG as name -> value."""
        return {row["key"]: row["value"] for row in self.show("CONFIG")}

    def version(self) -> tuple[int, ...]:
        """Return the version of the pooler, such as (1, 18, 0)."""
        rows = self.show("VERSION")
        # Before 1.12 it came as a notice.
        text = " ".join(rows[0].values()) if rows else " ".join(self._connection.notices)
        match = re.search(r"PgBouncer (?:version )?([0-9][0-9.]*)", text, re.IGNORECASE)
        if not match:
            raise PgbouncerError(
                "What answers at %s:%d is not a pgBouncer that tells its version: %r." % (self._login.host, self._login.port, text)
            )
        return version_tuple(match.group(1))

    def close(self) -> None:
        """Close the connection. May be called again."""
        self._connection.close()


def explain_login(answer: str, user: str) -> str:
    """Return what pgBouncer said to a login, in one line, and what to do next. Pure."""
    text = " ".join(answer.split())
    low = text.lower()
    if "not allowed" in low or "no such database" in low or "admin" in low:
        hint = "The console is closed to %s: name the user in admin_users of the pooler's configuration, or give one that is named there." % user
    elif "no such user" in low or "password" in low or "auth" in low or "sasl" in low:
        hint = (
            "The password is not the one in the pooler's auth_file, or %s is not in it."
            " pgBouncer reads that file again on RELOAD only, so a password changed since needs one." % user
        )
    elif "refused" in low or "no route" in low or "unreachable" in low or "timeout" in low or "timed out" in low:
        hint = "Check that the container runs and that the port is the one on which pgBouncer listens."
    else:
        hint = "Look at the pooler's log."
    return "It answered: %s. %s" % (text.rstrip("."), hint)


def console_of(docker: Docker, service: str, user: str, password: str, port: Optional[int] = None, connect_timeout: int = 5) -> Console:
    """Open the console of the one running container of a service. Raises PgbouncerError, PostgresError, ComposeError."""
    container = container_of(docker, service)
    listens = port or port_of(docker, container)
    login = Login(
        host=address_of(container, listens),
        port=listens,
        user=user,
        password=password,
        database="pgbouncer",
        connect_timeout=connect_timeout,
    )
    return Console.open(login)


def port_of(docker: Docker, container: Container) -> int:
    """Return the port on which the pgBouncer in a container listens: what its environment says, or its image exposes."""
    found = docker.inspect([container.id])
    return listen_port((found[0].get("Config") or {}) if found else {})


def listen_port(config: dict[str, Any]) -> int:
    """Return the port of the part Config of `docker container inspect`; pgBouncer's default when nothing tells. Pure."""
    environment = environment_of(config)
    for name in PORT_VARIABLES:
        if environment.get(name, "").isdigit():
            return int(environment[name])
    exposed = sorted(int(item.partition("/")[0]) for item in config.get("ExposedPorts") or {} if item.endswith("/tcp"))
    if len(exposed) == 1:
        return exposed[0]
    return DEFAULT_PORT


def environment_of(config: dict[str, Any]) -> dict[str, str]:
    """Return the environment in the part Config of `docker container inspect` (secret!). Pure."""
    pairs = [item.partition("=") for item in config.get("Env") or []]
    return {name: value for name, dummy, value in pairs}
