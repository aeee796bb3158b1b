# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pgbouncer_pool against real poolers: two kinds of images that make their ini, two ways to mount one, and a newer pgBouncer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer_trial import process_mark
from ansible_collections.dghs.bd_fhir.plugins.modules import pgbouncer_pool
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import Project, docker

pytestmark = pytest.mark.engine

Run = Callable[..., dict[str, Any]]

PASSWORD = "p%a$s w'o\"rd-1"
DSN_PASSWORD = "dsn-S3cret-word"
INI = f"""; the owner's file \xf6
[databases]
fhirdb = host=127.0.0.1 port=5432 user=app password='{DSN_PASSWORD}'

[pgbouncer]
listen_addr = *
listen_port = 6432
unix_socket_dir = /etc/pgbouncer
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
admin_users = app
stats_users = reader
  default_pool_size=20\t
max_client_conn = 200
# default_pool_size = 99
"""
USERLIST = '"app" "p%a$s w\'o""rd-1"\n"reader" "read-S3cret-word"\n'
ENV = "APP_PASSWORD='p%a$s w'\\''o\"rd-1'\n"
COMPOSE = """name: {name}
services:
  prefixed:
    image: {prefixed}
    environment: &prefixed
      POSTGRESQL_HOST: nowhere
      POSTGRESQL_DATABASE: fhirdb
      POSTGRESQL_USERNAME: app
      POSTGRESQL_PASSWORD: ${{APP_PASSWORD}}
  newer:
    image: {newer}
    environment: *prefixed
  bare:
    image: {bare}
    environment: {{DB_HOST: nowhere, DB_NAME: fhirdb, DB_USER: app, DB_PASSWORD: "${{APP_PASSWORD}}", DEFAULT_POOL_SIZE: "20"}}
  folder:
    image: {mounted}
    volumes: ["./folder:/etc/pgbouncer"]
  file:
    image: {mounted}
    volumes: ["./file/pgbouncer.ini:/etc/pgbouncer/pgbouncer.ini:ro", "./file/userlist.txt:/etc/pgbouncer/userlist.txt:ro"]
"""


class Site(Project):
    """A project of poolers; nothing is behind them, since the console needs no server."""

    def own(self, path: Path, mode: int) -> None:
        """Give a file to the user of the image, as its owner has to."""
        uid, gid = docker("run", "--rm", "--entrypoint", "sh", image("pgbouncer-ini"), "-c", "id -u; id -g").split()
        os.chown(path, int(uid), int(gid))
        path.chmod(mode)

    def files(self, folder: str, ini: str = INI) -> None:
        for name, text in (("pgbouncer.ini", ini), ("userlist.txt", USERLIST)):
            self.own(self.write(f"{folder}/{name}", text), 0o600)
        self.own(self.dir / folder, 0o700)

    def ini(self, folder: str) -> Path:
        return self.dir / folder / "pgbouncer.ini"

    def up(self, *services: str) -> None:
        self.compose("up", "-d", "-t", "0", *services)
        for service in services:
            self.wait(service)

    def wait(self, service: str) -> None:
        for attempt in range(100):
            try:
                self.console(service).close()
                return
            except psycopg2.OperationalError:
                if attempt == 99:
                    raise AssertionError(docker("logs", self.ids(service)[0])) from None
                docker("exec", self.ids(service)[0], "sleep", "0.1", check=False)

    def console(self, service: str) -> Any:
        address = docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.ids(service)[0]).strip()
        found = psycopg2.connect(
            host=address, port=5432 if service == "bare" else 6432, user="app", password=PASSWORD, dbname="pgbouncer", connect_timeout=5
        )
        found.autocommit = True
        return found

    def show(self, service: str, what: str) -> list[dict[str, Any]]:
        connection = self.console(service)
        try:
            cursor = connection.cursor()
            cursor.execute(what)
            if cursor.description is None:
                return []
            return [dict(zip([item[0] for item in cursor.description], row, strict=True)) for row in cursor.fetchall()]
        finally:
            connection.close()

    def sizes(self, service: str) -> tuple[str, int]:
        """Return default_pool_size and the pool size of fhirdb, as the pooler itself says."""
        config = {row["key"]: row["value"] for row in self.show(service, "SHOW CONFIG")}
        return config["default_pool_size"], {row["name"]: row["pool_size"] for row in self.show(service, "SHOW DATABASES")}["fhirdb"]


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_change, "STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="module")
def poolers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    item = Site(tmp_path_factory.mktemp("poolers") / "site", "pool")
    item.dir.mkdir()
    item.write(".env", ENV.replace("'p%a$s w'\\''o\"rd-1'", '"p%a\\$s w\'o\\"rd-1"'))
    images = {"prefixed": "pgbouncer", "newer": "pgbouncer-new", "bare": "pgbouncer-default-pool-size", "mounted": "pgbouncer-ini"}
    item.write("docker-compose.yml", COMPOSE.format(name=item.name, **{key: image(name) for key, name in images.items()}))
    item.files("folder")
    item.files("file")
    try:
        item.up("prefixed", "newer", "bare", "folder", "file")
        yield item
    finally:
        item.remove()


