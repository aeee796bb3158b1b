# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the jobs on a host have in common: programs of their own, which a scheduler starts there without a control machine.

A role puts the file of its job, this one, and those that they import, on a host, where they run under the distribution's Python with
psycopg2 and nothing of Ansible. A job tells by a metric, by its exit code, by its log, and by a command that is run on trouble. Not to
have looked is trouble.
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
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, Optional, TypeVar

from ._change import ChangeError, Now, Store, Token, bounded, describe, directory_of, live, renew, write_down, write_down_alone
from ._compose import ComposeError, Docker
from ._cron import daemons, faults_at
from ._files import replace_file
from ._findings import finding
from ._postgres import Login, PostgresError, address_of, container_of, secret_of

PORT = 5432
TOKEN_VARIABLE = "BD_FHIR_CHANGE_TOKEN"  # noqa: S105 - a name; what it holds is a number, no secret
# Directories that cron leaves out of PATH.
SEARCH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

# Exit codes: all is well; something is wrong or could not be put right; it could not be looked; it can't be worked with this
# configuration; another run is still at work.
OK, TROUBLE, BLIND, UNUSABLE, OVERLAP = 0, 1, 2, 3, 4

# What every job tells, by the name behind the prefix of its metrics.
METRICS = (
    ("up", "Whether the last run could look at the server and at every table."),
    ("last_run_timestamp_seconds", "When the job ran last."),
    ("last_success_timestamp_seconds", "When a run last ended without trouble; 0 before the first one."),
    ("scheduler_timestamp_seconds", "When the scheduler started the job last; before its first time, when that began to be waited for."),
    ("exit_code", "How the last run ended: 0 well, 1 trouble, 2 it could not look."),
    ("steps", "How many changes the last run made."),
    ("findings", "How many findings the last run had."),
)


class JobError(Exception):
    """The job can't work like this. The text is complete."""


def me() -> str:
    """Return who runs this."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "uid %d" % os.geteuid()


# --- configuration -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobConfig:
    """What the configuration file of every job says. It names the variable that holds the password, and never holds it."""

    # The least that a number may be.
    LEAST: ClassVar[tuple[tuple[str, float], ...]] = (("connect_timeout", 1), ("command_timeout", 1))

    project_dir: str = ""
    project_name: str = ""
    env_file: str = ""
    service: str = ""
    # Where the server is without asking Docker, inside of a container.
    host: str = ""
    port: int = PORT
    password_file: str = ""
    database: str = ""
    login_user: str = "postgres"
    login_password_variable: str = ""
    connect_timeout: int = 5
    command_timeout: int = 120
    metrics: str = ""
    alert_command: tuple[str, ...] = ()
    alert_timeout: float = 60.0
    # Seconds to wait for an operator's change, and for another run.
    lease_wait: float = 600.0
    overlap_wait: float = 60.0
    state_dir: str = ""  # where leases and journals are; empty: where the modules have them

    def check(self) -> None:
        """Raise JobError for what the types don't tell."""
        if not self.project_dir and not self.host:
            raise JobError("The configuration has neither project_dir nor host: where is the server?")
        if not (self.password_file if self.host else self.login_password_variable):
            raise JobError("The configuration has no %s." % ("password_file" if self.host else "login_password_variable"))
        for name, low in self.LEAST:
            if not getattr(self, name) >= low:
                raise JobError("%s is %s in the configuration. It takes %g or more." % (name, getattr(self, name), low))


C = TypeVar("C", bound=JobConfig)


