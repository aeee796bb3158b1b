# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""postgres_hba against a real PostgreSQL, with its file in a volume, mounted by itself and in a directory, writable and not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_hba
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import APP_PASSWORD, SECRETS, Databases, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

Run = Callable[..., dict[str, Any]]
DATA = "/var/lib/postgresql/data/pg_hba.conf"
MOUNTS = """services:
  postgres:
    volumes:
      - ./alone.conf:/mnt/alone.conf
      - ./alone-ro.conf:/mnt/alone-ro.conf:ro
      - ./folder:/mnt/folder
      - ./folder-ro:/mnt/folder-ro:ro
"""
# name: where the server has it, where it is on the host, how it is written
PLACES = {
    "volume": (DATA, "", "rename"),
    "alone": ("/mnt/alone.conf", "alone.conf", "in_place"),
    "alone-ro": ("/mnt/alone-ro.conf", "alone-ro.conf", "in_place"),
    "folder": ("/mnt/folder/pg_hba.conf", "folder/pg_hba.conf", "rename"),
    "folder-ro": ("/mnt/folder-ro/pg_hba.conf", "folder-ro/pg_hba.conf", "rename_host"),
    "container": ("/var/lib/postgresql/pg_hba.conf", "", "rename"),
}
# With all that a file may have, and no newline at its end. Nobody may replicate.
BASE = (
    "# TYPE  DATABASE        USER            ADDRESS                 METHOD\n\n"
    "local   all             all                                     trust\r\n"
    "host    all             all             127.0.0.1/32            trust  # IPv4\n"
    "host    all             all             ::1/128                 trust\n"
    "host\tall,\"replication\"  postgres, \\\n   reporter 0.0.0.0 0.0.0.0  scram-sha-256\n"
    "host @/var/lib/postgresql/data/databases @/var/lib/postgresql/data/users          10.0.0.0/8              md5\n"
    "# \xe9 \\\n host all all all trust, which is a comment\n"
    "host all all all scram-sha-256"
)  # fmt: skip
RULE = {"type": "host", "databases": ["replication"], "users": ["reporter"], "address": "0.0.0.0/0", "method": "scram-sha-256"}
OTHER = {**RULE, "databases": ["replication", '"replication"', "my db"], "users": ["+pg_monitor", "reporter"], "address": "all"}
NEITHER = {**RULE, "type": "local", "address": None, "users": ['a"b'], "method": "reject"}


