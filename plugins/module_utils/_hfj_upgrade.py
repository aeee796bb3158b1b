# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A start of an image of HAPI on a copy of the schema: the copy, the container, and what the start has said and done.

Nothing of it touches the deployment but pg_dump. The copy and HAPI are on a network of their own that leads nowhere, so that a
release under test reaches no database, no queue and no other replica.
"""

from __future__ import annotations

import os
import re
import time

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._backup import INNER_BACKUP, LOCK_WAIT_MS, Server, Workshop, without_bootstrap_role
from ._compose import scrub
from ._fhir import Client, HttpError, base_url
from ._hfj import HfjError
from ._hfj_catalog import COLUMNS, INDEXES

if TYPE_CHECKING:
    from ._compose import Container, Docker
    from ._postgres import Login, Session

LABEL = "bd.gov.dghs.bd-fhir.upgrade-check"
# How the copy is called on its network.
HOST = "bd-fhir-scratch"
PORT = 5432
# Seconds between two looks at a server that starts.
PAUSE = 1.0
# Seconds that one look may take.
LOOK = 10
LOG_LINES = 400
# This column is taken away to see that a wrong schema is refused. Every release of HAPI maps it, and no start reads it.
MISSING = ("hfj_spidx_uri", "sp_uri")

_JDBC = re.compile(r"(jdbc:postgresql:)//([^/?]*)/([^?;]*)")
_SECRET_NAME = re.compile(r"PASSW|SECRET|TOKEN|CREDENTIAL|_KEY\Z", re.IGNORECASE)
# Kind and what says so, in a log. The first that fits counts: what refuses a schema comes before what is told of it later.
_REASONS = (
    ("schema_refused", re.compile(r"Schema-validation: [^\n]*")),
    (
        "migrator_failed",
        re.compile(
            r"[^\n]*(?:Error executing DDL|Flyway[A-Za-z]*Exception|Migration (?:of schema )?[^\n]* failed|HapiMigrationException"
            r"|Failure executing task|Validate failed: Migrations? )[^\n]*"
        ),
    ),
)
# The line of a log that says why, behind the chain of causes.
_CAUSE = re.compile(r"(?:Caused by: |Message *: |ERROR: )[^\n]*")
# Spring's own words, where it has some, are worth more than the chain of causes.
_DESCRIPTION = re.compile(r"APPLICATION FAILED TO START\s+\**\s*Description:\s+([^\n]+)")

SCHEMA_TABLES = """
SELECT c.oid::bigint AS oid, c.relname::text AS name, c.relkind::text AS kind, coalesce(pg_catalog.pg_get_partkeydef(c.oid), '') AS key
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition ORDER BY 2
"""
SCHEMA_SEQUENCES = """
SELECT s.sequencename::text AS name, pg_catalog.format('increment %%s, from %%s', s.increment_by, s.min_value) AS what
  FROM pg_catalog.pg_sequences s WHERE s.schemaname = %(schema)s ORDER BY 1
"""
SCHEMA_CONSTRAINTS = """
SELECT k.conname::text AS name, pg_catalog.pg_get_constraintdef(k.oid) AS what FROM pg_catalog.pg_constraint k
 WHERE k.conrelid = %(oid)s AND k.contype IN ('f', 'p', 'u', 'c', 'x') ORDER BY 1
