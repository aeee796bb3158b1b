# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One month of a table in a directory of its own: made, proven by restoring it, the only reason to drop the month, and brought back.

An archive holds the rows of one partition (data/) and the definitions of the whole database with its roles, without passwords
(dump/, roles.sql), so that it can be restored where nothing else is left. It is a directory as _backup_files makes them.

Before a month is detached, drop.json in its archive says so, with the number (oid) of its table. A run that is killed leaves a month
that is attached, or a table that this file names: the next run drops it, or attaches it again, and never takes another table for it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Optional

from ._backup import COMPRESSION, INNER_BACKUP, LOCK_WAIT_MS, Snapshot, Watch, Workshop, stop_quietly
from ._backup_contents import SETTINGS, Contents, Later, Table, differences, identifier, named, parse_sum, title
from ._backup_files import BAD, Backup, BackupError, Room, finish, listed, remove, seal, slug, stamp, write, write_manifest
from ._backup_files import leftovers as unfinished
from ._backup_files import load as load_manifest
from ._change import ChangeError
from ._compose import ComposeError, Docker
from ._files import replace_file, sync_directory
from ._partition_catalog import CatalogError, apply, iso, moment_of, patiently
from ._partitions import UTC, Month, Parent, Partition, PartitionError, Step, month_in
from ._postgres import Login, PostgresError, Session, connect

if TYPE_CHECKING:
    from datetime import tzinfo

    from ._compose import Container

KIND = "partition"
DROP_RECORD = "drop.json"
DATA = "data"
BEGIN_FILE, END_FILE = "load-begin.sql", "load-end.sql"
PREFIX = "partition_"

# Seconds. What nobody has written to for so long is nobody's dump in progress.
ABANDONED = 24 * 3600
# What the definitions of a database take at most, and what a new cluster takes besides the rows of the copy.
FRAME_BYTES = 4 << 20
CLUSTER_BYTES = 256 << 20
# Seconds. While DETACH ... CONCURRENTLY waits, nobody waits for it.
DETACH_WAIT = 30
# How many rows that refer to a partition are counted, and how many are named.
MOST_REFERRING, NAMED_REFERRING = 1000, 3

REFERRING = "SELECT ROW({})::text AS key FROM {} r WHERE EXISTS (SELECT FROM ONLY {} p WHERE {}) LIMIT %d" % (MOST_REFERRING + 1)  # noqa: S608

# What a dump is loaded by, into the copy and into the database. Terse: an error must not quote rows of an audit trail.
# A dump that breaks off in the middle of the rows must not look like their end.
LOAD = (
    '{ cat "$0/%s" && pg_restore --data-only --file=- "$0/%s" && cat "$0/%s"'
    " || printf '\\n\\\\.\\nSELECT the_dump_can_not_be_read;\\n'; }"
    " | psql -X -q -v ON_ERROR_STOP=1 -v VERBOSITY=terse"
) % (BEGIN_FILE, DATA, END_FILE)

