# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daily upkeep of the audit partitions: it makes months ahead, checks by time, and tells what it found.

What it has in common with other jobs is in _job.py.
"""

from __future__ import annotations

# Not a part of a module: there is no run_command here, and what is said goes to the standard output.
# pylint: disable=ansible-bad-function

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar, Optional

from ._change import ChangeError
from ._compose import ComposeError
from ._cron import field_values, next_time
from ._findings import finding
from ._job import (
    OK,
    BLIND,
    SEARCH,
    TOKEN_VARIABLE,
    UNUSABLE,
    Changes,
    Job,
    JobConfig,
    JobError,
    JobOutcome,
    Log,
    Samples,
    add_cron_check,
    add_run,
    alone,
    check_cron,
    finding_counts,
    finding_lines,
    label,
    login_of,
    where_of,
)
from ._job import parse_config as parse_job_config
from ._job import read_config as read_job_config
from ._partition_catalog import (
    CALLERS,
    READ_LOCK_TIMEOUT,
    READ_TIMEOUT,
    CatalogError,
    TableReport,
    attempt,
    converge,
    denied,
    iso,
    judge_maintenance,
    look,
    moment_of,
    read_server,
    settings_of,
    step_report,
    transaction,
)
from ._partitions import MOVE_LIMIT, PartitionError, Server, Settings, Step
from ._partitions import _MARK as MARK
from ._postgres import PostgresError, Session, connect

METRICS = (
    ("days_left", "For how many days the table has partitions from now on without a hole."),
    ("default_rows", "Rows in the default partition."),
    ("bytes", "Size of all partitions with indexes and TOAST."),
)


# --- configuration -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config(JobConfig):
    """What the configuration file says."""

    # Nobody is there at night who could consent to a move without a bound.
    LEAST: ClassVar[tuple[tuple[str, float], ...]] = (
        ("lock_timeout_seconds", 0.05), ("lock_tries", 1), ("move_limit", 1), *JobConfig.LEAST, ("max_bytes", 0),
    )  # fmt: skip

    service: str = "postgres-audit"
    database: str = "auditdb"
    schema: str = "audit"
    tables: tuple[str, ...] = ("audit_events", "fhir_rejected_submissions")
    months_ahead: int = 6
    time_zone: str = "UTC"
    alarm_days: float = 45.0
    maintenance_function: str = "create_next_month_partitions"
    attach_detached: bool = True
    move_default_rows: bool = True
    move_limit: int = MOVE_LIMIT
    repair: bool = True
    lock_timeout_seconds: float = 3.0
    lock_tries: int = 10
    max_bytes: int = 10 << 30

    def settings(self) -> Settings:
        """Return what the planner wants. Raises PartitionError."""
        params = {name: getattr(self, name) for name in ("months_ahead", "time_zone", "alarm_days", "maintenance_function")}
        more = {name: getattr(self, name) for name in ("attach_detached", "move_default_rows", "move_limit", "repair", "max_bytes")}
        return settings_of({**params, "tables": list(self.tables)}, **more)

    def check(self) -> None:
        """Raise JobError for what the types don't tell."""
        super().check()
        try:
            self.settings()
        except PartitionError as exc:
            raise JobError("The configuration can't be used: %s" % exc) from None


def parse_config(text: str) -> Config:
    """Return the configuration. Pure. Raises JobError."""
    return parse_job_config(Config, text)


def read_config(path: str) -> Config:
    """Return the configuration of a file. Raises JobError."""
    return read_job_config(Config, path)


def write_step(changes: Changes, step: Step) -> None:
    """Write down a step right before it is made. Raises ChangeError, also when somebody has the deployment by now."""
    bounds = None if step.lower is None and step.upper is None else {"from": iso(step.lower), "to": iso(step.upper)}
    changes.step("audit_partitions_job", step.action, "%s.%s" % (step.partition_schema or step.schema, step.partition), step.why, bounds)


# --- one run -------------------------------------------------------------------------------------------------------


@dataclass
class Outcome(JobOutcome):
    """What a run has done and found."""

    rows_moved: int = 0

    @property
    def days_left(self) -> Optional[float]:
        """Return for how many days every table has partitions; None when that is not known."""
        return min((days_of(report) for report in self.reports), default=None) if self.up else None


def days_of(report: TableReport) -> float:
    """Return the days for which a table has partitions; 0 for one that is not by month. Pure."""
    return round(report.coverage.days_left, 2) if report.coverage else 0.0


