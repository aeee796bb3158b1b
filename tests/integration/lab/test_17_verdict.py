# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What assess says of the lab's pilot under load, and that it says something else when vendors, load, size or replicas become others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from load import Load
from pilot_host import FIRST, FIRST_BACK, HOST, healthy, ok, on_host, snapshot, until

pytestmark = [pytest.mark.lab, pytest.mark.full]

LEVELS = ["pilot", "regional", "regional_exceeded", "national"]


def sql(statement: str, server: str, database: str) -> str:
    return on_host("docker", "exec", "-i", server, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, data=statement).strip()


@pytest.fixture(scope="module")
def reports(pilot: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The pilot under load; the pages of each verdict lie in one folder."""
    folder = tmp_path_factory.mktemp("reports")
    try:
        with Load(rate=6, workers=4) as load:
            yield folder
        assert load.ledger.failures == []
        assert load.lost() == []
    finally:
        # A million resources, and the sequence behind them, are in the way of what is tested next: that begins with empty databases.
        ok("tests/lab/pilot.yml", "-e", "lab_reset=true")
        until("one healthy replica", 300, lambda: healthy(1))


def verdict(folder: Path, name: str) -> dict[str, Any]:
    """What assess says now; it changes nothing, and each of its reports says the same."""
    before = snapshot()
    done = ok("assess", "-e", f"bd_fhir_report_dir={folder / name}")
    assert done.changed == 0
    assert snapshot() == before
    found: dict[str, Any] = json.loads((folder / name / f"{HOST}.json").read_text(encoding="utf-8"))
    page = (folder / name / f"{HOST}.html").read_text(encoding="utf-8")
    assert f"The load asks for the phase {found['phase']}" in page
    told = (folder / name / f"{HOST}.prom").read_text(encoding="utf-8")
    assert f"\nbd_fhir_load_level {LEVELS.index(found['level'])}\n" in told
    return found


def test_a_pilot_under_load_is_a_pilot(reports: Path) -> None:
    found = verdict(reports, "pilot")
    assert (found["phase"], found["deployed"]["phase"], found["unread"]) == ("pilot", "pilot", [])
    assert found["metrics"]["resources"]["value"] > 0


def test_fifty_vendors_ask_for_the_next_phase(reports: Path) -> None:
    """Who sent only one request in the last month is a vendor too; after they are gone all is as before."""
    rows = ("INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)"
            " SELECT now(), 'OPERATION', 'ACCEPTED', 'vendor-' || n, 'POST', '/fhir', 200, 1, 'x' FROM generate_series(1, 50) n")
    sql(rows, "bd-postgres-audit", "auditdb")
    found = verdict(reports, "vendors")
    assert (found["phase"], found["decided_by"]) == ("regional", "vendors")
    assert "scale_regional" in {item["playbook"] for item in found["due"]}
    sql("DELETE FROM audit.audit_events WHERE client_id LIKE 'vendor-%'", "bd-postgres-audit", "auditdb")
    assert verdict(reports, "vendors-gone")["phase"] == "pilot"


def test_three_replicas_are_another_deployment(reports: Path) -> None:
    before = verdict(reports, "one-replica")["deployed"]
    ok("scale_regional", *FIRST)
    until("three healthy replicas", 300, lambda: healthy(3))
    after = verdict(reports, "three-replicas")
    assert (before["aspects"]["replicas"], after["deployed"]["aspects"]["replicas"]) == (
        {"found": "1", "phase": "pilot"}, {"found": "3", "phase": "regional"})
    assert after["phase"] == "pilot", "what is deployed says nothing of what the load asks for"
    ok("rollback_scale_regional", *FIRST_BACK, "-e", "hapi_allow_interruption=true", "-e", "pgbouncer_allow_window=true")
    until("one healthy replica", 180, lambda: healthy(1))
    assert verdict(reports, "one-again")["deployed"]["aspects"]["replicas"] == before["aspects"]["replicas"]


def test_load_and_size_decide_in_their_turn(reports: Path) -> None:
    """Resources that are new, as a bulk import writes them, first more of them a day and then more of them in all."""
    rows = """
INSERT INTO hfj_resource (res_id, fhir_id, has_tags, res_published, res_updated, res_type, res_ver, sp_has_links, sp_index_status,
                          sp_cmpstr_uniq_present, sp_coords_present, sp_cmptoks_present, sp_date_present, sp_number_present,
                          sp_quantity_nrml_present, sp_quantity_present, sp_string_present, sp_token_present, sp_uri_present)
SELECT id, id::text, false, now(), now(), 'Observation', 1, false, 1, false, false, false, false, false, false, false, false, false, false
  FROM generate_series({begin}, {end}) id;
INSERT INTO hfj_res_ver (pid, has_tags, res_published, res_updated, res_encoding, res_id, res_text_vc, res_type, res_ver)
SELECT nextval('seq_resource_history_id'), false, now(), now(), 'JSON', id, '{{}}', 'Observation', 1 FROM generate_series({begin}, {end}) id;
ANALYZE hfj_resource, hfj_res_ver"""
    levels = []
    for count in (100_000, 1_000_000):
        # The block that HAPI has in its hand is left to it, and the next one begins behind ours.
        begin = int(sql("SELECT nextval('seq_resource_id') + 100", "bd-postgres-fhir", "fhirdb"))
        sql(f"SELECT setval('seq_resource_id', {begin + count + 50})", "bd-postgres-fhir", "fhirdb")
        sql(rows.format(begin=begin, end=begin + count - 1), "bd-postgres-fhir", "fhirdb")
        found = verdict(reports, f"size-{count}")
        levels.append((found["level"], found["metrics"]["resources"]["level"], found["metrics"]["resources_per_day"]["level"]))
    print(levels)
    assert levels[0][2] != "pilot"
    assert levels[0][1] == "pilot"
    assert levels[1][1] == "regional"
