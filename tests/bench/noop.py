# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The second run of scale_regional, beside a play of as many empty tasks on the same host: what the checks themselves cost."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import yaml
from _result import publish
from pilot_host import ROOT, ok

ROUNDS = 3


def timed(*play: str) -> tuple[float, int, int]:
    started = time.monotonic()
    result = ok(*play)
    return time.monotonic() - started, result.count("ok"), result.changed


def main() -> None:
    ok("tests/lab/pilot.yml")
    ok("scale_regional")
    dummy, tasks, changed = timed("scale_regional")
    floor = [{"name": "As many tasks that do nothing", "hosts": "fhir_hosts", "gather_facts": False,
              "tasks": [{"name": f"Empty {number}", "ansible.builtin.ping": {}} for number in range(tasks)]}]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "floor.yml"
        path.write_text(yaml.safe_dump(floor))
        # In turn, so that both see the same machine.
        pairs = [(timed("scale_regional"), timed(str(path))) for dummy in range(ROUNDS)]
    changed += sum(mine[2] for mine, dummy in pairs)
    publish("noop", {
        "changed": changed, "tasks": tasks,
        "seconds": statistics.median(mine[0] for mine, dummy in pairs), "floor_seconds": statistics.median(theirs[0] for dummy, theirs in pairs),
    }, {"pairs": [[mine[0], theirs[0]] for mine, theirs in pairs], "root": str(ROOT.name)})


if __name__ == "__main__":
    main()
