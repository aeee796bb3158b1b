# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""New resources per second with HFJ_RESOURCE plain, and partitioned with a guard in the place of its unique index, side by side.

As HAPI writes a resource (one transaction with rows in eight tables), and as the worst case a row of HFJ_RESOURCE alone, in transactions
of one row and as one statement of many. A third server has the partitions without the guard, so that both prices are told apart. They take
turns of a few transactions each, and the median time of a transaction is told: what else runs on the machine meets all of them, and bursts of
it do not count. And what the guard takes of the disk for each row, how quickly it is filled in, and how long the swap holds its locks.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from _result import publish
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import CREATE, HapiTables
from partition import step

COUNT = 200_000
VARIANTS = ("plain", "open", "guarded")
TURNS = 150
TRANSACTIONS = 20
# Turns that do not count: sessions that have no plans yet, pages that nobody has read.
WARM = 10
BULKS = 15
BULK = 20_000
ALONE = (
    "INSERT INTO hfj_resource (res_id, fhir_id, has_tags, res_published, res_updated, res_type, res_ver)"
    " VALUES (%(id)s, %(id)s::text, true, now(), now(), 'Observation', 1)",
)
MANY = (
    "INSERT INTO hfj_resource (res_id, fhir_id, has_tags, res_published, res_updated, res_type, res_ver)"
    " SELECT i, i::text, true, now(), now(), 'Observation', 1 FROM generate_series(%(id)s, %(id)s + %(count)s - 1) i",
)
CHOICE = {"table": "hfj_resource", "unique_guard": True, "first_bound": 50_000_000}


class Writer:
    """A session that writes resources with ids that nobody has had."""

    def __init__(self, site: HapiTables) -> None:
        self._connection = site.connection("postgres", "hapi_app")
        self._connection.autocommit = False
        self._cursor = self._connection.cursor()
        self._next = 1_000_000

    def once(self, statements: tuple[str, ...], count: int = 1) -> float:
        """Write so many resources in one transaction; return the seconds that it took."""
        id, self._next = self._next, self._next + count
        values = {"id": id, "pid": id + 10**8, "token": id + 10**8, "count": count}
        begin = time.perf_counter()
        for statement in statements:
            self._cursor.execute(statement, values)
        self._connection.commit()
        return time.perf_counter() - begin

    def close(self) -> None:
        """End the session."""
        self._connection.close()


def in_turn(writers: dict[str, Writer], statements: tuple[str, ...], turns: int, transactions: int, count: int = 1) -> dict[str, list[float]]:
    """Let the variants take turns, each first as often as the others; return the seconds of each transaction."""
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    warm = WARM if count == 1 else 1
    for number in range(-warm, turns):
        for name in VARIANTS[number % 3 :] + VARIANTS[: number % 3]:
            took = [writers[name].once(statements, count) for _number in range(transactions)]
            found[name] += took if number >= 0 else []
    return found


def main() -> None:
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sites = {name: HapiTables(Path(folder) / name, f"guard-{name}") for name in VARIANTS}
        guarded = sites["guarded"]
        try:
            for name, site in sites.items():
                site.start(pooler="", max_connections=60, postgres_args="-c shared_buffers=128MB -c max_wal_size=4GB")
                site.template(COUNT)
                site.script("DROP DATABASE fhirdb WITH (FORCE); ALTER DATABASE hapi_filled RENAME TO fhirdb", "postgres")
                site.script("SELECT setval('seq_resource_id', 40000001)")
                site.script("VACUUM (PARALLEL 0, ANALYZE)")
                if name != "plain":
                    prepared, dummy = step(site, "prepare", **CHOICE)
                    site.script("CHECKPOINT")
                    swapped, dummy = step(site, "swap", **CHOICE)
            sites["open"].script("ALTER TABLE hfj_resource DISABLE TRIGGER USER")
            fill = next(part["seconds"] for part in prepared["plan"] if part["action"] == "fill_guard")
            held = swapped["lock"]["held_ms"]
            size, rows = guard_size(guarded)
            print(f"{rows} rows filled in {fill} s, locks held for {held} ms", file=sys.stderr)
            writers = {name: Writer(site) for name, site in sites.items()}
            for kind, statements, turns, transactions, count in (
                ("as_hapi", CREATE, TURNS, TRANSACTIONS, 1), ("alone", ALONE, TURNS, TRANSACTIONS, 1), ("many", MANY, BULKS, 1, BULK),
            ):  # fmt: skip
                times[kind] = in_turn(writers, statements, turns, transactions, count)
                print(f"{kind}: {({name: round(statistics.median(took) * 1000, 3) for name, took in times[kind].items()})} ms", file=sys.stderr)
            for writer in writers.values():
                writer.close()
            after, rows_after = guard_size(guarded)
            if rows_after != int(guarded.script("SELECT count(*) FROM hfj_resource")):
                raise SystemExit("the guard is not whole")
        finally:
            for site in sites.values():
                site.remove()
    figures: dict[str, float | int] = {}
    for kind, found in times.items():
        median = {name: statistics.median(took) for name, took in found.items()}
        each = BULK if kind == "many" else 1
        figures.update({f"{kind}_{name}_per_s": each / seconds for name, seconds in median.items()})
        figures[f"{kind}_guarded_of_plain_percent"] = 100 * median["plain"] / median["guarded"]
        figures[f"{kind}_open_of_plain_percent"] = 100 * median["plain"] / median["open"]
        figures[f"{kind}_guard_us"] = (median["guarded"] - median["open"]) / each * 1e6
    figures.update({
        "guard_bytes_per_row": size / rows, "guard_bytes_per_row_after": after / rows_after, "fill_rows_per_s": rows / fill, "lock_ms": held,
    })
    quartiles = {kind: {name: statistics.quantiles(took) for name, took in found.items()} for kind, found in times.items()}
    publish("guard", figures, {"rows": rows, "quartiles_s": quartiles})


def guard_size(site: HapiTables) -> tuple[int, int]:
    """Bytes of the guard with its index, and its rows."""
    size, rows = site.script("SELECT pg_total_relation_size('hfj_resource_bd_guard'), (SELECT count(*) FROM hfj_resource_bd_guard)").split("|")
    return int(size), int(rows)


if __name__ == "__main__":
    main()
