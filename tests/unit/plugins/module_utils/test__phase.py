# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _phase
from ansible_collections.dghs.bd_fhir.plugins.module_utils._growth import Sample
from ansible_collections.dghs.bd_fhir.plugins.module_utils._phase import Measure, PhaseError, thresholds_of
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 26, 3, tzinfo=timezone.utc)
DEFAULT = thresholds_of({})
PLAYBOOKS = Path(__file__).parents[4] / "playbooks"


def measures(vendors: Optional[float] = 1, a_day: Optional[float] = 1, total: Optional[float] = 1) -> dict[str, Measure]:
    return {"vendors": Measure(vendors), "resources_per_day": Measure(a_day), "resources": Measure(total)}


def level(**values: Optional[float]) -> Optional[str]:
    found = _phase.verdict(DEFAULT, measures(**values)).level
    return None if found is None else _phase.LEVELS[found]


# --- thresholds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "value", "wanted"),
    [
        ("vendors", 0, "pilot"), ("vendors", 49, "pilot"), ("vendors", 50, "regional"), ("vendors", 499, "regional"),
        ("vendors", 500, "regional_exceeded"), ("vendors", 501, "national"),
        ("a_day", 9_999, "pilot"), ("a_day", 10_000, "regional"), ("a_day", 99_999, "regional"), ("a_day", 100_000, "regional_exceeded"),
        ("a_day", 500_000, "regional_exceeded"), ("a_day", 1_000_000, "regional_exceeded"), ("a_day", 1_000_001, "national"),
        ("total", 999_999, "pilot"), ("total", 1_000_000, "regional"), ("total", 9_999_999, "regional"),
        ("total", 10_000_000, "regional_exceeded"), ("total", 10_000_001, "national"),
    ],
)  # fmt: skip
def test_case_142_the_boundaries_and_the_gap(metric: str, value: float, wanted: str) -> None:
    assert level(**{metric: value}) == wanted
    found = _phase.verdict(DEFAULT, measures(**{metric: value}))
    assert (found.phase, found.exceeded) == (wanted.partition("_")[0], wanted == "regional_exceeded")
    # What else is smaller changes nothing.
    if wanted != "pilot":
        assert found.decided_by == {"vendors": "vendors", "a_day": "resources_per_day", "total": "resources"}[metric]


LIMITS = st.lists(st.floats(1, 1e12), min_size=3, max_size=3, unique=True).map(sorted)
VALUE = st.one_of(st.none(), st.floats(0, 1e13))


@given(LIMITS, st.floats(0, 1e13), st.floats(0, 1e13))
def test_a_larger_value_is_never_in_an_earlier_phase(limits: list[float], one: float, other: float) -> None:
    threshold = _phase.Threshold("vendors", *limits)
    small, large = sorted((one, other))
    assert threshold.level(small) <= threshold.level(large)


@given(st.tuples(VALUE, VALUE, VALUE), st.tuples(st.floats(0, 1e13), st.floats(0, 1e13), st.floats(0, 1e13)), st.sampled_from([0, 1, None]),
       st.sampled_from([0, 1, 2, None]))  # fmt: skip
def test_more_load_never_gives_an_earlier_phase_nor_takes_a_step_away(
    values: tuple[Any, ...], more: tuple[float, ...], replicas: Optional[int], topology: Optional[int]
) -> None:
    larger = [plus if value is None else value + plus for value, plus in zip(values, more, strict=True)]
    before = _phase.verdict(DEFAULT, measures(*values))
    after = _phase.verdict(DEFAULT, measures(*larger))
    assert (before.level or 0) <= (after.level or 0)
    aspects = [_phase.Aspect("replicas", "", replicas), _phase.Aspect("orchestrator", "", 1), _phase.Aspect("postgresql", "", topology)]
    steps = [{item["playbook"] for item in _phase.due_steps(found.level, aspects, {})} for found in (before, after)]
    assert steps[0] <= steps[1]
    # What could not be read makes it at most less, and is told.
    if None in values and before.level != 3:
        assert before.at_least


