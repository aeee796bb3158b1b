#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hfj_partition_info
short_description: Tell which of HAPI's tables are worth partitioning, whether it can be done, and how far it is
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Reads from the catalog which tables refer to HFJ_RESOURCE, how large they are with indexes and TOAST, and how they grow. Nothing is counted.
  - Says of each whether partitioning pays and why, what is in the way, and which state it is in.
  - Proposes bounds, and tells how much disk and time the online part takes, from a measured sample.
  - Works with a role that may only read. What that role may not see is a finding or a failure, never silence.
extends_documentation_fragment:
  - dghs.bd_fhir.hfj_tables
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.info_module
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  login_user:
    description:
      - User to log in with. It needs C(SELECT) on HAPI's tables and on the sequence, and C(pg_monitor) to see standbys and the data
        directory.
  tables:
    description:
      - The tables to look at, as they are written in the catalog. By default all that refer to HFJ_RESOURCE, and that one.
    type: list
    elements: str
    default: []
  min_size:
    description:
      - Size with indexes and TOAST from which on partitioning pays.
    type: bytes
    default: 1GB
  sample:
    description:
      - Whether reading and sorting 50,000 rows of each table that is worth it is timed, to tell how long the online part takes.
    type: bool
    default: true
seealso:
  - module: dghs.bd_fhir.hfj_partition
  - module: dghs.bd_fhir.hfj_upgrade_check
"""

EXAMPLES = r"""
- name: Which tables are worth it, and what is in the way?
  dghs.bd_fhir.hfj_partition_info:
    project_dir: /opt/bd-fhir-national
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
  register: hfj

- name: Stop when something is in the way
  dghs.bd_fhir.hfj_partition_info:
    project_dir: /opt/bd-fhir-national
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    tables: "{{ hfj.tables | selectattr('worth') | map(attribute='table') }}"
    fail_on:
      - error
"""

RETURN = r"""
server:
  description: The server, its version, and whether it is a standby.
  returned: success
  type: dict
  sample:
    service: postgres-fhir
    version: 150018
    in_recovery: false
    deadlock_timeout: 1.0
    user: postgres
sequence:
  description:
    - The sequence of the ids. No id beyond C(used) was given out. C(per_day) is V(null) when there is less than a day to measure.
  returned: success
  type: dict
  sample:
    name: seq_resource_id
    last: 5000001
    increment: 50
    used: 5000051
    highest: 5000012
    per_day: 10240.5
foreign_keys:
  description: Every foreign key in the schema that refers to HFJ_RESOURCE or to one of RV(tables), from the catalog.
  returned: success
  type: list
  elements: dict
  sample:
    - name: fk_sp_token_res
      table: hfj_spidx_token
      columns: [res_id]
      foreign_table: hfj_resource
      foreign_columns: [res_id]
      validated: true
