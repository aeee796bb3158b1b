#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fhir_roundtrip
short_description: Create, read, update, search and delete a resource by every HAPI FHIR replica
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Proves that each replica still does what HAPI is for, after its tables were changed below it. Each replica is asked B(directly), never
    through a balancer.
  - Creates a resource of its own, reads it, reads that version, updates it, searches it by its identifier, reads its history, asks C($everything)
    of a Patient, and deletes it again, after which a read has to say that it is gone.
  - What is made is always deleted, also after a failure. HAPI keeps the history of a deleted resource.
extends_documentation_fragment:
  - dghs.bd_fhir.http_client.replicas
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.http_client
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
attributes:
  check_mode:
    support: full
    details:
      - No request is sent. RV(replicas) then lists who would be asked.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Each run makes a resource at each replica and deletes it.
options:
  base_path:
    description:
      - Path of the FHIR API.
    type: str
    default: /fhir
  resource:
    description:
      - The resource that is created, for a server that validates what it takes. It gets an identifier of this run in addition.
    type: dict
    default:
      resourceType: Patient
      active: false
      name:
        - text: Technical check
seealso:
  - module: dghs.bd_fhir.hapi_metadata_info
notes:
  - A server that wants a token needs one that may write, as O(bearer_token).
"""

EXAMPLES = r"""
- name: Does each replica still do what it is for?
  dghs.bd_fhir.fhir_roundtrip:
    project_dir: /opt/bd-fhir-national
    bearer_token: "{{ vault_fhir_token }}"
    fail_on:
      - error
"""

RETURN = r"""
replicas:
  description: What each replica did, in the order of their numbers.
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  contains:
    name:
      description: Name of the container, or as given in O(urls).
      type: str
      sample: bd-fhir-national-hapi-1
    ok:
      description: Whether every step went as it should. In check mode V(false), since none was made.
      type: bool
      sample: true
    id:
      description: Id of the resource that was made and deleted. Empty if none was made.
      type: str
      sample: "5012"
    steps:
      description: The steps in order, with the HTTP status that was got and how long it took.
      type: list
      elements: dict
      contains:
        step:
          description: V(create), V(read), V(vread), V(update), V(search), V(history), V(everything), V(delete) or V(gone).
          type: str
          sample: create
        status:
          description: HTTP status. V(0) if no answer came.
          type: int
          sample: 201
        seconds:
          description: How long it took.
          type: float
          sample: 0.031
        error:
          description: What was wrong. Empty if nothing was.
          type: str
          sample: ""
