# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The interface; what is decided is tested in test__decisions.py."""

from __future__ import annotations

import json
from typing import Any

import yaml
from ansible_collections.dghs.bd_fhir.plugins.filter import pool_decisions as plugin
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _budget as budget
from ansible_collections.dghs.bd_fhir.plugins.module_utils._budget import Demand, Line, Pool, Pooler, Server, Side

SIDES = [{"name": "fhir", "database": "fhirdb", "database_service": "postgres-fhir", "pooler_service": "pgbouncer-fhir",
          "admin_user": "hapi_app", "admin_password_variable": "FHIR_DB_APP_PASSWORD"}]
POOLER = Pooler("pgbouncer-fhir", lines=(Line("fhirdb", "fhirdb", 20),), pools=(Pool("fhirdb", "hapi_app"),))
PROPOSAL = {"default_pool_size": 30, "max_client_conn": 100, "max_db_connections": 0, "max_user_connections": 0, "max_connections": 40,
            "standby_max_connections": {}}


def counted() -> dict[str, Any]:
    side = Side("fhir", "fhirdb", Server("postgres-fhir", 30), Demand(5, 3, 5, 1), POOLER)
    return {"sides": [budget.side_report(side, [], {}, "fhir")], "proposals": {"fhir": PROPOSAL}, "findings": []}


def decide(*args: Any, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = plugin.FilterModule().filters()["pool_decisions"](counted(), SIDES, *args, **more)["fhir"]
    return found


def test_what_is_documented_is_what_comes_out() -> None:
    sample = yaml.safe_load(plugin.RETURN)["_value"]["sample"]["fhir"]
    side = SIDES[0]
    assert decide() == {**sample, "side": side, "changes": [{**sample["changes"][0], "side": side}]}
    assert json.loads(json.dumps(decide())) == decide()


def test_options_are_by_the_name_of_a_side() -> None:
    memory = {"fhir": {"settings": {"query_wait_timeout": ["120", 60]}}}
    asked = {"pool_sizes": {"fhir": "38", "audit": 5}, "settings": {"fhir": {"server_lifetime": 600}, "audit": {"query_timeout": 5}}}
    found = decide(memory, margin="7", **asked)
    assert found["settings"] == {"query_wait_timeout": 60, "default_pool_size": 38, "server_lifetime": 600}
    assert found["databases"] == {"postgres-fhir": 50}
    assert decide(max_connections={"fhir": "60"})["databases"] == {"postgres-fhir": 60}
