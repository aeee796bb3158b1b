# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job as one story, each chapter standing on the one before: 1 to 3 replicas, a new image, back to 1, and undone."""

from __future__ import annotations

import json
import re
import threading
import time

import pytest
from load import Load, patient, request
from pilot_host import (
    PROJECT,
    REGISTRY,
    SECOND,
    Background,
    drained,
    healthy,
    ok,
    on_host,
    owner_files,
    owner_up,
    play,
    replicas,
    snapshot,
    until,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("pilot")]


@pytest.fixture(scope="module")
def before(pilot: None) -> dict[str, str]:
    return owner_files()


def served_by(count: int = 60) -> dict[str, int]:
    """Which address answered how many tagged requests."""
    shares: dict[str, int] = {}
    for dummy in range(count):
        status, dummy, headers = request("GET", "/fhir/metadata", headers={"X-BD-Probe": "test"})
        assert status == 200
        address = headers.get("x-bd-served-by", "nobody")
        shares[address] = shares.get(address, 0) + 1
    return shares


def test_check_on_the_pilot_changes_nothing_and_tells_the_plan(before: dict[str, str]) -> None:
    untouched = snapshot()
    result = ok("scale_regional", "--check", "--diff")
    assert snapshot() == untouched
    # What a real run will do is in the diff: the fragments, nginx's line, and the name in .env.
    for part in ("scale: 3", "hapi-balancer", "COMPOSE_FILE"):
        assert part in result.out, part


def test_one_to_three_loses_nothing(before: dict[str, str]) -> None:
    with Load(rate=24, workers=16) as load:
        time.sleep(5)
        result = ok("scale_regional")
        time.sleep(5)
    ledger = load.ledger
    assert result.changed > 0
    assert ledger.failures == []
    assert ledger.rate >= 20, f"{ledger.rate:.1f} requests a second are no steady load"
    assert load.lost() == []
    assert healthy(3)
    shares = served_by(90)
    assert len(shares) == 3, shares
    assert min(shares.values()) >= 15, shares


def test_the_owners_files_are_still_the_owners(before: dict[str, str]) -> None:
    now = owner_files()
    assert now["docker-compose.yml"] == before["docker-compose.yml"]
    assert on_host("stat", "-c", "%a", f"{PROJECT}/.env").strip() == "600"
    on_host("docker", "exec", "bd-nginx", "nginx", "-t")


def test_second_run_changes_nothing() -> None:
    untouched = snapshot()
    result = ok("scale_regional")
    assert result.changed == 0
    assert snapshot() == untouched


def test_check_on_the_finished_state_changes_nothing() -> None:
    untouched = snapshot()
    result = ok("scale_regional", "--check", "--diff")
    assert result.changed == 0
    assert snapshot() == untouched


def test_assess_on_the_finished_state() -> None:
    untouched = snapshot()
    assert ok("assess").changed == 0
    assert snapshot() == untouched


def test_the_owners_own_up_keeps_the_state() -> None:
    untouched = snapshot()
    said = owner_up()
    assert snapshot() == untouched, said
    assert "Recreate" not in said


def test_new_image_under_load_keeps_three_and_loses_nothing() -> None:
    counts: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1):
            counts.append(len([replica for replica in replicas() if replica.health == "healthy"]))

    watcher = threading.Thread(target=watch)
    with Load(rate=24, workers=16) as load:
        watcher.start()
        result = ok("scale_hapi", *SECOND)
        done.set()
        watcher.join()
    assert result.changed > 0
    assert load.ledger.failures == []
    assert load.ledger.rate >= 20
    assert load.lost() == []
    assert counts
    assert min(counts) >= 3, f"a moment with {min(counts)} healthy replicas"
    assert healthy(3)
    assert {replica.image for replica in replicas()} == {f"{REGISTRY}/hapi:1.1.0"}
    versions = {json.loads(request("GET", "/fhir/metadata")[1])["software"]["version"] for dummy in range(12)}
    assert versions == {"0.3.0"}


