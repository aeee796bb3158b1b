# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of the module postgres_clone: waits for the end of the clone, and shows how far it is.

Each call of the module is short, so that no connection idles into a time-out while hundreds of gigabytes are copied.
"""

from __future__ import annotations

import time

from typing import Any

from ansible.plugins.action import ActionBase

DEFAULT_TIMEOUT = 43200
# Seconds between two looks: soon at first, for what is small or fails at once.
SHORTEST = 1.0
LONGEST = 5.0


def line_of(volume: str, progress: dict[str, Any]) -> str:
    """Return what is shown of the progress."""
    return "clone of %s: %d %%, %d of %d MB" % (volume, progress["percent"], progress["bytes_done"] >> 20, progress["bytes_total"] >> 20)


class ActionModule(ActionBase):
    """Calls the module to start, then again and again to look, and once more when the clone is done."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Entry point."""
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        first = self._call(args, task_vars)
        if first.get("failed") or self._task.check_mode or args.get("state", "present") != "present" or first.get("state") != "cloning":
            return first
        try:
            limit = float(args.get("timeout") or DEFAULT_TIMEOUT)
        except (TypeError, ValueError):
            # The module would have refused it.
            limit = DEFAULT_TIMEOUT
        # What was asked for is under way: to ask for it again would be another clone.
        again = {**args, "reclone": False}
        kept: dict[str, Any] = {key: first[key] for key in ("changed", "diff") if key in first}
        begin = time.monotonic()
        answer, shown = first, -1
        while True:
            progress = answer.get("progress") or {}
            if progress.get("bytes_total") and progress["percent"] > shown:
                shown = progress["percent"]
                self._display.display(line_of(str(args.get("volume")), progress))
            passed = time.monotonic() - begin
            if passed >= limit:
                return {
                    **answer,
                    **kept,
                    "failed": True,
                    "msg": "The clone in the volume %s was not done after %d seconds (timeout), and is at %d %%. It goes on; run this again, which"
                    " takes it up." % (args.get("volume"), limit, progress.get("percent", 0)),
                }
            time.sleep(min(LONGEST, SHORTEST + passed / 20, limit - passed))
            answer = self._call({**again, "state": "read"}, task_vars)
            if answer.get("failed") or answer.get("unreachable"):
                return {**answer, **kept}
            if answer.get("state") != "cloning":
                break
        if answer.get("state") != "done":
            text = answer.get("failure") or "The clone in the volume %s ended, and the volume is now: %s." % (args.get("volume"), answer.get("state"))
            return {**answer, **kept, "failed": True, "msg": text}
        last = self._call({**again, "state": "present"}, task_vars)
        return {**last, **kept, "changed": bool(kept.get("changed")) or bool(last.get("changed"))}

    def _call(self, args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(module_args=args, task_vars=task_vars)
        return answer
