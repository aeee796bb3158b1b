#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_partition_info
short_description: Tell for how long the audit tables have partitions, and what is wrong with them
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Judges tables that are partitioned by month by the time that their partitions cover, never by their names.
  - Finds missing months anywhere, wrong bounds, months of another time zone, detached tables, detaches that were not finished, rows in the
    default partition, and partitions whose owner, grants, replica identity or comment is not the table's.
  - Tells sizes with indexes and TOAST, and if wanted how many of each client's submissions were rejected.
  - Works with a role that may only read. What that role may not see is a finding. The module never says that all is well without having looked.
extends_documentation_fragment:
  - dghs.bd_fhir.audit_partitions
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.info_module
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  login_user:
    description:
      - User to log in with. Any role does that may log in. To count the rows of a default partition it needs C(SELECT) on that.
  max_size:
    description:
      - Size with indexes and TOAST from which on a partition is due for the archive. V(0) for none.
    type: bytes
    default: 10GB
  retention:
    description:
      - Whether partitions are archived and dropped at this site. Foreign keys that are in the way of that are findings then.
    type: bool
    default: false
  rejection_days:
    description:
      - Over how many of the last days rejected submissions are counted, for each client. V(0) does not count them.
    type: int
    default: 0
  rejection_table:
    description:
      - Table of O(schema) in which they are counted, with the columns C(event_time), C(client_id) and C(outcome).
    type: str
    default: audit_events
  rejection_minimum:
    description:
      - Fewer events of a client than these are no sample. They are told, and no finding comes from them.
    type: int
    default: 20
  rejection_percent:
    description:
      - From which share of rejected events on a client is a finding.
    type: float
    default: 10
seealso:
  - module: dghs.bd_fhir.audit_partition
"""

EXAMPLES = r"""
- name: Stop when a month is missing, or when there are partitions for less than 45 days
  dghs.bd_fhir.audit_partition_info:
    project_dir: /opt/bd-fhir-national
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD
    fail_on:
      - error

- name: What is going to be in December 2027, when the months that were made in advance run out?
  dghs.bd_fhir.audit_partition_info:
    project_dir: /opt/bd-fhir-national
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD
    now: '2027-12-20T00:00:00Z'
  register: partitions

- name: Show what audit_partition would do then
  ansible.builtin.debug:
    var: partitions.plan

- name: Vendors of whose submissions more than a tenth was rejected within a week
  dghs.bd_fhir.audit_partition_info:
    project_dir: /opt/bd-fhir-national
    login_user: reporter
    login_password_variable: REPORTER_PASSWORD
    rejection_days: 7
"""

RETURN = r"""
server:
  description: The server, its version, whether it is a standby, its clock and the time zone of its sessions.
  returned: success
  type: dict
  sample:
    service: postgres-audit
    version: 150018
    in_recovery: false
    now: '2026-11-26T03:12:44.120000Z'
    time_zone: Etc/UTC
    user: postgres
now:
  description: The moment for which everything was judged.
  returned: success
  type: str
  sample: '2026-11-26T03:12:44.120000Z'
days_left:
  description: For how many days each of the tables has partitions from RV(now) on without a hole. V(0) if one could not be read.
  returned: success
  type: float
  sample: 400.87
