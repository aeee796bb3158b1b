# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Taking a backup of a PostgreSQL server in a container, and proving it by restoring it into a container that is thrown away.

A dump is taken under an exported snapshot, and every row that this snapshot sees is counted and summed while the dump runs: what is
written meanwhile disturbs neither. A physical backup holds the state at its end, which no snapshot can name; there a table must be
equal to the snapshot at its beginning, or differ by no more rows than the server's counters say were written since.
"""

from __future__ import annotations

import json
import os
import shlex
import time

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Optional

from ._backup_contents import (
    AHEAD,
    CYCLING,
    OBJECTS,
    SEQUENCES,
    SETTINGS,
    TABLE_LIST,
    TABLES,
    WRITTEN,
    Contents,
    Later,
    Table,
    Written,
    identifier,
    named,
    objects_statement,
    parse_contents,
    script,
    since,
    statements,
    title,
)
from ._backup_files import BackupError, human, room, write
from ._change import HEARTBEAT
from ._compose import ComposeError, Container, Docker, last_lines
from ._postgres import Login, PostgresError, Session, connect
from ._quoting import QuotingError, pgpass_escape

# The oldest version with everything that is asked of the catalogs here (pg_trigger.tgparentid).
OLDEST_VERSION = 130000

LABEL = "bd.gov.dghs.bd-fhir.backup"

# Where things are inside of the containers that are thrown away.
INNER_BACKUP = "/backup"
INNER_RESTORE = "/restore"
INNER_DATA = INNER_RESTORE + "/data"
INNER_SECRET = "/run/bd-fhir-secret"  # noqa: S105 - the name of a directory

# Much of what HAPI stores is compressed already: a higher level costs processor time that the server needs, and saves little.
COMPRESSION = 3
# A dump that waits for a lock makes every later statement on that table wait behind it.
LOCK_WAIT_MS = 60000
# An idle session of the server may keep its counters to itself for ten seconds.
COUNTED_AFTER = 11.0
# Whether a step still may go on is looked at this often.
TICK = 1.0

# pgBackRest's own codes of a stanza: 0 is well, 2 has no backup yet.
USABLE_STANZA = (0, 2)

# --- pgBackRest's answers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stanza:
    """A stanza that pgBackRest can back up, and the labels of the backups that it has."""

    name: str
    labels: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)  # label -> bytes that the backup takes in the repository


def parse_stanza(text: str, wanted: str = "") -> Stanza:
    """Find the stanza in the answer of `pgbackrest info --output=json`. Pure. Raises BackupError that says why there is none to use."""
    try:
        data = json.loads(text)
        known = {str(item["name"]): item for item in data}
    except (ValueError, TypeError, KeyError):
        raise BackupError("The answer of `pgbackrest info --output=json` has an unknown form (%d characters)." % len(text)) from None
    if wanted and wanted not in known:
        raise BackupError("pgBackRest has no stanza %s; it has: %s." % (wanted, named(known) or "none"))
    if not known:
        raise BackupError("pgBackRest has no stanza. Make one (pgbackrest stanza-create), or choose another method.")
    if not wanted and len(known) > 1:
        raise BackupError("pgBackRest has several stanzas: %s. Name one in stanza." % named(known, 10))
    item = known[wanted or next(iter(known))]
    status = item.get("status") or {}
    if status.get("code") not in USABLE_STANZA:
        raise BackupError("The stanza %s can't be used: %s. See pgbackrest check." % (item["name"], status.get("message")))
    backups = item.get("backup") or []
    sizes = {}
    for backup in backups:
        repository = (backup.get("info") or {}).get("repository") or {}
        sizes[backup["label"]] = int(repository.get("delta") or repository.get("size") or 0)
    return Stanza(str(item["name"]), tuple(backup["label"] for backup in backups if not backup.get("error")), sizes)


def without_bootstrap_role(text: str, role: str) -> str:
    """Return the output of pg_dumpall --roles-only without the line that makes the role that every cluster is born with. Pure."""
    made = {"CREATE ROLE %s;" % role, "CREATE ROLE %s;" % identifier(role)}
    return "".join(line for line in text.splitlines(keepends=True) if line.rstrip("\n") not in made)


# --- the server --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """The server that is backed up."""

    container: Container
    version: int
    system: str  # its identifier, which all physical copies share
    bootstrap_role: str
    owner: str  # uid:gid of the data directory, as which a copy has to run
    database_bytes: int
    table_bytes: int  # without indexes, which a dump does not hold
    cluster_bytes: int
    free_connections: int
    preload: str
    tablespaces: int


def read_server(docker: Docker, container: Container, session: Session) -> Server:
    """Read what has to be known of a server. Raises BackupError for one that can't be backed up, PostgresError, ComposeError."""
    version = int(session.value("SELECT current_setting('server_version_num')"))
    if version < OLDEST_VERSION:
        raise BackupError("Nothing was done: PostgreSQL %d in %s is too old; 13 is the oldest." % (version // 10000, container.name))
    if session.value("SELECT current_setting('is_superuser')") != "on":
        raise BackupError(
            "Nothing was done: login_user is no superuser on %s. What a role may not read would be missing in the backup." % container.name
        )
    row = session.rows(
        "SELECT (SELECT system_identifier FROM pg_control_system())::text AS system,"
        " (SELECT rolname FROM pg_roles WHERE oid = 10)::text AS bootstrap,"
        " current_setting('data_directory') AS data, current_setting('shared_preload_libraries') AS preload,"
        " pg_database_size(current_database()) AS database,"
        " (SELECT coalesce(sum(pg_table_size(oid)), 0)::bigint FROM pg_class WHERE relkind IN ('r', 'm') OR relname = 'pg_largeobject') AS tables,"
        " (SELECT sum(pg_database_size(oid))::bigint FROM pg_database) AS cluster,"
        " (SELECT count(*) FROM pg_tablespace) - 2 AS tablespaces,"
        " current_setting('max_connections')::int"
        " - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS free"
    )[0]
    owner = docker.docker("exec", "--user", "0", container.id, "stat", "-c", "%u:%g", row["data"])[1].strip()
    return Server(
        container=container,
        version=version,
        system=row["system"],
        bootstrap_role=row["bootstrap"],
        owner=owner,
        database_bytes=row["database"],
        table_bytes=row["tables"],
        cluster_bytes=row["cluster"],
        free_connections=row["free"],
        preload=row["preload"],
        tablespaces=row["tablespaces"],
    )


@dataclass(frozen=True)
class Job:
    """What is done in one run."""

    server: Server
    login: Login
    method: str
    stanza: Optional[Stanza]
    jobs: int


def fitting_jobs(wanted: int, free: int) -> int:
    """Return with how many processes pg_dump may work, given the free connections: one stays free for an operator. Pure.

    pg_dump takes one connection more than it has processes, unless it has only one. Raises BackupError when there is none to take.
    """
    room_for = free - 1
    if room_for < 1:
        raise BackupError(
            "Nothing was done: %d of the server's connections are free, and the backup needs one, with one left for you. End idle ones, or"
            " raise max_connections." % max(free, 0)
        )
    return 1 if room_for < 3 else min(wanted, room_for - 1)


class Snapshot:
    """A session that holds a snapshot of the database for others, and reads what it sees. Raises PostgresError."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self.session = connect(login, 0)
        self.taken = time.time()
        self.released = 0.0
        try:
            for line in SETTINGS:
                self.session.execute(line)
            own = "SELECT pid, backend_start::text AS start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            self._own = self.session.rows(own)[0]
            self.before = self.counters()
            self.session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self.name = str(self.session.value("SELECT pg_export_snapshot()"))
            self.taken = float(self.session.value("SELECT extract(epoch FROM transaction_timestamp())"))
            self.tables = [
                Table(item["schema"], item["name"], tuple(item["columns"]), item["size"]) for item in self.session.rows(TABLES)
            ]
        except BaseException:
            self.session.close()
            raise

    def counters(self) -> dict[str, Written]:
        """Return the server's counters of written rows."""
        return {
            title(item["schema"], item["name"]): Written(item["ins"], item["upd"], item["del"]) for item in self.session.rows(WRITTEN)
        }

    def read(self, workers: int) -> Contents:
        """Count and sum everything that the snapshot sees. It takes as long as reading the whole database."""
        self.session.execute("SET max_parallel_workers_per_gather = %d" % workers)
        return parse_contents(self.tables, [self.session.value(line) for line in statements(self.tables)])

    def release(self) -> None:
        """Give the snapshot up: as long as it is held, the server can clear away no dead row."""
        self.session.execute("ROLLBACK")
        self.released = time.monotonic()

    def later(self, physical: bool) -> Later:
        """Return what the source says now; for a physical backup, once everything that it can hold has been counted."""
        if physical:
            time.sleep(max(0.0, COUNTED_AFTER - (time.monotonic() - self.released)))
        found = Later(json.loads(self.session.value(SEQUENCES)), [item["name"] for item in self.session.rows(CYCLING)])
        if physical:
            found.ahead = json.loads(self.session.value(AHEAD))
            found.written = since(self.before, self.counters())
            found.tables = frozenset(title(item["schema"], item["name"]) for item in self.session.rows(TABLES))
            found.objects = {kind: set(json.loads(self.session.value(objects_statement(kind)))) for kind in OBJECTS}
        return found

    def stop(self) -> None:
        """End what read() does in another thread."""
        with connect(self._login) as other:
            # With the moment of its start, since a number may be given again.
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s::timestamptz"
            other.execute(query, (self._own["pid"], self._own["start"]))

    def close(self) -> None:
        self.session.close()


# --- long steps --------------------------------------------------------------------------------------------------------


class Watch:
    """Looks, while long steps run, whether they still may: the change is still ours, and the disk has room."""

    def __init__(self, heartbeat: Callable[[], None], paths: Sequence[str]) -> None:
        """heartbeat: renews the lease, and raises when it is no longer ours; paths: where room must stay."""
        self._heartbeat = heartbeat
        self._paths = list(paths)
        self._renewed = time.monotonic()

    def look(self) -> None:
        """Raise BackupError, or what heartbeat raises, when the step must end."""
        for path in self._paths:
            space = room(path)
            if space.free < space.reserve:
                raise BackupError(
                    "Stopped: the file system of %s has only %s left, and %s must stay free for the databases. Nothing of the database was"
                    " changed. Free some space, or choose another directory." % (path, human(space.free), human(space.reserve))
                )
        if time.monotonic() - self._renewed >= HEARTBEAT:
            self._renewed = time.monotonic()
            self._heartbeat()

    def run(self, steps: Sequence[Callable[[], Any]], stop: Callable[[], None]) -> list[Any]:
        """Run steps side by side and return their results. When one fails, or look() raises, stop() must make the others end."""
        with ThreadPoolExecutor(len(steps)) as pool:
            futures: list[Future[Any]] = [pool.submit(step) for step in steps]
            try:
                while True:
                    done, pending = wait(futures, TICK, FIRST_EXCEPTION)
                    for item in futures:
                        if item in done:
                            item.result()
                    if not pending:
                        return [item.result() for item in futures]
                    self.look()
            except BaseException:
                # More than once: a step may just be starting what stop() has to end.
                while True:
                    stop()
                    if not wait(futures, TICK)[1]:
                        raise


# --- containers that are thrown away -----------------------------------------------------------------------------------

# The secret comes on standard input and goes to memory of the container: neither an argument nor `docker inspect` shows it.
_WITH_SECRET = 'umask 077; cat > %s/pgpass; exec "$@" < /dev/null' % INNER_SECRET
# Ends with the code of pg_ctl, when the server has ended.
_UNTIL_READY = 'until pg_isready --quiet --host "$1"; do pg_ctl -D "$0" status > /dev/null || exit; sleep 0.3; done'


def client_arguments(
    server: Server, login: Login, name: str, project: str, directory: str, command: Sequence[str], host: str, user: str
) -> list[str]:
    """Return the arguments of `docker run` for a client of the server, in its network, that writes to directory. Pure."""
    uid, _colon, gid = user.partition(":")
    arguments = ["run", "--rm", "--interactive", "--name", name, "--label", "%s=%s" % (LABEL, project)]
    arguments += ["--network", "container:%s" % server.container.id, "--user", user, "--userns", "host"]
    arguments += ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt", "label=disable"]
    # The server itself comes first.
    arguments += ["--cpu-shares", "128", "--tmpfs", "%s:rw,size=64k,mode=0700,uid=%s,gid=%s" % (INNER_SECRET, uid, gid)]
    arguments += ["--mount", "type=bind,source=%s,target=%s" % (directory, INNER_BACKUP)]
    environment = {
        "PGHOST": host,
        "PGPORT": str(login.port),
        "PGUSER": login.user,
        "PGDATABASE": login.database,
        "PGPASSFILE": INNER_SECRET + "/pgpass",
        "PGAPPNAME": "dghs.bd_fhir",
        "PGCONNECT_TIMEOUT": str(login.connect_timeout),
    }
    for key, value in environment.items():
        arguments += ["--env", "%s=%s" % (key, value)]
    return [*arguments, "--entrypoint", "sh", server.container.image_id, "-c", _WITH_SECRET, "sh", *command]


def pgpass(password: str) -> str:
    """Return a password file for one password. Raises BackupError for a password that it can't carry."""
    try:
        return "*:*:*:*:%s\n" % pgpass_escape(password)
    except QuotingError as exc:
        raise BackupError("The password can't be given to pg_dump in a password file: %s." % exc) from None


class Workshop:
    """The containers of one backup. Every method raises ComposeError, or BackupError that says which part failed."""

    def __init__(self, docker: Docker, server: Server, login: Login, partial: str, timeout: int, memory: str) -> None:
        self._docker = docker
        self._server = server
        self._login = login
        self._partial = partial
        self._timeout = timeout
        self._memory = memory
        self._user = "%d:%d" % (os.geteuid(), os.getegid())
        name = "%s-%s" % (docker.project_name(), server.container.service)
        self.client_name = "%s-backup" % name
        self.restore_name = "%s-restore-check" % name
        self._environment: dict[str, str] = {}

    def sweep(self) -> None:
        """Remove what a killed run left, and end what runs."""
        label = "label=%s=%s" % (LABEL, self._docker.project_name())
        for name in (self.client_name, self.restore_name):
            found = self._docker.docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label, "--filter", "name=^/%s$" % name)[1].split()
            if found:
                # One that ends by itself at this moment is gone just as well.
                self._docker.docker("rm", "--force", "--volumes", *found, check=False)

    def client(self, *command: str, host: str = "") -> None:
        """Run a program of PostgreSQL's against the server."""
        arguments = client_arguments(
            self._server,
            self._login,
            self.client_name,
            self._docker.project_name(),
            self._partial,
            command,
            host or self._login.host,
            self._user,
        )
        rc, out, err = self._docker.docker(*arguments, check=False, timeout=self._timeout, data=pgpass(self._login.password))
        if rc != 0:
            raise BackupError("%s ended with return code %d%s" % (command[0], rc, self._said(rc, err or out)))

    def _said(self, rc: int, text: str) -> str:
        if rc in (124, 137):
            return ": it was stopped, after %d seconds (backup_timeout) or for want of memory." % self._timeout
        return ": %s." % (last_lines(self._docker.clean(text).replace(self._login.password, "********"), 5) or "it said nothing")

    # -- the copy

    def open(self, with_repository: bool = False, network: str = "none", alias: str = "") -> None:
        """Start the container in which the backup is restored. It ends by itself, if nobody ends it.

        network, alias: where others are to find it, and as what.
        """
        arguments = ["run", "--detach", "--rm", "--name", self.restore_name, "--label", "%s=%s" % (LABEL, self._docker.project_name())]
        if with_repository:
            # What reaches the repository for the server reaches it here; the copy itself listens nowhere and archives nothing.
            arguments += ["--network", "container:%s" % self._server.container.id, "--volumes-from", "%s:ro" % self._server.container.id]
            for key, value in (("LOG_LEVEL_FILE", "off"), ("ARCHIVE_ASYNC", "n"), ("LOCK_PATH", INNER_RESTORE + "/lock")):
                arguments += ["--env", "PGBACKREST_%s=%s" % (key, value)]
        else:
            arguments += ["--network", network, *(["--network-alias", alias] if alias else [])]
        arguments += ["--user", "0:0", "--userns", "host", "--security-opt", "label=disable", "--cpu-shares", "128"]
        arguments += ["--memory", self._memory, "--shm-size", "128m"]
        arguments += ["--mount", "type=bind,source=%s,target=%s,readonly" % (self._partial, INNER_BACKUP)]
        # Anonymous: it goes with the container, whoever removes it.
        arguments += ["--mount", "type=volume,target=%s" % INNER_RESTORE]
        self._docker.docker(*arguments, "--entrypoint", "sleep", self._server.container.image_id, str(2 * self._timeout))
        self.inside("0", "chown", self._server.owner, INNER_RESTORE)
        self.inside("0", "chmod", "0711", INNER_RESTORE)

    def inside(self, user: str, *command: str, data: Optional[str] = None, environment: Optional[Mapping[str, str]] = None) -> str:
        """Run a command in the container of the copy; return what it printed."""
        arguments = ["exec", "--user", user]
        for key, value in (environment or {}).items():
            arguments += ["--env", "%s=%s" % (key, value)]
        if data is not None:
            arguments.append("--interactive")
        rc, out, err = self._docker.docker(*arguments, self.restore_name, *command, check=False, timeout=self._timeout, data=data)
        if rc != 0:
            hint = " If the copy ran out of memory, raise restore_memory." if rc == 137 else ""
            raise BackupError("%s ended with return code %d%s%s" % (command[0], rc, self._said(rc, err or out), hint))
        return out

    def as_server(self, *command: str) -> str:
        """Run a command as the user of the server, with what pgBackRest finds in the environment of the server's container."""
        if not self._environment:
            return self.inside(self._server.owner, *command)
        return self.inside(self._server.owner, "sh", "-c", '. "$0"; exec "$@"', INNER_RESTORE + "/environment", *command)

    def hand_over_environment(self) -> None:
        """Give the copy pgBackRest's settings of the server's container. They may hold keys, so they go by standard input."""
        described = self._docker.inspect([self._server.container.id])
        entries = (described[0].get("Config") or {}).get("Env") or [] if described else []
        self._environment = dict(item.split("=", 1) for item in entries if item.startswith("PGBACKREST_") and "=" in item)
        text = "".join("export %s=%s\n" % (key, shlex.quote(value)) for key, value in self._environment.items())
        if text:
            self.inside(self._server.owner, "sh", "-c", 'umask 077; cat > "$0"', INNER_RESTORE + "/environment", data=text)

    def start(self, hba: str = "local all all trust\n", listen: str = "") -> None:
        """Start the server of the copy on what stands in its data directory, and wait until it takes statements."""
        settings = {
            # None of the settings of the source may reach the copy: it must not archive, follow, listen or run jobs.
            "config_file": INNER_RESTORE + "/check.conf",
            "hba_file": INNER_RESTORE + "/check.hba",
            "listen_addresses": listen,
            "unix_socket_directories": INNER_RESTORE,
            "port": "5432",
            "archive_mode": "off",
            "primary_conninfo": "",
            "synchronous_standby_names": "",
            "shared_preload_libraries": self._server.preload,
            "cron.launch_active_jobs": "off",
            "ssl": "off",
            "logging_collector": "off",
            # It is thrown away: nothing has to survive a power cut.
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "autovacuum": "off",
            "shared_buffers": "64MB",
            "maintenance_work_mem": "64MB",
            "max_wal_size": "256MB",
            "huge_pages": "off",
            # A copy with fewer connections than the source would refuse to be a hot standby while it recovers.
            "hot_standby": "off",
            "jit": "off",
        }
        options = " ".join("-c %s=%s" % (key, shlex.quote(value)) for key, value in settings.items())
        self.inside(self._server.owner, "sh", "-c", 'cat > "$0"', settings["hba_file"], data=hba)
        self.inside(self._server.owner, "touch", settings["config_file"])
        log = INNER_RESTORE + "/log"
        try:
            self.as_server("pg_ctl", "-D", INNER_DATA, "-l", log, "-w", "-t", str(self._timeout), "-o", options, "start")
            # pg_ctl takes a server for ready that still recovers.
            self.inside(self._server.owner, "sh", "-c", _UNTIL_READY, INNER_DATA, INNER_RESTORE)
        except BackupError as exc:
            tail = self.inside("0", "tail", "-n", "5", log)
            raise BackupError("the server of the copy did not start: %s It logged: %s" % (exc, last_lines(self._docker.clean(tail), 5))) from None

    def _psql_environment(self, database: str) -> dict[str, str]:
        user = self._server.bootstrap_role
        return {"PGHOST": INNER_RESTORE, "PGPORT": "5432", "PGUSER": user, "PGDATABASE": database, "PGCLIENTENCODING": "UTF8", "PGAPPNAME": "check"}

    def restore_dump(self, jobs: int) -> None:
        """Make a new cluster, and restore the roles and the dump into it."""
        self.as_server("initdb", "-D", INNER_DATA, "-U", self._server.bootstrap_role, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()
        with open(os.path.join(self._partial, "roles.sql"), encoding="utf-8", errors="surrogateescape") as handle:
            roles = without_bootstrap_role(handle.read(), self._server.bootstrap_role)
        # template1, since the database that is made anew may be called postgres.
        environment = self._psql_environment("template1")
        self.inside(self._user, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", data=roles, environment=environment)
        command = ["pg_restore", "--exit-on-error", "--create", "--clean", "--if-exists", "--no-tablespaces", "--dbname", "template1"]
        self.inside(self._user, *command, "--jobs", str(jobs), INNER_BACKUP + "/dump", environment=environment)

    def restore_base(self) -> None:
        """Unpack the output of pg_basebackup, compare it with its manifest, and start it."""
        base = INNER_BACKUP + "/base"
        self.inside("0", "mkdir", "-m", "0700", INNER_DATA)
        self.inside("0", "tar", "-xzf", base + "/base.tar.gz", "-C", INNER_DATA)
        self.inside("0", "mkdir", "-p", INNER_DATA + "/pg_wal")
        self.inside("0", "tar", "-xzf", base + "/pg_wal.tar.gz", "-C", INNER_DATA + "/pg_wal")
        self.inside("0", "chown", "-R", self._server.owner, INNER_DATA)
        self.inside("0", "pg_verifybackup", "--quiet", "--no-parse-wal", "--manifest-path", base + "/backup_manifest", INNER_DATA)
        self.start()

    def restore_pgbackrest(self, stanza: str, label: str) -> None:
        """Let pgBackRest restore a backup up to the moment at which it is consistent, and start it."""
        self.hand_over_environment()
        self.as_server("mkdir", "-m", "0700", INNER_DATA, INNER_RESTORE + "/lock")
        command = ["pgbackrest", "--stanza=" + stanza, "--pg1-path=" + INNER_DATA, "--set=" + label, "--type=immediate", "--target-action=promote"]
        self.as_server(*command, "--tablespace-map-all=%s/tablespaces" % INNER_RESTORE, "--log-level-console=warn", "restore")
        self.start()

    def read_copy(self, tables: Sequence[Table], workers: int) -> Contents:
        """Count and sum what the copy holds, by the same statements as the source. A table that it lacks is left out."""
        environment = self._psql_environment(self._login.database)
        command = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]
        listed = self.inside(self._user, *command, "-c", TABLE_LIST, environment=environment)
        there = {title(item["schema"], item["name"]): item["columns"] for item in json.loads(listed)}
        present = [item for item in tables if there.get(item.title) == list(item.columns)]
        path = os.path.join(self._partial, "check.sql")
        write(path, script(present, workers))
        try:
            # From a file: thousands of answers and as many statements in two pipes could wait for each other.
            out = self.inside(self._user, *command, "-f", INNER_BACKUP + "/check.sql", environment=environment)
        finally:
            os.unlink(path)
        try:
            return parse_contents(present, out.splitlines())
        except ValueError as exc:
            raise BackupError("what the copy answered has an unknown form: %s." % exc) from None


# --- the methods -------------------------------------------------------------------------------------------------------


def pgbackrest(docker: Docker, server: Server, *arguments: str, timeout: Optional[int] = None) -> str:
    """Run pgBackRest in the server's container as the server's user. Raises BackupError."""
    rc, out, err = docker.docker("exec", "--user", server.owner, server.container.id, "pgbackrest", *arguments, check=False, timeout=timeout)
    if rc != 0:
        text = last_lines(docker.clean(err)) or last_lines(docker.clean(out)) or "it said nothing"
        raise BackupError("`pgbackrest %s` in %s ended with return code %d: %s." % (" ".join(arguments), server.container.name, rc, text))
    return out


def find_stanza(docker: Docker, server: Server, wanted: str) -> Optional[Stanza]:
    """Return the stanza of the server's pgBackRest, None when its container has no pgBackRest. Raises BackupError for one not to be used."""
    rc, out, err = docker.docker("exec", "--user", server.owner, server.container.id, "pgbackrest", "version", check=False)
    # Which of the two streams it comes on differs between versions of Docker.
    if rc in (126, 127) and ("not found" in out + err or "no such file" in (out + err).lower()):
        return None
    return parse_stanza(pgbackrest(docker, server, "info", "--output=json"), wanted)


def take_dump(shop: Workshop, snapshot: Snapshot, jobs: int, tablespaces: bool) -> None:
    """Write roles.sql, tablespaces.sql and dump/."""
    shop.client("pg_dumpall", "--roles-only", "--file=%s/roles.sql" % INNER_BACKUP)
    if tablespaces:
        shop.client("pg_dumpall", "--tablespaces-only", "--file=%s/tablespaces.sql" % INNER_BACKUP)
    command = ["pg_dump", "--format=directory", "--file=%s/dump" % INNER_BACKUP, "--snapshot=%s" % snapshot.name, "--jobs=%d" % jobs]
    shop.client(*command, "--compress=%d" % COMPRESSION, "--lock-wait-timeout=%d" % LOCK_WAIT_MS)


def take_base(shop: Workshop) -> None:
    """Write base/ by pg_basebackup; by the loopback address, for which every server has a line for replication from the start."""
    command = ["pg_basebackup", "--pgdata=%s/base" % INNER_BACKUP, "--format=tar", "--gzip", "--compress=%d" % COMPRESSION]
    shop.client(*command, "--wal-method=stream", "--checkpoint=fast", "--no-password", host="127.0.0.1")


def take_pgbackrest(docker: Docker, server: Server, stanza: Stanza, timeout: int) -> tuple[str, int]:
    """Let pgBackRest make its next backup; return its label and the bytes that it took in the repository."""
    pgbackrest(docker, server, "--stanza=" + stanza.name, "--start-fast", "--log-level-console=warn", "backup", timeout=timeout)
    now = parse_stanza(pgbackrest(docker, server, "info", "--output=json"), stanza.name)
    made = [label for label in now.labels if label not in stanza.labels]
    if not made:
        raise BackupError("pgBackRest ended well, but `pgbackrest info` of the stanza %s shows no new backup." % stanza.name)
    return made[-1], now.sizes.get(made[-1], 0)


def expire(docker: Docker, container: Container, owner: str, stanza: str, label: str) -> None:
    """Remove a backup, and those that are built on it, from pgBackRest's repository; one that is gone already is no failure."""
    command = ["exec", "--user", owner, container.id, "pgbackrest", "--stanza=" + stanza]

    def there() -> bool:
        return label in parse_stanza(docker.docker(*command, "--output=json", "info")[1], stanza).labels

    if there():
        _rc, out, err = docker.docker(*command, "--set=" + label, "--log-level-console=error", "expire", check=False)
        # Not the return code: what counts is whether it is gone. The last full backup is kept, for one.
        if there():
            raise BackupError(
                "Nothing was removed: pgBackRest keeps %s: %s. Make another full backup first (pgbackrest --type=full backup)."
                % (label, last_lines(docker.clean(out + err)) or "it does not say why")
            )


def stop_quietly(*actions: Callable[[], None]) -> Callable[[], None]:
    """Return a function that tries each action, for ending what runs beside a step that has failed already."""

    def stop() -> None:
        for action in actions:
            try:
                action()
            except (ComposeError, PostgresError):
                # The failure that led here is the one to be told.
                continue

    return stop
