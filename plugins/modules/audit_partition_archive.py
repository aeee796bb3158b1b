#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_partition_archive
short_description: Archive months of the audit tables, drop those whose archive is proven, and bring them back
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Takes months of tables that are partitioned by month into archives on the host. Each archive is restored into a container of the server's
    image that is thrown away afterwards, and the number of its rows and a sum over their contents are compared with those of the table at
    the moment of the dump. One that does not agree is kept aside as C(<id>.bad) and never counts.
  - Only a month whose archive is proven, undamaged, and holds exactly what the table holds is dropped. The table is detached first without
    anybody having to wait (C(CONCURRENTLY)), or, where there is a default partition, under a short lock. It is then read once more under a lock
    that keeps every writer away, and dropped in the same transaction. If it holds something else by then, it is attached again.
  - A month that is dropped from between others leaves an empty partition in its place, so that there is never a hole.
    A month without any row needs no archive.
  - The present month, later ones and default partitions are never touched.
  - One month that can't be archived or dropped never stops another. The module then does all the others and fails at its end.
extends_documentation_fragment:
  - dghs.bd_fhir.audit_partitions
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.lock
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.change
attributes:
  check_mode:
    support: full
    details:
      - RV(plan) is then what a real run does. Everything is read and compared that can be, and every refusal that needs no dump comes
        as in a real run.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - An archive that holds what the table holds is used again.
options:
  state:
    description:
      - V(archived) makes archives. Nothing is detached or dropped.
      - V(dropped) makes those that are missing, and then drops the months.
      - V(attached) brings one month back from its archive into its place in the table. Its rows are seen once all of them are there and agree
        with the archive. Months between it and the others are created empty.
    type: str
    required: true
    choices:
      - archived
      - dropped
      - attached
  partition:
    description:
      - Name of one partition of one of the O(tables), as it is written in the catalog, without quotes.
      - A table that was detached can be named too, if the name says which month it is.
    type: str
  older_than_months:
    description:
      - Months are meant before which so many whole months, and the present one, remain. From 1 to 1200.
    type: int
  larger_than:
    description:
      - Months are meant that are over and take more than this, with indexes and TOAST, such as V(10GB).
      - With O(older_than_months) too, months are meant of which one or the other is true.
    type: bytes
  archive_id:
    description:
      - The archive to bring a month back from. By default the newest of O(partition) that this deployment has made, which is one of its
        project's name and of its server's system identifier.
      - An archive of another deployment that shares O(directory), or of this server before it was initialised anew, is only taken when it is
        named here. The finding C(archive_foreign) says so.
    type: str
  directory:
    description:
      - Directory on the host for archives. They should outlive the disk of the database.
      - By default C(backups/audit) in O(project_dir).
    type: path
  now:
    description:
      - Read the clock as if it were then, a moment with an offset as in V(2027-12-20T00:00:00Z), to rehearse what is going to happen.
        Later than the server's clock, it is taken in check mode only.
      - By default the clock of the server counts.
  lock_timeout_seconds:
    description:
      - For how long a lock of the database is waited for at a time, because whoever comes later waits behind that.
    type: float
    default: 3
  lock_tries:
    description:
      - How many times a step is tried while others hold a lock that it needs.
    type: int
    default: 10
  restore_memory:
    description:
      - Memory limit of the container in which the copy runs.
    type: str
    default: 512m
  min_free:
    description:
      - How much room there must be before an archive is made or brought back, as a multiple of what it needs at most.
      - At any moment 5 per cent of the file system (at most 2 GiB) must stay free, or the archive is broken off.
    type: float
    default: 1.1
  backup_timeout:
    description:
      - Seconds after which one step (dump, restore, comparison) is broken off.
    type: int
    default: 21600
  lock_dir:
    description:
      - Directory of the lock that keeps two archives, or an archive and a backup, of one project apart.
  lock_timeout:
    description:
      - Seconds to wait for another archive or backup of the same project.
requirements:
  - The server's image has its client programs, C(sh), C(stat) and C(cat), as the official one
notes:
  - C(sha256sum -c SHA256SUMS) in the directory of an archive proves its files. C(manifest.json) says what it holds.
  - Archives have the rows of an audit trail. They have no passwords, and only their owner can read them (mode 0700).
  - A kill while an archive is made leaves C(<id>.partial), which the next run removes. A kill while a month is dropped leaves it attached,
    or as a table of its own that C(drop.json) in its archive names. The next run with O(state=dropped) that means this month finishes it,
    O(state=attached) attaches it again, and both say so.
  - O(months_ahead), O(alarm_days) and O(maintenance_function) have no part in this.
seealso:
  - module: dghs.bd_fhir.audit_partition
  - module: dghs.bd_fhir.audit_partition_info
  - module: dghs.bd_fhir.postgres_backup
"""

EXAMPLES = r"""
- name: Say what would be archived and dropped
  dghs.bd_fhir.audit_partition_archive:
    project_dir: /opt/bd-fhir-national
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD
    directory: /mnt/archive/audit
    state: dropped
    older_than_months: 24
    larger_than: 10GB
  check_mode: true

- name: Keep two years, and months of more than 10 GB only while they are new
  dghs.bd_fhir.audit_partition_archive:
    project_dir: /opt/bd-fhir-national
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD
    directory: /mnt/archive/audit
    state: dropped
    older_than_months: 24
    larger_than: 10GB
  # In a play: poll, so that a connection that breaks off does not end hours of work.
  async: 43200
  poll: 15

- name: Bring one month back for the auditors
  dghs.bd_fhir.audit_partition_archive:
    project_dir: /opt/bd-fhir-national
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD
    directory: /mnt/archive/audit
    state: attached
    partition: audit_events_2025_01
