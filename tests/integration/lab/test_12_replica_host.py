# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A standby on another host: the way between the two, a cut of it, a full disk, a host that is gone, and the way back."""

from __future__ import annotations

import fcntl
import json
import re
import time
from collections.abc import Iterator

import pytest
from lab import CACHE, run
from load import Load
from pilot_host import HOST, PROJECT, ROOT, Run, healthy, ok, on_host, owner_files, owner_up, play, replicas, snapshot, until
from standby import SMALL, STANDBY, back, figures, pairs, primary_state, psql, sent, streams

pytestmark = [pytest.mark.lab, pytest.mark.full]

THERE = "fhir-replica"
GATE = f"{STANDBY}-gate"
DIR = "/opt/bd-fhir-replica"
VOLUME = f"bd-fhir-national-replica-{HOST}_postgres-fhir-replica-data"
INVENTORY = ("-i", str(ROOT / "inventories/lab-replica"))
CONTAINER = f"bd-fhir-national-replica-{HOST}-{STANDBY}-1"


def there(*argv: str, check: bool = True) -> str:
    return on_host(*argv, check=check, host=THERE)


def left_there() -> str:
    """What a run can have left on the other host; images may stay."""
    things = "docker ps -aq; docker volume ls -q; docker network ls -q --filter type=custom"
    return there("bash", "-c", f"ls -A {DIR} 2>/dev/null; {things}; true").strip()


def add(*args: str) -> Run:
    return ok("add_read_replica", *INVENTORY, *SMALL, *args)


def go_back(*args: str) -> Run:
    # As a job template may pass it: a text, which must not count as true.
    return ok("rollback_add_read_replica", *INVENTORY, "-e", "postgres_replica_host_lost=false", *args)


def address(host: str) -> str:
    return on_host("hostname", "-i", host=host).strip()