@given(st.tuples(VALUE, VALUE, VALUE), st.integers(0, 2))
def test_a_figure_that_is_not_known_never_raises_the_phase(values: tuple[Any, ...], gone: int) -> None:
    fewer = [None if place == gone else value for place, value in enumerate(values)]
    assert (_phase.verdict(DEFAULT, measures(*fewer)).level or 0) <= (_phase.verdict(DEFAULT, measures(*values)).level or 0)


@given(st.lists(st.sampled_from([0, 1, 2, None]), min_size=3, max_size=3), st.integers(0, 2), st.integers(0, 2))
def test_a_better_part_never_gives_an_earlier_deployed_phase(ranks: list[Optional[int]], place: int, better: int) -> None:
    def phase(values: list[Optional[int]]) -> int:
        return _phase.PHASES.index(_phase.deployed([_phase.Aspect(str(number), "", rank) for number, rank in enumerate(values)])["phase"])

    improved = list(ranks)
    improved[place] = max(ranks[place] or 0, better)
    assert phase(ranks) <= phase(improved)
    assert phase([None if number == place else rank for number, rank in enumerate(ranks)]) <= phase(ranks)


def test_nothing_known_is_no_phase() -> None:
    found = _phase.verdict(DEFAULT, measures(None, None, None))
    assert (found.phase, found.decided_by, found.at_least, found.exceeded) == (None, "", True, False)


def test_of_several_metrics_the_nearest_to_its_next_limit_decides() -> None:
    assert _phase.verdict(DEFAULT, measures(10, 9_000, 5)).decided_by == "resources_per_day"
    assert _phase.verdict(DEFAULT, measures(49, 9_000, 5)).decided_by == "vendors"
    assert _phase.verdict(DEFAULT, measures(60, 9_999, 5)).decided_by == "vendors"


@pytest.mark.parametrize(
    ("thresholds", "why"),
    [
        ({"vendors": {"pilot_below": 500}}, "vendors is out of order: regional_below (500) must be more than pilot_below (500)"),
        ({"vendors": {"pilot_below": 0}}, "vendors.pilot_below is 0, so that no load would be pilot"),
        ({"resources": {"national_above": 9_999_999}}, "resources overlaps: 9,999,999 to 10,000,000 would be regional and national"),
        ({"resources": {"national_above": float("nan")}}, "resources.national_above is no number"),
        ({"resources": {"national_above": True}}, "resources.national_above is no number"),
        ({"resources": {"national_above": "many"}}, "resources.national_above is no number"),
        ({"vendor": {}}, "there is no metric vendor; there are vendors, resources_per_day, resources"),
        ({"vendors": {"pilot": 5}}, "vendors has no limit pilot"),
        ({"vendors": 50}, "vendors has no limit 50"),
    ],
)
def test_thresholds_that_can_not_be_judged_by(thresholds: dict[str, Any], why: str) -> None:
    with pytest.raises(PhaseError) as caught:
        thresholds_of(thresholds)
    assert why in str(caught.value)
    assert str(caught.value).endswith("Correct the option thresholds.")


def test_all_that_is_wrong_is_named_at_once_and_the_rest_is_the_roadmaps() -> None:
    with pytest.raises(PhaseError, match="vendors is out of order.*resources overlaps"):
        thresholds_of({"vendors": {"pilot_below": 501}, "resources": {"national_above": 1}})
    found = thresholds_of({"vendors": {"pilot_below": 20, "regional_below": None}})
    assert (found["vendors"].pilot_below, found["vendors"].regional_below, found["resources"].national_above) == (20, 500, 10_000_000)


# --- distances -----------------------------------------------------------------------------------------------------


def grown(per_day: float, days: int = 60, last: float = 900_000) -> list[Sample]:
    return [Sample(NOW - timedelta(days=day), "x:1", {"resources": last - day * per_day}) for day in range(days, 0, -1)]


def test_the_distance_to_each_limit_and_its_date() -> None:
    first, second, third = _phase.distances(DEFAULT["resources"], Measure(900_000), grown(10_000), NOW)
    assert (first["to"], first["left"], first["reached"], first["share"]) == ("regional", 100_000, False, 0.9)
    assert first["projected"] == "2026-12-06T03:00:00Z"
    assert (first["confidence"], first["per_day"]) == ("high", 10_000)
    assert first["earliest"] == first["latest"] == first["projected"]
    assert (second["to"], third["to"]) == ("regional_exceeded", "national")
    assert second["projected"] <= third["projected"]
    assert second["confidence"] == "low"


