# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""postgres_clone against a real primary; a server on the clone, which really streams, is the judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _clone
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import ComposeError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._quoting import pgpass_escape
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_clone
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import SUPERUSER_PASSWORD, Databases, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker
from psycopg2 import extras, sql

pytestmark = pytest.mark.engine

Run = Callable[..., dict[str, Any]]
PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))

ROOT = "/var/lib/postgresql/data"
DIRECTORY = ROOT + "/standby"
# Case 21: both characters that a password file has to escape, and some that others would.
PASSWORD = "a:b\\c'd \"e$f#1*"
SLOW = "32k"
PASSFILE = "/run/bd-fhir/passfile"


class Site(Databases):
    """A primary with two roles for replication, one that may not, and one database with rows."""

    def prepare(self) -> None:
        self.start(pooler="", postgres_args="-c max_wal_senders=6 -c wal_keep_size=0")
        connection = self.connection("postgres", "postgres")
        with connection.cursor() as cursor:
            for name, more in (("repl", "REPLICATION"), ("plain", "")):
                cursor.execute(sql.SQL("CREATE ROLE {} LOGIN " + more + " PASSWORD {}").format(sql.Identifier(name), sql.Literal(PASSWORD)))
            cursor.execute("CREATE TABLE rows AS SELECT n, repeat(md5(n::text), 20) AS body FROM generate_series(1, 5000) n")
        connection.close()
        self.system = self.sql("SELECT system_identifier FROM pg_control_system()")
        self.network = f"{self.name}_default"

    def process(self, **args: Any) -> subprocess.Popen[str]:
        """Start the module as a process of its own."""
        code = (
            "from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change\n"
            f"_change.STATE_DIR = {str(self.dir / 'journal')!r}\n"
            "from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_clone\n"
            "postgres_clone.main()\n"
        )
        found = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)),
        )
        assert found.stdin is not None
        found.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": args}))
        found.stdin.close()
        found.stdin = None
        return found

    @contextmanager
    def senders(self, count: int) -> Iterator[list[Any]]:
        """Take so many WAL senders."""
        opened: list[Any] = []
        try:
            for _number in range(count):
                opened.append(
                    psycopg2.connect(
                        host=self.address("postgres"), user="postgres", password=SUPERUSER_PASSWORD,
                        connection_factory=extras.PhysicalReplicationConnection,
                    )
                )  # fmt: skip
            yield opened
        finally:
            for item in opened:
                item.close()