def work(config: Config, outcome: Outcome, changes: Optional[Changes] = None, moment: Optional[datetime] = None) -> None:
    """Look at everything, and with changes put right what can be. What goes wrong becomes a finding."""
    settings = config.settings()
    try:
        with connect(login_of(config), READ_TIMEOUT) as session:
            session.execute("SET lock_timeout = '%ds'" % READ_LOCK_TIMEOUT)
            if changes is None:
                session.execute("SET default_transaction_read_only = on")
            server = read_server(session)
            now = moment or server.now
            reports = [look(session, server, config.schema, table, settings, now) for table in config.tables]
            if server.in_recovery:
                outcome.add(
                    finding(
                        "server_is_standby", "error", where_of(config), "the primary", "a standby, which follows it",
                        "Nothing can be created here. Name the service of the primary in bd_fhir_sides, and run maintain_audit_partitions.",
                    )
                )  # fmt: skip
            elif changes is not None:
                reports = [upkeep(session, server, report, config, settings, now, changes, outcome) for report in reports]
            found = judge_maintenance(session, config.schema, reports, settings)[0]
        outcome.reports = reports
        outcome.findings += [item for report in reports for item in report.findings] + found
        outcome.up = all(report.parent is not None for report in reports)
    except (CatalogError, ComposeError, PartitionError, PostgresError) as exc:
        outcome.up = False
        outcome.add(
            finding(
                "audit_unreachable", "error", where_of(config), "a server that can be asked", str(exc),
                "Nothing is known of the partitions as long as this lasts. Once it is mended, run the job by hand to see that it works.",
            )
        )  # fmt: skip


def upkeep(
    session: Session, server: Server, report: TableReport, config: Config, settings: Settings, now: datetime, changes: Changes, outcome: Outcome
) -> TableReport:
    """Carry out the plan of one table, and return what it is like afterwards. Raises PostgresError when the session is lost."""
    if report.parent is None or not report.plan:
        return report
    why = denied(session, server, report.parent, report.plan)
    texts = [why] if why else []

    def carry_out(step: Step) -> Optional[PostgresError]:
        write_step(changes, step)
        moved, told = attempt(session, step, config.lock_timeout_seconds, config.lock_tries)
        if told is None:
            outcome.steps.append(step_report(step))
            outcome.rows_moved += moved
        return told

    if not why:
        try:
            report, texts = converge(session, server, report, settings, now, carry_out)
        except ChangeError as exc:
            # Nothing more is changed, and the check goes on.
            report, texts = look(session, server, report.schema, report.name, settings, now), [str(exc)]
    if texts:
        outcome.add(
            finding(
                "upkeep_failed", "error", report.full_name, "partitions that can be put right", " ".join(texts),
                "What it says stood in the way. The next run tries again; maintain_audit_partitions does so at once.",
            )
        )  # fmt: skip
    return report


# --- telling -------------------------------------------------------------------------------------------------------


def samples_of(outcome: Outcome) -> Samples:
    """Return the figures of each table that could be read. Pure."""
    samples: Samples = {}
    for report in outcome.reports:
        if report.parent is None:
            continue
        figures = {
            "days_left": days_of(report),
            "default_rows": report.parent.default_rows,
            "bytes": sum(item.bytes for item in report.parent.partitions),
        }
        unread = any(item["id"] == "default_unreadable" for item in report.findings)
        for name, figure in figures.items():
            if figure is not None and not (name == "default_rows" and unread):
                samples.setdefault(name, []).append((label(schema=report.schema, table=report.name), float(figure)))
    return samples


def as_json(config: Config, outcome: Outcome) -> dict[str, Any]:
    """Return a run for programs. Pure but for the host's name."""
    return {
        "host": socket.gethostname(),
        "server": where_of(config),
        "exit_code": outcome.exit_code,
        "up": outcome.up,
        "days_left": outcome.days_left,
        "tables": [
            {
                "schema": report.schema,
                "table": report.name,
                "readable": report.parent is not None,
                "days_left": days_of(report),
                "covered_until": iso(report.coverage.covered_until) if report.coverage else None,
                "default_rows": report.parent.default_rows if report.parent else None,
                "plan": [step_report(step) for step in report.plan],
            }
            for report in outcome.reports
        ],
        "steps": outcome.steps,
        "rows_moved": outcome.rows_moved,
        "findings": outcome.findings,
    }


