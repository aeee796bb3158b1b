# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The watch over HAPI's partitions as a process of its own, laid as the role lays it, on HAPI's own tables of 7.2 in a real PostgreSQL."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from ansible_collections.dghs.bd_fhir.plugins.modules import hfj_partition, hfj_partition_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import SECRETS
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import filled
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hfj import TOKEN, VERSIONS, Site
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.job_on_host import ROOT, WITHOUT_ANSIBLE, lay, started

pytestmark = pytest.mark.engine

COUNT = 1000
FILES = yaml.safe_load((ROOT / "roles/hapi_partitioning/vars/job.yml").read_text())["_hapi_partitioning_job_files"]
PARTS = "SELECT count(*) FROM pg_inherits WHERE inhparent = '%s'::regclass"
CHECK = "SELECT count(*) FROM pg_constraint WHERE conname = 'bd_fhir_below'"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with filled(Site(tmp_path_factory.mktemp("hfjjob") / "site", "hfjjob"), COUNT) as site:
        yield site


@pytest.fixture
def site(made: Site) -> Site:
    made.fresh()
    return made


@pytest.fixture
def do(site: Site, run: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Do a step of the partitioning by the module, as the playbook does."""

    def call(*steps: str, table: str = TOKEN, **more: Any) -> dict[str, Any]:
        for step in steps:
            found = run(hfj_partition, **site.args(table=table, step=step, **more))
            assert found["rc"] == 0, found["msg"]
        return found

    return call


class Job:
    """The program on a host."""

    def __init__(self, site: Site, path: Path) -> None:
        self.site = site
        self.path = path
        self.folder = lay("hapi_partitioning", FILES, path / "bd-fhir-hfj/bd_fhir_hfj")

    def configured(self, **more: Any) -> list[str]:
        config = {
            "project_dir": str(self.site.dir), "service": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
            "metrics": str(self.path / "job.prom"), "state_dir": str(self.path / "state"), "overlap_wait": 0, **more,
        }  # fmt: skip
        (self.path / "job.json").write_text(json.dumps(config))
        return ["--config", str(self.path / "job.json")]

    def __call__(self, *command: str, **more: Any) -> dict[str, Any]:
        """Run it; return what it printed as JSON, with its exit code, the ids of its findings, and its metrics."""
        done = started(self.folder, *self.configured(**more), *(command or ("run", "--scheduled")), "--json")
        written = (self.path / "job.prom").read_text() if (self.path / "job.prom").exists() else ""
        assert not any(secret in done.stdout + done.stderr + written for secret in SECRETS)
        assert "Traceback" not in done.stderr, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        found["rc"] = done.returncode
        found["ids"] = [item["id"] for item in found["findings"] if item["severity"] != "info"]
        found["text"] = written
        return found

    def journal(self) -> list[tuple[str, str]]:
        paths = list((self.path / "state").glob("*/journal.jsonl"))
        rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
        return [(row["action"], row["object"]) for row in rows if row["kind"] == "step"]


@pytest.fixture
def job(site: Site, tmp_path: Path) -> Job:
    return Job(site, tmp_path)


def metric(found: dict[str, Any], name: str, table: str = TOKEN) -> float:
    """A figure as Prometheus would read it."""
    told = re.findall(rf'^bd_fhir_hfj_partition_{name}(?:{{schema="public",table="{table}"}})? (\S+)$', found["text"], re.MULTILINE)
    assert len(told) == 1, (name, found["text"])
    return float(told[0])


# --- the whole way -------------------------------------------------------------------------------------------------


def test_from_plain_to_partitioned(site: Site, do: Callable[..., Any], job: Job, run: Callable[..., dict[str, Any]]) -> None:
    """The job is there first, and each figure is what the server says when it is asked in another way."""
    found = job()
    assert (found["rc"], found["tables"], found["steps"]) == (0, [], [])
    bound = do("prepare")["bounds"]["first"]
    used = int(site.script("SELECT last_value + 50 FROM seq_resource_id"))
    found = job()
    assert (found["rc"], [(row["table"], row["state"]) for row in found["tables"]]) == (0, [(TOKEN, "prepared")])
    assert metric(found, "check_ids_left") == bound - used
    do("swap")
    found = job()
    assert (found["rc"], found["steps"], found["ids"]) == (0, [], [])
    assert f'bd_fhir_hfj_partition_state{{schema="public",table="{TOKEN}",state="swapped"}} 1' in found["text"]
    assert "check_ids_left" not in found["text"]
    pattern = "TO \\(''?(\\d+)"
    look = f"SELECT max((regexp_match(pg_get_expr(relpartbound, oid), '{pattern}'))[1]::bigint) FROM pg_class WHERE relname ~ '^{TOKEN}_p'"
    end = int(site.script(look))
    assert metric(found, "ids_left") == end - used
    assert metric(found, "sequence") == used
    assert (metric(found, "partitions"), metric(found, "partitions_ahead"), metric(found, "last_used_ratio")) == (3, 2, 0)
    assert metric(found, "bytes") == int(site.script(f"SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('{TOKEN}') WHERE isleaf"))
    assert metric(found, "rows") == 4 * COUNT
    # Eleven ids a day, as test_hfj_partition has it from the module.
    assert 9 < metric(found, "ids_per_day") < 14
    assert metric(found, "days_left") == pytest.approx((end - used) / metric(found, "ids_per_day"), rel=0.01)
    told = run(
        hfj_partition_info, project_dir=str(site.dir), service="postgres", login_password_variable="FHIR_DB_SUPERUSER_PASSWORD", tables=[TOKEN],
        sample=False,
    )  # fmt: skip
    assert metric(found, "days_left") == pytest.approx(told["tables"][0]["days_left"], rel=0.01)

    # The sequence goes on, and each time there are two partitions ahead of it again, while HAPI works.
    for _round in range(2):
        first = int(site.script(f"SELECT min(substring(relname FROM '[0-9]+$')::bigint) FROM pg_class WHERE relname ~ '^{TOKEN}_p[0-9]{{2,}}$'"
                                f" AND substring(relname FROM '[0-9]+$')::bigint > (SELECT last_value FROM seq_resource_id)"))
        site.sequence_at(first + 5001)
        assert job("check")["tables"][0]["plan"][0]["action"] == "add_partition"
        with site.load() as load:
            found = job()
        assert load.failed == []
        assert (found["rc"], found["ids"], {step["action"] for step in found["steps"]}) == (0, [], {"add_partition"})
        assert metric(found, "partitions_ahead") >= 2
        assert job()["steps"] == []
        assert site.script(f"SELECT DISTINCT tableoid::regclass FROM {TOKEN} WHERE res_id = {max(load.ids)}") == f"{TOKEN}_p{first}"
    do("verify")
    assert job.journal()[-1][0] == "add_partition"


def test_the_check_goes_before_it_bites(site: Site, do: Callable[..., Any], job: Job, tmp_path: Path) -> None:
    """Whoever is at work: an operator with a lease, another run of the job, a run of the module on that table."""
    bound = do("prepare")["bounds"]["first"]
    do("prepare", table=VERSIONS)
    assert job()["rc"] == 0
    assert site.script(CHECK) == "2"
    # Seen red: without it, this is what HAPI gets.
    with pytest.raises(psycopg2.errors.CheckViolation):
        site.resource(bound + 1)
    site.sequence_at(bound - 500)
    assert job("check")["ids"] == ["check_near", "check_near"]
    assert site.script(CHECK) == "2"
    store = _change.Store(_change.directory_of(site.name, str(tmp_path / "state")))
    _change.take(store, _change.Wish("upgrade_ig", "CHG-7", "rahim@ops", {}, 900))
    descriptor = os.open(job.folder / "bd_fhir_hfj", os.O_RDONLY)
    holder = site.connection("postgres", "postgres")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for table in (TOKEN, VERSIONS):
            number = zlib.crc32(f"public.{table}".encode()) & 0x7FFFFFFF
            holder.cursor().execute(f"SELECT pg_advisory_lock(1819238760, {number})")
        with site.load() as load:
            found = job()
        assert load.failed == []
    finally:
        holder.close()
        os.close(descriptor)
    assert (found["rc"], sorted(found["ids"])) == (4, ["check_dropped", "check_dropped", "hfj_job_overlaps"])
    assert site.script(CHECK) == "0"
    site.sequence_at(bound + 51)
    site.resource(bound + 2)
    found = job()
    assert (found["rc"], [row["state"] for row in found["tables"]]) == (0, ["preparing", "preparing"])


def test_a_check_that_somebody_holds(site: Site, do: Callable[..., Any], job: Job) -> None:
    bound = do("prepare")["bounds"]["first"]
    site.sequence_at(bound - 500)
    holder = site.connection("postgres", "postgres")
    holder.autocommit = False
    try:
        holder.cursor().execute(f"SELECT 1 FROM {TOKEN} LIMIT 1")
        found = job(lock_tries=2, lock_timeout_seconds=0.1)
    finally:
        holder.close()
    assert (found["rc"], found["ids"]) == (1, ["hfj_upkeep_failed", "check_near"])
    assert "Held by pid" in found["findings"][0]["found"]
    assert site.script(CHECK) == "1"
    assert (job()["ids"], site.script(CHECK)) == (["check_dropped"], "0")


@pytest.mark.full
def test_a_table_that_cannot_be_read_keeps_no_check_in_place(site: Site, do: Callable[..., Any], job: Job) -> None:
    bound = do("prepare")["bounds"]["first"]
    site.sequence_at(bound - 500)
    holder = site.connection("postgres", "postgres")
    holder.autocommit = False
    try:
        holder.cursor().execute("LOCK TABLE hfj_spidx_date IN ACCESS EXCLUSIVE MODE")
        found = job()
    finally:
        holder.close()
    assert (found["rc"], found["up"], found["ids"]) == (2, False, ["check_dropped", "hfj_table_unread"])
    assert "bd_fhir_hfj_partition_up 0" in found["text"]
    assert job()["rc"] == 0


def test_the_end_of_the_partitions(site: Site, do: Callable[..., Any], job: Job) -> None:
    """A user without the right makes none: that is trouble from alarm_days on, and not before."""
    do("prepare", "swap")
    site.script("GRANT pg_monitor, pg_read_all_data TO reporter")
    reader = {"login_user": "reporter", "login_password_variable": "FHIR_DB_APP_PASSWORD"}
    found = job(**reader)
    assert (found["rc"], found["ids"]) == (0, [])
    site.sequence_at(int(metric(found, "sequence") + metric(found, "ids_left")) - 300)
    found = job(**reader)
    assert (found["rc"], found["ids"]) == (1, ["hfj_upkeep_failed", "partitions_end"])
    assert "bd_fhir_hfj_partition_exit_code 1" in found["text"]
    assert metric(found, "last_used_ratio") > 0.99
    assert int(site.script(PARTS % TOKEN)) == 3
    found = job()
    assert (found["rc"], found["ids"], len(found["steps"])) == (0, [], 2)
    assert 'findings{severity="error"} 0' in found["text"]


def test_a_table_that_has_lost_its_foreign_key(site: Site, do: Callable[..., Any], job: Job, run: Callable[..., dict[str, Any]]) -> None:
    """Its name alone tells that it is HAPI's: it still gets partitions, it is found without being named, and can go back."""
    bound = do("prepare", "swap")["partitions"][0]["upper"]
    key = site.script(f"SELECT conname FROM pg_constraint WHERE conrelid = '{TOKEN}'::regclass AND contype = 'f'")
    site.script(f"ALTER TABLE {TOKEN} DROP CONSTRAINT {key}")
    site.sequence_at(bound + 5000)
    found = job()
    assert [(row["table"], row["state"]) for row in found["tables"]] == [(TOKEN, "swapped")]
    assert {step["action"] for step in found["steps"]} == {"add_partition"}
    assert metric(found, "partitions_ahead") >= 2
    told = run(
        hfj_partition_info, project_dir=str(site.dir), service="postgres", login_password_variable="FHIR_DB_SUPERUSER_PASSWORD", sample=False,
    )  # fmt: skip
    assert TOKEN in [row["table"] for row in told["tables"]]
    do("undo")
    assert int(site.script(PARTS % TOKEN)) == 0


def test_an_operator_who_changes_the_deployment(site: Site, do: Callable[..., Any], job: Job, tmp_path: Path) -> None:
    bound = do("prepare", "swap")["partitions"][0]["upper"]
    site.sequence_at(bound + 5000)
    store = _change.Store(_change.directory_of(site.name, str(tmp_path / "state")))
    token = _change.take(store, _change.Wish("upgrade_ig", "CHG-7", "rahim@ops", {}, 900)).token
    found = job()
    assert (found["rc"], found["ids"], found["steps"]) == (0, ["hfj_upkeep_postponed"], [])
    assert "rahim@ops" in found["findings"][0]["found"]
    _change.close(store, _change.Token.parse(str(token)), "succeeded", "")
    assert len(job()["steps"]) == 1


@pytest.mark.full
def test_hfj_resource_and_its_guard_are_looked_after(site: Site, do: Callable[..., dict[str, Any]], job: Job) -> None:
    resource = "hfj_resource"
    # Plain, it is none of its business.
    assert [row["table"] for row in job()["tables"]] == []
    parts = do("prepare", "swap", table=resource, unique_guard=True)["partitions"]
    found = job()
    assert (found["rc"], found["ids"], found["steps"]) == (0, [], [])
    assert [(row["table"], row["state"]) for row in found["tables"]] == [(resource, "swapped")]
    site.sequence_at(parts[0]["upper"] + 5001)
    site.resource(parts[0]["upper"] + 5000)
    found = job()
    assert [step["object"] for step in found["steps"]] == [f"{resource}_p{parts[-1]['upper']}"]
    assert (found["rc"], metric(found, "partitions_ahead", resource)) == (0, 2)
    # The new one has the guard's triggers too, and one that is off is told.
    off = f"ALTER TABLE {resource}_p{parts[-1]['upper']} %s TRIGGER hfj_resource_bd_guard_insert"
    site.script(off % "DISABLE")
    found = job()
    assert (found["rc"], found["ids"]) == (1, ["guard_trigger_off"])
    site.script(off % "ENABLE")
    assert job()["rc"] == 0


# --- it could not look ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "says"), [
    ({"login_password_variable": "WRONG_PASSWORD"}, "password authentication failed"),
    ({"login_password_variable": "EMPTY_PASSWORD"}, "EMPTY_PASSWORD is empty"),
    ({"service": "postgres-2"}, "has no container of a service postgres-2"),
    ({"database": "gone"}, "gone"),
    ({"database": "postgres"}, "There is no table public.hfj_resource"),
    ({"sequence": "gone"}, "There is no sequence public.gone"),
    ({"connect_timeout": 1, "port": 9}, "Check that the container runs and listens"),
])
def test_what_could_not_be_looked_at(job: Job, more: dict[str, Any], says: str) -> None:
    good = job()
    assert (good["rc"], "bd_fhir_hfj_partition_up 1" in good["text"]) == (0, True)
    found = job(**more)
    assert (found["rc"], found["up"]) == (2, False)
    assert says in next(item["found"] for item in found["findings"] if item["id"] == "hfj_unreachable")
    assert "bd_fhir_hfj_partition_up 0" in found["text"]
    assert "bd_fhir_hfj_partition_sequence " not in found["text"]
    assert metric(found, "last_success_timestamp_seconds") == metric(good, "last_success_timestamp_seconds") > 0


