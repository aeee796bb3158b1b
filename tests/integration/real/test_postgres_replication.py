# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""postgres_replication and postgres_passfile against a real PostgreSQL: the login that they make possible is tried by libpq."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_passfile, postgres_replication
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import ENV, SECRETS, Databases

pytestmark = pytest.mark.engine
Run = Callable[..., dict[str, Any]]

WORD = r"""a:b\c*#'$ "word" অডিট"""
SECOND = "second-S3cret-word"
QUOTED = WORD.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    site = Databases(tmp_path_factory.mktemp("replication") / "site", "rpl")
    try:
        site.start(pooler="", postgres_args="-c log_statement=all")
        site.write(".env", ENV + f'REPLICA_PASSWORD="{QUOTED}"\nSECOND_PASSWORD={SECOND}\n')
        yield site
    finally:
        site.remove()


@pytest.fixture
def site(made: Databases) -> Iterator[Databases]:
    yield made
    for statement in (
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots", "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()",
        "DROP ROLE IF EXISTS replicator",
    ):  # fmt: skip
        made.sql(statement)


@pytest.fixture
def module(made: Databases, run: Run) -> Run:
    """Run postgres_replication on the site; each result is searched for secrets."""

    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        options = {
            "project_dir": str(made.dir), "service": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
            "user": "replicator", "password_variable": "REPLICA_PASSWORD", "slot": "standby",
        }  # fmt: skip
        found = run(postgres_replication, check, **{**options, **args})
        found.pop("invocation", None)
        text = json.dumps(found, ensure_ascii=False)
        assert not any(secret in text for secret in (*SECRETS, WORD, SECOND, "SCRAM-SHA-256$"))
        return found

    return call


def replication(site: Databases, passfile: Path) -> str:
    """Log in as a standby does, with the password that libpq finds in the file, and return the system's identifier."""
    connection = psycopg2.connect(
        host=site.address("postgres"), user="replicator", passfile=str(passfile), connection_factory=psycopg2.extras.PhysicalReplicationConnection
    )
    try:
        cursor = connection.cursor()
        cursor.execute("IDENTIFY_SYSTEM")
        return str(cursor.fetchone()[0])
    finally:
        connection.close()


def test_case_21_made_used_and_removed(site: Databases, module: Run, run: Run, tmp_path: Path) -> None:
    """Create, again, change, again, remove, again, each in check mode and for real; libpq logs in with the hostile password."""
    passfile = tmp_path / "passfile"
    for variable, adopt, actions in (
        ("REPLICA_PASSWORD", [], ["create user replicator", "create slot standby"]),
        ("SECOND_PASSWORD", ["user", "slot"], ["alter user replicator"]),
    ):
        args = {"password_variable": variable, "adopt": adopt}
        predicted, done = module(check=True, **args), module(**args)
        assert predicted["actions"] == done["actions"] == actions
        assert predicted["changed"] is done["changed"] is True
        assert (predicted["user"], predicted["slot"], predicted["diff"]) == (done["user"], done["slot"], done["diff"])
        for check in (True, False):
            assert module(check=check, password_variable=variable, adopt=["user", "slot"])["changed"] is False
        laid = run(
            postgres_passfile, project_dir=str(site.dir), path=str(passfile), entries=[{"user": "replicator", "password_variable": variable}]
        )
        assert laid["changed"]
        assert not any(secret in json.dumps(laid, ensure_ascii=False) for secret in (WORD, SECOND))
        assert replication(site, passfile) == site.sql("SELECT system_identifier FROM pg_control_system()")
    assert site.sql("SELECT slot_type || ' ' || wal_status FROM pg_replication_slots WHERE slot_name = 'standby'") == "physical reserved"
    predicted, done = module(check=True, state="absent"), module(state="absent")
    assert predicted["actions"] == done["actions"] == ["drop slot standby", "drop user replicator"]
    assert site.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'replicator'") == site.sql("SELECT count(*) FROM pg_replication_slots") == "0"
    assert module(state="absent")["changed"] is False
    with pytest.raises(psycopg2.OperationalError):
        replication(site, passfile)
    # The server logs every statement.
    done = subprocess.run(["docker", "logs", site.container("postgres")], capture_output=True, text=True, check=True)
    assert "DROP ROLE" in done.stderr
    assert not any(secret in done.stderr for secret in ("SCRAM-SHA-256$", SECOND))


