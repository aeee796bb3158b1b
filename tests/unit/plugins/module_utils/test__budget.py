# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _budget as budget
from ansible_collections.dghs.bd_fhir.plugins.module_utils._budget import Demand, Line, Pool, Pooler, Server, Sessions, Side
from hypothesis import given, settings
from hypothesis import strategies as st

LINE = Line("fhirdb", "fhirdb", 20)
POOLER = Pooler("pgbouncer", lines=(LINE,), pools=(Pool("fhirdb", "hapi_app"),), max_client_conn=200)
# Errors that no size can cure: who the servers are, what the driver does, limits that belong to roles.
NOT_OF_SIZES = {"server_role_unexpected", "prepared_statements_unsupported", "pool_mode_unusable", "connection_limit_too_small"}


def side(wanted: int = 5, running: int = 3, maximum: int = 30, **more: Any) -> Side:
    """The deployment of the roadmap: Hikari 5, pool 20, max_connections 30, three reserved, two direct connections."""
    demand = more.pop("demand", Demand(5, running, wanted, 1))
    server = more.pop("server", Server("postgres", maximum))
    return Side(**{"name": "fhir", "database": "fhirdb", "server": server, "demand": demand, "pooler": POOLER, **more})


def found(item: Side, *names: str) -> list[dict[str, Any]]:
    return [one for one in budget.check(item) if not names or one["id"] in names]


def ids(item: Side) -> list[str]:
    return sorted(one["id"] for one in budget.check(item))


def apply(item: Side, proposal: budget.Proposal) -> Side:
    """The side as it is after every change that was proposed."""
    server = replace(item.server, max_connections=proposal.max_connections, pending_restart=False)
    standbys = tuple(replace(one, max_connections=proposal.standby_max_connections[one.service]) for one in item.standbys)
    pooler = budget.resized(item.pooler, item.database, proposal) if item.pooler else None
    return replace(item, server=server, standbys=standbys, pooler=pooler)


def test_the_roadmaps_numbers_come_out() -> None:
    proposal = budget.propose(side(5), margin=3)
    assert (proposal.default_pool_size, proposal.max_connections) == (30, 40)
    assert ids(side(5)) == ["max_connections_too_small", "pool_too_small"]
    assert ids(apply(side(5), proposal)) == ["pool_full"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (1, []),
        (2, []),
        (3, ["pool_full"]),
        (4, ["pool_too_small"]),
        (5, ["max_connections_too_small", "pool_too_small"]),
    ],
)
def test_three_replicas_fill_the_pool_and_a_fourth_is_too_many(wanted: int, expected: list[str]) -> None:
    assert ids(side(wanted)) == expected


def test_numbers_are_told() -> None:
    item = side(5, direct_connections=6)
    assert found(item, "pool_too_small")[0]["found"] == "20 (default_pool_size): 25 > 20"
    assert found(item, "pool_too_small")[0]["expected"] == (
        "a pool of at least 30 for fhirdb: 5 replicas x 5 = 25, 30 with 1 more while one is replaced"
    )
    assert found(item, "max_connections_too_small")[0]["found"] == "30: 30 + 6 + 3 > 30"
    # Four replicas have their 20 connections; the fifth, while one of them is replaced, has not.
    assert found(side(4), "pool_too_small")[0]["found"] == "20 (default_pool_size): 25 > 20"
    assert "10 with the 2 that run now" in budget.replicas_text(Demand(5, 2, 0, 1))


def test_sizes_that_suffice_stay() -> None:
    proposal = budget.propose(side(3), margin=3)
    assert (proposal.default_pool_size, proposal.max_connections, proposal.max_client_conn) == (20, 30, 200)
    assert budget.order_of([(side(3), proposal)], "hapi", 3, 3) == []
    # Nobody restarts a database for its margin: 20 + 2 + 3 fits into 25.
    assert budget.propose(side(3, maximum=25), margin=3).max_connections == 25
    assert budget.propose(side(3, maximum=24), margin=3).max_connections == 30