"""
HISTORIES = """
SELECT c.relname::text AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind = 'r' AND c.relname = ANY (%(names)s) ORDER BY 1
"""


@dataclass(frozen=True)
class Source:
    """A database that is copied."""

    server: Server
    login: Login = field(repr=False)
    histories: tuple[str, ...] = ()  # tables of the schema whose rows say which migrations were made
    schema: str = "public"


@dataclass(frozen=True)
class Started:
    """What came of a start."""

    ready: bool
    seconds: float
    log: str = field(default="", repr=False)
    ended: bool = False

    def public(self) -> dict[str, Any]:
        """Return it as the module tells it."""
        reason = "" if self.ready else reason_of(self.log)[1]
        return {"ready": self.ready, "seconds": round(self.seconds, 1), "reason": reason}


# --- the environment -----------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """Return a value of an environment as Compose hands it over. Pure."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def environment_of(config: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of a service of the parsed configuration, with more put over it. Pure.

    Raises HfjError for a value that can't be handed over without being seen by others.
    """
    found = {str(name): text_of(value).replace("$$", "$") for name, value in (config.get("environment") or {}).items() if value is not None}
    found.update({str(name): text_of(value) for name, value in more.items() if value is not None})
    for name, value in found.items():
        if "\n" in value or "\r" in value:
            raise HfjError(
                "Nothing was started: the variable %s of HAPI has several lines, and a file for `docker run --env-file` can't hold that. Give"
                " another value in environment; for the start it does not matter which, if no database depends on it." % name
            )
    return found


def redirected(environment: Mapping[str, str], databases: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return an environment in which every JDBC URL leads to the copy, and the databases that are named but not copied, by variable. Pure."""
    known = set(databases)
    changed, missing = {}, {}
    for name, value in environment.items():
        match = _JDBC.match(value)
        if match and match.group(3) not in known:
            missing[name] = match.group(3)
        changed[name] = "%s//%s:%d/%s%s" % (match.group(1), HOST, PORT, match.group(3), value[match.end() :]) if match else value
    return changed, missing


def leads_to(environment: Mapping[str, str], database: str) -> bool:
    """Tell whether a JDBC URL names this database. Pure."""
    return any(match.group(3) == database for match in map(_JDBC.match, environment.values()) if match)


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Return the values that a log must not show, by what their names say. Pure."""
    return [value for name, value in environment.items() if _SECRET_NAME.search(name) and value]


# --- what a start says ---------------------------------------------------------------------------------------------


def reason_of(log: str) -> tuple[str, str]:
    """Return what kept a server from starting, schema_refused, migrator_failed or start_failed, and the lines that say so. Pure."""
    causes = [" ".join(item.split()) for item in _CAUSE.findall(log)]
    last = list(dict.fromkeys(causes))[-3:]
    for kind, pattern in _REASONS:
        match = pattern.search(log)
        if match:
            text = " ".join(match.group(0).split())
            return kind, " | ".join(dict.fromkeys([text[-400:], *([] if kind == "schema_refused" else last)]))
    described = _DESCRIPTION.search(log)
    if described:
        return "start_failed", " ".join(described.group(1).split())
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip()]
    return "start_failed", " | ".join(last or lines[-3:]) or "it said nothing"


# --- what a start did ----------------------------------------------------------------------------------------------


def shape(session: Session, schema: str, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """Return each object of a schema with its definition, partitions and what belongs to them left out. Raises PostgresError."""
    found: dict[str, str] = {}
    for table in session.rows(SCHEMA_TABLES, {"schema": schema}):
        name, oid = table["name"], {"oid": table["oid"]}
        if name in leave_out:
            continue
        found["table " + name] = "kind %s%s" % (table["kind"], " by " + table["key"] if table["key"] else "")
        for row in session.rows(COLUMNS, oid):
            words = [row["type"], "NOT NULL" if row["required"] else "", "DEFAULT " + row["default"] if row["default"] else ""]
            found["column %s.%s" % (name, row["name"])] = " ".join(word for word in words if word)
        for row in session.rows(INDEXES, oid):
            found["index %s.%s" % (name, row["name"])] = row["definition"] + ("" if row["valid"] else " (invalid)")
        for row in session.rows(SCHEMA_CONSTRAINTS, oid):
            found["constraint %s.%s" % (name, row["name"])] = row["what"]
    for row in session.rows(SCHEMA_SEQUENCES, {"schema": schema}):
        found["sequence " + row["name"]] = row["what"]
    return found


def table_of(what: str) -> str:
    """Return the table to which an object of shape() belongs, "" for a sequence. Pure."""
    kind, _space, name = what.partition(" ")
    return "" if kind == "sequence" else name.partition(".")[0]


def changes_between(before: Mapping[str, str], after: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what differs between two shapes. Pure."""
    rows = []
    for what in sorted(set(before) | set(after)):
        old, new = before.get(what), after.get(what)
        if old != new:
            change = "added" if old is None else "removed" if new is None else "changed"
            rows.append({"object": what, "table": table_of(what), "change": change, "before": old, "after": new})
    return rows


