# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads through three replicas that may go to the standby, beside the same reads kept on the primary, in turn, while others write."""

from __future__ import annotations

import json
from pathlib import Path

from _result import publish
from pilot_host import ok, on_host, replicas
from standby import SMALL, figures, sent

SECONDS = 60
SCRIPT = Path(__file__).resolve().parents[1] / "lab/routes.py"


def main() -> None:
    ok("tests/lab/pilot.yml")
    ok("scale_regional")
    ok("add_read_replica", "-e", "postgres_replica_reads=required", *SMALL)
    try:
        arguments = [item.address for item in replicas()]
        script = SCRIPT.read_text(encoding="utf-8")
        # Both routes are warm before it counts.
        on_host("python3", "-", "10", *arguments, data=script)
        before = figures()
        found = json.loads(on_host("python3", "-", str(SECONDS), *arguments, data=script))
        served = sent(before, figures(), "standby")
    finally:
        ok("rollback_add_read_replica")
    p95 = {route: values[int(len(values) * 0.95)] for route, values in found["ms"].items()}
    reads = len(found["ms"]["standby"])
    publish("reads", {
        "share": 100 * served / reads, "p95_standby_ms": p95["standby"], "p95_primary_ms": p95["primary"],
        "ratio": p95["standby"] / p95["primary"], "reads": reads, "errors": len(found["errors"]),
    }, {"writes": found["writes"], "errors": found["errors"],
        "median_ms": {route: values[len(values) // 2] for route, values in found["ms"].items()}})


if __name__ == "__main__":
    main()
