# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What cron takes for a job, and when that is due. A file in /etc/cron.d that cron does not like is left out without a word to anybody.

Needs nothing of Ansible, since the jobs on a host have none. Run by itself, python3 _cron.py [--content] [FILE], it prints what keeps cron
from running the job of a file, and without one what keeps it from running any on this host.
"""

from __future__ import annotations

# Not a part of a module: what is said goes to the standard output.
# pylint: disable=ansible-bad-function

import os
import pwd
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 7))
# Cron cuts a longer command off.
LONGEST = 998
# Cron leaves out files of other names, such as those with a dot.
FILE_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")
# The names under which the daemons of Debian, Red Hat and others run.
DAEMONS = ("cron", "crond", "bcron-sched", "fcron")

_PART = re.compile(r"(\*|([0-9]+)(?:-([0-9]+))?)(?:/([0-9]+))?\Z")
_SETTING = re.compile(r"\s*[A-Za-z_][A-Za-z0-9_]*\s*=")
# How far ahead a time is looked for: each one of a leap year is within it.
_HORIZON = 366 * 24 * 60


def field_values(text: str, low: int, high: int) -> frozenset[int]:
    """Return the numbers that one of cron's fields stands for. Pure. Raises ValueError; names of months and days are not known."""
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.match(part)
        if not match:
            raise ValueError("%r is no number, range, list or step" % part)
        whole, first, last, step = match.groups()
        begin, end = (low, high) if whole == "*" else (int(first), int(last or first))
        if step and whole != "*" and last is None:
            end = high
        if not low <= begin <= end <= high or step == "0" or (step and not int(step)):
            raise ValueError("%r is not within %d to %d" % (part, low, high))
        found.update(range(begin, end + 1, int(step or 1)))
    return frozenset(found)


def next_time(minute: str, hour: str, after: datetime) -> datetime:
    """Return the first full minute after a moment at which a daily job is due, by that moment's own clock. Pure. Raises ValueError."""
    minutes, hours = field_values(minute, 0, 59), field_values(hour, 0, 23)
    moment = after.replace(second=0, microsecond=0)
    for _minute in range(_HORIZON):
        moment += timedelta(minutes=1)
        if moment.minute in minutes and moment.hour in hours:
            return moment
    raise ValueError("no minute of any day is %s and %s" % (minute, hour))


def jobs_of(text: str) -> list[str]:
    """Return the lines of a cron file that are jobs: no comment, no setting, not empty. Pure."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [line for line in lines if not _SETTING.match(line)]


def faults_of(text: str, user_exists: Callable[[str], bool], file_exists: Callable[[str], bool] = os.path.isfile) -> list[str]:
    """Return what keeps cron from running the one job of a file of /etc/cron.d as it is meant. Pure but for what it is given."""
    faults = []
    if not text.endswith("\n"):
        faults.append("the last line does not end, and cron leaves it out")
    if "\r" in text:
        faults.append("there are carriage returns in it")
    jobs = jobs_of(text)
    if len(jobs) != 1:
        return [*faults, "it has %d jobs where one line is expected (no line can be continued by a backslash)" % len(jobs)]
    words = jobs[0].split(None, 6)
    if len(words) < 7:
        return [*faults, "the job has no five fields, user and command: %s" % jobs[0]]
    for (name, low, high), word in zip(FIELDS, words):
        try:
            field_values(word, low, high)
        except ValueError as exc:
            faults.append("the %s %s" % (name, exc))
    if not user_exists(words[5]):
        faults.append("there is no user %s" % words[5])
    return faults + _command_faults(words[6], file_exists)


def _command_faults(command: str, file_exists: Callable[[str], bool]) -> list[str]:
    faults = []
    if re.search(r"(?<!\\)%", command):
        faults.append("a percent sign without a backslash ends the command")
    if len(command.encode()) > LONGEST:
        faults.append("the command has more than %d bytes and would be cut off" % LONGEST)
    try:
        program = (shlex.split(command.replace("\\%", "%")) or [""])[0]
    except ValueError as exc:
        return [*faults, "the shell can't read the command: %s" % exc]
    if not file_exists(program):
        faults.append("there is no program %s" % program)
    return faults


def file_faults(path: str) -> list[str]:
    """Return what keeps cron from reading a file at all."""
    faults = []
    if not FILE_NAME.match(os.path.basename(path)):
        faults.append("cron leaves out files of such a name: only letters, digits, - and _ may be in it")
    try:
        info = os.lstat(path)
    except OSError as exc:
        return [*faults, "%s: %s" % (path, exc.strerror)]
    if not stat.S_ISREG(info.st_mode):
        faults.append("it is no regular file")
    if info.st_uid != 0:
        faults.append("it does not belong to root")
    if info.st_mode & 0o022:
        faults.append("others than root may write it")
    return faults


def daemons(names: Iterable[str] = DAEMONS, proc: str = "/proc") -> list[str]:
    """Return which of the cron daemons run on this host. One inside of a container is none."""
    wanted, found = set(names), set()
    own = _namespace(proc, "self")
    for entry in os.listdir(proc):
        if entry.isdigit():
            try:
                with open("%s/%s/comm" % (proc, entry), encoding="utf-8", errors="replace") as handle:
                    name = handle.read().strip()
            except OSError:
                continue
            if name in wanted and _namespace(proc, entry) == own:
                found.add(name)
    return sorted(found)


def _namespace(proc: str, entry: str) -> str:
    try:
        return os.readlink("%s/%s/ns/pid" % (proc, entry))
    except OSError:
        return ""


def user_exists(name: str) -> bool:
    """Tell whether there is such a user on this host."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def host_faults(folder: str = "/etc/cron.d", running: Callable[[], list[str]] = daemons) -> list[str]:
    """Return what keeps cron from running any job of its folder."""
    if not os.path.isdir(folder):
        return ["there is no %s on this host: install the package cron" % folder]
    return [] if running() else ["no cron daemon runs on this host: systemctl enable --now cron"]


def faults_at(path: str, only_content: bool, running: Callable[[], list[str]] = daemons) -> list[str]:
    """Return what keeps cron from running the job of a file. only_content: not its name and owner, nor whether cron runs."""
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            faults = faults_of(handle.read(), user_exists)
    except (OSError, UnicodeDecodeError) as exc:
        faults = ["%s can't be read: %s" % (path, exc)]
    return faults if only_content else faults + file_faults(path) + host_faults(os.path.dirname(os.path.abspath(path)), running)


def main(argv: Sequence[str]) -> int:
    """Print what is wrong, one line each; return the exit code."""
    paths = [word for word in argv if word != "--content"]
    faults = faults_at(paths[0], "--content" in argv) if paths else host_faults()
    for fault in faults:
        print("%s: %s" % (paths[0], fault) if paths else fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
