# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""postgres_backup against a real PostgreSQL under load, its own tools being the judge."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _backup, _backup_files, _change
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_backup
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import IMAGES, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import Project, docker

pytestmark = pytest.mark.engine
Run = Callable[..., dict[str, Any]]

PASSWORD = "p:a\\ss'w\"o$rd#% ÄÖ-রহিম*"
DATABASE = "FHIR-ডেটা 'db\""

CONTENTS = r'''
CREATE ROLE "Audit Owner-অডিট" LOGIN PASSWORD 'x';
CREATE ROLE hapi_app LOGIN PASSWORD 'y' CONNECTION LIMIT 20;
CREATE SCHEMA "Audit" AUTHORIZATION "Audit Owner-অডিট";
CREATE EXTENSION pgcrypto;
CREATE TABLE public.load (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), body text);
CREATE TABLE "Audit"."Ev.ents-অডিট" ("When" timestamptz NOT NULL, "Was ""ist""" jsonb, amount numeric, raw bytea, PRIMARY KEY ("When"))
  PARTITION BY RANGE ("When");
CREATE TABLE "Audit"."ev_2026_01" PARTITION OF "Audit"."Ev.ents-অডিট" FOR VALUES FROM ('2026-01-01 00:00+06') TO ('2026-02-01 00:00+06');
CREATE TABLE "Audit"."ev_2026_02" PARTITION OF "Audit"."Ev.ents-অডিট" FOR VALUES FROM ('2026-02-01 00:00+06') TO ('2026-03-01 00:00+06');
INSERT INTO "Audit"."Ev.ents-অডিট" SELECT '2026-01-01 00:00+06'::timestamptz + n * interval '20 minutes', jsonb_build_object('n', n),
  n / 7.0, sha256(n::text::bytea) FROM generate_series(0, 4000) n;
CREATE TABLE public.odd (a int, dropped int, b real, c varchar(5) CHECK (c IN ('x', 'y', 'রহিম')), "C" regclass);
ALTER TABLE public.odd DROP COLUMN dropped;
INSERT INTO public.odd SELECT n, 0.1 * n, 'x', 'public.load' FROM generate_series(1, 500) n;
INSERT INTO public.odd VALUES (NULL, 'NaN', 'রহিম', NULL);
CREATE TABLE public.nothing ();
CREATE TABLE public.child (z int) INHERITS (public.odd);
INSERT INTO public.child (a, z) VALUES (1, 2);
GRANT INSERT ON public.load TO hapi_app;
GRANT SELECT (a) ON public.odd TO hapi_app;
ALTER TABLE public.odd OWNER TO "Audit Owner-অডিট";
CREATE SEQUENCE public."Down" INCREMENT -5;
SELECT nextval('public."Down"'), nextval('public."Down"');
CREATE SEQUENCE public.untouched;
CREATE FUNCTION public.f(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1';
CREATE VIEW public.v AS SELECT a FROM public.odd WHERE c IN ('x', 'y');
CREATE MATERIALIZED VIEW public.m AS SELECT count(*) FROM public.load;
CREATE FUNCTION public.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER "T" BEFORE INSERT ON public.odd FOR EACH ROW EXECUTE FUNCTION public.t();
SELECT lo_from_bytea(0, decode(repeat('00ff10', 3000), 'hex'));
'''


