# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is decided, judged by the budget itself: the sides are counted, changed as decided, and counted again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _budget as budget
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _decisions as decisions
from ansible_collections.dghs.bd_fhir.plugins.module_utils._budget import Demand, Line, Pool, Pooler, Server, Sessions, Side
from ansible_collections.dghs.bd_fhir.plugins.module_utils._decisions import Decision, Wishes
from hypothesis import assume, given
from hypothesis import strategies as st

CONF = "/etc/postgresql/postgresql.conf"
AUTO = "/var/lib/postgresql/data/postgresql.auto.conf"
LINE = Line("fhirdb", "fhirdb", 20)
POOLER = Pooler("pgbouncer", lines=(LINE,), pools=(Pool("fhirdb", "hapi_app"),), max_client_conn=200)
OPTIONS = {"name": "fhir", "database_service": "postgres", "pooler_service": "pgbouncer", "database": "fhirdb",
           "admin_user": "hapi_app", "admin_password_variable": "FHIR_DB_APP_PASSWORD"}
NOTHING = Wishes()
# What no size cures.
NOT_OF_SIZES = {"server_role_unexpected", "prepared_statements_unsupported", "pool_mode_unusable", "connection_limit_too_small"}


def side(wanted: int = 5, running: int = 3, maximum: int = 30, **more: Any) -> Side:
    """The deployment of the roadmap: Hikari 5, pool 20, max_connections 30, three reserved, two direct connections."""
    demand = more.pop("demand", Demand(5, running, wanted, 1))
    server = more.pop("server", Server("postgres", maximum, sourcefile=CONF))
    return Side(**{"name": "fhir", "database": "fhirdb", "server": server, "demand": demand, "pooler": POOLER, **more})


def standby(maximum: int, name: str = "standby", **more: Any) -> Server:
    return Server(name, maximum, in_recovery=True, **more)


def limited(**values: Any) -> Pooler:
    """A pooler with limits, which its line takes over as pgBouncer shows it."""
    lines = (replace(LINE, max_connections=values.get("max_db_connections", 0), size=values.get("default_pool_size", 20)),)
    return replace(POOLER, **{"lines": lines, **values})


def options(item: Side, **more: Any) -> dict[str, Any]:
    own = {**OPTIONS, "pooler_service": item.pooler.service if item.pooler else "", **more}
    return {**own, "standby_services": [one.service for one in item.standbys]} if item.standbys else own


def counted(item: Side) -> dict[str, Any]:
    """What the module returns, as it comes out of Ansible."""
    report = budget.side_report(item, budget.check(item), {}, item.name)
    found: dict[str, Any] = json.loads(json.dumps({"sides": [report], "proposals": {item.name: asdict(budget.propose(item, 3))}}))
    return found


def decide(item: Side, wishes: Wishes = NOTHING, memory: Optional[dict[str, Any]] = None, margin: int = 3) -> Decision:
    return decisions.decide_all(counted(item), [options(item)], {item.name: memory} if memory else {}, margin, {item.name: wishes})[item.name]


def remembered(item: Side, decision: Decision, memory: Optional[dict[str, Any]] = None) -> dict[str, Any]:
    """What is remembered after a decision, as it comes out of the fragment: its names sorted."""
    before = {item.name: {name: {"before": str(getattr(item.pooler, name, "120")), "after": str(value)} for name, value in decision.settings.items()}}
    found = decisions.remember({item.name: memory} if memory else {}, {item.name: decision.report()}, counted(item), before)
    parsed: dict[str, Any] = json.loads(json.dumps(found, sort_keys=True))[item.name]
    return parsed


def back(item: Side, memory: dict[str, Any]) -> Decision:
    return decisions.go_back_all(counted(item), [options(item)], {item.name: memory})[item.name]


