# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""postgres_parameter against a real PostgreSQL behind a real pgBouncer, under the load of clients that never connect again."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_parameter
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import APP_PASSWORD, SECRETS, Databases, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

Run = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[3]
AUTO = "/var/lib/postgresql/data/postgresql.auto.conf"
POOLER = {"service": "pgbouncer", "admin_user": "hapi_app", "admin_password_variable": "FHIR_DB_APP_PASSWORD", "pause_timeout": 10}
LIBRARIES = "auto_explain, pg_stat_statements"
RESTARTING = "services: {postgres: {restart: unless-stopped, stop_grace_period: 60s%s}}\n"
MODES = {mode: f"pool_mode = {mode}\ndns_max_ttl = 3" for mode in ("transaction", "session")}


class Site(Databases):
    """The databases, and the module on them."""

    def args(self, **more: Any) -> dict[str, Any]:
        found = {
            "project_dir": str(self.dir),
            "service": "postgres",
            "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
            "command_timeout": 60,
            "ready_timeout": 30,
        }
        return {**found, **more}

    def paused_args(self, trial: bool = False, **parameters: Any) -> dict[str, Any]:
        """The trial takes some seconds, and most tests are not about it."""
        return self.args(parameters=parameters, restart="pause", pooler=POOLER, trial=trial)

    def process(self, **args: Any) -> subprocess.Popen[str]:
        """Start the module as a process of its own: one that can be killed, and that forks without our threads."""
        code = (
            "from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change\n"
            f"_change.STATE_DIR = {str(self.dir / 'journal')!r}\n"
            "from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_parameter\n"
            "postgres_parameter.main()\n"
        )
        found = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)),
            start_new_session=True,
        )
        assert found.stdin is not None
        found.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": {"_ansible_diff": True, **args}}))
        found.stdin.close()
        found.stdin = None
        return found

    def module(self, check: bool = False, **args: Any) -> dict[str, Any]:
        process = self.process(_ansible_check_mode=check, **args)
        out, err = process.communicate(timeout=120)
        assert out.strip(), err
        assert not any(secret in out + err for secret in SECRETS)
        return json.loads(out)

    def started(self) -> str:
        return docker("inspect", "-f", "{{.State.StartedAt}}", self.container("postgres")).strip()

    def setting(self, name: str, service: str = "postgres") -> str:
        return self.sql(f"SHOW {name}", service)

    def auto_conf(self) -> str:
        return docker("exec", self.container("postgres"), "cat", AUTO)

    def log(self, service: str) -> str:
        done = subprocess.run(["docker", "logs", self.container(service)], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def held(self) -> bool:
        return any(row["paused"] for row in self.show("DATABASES") if row["name"] == "fhirdb")

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for path in (self.dir / "journal").rglob("journal.jsonl") for line in path.read_text().splitlines()]


