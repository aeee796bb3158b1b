# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which standbys a side has: those that an operator names, and those that the deployment tells."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.filter.with_standbys import FilterModule

with_standbys = FilterModule().filters()["with_standbys"]
SERVICES = {
    "postgres-fhir": {"standby_of": ""},
    "z-replica": {"standby_of": "postgres-fhir"},
    "postgres-fhir-replica-gate": {"standby_of": "postgres-fhir"},
    "trail-replica": {"standby_of": "trail-db"},
    "hapi": {},
}


@pytest.mark.parametrize(
    ("side", "standbys"),
    [
        ({"database_service": "postgres-fhir"}, ["postgres-fhir-replica-gate", "z-replica"]),
        # As docs/inventory.md has it.
        ({"database_service": "postgres-fhir", "standby_services": []}, ["postgres-fhir-replica-gate", "z-replica"]),
        ({"database_service": "postgres-fhir", "standby_services": None}, ["postgres-fhir-replica-gate", "z-replica"]),
        ({"database_service": "postgres-fhir", "standby_services": ["own", "z-replica"]}, ["own", "z-replica", "postgres-fhir-replica-gate"]),
        ({"database_service": "trail-db", "standby_services": []}, ["trail-replica"]),
        ({"database_service": "postgres-audit", "standby_services": ["own"]}, ["own"]),
        ({}, []),
    ],
)
def test_named_ones_and_found_ones(side: dict[str, Any], standbys: list[str]) -> None:
    before = {**side}
    assert with_standbys([{"name": "fhir", **side}], SERVICES) == [{"name": "fhir", **side, "standby_services": standbys}]
    assert side == before


def test_nothing_read_yet() -> None:
    assert with_standbys([{"database_service": "postgres-fhir"}], {}) == [{"database_service": "postgres-fhir", "standby_services": []}]
    assert with_standbys([], SERVICES) == []