findings:
  description: What went wrong, each with C(id), C(severity), C(object), C(expected), C(found) and C(hint).
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample: []
"""

import json
import time
import uuid

from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._compose import ComposeError
from ..module_utils._fhir import (
    HTTP_ARGUMENTS,
    HTTP_EXCLUSIVE,
    HTTP_REQUIRED_BY,
    HTTP_TOGETHER,
    Answer,
    Client,
    HttpError,
    complaint,
    join,
    module_client,
    out_of_range,
)
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, finding, summary
from ..module_utils._replicas import REPLICA_ARGUMENTS, REPLICA_EXCLUSIVE, REPLICA_ONE_OF, Replica, discover

SYSTEM = "urn:dghs-bd-fhir:roundtrip"
FHIR = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
# Where reads may go to a standby, the answer of a write brings a mark, and who shows it reads nothing older.
MARK = "x-fhir-read-after"
DEFAULT: dict[str, Any] = {"resourceType": "Patient", "active": False, "name": [{"text": "Technical check"}]}
WITH_EVERYTHING = ("Patient", "Encounter")
RANGES = {"timeout": (1, 3600), "port": (1, 65535)}


class StepError(Exception):
    """A step did not go as it should; the text says how."""


class Roundtrip:
    """One replica, with one resource of its own."""

    def __init__(self, client: Client, replica: Replica, base_path: str, resource: Mapping[str, Any]) -> None:
        self.client = client
        self.base = join(replica.url, base_path, str(resource["resourceType"]))
        self.kind = str(resource["resourceType"])
        self.value = str(uuid.uuid4())
        own = {"system": SYSTEM, "value": self.value}
        self.resource = {**resource, "identifier": [*resource.get("identifier", []), own]}
        self.id = ""
        self.version = ""
        self.mark = ""
        self.steps: list[dict[str, Any]] = []
        self.refused = 0

    def ask(self, method: str, path: str, expected: tuple[int, ...], resource: Any = None) -> dict[str, Any]:
        """Send one request; return the resource of the answer. Raises StepError."""
        marked = {"X-FHIR-Read-After": self.mark} if self.mark else {}
        answer = self.client.send(method, self.base + path, resource, {**FHIR, **marked})
        self.steps[-1]["status"] = answer.status
        if answer.status in (401, 403):
            self.refused = answer.status
        if answer.status not in expected:
            wanted = " or ".join(map(str, expected))
            raise StepError("status %d, expected %s: %s" % (answer.status, wanted, complaint(answer, self.client.credential)))
        self.mark = answer.headers.get(MARK, self.mark)
        return self.parsed(answer)

    @staticmethod
    def parsed(answer: Answer) -> dict[str, Any]:
        """Return the resource of an answer, {} where it has none. Raises StepError."""
        if not answer.body:
            return {}
        try:
            found = json.loads(answer.text())
        except ValueError:
            raise StepError("the answer of status %d is no JSON" % answer.status) from None
        return found if isinstance(found, dict) else {}

    def step(self, name: str, work: Callable[[], None]) -> bool:
        """Do one step and write it down; return whether it went as it should."""
        self.steps.append({"step": name, "status": 0, "seconds": 0.0, "error": ""})
        begun = time.monotonic()
        try:
            work()
        except (HttpError, StepError) as exc:
            self.steps[-1]["error"] = str(exc)
        self.steps[-1]["seconds"] = round(time.monotonic() - begun, 3)
        return not self.steps[-1]["error"]

    def own(self, found: Mapping[str, Any]) -> None:
        """Raise StepError unless a resource is the one that was made."""
        if not any(item.get("value") == self.value for item in found.get("identifier") or []):
            raise StepError("another resource came than was written")

    def listed(self, bundle: Mapping[str, Any], least: int) -> None:
        """Raise StepError unless a bundle has the resource in at least so many entries."""
        ids = [(entry.get("resource") or {}).get("id") for entry in bundle.get("entry") or []]
        if ids.count(self.id) < least:
            raise StepError("%d of %d entries are the resource, expected at least %d" % (ids.count(self.id), len(ids), least))

    def create(self) -> None:
        made = self.ask("POST", "", (201,), self.resource)
        self.id, self.version = str(made.get("id") or ""), str((made.get("meta") or {}).get("versionId") or "1")
        if not self.id:
            raise StepError("the answer has no id")

    def update(self) -> None:
        changed = self.ask("PUT", "/" + self.id, (200,), {**self.resource, "id": self.id, "language": "en"})
        version = str((changed.get("meta") or {}).get("versionId") or "")
        if version == self.version:
            raise StepError("it still has version %s" % version)

    def run(self) -> None:
        """Do everything; what was made is deleted in any case."""
        if not self.step("create", self.create):
            return
        try:
            path = "/" + self.id
            self.step("read", lambda: self.own(self.ask("GET", path, (200,))))
            self.step("vread", lambda: self.own(self.ask("GET", "%s/_history/%s" % (path, self.version), (200,))))
            self.step("update", self.update)
            self.step("search", lambda: self.listed(self.ask("GET", "?identifier=%s%%7C%s" % (SYSTEM, self.value), (200,)), 1))
            self.step("history", lambda: self.listed(self.ask("GET", path + "/_history", (200,)), 2))
            if self.kind in WITH_EVERYTHING:
                self.step("everything", lambda: self.listed(self.ask("GET", path + "/$everything", (200,)), 1))
        finally:
            if self.step("delete", lambda: void(self.ask("DELETE", path, (200, 204)))):
                self.step("gone", lambda: void(self.ask("GET", path, (410,))))

    @property
    def left(self) -> bool:
        """Whether the resource is still there."""
        return bool(self.id) and any(item["step"] == "delete" and item["error"] for item in self.steps)


def void(found: Mapping[str, Any]) -> None:
    """Take an answer of which only the status matters."""


def judge(replica: Replica, trip: Roundtrip) -> list[dict[str, Any]]:
    """Return what went wrong with one replica."""
    wrong = [item for item in trip.steps if item["error"]]
    if trip.refused and len(trip.steps) == 1:
        hint = "Give bearer_token, a token that may write. Without one nothing was proven."
        return [finding("roundtrip_refused", "error", replica.name, "a credential that may write", wrong[0]["error"], hint)]
    found = []
    if wrong:
        what = "; ".join("%(step)s: %(error)s" % item for item in wrong)
        hint = "Look at the replica's log (docker logs %s) at this moment." % replica.name
        found.append(finding("roundtrip_failed", "error", replica.name, "every step to go well", what, hint))
    if trip.left:
        what = "%s/%s, identifier %s|%s" % (trip.kind, trip.id, SYSTEM, trip.value)
        found.append(finding("roundtrip_left", "error", replica.name, "the test's resource deleted", what, "Delete it by hand."))
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **REPLICA_ARGUMENTS,
            **HTTP_ARGUMENTS,
            **FINDINGS_OPTIONS,
            "base_path": {"type": "str", "default": "/fhir"},
            "resource": {"type": "dict", "default": DEFAULT},
        },
        mutually_exclusive=REPLICA_EXCLUSIVE + HTTP_EXCLUSIVE,
        required_one_of=REPLICA_ONE_OF,
        required_together=HTTP_TOGETHER,
        required_by=HTTP_REQUIRED_BY,
        supports_check_mode=True,
    )
    params = module.params
    problem = out_of_range(params, RANGES)
    if not problem and not isinstance(params["resource"].get("resourceType"), str):
        problem = "Nothing was sent: resource has no resourceType. Give a whole FHIR resource."
    if not problem and not isinstance(params["resource"].get("identifier", []), list):
        problem = "Nothing was sent: identifier of resource is no list, as FHIR wants it."
    if problem:
        module.fail_json(msg=problem)
    try:
        client = module_client(module)
        replicas, dummy = discover(module, params["base_path"])
    except (HttpError, ComposeError) as error:
        module.fail_json(msg=str(error))
    result: dict[str, Any] = {"changed": False, "replicas": [], "findings": []}
    if not replicas:
        hint = "Check service, project_dir and project_name, and whether the project is up."
        result["findings"].append(finding("no_replicas", "error", params["service"], "at least one container", "none", hint))
    for replica in replicas:
        trip = Roundtrip(client, replica, params["base_path"], params["resource"])
        found: list[dict[str, Any]] = []
        if not replica.running:
            hint = "Look at its log (docker logs %s), then start or remove it." % replica.name
            found = [finding("replica_unreachable", "error", replica.name, "a replica that runs", replica.why_not(), hint)]
        elif not module.check_mode:
            trip.run()
            found = judge(replica, trip)
        result["changed"] = result["changed"] or bool(trip.id) or module.check_mode and replica.running
        result["replicas"].append({"name": replica.name, "ok": bool(trip.steps) and not found, "id": trip.id, "steps": trip.steps})
        result["findings"] += found
    failed = failed_on(result["findings"], params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
