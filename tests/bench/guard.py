# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""New resources per second with HFJ_RESOURCE plain, and partitioned with a guard in the place of its unique index, side by side.

As HAPI writes a resource (one transaction with rows in eight tables), and as the worst case a row of HFJ_RESOURCE alone, in transactions
of one row and as one statement of many. Two servers that are alike take turns, so that both see the same machine. What the guard costs and
what the partitions cost is told apart by a third turn, on the partitioned one with the guard's triggers off. And what the guard takes of the
disk for each row, how long it takes to be filled in, and how long the swap holds its locks.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from _result import publish
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.modules import hfj_partition
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import CREATE, HapiTables

COUNT = 200_000
ROUNDS = 21
WRITERS = 2
SECONDS = 1.5
VARIANTS = ("plain", "open", "guarded")
BULK = 20_000
ALONE = (
    "INSERT INTO hfj_resource (res_id, fhir_id, has_tags, res_published, res_updated, res_type, res_ver)"
    " VALUES (%(id)s, %(id)s::text, true, now(), now(), 'Observation', 1)",
)
MANY = (
    "INSERT INTO hfj_resource (res_id, fhir_id, has_tags, res_published, res_updated, res_type, res_ver)"
    " SELECT i, i::text, true, now(), now(), 'Observation', 1 FROM generate_series(%(id)s, %(id)s + %(count)s - 1) i"
)


def step(site: HapiTables, name: str) -> tuple[dict[str, Any], float]:
    """Run one step of the module as Ansible does; returns its result and the seconds that it took."""
    login = {"service": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}
    args = {"project_dir": str(site.dir), **login, "table": "hfj_resource", "unique_guard": True, "step": name, "first_bound": 50_000_000}
    said = io.StringIO()
    begin = time.monotonic()
    with patch_module_args(args), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        hfj_partition.main()
    seconds = time.monotonic() - begin
    result: dict[str, Any] = json.loads(said.getvalue())
    if result.get("failed"):
        raise SystemExit(f"{name}: {result['msg']}")
    return result, seconds


class Ids:
    """Ids that nobody has had, each of them once."""

    def __init__(self) -> None:
        self._next = 1_000_000
        self._lock = threading.Lock()

    def take(self, count: int = 1) -> int:
        """Return the first of so many."""
        with self._lock:
            self._next += count
            return self._next - count


def rate(site: HapiTables, statements: tuple[str, ...], ids: Ids) -> float:
    """Resources per second of all writers, each resource in a transaction of its own."""
    done, end = [0] * WRITERS, time.monotonic() + SECONDS

    def work(number: int) -> None:
        connection = site.connection("postgres", "hapi_app")
        connection.autocommit = False
        cursor = connection.cursor()
        while time.monotonic() < end:
            id = ids.take()
            for statement in statements:
                cursor.execute(statement, {"id": id, "pid": id + 10**8, "token": id + 10**8})
            connection.commit()
            done[number] += 1
        connection.close()

    begin = time.monotonic()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - begin)


def many(site: HapiTables, ids: Ids) -> float:
    """Rows per second of one statement of many."""
    connection = site.connection("postgres", "hapi_app")
    try:
        begin = time.monotonic()
        connection.cursor().execute(MANY, {"id": ids.take(BULK), "count": BULK})
        return BULK / (time.monotonic() - begin)
    finally:
        connection.close()


def main() -> None:
    kinds = {"as HAPI": lambda site, ids: rate(site, CREATE, ids), "alone": lambda site, ids: rate(site, ALONE, ids), "many": many}
    rates: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in VARIANTS} for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        sites = {name: HapiTables(Path(folder) / name, f"guard-{name}") for name in ("plain", "guarded")}
        ids = {name: Ids() for name in sites}
        try:
            for site in sites.values():
                # As the lab's server, whose writes are not waited for on the disk: what is measured is the work.
                site.start(pooler="", max_connections=60, postgres_args="-c shared_buffers=256MB -c max_wal_size=4GB")
                site.template(COUNT)
                site.script("DROP DATABASE fhirdb WITH (FORCE); ALTER DATABASE hapi_filled RENAME TO fhirdb", "postgres")
                site.script("SELECT setval('seq_resource_id', 40000001)")
                site.script("VACUUM (PARALLEL 0, ANALYZE)")
            guarded = sites["guarded"]
            prepared, prepare_seconds = step(guarded, "prepare")
            fill_seconds = next(part["seconds"] for part in prepared["plan"] if part["action"] == "fill_guard")
            guarded.script("CHECKPOINT")
            swapped, dummy = step(guarded, "swap")
            held = swapped["lock"]["held_ms"]
            print(f"filled in {fill_seconds} s of {prepare_seconds:.1f} s, locks held for {held} ms", file=sys.stderr)
            size = int(guarded.script("SELECT pg_total_relation_size('hfj_resource_bd_guard')"))
            rows = int(guarded.script("SELECT count(*) FROM hfj_resource_bd_guard"))
            for number in range(ROUNDS):
                for kind, measure in kinds.items():
                    # In turn, and each first as often as the others.
                    for name in VARIANTS[number % 3 :] + VARIANTS[: number % 3]:
                        place = "plain" if name == "plain" else "guarded"
                        if name == "open":
                            guarded.script("ALTER TABLE hfj_resource DISABLE TRIGGER USER")
                        rates[kind][name].append(measure(sites[place], ids[place]))
                        if name == "open":
                            guarded.script("ALTER TABLE hfj_resource ENABLE TRIGGER USER")
                    print(f"{number} {kind}: " + ", ".join(f"{name} {rates[kind][name][-1]:.0f}/s" for name in VARIANTS), file=sys.stderr)
            after = int(guarded.script("SELECT pg_total_relation_size('hfj_resource_bd_guard')"))
            rows_after = int(guarded.script("SELECT count(*) FROM hfj_resource_bd_guard"))
            if rows_after < rows + ROUNDS * BULK:
                raise SystemExit("the guard has not seen what was written")
        finally:
            for site in sites.values():
                site.remove()
    figures: dict[str, float | int] = {}
    for kind, found in rates.items():
        word = kind.replace(" ", "_").lower()
        for name in VARIANTS:
            figures[f"{word}_{name}_per_s"] = statistics.median(found[name])
        for less, more in (("guarded", "plain"), ("guarded", "open"), ("open", "plain")):
            # Of each round by itself: what else runs on the machine meets both.
            ratio = statistics.median(one / other for one, other in zip(found[less], found[more], strict=True))
            figures[f"{word}_{less}_of_{more}_percent"] = 100 * ratio
    figures.update({
        "guard_bytes_per_row": size / rows, "guard_bytes_per_row_after": after / rows_after, "fill_rows_per_s": rows / fill_seconds, "lock_ms": held,
    })
    publish("guard", figures, {"rows": rows, "rates": rates, "prepare_seconds": prepare_seconds})


if __name__ == "__main__":
    main()