@pytest.fixture
def site(poolers: Site) -> Iterator[Site]:
    """The poolers; each test leaves them as they were, and no trial behind."""
    yield poolers
    left = docker("ps", "-a", "--filter", "label=dghs.bd_fhir.trial", "--format", '{{.Label "dghs.bd_fhir.trial"}}')
    assert poolers.name not in left


@pytest.fixture
def pool(run: Run, site: Site) -> Run:
    """Run the module on a service, and see that no secret is in what it returns."""

    def call(service: str, size: Any = None, check: bool = False, **args: Any) -> dict[str, Any]:
        args.setdefault("settings", {"default_pool_size": size})
        if "admin_password" not in args:
            args.setdefault("admin_password_variable", "APP_PASSWORD")
        args = {"project_dir": str(site.dir), "service": service, "admin_user": "app", **args}
        done = run(pgbouncer_pool, check=check, **args)
        args.pop("admin_password", None)
        text = json.dumps(done)
        assert PASSWORD not in text
        assert json.dumps(PASSWORD)[1:-1] not in text
        assert DSN_PASSWORD not in text
        return done

    return call


def ids(findings: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in findings]


KEYS = (
    "version", "pool_mode", "settings", "databases", "method", "environment", "ini_path", "persisted", "needs_recreate", "changed", "findings",
    "diff",
)  # fmt: skip


def both(pool: Run, *args: Any, **more: Any) -> dict[str, Any]:
    """In check mode, for real, and see that the one has predicted the other."""
    predicted = pool(*args, check=True, **more)
    done = pool(*args, **more)
    assert predicted["rc"] == done["rc"] == 0, done
    assert {key: predicted[key] for key in KEYS} == {key: done[key] for key in KEYS}
    return done


def live_only(pool: Run, site: Site, service: str, variable: str) -> None:
    """Create and create again: live at once, and told by which variable it lasts, which the image itself has proven."""
    container = site.ids(service)
    done = both(pool, service, 30)
    assert site.sizes(service) == ("30", 30)
    assert done["changed"]
    assert done["method"] == "set"
    assert done["environment"] == {variable: "30"}
    assert (done["persisted"], done["needs_recreate"]) == (False, True)
    assert done["settings"] == {"default_pool_size": {"before": "20", "after": "30", "in_file": "20", "on_line": None}}
    assert done["databases"] == {"fhirdb": {"before": 20, "after": 30}}
    assert ids(done["findings"]) == ["pool_live_only"]
    again = both(pool, service, 30)
    assert not again["changed"]
    assert (again["method"], again["environment"]) == ("none", {variable: "30"})
    assert site.ids(service) == container