def test_what_is_reached_and_what_is_not_known() -> None:
    first, second, third = _phase.distances(DEFAULT["resources"], Measure(10_000_000), [], NOW)
    assert [item["reached"] for item in (first, second, third)] == [True, True, False]
    assert (third["left"], third["confidence"], third["projected"]) == (0, "none", None)
    unknown = _phase.distances(DEFAULT["resources"], Measure(None, why="x"), [], NOW)
    assert [(item["reached"], item["left"], item["projected"]) for item in unknown] == [(None, None, None)] * 3
    assert unknown[0]["why"].startswith("not enough history")


# --- what is due ---------------------------------------------------------------------------------------------------


def aspects(replicas: Optional[int] = 1, topology: str = "single") -> list[_phase.Aspect]:
    return [_phase.replicas_aspect(replicas), _phase.orchestrator_aspect("docker-compose"), _phase.topology_aspect(topology)]


@pytest.mark.parametrize(
    ("load", "replicas", "topology", "wanted"),
    [
        (0, 1, "single", []),
        (1, 1, "single", ["scale_regional"]),
        (1, 2, "standby", ["scale_hapi"]),
        (1, 3, "single", ["add_read_replica"]),
        (1, 3, "standby_cut", ["add_read_replica"]),
        (1, 3, "standby", []),
        (2, 3, "standby", [None]),
        (3, 5, "standby", [None]),
        # Nobody knows whether it is due: it is not proposed, but told as not read.
        (1, None, "standby", []),
        (1, None, "", []),
    ],
)
def test_what_is_due_from_the_load_and_the_deployment(load: int, replicas: Optional[int], topology: str, wanted: list[Optional[str]]) -> None:
    assert [item["playbook"] for item in _phase.due_steps(load, aspects(replicas, topology), {})] == wanted


def test_what_cannot_wait_comes_first_and_every_playbook_is_there() -> None:
    needs = dict.fromkeys(("audit_partitions", "pools_full", "pools", "partitioning", "partitioning_plan"), "because")
    found = _phase.due_steps(3, aspects(), needs)
    assert [item["playbook"] for item in found] == ["maintain_audit_partitions", "tune_pools", "scale_regional", "partition_hapi_tables", None]
    for other in (_phase.due_steps(1, aspects(3), {"pools": "x", "partitioning_plan": "x"}), _phase.due_steps(1, aspects(1, "standby"), {})):
        found += other
    names = {item["playbook"] for item in found} - {None}
    assert {name for name in names if not (PLAYBOOKS / f"{name}.yml").exists()} == set()
    assert _phase.due_steps(None, aspects(), {}) == []


def test_what_comes_next() -> None:
    limits = {"resources": _phase.distances(DEFAULT["resources"], Measure(900_000), grown(10_000), NOW)}
    found = _phase.next_step([], 0, limits)
    assert found is not None
    assert (found["playbook"], found["when"]) == ("scale_regional", "2026-12-06T03:00:00Z")
    assert "resources are projected to reach 1,000,000 (confidence high)" in found["why"]
    later = _phase.next_step([], 1, limits)
    assert later is not None
    assert (later["playbook"], later["what"]) == (None, "plan the move to national")
    assert _phase.next_step([], 0, {}) is None
    first = _phase.next_step([_phase.step("a", "error", "b", "c")], 0, limits)
    assert first == {"what": "a", "severity": "error", "why": "b", "playbook": "c", "when": "now"}


# --- the results of others -----------------------------------------------------------------------------------------


def test_replicas_that_serve() -> None:
    deployment = {"services": {"hapi": {"replicas": [
        {"state": "running", "health": "healthy"}, {"state": "running", "health": "unhealthy"}, {"state": "running", "health": "starting"},
        {"state": "exited", "health": ""}, {"state": "running", "health": ""},
    ]}}}  # fmt: skip
    assert _phase.serving(deployment, "hapi") == (2, "")
    assert _phase.serving({"deployment": deployment, "findings": []}, "hapi") == (2, "")
    assert _phase.serving(deployment, "fhir") == (None, "the deployment has no service fhir; it has hapi")
    assert _phase.serving({}, "hapi")[0] is None
    assert _phase.serving({"failed": True, "msg": "no docker"}, "hapi") == (None, "no docker")