def in_words(changes: Sequence[Mapping[str, Any]], most: int = 20) -> str:
    """Return changes in one line. Pure."""
    words = ["%s %s" % (row["change"], row["object"]) for row in changes[:most]]
    return ", ".join(words) + (" and %d more" % (len(changes) - most) if len(changes) > most else "")


# --- the copy ------------------------------------------------------------------------------------------------------


def read_source(docker: Docker, container: Container, session: Session, login: Login, schema: str, histories: Sequence[str]) -> Source:
    """Read what has to be known to copy a database. Raises PostgresError, ComposeError."""
    row = session.rows(
        "SELECT pg_catalog.current_setting('server_version_num')::int AS version, pg_catalog.current_setting('data_directory') AS data,"
        " (SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.oid = 10) AS bootstrap,"
        " pg_catalog.current_setting('shared_preload_libraries') AS preload"
    )[0]
    owner = docker.docker("exec", "--user", "0", container.id, "stat", "-c", "%u:%g", row["data"])[1].strip()
    there = tuple(item["name"] for item in session.rows(HISTORIES, {"schema": schema, "names": list(histories)}))
    return Source(Server(container, row["version"], "", row["bootstrap"], owner, 0, 0, 0, 0, row["preload"], 0), login, there, schema)


def merged_roles(texts: Sequence[str], bootstrap: str) -> str:
    """Return the roles of several servers as one script, each made once. Pure."""
    made: set[str] = set()
    lines = []
    for text in texts:
        for line in without_bootstrap_role(text, bootstrap).splitlines(keepends=True):
            if line.startswith("CREATE ROLE "):
                if line in made:
                    continue
                made.add(line)
            lines.append(line)
    return "".join(lines)


