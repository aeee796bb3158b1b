# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a small FHIR package in the form of the national core IG: same id, file name and canonical, one profile."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

CANONICAL = "https://fhir.dghs.gov.bd/core"
PACKAGE_ID = "bd.fhir.core"


def _documents(version: str) -> dict[str, dict[str, object]]:
    return {
        "package/package.json": {
            "name": PACKAGE_ID,
            "version": version,
            "canonical": CANONICAL,
            "url": f"{CANONICAL}/{version}",
            "title": "BD Core (lab)",
            "fhirVersions": ["4.0.1"],
            "dependencies": {"hl7.fhir.r4.core": "4.0.1"},
        },
        f"package/ImplementationGuide-{PACKAGE_ID}.json": {
            "resourceType": "ImplementationGuide",
            "id": PACKAGE_ID,
            "url": f"{CANONICAL}/ImplementationGuide/{PACKAGE_ID}",
            "version": version,
            "name": "BDCore",
            "status": "active",
            "packageId": PACKAGE_ID,
            "fhirVersion": ["4.0.1"],
        },
        "package/StructureDefinition-bd-patient.json": {
            "resourceType": "StructureDefinition",
            "id": "bd-patient",
            "url": f"{CANONICAL}/StructureDefinition/bd-patient",
            "version": version,
            "name": "BDPatient",
            "status": "active",
            "kind": "resource",
            "abstract": False,
            "type": "Patient",
            "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Patient",
            "derivation": "constraint",
            "differential": {"element": [{"id": "Patient.identifier", "path": "Patient.identifier", "min": 1}]},
        },
    }


def write(folder: Path, version: str) -> Path:
    """Write ``bd.gov.dghs.core-<version>.tgz`` into ``folder`` and return its path; the same version gives the same bytes."""
    target = folder / f"bd.gov.dghs.core-{version}.tgz"
    with target.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed, \
            tarfile.open(fileobj=packed, mode="w") as archive:
        for name, document in _documents(version).items():
            data = json.dumps(document, indent=1, sort_keys=True).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target
