# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three replicas become five and go back, with the pool of 20 and the database of 30 that their connections need raised before.

In session mode what is restarted is restarted in a window: what is refused meanwhile is told to come again, and nothing else fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from load import Ledger, Load, request
from pilot_host import PROJECT, Background, healthy, modules_at_work, ok, on_host, owner_files, owner_up, play, replicas, snapshot, until

pytestmark = [pytest.mark.lab]

FRAGMENT = f"{PROJECT}/compose.d/pgbouncer.yml"
JOURNAL = "/var/lib/dghs-bd-fhir/bd-fhir-national/journal.jsonl"
RETRY_AFTER = 15
WINDOW = 180
FIVE = ("-e", "hapi_replicas=5")
CONSENT = ("-e", "pgbouncer_allow_window=true")


def max_connections() -> int:
    return int(on_host("docker", "exec", "bd-postgres-fhir", "psql", "-U", "postgres", "-d", "fhirdb", "-tAc", "SHOW max_connections"))


def pool_size(container: str = "bd-pgbouncer-fhir") -> int:
    """The running pooler's own word, asked with a client inside its container."""
    rows = on_host("docker", "exec", container, "bash", "-c",
                   'PGPASSWORD="$POSTGRESQL_PASSWORD" psql -h 127.0.0.1 -p 6432 -U "$POSTGRESQL_USERNAME" -d pgbouncer -tA -c "SHOW DATABASES"')
    return int(next(line.split("|")[5] for line in rows.splitlines() if line.startswith("fhirdb|")))


def started(*names: str) -> list[str]:
    return on_host("docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", *names).split()


def restarting() -> str:
    """When the two that may be restarted were started; not running is another state."""
    return on_host("docker", "inspect", "--format", "{{.State.Running}} {{.State.StartedAt}}", "bd-postgres-fhir", "bd-pgbouncer-fhir", check=False)


def spans(ledger: Ledger) -> list[tuple[float, float]]:
    """The stretches of time in which requests were refused."""
    found: list[tuple[float, float]] = []
    for moment, _after in sorted(ledger.refused):
        if found and moment - found[-1][1] < 3:
            found[-1] = (found[-1][0], moment)
        else:
            found.append((moment, moment))
    return found


def assert_announced(load: Load, windows: int) -> None:
    """Nothing failed or was lost; what was refused was told when to come again, and only inside of a window."""
    assert load.ledger.failures == []
    assert load.lost() == []
    assert {after for dummy, after in load.ledger.refused} <= {RETRY_AFTER}
    found = spans(load.ledger)
    assert len(found) <= windows, found
    assert all(end - begin < WINDOW for begin, end in found), found


@pytest.fixture(scope="module")
def before(scaled: None) -> dict[str, str]:
    assert (pool_size(), max_connections()) == (20, 30)
    return owner_files()


def test_more_replicas_are_refused_before_the_pools_were_tuned(before: dict[str, str]) -> None:
    untouched = snapshot()
    refused = play("scale_hapi", *FIVE)
    assert refused.rc != 0
    flat = " ".join(refused.out.split())
    for part in ("pool_too_small", "tune_pools", "25 > 20"):
        assert part in flat, refused.out[-3000:]
    assert snapshot() == untouched


def test_three_replicas_need_nothing(before: dict[str, str]) -> None:
    untouched = snapshot()
    assert ok("tune_pools").changed == 0
    assert snapshot() == untouched


def test_a_window_needs_consent_and_the_plan_says_how_long(before: dict[str, str]) -> None:
    untouched = snapshot()
    result = ok("tune_pools", *FIVE, "--check", "--diff")
    for part in ("max_connections 30 to 40", "default_pool_size 20 to 30", f"Retry-After {RETRY_AFTER}", f"{WINDOW}", "pgbouncer_allow_window",
                 "check: nothing was changed; a real run would be refused"):
        assert part in " ".join(result.out.split()), part
    refused = play("tune_pools", *FIVE)
    assert refused.rc != 0
    assert "pgbouncer_allow_window" in refused.out
    assert snapshot() == untouched