def as_lines(outcome: Outcome, what: str) -> list[str]:
    """Return a run for people, its verdict first. Pure."""
    days = "unknown" if outcome.days_left is None else "%g" % outcome.days_left
    numbers = (what, outcome.exit_code, days, len(outcome.steps), finding_counts(outcome))
    lines = ["%s: exit code %d, days left %s, %d changes, findings: %s" % numbers]
    for report in outcome.reports:
        until = (iso(report.coverage.covered_until) or "the end of time") if report.coverage else "unknown"
        lines.append("%s: %g days left, partitions until %s" % (report.full_name, days_of(report), until))
    lines += ["done: %(action)s %(schema)s.%(partition)s (%(why)s)" % step for step in outcome.steps]
    return lines + finding_lines(outcome)


class AuditJob(Job[Config, Outcome]):
    """The job, as _job.py runs it."""

    name = "audit"
    program = "bd-fhir-audit"
    prefix = "bd_fhir_audit_partition_"
    metrics = METRICS
    outcome_type = Outcome
    verb = "maintain_audit_partitions"
    looker = "audit_partition_info"
    folder = "audit_partitions_textfile_dir"
    done = "Months are created"
    postponed_hint = "Nothing was created this time, only checked. The next run does it."

    def work(self, config: Config, outcome: Outcome, changes: Optional[Changes]) -> None:
        """Look at everything, and with changes put right what can be."""
        work(config, outcome, changes)

    def samples(self, outcome: Outcome) -> Samples:
        """Return the figures of each table."""
        return samples_of(outcome)

    def as_json(self, config: Config, outcome: Outcome) -> dict[str, Any]:
        """Return a run for programs."""
        return as_json(config, outcome)

    def as_lines(self, outcome: Outcome, what: str) -> list[str]:
        """Return a run for people."""
        return as_lines(outcome, what)


JOB = AuditJob()


def metrics_text(outcome: Outcome, before: Mapping[str, float], now: float, scheduled: bool) -> str:
    """Return the metrics of a run in Prometheus' text format. before: those of the former run. Pure."""
    return JOB.metrics_text(outcome, before, now, scheduled)


def parse_metrics(text: str) -> dict[str, float]:
    """Return the metrics without labels of a file of ours, by their name without the prefix. Pure."""
    return JOB.parse_metrics(text)


# --- commands ------------------------------------------------------------------------------------------------------


def run(config: Config, log: Log, scheduled: bool = False, token: str = "", print_json: bool = False) -> int:
    """Put right and check, and tell it in every way; return the exit code."""
    return JOB.run(config, log, scheduled, token, print_json)


def check(config: Config, moment: Optional[datetime], print_json: bool) -> int:
    """Only look, and print it; return the exit code."""
    outcome = Outcome()
    work(config, outcome, None, moment)
    if print_json:
        print(json.dumps(as_json(config, outcome)))
    else:
        print("\n".join(as_lines(outcome, "check")))
        for report in outcome.reports:
            for step in report.plan:
                print("a run would: %s %s.%s" % (step.action, step.partition_schema or step.schema, step.partition))
    return outcome.exit_code