def applied(item: Side, decision: Decision, former: Optional[Side] = None) -> Side:
    """The side as it is after a decision, with what its own files say where ALTER SYSTEM is taken back."""
    own = {one.service: one.max_connections for one in (former.server, *former.standbys)} if former else {}

    def server(one: Server) -> Server:
        value = decision.databases.get(one.service, one.max_connections)
        return replace(one, max_connections=own[one.service] if value is None else value, pending_restart=False, pending=None, sourcefile=AUTO)

    pooler = item.pooler
    if pooler:
        values: dict[str, Any] = {name: int(value) for name, value in decision.settings.items() if hasattr(pooler, name)}
        values["mode"] = decision.settings.get("pool_mode", pooler.mode)
        # The application's own line goes along, and so does one that has none of its own.
        words = {"default_pool_size": "size", "reserve_pool_size": "reserve", "max_db_connections": "max_connections"}
        lines = []
        for line in budget.lines_of(pooler, item.database):
            mine = line == budget.app_line(pooler, item.database)
            along = {word: values[name] for name, word in words.items() if name in values and (mine or getattr(line, word) == getattr(pooler, name))}
            lines.append(replace(line, **along))
        pooler = replace(pooler, lines=tuple(lines), **values)
    return replace(item, server=server(item.server), standbys=tuple(server(one) for one in item.standbys), pooler=pooler)


def blocking(item: Side) -> set[str]:
    return {one["id"] for one in budget.check(item) if one["severity"] == "error"} - NOT_OF_SIZES


# -- forth


def test_the_roadmaps_numbers_come_out() -> None:
    found = decide(side(5))
    assert (found.pool, found.least_pool, found.needed, found.fits, found.touched, found.capped_by) == (30, 30, 35, True, True, "")
    assert found.settings == {"default_pool_size": 30}
    assert found.databases == {"postgres": 40}
    (change,) = found.changes
    assert (change.service, change.value, change.restart, change.lower, change.standbys) == ("postgres", 40, "window", False, ())
    assert change.pooler == {"service": "pgbouncer", "admin_user": "hapi_app", "admin_password_variable": "FHIR_DB_APP_PASSWORD"}
    assert change.side == OPTIONS
    assert blocking(applied(side(5), found)) == set()


def test_what_suffices_is_left_alone() -> None:
    found = decide(side(3))
    assert (found.pool, found.settings, found.databases, found.fits, found.touched) == (20, {}, {"postgres": 30}, True, False)


def test_in_transaction_mode_one_replicas_connections_do_and_the_pooler_holds_the_clients() -> None:
    item = side(5, pooler=replace(POOLER, mode="transaction"))
    found = decide(item)
    # As many as HAPI can ask for are proposed all the same: then nobody ever waits.
    assert (found.pool, found.least_pool, found.changes[0].restart) == (30, 5, "pause")
    assert (decide(item, Wishes(pool=6)).fits, decide(item, Wishes(pool=4)).fits) == (True, False)
    assert not decide(side(5), Wishes(pool=6)).fits


@pytest.mark.parametrize("maximum", [30, 100])
def test_without_a_pooler_hapi_itself_is_what_asks(maximum: int) -> None:
    item = side(5, maximum=maximum, pooler=None)
    found = decide(item)
    assert (found.pool, found.least_pool, found.needed, found.settings, found.fits) == (30, 30, 35, {}, True)
    assert found.databases == {"postgres": max(maximum, 40)}
    assert found.touched == (maximum == 30)
    (change,) = found.changes
    assert (change.pooler, change.restart) == (None, "window")


@pytest.mark.parametrize(("own", "expected"), [(30, 40), (40, 40), (60, 60)])
def test_a_standby_never_has_less_than_its_primary(own: int, expected: int) -> None:
    item = side(5, standbys=(standby(own),))
    found = decide(item)
    assert list(found.databases.items()) == [("standby", expected), ("postgres", 40)]
    assert [change.service for change in found.changes] == ["standby", "postgres"]
    assert [change.standbys for change in found.changes] == [(), ("standby",)]
    # The pooler knows the primary alone, and cannot hold a standby's readers.
    assert [(change.restart, change.pooler is None) for change in found.changes] == [("standby", True), ("window", False)]
    larger = decide(item, Wishes(connections=70))
    assert larger.databases == {"standby": 70, "postgres": 70}


