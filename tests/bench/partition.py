# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HFJ_SPIDX_TOKEN made the first partition of a new parent, at two sizes a factor of five apart, beside copying it into partitions.

Both ways end with the same indexes and the same foreign key. Copying does what a careful administrator would: the rows first, the
indexes after them, in one transaction that holds the lock, and is put back here. Searches are timed before and after.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _result import publish
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.modules import hfj_partition
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import HapiTables

TOKEN = "hfj_spidx_token"
SIZES = {"small": 125_000, "large": 625_000}
ROUNDS = 11
SEARCHES = {
    "token": "SELECT t.res_id FROM hfj_spidx_token t WHERE t.hash_sys_and_value = hashtextextended('3|id' || {id}, 0) LIMIT 20",
    "token, resource": "SELECT r.res_id FROM hfj_resource r JOIN hfj_spidx_token t ON t.res_id = r.res_id"
                       " WHERE t.hash_sys_and_value = hashtextextended('1|c' || {id} % 97, 0) AND r.res_type = 'Observation'"
                       " AND r.res_deleted_at IS NULL LIMIT 20",
    "by resource": "SELECT * FROM hfj_spidx_token WHERE res_id = {id}",
}


def step(site: HapiTables, name: str, table: str = TOKEN, **more: object) -> tuple[dict[str, Any], float]:
    """Run one step of the module as Ansible does; returns its result and the seconds that it took."""
    login = {"service": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}
    args = {"project_dir": str(site.dir), **login, "table": table, "step": name, **more}
    said = io.StringIO()
    begin = time.monotonic()
    with patch_module_args(args), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        hfj_partition.main()
    seconds = time.monotonic() - begin
    result: dict[str, Any] = json.loads(said.getvalue())
    if result.get("failed"):
        raise SystemExit(f"{name}: {result['msg']}")
    return result, seconds


def searches(site: HapiTables, count: int) -> dict[str, float]:
    """The median of each search in milliseconds, each with another value every time."""
    connection = site.connection("postgres", "hapi_app")
    found = {}
    try:
        cursor = connection.cursor()
        for name, text in SEARCHES.items():
            took = []
            for number in range(300):
                begin = time.monotonic()
                cursor.execute(text.format(id=1 + number * 811 % count))
                cursor.fetchall()
                took.append((time.monotonic() - begin) * 1000)
            found[name] = statistics.median(took)
    finally:
        connection.close()
    return found


def copied(site: HapiTables) -> float:
    """Milliseconds from the lock to the point where only the commit is missing."""
    connection = site.connection("postgres")
    try:
        connection.autocommit = False
        cursor = connection.cursor()
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE tablename = %s", (TOKEN,))
        indexes = [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f'", (TOKEN,))
        keys = [row[0] for row in cursor.fetchall()]
        begin = time.monotonic()
        cursor.execute(f"LOCK TABLE {TOKEN} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(f"CREATE TABLE copy (LIKE {TOKEN} INCLUDING DEFAULTS) PARTITION BY HASH (res_id)")
        for number in range(8):
            cursor.execute(f"CREATE TABLE copy_{number} PARTITION OF copy FOR VALUES WITH (MODULUS 8, REMAINDER {number})")
        cursor.execute(f"INSERT INTO copy SELECT * FROM {TOKEN}")
        for number, definition in enumerate(indexes):
            head, tail = definition.split(" USING ", 1)
            # The key of a partitioned table has to hold the column by which it is partitioned.
            columns = tail.replace("(sp_id)", "(sp_id, res_id)") if head.startswith("CREATE UNIQUE") else tail
            cursor.execute(f"{head.split(' INDEX ')[0]} INDEX copy_index_{number} ON copy USING {columns}")
        for key in keys:
            cursor.execute(f"ALTER TABLE copy ADD {key}")
        took = (time.monotonic() - begin) * 1000
        connection.rollback()
    finally:
        connection.close()
    return took


def main() -> None:
    locks: dict[str, list[float]] = {name: [] for name in SIZES}
    whole: dict[str, list[float]] = {name: [] for name in SIZES}
    copies: dict[str, list[float]] = {name: [] for name in SIZES}
    rows: dict[str, int] = {}
    times: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sites = {name: HapiTables(Path(folder) / name, f"part-{name}") for name in SIZES}
        try:
            for name, site in sites.items():
                begin = time.monotonic()
                site.start(pooler="", max_connections=60, postgres_args="-c shared_buffers=256MB -c max_wal_size=4GB -c maintenance_work_mem=256MB")
                site.template(SIZES[name], "hfj_resource", TOKEN)
                site.script("DROP DATABASE fhirdb WITH (FORCE); ALTER DATABASE hapi_filled RENAME TO fhirdb", "postgres")
                rows[name] = int(site.script(f"SELECT count(*) FROM {TOKEN}"))
                site.script("VACUUM (PARALLEL 0, ANALYZE)")
                print(f"{name}: {rows[name]} rows in {time.monotonic() - begin:.0f} s", file=sys.stderr)
                times[name] = {"plain": [], "partitioned": []}
            for number in range(ROUNDS):
                # In turn, so that both sizes and both ways see the same machine.
                for name, site in sites.items():
                    if number < (3 if name == "large" else 1):
                        copies[name].append(copied(site))
                        print(f"{name} {number}: copy {copies[name][-1]:.0f} ms", file=sys.stderr)
                    times[name]["plain"].append(searches(site, SIZES[name]))
                    prepared = step(site, "prepare")[1]
                    # What the index has left to be written would compete with the lock; in a real run a calm hour lies between the two.
                    site.script("CHECKPOINT")
                    result, swapped = step(site, "swap")
                    print(f"{name} {number}: prepare {prepared:.1f} s, lock {result['lock']}", file=sys.stderr)
                    locks[name].append(result["lock"]["held_ms"])
                    whole[name].append(prepared + swapped)
                    site.script("ANALYZE")
                    times[name]["partitioned"].append(searches(site, SIZES[name]))
                    step(site, "undo")
        finally:
            for site in sites.values():
                site.remove()
    lock = {name: statistics.median(values) for name, values in locks.items()}
    copy = {name: statistics.median(values) for name, values in copies.items()}
    medians = {name: {way: {search: statistics.median(row[search] for row in rounds) for search in SEARCHES} for way, rounds in ways.items()}
               for name, ways in times.items()}
    publish("partition", {
        "attach_lock_ms_small": lock["small"], "attach_lock_ms_large": lock["large"], "copy_lock_ms_large": copy["large"],
        "copy_over_attach": copy["large"] / lock["large"], "large_over_small": lock["large"] / lock["small"],
    }, {
        "rows": rows, "locks_ms": locks, "copies_ms": copies, "attach_seconds": whole, "searches_median_ms": medians, "searches_ms": times,
    })


if __name__ == "__main__":
    main()