STATE = """
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS relkind, i.inhparent::bigint AS parent,
       c.relispartition AS attached, coalesce(i.inhdetachpending, false) AS pending,
       CASE WHEN c.relkind = 'r' THEN pg_catalog.pg_total_relation_size(c.oid) ELSE 0 END::bigint AS bytes,
       CASE WHEN c.relkind = 'r' THEN pg_catalog.pg_table_size(c.oid) ELSE 0 END::bigint AS table_bytes
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
 WHERE n.nspname = %s AND c.relname = %s
"""
COLUMNS = """
SELECT a.attname::text AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attname::text COLLATE "C"
"""
# inherited: the key is to the whole table, and the server lets go a partition to which no row refers.
REFERENCES = """
SELECT coalesce(up.conname, f.conname)::text AS name, n.nspname::text AS schema, r.relname::text AS table, f.conparentid <> 0 AS inherited,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(f.conkey) WITH ORDINALITY u (attnum, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = u.attnum ORDER BY u.place) AS columns,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(f.confkey) WITH ORDINALITY u (attnum, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = u.attnum ORDER BY u.place) AS keys
  FROM pg_catalog.pg_constraint f
  JOIN pg_catalog.pg_class r ON r.oid = f.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
  LEFT JOIN pg_catalog.pg_constraint up ON up.oid = f.conparentid
 WHERE f.contype = 'f' AND f.confrelid = %s
 ORDER BY 1, 2, 3
"""
VIEWS = """
SELECT DISTINCT n.nspname::text AS schema, v.relname::text AS name
  FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid
  JOIN pg_catalog.pg_class v ON v.oid = w.ev_class
  JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
 WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = %(oid)s AND v.oid <> %(oid)s
 ORDER BY 1, 2
"""
# Triggers of users that fire on what is loaded; those of foreign keys stay as they are.
TRIGGERS = """
SELECT t.tgname::text AS name, t.tgenabled::text AS enabled
  FROM pg_catalog.pg_trigger t
  LEFT JOIN pg_catalog.pg_trigger up ON up.oid = t.tgparentid
 WHERE t.tgrelid = %s AND t.tgenabled IN ('O', 'A') AND (NOT t.tgisinternal OR NOT up.tgisinternal)
 ORDER BY 1
"""
# Transactions for whose end DETACH ... CONCURRENTLY would have to wait.
LOCKERS = """
SELECT DISTINCT a.pid, coalesce(a.usename::text, '') AS "user", a.application_name AS application, coalesce(a.state, '') AS state,
       coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::int AS seconds
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.granted AND l.locktype = 'relation' AND a.pid <> pg_catalog.pg_backend_pid() AND l.relation IN (%(parent)s, %(partition)s)
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND pg_catalog.clock_timestamp() - a.xact_start > pg_catalog.make_interval(secs => %(seconds)s)
 ORDER BY 5 DESC
 LIMIT 3
"""


class Altered(CatalogError):
    """The rows of a table are not those of its archive."""


# --- which months --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """The table of one month."""

    schema: str
    name: str
    oid: int
    lower: Optional[datetime]
    upper: Optional[datetime]
    state: str = "attached"  # attached; pending: its detach was begun; loose: a table of its own; gone
    bytes: int = 0
    ours: bool = False  # a run of ours has begun to drop it

    @property
    def full_name(self) -> str:
        return "%s.%s" % (self.schema, self.name)


def target_of(item: Partition) -> Target:
    """Return a partition as a target. Pure."""
    return Target(item.schema, item.name, item.oid, item.lower, item.upper, "pending" if item.detach_pending else "attached", item.bytes)


def month_begin(parent: Parent, now: datetime, zone: tzinfo, ago: int = 0) -> datetime:
    """Return the first moment of the present month, or of one so many months ago, as bounds of this table write it. Pure."""
    return Month.of(now, zone).plus(-ago).start(zone if parent.key_type == "timestamptz" else UTC)


@dataclass(frozen=True)
class Selection:
    """Which months are meant, by age or by size. Those that are not over never are."""

    over: datetime
    past: Optional[datetime] = None  # those that end at this moment or before
    larger_than: Optional[int] = None

    def takes(self, upper: Optional[datetime], size: int) -> bool:
        """Tell whether a month is meant. Pure."""
        if upper is None or upper > self.over:
            return False
        return (self.past is not None and upper <= self.past) or (self.larger_than is not None and size > self.larger_than)


def selected(parent: Parent, selection: Selection) -> list[Partition]:
    """Return the partitions that are meant, oldest first. Pure."""
    found = [item for item in parent.partitions if not item.default and not item.opaque and selection.takes(item.upper, item.bytes)]
    return sorted(found, key=lambda item: (item.upper, item.name))


def refusal(item: Partition, over: datetime) -> str:
    """Return why a partition can't be archived, "" if it can. Pure."""
    if item.default:
        return "it is the default partition, which is no month. audit_partition moves its rows into their months"
    if item.kind == "foreign":
        return "it is a foreign table, whose rows are on another server"
    if item.kind != "table":
        return "it is partitioned itself. Name it in tables, and its own partitions are archived"
    if item.opaque:
        return "its bounds can't be read (%s)" % (item.bound or "none")
    if item.upper is None or item.upper > over:
        return "it is of the present month or of a later one, and rows still go into it. Only months that are over are archived"
    return ""


