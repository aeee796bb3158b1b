# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The change of one password: what is remembered of it on the host, and which password is let in where.

The record lies beside the journal, readable by root only, and not in the journal. The new password is on disk before any
server has it, so that a kill never leaves a server with a password that nobody knows.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import stat
import time

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Optional
from collections.abc import Mapping

from . import _change
from ._files import replace_file, sync_directory
from ._passwords import SALT_BYTES, generate, matches, scram_verifier, unusable
from ._pgbouncer import Console, PgbouncerError, PgbouncerTimeout, port_of
from ._postgres import (
    Login,
    PostgresError,
    address_of,
    ask_with_time_limit,
    container_of,
    driver,
    open_with_time_limit,
    refusal,
    secret_of,
    without_secret,
)
from ._userlist import AuthFile

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ._compose import Docker
    from ._postgres import Session

OPEN, DONE, BACK = "open", "done", "rolled_back"

PASSWORD_ARGUMENTS: dict[str, Any] = {
    "password": {"type": "str", "no_log": True},
    # Names, not values.
    "password_variable": {"type": "str", "no_log": False},
    "rotation": {"type": "str", "no_log": False},
}
PASSWORD_SOURCES = ("password", "password_variable", "rotation")

# Nobody's database. pgBouncer looks at the password first, so its answer tells whether that was right, without a server.
NO_DATABASE = "dghs_bd_fhir_login_check"

SERVER_LOGIN_PATIENCE = 40.0  # seconds; pgBouncer's server_login_retry is 15 unless its owner has changed it


class RotationError(Exception):
    """The record can't be used, or a login is not as it has to be. The text is complete and holds no password."""


# --- the record ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What is remembered of one secret."""

    name: str
    variable: str
    role: str
    database_service: str
    state: str = OPEN
    reverse: bool = False  # whether what is open is a way back
    old: str = field(default="", repr=False)  # while open: what is replaced; done: what a way back brings back
    new: str = field(default="", repr=False)  # only while open
    salt: str = ""  # base64; one salt gives the server and a userlist the same verifier
    written: str = field(default="", repr=False)  # verifier of what the last rotation wrote into the environment file
    generated: bool = False
    at: float = 0.0  # when it got into this state

    @property
    def open(self) -> bool:
        """Whether a rotation is under way."""
        return self.state == OPEN

    def salt_bytes(self) -> bytes:
        """Return the salt."""
        return base64.b64decode(self.salt)

    def opened(self, old: str, new: str, reverse: bool, generated: bool, now: float) -> Record:
        """Return the record of a rotation from old to new that begins."""
        salt = base64.b64encode(secrets.token_bytes(SALT_BYTES)).decode("ascii")
        return replace(self, state=OPEN, reverse=reverse, old=old, new=new, salt=salt, generated=generated, at=now)

    def turned(self, now: float) -> Record:
        """Return the record of the way back from a rotation that is open."""
        return self.opened(self.new, self.old, not self.reverse, False, now)

    def finished(self, now: float) -> Record:
        """Return the record once the new password is everywhere. After a way back there is nothing to go back to."""
        written = scram_verifier(self.new, self.salt_bytes())
        if self.reverse:
            return replace(self, state=BACK, old="", new="", salt="", written=written, at=now)
        return replace(self, state=DONE, new="", salt="", written=written, at=now)

    def wrote(self, value: str) -> bool:
        """Tell whether value is what the last finished rotation wrote."""
        return matches(self.written, value, self.role)


def path_of(project: str, name: str) -> str:
    """Return where the record of a secret lies. Raises RotationError for a name that can't be one."""
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z", name):
        raise RotationError("%r can't be the name of a secret. Use letters, digits, - and _." % name)
    return os.path.join(_change.directory_of(project), "rotations", name + ".json")


