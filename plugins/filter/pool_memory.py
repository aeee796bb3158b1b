# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: pool_memory
short_description: Note what poolers and databases are before they are changed
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Adds to what is remembered of each side what it is now and what it shall be, so that P(dghs.bd_fhir.former_pool_decisions#filter)
    knows the way back.
  - What was remembered first stays. The way back leads to the owner's own sizes, not to those of the last run.
  - It reads nothing and changes nothing.
positional: decisions, budget, settings
options:
  _input:
    description: What is remembered so far, empty before the first change.
    type: dict
    required: true
  decisions:
    description: What P(dghs.bd_fhir.pool_decisions#filter) has decided. A side that is not touched is not noted.
    type: dict
    required: true
  budget:
    description: The result of M(dghs.bd_fhir.connection_budget_info).
    type: dict
    required: true
  settings:
    description: For each side by its name, the C(settings) that M(dghs.bd_fhir.pgbouncer_pool) has returned in check mode.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Note what is there before the first change
  ansible.builtin.set_fact:
    memory: "{{ {} | dghs.bd_fhir.pool_memory(budget | dghs.bd_fhir.pool_decisions(bd_fhir_sides), budget, {'fhir': planned.settings}) }}"
"""

RETURN = r"""
_value:
  description: What is to be remembered, by the name of a side.
  type: dict
  sample:
    fhir:
      databases:
        postgres-fhir: [30, /etc/postgresql/postgresql.conf]
      settings:
        default_pool_size: ['20', 30]
      written:
        postgres-fhir: [40]
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..module_utils._decisions import remember

Report = Mapping[str, Any]


def pool_memory(memory: Report, decisions: Report, budget: Report, settings: Report) -> dict[str, Any]:
    """Return side -> what is to be remembered."""
    return remember(memory, decisions, budget, settings)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name -> filter."""
        return {"pool_memory": pool_memory}
