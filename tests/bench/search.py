# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What HAPI answers from plain and from partitioned tables: the real server, the same resources, in turn, with other values every time.

Each round asks the plain tables, then the same tables as first partitions of new parents, and then the plain ones that have come back:
the two plain halves of a round tell how much of a difference is the machine's.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from _result import publish
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import HapiTables, fhir, for_hapi, hapi
from partition import step

TABLES = [
    "hfj_spidx_token", "hfj_spidx_string", "hfj_spidx_date", "hfj_spidx_number", "hfj_spidx_quantity", "hfj_spidx_uri", "hfj_spidx_coords",
    "hfj_res_link", "hfj_res_tag", "hfj_res_ver",
]  # fmt: skip
PATIENTS = 10_000
BUNDLE = 250
ROUNDS = 7
ASKED = 60
REQUESTS = {
    "read": "Patient/p{n}",
    "history": "Patient/p{n}/_history",
    "token": "Patient?identifier=http://example.org/id%7C{n}",
    "string": "Patient?family=Name{n}",
    "reference": "Observation?subject=Patient/p{n}",
    "chained": "Observation?subject:Patient.family=Name{n}",
    "token, 50 found": "Patient?active=true&_lastUpdated=gt2020-01-01T00:00:{turn:02}Z&_count=50&birthdate=19{y:02}-01-01",
}


def entry(method: str, url: str, resource: dict[str, object]) -> dict[str, object]:
    return {"resource": resource, "request": {"method": method, "url": url}}


def fill(base: str) -> None:
    """Patients with ids of our own, and an observation of each, by HAPI itself."""
    for first in range(0, PATIENTS, BUNDLE):
        entries = []
        for n in range(first, first + BUNDLE):
            entries.append(entry("PUT", f"Patient/p{n}", {
                "resourceType": "Patient", "id": f"p{n}", "active": True, "birthDate": f"19{n % 100:02}-01-01", "name": [{"family": f"Name{n}"}],
                "identifier": [{"system": "http://example.org/id", "value": str(n)}],
            }))
            entries.append(entry("POST", "Observation", {
                "resourceType": "Observation", "status": "final", "subject": {"reference": f"Patient/p{n}"},
                "code": {"coding": [{"system": "http://example.org/codes", "code": f"c{n % 97}"}]},
                "valueQuantity": {"value": n % 200, "unit": "g"},
            }))
        status, answer = fhir(f"{base}/fhir", "POST", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
        if status != 200:
            raise SystemExit(f"the resources from {first} on were not taken: {status} {answer}")


def ask(base: str, turn: int) -> dict[str, float]:
    """The median of each request in milliseconds; no value is asked for twice, since HAPI keeps what a search has found."""
    found = {}
    for name, path in REQUESTS.items():
        took = []
        for number in range(ASKED):
            n = (turn * ASKED + number) * 7 % PATIENTS
            begin = time.monotonic()
            url = path.format(n=n, y=n % 100, turn=turn)
            status, answer = fhir(f"{base}/fhir/{url}")
            took.append((time.monotonic() - begin) * 1000)
            if status != 200 or ("?" in path and not answer.get("entry")):
                raise SystemExit(f"{url}: {status} {answer}")
        found[name] = statistics.median(took)
    return found


def main() -> None:
    halves: dict[str, dict[str, list[float]]] = {name: {"plain": [], "partitioned": [], "plain again": []} for name in REQUESTS}
    with tempfile.TemporaryDirectory() as folder:
        site = HapiTables(Path(folder) / "site", "search")
        try:
            site.start(pooler="", max_connections=60, postgres_args="-c shared_buffers=256MB -c max_wal_size=4GB")
            for_hapi(site)
            # As behind a pooler in transaction mode, where the driver may keep no prepared statement.
            url = f"jdbc:postgresql://{site.address('postgres')}:5432/fhirdb?prepareThreshold=0"
            with hapi(site, HAPI_DATASOURCE_URL=url) as base:
                site.until("HAPI", lambda: fhir(f"{base}/fhir/metadata")[0] == 200, 600)
                begin = time.monotonic()
                fill(base)
                site.script("VACUUM (PARALLEL 0, ANALYZE)")
                print(f"{PATIENTS} patients in {time.monotonic() - begin:.0f} s", file=sys.stderr)
                ask(base, 0)
                for number in range(ROUNDS):
                    for half, way in enumerate(("plain", "partitioned", "plain again")):
                        if way == "partitioned":
                            bound = int(site.script("SELECT last_value FROM seq_resource_id")) + 50_000
                            for table in TABLES:
                                step(site, "prepare", table, first_bound=bound)
                                step(site, "swap", table)
                            site.script("ANALYZE")
                        for name, took in ask(base, 1 + number * 3 + half).items():
                            halves[name][way].append(took)
                        if way == "partitioned":
                            for table in reversed(TABLES):
                                step(site, "undo", table)
                            site.script("ANALYZE")
                    last = (f"{name} {' '.join(f'{values[-1]:.1f}' for values in ways.values())}" for name, ways in halves.items())
                    print(f"round {number}: " + ", ".join(last), file=sys.stderr)
        finally:
            site.remove()
    medians = {name: {way: statistics.median(values) for way, values in ways.items()} for name, ways in halves.items()}
    figures = {}
    for name, ways in medians.items():
        key = name.replace(", ", "_").replace(" ", "_")
        plain = (ways["plain"] + ways["plain again"]) / 2
        figures[f"{key}_partitioned_over_plain"] = ways["partitioned"] / plain
        figures[f"{key}_plain_over_plain"] = ways["plain again"] / ways["plain"]
    publish("search", figures, {"patients": PATIENTS, "rounds_ms": halves, "medians_ms": medians})


if __name__ == "__main__":
    main()