tables:
  description: Each table, the largest first.
  returned: success
  type: list
  elements: dict
  contains:
    schema:
      description: Its schema.
      type: str
      sample: public
    table:
      description: Its name.
      type: str
      sample: hfj_spidx_token
    state:
      description:
        - V(plain), V(preparing) (the online part is half done), V(prepared), V(swapped), V(unfinished) (swapped, and foreign keys or statistics are
          to be done), V(rewritten) (by hash), V(foreign) (partitioned by others) or V(missing). It is read from the catalog alone.
      type: str
      sample: plain
    key:
      description: The column with the resource's id by which it is or would be partitioned. Empty if it has none.
      type: str
      sample: res_id
    primary_key:
      description: The column of its primary key.
      type: str
      sample: sp_id
    bytes:
      description: Its size with indexes and TOAST.
      type: int
      sample: 2147483648
    rows:
      description: Its rows, as the server estimates them.
      type: int
      sample: 5000000
    rows_per_day:
      description: How many it gets in a day. V(null) if that is not known.
      type: int
      sample: 10240
    foreign_keys:
      description: Its foreign keys.
      type: list
      elements: dict
      sample: []
    referenced_by:
      description: The foreign keys that refer to it.
      type: list
      elements: dict
      sample: []
    guard:
      description:
        - Of HFJ_RESOURCE, the table that keeps (RES_TYPE, FHIR_ID) unique over its partitions, or that would be made with O(unique_guard). V(null)
          for other tables.
        - C(state) is V(none), V(filling) with the C(percent) of the ids that are filled in, V(complete), or V(broken) with the reasons in C(faults).
          C(expected_bytes) is what it takes for the rows of now.
      type: dict
      sample:
        name: hfj_resource_bd_guard
        state: complete
        percent: 100.0
        faults: []
        rows: 5000000
        bytes: 587202560
        expected_bytes: 600000000
    partitions:
      description: Its partitions, the lowest first. V(null) for an open bound.
      type: list
      elements: dict
      sample:
        - name: hfj_spidx_token_p0
          lower: null
          upper: 5400000
          bytes: 2147483648
          rows: 5000000
    bounds:
      description: The bounds that are proposed.
      type: dict
      sample: {first: 5400000, width: 3800000, ahead: 2}
    worth:
      description: Whether partitioning pays.
      type: bool
      sample: true
    why:
      description: Why, or why not.
      type: str
      sample: '2 GB in 5000000 rows: vacuum, reindexing and archiving then go by partitions. Searches get no quicker'
    feasible:
      description: Whether nothing is in the way of this table. RV(findings) says what is.
      type: bool
      sample: true
    needs:
      description:
        - Disk and seconds of the online part, and of copying the table in a stopped window instead (C(step=rewrite)). Seconds are estimates, and
          V(null) where no sample was taken.
      type: dict
      sample:
        index_bytes: 160065536
        disk_bytes: 480196608
        seconds: 11.4
        rows_copied: 0
        rewrite_disk_bytes: 4294967296
        rewrite_seconds: 79.8
    progress:
      description: The pid that builds an index on it right now, V(0) if nobody does, and how far it is in per cent.
      type: dict
      sample: {pid: 0, percent: 0.0}
    days_left:
      description: For how many days the ids below the last bound last, in a partitioned table. V(null) if it is not known or not partitioned.
      type: float
      sample: 741.5
disk:
  description: Free space of the data directory, and what all tables that are worth it need online. V(null) if it could not be read.
  returned: success
  type: dict
  sample: {free_bytes: 42949672960, needed_bytes: 480196608}
standbys:
  description: Who receives, and how many bytes each is behind.
  returned: success
  type: list
  elements: dict
  sample:
    - application: standby
      lag_bytes: 0
hapi_upgrade:
  description: What is known of HAPI's own schema check and migrations on tables that were partitioned like this.
  returned: success
  type: list
  elements: str
  sample:
    - hfj_upgrade_check starts a release on a copy of the schema, and tells what its migrations do
findings:
  description: What is in the way and what is worth knowing, each with C(id), C(severity), C(object), C(expected), C(found) and C(hint).
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample:
    - id: unique_without_key
      severity: error
      object: public.hfj_resource
      expected: each unique index contains the column of the partitions
      found: idx_res_type_fhir_id (res_type, fhir_id)
      hint: Leave this table whole.
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _hfj as hfj
from ..module_utils import _hfj_catalog as catalog
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, finding, summary
from ..module_utils._hfj_catalog import HFJ_ARGUMENTS
from ..module_utils._postgres import LOGIN_ARGUMENTS, Login, PostgresError, Session, address_of, connect, container_of, secret_of

PORT = 5432
# Seconds; a long transaction on a table must not keep a check waiting.
LOCK_TIMEOUT = 10
# Seconds; sizes and samples of large tables.
READ_TIMEOUT = 600

HAPI_UPGRADE = [
    "hibernate.hbm2ddl.auto=validate and none start on partitioned tables; update changes tables behind the migrations' back, and may fail halfway",
    "the parent has no PRIMARY KEY but a unique index on (primary key, resource's id): a later release of HAPI that changes a primary key has to be"
    " tried on a copy first",
    "indexes and foreign keys keep their names on the parent, which is where HAPI's migrator looks for them",
    "hfj_upgrade_check starts a release on a copy of the schema, and tells what its migrations do",
]


