# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Holding the clients of one pgBouncer back while its database server is restarted, and never for longer.

Whoever holds clients back may be killed. So a process of its own watches over each pause: it lets the clients go on when
the one who paused is gone, or has taken too long.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from dataclasses import dataclass
from typing import Any, Callable, Optional
from collections.abc import Iterable, Mapping, Sequence

from ._pgbouncer import Console, PgbouncerError, PgbouncerTimeout
from ._postgres import Login, PostgresError, ask_with_time_limit, driver, open_with_time_limit, without_secret

Row = Mapping[str, str]

# pgBouncer's own database, the console.
CONSOLE = "pgbouncer"
# For so long clients are held back at most because their pooler remembers a former address.
NAMES_SECONDS = 60
# What the watcher is told when it is not needed any more.
DONE = b"d"


class PauseError(Exception):
    """The clients could not be held back, or not be let go on. The text is complete."""


# --- which databases of the pooler are concerned -------------------------------------------------------------------


def databases_of(rows: Iterable[Row], hosts: Iterable[str], port: int) -> list[str]:
    """Return the databases of SHOW DATABASES whose server is at one of the hosts (names or addresses). Pure."""
    wanted = set(hosts)
    found = []
    for row in rows:
        named = {item.strip() for item in row.get("host", "").split(",")}
        if row["name"] != CONSOLE and named & wanted and row.get("port") in ("", str(port)):
            found.append(row["name"])
    return found