@pytest.mark.parametrize(
    ("replication", "senders", "wanted"),
    [
        ({}, 0, "single"), ({}, 1, "standby"), ({}, None, ""),
        ({"server": {"standby": {"streaming": True}}}, 0, "standby"),
        ({"server": {"standby": {"streaming": False}}}, 1, "standby_cut"),
        ({"standby": {"streaming": True}, "primary": {}}, None, "standby"),
        ({"standby": {}, "primary": {}}, 0, "single"),
        ({"failed": True, "msg": "no answer"}, 0, ""),
        ({"unread": "no answer"}, 0, ""),
    ],
)  # fmt: skip
def test_the_topology(replication: dict[str, Any], senders: Optional[int], wanted: str) -> None:
    topology, why = _phase.topology_of(replication, senders)
    assert (topology, bool(why)) == (wanted, not wanted)
    assert _phase.topology_aspect(topology).rank == {"single": 0, "standby_cut": 0, "standby": 1, "": None}[wanted]


def test_case_144_idle_sessions_count() -> None:
    """36 idle and 1 active, max_connections 40 with 3 reserved."""
    side = {"name": "fhir", "fits": False, "server": {"service": "postgres-fhir", "used": 37, "usable": 37, "max_connections": 40}}
    used = _phase.utilisation({"sides": [side]})
    assert used[0]["percent"] == 100.0
    (found,) = _phase.connection_findings(used)
    assert (found["id"], found["severity"], found["object"]) == ("connections_used_up", "error", "postgres-fhir")
    assert "37 of 37 usable slots" in found["found"]
    for taken, severity in ((29, None), (30, "warning"), (36, "warning"), (37, "error"), (38, "error")):
        items = _phase.connection_findings(_phase.utilisation({"sides": [{**side, "server": {**side["server"], "used": taken}}]}))
        assert [item["severity"] for item in items] == ([severity] if severity else [])
    assert _phase.utilisation({"sides": [{**side, "server": {"usable": 0, "used": 0}}]})[0]["percent"] == 100.0
    assert _phase.utilisation({}) == []
    assert _phase.utilisation({"sides": [{"name": "x", "server": {"used": "?"}}]}) == []
    assert len(_phase.utilisation({"sides": [{**side, "standbys": [side["server"]]}]})) == 2


def test_the_audit_partitions() -> None:
    table = {
        "schema": "audit",
        "table": "audit_events",
        "days_left": 5,
        "gaps": [{}],
        "partitions": [{"name": "p", "bytes": 1, "rows": 2, "bound": "x"}],
    }
    result = {"days_left": 5, "tables": [table], "findings": [{"id": "coverage_gap", "severity": "error"}, {"id": "big", "severity": "warning"}],
              "rejection_rates": [{"client": "a"}]}  # fmt: skip
    found = _phase.coverage(result)
    assert found is not None
    assert (found["errors"], found["tables"][0]["gaps"], found["rejections"]) == (["coverage_gap"], 1, [{"client": "a"}])
    assert _phase.coverage_unread(result) == []
    assert _phase.coverage({"failed": True, "msg": "x"}) is None
    assert _phase.coverage_unread({"failed": True, "msg": "x"}) == []


def test_what_is_no_table_by_month_is_another_fault_than_a_month_that_is_missing() -> None:
    result = {"tables": [{"schema": "audit", "table": "a"}], "findings": [{"id": "not_partitioned", "severity": "error"}]}
    found = _phase.coverage(result)
    assert found is not None
    assert (found["errors"], found["faults"], found["rejections"]) == ([], ["not_partitioned"], None)
    (step,) = _phase.due_steps(0, aspects(), {"audit_tables": "x"})
    assert (step["severity"], step["playbook"]) == ("error", None)


