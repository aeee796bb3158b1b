# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The watch over HAPI's partitioned tables, every few minutes, by a scheduler on the host.

Each run does both things that can't be left to people:

- a table that waits for its swap refuses ids from a bound on, by a CHECK: that goes when the sequence comes near the bound. It waits for
  no other run and for nobody's change;
- a partitioned table gets more partitions ahead of the sequence. An operator's change is respected; the next run tries again.

What it has in common with other jobs is in _job.py.
"""

from __future__ import annotations

# Not a part of a module: what is said goes to the standard output.
# pylint: disable=ansible-bad-function

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Sequence as Sequenced
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, ClassVar, Optional

from . import _hfj as hfj
from . import _hfj_catalog as catalog
from . import _hfj_sql as hfj_sql
from ._change import ChangeError
from ._compose import ComposeError
from ._cron import field_values
from ._files import replace_file
from ._findings import finding
from ._job import (
    OK,
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
    read_config,
    where_of,
)
from ._postgres import Login, PostgresError, Session, connect

# Seconds; a long transaction on a table must not keep the check of the others waiting.
LOCK_TIMEOUT = 10
# Seconds; sizes of large tables, and the dates of some rows.
READ_TIMEOUT = 300
# Partitions are made long before they are needed: who holds the locks is left alone until the next run.
EXTEND_TRIES = 5
# A plan is made anew after each partition; more rounds would mean that somebody works against us.
ROUNDS = 200
PARTITIONED = ("swapped", "unfinished")
WAITING = ("preparing", "prepared")

METRICS = (
    ("sequence", "No id of a resource beyond this one was given out."),
    ("ids_per_day", "How many ids of resources were given out in a day of the last month."),
    ("state", "In which state the table is: 1 for the one that is named."),
    ("days_left", "For how many days the ids below the end of the last partition last."),
    ("ids_left", "How many ids are left below the end of the last partition."),
    ("last_used_ratio", "Which share of the last partition's ids was given out."),
    ("partitions", "How many partitions the table has."),
    ("partitions_ahead", "How many of them lie wholly ahead of the sequence."),
    ("check_ids_left", "How many ids are left until a table that waits for its swap would refuse rows."),
    ("rows", "How many rows the table has, as the server estimates them."),
    ("bytes", "Size of the table with all partitions, indexes and TOAST."),
)


# --- configuration -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config(JobConfig):
    """What the configuration file says."""

    LEAST: ClassVar[tuple[tuple[str, float], ...]] = (
        *JobConfig.LEAST, ("width", 0), ("ahead", 1), ("alarm_days", 0), ("lock_timeout_seconds", 0.01), ("lock_tries", 1), ("hold_seconds", 0.1),
        ("alert_hours", 0),
    )  # fmt: skip

    service: str = "postgres-fhir"
    database: str = "fhirdb"
    schema: str = "public"
    sequence: str = "seq_resource_id"
    # Empty: all that are partitioned, or on the way to it. What waits for its swap is watched in any case.
    tables: tuple[str, ...] = ()
    width: int = 0  # of new partitions; 0: as wide as the last one
    ahead: int = 2
    alarm_days: float = 60.0
    extend_hours: str = "*"  # of UTC, as cron writes them
    lock_timeout_seconds: float = 0.5
    lock_tries: int = 20
    hold_seconds: float = 5.0
    cancel_autovacuum: bool = True
    # The next run is soon: an operator's change is not waited for.
    lease_wait: float = 0.0
    # For how long the same trouble is not told again, and where it is kept what was told; empty: it is told in each run.
    alert_hours: float = 24.0
    told: str = ""

    def check(self) -> None:
        """Raise JobError for what the types don't tell."""
        super().check()
        if self.ahead > 100:
            raise JobError("ahead is %d in the configuration. It takes 100 or less." % self.ahead)
        try:
            field_values(self.extend_hours, 0, 23)
        except ValueError as exc:
            raise JobError("extend_hours can't be used: %s." % exc) from None

    def extends_at(self, hour: int) -> bool:
        """Tell whether partitions are made in an hour of UTC."""
        return hour in field_values(self.extend_hours, 0, 23)


# --- one run -------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What was seen of a table."""

    table: hfj.Table
    sequence: hfj.Sequence
    plan: list[hfj.Step] = field(default_factory=list)

    @property
    def full_name(self) -> str:
        """Return the name with the schema."""
        return "%s.%s" % (self.table.schema, self.table.name)