class Site(Databases):
    """The databases, and the module on them. place: where the server's file is now."""

    place = "volume"

    def args(self, **more: Any) -> dict[str, Any]:
        found = {
            "project_dir": str(self.dir),
            "service": "postgres",
            "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
            "name": "replica",
            "rules": [RULE],
            "command_timeout": 60,
        }
        return {**found, **more}

    def move_to(self, place: str) -> None:
        """Let the server have its file elsewhere, with the text that every test begins with."""
        self.put(BASE, place)
        if place != self.place:
            self.place = place
            self.server(hba_file=None if place == "volume" else PLACES[place][0])
        else:
            self.load()

    def put(self, text: str, place: str = "") -> None:
        """Write the file, and those that it includes, as an owner would: on the host or inside of the container."""
        path, on_host, _method = PLACES[place or self.place]
        for name in ("databases", "users"):
            self.inside("sh", "-c", 'test -e "$0" || echo nothing > "$0"', os.path.join("/var/lib/postgresql/data", name))
        if on_host:
            with open(self.dir / on_host, "wb") as handle:
                handle.write(text.encode())
        else:
            self.inside("sh", "-c", 'cat > "$0"; chown postgres:postgres "$0"; chmod 640 "$0"', path, text=text)

    def inside(self, *args: str, text: str = "") -> str:
        return docker("exec", "-i", self.container("postgres"), *args, stdin=text)

    def load(self) -> None:
        before = self.sql("SELECT pg_conf_load_time()")
        self.sql("SELECT pg_reload_conf()")
        self.until("the reload", lambda: self.sql("SELECT pg_conf_load_time()") != before)
        assert self.sql("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL") == ""

    def text(self) -> str:
        return subprocess.run(
            ["docker", "exec", self.container("postgres"), "cat", PLACES[self.place][0]], capture_output=True, check=True
        ).stdout.decode()

    def left(self) -> list[str]:
        """What is beside the file that should not be, in the container and on the host."""
        found = docker("exec", self.container("postgres"), "ls", "-a", os.path.dirname(PLACES[self.place][0])).split("\n")
        return [name for name in found + [path.name for path in self.dir.rglob("*")] if "bd_fhir" in name]

    def stat(self) -> str:
        return docker("exec", self.container("postgres"), "stat", "-c", "%u:%g %a", PLACES[self.place][0]).strip()

    def replicates(self, user: str = "reporter") -> bool:
        """Whether a standby would get in: IDENTIFY_SYSTEM over a replication session."""
        try:
            found = psycopg2.connect(
                host=self.address("postgres"), user=user, password=APP_PASSWORD, connect_timeout=5,
                connection_factory=psycopg2.extras.PhysicalReplicationConnection,
            )  # fmt: skip
        except psycopg2.OperationalError as exc:
            if "no pg_hba.conf entry for replication" not in str(exc) and "pg_hba.conf rejects replication" not in str(exc):
                raise
            return False
        try:
            with found.cursor() as cursor:
                cursor.execute("IDENTIFY_SYSTEM")
                return bool(cursor.fetchone())
        finally:
            found.close()

    def loaded(self) -> str:
        return self.sql("SELECT pg_conf_load_time()")

    def process(self, patch: str = "", **args: Any) -> tuple[int, dict[str, Any]]:
        """Run the module as a process of its own, one that can be killed. patch: code that runs in it first."""
        code = (
            "import os, signal\n"
            "from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change\n"
            f"_change.STATE_DIR = {str(self.dir / 'journal')!r}\n"
            "from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_hba as m\n"
            f"def die(*args, **more): os.kill(os.getpid(), signal.SIGKILL)\n{patch}\nm.main()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps({"ANSIBLE_MODULE_ARGS": {"_ansible_diff": True, **args}}), capture_output=True, text=True,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)), check=False, timeout=120,
        )  # fmt: skip
        assert not any(secret in done.stdout + done.stderr for secret in SECRETS)
        assert done.stdout or done.returncode == -signal.SIGKILL, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else {}

    def steps(self) -> list[str]:
        records = [json.loads(line) for path in (self.dir / "journal").rglob("journal.jsonl") for line in path.read_text().splitlines()]
        return [item["action"] for item in records if item["kind"] == "step"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("hba") / "site", "hba")
    site.write("docker-compose.override.yml", MOUNTS)
    for _path, on_host, _method in PLACES.values():
        if on_host:
            site.write(on_host, "local all all trust\nhost all all all scram-sha-256\n", 0o644)
    for name in ("folder", "folder-ro"):
        (site.dir / name).chmod(0o755)
    try:
        site.start(pooler="")
        site.sql("ALTER ROLE reporter REPLICATION")
        yield site
    finally:
        site.remove()


@pytest.fixture
def site(made: Site) -> Site:
    """The shared site with the file in the data directory, as every test begins."""
    made.move_to("volume")
    return made


def short(found: dict[str, Any]) -> tuple[Any, ...]:
    assert not found.get("failed"), found["msg"]
    keys = ("changed", "reloaded", "hba_file", "host_path", "method", "lines", "first_line", "diff")
    return tuple(found[key] for key in keys)


