# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""postgres_monitor_role against a real PostgreSQL: what the role may and what it may not is tried by logging in with it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_monitor_role
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import ENV, SECRETS, Databases

pytestmark = pytest.mark.engine
Run = Callable[..., dict[str, Any]]

# Case 17: characters that break a DSN.
WORD = "p#=@{x:'b\\ \"word\" অডিট"
QUOTED = WORD.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
SECOND = "second-S3cret-word"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    site = Databases(tmp_path_factory.mktemp("monitor") / "site", "mon")
    try:
        site.start(pooler="", postgres_args="-c log_statement=all")
        site.write(".env", ENV + f'MONITOR_PASSWORD="{QUOTED}"\nSECOND_PASSWORD={SECOND}\n')
        yield site
    finally:
        site.remove()


@pytest.fixture
def module(site: Databases, run: Run) -> Run:
    """Run the module on the site; each result is searched for secrets."""

    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        options = {
            "project_dir": str(site.dir), "service": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
            "database": "fhirdb", "user": "watch", "password_variable": "MONITOR_PASSWORD",
        }  # fmt: skip
        found = run(postgres_monitor_role, check, **{**options, **args})
        found.pop("invocation", None)
        text = json.dumps(found, ensure_ascii=False)
        assert not any(secret in text for secret in (*SECRETS, WORD, SECOND, "SCRAM-SHA-256$"))
        return found

    return call


def asked(site: Databases, password: str, statement: str) -> Any:
    """Ask as the role does."""
    connection = psycopg2.connect(host=site.address("postgres"), user="watch", password=password, dbname="fhirdb")
    try:
        cursor = connection.cursor()
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None
    finally:
        connection.close()


def test_case_17_made_used_and_removed(site: Databases, module: Run) -> None:
    """Create, again, change, again, remove, again, each in check mode and for real; the role watches, and does nothing else."""
    site.sql("CREATE TABLE IF NOT EXISTS patients (name text)")
    site.sql("REVOKE CONNECT ON DATABASE fhirdb FROM PUBLIC")
    for variable, password, adopt, first in (
        ("MONITOR_PASSWORD", WORD, False, "create role watch"),
        ("SECOND_PASSWORD", SECOND, True, "alter role watch"),
    ):
        args = {"password_variable": variable, "adopt": adopt}
        predicted, done = module(check=True, **args), module(**args)
        assert predicted["actions"] == done["actions"]
        assert done["actions"][0] == first
        assert predicted["changed"] is done["changed"] is True
        assert (predicted["role"], predicted["diff"]) == (done["role"], done["diff"])
        for check in (True, False):
            assert module(check=check, password_variable=variable, adopt=True)["changed"] is False
        assert asked(site, password, "SELECT count(*) FROM pg_stat_activity WHERE query IS NOT NULL AND query <> '<insufficient privilege>'") > 0
        assert asked(site, password, "SHOW statement_timeout") == "10s"
        for statement in ("SELECT name FROM patients", "CREATE TEMPORARY TABLE t (n int)"):
            with pytest.raises(psycopg2.Error, match="permission denied|read-only"):
                asked(site, password, statement)
    with pytest.raises(psycopg2.OperationalError):
        asked(site, WORD, "SELECT 1")
    held = psycopg2.connect(host=site.address("postgres"), user="watch", password=SECOND, dbname="fhirdb")
    predicted, done = module(check=True, state="absent"), module(state="absent")
    held.close()
    assert predicted["actions"] == done["actions"] == ["drop role watch"]
    assert site.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'watch'") == "0"
    assert module(state="absent")["changed"] is False
    # The server logs every statement.
    log = subprocess.run(["docker", "logs", site.container("postgres")], capture_output=True, text=True, check=True).stderr
    assert "DROP ROLE" in log
    assert not any(secret in log for secret in ("SCRAM-SHA-256$", SECOND))


def test_a_role_of_somebody_else_stays(site: Databases, module: Run) -> None:
    site.sql("CREATE ROLE watch LOGIN SUPERUSER")
    try:
        for adopt, words in ((False, "no run of ours has made"), (True, "may do more than watch")):
            for check in (True, False):
                found = module(check=check, adopt=adopt)
                assert found["failed"]
                assert words in found["msg"]
        assert site.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'watch'") == "t"
    finally:
        site.sql("DROP ROLE watch")