@dataclass
class Outcome(JobOutcome):
    """What a run has done and found."""

    sequence: Optional[hfj.Sequence] = None
    # Who is changing the deployment, where that is somebody else.
    holder: str = ""

    @property
    def days_left(self) -> Optional[float]:
        """Return for how many days the partitions of every table last; None when that is not known, or no table is partitioned."""
        found = [figures(report).get("days_left") for report in self.reports if report.table.state in PARTITIONED]
        known = [days for days in found if days is not None]
        return min(known) if self.up and known and len(known) == len(found) else None


def figures(report: Report) -> dict[str, Optional[float]]:
    """Return what is told of a table, by the names of the metrics; None and missing ones are not known. Pure."""
    table, used, main = report.table, report.sequence.used, report.table.main
    if main is None:
        return {}
    found: dict[str, Optional[float]] = {"bytes": float(main.bytes), "rows": main.rows if main.rows >= 0 else None}
    if table.state in PARTITIONED:
        end = hfj.last_bound(main)
        found["partitions"] = float(len(main.parts))
        found["partitions_ahead"] = float(sum(1 for part in main.parts if part.lower is not None and part.lower > used))
        if end is not None:
            left = hfj.days_until(report.sequence, end)
            found["days_left"] = None if left is None else round(left, 2)
            found["ids_left"] = float(max(0, end - used))
            lower = max(part.lower or 0 for part in main.parts if part.upper == end)
            found["last_used_ratio"] = round(min(1.0, max(0.0, (used - lower) / max(1, end - lower))), 4)
    elif main.check_bound is not None:
        found["check_ids_left"] = float(main.check_bound - used)
    return found


