# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A streaming standby beside the primary, read by HAPI: made, broken in every way that there is, healed, and taken away, under load."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml
from load import Load, request
from pilot_host import (
    FIRST,
    FIRST_BACK,
    PROJECT,
    Background,
    healthy,
    modules_at_work,
    ok,
    on_host,
    owner_files,
    owner_up,
    play,
    replicas,
    snapshot,
    until,
)
from standby import SMALL, STANDBY, back, figures, pairs, primary_state, psql, sent, streams

pytestmark = [pytest.mark.lab]

FRAGMENT = f"{PROJECT}/compose.d/postgres_replica.yml"
VOLUME = "bd-fhir-national_postgres-fhir-replica-data"


def container() -> str:
    return f"bd-fhir-national-{STANDBY}-1"


def cloning() -> str:
    return on_host("docker", "ps", "-q", "--filter", "name=bd-fhir-clone-")


def served_by() -> dict[str, str]:
    """HAPI's containers, and since when each of them runs."""
    return {replica.id: replica.started for replica in replicas()}


@pytest.fixture(scope="module")
def before(scaled: None) -> Iterator[dict[str, str]]:
    ok("rollback_add_read_replica")
    state = {**owner_files(), "primary": primary_state()}
    yield state
    # Whatever has failed: the next file begins without it.
    ok("rollback_add_read_replica")


def test_check_changes_nothing_and_tells_the_plan(before: dict[str, str]) -> None:
    untouched = snapshot()
    result = ok("add_read_replica", "--check", "--diff", *SMALL)
    assert snapshot() == untouched
    for part in ("Expected interruption: none", "slot bd_fhir_replica", "x-bd-fhir-before"):
        assert part in " ".join(result.out.split()), part


WRONG = {
    "slot_of_another": ("SELECT pg_create_physical_replication_slot('taken')", {"postgres_replica_slot": "taken"},
                        "no run of ours has made", "SELECT pg_drop_replication_slot('taken')"),
    "wrong_password": ("SELECT 1", {"postgres_replica_login_password_variable": "FHIR_DB_APP_PASSWORD"}, "password", "SELECT 1"),
    "slot_name": ("SELECT 1", {"postgres_replica_slot": "Not A Slot"}, "lower-case letters", "SELECT 1"),
    "cap": ("SELECT 1", {"postgres_replica_slot_cap": "much"}, "a size such as 20GB", "SELECT 1"),
    "service_of_another": ("SELECT 1", {"postgres_replica_service": "nginx"}, "no run of ours has made", "SELECT 1"),
}


@pytest.mark.parametrize(("prepare", "arguments", "says", "clean"), [
    pytest.param(*values, id=name, marks=[] if name == "service_of_another" else [pytest.mark.full]) for name, values in WRONG.items()
])
def test_wrong_input_is_refused(before: dict[str, str], prepare: str, arguments: dict[str, str], says: str, clean: str) -> None:
    psql(prepare)
    try:
        refused = play("add_read_replica", "-e", json.dumps(arguments), *SMALL)
        assert refused.rc != 0
        assert says in " ".join(refused.out.split()), refused.out[-3000:]
        assert "Traceback" not in refused.out
    finally:
        psql(clean)
    # What was remembered before the refusal of the primary itself goes with the way back.
    ok("rollback_add_read_replica")
    assert primary_state() == before["primary"]


MOMENTS = {
    "let_in": lambda: "replicator" in psql("SELECT pg_read_file(current_setting('hba_file'))"),
    # Not by its label: what only looks at the volume has that too.
    "cloning": cloning,
    "started": lambda: on_host("docker", "ps", "-q", "--filter", f"name={container()}"),
}


@pytest.mark.full
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_on_the_way_it_can_go_back(before: dict[str, str], moment: str) -> None:
    killed = Background("add_read_replica", "-e", "postgres_replica_reads=never", *SMALL)
    until(moment, 120, lambda: MOMENTS[moment]() or killed.process.poll() is not None)
    assert killed.process.poll() is None, "it ended before the moment came"
    killed.kill()
    # What was at work on the host ends by itself; a clone goes on until it is taken away.
    until("the last module's end", 60, lambda: not modules_at_work())
    until("the clone's end", 120, lambda: not cloning())
    assert ok("rollback_add_read_replica").changed > 0
    assert {**owner_files(), "primary": primary_state()} == before


