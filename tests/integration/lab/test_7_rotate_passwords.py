# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords are rotated on the lab under load, killed in the middle, and taken back; nowhere is one seen that should not be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from load import Load
from pilot_host import FIRST, PROJECT, Background, Run, healthy, ok, on_host, owner_files, owner_up, play, replicas, snapshot, until
from secret_scan import Watch, scan, shown

pytestmark = [pytest.mark.lab]

HOSTILE = "%s$PATH @:/#,;\" ''\\!&*{}`~ বাংলা-য় 2026\\"
RETRY_AFTER = 15
RECORDS = "/var/lib/dghs-bd-fhir/bd-fhir-national/rotations"
CONSENT = ("-e", "database_passwords_allow_window=true")
APP = ("-e", "database_passwords_secret=fhir_app")
AGAIN = ("-e", json.dumps({"database_passwords_older_than": 0}))


def environment(service: str, name: str) -> str:
    """What Compose on the host now gives to a service; it doubles a dollar sign in what it prints."""
    text = on_host("docker", "compose", "--project-directory", PROJECT, "--env-file", f"{PROJECT}/.env", "config", "--format", "json")
    return str(json.loads(text)["services"][service]["environment"][name]).replace("$$", "$")


def password() -> str:
    return environment("pgbouncer-fhir", "POSTGRESQL_PASSWORD")


def lets_in(secret: str, where: str, user: str = "hapi_app", container: str = "bd-pgbouncer-fhir", database: str = "fhirdb") -> bool:
    """Ask psql in the pooler's container, with the password on standard input."""
    script = f'IFS= read -r PGPASSWORD; export PGPASSWORD; psql -XAtqw -h {where} -U {user} -d {database} -c "SELECT current_user"'
    return on_host("docker", "exec", "-i", container, "bash", "-c", script, data=secret + "\n", check=False).strip() == user


SERVER, POOLER = "postgres-fhir -p 5432", "127.0.0.1 -p 6432"


def assert_counts(new: str, old: str) -> None:
    """The new one is let in at the server and through the pooler, the old one at neither; containers and files agree."""
    for where in (SERVER, POOLER):
        assert lets_in(new, where), where
        assert not lets_in(old, where), where
    assert password() == new
    said = owner_up()
    assert "Recreate" not in said, said
    assert "Started" not in said, said


def containers() -> dict[str, str]:
    names = ("bd-postgres-fhir", "bd-pgbouncer-fhir", "bd-postgres-audit")
    return {name: on_host("docker", "inspect", "-f", "{{.Id}}", name).strip() for name in names}


@pytest.fixture(scope="module")
def two() -> None:
    ok("tests/lab/pilot.yml")
    ok("scale_hapi", "-e", "hapi_replicas=2", *FIRST)
    until("two healthy replicas", 300, lambda: healthy(2))
    # What earlier rotations of this lab remember is not what these tests begin with.
    on_host("rm", "-rf", RECORDS)


@pytest.fixture
def vault(tmp_path: Path) -> tuple[str, ...]:
    """The new password as an operator gives it: in a file, and not on the command line."""
    path = tmp_path / "vault.yml"
    path.write_text(json.dumps({"database_passwords_new": HOSTILE}), encoding="utf-8")
    path.chmod(0o600)
    return ("-e", f"@{path}")


def test_check_says_what_it_would_take_and_changes_nothing(two: None, vault: tuple[str, ...]) -> None:
    untouched = snapshot()
    result = ok("rotate_passwords", *APP, *vault, "--check", "--diff")
    flat = " ".join(result.out.split())
    for part in ("postgres-fhir, then pgbouncer-fhir anew", f"Retry-After {RETRY_AFTER}", "180 at most", "2 replica(s) of hapi one at a time"):
        assert part in flat, result.out[-3000:]
    assert result.changed == 1
    assert shown(result.out, {"new": HOSTILE, "old": password()}) == []
    assert snapshot() == untouched
    assert on_host("bash", "-c", f"ls {RECORDS} 2>/dev/null; true") == ""