def test_a_standby_with_more_keeps_it_when_the_primary_is_lowered() -> None:
    found = decide(side(3, maximum=60, standbys=(standby(60),)), Wishes(connections=40))
    assert found.databases == {"standby": 60, "postgres": 40}
    assert all(change.lower for change in found.changes)


def test_a_value_that_awaits_its_restart_gets_it() -> None:
    found = decide(side(3, server=Server("postgres", 30, pending_restart=True, pending=30)))
    assert (found.databases, found.touched) == ({"postgres": 30}, True)
    other = decide(side(3, server=Server("postgres", 30, pending_restart=True, pending=50)))
    assert other.databases == {"postgres": 50}


def test_sizes_of_the_operators_own() -> None:
    found = decide(side(3), Wishes(pool="26", connections="36", settings={"query_wait_timeout": 60}))
    assert (found.pool, found.needed, found.fits) == (26, 31, True)
    assert found.settings == {"default_pool_size": 26, "query_wait_timeout": 60}
    assert found.databases == {"postgres": 36}
    lowered = decide(side(1, running=1), Wishes(pool=10, connections=20))
    assert (lowered.pool, lowered.needed, lowered.fits) == (10, 15, True)
    assert lowered.changes[0].lower


@pytest.mark.parametrize(
    ("pool", "needed", "margin", "expected"), [(25, 30, 3, 30), (26, 31, 3, 35), (27, 32, 3, 35), (28, 33, 3, 40), (28, 33, 0, 35)]
)
def test_max_connections_follows_a_larger_pool_with_a_margin_in_steps_of_five(pool: int, needed: int, margin: int, expected: int) -> None:
    found = decide(side(3), Wishes(pool=pool), margin=margin)
    assert (found.needed, found.databases) == (needed, {"postgres": expected})


@pytest.mark.parametrize("wishes", [Wishes(pool=10), Wishes(pool="many"), Wishes(connections=25), Wishes(settings={"default_pool_size": 10})])
def test_sizes_that_do_not_carry_what_is_asked_do_not_fit(wishes: Wishes) -> None:
    assert not decide(side(5), wishes).fits


def test_a_pool_size_among_the_settings_is_a_pool_size() -> None:
    found = decide(side(3), Wishes(settings={"default_pool_size": 28}))
    assert (found.pool, found.settings, found.databases) == (28, {"default_pool_size": 28}, {"postgres": 40})


@pytest.mark.parametrize("pools", [("a", "b"), ("a", "b", "c")])
def test_the_pool_of_each_user_grows(pools: tuple[str, ...]) -> None:
    item = side(3, pooler=replace(POOLER, pools=tuple(Pool("fhirdb", name) for name in pools)), maximum=100)
    found = decide(item, Wishes(pool=30))
    assert found.needed == 30 * len(pools) + 2 + 3
    assert found.needed == budget.server_need(applied(item, found))


def test_what_is_ours_is_kept_and_a_setting_that_was_asked_for_once_stays() -> None:
    tuned = side(3, pooler=limited(default_pool_size=30), maximum=40)
    memory = {"settings": {"default_pool_size": ["20", 30], "query_wait_timeout": ["120", 60]}, "databases": {}, "written": {}}
    found = decide(tuned, memory=memory)
    assert found.settings == {"default_pool_size": 30, "query_wait_timeout": 60}
    assert (found.databases, found.touched) == ({"postgres": 40}, True)
    assert decide(tuned, Wishes(settings={"query_wait_timeout": 90}), memory).settings["query_wait_timeout"] == 90
    # A size is not asked for again: the budget says what is needed today.
    assert decide(side(3), memory={"settings": {"default_pool_size": ["20", 30]}}).settings == {"default_pool_size": 20}


