# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # For modules that change a deployment: _change.CHANGE_ARGUMENTS, and the action group by which a play hands the token over.
    DOCUMENTATION = r"""
options:
  change_token:
    description:
      - The token of the change that this belongs to, as the module M(dghs.bd_fhir.change) returned it.
        Each change is then recorded in that change's journal right before it is made, and the lease on the deployment is renewed.
        A play whose lease was taken over by another one is stopped before its next change.
      - If empty, the module works alone. It is refused while somebody holds the deployment, and its changes are recorded without an owner.
      - In check mode nothing is recorded, and nothing is refused for the lease.
    type: str
    default: ''
attributes:
  action_group:
    description: >-
      Use C(group/dghs.bd_fhir.fhir) in C(module_defaults) to set defaults for this module,
      and C(group/dghs.bd_fhir.changing) to hand over the token of a change.
    support: full
    membership:
      - dghs.bd_fhir.fhir
      - dghs.bd_fhir.changing
"""