def loop(config_path: str, minute: str, hour: str, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> int:
    """Run at once, and then each day at this time of UTC, until somebody ends it."""
    for text, low, high in ((minute, 0, 59), (hour, 0, 23)):
        try:
            field_values(text, low, high)
        except ValueError as exc:
            raise JobError("The time can't be used: %s." % exc) from None

    def end(_number: int, _frame: Any) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        # Read anew each time: the role may have changed it.
        log = Log()
        try:
            run(read_config(config_path), log, scheduled=True)
        except JobError as exc:
            log.write([str(exc)])
        due = next_time(minute, hour, now())
        while (left := (due - now()).total_seconds()) > 0:
            time.sleep(min(left, 60.0))


# --- the site's own function, before it is replaced ----------------------------------------------------------------

FUNCTION = """
SELECT pg_catalog.pg_get_functiondef(p.oid) AS definition, pg_catalog.pg_get_userbyid(p.proowner)::text AS owner
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = %s AND p.proname = %s AND p.pronargs = 0 AND p.prokind IN ('f', 'p')
"""


def function_of(session: Session, schema: str, name: str) -> dict[str, Any]:
    """Return a function with its owner and callers, as restore_function() takes it; its definition is '' when there is none."""
    # Names are then qualified in what the server writes, whatever the role's search_path.
    with transaction(session, READ_LOCK_TIMEOUT):
        rows = session.rows(FUNCTION, (schema, name))
        if not rows:
            return {"schema": schema, "name": name, "definition": "", "owner": "", "callers": []}
        callers = [row for row in session.rows(CALLERS, (schema, name)) if row["grantee"] is not None]
    return {
        "schema": schema,
        "name": name,
        "definition": rows[0]["definition"],
        "owner": rows[0]["owner"],
        "callers": [{"grantee": row["grantee"], "grantable": row["grantable"]} for row in callers],
    }


def restore_function(session: Session, memory: Mapping[str, Any], lock_timeout: float) -> str:
    """Put a function back that ours has replaced; return what was done: restored, removed, kept (it is somebody's by now) or unchanged."""
    from psycopg2 import sql

    schema, name = memory["schema"], memory["name"]
    now = function_of(session, schema, name)
    if now["definition"] == memory["definition"]:
        return "unchanged"
    if now["definition"] and MARK not in now["definition"]:
        return "kept"
    ident = sql.Identifier(schema, name)
    with transaction(session, lock_timeout):
        # What it calls need not be there any more, and it may be in another schema.
        session.execute("SELECT pg_catalog.set_config('check_function_bodies', 'off', true)")
        if now["definition"]:
            session.execute(sql.SQL("DROP ROUTINE {}()").format(ident))
        if not memory["definition"]:
            return "removed"
        session.execute(memory["definition"])
        session.execute(sql.SQL("REVOKE ALL ON ROUTINE {}() FROM PUBLIC").format(ident))
        for row in memory["callers"]:
            who = sql.Identifier(row["grantee"]) if row["grantee"] else sql.SQL("PUBLIC")
            option = sql.SQL(" WITH GRANT OPTION" if row["grantable"] and row["grantee"] else "")
            session.execute(sql.SQL("GRANT EXECUTE ON ROUTINE {}() TO {}{}").format(ident, who, option))
        session.execute(sql.SQL("ALTER ROUTINE {}() OWNER TO {}").format(ident, sql.Identifier(memory["owner"])))
    return "restored"


def remember(config: Config) -> int:
    """Print the site's own function as JSON."""
    with connect(login_of(config)) as session:
        print(json.dumps(function_of(session, config.schema, config.maintenance_function)))
    return OK


def retire(config: Config, text: str) -> int:
    """Wait until no run is at work, and put back the function that standard input describes; print what was done."""
    try:
        memory = json.loads(text or "{}")
        if memory and not {"schema", "name", "definition", "owner", "callers"} <= set(memory):
            raise ValueError("a part is missing")
    except (ValueError, TypeError) as exc:
        raise JobError("What the function was before can't be read: %s." % exc) from None
    with alone(config.lease_wait, JOB.program):
        if not memory:
            print("unchanged")
            return OK
        with connect(login_of(config)) as session:
            print(restore_function(session, memory, config.lock_timeout_seconds))
    return OK


def parser_of() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    parser = argparse.ArgumentParser(prog="bd-fhir-audit", description="Upkeep and check of the monthly partitions of the audit tables.")
    parser.add_argument("--config", default="/etc/bd-fhir-audit.json", help="configuration (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    add_run(commands, "create what is missing, check, write the metric, alert on trouble")
    checks = commands.add_parser("check", help="only look")
    checks.add_argument("--now", default="", help="read the clock as if it were then, as 2027-12-20T00:00:00Z")
    checks.add_argument("--json", action="store_true", help="print it as JSON")
    add_cron_check(commands)
    commands.add_parser("check-config", help="say whether the configuration can be used")
    loops = commands.add_parser("loop", help="run now and then daily, for a container")
    loops.add_argument("--minute", required=True)
    loops.add_argument("--hour", required=True, help="of UTC")
    commands.add_parser("remember-function", help="print the site's own function as JSON")
    commands.add_parser("retire", help="wait for a run to end, and put back the function that is on standard input")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Do what the command line says, and return the exit code."""
    arguments = parser_of().parse_args(argv)
    os.environ.setdefault("PATH", SEARCH)
    try:
        if arguments.command == "check-cron":
            return check_cron(arguments.file, arguments.content)
        if arguments.command == "loop":
            return loop(arguments.config, arguments.minute, arguments.hour)
        config = read_config(arguments.config)
        if arguments.command == "run":
            return run(config, Log(arguments.log, arguments.json), arguments.scheduled, os.environ.get(TOKEN_VARIABLE, ""), arguments.json)
        if arguments.command == "check":
            return check(config, moment_of(arguments.now), arguments.json)
        if arguments.command == "remember-function":
            return remember(config)
        if arguments.command == "retire":
            return retire(config, sys.stdin.read())
        return OK
    except (JobError, PartitionError) as exc:
        print(exc, file=sys.stderr)
        if arguments.command == "run" and arguments.log:
            Log(arguments.log).write([str(exc)])
        return UNUSABLE
    except (CatalogError, ComposeError, PostgresError) as exc:
        print(exc, file=sys.stderr)
        return BLIND