@pytest.mark.full
def test_killed_while_hapi_is_replaced_the_next_run_ends_it(before: dict[str, str]) -> None:
    reading = ("add_read_replica", "-e", "postgres_replica_reads=required", *SMALL)
    old = set(served_by())
    with Load() as load:
        killed = Background(*reading)
        until("one of them has left", 600, lambda: not old <= set(served_by()) or killed.process.poll() is not None)
        assert killed.process.poll() is None, "it ended before the moment came"
        killed.kill()
        until("the last module's end", 120, lambda: not modules_at_work())
        assert old & set(served_by()), "all of them were replaced already"
        assert ok(*reading).changed > 0
        until("it is read by every replica", 60, back)
    assert load.ledger.failures == []
    assert load.lost() == []
    assert healthy(3)
    assert not old & set(served_by())
    untouched = snapshot()
    assert ok(*reading).changed == 0
    assert snapshot() == untouched
    ok("rollback_add_read_replica")
    assert {**owner_files(), "primary": primary_state()} == before


def test_made_under_load_and_read_by_every_replica(before: dict[str, str]) -> None:
    started = on_host("docker", "inspect", "--format", "{{.State.StartedAt}}", "bd-postgres-fhir")
    with Load() as load:
        time.sleep(2)
        result = ok("add_read_replica", "-e", "postgres_replica_reads=required", *SMALL)
        start = figures()
        time.sleep(15)
        end = figures()
    assert load.ledger.failures == []
    assert load.lost() == []
    assert result.changed > 0
    assert healthy(3)
    assert streams()
    assert psql("SELECT pg_is_in_recovery()", container()) == "t"
    assert on_host("docker", "inspect", "--format", "{{.State.StartedAt}}", "bd-postgres-fhir") == started
    standby, primary = sent(start, end, "standby"), sent(start, end, "primary") - sent(start, end, "not_routable")
    print(f"reads: {standby:.0f} by the standby, {primary:.0f} by the primary, share {standby / max(1, standby + primary):.3f}")
    assert standby > 20
    assert standby / (standby + primary) > 0.8


def test_second_run_changes_nothing(before: dict[str, str]) -> None:
    untouched = snapshot()
    assert ok("add_read_replica", "-e", "postgres_replica_reads=required", *SMALL).changed == 0
    assert snapshot() == untouched
    said = owner_up()
    assert "Recreate" not in said
    assert snapshot() == untouched, said


# As docs/inventory.md writes the sides: without a word of the standby.
SIDES = {"bd_fhir_sides": [{
    "name": "fhir", "database_service": "postgres-fhir", "standby_services": [], "pooler_service": "pgbouncer-fhir", "database": "fhirdb",
    "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD", "admin_user": "hapi_app", "admin_password_variable": "FHIR_DB_APP_PASSWORD",
    "hikari_pool": "fhir",
}]}  # fmt: skip


@pytest.mark.full
def test_a_primary_gets_no_more_connections_than_its_standby(before: dict[str, str]) -> None:
    wanted = ("-e", json.dumps({**SIDES, "hapi_replicas": 5, "pgbouncer_allow_window": True, "postgres_backup_required": False}))
    plan = " ".join(ok("tune_pools", "--check", *wanted).out.split())
    assert f"{STANDBY}: max_connections 30 to 40" in plan, plan[-3000:]
    assert "would stop" not in plan
    # A standby that is nobody's service: its name is known to no side, and no label tells.
    on_host("sed", "-i.before", "s/dghs.bd_fhir.standby_of:/other:/", f"{PROJECT}/compose.d/postgres_replica.yml")
    try:
        untouched = snapshot()
        assert "A real run would stop here: standby_not_named" in " ".join(ok("tune_pools", "--check", *wanted).out.split())
        refused = play("tune_pools", *wanted)
        assert refused.rc != 0
        assert "Nothing was changed. standby_not_named" in " ".join(refused.out.split()), refused.out[-3000:]
        assert snapshot()["containers"] == untouched["containers"]
        assert psql("SHOW max_connections") == "30"
        plan = " ".join(ok("tune_pools", "--check", *wanted, "-e", "pgbouncer_allow_unnamed_standbys=true").out.split())
        assert "postgres-fhir: max_connections 30 to 40" in plan
        assert "would stop" not in plan
    finally:
        on_host("mv", f"{PROJECT}/compose.d/postgres_replica.yml.before", f"{PROJECT}/compose.d/postgres_replica.yml")
    with Load(announced=True) as load:
        ok("tune_pools", *wanted)
    assert load.ledger.failures == []
    assert load.lost() == []
    assert [psql("SHOW max_connections", server) for server in ("bd-postgres-fhir", container())] == ["40", "40"]
    until("it is read by every replica", 60, back)
    assert ok("tune_pools", *wanted).changed == 0
    ok("rollback_tune_pools", *wanted)
    assert [psql("SHOW max_connections", server) for server in ("bd-postgres-fhir", container())] == ["30", "30"]
    until("it is read by every replica", 60, back)