class Copy(Workshop):
    """The copy of the schema, and HAPI on it. Every method raises ComposeError or BackupError."""

    def __init__(self, docker: Docker, source: Source, directory: str, timeout: int, memory: str, names: str) -> None:
        super().__init__(docker, source.server, source.login, directory, timeout, memory)
        self._source = source
        self._names = names
        self.client_name = names + "-dump"
        self.restore_name = names + "-database"
        self.hapi_name = names + "-hapi"

    # -- coming and going

    def clear(self) -> list[str]:
        """Remove everything of ours that is there, as after a run that was killed; return what it was."""
        label = "label=%s=%s" % (LABEL, self._names)
        # The dump has the label of backups: it is a container of theirs, under a name of ours.
        found = self._docker.docker("ps", "--all", "--filter", label, "--format", "{{.Names}}")[1].split()
        found += self._docker.docker("ps", "--all", "--filter", "name=^/%s-(dump|database)$" % self._names, "--format", "{{.Names}}")[1].split()
        for name in dict.fromkeys(found):
            self._docker.docker("rm", "--force", "--volumes", name, check=False)
        networks = self._docker.docker("network", "ls", "--filter", label, "--format", "{{.Name}}")[1].split()
        for name in networks:
            self._docker.docker("network", "rm", name)
        return sorted(set(found)) + networks

    def connect_nothing(self) -> None:
        """Make the network, which leads nowhere."""
        self._docker.docker("network", "create", "--internal", "--label", "%s=%s" % (LABEL, self._names), self._names)

    # -- the databases

    def dump(self, number: int) -> None:
        """Write the roles, the schema and the history of migrations of the database to a directory of its own. Nothing is locked but tables
        against being changed, for as long as reading the catalog takes."""
        place = "%s/%d" % (INNER_BACKUP, number)
        os.mkdir(os.path.join(self._partial, str(number)))
        common = ["--format=directory", "--lock-wait-timeout=%d" % LOCK_WAIT_MS]
        self.client("pg_dumpall", "--roles-only", "--no-role-passwords", "--file=%s/roles.sql" % place)
        self.client("pg_dump", *common, "--schema-only", "--file=%s/schema" % place)
        if self._source.histories:
            tables = ['--table="%s"."%s"' % (self._source.schema, name) for name in self._source.histories]
            self.client("pg_dump", *common, "--data-only", *tables, "--file=%s/history" % place)

    def restore(self, sources: Sequence[Source]) -> None:
        """Make a cluster with the copies of all databases."""
        self.open(network=self._names, alias=HOST)
        self.as_server("initdb", "-D", "/restore/data", "-U", self._server.bootstrap_role, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        # Whoever is on this network is HAPI, and a password would have to be known.
        self.start(hba="local all all trust\nhost all all all trust\n", listen="*")
        texts = []
        for number in range(len(sources)):
            with open(os.path.join(self._partial, str(number), "roles.sql"), encoding="utf-8", errors="surrogateescape") as handle:
                texts.append(handle.read())
        environment = self._psql_environment("template1")
        roles = merged_roles(texts, self._server.bootstrap_role)
        self.inside(self._user, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", data=roles, environment=environment)
        for number, source in enumerate(sources):
            place = "%s/%d" % (INNER_BACKUP, number)
            whole = ["--create", "--clean", "--if-exists", "--no-tablespaces", "--dbname", "template1"]
            self.inside(self._user, "pg_restore", "--exit-on-error", *whole, place + "/schema", environment=environment)
            if source.histories:
                command = ["pg_restore", "--exit-on-error", "--data-only", "--dbname", source.login.database, place + "/history"]
                self.inside(self._user, *command, environment=self._psql_environment("template1"))

    def address(self, name: str) -> str:
        """Return the address of one of our containers, "" as long as it has none."""
        for item in self._docker.inspect([name]):
            networks = (item.get("NetworkSettings") or {}).get("Networks") or {}
            return str((networks.get(self._names) or {}).get("IPAddress") or "")
        return ""

    # -- HAPI

    def run_hapi(self, image: str, config: Mapping[str, Any], environment: Mapping[str, str], memory: str, shares: int) -> None:
        """Start HAPI on the copy, with the service's own files, which it can't change."""
        # Beside what the copy's container sees.
        path = os.path.join(os.path.dirname(self._partial), "environment")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8", errors="surrogateescape") as handle:
            handle.writelines("%s=%s\n" % item for item in sorted(environment.items()))
        try:
            self._docker.docker(*hapi_arguments(self.hapi_name, self._names, image, config, memory, shares, path))
        finally:
            os.unlink(path)

    def wait_for_hapi(self, port: int, path: str, seconds: float, secrets: Sequence[str]) -> Started:
        """Wait until HAPI answers, has ended, or the time is over; then it is removed."""
        begun = time.monotonic()
        client = Client(timeout=LOOK)
        ready = False
        state: dict[str, Any] = {}
        while True:
            described = self._docker.inspect([self.hapi_name])
            state = described[0]["State"] if described else {}
            if state.get("Status") not in ("created", "running", "restarting"):
                break
            address = self.address(self.hapi_name)
            if address and _answers(client, base_url(address, port) + path):
                ready = True
                break
            if time.monotonic() - begun >= seconds:
                break
            time.sleep(PAUSE)
        took = time.monotonic() - begun
        log = "" if ready else scrub(self._docker.logs_tail(self.hapi_name, LOG_LINES), secrets)
        self._docker.docker("rm", "--force", "--volumes", self.hapi_name)
        return Started(ready, took, log, not ready and state.get("Status") != "running")


def _answers(client: Client, url: str) -> bool:
    try:
        return client.get(url).status == 200
    except HttpError:
        return False


def hapi_arguments(name: str, network: str, image: str, config: Mapping[str, Any], memory: str, shares: int, env_file: str) -> list[str]:
    """Return the arguments of `docker run` for HAPI on the copy: the service's own command, user and bound files. Pure."""
    arguments = ["run", "--detach", "--name", name, "--label", "%s=%s" % (LABEL, network), "--network", network, "--restart", "no"]
    arguments += ["--cpu-shares", str(shares), "--env-file", env_file]
    if memory:
        arguments += ["--memory", memory]
    if config.get("user"):
        arguments += ["--user", str(config["user"])]
    if config.get("working_dir"):
        arguments += ["--workdir", str(config["working_dir"])]
    for item in config.get("volumes") or []:
        # A named volume is written to by the replicas that serve.
        if isinstance(item, Mapping) and item.get("type") == "bind":
            arguments += ["--mount", "type=bind,source=%s,target=%s,readonly" % (item["source"], item["target"])]
    entrypoint = [str(item).replace("$$", "$") for item in config.get("entrypoint") or []]
    command = [str(item).replace("$$", "$") for item in config.get("command") or []]
    if entrypoint:
        arguments += ["--entrypoint", entrypoint[0]]
    return [*arguments, image, *entrypoint[1:], *command]