def session_pools(databases: Iterable[Row], users: Iterable[Row], pools: Iterable[Row], config: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Return in words which of the databases have, or could have, a pool in session mode. Pure.

    pgBouncer takes the mode of the user, else that of the database, else pool_mode.
    """
    found = []
    default = config.get("pool_mode", "session")
    for row in databases:
        if row["name"] in names and (row.get("pool_mode") or default) == "session":
            found.append("database %s" % row["name"])
    found += ["user %s" % row["name"] for row in users if row.get("pool_mode") == "session"]
    for row in pools:
        words = "database %s with user %s" % (row["database"], row["user"])
        covered = {"database %s" % row["database"], "user %s" % row["user"]} & set(found)
        if row["database"] in names and row.get("pool_mode") == "session" and not covered:
            found.append(words)
    return found


def busy(pools: Iterable[Row], names: Sequence[str]) -> str:
    """Return in words who still holds a server connection, for the message of a pause that did not come about. Pure."""
    parts = []
    for row in pools:
        active = int(row.get("sv_active") or 0)
        if row["database"] in names and active:
            parts.append("%d of user %s in %s" % (active, row["user"], row["database"]))
    return ", ".join(parts) or "none that SHOW POOLS still lists"


# --- the watcher ---------------------------------------------------------------------------------------------------


class Watchdog:
    """A process that calls an action when this process has ended without cancel(), or when too much time has passed."""

    def __init__(self, pid: int, writer: int) -> None:
        self._pid = pid
        self._writer: Optional[int] = writer

    @classmethod
    def start(cls, seconds: float, ready: Callable[[], bool], action: Callable[[], None], patience: float = 30) -> Watchdog:
        """Start it. seconds: after which it acts in any case.

        ready: asked again and again when this process is gone, until it says True or patience seconds are over; then
        action is called, and called again while it fails. Both run in the new process and must not use what is open here.
        """
        reader, writer = os.pipe()
        pid = os.fork()
        if pid:
            os.close(reader)
            return cls(pid, writer)
        try:
            # The end of the operator's session must not end it too.
            os.setsid()
            _forget_files(reader)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            _watch(reader, seconds, ready, action, patience)
        finally:
            # Nothing of this process may run on as if it were the module.
            os._exit(0)

    def cancel(self) -> None:
        """Tell it that it is not needed any more, and see it end."""
        if self._writer is None:
            return
        with contextlib.suppress(BrokenPipeError):
            os.write(self._writer, DONE)
        os.close(self._writer)
        self._writer = None
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                    time.sleep(0.02)
                    continue
            return


def _forget_files(keep: int) -> None:
    """Close every descriptor but one: whoever reads our output, or waits for our lock, must not wait for the watcher."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    os.closerange(3, keep)
    os.closerange(keep + 1, highest + 1)


def _watch(reader: int, seconds: float, ready: Callable[[], bool], action: Callable[[], None], patience: float) -> None:
    readable, dummy, dummy2 = select.select([reader], [], [], seconds)
    if readable and os.read(reader, 1) == DONE:
        return
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            if ready():
                break
        time.sleep(0.3)
    # Whoever was to call it is gone: nobody else will, so it is tried for long.
    end = time.monotonic() + 600
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            action()
            return
        time.sleep(1)


# --- pausing -------------------------------------------------------------------------------------------------------


def paused(console: Console, names: Sequence[str]) -> list[str]:
    """Return those of the databases that are paused, or on the way to it. Raises PgbouncerError."""
    return [row["name"] for row in console.show("DATABASES") if row["name"] in names and row.get("paused") == "1"]


def resume(login: Login, names: Sequence[str]) -> None:
    """Let the clients of the databases go on, and see that they can. Raises PgbouncerError, PauseError."""
    with Console.open(login) as console:
        for name in paused(console, names):
            try:
                console.command("RESUME %s" % identifier(name))
            except PgbouncerError as exc:
                # The watcher and its master may both do it.
                if "is not paused" not in str(exc):
                    raise
        left = paused(console, names)
    if left:
        raise PauseError(
            "pgBouncer at %s:%d still holds the clients of %s back, after RESUME. Run RESUME on its console by hand."
            % (login.host, login.port, ", ".join(left))
        )


def identifier(name: str) -> str:
    """Return the name of a database for the console, whose words are split as the server does it. Pure."""
    return '"%s"' % name.replace('"', '""')


@dataclass
class Pause:
    """Some databases of one pooler, held back from hold() until release(), under the eyes of a watcher."""

    login: Login
    names: list[str]
    watchdog: Optional[Watchdog] = None

    def hold(self, seconds: float, limit: float, ready: Callable[[], bool], wait: bool = True) -> None:
        """Hold the clients back. Raises PauseError, PgbouncerError; then they are let go on already.

        seconds: how long the last transactions may take to end; limit: after which the watcher lets clients go on.
        ready: whether the server takes connections, for the watcher.
        wait False: for session mode, where clients let go of a server only when they leave; those who come have to wait,
        and no connection to a server is made until release().
        """
        login, names = self.login, list(self.names)
        self.watchdog = Watchdog.start(limit, ready, lambda: resume(login, names))
        end = time.monotonic() + seconds
        try:
            for name in names:
                with Console.open(login) as console:
                    try:
                        console.command("PAUSE %s" % identifier(name), timeout=max(0.1, end - time.monotonic()) if wait else 0.5)
                    except PgbouncerTimeout:
                        if wait:
                            raise self._not_quiet(seconds) from None
            with Console.open(login) as console:
                missing = sorted(set(names) - set(paused(console, names)))
            if missing:
                raise PauseError(
                    "pgBouncer at %s:%d does not hold the clients of %s back after PAUSE." % (login.host, login.port, ", ".join(missing))
                )
        except BaseException:
            self.release()
            raise

    def _not_quiet(self, seconds: float) -> PauseError:
        try:
            with Console.open(self.login) as console:
                words = busy(console.show("POOLS"), self.names)
        except PgbouncerError as exc:
            words = "not known (%s)" % exc
        return PauseError(
            "Nothing was restarted: transactions did not end within %g seconds of PAUSE on pgBouncer at %s:%d, so their clients go on as before."
            " Server connections that are held: %s. Look for long transactions in pg_stat_activity, and run this again, or raise pause_timeout."
            % (seconds, self.login.host, self.login.port, words)
        )

    def release(self) -> None:
        """Let the clients go on. When that fails the watcher stays and goes on trying. Raises PgbouncerError, PauseError."""
        if self.watchdog is None:
            return
        resume(self.login, self.names)
        self.watchdog.cancel()
        self.watchdog = None


# --- the pooler's memory of names ----------------------------------------------------------------------------------


def stale_seconds(rows: Iterable[Row], hosts: Iterable[str], addresses: Iterable[str]) -> int:
    """Return for how many seconds the pooler still takes a name for another address than the server has now. Pure.

    rows: SHOW DNS_HOSTS. A container that is restarted may come back with another address.
    """
    wanted, known = set(hosts), set(addresses)
    stale = 0
    for row in rows:
        found = {item.strip().rpartition(":")[0] or item.strip() for item in row.get("addrs", "").split(",")} - {""}
        if row["hostname"] in wanted and found and not found <= known:
            # It is told in whole seconds: 0 may be nearly one.
            stale = max(stale, int(row.get("ttl") or 0) + 1)
    return stale


def wait_for_names(login: Login, hosts: Sequence[str], addresses: Sequence[str], interval: float = 0.3) -> float:
    """Wait until the pooler would reach the server under its present address; return the seconds that it took.

    A pooler that connects to the former address fails, and then waits for server_login_retry seconds before the next try,
    with all its clients. Raises PgbouncerError.
    """
    begin = time.monotonic()
    with Console.open(login) as console:
        # Only somebody who has raised dns_max_ttl far above its 15 seconds could meet the limit.
        left = min(stale_seconds(console.show("DNS_HOSTS"), hosts, addresses), NAMES_SECONDS)
        # What is out of date stays listed until it is needed, so that the list alone does not tell the end.
        while left and time.monotonic() - begin < left:
            time.sleep(interval)
            if not stale_seconds(console.show("DNS_HOSTS"), hosts, addresses):
                break
    return time.monotonic() - begin


# --- proof ---------------------------------------------------------------------------------------------------------


def query_through(login: Login, query: str, timeout: float) -> str:
    """Log in through the pooler, run a query, and return its first value as text. Raises PostgresError.

    Not a Session: it sets statement_timeout, and in transaction mode that would stay on a server connection of others.
    """
    psycopg2 = driver()
    connection: Any = None
    try:
        end = time.monotonic() + timeout
        connection = open_with_time_limit(login, timeout)
        cursor = ask_with_time_limit(connection, query, max(0.1, end - time.monotonic()))
        return str(cursor.fetchone()[0])
    except psycopg2.Error as exc:
        text = without_secret(str(exc), login.password)
    except TimeoutError:
        text = "no answer within %g seconds" % timeout
    finally:
        if connection is not None:
            connection.close()
    raise PostgresError(
        "A login and a query as %s through the pooler at %s failed: %s. Look at the logs of the pooler and of the server."
        % (login.user, login.where(), text.rstrip(".")),
        "unreachable",
    )
