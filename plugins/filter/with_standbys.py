# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: with_standbys
short_description: Add the standbys that the collection has made to the sides that an operator has named
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Returns the sides, each with the services that M(dghs.bd_fhir.deployment_info) found to be a standby of its database
    (C(standby_of)) in its C(standby_services), after those that are named there.
  - An inventory need not be edited when C(add_read_replica) or its way back was run.
positional: services
options:
  _input:
    description: The sides, as in C(bd_fhir_sides).
    type: list
    elements: dict
    required: true
  services:
    description: C(deployment.services) of M(dghs.bd_fhir.deployment_info).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Read the deployment
  dghs.bd_fhir.deployment_info:
    project_dir: /opt/bd-fhir-national
  register: read

- name: Count the connections of each database and of its standbys
  dghs.bd_fhir.connection_budget_info:
    project_dir: /opt/bd-fhir-national
    sides: "{{ bd_fhir_sides | dghs.bd_fhir.with_standbys(read.deployment.services) }}"
"""

RETURN = r"""
_value:
  description: The sides with all of their standbys.
  type: list
  elements: dict
  sample:
    - {database: fhirdb, database_service: postgres-fhir, name: fhir, standby_services: [postgres-fhir-replica]}
    - {database: auditdb, database_service: postgres-audit, name: audit, standby_services: []}
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def with_standbys(sides: Sequence[Mapping[str, Any]], services: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the sides, with the standbys that the services say they are."""
    found = []
    for side in sides:
        named = list(side.get("standby_services") or [])
        primary = side.get("database_service")
        ours = [name for name, service in sorted(services.items()) if primary and service.get("standby_of") == primary]
        found.append({**side, "standby_services": list(dict.fromkeys(named + ours))})
    return found


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name -> filter."""
        return {"with_standbys": with_standbys}