def test_an_image_that_makes_its_ini_from_prefixed_variables(pool: Run, site: Site) -> None:
    service, variable = "prefixed", "PGBOUNCER_DEFAULT_POOL_SIZE"
    live_only(pool, site, service, variable)
    # As the caller does: the environment into a fragment, and the container made anew from it.
    site.write("compose.d/pgbouncer.yml", json.dumps({"services": {service: {"environment": {variable: "30"}}}}))
    env = (site.dir / ".env").read_text()
    site.write(".env", env + f"COMPOSE_FILE={site.dir}/docker-compose.yml:{site.dir}/compose.d/pgbouncer.yml\n")
    try:
        between = pool(service, 30, check=True)
        assert (between["changed"], between["persisted"], between["needs_recreate"]) == (False, True, True)
        site.up(service)
        assert site.sizes(service) == ("30", 30)
        kept = both(pool, service, 30)
        assert (kept["changed"], kept["persisted"], kept["needs_recreate"]) == (False, True, False)
        assert kept["environment"] == {variable: "30"}
        assert kept["findings"] == []
        back = both(pool, service, 20)
        assert back["environment"] == {variable: "20"}
        assert (back["persisted"], back["needs_recreate"]) == (False, True)
    finally:
        site.write(".env", env)
        site.up(service)
    clean = both(pool, service, 20)
    assert (clean["changed"], clean["persisted"], clean["needs_recreate"]) == (False, True, False)
    assert clean["environment"] == {}


def test_an_image_that_makes_its_ini_from_bare_variables(pool: Run, site: Site) -> None:
    live_only(pool, site, "bare", "DEFAULT_POOL_SIZE")
    # The owner's own variable is there already, and says what is wanted.
    back = pool("bare", 20)
    assert (back["changed"], back["persisted"], back["needs_recreate"]) == (True, True, False)
    assert back["environment"] == {"DEFAULT_POOL_SIZE": "20"}


def test_a_folder_that_is_mounted(pool: Run, site: Site) -> None:
    before = site.ini("folder").read_bytes()
    owner = site.ini("folder").stat()
    service = "folder"
    container = site.ids(service)
    predicted = pool(service, 5, check=True)
    assert site.ini(service).read_bytes() == before
    assert site.sizes(service) == ("20", 20)
    done = pool(service, 5)
    for key in ("changed", "method", "settings", "databases", "diff", "findings", "ini_path"):
        assert predicted[key] == done[key]
    assert (done["changed"], done["method"], done["persisted"], done["needs_recreate"]) == (True, "reload", True, False)
    assert done["environment"] == {}
    assert site.sizes(service) == ("5", 5)
    assert site.ini(service).read_bytes() == before.replace(b"default_pool_size=20\t", b"default_pool_size=5\t")
    assert not both(pool, service, 5)["changed"]
    # A setting that is not there yet gets a line; one of the defaults needs none.
    settings = {"default_pool_size": 30, "reserve_pool_size": 3, "min_pool_size": 0}
    assert pool(service, settings=settings)["changed"]
    assert site.sizes(service) == ("30", 30)
    limit = b"max_client_conn = 200\n"
    assert site.ini(service).read_bytes() == before.replace(b"size=20", b"size=30").replace(limit, limit + b"reserve_pool_size = 3\n")
    assert not both(pool, service, settings=settings)["changed"]
    # The container reads it again at its next start.
    docker("restart", "-t", "0", site.ids(service)[0])
    site.wait(service)
    assert site.sizes(service) == ("30", 30)
    assert pool(service, 20, settings={"default_pool_size": 20, "reserve_pool_size": None})["changed"]
    assert site.sizes(service) == ("20", 20)
    assert site.ini(service).read_bytes() == before
    assert not both(pool, service, 20)["changed"]
    assert site.ids(service) == container
    assert done["ini_path"] == str(site.ini("folder"))
    assert site.ini("folder").read_bytes() == before
    after = site.ini("folder").stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (owner.st_uid, owner.st_gid, owner.st_mode)


