# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _findings


def test_finding_has_one_shape() -> None:
    item = _findings.finding("memory_short", "error", "hapi", 4, 2, "Add memory.")
    assert list(item) == ["id", "severity", "object", "expected", "found", "hint"]


def test_unknown_severity_goes_red() -> None:
    with pytest.raises(ValueError, match="fatal"):
        _findings.finding("x", "fatal", "hapi", 1, 2, "")


def test_failed_on_selects_by_severity_in_order() -> None:
    items = [_findings.finding(name, severity, "o", 1, 2, "h") for name, severity in [("a", "error"), ("b", "info"), ("c", "error")]]
    assert [item["id"] for item in _findings.failed_on(items, ["error"])] == ["a", "c"]
    assert _findings.failed_on(items, []) == []
    assert "a on o: expected 1, found 2. h" in _findings.summary(items)