@pytest.mark.parametrize(
    "place", ["volume", "alone", *(pytest.param(name, marks=pytest.mark.full) for name in ("alone-ro", "folder", "folder-ro", "container"))]
)
@pytest.mark.parametrize("position", ["first", pytest.param("last", marks=pytest.mark.full)])
def test_case_63_each_step_twice_and_all_else_keeps_its_bytes(site: Site, run: Run, place: str, position: str) -> None:
    """Create, again, change, again, remove, again, each in check mode and for real, wherever the file lives."""
    site.move_to(place)
    path, on_host, method = PLACES[place]
    assert site.text() == BASE
    stat = site.stat()
    assert not site.replicates()
    for args, lines, enters in (
        ({"rules": [RULE]}, ["host replication reporter 0.0.0.0/0 scram-sha-256"], True),
        ({"rules": [NEITHER, OTHER]}, [
            'local replication "a""b" reject', 'host replication,"replication","my db" +pg_monitor,reporter all scram-sha-256'], True),
        ({"rules": [], "state": "absent"}, [], False),
    ):  # fmt: skip
        before, loaded = site.text(), site.loaded()
        predicted = run(postgres_hba, True, **site.args(position=position, **args))
        assert (site.text(), site.loaded()) == (before, loaded)
        done = run(postgres_hba, **site.args(position=position, **args))
        assert short(done) == short(predicted)
        assert (done["changed"], done["reloaded"], done["lines"], done["method"], done["hba_file"]) == (True, True, lines, method, path)
        assert done["diff"]["before"] != done["diff"]["after"]
        if on_host:
            assert done["host_path"] == str(site.dir / on_host)
        assert site.loaded() != loaded
        assert site.replicates() is enters
        after, loaded = site.text(), site.loaded()
        for check in (True, False):
            again = run(postgres_hba, check, **site.args(position=position, **args))
            assert (again["changed"], again["reloaded"]) == (False, False)
            assert again["diff"]["before"] == again["diff"]["after"]
        assert (site.text(), site.loaded()) == (after, loaded)
        assert after.replace("\r", "").find(BASE.replace("\r", "")) >= 0
        assert site.sql("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL") == "0"
        expected = {"hba_file_not_kept"} if place == "container" and lines else set()
        # Which files @users names, nobody knows from the text alone.
        assert {item["id"] for item in done["findings"]} == expected | ({"hba_rule_shadowed"} if position == "last" and lines else set())
    assert site.text() == BASE
    assert site.stat() == stat
    assert site.left() == []


def test_a_standby_gets_in_from_another_container(site: Site, run: Run) -> None:
    """Nothing but the rule keeps it out."""

    def identify() -> str:
        return docker(
            "run", "--rm", "--network", f"{site.name}_default", "-e", f"PGPASSWORD={APP_PASSWORD}", image("postgres"),
            "sh", "-c", "psql -XAt 'host=postgres user=reporter dbname=postgres replication=1' -c IDENTIFY_SYSTEM 2>&1 || true",
        )  # fmt: skip

    assert "no pg_hba.conf entry for replication" in identify()
    done = run(postgres_hba, **site.args(rules=[{**RULE, "address": "samenet"}], reached_from=["192.0.2.1"]))
    assert [item["id"] for item in done["findings"]] == ["hba_reach_not_proven"]
    assert site.sql("SELECT system_identifier FROM pg_control_system()") in identify()
    assert run(postgres_hba, **site.args(state="absent"))["changed"]
    assert "no pg_hba.conf entry for replication" in identify()


def test_wrong_input_is_refused_before_a_change(site: Site, run: Run) -> None:
    loaded = site.loaded()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"name": "Re plica"}, "small letters"),
        ({"rules": []}, "rules is empty"),
        ({"rules": [{**RULE, "address": "10.20.1.0/16"}]}, "Write 10.20.0.0/16"),
        ({"rules": [{**RULE, "users": ["a\nlocal all all trust"]}]}, "line break"),
        ({"rules": [{**RULE, "type": "hostssh"}]}, "hostssh"),
        ({"rules": [{**RULE, "method": "scram"}]}, "scram"),
        ({"rules": [{**RULE, "type": "hostssl"}]}, "TLS is off"),
        ({"reached_from": ["fd00::7"]}, "address family mismatch"),
        ({"service": "postgress"}, "postgress"),
        ({"login_password_variable": "WRONG_PASSWORD"}, "password"),
        ({"login_user": "reporter", "login_password_variable": "FHIR_DB_APP_PASSWORD"}, "no superuser"),
    ]
    for args, words in cases:
        for check in (True, False):
            found = run(postgres_hba, check, **site.args(**args))
            assert found.get("failed"), args
            assert words in found["msg"], found["msg"]
            assert not found.get("changed")
            assert not any(secret in json.dumps(found) for secret in SECRETS)
    assert (site.text(), site.loaded()) == (BASE, loaded)