def test_lower_only_when_asked_for_and_never_below_what_is_in_use() -> None:
    large = side(1, running=1, maximum=100)
    assert budget.propose(large, margin=3).max_connections == 100
    down = budget.propose(large, margin=3, lower=True)
    assert (down.default_pool_size, down.max_connections) == (10, 20)
    busy = replace(large, pooler=replace(POOLER, pools=(Pool("fhirdb", "hapi_app", active=14, servers=18, waiting=1),)))
    assert budget.propose(busy, margin=3, lower=True).default_pool_size == 15
    crowd = replace(large, server=replace(large.server, sessions=(Sessions("x", "psql", "", 40),)))
    assert budget.propose(crowd, margin=3, lower=True).max_connections == 60
    # One that suffices is not made larger by asking for less.
    assert budget.propose(side(3, running=3, maximum=26), margin=3, lower=True).max_connections == 26
    # Replicas that still run ask for their connections until they are gone.
    assert budget.propose(side(1, running=4, maximum=100), margin=3, lower=True).default_pool_size == 20


def test_what_waits_for_a_restart_is_not_undone() -> None:
    item = side(5, server=Server("postgres", 30, pending_restart=True, pending=50))
    assert budget.propose(item, margin=3).max_connections == 50
    assert found(item, "max_connections_pending")[0]["expected"] == "max_connections 50"
    unknown = replace(item, server=replace(item.server, pending=None))
    assert (budget.propose(unknown, margin=3).max_connections, found(unknown, "max_connections_pending")[0]["expected"]) == (
        40,
        "max_connections unknown",
    )


def test_case_45_the_smaller_of_limit_and_size_decides() -> None:
    large = side(3, pooler=replace(POOLER, max_db_connections=80, lines=(replace(LINE, max_connections=80),)))
    assert budget.app_pool(large.pooler, "fhirdb")[2] == 20
    assert "really gives 20" in found(large, "pool_capped")[0]["found"]
    small = side(3, pooler=replace(POOLER, max_db_connections=12, lines=(replace(LINE, max_connections=12),)))
    assert "really gives 12" in found(small, "pool_capped")[0]["found"]
    assert "by max_db_connections" in found(small, "pool_too_small")[0]["found"]
    assert budget.pools_load(small) == 12
    proposal = budget.propose(small, margin=3)
    assert (proposal.default_pool_size, proposal.max_db_connections) == (20, 20)
    assert [item["what"] for item in budget.steps_of(small, proposal)] == ["max_db_connections"]
    # A limit that four users share is no mistake.
    users = tuple(Pool("fhirdb", name) for name in ("a", "b", "c", "d"))
    shared = side(3, pooler=replace(POOLER, pools=users, lines=(replace(LINE, max_connections=80),)))
    assert not found(shared, "pool_capped")


def test_case_46_a_tiny_server() -> None:
    tiny = side(1, running=1, maximum=7)
    assert found(tiny, "pool_over_max_connections")[0]["found"] == "7: 20 + 2 + 3 > 7"
    assert budget.propose(tiny, margin=3).max_connections == 30


def test_reserved_slots_of_both_kinds_are_kept_free() -> None:
    server = Server("postgres", 30, superuser_reserved=3, reserved=4)
    assert (server.kept_free, server.usable) == (7, 23)
    assert not found(side(3, server=replace(server, max_connections=29)), "pool_over_max_connections")
    assert found(side(3, server=replace(server, max_connections=28)), "pool_over_max_connections")


def test_every_pool_counts_and_reserve_is_load_but_no_room() -> None:
    lines = (LINE, Line("alias", "fhirdb", 4, reserve=2), Line("reading", "fhirdb", 9, server="standby"), Line("x", "x", 50, server="other"))
    pooler = replace(POOLER, lines=lines, pools=(Pool("fhirdb", "hapi_app"), Pool("fhirdb", "reporter"), Pool("alias", "a"), Pool("alias", "b")))
    assert budget.pooler_load(pooler, "fhirdb") == 20 + 20 + 6 + 6
    assert budget.pooler_load(pooler, "fhirdb", "standby") == 9
    reserve = replace(POOLER, lines=(replace(LINE, size=15, reserve=10),))
    assert budget.app_pool(reserve, "fhirdb")[2] == 15
    assert budget.pools_load(side(3, pooler=reserve)) == 25


