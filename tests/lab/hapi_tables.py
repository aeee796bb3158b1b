# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of the pilot's HAPI, as psql and pg_dump in the server's container tell them, and rows for them through HAPI."""

from __future__ import annotations

from load import request
from pilot_host import on_host


def psql(query: str) -> str:
    argv = ("docker", "exec", "-i", "bd-postgres-fhir", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "fhirdb")
    return on_host(*argv, data=query).strip()


def schema() -> str:
    """The whole schema as pg_dump writes it, without what differs from one dump to the next."""
    text = on_host("docker", "exec", "bd-postgres-fhir", "pg_dump", "-U", "postgres", "-d", "fhirdb", "--schema-only")
    return "\n".join(line for line in text.splitlines() if not line.startswith(("--", "\\restrict", "\\unrestrict")))


def partitioned() -> list[str]:
    return psql("SELECT relname FROM pg_class WHERE relkind = 'p' AND relname !~ '_bd_new$' ORDER BY 1").split()


def parts(table: str) -> list[str]:
    return psql(f"SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = '{table}'::regclass ORDER BY 1").split()


def rows(table: str) -> int:
    return int(psql(f"SELECT count(*) FROM {table}"))


def fill(bundles: int) -> None:
    """Patients with observations, through HAPI."""
    for number in range(bundles):
        entries = []
        for index in range(20):
            patient = f"urn:uuid:00000000-0000-4000-8000-{number:06d}{index:06d}"
            code = {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]}
            entries += [
                {"fullUrl": patient, "request": {"method": "POST", "url": "Patient"},
                 "resource": {"resourceType": "Patient", "name": [{"family": f"Fill{index}"}], "birthDate": "1990-01-01",
                              "identifier": [{"system": "urn:bd-fhir:fill", "value": f"{number}-{index}"}]}},
                {"request": {"method": "POST", "url": "Observation"},
                 "resource": {"resourceType": "Observation", "status": "final", "code": code, "subject": {"reference": patient},
                              "effectiveDateTime": "2026-01-01", "valueString": "x"}},
            ]
        status, body, dummy = request("POST", "/fhir", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
        assert status == 200, body[:300]