def test_a_side_that_is_remembered_may_have_been_cut_short() -> None:
    assert decide(side(3), memory={"settings": {}, "databases": {"postgres": [30, CONF]}, "written": {"postgres": [30]}}).touched


def test_a_line_of_its_own_size_is_what_counts() -> None:
    item = side(4, pooler=replace(POOLER, default_pool_size=10, lines=(replace(LINE, size=25),)))
    assert (decide(item).settings, decide(item).pool, decide(item).touched) == ({}, 25, False)
    found = decide(replace(item, demand=Demand(5, 3, 5, 1)))
    assert (found.settings, found.pool, found.needed) == ({"default_pool_size": 30}, 30, 35)


def test_a_limit_that_leaves_enough_is_no_reason_to_do_anything() -> None:
    item = side(3, pooler=limited(default_pool_size=50, max_db_connections=20))
    found = decide(item)
    assert (found.settings, found.touched, found.fits) == ({}, False, True)
    # What is read back is what the pool gives.
    assert (found.pool, found.capped_by, found.needed) == (20, "max_db_connections 20", 25)


def test_a_limit_is_raised_where_there_is_one() -> None:
    item = side(5, pooler=limited(max_db_connections=20, max_user_connections=60, max_client_conn=25))
    found = decide(item)
    assert found.settings == {"default_pool_size": 30, "max_db_connections": 30, "max_client_conn": 30}
    assert (found.pool, found.capped_by) == (30, "")
    assert blocking(applied(item, found)) == set()


def test_what_no_setting_raises_is_refused_and_named() -> None:
    own_line = side(5, pooler=replace(POOLER, lines=(replace(LINE, max_connections=12),)))
    assert (decide(own_line).fits, decide(own_line).pool, decide(own_line).capped_by) == (False, 12, "max_db_connections 12")
    own_user = side(5, pooler=replace(POOLER, user_sizes={"hapi_app": 15}))
    assert (decide(own_user).fits, decide(own_user).capped_by) == (False, "pool_size 15 of the user hapi_app")
    own_limit = side(5, pooler=replace(POOLER, user_limits={"hapi_app": 25}, max_user_connections=99))
    assert (decide(own_limit).fits, decide(own_limit).capped_by) == (False, "max_user_connections 25")


def test_a_size_that_was_asked_for_is_wanted_whole() -> None:
    item = side(3, pooler=limited(max_db_connections=25))
    assert (decide(item, Wishes(pool=28)).fits, decide(item, Wishes(pool=28)).capped_by) == (False, "max_db_connections 25")
    both = decide(item, Wishes(pool=28, settings={"max_db_connections": 28}))
    assert (both.fits, both.pool, both.needed) == (True, 28, 33)


def test_a_larger_reserve_is_load() -> None:
    item = side(3)
    found = decide(item, Wishes(settings={"reserve_pool_size": 10}))
    assert (found.pool, found.needed, found.databases) == (20, 35, {"postgres": 40})


def test_a_database_is_only_held_back_by_a_pooler_that_lends_at_that_moment() -> None:
    lending = replace(POOLER, mode="transaction")
    to_session, to_transaction = {"pool_mode": "session"}, {"pool_mode": "transaction"}
    # Upwards the database comes first, downwards the pooler.
    assert decide(side(5, pooler=lending), Wishes(settings=to_session)).changes[0].restart == "pause"
    assert decide(side(3, pooler=lending), Wishes(connections=25, settings=to_session)).changes[0].restart == "window"
    assert decide(side(5), Wishes(settings=to_transaction)).changes[0].restart == "window"
    assert decide(side(3), Wishes(connections=25, settings=to_transaction)).changes[0].restart == "window"
    # In session mode all connections count, already when it is only wanted.
    assert decide(side(5, pooler=lending), Wishes(pool=10, settings=to_session)).fits is False