def test_the_line_is_found_by_its_name_then_by_its_database() -> None:
    alias = Line("hapi", "fhirdb", 7)
    assert budget.app_line(replace(POOLER, lines=(alias, LINE)), "fhirdb") == LINE
    assert budget.app_line(replace(POOLER, lines=(alias,)), "fhirdb") == alias
    # `*` in the configuration: the line does not exist before its first client.
    wildcard = replace(POOLER, lines=(), pools=())
    assert budget.app_line(wildcard, "fhirdb") == Line("fhirdb", "fhirdb", 20, mode="session")
    assert budget.pools_load(side(3, pooler=wildcard)) == 20
    elsewhere = replace(POOLER, lines=(replace(LINE, server="standby"),))
    assert budget.pools_load(side(3, pooler=elsewhere)) == 20


def test_where_a_size_comes_from() -> None:
    own = replace(POOLER, lines=(replace(LINE, size=12),))
    assert budget.size_from(own, own.lines[0], "hapi_app") == "database"
    assert "pool_size on the line of the database fhirdb" in found(side(3, pooler=own), "pool_too_small")[0]["hint"]
    user = replace(POOLER, user_sizes={"hapi_app": 7}, user_limits={"hapi_app": 6})
    assert budget.size_from(user, LINE, "hapi_app") == "user"
    assert budget.app_pool(user, "fhirdb")[2] == 6
    proposal = budget.propose(side(3, pooler=user), margin=3)
    assert (proposal.default_pool_size, proposal.max_user_connections) == (20, 20)
    # A size of one's own is changed where it stands, and the default of the others stays.
    after = budget.resized(user, "fhirdb", proposal)
    assert (after.default_pool_size, after.user_sizes, after.lines[0].size) == (20, {"hapi_app": 20}, 20)
    both = replace(POOLER, lines=(replace(LINE, size=12), Line("other", "other", 20)))
    after = budget.resized(both, "fhirdb", budget.propose(side(5, pooler=both), margin=3))
    assert (after.default_pool_size, [line.size for line in after.lines]) == (20, [30, 20])


def test_clients_beside_the_replicas_take_from_the_same_pool() -> None:
    item = side(3, pooler=replace(POOLER, other_clients=2))
    assert "and 2 other clients" in found(item, "pool_too_small")[0]["expected"]
    assert budget.propose(item, margin=3).default_pool_size == 22


def test_transaction_mode_needs_as_many_as_one_replica_opens() -> None:
    mode = replace(POOLER, mode="transaction", version=(1, 24, 1), max_prepared_statements=200)
    assert ids(side(5, pooler=mode)) == []
    few = replace(mode, default_pool_size=4, lines=(replace(LINE, size=4),))
    assert found(side(5, pooler=few), "pool_too_small")[0]["found"] == "4 (default_pool_size): 5 > 4"
    # A line may have a mode of its own.
    line = replace(POOLER, lines=(replace(LINE, mode="transaction", size=4),))
    assert "as many as one replica" in found(side(5, pooler=line), "pool_too_small")[0]["expected"]
    assert "pool_mode_unusable" in ids(side(3, pooler=replace(mode, mode="statement")))


@pytest.mark.parametrize(
    ("mode", "version", "kept", "jdbc", "severity"),
    [
        ("session", (1, 18, 0), 0, (("URL", False),), None),
        ("transaction", (1, 18, 0), 0, (("URL", False),), "error"),
        ("transaction", (1, 18, 0), 0, (("URL", True), ("OTHER_URL", False)), "error"),
        ("transaction", (1, 18, 0), 0, (("URL", True),), "warning"),
        ("transaction", (1, 18, 0), 0, (), "warning"),
        ("transaction", (1, 20, 1), 200, (("URL", True),), "warning"),
        ("transaction", (1, 21, 0), 0, (("URL", False),), "error"),
        ("transaction", (1, 21, 0), 200, (("URL", False),), None),
    ],
)
def test_case_49_prepared_statements(mode: str, version: tuple[int, ...], kept: int, jdbc: Any, severity: str | None) -> None:
    pooler = replace(POOLER, mode=mode, version=version, max_prepared_statements=kept)
    items = found(side(3, pooler=pooler, jdbc=jdbc), "prepared_statements_unsupported")
    assert [item["severity"] for item in items] == ([severity] if severity else [])
    if severity == "warning":
        assert "fetchSize" in items[0]["hint"]