def test_a_replica_that_is_not_heard_ends_no_reads(before: dict[str, str]) -> None:
    """It runs, and nobody gets an answer of it from outside: what its image can is not known."""
    silent = replicas()[1]
    rule = ("nsenter", "-t", str(silent.pid), "-n", "iptables", "{}", "INPUT", "!", "-i", "lo", "-p", "tcp", "--dport", "8080",
            "-j", "REJECT", "--reject-with", "tcp-reset")
    untouched = snapshot()
    on_host(*(item.format("-A") for item in rule))
    try:
        refused = play("add_read_replica", *SMALL)
    finally:
        on_host(*(item.format("-D") for item in rule))
    assert refused.rc != 0
    said = " ".join(refused.out.split())
    for part in ("Nothing was changed", f"{silent.name}: expected an answer from http://", "postgres_replica_reads=never"):
        assert part in said, refused.out[-3000:]
    assert snapshot() == untouched
    until("it is read by every replica", 60, back)
    assert ok("add_read_replica", *SMALL).changed == 0


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.full)])
def test_who_writes_through_one_replica_reads_it_through_another(before: dict[str, str], count: int) -> None:
    start = figures()
    found = pairs(count, 1500)
    end = figures()
    assert (found["pairs"], found["stale"], found["errors"]) == (count, [], [])
    standby, primary = sent(start, end, "standby"), sent(start, end, "primary") - sent(start, end, "not_routable")
    print(f"{count} pairs: {standby:.0f} reads by the standby, {primary:.0f} by the primary, p95 {found['ms'][int(count * 0.95)]} ms")
    assert standby > count / 2


def test_killed_under_load_nobody_notices(before: dict[str, str]) -> None:
    """By SIGKILL to the server itself: what restarts it is the restart policy of the fragment."""
    pid = on_host("docker", "inspect", "--format", "{{.State.Pid}}", container()).strip()
    start = figures()
    with Load(rate=20) as load:
        time.sleep(3)
        on_host("kill", "-9", pid)
        until("it streams again", 120, streams)
        until("it is read again", 60, back)
        time.sleep(3)
    assert load.ledger.failures == []
    assert load.lost() == []
    end = figures()
    assert sent(start, end, "out") + sent(start, end, "retried") > 0, "no read has met the dead standby"


@pytest.mark.full
def test_stopped_paused_and_made_anew_nobody_notices(before: dict[str, str]) -> None:
    with Load() as load:
        time.sleep(2)
        on_host("docker", "pause", container())
        time.sleep(8)
        on_host("docker", "unpause", container())
        until("it is read again", 90, back)
        on_host("docker", "compose", "--project-directory", PROJECT, "--env-file", f"{PROJECT}/.env", "up", "-d", "--force-recreate", STANDBY)
        until("it streams again", 120, streams)
        until("it is read again", 60, back)
    assert load.ledger.failures == []
    assert load.lost() == []


@pytest.mark.full
def test_a_replay_that_stands_still_gives_no_stale_answer(before: dict[str, str]) -> None:
    psql("SELECT pg_wal_replay_pause()", container())
    try:
        found = pairs(60, 120)
        assert (found["stale"], found["errors"]) == ([], [])
        result = ok("assess")
        assert "replay_paused" in result.out
    finally:
        psql("SELECT pg_wal_replay_resume()", container())
    until("it is read again", 60, back)


