#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hfj_upgrade_check
short_description: Start a release of HAPI on a scratch copy of the schema, and tell what its migrations make of partitioned tables
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - To be run before each upgrade of HAPI, with the new image, where tables were partitioned by M(dghs.bd_fhir.hfj_partition).
  - Copies the schema and the history of migrations, no resource, into a PostgreSQL of the same image, starts the image of HAPI on it with its
    migrations and with Hibernate's validation, and compares the schema before and after.
  - Then it takes a column away and starts the image once more. Only if that is refused, the first start has proven anything.
  - Nothing of the deployment is touched but by C(pg_dump). The copy and HAPI are on a network of their own that leads nowhere, and are taken
    away again. What a run leaves that is killed, the next one takes away.
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.lock
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.info_module
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  login_user:
    description:
      - User to log in with. It must be allowed to read everything in the database, and to see the data directory (C(pg_monitor)).
  service:
    description:
      - Service of the database server.
    type: str
    default: postgres-fhir
  database:
    description:
      - Database of HAPI.
    type: str
    default: fhirdb
  schema:
    description:
      - Schema of HAPI's tables, as it is written in the catalog, without quotes.
    type: str
    default: public
  others:
    description:
      - Further databases without which HAPI does not start, such as that of the audit log. Their schemas are copied too.
    type: list
    elements: dict
    default: []
    suboptions:
      service:
        description:
          - Service of its database server.
        type: str
        required: true
      database:
        description:
          - The database.
        type: str
        required: true
      schema:
        description:
          - Schema of its history of migrations.
        type: str
        default: public
      login_user:
        description:
          - User to log in with.
        type: str
        default: postgres
      login_password:
        description:
          - Its password.
        type: str
      login_password_variable:
        description:
          - Name of the variable of the environment file that holds it.
        type: str
  history_tables:
    description:
      - Tables whose rows say which migrations were made, of Flyway and of HAPI's own migrator. Those that exist are copied with their rows.
    type: list
    elements: str
    default:
      - flyway_schema_history
      - FLY_HFJ_MIGRATION
  hapi_service:
    description:
      - Service of HAPI. Its command, its user, the files that are bound into it and its environment are those of the start. Volumes are not.
    type: str
    default: hapi
  image:
    description:
      - Image that is tried. It must be on the host. By default it is that of O(hapi_service).
    type: str
  env:
    description:
      - Names of the environment file that change together with O(image), with the values that they will have there. The service is what
        Compose then makes of it; the file is not changed.
    type: dict
    default: {}
  environment:
    description:
      - Variables that are put over those of the service. What is to switch Hibernate's validation on belongs here.
      - Every value that is a JDBC URL of PostgreSQL is led to the copy. Where HAPI finds its database in another way, give that way here, with the
        host V(bd-fhir-scratch) and the port V(5432). The copy asks for no password.
    type: dict
    default:
      HAPI_HBM2DDL_AUTO: validate
      SPRING_JPA_HIBERNATE_DDL_AUTO: validate
      SPRING_JPA_PROPERTIES_HIBERNATE_HBM2DDL_AUTO: validate
  port:
    description:
      - Port of HAPI inside of its container.
    type: int
    default: 8080
  path:
    description:
      - Path that answers with 200 when HAPI has started.
    type: str
    default: /fhir/metadata
  start_timeout:
    description:
      - Seconds that a start may take.
    type: int
    default: 900
  memory:
    description:
      - Limit for the memory of HAPI. It needs that much free for as long as the check takes.
    type: str
    default: 1g
  database_memory:
    description:
      - Limit for the memory of the copy.
    type: str
    default: 512m
  cpu_shares:
    description:
      - Weight of HAPI's processor time beside the containers of the deployment, of which each has 1024 by default.
    type: int
    default: 128
  control:
    description:
      - Whether the second start, on a schema that is wrong, proves that a wrong schema is refused.
    type: bool
    default: true
requirements:
  - psycopg2 on the host (package C(python3-psycopg2))
notes:
  - The tables of the copy are empty. How long a migration takes, and what it makes of rows, is for a rehearsal on a restored backup.
  - What HAPI needs at its start from another server than PostgreSQL is not there. A start that fails for that tells nothing of the schema.
seealso:
  - module: dghs.bd_fhir.hfj_partition
  - module: dghs.bd_fhir.hfj_partition_info
"""

EXAMPLES = r"""
- name: Does the next release of HAPI accept the partitioned tables?
  dghs.bd_fhir.hfj_upgrade_check:
    project_dir: /opt/bd-fhir-national
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    image: registry.example.org/bd-fhir-hapi:1.1.0
    others:
      - service: postgres-audit
        database: auditdb
        login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD
    fail_on:
      - error
"""

RETURN = r"""
image:
  description: The image that was tried, and its id.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    name: bd-fhir-hapi:1.1.0
    id: sha256:0f6a2d5c3e1b