def test_a_file_that_is_mounted_by_itself(pool: Run, site: Site) -> None:
    """One put in its place would not be seen in the container; it is written over."""
    inode = site.ini("file").stat().st_ino
    before = site.ini("file").read_bytes()
    both_live(pool, "file", 5)
    assert site.sizes("file") == ("5", 5)
    assert site.ini("file").read_bytes() == before.replace(b"=20\t", b"=5\t")
    assert pool("file", 20)["changed"]
    assert site.ini("file").read_bytes() == before
    assert site.sizes("file") == ("20", 20)
    assert site.ini("file").stat().st_ino == inode


@pytest.mark.parametrize("service", ["folder", "file"])
@pytest.mark.parametrize("own_size", ["", " pool_size=7"])
def test_the_way_back_to_an_ini_without_the_setting(pool: Run, site: Site, service: str, own_size: str) -> None:
    """As the owner left it, without a size, or with one for the database alone; the last line has no ending."""
    path = site.ini(service)
    before = path.read_bytes()
    owner = before.replace(b"  default_pool_size=20\t\n", b"").replace(b" user=app", own_size.encode() + b" user=app")
    owner = owner.replace(b"# default_pool_size = 99\n", b"").rstrip(b"\n")
    started = ("20", 7 if own_size else 20)
    try:
        path.write_bytes(owner)
        site.show(service, "RELOAD")
        assert site.sizes(service) == started
        settings = {"default_pool_size": 30, "max_client_conn": 300, "reserve_pool_size": 5}
        done = pool(service, settings=settings)
        assert done["changed"], done
        assert site.sizes(service) == ("30", 30)
        told = done["settings"]
        assert {name: (item["in_file"], item["on_line"]) for name, item in told.items()} == {
            "default_pool_size": (None, "7" if own_size else None), "max_client_conn": ("200", None), "reserve_pool_size": (None, None)}  # fmt: skip
        back = {"settings": {name: item["in_file"] for name, item in told.items()}}
        back["on_line"] = {name: item["on_line"] for name, item in told.items() if item["on_line"]}
        predicted = pool(service, check=True, **back)
        assert path.read_bytes() != owner
        undone = pool(service, **back)
        for key in ("changed", "method", "settings", "databases", "diff", "findings", "persisted", "needs_recreate"):
            assert predicted[key] == undone[key], key
        assert (undone["changed"], undone["method"], undone["persisted"]) == (True, "reload", True)
        assert path.read_bytes() == owner
        assert site.sizes(service) == started
        assert not both(pool, service, **back)["changed"]
    finally:
        path.write_bytes(before)
        site.show(service, "RELOAD")


def test_the_way_back_where_the_image_makes_the_ini(pool: Run, site: Site) -> None:
    """Nothing is to say the setting any more: what the image writes by itself counts, here the 20 that it had."""
    service, variable = "prefixed", "PGBOUNCER_DEFAULT_POOL_SIZE"
    env = (site.dir / ".env").read_text()
    site.write("compose.d/pgbouncer.yml", json.dumps({"services": {service: {"environment": {variable: "30"}}}}))
    site.write(".env", env + f"COMPOSE_FILE={site.dir}/docker-compose.yml:{site.dir}/compose.d/pgbouncer.yml\n")
    try:
        site.up(service)
        assert site.sizes(service) == ("30", 30)
        done = both_live(pool, service, None)
        assert site.sizes(service) == ("20", 20)
        assert (done["method"], done["environment"], done["persisted"], done["needs_recreate"]) == ("set", {}, False, True)
    finally:
        site.write(".env", env)
    between = pool(service, None, check=True)
    assert (between["changed"], between["persisted"], between["needs_recreate"]) == (False, True, True)
    site.up(service)
    clean = both(pool, service, None)
    assert (clean["changed"], clean["persisted"], clean["needs_recreate"], clean["findings"]) == (False, True, False, [])
    assert site.sizes(service) == ("20", 20)