def test_a_broken_file_is_refused_and_another_ones_edit_is_told(site: Site, run: Run) -> None:
    broken = BASE + "\nhost all all 10.0.0.0/33 md5\n"
    site.put(broken)
    for state, check in (("present", True), ("present", False), ("absent", False)):
        found = run(postgres_hba, check, **site.args(state=state))
        assert found["failed"]
        assert f"{DATA}:12: " in found["msg"], found["msg"]
        assert "Nothing was changed" in found["msg"]
    assert site.text() == broken
    site.put(BASE + "\n# mine\n")
    for check in (True, False):
        found = run(postgres_hba, check, **site.args())
        assert found["changed"]
        assert [item["id"] for item in found["findings"]] == ["hba_file_not_loaded"]
    assert run(postgres_hba, **site.args())["findings"] == []
    half = site.text().replace("# END dghs.bd_fhir replica\n", "")
    site.put(half)
    assert "not one pair: line 1 is its begin" in run(postgres_hba, **site.args())["msg"]
    site.put(BASE)
    site.inside("sh", "-c", 'echo "work_mem = = 1" >> "$0"', "/var/lib/postgresql/data/postgresql.conf")
    try:
        assert "syntax error" in run(postgres_hba, **site.args())["msg"]
    finally:
        site.inside("sed", "-i", "$d", "/var/lib/postgresql/data/postgresql.conf")
    assert site.text() == BASE


@pytest.mark.parametrize("place", ["volume", "alone", pytest.param("folder-ro", marks=pytest.mark.full)])
def test_lines_that_the_server_does_not_take_are_put_back(site: Site, run: Run, place: str) -> None:
    """What only the server knows: the name is one that this module lets through."""
    site.move_to(place)
    loaded, stat = site.loaded(), site.stat()
    bad = {**RULE, "options": {"no_such_option": "1"}}
    found = run(postgres_hba, **site.args(rules=[RULE, bad]))
    assert found["failed"]
    assert f'{PLACES[place][0]}:3: unrecognized authentication option name: "no_such_option"' in found["msg"]
    assert "The former text was put back" in found["msg"]
    assert not found["changed"]
    assert (site.text(), site.loaded(), site.stat(), site.left()) == (BASE, loaded, stat, [])
    assert run(postgres_hba, **site.args())["changed"]


def test_lines_before_ours_and_rejects_behind(site: Site, run: Run) -> None:
    site.put("host replication all 0.0.0.0/0 reject\n" + BASE)
    site.load()
    found = run(postgres_hba, **site.args(position="last"))
    assert [item["id"] for item in found["findings"]] == ["hba_rule_shadowed"] * 2
    assert found["findings"][0]["found"] == "line 1 may match the same connections before it: host replication all 0.0.0.0/0 reject"
    # What a file of names brings, the text does not tell.
    assert "line 9 may match" in found["findings"][1]["found"]
    assert not site.replicates()
    found = run(postgres_hba, **site.args())
    assert [(item["id"], item["severity"]) for item in found["findings"]] == [("hba_reject_overruled", "info")]
    assert "line 4 rejects" in found["findings"][0]["found"]
    assert site.replicates()
    # Two blocks leave each other alone.
    assert run(postgres_hba, **site.args(name="other", rules=[{**RULE, "users": ["postgres"]}]))["changed"]
    for name, user in (("replica", "reporter"), ("other", "postgres")):
        assert not run(postgres_hba, **site.args(name=name, rules=[{**RULE, "users": [user]}]))["changed"]


# What is done right before the end: in a process of its own, which kills itself there.
KILLS = {
    "copied": "m.unarchive = die",
    "aside": "m.overwrite_file = die",
    "half": "def half(path, text):\n  with open(path, 'r+b') as f: f.write(text.encode()[:300])\n  die()\nm.overwrite_file = half",
    "written": "m.Run.accepted = die",
    "before the reload": "m.Run.reload = die",
}