class Site:
    """The project, and the server without our modules."""

    def __init__(self, project: Project, picture: str) -> None:
        self.project = project
        self.backups = project.dir / "backups"
        project.write(".env", "DB_PASSWORD=\"%s\"\n" % PASSWORD.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$"))
        project.write(
            "docker-compose.yml",
            f"""name: {project.name}
services:
  postgres:
    image: {picture}
    command: ["postgres", "-c", "fsync=off", "-c", "shared_buffers=32MB"]
    environment:
      POSTGRES_PASSWORD: ${{DB_PASSWORD}}
      POSTGRES_INITDB_ARGS: --no-sync --data-checksums
    volumes: ["data:/var/lib/postgresql/data"]
volumes:
  data:
""",
        )

    def start(self) -> None:
        self.project.compose("up", "-d")
        self.id = self.project.ids("postgres")[0]
        for _attempt in range(100):
            if "init process complete" in docker("logs", self.id) and self.psql("SELECT 1", "postgres", check=False).strip() == "1":
                break
            time.sleep(0.2)
        self.psql('CREATE DATABASE "%s"' % DATABASE.replace('"', '""'), "postgres")
        self.psql(CONTENTS)
        self.psql("INSERT INTO public.load (body) SELECT repeat(md5(n::text), 20) FROM generate_series(1, 3000) n; ANALYZE")

    def psql(self, text: str, database: str = DATABASE, check: bool = True) -> str:
        command = ["exec", "-i", "-u", "postgres", "-e", "PGDATABASE=" + database, self.id, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1"]
        return docker(*command, stdin=text, check=check)

    def args(self, **more: Any) -> dict[str, Any]:
        return {
            "project_dir": str(self.project.dir),
            "service": "postgres",
            "database": DATABASE,
            "login_password_variable": "DB_PASSWORD",
            "directory": str(self.backups),
            "lock_dir": str(self.project.dir / "lock"),
            "method": "pg_dump",
            "max_age": 0,
            **more,
        }

    def left(self) -> list[str]:
        """What the engine still has of ours."""
        return docker("ps", "-aq", "--filter", f"label={_backup.LABEL}={self.project.name}").split()

    @contextmanager
    def load(self) -> Iterator[None]:
        """Insert all the time, each row in a transaction of its own, with sequence values and large objects."""
        stop = threading.Event()

        def insert() -> None:
            while not stop.is_set():
                self.psql(
                    "INSERT INTO public.load (body) SELECT md5(random()::text);\n" * 20
                    + "UPDATE public.odd SET b = b + 1 WHERE a = 7; DELETE FROM public.load WHERE id = (SELECT max(id) FROM public.load);"
                    " SELECT nextval('public.\"Down\"');"
                )

        thread = threading.Thread(target=insert)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    project = Project(tmp_path_factory.mktemp("backup") / "site", "bkp")
    project.dir.mkdir()
    item = Site(project, image("postgres"))
    try:
        item.start()
        yield item
    finally:
        project.remove()


@pytest.fixture(autouse=True)
def nothing_is_left(site: Site) -> Iterator[None]:
    yield
    assert site.left() == []
    shutil.rmtree(site.backups, ignore_errors=True)


def restored_count(site: Site, path: str, table: str) -> int:
    """Restore by hand, as an operator would, and count."""
    name = site.project.name + "-byhand"
    docker("run", "-d", "--rm", "--name", name, "--network", "none", "-e", "POSTGRES_HOST_AUTH_METHOD=trust",
           "-v", f"{path}:/b:ro", image("postgres"), "postgres", "-c", "fsync=off")
    try:
        for _attempt in range(100):
            ready = docker("exec", name, "pg_isready", check=False).strip().endswith("accepting connections")
            if ready and "init process complete" in docker("logs", name):
                break
            time.sleep(0.2)
        docker("exec", name, "psql", "-XqU", "postgres", "-f", "/b/roles.sql")
        docker("exec", name, "pg_restore", "-e", "-C", "-U", "postgres", "-d", "postgres", "/b/dump")
        out = docker("exec", "-e", "PGDATABASE=" + DATABASE, name, "psql", "-XAtqU", "postgres", "-c", f"SELECT count(*) FROM {table}")
        return int(out)
    finally:
        docker("rm", "-f", "-v", name)


def test_case_122_check_real_again_and_back(site: Site, run: Run) -> None:
    """Under load; large objects are in the dump, and every readable one is compared."""
    before = int(site.psql("SELECT max(id) FROM public.load"))
    predicted = run(postgres_backup, True, **site.args())
    assert predicted["rc"] == 0, predicted
    assert predicted["changed"]
    assert not site.backups.exists()
    with site.load():
        done = run(postgres_backup, **site.args())
    assert done["rc"] == 0, done["msg"]
    assert set(predicted) <= set(done)
    assert done["changed"]
    assert done["checked"]["restored"]
    assert done["checked"]["comparison"] == "snapshot"
    assert done["checked"]["tables"] == 6
    assert done["checked"]["large_objects"] == 1
    assert done["checked"]["sequences"] == 3
    path = Path(done["path"])
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["restore_checked"] is True
    rows = manifest["rows"]
    assert rows["public.load"] >= before
    assert rows["public.odd"] == 501
    assert sum(count for name, count in rows.items() if "Audit" in name) == 4001
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=path, check=False).returncode == 0
    for item in [path, *path.rglob("*")]:
        assert item.stat().st_mode & 0o777 == (0o700 if item.is_dir() else 0o600)
    assert not list(path.glob("check.sql"))
    # By hand, the same number as the manifest tells: the writes of the load are past the snapshot.
    assert restored_count(site, done["path"], "public.load") == rows["public.load"]
    assert int(site.psql("SELECT count(*) FROM public.load")) > rows["public.load"]
    everything = json.dumps(done, ensure_ascii=False)
    assert PASSWORD not in everything
    assert PASSWORD not in (path / "manifest.json").read_text()

    for check in (True, False):
        again = run(postgres_backup, check, **site.args(max_age=600))
        assert not again["changed"]
        assert again["reused"]
        assert again["backup_id"] == done["backup_id"]
        assert again["checked"] == done["checked"]
        assert again["sha256"] == done["sha256"]
    assert run(postgres_backup, True, **site.args(max_age=600, method="pg_basebackup"))["changed"]

    gone = {"state": "absent", "backup_id": done["backup_id"]}
    assert run(postgres_backup, True, **site.args(**gone))["changed"]
    assert path.exists()
    removed = run(postgres_backup, **site.args(**gone))
    assert removed["changed"]
    assert removed["removed"] == [done["backup_id"]]
    assert os.listdir(site.backups) == []
    for check in (True, False):
        assert not run(postgres_backup, check, **site.args(**gone))["changed"]
    assert "is not the id" in run(postgres_backup, **site.args(state="absent", backup_id="../x"))["msg"]


def test_case_84_a_damaged_dump_goes_red(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged while it is made: it never counts. Damaged later: it is not used again."""
    original = _backup.take_dump

    def damaged(shop: Any, *args: Any) -> None:
        original(shop, *args)
        victim = max((Path(shop._partial) / "dump").glob("*.dat.gz"), key=lambda item: item.stat().st_size)
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 0xFF
        victim.write_bytes(bytes(data))

    monkeypatch.setattr(_backup, "take_dump", damaged)
    failed = run(postgres_backup, **site.args())
    assert failed["failed"]
    assert "could not be proven" in failed["msg"]
    assert not failed["changed"]
    (bad,) = os.listdir(site.backups)
    assert bad.endswith(".bad")
    assert not (site.backups / bad / "manifest.json").exists()
    assert "pg_restore" in failed["msg"]
    monkeypatch.undo()

    done = run(postgres_backup, **site.args(max_age=600, restore_check=False))
    assert done["changed"], "a .bad one must not be used"
    victim = next((Path(done["path"]) / "dump").glob("*.dat.gz"))
    victim.write_bytes(victim.read_bytes() + b"x")
    again = run(postgres_backup, **site.args(max_age=600, restore_check=False))
    assert again["changed"]
    assert [item["id"] for item in again["findings"]][0] == "backup_damaged"
    assert sorted(name for name in os.listdir(site.backups) if not name.endswith(".bad")) == [again["backup_id"]]
    assert not again["checked"]["restored"]
    assert "backup_not_proven" in [item["id"] for item in again["findings"]]
    # An unproven one does not stand for a proven one.
    assert run(postgres_backup, True, **site.args(max_age=600))["changed"]


DIFFERENCES = {
    "DELETE FROM public.odd WHERE a = 3": "public.odd has 500 rows instead of 501",
    "UPDATE public.child SET z = 3": "public.child has other contents",
    "DROP TABLE public.nothing": "the table public.nothing is missing",
    "ALTER TABLE public.load DROP COLUMN at": "the table public.load is missing",
    "ALTER VIEW public.v OWNER TO hapi_app": "public.v, kind v, owner hapi_app",
    "REVOKE INSERT ON public.load FROM hapi_app": "hapi_app=a/postgres",
    "ALTER TABLE public.odd DROP CONSTRAINT odd_c_check": "odd_c_check on public.odd, type c",
    "ALTER TABLE public.odd DISABLE TRIGGER ALL": "enabled O",
    "CREATE OR REPLACE FUNCTION public.f(int) RETURNS int LANGUAGE sql AS 'SELECT 7'": "missing function: public.f(integer)",
    "DROP EXTENSION pgcrypto": "missing extension: pgcrypto",
    "CREATE ROLE additional": "additional role: additional",
    "SELECT setval('public.load_id_seq', 1)": "the sequence public.load_id_seq stands at 1",
    "SELECT lo_put(oid, 0, '\\x01') FROM pg_largeobject_metadata": "1 large objects instead of 1, or other contents",
    'ALTER TABLE "Audit"."Ev.ents-অডিট" DETACH PARTITION "Audit"."ev_2026_01"': 'missing partition: "Audit".ev_2026_01',
    "DROP SEQUENCE public.untouched": "the sequence public.untouched is missing",
}


def test_a_copy_that_differs_goes_red(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of difference is named. The copy is changed before it is read."""
    read_copy = _backup.Workshop.read_copy
    found: list[str] = []

    def changed(shop: Any, *args: Any) -> Any:
        for change in DIFFERENCES:
            shop.inside("0", "psql", "-Xq", "-v", "ON_ERROR_STOP=1", data=change, environment=shop._psql_environment(DATABASE))
        return read_copy(shop, *args)

    def differences(*args: Any) -> list[str]:
        found.extend(compare(*args))
        return found

    compare = postgres_backup.differences
    monkeypatch.setattr(_backup.Workshop, "read_copy", changed)
    monkeypatch.setattr(postgres_backup, "differences", differences)
    failed = run(postgres_backup, **site.args(jobs=1))
    assert failed["failed"]
    text = "\n".join(found)
    for word in DIFFERENCES.values():
        assert word in text, text
    assert "the restored copy is not what the database was" in failed["msg"]
    assert "and %d more" % (len(found) - 5) in failed["msg"]
    assert [name.rpartition(".")[2] for name in os.listdir(site.backups)] == ["bad"]


def test_case_99_no_room_is_refused_before_the_first_change(site: Site, run: Run) -> None:
    small = site.project.dir / "small"
    small.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k,mode=0700", "tmpfs", small], check=True)
    try:
        for check in (True, False):
            refused = run(postgres_backup, check, **site.args(directory=str(small)))
            assert "Nothing was done: there is no room" in refused["msg"]
            assert str(small) in refused["msg"]
            assert os.listdir(small) == []
        # Whoever says to know better is stopped when the disk fills, and nothing is left.
        stopped = run(postgres_backup, **site.args(directory=str(small), min_free=0.0))
        assert stopped["failed"]
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", small], check=True)
    assert site.psql("SELECT 1").strip() == "1"


def test_case_99_a_disk_that_fills_stops_the_backup(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system of the databases is never filled: what must stay free is looked at all the time."""
    monkeypatch.setattr(_backup, "TICK", 0.05)
    full = _backup_files.Room(1, 10, 1000)
    monkeypatch.setattr(_backup, "room", lambda path: full if any(site.backups.glob("*.partial/dump")) else _backup_files.room(path))
    stopped = run(postgres_backup, **site.args())
    assert "Stopped: the file system of" in stopped["msg"]
    assert "10 B left, and 50 B must stay free" in stopped["msg"]
    assert os.listdir(site.backups) == []


def test_a_change_of_somebody_else_stops_it(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it begins, and in the middle of a step of hours."""
    store = _change.Store(_change.directory_of(site.project.name))
    taken = _change.take(store, _change.Wish("tune_pools", "", "rahim@console", {}))
    assert taken.token
    refused = run(postgres_backup, **site.args())
    assert "rahim@console" in refused["msg"]
    assert not site.backups.exists()
    # What the play hands over as change_token.
    text = str(taken.token)
    monkeypatch.setattr(_backup, "TICK", 0.05)
    monkeypatch.setattr(_backup, "HEARTBEAT", 0.0)
    client = _backup.Workshop.client

    def taken_over(shop: Any, *command: str, **more: Any) -> None:
        if command[0] == "pg_dump":
            _change.take(store, _change.Wish("scale_hapi", "", "karim@console", {}, force_owner="rahim@console"))
        client(shop, *command, **more)

    monkeypatch.setattr(_backup.Workshop, "client", taken_over)
    stopped = run(postgres_backup, **site.args(change_token=text))
    assert "superseded" in stopped["msg"]
    assert "karim@console" in stopped["msg"]
    assert os.listdir(site.backups) == []


def test_what_can_not_go_well_is_refused(site: Site, run: Run) -> None:
    for check in (True, False):
        assert "The variable NONE is not set" in run(postgres_backup, check, **site.args(login_password_variable="NONE"))["msg"]
        assert "does not exist" in run(postgres_backup, check, **site.args(database="none"))["msg"]
        wrong = run(postgres_backup, check, **site.args(login_password="not this one"))
        assert "login_user" in wrong["msg"]
        assert "not this one" not in wrong["msg"]
        assert "no superuser" in run(postgres_backup, check, **site.args(login_user="hapi_app", login_password="y"))["msg"]
        assert "has no pgbackrest" in run(postgres_backup, check, **site.args(method="pgbackrest"))["msg"]
    site.backups.mkdir(mode=0o777)
    site.backups.chmod(0o777)
    assert "may be written by others" in run(postgres_backup, **site.args())["msg"]


def start_module(site: Site, **more: Any) -> subprocess.Popen[str]:
    params = {"ANSIBLE_MODULE_ARGS": site.args(**more)}
    text = (
        "from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change\n"
        f"_change.STATE_DIR = {str(site.project.dir / 'journal')!r}\n"
        "from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_backup\npostgres_backup.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)),
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(params))
    process.stdin.close()
    process.stdin = None
    return process


MOMENTS = {
    "dump": lambda site: any(site.backups.glob("*.partial/roles.sql")),
    "copy": lambda site: any("-restore-check" in docker("inspect", "-f", "{{.Name}}", item, check=False) for item in site.left()),
}


@pytest.mark.parametrize("moment", [pytest.param("dump", marks=pytest.mark.full), "copy"])
def test_kill(site: Site, run: Run, moment: str) -> None:
    """SIGKILL leaves nothing that counts, and the next run takes away what is left."""
    process = start_module(site)
    end = time.monotonic() + 60
    while not MOMENTS[moment](site):
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = os.listdir(site.backups)
    assert left.endswith(".partial")
    assert site.left() or moment == "dump"
    # The id counts seconds.
    time.sleep(1)
    done = run(postgres_backup, **site.args(max_age=600))
    assert done["changed"], "the killed one must not be used"
    assert os.listdir(site.backups) == [done["backup_id"]]


def test_only_so_many_stay(site: Site, run: Run) -> None:
    first = run(postgres_backup, **site.args(restore_check=False, keep=2))
    for number in (2, 3, 4):
        shutil.copytree(first["path"], first["path"][:-1] + f"x{number}")
    path = Path(first["path"][:-1] + "x2/manifest.json")
    path.write_text(path.read_text().replace('"restore_checked": false', '"restore_checked": true'))
    last = run(postgres_backup, **site.args(restore_check=False, keep=2))
    assert len(last["removed"]) == 2
    # One more than asked for: the only one that was restored.
    assert sorted(os.listdir(site.backups))[-1] in (last["backup_id"], Path(first["path"][:-1] + "x4").name)
    assert len(os.listdir(site.backups)) == 3
    assert path.exists()


@pytest.mark.full
def test_the_whole_server_under_load(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_basebackup: the state at its end, compared within what was written meanwhile."""
    # The load's sessions end, and hand in their counters, all the time.
    monkeypatch.setattr(_backup, "COUNTED_AFTER", 1.0)
    with site.load():
        done = run(postgres_backup, **site.args(method="pg_basebackup"))
    assert done["rc"] == 0, done["msg"]
    assert done["method"] == "pg_basebackup"
    assert done["checked"]["restored"]
    assert done["checked"]["comparison"] == "bounded"
    assert done["checked"]["tables"] == 6
    assert (Path(done["path"]) / "base/base.tar.gz").exists()
    assert run(postgres_backup, **site.args(method="pg_basebackup", max_age=600))["reused"]


@pytest.fixture(scope="module")
def archiving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server whose image has pgBackRest, with a stanza and an archive."""
    base = "BASE_IMAGE=" + image("postgres")
    docker("build", "-q", "-t", "bd-fhir-lab/postgres-pgbackrest:dev", "--build-arg", base, str(IMAGES / "postgres-pgbackrest"))
    project = Project(tmp_path_factory.mktemp("archiving") / "site", "bkr")
    project.dir.mkdir()
    item = Site(project, "bd-fhir-lab/postgres-pgbackrest:dev")
    project.write(
        "docker-compose.override.yml",
        """services:
  postgres:
    command: ["postgres", "-c", "fsync=off", "-c", "shared_buffers=32MB", "-c", "archive_mode=on", "-c", "max_connections=60",
              "-c", "archive_command=pgbackrest --stanza=main archive-push %p"]
    environment:
      PGBACKREST_PG1_PATH: /var/lib/postgresql/data
      PGBACKREST_REPO1_PATH: /var/lib/pgbackrest
      PGBACKREST_REPO1_RETENTION_FULL: 2
      PGBACKREST_REPO1_CIPHER_TYPE: aes-256-cbc
      PGBACKREST_REPO1_CIPHER_PASS: "cipher $$ecret 'x'"
    volumes: ["repository:/var/lib/pgbackrest"]
volumes:
  repository:
""",
    )
    try:
        item.start()
        yield item
    finally:
        project.remove()


@pytest.mark.full
def test_pgbackrest(archiving: Site, run: Run) -> None:
    """auto: pg_dump while there is no stanza, pgBackRest once there is one."""
    args = {key: value for key, value in archiving.args().items() if key != "method"}
    fallen_back = run(postgres_backup, True, **args)
    assert fallen_back["method"] == "pg_dump"
    assert "pgbackrest_unusable" in [item["id"] for item in fallen_back["findings"]]
    assert "no stanza" in run(postgres_backup, True, **{**args, "method": "pgbackrest"})["msg"]
    docker("exec", "-u", "postgres", archiving.id, "pgbackrest", "--stanza=main", "stanza-create")
    with archiving.load():
        done = run(postgres_backup, **args)
    assert done["rc"] == 0, done["msg"]
    assert done["method"] == "pgbackrest"
    assert done["checked"]["restored"]
    assert done["checked"]["comparison"] == "bounded"
    assert done["bytes"] > 0
    known = docker("exec", "-u", "postgres", archiving.id, "pgbackrest", "--stanza=main", "info")
    assert done["label"] in known
    assert os.listdir(done["path"]) == ["manifest.json"]
    assert "cipher" not in json.dumps(done)
    assert run(postgres_backup, **{**args, "max_age": 600})["reused"]
    # The copy has not written to the repository: the next backup still fits to the archive.
    second = run(postgres_backup, **args)
    assert second["label"].startswith(done["label"] + "_")
    gone = {**args, "state": "absent", "backup_id": done["backup_id"]}
    kept = run(postgres_backup, **gone)
    assert "Nothing was removed: pgBackRest keeps" in kept["msg"]
    assert Path(done["path"]).exists()
    docker("exec", "-u", "postgres", archiving.id, "pgbackrest", "--stanza=main", "--type=full", "--start-fast", "backup")
    assert run(postgres_backup, **gone)["changed"]
    assert done["label"] not in docker("exec", "-u", "postgres", archiving.id, "pgbackrest", "--stanza=main", "info")
    # That one was built on it and is gone too: taking its record away is no failure.
    assert run(postgres_backup, **{**gone, "backup_id": second["backup_id"]})["changed"]
    assert not run(postgres_backup, **gone)["changed"]
    assert archiving.left() == []