def test_what_a_killed_run_left_is_finished(pool: Run, site: Site) -> None:
    """The file is written, and nobody has read it."""
    path = site.ini("folder")
    before = path.read_bytes()
    try:
        path.write_bytes(before.replace(b"size=20", b"size=30"))
        done = both_live(pool, "folder", 30)
        assert (done["method"], done["persisted"]) == ("reload", True)
        assert site.sizes("folder") == ("30", 30)
    finally:
        path.write_bytes(before)
        site.show("folder", "RELOAD")


def both_live(pool: Run, service: str, size: int | None, **args: Any) -> dict[str, Any]:
    assert pool(service, size, check=True, **args)["changed"]
    done = pool(service, size, **args)
    assert done["changed"], done
    assert not pool(service, size, **args)["changed"]
    return done


def test_a_line_of_databases_beats_the_setting(pool: Run, site: Site) -> None:
    path = site.ini("folder")
    before = path.read_bytes()
    line = b"fhirdb = host=127.0.0.1 port=5432 pool_size=7 user=app password='dsn-S3cret-word' reserve_pool='2'"
    more = line + b"\nother = host=127.0.0.1 pool_size=4"
    old = b"fhirdb = host=127.0.0.1 port=5432 user=app password='dsn-S3cret-word'"
    assert old in before
    try:
        path.write_bytes(before.replace(old, line))
        site.show("folder", "RELOAD")
        assert site.sizes("folder") == ("20", 7)
        done = both_live(pool, "folder", 30)
        assert done["databases"] == {"fhirdb": {"before": 7, "after": 30}}
        assert site.sizes("folder") == ("30", 30)
        assert path.read_bytes() == before.replace(old, line.replace(b"=7", b"=30")).replace(b"size=20", b"size=30")

        # With more than one database nobody knows which is meant.
        path.write_bytes(before.replace(old, more))
        site.show("folder", "RELOAD")
        refused = pool("folder", 30)
        assert refused["failed"]
        assert set(ids(refused["findings"])) == {"pool_size_on_database_line"}
        assert "pgbouncer.ini:3" in refused["msg"]
        assert "pool_size=7" in refused["msg"]
        assert path.read_bytes() == before.replace(old, more)
        assert site.sizes("folder") == ("20", 7)
        assert pool("folder", 30, check=True)["rc"] == 0
        wrong = pool("folder", 30, database="nope")
        assert "fhirdb, other" in wrong["msg"]
        named = both_live(pool, "folder", 30, database="fhirdb")
        assert named["databases"] == {"fhirdb": {"before": 7, "after": 30}, "other": {"before": 4, "after": 4}}
    finally:
        path.write_bytes(before)
        site.show("folder", "RELOAD")


def test_a_setting_in_the_wrong_section(pool: Run, site: Site) -> None:
    path = site.ini("folder")
    before = path.read_bytes()
    try:
        path.write_bytes(before.replace(b"[databases]\n", b"[databases]\nmax_db_connections = 30\n"))
        done = pool("folder", 30)
        assert done["failed"]
        assert ids(done["findings"]) == ["ini_wrong_section"]
        assert "/etc/pgbouncer/pgbouncer.ini:3" in done["msg"]
        assert site.sizes("folder") == ("20", 20)
    finally:
        path.write_bytes(before)