class Run:
    """One run on a session."""

    def __init__(self, config: Config, outcome: Outcome, changes: Optional[Changes], session: Session, login: Login) -> None:
        self.config = config
        self.outcome = outcome
        self.changes = changes
        self.session = session
        self.login = login
        self.postponed = False

    def everything(self, looks_only: bool, watches_only: bool) -> None:
        """Watch, extend and judge. Raises PostgresError when the session is lost, HfjError without HAPI's tables."""
        config, outcome, session = self.config, self.outcome, self.session
        # The server notices within seconds when this job was killed, and ends what it was doing for it.
        session.execute("SET client_connection_check_interval = '5s'")
        session.execute("SET lock_timeout = '%ds'" % LOCK_TIMEOUT)
        if looks_only:
            session.execute("SET default_transaction_read_only = on")
        server = session.rows(catalog.SERVER)[0]
        if server["in_recovery"]:
            # What it says of the sequence is of a moment ago, so nothing is known of what is left now.
            outcome.add(
                finding(
                    "server_is_standby", "error", where_of(config), "the primary", "a standby, which follows it",
                    "Nothing is watched and nothing can be made here. Name the service of the primary, and run partition_hapi_tables.",
                )
            )  # fmt: skip
            return
        # It has to be less than the server's, or a request of HAPI may be chosen to break a deadlock with us.
        timeout = min(config.lock_timeout_seconds, server["deadlock_timeout"] / 2)
        limits = hfj_sql.Limits(timeout, config.lock_tries, config.hold_seconds, config.cancel_autovacuum)
        sequence = outcome.sequence = self.read_sequence(session, True)
        # What waits comes first: each minute may be one in which inserts are refused.
        waiting = catalog.waiting(session, config.schema)
        for name in [] if looks_only else waiting:
            self.watch(name, sequence, limits)
        if watches_only:
            outcome.up = True
            return
        outcome.findings += hfj.judge_server(config.service, hfj.SERVER_VERSION * 10000, False, False, sequence, [], 0)
        limits.tries = min(limits.tries, EXTEND_TRIES)
        unread = 0
        names = config.tables or catalog.candidates(session, config.schema)
        for name in dict.fromkeys([*waiting, *names]):
            try:
                table = catalog.read_table(session, config.schema, name)
                # What nobody has named is of interest once it is partitioned, or on the way to it.
                if name in config.tables or table.state in PARTITIONED + WAITING:
                    self.one(table, sequence, limits, looks_only)
            except PostgresError as exc:
                if exc.kind == "lost":
                    raise
                unread += 1
                outcome.add(
                    finding(
                        "hfj_table_unread", "error", "%s.%s" % (config.schema, name), "a table that can be read", str(exc),
                        "Nothing is known of it as long as this lasts: see who holds a lock on it, and what this user may read.",
                    )
                )  # fmt: skip
        outcome.up = not unread

    def read_sequence(self, session: Session, growth: bool = False) -> hfj.Sequence:
        """Return the sequence of the ids as it is now."""
        return catalog.read_sequence(session, self.config.schema, self.config.sequence, growth)

    def watch(self, name: str, sequence: hfj.Sequence, limits: hfj_sql.Limits) -> None:
        """Drop the CHECK of a table if the sequence comes near its bound. Raises PostgresError when the session is lost."""
        try:
            table = catalog.read_table(self.session, self.config.schema, name)
            for step in hfj.plan_watch(table, sequence):
                # Somebody else's change, or a journal that can't be written, is no reason to let inserts be refused.
                with suppress(ChangeError):
                    self.write_down(table, step)
                self.carry_out(table, step, limits)
                self.outcome.add(
                    finding(
                        "check_dropped", "error", "%s.%s" % (table.schema, name), "a swap before the sequence comes near %d" % step.upper,
                        "ids up to %d were given out, so the CHECK was dropped and nothing is refused" % sequence.used,
                        "It is not prepared any more: run partition_hapi_tables again, which takes another bound, and swap soon.",
                    )
                )  # fmt: skip
        except (PostgresError, hfj.HfjError) as exc:
            self.failed(name, "a CHECK that is dropped in time", exc)

    def one(self, table: hfj.Table, sequence: hfj.Sequence, limits: hfj_sql.Limits, looks_only: bool) -> None:
        """Extend a table if it has to be, and judge it. Raises PostgresError."""
        config = self.config
        if not looks_only and table.state in PARTITIONED:
            table = self.extend(table, sequence, limits)
        plan = self.plan(table, sequence)
        self.outcome.reports.append(Report(table, sequence, [*hfj.plan_watch(table, sequence), *plan]))
        if table.state in ("missing", "foreign", *PARTITIONED):
            # Bounds are of no matter in these states.
            self.outcome.findings += hfj.judge(table, hfj.Bounds(1, 1, 1))
        self.outcome.findings += hfj.judge_sequence(table, sequence, config.alarm_days)

    def plan(self, table: hfj.Table, sequence: hfj.Sequence) -> list[hfj.Step]:
        """Return the partitions that are missing."""
        return hfj.plan_extend(table, sequence, self.config.width, self.config.ahead, self.config.alarm_days)

    def extend(self, table: hfj.Table, sequence: hfj.Sequence, limits: hfj_sql.Limits) -> hfj.Table:
        """Make what partitions are missing, and return the table afterwards. Raises PostgresError."""
        config = self.config
        urgent = bool(hfj.judge_sequence(table, sequence, config.alarm_days))
        if not self.plan(table, sequence) or not (urgent or config.extends_at(datetime.now(timezone.utc).hour)):
            return table
        if self.changes is None:
            self.postpone(self.outcome.holder)
            return table
        try:
            with hfj_sql.alone(self.session, table):
                for _round in range(ROUNDS):
                    table = catalog.read_table(self.session, table.schema, table.name)
                    steps = self.plan(table, sequence)
                    if not steps:
                        return table
                    self.write_down(table, steps[0])
                    self.carry_out(table, steps[0], limits)
            raise hfj.HfjError("%s is changed by somebody else again and again. Find out who." % table.name)
        except ChangeError as exc:
            self.postpone(str(exc))
        except (PostgresError, hfj.HfjError) as exc:
            self.failed(table.name, "partitions ahead of the sequence", exc)
        return catalog.read_table(self.session, table.schema, table.name)

    def postpone(self, holder: str) -> None:
        """Say once that no partition is made for the sake of somebody's change."""
        if not self.postponed:
            JOB.postpone(self.config, self.outcome, holder)
        self.postponed = True

    def write_down(self, table: hfj.Table, step: hfj.Step) -> None:
        """Write a step into the journal. Raises ChangeError."""
        if self.changes is not None:
            bounds = {"lower": step.lower, "upper": step.upper} if step.upper else None
            self.changes.step("hapi_partitioning_job", step.action, "%s.%s" % (table.schema, step.object), table.state, bounds)

    def carry_out(self, table: hfj.Table, step: hfj.Step, limits: hfj_sql.Limits) -> None:
        """Carry out a step and remember it. Raises PostgresError, HfjError."""
        hfj_sql.carry_out(self.session, table, step, self.read_sequence, lambda: connect(self.login, READ_TIMEOUT), limits, hfj_sql.Locking())
        self.outcome.steps.append({"action": step.action, "schema": table.schema, "object": step.object, "why": step.why})

    def failed(self, name: str, wanted: str, exc: Exception) -> None:
        """Say what could not be put right. Raises PostgresError when the session is lost."""
        if isinstance(exc, PostgresError) and exc.kind == "lost":
            raise exc
        self.outcome.add(
            finding(
                "hfj_upkeep_failed", "error", "%s.%s" % (self.config.schema, name), wanted, str(exc),
                "What it says stood in the way. The next run tries again.",
            )
        )  # fmt: skip


