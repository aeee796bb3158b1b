# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""connection_budget_info against a real PostgreSQL with a standby and a real pgBouncer; the truth is asked by psql and SHOW."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.modules import connection_budget_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import SECRETS, Databases
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

JDBC = "HAPI_DATASOURCE_URL: 'jdbc:postgresql://pgbouncer:6432/fhirdb%s'"
SIDE = {
    "name": "fhir",
    "database_service": "postgres",
    "pooler_service": "pgbouncer",
    "database": "fhirdb",
    "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
    "admin_user": "hapi_app",
    "admin_password_variable": "FHIR_DB_APP_PASSWORD",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """max_connections 30 on primary and standby, a session pool of 20, three replicas with Hikari pools of 5."""
    item = Databases(tmp_path_factory.mktemp("budget") / "site", "budget")
    try:
        item.start(standby=True, replicas=3, hapi_environment=JDBC % "")
        yield item
    finally:
        item.remove()


@pytest.fixture
def ask(site: Databases, run: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Run the module for the side, changed by `side`; no result may hold a password."""

    def call(side: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
        sides = [{**SIDE, **(side or {})}]
        result = run(connection_budget_info, **{"project_dir": str(site.dir), "sides": sides, **args})
        assert not any(secret in json.dumps(result) for secret in SECRETS)
        assert "psycopg2" not in result.get("msg", "")
        return result

    return call


def found(result: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the one finding of that id."""
    items = [item for item in result.get("findings", []) if item["id"] == name]
    assert len(items) == 1, result
    return items[0]


def use_one(site: Databases) -> None:
    """Connect and ask something: only that makes a client of pgBouncer wait for a server connection."""
    with site.clients(1):
        pass


def ids(result: dict[str, Any]) -> list[str]:
    return sorted(item["id"] for item in result["findings"])


def test_what_runs_is_counted_and_nothing_is_changed(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    def state() -> list[Any]:
        return [site.show("CONFIG"), site.sql("SELECT name, setting, source FROM pg_settings WHERE context <> 'internal'"), site.ids()]

    before = state()
    real = ask({"standby_services": ["standby"]})
    assert ask({"standby_services": ["standby"]}, check=True) == real
    assert state() == before
    assert (real["rc"], real["changed"], ids(real), real["order"]) == (0, False, ["pool_full"], [])
    side = real["sides"][0]
    assert side["fits"]
    assert side["sum"] == {"pools": 20, "direct": 2, "reserved": 3, "total": 25, "of": 30}
    assert side["hikari"] | {"replicas": sorted(side["hikari"]["replicas"].values())} == {
        "pool": "fhir", "size": 5, "replicas": [5, 5, 5], "running": 3, "wanted": 3, "surge": 1, "demand": 20, "reads": 0,
    }
    server = side["server"]
    assert (server["usable"], server["source"], server["sourcefile"]) == (27, "configuration file", "/var/lib/postgresql/data/postgresql.conf")
    assert server["replication"] == int(site.sql("SELECT count(*) FROM pg_stat_replication")) == 1
    assert side["standbys"][0]["in_recovery"] is True
    assert side["pooler"]["version"].startswith("1.18")


def test_case_47_five_replicas_and_six_direct_users(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    """25 > 20 and 30 + 6 + reserve > 30; what is proposed, done in the order that is given, carries five replicas."""
    side = {"standby_services": ["standby"], "direct_connections": 0}
    reports = site.clients(4, "postgres", user="reporter", application_name="report")
    with reports, site.clients(2, "postgres", user="postgres", application_name="exporter"):
        result = ask(side, replicas=5)
        assert ids(result) == ["max_connections_too_small", "pool_too_small"]
        assert "25 > 20" in found(result, "pool_too_small")["found"]
        assert "30 + 6 + 3 > 30" in found(result, "max_connections_too_small")["found"]
        seen = {(item["user"], item["application"]): item["count"] for item in result["sides"][0]["direct"]["seen"]}
        assert seen == {("reporter", "report"): 4, ("postgres", "exporter"): 2}
    assert result["proposals"]["fhir"] | {"max_client_conn": None} == {
        "default_pool_size": 30, "max_client_conn": None, "max_db_connections": 0, "max_user_connections": 0,
        "max_connections": 45, "standby_max_connections": {"standby": 45},
    }
    assert [(item["step"], item["object"], item["what"], item["from"], item["to"]) for item in result["order"]] == [
        (1, "standby", "max_connections", 30, 45), (2, "postgres", "max_connections", 30, 45),
        (3, "pgbouncer", "default_pool_size", 20, 30), (4, "hapi", "replicas", 3, 5),
    ]
    # The roadmap's numbers, for its own picture of who else connects: nobody to be seen, two that come and go.
    roadmap = ask(replicas=5)["proposals"]["fhir"]
    assert (roadmap["default_pool_size"], roadmap["max_connections"]) == (30, 40)
    try:
        site.server("standby", max_connections=45)
        site.server("postgres", max_connections=45)
        site.pool(settings="default_pool_size = 30")
        with site.clients(6, "postgres", user="reporter"), site.replicas_connected(10):
            after = ask(side, replicas=5, fail_on=["error"])
        assert (after["rc"], after["sides"][0]["fits"]) == (0, True), after
        assert [item["object"] for item in after["order"]] == ["hapi"]
        # Downwards the other way round, and only when asked to.
        down = ask(side, replicas=2, lower=True)
        assert [(item["object"], item["to"]) for item in down["order"]] == [("hapi", 2), ("pgbouncer", 15), ("postgres", 25), ("standby", 25)]
    finally:
        site.pool()
        site.server("postgres", max_connections=None)
        site.new_standby()


def test_case_45_a_limit_larger_than_the_pool(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    """max_db_connections 80 does not make the pool of 20 any larger: the 21st client waits."""
    try:
        site.pool(settings="max_db_connections = 80")
        with site.clients(20) as clients:
            last = threading.Thread(target=use_one, args=(site,), daemon=True)
            last.start()
            site.until("a client that waits", lambda: any(row["cl_waiting"] for row in site.show("POOLS")))
            result = ask(replicas=5)
            clients[0].close()
            last.join(20)
            assert not last.is_alive()
        assert result["sides"][0]["pooler"]["effective"] == 20
        assert "max_db_connections 80, default_pool_size 20: the pool for fhirdb really gives 20" in found(result, "pool_capped")["found"]
        assert found(result, "clients_waiting")["found"].startswith("1 for fhirdb as hapi_app")
        assert result["sides"][0]["pooler"]["pools"][0]["servers"] == 20
        # The other way round the limit decides.
        site.pool(settings="max_db_connections = 12")
        result = ask(replicas=3)
        assert "the pool for fhirdb really gives 12" in found(result, "pool_capped")["found"]
        assert "by max_db_connections" in found(result, "pool_too_small")["found"]
        proposal = result["proposals"]["fhir"]
        site.pool(settings=f"max_db_connections = {proposal['max_db_connections']}")
        assert ask(replicas=3)["sides"][0]["fits"]
    finally:
        site.pool()


def test_case_46_a_tiny_server(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    """A pool of 20 on max_connections 7: refused, with numbers that count the reserved slots."""
    try:
        site.server(max_connections=7)
        with pytest.raises(psycopg2.OperationalError, match="reserved"), site.clients(5, "postgres"):
            pass
        result = ask(replicas=1, fail_on=["error"])
        assert result["rc"] == 1
        assert "20 + 2 + 3 > 7" in found(result, "pool_over_max_connections")["found"]
        assert "pool_over_max_connections on postgres" in result["msg"]
        assert result["proposals"]["fhir"]["max_connections"] == 30
        site.server(max_connections=result["proposals"]["fhir"]["max_connections"])
        with site.clients(20, "postgres", user="reporter"), pytest.raises(psycopg2.OperationalError, match="reserved"), site.clients(8, "postgres"):
            pass
        assert ask(replicas=1, surge=0, fail_on=["error"])["rc"] == 0
    finally:
        site.server(max_connections=None)


def test_a_standby_that_does_not_answer_is_told_and_bars_nothing_else(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    side = {"standby_services": ["standby"]}
    whole = ask(side)
    docker("pause", site.container("standby"))
    try:
        result = ask(side, connect_timeout=2)
    finally:
        docker("unpause", site.container("standby"))
    told = found(result, "standby_unread")
    assert (told["severity"], told["object"]) == ("error", "standby")
    assert result["sides"][0]["standbys"] == []
    assert result["proposals"]["fhir"]["max_connections"] == whole["proposals"]["fhir"]["max_connections"]
    assert result["proposals"]["fhir"]["standby_max_connections"] == {}


def test_a_standby_below_its_primary(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    side = {"standby_services": ["standby"]}
    try:
        site.server("postgres", max_connections=40)
        # It stops replaying when it reads of the new value; it still answers.
        site.until("a standby that stands still", lambda: site.sql("SELECT pg_get_wal_replay_pause_state()", "standby") == "paused")
        result = ask(side)
        assert found(result, "standby_below_primary") | {"hint": ""} == {
            "id": "standby_below_primary", "severity": "error", "object": "standby", "expected": "max_connections of at least 40, as on postgres",
            "found": 30, "hint": "",
        }
        assert [(item["object"], item["to"]) for item in result["order"]] == [("standby", 40)]
        site.server("standby", max_connections=40)
        assert "standby_below_primary" not in ids(ask(side))
        # Promoted, or mixed up: the server itself says which it is.
        swapped = ask({"database_service": "standby", "standby_services": ["postgres"]})
        assert [item["object"] for item in swapped["findings"] if item["id"] == "server_role_unexpected"] == ["standby", "postgres"]
    finally:
        site.server("postgres", max_connections=None)
        site.new_standby()


def test_limits_of_role_and_database(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    try:
        site.sql("ALTER ROLE hapi_app CONNECTION LIMIT 2; ALTER DATABASE fhirdb CONNECTION LIMIT 15")
        with site.clients(2):
            with pytest.raises(psycopg2.OperationalError, match="too many connections"):
                site.connection("postgres")
            result = ask()
        limits = {item["expected"]: item["found"] for item in result["findings"] if item["id"] == "connection_limit_too_small"}
        assert limits == {
            "no CONNECTION LIMIT below 22 for the role hapi_app": "CONNECTION LIMIT 2",
            "no CONNECTION LIMIT below 22 for the database fhirdb": "CONNECTION LIMIT 15",
        }
    finally:
        site.sql("ALTER ROLE hapi_app CONNECTION LIMIT -1; ALTER DATABASE fhirdb CONNECTION LIMIT -1")
        site.pool()


def test_other_lines_users_and_limits_of_the_pooler(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    """Each (database, user) is a pool of its own; a line that leads elsewhere is not the primary's load."""
    lines = (
        "alias = host=postgres dbname=fhirdb pool_size=4 reserve_pool=2\n"
        "reading = host=standby dbname=fhirdb pool_size=9\n"
        "elsewhere = host=192.0.2.1 dbname=other pool_size=1\n"
    )
    try:
        site.pool(lines=lines, settings="max_client_conn = 18")
        with site.clients(2), site.clients(1, user="reporter"), site.clients(1, "postgres", user="reporter"):
            result = ask({"standby_services": ["standby"]})
        pools = {(item["database"], item["user"]): item for item in result["sides"][0]["pooler"]["pools"]}
        assert {key: (item["pool_size"], item["size_from"], item["server"]) for key, item in pools.items()} == {
            ("fhirdb", "hapi_app"): (20, "default_pool_size", ""),
            ("fhirdb", "reporter"): (20, "default_pool_size", ""),
            ("alias", ""): (4, "database", ""),
            ("reading", ""): (9, "database", "standby"),
            ("elsewhere", ""): (1, "database", ""),
        }
        total = result["sides"][0]["sum"]
        assert (total["pools"], total["direct"]) == (20 + 20 + 6 + 1, 3)
        # Nobody is told apart from HAPI's replicas: they have no connection here, so all three clients are others.
        assert result["sides"][0]["pooler"]["other_clients"] == 3
        assert found(result, "max_client_conn_too_small")["found"] == "max_client_conn 18"
        assert result["proposals"]["fhir"]["max_client_conn"] == 23
    finally:
        site.pool()


def test_case_49_prepared_statements_in_transaction_mode(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    """prepareThreshold=0 in the JDBC URL makes it a warning, no more: a cursor can fail all the same."""
    original = (site.dir / "docker-compose.yml").read_text()
    try:
        site.pool(settings="pool_mode = transaction\ndefault_pool_size = 4")
        result = ask()
        assert found(result, "prepared_statements_unsupported")["severity"] == "error"
        assert "no prepareThreshold=0 in HAPI_DATASOURCE_URL of hapi" in found(result, "prepared_statements_unsupported")["found"]
        assert "5 > 4" in found(result, "pool_too_small")["found"]
        (site.dir / "docker-compose.yml").write_text(original.replace("/fhirdb'", "/fhirdb?prepareThreshold=0'"))
        site.pool(settings="pool_mode = transaction\ndefault_pool_size = 5")
        result = ask()
        assert ids(result) == ["prepared_statements_unsupported"]
        assert found(result, "prepared_statements_unsupported")["severity"] == "warning"
    finally:
        (site.dir / "docker-compose.yml").write_text(original)
        site.pool()


def test_a_newer_pgbouncer(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    """Other columns in SHOW, sizes of users, and prepared statements that are kept track of."""
    try:
        users = "[users]\nhapi_app = pool_size=7 max_user_connections=6\n"
        site.pooler_files(settings="pool_mode = transaction\nmax_prepared_statements = 200", tail=users)
        site.start(pooler="pgbouncer-new", standby=True, replicas=3, hapi_environment=JDBC % "")
        with site.clients(1):
            result = ask()
        pooler = result["sides"][0]["pooler"]
        assert pooler["version"].startswith("1.2")
        assert (pooler["effective"], pooler["max_prepared_statements"]) == (6, 200)
        assert [(item["pool_size"], item["size_from"], item["limits"]) for item in pooler["pools"]] == [(7, "user", {"max_user_connections": 6})]
        assert ids(result) == ["pool_capped"]
        site.pool(settings="pool_mode = transaction\nmax_prepared_statements = 0")
        assert ids(ask()) == ["prepared_statements_unsupported"]
    finally:
        site.pooler_files()
        site.start(standby=True, replicas=3, hapi_environment=JDBC % "")
        site.pool()


def test_where_max_connections_comes_from(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    monitor = {"login_user": "monitor", "login_password": SECRETS[1], "login_password_variable": None}
    try:
        site.sql(f"CREATE ROLE monitor LOGIN PASSWORD '{SECRETS[1]}'; GRANT pg_monitor TO monitor")
        site.sql("ALTER SYSTEM SET max_connections = 50")
        site.sql("SELECT pg_reload_conf()")
        site.until("the pending restart", lambda: site.sql("SELECT pending_restart FROM pg_settings WHERE name = 'max_connections'") == "t")
        result = ask()
        assert found(result, "max_connections_pending")["expected"] == "max_connections 50"
        # What the owner has set for the next restart is not undone by a smaller proposal.
        assert result["proposals"]["fhir"]["max_connections"] == 50
        result = ask(monitor)
        assert found(result, "max_connections_pending")["expected"] == "max_connections unknown"
        site.sql("ALTER SYSTEM RESET max_connections")
        site.sql("SELECT pg_reload_conf()")
        site.start(standby=True, replicas=3, hapi_environment=JDBC % "", postgres_args="-c max_connections=28")
        result = ask()
        assert found(result, "max_connections_overridden")["found"] == "max_connections 28 from the command line"
        assert result["sides"][0]["server"]["sourcefile"] == ""
    finally:
        site.start(standby=True, replicas=3, hapi_environment=JDBC % "")
        site.sql("DROP ROLE IF EXISTS monitor")


def test_a_user_who_may_only_read_the_console(ask: Callable[..., dict[str, Any]]) -> None:
    assert ask({"admin_user": "stats", "admin_password_variable": "STATS_PASSWORD"})["rc"] == 0


@pytest.mark.parametrize(
    ("side", "args", "text"),
    [
        ({"database_service": "postgres-fhir"}, {}, "no container of a service postgres-fhir. Services that run: hapi, pgbouncer, postgres, standby"),
        ({"database_service": "hapi"}, {}, "The service hapi of the project .* has 3 running containers"),
        ({"pooler_service": "bouncer"}, {}, "no container of a service bouncer"),
        ({"standby_services": ["replica"]}, {}, "no container of a service replica"),
        ({"login_password_variable": "WRONG_PASSWORD"}, {}, "password authentication failed for user .*login_password_variable"),
        ({"login_password_variable": "NO_SUCH"}, {}, "The variable NO_SUCH is not set in .*/.env"),
        ({"login_password_variable": "EMPTY_PASSWORD"}, {}, "The variable EMPTY_PASSWORD is empty in .*/.env"),
        ({"login_password_variable": None}, {}, "No password was given"),
        ({"database": "nothing"}, {}, 'database "nothing" does not exist.*Check the name of the database'),
        ({"database_port": 5433}, {}, "onnection refused.*Check that the container runs and listens"),
        ({"login_user": "reporter", "login_password_variable": "FHIR_DB_APP_PASSWORD"}, {}, "may not see the sessions of others.*GRANT pg_monitor"),
        ({"admin_user": "reporter"}, {}, "The console is closed to reporter"),
        ({"admin_password_variable": "WRONG_PASSWORD"}, {}, "The password is not the one in the pooler's auth_file"),
        ({"admin_user": "nobody"}, {}, "nobody is not in it|closed to nobody"),
        ({"pooler_port": 5432}, {}, "on which pgBouncer listens"),
        ({"hikari_pool": "other"}, {}, "tells no size of a Hikari pool other at .*Its pools: fhir"),
        ({}, {"service": "hapi-2"}, "The service hapi-2 has no running container"),
        ({}, {"service": "hapi-2", "replicas": 3}, "no running container that could tell the size of its Hikari pools.*hikari_sizes"),
        ({}, {"actuator_path": "/other"}, "GET .*/other/prometheus: HTTP 404"),
        ({}, {"project_dir": "/nonexistent"}, "/nonexistent does not exist"),
    ],
)
def test_what_can_not_be_read_fails(ask: Callable[..., dict[str, Any]], side: dict[str, Any], args: dict[str, Any], text: str) -> None:
    result = ask(side, **args)
    assert (result["rc"], "findings" in result) == (1, False)
    assert re.search(text, result["msg"], re.DOTALL), result["msg"]


def test_a_hapi_that_does_not_run_and_a_standby_that_is_stopped(site: Databases, ask: Callable[..., dict[str, Any]]) -> None:
    sizes = {"hikari_sizes": {"fhir": 5}, "replicas": 5, "service": "hapi-2"}
    result = ask(**sizes)
    assert (result["rc"], result["sides"][0]["hikari"]["demand"]) == (0, 30)
    docker("stop", "-t", "0", site.container("standby"))
    try:
        result = ask({"standby_services": ["standby"]})
        assert (result["rc"], result["sides"][0]["standbys"]) == (0, [])
        assert "is exited" in found(result, "standby_unread")["found"]
        assert ask({"standby_services": ["standby"]}, fail_on=["error"])["rc"] == 1
    finally:
        docker("start", site.container("standby"))
        site.standby_ready()