class Load:
    """Clients with one connection each, which write a row a transaction and are told so."""

    def __init__(self, site: Site, clients: int = 4) -> None:
        self.site = site
        self.errors: list[str] = []
        self.done = 0
        self.longest = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        self.site.sql("CREATE TABLE IF NOT EXISTS load (client int, number int); GRANT ALL ON load TO hapi_app; TRUNCATE load")
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def _client(self, client: int) -> None:
        number = 0
        try:
            connection = self.site.connection()
            connection.autocommit = False
            while not self._stop.wait(0.03):
                begin = time.monotonic()
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO load VALUES (%s, %s)", (client, number))
                    cursor.execute("SELECT count(*) FROM load WHERE client = %s", (client,))
                    assert cursor.fetchone()[0] == number + 1, "a row is lost"
                connection.commit()
                number += 1
                with self._lock:
                    self.done += 1
                    self.longest = max(self.longest, time.monotonic() - begin)
            connection.close()
        except Exception as exc:
            self.errors.append(repr(exc))

    def goes_on(self, seconds: float = 30) -> None:
        """Wait until each client could have done something more."""
        before, end = self.done, time.monotonic() + seconds
        while self.done < before + 2 * len(self._threads):
            assert not self.errors, self.errors
            assert time.monotonic() < end, "clients wait for ever"
            time.sleep(0.02)

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        # With an error of the test itself at hand, that is the one to be seen.
        if args[0] is None:
            assert self.errors == []
            assert self.done == int(self.site.sql("SELECT count(*) FROM load"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("parameter") / "site", "prm")
    site.write("docker-compose.override.yml", RESTARTING % "")
    site.pooler_files(settings=MODES["transaction"])
    try:
        site.start()
        yield site
    finally:
        site.remove()


@pytest.fixture
def site(made: Site) -> Iterator[Site]:
    """The shared site, whose server has nothing from ALTER SYSTEM."""
    yield made
    if "=" in made.auto_conf():
        made.sql("ALTER SYSTEM RESET ALL")
        docker("restart", made.container("postgres"))
        made.wait()


def facts(found: dict[str, Any], name: str = "max_connections") -> tuple[Any, ...]:
    item = found["parameters"][name]
    return found["changed"], found["restarted"], found["restart_required"], found["method"], item["before"], item["after"], item["configured"]


def test_raised_and_lowered_behind_a_pause_without_a_failed_statement(site: Site) -> None:
    """Create, again, change, again, remove, again, each in check mode and for real, with clients that never connect again."""
    container, direct = site.container("postgres"), site.connection("postgres", "postgres")
    with Load(site) as load, contextlib.closing(direct):
        for value, before, after in ((40, "30", "40"), (31, "40", "31"), (None, "31", "30")):
            args = site.paused_args(trial=value == 40, max_connections=value)
            started = site.started()
            predicted = site.module(check=True, **args)
            assert site.started() == started
            assert site.setting("max_connections") == before
            done = site.module(**args)
            assert facts(predicted) == facts(done) == (True, True, False, "pause", before, after, after)
            assert predicted["diff"] == done["diff"] == {"before": f"max_connections = {before}\n", "after": f"max_connections = {after}\n"}
            assert site.setting("max_connections") == after
            assert site.started() != started
            assert 0 < done["interrupted_seconds"] < 30
            assert done["interruption"] == predicted["interruption"]
            load.goes_on()
            started = site.started()
            for check in (True, False):
                again = site.module(check=check, **args)
                assert facts(again) == (False, False, False, "none", after, after, after)
            assert site.started() == started
        cut = [item for item in predicted["findings"] if item["id"] == "direct_clients_cut"]
    # It went with the first restart, and no other has come past the pooler since.
    assert cut == []
    assert site.container("postgres") == container
    assert "max_connections" not in site.auto_conf()
    started = site.started()
    site.compose("up", "-d")
    assert (site.container("postgres"), site.started()) == (container, started)
    steps = [(item["action"], item["before"], item["after"]) for item in site.journal() if item["kind"] == "step"]
    assert ("restart", {"max_connections": "30"}, {"max_connections": "40"}) in steps
    assert [action for action, *dummy in steps] == ["alter_system", "reload", "restart"] * 3
    assert "bd-fhir" not in docker("exec", container, "ls", "-a", "/var/lib/postgresql/data")


def test_without_a_restart_it_waits_and_the_next_run_finishes(site: Site) -> None:
    started = site.started()
    args = site.args(parameters={"max_connections": 40, "work_mem": "5MB"})
    for check in (True, False):
        found = site.module(check=check, **args)
        assert facts(found) == (True, False, True, "reload", "30", "30", "40")
        assert facts(found, "work_mem")[4:] == ("4096", "5120", "5120")
        assert [item["id"] for item in found["findings"]] == ["parameter_waits_for_restart"]
    assert found["diff"]["after"] == "max_connections = 30, 40 after a restart\nwork_mem = 5120 x kB\n"
    assert facts(site.module(**args)) == (False, False, True, "none", "30", "30", "40")
    assert (site.setting("max_connections"), site.setting("work_mem"), site.started()) == ("30", "5MB", started)
    # As after a kill between the two steps.
    with Load(site, 2):
        assert facts(site.module(**site.paused_args(max_connections=40))) == (True, True, False, "pause", "30", "40", "40")
    assert site.setting("max_connections") == "40"


def test_values_are_read_as_the_server_reads_them(site: Site, run: Run) -> None:
    """What counts as no change is what the server itself says of the value."""
    values = {
        "work_mem": "30.1MB", "checkpoint_timeout": "90000ms", "random_page_cost": "1.10", "autovacuum": False, "wal_compression": "LZ4",
        "timezone": "utc", "vacuum_cost_delay": "1500us", "log_min_duration_statement": -1, "maintenance_work_mem": "0x10000",
        "datestyle": "iso, dmy",
    }  # fmt: skip
    for changed in (True, False):
        found = run(postgres_parameter, **site.args(parameters=values))
        assert (found["changed"], found["method"]) == (changed, "reload" if changed else "none")
    for name in values:
        query = f"SELECT setting FROM pg_settings WHERE lower(name) = '{name}'"
        assert site.sql(query) == found["parameters"][name]["after"], name
    # Somebody edits a file and does not tell the server; it comes into effect with the next reload, whosever.
    site.sql("ALTER SYSTEM SET work_mem = '7MB'")
    found = run(postgres_parameter, **site.args(parameters={"autovacuum": True}))
    assert [(item["id"], item["object"]) for item in found["findings"]] == [("other_parameter_reloaded", "work_mem")]
    site.sql("ALTER ROLE reporter IN DATABASE fhirdb SET work_mem = '1MB'")
    found = run(postgres_parameter, **site.args(parameters={"work_mem": "9MB"}))
    assert [(item["id"], item["found"]) for item in found["findings"]] == [("parameter_overridden", "1MB for reporter in fhirdb")]
    site.sql("ALTER ROLE reporter IN DATABASE fhirdb RESET work_mem")


def test_bad_input_is_refused_before_a_change(site: Site, run: Run) -> None:
    before, started = site.auto_conf(), site.started()
    with site.clients(7, "postgres"):
        cases: list[tuple[dict[str, Any], list[str]]] = [
            ({"parameters": {"max_conections": 40}}, ["no parameter max_conections"]),
            ({"parameters": {"max_connections": 0}}, ["at least 1"]),
            ({"parameters": {"work_mem": "4MB", "max_connections": "lots"}}, ["no number"]),
            ({"parameters": {"server_version_num": 160000}}, ["can't be changed"]),
            ({"parameters": {"timezone": "Mars/Base"}}, ["TimeZone", "Mars/Base", "invalid value"]),
            ({"parameters": {"max_connections": 3}}, ["3 connections are reserved"]),
            ({"parameters": {"max_connections": 9}}, ["in use now", "is the least"]),
            ({"parameters": {"shared_buffers": "32MB"}}, ["`-c shared_buffers=16MB`", f"{site.dir}/docker-compose.yml:"]),
            ({"parameters": {"shared_preload_libraries": "no_such_library"}}, ["trial server", "no_such_library"]),
            ({"parameters": {"work_mem": 1}, "login_user": "reporter", "login_password_variable": "FHIR_DB_APP_PASSWORD"}, ["no superuser"]),
            ({"parameters": {"max_connections": 40}, "login_password_variable": "WRONG_PASSWORD"}, ["password"]),
            ({"parameters": {"max_connections": 40}, "login_password_variable": "NOWHERE"}, ["NOWHERE", ".env"]),
            ({"parameters": {"max_connections": 40}, "service": "postgress"}, ["postgress", "pgbouncer"]),
            ({"parameters": {"max_connections": 40}, "standbys": ["pgbouncer"]}, ["pgbouncer"]),
            ({"parameters": {"max_connections": 40}, "standbys": ["postgres"]}, ["no standby"]),
        ]
        for pooler, words in (
            ({"service": "postgres"}, ["pgBouncer"]),
            ({"admin_password_variable": "WRONG_PASSWORD"}, ["auth_file"]),
            ({"admin_user": "reporter"}, ["admin_users"]),
            ({"databases": ["nothing"]}, ["no database nothing", "fhirdb on postgres"]),
            ({"user": "stats", "password_variable": "STATS_PASSWORD"}, ["nothing could be proven", "pooler.user"]),
        ):
            more = site.paused_args(max_connections=40)
            more["pooler"] = {**POOLER, **pooler}
            cases.append((more, words))
        for args, words in cases:
            for check in (True, False) if "restart" in args else (False,):
                found = run(postgres_parameter, check, **site.args(**args))
                assert found.get("failed"), args
                assert all(word in found["msg"] for word in words), found["msg"]
                assert not any(secret in json.dumps(found) for secret in SECRETS)
    assert (site.auto_conf(), site.started()) == (before, started)
    assert not site.held()
    assert not [name for name in docker("ps", "-a", "--format", "{{.Names}}").split() if name.startswith("bd-fhir-trial-")]


def test_a_restart_changes_nothing_else(site: Site, run: Run) -> None:
    site.sql("ALTER SYSTEM SET max_wal_senders = 12")
    started = site.started()
    args = site.paused_args(max_connections=40)
    found = run(postgres_parameter, True, **site.args(parameters={"max_connections": 40}))
    assert [(item["id"], item["severity"], item["found"]) for item in found["findings"]][0] == (
        "other_parameter_pending", "warning", f"12 after a restart, from {AUTO}:3",
    )  # fmt: skip
    found = run(postgres_parameter, **args)
    assert found["failed"]
    assert f"max_wal_senders from 10 to 12 ({AUTO}:3)" in found["msg"]
    assert (site.started(), site.setting("max_connections")) == (started, "30")
    found = run(postgres_parameter, **site.paused_args(max_connections=40, max_wal_senders=10))
    assert (found["restarted"], site.setting("max_wal_senders"), site.setting("max_connections")) == (True, "10", "40")


@pytest.mark.full
def test_files_that_can_not_be_read_are_refused(site: Site, run: Run) -> None:
    """A server with a typing error in its file runs on, and would not come up again."""
    config = "/var/lib/postgresql/data/postgresql.conf"
    docker("exec", site.container("postgres"), "bash", "-c", f"echo 'work_mem = = 1' >> {config}")
    try:
        found = run(postgres_parameter, **site.args(parameters={"max_connections": 40}))
        assert found["failed"]
        assert "syntax error" in found["msg"]
        assert config in found["msg"]
    finally:
        docker("exec", site.container("postgres"), "sed", "-i", "$d", config)


def test_a_transaction_that_does_not_end(site: Site) -> None:
    """The pause is given up: everybody goes on, nothing was restarted, and it is told who was in the way."""
    started = site.started()
    idle = site.connection()
    idle.autocommit = False
    idle.cursor().execute("SELECT 1")
    args = site.paused_args(max_connections=40)
    args["pooler"] = {**POOLER, "pause_timeout": 1}
    with Load(site, 2) as load:
        found = site.module(**args)
        assert found["failed"]
        assert "1 of user hapi_app in fhirdb" in found["msg"]
        assert "Nothing was restarted" in found["msg"]
        load.goes_on()
        assert not site.held()
        idle.cursor().execute("SELECT 1")
        idle.commit()
        assert (site.started(), site.setting("max_connections")) == (started, "30")
        assert site.module(**args)["restarted"]
    idle.close()


@pytest.mark.parametrize("where", ["pooler", pytest.param("database", marks=pytest.mark.full), pytest.param("user", marks=pytest.mark.full)])
def test_a_pause_in_session_mode_is_refused(site: Site, run: Run, where: str) -> None:
    files = {
        "pooler": {"settings": MODES["session"]},
        "database": {"settings": MODES["transaction"], "line": " pool_mode=session"},
        "user": {"settings": MODES["transaction"], "tail": "[users]\nreporter = pool_mode=session\n"},
    }
    site.pool(**files[where])
    try:
        for check in (True, False):
            found = run(postgres_parameter, check, **site.paused_args(max_connections=40))
            assert found["failed"]
            assert "session mode" in found["msg"]
            assert "restart: window" in found["msg"]
        assert site.setting("max_connections") == "30"
    finally:
        site.pool(settings=MODES["transaction"])


def kill_when(process: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not moment():
        assert process.poll() is None, f"it ended before the moment came: {process.communicate()}"
        assert time.monotonic() < end
    process.kill()
    process.wait()


@pytest.mark.parametrize("moment", [pytest.param("waiting", marks=pytest.mark.full), "restarting"])
def test_killed_while_clients_are_held_back(site: Site, moment: str) -> None:
    """SIGKILL: what it has left behind lets the clients go on, none of their statements has failed, and the next run finishes."""
    with Load(site, 2) as load, contextlib.closing(site.connection()) as idle, contextlib.closing(site.connection(database="pgbouncer")) as console:
        idle.autocommit = False

        def held() -> bool:
            with console.cursor() as cursor:
                cursor.execute("SHOW DATABASES")
                names = [column[0] for column in cursor.description]
                return any(row[names.index("name")] == "fhirdb" and row[names.index("paused")] for row in cursor)

        def down() -> bool:
            with socket.socket() as probe:
                probe.settimeout(0.05)
                return held() and probe.connect_ex((address, 5432)) != 0

        address = site.address("postgres")
        if moment == "waiting":
            # As long as it is open, the pause does not come about.
            idle.cursor().execute("SELECT 1")
        process = site.process(**site.paused_args(max_connections=40))
        kill_when(process, held if moment == "waiting" else down)
        load.goes_on()
        assert not held()
        idle.commit()
        done = site.module(**site.paused_args(max_connections=40))
        assert (done["parameters"]["max_connections"]["after"], site.setting("max_connections")) == ("40", "40")
        load.goes_on()
    assert "bd-fhir" not in docker("exec", site.container("postgres"), "ls", "-a", "/var/lib/postgresql/data")


def test_a_server_that_does_not_start_gets_its_values_back(site: Site) -> None:
    """The trial is left out, as it would see that. The clients only wait."""
    args = site.paused_args(shared_preload_libraries="no_such_library", max_connections=40)
    with Load(site, 2) as load:
        found = site.module(**args)
        assert found["failed"]
        assert 'FATAL:  could not access file "no_such_library"' in found["msg"]
        assert "runs again" in found["msg"]
        load.goes_on()
        assert not site.held()
    assert (site.setting("shared_preload_libraries"), site.setting("max_connections")) == ("", "30")
    assert site.sql("SELECT count(*) FROM pg_settings WHERE pending_restart") == "0"
    assert docker("exec", site.container("postgres"), "stat", "-c", "%U %a", AUTO).strip() == "postgres 600"
    assert not site.module(**site.args(parameters={"max_connections": 30}))["changed"]


@pytest.mark.full
def test_killed_while_the_server_does_not_start(site: Site) -> None:
    """The next run gives it back what it ran with before, and says so."""
    args = site.paused_args(shared_preload_libraries="no_such_library")
    process = site.process(**args)
    kill_when(process, lambda: docker("inspect", "-f", "{{.State.Status}}", site.container("postgres")).strip() == "restarting")
    found = site.module(check=True, **args)
    assert "broken off" in found["msg"]
    found = site.module(**args)
    assert found["failed"]
    assert "broken off" in found["msg"]
    assert "runs again" in found["msg"]
    site.until("the clients", lambda: not site.held())
    assert site.setting("shared_preload_libraries") == ""


@pytest.mark.full
def test_with_a_newer_pooler(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", "prn")
    site.pooler_files(settings=MODES["transaction"])
    try:
        site.start(pooler="pgbouncer-new")
        with Load(site, 2) as load:
            assert facts(site.module(**site.paused_args(max_connections=40))) == (True, True, False, "pause", "30", "40", "40")
            load.goes_on()
        site.pool(settings=MODES["session"])
        assert "session mode" in site.module(**site.paused_args(max_connections=30))["msg"]
    finally:
        site.remove()


def test_case_65_libraries_are_set_as_a_list_and_taken_away_by_a_reset(site: Site) -> None:
    """ALTER SYSTEM would write one strange name for two, and for none a name without a letter: neither starts."""
    for value, before, after in (("auto_explain,pg_stat_statements", "", LIBRARIES), ("", LIBRARIES, "")):
        args = site.paused_args(trial=value == "", shared_preload_libraries=value)
        assert facts(site.module(**args), "shared_preload_libraries") == (True, True, False, "pause", before, after, after)
        assert site.setting("shared_preload_libraries") == after
        assert not site.module(**args)["changed"]
    assert "shared_preload_libraries" not in site.auto_conf()


def test_a_server_that_comes_back_with_another_address(site: Site) -> None:
    """Docker gives a container that is restarted the lowest free address, and the pooler remembers the former one."""
    container, network = site.container("postgres"), f"{site.name}_default"
    docker("stop", container)
    placeholder = docker("run", "-d", "--rm", "--network", network, "--entrypoint", "sleep", image("postgres"), "100").strip()
    try:
        docker("start", container)
        site.wait()
        before = site.address("postgres")
    finally:
        docker("rm", "-f", placeholder)
    # It learns the address that the server has now, and keeps it for longer than the restart takes.
    site.pool(settings="pool_mode = transaction\ndns_max_ttl = 20")
    known = len(site.log("pgbouncer"))
    with Load(site, 2):
        assert site.module(**site.paused_args(max_connections=40))["restarted"]
    assert site.address("postgres") != before, "the test is about a change of the address"
    log = site.log("pgbouncer")[known:]
    assert "RESUME" in log
    # It has not even tried the former one: that would have cost its clients server_login_retry.
    assert not [line for line in log.splitlines() if before in line and "connect failed" in line]
    site.pool(settings=MODES["transaction"])


HAPROXY = """
global
    stats socket /run/haproxy/admin.sock mode 600 level admin
    lua-load /etc/balancer/window.lua
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
frontend fhir
    bind :8080
    tcp-request content set-var(txn.now) date
    tcp-request content set-var(txn.window) str(all),map_str_int(/etc/balancer/window.map,0),sub(txn.now)
    acl window_open var(txn.window) -m int gt 0
    http-request set-var(txn.wait) var(txn.window) if window_open
    http-request use-service lua.window if window_open
    default_backend hapi
backend hapi
    server h1 hapi:8080 check inter 500ms
"""
BALANCER = """
  balancer:
    image: %(haproxy)s
    user: root
    entrypoint: [haproxy, -W, -db, -f, /etc/balancer/haproxy.cfg]
    stop_signal: SIGKILL
    depends_on: [hapi]
    volumes: ["./balancer:/etc/balancer:ro", "./run:/run/haproxy"]
"""


class Requests:
    """A client of the balancer: what it was answered."""

    def __init__(self, site: Site) -> None:
        self.address = site.address("balancer")
        self.seen: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def ask(self) -> str:
        connection = http.client.HTTPConnection(self.address, 8080, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/actuator/prometheus")
            answer = connection.getresponse()
            answer.read()
            return f"{answer.status} announced" if answer.getheader("Retry-After") else str(answer.status)

    def _ask(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self.seen[self.ask()] += 1
            except OSError as exc:
                self.seen[repr(exc)] += 1

    def __enter__(self) -> Requests:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join(30)


class Returning:
    """A client in session mode as those of a connection pool: it stays connected, and when it was cut it comes again at once."""

    def __init__(self, site: Site) -> None:
        self.site = site
        # Asked for once: it has to come again while the server is still down.
        self.address = site.address("pgbouncer")
        self.lives = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def _connect(self) -> Any:
        return psycopg2.connect(host=self.address, port=6432, user="hapi_app", password=APP_PASSWORD, dbname="fhirdb", connect_timeout=30)

    def _live(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(psycopg2.Error), contextlib.closing(self._connect()) as connection:
                connection.cursor().execute("SELECT 1")
                self.lives += 1
                while not self._stop.wait(0.02):
                    connection.cursor().execute("SELECT 1")

    def __enter__(self) -> Returning:
        self._thread.start()
        self.site.until("a client", lambda: self.lives == 1)
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join(30)


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A pooler in session mode, and a balancer before one replica."""
    site = Site(tmp_path_factory.mktemp("window") / "site", "prw")
    site.write("docker-compose.override.yml", RESTARTING % "")
    site.write("balancer/haproxy.cfg", HAPROXY, 0o644)
    for name in ("window.lua", "window.map"):
        site.write(f"balancer/{name}", (ROOT / "roles/balancer/files" / name).read_text(), 0o644)
    (site.dir / "balancer").chmod(0o755)
    (site.dir / "run").mkdir()
    site.pooler_files(settings=MODES["session"])
    try:
        site.start(replicas=1, more=BALANCER % {"haproxy": image("haproxy")})
        site.until("the balancer", lambda: Requests(site).ask() == "200")
        yield site
    finally:
        site.remove()


def window_args(site: Site, value: Any, **window: Any) -> dict[str, Any]:
    options = {"socket": f"{site.dir}/run/admin.sock", "map_path": f"{site.dir}/balancer/window.map", "backend": "hapi", "seconds": 60}
    return site.args(parameters={"max_connections": value}, restart="window", window={**options, **window}, pooler=POOLER, trial=False)


def test_restarted_in_a_window_where_the_pooler_is_in_session_mode(balanced: Site) -> None:
    site = balanced
    args = window_args(site, 40)
    config = f"{site.dir}/balancer/haproxy.cfg"
    for wrong, words in (({"backend": "hapy"}, "hapy"), ({"map_path": config}, "scale_hapi"), ({"socket": "/nowhere.sock"}, "/nowhere.sock")):
        found = site.module(**window_args(site, 40, **wrong))
        assert found["failed"]
        assert words in found["msg"]
    assert site.setting("max_connections") == "30"
    known = len(site.log("pgbouncer"))
    with Requests(site) as requests, Returning(site) as client:
        predicted = site.module(check=True, **args)
        assert "503" in predicted["interruption"]
        assert set(requests.seen) == {"200"}
        done = site.module(**args)
        assert facts(predicted) == facts(done) == (True, True, False, "window", "30", "40", "40")
        assert requests.ask() == "200"
        site.until("the client", lambda: client.lives > 1)
    # Who came while the server was down had to wait. Had the pooler tried to reach it, it would have waited for server_login_retry after that.
    log = site.log("pgbouncer")[known:]
    assert "server conn crashed" in log
    assert "connect failed" not in log
    assert set(requests.seen) == {"200", "503 announced"}
    assert not site.held()
    assert "all 0" in (site.dir / "balancer/window.map").read_text()
    assert not site.module(**args)["changed"]
    with Requests(site) as requests:
        assert facts(site.module(**window_args(site, None)))[:4] == (True, True, False, "window")
    assert set(requests.seen) == {"200", "503 announced"}


@pytest.mark.full
def test_a_window_with_requests_that_do_not_end(balanced: Site) -> None:
    """Nothing is restarted, and the window is closed again."""
    site, started = balanced, balanced.started()
    with socket.create_connection((site.address("balancer"), 8080)) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n1")
        time.sleep(0.3)
        found = site.module(**window_args(site, 40, drain_timeout=1))
        assert found["failed"]
        assert "1 requests to hapi were still in flight" in found["msg"]
        assert Requests(site).ask() == "200"
    assert (site.started(), site.setting("max_connections")) == (started, "30")
    assert not site.held()
    assert facts(site.module(**window_args(site, None)))[:2] == (True, False)


def test_case_56_the_standby_first_when_raising_the_primary_first_when_lowering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a container whose stop signal lets a server wait for its clients, too."""
    # Slow to restart, as on a busy machine: the time in which a restart policy would start a server that has ended.
    slow = tmp_path / "docker"
    slow.write_text(f'#!/bin/sh\n[ "$1" != restart ] || sleep 2\nexec {shutil.which("docker")} "$@"\n')
    slow.chmod(0o755)
    site = Site(tmp_path / "site", "prs")
    site.write("docker-compose.override.yml", RESTARTING % ", stop_signal: SIGTERM")
    site.pooler_files(settings=MODES["transaction"])
    standby = {"service": "standby", "trial": False}
    try:
        site.start(standby=True)

        def restart_standby() -> None:
            docker("restart", site.container("standby"))
            site.until("the standby", lambda: site.sql("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'", "standby") == "1")

        found = site.module(check=True, **site.args(parameters={"max_connections": 40}, trial=False))
        assert [item["id"] for item in found["findings"]][0] == "standby_not_named"
        found = site.module(**site.paused_args(max_connections=40), standbys=["standby"])
        assert "more than the standby standby has (30)" in found["msg"]
        assert site.setting("max_connections") == "30"
        found = site.module(**site.args(**standby, parameters={"max_connections": 40}))
        assert facts(found)[:3] == (True, False, True)
        restart_standby()
        starts = site.log("postgres").count("starting PostgreSQL")
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        with contextlib.closing(site.connection("postgres", "postgres")):
            found = site.module(**site.paused_args(max_connections=40), standbys=["standby"])
        assert facts(found) == (True, True, False, "pause", "30", "40", "40")
        assert "standby_not_named" not in str(found["findings"])
        assert [item["object"].split()[0] for item in found["findings"] if item["id"] == "direct_clients_cut"] == ["postgres"]
        # It was shut down in good order, with a client that would not have gone, and started by nobody else in between.
        assert site.log("postgres").count("starting PostgreSQL") == starts + 1
        assert "was not properly shut down" not in site.log("postgres")
        site.until("the standby", lambda: site.sql("SELECT count(*) FROM pg_stat_replication", "postgres") == "1")
        found = site.module(**site.args(**standby, parameters={"max_connections": 30}))
        assert "less than the primary of this standby has (40)" in found["msg"]
        assert site.module(**site.paused_args(max_connections=30), standbys=["standby"])["restarted"]
        # A reader does not keep it, and the server that takes writes is never restarted so.
        with contextlib.closing(site.connection("standby", "postgres")):
            found = site.module(**site.args(**standby, parameters={"max_connections": 30}, restart="standby"))
        assert facts(found) == (True, True, False, "standby", "40", "30", "30")
        assert "ask the primary" in found["interruption"]
        site.until("the standby", lambda: site.sql("SELECT count(*) FROM pg_stat_replication", "postgres") == "1")
        found = site.module(**site.args(parameters={"max_connections": 40}, restart="standby", trial=False))
        assert "takes writes" in found["msg"]
        assert site.setting("max_connections") == "30"
    finally:
        site.remove()
