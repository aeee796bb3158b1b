# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a job would find on this host: python3 -c PROBE ROLE SCHEDULER USER ZONE FOLDER ... Prints JSON, changes nothing.

ROLE is what the variables begin with that the texts name. problems stand in the way, notes do not; missing_directories are those that the
folders need, the outermost first. It is run alone, before anything is on the host, by a Python that may turn out to be too old.
"""

from __future__ import annotations

# Not a part of a module: what is said goes to the standard output.
# pylint: disable=ansible-bad-function

import json
import os
import pwd
import shutil
import sys

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
DAEMONS = ("cron", "crond", "bcron-sched", "fcron")


def namespace(entry: str) -> str:
    """Return the PID namespace of a process, '' where it can't be told."""
    try:
        return os.readlink("/proc/%s/ns/pid" % entry)
    except OSError:
        return ""


def cron_runs() -> bool:
    """Tell whether a cron daemon runs on this host. One inside of a container is none."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/comm" % entry) as handle:
                    if handle.read().strip() in DAEMONS and namespace(entry) == namespace("self"):
                        return True
            except OSError:
                continue
    return False


def python_problems(role: str, zone: str) -> list[str]:
    """Return what this Python lacks."""
    found: list[str] = []
    name = "%s (Python %d.%d)" % ((sys.executable,) + sys.version_info[:2])
    if sys.version_info < (3, 9):  # noqa: UP036 - that is what is asked here
        found.append("%s is too old: set %s_python to a Python 3.9 or later." % (name, role))
        return found
    try:
        import psycopg2  # noqa: F401
    except ImportError as exc:
        found.append("%s can't import psycopg2 (%s): install the package python3-psycopg2, or set %s_python." % (name, exc, role))
    if zone not in ("", "UTC", "Etc/UTC"):
        import zoneinfo

        try:
            zoneinfo.ZoneInfo(zone)
        except Exception:
            found.append("%s knows no time zone %s: correct %s_time_zone, or install the package tzdata." % (name, zone, role))
    return found


def cron_problems(role: str, user: str, instead: str) -> list[str]:
    """Return what keeps cron from running a job of this user."""
    found = []
    try:
        pwd.getpwnam(user)
    except KeyError:
        found.append("There is no user %s on the host: correct %s_user." % (user, role))
    if not os.path.isdir("/etc/cron.d"):
        found.append("There is no /etc/cron.d: install the package cron%s." % instead)
    elif not cron_runs():
        found.append("No cron daemon runs: systemctl enable --now cron%s." % instead)
    return found


def missing_directories(path: str) -> list[str]:
    """Return which directories a path lacks, the outermost first."""
    found: list[str] = []
    while path and not os.path.isdir(path) and path != "/":
        found.insert(0, path)
        path = os.path.dirname(path)
    return found


def main(role: str, scheduler: str, user: str, zone: str, *folders: str) -> None:
    """Look, and print it."""
    problems, notes = python_problems(role, zone), []
    if os.geteuid() != 0:
        problems.append("This is not done as root, to whom /etc and .env with its secrets belong: set ansible_become=true.")
    if not shutil.which("docker", path=PATH):
        problems.append("There is no docker command on the host.")
    if scheduler == "cron":
        # The audit job alone knows another way.
        problems += cron_problems(role, user, ", or set audit_partitions_scheduler=container" if role == "audit_partitions" else "")
        if user != "root" and not shutil.which("runuser", path=PATH):
            problems.append("There is no runuser on the host (package util-linux), to try the job as %s." % user)
        if not shutil.which("logrotate", path=PATH):
            notes.append("There is no logrotate on the host: the log is not rotated until the package logrotate is there.")
    local = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2] or "UTC"
    missing = [path for folder in folders for path in missing_directories(folder)]
    report = {
        "problems": problems,
        "notes": notes,
        "zone": local,
        "logrotate_dir": os.path.isdir("/etc/logrotate.d"),
        "missing_directories": sorted(set(missing)),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