@pytest.fixture(scope="module")
def before(scaled: None) -> Iterator[dict[str, str]]:
    with open(CACHE / f"{THERE}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ok("rollback_add_read_replica", *INVENTORY)
        assert left_there() == ""
        yield {**owner_files(), "primary": primary_state()}
        go_back()


def test_check_changes_nothing_on_either_host(before: dict[str, str]) -> None:
    untouched = snapshot()
    said = " ".join(add("--check", "--diff").out.split())
    assert snapshot() == untouched
    assert left_there() == ""
    for part in (f"on {THERE}", "Expected interruption: none", "between the hosts: TLS", address(THERE)):
        assert part in said, part


# On the other host, the name of the primary's image means another one.
RETAGGED = ("docker tag {image} kept-by-test 2>/dev/null; tar -C /etc -c hostname | docker import - {image}",
            "docker rmi {image} && if docker tag kept-by-test {image}; then docker rmi kept-by-test; fi")
FOREIGN = ("mkdir -p /opt/other && echo 'services: {{}}' >/opt/other/docker-compose.yml", "rm -r /opt/other")
NOTHING = ("true", "true")


@pytest.mark.parametrize(("arguments", "says", "there_is", "mode"), [
    ({"postgres_replica_host_address": ""}, "set bd_fhir_private_address for both", NOTHING, ()),
    ({"postgres_replica_host_address": "192.0.2.77"}, "is no address of the host that it shall be of", NOTHING, ()),
    ({"postgres_replica_gate_port": 22}, "Somebody answers at", NOTHING, ()),
    ({"postgres_replica_host_dir": "/opt/other"}, "is not of this standby", FOREIGN, ()),
    ({"postgres_replica_memory": "900g"}, "Set postgres_replica_memory lower", NOTHING, ()),
    ({}, "is not the image that postgres-fhir runs", RETAGGED, ()),
    ({}, "is not the image that postgres-fhir runs", RETAGGED, ("--check",)),
])
def test_wrong_input_is_refused_before_the_first_change(
    before: dict[str, str], arguments: dict[str, object], says: str, there_is: tuple[str, str], mode: tuple[str, ...]
) -> None:
    image = on_host("docker", "inspect", "--format", "{{.Config.Image}}", "bd-postgres-fhir").strip()
    damage, mend = (command.format(image=image) for command in there_is)
    untouched = snapshot()
    there("bash", "-c", damage)
    try:
        refused = play("add_read_replica", *INVENTORY, *SMALL, *mode, "-e", json.dumps(arguments))
    finally:
        there("bash", "-c", mend)
    assert refused.rc != 0
    assert says in " ".join(refused.out.split()), refused.out[-3000:]
    assert snapshot() == untouched
    assert left_there() == ""


def test_made_under_load_and_read_by_every_replica(before: dict[str, str]) -> None:
    with Load() as load:
        time.sleep(2)
        result = add("-e", "postgres_replica_reads=required")
        start = figures()
        time.sleep(15)
        end = figures()
    assert load.ledger.failures == []
    assert load.lost() == []
    assert result.changed > 0
    assert streams()
    assert there("docker", "exec", CONTAINER, "psql", "-XAtU", "postgres", "-c", "SELECT pg_is_in_recovery()").strip() == "t"
    standby, primary = sent(start, end, "standby"), sent(start, end, "primary") - sent(start, end, "not_routable")
    print(f"reads: {standby:.0f} by the standby on {THERE}, {primary:.0f} by the primary")
    assert standby / max(1, standby + primary) > 0.8
    assert "Recreate" not in owner_up()


def test_second_run_and_check_change_nothing(before: dict[str, str]) -> None:
    untouched, other = snapshot(), left_there()
    assert add("-e", "postgres_replica_reads=required").changed == 0
    assert add("-e", "postgres_replica_reads=required", "--check").changed == 0
    assert (snapshot(), left_there()) == (untouched, other)


def test_nobody_else_comes_in_and_no_secret_but_one_is_there(before: dict[str, str]) -> None:
    """The port answers no plain PostgreSQL, and no TLS without the other end's certificate."""
    for host, target in ((THERE, address(HOST)), (HOST, address(THERE))):
        for options in ("", "-cert /tmp/foreign.pem -key /tmp/foreign.key"):
            on_host("bash", "-c", "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -days 2"
                    " -keyout /tmp/foreign.key -out /tmp/foreign.pem 2>/dev/null", host=host)
            # TLS 1.3 tells a missing certificate with the first answer, so something has to be asked.
            ask = f"timeout 5 openssl s_client -quiet -connect {target}:7432 {options} 2>&1"
            said = on_host("bash", "-c", f"(printf '\\0\\0\\0\\10\\4\\322\\26\\057'; sleep 1) | {ask}; true", host=host)
            assert re.search(r"certificate required|unknown ca|alert", said), said
    secrets = on_host("cat", f"{PROJECT}/.env")
    superuser = re.search(r"^FHIR_DB_SUPERUSER_PASSWORD=(.+)$", secrets, re.MULTILINE)
    assert superuser
    assert "FHIR_REPLICA_PASSWORD=" in there("cat", f"{DIR}/.env")
    assert there("grep", "-rlF", superuser[1].strip("'\"")[:14], DIR, check=False) == ""
    assert there("stat", "-c", "%a", f"{DIR}/.env").strip() == "600"


def test_who_writes_through_one_replica_reads_it_through_another(before: dict[str, str]) -> None:
    start = figures()
    found = pairs(1000, 300)
    end = figures()
    assert (found["pairs"], found["stale"], found["errors"]) == (1000, [], [])
    assert sent(start, end, "standby") > 500


def test_a_cut_between_the_hosts_is_seen_and_healed(before: dict[str, str]) -> None:
    rule = ("iptables", "{}", "FORWARD", "-p", "tcp", "--dport", "7432", "-j", "DROP")
    other = ("iptables", "{}", "FORWARD", "-p", "tcp", "--sport", "7432", "-j", "DROP")
    with Load() as load:
        for item in (rule, other):
            there(*(word.format("-I") for word in item))
        try:
            time.sleep(20)
            out = ok("assess", *INVENTORY).out
            assert re.search(r"standby_link_cut|standby_not_streaming|standby_missing", out), out[-3000:]
        finally:
            for item in (rule, other):
                there(*(word.format("-D") for word in item))
        add()
        until("it is read again", 90, back)
    assert load.ledger.failures == []
    assert load.lost() == []
    assert streams()


def test_a_host_that_stands_still_is_left_out(before: dict[str, str]) -> None:
    # Its engine has its containers beside its own cgroup: they would go on if only the host were frozen.
    frozen = (CONTAINER, f"bd-fhir-national-replica-{HOST}-{GATE}-1")
    with Load() as load:
        time.sleep(2)
        there("docker", "pause", *frozen)
        try:
            time.sleep(15)
            assert figures()["fhir_read_standby_up"] == 0
        finally:
            there("docker", "unpause", *frozen)
        until("it is read again", 90, back)
    assert load.ledger.failures == []
    assert load.lost() == []


def test_more_connections_are_refused_until_the_other_host_has_them(before: dict[str, str]) -> None:
    untouched = snapshot()
    wanted = ("-e", json.dumps({"pgbouncer_max_connections": {"fhir": 70}, "pgbouncer_allow_window": True}))
    refused = play("tune_pools", *INVENTORY, *wanted)
    assert refused.rc != 0
    said = " ".join(refused.out.split())
    command = re.search(r'docker compose exec (\S+) (psql .*?)" && docker compose restart', said)
    assert command, refused.out[-3000:]
    assert snapshot()["containers"] == untouched["containers"]
    # What the refusal says is what helps.
    there("bash", "-c", f"cd {DIR} && docker compose exec -T {command[1]} {command[2]}\" && docker compose restart {STANDBY}")
    until("it streams again", 60, streams)
    ok("tune_pools", *INVENTORY, *wanted)
    assert psql("SHOW max_connections") == "70"
    until("it is read again", 90, back)
    ok("rollback_tune_pools", *INVENTORY, "-e", "pgbouncer_allow_window=true")
    until("it is read again", 90, back)


def test_the_way_back_leaves_nothing_on_either_host(before: dict[str, str]) -> None:
    with Load() as load:
        time.sleep(2)
        go_back()
    assert load.ledger.failures == []
    assert load.lost() == []
    assert {**owner_files(), "primary": primary_state()} == before
    assert left_there() == ""
    assert healthy(3)
    assert go_back().changed == 0


def test_a_full_disk_of_the_standby_is_told_and_healed(before: dict[str, str]) -> None:
    """The owner has given the standby a disk of its own, and it is filled from outside."""
    there("bash", "-c", "mkdir -p /mnt/small && mount -t tmpfs -o size=400m tmpfs /mnt/small && mkdir /mnt/small/data"
          f" && docker volume create --opt type=none --opt o=bind --opt device=/mnt/small/data {VOLUME}")
    try:
        refused = play("add_read_replica", *INVENTORY, *SMALL)
        assert refused.rc != 0
        assert "are free on its file system" in " ".join(refused.out.split()), refused.out[-3000:]
        add("-e", "postgres_replica_reads=required", "-e", "postgres_replica_min_free_bytes=10000000")
        with Load() as load:
            # To the last byte, whatever the server takes meanwhile.
            there("dd", "if=/dev/zero", "of=/mnt/small/ballast", "bs=64k", check=False)
            psql("CREATE TABLE filler AS SELECT repeat('x', 1000) AS t FROM generate_series(1, 60000)")
            until("it no longer streams", 90, lambda: not streams())
            out = ok("assess", *INVENTORY).out
            assert re.search(r"\bstandby_(disk_full|restarting|not_running|not_ready|link_cut|not_streaming)\b", out), out[-3000:]
            there("rm", "/mnt/small/ballast")
            psql("DROP TABLE filler")
            add("-e", "postgres_replica_reads=required", "-e", "postgres_replica_min_free_bytes=10000000")
            until("it is read again", 90, back)
        assert load.ledger.failures == []
        assert load.lost() == []
        assert streams()
    finally:
        go_back()
        there("bash", "-c", f"docker volume rm -f {VOLUME}; umount /mnt/small && rmdir /mnt/small")
    assert primary_state() == before["primary"]


def test_back_without_a_host_that_is_gone(before: dict[str, str]) -> None:
    add("-e", "postgres_replica_reads=never")
    run("docker", "pause", THERE)
    try:
        refused = play("rollback_add_read_replica", *INVENTORY, "-e", "ansible_timeout=5")
        assert refused.rc != 0
        assert "postgres_replica_host_lost=true" in " ".join(refused.out.split()), refused.out[-3000:]
        go_back("-e", "postgres_replica_host_lost=true")
        assert {**owner_files(), "primary": primary_state()} == before
    finally:
        run("docker", "unpause", THERE)
    there("bash", "-c", f"cd {DIR} && docker compose down --volumes; docker volume rm {VOLUME}; rm -rf {DIR}")
    assert healthy(3)
    assert len(replicas()) == 3