def parse_config(kind: type[C], text: str) -> C:
    """Return the configuration. Pure. Raises JobError."""
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise JobError("The configuration is no JSON: %s." % exc) from None
    if not isinstance(data, dict):
        raise JobError("The configuration is no JSON object.")
    known = {item.name: item.default for item in fields(kind)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise JobError("The configuration has %s, which the job does not know." % ", ".join(unknown))
    config = kind(**{name: _value(name, value, known[name]) for name, value in data.items()})
    config.check()
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


def read_config(kind: type[C], path: str) -> C:
    """Return the configuration of a file. Raises JobError."""
    try:
        with open(path, encoding="utf-8") as handle:
            return parse_config(kind, handle.read())
    except OSError as exc:
        raise JobError("The configuration %s can't be read by %s: %s." % (path, me(), exc.strerror)) from None
    except UnicodeDecodeError:
        raise JobError("The configuration %s is not UTF-8." % path) from None


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


def docker_of(config: JobConfig) -> Docker:
    """Return the deployment, as the modules see it."""
    module: Any = Host()
    return Docker(module, config.project_dir, config.project_name or None, config.env_file or None, config.command_timeout)


def login_of(config: JobConfig) -> Login:
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


def where_of(config: JobConfig) -> str:
    """Return words for the server. Pure."""
    return "%s, database %s" % (config.host or config.service, config.database)


# --- the deployment's lease and journal ----------------------------------------------------------------------------


class Changes:
    """The lease is respected, and each step is written down: as nobody's, or as a part of the operator's change that runs the job."""

    def __init__(self, store: Optional[Store], token: Optional[Token] = None) -> None:
        self.store = store
        self.token = token

    @classmethod
    def of(cls, config: JobConfig, token: str) -> Changes:
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

    def step(self, module: str, action: str, object: str, before: Any, after: Any) -> None:
        """Write down a step right before it is made. Raises ChangeError, also when somebody has the deployment by now."""
        if self.store is None:
            return
        values = {"module": module, "action": action, "object": object, "before": bounded(before), "after": bounded(after)}
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
class JobOutcome:
    """What a run has done and found. reports: what it saw of each table."""

    up: bool = False
    reports: list[Any] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """Return how the run ended."""
        if not self.up:
            return BLIND
        return TROUBLE if any(item["severity"] == "error" for item in self.findings) else OK

    def count(self, severity: str) -> int:
        """Return how many findings have a severity."""
        return sum(item["severity"] == severity for item in self.findings)

    def add(self, *arguments: Any) -> None:
        """Add a finding that was made by finding()."""
        self.findings.extend(arguments)


O = TypeVar("O", bound=JobOutcome)  # noqa: E741
Samples = dict[str, list[tuple[str, float]]]


@contextmanager
def alone(seconds: float, program: str) -> Iterator[None]:
    """Be the only run of this job on this host. Raises JobError when another one is still at work after so many seconds."""
    # The directory of the program: every user who may run it may read it, and nobody else can take a lock away.
    descriptor = os.open(os.path.dirname(os.path.abspath(__file__)), os.O_RDONLY | os.O_CLOEXEC)
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
                raise JobError("Another run is still at work after %g seconds: ps -ef | grep %s tells which." % (seconds, program))
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


class Job(Generic[C, O]):
    """A job. What each has of its own is below; run() is the same for all."""

    name = ""  # the beginning of the ids of what it finds of itself
    program = ""  # as ps shows it
    prefix = ""  # of its metrics
    metrics: tuple[tuple[str, str], ...] = ()
    outcome_type: type[O]
    # Where its hints send people: to the playbook that lays it, the module that looks, and the variable with the folder of the metric.
    verb = ""
    looker = ""
    folder = ""
    # What it does, and what of it is only checked while somebody else is changing the deployment.
    done = ""
    postponed_hint = ""

    def work(self, config: C, outcome: O, changes: Optional[Changes]) -> None:
        """Look at everything, and with changes put right what can be. What goes wrong becomes a finding."""
        raise NotImplementedError

    def samples(self, outcome: O) -> Samples:
        """Return the job's own figures, each with its labels. Of what is not known there is none."""
        raise NotImplementedError

    def as_json(self, config: C, outcome: O) -> dict[str, Any]:
        """Return a run for programs. Pure but for the host's name."""
        raise NotImplementedError

    def as_lines(self, outcome: O, what: str) -> list[str]:
        """Return a run for people, its verdict first. Pure."""
        raise NotImplementedError

    def held(self, config: C, outcome: O, holder: str) -> None:
        """Somebody else is changing the deployment."""
        self.postpone(config, outcome, holder)

    def overlapped(self, config: C, outcome: O, changes: Optional[Changes]) -> None:
        """Do what can't wait for another run that is still at work."""

    def alarming(self, config: C, outcome: O, code: int) -> bool:
        """Tell whether the alert command is run: on trouble."""
        return code != OK

    def alarmed(self, config: C, outcome: O, code: int) -> None:
        """The alert command has taken it."""

    # -- the same for all

    def postpone(self, config: C, outcome: O, holder: str) -> None:
        """Say that nothing was changed for the sake of somebody's change."""
        outcome.add(
            finding(
                self.name + "_upkeep_postponed", "warning", where_of(config), "a deployment that nobody else is changing, as far as can be told",
                holder, self.postponed_hint,
            )
        )  # fmt: skip

    def run(self, config: C, log: Log, scheduled: bool = False, token: str = "", print_json: bool = False) -> int:
        """Put right and check, and tell it in every way; return the exit code."""
        outcome = self.outcome_type()
        try:
            changes: Optional[Changes] = Changes.of(config, token)
            holder = changes.wait(config.lease_wait) if changes else ""
        except (ChangeError, ComposeError) as exc:
            changes, holder = None, str(exc)
        if holder:
            changes = None
            self.held(config, outcome, holder)
        elif changes and changes.store is None:
            outcome.add(
                finding(
                    self.name + "_upkeep_unrecorded", "warning", where_of(config), "a lease and a journal that %s may use" % me(), "no right to it",
                    "%s all the same, without regard to an operator's change and without a record. Run the job as root." % self.done,
                )
            )  # fmt: skip
        try:
            with alone(config.overlap_wait, self.program):
                return self._run(config, log, outcome, changes, scheduled, print_json)
        except JobError as exc:
            # The metrics are the other run's.
            outcome.add(
                finding(
                    self.name + "_job_overlaps", "error", where_of(config), "one run at a time", str(exc),
                    "It waits for a lock or for a server that does not answer: look at pg_stat_activity, and end it by its process id.",
                )
            )  # fmt: skip
            self.overlapped(config, outcome, changes)
            log.write(self.as_lines(outcome, "run")[1:])
            self._tell(config, log, outcome, OVERLAP, print_json)
            return OVERLAP

    def _run(self, config: C, log: Log, outcome: O, changes: Optional[Changes], scheduled: bool, print_json: bool) -> int:
        try:
            self.work(config, outcome, changes)
        except Exception as exc:  # whatever it is, the metric must not stay green
            last = traceback.extract_tb(exc.__traceback__)[-1]
            place = "%s in %s, line %s" % (type(exc).__name__, last.name, last.lineno)
            outcome.up = False
            outcome.add(
                finding(
                    self.name + "_job_crashed", "error", where_of(config), "a run that ends", place,
                    "This is a fault of the job itself. Report it with these lines, and check by %s meanwhile." % self.looker,
                )
            )  # fmt: skip
        if config.metrics:
            try:
                self.write_metrics(config.metrics, outcome, time.time(), scheduled)
            except OSError as exc:
                outcome.add(
                    finding(
                        self.name + "_metrics_unwritable", "error", config.metrics, "a file that %s may replace" % me(), str(exc.strerror),
                        "Prometheus sees old figures or none. Correct %s, its owner, or the disk." % self.folder,
                    )
                )  # fmt: skip
        log.write(self.as_lines(outcome, "scheduled run" if scheduled else "run"))
        if log.problem:
            outcome.add(
                finding(
                    self.name + "_log_unwritable", "warning", log.path, "a log that %s may write" % me(), log.problem,
                    "What it would say went to standard error. %s puts the owner right." % self.verb,
                )
            )  # fmt: skip
        self._tell(config, log, outcome, outcome.exit_code, print_json)
        return outcome.exit_code

    def _tell(self, config: C, log: Log, outcome: O, code: int, print_json: bool) -> None:
        """Run the alert command where it is due, and print the run where that is asked for."""
        if config.alert_command and self.alarming(config, outcome, code):
            problem = alert(config.alert_command, config.alert_timeout, {**self.as_json(config, outcome), "exit_code": code})
            if problem:
                outcome.add(
                    finding(
                        self.name + "_alert_failed", "error", config.alert_command[0], "a command that takes the alert", problem,
                        "Nobody may have been told. Run it by hand with {} on its standard input.",
                    )
                )  # fmt: skip
                log.write(self.as_lines(outcome, "alert")[-1:])
            else:
                self.alarmed(config, outcome, code)
        if print_json:
            print(json.dumps({**self.as_json(config, outcome), "exit_code": code}))

    # -- metrics

    def metrics_text(self, outcome: O, before: Mapping[str, float], now: float, scheduled: bool) -> str:
        """Return the metrics of a run in Prometheus' text format. before: those of the former run. Pure.

        Of what is not known there is no figure: an old one would look like a new one.
        """
        success = now if outcome.exit_code == OK else before.get("last_success_timestamp_seconds", 0.0)
        samples: Samples = {
            "up": [("", float(outcome.up))],
            "last_run_timestamp_seconds": [("", now)],
            "last_success_timestamp_seconds": [("", success)],
            "scheduler_timestamp_seconds": [("", now if scheduled else before.get("scheduler_timestamp_seconds", now))],
            "exit_code": [("", float(outcome.exit_code))],
            "steps": [("", float(len(outcome.steps)))],
            "findings": [('severity="%s"' % severity, float(outcome.count(severity))) for severity in ("error", "warning", "info")],
            **self.samples(outcome),
        }
        lines = []
        for name, text in METRICS + self.metrics:
            if name in samples:
                lines += ["# HELP %s%s %s" % (self.prefix, name, text), "# TYPE %s%s gauge" % (self.prefix, name)]
                lines += ["%s%s%s %s" % (self.prefix, name, "{%s}" % label if label else "", _number(value)) for label, value in samples[name]]
        return "\n".join(lines) + "\n"

    def parse_metrics(self, text: str) -> dict[str, float]:
        """Return the metrics without labels of a file of ours, by their name without the prefix. Pure."""
        found = {}
        for line in text.splitlines():
            name, _space, value = line.partition(" ")
            if name.startswith(self.prefix) and "{" not in name:
                try:
                    found[name[len(self.prefix) :]] = float(value)
                except ValueError:
                    continue
        return found

    def write_metrics(self, path: str, outcome: O, now: float, scheduled: bool) -> None:
        """Replace the metrics as a whole. Raises OSError."""
        try:
            with open(path, encoding="utf-8") as handle:
                before = self.parse_metrics(handle.read())
        except (FileNotFoundError, UnicodeDecodeError):
            before = {}
        replace_file(path, self.metrics_text(outcome, before, now, scheduled), 0o644)


# --- telling -------------------------------------------------------------------------------------------------------


def label(**values: str) -> str:
    """Return labels as Prometheus reads them. Pure."""
    return ",".join('%s="%s"' % (name, text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, text in values.items())


def _number(value: float) -> str:
    return "%d" % value if value == int(value) else repr(round(value, 3))


def finding_lines(outcome: JobOutcome) -> list[str]:
    """Return what people have to know of the findings. Pure."""
    text = "%(severity)s %(id)s, %(object)s: found %(found)s; expected %(expected)s. %(hint)s"
    return [text % item for item in outcome.findings if item["severity"] != "info"]


def finding_counts(outcome: JobOutcome) -> str:
    """Return how many findings of each severity there are. Pure."""
    return ", ".join("%d %s" % (outcome.count(severity), severity) for severity in ("error", "warning", "info"))


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
                self.problem = "%s can't be written by %s: %s" % (self.path, me(), exc.strerror)
        stream = sys.stderr if self.path or self.print_json else sys.stdout
        stream.buffer.write(data)
        stream.flush()


# --- commands that every job has -----------------------------------------------------------------------------------


def check_cron(path: str, only_content: bool) -> int:
    """Print what keeps cron from running the job of a file; return the exit code."""
    faults = faults_at(path, only_content, daemons)
    for fault in faults:
        print("%s: %s" % (path, fault))
    return TROUBLE if faults else OK


def add_cron_check(commands: Any) -> None:
    """Add check-cron to the commands of a job."""
    crons = commands.add_parser("check-cron", help="say what keeps cron from running the job of a file")
    crons.add_argument("file")
    crons.add_argument("--content", action="store_true", help="only what is in it, not its name and owner, nor whether cron runs")


def add_run(commands: Any, text: str) -> None:
    """Add run to the commands of a job."""
    runs: argparse.ArgumentParser = commands.add_parser("run", help=text)
    runs.add_argument("--scheduled", action="store_true", help="the scheduler calls, which the metric tells")
    runs.add_argument("--log", default="", help="file to write into; standard output if none is given")
    runs.add_argument("--json", action="store_true", help="print the run as JSON")
