# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: read_decision
short_description: Decide whether HAPI's reads can go to a standby
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Decides by what each replica of HAPI says of itself. Only figures that were read and lack the metric say that an image is without the read
    data source. A replica that was not heard decides nothing, and is named.
  - It reads nothing and changes nothing.
positional: sent, balanced
options:
  _input:
    description: The result of M(dghs.bd_fhir.hapi_metadata_info).
    type: dict
    required: true
  sent:
    description: Whether reads are sent to the standby by now. Then what is not known must not end it.
    type: bool
    default: false
  balanced:
    description: Whether a balancer is before HAPI, so that its replicas can be replaced without an interruption.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Ask each replica
  dghs.bd_fhir.hapi_metadata_info:
    project_dir: /opt/bd-fhir-national
  register: asked

- name: Refuse to decide by half of them
  ansible.builtin.assert:
    that: (asked | dghs.bd_fhir.read_decision(sent=true)).unread | length == 0
"""

RETURN = r"""
_value:
  description: The decision.
  type: dict
  contains:
    able:
      description: Whether every replica can read from a standby, and can be replaced for it.
      type: bool
    why:
      description: Why not, in words. Empty when RV(_value.able), and when it cannot be told.
      type: str
    unread:
      description: For each replica that tells nothing, what was tried, what was found, and what to do. Nothing may be decided while there is one.
      type: list
      elements: str
  sample:
    able: false
    why: ""
    unread:
      - "bd-fhir-national-hapi-2: expected an answer from http://172.20.0.5:8080/fhir/metadata, found nobody listens there. Is it up?"
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]

UNREAD = ("replica_unreachable", "prometheus_unreadable")
HIDDEN = "prometheus_not_exposed"
METRIC = "fhir_read_routing_enabled at /actuator/prometheus"


def cause(name: str, findings: Sequence[Report], ids: Sequence[str]) -> str:
    """Return what the findings of these ids say of one replica, '' when there is none."""
    return " ".join(
        "%s: expected %s, found %s. %s" % (name, item["expected"], item["found"], item["hint"])
        for item in findings
        if item["object"] == name and item["id"] in ids
    )


def read_decision(asked: Report, sent: bool = False, balanced: bool = True) -> dict[str, Any]:
    """Return able, why and unread."""
    replicas, findings = asked.get("replicas") or [], asked.get("findings") or []
    silent = [item["name"] for item in replicas if not item["figures"]]
    without = [item["name"] for item in replicas if item["figures"] and item["reads"] is None]
    # A server that answers that it has no such page will not have it a minute later. What it had when reads were sent there is another matter.
    hidden = [] if sent else [name for name in silent if cause(name, findings, [HIDDEN])]
    unread = [
        cause(name, findings, (*UNREAD, HIDDEN)) or "%s: its figures were not read." % name
        for name in silent
        if name not in hidden
    ]
    why = ""
    if not replicas:
        why = "no replica of HAPI runs"
        if sent:
            unread.append("%s, so nobody says what its image can. Start it first." % why)
    elif without:
        why = (
            "%s does not tell %s, so its image is without the read data source (overlay/README.md);"
            " build the image with it, and bring it in with scale_hapi" % (", ".join(without), METRIC)
        )
    elif hidden:
        why = (
            "%s has nothing at /actuator/prometheus (HTTP 404), where an image with the read data source tells %s;"
            " expose it (management.endpoints.web.exposure.include)" % (", ".join(hidden), METRIC.partition(" ")[0])
        )
    elif not balanced and not sent:
        why = (
            "its replicas can not be replaced without an interruption, because no balancer of ours is before them;"
            " run scale_hapi first"
        )
    if unread:
        why = ""
    return {"able": not why and not unread, "why": why, "unread": unread}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name -> filter."""
        return {"read_decision": read_decision}
