# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The interface; what is remembered is tested in test__decisions.py."""

from __future__ import annotations

import copy

import yaml
from ansible_collections.dghs.bd_fhir.plugins.filter import pool_memory as plugin
from ansible_collections.dghs.bd_fhir.plugins.filter.pool_decisions import RETURN as DECISIONS

SERVER = {"service": "postgres-fhir", "max_connections": 30, "sourcefile": "/etc/postgresql/postgresql.conf"}
BUDGET = {"sides": [{"name": "fhir", "server": SERVER, "standbys": []}]}
PLANNED = {"fhir": {"default_pool_size": {"before": "20", "after": "30"}}}


def test_what_is_documented_is_what_comes_out() -> None:
    decisions = yaml.safe_load(DECISIONS)["_value"]["sample"]
    remember = plugin.FilterModule().filters()["pool_memory"]
    memory = remember({}, decisions, BUDGET, PLANNED)
    assert memory == yaml.safe_load(plugin.RETURN)["_value"]["sample"]
    kept = copy.deepcopy(memory)
    # What is there by now does not count any more.
    again = {"fhir": {"default_pool_size": {"before": "30", "after": "30"}}}
    assert remember(memory, decisions, {"sides": [{**BUDGET["sides"][0], "server": {**SERVER, "max_connections": 40}}]}, again) == kept
    assert memory == kept