def load(path: str) -> Optional[Record]:
    """Return the record, None when there is none. Raises RotationError."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as handle:
            info = os.fstat(handle.fileno())
            data = json.load(handle)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise RotationError("The record %s can't be read: %s. Use become." % (path, exc.strerror)) from None
    except ValueError:
        raise RotationError(
            "The record %s is damaged. The password may stand in it: keep it, find out by hand which password the server takes,"
            " put that one into the environment file, and move the record away." % path
        ) from None
    if stat.S_IMODE(info.st_mode) & 0o077 or info.st_uid not in (0, os.geteuid()):
        raise RotationError("The record %s holds passwords, and others than root and the remote user may read it: chmod 600 it, and chown it." % path)
    try:
        return Record(**data)
    except TypeError:
        raise RotationError("The record %s was written by another version of this collection. Finish the rotation with that one." % path) from None


def save(path: str, record: Record) -> None:
    """Put the record on disk, for good, before anything is done that needs it. Raises RotationError."""
    directory = os.path.dirname(path)
    try:
        for item in (os.path.dirname(directory), directory):
            if not os.path.isdir(item):
                os.makedirs(item, mode=0o700)
                sync_directory(os.path.dirname(item))
        replace_file(path, json.dumps(asdict(record), indent=2, sort_keys=True) + "\n", 0o600)
    except OSError as exc:
        raise RotationError("The record %s can't be written: %s. Free space on that file system, or use become." % (path, exc.strerror)) from None


# --- which password ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Passwords:
    """The wanted password of a role, the one before it where that is known, and the salt that all places share."""

    wanted: str = field(repr=False)
    old: str = field(default="", repr=False)
    salt: Optional[bytes] = field(default=None, repr=False)
    variable: str = ""

    def candidates(self, docker: Docker, user: str, role: str, given: Optional[str], variable: Optional[str]) -> list[str]:
        """Return the passwords with which user may get in at this moment, the likeliest first.

        A login that hangs on the secret that is being changed has the old one or the new one, whatever step was the last.
        Raises PostgresError when there is none, ComposeError.
        """
        found = []
        if given or variable:
            found.append(secret_of(docker, given, variable))
        if self.wanted and ((variable and variable == self.variable) or user == role):
            found += [self.wanted, self.old]
        elif not found:
            found.append(secret_of(docker, given, variable))
        return [item for number, item in enumerate(found) if item and item not in found[:number]]


def passwords_of(module: AnsibleModule, docker: Docker, role: str) -> Passwords:
    """Return what a module with PASSWORD_ARGUMENTS was asked for, if a role can have it. Raises RotationError, PostgresError, ComposeError."""
    params = module.params
    if params["rotation"]:
        path = path_of(docker.project_name(), params["rotation"])
        record = load(path)
        if record is None or not record.open:
            raise RotationError(
                "No rotation of %s is open (%s). Start one with dghs.bd_fhir.password_rotation, state started." % (params["rotation"], path)
            )
        if record.role != role:
            raise RotationError("The rotation %s is of the role %s, and not of %s." % (params["rotation"], record.role, role))
        found = Passwords(record.new, record.old, record.salt_bytes(), record.variable)
    else:
        found = Passwords(secret_of(docker, params["password"], params["password_variable"]), variable=params["password_variable"] or "")
    # From here on, whatever is returned has them masked.
    module.no_log_values.update(item for item in (found.wanted, found.old) if len(item) > 3)
    why = unusable(found.wanted)
    if why:
        raise RotationError("Nothing was changed: the password of %s can't be used: %s." % (role, why))
    return found


def stored_verifier(session: Session, role: str, service: str, login_user: str) -> Optional[str]:
    """Return what the server keeps for a role, None for no password. Raises RotationError for a login_user who may not see it, PostgresError."""
    try:
        value = session.value("SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = %s", (role,))
    except PostgresError as exc:
        if exc.sqlstate != "42501":
            raise
        raise RotationError(
            "Nothing was changed: %s may not read pg_authid on %s, so it can't be told which password the role has. Log in as a superuser."
            % (login_user, service)
        ) from None
    return None if value is None else str(value)


# --- who is let in -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """One try to log in. kind: "" when it was let in, else as in PostgresError, or "pooled": the pooler let it in, its server did not."""

    kind: str
    text: str = ""

    @property
    def accepted(self) -> bool:
        """Whether a statement was answered."""
        return not self.kind

    @property
    def refused(self) -> bool:
        """Whether it was the password that was refused."""
        return self.kind == "password"


def attempt(login: Login) -> Attempt:
    """Log in and ask for one row, within twice the connect_timeout. Raises PostgresError when psycopg2 is missing."""
    psycopg2 = driver()
    connection = None
    try:
        connection = open_with_time_limit(login, login.connect_timeout)
        # Behind a pooler this waits for a free server connection.
        ask_with_time_limit(connection, "SELECT 1", login.connect_timeout)
        return Attempt("")
    except psycopg2.Error as exc:
        text = without_secret(str(exc), login.password)
        return Attempt(refusal(text)[0], text)
    except TimeoutError:
        return Attempt("timeout", "no answer within %d seconds" % login.connect_timeout)
    except ValueError:
        return Attempt("refused", "the password holds a character that can't be sent")
    finally:
        if connection is not None:
            connection.close()


def attempt_through(login: Login) -> Attempt:
    """Log in through a pooler. One that could not reach its server does not try again for a while, and refuses meanwhile; that is waited for."""
    deadline = time.monotonic() + SERVER_LOGIN_PATIENCE
    while True:
        found = attempt(login)
        if "server_login_retry" not in found.text or time.monotonic() > deadline:
            return found
        time.sleep(1)


def pooler_takes(login: Login) -> Attempt:
    """Tell whether a pgBouncer takes the password of a client; no server is asked. login.database is not used."""
    found = attempt(replace(login, database=NO_DATABASE))
    # "for user" is how a server says it: the pooler itself has let the client pass.
    if "no such database" in found.text or "does not exist" in found.text or 'for user "' in found.text:
        return Attempt("")
    return found


def checks_passwords(login: Login, pooler: bool) -> bool:
    """Tell whether a login with a made-up password is refused. Where it is not, a login proves nothing."""
    made_up = replace(login, password=generate())
    return not (pooler_takes(made_up) if pooler else attempt(made_up)).accepted


def open_console(login: Login, candidates: list[str]) -> Console:
    """Open a pooler's console with the first of the passwords that it takes. Raises PgbouncerError."""
    error: Optional[PgbouncerError] = None
    for password in candidates:
        try:
            return Console.open(replace(login, password=password))
        except PgbouncerTimeout:
            raise
        except PgbouncerError as exc:
            error = error or exc
    raise error or PgbouncerError("There is no password to try at the console of the pooler.")


