# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daily job as a process of its own, laid as the role lays it, against a real PostgreSQL with the lab's audit schema."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import SECRETS, Databases
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.job_on_host import ROOT, lay, started

pytestmark = pytest.mark.engine

ROLE = ROOT / "roles/audit_partitions"
SCHEMA = (ROOT / "overlay/src/main/resources/db/migration/audit/V2__audit_schema.sql").read_text()
FUNCTION = "SELECT pg_get_functiondef(p.oid) || p.proowner::regrole FROM pg_proc p WHERE p.proname = 'create_next_month_partitions'"
# Fails on a month that is there, and works with its caller's rights in its session's zone.
WRONG = """CREATE FUNCTION audit.create_next_month_partitions() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE TABLE audit.%I PARTITION OF audit.audit_events FOR VALUES FROM (%L) TO (%L)', 'audit_events_' ||
    to_char(now() + interval '1 month', 'YYYY_MM'), date_trunc('month', now() + interval '1 month'), date_trunc('month', now() + interval '2 month'));
  RETURN '100% done';
END $$;
GRANT EXECUTE ON FUNCTION audit.create_next_month_partitions() TO audit_maintainer_login;"""


class Site(Databases):
    def script(self, text: str) -> str:
        client = ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "fhirdb")
        return docker("exec", "-i", "-u", "postgres", self.container("postgres"), *client, stdin=text).strip()

    def months(self, table: str) -> list[str]:
        return self.script(
            f"SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit.{table}'::regclass ORDER BY 1"
        ).splitlines()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("job") / "site", "job")
    try:
        site.start(pooler="", postgres_args="-c max_locks_per_transaction=1024 -c autovacuum=off")
        yield site
    finally:
        site.remove()


@pytest.fixture
def site(made: Site) -> Site:
    made.script("DROP SCHEMA IF EXISTS audit CASCADE;" + SCHEMA)
    return made


