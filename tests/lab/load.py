# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A steady load of FHIR reads and writes through the entry point, with a ledger of every acknowledged write.

Each request uses a connection of its own: a kept-alive connection that a server closes while it is idle can fail the
next request at the client, whatever the server does, and would be counted as our failure.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lab import CACHE, run
from pilot_host import HOST, PORT

HEADERS = {"Host": "fhir.dghs.gov.bd", "Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}


def request(
    method: str, path: str, body: object = None, timeout: float = 60, headers: dict[str, str] | None = None,
    port: int = PORT,
) -> tuple[int, bytes, dict[str, str]]:
    """One request over TLS through the lab's nginx; returns status, body and headers."""
    context = ssl.create_default_context(cafile=str(CACHE / "ca.crt"))
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=context)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {**HEADERS, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read(), {key.lower(): value for key, value in answer.getheaders()}
    finally:
        connection.close()


def patient(run: str, number: int) -> dict[str, Any]:
    return {"resourceType": "Patient", "identifier": [{"system": "urn:bd-fhir:load", "value": f"{run}-{number}"}],
            "name": [{"family": f"Load{number}", "given": ["Steady"]}], "birthDate": "1990-01-01"}


@dataclass
class Ledger:
    """What was sent and what came back."""

    sent: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    # When, in seconds since 1970, a request was told to come again, and after how many seconds.
    refused: list[tuple[float, int]] = field(default_factory=list)
    seconds: float = 0.0
    # Seconds of the slowest request.
    longest: float = 0.0

    @property
    def rate(self) -> float:
        return sum(self.sent.values()) / self.seconds if self.seconds else 0.0


class Load:
    """``rate`` requests a second, every second one a write, spread over ``workers`` threads, for at most ``limit`` seconds.

    With ``announced``, an answer of 503 with Retry-After is no failure: it is kept in ``refused``, to be held against a window.
    """

    def __init__(
        self, rate: float = 10, workers: int = 10, limit: float = 1800, database: tuple[str, str] = ("bd-postgres-fhir", "fhirdb"),
        announced: bool = False, port: int = PORT,
    ) -> None:
        self.rate = rate
        self.workers = workers
        self.limit = limit
        self.database = database
        self.announced = announced
        self.port = port
        self.run = uuid.uuid4().hex[:8]
        self.ledger = Ledger()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._started = 0.0
        self._number = 0

    def __enter__(self) -> Load:
        self._started = time.monotonic()
        for index in range(self.workers):
            thread = threading.Thread(target=self._work, args=(index,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *dummy: object) -> None:
        self.stop()

    def stop(self) -> Ledger:
        """Let the requests under way end, then return the ledger."""
        if not self._stop.is_set():
            self._stop.set()
            for thread in self._threads:
                thread.join(timeout=90)
                if thread.is_alive():
                    self._count("none", "a request did not end within 90 s")
            if len(self.ledger.written) < 10:
                self._count("none", f"only {len(self.ledger.written)} writes were acknowledged: that is no load")
            self.ledger.seconds = time.monotonic() - self._started
        return self.ledger

    def failed(self) -> int:
        with self._lock:
            return len(self.ledger.failures)

    def _work(self, index: int) -> None:
        interval = self.workers / self.rate
        due = self._started + interval * index / self.workers
        while not self._stop.is_set() and time.monotonic() - self._started < self.limit:
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            # After a slow answer the pace is kept from now on: catching up would turn a hiccup into a storm.
            due = max(due + interval, time.monotonic())
            with self._lock:
                self._number += 1
                number = self._number
                known = next(reversed(self.ledger.written), None)
            begun = time.monotonic()
            if number % 2 or known is None:
                self._write(number)
            elif number % 4:
                self._read(f"/fhir/{known}", "read")
            else:
                self._read(f"/fhir/Patient?identifier=urn:bd-fhir:load%7C{self.run}-{number - 3}", "search")
            with self._lock:
                self.ledger.longest = max(self.ledger.longest, time.monotonic() - begun)

    def _count(self, kind: str, failure: str = "") -> None:
        with self._lock:
            self.ledger.sent[kind] += 1
            if failure:
                self.ledger.failures.append(f"{time.monotonic() - self._started:7.1f}s {kind}: {failure}")

    def _refused(self, kind: str, status: int, headers: dict[str, str]) -> bool:
        """Tell, and note, whether a request was told to come again where that may be."""
        if not (self.announced and status == 503 and headers.get("retry-after", "").isdigit()):
            return False
        self._count(kind)
        with self._lock:
            self.ledger.refused.append((time.time(), int(headers["retry-after"])))
        return True

    def _write(self, number: int) -> None:
        try:
            status, body, headers = request("POST", "/fhir/Patient", patient(self.run, number), port=self.port)
            if self._refused("write", status, headers):
                return
            if status != 201:
                self._count("write", f"{status}: {body[:200]!r}")
                return
            reference = f"Patient/{json.loads(body)['id']}"
        except (OSError, http.client.HTTPException, ValueError, KeyError) as exc:
            self._count("write", f"{type(exc).__name__}: {exc}")
            return
        self._count("write")
        with self._lock:
            self.ledger.written[reference] = f"{self.run}-{number}"

    def _read(self, path: str, kind: str) -> None:
        try:
            status, body, headers = request("GET", path, port=self.port)
        except (OSError, http.client.HTTPException) as exc:
            self._count(kind, f"{type(exc).__name__}: {exc}")
            return
        if self._refused(kind, status, headers):
            return
        self._count(kind, "" if status == 200 else f"{status} {path}: {body[:200]!r}")

    def lost(self) -> list[str]:
        """Every acknowledged write is read back through the entry point; returns those that are not there, or there twice."""
        missing = []
        pending = list(self.ledger.written.items())
        while pending:
            chunk, pending = dict(pending[:50]), pending[50:]
            ids = ",".join(reference.split("/")[1] for reference in chunk)
            status, body, dummy = request("GET", f"/fhir/Patient?_id={ids}&_count=50", port=self.port)
            entries = json.loads(body).get("entry", []) if status == 200 else []
            found = {f"Patient/{entry['resource']['id']}": entry["resource"]["identifier"][0]["value"] for entry in entries}
            missing += [f"{reference}: {found.get(reference, status)}" for reference, value in chunk.items() if found.get(reference) != value]
        # A POST that was sent twice would leave two resources with one identifier.
        counted = self._count_stored()
        if counted != len(self.ledger.written) and not self.ledger.failures:
            missing.append(f"{counted} resources are stored, {len(self.ledger.written)} were acknowledged")
        return missing

    def _count_stored(self) -> int:
        """How many resources of this run the server has, by the database: a search would be paged."""
        sql = ("SELECT count(DISTINCT t.res_id) FROM hfj_spidx_token t JOIN hfj_resource r ON r.res_id = t.res_id"
               f" WHERE r.res_deleted_at IS NULL AND t.sp_name = 'identifier' AND t.sp_value LIKE '{self.run}-%'")
        container, database = self.database
        return int(run("docker", "exec", HOST, "docker", "exec", container, "psql", "-U", "postgres", "-d", database, "-tAc", sql).strip())