@pytest.mark.full
def test_a_cut_link_is_seen_and_healed(before: dict[str, str]) -> None:
    pid = on_host("docker", "inspect", "--format", "{{.State.Pid}}", container()).strip()
    rule = ("nsenter", "-t", pid, "-n", "iptables", "{}", "INPUT", "-p", "tcp", "--sport", "5432", "-j", "DROP")
    hapi = served_by()
    with Load() as load:
        on_host(*(item.format("-A") for item in rule))
        try:
            # It still answers HAPI: only the distance to the primary tells, which grows with what is written there.
            until("HAPI leaves it out", 60, lambda: figures()["fhir_read_standby_up"] == 0)
            start = figures()
            assert start["fhir_read_standby_lag_seconds"] > 10 * len(hapi)
            time.sleep(3)
            end = figures()
            assert sent(start, end, "lagging") > 0
            assert sent(start, end, "standby") == 0
            result = ok("assess")
            assert re.search(r"standby_link_cut|standby_not_streaming", result.out), result.out[-3000:]
        finally:
            on_host(*(item.format("-D") for item in rule))
        assert ok("add_read_replica", *SMALL).changed == 0
        until("it is read again", 90, back)
    assert load.ledger.failures == []
    assert load.lost() == []
    assert streams()
    assert served_by() == hapi