def test_what_could_not_be_read_of_the_audit_tables_is_unknown() -> None:
    """Neither a gap nor health: no figure is told of it."""
    unread = {"schema": "audit", "table": "b", "readable": False, "days_left": 0.0, "bytes": 0, "gaps": []}
    result = {
        "days_left": 0.0,
        "tables": [{"schema": "audit", "table": "a", "readable": True, "days_left": 400, "bytes": 5}, unread],
        "findings": [
            {"id": "table_unreadable", "severity": "error", "object": "audit.b", "found": "no right"},
            {"id": "default_unreadable", "severity": "error", "object": "audit.a_default", "found": "locked"},
            {"id": "rejections_unreadable", "severity": "error", "object": "audit.a", "found": "no column"},
        ],
        "rejection_rates": [],
    }
    found = _phase.coverage(result)
    assert found is not None
    assert (found["errors"], found["faults"], found["rejections"], found["days_left"]) == ([], [], None, None)
    assert [(item["days_left"], item["bytes"], item["gaps"]) for item in found["tables"]] == [(400, 5, 0), (None, None, None)]
    assert _phase.coverage_unread(result) == [
        ("the audit table audit.b", "no right"),
        ("the rows in the default partition audit.a_default", "locked"),
        ("the rejections in audit.a", "no column"),
    ]
    assert _phase.coverage_unread({**result, "findings": []}) == [("the audit table audit.b", "audit_partition_info could not read it")]


def test_the_ids_are_those_that_audit_partition_info_tells() -> None:
    folder = Path(_phase.__file__).parents[1]
    names = ("module_utils/_partitions.py", "module_utils/_partition_catalog.py", "modules/audit_partition_info.py")
    source = "".join((folder / name).read_text() for name in names)
    for name in (*_phase.MONTHS, *_phase.UNREADABLE):
        assert '"%s"' % name in source
    assert set(re.findall(r'"(\w+_unreadable)"', source)) == set(_phase.UNREADABLE)


# --- the answer ----------------------------------------------------------------------------------------------------


def test_what_follows_as_findings() -> None:
    metrics = {"resources": _phase.metric_report(DEFAULT["resources"], Measure(900_000), grown(10_000), NOW)}
    found = _phase.verdict(DEFAULT, measures(10, 10, 900_000))
    built = _phase.deployed(aspects())
    assert [item["id"] for item in _phase.phase_findings(found, built, metrics, NOW)] == ["threshold_near"]
    metrics = {"resources_per_day": _phase.metric_report(DEFAULT["resources_per_day"], Measure(200_000), [], NOW)}
    found = _phase.verdict(DEFAULT, measures(10, 200_000, 10))
    behind, exceeded = _phase.phase_findings(found, built, metrics, NOW)
    assert (behind["id"], behind["object"], behind["found"]) == ("phase_behind", "replicas, postgresql", "pilot")
    assert (exceeded["id"], exceeded["found"], exceeded["expected"]) == ("phase_exceeded", "200,000", "below 100,000")
    regional = _phase.deployed(aspects(3, "standby"))
    assert [item["id"] for item in _phase.phase_findings(found, regional, metrics, NOW)] == ["phase_exceeded"]
    unknown = _phase.deployed(aspects(3, ""))
    assert unknown["at_least"]
    assert _phase.phase_findings(found, unknown, metrics, NOW)[0]["found"] == "pilot, as far as it could be read"


@pytest.mark.parametrize(
    ("steps", "findings", "partial", "wanted"),
    [
        ([], [], False, "ok"), ([], [], True, "partial"), ([], ["info"], True, "partial"), ([], ["warning"], True, "due"),
        (["info"], [], False, "due"), (["error"], [], False, "critical"), ([], ["error"], True, "critical"),
    ],
)  # fmt: skip
def test_the_status(steps: list[str], findings: list[str], partial: bool, wanted: str) -> None:
    unread = [{"id": "figure_unread", "severity": "error"}] if partial else []
    found = _phase.status_of([{"severity": item} for item in steps], [{"id": "x", "severity": item} for item in findings] + unread, partial)
    assert found == wanted
    assert _phase.EXIT_CODES[found] == {"ok": 0, "due": 1, "critical": 2, "partial": 3}[wanted]
