# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same reads, in turn with and without the routing to the standby, while others write; runs on the lab's host, past the balancer.

Arguments: seconds, and the replicas' addresses. ``Cache-Control: no-cache`` is what sends a read to the primary.
Prints one JSON object: the milliseconds of each route, sorted, the number of writes, and errors.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import threading
import time

HEADERS = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
OFF = {"Cache-Control": "no-cache"}


def main() -> None:
    seconds, addresses = float(sys.argv[1]), itertools.cycle(sys.argv[2:])
    lock = threading.Lock()
    errors: list[str] = []
    took: dict[str, list[float]] = {"standby": [], "primary": []}
    known: list[str] = []

    def ask(method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        with lock:
            address = next(addresses)
        connection = http.client.HTTPConnection(address, 8080, timeout=60)
        try:
            connection.request(method, path, body, {**HEADERS, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def write(number: int) -> None:
        patient = {"resourceType": "Patient", "name": [{"family": f"Route{number % 50}"}],
                   "identifier": [{"system": "urn:bd-fhir:route", "value": f"{time.time_ns()}"}]}
        status, body = ask("POST", "/fhir/Patient", json.dumps(patient))
        if status == 201:
            known.append(json.loads(body)["id"])
        else:
            errors.append(f"write {status}: {body[:200]!r}")

    for number in range(100):
        write(number)
    end = time.monotonic() + seconds

    def read(first: int) -> None:
        for number in itertools.count(first):
            if time.monotonic() > end:
                return
            path = f"/fhir/Patient/{known[number * 7 % 100]}" if number % 2 else f"/fhir/Patient?family=Route{number % 50}&_count=20"
            # The same request both ways, one right after the other, so that both see the same machine; which comes first changes.
            routes = ["standby", "primary"]
            for route in routes if number % 4 < 2 else reversed(routes):
                begin = time.monotonic()
                status, body = ask("GET", path, None, OFF if route == "primary" else None)
                took[route].append((time.monotonic() - begin) * 1000)
                if status != 200:
                    errors.append(f"{route} {status}: {body[:200]!r}")

    def keep_writing() -> None:
        for number in itertools.count():
            if time.monotonic() > end:
                return
            write(number)
            time.sleep(0.2)

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)] + [threading.Thread(target=keep_writing)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"ms": {route: sorted(round(item, 1) for item in values) for route, values in took.items()},
                      "writes": len(known), "errors": errors[:10]}))


if __name__ == "__main__":
    main()