def test_the_pooler_is_handed_on_with_what_is_known_of_it() -> None:
    item = side(5)
    bare = {name: value for name, value in OPTIONS.items() if name != "admin_password_variable"}
    (found,) = decisions.changes_of({**bare, "pooler_port": 6433}, counted(item)["sides"][0], {}, {"postgres": 40}, {"postgres": 40})
    assert found.pooler == {"service": "pgbouncer", "port": 6433, "admin_user": "hapi_app"}


def test_each_side_has_its_own_wishes_and_memory() -> None:
    audit = replace(side(5), name="audit")
    found = counted(side(5))
    found["sides"] += counted(audit)["sides"]
    found["proposals"].update(counted(audit)["proposals"])
    both = decisions.decide_all(
        found, [OPTIONS, {**OPTIONS, "name": "audit"}], {"fhir": {"settings": {"query_wait_timeout": ["120", 60]}}}, 3, {"audit": Wishes(pool=40)}
    )
    assert (both["fhir"].pool, both["audit"].pool) == (30, 40)
    assert ("query_wait_timeout" in both["fhir"].settings, "query_wait_timeout" in both["audit"].settings) == (True, False)


# -- what is remembered


def test_what_is_and_what_shall_be_are_noted_once() -> None:
    item = side(5, standbys=(standby(30, sourcefile=AUTO),))
    memory = remembered(item, decide(item))
    assert memory == {
        "settings": {"default_pool_size": ["20", 30]},
        "databases": {"postgres": [30, CONF], "standby": [30, AUTO]},
        "written": {"postgres": [40], "standby": [40]},
    }
    tuned = applied(item, decide(item))
    more = remembered(tuned, decide(tuned, Wishes(pool=40), memory), memory)
    assert more["settings"] == {"default_pool_size": ["20", 30, 40]}
    assert more["databases"] == memory["databases"]
    assert more["written"] == {"postgres": [40, 50], "standby": [40, 50]}


def test_a_side_with_nothing_to_do_is_not_noted() -> None:
    item = side(3)
    assert decisions.remember({}, {"fhir": decide(item).report()}, counted(item), {}) == {}


def test_a_dry_run_that_learned_nothing_of_the_pooler_notes_nothing_of_it() -> None:
    item = side(5)
    assert decisions.remember({}, {"fhir": decide(item).report()}, counted(item), {})["fhir"]["settings"] == {"default_pool_size": [None, 30]}


# -- back


def tuned_memory(**more: Any) -> dict[str, Any]:
    return {"settings": {"default_pool_size": ["20", 30]}, "databases": {"postgres": [30, CONF]}, "written": {"postgres": [40]}, **more}


TUNED = side(3, maximum=40, pooler=limited(default_pool_size=30), demand=Demand(5, 3, 3, 0))


def test_back_to_what_was() -> None:
    found = back(TUNED, tuned_memory())
    assert (found.pool, found.least_pool, found.fits, found.touched) == (20, 15, True, True)
    assert found.settings == {"default_pool_size": "20"}
    # The owner's own file says it again, once ours has gone.
    assert found.databases == {"postgres": None}
    (change,) = found.changes
    assert (change.value, change.lower, change.restart) == (None, True, "window")


def test_what_stood_nowhere_stands_nowhere_again() -> None:
    """A mounted ini without a line for the setting gets none, and the line of a database its own word."""
    item = side(5)
    told = {"default_pool_size": {"before": "20", "after": "30", "in_file": None, "on_line": "12"},
            "max_db_connections": {"before": "25", "after": "40", "in_file": "25", "on_line": None}}
    decision = replace(decide(item), settings={"default_pool_size": 30, "max_db_connections": 40})
    memory = decisions.remember({}, {"fhir": decision.report()}, counted(item), {"fhir": told})["fhir"]
    assert (memory["unset"], memory["on_line"]) == (["default_pool_size"], {"default_pool_size": "12"})
    # A second run sees what the first has written, and remembers the same.
    later = {name: {"before": str(decision.settings[name]), "in_file": str(decision.settings[name]), "on_line": "30"} for name in told}
    assert decisions.remember({"fhir": memory}, {"fhir": decision.report()}, counted(item), {"fhir": later})["fhir"] == memory
    found = back(applied(item, decision), memory)
    assert found.settings == {"default_pool_size": None, "max_db_connections": "25"}
    assert found.on_line == {"default_pool_size": "12"}
    assert found.pool == 12