def month_bounds(parent: Parent, name: str, zone: tzinfo) -> Optional[tuple[datetime, datetime]]:
    """Return the bounds that a table would have as a partition, by its name. Pure."""
    month = month_in(name)
    if month is None or not Month(2, 1) < month < Month(9999, 1):
        return None
    where = zone if parent.key_type == "timestamptz" else UTC
    return month.start(where), month.next().start(where)


def schemas_of(parent: Parent, name: str) -> list[str]:
    """Return the schemas in which this table has a partition of this name, or one that is not attached. Pure."""
    return [item.schema for item in parent.partitions if item.name == name] + [item.schema for item in parent.loose if item.name == name]


# --- archives ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Owner:
    """Whose an archive is: several deployments may share a directory, with the same names of services, databases and tables.

    Both have to agree. Two sites may have the same name of a project; and a clone, or a rehearsal on restored files, has the system
    identifier of its origin. A server that was initialised anew and filled from a dump has another one: who wants its former
    archives names them.
    """

    project: str
    system: str

    def __str__(self) -> str:
        return "project %s, system identifier %s" % (self.project or "not known", self.system or "not known")


def owner_of(manifest: dict[str, Any]) -> Owner:
    """Return whose an archive is by its manifest. Pure."""
    source = manifest.get("source")
    found = source if isinstance(source, dict) else {}
    return Owner(str(found.get("project") or ""), str(found.get("system_identifier") or ""))


@dataclass(frozen=True)
class Archive:
    """One archive in the directory."""

    backup: Backup
    service: str
    database: str
    schema: str  # of the table
    table: str
    partition_schema: str
    partition: str
    lower: Optional[datetime]
    upper: Optional[datetime]
    columns: tuple[str, ...]
    rows: int
    sum: str
    total_bytes: int  # of the partition, with indexes
    owner: Owner = Owner("", "")

    @property
    def id(self) -> str:
        return self.backup.id

    @property
    def path(self) -> str:
        return self.backup.path

    @property
    def content(self) -> tuple[int, str]:
        return self.rows, self.sum

    @property
    def full_name(self) -> str:
        return "%s.%s" % (self.partition_schema, self.partition)

    @property
    def contents(self) -> Table:
        """The partition as statements name it, with the columns that it had."""
        return Table(self.partition_schema, self.partition, self.columns)

    def of(self, parent: Parent, target: Target) -> bool:
        """Tell whether it was made of this month. Pure."""
        names = (self.schema, self.table, self.partition_schema, self.partition)
        return names == (parent.schema, parent.name, target.schema, target.name) and (self.lower, self.upper) == (target.lower, target.upper)


def archive_of(backup: Backup) -> Optional[Archive]:
    """Return a backup as an archive; None for another kind of backup, and for one that was never proven. Pure."""
    found = backup.manifest
    try:
        if found["kind"] != KIND or found["restore_checked"] is not True:
            return None
        return Archive(
            backup,
            str(found["source"]["service"]),
            str(found["source"]["database"]),
            str(found["schema"]),
            str(found["table"]),
            str(found["partition_schema"]),
            str(found["partition"]),
            moment_of(found["lower"] or ""),
            moment_of(found["upper"] or ""),
            tuple(str(item["name"]) for item in found["columns"]),
            int(found["rows"]),
            str(found["sum"]),
            int(found["total_bytes"]),
            owner_of(found),
        )
    except (KeyError, TypeError, ValueError, PartitionError):
        return None


def archives(directory: str, service: str, database: str, schema: str, tables: Sequence[str]) -> list[Archive]:
    """Return the proven archives of months of these tables, whosever they are, the newest first. Raises OSError."""
    found = [archive_of(item) for item in reversed(listed(directory))]
    of_tables = [item for item in found if item is not None and item.schema == schema and item.table in tables]
    return [item for item in of_tables if (item.service, item.database) == (service, database)]