@pytest.mark.parametrize(("arguments", "says"), [
    ({"database_passwords_secret": "fhir_app"}, "consent with database_passwords_allow_window=true"),
    ({"database_passwords_secret": "nobody"}, "Known, each by one name: fhir_app"),
    ({}, "database_passwords_secret (empty)"),
    ({"database_passwords_secret": "fhir_app", "database_passwords_new": "sh0rt-One"}, "shorter than 12"),
    ({"database_passwords_secret": "fhir_app", "database_passwords_new": "with a ${placeholder} in it"}, "Spring application expands"),
    ({"database_passwords_secret": "fhir_app", "database_passwords_window_seconds": 5}, "must be 10 to 900"),
    ({"database_passwords_secret": "app", "bd_fhir_secrets": [
        {"name": "app", "variable": "FHIR_DB_APP_PASSWORD", "role": "hapi_app", "database_service": "postgres-fhir", "database": "fhirdb",
         "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}]}, "would recreate services that guard_allow does not name"),
    ({"database_passwords_secret": "app", "bd_fhir_secrets": [
        {"name": "app", "variable": "FHIR_DB_APP_PASSWORD", "role": "hapi_ap", "database_service": "postgres-fhir", "database": "fhirdb",
         "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD", "pooler_service": "pgbouncer-fhir", "consumers": ["hapi"],
         "admin_user": "hapi_app"}]}, "role hapi_ap does not exist"),
    ({"database_passwords_secret": "app", "bd_fhir_secrets": [
        {"name": "app", "variable": "FHIR_DB_APP_PASSWORD", "role": "hapi_app", "database_service": "mysql", "database": "fhirdb",
         "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}]}, "has no service mysql"),
], ids=["no_consent", "unknown", "none", "weak", "placeholder", "short_window", "consumer_not_named", "unknown_role", "unknown_service"])
def test_what_cannot_go_well_is_refused_before_the_first_change(two: None, arguments: dict[str, object], says: str) -> None:
    untouched = snapshot()
    consent = () if says.startswith("consent") else CONSENT
    refused = play("rotate_passwords", *consent, "-e", json.dumps(arguments))
    assert refused.rc != 0
    assert says in " ".join(refused.out.split()), refused.out[-3000:]
    assert "Traceback" not in refused.out
    assert shown(refused.out, {"old": password()}) == []
    assert snapshot() == untouched


def test_case_19_the_applications_password_under_load(two: None, vault: tuple[str, ...]) -> None:
    old = password()
    before = owner_files()
    ids, first = containers(), {replica.id for replica in replicas()}
    secrets = {"new": HOSTILE, "old": old}
    with Load(announced=True) as load, Watch(secrets) as watch:
        # The pools of the replicas are filled by the load before their password changes.
        time.sleep(5)
        result = ok("rotate_passwords", *APP, *CONSENT, *vault)
    assert load.ledger.failures == [], result.out[-3000:]
    assert load.lost() == []
    assert load.ledger.refused, "the window was not seen by anybody"
    assert {after for dummy, after in load.ledger.refused} == {RETRY_AFTER}
    moments = sorted(moment for moment, dummy in load.ledger.refused)
    assert moments[-1] - moments[0] < 120, "more than one window, or a long one"
    assert_counts(HOSTILE, old)
    now = containers()
    assert {name for name, value in now.items() if value != ids[name]} == {"bd-postgres-fhir", "bd-pgbouncer-fhir"}
    assert not first & {replica.id for replica in replicas()}
    found = scan(secrets, [result.out])
    assert found.ours + watch.seen == []
    assert any("hapi" in line for line in found.owners), "the scan does not even find what the owner's compose file shows"
    record = json.loads(on_host("cat", f"{RECORDS}/fhir_app.json"))
    assert (record["state"], record["new"]) == ("done", "")
    # Again: nothing; and the way back brings each byte of the owner's back.
    assert ok("rotate_passwords", *APP, *CONSENT, *vault).changed == 0
    assert ok("rotate_passwords", *APP, *CONSENT).changed == 0, "generated again within a day"
    with Load(announced=True) as load:
        time.sleep(5)
        result = ok("rollback_rotate_passwords", *APP, *CONSENT)
    assert load.ledger.failures == [], result.out[-3000:]
    assert load.lost() == []
    assert_counts(old, HOSTILE)
    assert owner_files() == before
    assert ok("rollback_rotate_passwords", *APP, *CONSENT).changed == 0
    assert scan(secrets, [result.out]).ours == []


@pytest.mark.full
def test_a_superusers_password_is_generated_and_touches_no_replica(two: None) -> None:
    old = environment("postgres-audit", "POSTGRES_PASSWORD")
    serving = {replica.id for replica in replicas()}
    arguments = ("-e", "database_passwords_secret=audit_superuser", *CONSENT)
    result = ok("rotate_passwords", *arguments)
    new = environment("postgres-audit", "POSTGRES_PASSWORD")
    assert len(new) == 40
    known = {"user": "postgres", "container": "bd-pgbouncer-audit", "database": "auditdb"}
    assert lets_in(new, "postgres-audit -p 5432", **known)
    assert not lets_in(old, "postgres-audit -p 5432", **known)
    assert {replica.id for replica in replicas()} == serving
    assert scan({"new": new, "old": old}, [result.out]).ours == []
    assert "Recreate" not in owner_up()
    ok("rollback_rotate_passwords", *arguments)
    assert lets_in(old, "postgres-audit -p 5432", **known)


def record_state() -> str:
    text = on_host("bash", "-c", f"cat {RECORDS}/fhir_app.json 2>/dev/null; true")
    return str(json.loads(text)["state"]) if text.strip() else ""


def running(name: str) -> bool:
    return on_host("docker", "inspect", "-f", "{{.State.Running}}", name, check=False).strip() == "true"


# What stands at the moment of the kill; old is the password before.
MOMENTS: dict[str, Callable[[str], object]] = {
    "remembered": lambda old: record_state() == "open",
    "server_changed": lambda old: not lets_in(old, SERVER),
    "written": lambda old: password() != old,
    "new_replica_starting": lambda old: password() != old and len(replicas(everything=True)) == 3,
    "database_away": lambda old: password() != old and not running("bd-postgres-fhir"),
}


@pytest.mark.full
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_rotation_is_finished_by_the_next(two: None, moment: str) -> None:
    old = password()
    doomed = Background("rotate_passwords", *APP, *CONSENT, *AGAIN)
    until(moment, 300, lambda: MOMENTS[moment](old))
    doomed.kill()
    result = ok("rotate_passwords", *APP, *CONSENT)
    assert_counts(password(), old)
    assert password() != old
    until("two healthy replicas", 120, lambda: healthy(2))
    assert record_state() == "done"
    assert scan({"new": password(), "old": old}, [result.out]).ours == []
    assert ok("rotate_passwords", *APP, *CONSENT).changed == 0


@pytest.mark.full
def test_a_killed_rotation_is_turned_around(two: None) -> None:
    old = password()
    doomed = Background("rotate_passwords", *APP, *CONSENT, *AGAIN)
    until("the new password in .env", 300, lambda: MOMENTS["written"](old))
    doomed.kill()
    given_up = password()
    ok("rollback_rotate_passwords", *APP, *CONSENT)
    assert_counts(new=old, old=given_up)
    until("two healthy replicas", 120, lambda: healthy(2))


@pytest.mark.full
def test_two_rotations_at_once(two: None) -> None:
    """The second one stops and names who holds the deployment, or waits if it is told to."""
    old = password()
    first = Background("rotate_passwords", *APP, *CONSENT, *AGAIN)
    until("a rotation that is open", 300, lambda: record_state() == "open")
    refused: Run = play("rotate_passwords", "-e", "database_passwords_secret=audit_maintainer", *CONSENT)
    assert refused.rc != 0
    assert "rotate_passwords" in refused.out
    assert first.result().rc == 0
    assert_counts(password(), old)
    ok("rollback_rotate_passwords", *APP, *CONSENT)
    assert_counts(old, "not-this-one")
