# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The interface; what is decided is tested in test__decisions.py."""

from __future__ import annotations

import json
from typing import Any

import yaml
from ansible_collections.dghs.bd_fhir.plugins.filter import former_pool_decisions as plugin
from ansible_collections.dghs.bd_fhir.plugins.filter.pool_memory import RETURN as MEMORY
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _budget as budget
from ansible_collections.dghs.bd_fhir.plugins.module_utils._budget import Demand, Line, Pool, Pooler, Server, Side

SIDES = [{"name": "fhir", "database": "fhirdb", "database_service": "postgres-fhir", "pooler_service": "pgbouncer-fhir",
          "admin_user": "hapi_app", "admin_password_variable": "FHIR_DB_APP_PASSWORD"}]
POOLER = Pooler("pgbouncer-fhir", default_pool_size=30, lines=(Line("fhirdb", "fhirdb", 30),), pools=(Pool("fhirdb", "hapi_app"),))


def go_back(memory: dict[str, Any]) -> dict[str, Any]:
    side = Side("fhir", "fhirdb", Server("postgres-fhir", 40), Demand(5, 3, 3, 0), POOLER)
    found = {"sides": [budget.side_report(side, [], {}, "fhir")], "proposals": {}}
    back: dict[str, Any] = plugin.FilterModule().filters()["former_pool_decisions"](found, SIDES, memory)
    return back


def test_what_is_documented_is_what_comes_out() -> None:
    """The memory is the sample of the filter that makes it, after its way through the fragment."""
    memory = json.loads(json.dumps(yaml.safe_load(MEMORY)["_value"]["sample"], sort_keys=True))
    sample = yaml.safe_load(plugin.RETURN)["_value"]["sample"]["fhir"]
    side = SIDES[0]
    assert go_back(memory) == {"fhir": {**sample, "side": side, "changes": [{**sample["changes"][0], "side": side}]}}


def test_what_is_not_remembered_does_not_go_back() -> None:
    assert go_back({}) == {}