def leftovers(directory: str, prefix: str, owner: Owner) -> list[str]:
    """Return what killed runs of this owner left for the ids that begin with a prefix. Raises OSError.

    What another deployment is just making looks the same. Where nobody's name is on it yet, it is left alone for a day.
    """

    def mine(path: str) -> bool:
        backup = load_manifest(path)
        if backup is not None:
            return owner_of(backup.manifest) == owner
        return not path.endswith(BAD) and time.time() - last_written(path) > ABANDONED

    return unfinished(directory, prefix, mine)


def last_written(path: str) -> float:
    """Return when something was last written below a directory, in seconds since the epoch. Raises OSError."""
    times = [os.stat(path).st_mtime]
    for folder, _folders, names in os.walk(path):
        for name in [folder, *(os.path.join(folder, name) for name in names)]:
            # It may be on its way out at this moment.
            with suppress(FileNotFoundError):
                times.append(os.stat(name).st_mtime)
    return max(times)


def begin(partial: str, facts: dict[str, Any]) -> None:
    """Make the directory in which an archive is made, and put into it whose it is. Raises OSError."""
    os.mkdir(partial, 0o700)
    write_manifest(partial, {**facts, "kind": KIND, "created": round(time.time(), 3), "restore_checked": False})


def _plain(name: str) -> str:
    return name if re.match(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\Z", name) else slug(name)


def id_prefix(database: str) -> str:
    """Return what the ids of all archives of a database begin with. Pure."""
    return "%s%s_" % (PREFIX, _plain(database))


def new_id(database: str, schema: str, partition: str, moment: float) -> str:
    """Return the id of an archive that begins at a moment. Pure."""
    return "%s%s.%s_%s" % (id_prefix(database), _plain(schema), _plain(partition), stamp(moment))


@dataclass(frozen=True)
class Drop:
    """What drop.json of an archive says: its table is being dropped."""

    oid: int
    system: str  # identifier of the server
    begun: float
    refill: bool = False  # an empty partition takes its place, since others come before it
    done: bool = False


def read_drop(path: str) -> Optional[Drop]:
    """Return the record of an archive's directory, None when there is none. Raises BackupError for one that can't be read."""
    file = os.path.join(path, DROP_RECORD)
    try:
        with open(file, encoding="utf-8") as handle:
            found = json.load(handle)
        return Drop(int(found["oid"]), str(found["system"]), float(found["begun"]), bool(found["refill"]), bool(found["done"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BackupError(
            "%s can't be read (%s), so it is not known whether the table of this archive is being dropped. Look at it, and remove it if the"
            " table is not to be dropped." % (file, exc.__class__.__name__)
        ) from None


def write_drop(path: str, drop: Drop) -> None:
    """Write the record as a whole. Raises OSError."""
    replace_file(os.path.join(path, DROP_RECORD), json.dumps(drop.__dict__, sort_keys=True) + "\n")


def remove_drop(path: str) -> None:
    """Take the record away. Raises OSError."""
    if os.path.exists(os.path.join(path, DROP_RECORD)):
        os.unlink(os.path.join(path, DROP_RECORD))
        sync_directory(path)


# --- looking -------------------------------------------------------------------------------------------------------


def state_of(session: Session, schema: str, name: str) -> Optional[dict[str, Any]]:
    """Return what there is of this name, None for nothing. Raises PostgresError."""
    rows = session.rows(STATE, (schema, name))
    return rows[0] if rows else None


def is_empty(session: Session, schema: str, name: str) -> bool:
    """Tell whether a table has no row. Raises PostgresError."""
    from psycopg2 import sql

    return not session.value(sql.SQL("SELECT EXISTS (SELECT FROM ONLY {})").format(sql.Identifier(schema, name)))


def references(session: Session, target: Target) -> list[str]:
    """Return what would break if this table were gone, one text each. Raises PostgresError."""
    from psycopg2 import sql

    found = []
    for row in session.rows(REFERENCES, (target.oid,)):
        same = sql.SQL(" AND ").join(
            sql.SQL("p.{} = r.{}").format(sql.Identifier(key), sql.Identifier(column)) for key, column in zip(row["keys"], row["columns"])
        )
        columns = sql.SQL(", ").join(sql.SQL("r.{}").format(sql.Identifier(column)) for column in row["columns"])
        referring, mine = sql.Identifier(row["schema"], row["table"]), sql.Identifier(target.schema, target.name)
        statement = sql.SQL(REFERRING).format(columns, referring, mine, same)
        keys = [item["key"] for item in session.rows(statement)]
        if not keys and row["inherited"]:
            continue
        count = "more than %d" % MOST_REFERRING if len(keys) > MOST_REFERRING else "%d" % len(keys)
        text = "%s of %s (%s), %s rows" % (row["name"], title(row["schema"], row["table"]), ", ".join(row["columns"]), count)
        found.append(text + (" such as %s" % ", ".join(keys[:NAMED_REFERRING]) if keys else ""))
    views = [title(row["schema"], row["name"]) for row in session.rows(VIEWS, {"oid": target.oid})]
    return found + (["the views %s" % named(views)] if views else [])


def content_of(session: Session, table: Table) -> tuple[int, str]:
    """Return the number of rows of a table, and the sum over them. It takes as long as reading it. Raises PostgresError."""
    for line in SETTINGS:
        session.execute(line)
    return parse_sum(session.value(table.statement()))


def ending(login: Login, session: Session) -> Callable[[], None]:
    """Return a function that ends the statement that another thread waits for on this session. Raises PostgresError."""
    pid = session.value("SELECT pg_catalog.pg_backend_pid()")

    def stop() -> None:
        with connect(login) as other:
            other.execute("SELECT pg_catalog.pg_cancel_backend(%s)", (pid,))

    return stop_quietly(stop)


def read_content(login: Login, watch: Watch, schema: str, name: str, columns: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[int, str]]:
    """Return the columns of a table and its content, under the eyes of watch. Raises PostgresError, and what watch raises.

    columns: only these, if the table has them all.
    """
    with connect(login, 0) as session:
        state = state_of(session, schema, name)
        there = tuple(row["name"] for row in session.rows(COLUMNS, (state["oid"],))) if state else ()
        if columns and set(columns) <= set(there):
            there = tuple(columns)
        table = Table(schema, name, there)
        return there, watch.run([lambda: content_of(session, table)], ending(login, session))[0]


def room_inside(docker: Docker, container: Container, path: str) -> Room:
    """Read the file system of a path inside of a container. Raises ComposeError, BackupError."""
    out = docker.docker("exec", "--user", "0", container.id, "stat", "-f", "-c", "%a %S %b", path)[1].split()
    if len(out) != 3 or not all(item.isdigit() for item in out):
        raise BackupError("Nothing was done: the free space of %s in %s could not be read." % (path, container.name))
    free, size, blocks = (int(item) for item in out)
    # No device of this host has this number: it is added to nothing else.
    return Room(-1, free * size, blocks * size)


# --- making --------------------------------------------------------------------------------------------------------


class Shop(Workshop):
    """The containers of one archive."""

    def load_copy(self) -> None:
        """Load the rows into the copy, whose definitions were restored. Raises BackupError."""
        try:
            self.inside(self._user, "sh", "-c", LOAD, INNER_BACKUP, environment=self._psql_environment(self._login.database))
        except BackupError as exc:
            raise BackupError("loading the rows%s" % str(exc).partition("sh")[2]) from None

    def load(self) -> None:
        """Load the rows into the database, as the script in BEGIN_FILE and END_FILE says. Raises BackupError."""
        try:
            self.client("sh", "-c", LOAD, INNER_BACKUP)
        except BackupError as exc:
            raise BackupError("loading the rows%s" % str(exc).partition("sh")[2]) from None


def take(shop: Shop, snapshot: Snapshot, table: Table) -> None:
    """Write roles.sql, dump/ with the definitions of the database, and data/ with the rows of one table."""
    # An archive is kept for years and carried about: it has no business with passwords.
    shop.client("pg_dumpall", "--roles-only", "--no-role-passwords", "--file=%s/roles.sql" % INNER_BACKUP)
    common = ["--format=directory", "--snapshot=%s" % snapshot.name, "--compress=%d" % COMPRESSION, "--lock-wait-timeout=%d" % LOCK_WAIT_MS]
    shop.client("pg_dump", *common, "--schema-only", "--file=%s/dump" % INNER_BACKUP)
    pattern = "%s.%s" % (identifier(table.schema), identifier(table.name))
    shop.client("pg_dump", *common, "--data-only", "--strict-names", "--table=" + pattern, "--file=%s/%s" % (INNER_BACKUP, DATA))


def _comparable(contents: Contents) -> Contents:
    """Return contents without what an archive does not hold."""
    return replace(contents, sequences={}, large_objects=(0, "0"))


def fill(shop: Shop, watch: Watch, login: Login, partial: str, target: Target, facts: dict[str, Any]) -> dict[str, Any]:
    """Make an archive in the partial directory, prove it, and return its manifest; on failure nothing is left, or a .bad one.

    facts: what else the manifest says. Raises BackupError, ComposeError, PostgresError, ChangeError, OSError.
    """
    started = time.monotonic()
    taken = False
    try:
        snapshot = Snapshot(login)
    except BaseException:
        remove(partial)
        raise
    try:
        mine = [item for item in snapshot.tables if (item.schema, item.name) == (target.schema, target.name)]
        if not mine:
            raise BackupError("Nothing was done: there is no table %s any more. Run this again." % target.full_name)
        table = mine[0]
        snapshot.tables = mine
        columns = snapshot.session.rows(COLUMNS, (target.oid,))
        steps: list[Callable[[], Any]] = [lambda: take(shop, snapshot, table), lambda: snapshot.read(0)]
        source = _comparable(watch.run(steps, stop_quietly(shop.sweep, snapshot.stop))[1])
        snapshot.release()
        taken = True
        size, sha256 = watch.run([lambda: seal(partial)], lambda: None)[0]
        prove(shop, watch, partial, table, source)
        rows, sum_ = source.tables[table.title]
        manifest = {
            **facts,
            "kind": KIND,
            "partition_schema": target.schema,
            "partition": target.name,
            "lower": iso(target.lower),
            "upper": iso(target.upper),
            "columns": columns,
            "created": round(snapshot.taken, 3),
            "seconds": round(time.monotonic() - started, 1),
            "bytes": size,
            "sha256": sha256,
            "rows": rows,
            "sum": sum_,
            "restore_checked": True,
        }
        watch.look()
        write_manifest(partial, manifest)
        return manifest
    except (BackupError, ComposeError, PostgresError, ChangeError, OSError) as exc:
        shop.sweep()
        if not taken or isinstance(exc, (ChangeError, OSError)):
            remove(partial)
            raise
        raise BackupError(
            "An archive was made, but could not be proven: %s It does not count, and is kept aside as %s. Nothing was dropped."
            % (exc, finish(partial, BAD))
        ) from None
    finally:
        snapshot.close()


def prove(shop: Shop, watch: Watch, partial: str, table: Table, source: Contents) -> None:
    """Restore an archive into a server that is thrown away, and compare. Raises BackupError that names what differs."""

    def restore() -> Contents:
        shop.open()
        shop.restore_dump(1)
        # What the rows refer to is not there.
        with script_files(partial, "BEGIN;\nSET LOCAL session_replication_role = replica;\n", "COMMIT;\n"):
            shop.load_copy()
        return shop.read_copy([table], 0)

    copy = _comparable(watch.run([restore], stop_quietly(shop.sweep))[0])
    found = differences(source, copy, Later({}))
    if found:
        raise BackupError("the restored copy is not what the database was: %s." % named(found, 5))


class script_files:  # noqa: N801 - used as a function
    """The two files of LOAD in a directory, for as long as they are needed. Raises OSError."""

    def __init__(self, directory: str, begin: str, end: str) -> None:
        self._files = {os.path.join(directory, BEGIN_FILE): begin, os.path.join(directory, END_FILE): end}

    def __enter__(self) -> None:
        for path, text in self._files.items():
            write(path, text)

    def __exit__(self, *exc_info: object) -> None:
        for path in self._files:
            if os.path.exists(path):
                os.unlink(path)


# --- dropping ------------------------------------------------------------------------------------------------------


def lockers(session: Session, parent: Parent, target: Target, seconds: float) -> str:
    """Name the transactions that hold the table for longer than this, "" for none. Raises PostgresError."""
    rows = session.rows(LOCKERS, {"parent": parent.oid, "partition": target.oid, "seconds": seconds})
    return "; ".join("pid %(pid)d of %(user)s (%(application)s, %(state)s, its transaction is %(seconds)d s old)" % row for row in rows)


def detach(session: Session, parent: Parent, target: Target, lock_timeout: float, tries: int, pause: Callable[[float], None] = time.sleep) -> None:
    """Make a partition a table of its own, without anybody having to wait where there is no default partition. Raises PostgresError, CatalogError."""
    from psycopg2 import sql

    names = (sql.Identifier(parent.schema, parent.name), sql.Identifier(target.schema, target.name))
    what = "Detaching %s" % target.full_name
    if target.state == "attached" and any(item.default for item in parent.partitions):
        # The server does it in one way only: everybody waits, for the moment that it takes.
        statement = sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(*names)
        patiently(session, what, lambda: session.execute(statement), lock_timeout, tries, pause)
        return
    if target.state == "attached":
        held = ""
        for attempt in range(tries):
            held = lockers(session, parent, target, lock_timeout)
            if not held:
                break
            if attempt + 1 < tries:
                pause(lock_timeout)
        if held:
            raise CatalogError("%s has to wait for the end of what others do on %s: %s. Nothing was changed on it." % (what, parent.name, held))
        try:
            session.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", ("%ds" % DETACH_WAIT,))
            session.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY").format(*names))
        except PostgresError as exc:
            if exc.kind == "lost":
                raise
            now = state_of(session, target.schema, target.name)
            if now is None or not now["pending"]:
                raise
    now = state_of(session, target.schema, target.name)
    if now is not None and now["pending"]:
        step = Step("finalize_detach", parent.name, target.name, schema=parent.schema, partition_schema=target.schema, sql_kind="alone")
        try:
            apply(session, step, lock_timeout, tries, pause)
        except PostgresError as exc:
            if exc.kind == "lost":
                raise
            raise CatalogError(
                "The detach of %s was begun and can't be finished now: %s Until then no query of %s sees its rows. Run this again to finish it."
                % (target.full_name, exc, parent.name)
            ) from None


def drop_exactly(
    login: Login, watch: Watch, target: Target, archive: Archive, lock_timeout: float, tries: int, pause: Callable[[float], None] = time.sleep
) -> None:
    """Drop a table of its own that holds exactly what the archive holds: both in one transaction, in which nobody can write to it.

    Raises Altered when it holds something else, CatalogError, PostgresError; nothing is dropped then.
    """
    from psycopg2 import sql

    name = sql.Identifier(target.schema, target.name)
    with connect(login, 0) as session:

        def work() -> None:
            session.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(name))
            now = state_of(session, target.schema, target.name)
            if now is None or now["oid"] != target.oid or now["attached"]:
                raise CatalogError("Somebody else is at work on %s: it was attached or made anew meanwhile. Run this again." % target.full_name)
            for line in SETTINGS:
                session.execute(line.replace("SET ", "SET LOCAL ", 1))
            if tuple(row["name"] for row in session.rows(COLUMNS, (target.oid,))) != archive.columns:
                raise Altered("%s has other columns than its archive %s." % (target.full_name, archive.id))
            found = parse_sum(session.value(archive.contents.statement()))
            if found != archive.content:
                raise Altered(
                    "%s is not what its archive %s holds: %d rows in the table and %d in the archive%s."
                    % (target.full_name, archive.id, found[0], archive.rows, ", of other contents" if found[0] == archive.rows else "")
                )
            session.execute(sql.SQL("DROP TABLE {}").format(name))

        what = "Dropping %s" % target.full_name
        watch.run([lambda: patiently(session, what, work, lock_timeout, tries, pause)], ending(login, session))


def drop_empty(
    session: Session, parent: Parent, target: Target, lock_timeout: float, tries: int, pause: Callable[[float], None] = time.sleep
) -> None:
    """Drop a table that has no row, in one short transaction. Raises Altered when it has, PostgresError."""
    from psycopg2 import sql

    def work() -> None:
        if target.state != "loose":
            # In the order in which who inserts takes them.
            session.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(parent.schema, parent.name)))
        session.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(target.schema, target.name)))
        if not is_empty(session, target.schema, target.name):
            raise Altered("%s had no row, and has some now. Run this again to archive it." % target.full_name)
        session.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(target.schema, target.name)))

    patiently(session, "Dropping %s" % target.full_name, work, lock_timeout, tries, pause)