def test_what_came_from_alter_system_is_put_back_by_it() -> None:
    memory = tuned_memory(databases={"postgres": [30, AUTO], "standby": [35, ""]}, written={"postgres": [40], "standby": [40]})
    found = back(replace(TUNED, standbys=(standby(40),)), memory)
    assert found.databases == {"standby": None, "postgres": 30}


def test_a_standby_that_was_taken_away_since_does_not_bar_the_way_back() -> None:
    memory = tuned_memory(databases={"postgres": [30, CONF], "standby": [30, CONF]}, written={"postgres": [40], "standby": [40]})
    assert back(TUNED, memory).databases == {"postgres": None}


@pytest.mark.parametrize("name", ["postgres-standby", "a-standby"])
def test_the_primary_comes_last_whatever_it_is_called(name: str) -> None:
    """What is lowered is lowered in the reverse order, and a standby with less than its primary stops."""
    item = side(5, standbys=(standby(30, name),))
    memory = remembered(item, decide(item))
    found = back(applied(item, decide(item)), memory)
    assert [change.service for change in found.changes] == [name, "postgres"]
    assert all(change.lower for change in found.changes)


def test_a_standby_is_not_asked_to_have_less_than_its_primary_still_has() -> None:
    item = side(3, maximum=40, pooler=limited(default_pool_size=30), standbys=(standby(40),), demand=Demand(5, 3, 3, 0))
    memory = tuned_memory(databases={"postgres": [30, CONF], "standby": [30, CONF]}, written={"postgres": [40], "standby": [40]})
    assert [change.after_primary for change in back(item, memory).changes] == [True, False]
    # It had as much before, or its primary has been lowered by a run that was killed, or is the owner's by now.
    assert not any(change.after_primary for change in back(item, {**memory, "databases": {"postgres": [30, CONF], "standby": [40, CONF]}}).changes)
    assert not any(change.after_primary for change in back(replace(item, server=Server("postgres", 30)), memory).changes)
    assert not any(change.after_primary for change in back(replace(item, server=Server("postgres", 60)), memory).changes)
    assert not any(change.after_primary for change in decide(item, Wishes(connections=60)).changes)
    assert not any(change.after_primary for change in decide(item, Wishes(connections=36)).changes)


def test_what_the_owner_has_changed_since_is_the_owners() -> None:
    pool = back(replace(TUNED, pooler=limited(default_pool_size=45)), tuned_memory())
    # With the former 30 a login would be refused.
    assert (pool.settings, pool.pool, pool.databases, pool.changes, pool.stays, pool.needed) == ({}, 45, {}, (), 30, 50)
    less = back(replace(TUNED, pooler=limited(default_pool_size=22)), tuned_memory())
    assert (less.settings, less.databases, less.stays, less.needed) == ({}, {"postgres": None}, None, 27)
    database = back(replace(TUNED, server=Server("postgres", 60)), tuned_memory())
    assert (database.settings, database.databases, database.changes) == ({"default_pool_size": "20"}, {}, ())
    mode = back(TUNED, tuned_memory(settings={"pool_mode": ["transaction", "statement"], "query_wait_timeout": ["120", 60]}))
    # What the budget does not tell is put back.
    assert mode.settings == {"query_wait_timeout": "120"}