tables:
  description: What was read of each table, in the order of O(tables).
  returned: success
  type: list
  elements: dict
  contains:
    schema:
      description: Its schema.
      type: str
      sample: audit
    table:
      description: Its name.
      type: str
      sample: audit_events
    readable:
      description: Whether it could be read and judged. If not, RV(findings) says why.
      type: bool
      sample: true
    covered_from:
      description: The beginning of its first partition. V(null) if that has none, or if there is no partition.
      type: str
      sample: '2025-01-01T00:00:00Z'
    covered_until:
      description: The first moment from RV(now) on without a partition. V(null) if there is none.
      type: str
      sample: '2028-01-01T00:00:00Z'
    wanted_until:
      description: Until when O(months_ahead) wants partitions.
      type: str
      sample: '2027-06-01T00:00:00Z'
    days_left:
      description: The days until C(covered_until).
      type: float
      sample: 400.87
    gaps:
      description:
        - The times without a partition. A default partition does not count, nor does one whose detach was begun.
        - C(trailing) tells that no partition comes after it.
      type: list
      elements: dict
      sample:
        - lower: '2027-03-01T00:00:00Z'
          upper: '2027-04-01T00:00:00Z'
          months: ['2027-03']
          trailing: false
    default_rows:
      description: Rows in the default partition. V(null) if there is no default partition.
      type: int
      sample: 0
    bytes:
      description: The size of all partitions with indexes and TOAST.
      type: int
      sample: 884736
    partitions:
      description: Each partition, the oldest first, the default partition last. C(rows) is an estimate.
      type: list
      elements: dict
      sample:
        - schema: audit
          name: audit_events_2025_01
          kind: table
          lower: '2025-01-01T00:00:00Z'
          upper: '2025-02-01T00:00:00Z'
          bound: "FOR VALUES FROM ('2025-01-01 00:00:00+00') TO ('2025-02-01 00:00:00+00')"
          default: false
          detach_pending: false
          bytes: 24576
          rows: 0
plan:
  description: What M(dghs.bd_fhir.audit_partition) with its defaults would do, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - action: create
      schema: audit
      table: audit_events
      partition: audit_events_2027_03
      lower: '2027-03-01T00:00:00Z'
      upper: '2027-04-01T00:00:00Z'
      why: there is no partition for 2027-03-01 00:00:00 UTC to 2027-04-01 00:00:00 UTC
rejection_rates:
  description:
    - How many events of each client were rejected in the last O(rejection_days) days, the worst first. Empty with V(0) days.
    - C(client_id) is V(null) for events without a client, which C(client) names V(unknown).
    - C(enough) tells whether there were O(rejection_minimum) of them.
  returned: success
  type: list
  elements: dict
  sample:
    - client_id: vendor-7
      client: vendor-7
      events: 1204
      rejected: 187
      percent: 15.5
      enough: true
findings:
  description:
    - What is wrong, each with C(id), C(severity), C(object), C(expected), C(found) and C(hint), which says what
      M(dghs.bd_fhir.audit_partition) does about it.
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample:
    - id: gap
      severity: error
      object: audit.audit_events
      expected: a partition for every month
      found: none for 2027-03-01 00:00:00 UTC to 2027-04-01 00:00:00 UTC (2027-03)
      hint: audit_partition creates audit_events_2027_03.
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, finding, summary
from ..module_utils._partition_catalog import (
    CANCELLED,
    PARTITION_ARGUMENTS,
    CatalogError,
    iso,
    judge_maintenance,
    look,
    moment_of,
    read_server,
    rejection_rates,
    settings_of,
    step_report,
    table_report,
)
from ..module_utils._partitions import PartitionError
from ..module_utils._postgres import LOGIN_ARGUMENTS, STATEMENT_TIMEOUT, PostgresError, Session, connect, container_of, login_to

# Seconds; somebody who holds a lock on a partition must not keep a check waiting.
LOCK_TIMEOUT = 10


def check_options(params: dict[str, Any]) -> None:
    """Raise PartitionError for options that the argument spec can't refuse. Pure."""
    ranges = (("rejection_days", 0, 36500), ("rejection_minimum", 0, 1 << 31), ("rejection_percent", 0, 100), ("max_size", 0, 1 << 62))
    for name, least, most in ranges:
        if not least <= params[name] <= most:
            raise PartitionError("%s is %s. It takes %d to %d." % (name, params[name], least, most))