partitioned:
  description: The partitioned tables of the schema.
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: str
  sample:
    - hfj_spidx_token
start:
  description:
    - Whether the image answered, after how many seconds, and if not, the reason from its log.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    ready: true
    seconds: 31.2
    reason: ''
control:
  description: The same of the start on a wrong schema, which is to fail. Empty where there was none.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    ready: false
    seconds: 24.0
    reason: 'Schema-validation: missing column [sp_uri] in table [hfj_spidx_uri]'
changes:
  description: What the start has changed in the schema, also a start that failed. What follows from a parent in its partitions is left out.
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  contains:
    object:
      description: The kind and the name, such as C(index hfj_res_ver.idx_resver_new).
      type: str
      sample: column hfj_resource.new_column
    table:
      description: The table that it belongs to.
      type: str
      sample: hfj_resource
    change:
      description: V(added), V(removed) or V(changed).
      type: str
      sample: added
    before:
      description: Its definition before. V(null) if it was not there.
      type: str
      sample: null
    after:
      description: Its definition after. V(null) if it is gone.
      type: str
      sample: character varying(64)
log:
  description: The last lines of a start that failed.
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: str
  sample: []
findings:
  description: What an operator should know, see the collection's C(docs/findings.md).
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample: []
"""

import os
import shutil
import tempfile

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _hfj as hfj
from ..module_utils import _hfj_catalog as catalog
from ..module_utils import _hfj_upgrade as upgrade
from ..module_utils._backup_files import BackupError
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker, parse_bytes
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, finding, summary
from ..module_utils._fhir import HttpError
from ..module_utils._hfj_sql import index_partners
from ..module_utils._lock import LOCK_ARGUMENTS, HostLock, LockError
from ..module_utils._postgres import LOGIN_ARGUMENTS, Login, PostgresError, Session, address_of, connect, container_of, secret_of

PORT = 5432
READ_TIMEOUT = 60
PARTITIONED = ("swapped", "unfinished")
VALIDATE = {
    "HAPI_HBM2DDL_AUTO": "validate",
    "SPRING_JPA_HIBERNATE_DDL_AUTO": "validate",
    "SPRING_JPA_PROPERTIES_HIBERNATE_HBM2DDL_AUTO": "validate",
}
# How many lines of a log are told.
TOLD_LINES = 40
START = "a start on the schema as it is"


class Check:
    """One call of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = params = module.params
        for name in ("memory", "database_memory"):
            try:
                parse_bytes(params[name])
            except ValueError:
                raise hfj.HfjError("%s is %r, which is no size. Write it as 1g." % (name, params[name])) from None
        for name, least in (("start_timeout", 1), ("cpu_shares", 2)):
            if params[name] < least:
                raise hfj.HfjError("%s is %d; it must be at least %d." % (name, params[name], least))
        # To Compose, what the process has comes before what the file says.
        os.environ.update((str(name), upgrade.text_of(value)) for name, value in params["env"].items())
        self.docker = Docker.from_module(module)
        self.findings: list[dict[str, Any]] = []

    def say(self, id: str, severity: str, what: str, expected: Any, found: Any, hint: str) -> None:
        self.findings.append(finding(id, severity, what, expected, found, hint))

    # -- before anything is started

    def hapi(self) -> tuple[dict[str, Any], str, str]:
        """Return HAPI's parsed configuration, the image to be tried and its id. Raises HfjError."""
        service = self.params["hapi_service"]
        services = self.docker.config().get("services") or {}
        if service not in services:
            there = ", ".join(sorted(services))
            raise hfj.HfjError("Nothing was started: there is no service %s; there are %s. Correct hapi_service." % (service, there))
        image = str(self.params["image"] or services[service].get("image") or "%s-%s" % (self.docker.project_name(), service))
        found = self.docker.image_id(image)
        if not found:
            raise hfj.HfjError("Nothing was started: the image %s is not on this host. Pull it first." % image)
        return services[service], image, found

    def environment(self, config: dict[str, Any]) -> dict[str, str]:
        """Return the environment of the start. Raises HfjError when it would not lead to the copy."""
        databases = [self.params["database"], *(item["database"] for item in self.params["others"])]
        found, missing = upgrade.redirected(upgrade.environment_of(config, self.params["environment"]), databases)
        if missing:
            what = ", ".join("%s (%s)" % item for item in sorted(missing.items()))
            raise hfj.HfjError("Nothing was started: HAPI also uses databases that are not copied: %s. Name them in others." % what)
        own_way = any(upgrade.HOST in str(value) for value in self.params["environment"].values())
        if not own_way and not upgrade.leads_to(found, self.params["database"]):
            raise hfj.HfjError(
                "Nothing was started: no variable of %s is a JDBC URL of the database %s, so HAPI would not find the copy. Give environment, with"
                " what leads it to the host %s, port %d." % (self.params["hapi_service"], self.params["database"], upgrade.HOST, upgrade.PORT)
            )
        return found

    def source(self, wanted: dict[str, Any]) -> upgrade.Source:
        """Read one database that is to be copied."""
        password = secret_of(self.docker, wanted["login_password"], wanted["login_password_variable"])
        container = container_of(self.docker, wanted["service"])
        host = address_of(container, PORT)
        login = Login(host, PORT, wanted["login_user"], password, wanted["database"], self.params["connect_timeout"])
        with connect(login, READ_TIMEOUT) as session:
            return upgrade.read_source(self.docker, container, session, login, wanted["schema"], self.params["history_tables"])

    # -- the check

    def run(self) -> dict[str, Any]:
        """Do all of it, and take everything away again. Raises what main() knows."""
        params = self.params
        names = "%s-upgrade-check" % self.docker.project_name()
        lock = HostLock(params["lock_dir"], names, "hfj_upgrade_check", params["lock_timeout"])
        base = tempfile.mkdtemp(prefix="upgrade-", dir=self.module.tmpdir)
        with lock:
            self.docker.keep_fds.append(lock.fd)
            try:
                config, image, image_id = self.hapi()
                environment = self.environment(config)
                sources = [self.source(item) for item in (params, *params["others"])]
                place = os.path.join(base, "copy")
                os.mkdir(place)
                memory = params["database_memory"]
                copies = [upgrade.Copy(self.docker, item, place, params["start_timeout"], memory, names) for item in sources]
                left = copies[0].clear()
                if left:
                    self.say("upgrade_check_leftover", "info", names, "nothing of an earlier run", ", ".join(left), "It was removed.")
                try:
                    for number, item in enumerate(copies):
                        item.dump(number)
                    copies[0].connect_nothing()
                    copies[0].restore(sources)
                    result = self.starts(copies[0], sources[0], config, image_id, environment)
                finally:
                    copies[0].clear()
            finally:
                shutil.rmtree(base, ignore_errors=True)
        return {"changed": False, "image": {"name": image, "id": image_id}, **result, "findings": self.findings}

    def starts(
        self, copy: upgrade.Copy, source: upgrade.Source, config: dict[str, Any], image: str, environment: dict[str, str]
    ) -> dict[str, Any]:
        """Start the image on the copy, look at what came of it, and start it again on a wrong schema."""
        params = self.params
        secrets = upgrade.secrets_of(environment)
        user, database = source.server.bootstrap_role, source.login.database
        login = Login(copy.address(copy.restore_name), upgrade.PORT, user, "", database, params["connect_timeout"])

        def start() -> upgrade.Started:
            copy.run_hapi(image, config, environment, params["memory"], params["cpu_shares"])
            return copy.wait_for_hapi(params["port"], params["path"], params["start_timeout"], secrets)

        with connect(login, READ_TIMEOUT) as session:
            before = upgrade.shape(session, params["schema"], params["history_tables"])
            tables = self.partitioned(session)
            broken = set(self.broken(session, tables))
        started = start()
        with connect(login, READ_TIMEOUT) as session:
            changes = upgrade.changes_between(before, upgrade.shape(session, params["schema"], params["history_tables"]))
            broken = set(self.broken(session, tables)) - broken
        self.judge(started, changes, tables, sorted(broken))
        control = {}
        if started.ready and params["control"]:
            with connect(login, READ_TIMEOUT) as session:
                self.spoil(session)
            second = start()
            control = second.public()
            self.judge_control(second)
        return {
            "partitioned": sorted(tables),
            "start": started.public(),
            "control": control,
            "changes": changes,
            "log": started.log.splitlines()[-TOLD_LINES:],
        }

    def partitioned(self, session: Session) -> dict[str, bool]:
        """Return the partitioned tables of the copy, and whether they are as hfj_partition makes them."""
        rows = session.rows(upgrade.SCHEMA_TABLES, {"schema": self.params["schema"]})
        names = [row["name"] for row in rows if row["kind"] == "p" and not row["name"].endswith(hfj.NEW)]
        return {name: catalog.read_table(session, self.params["schema"], name).state in PARTITIONED for name in names}

    def broken(self, session: Session, tables: dict[str, bool]) -> list[str]:
        """Return what is wrong with tables that hfj_partition has made."""
        found = []
        for name in (name for name, ours in tables.items() if ours):
            table = catalog.read_table(session, self.params["schema"], name)
            if table.state not in PARTITIONED:
                found.append("%s is %s" % (name, table.state))
                continue
            found += ["%s of %s lacks a partition" % (index, name) for index in index_partners(session, table)]
            if table.first is not None:
                lost = [key.name for dummy, _target, key in catalog.read_keys(session, table.first.oid) if not key.inherited]
                found += ["foreign key %s belongs to the first partition of %s alone" % (key, name) for key in lost]
        return found

    def spoil(self, session: Session) -> None:
        """Take a column of the copy away."""
        from psycopg2 import sql

        table, column = upgrade.MISSING
        statement = sql.SQL("ALTER TABLE {} DROP COLUMN {} CASCADE").format(sql.Identifier(self.params["schema"], table), sql.Identifier(column))
        session.execute(statement)

    # -- judging

    def judge(self, started: upgrade.Started, changes: list[dict[str, Any]], tables: dict[str, bool], broken: list[str]) -> None:
        """Say what the start on the copy means."""
        service = self.params["hapi_service"]
        if not tables:
            self.say(
                "nothing_partitioned", "info", self.params["database"], "partitioned tables", "none",
                "The start tells only whether this release accepts the plain schema.",
            )  # fmt: skip
        if not started.ready:
            self.judge_failure(started)
        if changes:
            hit = sorted({row["table"] for row in changes} & set(tables))
            hint = "This is what its migrations do: compare it with the release's notes."
            if hit:
                hint = "They touch partitioned tables (%s) and lock each partition. Rehearse the upgrade on a restored backup." % ", ".join(hit)
            self.say("migrator_changed", "warning" if hit else "info", service, "the schema as it was", upgrade.in_words(changes), hint)
        if broken:
            self.say(
                "partitioning_broken", "error", service, "partitioned tables as hfj_partition leaves them", ", ".join(broken),
                "Do not upgrade. Bring those tables back with hfj_partition step=undo, upgrade, and partition them again.",
            )  # fmt: skip

    def judge_failure(self, started: upgrade.Started) -> None:
        """Say why there was no start."""
        service = self.params["hapi_service"]
        kind, reason = upgrade.reason_of(started.log)
        if kind == "schema_refused":
            self.say(
                "schema_refused", "error", service, START, reason,
                "This release maps other columns than the schema has after its migrations. Do not upgrade; look at its notes and at changes.",
            )  # fmt: skip
        elif kind == "migrator_failed":
            self.say(
                "migrator_failed", "error", service, START, reason,
                "Do not upgrade. Bring the table that is named back with hfj_partition step=undo, upgrade, and partition it again.",
            )  # fmt: skip
        elif started.ended:
            hint = "See log. If it needs another server than PostgreSQL, give environment so that it starts without."
            self.say("start_failed", "error", service, START, reason, hint)
        else:
            self.say("start_not_seen", "error", service, START, reason, "See log. Raise start_timeout or memory, or correct port and path.")

    def judge_control(self, second: upgrade.Started) -> None:
        """Say whether a wrong schema was refused, without which the first start has proven nothing."""
        column = upgrade.MISSING[1]
        # Some releases write names in capitals.
        if second.ready or column not in second.log.lower():
            found = "it started" if second.ready else upgrade.reason_of(second.log)[1]
            self.say(
                "validation_not_seen", "error", self.params["hapi_service"], "no start without the column %s.%s" % upgrade.MISSING, found,
                "Give environment what switches hibernate.hbm2ddl.auto=validate on in this image. Until then nothing is proven.",
            )  # fmt: skip


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            service={"type": "str", "default": "postgres-fhir"},
            database={"type": "str", "default": "fhirdb"},
            schema={"type": "str", "default": "public"},
            others={
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "service": {"type": "str", "required": True},
                    "database": {"type": "str", "required": True},
                    "schema": {"type": "str", "default": "public"},
                    "login_user": {"type": "str", "default": "postgres"},
                    "login_password": {"type": "str", "no_log": True},
                    "login_password_variable": {"type": "str", "no_log": False},
                },
            },
            history_tables={"type": "list", "elements": "str", "default": ["flyway_schema_history", "FLY_HFJ_MIGRATION"]},
            hapi_service={"type": "str", "default": "hapi"},
            image={"type": "str"},
            env={"type": "dict", "default": {}},
            environment={"type": "dict", "default": VALIDATE},
            port={"type": "int", "default": 8080},
            path={"type": "str", "default": "/fhir/metadata"},
            start_timeout={"type": "int", "default": 900},
            memory={"type": "str", "default": "1g"},
            database_memory={"type": "str", "default": "512m"},
            cpu_shares={"type": "int", "default": 128},
            control={"type": "bool", "default": True},
            **LOCK_ARGUMENTS,
            **LOGIN_ARGUMENTS,
            **FINDINGS_OPTIONS,
        ),
        supports_check_mode=True,
    )
    try:
        result = Check(module).run()
    except (BackupError, ComposeError, HttpError, LockError, PostgresError, hfj.HfjError, OSError) as exc:
        module.fail_json(msg=str(exc))
    failed = failed_on(result["findings"], module.params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
