# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of pgbouncer_pool with a console that answers from recorded rows; with real poolers: tests/integration/real."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer import PgbouncerError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer_trial import Outcome
from ansible_collections.dghs.bd_fhir.plugins.modules import pgbouncer_pool
from ansible_collections.dghs.bd_fhir.plugins.modules.pgbouncer_pool import (
    State,
    apart,
    check_settings,
    check_user,
    names_for,
    normalised,
    probes,
    same,
)

FIXTURES = Path(__file__).parents[1] / "fixtures/pgbouncer"
Run = Callable[..., dict[str, Any]]

INI = "[databases]\nfhirdb = host=x password=s3cret\n[pgbouncer]\ndefault_pool_size = 20\n"


def rows(name: str) -> dict[str, list[dict[str, str]]]:
    found = json.loads((FIXTURES / f"{name}.json").read_text())
    return {what: [{key: "" if value is None else str(value) for key, value in row.items()} for row in items] for what, items in found.items()}


class FakeConsole:
    """Answers from recorded rows. sets: whether SET reaches the databases; a RELOAD reads the ini through reader."""

    def __init__(self, name: str, reader: Callable[[], str]) -> None:
        self.rows = rows(name)
        self.version_is = tuple(int(part) for part in self.rows["VERSION"][0]["version"].split()[1].split("."))
        self.reader = reader
        self.said: list[str] = []

    def __enter__(self) -> FakeConsole:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def show(self, what: str) -> list[dict[str, str]]:
        return copy.deepcopy(self.rows[what])

    def version(self) -> tuple[int, ...]:
        return self.version_is

    def put(self, name: str, value: str) -> None:
        for row in self.rows["CONFIG"]:
            if row["key"] == name:
                row["value"] = value

    def size(self, value: str) -> None:
        for row in self.rows["DATABASES"]:
            if row["name"] == "fhirdb":
                row["pool_size"] = value

    def set(self, name: str, value: str) -> None:
        self.said.append(f"SET {name} = {value}")
        self.put(name, value)
        # As recorded: 1.15-before and 1.15-after-set differ in SHOW CONFIG alone.
        if name == "default_pool_size" and self.version_is >= (1, 16):
            self.size(value)

    def command(self, text: str) -> None:
        self.said.append(text)
        # As a real one does: what does not stand in the file is the default again.
        self.put("default_pool_size", "20")
        self.size("20")
        for line in self.reader().splitlines():
            name, dummy, value = line.partition(" = ")
            if name == "default_pool_size":
                self.put(name, value)
                self.size(value)


class Site:
    """A service whose image takes its settings from VARIABLE, or that has its ini mounted from the host."""

    def __init__(self, path: Path, name: str) -> None:
        self.project_dir = str(path)
        self.ini = path / "pgbouncer.ini"
        self.ini.write_text(INI)
        self.console = FakeConsole(name, self.ini.read_text)
        self.variable = "PGBOUNCER_DEFAULT_POOL_SIZE"
        self.running: dict[str, str] = {}
        self.composed: dict[str, str] = {}
        self.mounts: list[dict[str, Any]] = []
        self.trials: list[dict[str, str]] = []
        self.starts = True
        self.rewrites = False
        self.limits = "Max open files            20000                20000                files\n"

    def mount(self) -> None:
        """As a single file, which is written over."""
        self.mounts = [{"Type": "bind", "Source": str(self.ini), "Destination": self.conffile, "RW": True}]

    @property
    def conffile(self) -> str:
        return next(row["value"] for row in self.console.rows["CONFIG"] if row["key"] == "conffile")

    # -- of Docker

    def project_name(self) -> str:
        return "site"

    def inspect(self, ids: list[str]) -> list[dict[str, Any]]:
        config = {"Env": [f"{name}={value}" for name, value in self.running.items()], "Image": "pgb:1", "WorkingDir": ""}
        return [{"Id": ids[0], "Name": "/site-pgbouncer-1", "Config": config, "Mounts": self.mounts}]

    def config(self) -> dict[str, Any]:
        return {"services": {"pgbouncer": {"environment": {name: value.replace("$", "$$") for name, value in self.composed.items()}}}}

    def docker(self, *args: str, **kwargs: Any) -> tuple[int, str, str]:
        assert args[0] == "exec"
        return 0, self.limits, ""

    # -- of Trials

    def run(self, environment: dict[str, str], files: dict[str, str] | None = None) -> Outcome:
        self.trials.append(dict(environment))
        if not self.starts:
            return Outcome(False, {}, "FATAL cannot load config file")
        text = self.ini.read_text()
        if files and not self.rewrites:
            text = files[self.conffile]
        value = {**self.running, **environment}.get(self.variable)
        if value and (not self.mounts or self.rewrites):
            text = text.replace("size = 20", f"size = {value}")
        return Outcome(True, {self.conffile: text})


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Site]:
    monkeypatch.setattr(_change, "STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(pgbouncer_pool.AnsibleModule, "get_bin_path", lambda *args, **kwargs: "/usr/bin/docker")

    class Container:
        id = "c0ffee"

    def build(name: str) -> Site:
        site = Site(tmp_path, name)
        monkeypatch.setattr(pgbouncer_pool.Docker, "from_module", lambda module: site)
        monkeypatch.setattr(pgbouncer_pool, "container_of", lambda docker, service: Container())
        monkeypatch.setattr(pgbouncer_pool, "address_of", lambda container, port: "10.0.0.5")
        monkeypatch.setattr(pgbouncer_pool, "secret_of", lambda docker, password, variable: "s3cret")
        monkeypatch.setattr(pgbouncer_pool.Console, "open", lambda login: site.console)
        monkeypatch.setattr(pgbouncer_pool, "read_inside", lambda docker, container, path: site.ini.read_text())
        monkeypatch.setattr(pgbouncer_pool, "Trials", lambda *args: site)
        return site

    return build


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(check: bool = False, size: Any = 30, **args: Any) -> dict[str, Any]:
        args = {"project_dir": str(tmp_path), "service": "pgbouncer", "admin_user": "app", "admin_password_variable": "PW", **args}
        args.setdefault("settings", {"default_pool_size": size})
        with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit) as ended:
            pgbouncer_pool.main()
        out = capsys.readouterr().out
        assert "s3cret" not in out
        return {**json.loads(out), "rc": ended.value.code}

    return call