class OpenPooler:
    """One running pooler whose console is open, and its auth_file.

    options: CONSOLE_ARGUMENTS and the service; database: that of login, which is the role's, with the wanted password.
    """

    def __init__(self, docker: Docker, options: Mapping[str, Any], role: str, passwords: Passwords, database: str, timeout: int) -> None:
        """Raises PgbouncerError, PostgresError, ComposeError."""
        self.service: str = options["service"]
        self.container = container_of(docker, self.service)
        port = options["port"] or port_of(docker, self.container)
        self.login = Login(address_of(self.container, port), port, role, passwords.wanted, database, timeout)
        admin = options["admin_user"] or role
        candidates = passwords.candidates(docker, admin, role, options["admin_password"], options["admin_password_variable"])
        self.console = open_console(replace(self.login, user=admin), candidates)
        self.config = self.console.config()
        self.version = self.console.version()
        self.file = AuthFile(docker, self.container, self.config["auth_file"]) if self.config.get("auth_file") else None


def server_keys(console: Console, user: str) -> set[tuple[str, str]]:
    """Return what tells the pooler's connections to its server, made as user, from later ones."""
    return {(row["connect_time"], row["ptr"] + row.get("remote_pid", "")) for row in console.show("SERVERS") if row["user"] == user}


def prove_fresh_server(console: Console, login: Login, before: set[tuple[str, str]]) -> Attempt:
    """Log in through the pooler until it has made a connection to its server that is not one of before. Raises PgbouncerError.

    An old connection says nothing of the new password. RECONNECT lets go of idle ones at once and of those in use when
    their clients are done with them, so nobody is cut.
    """
    found = attempt_through(login)
    if found.accepted and not server_keys(console, login.user) - before:
        console.command('RECONNECT "%s"' % login.database.replace('"', '""'))
        # The pooler closes what is idle in its next round.
        time.sleep(0.5)
        found = attempt(login)
    if found.accepted and not server_keys(console, login.user) - before:
        return Attempt("timeout", "the pooler made no new connection to its server")
    if found.refused and 'for user "' in found.text:
        return Attempt("pooled", found.text)
    return found