WRONG = {
    "pool_too_small": ({"pgbouncer_pool_sizes": {"fhir": 10}}, "the pool would be 10"),
    "database_too_small": ({"pgbouncer_max_connections": {"fhir": 25}}, "max_connections 25"),
    "unknown_side": ({"pgbouncer_pool_sizes": {"clinical": 30}}, "clinical"),
    "unknown_setting": ({"pgbouncer_settings": {"fhir": {"default_pol_size": 30}}}, "did you mean"),
    "ignored_variable": ({"pgbouncer_environment_names": {"default_pool_size": "NOBODY_READS_THIS"}}, "setting_ignored"),
    "short_window": ({"pgbouncer_window_seconds": 5}, "pgbouncer_window_seconds"),
}


@pytest.mark.parametrize(("arguments", "says"), [
    pytest.param(*values, id=name, marks=[] if name in ("database_too_small", "ignored_variable") else [pytest.mark.full])
    for name, values in WRONG.items()
])
def test_wrong_numbers_are_refused_before_the_first_change(before: dict[str, str], arguments: dict[str, object], says: str) -> None:
    untouched = snapshot()
    refused = play("tune_pools", *FIVE, *CONSENT, "-e", json.dumps(arguments))
    assert refused.rc != 0
    assert says in " ".join(refused.out.split()), refused.out[-3000:]
    assert "Traceback" not in refused.out
    assert snapshot() == untouched


def test_tuned_under_load_refuses_only_within_the_window(before: dict[str, str]) -> None:
    with Load(announced=True) as load:
        time.sleep(5)
        result = ok("tune_pools", *FIVE, *CONSENT)
        time.sleep(5)
    assert result.changed > 0
    assert_announced(load, windows=2)
    assert load.ledger.refused, "nothing was refused: no window was seen"
    assert (pool_size(), max_connections()) == (30, 40)
    # Only the FHIR side had to grow.
    assert "PGBOUNCER_DEFAULT_POOL_SIZE=20" in on_host("docker", "inspect", "--format", "{{.Config.Env}}", "bd-pgbouncer-audit")


def test_second_run_changes_nothing(before: dict[str, str]) -> None:
    untouched = snapshot()
    assert ok("tune_pools", *FIVE).changed == 0
    assert ok("tune_pools", *FIVE, "--check", "--diff").changed == 0
    assert snapshot() == untouched


def test_three_to_five_loses_nothing(before: dict[str, str]) -> None:
    with Load() as load:
        time.sleep(2)
        ok("scale_hapi", *FIVE)
    assert load.ledger.failures == []
    assert load.lost() == []
    assert healthy(5)


def test_the_owners_own_up_restarts_nothing(before: dict[str, str]) -> None:
    untouched = snapshot()
    said = owner_up()
    assert "Recreate" not in said
    assert snapshot() == untouched, said


def test_pools_are_not_taken_from_under_five_replicas(before: dict[str, str]) -> None:
    untouched = snapshot()
    refused = play("rollback_tune_pools", *CONSENT)
    assert refused.rc != 0
    flat = " ".join(refused.out.split())
    assert "5 replicas of hapi run and take 25 connections" in flat, refused.out[-3000:]
    assert "hapi_replicas=4" in flat
    assert snapshot() == untouched


def test_a_pooler_that_the_owner_makes_anew_keeps_its_size(before: dict[str, str]) -> None:
    ok("scale_hapi")
    on_host("docker", "compose", "--project-directory", PROJECT, "--env-file", f"{PROJECT}/.env", "up", "-d", "--force-recreate", "pgbouncer-fhir")
    until("the pooler answers", 30, lambda: "default_pool_size = 30" in on_host("docker", "exec", "bd-pgbouncer-fhir", "cat",
                                                                                "/run/pgbouncer/pgbouncer.ini", check=False))
    # The sessions were cut: each replica finds the way back by itself.
    until("served requests", 120, lambda: all(request("GET", "/fhir/Patient?_summary=count")[0] == 200 for dummy in range(12)))
    assert pool_size() == 30


def test_back_under_load_refuses_only_within_the_window(before: dict[str, str]) -> None:
    with Load(announced=True) as load:
        time.sleep(5)
        result = ok("rollback_tune_pools", *CONSENT)
        time.sleep(5)
    assert result.changed > 0
    assert_announced(load, windows=2)
    assert (pool_size(), max_connections()) == (20, 30)
    assert owner_files() == before
    assert on_host("bash", "-c", f"ls {FRAGMENT} 2>/dev/null; true") == ""
    untouched = snapshot()
    assert ok("rollback_tune_pools").changed == 0
    assert snapshot() == untouched


# --- two at once, and kills ----------------------------------------------------------------------------------------