@pytest.fixture
def job(site: Site, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run the program; return its exit code and what it wrote."""
    files = yaml.safe_load((ROLE / "vars/main.yml").read_text())["_audit_partitions_files"]
    folder = lay("audit_partitions", files, tmp_path / "bd-fhir-audit/bd_fhir_audit")

    def call(*command: str, stdin: str = "", **more: Any) -> tuple[int, str]:
        config = {
            "project_dir": str(site.dir), "service": "postgres", "database": "fhirdb", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
            "metrics": str(tmp_path / "job.prom"), "state_dir": str(tmp_path / "state"), "lease_wait": 0, "overlap_wait": 5, **more,
        }  # fmt: skip
        (tmp_path / "job.json").write_text(json.dumps(config))
        done = started(folder, "--config", str(tmp_path / "job.json"), *command, input=stdin)
        assert not any(secret in done.stdout + done.stderr for secret in SECRETS)
        return done.returncode, done.stdout if "--json" in command else done.stdout + done.stderr

    return call


Job = Callable[..., tuple[int, str]]


def metric(tmp_path: Path) -> str:
    return (tmp_path / "job.prom").read_text()


def test_it_makes_what_is_missing_and_then_nothing(site: Site, job: Job, tmp_path: Path) -> None:
    before = site.months("audit_events")
    site.script("DROP TABLE audit.audit_events_2027_03; ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_2027_05")
    code, out = job("check")
    assert code == 1, out
    assert "a run would: create audit.audit_events_2027_03" in out
    assert len(site.months("audit_events")) == len(before) - 2
    code, out = job("run", "--scheduled", "--log", str(tmp_path / "job.log"))
    assert (code, out) == (0, "")
    assert site.months("audit_events") == before
    assert "bd_fhir_audit_partition_up 1" in metric(tmp_path)
    log = (tmp_path / "job.log").read_text()
    assert "done: attach audit.audit_events_2027_05" in log
    assert '"audit_partitions_job"' in next((tmp_path / "state").glob("*/journal.jsonl")).read_text()
    code, out = job("run", "--json")
    assert code == 0
    assert json.loads(out)["steps"] == []


def test_one_table_that_is_locked(site: Site, job: Job, tmp_path: Path) -> None:
    site.script("DROP TABLE audit.audit_events_2027_03; DROP TABLE audit.fhir_rejected_submissions_2027_03")
    holder = site.connection("postgres", "postgres", "fhirdb")
    holder.autocommit = False
    try:
        holder.cursor().execute("LOCK TABLE audit.audit_events IN SHARE ROW EXCLUSIVE MODE")
        code, out = job("run", "--json", lock_timeout_seconds=0.2, lock_tries=2)
    finally:
        holder.close()
    assert code == 1
    assert "upkeep_failed" in [item["id"] for item in json.loads(out)["findings"]]
    assert "fhir_rejected_submissions_2027_03" in site.months("fhir_rejected_submissions")
    assert job("run")[0] == 0


def test_too_many_rows_in_the_default_partition(site: Site, job: Job, tmp_path: Path) -> None:
    """At night they stay where they are, all else is made, and it is told how many there are and what to do."""
    site.script(
        "DROP TABLE audit.audit_events_2027_03, audit.audit_events_2027_04; CREATE TABLE audit.audit_events_default PARTITION OF audit.audit_events"
        " DEFAULT; INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)"
        " SELECT '2027-03-15 12:00Z', 'OPERATION', 'ACCEPTED', 'x', 'POST', '/', 201, 5, 'hapi-1' FROM generate_series(1, 20)"
    )
    code, out = job("run", "--json", move_limit=19)
    found = json.loads(out)
    assert (code, found["rows_moved"]) == (1, 0)
    assert "audit_events_2027_04" in [item["partition"] for item in found["steps"]]
    hint = next(item["hint"] for item in found["findings"] if item["id"] == "default_rows")
    assert "has 20 rows of 2027-03, and move_limit is 19" in hint
    assert "-e audit_partitions_allow_long_move=true" in hint
    assert site.script("SELECT count(*) FROM audit.audit_events_default") == "20"
    assert 'bd_fhir_audit_partition_default_rows{schema="audit",table="audit_events"} 20' in metric(tmp_path)
    code, out = job("run", "--json", move_limit=20)
    assert (code, json.loads(out)["rows_moved"]) == (0, 20)


TOO_MANY = "the default partition has 20 rows of 2027-03, and move_limit is 19"


@pytest.mark.parametrize(("tables", "refused"), [
    ({"a": "", "b": "no right"}, False),
    ({"a": "no right", "b": "no right"}, True),
    ({"a": f"default_rows, audit.d: 20 rows. Nothing is created where it can't be: {TOO_MANY}."}, False),
    ({"a": f"{TOO_MANY}", "b": "no right"}, False),
    ({}, True),
])
def test_what_the_role_refuses(tmp_path: Path, tables: dict[str, str], refused: bool) -> None:
    """That the rows of a month are too many keeps neither the job from the host nor other months from being made."""
    plan = {"msg": "x", "findings": [], "tables": [{"table": name, "error": error} for name, error in tables.items()]}
    task = {"ansible.builtin.assert": {"that": f"_audit_partitions_plan_fails | bool == {refused}"}}
    play = {"hosts": "localhost", "gather_facts": False, "vars_files": [str(ROLE / "vars/main.yml")], "vars": {"__audit_partitions_plan": plan},
            "tasks": [task]}  # fmt: skip
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "play.yml"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("more", "says"), [
    ({"login_password_variable": "WRONG_PASSWORD"}, "password authentication failed"),
    ({"login_password_variable": "EMPTY_PASSWORD"}, "EMPTY_PASSWORD is empty"),
    ({"service": "postgres-2"}, "has no container of a service postgres-2"),
    ({"database": "gone"}, "gone"),
    ({"connect_timeout": 1, "port": 9}, "Check that the container runs and listens"),
])
def test_what_could_not_be_looked_at(job: Job, tmp_path: Path, more: dict[str, Any], says: str) -> None:
    code, out = job("run", "--json", **more)
    assert code == 2
    assert says in next(item["found"] for item in json.loads(out)["findings"] if item["id"] == "audit_unreachable")
    assert "bd_fhir_audit_partition_up 0" in metric(tmp_path)
    assert "days_left{" not in metric(tmp_path)


def test_a_server_that_is_stopped(site: Site, job: Job, tmp_path: Path) -> None:
    docker("stop", "-t", "1", site.container("postgres"))
    try:
        code, out = job("run", "--json")
    finally:
        docker("start", site.container("postgres"))
        site.wait()
    assert code == 2
    assert "no running container" in out
    assert job("run")[0] == 0


def test_the_server_by_its_name_as_in_a_container(site: Site, job: Job, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(SECRETS[0] + "\n")
    code, out = job("run", "--json", host=site.address("postgres"), password_file=str(secret), project_name=site.name)
    assert code == 0, out


def test_a_function_that_was_replaced_comes_back(site: Site, job: Job, run: Callable[..., dict[str, Any]]) -> None:
    site.script("DROP FUNCTION audit.create_next_month_partitions();" + WRONG)
    wrong = site.script(FUNCTION)
    code, memory = job("remember-function")
    assert code == 0, memory
    replaced = run(
        audit_partition, project_dir=str(site.dir), service="postgres", database="fhirdb", login_password_variable="FHIR_DB_SUPERUSER_PASSWORD",
        replace_function=True,
    )  # fmt: skip
    assert replaced["rc"] == 0, replaced["msg"]
    assert "SECURITY DEFINER" in site.script(FUNCTION)
    assert job("retire", stdin=memory) == (0, "restored\n")
    assert site.script(FUNCTION) == wrong
    for role in ("audit_maintainer_login", "audit_writer_login"):
        # The one by its grant, the other because PUBLIC may by default.
        assert site.script(f"SELECT has_function_privilege('{role}', 'audit.create_next_month_partitions()', 'EXECUTE')") == "t"
    assert job("retire", stdin=memory) == (0, "unchanged\n")
    # One that somebody has written since stays, and one that was not there goes.
    site.script("CREATE OR REPLACE FUNCTION audit.create_next_month_partitions() RETURNS text LANGUAGE sql AS 'SELECT NULL::text'")
    assert job("retire", stdin=memory) == (0, "kept\n")


def test_a_function_that_was_not_there_goes_again(site: Site, job: Job, run: Callable[..., dict[str, Any]]) -> None:
    site.script("DROP FUNCTION audit.create_next_month_partitions()")
    memory = job("remember-function")[1]
    replaced = run(
        audit_partition, project_dir=str(site.dir), service="postgres", database="fhirdb", login_password_variable="FHIR_DB_SUPERUSER_PASSWORD",
        replace_function=True,
    )  # fmt: skip
    assert replaced["rc"] == 0, replaced["msg"]
    assert site.script(FUNCTION)
    assert job("retire", stdin=memory) == (0, "removed\n")
    assert site.script(FUNCTION) == ""
