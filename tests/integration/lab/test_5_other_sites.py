# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deployments that differ from the pilot: what a refusal offers is taken up, and taken back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from load import Load
from pilot_host import PROJECT, healthy, ok, on_host, owner_files, owner_up, play, replicas, snapshot, until

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.usefixtures("pilot")]

COMPOSE = f"{PROJECT}/docker-compose.yml"


def owner_changes(expression: str) -> None:
    """The owner edits the compose file, brings it up, and restarts nginx, which resolves HAPI's name only then."""
    on_host("sed", "-i", expression, COMPOSE)
    owner_up()
    until("one healthy replica", 180, lambda: healthy(1))
    on_host("docker", "restart", "bd-nginx")
    until("nginx answers", 30, lambda: on_host("curl", "-sk", "https://127.0.0.1/nginx-health", check=False) == "ok\n")


@pytest.fixture(params=["container_name: bd-hapi", 'ports: ["18080:8080"]'], ids=["container_name", "fixed_port"])
def blocked(request: pytest.FixtureRequest) -> Iterator[str]:
    """The owner's file gives HAPI something that only one container can have, and runs that way."""
    line: str = request.param
    owner_changes(rf"/^  hapi:/a\    {line}")
    try:
        yield "hapi_reset_container_name" if "container" in line else "hapi_reset_ports"
    finally:
        if on_host("bash", "-c", f"ls -d {PROJECT}/compose.d 2>/dev/null; true").strip():
            ok("rollback_scale_hapi", "-e", "hapi_allow_interruption=true")
        owner_changes("/^    container_name: bd-hapi$/d; /18080:8080/d")


def test_what_keeps_hapi_single_is_taken_away_and_given_back(blocked: str) -> None:
    before = owner_files()
    with Load() as load:
        ok("scale_hapi", "-e", "hapi_replicas=2", "-e", f"{blocked}=true")
    assert load.ledger.failures == []
    assert load.lost() == []
    assert healthy(2)
    untouched = snapshot()
    assert "Recreate" not in owner_up()
    assert snapshot() == untouched
    assert ok("scale_hapi", "-e", "hapi_replicas=2", "-e", f"{blocked}=true").changed == 0
    # The way back stops the last replica before its successor starts: without consent nothing happens.
    refused = play("rollback_scale_hapi")
    assert refused.rc != 0
    assert "hapi_allow_interruption" in refused.out
    assert snapshot() == untouched
    ok("rollback_scale_hapi", "-e", "hapi_allow_interruption=true")
    assert healthy(1)
    assert owner_files() == before
    assert [replica.name for replica in replicas()] == ["bd-hapi"] if "name" in blocked else True
    assert ok("rollback_scale_hapi").changed == 0
