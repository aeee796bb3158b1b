# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: former_pool_decisions
short_description: Decide how poolers and databases get their former sizes back
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Takes what M(dghs.bd_fhir.connection_budget_info) reads now and what P(dghs.bd_fhir.pool_memory#filter) has written down, and
    returns for each remembered side what its pooler and its databases are to become, in the form of P(dghs.bd_fhir.pool_decisions#filter).
  - What was written is taken back only where it still stands. A size that the owner has changed since is the owner's.
  - It reads nothing and changes nothing.
positional: sides, memory
options:
  _input:
    description: The result of M(dghs.bd_fhir.connection_budget_info).
    type: dict
    required: true
  sides:
    description: The sides, as that module took them.
    type: list
    elements: dict
    required: true
  memory:
    description: What is remembered of each side, by its name.
    type: dict
    required: true
seealso:
  - plugin: dghs.bd_fhir.pool_decisions
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Say what the way back leads to
  ansible.builtin.debug:
    msg: "{{ budget | dghs.bd_fhir.former_pool_decisions(bd_fhir_sides, memory) }}"
"""

RETURN = r"""
_value:
  description:
    - As from P(dghs.bd_fhir.pool_decisions#filter). A database whose V(max_connections) is V(null) gets back what its C(postgresql.conf) says.
    - A setting of the pooler that is V(null) stood nowhere before. C(on_line) has what the database's line in the file of pgBouncer said
      of one. M(dghs.bd_fhir.pgbouncer_pool) takes both as they are.
    - C(stays) is the former C(max_connections) where it would be too few for a size that the owner has set since, so that the databases of
      the side stay as they are, V(null) elsewhere.
    - C(fits) is whether the replicas that were counted fit into the former pool.
  type: dict
  sample:
    fhir:
      capped_by: ''
      changes:
        - after_primary: false
          lower: true
          pooler: {admin_password_variable: FHIR_DB_APP_PASSWORD, admin_user: hapi_app, service: pgbouncer-fhir}
          restart: window
          service: postgres-fhir
          side: {database: fhirdb, database_service: postgres-fhir, name: fhir}
          standbys: []
          value: null
      databases: {postgres-fhir: null}
      fits: true
      least_pool: 15
      needed: 25
      on_line: {}
      pool: 20
      settings: {default_pool_size: '20'}
      stays: null
      side: {database: fhirdb, database_service: postgres-fhir, name: fhir}
      touched: true
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..module_utils._decisions import go_back_all

Report = Mapping[str, Any]


def former_pool_decisions(budget: Report, sides: Sequence[Report], memory: Report) -> dict[str, dict[str, Any]]:
    """Return side -> what it becomes on the way back."""
    return {name: item.report() for name, item in go_back_all(budget, sides, memory).items()}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name -> filter."""
        return {"former_pool_decisions": former_pool_decisions}