def test_more_than_fits_goes_back_where_it_was_so_before() -> None:
    """A site that had a pool of 30 and 30 connections gets that again; the way back mends nothing."""
    found = back(TUNED, tuned_memory(settings={"default_pool_size": ["30", 30]}))
    assert (found.settings, found.databases, found.stays, found.needed) == ({"default_pool_size": "30"}, {"postgres": None}, None, 35)


def test_a_run_that_ended_before_its_first_change_leaves_the_way_back() -> None:
    """It has written down what it was going to do, and what an earlier one has done is still in force."""
    memory = remembered(side(5), decide(side(5)))
    twice = remembered(TUNED, decide(TUNED, Wishes(pool=40), memory), memory)
    for item in (TUNED, applied(TUNED, decide(TUNED, Wishes(pool=40), memory))):
        found = back(item, twice)
        assert (found.settings, found.databases) == ({"default_pool_size": "20"}, {"postgres": None})


def test_what_stands_as_it_was_is_not_the_owners() -> None:
    """A run that was killed before it came to the pooler, and a pooler that was made anew without the fragment."""
    found = back(side(3, maximum=40, demand=Demand(5, 3, 3, 0)), tuned_memory())
    assert (found.settings, found.databases) == ({"default_pool_size": "20"}, {"postgres": None})


def test_more_replicas_than_the_former_pool_serves_bar_the_way() -> None:
    five = replace(TUNED, demand=Demand(5, 5, 5, 0))
    found = back(five, tuned_memory())
    assert (found.fits, found.least_pool, found.pool) == (False, 25, 20)
    assert back(replace(five, pooler=replace(five.pooler, mode="transaction")), tuned_memory()).fits
    # A pool that stays as it is makes nothing worse.
    assert back(five, tuned_memory(settings={})).fits
    assert back(replace(five, pooler=limited(default_pool_size=45)), tuned_memory()).fits
    assert back(replace(five, pooler=None), tuned_memory(settings={})).fits


def test_a_former_limit_bars_it_too() -> None:
    item = replace(TUNED, pooler=limited(default_pool_size=30, max_db_connections=30))
    memory = tuned_memory(settings={"default_pool_size": ["20", 30], "max_db_connections": ["12", 30]})
    found = back(item, memory)
    assert (found.fits, found.pool, found.capped_by) == (False, 12, "max_db_connections 12")


def test_a_pool_that_a_limit_makes_smaller_is_still_ours() -> None:
    item = replace(TUNED, pooler=limited(default_pool_size=30, max_db_connections=25))
    assert back(item, tuned_memory()).settings == {"default_pool_size": "20"}


def test_back_from_transaction_mode_to_session_mode_needs_a_window() -> None:
    item = replace(TUNED, pooler=replace(limited(default_pool_size=30), mode="transaction"))
    assert back(item, tuned_memory()).changes[0].restart == "pause"
    there = tuned_memory(settings={"default_pool_size": ["20", 30], "pool_mode": ["session", "transaction"]})
    assert (back(item, there).changes[0].restart, back(item, there).settings["pool_mode"]) == ("window", "session")


def test_only_what_is_remembered_goes_back() -> None:
    assert decisions.go_back_all(counted(TUNED), [OPTIONS], {}) == {}


# -- for every side


@st.composite
def poolers(draw: Any) -> Optional[Pooler]:
    if draw(st.integers(0, 9)) == 0:
        return None
    default = draw(st.integers(5, 40))
    max_db = draw(st.sampled_from((0, 0, 12, 25, 60)))
    line = Line(
        "fhirdb",
        "fhirdb",
        draw(st.sampled_from((default, default, 15, 35))),
        reserve=draw(st.sampled_from((0, 0, 4))),
        max_connections=draw(st.sampled_from((max_db, max_db, max_db, 18))),
    )
    users = draw(st.sampled_from((("hapi_app",), ("hapi_app", "reports"))))
    return Pooler(
        "pgbouncer",
        mode=draw(st.sampled_from(("session", "transaction"))),
        default_pool_size=default,
        max_client_conn=draw(st.sampled_from((20, 200))),
        max_db_connections=max_db,
        max_user_connections=draw(st.sampled_from((0, 0, 22))),
        lines=(line,),
        pools=tuple(Pool("fhirdb", name) for name in users),
        user_sizes=draw(st.sampled_from(({}, {}, {"hapi_app": 17}))),
        hapi_users=("hapi_app",),
        other_clients=draw(st.sampled_from((0, 2))),
    )


