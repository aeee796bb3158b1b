#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_backup
short_description: Back up a PostgreSQL server of a compose project, and prove the backup by restoring it
version_added: 1.0.0
description:
  - Takes a backup of the server that runs in the container of O(service), restores it into a container of the same image that is
    thrown away afterwards, and compares the two. Only a backup whose copy agrees counts; another one is kept aside as C(<id>.bad),
    and the module fails.
  - With V(pg_dump), roles and one database are dumped under an exported snapshot. The number of rows of every table, and a sum over their
    contents, are read under the same snapshot while the dump runs, so that what is written meanwhile disturbs nothing.
    The copy must have exactly these, and the same sequences, large objects, owners, rights, columns, constraints, indexes, triggers,
    functions and roles.
  - V(pgbackrest) and V(pg_basebackup) back up the whole server as it is at the end of the backup. There a table of the copy must be equal to
    the snapshot at the beginning, or differ by no more rows than the server's own counters say were written since.
    Only O(database) is compared.
  - A backup of the same database that is younger than O(max_age), and whose files still have their checksums, is used again. Then nothing changes.
  - The copy has no network (for V(pgbackrest) it shares the server's, listens nowhere and archives nothing), and runs with little
    memory and a low share of the processor. It ends by itself, if the module is killed.
  - Each backup is a directory C(<id>) below O(directory) with mode 0700. C(SHA256SUMS) in it can be checked by C(sha256sum -c),
    C(manifest.json) says what was made and compared. A backup holds the password verifiers of the roles.
attributes:
  check_mode:
    support: full
    details:
      - What can be read is read, and what a real run would refuse before its first change is refused. RV(backup_id) is then that of a
        backup that would begin now.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - A second run within O(max_age) changes nothing. With V(0) each run makes a backup.
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.lock
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.change
options:
  state:
    description:
      - V(present) makes a backup, unless there is a young one.
      - V(absent) removes the backup O(backup_id). With pgBackRest its repository loses it too, with those that are built on it.
    type: str
    choices:
      - present
      - absent
    default: present
  service:
    description:
      - Compose service of the PostgreSQL server. It must have one running container.
      - Required with O(state=present). With O(state=absent), a backup of another service is not removed.
    type: str
  database:
    description:
      - Database that is dumped, or compared where the whole server is backed up.
      - Required with O(state=present).
    type: str
  backup_id:
    description:
      - Backup to remove. Required with O(state=absent).
    type: str
  method:
    description:
      - How the backup is made.
      - V(auto) takes pgBackRest where the server's container has it with a stanza that can be used, and pg_dump otherwise.
      - V(pg_basebackup) needs a line for replication in C(pg_hba.conf) for the loopback address, as every new server has it.
    type: str
    choices:
      - auto
      - pgbackrest
      - pg_dump
      - pg_basebackup
    default: auto
  stanza:
    description:
      - Stanza of pgBackRest. By default the only one that there is.
    type: str
    default: ''
  directory:
    description:
      - Directory on the host for backups. A disk of its own, or one that another machine copies, survives the loss of the database's disk.
      - By default C(/var/backups/dghs-bd-fhir/<project>).
    type: path
  keep:
    description:
      - How many backups of this database stay, without those of pgBackRest, which has a retention of its own. V(0) keeps all.
      - The newest one that was restored stays in any case.
    type: int
    default: 7
  max_age:
    description:
      - Seconds. A backup that is younger is used again. V(0) always makes a new one.
    type: int
    default: 3600
  restore_check:
    description:
      - Whether the backup is proven by restoring it.
    type: bool
    default: true
  restore_memory:
    description:
      - Memory limit of the container in which the copy runs.
    type: str
    default: 512m
  jobs:
    description:
      - How many processes dump, restore and compare. Fewer are used where the server has no free connections for them.
    type: int
    default: 2
  min_free:
    description:
      - How much room there must be before the backup begins, as a multiple of what it needs at most.
        The dump is taken to need as much as the tables without their indexes, and the copy as much as the database.
      - At any moment 5 per cent of the file system (at most 2 GiB) must stay free, or the backup is broken off.
    type: float
    default: 1.1
  backup_timeout:
    description:
      - Seconds after which one step (dump, restore, comparison) is broken off.
    type: int
    default: 21600
  lock_dir:
    description:
      - Directory of the lock that keeps two backups of one project apart.
  lock_timeout:
    description:
      - Seconds to wait for another backup of the same project.
requirements:
  - PostgreSQL 13 or newer, in an image that has its client programs, C(sh), C(stat) and C(tar), as the official one
notes:
  - The snapshot is held as long as the dump and the counting take. Until then the server can clear away no dead row.
  - Contents of materialized views are made anew by a restore, and foreign tables are not in a dump. Neither is compared.
  - A kill leaves C(<id>.partial), which the next run removes. It is never counted as a backup.
seealso:
  - module: dghs.bd_fhir.change
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: A backup of today that is proven, or the one that was made within the last hour
  dghs.bd_fhir.postgres_backup:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    database: fhirdb
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
  register: backup
  # In a play: poll, so that a connection that breaks off does not end a backup of hours.
  async: 43200
  poll: 15

- name: Say where it is
  ansible.builtin.debug:
    msg: "{{ backup.path }}, {{ backup.checked.rows }} rows in {{ backup.checked.tables }} tables compared"

- name: Always a new one, on another disk, three of which stay
  dghs.bd_fhir.postgres_backup:
    project_dir: /opt/bd-fhir-national
    service: postgres-audit
    database: auditdb
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD
    directory: /mnt/backup/bd-fhir
    method: pg_dump
    max_age: 0
    keep: 3

- name: Remove one
  dghs.bd_fhir.postgres_backup:
    project_dir: /opt/bd-fhir-national
    backup_id: postgres-fhir_fhirdb_20260131T235959Z
    state: absent
"""

RETURN = r"""
backup_id:
  description: Name of the backup. In check mode that of one that would begin now, unless a young one would be used.
  returned: success
  type: str
  sample: postgres-fhir_fhirdb_20260131T235959Z
path:
  description: Directory of the backup. The data of pgBackRest is in its own repository.
  returned: success
  type: str
  sample: /var/backups/dghs-bd-fhir/bd-fhir-national/postgres-fhir_fhirdb_20260131T235959Z
method:
  description: How it was made.
  returned: success
  type: str
  sample: pg_dump
reused:
  description: Whether a young backup was used instead of a new one.
  returned: success
  type: bool
  sample: false
age:
  description: Seconds since the moment whose state the backup holds.
  returned: success
  type: int
  sample: 0
bytes:
  description: Size of its files. For pgBackRest what it added to the repository.
  returned: success
  type: int
  sample: 81788928
seconds:
  description: How long it took to make and to prove it.
  returned: success
  type: float
  sample: 42.5
sha256:
  description: SHA-256 of its C(SHA256SUMS). Empty for pgBackRest, which keeps checksums of its own, and in check mode.
  returned: success
  type: str
  sample: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
label:
  description: pgBackRest's name of the backup.
  returned: success
  type: str
  sample: 20260131-235959F
checked:
  description: What was compared. RV(checked.restored) is V(false) where nothing was, and all others are then 0.
  returned: success
  type: dict
  contains:
    restored:
      description: Whether the backup was restored, and the copy agreed.
      type: bool
      returned: always
      sample: true
    comparison:
      description: V(snapshot) if every row had to be equal, V(bounded) if rows that were written meanwhile were allowed for, V(none).
      type: str
      returned: always
      sample: snapshot
    tables:
      description: Tables with rows of their own.
      type: int
      returned: always
      sample: 78
    rows:
      description: Rows of the source at its snapshot.
      type: int
      returned: always
      sample: 1482021
    sequences:
      description: Sequences.
      type: int
      returned: always
      sample: 12
    large_objects:
      description: Large objects.
      type: int
      returned: always
      sample: 0
    objects:
      description: Everything else, such as columns, rights, indexes and roles.
      type: int
      returned: always
      sample: 1311
removed:
  description: Backups that went, because O(keep) newer ones are there, or by O(state=absent).
  returned: success
  type: list
  elements: str
  sample: []
findings:
  description: What an operator should know about the backup, see the collection's C(docs/findings.md).
  returned: success
  type: list
  elements: dict
  sample: []
"""

import os
import time

from functools import partial
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _backup as making
from ..module_utils import _backup_files as store
from ..module_utils._backup_contents import Contents, Later, differences, named
from ..module_utils._backup_files import BackupError
from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._findings import finding
from ..module_utils._lock import LOCK_ARGUMENTS, HostLock, LockError
from ..module_utils._postgres import LOGIN_ARGUMENTS, PostgresError, connect, container_of, login_to

NOTHING_CHECKED: dict[str, Any] = {
    "restored": False,
    "comparison": "none",
    "tables": 0,
    "rows": 0,
    "sequences": 0,
    "large_objects": 0,
    "objects": 0,
}


def told(backup: store.Backup, now: float) -> dict[str, Any]:
    """Return what the result says of a backup that is there. Pure."""
    names = ("method", "bytes", "seconds", "sha256", "label", "checked")
    return {
        "backup_id": backup.id,
        "path": backup.path,
        "age": max(0, int(now - backup.created)),
        **{name: backup.manifest[name] for name in names},
    }


def compared(source: Contents, physical: bool) -> dict[str, Any]:
    """Return what was compared, once the copy has agreed. Pure."""
    return {
        "restored": True,
        "comparison": "bounded" if physical else "snapshot",
        "tables": len(source.tables),
        "rows": source.rows,
        "sequences": len(source.sequences),
        "large_objects": source.large_objects[0],
        "objects": sum(len(texts) for texts in source.objects.values()),
    }


class Run:
    """One call of the module with O(state=present)."""

    def __init__(self, module: AnsibleModule, docker: Docker, guard: ChangeGuard, result: dict[str, Any]) -> None:
        self.module = module
        self.params = module.params
        self.docker = docker
        self.guard = guard
        self.result = result
        self.directory = directory_of(module, docker)
        self.started = time.time()
        self.monotonic = time.monotonic()

    @property
    def service(self) -> str:
        return str(self.params["service"])

    @property
    def database(self) -> str:
        return str(self.params["database"])

    def note(self, item: dict[str, Any]) -> None:
        self.result["findings"].append(item)

    def ours(self) -> list[store.Backup]:
        return [item for item in store.listed(self.directory) if item.of(self.service, self.database)]

    def reuse(self) -> bool:
        """Put a young backup into the result, if there is one that is whole. Damaged ones are set aside."""
        for backup in store.young_enough(self.ours(), self.started, self.params["max_age"], self.params["restore_check"]):
            if self.params["method"] not in ("auto", backup.manifest["method"]):
                continue
            # pgBackRest keeps its own files, and checks them itself.
            look = making.Watch(self.guard.verify, [])
            wrong = "" if backup.manifest["method"] == "pgbackrest" else look.run([partial(store.damage, backup)], lambda: None)[0]
            if not wrong:
                self.result.update(told(backup, self.started), reused=True)
                return True
            self.note(
                finding(
                    "backup_damaged",
                    "warning",
                    backup.id,
                    "every byte as it was written",
                    wrong,
                    "It is kept aside as %s%s and no longer counts. Look at the disk of %s." % (backup.id, store.BAD, self.directory),
                )
            )
            if not self.module.check_mode:
                self.guard.step("set_aside_backup", backup.id, after=wrong)
                store.set_aside(backup)
        return False

    def choose(self, server: making.Server) -> tuple[str, Optional[making.Stanza]]:
        """Return the method and pgBackRest's stanza. Raises BackupError when the wanted one can't be had."""
        wanted = self.params["method"]
        if wanted in ("auto", "pgbackrest"):
            try:
                stanza = making.find_stanza(self.docker, server, self.params["stanza"])
                if stanza:
                    return "pgbackrest", stanza
                if wanted == "pgbackrest":
                    raise BackupError("the container %s has no pgbackrest. Choose another method." % server.container.name)
            except BackupError as exc:
                if wanted == "pgbackrest":
                    raise BackupError("Nothing was done: %s" % exc) from None
                self.note(
                    finding(
                        "pgbackrest_unusable",
                        "warning",
                        server.container.name,
                        "a stanza that answers",
                        str(exc),
                        "pg_dump is used instead. Mend the stanza, or set method to pg_dump if pgBackRest is not meant to be used.",
                    )
                )
            return "pg_dump", None
        if wanted == "pg_basebackup" and server.tablespaces:
            raise BackupError(
                "Nothing was done: the server has %d tablespaces of its own, which a copy can't be given by pg_basebackup. Use pgbackrest or pg_dump."
                % server.tablespaces
            )
        return str(wanted), None

    def require_room(self, server: making.Server, method: str) -> str:
        """Refuse a backup for which there is no room; return the path of Docker's data. Raises BackupError."""
        factor = self.params["min_free"]
        whole = server.database_bytes if method == "pg_dump" else server.cluster_bytes
        wants = []
        here = store.room(self.directory)
        if method != "pgbackrest":
            need = server.table_bytes if method == "pg_dump" else server.cluster_bytes
            wants.append((self.directory, int(need * factor), here))
        root = self.docker.docker("info", "--format", "{{.DockerRootDir}}")[1].strip()
        if self.params["restore_check"]:
            if not os.path.isdir(root):
                raise BackupError("Nothing was done: Docker's data directory %s is not on this host, so its free space can't be read." % root)
            wants.append((root, int(whole * factor), store.room(root)))
        short = store.short_of(wants)
        if short:
            raise BackupError(
                "Nothing was done: there is no room for the backup%s: %s. Free some space, choose another directory, or lower min_free if you"
                " know better." % (" and its copy" if self.params["restore_check"] else "", short)
            )
        if os.path.isdir(root) and here.device == store.room(root).device and method != "pgbackrest":
            self.note(
                finding(
                    "backup_same_disk",
                    "warning",
                    self.directory,
                    "another file system than that of the databases",
                    "the file system of %s" % root,
                    "A disk that fails takes both. Set directory to another disk, or copy the backups to another machine.",
                )
            )
        return root

    def make(self) -> None:
        """Make a backup, prove it, and put it into the result."""
        if not self.params["restore_check"]:
            self.note(
                finding(
                    "backup_not_proven",
                    "warning",
                    "%s/%s" % (self.service, self.database),
                    "a backup that was restored and compared",
                    "restore_check is false",
                    "Nobody knows whether it can be restored. Let it be proven before anything relies on it.",
                )
            )
        container = container_of(self.docker, self.service)
        login = login_to(self.docker, container, self.params, self.database)
        self.module.no_log_values.add(login.password)
        with connect(login) as session:
            server = making.read_server(self.docker, container, session)
        method, stanza = self.choose(server)
        jobs = making.fitting_jobs(self.params["jobs"], server.free_connections)
        if jobs < self.params["jobs"]:
            self.note(
                finding(
                    "backup_fewer_jobs",
                    "info",
                    container.name,
                    "%d processes" % self.params["jobs"],
                    "%d, since only %d connections are free" % (jobs, server.free_connections),
                    "The backup takes longer. End idle sessions, or raise max_connections.",
                )
            )
        root = self.require_room(server, method)
        backup_id = store.new_id(self.service, self.database, self.started)
        path = os.path.join(self.directory, backup_id)
        self.result.update(changed=True, backup_id=backup_id, path=path, method=method)
        if self.module.check_mode:
            return
        store.prepare(self.directory)
        prefix = backup_id.rpartition("_")[0] + "_"
        partial = path + store.PARTIAL
        shop = making.Workshop(self.docker, server, login, partial, self.params["backup_timeout"], self.params["restore_memory"])
        shop.sweep()
        for left in store.leftovers(self.directory, prefix):
            store.remove(left)
        self.guard.step("backup", "%s/%s" % (self.service, self.database), after={"backup_id": backup_id, "method": method})
        os.mkdir(partial, 0o700)
        watch = making.Watch(self.guard.verify, [self.directory, root])
        try:
            self.fill(partial, shop, watch, making.Job(server, login, method, stanza, jobs))
        finally:
            shop.sweep()
        self.result["path"] = store.finish(partial)

    def fill(self, partial: str, shop: making.Workshop, watch: making.Watch, job: making.Job) -> None:
        """Take the backup into the partial directory and prove it; on failure nothing is left, or a .bad one."""
        physical = job.method != "pg_dump"
        try:
            snapshot = making.Snapshot(job.login)
        except BaseException:
            store.remove(partial)
            raise
        taken = False
        try:
            label, size = "", 0

            def take() -> tuple[str, int]:
                if job.method == "pg_dump":
                    making.take_dump(shop, snapshot, job.jobs, job.server.tablespaces > 0)
                elif job.method == "pg_basebackup":
                    making.take_base(shop)
                elif job.stanza:
                    return making.take_pgbackrest(self.docker, job.server, job.stanza, self.params["backup_timeout"])
                return "", 0

            steps: list[Any] = [take]
            if self.params["restore_check"]:
                steps.append(lambda: snapshot.read(job.jobs - 1))
            answers = watch.run(steps, making.stop_quietly(shop.sweep, snapshot.stop))
            label, size = answers[0]
            snapshot.release()
            taken = True
            sha256 = ""
            if job.method != "pgbackrest":
                size, sha256 = watch.run([lambda: store.seal(partial)], lambda: None)[0]
            checked = NOTHING_CHECKED
            if self.params["restore_check"]:
                self.prove(shop, watch, job, snapshot, answers[1], label)
                checked = compared(answers[1], physical)
            manifest = {
                "service": self.service,
                "database": self.database,
                "project": self.docker.project_name(),
                "method": job.method,
                "stanza": job.stanza.name if job.stanza else "",
                "label": label,
                "created": round(snapshot.taken, 3),
                "server_version": job.server.version,
                "system_identifier": job.server.system,
                "owner": job.server.owner,
                "image": job.server.container.image_ref,
                "image_id": job.server.container.image_id,
                "bytes": size,
                "seconds": round(time.monotonic() - self.monotonic, 1),
                "sha256": sha256,
                "restore_checked": self.params["restore_check"],
                "checked": checked,
                "rows": {name: rows for name, (rows, _sum) in answers[1].tables.items()} if self.params["restore_check"] else {},
            }
            self.guard.verify()
            store.write_manifest(partial, manifest)
            self.result.update({name: manifest[name] for name in ("bytes", "seconds", "sha256", "label", "checked")})
            self.result["age"] = max(0, int(time.time() - snapshot.taken))
        except (ComposeError, BackupError, PostgresError, ChangeError, OSError) as exc:
            shop.sweep()
            if not taken or isinstance(exc, (ChangeError, OSError)):
                store.remove(partial)
                raise
            bad = store.finish(partial, store.BAD)
            raise BackupError(
                "The backup was made, but could not be proven: %s It does not count, and is kept aside as %s. The database was not touched."
                % (exc, bad)
            ) from None
        finally:
            snapshot.close()

    def prove(
        self, shop: making.Workshop, watch: making.Watch, job: making.Job, snapshot: making.Snapshot, source: Contents, label: str
    ) -> None:
        """Restore the backup and compare the copy. Raises BackupError that names what differs."""

        def restore() -> Contents:
            shop.open(with_repository=job.method == "pgbackrest")
            if job.method == "pg_dump":
                shop.restore_dump(job.jobs)
            elif job.method == "pg_basebackup":
                shop.restore_base()
            elif job.stanza:
                shop.restore_pgbackrest(job.stanza.name, label)
            return shop.read_copy(snapshot.tables, job.jobs - 1)

        copy: Contents = watch.run([restore], making.stop_quietly(shop.sweep))[0]
        later: Later = watch.run([lambda: snapshot.later(job.method != "pg_dump")], lambda: None)[0]
        found = differences(source, copy, later)
        if found:
            raise BackupError("the restored copy is not what the database was: %s." % named(found, 5))

    def retain(self) -> None:
        """Remove what is too much."""
        for backup in store.surplus(self.ours(), self.params["keep"]):
            self.guard.step("remove_backup", backup.id, before={"path": backup.path}, after=None)
            store.remove(backup.path)
            self.result["removed"].append(backup.id)


def directory_of(module: AnsibleModule, docker: Docker) -> str:
    """Return the directory of the backups."""
    chosen = module.params["directory"] or os.path.join("/var/backups/dghs-bd-fhir", store.slug(docker.project_name()))
    return os.path.abspath(chosen)


def remove_one(module: AnsibleModule, docker: Docker, guard: ChangeGuard, result: dict[str, Any]) -> None:
    """Remove the backup that was named. Raises BackupError for one of another service, and for one that can't be told."""
    backup_id = store.check_id(module.params["backup_id"])
    path = os.path.join(directory_of(module, docker), backup_id)
    result.update(backup_id=backup_id, path=path)
    if not os.path.lexists(path):
        return
    backup = store.load(path)
    if backup is None:
        raise BackupError("Nothing was done: %s is no backup of ours: it has no %s that can be read." % (path, store.MANIFEST))
    service = backup.manifest["service"]
    if module.params["service"] not in (None, service):
        raise BackupError("Nothing was done: %s is a backup of the service %s, not of %s." % (path, service, module.params["service"]))
    result.update(told(backup, time.time()), changed=True, removed=[backup_id])
    if module.check_mode:
        return
    guard.step("remove_backup", backup_id, before={"path": path}, after=None)
    if backup.manifest["method"] == "pgbackrest":
        kept = backup.manifest
        making.expire(docker, container_of(docker, kept["service"]), kept["owner"], kept["stanza"], kept["label"])
    store.remove(path)


def run(module: AnsibleModule, docker: Docker, result: dict[str, Any]) -> None:
    """Do what the options ask for. Raises BackupError, ComposeError, PostgresError, ChangeError, LockError, OSError."""
    guard = ChangeGuard.from_module(module, docker.project_name())
    lock = None
    if not module.check_mode:
        guard.verify()
        what = "postgres_backup in %s" % module.params["project_dir"]
        # Not handed to docker commands: what a killed run left is ended by the next one.
        lock = HostLock(module.params["lock_dir"], "%s-backup" % docker.project_name(), what, module.params["lock_timeout"]).acquire()
    try:
        if module.params["state"] == "absent":
            remove_one(module, docker, guard, result)
            return
        work = Run(module, docker, guard, result)
        if not work.reuse():
            work.make()
            if not module.check_mode:
                work.retain()
    finally:
        if lock:
            lock.release()


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            **LOGIN_ARGUMENTS,
            **LOCK_ARGUMENTS,
            **CHANGE_ARGUMENTS,
            state={"type": "str", "choices": ["present", "absent"], "default": "present"},
            service={"type": "str"},
            database={"type": "str"},
            backup_id={"type": "str"},
            method={"type": "str", "choices": ["auto", "pgbackrest", "pg_dump", "pg_basebackup"], "default": "auto"},
            stanza={"type": "str", "default": ""},
            directory={"type": "path"},
            keep={"type": "int", "default": 7},
            max_age={"type": "int", "default": 3600},
            restore_check={"type": "bool", "default": True},
            restore_memory={"type": "str", "default": "512m"},
            jobs={"type": "int", "default": 2},
            min_free={"type": "float", "default": 1.1},
            backup_timeout={"type": "int", "default": 21600},
        ),
        required_if=[("state", "present", ["service", "database"]), ("state", "absent", ["backup_id"])],
        supports_check_mode=True,
    )
    for name, least in (("jobs", 1), ("backup_timeout", 1), ("keep", 0), ("max_age", 0), ("min_free", 0)):
        if module.params[name] < least:
            module.fail_json(msg="%s is %s; it must be at least %d." % (name, module.params[name], least))
    result: dict[str, Any] = {
        "changed": False,
        "backup_id": "",
        "path": "",
        "method": "",
        "reused": False,
        "age": 0,
        "bytes": 0,
        "seconds": 0.0,
        "sha256": "",
        "label": "",
        "checked": NOTHING_CHECKED,
        "removed": [],
        "findings": [],
    }
    docker = Docker.from_module(module)
    if module.check_mode and not (os.path.isdir(docker.project_dir) and module.get_bin_path("docker")):
        # A dry run on a host where nothing exists yet: there is a backup to come, and nothing to read.
        module.warn("There is no deployment in %s, or no docker command: only that a backup would be made is predicted." % docker.project_dir)
        result["changed"] = module.params["state"] == "present"
        module.exit_json(**result)
    try:
        run(module, docker, result)
    except (BackupError, ComposeError, PostgresError, ChangeError, LockError) as exc:
        result["changed"] = bool(result["removed"])
        module.fail_json(msg=str(exc), **result)
    except OSError as exc:
        module.fail_json(msg="The backup could not be written or read: %s. Use become, and look at the disk." % exc)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