def work(config: Config, outcome: Outcome, changes: Optional[Changes], looks_only: bool = False, watches_only: bool = False) -> None:
    """Look at everything, and put right what can be. What goes wrong becomes a finding."""
    try:
        login = login_of(config)
        with connect(login, READ_TIMEOUT) as session:
            Run(config, outcome, changes, session, login).everything(looks_only, watches_only)
    except (ComposeError, PostgresError, hfj.HfjError) as exc:
        outcome.up = False
        outcome.add(
            finding(
                "hfj_unreachable", "error", where_of(config), "a server that can be asked", str(exc),
                "Nothing is watched as long as this lasts, and a table that waits for its swap may come to refuse rows. Once it is mended, run the"
                " job by hand to see that it works.",
            )
        )  # fmt: skip


# --- telling -------------------------------------------------------------------------------------------------------


def as_json(config: Config, outcome: Outcome) -> dict[str, Any]:
    """Return a run for programs. Pure but for the host's name."""
    sequence = outcome.sequence
    return {
        "host": socket.gethostname(),
        "server": where_of(config),
        "exit_code": outcome.exit_code,
        "up": outcome.up,
        "days_left": outcome.days_left,
        "sequence": {"name": sequence.name, "used": sequence.used, "per_day": sequence.per_day} if sequence else None,
        "tables": [
            {
                "schema": report.table.schema,
                "table": report.table.name,
                "state": report.table.state,
                **figures(report),
                "plan": [{"action": step.action, "object": step.object, "why": step.why} for step in report.plan],
            }
            for report in outcome.reports
        ],
        "steps": outcome.steps,
        "findings": outcome.findings,
    }


def errors_of(outcome: Outcome) -> list[str]:
    """Return what is wrong, without the figures, which differ from run to run. Pure."""
    return sorted("%(id)s %(object)s" % item for item in outcome.findings if item["severity"] == "error")


def table_line(report: Report) -> str:
    """Return a table for people. Pure."""
    told = figures(report)
    words = [report.table.state]
    if told.get("ids_left") is not None:
        days = told.get("days_left")
        words.append("%d ids left (%s days), %d partitions ahead" % (
            told["ids_left"] or 0, "?" if days is None else "%g" % days, told["partitions_ahead"] or 0,
        ))  # fmt: skip
    if told.get("check_ids_left") is not None:
        words.append("refuses rows after %d more ids" % (told["check_ids_left"] or 0))
    return "%s: %s" % (report.full_name, ", ".join(words))


def as_lines(outcome: Outcome, what: str) -> list[str]:
    """Return a run for people, its verdict first. Of a scheduled run in which nothing was, there is no more. Pure."""
    days = "?" if outcome.days_left is None else "%g" % outcome.days_left
    numbers = (what, outcome.exit_code, len(outcome.reports), days, len(outcome.steps), finding_counts(outcome))
    lines = ["%s: exit code %d, %d tables, days left %s, %d changes, findings: %s" % numbers]
    more = ["done: %(action)s %(schema)s.%(object)s (%(why)s)" % step for step in outcome.steps] + finding_lines(outcome)
    if more or what != "scheduled run":
        lines += [table_line(report) for report in outcome.reports]
    return lines + more