@pytest.mark.full
def test_a_lost_slot_is_told_and_cloned_anew_on_request(before: dict[str, str]) -> None:
    psql("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
    psql("SELECT pg_reload_conf()")
    on_host("docker", "stop", container())

    def lost() -> bool:
        psql("CREATE TABLE IF NOT EXISTS filler (n int)")
        psql("INSERT INTO filler VALUES (1)")
        psql("SELECT pg_switch_wal()")
        psql("CHECKPOINT")
        return psql("SELECT wal_status FROM pg_replication_slots") == "lost"

    until("the slot is lost", 120, lost)
    psql("DROP TABLE filler")
    refused = play("add_read_replica", "-e", "postgres_replica_ready_timeout=9", *SMALL)
    assert refused.rc != 0
    assert "slot_lost" in refused.out
    ok("add_read_replica", "-e", "postgres_replica_reclone=true", "-e", "postgres_replica_slot_cap=2GB", *SMALL)
    assert streams()
    until("it is read again", 60, back)


@pytest.mark.full
def test_the_primary_killed_loses_nothing_that_was_acknowledged(before: dict[str, str]) -> None:
    pid = on_host("docker", "inspect", "--format", "{{.State.Pid}}", "bd-postgres-fhir").strip()
    with Load() as load:
        time.sleep(3)
        before_it, begin = load.failed(), time.monotonic()
        on_host("kill", "-9", pid)
        until("the primary serves again", 120, lambda: psql("SELECT 1", check=False) == "1")
        served = time.monotonic() - begin
        until("it streams again", 60, streams)
        until("it is read again", 60, back)
        time.sleep(10)
        settled = load.failed()
        time.sleep(10)
        assert load.failed() == settled, "requests still fail after it was back"
    failed = [float(item.split("s ")[0]) for item in load.ledger.failures]
    outage = failed[-1] - failed[0] if failed else 0.0
    print(f"primary killed: it served again after {served:.1f} s; {len(failed)} requests failed over {outage:.1f} s")
    assert before_it == 0
    assert outage < 60
    assert load.lost() == []


def test_the_way_back_leaves_nothing(before: dict[str, str]) -> None:
    with Load() as load:
        time.sleep(2)
        result = ok("rollback_add_read_replica")
    assert load.ledger.failures == []
    assert load.lost() == []
    assert result.changed > 0
    assert {**owner_files(), "primary": primary_state()} == before
    assert VOLUME not in on_host("docker", "volume", "ls", "-q")
    assert healthy(3)
    untouched = snapshot()
    assert ok("rollback_add_read_replica").changed == 0
    assert snapshot() == untouched


@pytest.mark.full
def test_a_promoted_standby_is_never_taken_away(before: dict[str, str]) -> None:
    ok("add_read_replica", "-e", "postgres_replica_reads=never", *SMALL)
    psql("SELECT pg_promote()", container())
    untouched = snapshot()
    for verb in ("add_read_replica", "rollback_add_read_replica"):
        refused = play(verb, *(SMALL if verb == "add_read_replica" else ()))
        assert refused.rc != 0
        assert "promoted" in refused.out
    assert snapshot() == untouched
    # The operator has decided, and removes it by hand.
    on_host("docker", "compose", "--project-directory", PROJECT, "--env-file", f"{PROJECT}/.env", "rm", "-fs", STANDBY)
    on_host("docker", "volume", "rm", VOLUME)
    ok("rollback_add_read_replica")
    assert primary_state() == before["primary"]


@pytest.mark.full
def test_the_balancer_stays_as_long_as_reads_go_to_the_standby(before: dict[str, str]) -> None:
    ok("add_read_replica", "-e", "postgres_replica_reads=required", *SMALL)
    untouched = snapshot()
    for verb in ("rollback_scale_hapi", "rollback_scale_regional"):
        refused = play(verb, *FIRST_BACK)
        assert refused.rc != 0
        said = " ".join(refused.out.split())
        assert "Nothing was changed" in said
        assert "Run rollback_add_read_replica first" in said, refused.out[-3000:]
        assert "A real run would stop here" in " ".join(ok(verb, "--check", *FIRST_BACK).out.split())
    assert snapshot() == untouched


@contextmanager
def without_a_balancer() -> Iterator[None]:
    """As an older version has left it: HAPI reads from the standby, and the owner's nginx has resolved its name once."""
    try:
        ok("add_read_replica", "-e", "postgres_replica_reads=required", *SMALL)
        fragment = on_host("cat", FRAGMENT)
        kept = yaml.safe_load(fragment)
        del kept["services"]["hapi"]
        # By its first line the collection knows a fragment of its own.
        on_host("bash", "-c", f"cat > {FRAGMENT}", data=fragment.splitlines()[0] + "\n" + yaml.safe_dump(kept))
        ok("rollback_scale_regional", *FIRST_BACK, "-e", "pgbouncer_allow_window=true")
        on_host("bash", "-c", f"cat > {FRAGMENT}", data=fragment)
        owner_up()
        until("the only replica", 180, lambda: healthy(1))
        on_host("docker", "exec", replicas("nginx")[0].id, "nginx", "-s", "reload")
        until("it is read", 60, back)
        yield
    finally:
        ok("scale_regional", *FIRST)
    until("three healthy replicas", 300, lambda: healthy(3))


CONSENT = ("-e", "postgres_replica_allow_interruption=true")


@pytest.mark.full
def test_without_a_balancer_the_way_back_asks_for_consent_and_tells_nginx(before: dict[str, str]) -> None:
    with without_a_balancer():
        untouched = snapshot()
        refused = play("rollback_add_read_replica")
        assert refused.rc != 0
        said = " ".join(refused.out.split())
        assert "Nothing was changed. No balancer of ours" in said, refused.out[-3000:]
        assert CONSENT[1] in said
        assert "A real run would stop here" in " ".join(ok("rollback_add_read_replica", "--check").out.split())
        assert snapshot() == untouched
        with Load() as load:
            time.sleep(2)
            ok("rollback_add_read_replica", *CONSENT)
            settled = load.failed()
            time.sleep(10)
            assert load.failed() == settled, "requests still fail after the summary"
        failed = [float(item.split("s ")[0]) for item in load.ledger.failures]
        print(f"without a balancer: {len(failed)} requests failed over {failed[-1] - failed[0] if failed else 0:.1f} s")
        assert load.lost() == []
        assert healthy(1)
        assert set(served_by()).isdisjoint(line.split()[0] for line in untouched["containers"].splitlines())
    assert primary_state() == before["primary"]


@pytest.mark.full
def test_killed_before_nginx_was_told_the_next_run_tells_it(before: dict[str, str]) -> None:
    """Nothing is left to replace then, and nginx still asks where nobody is."""
    with without_a_balancer():
        (old,) = served_by()
        killed = Background("rollback_add_read_replica", *CONSENT)
        until("another replica alone", 300, lambda: healthy(1) and old not in served_by())
        killed.kill()
        answer = request("GET", "/fhir/metadata?_summary=true", timeout=10)[0]
        print(f"killed before nginx was told: it answers {answer}")
        assert answer != 200, "nginx was told already: this test has shown nothing"
        (new,) = served_by()
        ok("rollback_add_read_replica", *CONSENT)
        assert list(served_by()) == [new]
        with Load() as load:
            time.sleep(3)
        assert load.ledger.failures == []
    assert primary_state() == before["primary"]


@pytest.mark.full
def test_taken_out_of_what_compose_reads_it_still_goes(before: dict[str, str]) -> None:
    """As by an owner who restores .env from yesterday: Compose knows no standby any more, and it still runs."""
    ok("add_read_replica", "-e", "postgres_replica_reads=never", *SMALL)
    kept = on_host("cat", f"{PROJECT}/.env")
    bare = re.sub(r":[^:'\"\n]*compose\.d/postgres_replica\.yml", "", kept)
    assert bare != kept
    on_host("bash", "-c", f"cat > {PROJECT}/.env", data=bare)
    ok("rollback_add_read_replica")
    assert container() not in on_host("docker", "ps", "--all", "--format", "{{.Names}}")
    assert primary_state() == before["primary"]