def journal() -> list[dict[str, object]]:
    text = on_host("bash", "-c", f"cat {JOURNAL} 2>/dev/null; true")
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def done(since: int, module: str, action: str) -> bool:
    return any(record.get("module") == module and record.get("action") == action for record in journal()[since:])


def environment() -> str:
    return on_host("docker", "inspect", "--format", "{{.Config.Env}}", "bd-pgbouncer-fhir", check=False)


# What stands at the moment of the kill; `since` is the number of journal records before the run.
MOMENTS: dict[str, Callable[[int], bool]] = {
    "remembered": lambda since: on_host("bash", "-c", f"ls {FRAGMENT} 2>/dev/null; true") != "",
    "database_altered": lambda since: done(since, "postgres_parameter", "alter_system"),
    "database_restarting": lambda since: done(since, "postgres_parameter", "restart") and "false" in restarting(),
    "pool_raised": lambda since: done(since, "pgbouncer_pool", "set"),
    "size_kept": lambda since: "environment" in on_host("bash", "-c", f"cat {FRAGMENT} 2>/dev/null; true"),
    "window_open": lambda since: done(since, "balancer_window", "open window"),
    "pooler_stopped": lambda since: done(since, "compose_rollout", "stop"),
    "pooler_made_anew": lambda since: "PGBOUNCER_DEFAULT_POOL_SIZE=30" in environment(),
}


@pytest.fixture
def untuned(scaled: None) -> None:
    ok("rollback_tune_pools", *CONSENT)
    assert (pool_size(), max_connections()) == (20, 30)


@pytest.mark.full
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("whom", ["play", "module"])
def test_a_killed_run_is_finished_by_the_next(untuned: None, moment: str, whom: str) -> None:
    since = len(journal())
    with Load(announced=True) as load:
        doomed = Background("tune_pools", *FIVE, *CONSENT)
        until(moment, 240, lambda: MOMENTS[moment](since))
        if whom == "module":
            until("a module at work", 60, modules_at_work)
            for process in modules_at_work():
                on_host("kill", "-9", str(process), check=False)
        doomed.kill()
        # The controller's process is gone, so that the lease is taken over at once.
        result = ok("tune_pools", *FIVE, *CONSENT)
        time.sleep(3)
    assert load.lost() == [], result.out[-3000:]
    # What was being restarted may be down until the next run; the window is there until then, and the next run closes it.
    assert load.ledger.failures == [], result.out[-3000:]
    assert (pool_size(), max_connections()) == (30, 40)
    assert ok("tune_pools", *FIVE).changed == 0
    assert "Recreate" not in owner_up()


@pytest.mark.full
def test_a_second_operator_is_told_who_is_at_work(untuned: None) -> None:
    since = len(journal())
    first = Background("tune_pools", *FIVE, *CONSENT)
    until("the first has begun", 120, lambda: len(journal()) > since)
    refused = play("tune_pools", *FIVE, *CONSENT)
    result = first.result()
    assert result.rc == 0, result.out[-3000:]
    assert refused.rc != 0
    assert "tune_pools" in refused.out
    assert (pool_size(), max_connections()) == (30, 40)


# --- transaction mode ----------------------------------------------------------------------------------------------


@pytest.fixture
def transaction_mode(untuned: None) -> Iterator[None]:
    """The owner puts the pools into transaction mode, and back."""
    ok("tests/lab/pilot.yml", "-e", "lab_pool_mode=transaction")
    owner_up()
    until("three healthy replicas", 180, lambda: healthy(3))
    yield
    ok("rollback_tune_pools", *CONSENT)
    ok("tests/lab/pilot.yml")
    owner_up()
    until("three healthy replicas", 180, lambda: healthy(3))


@pytest.mark.full
def test_in_transaction_mode_the_database_restarts_unnoticed(transaction_mode: None) -> None:
    database = started("bd-postgres-fhir")
    with Load(announced=True) as load:
        time.sleep(3)
        ok("tune_pools", *FIVE, *CONSENT)
        time.sleep(3)
    assert started("bd-postgres-fhir")[1] != database[1], "the database was not restarted: nothing was tested"
    assert started("bd-postgres-fhir")[0] == database[0]
    # The only window is that of the pooler.
    assert_announced(load, windows=1)
    assert (pool_size(), max_connections()) == (30, 40)
    assert len(replicas()) == 3
