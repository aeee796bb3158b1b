# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import Docker
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer import PgbouncerError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.plugins.modules import connection_budget_info as module
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.http_stub import Server, reply
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.module_utils.test__postgres import container

RECORDED = Path(__file__).parents[1] / "fixtures/budget"
SIDE = {
    "name": "fhir",
    "database_service": "postgres",
    "pooler_service": "pgbouncer",
    "database": "fhirdb",
    "login_password": "super-S3cret-word",
    "admin_user": "hapi_app",
    "admin_password": "app-S3cret-word",
}


def recorded(version: str) -> Any:
    return json.loads((RECORDED / f"pgbouncer-{version}.json").read_text())


class Site:
    """A pooler and a server that answer what was recorded; replicas that tell Hikari's size."""

    def __init__(self, version: str) -> None:
        self.data = recorded(version)
        self.hikari = dict.fromkeys(self.data["addresses"]["hapi"], 5)
        self.failure: Exception | None = None
        self.asked: list[tuple[str, Any]] = []

    def containers(self, docker: Any, service: str | None = None) -> list[Any]:
        found = [
            container(name, number=number, addresses={"net": address})
            for name, addresses in self.data["addresses"].items()
            for number, address in enumerate(addresses, 1)
        ]
        return [item for item in found if service in (None, item.service)]

    # The console.

    def config(self) -> dict[str, str]:
        return {row["key"]: row["value"] for row in self.data["console"]["CONFIG"]}

    def show(self, what: str) -> list[dict[str, str]]:
        return list(self.data["console"][what])

    def version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.show("VERSION")[0]["version"].split()[1].split("."))

    @contextmanager
    def console_of(self, docker: Any, *args: Any) -> Any:
        self.asked.append(("console", args))
        yield self

    # The server.

    def rows(self, query: str) -> list[dict[str, Any]]:
        name = next(name for name in self.data["server"] if getattr(module, name) == query)
        return list(self.data["server"][name])

    def value(self, query: str) -> Any:
        assert query == module.PENDING
        if self.failure:
            raise self.failure
        return "50"

    @contextmanager
    def connect(self, login: Any) -> Any:
        self.asked.append(("server", login))
        yield self


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Site:
    item = Site(getattr(request, "param", "1.18"))
    monkeypatch.setattr(Docker, "containers", lambda docker, service=None: item.containers(docker, service))
    monkeypatch.setattr(Docker, "project_name", lambda docker: "p")
    environment = {"URL": "jdbc:postgresql://pgbouncer:6432/fhirdb?password=url-S3cret"}
    monkeypatch.setattr(Docker, "config", lambda docker: {"services": {"hapi": {"environment": environment}}})
    monkeypatch.setattr(module, "console_of", item.console_of)
    monkeypatch.setattr(module, "connect", item.connect)
    monkeypatch.setattr(
        module, "read_hikari", lambda params, client, found: {"fhir": {one.name: item.hikari[one.addresses["net"]] for one in found}}
    )
    return item


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[Any, dict[str, Any]]]:
    def call(side: dict[str, Any] | None = None, check: bool = False, **args: Any) -> tuple[Any, dict[str, Any]]:
        given = {"project_dir": str(tmp_path), "sides": [{**SIDE, **(side or {})}], "_ansible_check_mode": check, **args}
        with patch_module_args(given), pytest.raises(SystemExit) as ended:
            module.main()
        out = capsys.readouterr().out
        assert "S3cret" not in out
        return ended.value.code, json.loads(out)

    return call


def ids(result: dict[str, Any]) -> list[str]:
    return sorted(item["id"] for item in result["findings"])


def test_what_pgbouncer_1_18_said(site: Site, ask: Callable[..., Any]) -> None:
    """The recorded answers, read whole: two replicas, a reporter through the pooler and one past it."""
    rc, result = ask()
    assert (rc, result["changed"]) == (0, False)
    assert [(item["object"], item["from"], item["to"]) for item in result["order"]] == [("postgres", 30, 60)]
    assert ids(result) == ["pool_over_max_connections"]
    side = result["sides"][0]
    assert [(item["database"], item["user"], item["pool_size"], item["size_from"], item["active"]) for item in side["pooler"]["pools"]] == [
        ("alias", "", 4, "database", 0),
        ("elsewhere", "", 1, "database", 0),
        ("fhirdb", "hapi_app", 20, "default_pool_size", 4),
        ("fhirdb", "reporter", 20, "default_pool_size", 1),
    ]
    # The reporter has a pool of its own; the pool of the replicas is nobody else's.
    assert side["pooler"]["other_clients"] == 0
    assert side["direct"]["total"] == 1 + 2
    assert [item["application"] for item in side["direct"]["seen"]] == ["report"]
    assert side["sum"] == {"pools": 20 + 20 + 4 + 2 + 1, "direct": 3, "reserved": 3, "total": 53, "of": 30}
    assert side["server"]["role_limits"] == {"hapi_app": 50}
    assert result["proposals"]["fhir"]["max_connections"] == 60
    assert ask(check=True)[1] == result


