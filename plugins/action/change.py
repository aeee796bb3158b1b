# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of the module change: which ansible-playbook asks, and whether the holder's has ended.

A lease of a run that was killed would stand in the way until it expires. Only the controller can tell that the process is gone,
and only when it is the very machine, the same boot and the same process namespace: a container of an execution environment
sees other processes under the same numbers.
"""

from __future__ import annotations

import getpass
import os
import socket
import time

from typing import Any, Optional

from ansible.plugins.action import ActionBase

CHUNK = 10.0  # seconds of waiting on the host after which it is looked again whether the holder still lives


def read_text(path: str) -> str:
    """Return a short file without white space around, '' when it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read().strip()
    except OSError:
        return ""


def stat_of(pid: int, proc: str = "/proc") -> Optional[tuple[str, int, int]]:
    """Return state, parent and start time (ticks since boot) of a process; None when they can't be read."""
    # The command's name stands in brackets and may hold brackets and spaces itself.
    fields = read_text("%s/%d/stat" % (proc, pid)).rpartition(")")[2].split()
    try:
        return fields[0], int(fields[1]), int(fields[19])
    except (IndexError, ValueError):
        return None


def playbook_pid(pid: int, proc: str = "/proc") -> int:
    """Return the ansible-playbook process above a worker: the topmost of those that were forked without a new command."""
    command = read_text("%s/%d/cmdline" % (proc, pid))
    while command:
        seen = stat_of(pid, proc)
        if seen is None or seen[1] < 1 or read_text("%s/%d/cmdline" % (proc, seen[1])) != command:
            break
        pid = seen[1]
    return pid


def identity(pid: int, proc: str = "/proc", etc: str = "/etc") -> dict[str, Any]:
    """Return what tells this run of ansible-playbook from every other one; without /proc only the name of the machine."""
    found: dict[str, Any] = {
        "hostname": socket.gethostname(),
        "machine_id": read_text("%s/machine-id" % etc),
        "boot_id": read_text("%s/sys/kernel/random/boot_id" % proc),
        "pid_namespace": "",
    }
    try:
        found["pid_namespace"] = os.readlink("%s/self/ns/pid" % proc)
    except OSError:
        return found
    pid = playbook_pid(pid, proc)
    seen = stat_of(pid, proc)
    if seen:
        found.update(pid=pid, started=seen[2])
    return found


def proven_dead(holder: Any, mine: dict[str, Any], proc: str = "/proc") -> bool:
    """Tell whether the process of a holder has ended for sure. What can't be seen from here counts as alive."""
    if not isinstance(holder, dict) or not isinstance(holder.get("pid"), int) or holder["pid"] < 1:
        return False
    if any(not mine.get(key) or holder.get(key) != mine[key] for key in ("boot_id", "pid_namespace")):
        return False
    if holder.get("machine_id") != mine.get("machine_id"):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # Another user's process. Its times may be hidden from us (mount option hidepid of /proc).
        pass
    seen = stat_of(holder["pid"], proc)
    return seen is not None and (seen[0] in ("Z", "X") or seen[2] != holder.get("started"))


class ActionModule(ActionBase):
    """Calls the module, a second time with the proof when the holder's process on this controller has ended."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Entry point."""
        super().run(tmp, task_vars)
        args = {key: value for key, value in self._task.args.items() if key not in ("controller", "dead")}
        if args.get("state", "opened") != "opened" or args.get("token"):
            return self._call(args, task_vars)
        try:
            wait = float(args.get("wait", 0))
        except (TypeError, ValueError):
            # The module says what is wrong with it.
            return self._call(args, task_vars)
        mine = identity(os.getpid())
        args["controller"] = mine
        if not args.get("owner"):
            args["owner"] = "%s@%s" % (os.environ.get("SUDO_USER") or getpass.getuser(), mine["hostname"])
        started = time.monotonic()
        answer = self._call(dict(args, wait=min(int(wait), 0)), task_vars)
        met = bool(answer.get("held")) and wait > 0
        while answer.get("failed") and answer.get("held"):
            lease = answer.get("lease") or {}
            if proven_dead(lease.get("controller"), mine):
                answer = self._call(dict(args, wait=0, dead=lease["id"]), task_vars)
                if not answer.get("held"):
                    break
            left = wait - (time.monotonic() - started)
            if left <= 1:
                break
            answer = self._call(dict(args, wait=int(min(left, CHUNK))), task_vars)
        if met:
            answer["waited"] = round(time.monotonic() - started, 1)
        return answer

    def _call(self, args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(module_args=args, task_vars=task_vars)
        return answer
