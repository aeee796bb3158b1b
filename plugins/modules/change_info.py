#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: change_info
short_description: Read who is changing a deployment, and what was changed
version_added: 1.0.0
description:
  - Reads the lease and the journal that M(dghs.bd_fhir.change) and the changing modules keep.
  - A line that a kill has cut off, or that somebody has damaged, is reported as a finding. All others are still read.
  - Makes nothing, and works where nothing was ever changed.
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.info_module
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  limit:
    description:
      - How many of the last changes are returned. V(0) returns all.
    type: int
    default: 10
  state_dir:
    description:
      - Directory on the host below which each project has a directory for its lease and journal.
    type: path
    default: /var/lib/dghs-bd-fhir
seealso:
  - module: dghs.bd_fhir.change
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Read the last three changes
  dghs.bd_fhir.change_info:
    project_dir: /opt/bd-fhir-national
    limit: 3
  register: journal

- name: Fail when the journal was tampered with
  dghs.bd_fhir.change_info:
    project_dir: /opt/bd-fhir-national
    fail_on: [error]
"""

RETURN = r"""
path:
  description: Directory of the lease and the journal. Empty where there is no compose project yet.
  returned: always
  type: str
  sample: /var/lib/dghs-bd-fhir/bd-fhir
lease:
  description: The last lease; empty if there never was one. C(state) is V(open) or V(closed).
  returned: success
  type: dict
  sample:
    state: closed
    token: 7
    id: 0c9d5a3e-5f0e-4f3c-9a52-0a1f6cbb2f9e
    verb: scale_hapi
    why: CHG-1042
    owner: rahim@ops-laptop
    opened_at: '2026-11-25T20:15:00Z'
    renewed_at: '2026-11-25T20:17:41Z'
    ttl: 900
    recorded: true
    result: succeeded
held_by:
  description: One sentence about who holds the deployment now, empty if nobody does.
  returned: success
  type: str
  sample: ''
changes:
  description:
    - The last O(limit) changes, the oldest of them first.
    - C(state) is V(open), V(succeeded), V(failed), V(taken_over), V(expired) (not renewed any more, and not taken over yet),
      V(alone) (modules that were used without a change), or V(unknown).
  returned: success
  type: list
  elements: dict
  sample:
    - change: 0c9d5a3e-5f0e-4f3c-9a52-0a1f6cbb2f9e
      token: 7
      verb: scale_hapi
      why: CHG-1042
      owner: rahim@ops-laptop
      opened_at: '2026-11-25T20:15:00Z'
      ended_at: '2026-11-25T20:17:41Z'
      state: succeeded
      message: ''
      backup_id: ''
      steps:
        - at: '2026-11-25T20:15:04Z'
          kind: step
          module: compose_fragment
          action: write
          object: /opt/bd-fhir-national/compose.d/hapi.yml
          before: absent
          after: present
          backup_id: ''
          message: ''
records:
  description: How many records the journal has.
  returned: success
  type: int
  sample: 12
findings:
  description: What is wrong with the lease or the journal.
  returned: success
  type: list
  elements: dict
  sample: []
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _change
from ..module_utils._change import ChangeError, Now, Store
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, finding, summary


def journal_findings(journal: _change.Journal, path: str) -> list[dict[str, Any]]:
    """Return what is wrong with a journal. Pure."""
    found = []
    for item in journal.broken:
        if item["cut"]:
            found.append(
                finding(
                    "journal_cut",
                    "warning",
                    path,
                    "whole lines",
                    "%d bytes at offset %d (line %d) that are no record" % (item["bytes"], item["offset"], item["line"]),
                    "A write was broken off by a kill or a power cut; the step that it announced may not have been made. Nothing to"
                    " repair: what follows stands on lines of its own.",
                )
            )
        else:
            found.append(
                finding(
                    "journal_damaged",
                    "error",
                    path,
                    "records, one a line",
                    "line %d (%d bytes at offset %d) is none" % (item["line"], item["bytes"], item["offset"]),
                    "No kill does this: look for a failing disk, or for somebody who has edited the journal. Compare it with the host's backup.",
                )
            )
    return found


def lease_findings(lease: dict[str, Any], now: Now, path: str) -> list[dict[str, Any]]:
    """Return what is wrong with a lease. Pure."""
    if lease["state"] == "open" and _change.expired(lease, now):
        return [
            finding(
                "lease_expired",
                "warning",
                path,
                "a change that is closed when it ends",
                _change.describe(lease, now),
                "That run was killed or cut off. See in its steps how far it came; the next verb takes the lease over by itself.",
            )
        ]
    return []


def read(module: AnsibleModule, store: Store) -> dict[str, Any]:
    """Return the result. Raises ChangeError."""
    now = Now.read()
    findings: list[dict[str, Any]] = []
    lease = None
    try:
        lease = store.lease()
    except _change.LeaseUnreadable as exc:
        findings.append(
            finding("lease_unreadable", "error", store.lease_path, "a lease", "something else", str(exc)),
        )
    journal = store.journal()
    if lease:
        findings += lease_findings(lease, now, store.lease_path)
    findings += journal_findings(journal, store.journal_path)
    changes = _change.grouped(journal.records, lease, now)
    return {
        "lease": lease or {},
        "held_by": _change.describe(lease, now) if lease and _change.live(lease, now) else "",
        "changes": changes[-module.params["limit"] :] if module.params["limit"] else changes,
        "records": len(journal.records),
        "findings": findings,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            limit={"type": "int", "default": 10},
            state_dir={"type": "path", "default": _change.STATE_DIR},
            **FINDINGS_OPTIONS,
        ),
        supports_check_mode=True,
    )
    if module.params["limit"] < 0:
        module.fail_json(msg="limit is %d, but can't be negative." % module.params["limit"])
    result: dict[str, Any] = {"changed": False, "path": "", "lease": {}, "held_by": "", "changes": [], "records": 0, "findings": []}
    project = None
    try:
        project = _change.project_of(module)
    except ComposeError as exc:
        module.fail_json(msg="It can't be told which project's journal to read: %s Or set project_name." % exc, **result)
    if project:
        store = Store(_change.directory_of(project, module.params["state_dir"]))
        result["path"] = store.directory
        try:
            result.update(read(module, store))
        except ChangeError as exc:
            module.fail_json(msg=str(exc), **result)
    failed = failed_on(result["findings"], module.params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
