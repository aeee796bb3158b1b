# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: pool_decisions
short_description: Decide the sizes of poolers and databases from the budget of their connections
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Takes what M(dghs.bd_fhir.connection_budget_info) has counted and proposes, what an operator asks for in its place, and what an
    earlier run has written down, and returns for each side what its pooler and its databases are to become, and how.
  - It reads nothing and changes nothing.
positional: sides, memory
options:
  _input:
    description: The result of M(dghs.bd_fhir.connection_budget_info), its C(sides) and C(proposals).
    type: dict
    required: true
  sides:
    description: The sides, as that module took them.
    type: list
    elements: dict
    required: true
  memory:
    description: What is remembered of each side, by its name, from P(dghs.bd_fhir.pool_memory#filter).
    type: dict
    default: {}
  margin:
    description: Connections that a C(max_connections) has to spare where the proposed one does not suffice.
    type: int
    default: 3
  pool_sizes:
    description: Size of the pool of a side by its name, in place of the proposed one.
    type: dict
    default: {}
  max_connections:
    description: Value of C(max_connections) of a side's primary by the side's name, in place of what is enough.
    type: dict
    default: {}
  settings:
    description: Further settings of a side's pooler by the side's name.
    type: dict
    default: {}
seealso:
  - module: dghs.bd_fhir.connection_budget_info
  - plugin: dghs.bd_fhir.former_pool_decisions
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Count the connections for five replicas
  dghs.bd_fhir.connection_budget_info:
    project_dir: /opt/bd-fhir-national
    replicas: 5
    sides: "{{ bd_fhir_sides }}"
  register: budget

- name: Say what they need
  ansible.builtin.debug:
    msg: "{{ item.key }}: a pool of {{ item.value.pool }}, max_connections {{ item.value.databases }}"
  loop: "{{ budget | dghs.bd_fhir.pool_decisions(bd_fhir_sides) | dict2items }}"
"""

RETURN = r"""
_value:
  description:
    - For each side by its name, the settings of its pooler, what V(max_connections) of each database becomes (C(databases)), and
      the changes of the databases in the order in which they are raised, each with how it is restarted.
    - C(pool) is what HAPI's pool then gives, and C(capped_by) what makes it smaller than its size. C(least_pool) is the pool, and
      C(needed) the C(max_connections), without which it would not work. C(fits) is whether the sizes suffice.
    - C(touched) is whether there is anything to do or was in an earlier run. C(stays) is for the way back, and V(null) here.
  type: dict
  sample:
    fhir:
      capped_by: ''
      changes:
        - after_primary: false
          lower: false
          pooler: {admin_password_variable: FHIR_DB_APP_PASSWORD, admin_user: hapi_app, service: pgbouncer-fhir}
          restart: window
          service: postgres-fhir
          side: {database: fhirdb, database_service: postgres-fhir, name: fhir}
          standbys: []
          value: 40
      databases: {postgres-fhir: 40}
      fits: true
      least_pool: 30
      needed: 35
      on_line: {}
      pool: 30
      settings: {default_pool_size: 30}
      stays: null
      side: {database: fhirdb, database_service: postgres-fhir, name: fhir}
      touched: true
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from ..module_utils._decisions import Wishes, decide_all, number

Report = Mapping[str, Any]


def pool_decisions(
    budget: Report,
    sides: Sequence[Report],
    memory: Optional[Report] = None,
    margin: int = 3,
    pool_sizes: Optional[Report] = None,
    max_connections: Optional[Report] = None,
    settings: Optional[Report] = None,
) -> dict[str, dict[str, Any]]:
    """Return side -> what it shall become."""
    pools, connections, others = pool_sizes or {}, max_connections or {}, settings or {}
    wishes = {side["name"]: Wishes(pools.get(side["name"]), connections.get(side["name"]), others.get(side["name"]) or {}) for side in sides}
    return {name: item.report() for name, item in decide_all(budget, sides, memory or {}, number(margin), wishes).items()}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name -> filter."""
        return {"pool_decisions": pool_decisions}
