#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: phase_info
short_description: Say which phase the load asks for, which one is deployed, and what is due
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Measures vendors, resources a day and resources in all in the two databases, takes replicas, connections, standby and audit partitions
    from the results of the other modules, and compares all of it with the thresholds of the phases. Nothing is declared by hand.
  - No table of HAPI is counted or read from end to end. The number of resources is the planner's estimate, and what is written a day the
    distance of the numbers at both ends of a window. Each figure tells how it was come by.
  - A load between two phases (such as 100,000 to 1,000,000 resources a day) is still of the phase V(regional) and marked as exceeded.
    A larger load never gives an earlier phase.
  - What can't be read is listed in RV(unread) and makes the answer RV(partial). It is never counted as healthy, and the rest is told
    all the same.
  - Says from plans of searches whether partitioning of HAPI's tables is due. Plans are only shown, no search is run.
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.info_module
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  fhir:
    description:
      - HAPI's database.
    type: dict
    default: {}
    suboptions:
      service:
        description:
          - Compose service of its primary.
        type: str
        default: postgres-fhir
      database:
        description:
          - Its name.
        type: str
        default: fhirdb
      schema:
        description:
          - Schema of HAPI's tables.
        type: str
        default: public
      login_user:
        description:
          - User to log in with. The role that C(playbooks/files/assess_role.sql) makes, or a superuser. For a superuser only the default set
            of searches is planned, since planning a statement of others can run a function of others.
        type: str
        default: postgres
      login_password:
        description:
          - Password of O(fhir.login_user).
        type: str
      login_password_variable:
        description:
          - Variable of the environment file that holds this password, so that it never leaves the host.
        type: str
  audit:
    description:
      - The audit database.
    type: dict
    default: {}
    suboptions:
      service:
        description:
          - Compose service of its primary.
        type: str
        default: postgres-audit
      database:
        description:
          - Its name.
        type: str
        default: auditdb
      schema:
        description:
          - Schema of the audit tables.
        type: str
        default: audit
      table:
        description:
          - Table of the events, with the columns C(client_id) and O(audit.time_column).
        type: str
        default: audit_events
      time_column:
        description:
          - Column that holds the moment of an event.
        type: str
        default: event_time
      login_user:
        description:
          - User to log in with.
        type: str
        default: postgres
      login_password:
        description:
          - Password of O(audit.login_user).
        type: str
      login_password_variable:
        description:
          - Variable of the environment file that holds this password.
        type: str
  service:
    description:
      - Compose service of HAPI in O(deployment).
    type: str
    default: hapi
  deployment:
    description:
      - The result of M(dghs.bd_fhir.deployment_info), for the replicas.
    type: dict
    default: {}
  connections:
    description:
      - The result of M(dghs.bd_fhir.connection_budget_info).
    type: dict
    default: {}
  partitions:
    description:
      - The result of M(dghs.bd_fhir.audit_partition_info). With O(dghs.bd_fhir.audit_partition_info#module:rejection_days) it tells the
        rejections of each vendor too.
    type: dict
    default: {}
  replication:
    description:
      - The result of M(dghs.bd_fhir.postgres_replication_info) for the standby of HAPI's database. Without one, the primary is asked whether
        it sends to a standby.
    type: dict
    default: {}
  samples:
    description:
      - What earlier runs have returned as RV(sample), each as a dictionary or as the line of a file.
      - A line that can't be read, such as the last of a file that was cut, is left out and named in RV(history).
    type: list
    elements: raw
    default: []
  samples_unread:
    description:
      - Why the samples of earlier runs could not be read. That is told in RV(unread), and not taken for a history that is too short.
    type: str
    default: ''
  thresholds:
    description:
      - Limits of the phases. What is not given is the roadmap's.
      - They must be in order, and may leave a gap between O(thresholds.vendors.regional_below) and O(thresholds.vendors.national_above), not
        overlap.
    type: dict
    default: {}
    suboptions:
      vendors:
        description:
          - Clients with traffic, V(50), V(500) and V(500).
        type: dict
        default: {}
        suboptions:
          pilot_below:
            description:
              - Fewer are pilot.
            type: float
          regional_below:
            description:
              - Fewer are regional.
            type: float
          national_above:
            description:
              - More are national.
            type: float
      resources_per_day:
        description:
          - New resources a day, V(10000), V(100000) and V(1000000).
        type: dict
        default: {}
        suboptions:
          pilot_below:
            description:
              - Fewer are pilot.
            type: float
          regional_below:
            description:
              - Fewer are regional.
            type: float
          national_above:
            description:
              - More are national.
            type: float
      resources:
        description:
          - Resources in all, V(1000000), V(10000000) and V(10000000).
        type: dict
        default: {}
        suboptions:
          pilot_below:
            description:
              - Fewer are pilot.
            type: float
          regional_below:
            description:
              - Fewer are regional.
            type: float
          national_above:
            description:
              - More are national.
            type: float
  partition_plan:
    description:
      - Resources from which partitioning of HAPI's tables is to be planned.
    type: int
    default: 5000000
  partition_due:
    description:
      - Resources from which it is due, whatever the plans of searches say.
    type: int
    default: 10000000
  days:
    description:
      - Days over which the resources a day are measured.
    type: int
    default: 7
  vendor_days:
    description:
      - Days in which a client must have had traffic to count as a vendor.
    type: int
    default: 30
  statement_timeout:
    description:
      - Seconds after which a statement is given up. What it would have told is then in RV(unread).
    type: int
    default: 30
  lock_timeout:
    description:
      - Seconds to wait for a lock that somebody holds.
    type: int
    default: 5
  connect_timeout:
    description:
      - Seconds that a server has to accept a connection.
    type: int
    default: 5
requirements:
  - psycopg2 on the host (package C(python3-psycopg2))
  - PostgreSQL 13 or newer
notes:
  - HAPI writes moments without a time zone. They are taken for UTC; with another zone in HAPI's JVM a window is off by its distance.
  - RV(exit_code) is for scripts that read the result. V(0) nothing is due, V(1) something is, V(2) something is critical, V(3) nothing is
    known to be due, but not all could be read.
seealso:
  - module: dghs.bd_fhir.connection_budget_info
  - module: dghs.bd_fhir.audit_partition_info
  - module: dghs.bd_fhir.postgres_replication_info
  - plugin: dghs.bd_fhir.phase_report
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Read the deployment
  dghs.bd_fhir.deployment_info:
    project_dir: /opt/bd-fhir-national
  register: deployment

- name: Which phase is it, and what is due?
  dghs.bd_fhir.phase_info:
    project_dir: /opt/bd-fhir-national
    deployment: "{{ deployment }}"
    fhir:
      login_user: assess
      login_password_variable: FHIR_DB_ASSESS_PASSWORD
    audit:
      login_user: assess
      login_password_variable: AUDIT_DB_ASSESS_PASSWORD
  register: phase

- name: Tell it
  ansible.builtin.debug:
    msg: "{{ phase.phase }} because of {{ phase.decided_by }}; due: {{ phase.due | map(attribute='what') | list }}; not read: {{ phase.unread }}"

- name: Stop where not all could be read, with limits of the site's own
  dghs.bd_fhir.phase_info:
    project_dir: /opt/bd-fhir-national
    thresholds:
      vendors:
        pilot_below: 20
    fail_on:
      - error
"""

RETURN = r"""
phase:
  description: The phase that the load asks for, V(pilot), V(regional) or V(national). V(null) when nothing of the load could be read.
  returned: success, and when O(fail_on) makes the module fail
  type: str
  sample: pilot
level:
  description: Where the load is, V(pilot), V(regional), V(regional_exceeded) or V(national).
  returned: success, and when O(fail_on) makes the module fail
  type: str
  sample: pilot
exceeded:
  description: Whether the load has left what V(regional) was made for and not reached V(national).
  returned: success, and when O(fail_on) makes the module fail
  type: bool
  sample: false
at_least:
  description: Whether a figure is missing that could give a later phase.
  returned: success, and when O(fail_on) makes the module fail
  type: bool
  sample: false
decided_by:
  description: The metric that decided.
  returned: success, and when O(fail_on) makes the module fail
  type: str
  sample: resources_per_day
metrics:
  description:
    - Each metric with its C(value), the C(method) and C(quality) of it (V(exact), V(estimate), V(at_least), V(at_most)), C(as_of) when the
      statistics behind it were made, its C(level), its C(threshold), and for each of its C(limits) what is left to it and when it is reached.
    - C(confidence) of a date is V(high), V(medium), V(low), or V(none) with C(why) it is not known, such as not enough history.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    vendors:
      value: 42
      method: index (client_id, event_time), the last 30 days
      quality: exact
      as_of:
      why: ''
      level: pilot
      phase: pilot
      threshold: {pilot_below: 50, regional_below: 500, national_above: 500}
      limits:
        - to: regional
          limit: 50
          reached: false
          left: 8
          share: 0.84
          projected: '2027-01-14T03:00:00Z'
          earliest: '2027-01-02T03:00:00Z'
          latest: '2027-02-20T03:00:00Z'
          per_day: 0.16
          confidence: medium
          why: as in the last 44 days
writes_per_day:
  description: Versions that were written a day, updates and deletes included. V(null) when not known.
  returned: success, and when O(fail_on) makes the module fail
  type: float
  sample: 9120.5
deployed:
  description: The phase that is deployed, that of its weakest part, and which parts hold it there.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    phase: pilot
    at_least: false
    held_by: [replicas, postgresql]
    aspects:
      replicas: {found: '1', phase: pilot}
      orchestrator: {found: docker-compose, phase: regional}
      postgresql: {found: a single server, phase: pilot}
due:
  description: What is due, what can't wait first, each with the playbook that does it. V(null) for what no playbook does.
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample:
    - what: run 3 replicas
      severity: warning
      why: the load is regional, with 1 replicas
      playbook: scale_hapi
next:
  description: The first of RV(due), or else what the limit that is reached soonest will ask for. V(null) when neither is known.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    what: go to the regional phase
    severity: info
    why: vendors are projected to reach 50 (confidence medium)
    playbook: scale_regional
    when: '2027-01-14T03:00:00Z'
status:
  description: V(ok), V(due), V(critical), or V(partial) when nothing is known to be due and not all could be read.
  returned: success, and when O(fail_on) makes the module fail
  type: str
  sample: ok
exit_code:
  description: The same as a number, V(0), V(1), V(2), V(3).
  returned: success, and when O(fail_on) makes the module fail
  type: int
  sample: 0
partial:
  description: Whether something could not be read.
  returned: success, and when O(fail_on) makes the module fail
  type: bool
  sample: false
unread:
  description: What could not be read, and why.
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample:
    - what: vendors
      service: postgres-audit
      why: 'PostgreSQL at 172.20.0.4:5432, database auditdb refused a statement of assess: permission denied for table audit_events'
partitioning:
  description: Whether partitioning of HAPI's tables is V(due), to V(plan), V(no), or V(unknown), and why.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample: {state: 'no', why: '412,000 resources, fewer than 5,000,000'}
plans:
  description:
    - The plans of searches, those of the site where C(pg_stat_statements) is there and O(fhir.login_user) can't become a superuser, else of a
      default set (C(source), and C(why) it is the default set).
    - A search of the site is told by its C(queryid) and its C(tables). Its text is not, since it may hold a value that was searched for. One
      with a literal, with a function that is not on a short list, or with a table that is not HAPI's, is not planned.
    - Each has the tables that it reads whole though it should not (C(scans)) with the reason, V(stale_statistics), V(large_or),
      V(missing_index), V(unselective) or V(table_size).
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    source: pg_stat_statements
    why: ''
    searches:
      - name: query 5710221973651983411 (hfj_spidx_token)
        queryid: '5710221973651983411'
        tables: [hfj_spidx_token]
        calls: 12
        mean_ms: 41.2
        cost: 13684.2
        scans: []
databases:
  description: Both databases, V(null) for one that could not be read.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    fhir: {service: postgres-fhir, version: 150018, in_recovery: false, bytes: 1288490188, stats_reset: null, counted_days: 44.0}
    audit: {service: postgres-audit, version: 150018, in_recovery: false, bytes: 88490188, stats_reset: null, counted_days: null}
tables:
  description: HAPI's tables with their rows (an estimate), size and dead rows, the largest first.
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample:
    - name: hfj_spidx_token
      parent: ''
      rows: 1200000.0
      heap_bytes: 150000000
      total_bytes: 480000000
      dead_rows: 1200
      dead_percent: 0.1
      analyzed_at: '2026-11-25T22:10:00Z'
      vacuumed_at: '2026-11-25T22:10:00Z'
indexes:
  description: Their indexes that are large or invalid, with an estimate of what is empty in them (C(bloat)).
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample:
    - table: hfj_spidx_token
      name: idx_sp_token_hash_v2
      valid: true
      columns: [hash_identity, sp_system, sp_value, res_id, partition_id]
      bytes: 98000000
      scans: 12
      bloat: 0.12
connections:
  description: How much of the slots that ordinary users can have is taken on each server, idle sessions included.
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample:
    - {side: fhir, service: postgres-fhir, used: 12, usable: 27, max_connections: 30, percent: 44.4, fits: true}
partitions:
  description:
    - What O(partitions) tells of the months and of rejections. V(null) when it was not given.
    - C(errors) are its findings of months that are missing or will be, C(faults) what else is wrong with the tables.
    - C(rejections) is V(null) when they could not be read or were not asked for, and so are the figures of a table that could not be read.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    days_left: 400.9
    errors: []
    faults: []
    tables:
      - table: audit.audit_events
        readable: true
        days_left: 400.9
        covered_until: '2028-01-01T00:00:00Z'
        bytes: 884736
        gaps: 0
        partitions:
          - {name: audit_events_2026_11, bytes: 24576, rows: 0}
    rejections:
      - {client_id: vendor-7, client: vendor-7, events: 1204, rejected: 187, percent: 15.5, enough: true}
sample:
  description: What was measured now, to be kept for O(samples). A figure that could not be read is not in it.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    format: 1
    at: '2026-11-26T03:00:00Z'
    database: '7712445220050923549:16384'
    vendors: 42
    resources: 412000
    resources_per_day: 8100
    database_bytes: 1288490188
history:
  description: The samples of this database that were used, and C(faults), the lines that are none.
  returned: success, and when O(fail_on) makes the module fail
  type: dict
  sample:
    samples: []
    faults:
      - {line: 88, why: it is no JSON, cut: true}
now:
  description: The moment for which everything was judged.
  returned: success, and when O(fail_on) makes the module fail
  type: str
  sample: '2026-11-26T03:00:00Z'
findings:
  description:
    - What is wrong.
    - C(id) is one of V(figure_unread), V(connections_used_up) (severity V(error)), V(phase_behind), V(phase_exceeded), V(statistics_missing),
      V(vacuum_behind), V(index_invalid), V(search_reads_table), V(partitioning_due), V(samples_damaged), V(server_is_standby) (V(warning)),
      V(threshold_near), V(partitioning_near), V(index_bloated), V(index_unused) (V(info)).
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample:
    - id: figure_unread
      severity: error
      object: 'vendors on postgres-audit'
      expected: an answer
      found: 'no session as postgres on PostgreSQL at 172.20.0.4:5432: connection refused'
      hint: The answer is partial. Mend that, and ask again.
"""

from datetime import datetime, timezone
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _measure, _plans
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._fhir import out_of_range
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, finding, summary
from ..module_utils._growth import FIGURES, history_of, iso, read_samples, sample_line
from ..module_utils._measure import Look
from ..module_utils._phase import (
    EXIT_CODES,
    LEVELS,
    METRICS,
    PARTITION_DUE,
    PARTITION_PLAN,
    Measure,
    PhaseError,
    connection_findings,
    coverage,
    coverage_unread,
    deployed,
    due_steps,
    metric_report,
    next_step,
    orchestrator_aspect,
    phase_findings,
    replicas_aspect,
    serving,
    status_of,
    thresholds_of,
    topology_aspect,
    topology_of,
    utilisation,
    verdict,
)
from ..module_utils._postgres import Login, PostgresError, Session, address_of, connect, container_of, secret_of

PORT = 5432
OLDEST_SERVER = 130000
RANGES = {
    "days": (1, 366),
    "vendor_days": (1, 366),
    "statement_timeout": (1, 3600),
    "lock_timeout": (1, 3600),
    "connect_timeout": (1, 300),
    "partition_plan": (1, 1 << 62),
    "partition_due": (1, 1 << 62),
}
TABLES = "hfj\\_%"
# Indexes are told from this size on.
LARGE_INDEX = 1_000_000


class Facts:
    """What is known so far. Whatever a reader could not fill in stays unknown, and is named in unread."""

    def __init__(self) -> None:
        self.unread: list[dict[str, Any]] = []
        self.findings: list[dict[str, Any]] = []
        self.measures = {name: Measure(None, why="it could not be read") for name in METRICS}
        self.writes: Optional[float] = None
        self.database: dict[str, Any] = {"fhir": None, "audit": None}
        self.identity = ""
        self.senders: Optional[int] = None
        self.tables: list[dict[str, Any]] = []
        self.indexes: list[dict[str, Any]] = []
        self.raw_indexes: list[dict[str, Any]] = []
        self.plans: dict[str, Any] = {"source": "", "why": "", "searches": [], "scans": []}
        self.now: Optional[datetime] = None
        self.stats_reset: Optional[datetime] = None

    def miss(self, what: str, service: str, why: str) -> None:
        """Note what could not be read."""
        self.unread.append({"what": what, "service": service, "why": why})


def session_of(docker: Docker, params: dict[str, Any], side: dict[str, Any]) -> Session:
    """Open a session that only reads. Raises ComposeError, PostgresError."""
    password = secret_of(docker, side["login_password"], side["login_password_variable"])
    address = address_of(container_of(docker, side["service"]), PORT)
    login = Login(address, PORT, side["login_user"], password, side["database"], params["connect_timeout"])
    session = connect(login, params["statement_timeout"])
    try:
        _measure.begin(session, params["lock_timeout"])
    except BaseException:
        session.close()
        raise
    return session


def database_of(look: Look, facts: Facts, name: str) -> dict[str, Any]:
    """Return what a database says of itself. Raises PostgresError: without it nothing can be told."""
    row = look.session.rows(_measure.DATABASE)[0]
    if row["version"] < OLDEST_SERVER:
        raise PostgresError("%s is PostgreSQL %d; 13 or newer is needed." % (look.service, row["version"] // 10000), "version")
    if not row["sees_all"]:
        look.missing("sessions and statements of others", "this role is no member of pg_read_all_stats: GRANT pg_monitor to it")
    size = look.attempt("the size of the database", lambda: look.session.value(_measure.DATABASE_BYTES), None)
    facts.database[name] = {
        "service": look.service,
        "version": row["version"],
        "in_recovery": row["in_recovery"],
        "bytes": size,
        "stats_reset": iso(row["stats_reset"]),
        "counted_days": None,
    }
    if row["in_recovery"]:
        facts.findings.append(
            finding(
                "server_is_standby", "warning", look.service, "the primary", "a standby, which follows it",
                "What is seen here may be late, and what is read on the primary is not counted. Name the primary's service.",
            )
        )  # fmt: skip
    if facts.now is None:
        facts.now = row["now"]
    return row


def read_fhir(look: Look, params: dict[str, Any], facts: Facts) -> None:
    """Read all that HAPI's database tells. Raises PostgresError when the session is lost."""
    session = look.session
    row = database_of(look, facts, "fhir")
    facts.stats_reset = row["stats_reset"]
    system = look.attempt("the identity of the cluster", lambda: session.value(_measure.SYSTEM), None)
    facts.identity = "%s:%s" % (system, row["oid"]) if system else ""
    # A standby may send on to others, which says nothing of the primary.
    if row["sees_all"] and not row["in_recovery"]:
        senders = look.attempt("the standbys that the primary sends to", lambda: session.rows(_measure.SENDERS), None)
        facts.senders = None if senders is None else len(senders)
    names = {"schema": look.schema, "pattern": TABLES}
    tables: list[dict[str, Any]] = look.attempt("the tables", lambda: session.rows(_measure.TABLES, names), [])
    if not any(item["name"] == "hfj_resource" for item in tables):
        found = "no" if not tables else "only %d" % len(tables)
        look.missing(
            "the resources", "the schema %s of %s has %s tables of HAPI: correct fhir.schema or fhir.database" % (look.schema, look.service, found)
        )
        facts.measures["resources"] = facts.measures["resources_per_day"] = Measure(None, why="there is no HFJ_RESOURCE")
        return
    # A partitioned table has no size of its own.
    holding = [item["oid"] for item in tables if item["kind"] == "r"]
    rows: list[dict[str, Any]] = look.attempt("the sizes of the tables", lambda: session.rows(_measure.SIZES, (holding,)), [])
    sizes = {item["oid"]: item for item in rows}
    ids = look.attempt("the range of RES_ID", lambda: _measure.read_ids(look), None)
    facts.measures["resources"] = _measure.resources(tables, sizes, ids)
    if facts.measures["resources"].value is None:
        look.missing("resources", facts.measures["resources"].why)
    unknown = _measure.Rate(Measure(None, why="it could not be read"), None, 0.0)
    rate = look.attempt("resources_per_day", lambda: _measure.read_rate(look, row["now"], params["days"], ids and ids[1]), unknown)
    facts.measures["resources_per_day"], facts.writes = rate.created, rate.versions
    facts.tables = sorted(
        (_measure.table_report(item, sizes.get(item["oid"])) for item in tables if item["kind"] == "r"),
        key=lambda item: (-(item["total_bytes"] or 0), item["name"]),
    )
    facts.findings += _measure.table_findings(tables)
    facts.raw_indexes = look.attempt("the indexes", lambda: session.rows(_measure.INDEXES, (holding,)), [])
    described: list[dict[str, Any]] = look.attempt("the widths of columns", lambda: session.rows(_measure.WIDTHS, (look.schema, TABLES)), [])
    widths = {(item["table"], item["name"]): item["width"] for item in described}
    facts.indexes = [_measure.index_report(item, widths) for item in facts.raw_indexes]
    catalog = _measure.catalog(tables, sizes, facts.raw_indexes, {item["table"] for item in described})
    columns = {item["name"]: item["columns"] for item in tables}
    facts.plans = _measure.read_plans(look, catalog, columns, params["partition_plan"])


def read_audit(look: Look, params: dict[str, Any], facts: Facts) -> None:
    """Read who has traffic. Raises PostgresError when the session is lost."""
    row = database_of(look, facts, "audit")
    audit = params["audit"]
    unknown = Measure(None, why="it could not be read")
    facts.measures["vendors"] = look.attempt(
        "vendors", lambda: _measure.read_vendors(look, audit["table"], audit["time_column"], row["now"], params["vendor_days"]), unknown
    )


def read_databases(module: AnsibleModule, facts: Facts) -> None:
    """Read both databases, each as far as it can be read."""
    params = module.params
    docker: Optional[Docker] = None
    why = ""
    try:
        docker = Docker.from_module(module)
    except ComposeError as exc:
        why = str(exc)
    for name, read, what in (("fhir", read_fhir, "resources and resources_per_day"), ("audit", read_audit, "vendors")):
        side = params[name]
        if docker is None:
            facts.miss(what, side["service"], why)
            continue
        try:
            session = session_of(docker, params, side)
        except (ComposeError, PostgresError) as exc:
            facts.miss(what, side["service"], str(exc))
            continue
        look = Look(session, side["service"], side["schema"])
        with session:
            try:
                read(look, params, facts)
            except PostgresError as exc:
                look.missing("the rest of %s" % side["database"], str(exc))
        facts.unread += look.unread


def partition_findings(partitioning: dict[str, Any], resources: Optional[float]) -> list[dict[str, Any]]:
    """Return whether partitioning is due as a finding."""
    if partitioning["state"] == "due":
        hint = (
            "partition_hapi_tables does it, table by table, while HAPI works on. Partitions do not make searches faster; they keep each table"
            " at a size that can be kept."
        )
        return [finding("partitioning_due", "warning", "hfj_resource", "tables of a size that can be kept", partitioning["why"], hint)]
    if partitioning["state"] == "plan":
        hint = "Plan it: see what partition_hapi_tables --check tells, and when it is to be done."
        return [finding("partitioning_near", "info", "hfj_resource", "tables of a size that can be kept", partitioning["why"], hint)]
    return []


def needs_of(
    facts: Facts, params: dict[str, Any], used: list[dict[str, Any]], months: Optional[dict[str, Any]], parts: dict[str, Any]
) -> dict[str, str]:
    """Return what is due whatever the phase, each with the reason."""
    needs = {}
    if months and months["errors"]:
        left = "" if months["days_left"] is None else "; partitions for %s days" % months["days_left"]
        needs["audit_partitions"] = "audit_partition_info finds %s%s" % (", ".join(months["errors"]), left)
    if months and months["faults"]:
        needs["audit_tables"] = "audit_partition_info finds %s, and tells what to do" % ", ".join(months["faults"])
    full = [item for item in used if item["used"] >= item["usable"]]
    if full:
        needs["pools_full"] = ", ".join("%s has %d of %d usable slots taken" % (item["service"], item["used"], item["usable"]) for item in full)
    unfit = sorted({item["side"] for item in used if item["fits"] is False})
    if unfit:
        needs["pools"] = "the connections of %s do not fit" % ", ".join(unfit)
    if parts["state"] == "due":
        needs["partitioning"] = parts["why"]
    if parts["state"] == "plan":
        needs["partitioning_plan"] = parts["why"]
    return needs


def passed_on(params: dict[str, Any], facts: Facts) -> tuple[list[Any], list[dict[str, Any]], Optional[dict[str, Any]]]:
    """Return what the results of the other modules tell: the aspects of the deployment, used connections, the audit partitions."""
    count, why = serving(params["deployment"], params["service"])
    if count is None:
        facts.miss("replicas", params["service"], why)
    topology, why = topology_of(params["replication"], facts.senders)
    if not topology:
        facts.miss("the topology of PostgreSQL", params["fhir"]["service"], why)
    used = utilisation(params["connections"])
    if not used:
        reasons = [str(item.get("found")) for item in params["connections"].get("findings") or [] if item.get("severity") == "error"]
        why = str(params["connections"].get("msg") or "; ".join(reasons) or "the result of connection_budget_info tells no server")
        facts.miss("connections", "", why)
    months = coverage(params["partitions"])
    if months is None:
        why = str(params["partitions"].get("msg") or "the result of audit_partition_info tells no table")
        facts.miss("the audit partitions", params["audit"]["service"], why)
    for what, why in coverage_unread(params["partitions"]):
        facts.miss(what, params["audit"]["service"], why)
    # A module on a host of containers that Compose started: the national phase's own playbooks will ask Kubernetes.
    orchestrator = "docker-compose" if count is not None else ""
    return [replicas_aspect(count), orchestrator_aspect(orchestrator), topology_aspect(topology)], used, months


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read, judge, tell. Raises PhaseError for options that can't be used; what can't be read is told."""
    params = module.params
    problem = out_of_range(params, RANGES)
    if problem:
        raise PhaseError(problem)
    if params["partition_due"] < params["partition_plan"]:
        raise PhaseError(
            "partition_due (%d) is below partition_plan (%d). Correct one of them." % (params["partition_due"], params["partition_plan"])
        )
    given = {metric: {name: value for name, value in (limits or {}).items() if value is not None} for metric, limits in params["thresholds"].items()}
    thresholds = thresholds_of(given)
    facts = Facts()
    samples, faults = read_samples(params["samples"])
    if params["samples_unread"]:
        facts.miss("the samples of earlier runs", "", params["samples_unread"])
    read_databases(module, facts)
    now = facts.now or datetime.now(timezone.utc)
    history = history_of(samples, facts.identity, now)

    aspects, used, months = passed_on(params, facts)
    built = deployed(aspects)
    found = verdict(thresholds, facts.measures)
    metrics = {name: metric_report(thresholds[name], facts.measures[name], history, now) for name in METRICS}
    if params["samples_unread"] and not samples:
        for limit in [limit for metric in metrics.values() for limit in metric["limits"] if limit["confidence"] == "none"]:
            limit["why"] = "the samples of earlier runs could not be read"
    parts = _plans.partitioning(facts.measures["resources"].value, params["partition_plan"], params["partition_due"], facts.plans["scans"])
    counted = _measure.counted_days(facts.stats_reset, history[0].at if history and facts.identity else None, now)
    if facts.database["fhir"]:
        facts.database["fhir"]["counted_days"] = None if counted is None else round(counted, 1)
    steps = due_steps(found.level, aspects, needs_of(facts, params, used, months, parts))

    findings = [
        finding(
            "figure_unread", "error", " on ".join(filter(None, (item["what"], item["service"]))), "an answer", item["why"],
            "The answer is partial. Mend that, and ask again.",
        )
        for item in facts.unread
    ]  # fmt: skip
    if faults:
        text = "; ".join("line %d: %s%s" % (item.line, item.why, " (the last one, cut)" if item.cut else "") for item in faults[:5])
        hint = "The other lines count. Take these out of the file; the next sample begins on a line of its own."
        findings.append(finding("samples_damaged", "warning", "samples", "a JSON object in each line", "%d of %d lines: %s" % (
            len(faults), len(params["samples"]), text), hint))  # fmt: skip
    findings += connection_findings(used)
    findings += phase_findings(found, built, metrics, now)
    findings += facts.findings
    findings += _measure.index_findings(facts.raw_indexes, facts.indexes, counted)
    findings += _measure.plan_findings(facts.plans)
    findings += partition_findings(parts, facts.measures["resources"].value)

    figures: dict[str, Optional[float]] = {name: facts.measures[name].value for name in METRICS}
    figures["database_bytes"] = (facts.database["fhir"] or {}).get("bytes")
    partial = bool(facts.unread)
    status = status_of(steps, findings, partial)
    return {
        "changed": False,
        "phase": found.phase,
        "level": None if found.level is None else LEVELS[found.level],
        "exceeded": found.exceeded,
        "at_least": found.at_least,
        "decided_by": found.decided_by,
        "metrics": metrics,
        "writes_per_day": facts.writes,
        "deployed": built,
        "due": steps,
        "next": next_step(steps, found.level, {name: metric["limits"] for name, metric in metrics.items()}),
        "status": status,
        "exit_code": EXIT_CODES[status],
        "partial": partial,
        "unread": facts.unread,
        "partitioning": parts,
        "plans": {name: facts.plans[name] for name in ("source", "why", "searches")},
        "databases": facts.database,
        "tables": facts.tables,
        "indexes": [item for item in facts.indexes if not item["valid"] or item["bytes"] >= LARGE_INDEX],
        "connections": used,
        "partitions": months,
        "sample": sample_line(now, facts.identity, figures),
        "history": {
            "samples": [{"at": iso(item.at), **{name: item.figures.get(name) for name in FIGURES}} for item in history],
            "faults": [{"line": item.line, "why": item.why, "cut": item.cut} for item in faults],
        },
        "now": iso(now),
        "findings": findings,
    }


def server_options(service: str, database: str, schema: str) -> dict[str, Any]:
    """Return the suboptions of a database."""
    return {
        "service": {"type": "str", "default": service},
        "database": {"type": "str", "default": database},
        "schema": {"type": "str", "default": schema},
        "login_user": {"type": "str", "default": "postgres"},
        "login_password": {"type": "str", "no_log": True},
        # The name of a variable, not its value.
        "login_password_variable": {"type": "str", "no_log": False},
    }


def main() -> None:
    limits = {"type": "dict", "default": {}, "options": {name: {"type": "float"} for name in ("pilot_below", "regional_below", "national_above")}}
    events = {"table": {"type": "str", "default": "audit_events"}, "time_column": {"type": "str", "default": "event_time"}}
    module = AnsibleModule(
        argument_spec={
            **COMPOSE_ARGUMENTS,
            **FINDINGS_OPTIONS,
            "fhir": {"type": "dict", "default": {}, "apply_defaults": True, "options": server_options("postgres-fhir", "fhirdb", "public")},
            "audit": {
                "type": "dict",
                "default": {},
                "apply_defaults": True,
                "options": {**server_options("postgres-audit", "auditdb", "audit"), **events},
            },
            "service": {"type": "str", "default": "hapi"},
            "deployment": {"type": "dict", "default": {}},
            "connections": {"type": "dict", "default": {}},
            "partitions": {"type": "dict", "default": {}},
            "replication": {"type": "dict", "default": {}},
            "samples": {"type": "list", "elements": "raw", "default": []},
            "samples_unread": {"type": "str", "default": ""},
            "thresholds": {"type": "dict", "default": {}, "options": dict.fromkeys(METRICS, limits)},
            "partition_plan": {"type": "int", "default": PARTITION_PLAN},
            "partition_due": {"type": "int", "default": PARTITION_DUE},
            "days": {"type": "int", "default": 7},
            "vendor_days": {"type": "int", "default": 30},
            "statement_timeout": {"type": "int", "default": 30},
            "lock_timeout": {"type": "int", "default": 5},
            "connect_timeout": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except PhaseError as exc:
        module.fail_json(msg=str(exc))
    failed = failed_on(result["findings"], module.params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