"""

RETURN = r"""
plan:
  description: What was done, in order. In check mode, what would be.
  returned: success, and on failure what was done until then
  type: list
  elements: dict
  contains:
    action:
      description:
        - V(archive), V(detach), V(finalize_detach), V(drop), V(create), V(attach) or V(restore).
      type: str
      sample: drop
    schema:
      description: Schema of the table.
      type: str
      sample: audit
    table:
      description: The table.
      type: str
      sample: audit_events
    partition:
      description: The partition.
      type: str
      sample: audit_events_2025_01
    lower:
      description: Where it begins.
      type: str
      sample: '2025-01-01T00:00:00Z'
    upper:
      description: Where the next one begins.
      type: str
      sample: '2025-02-01T00:00:00Z'
    why:
      description: Why it is needed.
      type: str
      sample: its archive is proven
archives:
  description: The archives that were made or used, in order. In check mode those that are there.
  returned: success, and on failure those until then
  type: list
  elements: dict
  contains:
    archive_id:
      description: Name of the archive.
      type: str
      sample: partition_auditdb_audit.audit_events_2025_01_20270301T030000Z
    path:
      description: Its directory on the host.
      type: str
      sample: /opt/bd-fhir-national/backups/audit/partition_auditdb_audit.audit_events_2025_01_20270301T030000Z
    schema:
      description: Schema of the table.
      type: str
      sample: audit
    table:
      description: The table.
      type: str
      sample: audit_events
    partition:
      description: The partition.
      type: str
      sample: audit_events_2025_01
    rows:
      description: How many rows it holds.
      type: int
      sample: 1482021
    sum:
      description: The sum over their contents, which is the same in whatever order they come.
      type: str
      sample: '-4611686018427387904'
    bytes:
      description: Size of its files.
      type: int
      sample: 81788928
    sha256:
      description: SHA-256 of its C(SHA256SUMS).
      type: str
      sample: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
    created:
      description: The moment whose state it holds.
      type: str
      sample: '2027-03-01T03:00:00Z'
    made:
      description: Whether this run has made it.
      type: bool
      sample: true
findings:
  description: What an operator should know, see the collection's C(docs/findings.md), and what an earlier run that was ended has left.
  returned: success, and on failure
  type: list
  elements: dict
  sample: []
"""

import os
import time
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _backup as making
from ..module_utils import _backup_files as store
from ..module_utils import _partition_archive as archiving
from ..module_utils._backup_files import BackupError
from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._findings import finding
from ..module_utils._lock import LOCK_ARGUMENTS, HostLock, LockError
from ..module_utils._partition_archive import Altered, Archive, Drop, Owner, Selection, Target
from ..module_utils._partition_catalog import (
    DEFAULT_LOCK_TIMEOUT,
    DEFAULT_LOCK_TRIES,
    PARTITION_ARGUMENTS,
    CatalogError,
    TableReport,
    apply,
    bounds_text,
    iso,
    look,
    moment_of,
    predicted,
    read_server,
    settings_of,
    step_report,
)
from ..module_utils._partitions import Parent, Partition, PartitionError, Step, plan, resolve_zone, unusable
from ..module_utils._postgres import LOGIN_ARGUMENTS, PostgresError, Session, connect, container_of, login_to

# Seconds. Rows that refer to a large month are looked for.
READ_TIMEOUT = 3600
READ_LOCK_TIMEOUT = 30

# What concerns one month, and stops no other.
ONE_MONTH = (BackupError, CatalogError, ComposeError, PartitionError, PostgresError, OSError)


def told(archive: Archive, made: bool) -> dict[str, Any]:
    """Return what the result says of an archive. Pure."""
    return {
        "archive_id": archive.id,
        "path": archive.path,
        "schema": archive.schema,
        "table": archive.table,
        "partition": archive.partition,
        "rows": archive.rows,
        "sum": archive.sum,
        "bytes": archive.backup.manifest["bytes"],
        "sha256": archive.backup.manifest["sha256"],
        "created": iso(datetime.fromtimestamp(int(archive.backup.created), timezone.utc)),
        "made": made,
    }


def check_options(params: dict[str, Any]) -> None:
    """Raise PartitionError for options that the argument spec can't refuse. Pure."""
    ranges: tuple[tuple[str, float, float], ...] = (
        ("older_than_months", 1, 1200),
        ("larger_than", 0, 1 << 62),
        ("lock_timeout_seconds", 0.05, 3600),
        ("lock_tries", 1, 1000),
        ("backup_timeout", 1, 1 << 31),
        ("min_free", 0, 1000),
    )
    for name, least, most in ranges:
        if params[name] is not None and not least <= params[name] <= most:
            raise PartitionError("%s is %g. It takes %g to %g." % (name, params[name], least, most))
    if params["archive_id"] and params["state"] != "attached":
        raise PartitionError("archive_id goes with state attached only.")
    if params["state"] == "attached" and (params["older_than_months"] is not None or params["larger_than"] is not None):
        raise PartitionError("state attached takes one partition, or one archive_id.")


