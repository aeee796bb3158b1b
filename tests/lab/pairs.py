# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes through one replica and reads through another one at once; runs on the lab's host, past the balancer.

Arguments: how many pairs, seconds at most, and the replicas' addresses. Every second pair brings the mark of its write with it.
Prints one JSON object: how many pairs, stale answers, errors, and the milliseconds of the reads, sorted.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import threading
import time

HEADERS = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}


def main() -> None:
    pairs, seconds, addresses = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    numbers, end = itertools.count(), time.monotonic() + seconds
    stale: list[str] = []
    errors: list[str] = []
    took: list[float] = []

    def ask(address: str, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection(address, 8080, timeout=60)
        try:
            connection.request(method, path, body, {**HEADERS, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("X-FHIR-Read-After") or ""
        finally:
            connection.close()

    def work() -> None:
        while time.monotonic() < end:
            number = next(numbers)
            if number >= pairs:
                return
            writer, reader = addresses[number % len(addresses)], addresses[(number + 1) % len(addresses)]
            try:
                value = f"pair-{number}-{time.time_ns()}"
                patient = {"resourceType": "Patient", "identifier": [{"system": "urn:bd-fhir:pair", "value": value}]}
                status, body, mark = ask(writer, "POST", "/fhir/Patient", json.dumps(patient), {})
                if status != 201:
                    errors.append(f"write {status}: {body[:200]!r}")
                    continue
                identity = json.loads(body)["id"]
                begin = time.monotonic()
                path = f"/fhir/Patient/{identity}" if number % 4 < 2 else f"/fhir/Patient?identifier=urn:bd-fhir:pair%7C{value}"
                status, body, _mark = ask(reader, "GET", path, None, {"X-FHIR-Read-After": mark} if number % 2 and mark else {})
                took.append((time.monotonic() - begin) * 1000)
                if status == 404 or status == 200 and value not in body.decode():
                    stale.append(f"{path}: {status}")
                elif status != 200:
                    errors.append(f"read {status}: {body[:200]!r}")
            except (OSError, http.client.HTTPException, ValueError) as exc:
                errors.append(f"{type(exc).__name__}: {exc}")

    threads = [threading.Thread(target=work) for _number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"pairs": len(took), "stale": stale[:10], "errors": errors[:10], "ms": sorted(round(item, 1) for item in took)}))


if __name__ == "__main__":
    main()