def rejected(session: Session, params: dict[str, Any], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rejection rates, and put into the findings what they say. Raises PostgresError when the session is lost."""
    if not params["rejection_days"]:
        return []
    table = "%s.%s" % (params["schema"], params["rejection_table"])
    try:
        rates = rejection_rates(session, params["schema"], params["rejection_table"], params["rejection_days"], params["rejection_minimum"])
    except PostgresError as exc:
        if exc.kind == "lost":
            raise
        hint = "GRANT SELECT on it to this user, or correct rejection_table."
        if exc.sqlstate == CANCELLED:
            hint = (
                "To count %d days took longer than %d seconds. An index ON (event_time) INCLUDE (client_id, outcome), made CONCURRENTLY on each"
                " partition of these days and then on the table, spares reading whole months. Or count fewer days: rejection_days, in assess"
                " bd_fhir_rejection_days."
                % (params["rejection_days"], STATEMENT_TIMEOUT)
            )
        found.append(
            finding(
                "rejections_unreadable", "error", table, "a table with event_time, client_id and outcome that can be read", str(exc),
                "The rates of rejection are not known. %s" % hint,
            )
        )  # fmt: skip
        return []
    for row in rates:
        if row["enough"] and row["percent"] >= params["rejection_percent"] and row["rejected"]:
            found.append(
                finding(
                    "rejection_rate_high", "warning", "%s, client %s" % (table, row["client"]),
                    "fewer than %g %% rejected" % params["rejection_percent"],
                    "%g %%, %d of %d events in %d days" % (row["percent"], row["rejected"], row["events"], params["rejection_days"]),
                    "Tell the vendor; fhir_rejected_submissions tells what was wrong with each of them.",
                )
            )  # fmt: skip
    return rates


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read and judge everything. Raises what main() knows."""
    params = module.params
    settings = settings_of(params, max_bytes=params["max_size"], retention=params["retention"])
    moment = moment_of(params["now"])
    check_options(params)
    docker = Docker.from_module(module)
    login = login_to(docker, container_of(docker, params["service"]), params, params["database"])
    with connect(login) as session:
        session.execute("SET default_transaction_read_only = on")
        session.execute("SET lock_timeout = '%ds'" % LOCK_TIMEOUT)
        server = read_server(session)
        now = moment or server.now
        reports = [look(session, server, params["schema"], table, settings, now) for table in params["tables"]]
        found = [item for report in reports for item in report.findings]
        if server.in_recovery:
            found.append(
                finding(
                    "server_is_standby", "warning", params["service"], "the primary", "a standby, which follows it",
                    "What is seen here may be late. audit_partition needs the primary.",
                )
            )  # fmt: skip
        more, steps = judge_maintenance(session, params["schema"], reports, settings)
        rates = rejected(session, params, found)
    return {
        "changed": False,
        "server": {
            "service": params["service"], "version": server.version, "in_recovery": server.in_recovery, "now": iso(server.now),
            "time_zone": server.time_zone, "user": server.user,
        },
        "now": iso(now),
        "days_left": min((round(report.coverage.days_left, 2) if report.coverage else 0.0) for report in reports),
        "tables": [table_report(report) for report in reports],
        "plan": [step_report(step) for step in [step for report in reports for step in report.plan] + steps],
        "rejection_rates": rates,
        "findings": found + more,
    }  # fmt: skip


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **COMPOSE_ARGUMENTS,
            **PARTITION_ARGUMENTS,
            **LOGIN_ARGUMENTS,
            **FINDINGS_OPTIONS,
            "max_size": {"type": "bytes", "default": "10GB"},
            "retention": {"type": "bool", "default": False},
            "rejection_days": {"type": "int", "default": 0},
            "rejection_table": {"type": "str", "default": "audit_events"},
            "rejection_minimum": {"type": "int", "default": 20},
            "rejection_percent": {"type": "float", "default": 10},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (CatalogError, ComposeError, PartitionError, PostgresError) as exc:
        module.fail_json(msg=str(exc))
    failed = failed_on(result["findings"], module.params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