class Retention:
    """One call of the module."""

    def __init__(self, module: AnsibleModule, docker: Docker, guard: ChangeGuard, result: dict[str, Any]) -> None:
        params = module.params
        self.module = module
        self.params = params
        self.docker = docker
        self.guard = guard
        self.result = result
        self.settings = settings_of(params, retention=True)
        self.moment = moment_of(params["now"])
        self.state = str(params["state"])
        self.patience = (params["lock_timeout_seconds"], params["lock_tries"])
        self.directory = os.path.abspath(params["directory"] or os.path.join(docker.project_dir, "backups/audit"))
        self.container = container_of(docker, params["service"])
        self.login = login_to(docker, self.container, params, params["database"])
        module.no_log_values.add(self.login.password)
        self.errors: dict[str, str] = {}
        # Tables as they are now, or will be by what was predicted.
        self.parents: dict[str, Parent] = {}
        self.archives: list[Archive] = []
        # Those of other deployments that share the directory: never taken unless one is named.
        self.foreign: list[Archive] = []
        self.lines: list[str] = []

    # -- telling

    def note(self, item: dict[str, Any]) -> None:
        self.result["findings"].append(item)

    def did(self, parent: Parent, action: str, target: Target, why: str) -> None:
        """Put a step into the plan."""
        step = Step(action, parent.name, target.name, target.lower, target.upper, why, schema=parent.schema, partition_schema=target.schema)
        self.result["plan"].append(step_report(step))
        self.result["changed"] = True

    def summary(self) -> str:
        """Say what could not be done, and what was."""
        words = ["%s: %s" % item for item in self.errors.items()]
        count = len(self.result["plan"])
        if not count:
            return "%s Nothing was changed." % " ".join(words)
        return "%s %d steps %s carried out, see plan." % (" ".join(words), count, "would be" if self.module.check_mode else "were")

    # -- the whole

    def run(self) -> None:
        """Do everything, or as much as can be. Raises what main() knows."""
        with connect(self.login, READ_TIMEOUT) as session:
            session.execute("SET lock_timeout = '%ds'" % READ_LOCK_TIMEOUT)
            # It waits while dumps are made.
            session.execute("SET idle_session_timeout = 0")
            self.session: Session = session
            self.server = read_server(session)
            if self.server.in_recovery:
                raise CatalogError(
                    "Nothing was changed: the server of %s is a standby, which follows another one. Name the service of the primary."
                    % self.params["service"]
                )
            self.now = self.moment or self.server.now
            if self.now > self.server.now and self.state != "attached" and not self.module.check_mode:
                raise CatalogError("Nothing was changed: now is later than the clock of the server. That is for check mode only.")
            self.backing = making.read_server(self.docker, self.container, session)
            reports = [self.look(table) for table in self.params["tables"]]
            before = "".join(bounds_text(report) for report in reports)
            for report in reports:
                why = report.error
                problem = unusable(report.parent) if report.parent is not None else None
                if problem is not None:
                    why = "it is %s, and %s is needed. %s" % (problem["found"], problem["expected"], problem["hint"])
                if why or report.parent is None:
                    self.errors[report.full_name] = why
                else:
                    self.parents[report.name] = report.parent
            if not self.module.check_mode:
                # What a killed run has started must not go on writing.
                self.shop(self.directory)
            self.read_directory()
            if self.state == "attached":
                self.bring_back()
            else:
                self.retain()
            if not self.module.check_mode:
                reports = [self.look(report.name) for report in reports]
            else:
                for report in reports:
                    report.parent = self.parents.get(report.name)
        self.result["diff"] = {"before": before, "after": "".join(bounds_text(report) for report in reports) + "".join(self.lines)}
        if self.errors:
            raise CatalogError(self.summary())

    def look(self, table: str) -> TableReport:
        return look(self.session, self.server, self.params["schema"], table, self.settings, self.now)

    def owner(self) -> Owner:
        """Return whose archives are ours."""
        return Owner(self.docker.project_name(), self.backing.system)

    def tell_foreign(self, found: list[Archive], hint: str) -> None:
        """Say that archives are of another deployment, or of this server before it was initialised anew."""
        seen = "; ".join("%s of %s" % (item.id, item.owner) for item in found)
        self.note(finding("archive_foreign", "warning", found[0].full_name, "an archive of %s" % self.owner(), seen, hint))

    def read_directory(self) -> None:
        """Read the archives, and take away what a killed run has left."""
        if not os.path.isdir(self.directory):
            return
        # It is there: this only refuses one that others may write to.
        store.prepare(self.directory)
        found = archiving.archives(
            self.directory, self.params["service"], self.params["database"], self.params["schema"], self.params["tables"]
        )
        self.archives = [item for item in found if item.owner == self.owner()]
        self.foreign = [item for item in found if item.owner != self.owner()]
        for left in archiving.leftovers(self.directory, archiving.id_prefix(self.params["database"]), self.owner()):
            if left.endswith(store.BAD):
                continue
            if left.endswith(store.PARTIAL):
                self.note(
                    finding(
                        "archive_unfinished", "info", os.path.basename(left), "a whole archive", "one that a run was making when it was ended",
                        "Nothing was detached or dropped for it. A real run removes it.",
                    )
                )  # fmt: skip
            if not self.module.check_mode:
                store.remove(left)

    # -- which months

    def zone_of(self, parent: Parent) -> Any:
        return resolve_zone(parent, self.server, self.settings)

    def selection(self, parent: Parent) -> Selection:
        zone, ago = self.zone_of(parent), self.params["older_than_months"]
        past = None if ago is None else archiving.month_begin(parent, self.now, zone, ago)
        return Selection(archiving.month_begin(parent, self.now, zone), past, self.params["larger_than"])

    def interrupted(self, parent: Parent) -> list[Target]:
        """Return the tables that an earlier run was dropping when it ended; say what became of them, and settle what is over."""
        found = {}
        for archive in self.archives:
            if archive.table != parent.name:
                continue
            try:
                drop = archiving.read_drop(archive.path)
            except BackupError as exc:
                self.errors[archive.full_name] = str(exc)
                continue
            if drop is None or drop.done or drop.system != self.backing.system:
                continue
            now = archiving.state_of(self.session, archive.partition_schema, archive.partition)
            if now is not None and now["oid"] != drop.oid:
                now = None
            severity, seen = "info", "dropped, as it was meant to be"
            hint = "audit_partition creates the empty partition in its place." if drop.refill else "Nothing: only the record of it was missing."
            if now is None:
                drop = replace(drop, done=True)
                if not self.module.check_mode:
                    archiving.write_drop(archive.path, drop)
            elif now["attached"] and not now["pending"]:
                seen, hint = "attached, as if nothing had begun", "Nothing: a run that means this month begins anew."
                if not self.module.check_mode:
                    archiving.remove_drop(archive.path)
            else:
                state = "pending" if now["pending"] else "loose"
                bounds = (archive.lower, archive.upper)
                found[drop.oid] = Target(archive.partition_schema, archive.partition, drop.oid, *bounds, state, now["bytes"], ours=True)
                severity = "warning"
                seen = "a table of its own" if state == "loose" else "a partition whose detach was begun, and whose rows no query sees"
                hint = "The state dropped finishes it where it means this month. The state attached attaches it again, with all its rows."
            self.note(
                finding(
                    "drop_interrupted", severity, archive.full_name, "attached, or dropped",
                    "%s: a run that was ended was dropping it (archive %s)" % (seen, archive.id), hint,
                )
            )  # fmt: skip
        return list(found.values())

    def wanted(self) -> list[tuple[Parent, Target]]:
        """Return the months that are meant, oldest first. Raises CatalogError for a name that there is not."""
        found = []
        name = self.params["partition"]
        for parent in list(self.parents.values()):
            targets = {item.oid: item for item in self.interrupted(parent)}
            if name:
                mine = self.named(parent, name, targets)
                found += [(parent, mine)] if mine else []
                continue
            selection = self.selection(parent)
            chosen = {oid: item for oid, item in targets.items() if self.state == "dropped" and selection.takes(item.upper, item.bytes)}
            for item in archiving.selected(parent, selection):
                if item.kind != "table":
                    self.note(
                        finding(
                            "partition_not_archived", "warning", "%s.%s" % (item.schema, item.name), "a plain table",
                            archiving.refusal(item, selection.over), "It is left as it is.",
                        )
                    )  # fmt: skip
                elif item.oid not in targets:
                    chosen[item.oid] = archiving.target_of(item)
            ordered = sorted(chosen.values(), key=lambda item: (item.upper or selection.over, item.name))
            found += [(parent, item) for item in ordered]
        if name and not found and not self.errors:
            gone = [item for item in self.archives if item.partition == name]
            if not gone:
                raise CatalogError(
                    "Nothing was changed: there is no partition %s of %s in the schema %s, and no archive of one in %s. Correct partition, or tables."
                    % (name, ", ".join(self.params["tables"]), self.params["schema"], self.directory)
                )
            self.result["archives"].append(told(gone[0], made=False))
        if name and found:
            # Another table, of which nothing is wanted.
            self.errors.clear()
        if name and len(found) > 1:
            raise CatalogError("Nothing was changed: several of the tables have a partition %s. Name one table." % name)
        return found

    def named(self, parent: Parent, name: str, targets: dict[int, Target]) -> Optional[Target]:
        """Return the month of this name, if it is one of this table. Raises CatalogError for one that can't be archived."""
        over = self.selection(parent).over
        for item in parent.partitions:
            if item.name == name:
                why = archiving.refusal(item, over)
                if why:
                    raise CatalogError("Nothing was changed: %s.%s can't be archived: %s." % (item.schema, name, why))
                return targets.get(item.oid, archiving.target_of(item))
        for target in targets.values():
            if target.name == name:
                return target
        for loose in parent.loose:
            if loose.name == name:
                bounds = archiving.month_bounds(parent, name, self.zone_of(parent))
                span = loose.rows_span
                if bounds is None or (span is not None and not (bounds[0] <= span[0] and span[1] < bounds[1])):
                    raise CatalogError(
                        "Nothing was changed: %s.%s is not attached, and its rows are not of the month of its name." % (loose.schema, name)
                    )
                if bounds[1] > over:
                    raise CatalogError("Nothing was changed: %s.%s is of a month that is not over." % (loose.schema, name))
                return Target(loose.schema, name, loose.oid, *bounds, "loose", loose.bytes)
        return None

    # -- archived, dropped

    def retain(self) -> None:
        """Archive, and drop, the months that are meant."""
        for parent, target in self.wanted():
            try:
                self.one(parent, target)
            except ONE_MONTH as exc:
                if isinstance(exc, PostgresError) and exc.kind == "lost":
                    raise
                self.errors[target.full_name] = str(exc)

    def one(self, parent: Parent, target: Target) -> None:
        """Archive, and drop, one month. Raises what concerns it."""
        if target.state == "pending" and not (target.ours and self.state == "dropped"):
            raise CatalogError("Nothing was changed on it: its detach was begun and is not finished. Let audit_partition finish it first.")
        empty = archiving.is_empty(self.session, target.schema, target.name)
        if self.state == "archived":
            if not empty:
                self.ensure(parent, target)
            return
        broken = archiving.references(self.session, target)
        if broken:
            raise CatalogError(
                "Nothing was changed on it: it can't be dropped, because others refer to it: %s. Delete those rows, or drop what refers to it, first."
                % "; ".join(broken)
            )
        if empty:
            self.drop_empty(parent, target)
            return
        if target.state == "pending":
            self.finish_detach(parent, target)
            target = replace(target, state="loose")
        self.drop(parent, target, self.ensure(parent, target))

    def finish_detach(self, parent: Parent, target: Target) -> None:
        """Make a table of its own of a partition whose detach was begun."""
        if not self.module.check_mode:
            self.guard.step("finalize_detach", target.full_name)
            archiving.detach(self.session, parent, target, *self.patience)
        self.did(parent, "finalize_detach", target, "its detach was begun and not finished")
        self.taken_away(parent, target)

    def ensure(self, parent: Parent, target: Target) -> Optional[Archive]:
        """Return a proven archive of exactly what the table holds, made if there is none; None in check mode if there is none."""
        kept = [item for item in self.archives if item.of(parent, target)]
        if kept:
            watch = making.Watch(self.guard.verify, [])
            columns, content = archiving.read_content(self.login, watch, target.schema, target.name)
            for archive in kept:
                if (archive.columns, archive.content) != (columns, content):
                    continue
                wrong = watch.run([partial(store.damage, archive.backup)], lambda: None)[0]
                if not wrong:
                    self.result["archives"].append(told(archive, made=False))
                    return archive
                self.damaged(archive, wrong)
        return self.make(parent, target)

    def damaged(self, archive: Archive, wrong: str) -> None:
        """Take an archive out of what counts, while its table is still there."""
        self.note(
            finding(
                "archive_damaged", "warning", archive.id, "every byte as it was written", wrong,
                "It is kept aside as %s%s and no longer counts; a new one is made. Look at the disk of %s." % (archive.id, store.BAD, self.directory),
            )
        )  # fmt: skip
        if not self.module.check_mode:
            self.guard.step("set_aside_archive", archive.id, after=wrong)
            archiving.remove_drop(archive.path)
            store.set_aside(archive.backup)
            self.archives.remove(archive)

    def docker_root(self) -> str:
        """Return Docker's directory of data. Raises BackupError."""
        root = self.docker.docker("info", "--format", "{{.DockerRootDir}}")[1].strip()
        if not os.path.isdir(root):
            raise BackupError("Nothing was done: Docker's data directory %s is not on this host, so its free space can't be read." % root)
        return root

    def require_room(self, target: Target, root: str) -> dict[str, Any]:
        """Refuse an archive for which there is no room; return what is known of the table. Raises BackupError."""
        now = archiving.state_of(self.session, target.schema, target.name)
        if now is None or now["oid"] != target.oid:
            raise CatalogError("Nothing was changed on it: it was dropped or made anew meanwhile. Run this again.")
        factor = self.params["min_free"]
        here = store.room(self.directory)
        wants = [
            (self.directory, int((now["table_bytes"] + archiving.FRAME_BYTES) * factor), here),
            (root, int((now["bytes"] + archiving.CLUSTER_BYTES) * factor), store.room(root)),
        ]
        short = store.short_of(wants)
        if short:
            raise BackupError(
                "Nothing was done: there is no room for its archive and the copy that proves it: %s. Free some space, choose another directory, or"
                " lower min_free if you know better." % short
            )
        if here.device == wants[1][2].device and not any(item["id"] == "backup_same_disk" for item in self.result["findings"]):
            self.note(
                finding(
                    "backup_same_disk", "warning", self.directory, "another file system than that of the databases", "the file system of %s" % root,
                    "A disk that fails takes both. Set directory to another disk, or copy the archives to another machine.",
                )
            )  # fmt: skip
        return now

    def make(self, parent: Parent, target: Target) -> Optional[Archive]:
        """Make an archive, prove it, and return it; None in check mode."""
        root = self.docker_root()
        now = self.require_room(target, root)
        why = "there is no proven archive of what it holds"
        if self.module.check_mode:
            self.archived(parent, target, why)
            return None
        store.prepare(self.directory)
        name = archiving.new_id(self.params["database"], target.schema, target.name, time.time())
        path = os.path.join(self.directory, name)
        shop = self.shop(path + store.PARTIAL)
        self.guard.step("archive", target.full_name, after={"archive_id": name})
        for left in archiving.leftovers(self.directory, name[: -len("20260131T235959Z")], self.owner()):
            store.remove(left)
        watch = making.Watch(self.guard.verify, [self.directory, root])
        facts = {
            "source": {
                "service": self.params["service"],
                "database": self.params["database"],
                "project": self.docker.project_name(),
                "system_identifier": self.backing.system,
                "server_version": self.backing.version,
                "image": self.container.image_ref,
                "image_id": self.container.image_id,
            },
            "schema": parent.schema,
            "table": parent.name,
            "key": parent.keys[0],
            "key_type": parent.key_type,
            "oid": target.oid,
            "total_bytes": now["bytes"],
        }
        archiving.begin(path + store.PARTIAL, facts)
        try:
            archiving.fill(shop, watch, self.login, path + store.PARTIAL, target, facts)
        finally:
            shop.sweep()
        backup = store.load(store.finish(path + store.PARTIAL))
        archive = archiving.archive_of(backup) if backup else None
        if archive is None:
            raise BackupError("%s can't be read again right after it was made. Look at the disk." % path)
        self.archives.insert(0, archive)
        self.result["archives"].append(told(archive, made=True))
        self.archived(parent, target, why)
        return archive

    def archived(self, parent: Parent, target: Target, why: str) -> None:
        self.did(parent, "archive", target, why)
        self.lines.append("%s: in a proven archive\n" % target.full_name)

    def shop(self, directory: str) -> archiving.Shop:
        """Return the containers for an archive, of which none is left over. Raises ComposeError."""
        shop = archiving.Shop(self.docker, self.backing, self.login, directory, self.params["backup_timeout"], self.params["restore_memory"])
        shop.sweep()
        return shop

    def others_come_before(self, parent: Parent, target: Target) -> bool:
        """Tell whether a hole would be left where this month was."""
        for item in self.parents[parent.name].partitions:
            if item.oid == target.oid or item.default or item.opaque or item.detach_pending:
                continue
            if item.lower is None or (target.lower is not None and item.lower < target.lower):
                return True
        return False

    def taken_away(self, parent: Parent, target: Target) -> None:
        """Note that a month is gone."""
        now = self.parents[parent.name]
        self.parents[parent.name] = replace(now, partitions=tuple(item for item in now.partitions if item.oid != target.oid))

    def drop_empty(self, parent: Parent, target: Target) -> None:
        """Drop a month without rows, unless it stands between others."""
        if target.state == "attached" and self.others_come_before(parent, target):
            return
        if not self.module.check_mode:
            self.guard.step("drop", target.full_name, before="no rows", after=None)
            archiving.drop_empty(self.session, parent, target, *self.patience)
            self.settle(parent, target)
        self.did(parent, "drop", target, "it has no rows, so there is nothing to archive")
        self.taken_away(parent, target)

    def settle(self, parent: Parent, target: Target) -> None:
        """Close what earlier runs have noted of a table that is gone."""
        for archive in self.archives:
            if not archive.of(parent, target):
                continue
            try:
                drop = archiving.read_drop(archive.path)
            except BackupError:
                # Told already, where it was read first.
                continue
            if drop is not None and drop.oid == target.oid and drop.system == self.backing.system and not drop.done:
                archiving.write_drop(archive.path, replace(drop, done=True))

    def drop(self, parent: Parent, target: Target, archive: Optional[Archive]) -> None:
        """Detach and drop a month whose archive is proven. archive None: in check mode."""
        refill = (target.state == "attached" or target.ours) and self.others_come_before(parent, target)
        attached = target.state == "attached"
        if archive is not None and not self.module.check_mode:
            now = time.time()
            archiving.write_drop(archive.path, Drop(target.oid, self.backing.system, now, refill))
            if attached:
                self.guard.step("detach", target.full_name, after={"archive_id": archive.id})
                self.detach(parent, target, archive)
        if attached:
            self.did(parent, "detach", target, "its archive is proven")
        if archive is not None and not self.module.check_mode:
            self.guard.step("drop", target.full_name, before={"rows": archive.rows}, after={"archive_id": archive.id})
            watch = making.Watch(self.guard.verify, [])
            try:
                archiving.drop_exactly(self.login, watch, replace(target, state="loose"), archive, *self.patience)
            except (CatalogError, PostgresError) as exc:
                if isinstance(exc, PostgresError) and exc.kind == "lost":
                    raise
                self.put_back(parent, target, archive, exc)
        self.did(parent, "drop", target, "its archive holds exactly its rows")
        self.taken_away(parent, target)
        if refill:
            self.refill(parent, target)
        if not self.module.check_mode:
            self.settle(parent, target)

    def detach(self, parent: Parent, target: Target, archive: Archive) -> None:
        """Detach a month. Raises PostgresError, CatalogError; the record goes if nothing came of it."""
        try:
            archiving.detach(self.session, parent, target, *self.patience)
        except (CatalogError, PostgresError) as exc:
            if not (isinstance(exc, PostgresError) and exc.kind == "lost"):
                now = archiving.state_of(self.session, target.schema, target.name)
                if now is not None and now["attached"] and not now["pending"]:
                    archiving.remove_drop(archive.path)
            raise

    def put_back(self, parent: Parent, target: Target, archive: Archive, why: Exception) -> None:
        """Attach a month again that could not be dropped. Always raises CatalogError."""
        if target.state == "loose" and not target.ours:
            archiving.remove_drop(archive.path)
            raise CatalogError("%s Nothing was dropped." % why)
        now = archiving.state_of(self.session, target.schema, target.name)
        if now is None or now["oid"] != target.oid or (now["attached"] and not now["pending"]):
            archiving.remove_drop(archive.path)
            raise CatalogError("%s Nothing was dropped." % why)
        step = archiving.attach_step(parent, "attach", target.schema, target.name, (target.lower, target.upper), "")
        try:
            self.guard.step("attach", target.full_name, after=str(why))
            apply(self.session, step, *self.patience)
        except (CatalogError, PostgresError) as exc:
            raise CatalogError(
                "%s It is whole, a table of its own, and could not be attached again: %s Run this again, or with state attached." % (why, exc)
            ) from None
        archiving.remove_drop(archive.path)
        self.did(parent, "attach", target, "it could not be dropped")
        hint = " Run this again: another archive is made then." if isinstance(why, Altered) else ""
        raise CatalogError("%s It was attached again, and nothing was dropped.%s" % (why, hint))

    def refill(self, parent: Parent, target: Target) -> None:
        """Put an empty partition in the place of a month that stood between others."""
        why = "other months come before it, and there must be no hole"
        step = archiving.attach_step(parent, "create", target.schema, target.name, (target.lower, target.upper), why)
        if not self.module.check_mode:
            self.guard.step("create", target.full_name, why)
            apply(self.session, step, *self.patience)
        self.did(parent, "create", target, why)
        self.parents[parent.name] = predicted(self.parents[parent.name], [step])

    # -- attached

    def from_archive(self) -> Optional[Archive]:
        """Return the archive that is meant, None when there is none of this partition. Raises CatalogError."""
        wanted = self.params["archive_id"]
        if not wanted:
            archive = next((item for item in self.archives if item.partition == self.params["partition"]), None)
            others = [item for item in self.foreign if item.partition == self.params["partition"]]
            if archive is None and others:
                self.tell_foreign(others, "None of them was taken. If one of them is what you want, name it with archive_id.")
            return archive
        store.check_id(wanted)
        found = [item for item in [*self.archives, *self.foreign] if item.id == wanted]
        if found and found[0] in self.foreign:
            self.tell_foreign(found[:1], "It was named, so it is taken. See that its rows belong here.")
        if not found:
            raise CatalogError(
                "Nothing was changed: %s has no proven archive %s of a month of %s, which are tables of the service %s, database %s, schema %s."
                % (
                    self.directory, wanted, ", ".join(self.params["tables"]), self.params["service"], self.params["database"], self.params["schema"],
                )
            )  # fmt: skip
        return found[0]

    def bring_back(self) -> None:
        """Bring one month back. Raises what main() knows."""
        if self.errors and not self.parents:
            return
        for parent in self.parents.values():
            self.interrupted(parent)
        archive = self.from_archive()
        if archive is not None and archive.table not in self.parents:
            # It is told already why not.
            return
        self.errors.clear()
        if archive is not None:
            parent = self.parents[archive.table]
            schema, name = archive.partition_schema, archive.partition
        else:
            name = self.params["partition"]
            owners = [(item, schema) for item in self.parents.values() for schema in archiving.schemas_of(item, name)]
            if not owners:
                raise CatalogError(
                    "Nothing was changed: there is no archive of a partition %s of this deployment (%s) in %s, and no table of that name. Archives"
                    " of: %s. %sCorrect partition, directory or tables."
                    % (
                        name, self.owner(), self.directory, ", ".join(sorted({item.partition for item in self.archives})) or "nothing",
                        "".join(
                            "%s is of another one (%s): if you want it, name it with archive_id. " % (item.id, item.owner)
                            for item in self.foreign if item.partition == name
                        ),
                    )
                )  # fmt: skip
            parent, schema = owners[0]
        now = archiving.state_of(self.session, schema, name)
        if now is not None and now["relkind"] != "r":
            raise CatalogError("Nothing was changed: %s.%s is something else than a plain table. Rename it." % (schema, name))
        if now is not None and now["parent"] not in (None, parent.oid):
            raise CatalogError("Nothing was changed: %s.%s belongs to another table." % (schema, name))
        if archive is None and now is not None and now["attached"] and not now["pending"]:
            return
        bounds = (archive.lower, archive.upper) if archive else self.loose_bounds(parent, name)
        target = Target(schema, name, now["oid"] if now else 0, *bounds, "gone")
        if now is not None:
            target = replace(target, state="pending" if now["pending"] else "attached" if now["attached"] else "loose")
        self.place(parent, target)
        holds = archive is None
        if archive is not None:
            self.result["archives"].append(told(archive, made=False))
            holds = now is not None and self.holds(target, archive)
            if not holds:
                self.require_archive(parent, archive)
        self.carry_back(parent, target, archive, holds)

    def loose_bounds(self, parent: Parent, name: str) -> tuple[Optional[datetime], Optional[datetime]]:
        """Return the bounds of a table without an archive. Raises CatalogError for one whose rows are not of the month of its name."""
        for item in parent.partitions:
            if item.name == name:
                return item.lower, item.upper
        loose = next(item for item in parent.loose if item.name == name)
        bounds = archiving.month_bounds(parent, name, self.zone_of(parent))
        span = loose.rows_span
        if not loose.fits or bounds is None or (span is not None and not (bounds[0] <= span[0] and span[1] < bounds[1])):
            why = loose.misfit or "its rows are not of the month of its name"
            raise CatalogError("Nothing was changed: %s.%s can't be attached: %s." % (loose.schema, name, why))
        return bounds

    def place(self, parent: Parent, target: Target) -> None:
        """Refuse a month whose time is taken. Raises CatalogError."""
        for item in parent.partitions:
            if item.oid == target.oid and target.oid:
                if (item.lower, item.upper) != (target.lower, target.upper):
                    raise CatalogError(
                        "Nothing was changed: %s is attached with other bounds than in its archive: %s." % (target.full_name, item.bound)
                    )
            elif not item.default and not item.opaque and self.overlap(item, target):
                raise CatalogError(
                    "Nothing was changed: the time of %s is that of the partition %s.%s. If that has no rows, drop it first."
                    % (target.full_name, item.schema, item.name)
                )
        span = parent.default_span
        if target.state != "attached" and parent.default_rows and span is not None:
            rows = Partition(0, "", "", lower=span[0], upper=span[1])
            if self.overlap(rows, target) or span[1] == target.lower:
                raise CatalogError(
                    "Nothing was changed: the default partition of %s has rows that may be of the time of %s. Let audit_partition move them, or"
                    " delete them, first." % (parent.name, target.full_name)
                )

    @staticmethod
    def overlap(item: Partition, target: Target) -> bool:
        starts_before = item.lower is None or target.upper is None or item.lower < target.upper
        return starts_before and (item.upper is None or target.lower is None or target.lower < item.upper)

    def holds(self, target: Target, archive: Archive) -> bool:
        """Tell whether the table has the rows of the archive already, and not none. Raises CatalogError if it has others."""
        if archiving.is_empty(self.session, target.schema, target.name):
            return archive.rows == 0
        watch = making.Watch(self.guard.verify, [])
        columns, content = archiving.read_content(self.login, watch, target.schema, target.name, archive.columns)
        if (columns, content) == (archive.columns, archive.content):
            return True
        raise CatalogError(
            "Nothing was changed: %s is there, and holds other rows than its archive %s: %d rows in the table, %d in the archive. If they have come"
            " since, copy them elsewhere and delete them, run this again, and put them back."
            % (target.full_name, archive.id, content[0], archive.rows)
        )

    def require_archive(self, parent: Parent, archive: Archive) -> None:
        """Refuse an archive that is damaged, does not fit, or for which there is no room. Raises CatalogError, BackupError, ComposeError."""
        rows = self.session.rows(archiving.COLUMNS, (parent.oid,))
        why = archiving.misfit([row["name"] for row in rows], archive)
        if why:
            raise CatalogError("Nothing was changed: %s can't be brought back from %s: %s." % (archive.full_name, archive.id, why))
        watch = making.Watch(self.guard.verify, [])
        wrong = watch.run([partial(store.damage, archive.backup)], lambda: None)[0]
        if wrong:
            others = [item.id for item in self.archives if item.full_name == archive.full_name and item.id != archive.id]
            raise CatalogError(
                "Nothing was changed: the archive %s is damaged: %s. Get it from another copy of that disk.%s"
                % (archive.path, wrong, " There are other archives of this month: %s (archive_id)." % ", ".join(others) if others else "")
            )
        path = self.session.value("SELECT pg_catalog.current_setting('data_directory')")
        space = archiving.room_inside(self.docker, self.container, path)
        short = store.short_of([("%s in %s" % (path, self.container.name), int(archive.total_bytes * self.params["min_free"]), space)])
        if short:
            raise BackupError(
                "Nothing was done: there is no room in the database: %s. Free some space, or lower min_free if you know better." % short
            )

    def carry_back(self, parent: Parent, target: Target, archive: Optional[Archive], holds: bool) -> None:
        """Make the month a partition, load its rows, and close the time between it and the others."""
        bounds = (target.lower, target.upper)
        why = "it is to be a partition again"
        action = {"gone": "create", "attached": ""}.get(target.state, "attach")
        steps = [archiving.attach_step(parent, action, target.schema, target.name, bounds, why)] if action else []
        pieces = self.between(parent, steps, target)
        if target.state == "pending":
            self.finish_detach(parent, target)
        for step in steps:
            self.carry_out(parent, step)
        if archive is not None and not holds:
            if not self.module.check_mode:
                self.load(archive)
            self.did(parent, "restore", target, "its rows are in the archive")
            self.lines.append("%s: rows from the archive\n" % target.full_name)
        for step in pieces:
            self.carry_out(parent, step)
        if archive is not None and not self.module.check_mode:
            for item in self.archives:
                if item.full_name == archive.full_name:
                    archiving.remove_drop(item.path)

    def carry_out(self, parent: Parent, step: Step) -> None:
        if not self.module.check_mode:
            self.guard.step(step.action, "%s.%s" % (step.partition_schema, step.partition), step.why)
            apply(self.session, step, *self.patience)
        self.did(parent, step.action, Target(step.partition_schema, step.partition, 0, step.lower, step.upper), step.why)
        self.parents[parent.name] = predicted(self.parents[parent.name], [step])

    def between(self, parent: Parent, steps: list[Step], target: Target) -> list[Step]:
        """Return the steps that create the months between this one and the first of the others."""
        bounds = [item.lower for item in parent.partitions if not item.default and not item.opaque and item.oid != target.oid]
        first = None if not bounds or None in bounds else min(item for item in bounds if item is not None)
        if first is None or target.upper is None or target.upper >= first:
            return []
        others = tuple(item for item in parent.partitions if item.oid != target.oid or target.state == "attached")
        found = plan(predicted(replace(parent, partitions=others), steps), self.server, self.settings)
        return [
            item for item in found if item.action == "create" and item.lower and item.upper and target.upper <= item.lower and item.upper <= first
        ]

    def load(self, archive: Archive) -> None:
        """Load the rows, and see them in the table. Raises BackupError, CatalogError, PostgresError."""
        now = archiving.state_of(self.session, archive.partition_schema, archive.partition)
        if now is None:
            raise CatalogError("%s was dropped by somebody else meanwhile. Run this again." % archive.full_name)
        shop = self.shop(archive.path)
        watch = making.Watch(self.guard.verify, [self.docker_root()])
        self.guard.step("restore", archive.full_name, before="no rows", after={"archive_id": archive.id, "rows": archive.rows})
        try:
            archiving.load(self.session, shop, watch, archive, now["oid"], self.patience[0])
        except BackupError as exc:
            raise BackupError("%s None of them is in the database; the partition %s is there without rows." % (exc, archive.full_name)) from None
        finally:
            shop.sweep()
        content = archiving.read_content(self.login, watch, archive.partition_schema, archive.partition, archive.columns)[1]
        if content != archive.content:
            raise CatalogError(
                "%s has %d rows after the load, and its archive %s has %d: somebody has written to it since."
                % (archive.full_name, content[0], archive.id, archive.rows)
            )