# --- bringing back -------------------------------------------------------------------------------------------------


def attach_step(parent: Parent, action: str, schema: str, name: str, bounds: tuple[Optional[datetime], Optional[datetime]], why: str) -> Step:
    """Return the step of _partition_catalog that makes a partition of these bounds, or makes a table one. action: create or attach. Pure."""
    return Step(
        action, parent.name, name, *bounds, why,
        schema=parent.schema, partition_schema=schema, key_type=parent.key_type, keys=parent.keys, owner=parent.owner, acl=parent.acl,
        replica_identity=parent.replica_identity, comment=parent.comment, existing=action == "attach",
    )  # fmt: skip


def _quoted(text: str) -> str:
    tag = "body"
    while "$%s$" % tag in text:
        tag += "_"
    return "$%s$%s$%s$" % (tag, text, tag)


def load_script(archive: Archive, triggers: Iterable[tuple[str, str]], lock_timeout: float) -> tuple[str, str]:
    """Return what comes before and after the rows, when they are loaded into the database: all or nothing. Pure.

    The partition must have no row before, and exactly those of the archive afterwards, or the transaction fails.
    triggers: name and state of those that must not fire on rows that were there before.
    """
    name = "%s.%s" % (identifier(archive.partition_schema), identifier(archive.partition))
    some = "BEGIN IF EXISTS (SELECT FROM ONLY %s) THEN RAISE EXCEPTION 'the partition has rows already'; END IF; END" % name  # noqa: S608
    wanted = "%d %s" % archive.content
    same = "BEGIN IF (%s) <> '%s' THEN RAISE EXCEPTION 'the rows that were loaded are not those of the archive'; END IF; END" % (
        archive.contents.statement(), wanted,
    )  # fmt: skip
    off = ["ALTER TABLE ONLY %s DISABLE TRIGGER %s" % (name, identifier(item)) for item, _state in triggers]
    on = ["ALTER TABLE ONLY %s ENABLE %sTRIGGER %s" % (name, "ALWAYS " if state == "A" else "", identifier(item)) for item, state in triggers]
    begin = [
        "BEGIN",
        "SET LOCAL lock_timeout = '%dms'" % max(1, round(lock_timeout * 1000)),
        "LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE" % name,
        "DO %s" % _quoted(some),
        *off,
    ]
    end = ["SET CONSTRAINTS ALL IMMEDIATE", *on, *(line.replace("SET ", "SET LOCAL ", 1) for line in SETTINGS), "DO %s" % _quoted(same), "COMMIT"]
    return ";\n".join(begin) + ";\n", ";\n".join(end) + ";\n"


def load(session: Session, shop: Shop, watch: Watch, archive: Archive, oid: int, lock_timeout: float) -> None:
    """Load the rows of an archive into a partition that has none. Raises BackupError, ComposeError, PostgresError, OSError."""
    triggers = [(row["name"], row["enabled"]) for row in session.rows(TRIGGERS, (oid,))]
    with script_files(archive.path, *load_script(archive, triggers, lock_timeout)):
        watch.run([shop.load], stop_quietly(shop.sweep))


def misfit(parent_columns: Sequence[str], archive: Archive) -> str:
    """Return why the rows of an archive have no place in a table, "" if they have. Pure."""
    lacking = [name for name in archive.columns if name not in parent_columns]
    if lacking:
        return "the table has no column %s any more, and the archive has values for it" % named(lacking)
    return ""