STANDBYS = st.dictionaries(st.sampled_from(("a", "z")), st.integers(0, 30))


@st.composite
def sides(draw: Any) -> Side:
    present = draw(st.integers(10, 80))
    sessions = (Sessions("x", "psql", "", draw(st.integers(0, 6))),)
    return Side(
        "fhir",
        "fhirdb",
        Server("postgres", present, sourcefile=draw(st.sampled_from((CONF, AUTO, ""))), sessions=sessions),
        Demand(draw(st.integers(1, 6)), draw(st.integers(0, 5)), draw(st.integers(1, 8)), draw(st.integers(0, 2))),
        draw(poolers()),
        standbys=tuple(standby(present + more, name) for name, more in draw(STANDBYS).items()),
    )


WISHES = st.builds(
    Wishes,
    pool=st.sampled_from((None, None, 10, 30)),
    connections=st.sampled_from((None, None, 30, 90)),
    settings=st.sampled_from(({}, {"query_wait_timeout": 60}, {"reserve_pool_size": 5}, {"max_db_connections": 50})),
)


@given(item=sides(), wishes=WISHES)
def test_what_fits_is_what_is_counted_afterwards(item: Side, wishes: Wishes) -> None:
    found = decide(item, wishes if item.pooler else NOTHING)
    if wishes == NOTHING:
        assert found.fits or found.capped_by
    if not found.fits:
        return
    after = applied(item, found)
    assert budget.server_need(after) == found.needed <= after.server.max_connections == found.databases["postgres"]
    assert after.server.max_connections <= min(one.max_connections for one in (after.server, *after.standbys))
    if after.pooler:
        assert budget.app_pool(after.pooler, "fhirdb")[2] == found.pool >= found.least_pool
    # A size of the operator's own may leave HAPI waiting for other clients of its pool; the budget's does not.
    assert not blocking(after) & {"pool_over_max_connections", "max_connections_too_small", "standby_below_primary"} or wishes.pool
    assert [change.service for change in found.changes][-1] == "postgres"


@given(item=sides(), wishes=WISHES)
def test_a_second_run_changes_nothing(item: Side, wishes: Wishes) -> None:
    # max_connections is proposed for the pool that is proposed, even where a smaller one is asked for, and that proposal grows with the reserve.
    assume(not (wishes.pool and wishes.settings))
    first = decide(item, wishes if item.pooler else NOTHING)
    if not (first.fits and first.touched):
        return
    memory = remembered(item, first)
    after = applied(item, first)
    second = decide(after, wishes if item.pooler else NOTHING, memory)
    assert applied(after, second) == after
    assert remembered(after, second, memory) == memory


@given(item=sides(), wishes=WISHES)
def test_the_way_back_leads_to_where_it_began(item: Side, wishes: Wishes) -> None:
    first = decide(item, wishes if item.pooler else NOTHING)
    if not (first.fits and first.touched):
        return
    after = applied(item, first)
    found = back(after, remembered(item, first))
    own = item.pooler
    restored = applied(after, found, former=item)
    assert {one.service: one.max_connections for one in (restored.server, *restored.standbys)} == {
        one.service: one.max_connections for one in (item.server, *item.standbys)
    }
    if own and restored.pooler:
        assert {name: getattr(restored.pooler, name) for name in decisions.PROPOSED} == {name: getattr(own, name) for name in decisions.PROPOSED}
        assert budget.app_pool(restored.pooler, "fhirdb")[2] == found.pool
    order = [change.service for change in found.changes]
    assert order[-1:] == ["postgres"]