def test_what_belongs_to_somebody_else_is_refused(site: Databases, module: Run) -> None:
    site.sql("SELECT pg_create_physical_replication_slot('standby')")
    for check in (True, False):
        found = module(check=check)
        assert found["failed"]
        assert "no run of ours has made" in found["msg"]
    site.sql("SELECT pg_drop_replication_slot('standby')")
    site.sql("CREATE ROLE replicator LOGIN")
    assert "not log in or not replicate" in module()["msg"]
    assert site.sql("SELECT count(*) FROM pg_replication_slots") == "0"
    assert module(adopt=["user"])["actions"] == ["alter user replicator", "create slot standby"]


def test_the_role_may_watch_the_standby(site: Databases, module: Run) -> None:
    module()
    # Without having made it, nobody gets anything granted.
    assert "no member of pg_monitor" in module(monitor=True, adopt=["slot"])["msg"]
    mine = {"monitor": True, "adopt": ["user", "slot"]}
    predicted, done = module(check=True, **mine), module(**mine)
    assert predicted["actions"] == done["actions"] == ["grant pg_monitor to replicator"]
    assert predicted["user"] == done["user"]
    assert done["user"]["after"]["monitor"] is True
    assert site.sql("SELECT pg_has_role('replicator', 'pg_monitor', 'USAGE')") == "t"
    assert module(**mine)["changed"] is False
    # Asked for no longer, it is not taken away.
    assert module(adopt=["user", "slot"])["changed"] is False
    assert module(state="absent")["actions"] == ["drop slot standby", "drop user replicator"]


def test_a_slot_that_is_read_is_not_dropped_and_a_role_that_was_there_stays(site: Databases, module: Run, run: Run, tmp_path: Path) -> None:
    module()
    passfile = tmp_path / "passfile"
    run(postgres_passfile, project_dir=str(site.dir), path=str(passfile), entries=[{"user": "replicator", "password_variable": "REPLICA_PASSWORD"}])
    connection = psycopg2.connect(
        host=site.address("postgres"), user="replicator", passfile=str(passfile), application_name="night standby",
        connection_factory=psycopg2.extras.PhysicalReplicationConnection,
    )  # fmt: skip
    connection.cursor().start_replication(slot_name="standby", start_lsn=site.sql("SELECT pg_current_wal_lsn()"))
    site.until("the reader", lambda: site.sql("SELECT active FROM pg_replication_slots") == "t")
    for check in (True, False):
        found = module(check=check, state="absent")
        assert found["failed"]
        assert "read by night standby" in found["msg"]
    connection.close()
    site.until("its end", lambda: site.sql("SELECT active FROM pg_replication_slots") == "f")
    assert module(state="absent", remove=["slot"])["actions"] == ["drop slot standby"]
    assert site.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'replicator'") == "1"


def test_case_59_a_lost_slot_is_told_and_made_again_on_request(site: Databases, module: Run) -> None:
    module()
    site.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    site.sql("ALTER SYSTEM SET min_wal_size = '32MB'")
    site.sql("ALTER SYSTEM SET max_wal_size = '32MB'")
    site.sql("SELECT pg_reload_conf()")

    def lost() -> bool:
        site.sql("CREATE TABLE IF NOT EXISTS filler (t text); INSERT INTO filler VALUES ('x')")
        site.sql("SELECT pg_switch_wal()")
        site.sql("CHECKPOINT")
        return site.sql("SELECT wal_status FROM pg_replication_slots") == "lost"

    site.until("the loss", lost)
    found = module(adopt=["user", "slot"])
    assert (found["changed"], [item["id"] for item in found["findings"]]) == (False, ["slot_lost"])
    for check in (True, False):
        found = module(check=check, adopt=["user", "slot"], remake_lost_slot=True)
        assert found["actions"] == ["drop slot standby", "create slot standby"]
        assert found["slot"]["after"]["wal_status"] == "reserved"
    assert module(adopt=["user", "slot"], remake_lost_slot=True)["changed"] is False


def test_wrong_input_is_refused(site: Databases, module: Run) -> None:
    for args, words in (
        ({"password_variable": "NOWHERE"}, "NOWHERE"),
        ({"password_variable": "EMPTY_PASSWORD"}, "EMPTY_PASSWORD is empty"),
        ({"login_password_variable": "WRONG_PASSWORD"}, "password"),
        ({"service": "postgress"}, "Services that run: postgres"),
    ):
        for check in (True, False):
            found = module(check=check, **args)
            assert found["failed"]
            assert words in found["msg"]
    # All slots are taken.
    for number in range(10):
        site.sql(f"SELECT pg_create_physical_replication_slot('other_{number}')")
    found = module()
    assert found["failed"]
    assert "replication slots are in use" in found["msg"]