def test_limits_of_role_and_database() -> None:
    server = Server("postgres", 40, role_limits={"hapi_app": 25, "other": 1}, database_limit=29)
    # The pool of now is within the limits, the one that is wanted is not.
    assert not found(side(3, server=server), "connection_limit_too_small")
    limits = found(side(5, server=server), "connection_limit_too_small")
    assert [(item["expected"], item["found"]) for item in limits] == [
        ("no CONNECTION LIMIT below 30 for the role hapi_app", "CONNECTION LIMIT 25"),
        ("no CONNECTION LIMIT below 30 for the database fhirdb", "CONNECTION LIMIT 29"),
    ]
    assert found(side(1, server=replace(server, role_limits={"hapi_app": 0})), "connection_limit_too_small")


def test_servers_that_are_not_what_they_are_said_to_be() -> None:
    wrong = side(3, server=Server("postgres", 30, in_recovery=True), standbys=(Server("standby", 29),))
    assert [item["object"] for item in found(wrong, "server_role_unexpected")] == ["postgres", "standby"]
    assert found(wrong, "standby_below_primary")[0]["found"] == 29
    assert found(side(3, server=Server("postgres", 30, source="command line")), "max_connections_overridden")


def test_a_standby_carries_its_own_users_too() -> None:
    pooler = replace(POOLER, lines=(LINE, Line("reading", "fhirdb", 40, server="standby")))
    standby = Server("standby", 30, in_recovery=True, sessions=(Sessions("report", "r", "10.0.0.9", 2), Sessions("x", "", "10.0.0.2", 5)))
    item = side(3, pooler=pooler, pooler_addresses=("10.0.0.2",), standbys=(standby,))
    assert found(item, "pool_over_max_connections")[0]["expected"] == "max_connections of at least 45: pools and sessions 42 + reserved 3"
    assert budget.propose(item, margin=3).standby_max_connections == {"standby": 45}


def test_the_readers_of_hapi_are_counted_on_the_standby_whether_they_are_connected_or_not() -> None:
    for seen in (0, 3):
        sessions = (Sessions("report", "r", "10.0.0.9", 2), Sessions("hapi_app", "read", "10.0.0.7", seen))
        standby = Server("standby", 30, in_recovery=True, sessions=sessions)
        item = side(3, standbys=(standby,), hapi_addresses=("10.0.0.7",))
        assert budget.standby_load(item, standby) == 2 + seen
        reading = replace(item, demand=replace(item.demand, reads=7))
        # Three replicas and one more while one is replaced, each with its pool and with one that watches.
        assert budget.standby_load(reading, standby) == 2 + 4 * 8
        assert "pool_over_max_connections" in ids(reading)


def test_who_comes_through_the_pooler_is_counted_once() -> None:
    sessions = (Sessions("hapi_app", "", "10.0.0.2", 15), Sessions("hapi_app", "flyway", "10.0.0.3", 1), Sessions("postgres", "psql", "", 1))
    server = Server("postgres", 30, sessions=sessions)
    with_pooler = side(3, server=server, pooler_addresses=("10.0.0.2",), hapi_addresses=("10.0.0.3",))
    assert with_pooler.direct_total() == 2 + 2
    # Without a pooler HAPI's own connections are the demand, which is counted already.
    without = side(3, server=server, pooler=None, hapi_addresses=("10.0.0.3",))
    assert (without.direct_total(), budget.pools_load(without)) == (16 + 2, 20)
    assert budget.propose(without, margin=3).default_pool_size is None
    assert ids(without) == ["pool_over_max_connections"]


