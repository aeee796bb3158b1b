# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import Container, Docker
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_replication_info as module
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.module_utils.test__postgres import container

RECORDED = Path(__file__).parents[1] / "fixtures/replication"
QUERIES = {
    getattr(module, name): name
    for name in (
        "SERVER", "SETTINGS", "PENDING", "DATABASES", "DATABASES_BEFORE_15", "DATABASE_BYTES", "ALIKE", "ROWS_READ", "PLACE",
        "SENDERS", "SLOTS", "RULES", "ROLE_SETTINGS",
        "RECEIVER", "REPLAY", "CONFLICTS",
    )
}  # fmt: skip


class Site:
    """A server that answers what was recorded of one, in a container whose commands and log do."""

    def __init__(self) -> None:
        self.containers: list[Container] = []
        self.data: Any = {}
        self.failure: PostgresError | None = None
        self.environment = ["PGDATA=/data"]
        self.refused: list[str] = []
        self.young = 0
        self.is_("standby")

    def is_(self, name: str) -> None:
        self.data = json.loads((RECORDED / f"{name}.json").read_text())
        self.containers = [replace(container("standby", addresses=self.data["addresses"][0]), image_ref="postgres:15", image_id="sha256:1")]

    # The server.

    def connect(self, login: Any) -> Site:
        if self.failure:
            raise self.failure
        return self

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *exc_info: object) -> None: ...

    def rows(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        name = QUERIES[query]
        answer = self.data["rows"].get(name)
        if name in self.refused or isinstance(answer, str):
            raise PostgresError("denied", "statement", "42501")
        if name == "RECEIVER" and answer and self.young:
            self.young -= 1
            return [{**answer[0], "age_seconds": 0.1}]
        assert answer is not None, name
        return list(answer)

    def value(self, query: str) -> Any:
        if query == module.REPLAYED:
            return self.data["rows"]["REPLAY"][0]["replayed_lsn"]
        return next(iter(self.rows(query)[0].values()))

    # Docker.

    def docker(self, *args: str) -> tuple[int, str, str]:
        if args[0] == "logs":
            return 0, self.data["log"], ""
        if args[0] == "top":
            return 0, "PID CMD\n1 sleep\n", ""
        assert args[0] == "exec"
        name = "pg_controldata" if args[2] == "sh" else args[2]
        return (0, self.data["exec"][name], "") if name in self.data["exec"] else (127, "", "not found")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    item = Site()
    monkeypatch.setattr(Docker, "containers", lambda docker, service=None: [one for one in item.containers if service in (None, one.service)])
    monkeypatch.setattr(Docker, "project_name", lambda docker: "p")
    monkeypatch.setattr(Docker, "docker", lambda docker, *args, **more: item.docker(*args))
    monkeypatch.setattr(Docker, "inspect", lambda docker, found: [{"Config": {"Env": item.environment}}])
    monkeypatch.setattr(module, "connect", item.connect)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0)
    return item


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[Any, dict[str, Any]]]:
    def call(check: bool = False, **args: Any) -> tuple[Any, dict[str, Any]]:
        given = {"project_dir": str(tmp_path), "service": "standby", "login_password": "login-S3cret-word", "_ansible_check_mode": check, **args}
        with patch_module_args(given), pytest.raises(SystemExit) as ended:
            module.main()
        out = capsys.readouterr().out
        assert "S3cret" not in out
        return ended.value.code, json.loads(out)

    return call


def ids(result: dict[str, Any]) -> list[str]:
    return sorted(item["id"] for item in result["findings"])


def test_a_pair_as_it_was_recorded(site: Site, ask: Callable[..., Any]) -> None:
    """The primary, then the standby with what was read; the recorded standby has its password in primary_conninfo."""
    site.is_("primary")
    rc, first = ask(expect="primary", slot="fhir_replica")
    assert (rc, ids(first), first["changed"]) == (0, [], False)
    server = first["server"]
    assert (server["role"], server["timeline"], server["libc"]) == ("primary", 1, {"family": "glibc", "version": "2.36"})
    assert server["image"] == {"reference": "postgres:15", "id": "sha256:1"}
    site.is_("standby")
    rc, second = ask(expect="standby", primary=server, slot="fhir_replica")
    assert (rc, ids(second)) == (0, ["clear_password"])
    assert (second["server"]["promoted"], second["server"]["standby"]["link"]) == (False, "streaming")
    assert second["server"]["standby"]["primary_conninfo"]["host"] == "postgres"
    assert ask(check=True, expect="standby", primary=server, slot="fhir_replica")[1] == second
    rc, failed = ask(expect="standby", primary=server, fail_on=["warning"])
    assert (rc, failed["server"]["role"]) == (1, "standby")
    assert "clear_password on primary_conninfo" in failed["msg"]


def test_case_66_the_cut_link_as_it_was_recorded(site: Site, ask: Callable[..., Any]) -> None:
    for name in ("standby-cut", "standby-cut-later"):
        site.is_(name)
        result = ask(expect="standby")[1]
        assert ids(result) == ["clear_password", "standby_link_cut"]
        assert (result["server"]["standby"]["lag_seconds"], result["server"]["standby"]["lag_bytes"]) == (None, None)


def test_a_receiver_that_has_just_been_started_is_not_believed(site: Site, ask: Callable[..., Any]) -> None:
    """One whose slot is lost streams for a moment at each try."""
    site.young = 1
    assert ask()[1]["server"]["standby"]["link"] == "streaming"
    site.young = 2
    assert ask()[1]["server"]["standby"]["streaming"] is False