def test_a_server_that_is_stopped(site: Site, do: Callable[..., Any], job: Job) -> None:
    do("prepare", "swap")
    assert "days_left{" in job()["text"]
    docker("stop", "-t", "1", site.container("postgres"))
    try:
        found = job()
    finally:
        docker("start", site.container("postgres"))
        site.wait()
    assert (found["rc"], found["ids"]) == (2, ["hfj_unreachable"])
    assert "no running container" in found["findings"][0]["found"]
    assert "bd_fhir_hfj_partition_up 0" in found["text"]
    assert "days_left{" not in found["text"]
    assert job()["rc"] == 0


def test_a_standby(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    """What it says of the sequence is of a moment ago, and nothing can be dropped there."""
    site = Site(tmp_path / "site", "hfjstandby")
    try:
        site.start(pooler="", max_connections=60, standby=True)
        site.template(100)
        site.fresh()
        (tmp_path / "host").mkdir()
        job = Job(site, tmp_path / "host")
        assert job()["rc"] == 0
        site.until("the tables", lambda: site.sql("SELECT to_regclass('hfj_resource') IS NOT NULL", "standby") == "t")
        found = job(service="standby")
        assert (found["rc"], found["up"], found["ids"]) == (2, False, ["server_is_standby"])
        assert "bd_fhir_hfj_partition_up 0" in found["text"]
        assert job()["rc"] == 0
    finally:
        site.remove()


# --- ended in the middle -------------------------------------------------------------------------------------------


@pytest.mark.full
def test_killed_at_any_moment(site: Site, do: Callable[..., Any], job: Job) -> None:
    """Each partition is whole or is not there, and the next run goes on."""
    bound = do("prepare", "swap")["partitions"][0]["upper"]
    site.sequence_at(bound + 5000)
    before = int(site.script(PARTS % TOKEN))
    argv = [sys.executable, "-I", "-c", WITHOUT_ANSIBLE, str(job.folder), *job.configured(ahead=12), "run", "--scheduled"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/"}
    killed = 0
    for number in range(12):
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5 + number * 0.15)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        # All that have the name are partitions.
        made = int(site.script(PARTS % TOKEN))
        assert int(site.script(f"SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^{TOKEN}_p[0-9]+$'")) == made
    assert killed > 2
    found = job(ahead=12)
    assert (found["rc"], int(site.script(PARTS % TOKEN))) == (0, before + 11)
    do("verify")