def test_order_up_and_down() -> None:
    up = side(5, standbys=(Server("standby", 30, in_recovery=True),))
    steps = budget.order_of([(up, budget.propose(up, margin=3))], "hapi", 3, 5)
    assert [(item["step"], item["object"], item["from"], item["to"]) for item in steps] == [
        (1, "standby", 30, 40), (2, "postgres", 30, 40), (3, "pgbouncer", 20, 30), (4, "hapi", 3, 5),
    ]
    assert "window" in steps[1]["interruption"]
    large = apply(up, budget.propose(up, margin=3))
    down = replace(large, demand=Demand(5, 2, 2, 1))
    steps = budget.order_of([(down, budget.propose(down, margin=3, lower=True))], "hapi", 5, 2)
    assert [(item["object"], item["from"], item["to"]) for item in steps] == [
        ("hapi", 5, 2), ("pgbouncer", 30, 15), ("postgres", 40, 25), ("standby", 40, 25),
    ]


def test_order_of_two_sides_keeps_kinds_together() -> None:
    audit = replace(
        side(5, demand=Demand(4, 3, 5, 1), server=Server("postgres-audit", 20), pooler=replace(POOLER, service="pgbouncer-audit")),
        name="audit",
        standbys=(Server("standby-audit", 20, in_recovery=True),),
    )
    sides = [(item, budget.propose(item, margin=3)) for item in (side(5), audit)]
    assert [item["object"] for item in budget.order_of(sides, "hapi", 3, 5)] == [
        "standby-audit", "postgres", "postgres-audit", "pgbouncer", "pgbouncer-audit", "hapi",
    ]


def test_jdbc_urls() -> None:
    environment = {
        "A_URL": "jdbc:postgresql://pgbouncer:6432/fhirdb?prepareThreshold=0&password=s3cret",
        "B_URL": "jdbc:postgresql://pgbouncer/fhirdb",
        "C_URL": "jdbc:postgresql://postgres:5432/fhirdb",
        "D_URL": "jdbc:postgresql://other:1,pgbouncer:6432/fhirdb?prepareThreshold=5",
        "E": None,
        "F": "jdbc:mysql://pgbouncer/x",
        "G": 5,
    }
    assert budget.jdbc_urls(environment, ["pgbouncer", "10.0.0.2"]) == (("A_URL", True), ("B_URL", False), ("D_URL", False))


def test_report_says_what_was_counted() -> None:
    item = side(5, server=Server("postgres", 30, sessions=(Sessions("postgres", "psql", "", 1),)))
    report = budget.side_report(item, budget.check(item), {"hapi-1": 5}, "fhir")
    assert report["sum"] == {"pools": 20, "direct": 3, "reserved": 3, "total": 26, "of": 30}
    assert (report["fits"], report["pooler"]["effective"], report["hikari"]["demand"]) == (False, 20, 30)
    assert report["pooler"]["pools"][0]["size_from"] == "default_pool_size"
    without = replace(item, pooler=None)
    assert budget.side_report(without, [], {}, "fhir")["pooler"] is None


SIZES = st.integers(1, 60)
LIMITS = st.one_of(st.just(0), st.integers(1, 90))