@pytest.mark.parametrize("site", ["1.24"], indirect=True)
def test_what_pgbouncer_1_24_said(site: Site, ask: Callable[..., Any]) -> None:
    rc, result = ask()
    pooler = result["sides"][0]["pooler"]
    assert (rc, pooler["version"], pooler["pool_mode"], pooler["max_prepared_statements"]) == (0, "1.24.1", "transaction", 200)
    assert {(item["user"], item["size_from"], item["pool_size"], item["effective"]) for item in pooler["pools"]} == {
        ("hapi_app", "user", 7, 6),
        # SHOW USERS tells 7 for the reporter too, who has none of his own.
        ("reporter", "default_pool_size", 20, 20),
    }
    assert ids(result) == ["pool_capped", "pool_over_max_connections"]


def test_fail_on_names_everything(site: Site, ask: Callable[..., Any]) -> None:
    rc, result = ask(replicas=5, fail_on=["error"])
    assert rc == 1
    assert "pool_too_small on pgbouncer" in result["msg"]
    assert result["sides"][0]["hikari"]["demand"] == 30
    assert ask(replicas=5)[0] == 0


def test_replicas_that_differ(site: Site, ask: Callable[..., Any]) -> None:
    site.hikari[site.data["addresses"]["hapi"][0]] = 8
    result = ask()[1]
    assert "hikari_sizes_differ" in ids(result)
    assert result["sides"][0]["hikari"]["size"] == 8


def test_sizes_that_are_given_are_taken(site: Site, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    containers = site.containers(None)
    monkeypatch.setattr(Docker, "containers", lambda docker, service=None: containers)
    params = {"hikari_sizes": {"fhir": 5}, "sides": [{"hikari_pool": None, "name": "fhir"}]}
    assert module.read_hikari(params, None, containers) == {"fhir": {}}


def test_passwords_of_the_side_go_to_their_own_servers(site: Site, ask: Callable[..., Any]) -> None:
    ask()
    console, server = dict(site.asked)["console"], dict(site.asked)["server"]
    assert (console[0], console[1], console[2]) == ("pgbouncer", "hapi_app", "app-S3cret-word")
    assert (server.host, server.user, server.password) == (site.data["addresses"]["postgres"][0], "postgres", "super-S3cret-word")


def test_without_a_pooler(site: Site, ask: Callable[..., Any]) -> None:
    rc, result = ask({"pooler_service": "", "admin_user": None})
    assert (rc, result["sides"][0]["pooler"], result["proposals"]["fhir"]["default_pool_size"]) == (0, None, None)
    assert [name for name, dummy in site.asked] == ["server"]


def test_transaction_mode_looks_at_the_jdbc_url_and_does_not_show_it(site: Site, ask: Callable[..., Any]) -> None:
    for row in site.data["console"]["CONFIG"]:
        if row["key"] == "pool_mode":
            row["value"] = "transaction"
    result = ask()[1]
    assert [item["severity"] for item in result["findings"] if item["id"] == "prepared_statements_unsupported"] == ["error"]
    assert "no prepareThreshold=0 in URL of hapi" in str(result["findings"])


def test_a_restart_that_is_pending(site: Site, ask: Callable[..., Any]) -> None:
    for row in site.data["server"]["SETTINGS"]:
        row["pending_restart"] = row["name"] == "max_connections"
    assert ask()[1]["sides"][0]["server"]["pending"] == 50
    site.failure = PostgresError("permission denied for view", sqlstate="42501")
    assert ask()[1]["sides"][0]["server"]["pending"] is None
    site.failure = PostgresError("The session was lost", "lost")
    rc, result = ask()
    assert (rc, "The session was lost" in result["msg"]) == (1, True)


@pytest.mark.parametrize(
    ("row", "text"),
    [({"sees_all": False}, "may not see the sessions of others"), ({"version": 110022}, "postgres is PostgreSQL 11; 12 or newer is needed")],
)
def test_a_server_that_does_not_tell_all(site: Site, ask: Callable[..., Any], row: dict[str, Any], text: str) -> None:
    site.data["server"]["SERVER"][0].update(row)
    rc, result = ask()
    assert (rc, "findings" in result) == (1, False)
    assert text in result["msg"]


def test_a_pooler_that_can_not_be_read_never_counts_as_empty(site: Site, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*args: Any) -> Any:
        raise PgbouncerError("The console is closed to hapi_app.")

    monkeypatch.setattr(module, "console_of", closed)
    rc, result = ask()
    assert (rc, "findings" in result, "sides" in result) == (1, False, False)
    assert result["msg"] == "Side fhir could not be read, so nothing is said of it. The console is closed to hapi_app."


AUDIT = {**SIDE, "name": "audit", "database_service": "postgres-audit", "pooler_service": "pgbouncer-audit"}


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"sides": []}, "Option sides is empty"),
        ({"sides": [SIDE, {**AUDIT, "name": "fhir"}]}, "names fhir twice"),
        ({"sides": [SIDE, {**AUDIT, "database_service": "postgres"}]}, "The service postgres is named by side fhir and by side audit"),
        ({"sides": [SIDE, {**AUDIT, "standby_services": ["postgres"]}]}, "The service postgres is named by side fhir"),
        ({"sides": [SIDE, {**AUDIT, "pooler_service": "pgbouncer"}]}, "The service pgbouncer is named by"),
        ({"sides": [{**SIDE, "standby_services": ["postgres"]}]}, "by side fhir and by side fhir"),
        ({"sides": [{**SIDE, "admin_user": None}]}, "has the pooler pgbouncer and no admin_user"),
        ({"sides": [{**SIDE, "direct_connections": -1}]}, "Side fhir: Option direct_connections is -1"),
        ({"replicas": -1}, "Option replicas is -1"),
        ({"surge": 101}, "Option surge is 101"),
        ({"hikari_sizes": {"fhir": 0}}, "Option hikari_sizes gives 0 for the pool fhir"),
        ({"hikari_sizes": {"fhir": "many"}}, "Option hikari_sizes gives 'many'"),
        ({"service": "none"}, "The service none has no running container"),
    ],
)
def test_options_that_make_no_sense(site: Site, ask: Callable[..., Any], args: dict[str, Any], text: str) -> None:
    rc, result = ask(**args)
    assert (rc, "findings" in result) == (1, False)
    assert text in result["msg"]
    assert site.asked == []