def one_table(
    session: Session, params: dict[str, Any], name: str, sequence: hfj.Sequence, version: int
) -> tuple[dict[str, Any], list[dict[str, Any]], list[Any]]:
    """Return what is told of a table, its findings, and its foreign keys. Raises PostgresError."""
    table = catalog.read_table(session, params["schema"], name)
    options = (params["wait_days"], params["months"], params["ahead"])
    found = []
    try:
        # The operator's own bound is of no matter where the table is partitioned already: the sequence is to go beyond it.
        own = 0 if table.state in ("swapped", "unfinished") else params["first_bound"]
        bounds = hfj.propose(sequence, *options, own, params["width"])
    except hfj.HfjError as exc:
        what = "first_bound is %d, the sequence is at %d" % (params["first_bound"], sequence.used)
        found.append(finding("first_bound_near", "error", "%s.%s" % (table.schema, table.name), "a bound far ahead", what, str(exc)))
        bounds = hfj.propose(sequence, *options, 0, params["width"])
    table = catalog.with_taken(session, table, bounds)
    found += hfj.judge_guard_server(table, version, params["unique_guard"])
    found += hfj.judge(table, bounds, params["unique_guard"]) + hfj.judge_sequence(table, sequence, params["alarm_days"])
    worth, why = hfj.worth(table, params["min_size"])
    whole = name == hfj.RESOURCE and not params["unique_guard"] and table.guard is None
    worth = worth and not whole
    plain = table.state in ("plain", "preparing", "prepared")
    per_row = catalog.measure(session, table) if worth and plain and params["sample"] else None
    end = hfj.last_bound(table.main) if table.state in ("swapped", "unfinished") else None
    left = hfj.days_until(sequence, end)
    there = {
        **catalog.report(table, sequence, bounds),
        "worth": worth,
        "why": "it stays whole: UNIQUE (RES_TYPE, FHIR_ID) can't be kept over partitions by id" if whole else why,
        "feasible": not any(item["severity"] == "error" for item in found),
        "needs": hfj.needs(table, per_row),
        "progress": {"pid": table.building, "percent": round(table.progress, 1)},
        "days_left": None if left is None else round(left, 1),
    }
    return there, found, list(there["referenced_by"])


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read and judge everything. Raises what main() knows."""
    params = module.params
    catalog.check_ranges(params)
    docker = Docker.from_module(module)
    password = secret_of(docker, params["login_password"], params["login_password_variable"])
    container = container_of(docker, params["service"])
    login = Login(address_of(container, PORT), PORT, params["login_user"], password, params["database"], params["connect_timeout"])
    with connect(login, READ_TIMEOUT) as session:
        session.execute("SET default_transaction_read_only = on")
        session.execute("SET lock_timeout = '%ds'" % LOCK_TIMEOUT)
        server = session.rows(catalog.SERVER)[0]
        sequence = catalog.read_sequence(session, params["schema"], params["sequence"])
        standbys = [] if server["in_recovery"] else catalog.read_standbys(session)
        found = hfj.judge_server(
            params["service"], server["version"], server["in_recovery"], catalog.hapi_partitions(session, params["schema"]), sequence, standbys,
            params["max_lag_bytes"],
        )  # fmt: skip
        tables, keys = [], []
        for name in params["tables"] or catalog.candidates(session, params["schema"]):
            there, more, referring = one_table(session, params, name, sequence, server["version"])
            tables.append(there)
            found += more if there["worth"] or params["tables"] or there["state"] not in ("plain", "missing") else []
            keys += referring
        free = catalog.free_bytes(docker, container, session)
    needed = sum(row["needs"]["disk_bytes"] for row in tables if row["worth"] and row["state"] in ("plain", "preparing"))
    if needed:
        found += hfj.judge_disk(params["service"], free, needed)
    if sequence.per_day is None:
        found.append(
            finding(
                "growth_unknown", "info", params["sequence"], "resources of more than a day", "fewer",
                "Bounds are proposed from the sequence alone, and prepare does not compute one from that. Give it first_bound and width.",
            )
        )  # fmt: skip
    return {
        "changed": False,
        "server": {"service": params["service"], **server},
        "sequence": {
            "name": sequence.name, "last": sequence.last, "increment": sequence.increment, "used": sequence.used, "highest": sequence.highest,
            "per_day": None if sequence.per_day is None else round(sequence.per_day, 1),
        },
        "foreign_keys": keys,
        "tables": sorted(tables, key=lambda row: (-row["bytes"], row["table"])),
        "disk": {"free_bytes": free, "needed_bytes": needed},
        "standbys": standbys,
        "hapi_upgrade": HAPI_UPGRADE,
        "findings": found,
    }  # fmt: skip


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **COMPOSE_ARGUMENTS,
            **HFJ_ARGUMENTS,
            **LOGIN_ARGUMENTS,
            **FINDINGS_OPTIONS,
            "tables": {"type": "list", "elements": "str", "default": []},
            "min_size": {"type": "bytes", "default": "1GB"},
            "sample": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (ComposeError, PostgresError, hfj.HfjError) as exc:
        module.fail_json(msg=str(exc))
    failed = failed_on(result["findings"], module.params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
