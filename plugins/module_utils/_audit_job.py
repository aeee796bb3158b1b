# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daily upkeep of the audit partitions: it makes months ahead, checks by time, and tells what it found.

A program of its own. The role audit_partitions puts this file, and those that it imports, on a host, where it runs under the
distribution's Python with psycopg2: no control machine, and nothing of Ansible. It tells by a metric, by its exit code, by its log,
and by a command that is run on trouble. Not to have looked is trouble.
"""

from __future__ import annotations

# Not a part of a module: there is no run_command here, and what is said goes to the standard output.
# pylint: disable=ansible-bad-function

import argparse
import errno
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any, Optional

from ._change import ChangeError, Now, Store, Token, bounded, describe, directory_of, live, renew, write_down, write_down_alone
from ._compose import ComposeError, Docker
from ._cron import daemons, faults_of, field_values, file_faults, next_time
from ._files import replace_file
from ._findings import finding
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
from ._partitions import PartitionError, Server, Settings, Step
from ._partitions import _MARK as MARK
from ._postgres import Login, PostgresError, Session, address_of, connect, container_of, secret_of

PORT = 5432
TOKEN_VARIABLE = "BD_FHIR_CHANGE_TOKEN"  # noqa: S105 - a name; what it holds is a number, no secret
# Directories that cron leaves out of PATH.
SEARCH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

# Exit codes: all is well; something is wrong or could not be put right; it could not be looked; it can't be worked with this
# configuration; another run is still at work.
OK, TROUBLE, BLIND, UNUSABLE, OVERLAP = 0, 1, 2, 3, 4

METRICS = (
    ("up", "Whether the last run could look at the server and at every table."),
    ("last_run_timestamp_seconds", "When the job ran last."),
    ("last_success_timestamp_seconds", "When a run last ended without trouble; 0 before the first one."),
    ("scheduler_timestamp_seconds", "When the scheduler started the job last; before its first time, when that began to be waited for."),
    ("exit_code", "How the last run ended: 0 well, 1 trouble, 2 it could not look."),
    ("steps", "How many changes the last run made."),
    ("findings", "How many findings the last run had."),
    ("days_left", "For how many days the table has partitions from now on without a hole."),
    ("default_rows", "Rows in the default partition."),
    ("bytes", "Size of all partitions with indexes and TOAST."),
)
PREFIX = "bd_fhir_audit_partition_"


class JobError(Exception):
    """The job can't work like this. The text is complete."""


# --- configuration -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """What the configuration file says. It names the variable that holds the password, and never holds it."""

    project_dir: str = ""
    project_name: str = ""
    env_file: str = ""
    service: str = "postgres-audit"
    # Where the server is without asking Docker, inside of a container.
    host: str = ""
    port: int = PORT
    password_file: str = ""
    database: str = "auditdb"
    login_user: str = "postgres"
    login_password_variable: str = ""
    connect_timeout: int = 5
    command_timeout: int = 120
    schema: str = "audit"
    tables: tuple[str, ...] = ("audit_events", "fhir_rejected_submissions")
    months_ahead: int = 6
    time_zone: str = "UTC"
    alarm_days: float = 45.0
    maintenance_function: str = "create_next_month_partitions"
    attach_detached: bool = True
    move_default_rows: bool = True
    repair: bool = True
    lock_timeout_seconds: float = 3.0
    lock_tries: int = 10
    max_bytes: int = 10 << 30
    metrics: str = ""
    alert_command: tuple[str, ...] = ()
    alert_timeout: float = 60.0
    # Seconds to wait for an operator's change, and for another run.
    lease_wait: float = 600.0
    overlap_wait: float = 60.0
    state_dir: str = ""  # where leases and journals are; empty: where the modules have them

    def settings(self) -> Settings:
        """Return what the planner wants. Raises PartitionError."""
        params = {name: getattr(self, name) for name in ("months_ahead", "time_zone", "alarm_days", "maintenance_function")}
        more = {name: getattr(self, name) for name in ("attach_detached", "move_default_rows", "repair", "max_bytes")}
        return settings_of({**params, "tables": list(self.tables)}, **more)


