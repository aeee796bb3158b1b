#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_partition
short_description: Give the audit tables a partition for every month, now and ahead
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Creates what is missing from tables that are partitioned by month, anywhere between their first partition and O(months_ahead) months
    from now, and puts right what M(dghs.bd_fhir.audit_partition_info) finds.
  - Finishes a detach that was broken off, attaches detached tables whose month would be missing, moves rows out of the default partition
    into their month, and makes partitions like their table in owner, grants, replica identity and comment.
  - Partitions are attached, so that nobody who reads or writes has to wait for it. Only where there is a default partition, writers wait for
    the moment in which a month is taken out of it. No lock is waited for longer than O(lock_timeout_seconds), because whoever comes later
    waits behind that.
  - One table that can't be put right never stops another. The module then does all the others and fails at its end.
  - Never drops, detaches or deletes anything.
extends_documentation_fragment:
  - dghs.bd_fhir.audit_partitions
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.change
attributes:
  check_mode:
    support: full
    details:
      - RV(plan) is then what a real run does. Every refusal comes as in a real run.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  login_user:
    description:
      - User to log in with, a superuser, or a member of the role that owns the tables. That role has to have C(CREATE) on the schema.
  state:
    description:
      - V(present) sees to it that every month has its partition. To archive and drop old ones there is another module.
    type: str
    choices:
      - present
    default: present
  attach_detached:
    description:
      - Whether a table that is no longer attached becomes a partition again where its month would have none.
      - It must have the columns and constraints of the table, and rows of its month only.
    type: bool
    default: true
  move_default_rows:
    description:
      - Whether rows of the default partition are moved into the partition of their month, which is made for them.
        That is one transaction a month, in which they are counted before and after. Who writes waits for as long as it takes, see O(move_limit).
      - No month can be made whose rows lie in the default partition. With V(false) it stays missing.
    type: bool
    default: true
  move_limit:
    description:
      - How many rows of one month are moved at most. They are counted before anything is locked. More stay where they are, their month stays
        missing, and the finding C(default_rows) says how many there are; the module then does all else and fails at its end.
      - A step that would have writers wait for more than 30 seconds is given up as a whole, whatever the number of rows.
      - V(0) is for a quiet hour. There is no bound then, neither of rows nor of time.
    type: int
    default: 100000
  repair:
    description:
      - Whether owner, grants, replica identity and a missing comment of partitions are made the same as those of their table.
    type: bool
    default: true
  replace_function:
    description:
      - Whether O(maintenance_function) is put in a better one's place where it is wrong or missing.
      - The new one creates the months of O(time_zone) whatever the session's zone, leaves alone what is there, and belongs to the owner of
        the tables, with whose rights it works. Who may call it stays.
    type: bool
    default: false
  lock_timeout_seconds:
    description:
      - For how long a lock is waited for at a time.
    type: float
    default: 3
  lock_tries:
    description:
      - How many times a step is tried while others hold a lock that it needs.
    type: int
    default: 10
seealso:
  - module: dghs.bd_fhir.audit_partition_info
"""

EXAMPLES = r"""
- name: Every month for half a year has its partition
  dghs.bd_fhir.audit_partition:
    project_dir: /opt/bd-fhir-national
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD

- name: Another table, whose months begin in Dhaka
  dghs.bd_fhir.audit_partition:
    project_dir: /opt/bd-fhir-national
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD
    schema: reporting
    tables:
      - deliveries
    time_zone: Asia/Dhaka
    maintenance_function: ''

- name: In a quiet hour, move all rows of the default partition, however many there are
  dghs.bd_fhir.audit_partition:
    project_dir: /opt/bd-fhir-national
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD
    move_limit: 0

- name: Put a right function in the place of the site's own
  dghs.bd_fhir.audit_partition:
    project_dir: /opt/bd-fhir-national
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD
    replace_function: true
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
        - V(create), V(attach), V(move_default_rows), V(finalize_detach), V(set_owner), V(set_grants), V(set_replica_identity), V(set_comment)
          or V(replace_function).
      type: str
      sample: create
    schema:
      description: Schema of the table.
      type: str
      sample: audit
    table:
      description: The table. Empty for the function.
      type: str
      sample: audit_events
    partition:
      description: The partition, or the function.
      type: str
      sample: audit_events_2027_03
    lower:
      description: Where it begins.
      type: str
      sample: '2027-03-01T00:00:00Z'
    upper:
      description: Where the next one begins.
      type: str
      sample: '2027-04-01T00:00:00Z'
    why:
      description: Why it is needed.
      type: str
      sample: there is no partition for 2027-03-01 00:00:00 UTC to 2027-04-01 00:00:00 UTC
rows_moved:
  description: How many rows were moved out of default partitions. V(0) in check mode.
  returned: success, and on failure
  type: int
  sample: 0