def test_a_standby_that_is_behind_is_waited_for(site: Site, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    site.is_("standby-behind")
    assert ask()[1]["server"]["standby"]["lag_seconds"] == 11.5
    # It catches up at the third look.
    places = iter(["0/305D630", "0/3100000", "0/31F8C28"])
    value = site.value
    monkeypatch.setattr(module, "SETTLE_SECONDS", 60)
    monkeypatch.setattr(site, "value", lambda query: next(places) if query == module.REPLAYED else value(query))
    assert ask()[1]["server"]["standby"]["lag_seconds"] < 1


def test_what_a_reader_may_not_see_is_said(site: Site, ask: Callable[..., Any]) -> None:
    site.is_("primary-monitor")
    found = ask(expect="primary")[1]["findings"]
    assert [(item["id"], item["object"]) for item in found] == [("could_not_read", "pg_hba_file_rules")]
    settings = site.data["rows"]["SETTINGS"]
    next(item for item in settings if item["name"] == "max_connections")["pending_restart"] = True
    site.data["rows"]["SETTINGS"] = [item for item in settings if item["name"] != "hba_file"]
    del site.data["exec"]["df"]
    site.refused = ["PENDING"]
    result = ask(expect="primary")[1]
    assert sorted(item["object"] for item in result["findings"]) == ["disk", "pg_file_settings", "pg_hba_file_rules", "pg_settings"]
    assert result["server"]["parameters"]["max_connections"]["configured"] is None
    # What the files say, where they may be read; other trouble is no missing right.
    site.refused = []
    site.data["rows"]["PENDING"] = [{"name": "max_connections", "setting": "40"}, {"name": "max_connections", "setting": "50"}]
    assert ask(expect="primary")[1]["server"]["parameters"]["max_connections"]["configured"] == "50"
    site.data["rows"]["SERVER"][0]["sees_all"] = False
    rc, result = ask()
    assert (rc, "GRANT pg_monitor" in result["msg"]) == (1, True)


def test_older_and_other_servers(site: Site, ask: Callable[..., Any]) -> None:
    row = site.data["rows"]["SERVER"][0]
    site.data["rows"]["DATABASES_BEFORE_15"] = []
    row["server_version_num"] = 130010
    assert ask()[1]["server"]["databases"] == []
    row["server_version_num"] = 120010
    assert "13 or newer" in ask()[1]["msg"]
    row.update(server_version_num=150018, address="10.9.9.9")
    assert "leads to one at 10.9.9.9" in ask()[1]["msg"]


@pytest.mark.parametrize("kind", ["password", "hba", "role", "database", "full", "refused"])
def test_a_refused_login_fails(site: Site, ask: Callable[..., Any], kind: str) -> None:
    site.failure = PostgresError("refused", kind)
    rc, result = ask(expect="standby")
    assert (rc, result["kind"]) == (1, kind)


def test_a_server_that_lets_nobody_in(site: Site, ask: Callable[..., Any]) -> None:
    site.failure = PostgresError("the database system is starting up", "starting")
    rc, result = ask(expect="standby")
    assert (rc, ids(result)) == (0, ["standby_not_ready"])
    server = result["server"]
    assert (server["role"], server["timeline"], server["container"]["accepts"]) == ("standby", 1, False)
    site.failure = PostgresError("the database system is not accepting connections", "refused")
    assert ids(ask(expect="standby")[1]) == ["standby_not_ready"]
    site.containers = [replace(site.containers[0], restart_count=3)]
    assert ids(ask(expect="standby")[1]) == ["standby_restarting"]
    assert ids(ask(expect="primary")[1]) == ["primary_restarting"]
    # No PostgreSQL at all.
    site.failure = PostgresError("connection refused", "unreachable")
    site.environment = ["PATH=/bin"]
    rc, result = ask(expect="standby")
    assert (rc, result["kind"], "seems to be no PostgreSQL" in result["msg"]) == (1, "unreachable", True)


def test_containers_that_do_not_run(site: Site, ask: Callable[..., Any]) -> None:
    one = site.containers[0]
    site.containers = [replace(one, state="exited", exit_code=137)]
    result = ask(expect="standby")[1]
    assert (ids(result), result["server"]["role"], len(result["server"]["container"]["log"])) == (["standby_not_running"], "unknown", 8)
    site.containers = []
    result = ask()[1]
    assert (ids(result), result["server"]["container"]["state"]) == (["standby_not_running"], "missing")
    rc, result = ask(expect="primary")
    assert (rc, result["kind"]) == (1, "container")
    site.containers = [one, replace(one, id="other", number=2)]
    assert "2 running containers" in ask()[1]["msg"]


def test_what_is_handed_over_as_primary(site: Site, ask: Callable[..., Any]) -> None:
    site.is_("primary")
    server = ask()[1]["server"]
    site.is_("standby")
    assert "has no lsn" in ask(primary={key: value for key, value in server.items() if key != "lsn"})[1]["msg"]
    assert "is of standby, a standby" in ask(primary={**server, "role": "standby"})[1]["msg"]
    result = ask(primary={**server, "role": "unknown"})[1]
    assert [item["object"] for item in result["findings"] if item["id"] == "could_not_read"] == ["primary"]
    assert "other_cluster" in ids(ask(primary={**server, "system_identifier": "1"})[1])


def test_options_out_of_range(ask: Callable[..., Any]) -> None:
    for option in ("max_lag_bytes", "max_lag_seconds"):
        rc, result = ask(**{option: -1})
        assert (rc, f"Option {option} is -1" in result["msg"]) == (1, True)


def test_a_connection_string_that_is_none(site: Site, ask: Callable[..., Any]) -> None:
    next(item for item in site.data["rows"]["SETTINGS"] if item["name"] == "primary_conninfo")["setting"] = "password='S3cret"
    assert "no connection string" in ask()[1]["msg"]