class HfjJob(Job[Config, Outcome]):
    """The job, as _job.py runs it."""

    name = "hfj"
    program = "bd-fhir-hfj"
    prefix = "bd_fhir_hfj_partition_"
    metrics = METRICS
    outcome_type = Outcome
    verb = "partition_hapi_tables"
    looker = "hfj_partition_info"
    folder = "hapi_partitioning_job_textfile_dir"
    done = "Partitions are made"
    postponed_hint = "No partition was made this time. The next run does it; a table that waits for its swap is watched all the same."

    def work(self, config: Config, outcome: Outcome, changes: Optional[Changes]) -> None:
        """Watch, extend and judge."""
        work(config, outcome, changes)

    def samples(self, outcome: Outcome) -> Samples:
        """Return the figures of the sequence and of each table."""
        samples: Samples = {}
        if outcome.sequence is not None:
            samples["sequence"] = [("", float(outcome.sequence.used))]
            if outcome.sequence.per_day is not None:
                samples["ids_per_day"] = [("", outcome.sequence.per_day)]
        for report in outcome.reports:
            names = {"schema": report.table.schema, "table": report.table.name}
            samples.setdefault("state", []).append((label(**names, state=report.table.state), 1.0))
            for name, figure in figures(report).items():
                if figure is not None:
                    samples.setdefault(name, []).append((label(**names), figure))
        return samples

    def as_json(self, config: Config, outcome: Outcome) -> dict[str, Any]:
        """Return a run for programs."""
        return as_json(config, outcome)

    def as_lines(self, outcome: Outcome, what: str) -> list[str]:
        """Return a run for people."""
        return as_lines(outcome, what)

    def held(self, config: Config, outcome: Outcome, holder: str) -> None:
        """Somebody else is changing the deployment: told only where something is left out for that."""
        outcome.holder = holder

    def overlapped(self, config: Config, outcome: Outcome, changes: Optional[Changes]) -> None:
        """Watch, whatever the other run waits for."""
        work(config, outcome, changes, watches_only=True)

    def alarming(self, config: Config, outcome: Outcome, code: int) -> bool:
        """Tell whether there is trouble that was not told yet, or long ago: this runs every few minutes."""
        if not config.told:
            return code != OK
        if code == OK:
            with suppress(OSError):
                os.unlink(config.told)
            return False
        now = errors_of(outcome)
        told, at = self._told(config)
        if set(now) <= set(told) and 0 <= time.time() - at < config.alert_hours * 3600:
            # What has ended meanwhile is told anew when it comes again.
            self._remember(config, now, at)
            return False
        return True

    def alarmed(self, config: Config, outcome: Outcome, code: int) -> None:
        """Remember what was told."""
        self._remember(config, errors_of(outcome), time.time())

    @staticmethod
    def _told(config: Config) -> tuple[list[str], float]:
        try:
            with open(config.told, encoding="utf-8") as handle:
                found = json.load(handle)
            return [str(item) for item in found["what"]], float(found["at"])
        except (OSError, ValueError, KeyError, TypeError):
            # To be told twice is better than never.
            return [], 0.0

    @staticmethod
    def _remember(config: Config, what: list[str], at: float) -> None:
        if config.told:
            with suppress(OSError):
                replace_file(config.told, json.dumps({"what": what, "at": at}) + "\n", 0o640)


JOB = HfjJob()


# --- commands ------------------------------------------------------------------------------------------------------


def run(config: Config, log: Log, scheduled: bool = False, token: str = "", print_json: bool = False) -> int:
    """Watch, extend and judge, and tell it in every way; return the exit code."""
    return JOB.run(config, log, scheduled, token, print_json)


def check(config: Config, print_json: bool) -> int:
    """Only look, and print it; return the exit code."""
    outcome = Outcome()
    work(config, outcome, None, looks_only=True)
    if print_json:
        print(json.dumps(as_json(config, outcome)))
    else:
        print("\n".join(as_lines(outcome, "check")))
        for report in outcome.reports:
            for step in report.plan:
                print("a run would: %s %s.%s" % (step.action, report.table.schema, step.object))
    return outcome.exit_code


def parser_of() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    text = "Watch over HAPI's tables that are partitioned, or on the way to it."
    parser = argparse.ArgumentParser(prog=JOB.program, description=text)
    parser.add_argument("--config", default="/etc/bd-fhir-hfj.json", help="configuration (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    add_run(commands, "drop a CHECK that would soon refuse rows, make partitions ahead, check, write the metric, alert on trouble")
    checks = commands.add_parser("check", help="only look")
    checks.add_argument("--json", action="store_true", help="print it as JSON")
    add_cron_check(commands)
    commands.add_parser("check-config", help="say whether the configuration can be used")
    commands.add_parser("wait", help="wait until no run is at work")
    return parser


def main(argv: Optional[Sequenced[str]] = None) -> int:
    """Do what the command line says, and return the exit code."""
    arguments = parser_of().parse_args(argv)
    os.environ.setdefault("PATH", SEARCH)
    try:
        if arguments.command == "check-cron":
            return check_cron(arguments.file, arguments.content)
        config = read_config(Config, arguments.config)
        if arguments.command == "run":
            return run(config, Log(arguments.log, arguments.json), arguments.scheduled, os.environ.get(TOKEN_VARIABLE, ""), arguments.json)
        if arguments.command == "check":
            return check(config, arguments.json)
        if arguments.command == "wait":
            with alone(600.0, JOB.program):
                return OK
        return OK
    except JobError as exc:
        print(exc, file=sys.stderr)
        if arguments.command == "run" and arguments.log:
            Log(arguments.log).write([str(exc)])
        return UNUSABLE
