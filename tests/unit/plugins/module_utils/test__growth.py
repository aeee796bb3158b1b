# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _growth
from ansible_collections.dghs.bd_fhir.plugins.module_utils._growth import Sample, project, read_samples
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 26, 3, tzinfo=timezone.utc)


def line(day: int = 0, **more: Any) -> str:
    item = {**_growth.sample_line(NOW - timedelta(days=day), "x:1", {"resources": 5, "vendors": None}), **more}
    return json.dumps(item, sort_keys=True)


def history(values: list[float], step: float = 1, database: str = "x:1") -> list[Sample]:
    """The last of them is of a day ago."""
    count = len(values)
    return [Sample(NOW - timedelta(days=(count - place) * step), database, {"resources": value}) for place, value in enumerate(values)]


# --- the file ------------------------------------------------------------------------------------------------------


def test_a_sample_that_is_written_is_read_again() -> None:
    samples, faults = read_samples([line(1), "", "  \n", json.loads(line())])
    assert faults == []
    assert samples == [Sample(NOW - timedelta(days=day), "x:1", {"resources": 5.0}) for day in (1, 0)]


@given(st.integers(1, 200))
def test_a_file_that_was_cut_keeps_its_whole_lines(cut: int) -> None:
    lines = [line(3), line(2), line(1)]
    text = "\n".join(lines)
    samples, faults = read_samples(text[: len(text) - min(cut, len(lines[-1]) - 1)].split("\n"))
    assert len(samples) == 2
    assert [(item.line, item.cut) for item in faults] == [(3, True)]


@given(st.integers(0, 400))
def test_whatever_is_left_of_a_file_some_of_it_is_told(length: int) -> None:
    text = "\n".join([line(3), line(2), line(1)])[:length]
    samples, faults = read_samples(text.split("\n"))
    assert len(samples) + len(faults) == len([item for item in text.split("\n") if item.strip()])