def test_a_request_in_flight_ends_before_its_replica_is_stopped() -> None:
    """Writes that hang in the database on all three replicas while two of them leave are answered, once, with success."""
    answers: list[int] = []
    psql = ("docker", "exec", "bd-postgres-fhir", "psql", "-U", "postgres", "-d", "fhirdb", "-c")

    def slow() -> None:
        answers.append(request("POST", "/fhir/Patient", patient("inflight", 1), timeout=120)[0])

    blocker = threading.Thread(
        target=on_host, args=(*psql, "BEGIN; LOCK TABLE hfj_resource IN SHARE MODE; SELECT pg_sleep(90)"), kwargs={"check": False})
    blocker.start()
    time.sleep(1.5)
    writers = [threading.Thread(target=slow) for dummy in range(6)]
    for writer in writers:
        writer.start()
    going = Background("scale_hapi", "-e", "hapi_replicas=1")
    until("a replica is being drained", 60, drained)
    time.sleep(3)
    # The writes are still in flight, so that their replica must still be there.
    assert answers == []
    assert healthy(3)
    on_host(*psql, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(90)' AND pid <> pg_backend_pid()")
    for thread in (blocker, *writers):
        thread.join()
    result = going.result()
    assert result.rc == 0, result.out[-3000:]
    assert answers == [201] * 6, result.out[-3000:]
    assert healthy(1)


def test_back_to_three_then_one_under_load() -> None:
    ok("scale_hapi")
    assert healthy(3)
    with Load() as load:
        time.sleep(2)
        ok("scale_hapi", "-e", "hapi_replicas=1")
        time.sleep(2)
    assert load.ledger.failures == []
    assert load.lost() == []
    assert healthy(1)


@pytest.mark.full
def test_a_new_balancer_configuration_is_loaded_without_a_failed_request() -> None:
    with Load(rate=60) as load:
        time.sleep(2)
        result = ok("scale_hapi", "-e", "hapi_replicas=1", "-e", "balancer_request_timeout=90")
        ok("scale_hapi", "-e", "hapi_replicas=1")
    assert re.search(r"Make the balancer run its configuration\] \**\s+changed", result.out), result.out[-3000:]
    assert load.ledger.failures == []


@pytest.mark.full
def test_a_killed_replica_is_back_in_service_by_itself() -> None:
    ok("scale_hapi", "-e", "hapi_replicas=2")
    victim = replicas()[0]
    with Load(rate=24, workers=16) as load:
        time.sleep(2)
        # Killed for good, and its address taken, so that it can only come back under another one.
        on_host("docker", "update", "--restart", "no", victim.id)
        on_host("kill", "-9", str(victim.pid))
        until("the replica is gone", 30, lambda: len(replicas()) == 1)
        taker = on_host("docker", "run", "-d", "--rm", "--network", "bd-fhir-national_frontend", "--entrypoint", "sleep",
                        f"{REGISTRY}/nginx:1.22", "300").strip()
        on_host("docker", "update", "--restart", "unless-stopped", victim.id)
        on_host("docker", "start", victim.id)
        until("the replica is healthy", 180, lambda: healthy(2))
        address = next(replica.address for replica in replicas() if replica.id == victim.id)
        waited = until("traffic at the replica", 15, lambda: any(key.startswith(f"{address}:") for key in served_by(6)))
        time.sleep(2)
    on_host("docker", "rm", "-f", taker)
    assert address != victim.address, "the replica came back under its old address: nothing was tested"
    assert waited < 15
    # Requests that the dying process had taken in are broken off, and it had about half of those under way; nothing else may fail,
    # and nothing that was acknowledged is lost.
    assert len(load.ledger.failures) <= load.workers // 2, load.ledger.failures
    assert load.lost() == []


def test_a_fresh_replica_takes_as_many_writes_at_once_as_come_with_the_opening_of_its_port() -> None:
    """More first writes than its pool has connections: HAPI must have read its search parameters by then, or all of them hang."""
    before = replicas()
    fresh = before[0]
    on_host("docker", "restart", fresh.id)
    address = next(replica.address for replica in replicas() if replica.id == fresh.id)
    # Whoever sends to a published port does not ask for readiness first.
    answers = on_host("timeout", "180", "bash", "-c", f"""
until (exec 3<>/dev/tcp/{address}/8080) 2>/dev/null; do sleep 0.02; done
curl -s -Z --parallel-immediate --parallel-max 40 -m 25 -o /dev/null -w '%{{http_code}}\n' \\
  -H 'Content-Type: application/fhir+json' -d '{{"resourceType": "Patient"}}' \\
  'http://{address}:8080/fhir/Patient?_format=json&n=[1-40]'""", check=False)
    assert answers.split() == ["201"] * 40
    until("as many healthy replicas as before", 60, lambda: healthy(len(before)))


def test_rollback_leaves_nothing_of_ours(before: dict[str, str]) -> None:
    with Load() as load:
        result = ok("rollback_scale_regional")
    assert result.changed > 0
    assert load.ledger.failures == []
    assert load.lost() == []
    assert healthy(1)
    assert owner_files() == before
    assert on_host("docker", "ps", "-aq", "--filter", "label=com.docker.compose.service=hapi-balancer").strip() == ""


def test_second_rollback_changes_nothing() -> None:
    untouched = snapshot()
    assert ok("rollback_scale_regional").changed == 0
    assert play("rollback_scale_regional", "--check").rc == 0
    assert snapshot() == untouched