def parse_config(text: str) -> Config:
    """Return the configuration. Pure. Raises JobError."""
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise JobError("The configuration is no JSON: %s." % exc) from None
    if not isinstance(data, dict):
        raise JobError("The configuration is no JSON object.")
    known = {item.name: item.default for item in fields(Config)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise JobError("The configuration has %s, which the job does not know." % ", ".join(unknown))
    values = {name: _value(name, value, known[name]) for name, value in data.items()}
    config = Config(**values)
    if not config.project_dir and not config.host:
        raise JobError("The configuration has neither project_dir nor host: where is the server?")
    if not (config.password_file if config.host else config.login_password_variable):
        raise JobError("The configuration has no %s." % ("password_file" if config.host else "login_password_variable"))
    for name, low in (("lock_timeout_seconds", 0.05), ("lock_tries", 1), ("connect_timeout", 1), ("command_timeout", 1), ("max_bytes", 0)):
        if not getattr(config, name) >= low:
            raise JobError("%s is %s in the configuration. It takes %g or more." % (name, getattr(config, name), low))
    try:
        config.settings()
    except PartitionError as exc:
        raise JobError("The configuration can't be used: %s" % exc) from None
    return config


def _value(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(default, float):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif type(value) is type(default):
        return value
    kind = "a list of texts" if isinstance(default, tuple) else "a %s" % type(default).__name__
    raise JobError("%s is %r in the configuration, which is no %s." % (name, value, kind[2:]))


def read_config(path: str) -> Config:
    """Return the configuration of a file. Raises JobError."""
    try:
        with open(path, encoding="utf-8") as handle:
            return parse_config(handle.read())
    except OSError as exc:
        raise JobError("The configuration %s can't be read by %s: %s." % (path, _me(), exc.strerror)) from None
    except UnicodeDecodeError:
        raise JobError("The configuration %s is not UTF-8." % path) from None


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "uid %d" % os.geteuid()


# --- the server ----------------------------------------------------------------------------------------------------


class Host:
    """What Docker of _compose takes an AnsibleModule for: to find a program, and to run it."""

    def get_bin_path(self, name: str) -> Optional[str]:
        """Return the path of a program, None if there is none."""
        return shutil.which(name, path=SEARCH)

    def run_command(
        self,
        command: Sequence[str],
        cwd: Optional[str] = None,
        data: Optional[str] = None,
        environ_update: Optional[Mapping[str, str]] = None,
        pass_fds: Optional[Sequence[int]] = None,
        **_options: Any,
    ) -> tuple[int, str, str]:
        """Run a program and return its exit code and what it wrote. Its language is C, as texts of it are read."""
        done = subprocess.run(
            list(command),
            cwd=cwd,
            input=data or "",
            env={"PATH": SEARCH, **os.environ, **(environ_update or {}), "LC_ALL": "C", "LANGUAGE": "C"},
            pass_fds=tuple(pass_fds or ()),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


def docker_of(config: Config) -> Docker:
    """Return the deployment, as the modules see it."""
    module: Any = Host()
    return Docker(module, config.project_dir, config.project_name or None, config.env_file or None, config.command_timeout)


def login_of(config: Config) -> Login:
    """Return where and as whom to log in. Raises ComposeError, PostgresError."""
    if config.host:
        try:
            with open(config.password_file, encoding="utf-8") as handle:
                password = handle.read().rstrip("\n")
        except (OSError, ValueError) as exc:
            raise PostgresError("The file %s with the password can't be read: %s." % (config.password_file, exc), "configuration") from None
        address, port = config.host, config.port
    else:
        docker = docker_of(config)
        password = secret_of(docker, None, config.login_password_variable)
        port = config.port
        address = address_of(container_of(docker, config.service), port)
    return Login(address, port, config.login_user, password, config.database, config.connect_timeout)


# --- the deployment's lease and journal ----------------------------------------------------------------------------


class Changes:
    """The lease is respected, and each step is written down: as nobody's, or as a part of the operator's change that runs the job."""

    def __init__(self, store: Optional[Store], token: Optional[Token] = None) -> None:
        self.store = store
        self.token = token

    @classmethod
    def of(cls, config: Config, token: str) -> Changes:
        """Raises ChangeError, ComposeError."""
        if token:
            parsed = Token.parse(token)
            return cls(Store(parsed.directory), parsed)
        project = config.project_name or docker_of(config).project_name()
        store = Store(directory_of(project, config.state_dir or None))
        return cls(store if reachable(store.directory) else None)

    def held(self) -> str:
        """Return who is changing the deployment, '' for nobody else. Raises ChangeError."""
        if self.store is None:
            return ""
        if self.token:
            renew(self.store, self.token)
            return ""
        lease, now = self.store.lease(), Now.read()
        return describe(lease, now) if lease and live(lease, now) else ""

    def wait(self, seconds: float, pause: Callable[[float], None] = time.sleep) -> str:
        """Wait until nobody changes the deployment; return who still does after so many seconds. Raises ChangeError."""
        deadline = time.monotonic() + seconds
        while True:
            holder = self.held()
            if not holder or time.monotonic() >= deadline:
                return holder
            pause(min(5.0, max(0.1, seconds)))

    def step(self, step: Step) -> None:
        """Write down a step right before it is made. Raises ChangeError, also when somebody has the deployment by now."""
        if self.store is None:
            return
        bounds = None if step.lower is None and step.upper is None else {"from": iso(step.lower), "to": iso(step.upper)}
        values = {
            "module": "audit_partitions_job",
            "action": step.action,
            "object": "%s.%s" % (step.partition_schema or step.schema, step.partition),
            "before": bounded(step.why),
            "after": bounded(bounds),
        }
        if self.token:
            write_down(self.store, self.token, "step", **values)
        else:
            write_down_alone(self.store, "step", **values)


def reachable(directory: str) -> bool:
    """Tell whether this user may keep files in a directory, or may make it."""
    while not os.path.isdir(directory) and directory != "/":
        directory = os.path.dirname(directory)
    return os.access(directory, os.R_OK | os.W_OK | os.X_OK)


# --- one run -------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a run has done and found."""

    up: bool = False
    reports: list[TableReport] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    rows_moved: int = 0

    @property
    def exit_code(self) -> int:
        """Return how the run ended."""
        if not self.up:
            return BLIND
        return TROUBLE if any(item["severity"] == "error" for item in self.findings) else OK

    @property
    def days_left(self) -> Optional[float]:
        """Return for how many days every table has partitions; None when that is not known."""
        return min((days_of(report) for report in self.reports), default=None) if self.up else None

    def count(self, severity: str) -> int:
        """Return how many findings have a severity."""
        return sum(item["severity"] == severity for item in self.findings)

    def add(self, *arguments: Any) -> None:
        """Add a finding that was made by finding()."""
        self.findings.extend(arguments)


def days_of(report: TableReport) -> float:
    """Return the days for which a table has partitions; 0 for one that is not by month. Pure."""
    return round(report.coverage.days_left, 2) if report.coverage else 0.0


def where_of(config: Config) -> str:
    """Return words for the server. Pure."""
    return "%s, database %s" % (config.host or config.service, config.database)


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
        changes.step(step)
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


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def metrics_text(outcome: Outcome, before: Mapping[str, float], now: float, scheduled: bool) -> str:
    """Return the metrics of a run in Prometheus' text format. before: those of the former run. Pure.

    Of what is not known there is no figure: an old one would look like a new one.
    """
    success = now if outcome.exit_code == OK else before.get("last_success_timestamp_seconds", 0.0)
    samples: dict[str, list[tuple[str, float]]] = {
        "up": [("", float(outcome.up))],
        "last_run_timestamp_seconds": [("", now)],
        "last_success_timestamp_seconds": [("", success)],
        "scheduler_timestamp_seconds": [("", now if scheduled else before.get("scheduler_timestamp_seconds", now))],
        "exit_code": [("", float(outcome.exit_code))],
        "steps": [("", float(len(outcome.steps)))],
        "findings": [('severity="%s"' % severity, float(outcome.count(severity))) for severity in ("error", "warning", "info")],
    }
    for report in outcome.reports:
        label = 'schema="%s",table="%s"' % (_label(report.schema), _label(report.name))
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
                samples.setdefault(name, []).append((label, float(figure)))
    lines = []
    for name, text in METRICS:
        if name in samples:
            lines += ["# HELP %s%s %s" % (PREFIX, name, text), "# TYPE %s%s gauge" % (PREFIX, name)]
            lines += ["%s%s%s %s" % (PREFIX, name, "{%s}" % label if label else "", _number(value)) for label, value in samples[name]]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "%d" % value if value == int(value) else repr(round(value, 3))


def parse_metrics(text: str) -> dict[str, float]:
    """Return the metrics without labels of a file of ours, by their name without the prefix. Pure."""
    found = {}
    for line in text.splitlines():
        name, _space, value = line.partition(" ")
        if name.startswith(PREFIX) and "{" not in name:
            try:
                found[name[len(PREFIX) :]] = float(value)
            except ValueError:
                continue
    return found


def write_metrics(path: str, outcome: Outcome, now: float, scheduled: bool) -> None:
    """Replace the metrics as a whole. Raises OSError."""
    try:
        with open(path, encoding="utf-8") as handle:
            before = parse_metrics(handle.read())
    except (FileNotFoundError, UnicodeDecodeError):
        before = {}
    replace_file(path, metrics_text(outcome, before, now, scheduled), 0o644)


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
    counts = ", ".join("%d %s" % (outcome.count(severity), severity) for severity in ("error", "warning", "info"))
    lines = ["%s: exit code %d, days left %s, %d changes, findings: %s" % (what, outcome.exit_code, days, len(outcome.steps), counts)]
    for report in outcome.reports:
        until = (iso(report.coverage.covered_until) or "the end of time") if report.coverage else "unknown"
        lines.append("%s: %g days left, partitions until %s" % (report.full_name, days_of(report), until))
    lines += ["done: %(action)s %(schema)s.%(partition)s (%(why)s)" % step for step in outcome.steps]
    for item in outcome.findings:
        if item["severity"] != "info":
            lines.append("%(severity)s %(id)s, %(object)s: found %(found)s; expected %(expected)s. %(hint)s" % item)
    return lines


def alert(command: Sequence[str], timeout: float, message: Mapping[str, Any]) -> str:
    """Run the alert command with the run as JSON on its standard input; return what went wrong, '' if nothing did."""
    try:
        done = subprocess.run(
            list(command), input=json.dumps(message), timeout=timeout, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except subprocess.TimeoutExpired:
        return "it did not end within %g seconds and was stopped" % timeout
    except (OSError, ValueError) as exc:
        return "it can't be run: %s" % exc
    if done.returncode:
        return "it ended with exit code %d: %s" % (done.returncode, " ".join((done.stderr or done.stdout).split())[-300:])
    return ""


class Log:
    """Lines with the time in UTC. What can't be written into the file goes to standard error, which cron sends by mail.

    So do all lines where there is no file and JSON is printed: a program reads the standard output then.
    """

    def __init__(self, path: str = "", print_json: bool = False) -> None:
        self.path = path
        self.print_json = print_json
        self.problem = ""

    def write(self, lines: Sequence[str]) -> None:
        """Add lines."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = "".join("%s %s\n" % (stamp, " ".join(line.split())) for line in lines)
        data = text.encode("utf-8", "replace")
        if self.path:
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
                with os.fdopen(descriptor, "ab") as handle:
                    handle.write(data)
                return
            except OSError as exc:
                self.problem = "%s can't be written by %s: %s" % (self.path, _me(), exc.strerror)
        stream = sys.stderr if self.path or self.print_json else sys.stdout
        stream.buffer.write(data)
        stream.flush()


@contextmanager
def alone(seconds: float, path: Optional[str] = None) -> Iterator[None]:
    """Be the only run on this host. Raises JobError when another one is still at work after so many seconds."""
    # The directory of the program: every user who may run it may read it, and nobody else can take a lock away.
    descriptor = os.open(path or os.path.dirname(os.path.abspath(__file__)), os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as exc:
                if exc.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if time.monotonic() >= deadline:
                raise JobError("Another run is still at work after %g seconds: ps -ef | grep bd-fhir-audit tells which." % seconds)
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


# --- commands ------------------------------------------------------------------------------------------------------


def run(config: Config, log: Log, scheduled: bool = False, token: str = "", print_json: bool = False) -> int:
    """Put right and check, and tell it in every way; return the exit code."""
    outcome = Outcome()
    try:
        changes: Optional[Changes] = Changes.of(config, token)
        holder = changes.wait(config.lease_wait) if changes else ""
    except (ChangeError, ComposeError) as exc:
        changes, holder = None, str(exc)
    if holder:
        changes = None
        outcome.add(
            finding(
                "audit_upkeep_postponed", "warning", where_of(config), "a deployment that nobody else is changing, as far as can be told", holder,
                "Nothing was created this time, only checked. The next run does it.",
            )
        )  # fmt: skip
    elif changes and changes.store is None:
        outcome.add(
            finding(
                "audit_upkeep_unrecorded", "warning", where_of(config), "a lease and a journal that %s may use" % _me(), "no right to it",
                "Months are created all the same, without regard to an operator's change and without a record. Run the job as root.",
            )
        )  # fmt: skip
    try:
        with alone(config.overlap_wait):
            return _run(config, log, outcome, changes, scheduled, print_json)
    except JobError as exc:
        # The metrics are the other run's.
        outcome.add(
            finding(
                "audit_job_overlaps", "error", where_of(config), "one run at a time", str(exc),
                "It waits for a lock or for a server that does not answer: look at pg_stat_activity, and end it by its process id.",
            )
        )  # fmt: skip
        log.write(as_lines(outcome, "run")[1:])
        _tell(config, log, outcome, OVERLAP, print_json)
        return OVERLAP


def _run(config: Config, log: Log, outcome: Outcome, changes: Optional[Changes], scheduled: bool, print_json: bool) -> int:
    try:
        work(config, outcome, changes)
    except Exception as exc:  # whatever it is, the metric must not stay green
        last = traceback.extract_tb(exc.__traceback__)[-1]
        place = "%s in %s, line %s" % (type(exc).__name__, last.name, last.lineno)
        outcome.up = False
        outcome.add(
            finding(
                "audit_job_crashed", "error", where_of(config), "a run that ends", place,
                "This is a fault of the job itself. Report it with these lines, and check by audit_partition_info meanwhile.",
            )
        )  # fmt: skip
    if config.metrics:
        try:
            write_metrics(config.metrics, outcome, time.time(), scheduled)
        except OSError as exc:
            outcome.add(
                finding(
                    "audit_metrics_unwritable", "error", config.metrics, "a file that %s may replace" % _me(), str(exc.strerror),
                    "Prometheus sees old figures or none. Correct audit_partitions_textfile_dir, its owner, or the disk.",
                )
            )  # fmt: skip
    log.write(as_lines(outcome, "scheduled run" if scheduled else "run"))
    if log.problem:
        outcome.add(
            finding(
                "audit_log_unwritable", "warning", log.path, "a log that %s may write" % _me(), log.problem,
                "What it would say went to standard error. maintain_audit_partitions puts the owner right.",
            )
        )  # fmt: skip
    _tell(config, log, outcome, outcome.exit_code, print_json)
    return outcome.exit_code


def _tell(config: Config, log: Log, outcome: Outcome, code: int, print_json: bool) -> None:
    """Run the alert command on trouble, and print the run where that is asked for."""
    if code != OK and config.alert_command:
        problem = alert(config.alert_command, config.alert_timeout, {**as_json(config, outcome), "exit_code": code})
        if problem:
            outcome.add(
                finding(
                    "audit_alert_failed", "error", config.alert_command[0], "a command that takes the alert", problem,
                    "Nobody may have been told. Run it by hand with {} on its standard input.",
                )
            )  # fmt: skip
            log.write(as_lines(outcome, "alert")[-1:])
    if print_json:
        print(json.dumps({**as_json(config, outcome), "exit_code": code}))


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


def check_cron(path: str, only_content: bool) -> int:
    """Print what keeps cron from running the job of a file; return the exit code."""

    def user_exists(name: str) -> bool:
        try:
            pwd.getpwnam(name)
        except KeyError:
            return False
        return True

    try:
        with open(path, encoding="utf-8", newline="") as handle:
            faults = faults_of(handle.read(), user_exists)
    except (OSError, UnicodeDecodeError) as exc:
        faults = ["%s can't be read: %s" % (path, exc)]
    if not only_content:
        faults += file_faults(path)
        if not daemons():
            faults.append("no cron daemon runs on this host: systemctl enable --now cron")
    for fault in faults:
        print("%s: %s" % (path, fault))
    return TROUBLE if faults else OK


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
    with alone(config.lease_wait):
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
    runs = commands.add_parser("run", help="create what is missing, check, write the metric, alert on trouble")
    runs.add_argument("--scheduled", action="store_true", help="the scheduler calls, which the metric tells")
    runs.add_argument("--log", default="", help="file to write into; standard output if none is given")
    runs.add_argument("--json", action="store_true", help="print the run as JSON")
    checks = commands.add_parser("check", help="only look")
    checks.add_argument("--now", default="", help="read the clock as if it were then, as 2027-12-20T00:00:00Z")
    checks.add_argument("--json", action="store_true", help="print it as JSON")
    crons = commands.add_parser("check-cron", help="say what keeps cron from running the job of a file")
    crons.add_argument("file")
    crons.add_argument("--content", action="store_true", help="only what is in it, not its name and owner, nor whether cron runs")
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