def test_case_11_a_bad_line_never_takes_the_pooler_down(pool: Run, site: Site) -> None:
    """The owner has put a password that begins with a quote bare into a line: a RELOAD survives that, a restart would not."""
    path = site.ini("folder")
    before = path.read_bytes()
    container = site.ids("folder")
    try:
        path.write_bytes(before.replace(b"password='dsn-S3cret-word'", b"password='tis-S3cret"))
        done = pool("folder", 30)
        assert done["failed"]
        assert "pgbouncer.ini:3" in done["msg"]
        assert "tis-S3cret" not in json.dumps(done)
        path.write_bytes(before.replace(b"listen_addr = *", b"listen_addr = *\nno_such_thing = 1"))
        done = pool("folder", 30)
        assert done["failed"]
        assert ids(done["findings"]) == ["trial_failed"]
        assert "no_such_thing" in done["msg"]
        assert b"=20" in path.read_bytes()
        assert site.sizes("folder") == ("20", 20)
        assert site.ids("folder") == container
    finally:
        path.write_bytes(before)


def test_a_file_that_was_replaced_on_the_host(pool: Run, site: Site) -> None:
    """A single file that is mounted stays the old one in the container."""
    path = site.ini("file")
    before = path.read_bytes()
    try:
        new = path.with_suffix(".new")
        new.write_bytes(before.replace(b"max_client_conn = 200", b"max_client_conn = 300"))
        site.own(new, 0o600)
        new.replace(path)
        done = pool("file", 30)
        assert done["failed"]
        assert ids(done["findings"]) == ["ini_mount_stale"]
        assert str(path) in done["msg"]
    finally:
        path.write_bytes(before)
        site.compose("up", "-d", "-t", "0", "--force-recreate", "file")
        site.wait("file")


def test_an_included_file(pool: Run, site: Site) -> None:
    path = site.ini("folder")
    before = path.read_bytes()
    try:
        site.own(site.write("folder/sizes.ini", "default_pool_size = 20\n"), 0o600)
        text = before.replace(b"  default_pool_size=20\t", b"%include /etc/pgbouncer/sizes.ini")
        path.write_bytes(text)
        assert both_live(pool, "folder", 30)["persisted"]
        assert site.sizes("folder") == ("30", 30)
        assert path.read_bytes() == text
        assert (site.dir / "folder/sizes.ini").read_text() == "default_pool_size = 30\n"
        path.write_bytes(text.replace(b"/etc/pgbouncer/sizes.ini", b"sizes.ini"))
        done = pool("folder", 25)
        assert done["failed"]
        assert "relative path" in done["msg"]
    finally:
        path.write_bytes(before)
        (site.dir / "folder/sizes.ini").unlink()
        site.show("folder", "RELOAD")


def test_other_changes_of_the_owner_are_told(pool: Run, site: Site) -> None:
    path = site.ini("folder")
    before = path.read_bytes()
    try:
        path.write_bytes(before.replace(b"max_client_conn = 200", b"max_client_conn = 150"))
        done = pool("folder", 30)
        assert ids(done["findings"]) == ["reload_changes_more"]
        assert "max_client_conn" in done["findings"][0]["found"]
    finally:
        path.write_bytes(before)
        site.show("folder", "RELOAD")


def test_a_setting_that_the_image_ignores(pool: Run, site: Site) -> None:
    done = pool("prefixed", settings={"default_pool_size": 30, "server_login_retry": 3})
    assert done["failed"]
    assert ids(done["findings"]) == ["setting_ignored"]
    assert "PGBOUNCER_SERVER_LOGIN_RETRY" in done["msg"]
    assert site.sizes("prefixed") == ("20", 20)
    assert not done["changed"]
    listed = pool("prefixed", settings={"server_login_retry": 3}, check=True)
    assert listed["rc"] == 0
    assert ids(listed["findings"]) == ["setting_ignored"]
    wrong = pool("prefixed", 30, environment_names={"default_pool_size": "POOL_SIZE"})
    assert ids(wrong["findings"]) == ["setting_ignored"]
    assert "POOL_SIZE" in wrong["msg"]
    assert site.sizes("prefixed") == ("20", 20)


