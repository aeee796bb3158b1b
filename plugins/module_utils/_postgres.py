# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions on a PostgreSQL server that runs in a container of the project, reached at the container's own address.

No error text of this file holds a password or the text of a statement: a statement may carry a secret.
"""

from __future__ import annotations

import select
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

from ._addresses import choose_address

if TYPE_CHECKING:
    from ._compose import Container, Docker

LOGIN_ARGUMENTS: dict[str, Any] = {
    "login_user": {"type": "str", "default": "postgres"},
    "login_password": {"type": "str", "no_log": True},
    # The name of a variable, not its value.
    "login_password_variable": {"type": "str", "no_log": False},
    "connect_timeout": {"type": "int", "default": 5},
}

APPLICATION_NAME = "dghs.bd_fhir"
DEFAULT_PORT = 5432
# Seconds after which a statement of ours is cancelled, so that a lock held by somebody can't hang a night's run.
STATEMENT_TIMEOUT = 30

# What libpq and the server say when no session comes about: kind, texts, next step. The first that fits counts.
_REFUSALS = (
    (
        "password",
        ("password authentication failed", "sasl authentication failed", "scram authentication failed", "no password supplied"),
        "The user or the password is wrong: check login_user, and the variable in the .env file that login_password_variable names.",
    ),
    (
        "database",
        ('database "', "no such database"),
        "Check the name of the database, and that it exists on this server (psql -l).",
    ),
    (
        "role",
        ('role "', "no such user"),
        "Check login_user, and that this role exists and may log in.",
    ),
    (
        "hba",
        ("no pg_hba.conf entry", "pg_hba.conf rejects"),
        "The server's pg_hba.conf has no line for this host's address: add one, or log in as a user that has one.",
    ),
    (
        "full",
        ("too many clients", "remaining connection slots", "too many connections", "no more connections allowed"),
        "All connections are taken: see pg_stat_activity from inside the container (docker exec, psql as the superuser), and end idle ones.",
    ),
    (
        "starting",
        ("is starting up", "is shutting down", "is in recovery mode", "not yet accepting connections"),
        "The server is between two states: look at its log, wait, and run this again.",
    ),
    (
        "unreachable",
        (
            "connection refused",
            "timeout expired",
            "timed out",
            "no route to host",
            "network is unreachable",
            "could not translate",
            "could not connect",
            "server closed the connection",
            "connection reset",
        ),
        "Check that the container runs and listens on that address (listen_addresses), and that the service's network reaches this host.",
    ),
)
_STATEMENT_HINTS = {
    "42501": "Log in as a role that has this right: a superuser, or pg_monitor for reading.",
    "57014": "The statement took too long, or somebody cancelled it: look for locks in pg_stat_activity.",
    "55P03": "Somebody holds a lock on it: look at pg_stat_activity, and run this again.",
    "25006": "This server is a standby or read-only: give the primary.",
}


class PostgresError(Exception):
    """No session, or a statement failed. The text is complete and never holds a password.

    kind is one of: configuration, driver, container, password, database, role, hba, full, starting, unreachable, refused,
    statement, lost. sqlstate is the server's code of a statement that failed, "" otherwise.
    """

    def __init__(self, message: str, kind: str = "statement", sqlstate: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.sqlstate = sqlstate


@dataclass(frozen=True)
class Login:
    """Where and as whom a session is opened."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    connect_timeout: int = 5

    def where(self) -> str:
        """Return words for the server and the database, for messages."""
        host = "[%s]" % self.host if ":" in self.host else self.host
        return "%s:%d, database %s" % (host, self.port, self.database)


def secret_of(docker: Docker, password: Optional[str], variable: Optional[str]) -> str:
    """Return the password that was given, else the value of a variable of the project's environment file.

    Raises PostgresError that names the variable and the file, ComposeError when the file can't be read.
    """
    if password:
        return password
    if not variable:
        raise PostgresError("No password was given: give it, or the name of a variable of %s that holds it." % docker.env_file, "configuration")
    values = docker.env_values()
    if not values.get(variable):
        state = "is empty" if variable in values else "is not set"
        raise PostgresError(
            "The variable %s %s in %s, so there is no password to log in with. Correct the name of the variable, or set it there."
            % (variable, state, docker.env_file),
            "configuration",
        )
    return values[variable]