@pytest.mark.parametrize(
    ("place", "moment"),
    [
        ("volume", "written"), ("alone", "half"),
        *(pytest.param(*item, marks=pytest.mark.full) for item in (
            ("volume", "copied"), ("volume", "before the reload"), ("alone", "aside"), ("alone", "written"), ("alone-ro", "half"),
            ("folder-ro", "written"))),
    ],
)  # fmt: skip
def test_killed(site: Site, place: str, moment: str) -> None:
    """SIGKILL: the file is the former or the new one, or, mounted by itself, known to be half of it; the next run finishes."""
    site.move_to(place)
    rc, _nothing = site.process(KILLS[moment], **site.args())
    assert rc == -signal.SIGKILL
    new = "\n".join(postgres_hba.converge(BASE, "replica", postgres_hba.rules_of([RULE]), "first").text().split("\n"))
    torn = moment == "half"
    assert (site.text() not in (BASE, new)) is torn
    assert site.text() == (BASE if moment in ("copied", "aside") else new) or torn
    assert bool(site.left()) is (moment in ("copied", "aside", "half") or place == "alone")
    assert not site.replicates()
    predicted = site.process(**site.args(_ansible_check_mode=True))[1]
    rc, done = site.process(**site.args())
    assert short(done)[2:] == short(predicted)[2:]
    assert done["changed"]
    assert predicted["changed"]
    assert (site.text(), site.left()) == (new, [])
    assert site.replicates()
    assert not site.process(**site.args())[1]["changed"]
    assert site.process(**site.args(state="absent"))[1]["changed"]
    assert site.text() == BASE


def test_killed_before_lines_were_judged_that_the_server_does_not_take(site: Site) -> None:
    """The one case in which a server would not start again: the next run takes them out, whatever it was asked for."""
    args = site.args(rules=[{**RULE, "options": {"no_such_option": "1"}}])
    assert site.process(KILLS["written"], **args)[0] == -signal.SIGKILL
    found = site.process(**args)[1]
    assert "unrecognized authentication option" in found["msg"]
    assert "The file without the block was put back" in found["msg"]
    assert site.text() == BASE
    assert site.process(KILLS["written"], **args)[0] == -signal.SIGKILL
    assert site.process(**site.args())[1]["changed"]
    assert site.replicates()
    assert site.steps()[-2:] == ["write_hba", "reload"]


def test_a_file_that_was_replaced_on_the_host(site: Site, run: Run) -> None:
    """An editor has put another file in its place: the container still has the former one."""
    site.move_to("alone")
    path: Path = site.dir / "alone.conf"
    path.with_suffix(".tmp").write_bytes(path.read_bytes())
    path.with_suffix(".tmp").rename(path)
    for check in (True, False):
        found = run(postgres_hba, check, **site.args())
        assert found["failed"]
        assert "Restart the container" in found["msg"]
    docker("restart", site.container("postgres"))
    site.wait()
    time.sleep(0.1)
    assert run(postgres_hba, **site.args())["changed"]
    assert site.replicates()


@pytest.mark.full
def test_a_newer_server_with_included_files(tmp_path: Path, run: Run) -> None:
    site = Site(tmp_path / "site", "hba")
    site.write("docker-compose.override.yml", f"services: {{postgres: {{image: {image('postgres-new')}}}}}\n")
    included = "/var/lib/postgresql/data/more.conf"
    try:
        site.start(pooler="")
        site.sql("ALTER ROLE reporter REPLICATION")
        site.inside("sh", "-c", 'cat > "$0"', included, text="host replication reporter all reject\n")
        site.put("include more.conf\n" + BASE)
        site.load()
        found = run(postgres_hba, **site.args(position="last"))
        assert ["include more.conf" in item["found"] for item in found["findings"]] == [True, False]
        assert not site.replicates()
        assert run(postgres_hba, **site.args())["changed"]
        assert site.replicates()
        assert not run(postgres_hba, **site.args())["changed"]
        site.inside("sh", "-c", 'cat > "$0"', included, text="host all\n")
        assert f"{included}:1: " in run(postgres_hba, **site.args(state="absent"))["msg"]
    finally:
        site.remove()