def run(module: AnsibleModule, docker: Docker, result: dict[str, Any]) -> None:
    """Do what the options ask for. Raises what main() knows."""
    check_options(module.params)
    guard = ChangeGuard.for_docker(module, docker)
    retention = Retention(module, docker, guard, result)
    lock = None
    if not module.check_mode:
        guard.verify()
        what = "audit_partition_archive in %s" % module.params["project_dir"]
        # The lock of postgres_backup: both use the same containers.
        lock = HostLock(module.params["lock_dir"], "%s-backup" % docker.project_name(), what, module.params["lock_timeout"]).acquire()
    try:
        retention.run()
    finally:
        if lock:
            lock.release()


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            **PARTITION_ARGUMENTS,
            **LOGIN_ARGUMENTS,
            **LOCK_ARGUMENTS,
            **CHANGE_ARGUMENTS,
            state={"type": "str", "choices": ["archived", "dropped", "attached"], "required": True},
            partition={"type": "str"},
            older_than_months={"type": "int"},
            larger_than={"type": "bytes"},
            archive_id={"type": "str"},
            directory={"type": "path"},
            lock_timeout_seconds={"type": "float", "default": DEFAULT_LOCK_TIMEOUT},
            lock_tries={"type": "int", "default": DEFAULT_LOCK_TRIES},
            restore_memory={"type": "str", "default": "512m"},
            min_free={"type": "float", "default": 1.1},
            backup_timeout={"type": "int", "default": 21600},
        ),
        required_one_of=[("partition", "older_than_months", "larger_than", "archive_id")],
        mutually_exclusive=[
            ("partition", "older_than_months"),
            ("partition", "larger_than"),
            ("partition", "archive_id"),
        ],
        supports_check_mode=True,
    )
    result: dict[str, Any] = {"changed": False, "plan": [], "archives": [], "findings": []}
    docker = Docker.from_module(module)
    if module.check_mode and not (os.path.isdir(docker.project_dir) and module.get_bin_path("docker")):
        # A dry run on a host where nothing exists yet: there is nothing to archive.
        module.warn("There is no deployment in %s, or no docker command: nothing is predicted." % docker.project_dir)
        module.exit_json(**result)
    try:
        run(module, docker, result)
    except (BackupError, CatalogError, ChangeError, ComposeError, LockError, PartitionError, PostgresError) as exc:
        module.fail_json(msg=str(exc), **result)
    except OSError as exc:
        module.fail_json(msg="The archive could not be written or read: %s. Use become, and look at the disk." % exc, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