@st.composite
def sides(draw: st.DrawFn) -> Side:
    """Any side: pools of several lines and users, limits anywhere, with and without pooler and standbys."""
    default = draw(SIZES)
    users = draw(st.lists(st.sampled_from(("hapi_app", "reporter", "x")), unique=True, max_size=3))
    max_db = draw(LIMITS)
    line = Line(
        "fhirdb", "fhirdb", draw(st.one_of(st.just(default), SIZES)), draw(st.integers(0, 5)), draw(st.one_of(st.just(max_db), LIMITS)),
        draw(st.sampled_from(("", "session", "transaction"))),
    )  # fmt: skip
    more = [
        Line(name, "fhirdb", draw(st.one_of(st.just(default), SIZES)), draw(st.integers(0, 5)), max_db, server=draw(st.sampled_from(("", "standby"))))
        for name in ("alias", "reading")[: draw(st.integers(0, 2))]
    ]
    lines = (*([line] if draw(st.booleans()) else []), *more)
    pooler = Pooler(
        "pgbouncer",
        version=draw(st.sampled_from(((1, 18, 0), (1, 24, 1)))),
        mode=draw(st.sampled_from(("session", "transaction"))),
        default_pool_size=default,
        max_client_conn=draw(st.integers(0, 200)),
        max_db_connections=max_db,
        max_user_connections=draw(LIMITS),
        lines=lines,
        pools=tuple(Pool(item.name, user, draw(st.integers(0, 5)), 5, 0) for item in lines for user in users),
        user_sizes=draw(st.dictionaries(st.sampled_from(("hapi_app", "x")), SIZES, max_size=2)),
        user_limits=draw(st.dictionaries(st.sampled_from(("hapi_app", "x")), st.integers(1, 60), max_size=2)),
        hapi_users=draw(st.sampled_from(((), ("hapi_app",)))),
        other_clients=draw(st.integers(0, 3)),
    )
    server = Server(
        "postgres", draw(st.integers(5, 120)), 3, draw(st.integers(0, 4)), sessions=(Sessions("a", "b", "10.0.0.9", draw(st.integers(0, 9))),),
        pending_restart=draw(st.booleans()), pending=draw(st.one_of(st.none(), st.integers(5, 120))),
    )  # fmt: skip
    standby = Server("standby", draw(st.integers(5, 120)), in_recovery=True, sessions=(Sessions("a", "b", "10.0.0.9", draw(st.integers(0, 9))),))
    demand = Demand(draw(st.integers(1, 12)), draw(st.integers(0, 8)), draw(st.integers(0, 12)), draw(st.integers(0, 2)))
    return Side(
        "fhir", "fhirdb", server, demand, draw(st.sampled_from((pooler, pooler, None))), direct_connections=draw(st.integers(0, 9)),
        standbys=draw(st.sampled_from(((), (standby,)))),
    )  # fmt: skip


@settings(max_examples=400)
@given(sides(), st.integers(0, 9), st.booleans())
def test_what_is_proposed_passes_our_own_checks(item: Side, margin: int, lower: bool) -> None:
    after = apply(item, budget.propose(item, margin, lower))
    errors = [one for one in budget.check(after) if one["severity"] == "error" and one["id"] not in NOT_OF_SIZES]
    assert errors == []
    # And once there, nothing more is asked for.
    assert budget.steps_of(after, budget.propose(after, margin)) == []


@settings(max_examples=200)
@given(sides(), st.integers(0, 9))
def test_more_replicas_never_need_less(item: Side, margin: int) -> None:
    before: budget.Proposal | None = None
    for wanted in range(9):
        proposal = budget.propose(replace(item, demand=replace(item.demand, wanted=wanted)), margin)
        if before:
            assert (before.default_pool_size or 0) <= (proposal.default_pool_size or 0)
            assert (before.max_client_conn or 0) <= (proposal.max_client_conn or 0)
            assert before.max_connections <= proposal.max_connections
            assert all(before.standby_max_connections[name] <= value for name, value in proposal.standby_max_connections.items())
        before = proposal


@settings(max_examples=200)
@given(sides(), st.integers(0, 9), st.booleans())
def test_no_step_of_the_order_asks_for_more_than_there_is(item: Side, margin: int, lower: bool) -> None:
    """Walk the order: a standby never falls below its primary, and no pool is raised above the server on the way."""
    proposal = budget.propose(item, margin, lower)
    servers = {one.service: one.max_connections for one in (item.server, *item.standbys)}
    fits = budget.server_need(item) <= item.server.max_connections
    above = all(one.max_connections >= item.server.max_connections for one in item.standbys)
    pooler = item.pooler
    for step in budget.order_of([(item, proposal)], "hapi", item.demand.running, item.demand.running):
        if step["object"] in servers:
            servers[step["object"]] = step["to"]
        elif pooler and step["what"] == "default_pool_size":
            pooler = budget.resized(pooler, item.database, proposal)
        if above:
            assert all(servers[one.service] >= servers["postgres"] for one in item.standbys)
        if fits:
            assert budget.server_need(item, pooler) <= servers["postgres"]