def test_a_writer_that_went_on_after_a_cut_line_loses_that_line_only() -> None:
    samples, faults = read_samples([line(3), line(2)[:20], line(1)])
    assert (len(samples), [(item.line, item.cut, item.why) for item in faults]) == (2, [(2, False, "it is no JSON")])
    samples, faults = read_samples([line(1), "\x00\x00\x00\x00"])
    assert (len(samples), faults) == (1, [])


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ("[1]", "it is no object"), ("5", "it is no object"), ("{}", "its format is None, not 1"), ('{"format": 2}', "its format is 2, not 1"),
        ('{"format": 1}', "its moment can't be read: the moment is no text"),
        ('{"format": 1, "at": "2026-11-26T03:00:00"}', "has no offset"),
        ('{"format": 1, "at": "yesterday"}', "its moment can't be read"),
        (line(vendors="many"), "vendors is no number of at least 0"), (line(vendors=True), "vendors is no number"),
        (line(vendors=-1, resources_per_day=[1]), "resources_per_day, vendors is no number"),
        ('{"format": 1, "at": "2026-11-26T03:00:00Z", "vendors": NaN}', "vendors is no number"),
        ("[" * 100_000, "it is no JSON"), (None, "it is no object"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_sample(item: Any, why: str) -> None:
    samples, faults = read_samples([item, line()])
    assert len(samples) == 1
    assert why in faults[0].why


def test_only_so_many_count_and_in_the_order_of_time() -> None:
    samples, _faults = read_samples([line(day) for day in range(_growth.MOST + 50)])
    assert len(samples) == _growth.MOST
    assert samples == sorted(samples, key=lambda item: item.at)
    assert samples[-1].at == NOW


def test_another_database_begins_anew() -> None:
    mixed = history([1, 2], database="old:1") + history([3, 4])
    assert _growth.history_of(sorted(mixed, key=lambda item: item.at), "x:1", NOW)[-1].figures == {"resources": 4}
    assert _growth.history_of(history([1, 2], database="old:1"), "x:1", NOW) == []
    # A clock that was wrong.
    assert _growth.history_of([Sample(NOW + timedelta(days=1), "x:1", {})], "x:1", NOW) == []
    # Nobody knows which it is.
    assert len(_growth.history_of(history([1, 2], database="old:1"), "", NOW)) == 2


# --- the projection ------------------------------------------------------------------------------------------------


def test_a_steady_growth() -> None:
    found = project(history([1000 + day for day in range(60)]), "resources", 1100, 1060, NOW)
    assert found.date == NOW + timedelta(days=40)
    assert (found.earliest, found.latest, found.per_day, found.confidence) == (found.date, found.date, 1.0, "high")


@pytest.mark.parametrize(("samples", "span"), [([], 1), ([1], 1), ([1, 2], 1), ([1, 2, 3, 4, 5, 6], 1), ([1, 2, 3, 4, 5, 6, 7, 8], 0.001)])
def test_not_enough_history(samples: list[float], span: float) -> None:
    found = project(history(samples, span), "resources", 100, 9, NOW)
    assert (found.date, found.confidence) == (None, "none")
    assert found.why.startswith("not enough history: samples of")


def test_many_samples_of_one_day_are_one() -> None:
    samples = [Sample(NOW - timedelta(days=8, minutes=minute), "x:1", {"resources": 1.0}) for minute in range(100)]
    assert "samples of 2 days" in project(samples, "resources", 100, 9, NOW).why


def test_what_does_not_grow_and_what_is_reached() -> None:
    shrinking = project(history([100 - day for day in range(30)]), "resources", 1000, 70, NOW)
    assert (shrinking.date, shrinking.why) == (None, "it does not grow")
    slow = project(history([1000 + day * 0.001 for day in range(30)]), "resources", 1e9, 1000.03, NOW)
    assert (slow.date, slow.why) == (None, "it is more than fifty years away")
    assert project([], "resources", 10, 10, NOW).why == "reached"


def test_one_wrong_sample_does_not_move_it() -> None:
    values = [1000.0 + day for day in range(60)]
    values[30] = 90_000
    found = project(history(values), "resources", 1100, 1060, NOW)
    assert found.date is not None
    assert abs((found.date - NOW).days - 40) <= 1


def test_a_figure_that_could_not_be_read_now_goes_on_from_the_last_one() -> None:
    found = project(history([1000.0 + day for day in range(60)]), "resources", 1100, None, NOW)
    assert found.date is not None
    assert project(history([1] * 9), "vendors", 1100, None, NOW).confidence == "none"


@given(st.floats(0.1, 100), st.floats(1, 1e4), st.floats(1, 1e4))
def test_a_farther_limit_is_never_reached_sooner_nor_known_better(per_day: float, near: float, more: float) -> None:
    samples = history([day * per_day for day in range(40)])
    value = 40 * per_day
    one, other = (project(samples, "resources", value + left, value, NOW) for left in (near, near + more))
    order = {"certain": 4, "high": 3, "medium": 2, "low": 1, "none": 0}
    assert order[other.confidence] <= order[one.confidence]
    if one.date is None:
        assert other.date is None
    elif other.date is not None:
        assert one.date <= other.date


@given(st.integers(1, 60))
def test_a_longer_history_never_makes_it_less_certain(days: int) -> None:
    def rank(count: int) -> int:
        values = [float(100 - count + day) for day in range(count)]
        return ["none", "low", "medium", "high"].index(project(history(values), "resources", 140, 100, NOW).confidence)

    assert rank(days) <= rank(days + 1)


def test_an_uneven_growth_is_little_certain_and_has_a_wide_range() -> None:
    rnd = random.Random(7)
    values = [1000.0 + 0.5 * day + rnd.uniform(-60, 60) for day in range(60)]
    found = project(history(values), "resources", 1100, 1030, NOW)
    assert found.confidence == "low"
    assert found.earliest is not None
    assert found.date is None or found.earliest < found.date


def test_a_long_history_is_read_quickly() -> None:
    samples = history([float(day) for day in range(1000)])
    found = project(samples, "resources", 2000, 1000, NOW)
    assert found.per_day == pytest.approx(1.0)
    assert len(_growth.slopes([(float(place), 1.0) for place in range(1000)])) < 20_000