def hikari(sizes: dict[str, float]) -> bytes:
    return "".join(f'hikaricp_connections_max{{pool="{name}"}} {size}\n' for name, size in sizes.items()).encode()


@pytest.mark.parametrize(
    ("routes", "found"),
    [
        ({"/actuator/prometheus": reply(hikari({"fhir": 5.0, "audit": 2.0}), "text/plain")}, {"fhir": {"p-hapi-1": 5}}),
        ({}, "GET http://127.0.0.1:[0-9]+/actuator/prometheus: HTTP 404. Start it.*hikari_sizes .fhir"),
        ({"/actuator/prometheus": reply({}, status=401)}, "HTTP 401. Give a credential"),
        ({"/actuator/prometheus": reply(b"<html>", "text/html")}, "not in the Prometheus format"),
        ({"/actuator/prometheus": reply(hikari({"Other-1": 5.0}), "text/plain")}, "tells no size of a Hikari pool fhir .*Its pools: Other-1"),
    ],
)
def test_hikari_is_read_from_each_replica(routes: Any, found: Any) -> None:
    params = {"hikari_sizes": {}, "service": "hapi", "actuator_path": "/actuator", "sides": [{"hikari_pool": None, "name": "fhir"}]}
    with Server(routes) as server:
        params["port"] = int(server.url.rpartition(":")[2])
        one = container("hapi", addresses={"net": "127.0.0.1"})
        if isinstance(found, dict):
            assert module.read_hikari(params, module.Client(), [one]) == found
        else:
            with pytest.raises(module.BudgetError, match=found):
                module.read_hikari(params, module.Client(), [one])
    with pytest.raises(module.BudgetError, match="p-hapi-1 can't be asked"):
        module.read_hikari(params, module.Client(), [container("hapi", addresses={})])
    with pytest.raises(module.BudgetError, match="no running container that could tell"):
        module.read_hikari(params, module.Client(), [])


def test_where_a_database_line_leads() -> None:
    names = {"postgres": "postgres", "10.0.0.5": "postgres", "standby": "standby", "p-other-1": "other"}
    assert module.target_of("postgres", "postgres", names) == ""
    assert module.target_of("10.0.0.5", "postgres", names) == ""
    assert module.target_of("standby", "postgres", names) == "standby"
    assert module.target_of("p-other-1", "postgres", names) == "other"
    assert module.target_of("standby,postgres", "postgres", names) == ""
    # Nobody knows where that is: rather one pool too many.
    assert module.target_of("db.example.org", "postgres", names) == ""
    assert module.target_of("/var/run/postgresql", "postgres", names) == ""


def test_sizes_of_users_are_not_believed_twice() -> None:
    told = {"a": "", "b": "        7", "c": "        7", "d": "        9", "e": "        9"}
    rows = [{"name": name, "pool_size": size} for name, size in told.items()]
    assert module.user_sizes(rows) == {"b": 7, "d": 9}
    assert module.user_sizes([{"name": "a", "pool_mode": ""}]) == {}


def test_documented_findings_are_those_of_the_code() -> None:
    """The list in RETURN is what an operator looks ids up in."""
    files = ("module_utils/_budget.py", "modules/connection_budget_info.py")
    source = "".join((Path(module.__file__).parents[1] / name).read_text() for name in files)
    told = set(re.findall(r"V\(([a-z_]+)\)", module.RETURN[module.RETURN.index("findings:") :])) - {"error", "warning", "info"}
    assert told == set(re.findall(r'finding\(\s*"([a-z_]+)"', source))