def ids(result: dict[str, Any]) -> list[str]:
    return [item["id"] for item in result["findings"]]


def test_case_43_an_old_pooler_that_takes_a_size_only_by_a_restart(make: Callable[[str], Site], run: Run) -> None:
    """SHOW CONFIG has the new size after SET, and SHOW DATABASES has not: recorded from 1.15."""
    assert rows("1.15-after-set")["DATABASES"][0]["pool_size"] == "20"
    assert {row["key"]: row["value"] for row in rows("1.15-after-set")["CONFIG"]}["default_pool_size"] == "30"
    site = make("1.15-before")
    predicted, done = run(check=True), run()
    again = run()
    for result in (predicted, done, again):
        assert (result["method"], result["needs_recreate"], result["persisted"]) == ("restart", True, False)
        assert ids(result) == ["pool_live_only", "pool_size_not_live"]
        assert result["databases"] == {"fhirdb": {"before": 20, "after": 20}}
        assert result["environment"] == {"PGBOUNCER_DEFAULT_POOL_SIZE": "30"}
    assert (predicted["changed"], done["changed"], again["changed"]) == (True, True, False)
    assert site.console.said == ["SET default_pool_size = 30"]


def test_case_43_by_a_reload_an_old_pooler_takes_it(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.15-before")
    site.mount()
    done = run()
    assert (done["method"], done["needs_recreate"], done["persisted"]) == ("reload", False, True)
    assert done["databases"] == {"fhirdb": {"before": 20, "after": 30}}
    assert done["findings"] == []
    assert site.ini.read_text() == INI.replace("20", "30")


def test_check_real_again(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    predicted = run(check=True)
    assert site.console.said == []
    done = run()
    for key in ("changed", "settings", "databases", "method", "environment", "persisted", "needs_recreate", "findings", "diff", "pool_mode"):
        assert predicted[key] == done[key]
    assert done["changed"]
    assert (done["method"], done["environment"]) == ("set", {"PGBOUNCER_DEFAULT_POOL_SIZE": "30"})
    assert done["diff"][0]["before"] == "default_pool_size = 20\n"
    assert done["diff"][0]["after"] == "default_pool_size = 30\n"
    # The first name was the right one and had the wanted value: no second trial.
    assert site.trials[0] == {"PGBOUNCER_DEFAULT_POOL_SIZE": "30", "DEFAULT_POOL_SIZE": "31"}
    assert len(site.trials) == 2
    assert not run()["changed"]


def test_the_other_name_is_proven_by_itself(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    site.variable = "DEFAULT_POOL_SIZE"
    done = run()
    assert done["environment"] == {"DEFAULT_POOL_SIZE": "30"}
    assert site.trials == [{"PGBOUNCER_DEFAULT_POOL_SIZE": "30", "DEFAULT_POOL_SIZE": "31"}, {"DEFAULT_POOL_SIZE": "30"}]


def test_what_compose_says_counts_as_kept(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    site.composed = {site.variable: "30"}
    done = run()
    assert (done["persisted"], done["needs_recreate"]) == (True, True)
    site.running = {site.variable: "30"}
    site.ini.write_text(INI.replace("20", "30"))
    site.trials.clear()
    done = run()
    assert (done["changed"], done["persisted"], done["needs_recreate"], done["environment"]) == (False, True, False, {site.variable: "30"})
    assert site.trials == []


def test_an_ignored_setting_is_refused_before_a_change(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    site.variable = "POOL_SIZE"
    done = run()
    assert done["failed"]
    assert ids(done) == ["setting_ignored"]
    assert "PGBOUNCER_DEFAULT_POOL_SIZE or DEFAULT_POOL_SIZE" in done["msg"]
    assert site.console.said == []
    listed = run(check=True)
    assert (listed["rc"], listed["changed"], ids(listed)) == (0, False, ["setting_ignored"])
    assert listed["settings"] == {"default_pool_size": {"before": "20", "after": "20", "in_file": "20", "on_line": None}}
    assert run(environment_names={"default_pool_size": "POOL_SIZE"})["environment"] == {"POOL_SIZE": "30"}


def test_a_trial_that_does_not_start(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    site.starts = False
    done = run()
    assert ids(done) == ["trial_failed"]
    assert "FATAL" in done["msg"]
    assert site.console.said == []
    assert "environment_names" in run(trial=False)["msg"]
    assert run(trial=False, environment_names={"default_pool_size": "X"})["environment"] == {"X": "30"}


def test_a_mounted_file_that_does_not_start_is_not_read_by_the_running_pooler(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    site.mount()
    site.starts = False
    done = run()
    assert ids(done) == ["trial_failed"]
    assert "as it stands" in done["msg"]
    assert site.ini.read_text() == INI
    assert site.console.said == []


def test_a_mounted_file_that_the_image_writes_anew(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    site.mount()
    site.rewrites = True
    done = run()
    assert done["environment"] == {site.variable: "30"}
    assert (done["method"], done["persisted"], done["needs_recreate"], done["ini_path"]) == ("set", False, True, "")
    assert site.ini.read_text() == INI
    # Then there is no way to reach a size on a line of [databases].
    site.ini.write_text(INI.replace("host=x", "host=x pool_size=5"))
    assert ids(run()) == ["ini_rewritten"]


def test_a_line_of_databases_that_nobody_can_change(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    site.ini.write_text(INI.replace("host=x", "host=x pool_size=5"))
    done = run()
    assert done["failed"]
    assert ids(done) == ["pool_size_on_database_line"]
    assert site.console.said == []


def test_what_stood_nowhere_is_taken_out_again(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    site.mount()
    owner = INI.replace("default_pool_size = 20\n", "max_client_conn = 100")
    site.ini.write_text(owner)
    forward = run()
    assert forward["settings"] == {"default_pool_size": {"before": "20", "after": "30", "in_file": None, "on_line": None}}
    assert site.ini.read_text() == owner + "\ndefault_pool_size = 30"
    predicted = run(check=True, size=None)
    done = run(size=None)
    for key in ("changed", "settings", "databases", "method", "persisted", "needs_recreate", "findings", "diff"):
        assert predicted[key] == done[key]
    assert (done["changed"], done["method"], done["persisted"], done["needs_recreate"]) == (True, "reload", True, False)
    assert done["settings"] == {"default_pool_size": {"before": "30", "after": "20", "in_file": "30", "on_line": None}}
    assert done["databases"] == {"fhirdb": {"before": 30, "after": 20}}
    assert [(item["before"], item["after"]) for item in done["diff"]] == [
        ("default_pool_size = 30\n", "default_pool_size = 20\n"), ("default_pool_size = 30\n", "")]  # fmt: skip
    assert site.ini.read_text() == owner
    for check in (True, False):
        assert not run(check, size=None)["changed"]


def test_what_stood_nowhere_where_no_default_is_told(make: Callable[[str], Site], run: Run) -> None:
    """Before 1.15 SHOW CONFIG has no defaults: what RELOAD makes of the file counts."""
    site = make("1.15-before")
    for row in site.console.rows["CONFIG"]:
        row.pop("default", None)
    site.mount()
    done = run(size=None)
    assert (done["changed"], done["method"]) == (True, "reload")
    assert site.ini.read_text() == INI.replace("default_pool_size = 20\n", "")
    assert not run(size=None)["changed"]


def test_the_line_of_the_database_goes_back_to_its_own(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    site.mount()
    owner = "[databases]\nfhirdb = host=x password=s3cret pool_size=7\n[pgbouncer]\n"
    site.ini.write_text(owner)
    site.console.size("7")
    # What a line says, the console of this test is told by hand.
    forward = run(check=True)
    assert forward["settings"] == {"default_pool_size": {"before": "20", "after": "30", "in_file": None, "on_line": "7"}}
    site.ini.write_text(owner.replace("=7", "=30") + "default_pool_size = 30\n")
    site.console.command("RELOAD")
    back = run(check=True, size=None, on_line={"default_pool_size": "7"})
    assert back["databases"] == {"fhirdb": {"before": 30, "after": 7}}
    assert "fhirdb: pool_size = 7\n" in back["diff"][1]["after"]
    assert run(check=True, size=None)["databases"] == {"fhirdb": {"before": 30, "after": 20}}


def test_no_variable_shall_say_a_setting(make: Callable[[str], Site], run: Run) -> None:
    """The image writes 20 where nothing is said, which is not the default of pgBouncer in this test."""
    site = make("1.18")
    for row in site.console.rows["CONFIG"]:
        if row["key"] == "default_pool_size":
            row["default"] = "15"
    site.running = {site.variable: "30"}
    site.ini.write_text(INI.replace("20", "30"))
    site.console.set("default_pool_size", "30")
    done = run(size=None)
    assert (done["changed"], done["method"], done["environment"], done["persisted"], done["needs_recreate"]) == (True, "set", {}, True, True)
    assert done["settings"]["default_pool_size"]["after"] == "15"
    assert "nothing for PGBOUNCER_DEFAULT_POOL_SIZE" in done["findings"][0]["expected"]
    site.composed = {site.variable: "30"}
    assert not run(size=None)["persisted"]
    # The container was made anew.
    site.composed, site.running = {}, {}
    site.ini.write_text(INI)
    site.console.set("default_pool_size", "20")
    done = run(size=None)
    assert (done["changed"], done["persisted"], done["needs_recreate"], done["findings"]) == (False, True, False, [])
    assert site.trials == []


def test_a_host_that_has_nothing_yet(make: Callable[[str], Site], run: Run, tmp_path: Path) -> None:
    site = make("1.18")
    site.project_dir = str(tmp_path / "nowhere")
    predicted = run(check=True)
    assert (predicted["rc"], predicted["changed"], predicted["method"]) == (0, True, "set")
    assert "nowhere" in json.dumps(predicted["warnings"])
    done = run()
    assert done["failed"]
    assert "nowhere" in done["msg"]


def test_a_pooler_that_says_otherwise(make: Callable[[str], Site], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make("1.18")
    monkeypatch.setattr(site.console, "set", lambda name, value: None)
    done = run()
    assert done["failed"]
    assert "default_pool_size is 20, not 30" in done["msg"]


def test_errors_are_told_and_not_thrown(make: Callable[[str], Site], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(login: Any) -> None:
        raise PgbouncerError("No login as app on pgBouncer at 10.0.0.5:6432.")

    site = make("1.18")
    monkeypatch.setattr(pgbouncer_pool.Console, "open", fail)
    assert "No login" in run()["msg"]
    monkeypatch.setattr(pgbouncer_pool.Console, "open", lambda login: site.console)
    site.ini.write_text("[databases]\nx\n")
    assert "pgbouncer.ini:2" in run()["msg"]
    site.ini.write_text(INI)
    site.mount()
    monkeypatch.setattr(pgbouncer_pool, "overwrite_file", lambda *args: (dummy for dummy in ()).throw(PermissionError(13, "Permission denied")))
    assert "become" in run()["msg"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"environment_names": {"pool": "X"}}, ["pool"]),
        ({"environment_names": {"default_pool_size": "1 X"}}, ["1 X"]),
        ({"settings": {"default_pool_sizes": 3}}, ["default_pool_size?"]),
        ({"settings": {"admin_users": "x"}}, ["admin_users"]),
        ({"database": "nope"}, ["nope", "fhirdb"]),
        ({"on_line": {"min_pool_size": 3}}, ["on_line", "min_pool_size"]),
        ({"on_line": {"default_pool_size": None}}, ["on_line", "must have a value"]),
        ({"on_line": {"default_pool_size": "x"}}, ["on_line: default_pool_size", "whole number"]),
        ({"settings": {}}, ["settings is empty"]),
    ],
)
def test_bad_input(make: Callable[[str], Site], run: Run, args: dict[str, Any], words: list[str]) -> None:
    site = make("1.18")
    done = run(**args)
    assert done["failed"]
    assert all(word in done["msg"] for word in words)
    assert site.console.said == []


# -- pure functions


def state(name: str) -> State:
    console: Any = FakeConsole(name, str)
    return State.read(console)


def test_state_of_recorded_answers() -> None:
    found = state("1.24")
    assert found.version == (1, 24, 1)
    assert found.config["default_pool_size"] == found.defaults["default_pool_size"] == "20"
    assert not found.changeable["listen_port"]
    assert [row["name"] for row in found.databases] == ["fhirdb"]
    assert found.clients == 0


def test_normalised() -> None:
    settings = {"default_pool_size": 30, "query_wait_timeout": "2.5", "pool_mode": "session", "reserve_pool_timeout": 0.5, "max_client_conn": None}
    assert normalised(settings) == {
        "default_pool_size": "30", "query_wait_timeout": "2.5", "pool_mode": "session", "reserve_pool_timeout": "0.5", "max_client_conn": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"max_client_conn": 0}, {"default_pool_size": -1}, {"default_pool_size": 2.5}, {"query_timeout": "5s"}, {"pool_mode": "Session"},
        {"default_pool_size": [3]}, {"min_pool_size": "1\n2"}, {"default_pool_sizes": None},
    ],
)  # fmt: skip
def test_settings_that_are_none(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="settings"):
        normalised(settings)


def test_same() -> None:
    assert same("30", "30.0")
    assert same("session", "session")
    assert same(None, None)
    assert not same("30", None)
    assert not same("", "0")


def test_names_and_probes() -> None:
    assert names_for("min_pool_size", {}, {}) == ["PGBOUNCER_MIN_POOL_SIZE", "MIN_POOL_SIZE"]
    assert names_for("min_pool_size", {}, {"MIN_POOL_SIZE": "1"}) == ["MIN_POOL_SIZE", "PGBOUNCER_MIN_POOL_SIZE"]
    assert names_for("min_pool_size", {"min_pool_size": "X"}, {}) == ["X"]
    assert probes("query_timeout", "2.5", ["A", "B"]) == {"A": "2.5", "B": "3"}
    assert probes("pool_mode", "transaction", ["A", "B"]) == {"A": "transaction", "B": "session"}


@pytest.mark.parametrize(
    ("name", "wanted", "words"),
    [
        ("1.18", {"max_prepared_statements": "100"}, "1.21 or newer"),
        ("1.18", {"max_user_client_connections": "100"}, "1.24 or newer"),
        ("1.24", {"transaction_timeout": "100"}, "1.25 or newer"),
        ("1.24", {"max_prepared_statements": "100"}, ""),
        ("1.15-before", {"min_pool_size": "3"}, ""),
    ],
)
def test_settings_that_came_later(name: str, wanted: dict[str, str], words: str) -> None:
    found = check_settings(wanted, state(name), "p")
    assert [item["id"] for item in found] == (["setting_unknown"] if words else [])
    assert words in "".join(item["expected"] for item in found)


def test_fewer_clients_than_are_connected() -> None:
    found = state("1.18")
    found.clients = 50
    assert [item["id"] for item in check_settings({"max_client_conn": "49"}, found, "p")] == ["max_client_conn_below_use"]
    assert check_settings({"max_client_conn": "50"}, found, "p") == []


def test_who_may_only_look() -> None:
    found = state("1.18")
    assert check_user("app", found, "p") == []
    assert [item["id"] for item in check_user("reader", found, "p")] == ["console_read_only"]
    found.config["auth_type"] = "any"
    assert check_user("reader", found, "p") == []


def test_what_a_database_really_has() -> None:
    databases = [{"name": "a", "pool_size": "20", "reserve_pool": "0"}, {"name": "b", "pool_size": "30", "reserve_pool": "0"}]
    assert apart(databases, {"default_pool_size": "30"}, {}) == [("a", "default_pool_size", "20")]
    assert apart(databases, {"default_pool_size": "30"}, {("a", "default_pool_size"): "20"}) == []
    assert apart(databases, {"default_pool_size": "30"}, {("*", "default_pool_size"): "20"}) == [("b", "default_pool_size", "30")]
    reserve = "reserve_pool_size"
    assert apart(databases, {reserve: "3", "query_timeout": "1"}, {}) == [("a", reserve, "0"), ("b", reserve, "0")]


def test_files_for_fewer_clients(make: Callable[[str], Site], run: Run) -> None:
    site = make("1.18")
    site.mount()
    site.limits = "Max open files            1024                1048576              files\n"
    found = run(check=True, settings={"max_client_conn": 2000})
    assert ids(found) == ["file_limit_short"]
    assert ids(run(check=True, settings={"max_client_conn": 500})) == []
