# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the audit job would find on this host: python3 -c PROBE SCHEDULER USER ZONE FOLDER ... Prints JSON, changes nothing.

problems stand in the way, notes do not; missing_directories are those that the folders need, the outermost first.
"""

import json
import os
import pwd
import shutil
import sys

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
DAEMONS = ("cron", "crond", "bcron-sched", "fcron")


def namespace(entry):
    try:
        return os.readlink("/proc/%s/ns/pid" % entry)
    except OSError:
        return ""


def cron_runs():
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/comm" % entry) as handle:
                    if handle.read().strip() in DAEMONS and namespace(entry) == namespace("self"):
                        return True
            except OSError:
                continue
    return False


def python_problems(zone):
    found = []
    name = "%s (Python %d.%d)" % ((sys.executable,) + sys.version_info[:2])
    if sys.version_info < (3, 9):  # noqa: UP036 - that is what is asked here
        found.append("%s is too old: set audit_partitions_python to a Python 3.9 or later." % name)
        return found
    try:
        import psycopg2  # noqa: F401
    except ImportError as exc:
        found.append("%s can't import psycopg2 (%s): install the package python3-psycopg2, or set audit_partitions_python." % (name, exc))
    if zone not in ("", "UTC", "Etc/UTC"):
        import zoneinfo

        try:
            zoneinfo.ZoneInfo(zone)
        except Exception:
            found.append("%s knows no time zone %s: correct audit_partitions_time_zone, or install the package tzdata." % (name, zone))
    return found


def cron_problems(user):
    found = []
    try:
        pwd.getpwnam(user)
    except KeyError:
        found.append("There is no user %s on the host: correct audit_partitions_user." % user)
    if not os.path.isdir("/etc/cron.d"):
        found.append("There is no /etc/cron.d: install the package cron, or set audit_partitions_scheduler=container.")
    elif not cron_runs():
        found.append("No cron daemon runs: systemctl enable --now cron, or set audit_partitions_scheduler=container.")
    return found


def missing_directories(path):
    found = []
    while path and not os.path.isdir(path) and path != "/":
        found.insert(0, path)
        path = os.path.dirname(path)
    return found


def main(scheduler, user, zone, *folders):
    problems, notes = python_problems(zone), []
    if os.geteuid() != 0:
        problems.append("This is not done as root, to whom /etc and .env with its secrets belong: set ansible_become=true.")
    if not shutil.which("docker", path=PATH):
        problems.append("There is no docker command on the host.")
    if scheduler == "cron":
        problems += cron_problems(user)
        if user != "root" and not shutil.which("runuser", path=PATH):
            problems.append("There is no runuser on the host (package util-linux), to try the job as %s." % user)
        if not shutil.which("logrotate", path=PATH):
            notes.append("There is no logrotate on the host: the log, some lines a day, is not rotated until the package logrotate is there.")
    local = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2] or "UTC"
    missing = [path for folder in folders for path in missing_directories(folder)]
    print(json.dumps({
        "problems": problems,
        "notes": notes,
        "zone": local,
        "logrotate_dir": os.path.isdir("/etc/logrotate.d"),
        "missing_directories": sorted(set(missing)),
    }))


if __name__ == "__main__":
    main(*sys.argv[1:])