def container_of(docker: Docker, service: str) -> Container:
    """Return the one running container of a service. Raises PostgresError when there is none or more than one."""
    found = docker.containers(service)
    running = [item for item in found if item.state == "running"]
    if len(running) == 1:
        return running[0]
    if running:
        raise PostgresError(
            "The service %s of the project %s has %d running containers (%s) where one is expected."
            " Name a service that has one server, or scale it to 1."
            % (service, docker.project_name(), len(running), ", ".join(item.name for item in running)),
            "container",
        )
    if found:
        states = ", ".join("%s is %s (exit code %d)" % (item.name, item.state, item.exit_code) for item in found)
        raise PostgresError(
            "The service %s of the project %s has no running container: %s. Look at its log, and start it."
            % (service, docker.project_name(), states),
            "container",
        )
    others = sorted({item.service for item in docker.containers() if item.state == "running"})
    raise PostgresError(
        "The project %s has no container of a service %s. Services that run: %s. Correct the name of the service, or start it."
        % (docker.project_name(), service, ", ".join(others) or "none"),
        "container",
    )


def address_of(container: Container, port: int = 0) -> str:
    """Return an address of a container that this host reaches; with a port, the first one that listens there.

    Raises PostgresError for a container that is on no network, or shares the host's.
    """
    addresses = [container.addresses[network] for network in sorted(container.addresses)]
    if not addresses:
        raise PostgresError(
            "The container %s has no address of its own: it is on no network, or on the host's. Put the service on a network of the project."
            % container.name,
            "container",
        )
    return choose_address(addresses, port) if port else addresses[0]


def login_to(docker: Docker, container: Container, params: dict[str, Any], database: str, port: int = DEFAULT_PORT) -> Login:
    """Return the login that a module's parameters (fragment postgres) give to the server of a container.

    Raises PostgresError when there is no password or no address, ComposeError when the environment file can't be read.
    """
    password = secret_of(docker, params["login_password"], params["login_password_variable"])
    return Login(address_of(container, port), port, params["login_user"], password, database, params["connect_timeout"])


def driver() -> Any:
    """Return the module psycopg2. Raises PostgresError that names the package to install."""
    try:
        import psycopg2
        import psycopg2.extensions
    except ImportError as exc:
        raise PostgresError(
            "The Python library psycopg2 can't be imported by %s on this host: %s. Install the distribution's package python3-psycopg2,"
            " and let ansible_python_interpreter name the distribution's own Python." % (sys.executable, exc),
            "driver",
        ) from None
    return psycopg2


def without_secret(text: str, secret: str) -> str:
    """Return text in one line, without the secret. A secret of up to three characters is no secret and would spoil the text."""
    text = " ".join(text.split())
    return text.replace(secret, "********") if len(secret) > 3 else text


def refusal(text: str) -> tuple[str, str]:
    """Return the kind of a failed connection and the next step, from what libpq or the server said. Pure."""
    low = text.lower()
    for kind, marks, hint in _REFUSALS:
        if any(mark in low for mark in marks) and (kind not in ("database", "role") or "does not exist" in low or "no such" in low):
            return kind, hint
    return "refused", "Look at the log of the server's container for the reason."


def _arguments(login: Login) -> dict[str, Any]:
    """Return the arguments of every login of ours: PGOPTIONS, PGSSLMODE and the like of the environment, or a ~/.pgpass, must not decide."""
    return {
        "host": login.host,
        "port": login.port,
        "user": login.user,
        "password": login.password,
        "dbname": login.database,
        "application_name": APPLICATION_NAME,
        "options": "",
        "sslmode": "prefer",
        "gssencmode": "disable",
        "passfile": "/dev/null",  # the file that holds none
        "target_session_attrs": "any",
    }


def open_connection(login: Login, what: str = "PostgreSQL") -> Any:
    """Return a psycopg2 connection in autocommit; nothing is sent on it beyond the start-up, so pgBouncer's console takes it too.

    Raises PostgresError with its kind. what names the server in messages.
    """
    psycopg2 = driver()
    try:
        connection = psycopg2.connect(**_arguments(login), connect_timeout=login.connect_timeout)
    except psycopg2.Error as exc:
        text = without_secret(str(exc), login.password)
        kind, hint = refusal(text)
        raise PostgresError("No session as %s on %s at %s: %s. %s" % (login.user, what, login.where(), text.rstrip("."), hint), kind) from None
    except ValueError:
        # Its text may quote the password.
        raise PostgresError(
            "No session as %s on %s at %s: the user, the password or the database holds a character that can't be sent (NUL, or not UTF-8)."
            " Correct the value." % (login.user, what, login.where()),
            "configuration",
        ) from None
    connection.autocommit = True
    return connection


