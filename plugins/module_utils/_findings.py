# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Findings: what a read-only check saw, in one shape for every module of the collection."""

from __future__ import annotations

from typing import Any

SEVERITIES = ("info", "warning", "error")

FINDINGS_OPTIONS: dict[str, Any] = {
    "fail_on": {"type": "list", "elements": "str", "choices": list(SEVERITIES), "default": []},
}


def finding(id: str, severity: str, obj: str, expected: Any, found: Any, hint: str) -> dict[str, Any]:
    """Build one finding.

    id is a stable snake_case name, severity one of SEVERITIES (error means that a real run is refused),
    obj what it is about (a service, a file, a replica), hint what the operator does next.
    Raises ValueError for an unknown severity, so that a typing slip cannot hide a blocking finding.
    """
    if severity not in SEVERITIES:
        raise ValueError("unknown severity %r, expected one of %s" % (severity, ", ".join(SEVERITIES)))
    return {"id": id, "severity": severity, "object": obj, "expected": expected, "found": found, "hint": hint}


def failed_on(findings: list[dict[str, Any]], fail_on: list[str]) -> list[dict[str, Any]]:
    """Return the findings whose severity is named in fail_on, in their order."""
    return [item for item in findings if item["severity"] in fail_on]


def summary(findings: list[dict[str, Any]]) -> str:
    """Return one text that names each finding with its object, what was found and what to do."""
    return "; ".join(
        "%s on %s: expected %s, found %s. %s" % (item["id"], item["object"], item["expected"], item["found"], item["hint"]) for item in findings
    )