class Place:
    """A volume, its slot, its password file, and the standby on it."""

    def __init__(self, site: Site, run: Run, path: Path) -> None:
        self.site = site
        self.run_module = run
        word = uuid.uuid4().hex[:8]
        self.volume = f"cln-{word}"
        self.slot = f"s_{word}"
        self.in_slots = f"FROM pg_replication_slots WHERE slot_name = '{self.slot}'"
        self.maker = f"bd-fhir-clone-{self.volume}"
        self.standby = f"{self.volume}-standby"
        self.picture = image("postgres")
        self.passfile = path / f"passfile-{word}"
        self.owner = "999:999"
        self.secret(PASSWORD)
        site.sql(f"SELECT pg_create_physical_replication_slot('{self.slot}')")

    def secret(self, password: str, mode: int = 0o600) -> None:
        self.passfile.write_text(f"postgres:5432:replication:*:{pgpass_escape(password)}\n")
        self.passfile.chmod(mode)
        uid, _colon, gid = self.owner.partition(":")
        os.chown(self.passfile, int(uid), int(gid))

    def args(self, **more: Any) -> dict[str, Any]:
        return {
            "project_dir": str(self.site.dir),
            "lock_dir": str(self.site.dir / "lock"),
            "volume": self.volume,
            "volume_labels": {"com.docker.compose.volume": "replica-data"},
            "image": self.picture,
            "network": self.site.network,
            "primary_host": "postgres",
            "user": "repl",
            "passfile": str(self.passfile),
            "slot": self.slot,
            "system_identifier": self.site.system,
            "application_name": "the 'standby'",
            "settings": {"hot_standby_feedback": True, "wal_retrieve_retry_interval": "200ms"},
            "needed_bytes": 30 << 20,
            "min_free_bytes": 1 << 20,
            **more,
        }

    def __call__(self, check: bool = False, **more: Any) -> dict[str, Any]:
        found = self.run_module(postgres_clone, check, **self.args(**more))
        text = json.dumps(found)
        assert PASSWORD not in text
        assert json.dumps(PASSWORD)[1:-1] not in text
        assert pgpass_escape(PASSWORD) not in text
        return found

    def look(self) -> dict[str, Any]:
        found = self(state="read")
        assert not found.get("failed"), found["msg"]
        return found

    def ended(self, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while True:
            found = self.look()
            if found["state"] != "cloning":
                return found
            assert time.monotonic() < end, found
            time.sleep(0.2)

    def made(self, **more: Any) -> dict[str, Any]:
        """Clone, and wait for it."""
        begun = self(**more)
        assert begun["changed"], begun
        found = self.ended()
        assert found["state"] == "done", found
        return found

    def busy(self) -> None:
        """Wait until bytes are being copied."""
        end = time.monotonic() + 30
        while not (found := self.look())["progress"]["bytes_done"]:
            assert found["state"] == "cloning", found
            assert time.monotonic() < end, found
            time.sleep(0.2)

    def inside(self, script: str, check: bool = True) -> str:
        """Run a script in the volume, by another way than the module."""
        argv = ("run", "--rm", "--network", "none", "--user", "0", "-v", f"{self.volume}:{ROOT}", "--entrypoint", "sh", self.picture, "-c")
        return docker(*argv, f"cd {ROOT} && {script}", check=check).strip()

    def up(self) -> None:
        """Start the standby as compose would."""
        docker(
            "run", "-d", "--name", self.standby, "--network", self.site.network, "-e", f"PGDATA={DIRECTORY}", "-v", f"{self.volume}:{ROOT}",
            "-v", f"{self.passfile}:{PASSFILE}:ro", self.picture, "postgres", "-c", "fsync=off", "-c", "shared_buffers=16MB",
        )  # fmt: skip

    def take_the_slot(self) -> None:
        """Let somebody else stream by it, in the standby's place."""
        way = f"host=postgres user=repl passfile={PASSFILE}"
        docker(
            "run", "-d", "--name", self.standby, "--network", self.site.network, "--user", self.owner, "-v", f"{self.passfile}:{PASSFILE}:ro",
            "--entrypoint", "pg_receivewal", self.picture, "-d", way, "-D", "/tmp", "-S", self.slot,
        )  # fmt: skip
        self.site.until("the other one", lambda: self.site.sql(f"SELECT active {self.in_slots}") == "t")

    def down(self) -> None:
        docker("rm", "-f", self.standby)

    def ask(self, query: str) -> str:
        argv = ("exec", "-u", "postgres", self.standby, "psql", "-XAtq", "-U", "postgres", "-d", "fhirdb", "-c")
        return docker(*argv, query, check=False).strip()

    def streams(self) -> None:
        """Wait until a row that is written now is there."""
        mark = uuid.uuid4().hex
        self.site.sql(f"INSERT INTO rows VALUES (0, '{mark}')")
        self.site.until("the row on the standby", lambda: self.ask(f"SELECT count(*) FROM rows WHERE body = '{mark}'") == "1")
        assert self.ask("SELECT status, slot_name FROM pg_stat_wal_receiver") == f"streaming|{self.slot}"

    def exists(self) -> bool:
        return self.volume in docker("volume", "ls", "-q").split()

    def remove(self) -> None:
        docker("rm", "-f", "-v", self.standby, self.maker, check=False)
        docker("volume", "rm", "-f", self.volume, check=False)
        # Its sender may just be going.
        self.site.until("the end of its sender", lambda: "t" not in self.site.sql(f"SELECT active {self.in_slots}"))
        self.site.sql(f"SELECT pg_drop_replication_slot(slot_name) {self.in_slots}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    found = Site(tmp_path_factory.mktemp("site") / "clone", "cln")
    try:
        found.prepare()
        yield found
    finally:
        found.remove()


@pytest.fixture
def place(site: Site, run: Run, tmp_path: Path) -> Iterator[Place]:
    found = Place(site, run, tmp_path)
    yield found
    found.remove()


STREAMING: dict[str, Place] = {}


@pytest.fixture
def standby(site: Site, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A standby that was made once and streams; a test leaves it so."""
    if not STREAMING:
        found = Place(site, run, tmp_path_factory.mktemp("standby"))
        STREAMING["standby"] = found
        found.made()
        found.up()
    found = STREAMING["standby"]
    found.run_module = run
    found.streams()
    return found


@pytest.fixture(scope="module", autouse=True)
def no_standby_is_left(site: Site) -> Iterator[None]:
    yield
    for found in STREAMING.values():
        found.remove()
    STREAMING.clear()


def ids(found: dict[str, Any]) -> list[str]:
    return [item["id"] for item in found["findings"]]


def test_from_nothing_to_a_clone_and_back(place: Place) -> None:
    before = place.look()
    assert (before["state"], before["owner"], before["changed"]) == ("absent", "999:999", False)
    predicted = place(True)
    assert (predicted["state"], predicted["changed"], predicted["findings"]) == ("done", True, [])
    assert predicted["diff"] == {"before": f"{place.volume}: absent\n", "after": f"{place.volume}: done\n"}
    assert not place.exists()
    begun = place()
    assert begun["state"] in ("cloning", "done")
    assert begun["changed"]
    done = place.ended()
    assert (done["state"], done["changed"]) == ("done", False)
    assert done["progress"]["percent"] == 100
    assert done["progress"]["bytes_done"] > 20 << 20
    assert set(predicted) == set(begun)
    marker = json.loads(place.inside("cat bd_fhir_clone.json"))
    assert marker == done["marker"]
    assert (marker["system_identifier"], marker["primary"]) == (place.site.system, {"host": "postgres", "port": 5432})
    assert (marker["slot"], marker["state"], marker["replaces"]) == (place.slot, "done", "")
    assert marker["started"] <= marker["finished"]
    for check in (True, False):
        again = place(check)
        assert (again["state"], again["changed"], again["findings"]) == ("done", False, [])
    assert place.maker not in docker("ps", "-a", "--format", "{{.Names}}").split()
    assert place.inside("ls -A") == "bd_fhir_clone.json\nstandby"
    gone = place(True, state="absent")
    assert (gone["state"], gone["changed"]) == ("absent", True)
    assert place.exists()
    gone = place(state="absent")
    assert (gone["state"], gone["changed"]) == ("absent", True)
    assert not place.exists()
    for check in (True, False):
        assert not place(check, state="absent")["changed"]


def test_case_21_a_password_with_colon_and_backslash_streams(standby: Place) -> None:
    assert standby.site.sql("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'") == "the 'standby'"
    assert standby.ask("SHOW hot_standby_feedback") == "on"
    text = standby.inside("cat standby/postgresql.auto.conf")
    assert text.count("primary_conninfo") == 1
    assert "passfile=/run/bd-fhir/passfile" in text
    assert standby.inside("stat -c %a:%U standby") == "700:postgres"
    # Nowhere in the volume, nor in what Docker shows of the container.
    assert standby.inside("grep -rlF 'a:b' . || true") == ""
    assert standby.inside("grep -rlF 'a\\\\:b' . || true") == ""
    assert "a:b" not in docker("inspect", standby.standby)


def test_case_54_a_restart_streams_and_a_second_run_changes_nothing(standby: Place) -> None:
    docker("restart", standby.standby)
    standby.streams()
    started = docker("inspect", "-f", "{{.State.StartedAt}}", standby.standby)
    found = standby()
    assert (found["state"], found["changed"], found["findings"]) == ("done", False, [])
    assert docker("inspect", "-f", "{{.State.StartedAt}}", standby.standby) == started
    standby.streams()


def test_case_55_a_recreated_container_streams(standby: Place) -> None:
    docker("kill", standby.standby)
    standby.down()
    standby.up()
    standby.streams()
    assert not standby()["changed"]


def test_a_standby_that_runs_is_not_replaced_or_removed(standby: Place) -> None:
    for more in ({"reclone": True}, {"state": "absent"}):
        assert ids(standby(True, **more)) == ["clone_volume_in_use"]
        refused = standby(**more)
        assert refused["failed"]
        assert f"{standby.standby} is running" in refused["msg"]
    standby.streams()


def test_another_primary_is_told(standby: Place) -> None:
    """By its system identifier; and where only its address or the slot has changed, that is told."""
    other = str(int(standby.site.system) + 1)
    for more in ({}, {"reclone": True}, {"state": "absent"}):
        refused = standby(system_identifier=other, **more)
        assert refused["failed"]
        assert ids(refused) == ["clone_other_primary"]
    assert standby(state="read", system_identifier=other)["state"] == "foreign"
    moved = standby(primary_host="elsewhere", slot="another")
    assert (moved["changed"], ids(moved)) == (False, ["clone_differs"])
    assert "host elsewhere" in moved["findings"][0]["expected"]
    standby.streams()


def test_case_59_a_lost_slot_is_cloned_anew_on_request(standby: Place) -> None:
    """The old clone stays until the new one is there."""
    site = standby.site
    old = standby.look()["marker"]
    standby.down()
    site.until("the end of its sender", lambda: site.sql(f"SELECT active {standby.in_slots}") == "f")
    site.sql(f"SELECT pg_drop_replication_slot('{standby.slot}')")
    site.sql(f"SELECT pg_create_physical_replication_slot('{standby.slot}')")
    site.sql("CREATE TABLE later AS SELECT 1 AS n")
    assert not standby()["changed"]
    assert standby(True, reclone=True)["changed"]
    begun = standby(reclone=True, max_rate=SLOW)
    assert begun["marker"]["replaces"] == old["id"]
    standby.busy()
    assert standby.inside("ls -A") == "bd_fhir_clone.json\nstandby\nstandby.new"
    # Asked for again, it is taken up, and after a kill it goes on without being asked for.
    assert not standby(reclone=True)["changed"]
    docker("kill", standby.maker)
    assert standby.look()["state"] == "failed"
    found = standby.made()
    assert found["marker"]["id"] not in ("", old["id"])
    assert standby.inside("cat standby/bd_fhir_clone") == found["marker"]["id"]
    assert standby.inside("ls -A") == "bd_fhir_clone.json\nstandby"
    standby.up()
    standby.streams()
    assert standby.ask("SELECT n FROM later") == "1"
    site.sql("DROP TABLE later")


def test_a_killed_clone_is_made_by_the_next_run(place: Place) -> None:
    place(max_rate=SLOW)
    place.busy()
    started = docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", place.maker)
    found = place()
    assert (found["state"], found["changed"]) == ("cloning", False)
    assert 0 < found["progress"]["bytes_done"] < found["progress"]["bytes_total"] / 2
    assert docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", place.maker) == started
    docker("kill", "-s", "KILL", place.maker)
    failed = place.look()
    assert (failed["state"], failed["reason"]) == ("failed", "killed")
    assert ids(failed) == ["clone_failed"]
    assert "standby.new" in place.inside("ls -A")
    place.made()
    assert place.inside("ls -A") == "bd_fhir_clone.json\nstandby"


def test_two_runs_at_once_make_one_clone(place: Place) -> None:
    runs = [place.site.process(**place.args(max_rate=SLOW)) for _number in range(2)]
    found = [json.loads(process.communicate(timeout=120)[0]) for process in runs]
    assert sorted(item["changed"] for item in found) == [False, True]
    assert [item["state"] for item in found] == ["cloning", "cloning"]
    # The way back ends it.
    gone = place(state="absent")
    assert (gone["state"], gone["changed"]) == ("absent", True)
    assert not place.exists()
    assert place.maker not in docker("ps", "-a", "--format", "{{.Names}}").split()


@pytest.mark.parametrize(
    ("reason", "more", "told"),
    [
        ("role", {"user": "plain"}, "REPLICATION"),
        ("unreachable", {"primary_host": "fd00::1"}, "IPv4 or IPv6"),
        ("other_primary", {"system_identifier": "1"}, "system identifier"),
        # The server does not tell who exists.
        pytest.param("password", {"user": "nobody"}, "the role does not exist", marks=pytest.mark.full),
        pytest.param("unreachable", {"primary_port": 5433}, "listen_addresses", marks=pytest.mark.full),
        pytest.param("unreachable", {"primary_host": "nowhere"}, "exists on the network", marks=pytest.mark.full),
    ],
)
def test_what_can_not_go_well_is_refused_before_the_first_change(place: Place, reason: str, more: dict[str, Any], told: str) -> None:
    place.passfile.write_text(f"*:*:*:*:{pgpass_escape(PASSWORD)}\n")
    refused = place(**more)
    assert refused["failed"]
    assert refused["reason"] == reason
    assert refused["msg"].startswith("Nothing was changed: ")
    assert told in refused["msg"]
    assert not place.exists()


def test_a_wrong_password_is_refused(place: Place) -> None:
    place.secret("not: the\\password")
    refused = place()
    assert (refused["failed"], refused["reason"]) == (True, "password")
    assert "the\\\\password" not in json.dumps(refused)
    place.secret(PASSWORD, 0o640)
    for check in (True, False):
        refused = place(check)
        assert ids(refused) == ["clone_passfile"]
        assert "0640" in refused["findings"][0]["found"]
        assert not refused["changed"]
    place.secret(PASSWORD)
    os.chown(place.passfile, 0, 0)
    refused = place()
    assert (refused["failed"], refused["reason"]) == (True, "passfile")
    place.passfile.unlink()
    assert ids(place()) == ["clone_passfile"]
    assert place(True)["changed"]
    assert not place.exists()


def test_no_line_in_pg_hba_is_refused(place: Place) -> None:
    docker("exec", place.site.container("postgres"), "sed", "-i", "s/^host replication/#host replication/", f"{ROOT}/pg_hba.conf")
    place.site.sql("SELECT pg_reload_conf()")
    try:
        place.site.until("the rule's end", lambda: place()["reason"] == "hba", 10)
    finally:
        docker("exec", place.site.container("postgres"), "sed", "-i", "s/^#host replication all/host replication all/", f"{ROOT}/pg_hba.conf")
        place.site.sql("SELECT pg_reload_conf()")
    assert not place.exists()


def free_senders(site: Site) -> int:
    return 6 - int(site.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'"))


def test_no_free_sender_and_no_slot_are_told_and_the_next_run_makes_it(place: Place) -> None:
    with place.site.senders(free_senders(place.site)):
        refused = place()
        assert (refused["failed"], refused["reason"]) == (True, "senders")
        assert "max_wal_senders" in refused["msg"]
        assert not place.exists()
    place.site.sql(f"SELECT pg_drop_replication_slot('{place.slot}')")
    assert place()["changed"]
    failed = place.ended()
    assert (failed["state"], failed["reason"]) == ("failed", "slot_missing")
    assert any("does not exist" in line for line in failed["log"])
    place.site.sql(f"SELECT pg_create_physical_replication_slot('{place.slot}')")
    place.made()


@pytest.mark.full
def test_one_free_sender_is_not_enough(place: Place) -> None:
    """It is enough to be asked who it is."""
    with place.site.senders(free_senders(place.site) - 1):
        assert place()["changed"]
        failed = place.ended()
        assert (failed["state"], failed["reason"]) == ("failed", "senders")
        assert "max_wal_senders" in failed["failure"]
    place.made()


@pytest.mark.full
def test_a_slot_that_somebody_streams_by(place: Place) -> None:
    place.take_the_slot()
    assert place()["changed"]
    # It could be what a kill has left, so it is waited for.
    place.site.until("the second try", lambda: sum("is active for PID" in line for line in place.look()["log"]) > 1)
    assert place.look()["state"] == "cloning"
    failed = place.ended(120)
    assert (failed["state"], failed["reason"]) == ("failed", "slot_active")
    assert place.site.sql(f"SELECT active {place.in_slots}") == "t"
    place.down()
    place.made()


@pytest.mark.full
def test_a_slot_that_is_let_go_meanwhile(place: Place) -> None:
    place.take_the_slot()
    assert place()["changed"]
    place.site.until("the first try", lambda: any("is active for PID" in line for line in place.look()["log"]))
    place.down()
    found = place.ended()
    assert (found["state"], found["changed"]) == ("done", False)


@pytest.mark.full
def test_the_scripts_themselves_remove_nothing_that_was_exchanged(place: Place, make_docker: Callable[..., Any]) -> None:
    """Whatever was seen before: somebody may have put other data there since."""
    made = place.made()
    place()
    volume = _clone.Volume(make_docker(place.site.dir), place.volume, place.picture)
    for wrong in ("", "f" * 32):
        with pytest.raises(ComposeError, match="not the one that was seen"):
            volume.wipe(wrong)
        marker = _clone.new_marker("1", "postgres", 5432, "s", "i", wrong)
        with pytest.raises(ComposeError, match="not the one that was seen"):
            volume.prepare("999:999", marker)
    place.inside("rm standby/standby.signal")
    with pytest.raises(ComposeError, match="not the one that was seen"):
        volume.wipe(made["marker"]["id"])
    assert json.loads(place.inside("cat bd_fhir_clone.json")) == made["marker"]
    assert place.inside("ls -A") == "bd_fhir_clone.json\nstandby"


@pytest.fixture
def small(place: Place, tmp_path: Path) -> Iterator[Path]:
    """A small disk under the volume."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(path)], check=True)
    docker("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", f"device={path}", place.volume)
    yield path
    place.remove()
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_emptied_again_and_more_room_finishes_it(place: Place, small: Path) -> None:
    for check in (True, False):
        refused = place(check)
        assert ids(refused) == ["clone_no_room"]
        assert not refused["changed"]
    assert list(small.iterdir()) == []
    place(needed_bytes=0, min_free_bytes=0)
    failed = place.ended()
    assert (failed["state"], failed["reason"]) == ("failed", "space")
    assert os.listdir(small) == ["bd_fhir_clone.json"]
    subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
    place.made()
    # The owner's volume stays.
    assert place(state="absent")["changed"]
    assert list(small.iterdir()) == []
    assert place.exists()
    assert not place(state="absent")["changed"]


@pytest.mark.full
def test_what_must_stay_free_stays_free(place: Place, small: Path) -> None:
    """The disk may be the primary's: the clone stops before it is full."""
    subprocess.run(["mount", "-o", "remount,size=60m", str(small)], check=True)
    place(needed_bytes=0, min_free_bytes=40 << 20, max_rate="4M")
    failed = place.ended()
    assert (failed["state"], failed["reason"]) == ("failed", "space")
    assert "min_free_bytes" in failed["failure"]
    assert os.listdir(small) == ["bd_fhir_clone.json"]


@pytest.mark.parametrize(
    "mess",
    [
        "mkdir standby; echo 15 > standby/PG_VERSION",
        pytest.param("mkdir a; echo x > 'a file'", marks=pytest.mark.full),
        pytest.param("echo '{}' > bd_fhir_clone.json", marks=pytest.mark.full),
    ],
)
def test_what_is_not_ours_is_left_alone(place: Place, mess: str) -> None:
    docker("volume", "create", place.volume)
    place.inside(mess)
    before = place.inside("find . -type f -exec cat {} + -o -print")
    assert place.look()["state"] == "foreign"
    for more in ({}, {"reclone": True}, {"state": "absent"}):
        assert ids(place(True, **more)) == ["clone_volume_foreign"]
        refused = place(**more)
        assert refused["failed"]
        assert ids(refused) == ["clone_volume_foreign"]
    assert place.inside("find . -type f -exec cat {} + -o -print") == before


@pytest.mark.full
def test_a_directory_that_a_container_made_too_early_is_no_hindrance(place: Place) -> None:
    docker("volume", "create", place.volume)
    place.inside("mkdir standby")
    place.made()
    assert place.inside("[ -s standby/PG_VERSION ] && ls -A") == "bd_fhir_clone.json\nstandby"


def test_a_promoted_clone_is_never_touched(place: Place) -> None:
    place.made()
    place.up()
    place.streams()
    assert place.ask("SELECT pg_promote()") == "t"
    assert place.ask("INSERT INTO rows VALUES (-1, 'only here') RETURNING n") == "-1"
    assert place.look()["state"] == "promoted"
    place.down()
    for more in ({}, {"reclone": True}, {"state": "absent"}):
        assert ids(place(True, **more)) == ["clone_promoted"]
        refused = place(**more)
        assert refused["failed"]
        assert "never replaced or removed" in refused["msg"]
    place.up()
    place.site.until("the promoted server", lambda: place.ask("SELECT n FROM rows WHERE body = 'only here'") == "-1")


@pytest.mark.full
def test_a_directory_that_was_exchanged_is_not_ours(place: Place) -> None:
    place.made()
    place.inside("rm standby/bd_fhir_clone")
    assert ids(place(state="absent")) == ["clone_volume_foreign"]
    assert place.inside("ls -A") == "bd_fhir_clone.json\nstandby"


@pytest.mark.full
@pytest.mark.parametrize(
    "torn",
    [
        "mv standby standby.new",
        "true",
        "mv standby standby.new; mkdir standby.old; touch standby.old/PG_VERSION; chown -R 999:999 standby.old",
    ],
)
def test_a_kill_between_the_renames_is_finished(place: Place, torn: str) -> None:
    made = place.made()
    place()
    place.inside(f"""sed -i 's/"done"/"cloning"/' bd_fhir_clone.json; {torn}""")
    failed = place.look()
    assert (failed["state"], failed["reason"]) == ("failed", "killed")
    found = place()
    assert (found["changed"], found["state"]) == (True, "done")
    assert found["marker"]["id"] == made["marker"]["id"]
    assert place.inside("ls -A") == "bd_fhir_clone.json\nstandby"
    place.up()
    place.streams()


@pytest.mark.full
def test_a_module_killed_before_the_container_runs(place: Place) -> None:
    """A container that was made and never started, and a marker without anything."""
    place(max_rate=SLOW)
    labels = docker("inspect", "-f", "{{json .Config.Labels}}", place.maker)
    docker("rm", "-f", "-v", place.maker)
    failed = place.look()
    assert (failed["state"], failed["reason"]) == ("failed", "killed")
    assert place.volume in labels
    docker("create", "--name", place.maker, "--label", f"dghs.bd_fhir.clone={place.volume}", place.picture)
    assert place.look()["state"] == "failed"
    place.made()


@pytest.mark.full
def test_a_container_of_somebody_else_has_our_name(place: Place) -> None:
    docker("create", "--name", place.maker, place.picture)
    refused = place()
    assert refused["failed"]
    assert "not ours" in refused["msg"]


@pytest.mark.full
def test_settings_and_rules_of_the_clone(place: Place) -> None:
    site = place.site
    site.sql("ALTER SYSTEM SET work_mem = '5MB'")
    site.sql("ALTER SYSTEM SET maintenance_work_mem = '33MB'")
    site.sql("ALTER SYSTEM SET primary_conninfo = 'host=old password=secret-of-old'")
    try:
        rules = "local all all trust\nhost all all all scram-sha-256"
        place.made(settings={"work_mem": "7MB", "maintenance_work_mem": None, "cluster_name": "it's \\ 'me'", "max_connections": 50}, hba=rules)
    finally:
        site.sql("ALTER SYSTEM RESET ALL")
    assert place.inside("cat standby/pg_hba.conf") == rules
    place.up()
    place.streams()
    assert [place.ask(f"SHOW {name}") for name in ("work_mem", "maintenance_work_mem", "cluster_name", "max_connections")] == [
        "7MB", "64MB", "it's \\ 'me'", "50",
    ]  # fmt: skip
    assert "secret-of-old" not in place.inside("cat standby/*.conf")


@pytest.mark.full
def test_tablespaces_are_refused(place: Place) -> None:
    site = place.site
    docker("exec", "-u", "postgres", site.container("postgres"), "mkdir", "/tmp/space")
    site.sql("CREATE TABLESPACE space LOCATION '/tmp/space'")
    try:
        place()
        failed = place.ended()
        assert (failed["state"], failed["reason"]) == ("failed", "tablespaces")
    finally:
        site.sql("DROP TABLESPACE space")


@pytest.mark.full
def test_a_stopped_container_and_a_strange_file_keep_the_volume(place: Place) -> None:
    place.made()
    place.inside("touch note")
    docker("create", "--name", place.standby, "-v", f"{place.volume}:{ROOT}", place.picture)
    kept = place(state="absent")
    assert (kept["changed"], kept["state"], ids(kept)) == (True, "foreign", ["clone_volume_kept"])
    assert f"{place.standby} was made with it; it also holds note" in kept["findings"][0]["found"]
    assert place.inside("ls -A") == "note"
    for check in (True, False):
        again = place(check, state="absent")
        assert (again["changed"], ids(again)) == (False, ["clone_volume_kept"])
    docker("rm", place.standby)
    place.inside("rm note")
    assert place(state="absent")["changed"]
    assert not place.exists()


PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - dghs.bd_fhir.postgres_clone: %s
      register: clone
    - ansible.builtin.debug:
        msg: "IS {{ clone.state }} {{ clone.changed }}"
"""


def play(place: Place, path: Path, check: bool = False, **more: Any) -> tuple[int, str]:
    (path / "play.yml").write_text(PLAY % json.dumps(place.args(**more)))
    argv = [PLAYBOOK, "-i", "localhost,", str(path / "play.yml"), *(["--check"] if check else [])]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=dict(os.environ, ANSIBLE_NOCOLOR="1"))
    assert PASSWORD not in done.stdout + done.stderr
    return done.returncode, done.stdout


def test_a_play_shows_how_far_it_is(place: Place, tmp_path: Path) -> None:
    rc, out = play(place, tmp_path, max_rate="8M")
    assert rc == 0, out
    assert f"clone of {place.volume}: " in out
    assert "IS done True" in out
    assert place.maker not in docker("ps", "-a", "--format", "{{.Names}}").split()


@pytest.mark.full
def test_a_play_that_waits_no_longer_leaves_the_clone_running(place: Place, tmp_path: Path) -> None:
    rc, out = play(place, tmp_path, timeout=2, max_rate=SLOW)
    assert rc != 0, out
    assert "It goes on; run this again" in out
    assert place.look()["state"] == "cloning"
    docker("rm", "-f", "-v", place.maker)
    for word in ("True", "False"):
        rc, out = play(place, tmp_path)
        assert rc == 0, out
        assert f"IS done {word}" in out


@pytest.mark.full
def test_a_play_tells_why_it_failed(place: Place, tmp_path: Path) -> None:
    place.site.sql(f"SELECT pg_drop_replication_slot('{place.slot}')")
    rc, out = play(place, tmp_path)
    assert rc != 0
    assert "does not exist" in out
    rc, out = play(place, tmp_path, check=True)
    assert rc == 0, out
    assert "IS done True" in out