tables:
  description: Each table in the order of O(tables). In check mode as predicted.
  returned: success, and on failure
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
    error:
      description: Why it could not be put right. Empty if it was.
      type: str
      sample: ''
    before:
      description: How far its partitions reached, as RV(dghs.bd_fhir.audit_partition_info#module:tables) tells it.
      type: dict
      sample:
        covered_from: '2025-01-01T00:00:00Z'
        covered_until: '2027-03-01T00:00:00Z'
        days_left: 94.87
        gaps:
          - lower: '2027-03-01T00:00:00Z'
            upper: '2027-04-01T00:00:00Z'
            months: ['2027-03']
            trailing: false
        default_rows: 0
        partitions: 35
    after:
      description: How far they reach now.
      type: dict
      sample:
        covered_from: '2025-01-01T00:00:00Z'
        covered_until: '2028-01-01T00:00:00Z'
        days_left: 400.87
        gaps: []
        default_rows: 0
        partitions: 36
findings:
  description: What is still to be said, as M(dghs.bd_fhir.audit_partition_info) tells it. In check mode as predicted.
  returned: success, and on failure
  type: list
  elements: dict
  sample: []
"""

from datetime import datetime
from functools import partial
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._partition_catalog import (
    DEFAULT_LOCK_TIMEOUT,
    DEFAULT_LOCK_TRIES,
    PARTITION_ARGUMENTS,
    READ_LOCK_TIMEOUT,
    READ_TIMEOUT,
    CatalogError,
    Reading,
    TableReport,
    attempt,
    bounds_text,
    converge,
    denied,
    judge,
    judge_maintenance,
    look,
    moment_of,
    predicted,
    read_server,
    settings_of,
    step_report,
    table_report,
)
from ..module_utils._partitions import MOVE_LIMIT, PartitionError, Server, Settings, Step, unusable
from ..module_utils._postgres import LOGIN_ARGUMENTS, PostgresError, Session, connect, container_of, login_to


# What must not be left of a table, or rows are or will be refused or lie in the wrong place. Others are told and no failure.
UNSETTLED = (
    "default_rows",
    "default_unreadable",
    "detach_pending",
    "partition_detached",
    "coverage_gap",
    "horizon_short",
    "name_taken",
    "partition_overlap",
    "sub_partitions",
    "zone_disagrees",
)


def unsettled(report: TableReport, settings: Settings) -> list[str]:
    """Return in words why a table is not as it has to be. Pure."""
    if report.parent is None:
        return [report.error]
    problem = unusable(report.parent)
    if problem is not None:
        return ["it is %s, and %s is needed. %s" % (problem["found"], problem["expected"], problem["hint"])]
    waived = set()
    if not settings.move_default_rows:
        waived.add("default_rows")
    if report.coverage and not any(gap.trailing for gap in report.coverage.gaps):
        # All that was asked for is there. That it is less than alarm_days is told.
        waived.add("horizon_short")
    return [
        "%s, %s: %s. %s" % (item["id"], item["object"], item["found"], item["hint"])
        for item in report.findings
        if item["severity"] == "error" and item["id"] in UNSETTLED and item["id"] not in waived
    ]


def reach(report: TableReport) -> dict[str, Any]:
    """Return the part of a table that before and after tell. Pure."""
    found = table_report(report)
    kept = {name: found[name] for name in ("covered_from", "covered_until", "days_left", "gaps", "default_rows")}
    return {**kept, "partitions": len(found["partitions"])}


class Upkeep:
    """One call of the module."""

    def __init__(self, module: AnsibleModule, result: dict[str, Any]) -> None:
        params = module.params
        self.module = module
        self.params = params
        self.result = result
        names = ("attach_detached", "move_default_rows", "move_limit", "replace_function", "repair")
        self.settings = settings_of(params, **{name: params[name] for name in names})
        self.moment = moment_of(params["now"])
        if not 0.05 <= params["lock_timeout_seconds"] <= 3600:
            raise PartitionError("lock_timeout_seconds is %g. It takes 0.05 to 3600." % params["lock_timeout_seconds"])
        if not 1 <= params["lock_tries"] <= 1000:
            raise PartitionError("lock_tries is %d. It takes 1 to 1000." % params["lock_tries"])
        docker = Docker.from_module(module)
        self.guard = ChangeGuard.for_docker(module, docker)
        self.login = login_to(docker, container_of(docker, params["service"]), params, params["database"])
        self.errors: dict[str, list[str]] = {}

    def run(self) -> None:
        """Converge everything, or as much as can be. Raises what main() knows."""
        with connect(self.login, READ_TIMEOUT) as session, self.guard.kept():
            session.execute("SET lock_timeout = '%ds'" % READ_LOCK_TIMEOUT)
            server = read_server(session)
            if server.in_recovery:
                raise CatalogError(
                    "Nothing was changed: the server of %s is a standby, which follows another one. Name the service of the primary."
                    % self.params["service"]
                )
            now = self.moment or server.now
            reports = [look(session, server, self.params["schema"], table, self.settings, now) for table in self.params["tables"]]
            before = {report.name: reach(report) for report in reports}
            text = "".join(bounds_text(report) for report in reports)
            steps = judge_maintenance(session, self.params["schema"], reports, self.settings)[1]
            if any(report.plan for report in reports) or steps:
                self.guard.verify()
            after = [self.table(session, server, report, now) for report in reports]
            found = self.function(session, server, after, steps)
        self.result["tables"] = [
            {
                "schema": report.schema,
                "table": report.name,
                "error": " ".join(self.errors.get(report.name, [])),
                "before": before[report.name],
                "after": reach(report),
            }
            for report in after
        ]
        self.result["changed"] = bool(self.result["plan"])
        self.result["findings"] = [item for report in after for item in report.findings] + found
        definition = "".join("%s.%s(): %s\n" % (step.schema, step.partition, step.why) for step in steps)
        done = "".join("%s.%s(): right\n" % (step.schema, step.partition) for step in steps)
        self.result["diff"] = {"before": text + definition, "after": "".join(bounds_text(report) for report in after) + done}
        if self.errors:
            raise CatalogError(self.summary())

    def summary(self) -> str:
        """Say what could not be put right, and what was."""
        words = ["%s.%s: %s" % (self.params["schema"], name, " ".join(texts).rstrip(".")) for name, texts in self.errors.items()]
        count = len(self.result["plan"])
        would = "would be" if self.module.check_mode else "were"
        steps = "Nothing %s changed" % would.replace("were", "was") if not count else "%d steps %s carried out, see plan" % (count, would)
        others = [name for name in self.params["tables"] if name not in self.errors]
        well = "; %s is as it should be" % ", ".join(others) if others else ""
        return "%s. %s%s." % (". ".join(words), steps, well)

    # -- one table

    def table(self, session: Session, server: Server, report: TableReport, now: datetime) -> TableReport:
        """Converge one table, and return what it is like afterwards. Raises ChangeError, and PostgresError when the session is lost."""
        if report.parent is not None and report.plan:
            why = denied(session, server, report.parent, report.plan)
            if why:
                self.errors[report.name] = [why]
                return report
        if self.module.check_mode:
            after = report
            if report.parent is not None and report.plan:
                self.result["plan"] += [step_report(step) for step in report.plan]
                after = TableReport(report.schema, report.name)
                judge(after, Reading(predicted(report.parent, report.plan), report.unseen), server, self.settings, now)
        else:
            after, texts = converge(session, server, report, self.settings, now, partial(self.carry_out, session))
            if texts:
                self.errors[report.name] = texts
        left = unsettled(after, self.settings)
        if left:
            self.errors.setdefault(report.name, []).extend(left)
        return after

    def carry_out(self, session: Session, step: Step) -> Optional[PostgresError]:
        """Carry out one step; return the error that it ended with. Raises ChangeError, and PostgresError when the session is lost."""
        bounds = None if step.lower is None and step.upper is None else {"from": str(step.lower), "to": str(step.upper)}
        self.guard.step(step.action, "%s.%s" % (step.partition_schema or step.schema, step.partition), step.why, bounds)
        moved, told = attempt(session, step, self.params["lock_timeout_seconds"], self.params["lock_tries"])
        if told is None:
            self.result["rows_moved"] += moved
            self.result["plan"].append(step_report(step))
        return told

    # -- the site's own function

    def function(self, session: Session, server: Server, reports: list[TableReport], steps: list[Step]) -> list[dict[str, Any]]:
        """Replace the site's own function where that was planned, and return what is to be said of it."""
        for step in steps:
            why = ""
            owned = [report for report in reports if report.parent is not None and unusable(report.parent) is None]
            if owned and owned[0].parent is not None:
                why = denied(session, server, owned[0].parent, [step])
            if why:
                self.errors[step.partition + "()"] = [why]
            elif self.module.check_mode:
                self.result["plan"].append(step_report(step))
                return []
            else:
                told = self.carry_out(session, step)
                if told:
                    self.errors[step.partition + "()"] = [str(told)]
        return judge_maintenance(session, self.params["schema"], reports, self.settings)[0]


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            **PARTITION_ARGUMENTS,
            state={"type": "str", "choices": ["present"], "default": "present"},
            attach_detached={"type": "bool", "default": True},
            move_default_rows={"type": "bool", "default": True},
            move_limit={"type": "int", "default": MOVE_LIMIT},
            repair={"type": "bool", "default": True},
            replace_function={"type": "bool", "default": False},
            lock_timeout_seconds={"type": "float", "default": DEFAULT_LOCK_TIMEOUT},
            lock_tries={"type": "int", "default": DEFAULT_LOCK_TRIES},
            **LOGIN_ARGUMENTS,
            **CHANGE_ARGUMENTS,
        ),
        supports_check_mode=True,
    )
    result: dict[str, Any] = {"changed": False, "plan": [], "rows_moved": 0, "tables": [], "findings": []}
    try:
        Upkeep(module, result).run()
    except (CatalogError, ChangeError, ComposeError, PartitionError, PostgresError) as exc:
        # A lost session, or a lease that another play took, ends it in the middle.
        result["changed"] = bool(result["plan"]) and not module.check_mode or result["changed"]
        module.fail_json(msg=str(exc), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