def test_a_trial_that_a_killed_run_left_goes(pool: Run, site: Site) -> None:
    """And one that another process has under way stays, as does that of another service."""
    alive, dead = process_mark(str(os.getpid())), "999999999:1"
    made = []
    for service, owner in (("folder", dead), ("folder", alive), ("other", dead)):
        labels = ("--label", f"dghs.bd_fhir.trial={site.name}/{service}", "--label", f"dghs.bd_fhir.trial.owner={owner}")
        made.append(docker("create", *labels, "--network", "none", image("pgbouncer-ini")).strip())
    try:
        assert pool("folder", 30, check=True)["changed"]
        left = docker("ps", "-aq", "--no-trunc", "--filter", "label=dghs.bd_fhir.trial").split()
        assert [item in left for item in made] == [False, True, True]
    finally:
        docker("rm", "-f", *made, check=False)


def test_the_newer_one(pool: Run, site: Site) -> None:
    """1.24 has other columns and more settings; the ini is made alike."""
    done = both_live(pool, "newer", 30)
    assert done["version"].startswith("1.24")
    assert done["environment"] == {"PGBOUNCER_DEFAULT_POOL_SIZE": "30"}
    assert site.sizes("newer") == ("30", 30)
    assert pool("newer", 20)["persisted"]


def test_prepared_statements_need_a_newer_pooler(pool: Run, site: Site) -> None:
    done = pool("folder", settings={"pool_mode": "transaction", "max_prepared_statements": 100})
    assert done["failed"]
    assert ids(done["findings"]) == ["setting_unknown"]
    assert "1.21" in done["msg"]
    assert "1.18" in done["msg"]
    assert pool("newer", settings={"max_prepared_statements": 100}, check=True)["findings"][0]["id"] == "setting_ignored"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"settings": {"pool_size": 30}}, ["pool_size", "did you mean"]),
        ({"settings": {}}, ["empty"]),
        ({"settings": {"default_pool_size": "many"}}, ["default_pool_size", "many"]),
        ({"settings": {"default_pool_size": 0}}, ["default_pool_size", "1 or more"]),
        ({"settings": {"default_pool_size": True}}, ["default_pool_size", "bool"]),
        ({"settings": {"pool_mode": "both"}}, ["pool_mode", "transaction"]),
        ({"size": 30, "service": "nowhere"}, ["nowhere", "folder"]),
        ({"size": 30, "admin_password_variable": "NOT_THERE"}, ["NOT_THERE", ".env"]),
        ({"size": 30, "admin_password": "wrong-S3cret"}, ["auth_file", "app"]),
        ({"size": 30, "admin_user": "nobody", "admin_password": "wrong-S3cret"}, ["nobody"]),
        ({"size": 30, "admin_user": "reader", "admin_password": "read-S3cret-word"}, ["stats_users"]),
        ({"size": 30, "port": 6433}, ["6433", "listens"]),
    ],
)
def test_bad_input_is_refused_before_a_change(pool: Run, site: Site, args: dict[str, Any], words: list[str]) -> None:
    before = site.ini("folder").read_bytes()
    service = args.pop("service", "folder")
    done = pool(service, args.pop("size", None), **args)
    assert done["failed"], done
    assert all(word in done["msg"] for word in words), done["msg"]
    assert "S3cret" not in json.dumps(done)
    assert site.ini("folder").read_bytes() == before
    assert site.sizes("folder") == ("20", 20)


def test_the_journal_says_what_was_done(pool: Run, site: Site, state_dir: Path) -> None:
    pool("folder", 30, check=True)
    assert not state_dir.exists()
    pool("folder", 30)
    pool("folder", 20)
    pool("folder", 20)
    text = (state_dir / site.name / "journal.jsonl").read_text()
    steps = [json.loads(line) for line in text.splitlines()]
    assert [(item["action"], item["object"]) for item in steps] == [("write", str(site.ini("folder"))), ("reload", "folder")] * 2
    assert steps[0]["before"] == {"default_pool_size": "20"}
    assert "S3cret" not in text