def _wait_until_ready(connection: Any, seconds: float) -> None:
    """Wait for an asynchronous connection. Raises TimeoutError, psycopg2.Error."""
    extensions = driver().extensions
    end = time.monotonic() + seconds
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        descriptor = connection.fileno()
        if state == extensions.POLL_READ:
            select.select([descriptor], [], [], left)
        else:
            select.select([], [descriptor], [], left)


def open_with_time_limit(login: Login, seconds: float) -> Any:
    """Return an asynchronous psycopg2 connection that was let in within so many seconds, for ask_with_time_limit().

    For a pooler and its console: no statement_timeout can be set there, and an answer may be long in coming.
    Nothing is left open on failure. Raises TimeoutError, psycopg2.Error, ValueError for what can't be sent (whose text may
    quote the password), PostgresError without psycopg2.
    """
    connection = driver().connect(**_arguments(login), async_=1)
    try:
        _wait_until_ready(connection, seconds)
    except BaseException:
        connection.close()
        raise
    return connection


def ask_with_time_limit(connection: Any, statement: str, seconds: float) -> Any:
    """Return the cursor of a statement that was answered within so many seconds. Raises TimeoutError, psycopg2.Error."""
    cursor = connection.cursor()
    cursor.execute(statement)
    _wait_until_ready(connection, seconds)
    return cursor


class Session:
    """A session in autocommit, also a context manager. Every method raises PostgresError."""

    def __init__(self, connection: Any, login: Login, what: str = "PostgreSQL") -> None:
        self._connection = connection
        self._login = login
        self._what = what

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self, query: Any, params: Any) -> Any:
        psycopg2 = driver()
        cursor = None
        try:
            cursor = self._connection.cursor()
            cursor.execute(query, params)
            return cursor
        except psycopg2.Error as exc:
            if cursor is not None:
                cursor.close()
            raise self._failure(exc) from None

    def _failure(self, exc: Any) -> PostgresError:
        diag = getattr(exc, "diag", None)
        sqlstate = exc.pgcode or ""
        # Not str(exc): below the message it quotes the line of the statement, which may hold a secret.
        text = getattr(diag, "message_primary", None) or ("" if sqlstate else str(exc).split("\n", maxsplit=1)[0])
        text = without_secret(text or exc.__class__.__name__, self._login.password)
        where = "%s at %s" % (self._what, self._login.where())
        if self._connection.closed:
            message = "The session as %s on %s was lost: %s. Look at the server's log." % (self._login.user, where, text)
            return PostgresError(message, "lost", sqlstate)
        hint = _STATEMENT_HINTS.get(sqlstate, "")
        code = " (SQLSTATE %s)" % sqlstate if sqlstate else ""
        message = "%s refused a statement of %s: %s%s. %s" % (where, self._login.user, text, code, hint)
        return PostgresError(message.strip(), "statement", sqlstate)

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        """Run a query, text or psycopg2.sql, and return its rows; none for a statement that returns no rows."""
        cursor = self._run(query, params)
        psycopg2 = driver()
        try:
            if cursor.description is None:
                return []
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]
        except psycopg2.Error as exc:
            raise self._failure(exc) from None
        finally:
            cursor.close()

    def value(self, query: Any, params: Any = None) -> Any:
        """Run a query and return the first column of its first row, None when there is no row."""
        for row in self.rows(query, params):
            return next(iter(row.values()))
        return None

    def execute(self, query: Any, params: Any = None) -> None:
        """Run a statement and forget what it returns."""
        self._run(query, params).close()

    def keep_out_of_logs(self) -> None:
        """Let the server log no statement of this session: one that carries a verifier is worth something to whoever can guess.

        Whoever may set these could read the verifiers from pg_authid.
        """
        for name, value in (("log_statement", "none"), ("log_min_error_statement", "panic"), ("log_min_duration_statement", "-1")):
            self.value("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))

    def close(self) -> None:
        """End the session; once more does no harm."""
        self._connection.close()


def connect(login: Login, statement_timeout: int = STATEMENT_TIMEOUT) -> Session:
    """Open a session on a server. Raises PostgresError: unreachable, wrong password, no such database, each with its next step.

    statement_timeout in seconds, 0 for none.
    """
    session = Session(open_connection(login), login)
    try:
        # Not in the start-up packet: a pgBouncer between us and the server refuses it there.
        session.execute("SELECT pg_catalog.set_config('statement_timeout', %s, false)", ("%ds" % statement_timeout,))
    except PostgresError:
        session.close()
        raise
    return session
