# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Months without a partition, and what is to be done about them, at any date and in any zone, without a server.

Site plays the server: it refuses what PostgreSQL refuses, overlaps and names that are taken above all.
"""

from __future__ import annotations

import calendar
import zoneinfo
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _partitions
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partitions import (
    UTC,
    Bound,
    Grant,
    Loose,
    Month,
    Parent,
    Partition,
    PartitionError,
    Server,
    Settings,
    Step,
    bound_text,
    check_settings,
    coverage,
    findings,
    function_text,
    grant_changes,
    judge_function,
    month_in,
    moves,
    name_of,
    parse_bound,
    parse_time,
    plan,
    plan_function,
    resolve_zone,
    same_zone,
    split_function,
    unusable,
    zone_name,
    zone_of,
)
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

DHAKA = zone_of("Asia/Dhaka")
MADRID = zone_of("Europe/Madrid")
ZONES = ("UTC", "Asia/Dhaka", "Europe/Madrid", "America/Sao_Paulo")
# Half hours, clocks that are put on over a month's first midnight, offsets of 14 hours, a day that never was.
ODD_ZONES = ("Asia/Kolkata", "Asia/Amman", "America/Asuncion", "Australia/Lord_Howe", "Pacific/Kiritimati", "Pacific/Apia", "Africa/Casablanca")
ACL = ("owner=arwdDxt/owner", "audit_writer_login=a/owner")
TABLE = "audit_events"
USUAL = Settings()


def utc(year: int, month: int = 1, day: int = 1, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


def first(year: int, month: int, zone: Any = UTC) -> datetime:
    """Return the first moment of a month, by another way than the planner. Months beyond December go on in the next year."""
    return datetime(year + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=zone).astimezone(UTC)


def part(name: str, lower: Optional[datetime], upper: Optional[datetime], **more: Any) -> Partition:
    values = {"oid": abs(hash(name)), "schema": "audit", "name": name, "lower": lower, "upper": upper, "owner": "owner", "acl": ACL}
    return Partition(**{**values, **more})


def month(year: int, number: int, zone: Any = UTC, **more: Any) -> Partition:
    """Build the partition of a month; numbers beyond 12 go on in the next year."""
    lower, upper = first(year, number, zone), first(year, number + 1, zone)
    year, number = year + (number - 1) // 12, (number - 1) % 12 + 1
    return part(more.pop("name", f"{TABLE}_{year:04d}_{number:02d}"), lower, upper, **more)


def parent(*partitions: Partition, **more: Any) -> Parent:
    values = {"oid": 1, "schema": "audit", "name": TABLE, "keys": ("event_time",), "owner": "owner", "acl": ACL, "partitions": partitions}
    return Parent(**{**values, **more})


def server(now: datetime, **more: Any) -> Server:
    return Server(**{"version": 150018, "in_recovery": False, "now": now, **more})


def found(table: Parent, now: datetime, settings: Settings = USUAL, **more: Any) -> dict[str, dict[str, Any]]:
    """Return the findings by their id; there must be one of each."""
    items = findings(table, server(now, **more), now, settings)
    assert len({item["id"] for item in items}) == len(items), items
    return {item["id"]: item for item in items}


def actions(steps: list[Step]) -> list[tuple[str, str]]:
    return [(step.action, step.partition) for step in steps]


class Site:
    """A server to which steps are done."""

    def __init__(self, table: Parent, default: tuple[datetime, ...] = (), tables: tuple[str, ...] = ()) -> None:
        self.table = table
        self.default = default  # keys of the rows in the default partition
        self.tables = set(tables)

    @property
    def parent(self) -> Parent:
        has_default = any(item.default for item in self.table.partitions)
        span = (min(self.default), max(self.default)) if self.default else None
        return replace(self.table, default_rows=len(self.default) if has_default else None, default_span=span)

    def run(self, now: datetime, settings: Settings = USUAL, **more: Any) -> list[Step]:
        steps = plan(self.parent, server(now, **more), settings)
        for step in steps:
            getattr(self, step.action)(step)
        return steps

    def finalize_detach(self, step: Step) -> None:
        item = next(item for item in self.table.partitions if item.name == step.partition)
        assert item.detach_pending
        assert step.sql_kind == "alone"
        loose = Loose(item.oid, item.schema, item.name, True)
        kept = tuple(each for each in self.table.partitions if each is not item)
        self.table = replace(self.table, partitions=kept, loose=(*self.table.loose, loose))

    def attach(self, step: Step) -> None:
        loose = next(item for item in self.table.loose if item.name == step.partition)
        assert loose.fits
        assert step.lower is not None
        assert step.upper is not None
        assert loose.rows_span is None or step.lower <= loose.rows_span[0] <= loose.rows_span[1] < step.upper
        self.table = replace(self.table, loose=tuple(item for item in self.table.loose if item is not loose))
        self.add(step)

    def create(self, step: Step) -> None:
        assert step.partition not in self.table.taken | self.tables
        assert step.partition not in [item.name for item in self.table.partitions]
        assert step.partition not in [item.name for item in self.table.loose]
        assert len(step.partition.encode()) <= 63
        self.add(step)

    def move_default_rows(self, step: Step) -> None:
        assert step.lower is not None
        assert step.upper is not None
        assert any(item.default and item.name == step.default_partition for item in self.table.partitions)
        self.default = tuple(key for key in self.default if not step.lower <= key < step.upper)
        (self.attach if step.existing else self.create)(step)

    def add(self, step: Step) -> None:
        lower, upper = step.lower or _partitions.EARLIEST, step.upper or _partitions.LATEST
        assert lower < upper
        for item in self.table.partitions:
            if not item.default and not item.opaque:
                assert upper <= (item.lower or _partitions.EARLIEST) or (item.upper or _partitions.LATEST) <= lower, (step, item)
        assert not any(lower <= key < upper for key in self.default), "the default partition has rows of it"
        assert (step.owner, step.acl) == (self.table.owner, self.table.acl)
        new = part(step.partition, step.lower, step.upper, replica_identity=step.replica_identity, comment=step.comment)
        self.table = replace(self.table, partitions=(*self.table.partitions, new))

    def change(self, step: Step, **more: Any) -> None:
        kept = [replace(item, **more) if item.name == step.partition else item for item in self.table.partitions]
        assert kept != list(self.table.partitions)
        self.table = replace(self.table, partitions=tuple(kept))

    def set_owner(self, step: Step) -> None:
        self.change(step, owner=step.owner)

    def set_grants(self, step: Step) -> None:
        self.change(step, acl=step.acl)

    def set_replica_identity(self, step: Step) -> None:
        self.change(step, replica_identity=step.replica_identity)

    def set_comment(self, step: Step) -> None:
        self.change(step, comment=step.comment)

    def errors(self, now: datetime, settings: Settings = USUAL) -> list[dict[str, Any]]:
        return [item for item in findings(self.parent, server(now), now, settings) if item["severity"] == "error"]


# --- the clock -----------------------------------------------------------------------------------------------------


def days() -> Iterator[tuple[int, int, int]]:
    """Every day from the 25th to the 5th of 40 months, and the two dates of the roadmap."""
    for number in range(40):
        year, one = 2026 + (10 + number) // 12, (10 + number) % 12 + 1
        for day in (1, 2, 3, 4, 5, *range(25, calendar.monthrange(year, one)[1] + 1)):
            yield year, one, day
        if (year, one) == (2027, 12):
            yield 2027, 12, 20


def check(table: Parent, zone: Any, year: int, one: int, ahead: int = 6) -> None:
    """The months until so many ahead are there without gap and overlap, each with its name."""
    ranges = sorted((item.lower, item.upper, item.name) for item in table.partitions if item.lower and item.upper)
    for (_lower, upper, _name), (lower, _upper, _next) in zip(ranges, ranges[1:]):
        assert upper == lower
    last = ranges[-1][1]
    assert last is not None
    assert last >= first(year, one + ahead + 1, zone)
    for lower, upper, name in ranges:
        assert lower is not None
        local = lower.astimezone(zone)
        assert (lower, upper) == (first(local.year, local.month, zone), first(local.year, local.month + 1, zone))
        assert name == f"{TABLE}_{local.year:04d}_{local.month:02d}"


@pytest.mark.parametrize("clock_zone", ZONES)
@pytest.mark.parametrize("zone_text", ZONES)
def test_no_month_is_missing_at_any_date(zone_text: str, clock_zone: str) -> None:
    """From the site's 36 months on; the clock of client and server is read in another zone than the months'."""
    zone, clock = zone_of(zone_text), zone_of(clock_zone)
    settings = Settings(time_zone=zone_text)
    site = Site(parent(*(month(2025, number, zone) for number in range(1, 37))))
    count = 0
    for number, (year, one, day) in enumerate(days()):
        count += 1
        for hour, minute in ((0, 0), (23, 59)) if number % 7 == 0 else ((number % 24, 30),):
            now = datetime(year, one, day, hour, minute, tzinfo=clock)
            local = now.astimezone(zone)
            made = site.run(now, settings, time_zone=clock_zone)
            assert {step.action for step in made} <= {"create"}
            check(site.table, zone, local.year, local.month)
            assert site.errors(now, settings) == []
    assert count > 40 * 10
    assert (2028, 2, 29) in set(days())
    assert (2027, 12, 20) in set(days())


@pytest.mark.parametrize("zone_text", ZONES)
def test_a_first_run_at_any_date(zone_text: str) -> None:
    """On an empty table, and on one whose month in the middle is gone."""
    zone = zone_of(zone_text)
    settings = Settings(time_zone=zone_text, months_ahead=2)
    for year, one, day in days():
        now = datetime(year, one, day, 12, tzinfo=zone)
        site = Site(parent())
        assert len(site.run(now, settings)) == 3
        check(site.table, zone, year, one, 2)
        kept = tuple(item for item in site.table.partitions if item.lower != first(year, one + 1, zone))
        broken = Site(parent(*kept))
        assert actions(broken.run(now, settings)) == [("create", name_of(TABLE, Month.of(now, zone).next()))]
        check(broken.table, zone, year, one, 2)


@pytest.mark.parametrize("year", [2024, 2026, 2027, 2028])
def test_the_next_month_is_the_next_on_the_last_days(year: int) -> None:
    """Case 67: `+1 month` from the 29th, 30th and 31st skips a month or stays in it."""
    for one in range(1, 13):
        for day in range(28, calendar.monthrange(year, one)[1] + 1):
            steps = plan(parent(), server(utc(year, one, day, 23, 59)), Settings(months_ahead=1))
            assert [(step.lower, step.upper) for step in steps] == [(first(year, one + n), first(year, one + n + 1)) for n in (0, 1)]


@pytest.mark.parametrize("zone_text", [*ZONES, *ODD_ZONES])
@pytest.mark.parametrize("year", [1993, 2000, 2009, 2022, 2026])
def test_months_of_zones_with_summer_time(zone_text: str, year: int) -> None:
    """Case 73: for 36 months in the zones that put their clocks on and back, no hour is missing or there twice."""
    zone = zone_of(zone_text)
    at = Month(year, 1)
    for _number in range(36):
        start, end = at.start(zone), at.next().start(zone)
        assert timedelta(days=27, hours=22) <= end - start <= timedelta(days=31, hours=2)
        assert [Month.of(moment, zone) for moment in (start, end - timedelta(microseconds=1), end)] == [at, at, at.next()]
        assert start.astimezone(zone).day == 1
        at = at.next()


def test_a_month_that_begins_without_a_midnight() -> None:
    """Paraguay's clocks were put on at midnight of 1 October 2000; PostgreSQL reads the date so too."""
    zone = zone_of("America/Asuncion")
    assert Month(2000, 10).start(zone) == utc(2000, 10, 1, 4)
    assert Month.of(utc(2000, 10, 1, 3, 59), zone) == Month(2000, 9)
    # Put back over midnight, its first hour comes twice: PostgreSQL takes the later one. (Newfoundland, 1 minute past midnight.)
    zone = zone_of("America/St_Johns")
    assert Month(2009, 11).start(zone) == utc(2009, 11, 1, 3, 30)
    assert Month.of(Month(2009, 11).start(zone), zone) == Month(2009, 11)
    assert Month.of(Month(2009, 11).start(zone) - timedelta(microseconds=1), zone) == Month(2009, 10)


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC)), st.sampled_from(sorted(zoneinfo.available_timezones())))
def test_every_moment_has_one_month(moment: datetime, name: str) -> None:
    zone = zoneinfo.ZoneInfo(name)
    its = Month.of(moment, zone)
    assert its.start(zone) <= moment < its.next().start(zone)
    assert its.next().previous() == its


def test_months() -> None:
    assert str(Month(2027, 3)) == "2027-03"
    assert Month(2026, 12).next() == Month(2027, 1) == Month(2027, 2).previous() == Month(2025, 1).plus(24)
    assert Month(2026, 12) < Month(2027, 1) < Month(2027, 2)
    for beyond in (Month(1, 1), Month(9999, 12).next(), Month(294276, 1)):
        with pytest.raises(PartitionError, match="beyond the years"):
            beyond.start(UTC)
    assert Month.of(datetime.max.replace(tzinfo=UTC), DHAKA) == Month(9999, 12)
    assert Month.of(datetime.min.replace(tzinfo=UTC), DHAKA) == Month(1, 1)


def test_a_clock_at_the_end_of_time() -> None:
    with pytest.raises(PartitionError, match="9999"):
        plan(parent(), server(utc(9999, 12, 30)), Settings())


# --- zones ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["Asia/Daka", "", "../etc/passwd", "Asia", "/etc/localtime", "localtime", "right/UTC", "UTC+6", "a\0b", "অডিট", "x" * 5000]
)
def test_unknown_zones(name: str) -> None:
    with pytest.raises(PartitionError, match="There is no time zone"):
        zone_of(name)


def test_a_zone_in_other_letters() -> None:
    with pytest.raises(PartitionError, match=r"Write Asia/Dhaka\."):
        zone_of("asia/dhaka")


def test_a_machine_without_time_zone_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", missing)
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    with pytest.raises(PartitionError, match="Install the package tzdata"):
        zone_of("Asia/Dhaka")
    assert zone_of("UTC") is UTC
    # What is there in another zone is seen all the same.
    table = parent(month(2026, 11, timezone(timedelta(hours=6))))
    assert "UTC+06:00" in found(table, utc(2026, 11, 5))["zone_disagrees"]["found"]
    assert Site(table).run(utc(2026, 11, 5), Settings(time_zone=""))[0].lower == first(2026, 12, DHAKA)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"months_ahead": 0}, "months_ahead is 0"),
        ({"months_ahead": 10000}, "months_ahead is 10000"),
        ({"months_ahead": -1}, "1 to 1200"),
        ({"alarm_days": -1}, "alarm_days is -1"),
        ({"alarm_days": float("nan")}, "alarm_days is nan"),
        ({"time_zone": "Mars/Olympus"}, "no time zone Mars/Olympus"),
    ],
)
def test_settings_that_can_not_be(change: dict[str, Any], text: str) -> None:
    with pytest.raises(PartitionError, match=text):
        check_settings(replace(Settings(), **change))


@pytest.mark.parametrize("change", [{}, {"months_ahead": 1}, {"months_ahead": 1200}, {"time_zone": ""}, {"time_zone": "UTC"}, {"alarm_days": 0}])
def test_settings_that_can_be(change: dict[str, Any]) -> None:
    check_settings(replace(Settings(), **change))


def test_the_same_zone_under_two_names() -> None:
    assert same_zone("UTC", "Etc/UTC")
    assert same_zone("Asia/Dhaka", "Etc/GMT-6")
    assert same_zone("Nowhere/A", "nowhere/a")
    assert not same_zone("UTC", "Asia/Dhaka")
    assert not same_zone("Europe/Madrid", "Etc/GMT-1")


@pytest.mark.parametrize(
    ("zone_text", "server_zone", "named"),
    [
        ("Asia/Dhaka", "Asia/Dhaka", "Asia/Dhaka"),
        ("Asia/Dhaka", "UTC", "Asia/Dhaka"),
        ("Asia/Kolkata", "<+06>-06", "Asia/Calcutta"),
        ("Etc/GMT+5", "Etc/UTC", "Etc/GMT+5"),
        ("Europe/Madrid", "Europe/Madrid", "Europe/Madrid"),
        ("America/Sao_Paulo", "America/Sao_Paulo", "America/Sao_Paulo"),
        ("Europe/London", "Europe/London", "Europe/London"),
    ],
)
def test_months_in_another_zone(zone_text: str, server_zone: str, named: str) -> None:
    """Case 71: nothing is created beside months of another zone; asked to, the planner follows them."""
    zone = zone_of(zone_text)
    table = parent(*(month(2026, number, zone) for number in range(1, 12)))
    now = utc(2026, 11, 5)
    item = found(table, now, time_zone=server_zone)["zone_disagrees"]
    assert item["severity"] == "error"
    assert f"months that begin in {named} (" in item["found"]
    assert f"Set time_zone to {named}" in item["hint"]
    assert plan(table, server(now, time_zone=server_zone), Settings()) == []
    site = Site(table)
    site.run(now, Settings(time_zone=""), time_zone=server_zone)
    check(site.table, zone, 2026, 11)
    assert zone_name(resolve_zone(table, server(now, time_zone=server_zone), Settings(time_zone=""))) == named
    other = Site(table)
    other.run(now, Settings(time_zone=zone_text))
    assert other.table == site.table


def test_a_detach_is_finished_in_the_wrong_zone_too() -> None:
    table = parent(month(2026, 11, DHAKA), month(2026, 12, DHAKA, detach_pending=True), month(2026, 13, DHAKA))
    assert actions(plan(table, server(utc(2026, 11, 5)), Settings())) == [(do, f"{TABLE}_2026_12") for do in ("finalize_detach", "attach")]


def test_following_nothing_is_utc() -> None:
    table = parent()
    assert resolve_zone(table, server(utc(2026)), Settings(time_zone="")) is UTC
    odd = parent(part("a", utc(2026, 3, 11), utc(2026, 4, 17)))
    assert resolve_zone(odd, server(utc(2026)), Settings(time_zone="")) is UTC


def test_first_in_utc_then_in_dhaka() -> None:
    """Case 71: the hole between the two is filled, and what comes after begins where the last one ends."""
    utc_part = [month(2026, number) for number in (10, 11, 12)]
    table = parent(*utc_part, *(month(2027, number, DHAKA) for number in (2, 3)))
    now = utc(2026, 12, 5)
    seen = found(table, now)
    assert seen["zone_disagrees"]["severity"] == "warning"
    assert "3 of 7 bounds are those of months in Asia/Dhaka" in seen["zone_disagrees"]["found"]
    assert seen["coverage_gap"]["severity"] == "error"
    assert "2027-01-01 00:00:00 UTC to 2027-01-31 18:00:00 UTC" in seen["coverage_gap"]["found"]
    site = Site(table)
    made = site.run(now, Settings(months_ahead=4))
    # Until 18:00 UTC of 31 March it is taken: April begins there, for March has its table.
    assert [(step.partition[-7:], step.lower, step.upper) for step in made] == [
        ("2027_01", utc(2027, 1, 1), first(2027, 2, DHAKA)),
        ("2027_04", first(2027, 4, DHAKA), utc(2027, 5, 1)),
    ]
    assert site.run(now, Settings(months_ahead=4)) == []
    assert {item["id"] for item in findings(site.parent, server(now), now, Settings(months_ahead=4))} == {"zone_disagrees"}
    # Who follows, follows the later ones.
    assert zone_name(resolve_zone(table, server(now), Settings(time_zone=""))) == "Asia/Dhaka"


def test_a_hole_between_two_zones() -> None:
    """Six hours between Dhaka's February and UTC's March: both names are gone, so somebody has to look."""
    table = parent(month(2027, 2, DHAKA), month(2027, 3))
    now = utc(2027, 2, 20)
    items = {item["id"]: item for item in findings(table, server(now), now, Settings(months_ahead=1))}
    assert items["coverage_gap"]["severity"] == "error"
    assert "another partition has the name audit_events_2027_02" in items["coverage_gap"]["hint"]
    assert items["name_taken"]["object"] == "audit.audit_events_2027_02"
    assert "FROM ('2027-02-28 18:00:00+00') TO ('2027-03-01 00:00:00+00')" in items["name_taken"]["hint"]
    assert plan(table, server(now), Settings(months_ahead=1)) == []
    # With a table of another name for February it is free.
    table = parent(month(2027, 2, DHAKA, name="feb"), month(2027, 3))
    assert [(step.partition, step.lower, step.upper) for step in plan(table, server(now), Settings(months_ahead=1))] == [
        (f"{TABLE}_2027_02", first(2027, 3, DHAKA), utc(2027, 3, 1))
    ]


# --- keys without a zone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key_type", ["timestamp", "date"])
def test_a_key_without_a_zone(key_type: str) -> None:
    """Its months are those of the clock on the wall; the zone says which one it is now."""
    now = utc(2026, 12, 31, 20)
    table = parent(month(2026, 12), key_type=key_type)
    for zone_text, made in (("UTC", ["2027_01"]), ("Asia/Dhaka", ["2027_01", "2027_02"])):
        steps = plan(table, server(now), Settings(months_ahead=1, time_zone=zone_text))
        assert [step.partition[-7:] for step in steps] == made
        assert (steps[0].lower, steps[0].key_type) == (utc(2027, 1, 1), key_type)
    assert coverage(table, now, 1, UTC).days_left == pytest.approx(1 / 6)
    assert coverage(table, now, 1, DHAKA).days_left == 0
    # No zone can be wrong here.
    odd = parent(month(2026, 12, DHAKA), key_type=key_type)
    assert "zone_disagrees" not in found(odd, utc(2026, 12, 5))
    assert "wrong_bounds" in found(odd, utc(2026, 12, 5))
    assert resolve_zone(odd, server(now), Settings(time_zone="")) is UTC


# --- names ---------------------------------------------------------------------------------------------------------


def test_names() -> None:
    assert name_of("audit_events", Month(2027, 3)) == "audit_events_2027_03"
    assert name_of('Ev.ents-"অডিট" x', Month(2027, 12)) == 'Ev.ents-"অডিট" x_2027_12'
    assert name_of("x", Month(999, 1)) == "x_0999_01"
    just, long = "x" * 55, "x" * 56
    assert name_of(just, Month(2027, 3)) == just + "_2027_03"
    assert name_of(long, Month(2027, 3)) == "x" * 46 + "_04c26261_2027_03"
    # A letter of three bytes is taken whole or not at all.
    bangla = name_of("অডিট_ঘটনা_সংরক্ষণাগার", Month(2027, 3))
    assert bangla.startswith("অডিট_ঘটনা_সংরক্ষ_")
    assert len(bangla.encode()) <= 63


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=63), st.integers(1, 9999), st.integers(1, 12))
def test_any_name_gives_one_that_can_be(name: str, year: int, number: int) -> None:
    its = name_of(name, Month(year, number))
    assert len(its.encode()) <= 63
    assert month_in(its) == Month(year, number)


def test_long_names_stay_apart() -> None:
    names = [("অ" * 20) + end for end in ("ক", "খ", "কক")] + ["x" * 60 + end for end in "abc"]
    assert len({name_of(name, Month(2027, 3)) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audit_events_2027_03", Month(2027, 3)),
        ("audit_events_y2027m03", Month(2027, 3)),
        ("audit_events_p2027_03", Month(2027, 3)),
        ("audit_events_p20270301", Month(2027, 3)),
        ("audit_events_2027_03_01", Month(2027, 3)),
        ("audit_events_202703", Month(2027, 3)),
        ("audit-2027-03", Month(2027, 3)),
        ("a.2027.03", Month(2027, 3)),
        ("2027_03", Month(2027, 3)),
        ("audit_events_2027_13", None),
        ("audit_events_2027_00", None),
        ("audit_events_0000_03", None),
        ("audit_events_2027_03_x", None),
        ("audit_events_12027_03", None),
        ("audit_events_default", None),
        ("", None),
    ],
)
def test_the_month_in_a_name(name: str, expected: Optional[Month]) -> None:
    assert month_in(name) == expected


# --- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FOR VALUES FROM ('2027-01-01 00:00:00+00') TO ('2027-02-01 00:00:00+00')", Bound(utc(2027, 1), utc(2027, 2))),
        ("FOR VALUES FROM ('2027-01-01 00:00:00') TO ('2027-02-01 00:00:00')", Bound(utc(2027, 1), utc(2027, 2))),
        ("FOR VALUES FROM ('2027-01-01') TO ('2027-02-01')", Bound(utc(2027, 1), utc(2027, 2))),
        ("FOR VALUES FROM ('2027-01-01 06:01:00.0+06') TO ('2027-02-01 05:30:00+05:30')", Bound(utc(2027, 1, 1, 0, 1), utc(2027, 2))),
        ("FOR VALUES FROM (MINVALUE) TO ('2027-02-01 00:00:00+00')", Bound(None, utc(2027, 2))),
        ("FOR VALUES FROM ('-infinity') TO ('2027-02-01 00:00:00+00')", Bound(None, utc(2027, 2))),
        ("FOR VALUES FROM ('2027-01-01 00:00:00+00') TO (MAXVALUE)", Bound(utc(2027, 1), None)),
        ("FOR VALUES FROM ('2027-01-01 00:00:00+00') TO ('infinity')", Bound(utc(2027, 1), None)),
        ("FOR VALUES FROM ('2027-01-01 00:00:00+00') TO ('10000-02-01 00:00:00+00')", Bound(utc(2027, 1), None)),
        ("FOR VALUES FROM ('0044-03-15 00:00:00+00 BC') TO ('2027-02-01 00:00:00+00')", Bound(None, utc(2027, 2))),
        ("FOR VALUES FROM ('0001-01-01 00:00:00+06') TO ('2027-02-01 00:00:00+00')", Bound(None, utc(2027, 2))),
        ("FOR VALUES FROM ('2027-01-01 00:00:00+00') TO ('9999-12-31 23:59:59-06')", Bound(utc(2027, 1), None)),
        ("FOR VALUES FROM (MINVALUE) TO (MAXVALUE)", Bound()),
        ("DEFAULT", Bound(default=True)),
        # Beyond what can be judged, and what is none of a range of one time.
        ("FOR VALUES FROM ('294276-01-01 00:00:00+00') TO ('294276-02-01 00:00:00+00')", Bound(opaque=True)),
        ("FOR VALUES FROM ('4713-01-01 00:00:00+00 BC') TO ('4713-02-01 00:00:00+00 BC')", Bound(opaque=True)),
        ("FOR VALUES FROM ('infinity') TO (MAXVALUE)", Bound(opaque=True)),
        ("FOR VALUES IN ('2027-01-01 00:00:00+00')", Bound(opaque=True)),
        ("FOR VALUES WITH (modulus 4, remainder 0)", Bound(opaque=True)),
        ("FOR VALUES FROM ('2027-01-01', 'x') TO ('2027-02-01', 'x')", Bound(opaque=True)),
        ("FOR VALUES FROM ('2027-02-30') TO ('2027-03-01')", Bound(opaque=True)),
        ("FOR VALUES FROM ('1') TO ('2')", Bound(opaque=True)),
        ("", Bound(opaque=True)),
    ],
)
def test_bounds_as_the_server_shows_them(text: str, expected: Bound) -> None:
    assert parse_bound(text) == expected


@given(st.text() | st.from_regex(r"FOR VALUES FROM \('[0-9]{4,6}-[0-9]{2}-[0-9]{2}( BC)?'\) TO \('[0-9: +-]*'\)", fullmatch=True))
def test_no_text_of_a_bound_makes_it_stumble(text: str) -> None:
    assert isinstance(parse_bound(text), Bound)
    assert parse_time(text) is None or isinstance(parse_time(text), datetime)


@given(st.datetimes(datetime(1, 3, 1), datetime(9999, 11, 1), timezones=st.just(UTC)), st.sampled_from(["timestamptz", "timestamp"]))
def test_a_bound_is_read_as_it_was_written(moment: datetime, key_type: str) -> None:
    text = bound_text(moment, key_type)
    assert text is not None
    assert parse_time(text) == moment


def test_the_text_of_a_bound() -> None:
    moment = datetime(2027, 3, 1, 0, 0, tzinfo=DHAKA)
    assert bound_text(moment, "timestamptz") == "2027-02-28 18:00:00+00"
    assert bound_text(moment, "timestamp") == "2027-02-28 18:00:00"
    assert bound_text(utc(2027, 3), "date") == "2027-03-01"
    assert bound_text(utc(999, 3), "timestamptz") == "0999-03-01 00:00:00+00"
    assert bound_text(None, "date") is None
    assert parse_time(None) is None
    assert parse_time("2027-03-01 00:00:00-04:56:02") == datetime(2027, 3, 1, 4, 56, 2, tzinfo=UTC)
    assert parse_time("infinity") is None


# --- coverage ------------------------------------------------------------------------------------------------------


def test_coverage_is_by_time() -> None:
    table = parent(*(month(2026, number) for number in (9, 10, 11, 12)), month(2027, 2))
    seen = coverage(table, utc(2026, 11, 1), 4, UTC)
    assert (seen.covered_from, seen.covered_until, seen.days_left) == (utc(2026, 9), utc(2027, 1), 61)
    assert seen.wanted_until == utc(2027, 4)
    assert [(gap.lower, gap.upper, gap.months, gap.trailing) for gap in seen.gaps] == [
        (utc(2027, 1), utc(2027, 2), ("2027-01",), False),
        (utc(2027, 3), utc(2027, 4), ("2027-03",), True),
    ]


def test_coverage_of_special_tables() -> None:
    now = utc(2026, 11, 11)
    empty = coverage(parent(), now, 1, UTC)
    assert (empty.covered_from, empty.covered_until, empty.days_left) == (None, now, 0)
    assert empty.gaps[0].months == ("2026-11", "2026-12")
    endless = coverage(parent(part("all", None, None)), now, 1, UTC)
    assert (endless.covered_from, endless.covered_until, endless.gaps) == (None, None, ())
    assert endless.days_left > 2_000_000
    # Neither a default partition nor a pending detach covers anything, and one that can't be placed neither.
    nothing = parent(part("d", None, None, default=True), month(2026, 11, detach_pending=True), part("o", None, None, opaque=True))
    assert coverage(nothing, now, 1, UTC).days_left == 0
    # The first month is still to come.
    later = coverage(parent(month(2026, 12)), now, 1, UTC)
    assert (later.days_left, later.gaps[0].months, later.gaps[0].trailing) == (0, ("2026-11",), False)


def test_a_month_in_the_middle_comes_back() -> None:
    """Case 82, also beyond the wanted months and in the past."""
    months = [month(2025, number) for number in range(1, 37)]
    for gone in (0, 5, 22, 25, 34, 35):
        table = parent(*(item for number, item in enumerate(months) if number != gone))
        site = Site(table)
        now = utc(2026, 11, 20)
        missing = 0 < gone < 35
        assert ("coverage_gap" in found(table, now)) is missing
        assert actions(site.run(now)) == ([("create", months[gone].name)] if missing else [])
        assert site.errors(now) == []
        if missing:
            assert f"audit_partition creates {months[gone].name}." in found(table, now)["coverage_gap"]["hint"]


def test_what_is_written_next_is_made_first() -> None:
    table = parent(month(2026, 1), month(2026, 3), month(2026, 10))
    steps = plan(table, server(utc(2026, 11, 5)), Settings(months_ahead=1))
    assert [step.partition[-7:] for step in steps] == ["2026_11", "2026_12", *(f"2026_{number:02d}" for number in (2, 4, 5, 6, 7, 8, 9))]


def test_a_hole_of_many_years_is_not_filled() -> None:
    now = utc(2026, 11, 5)
    table = parent(month(1970, 1), month(2026, 10), month(2999, 1))
    steps = plan(table, server(now), Settings(months_ahead=2))
    assert [step.partition[-7:] for step in steps] == ["2026_11", "2026_12", "2027_01"]
    items = findings(table, server(now), now, Settings(months_ahead=2))
    assert [(item["id"], item["severity"]) for item in items] == [("coverage_gap", "error"), ("coverage_gap", "warning")]
    assert all("too long to be filled" in item["hint"] for item in items)
    assert len(coverage(parent(part("a", utc(100), utc(101))), now, 2, UTC).gaps[0].months) == _partitions.MOST_MONTHS
    # The same behind the last one.
    assert len(plan(parent(month(1970, 1)), server(now), Settings(months_ahead=2))) == 3
    site = Site(parent(month(2020, 1)))
    site.run(now)
    check(site.table, UTC, 2026, 11)


def test_the_alarm_is_on_days_left() -> None:
    """Cases 86 and 90: the pre-made months run out."""
    table = parent(*(month(2025, number) for number in range(1, 37)))
    for now, severity, days_left in (
        (utc(2026, 11, 25), None, 402),
        (utc(2027, 7, 1), "warning", 184),
        (utc(2027, 11, 17), "warning", 45),
        (utc(2027, 11, 17, 1), "error", 45),
        (utc(2027, 12, 20), "error", 12),
    ):
        items = found(table, now)
        assert items.get("horizon_short", {}).get("severity") == severity
        assert coverage(table, now, 6, UTC).days_left == pytest.approx(days_left, abs=0.1)
    item = items["horizon_short"]
    assert item["found"] == "partitions until 2028-01-01 00:00:00 UTC, 12.0 days left"
    assert item["expected"] == "partitions until 2028-07-01 00:00:00 UTC, and for 45 days at least"
    assert item["hint"].startswith("audit_partition creates audit_events_2028_01, ")
    # Too late.
    assert found(table, utc(2028, 1, 1))["horizon_short"]["found"].endswith("0.0 days left: rows of now are refused")
    assert found(parent(), utc(2028, 1, 1))["horizon_short"]["found"] == "no partition: rows of now are refused"


def test_too_few_months_for_the_alarm() -> None:
    site = Site(parent())
    site.run(utc(2026, 11, 30), Settings(months_ahead=1))
    item = found(site.table, utc(2026, 11, 30), Settings(months_ahead=1))["horizon_short"]
    assert (item["severity"], item["hint"]) == ("error", "Raise months_ahead: 1 gives fewer days than alarm_days asks for.")


# --- names that are taken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["relation", "partition"])
def test_a_name_that_is_taken(how: str) -> None:
    now = utc(2026, 11, 5)
    name = f"{TABLE}_2026_12"
    table = parent(month(2026, 11), taken=frozenset([name])) if how == "relation" else parent(month(2026, 11), month(2026, 1, name=name))
    settings = Settings(months_ahead=2)
    steps = plan(table, server(now), settings)
    assert name not in [step.partition for step in steps]
    assert f"{TABLE}_2027_01" in [step.partition for step in steps]
    items = {item["id"]: item for item in findings(table, server(now), now, settings)}
    assert items["name_taken"]["object"] == f"audit.{name}"
    assert items["name_taken"]["severity"] == "error"
    assert ("name_disagrees" in items) is (how == "partition")


def test_a_name_in_another_schema_is_free() -> None:
    """Case 77."""
    table = parent(month(2026, 11), month(2026, 1, name=f"{TABLE}_2026_12", schema="test"))
    assert f"{TABLE}_2026_12" in [step.partition for step in plan(table, server(utc(2026, 11, 5)), Settings(months_ahead=1))]


def test_parts_of_months() -> None:
    """A partition that ends or begins within a month: the rest goes to the month beside it where the name is gone."""
    now = utc(2027, 3, 2)
    odd = month(2027, 3)
    site = Site(parent(replace(odd, upper=utc(2027, 3, 15))))
    made = site.run(now, Settings(months_ahead=1))
    assert [(step.partition[-7:], step.lower, step.upper) for step in made] == [("2027_04", utc(2027, 3, 15), utc(2027, 5, 1))]
    assert site.errors(now, Settings(months_ahead=1, alarm_days=10)) == []
    # Where it is free, the part has a table of its own.
    site = Site(parent(part("march", utc(2027, 3, 1), utc(2027, 3, 15))))
    assert [step.partition[-7:] for step in site.run(now, Settings(months_ahead=1))] == ["2027_03", "2027_04"]
    # Before it.
    site = Site(parent(month(2027, 1), replace(month(2027, 3), lower=utc(2027, 3, 15)), month(2027, 4)))
    made = site.run(now, Settings(months_ahead=1))
    assert [(step.partition[-7:], step.lower, step.upper) for step in made] == [("2027_02", utc(2027, 2, 1), utc(2027, 3, 15))]
    # On both sides: one name, two parts.
    site = Site(parent(month(2027, 2), part("ides", utc(2027, 3, 10), utc(2027, 3, 20)), month(2027, 4)))
    assert [(step.lower, step.upper) for step in site.run(now, Settings(months_ahead=1))] == [(utc(2027, 3, 1), utc(2027, 3, 10))]
    assert [item["id"] for item in site.errors(now, Settings(months_ahead=1))][:2] == ["coverage_gap", "name_taken"]


# --- detached ------------------------------------------------------------------------------------------------------


def loose(year: int, number: int, **more: Any) -> Loose:
    return Loose(**{"oid": 7, "schema": "audit", "name": f"{TABLE}_{year:04d}_{number:02d}", "fits": True, **more})


def test_a_detached_month_is_attached() -> None:
    """Case 68."""
    now = utc(2026, 11, 5)
    span = (utc(2026, 12, 1), utc(2026, 12, 31, 23, 59))
    table = parent(month(2026, 11), month(2027, 1), loose=(loose(2026, 12, rows_span=span),))
    items = found(table, now, Settings(months_ahead=2))
    assert items["partition_detached"]["severity"] == "error"
    assert items["partition_detached"]["hint"] == "audit_partition attaches it for 2026-12-01 00:00:00 UTC to 2027-01-01 00:00:00 UTC."
    assert "attaches audit_events_2026_12." in items["coverage_gap"]["hint"]
    site = Site(table)
    steps = site.run(now, Settings(months_ahead=2))
    assert actions(steps) == [("attach", f"{TABLE}_2026_12")]
    assert (steps[0].lower, steps[0].upper, steps[0].existing, steps[0].partition_schema) == (utc(2026, 12), utc(2027, 1), True, "audit")
    assert found(site.table, now, Settings(months_ahead=2)) == {}


@pytest.mark.parametrize(
    ("change", "settings", "id", "text"),
    [
        ({"fits": False, "misfit": "it has no column id"}, {}, "partition_detached", "it has no column id"),
        ({}, {"attach_detached": False}, "partition_detached", "attach_detached is false"),
        (
            {"rows_span": (utc(2026, 12, 5), utc(2027, 1, 5))}, {},
            "partition_overlap", "has rows of 2026-12-05 00:00:00 UTC to 2027-01-05 00:00:00 UTC",
        ),
    ],
)
def test_a_detached_month_that_can_not_be_attached(change: dict[str, Any], settings: dict[str, Any], id: str, text: str) -> None:
    now = utc(2026, 11, 5)
    table = parent(month(2026, 11), month(2027, 1), loose=(loose(2026, 12, **change),))
    wanted = Settings(months_ahead=2, **settings)
    assert plan(table, server(now), wanted) == []
    items = found(table, now, wanted)
    assert items[id]["severity"] == "error"
    assert text in items[id]["found"]
    assert text in items["coverage_gap"]["hint"]


def test_detached_tables_whose_time_is_covered() -> None:
    now = utc(2026, 11, 5)
    settings = Settings(months_ahead=1)
    table = parent(month(2026, 11), month(2026, 12))
    old = loose(2026, 1, rows_span=(utc(2026, 1, 1), utc(2026, 1, 9)))
    assert found(replace(table, loose=(old,)), now, settings)["partition_detached"]["severity"] == "warning"
    empty = loose(2026, 11, name=f"{TABLE}_old_2026_11")
    assert found(replace(table, loose=(empty,)), now, settings)["partition_detached"]["found"] == "a table of its own with no rows"
    double = replace(empty, rows_span=(utc(2026, 11, 1), utc(2026, 11, 2)))
    assert found(replace(table, loose=(double,)), now, settings)["partition_overlap"]["severity"] == "warning"
    assert plan(replace(table, loose=(old, empty, double)), server(now), settings) == []


def test_tables_of_other_names() -> None:
    """One that is surely this table's is attached under its own name; what may be another table's is not."""
    now = utc(2026, 11, 5)
    table = parent(month(2026, 11), month(2027, 1))
    for name, attached in ((f"{TABLE}_y2026m12", True), (f"{TABLE}_202612", True), (f"{TABLE}_old_2026_12", False), ("other_2026_12", False)):
        item = loose(2026, 12, name=name, rows_span=(utc(2026, 12, 5), utc(2026, 12, 6)))
        steps = plan(replace(table, loose=(item,)), server(now), Settings(months_ahead=2))
        assert actions(steps) == [("attach", name) if attached else ("create", f"{TABLE}_2026_12")]
    # Of two nobody knows which.
    two = (loose(2026, 12, name=f"{TABLE}_202612"), loose(2026, 12, name=f"{TABLE}_y2026m12", oid=8))
    assert actions(plan(replace(table, loose=two), server(now), Settings(months_ahead=2))) == [("create", f"{TABLE}_2026_12")]


def test_a_pending_detach() -> None:
    """Case 70: it is finished, and attached again where its time would be a hole."""
    now = utc(2026, 11, 5)
    settings = Settings(months_ahead=2)
    table = parent(month(2026, 11), month(2026, 12, detach_pending=True), month(2027, 1))
    items = found(table, now, settings)
    assert items["detach_pending"]["severity"] == "error"
    assert "attaches it again" in items["detach_pending"]["hint"]
    assert items["coverage_gap"]["severity"] == "error"
    site = Site(table)
    assert actions(site.run(now, settings)) == [("finalize_detach", f"{TABLE}_2026_12"), ("attach", f"{TABLE}_2026_12")]
    assert found(site.table, now, settings) == {}
    # The oldest one was to go.
    table = parent(month(2026, 10, detach_pending=True), month(2026, 11), month(2026, 12), month(2027, 1))
    assert "leaves the table as it is" in found(table, now, settings)["detach_pending"]["hint"]
    site = Site(table)
    assert actions(site.run(now, settings)) == [("finalize_detach", f"{TABLE}_2026_10")]
    assert site.run(now, settings) == []
    assert site.errors(now, settings) == []
    # Not wanted.
    table = parent(month(2026, 11), month(2026, 12, detach_pending=True), month(2027, 1))
    off = replace(settings, attach_detached=False)
    assert actions(plan(table, server(now), off)) == [("finalize_detach", f"{TABLE}_2026_12")]
    # Without ends it can't be put back.
    table = parent(month(2026, 11), part("rest", utc(2026, 12), None, detach_pending=True))
    assert [step.action for step in plan(table, server(now), settings)] == ["finalize_detach", "create", "create"]


# --- the default partition -----------------------------------------------------------------------------------------

DEFAULT = part(f"{TABLE}_default", None, None, default=True)


def test_rows_of_the_default_partition_are_moved() -> None:
    """Case 74."""
    now = utc(2027, 1, 5)
    rows = (utc(2027, 3, 1), utc(2027, 3, 31, 23, 59))
    site = Site(parent(month(2027, 1), month(2027, 2), DEFAULT), default=rows)
    item = found(site.parent, now)["default_rows"]
    assert item["severity"] == "error"
    assert item["found"] == "2 rows of 2027-03-01 00:00:00 UTC to 2027-03-31 23:59:00 UTC"
    assert item["hint"] == "audit_partition creates the months and moves the rows, in one short step for each."
    steps = site.run(now)
    assert [(step.action, step.partition[-7:]) for step in steps][:2] == [("move_default_rows", "2027_03"), ("create", "2027_04")]
    assert (steps[0].default_partition, steps[0].default_schema, steps[0].existing) == (DEFAULT.name, "audit", False)
    assert site.default == ()
    assert site.errors(now) == []
    assert site.run(now) == []


def test_rows_of_the_default_partition_and_a_detached_month() -> None:
    site = Site(parent(month(2027, 1), DEFAULT, loose=(loose(2027, 2),)), default=(utc(2027, 2, 5),))
    steps = site.run(utc(2027, 1, 5), Settings(months_ahead=1))
    assert [(step.action, step.existing) for step in steps] == [("move_default_rows", True)]
    assert site.errors(utc(2027, 1, 5), Settings(months_ahead=1, alarm_days=10)) == []


def test_rows_of_the_default_partition_stay_where_that_is_asked() -> None:
    now = utc(2027, 1, 5)
    settings = Settings(months_ahead=2, move_default_rows=False)
    site = Site(parent(month(2027, 1), DEFAULT), default=(utc(2027, 2, 5),))
    assert actions(site.run(now, settings)) == [("create", f"{TABLE}_2027_03")]
    assert "move_default_rows is false" in found(site.parent, now, settings)["default_rows"]["hint"]


def test_rows_of_the_default_partition_that_are_too_many_to_be_moved() -> None:
    """The month that has too many stays missing, the others do not; who did not count has too many."""
    now, settings = utc(2027, 1, 5), Settings(months_ahead=3, move_limit=4)
    rows = tuple(utc(2027, 2, 1 + day) for day in range(5)) + (utc(2027, 4, 9),)
    whole = Site(parent(month(2027, 1), DEFAULT), default=rows).parent
    assert moves(whole, server(now), settings, now) == [(utc(2027, 2), utc(2027, 3)), (utc(2027, 3), utc(2027, 4)), (utc(2027, 4), utc(2027, 5))]
    counted = replace(
        whole, default_counts=((utc(2027, 2), utc(2027, 3), 5), (utc(2027, 3), utc(2027, 4), 0), (utc(2027, 4), utc(2027, 5), 1))
    )
    steps = plan(counted, server(now), settings, now)
    assert [(step.action, step.partition[-7:], step.bounded) for step in steps] == [
        ("create", "2027_03", True), ("move_default_rows", "2027_04", True),
    ]  # fmt: skip
    item = found(counted, now, settings)["default_rows"]
    assert "the default partition has 5 rows of 2027-02, and move_limit is 4" in item["hint"]
    assert "-e audit_partitions_allow_long_move=true, or audit_partition with move_limit 0" in item["hint"]
    # As many as may be; no bound; not counted.
    assert len(plan(counted, server(now), replace(settings, move_limit=5), now)) == 3
    assert [step.bounded for step in plan(whole, server(now), replace(settings, move_limit=0), now)] == [False] * 3
    assert plan(whole, server(now), settings, now) == []
    assert "rows that could not be counted" in found(whole, now, settings)["default_rows"]["hint"]
    # A table that is there for that month waits too, and says why.
    waits = replace(counted, loose=(loose(2027, 2),))
    assert found(waits, now, settings)["partition_detached"]["hint"].startswith("See default_rows")
    with pytest.raises(PartitionError, match="move_limit is -1"):
        check_settings(Settings(move_limit=-1))


def test_rows_of_the_default_partition_elsewhere() -> None:
    """A few months beyond the others they get their months; years away they are somebody's mistake."""
    now = utc(2027, 1, 5)
    settings = Settings(months_ahead=1)
    site = Site(parent(month(2027, 1), DEFAULT), default=(utc(2026, 10, 9), utc(2027, 5, 9)))
    made = site.run(now, settings)
    assert sorted(step.partition[-7:] for step in made) == ["2026_10", "2026_11", "2026_12", "2027_02", "2027_03", "2027_04", "2027_05"]
    assert site.default == ()
    assert site.run(now, settings) == []
    site = Site(parent(month(2027, 1), month(2027, 2), DEFAULT), default=(utc(1970), utc(2099)))
    assert site.run(now, settings) == []
    assert "more than 12 months off" in found(site.parent, now, settings)["default_rows"]["hint"]
    # Nobody could look at their times: then each month may have some.
    table = replace(parent(month(2027, 1), DEFAULT), default_rows=3)
    assert [step.action for step in plan(table, server(now), settings)] == ["move_default_rows"]


def test_an_empty_default_partition_is_no_matter() -> None:
    site = Site(parent(month(2027, 1), DEFAULT))
    assert [step.action for step in site.run(utc(2027, 1, 5), Settings(months_ahead=1))] == ["create"]
    assert found(site.parent, utc(2027, 1, 5), Settings(months_ahead=1, alarm_days=9)) == {}


# --- bounds, names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "wrong"),
    [
        (part("x", utc(2026, 11), utc(2026, 12)), False),
        (part("x", None, utc(2026, 12)), False),
        (part("x", None, utc(2026, 12, 3)), True),
        (part("x", utc(2026, 11), utc(2027, 2)), True),
        (part("x", utc(2026, 11), utc(2026, 11, 20)), True),
        (part("x", utc(2026, 11, 3), utc(2026, 12)), True),
        (part("x", utc(2026, 11), None), True),
        (part("x", None, None), True),
    ],
)
def test_bounds_that_are_no_month(item: Partition, wrong: bool) -> None:
    items = found(parent(item), utc(2026, 11, 5))
    assert ("wrong_bounds" in items) is wrong
    assert not wrong or items["wrong_bounds"]["severity"] == "warning"


def test_bounds_in_the_middle_of_months_are_of_no_zone() -> None:
    table = parent(month(2026, 11), part("x", utc(2026, 12, 1), utc(2026, 12, 15)), month(2026, 13))
    items = found(table, utc(2026, 11, 20), Settings(months_ahead=1))
    assert set(items) == {"wrong_bounds", "coverage_gap"}


def test_bounds_that_can_not_be_placed() -> None:
    far = part("far", None, None, opaque=True, bound="FOR VALUES FROM ('294276-01-01 00:00:00+00') TO (MAXVALUE)")
    assert found(parent(far), utc(2026, 11, 5))["wrong_bounds"]["severity"] == "info"
    assert found(parent(replace(far, bound="?")), utc(2026, 11, 5))["wrong_bounds"]["severity"] == "warning"


@pytest.mark.parametrize(
    ("name", "lower", "upper", "wrong"),
    [
        ("a_2026_11", utc(2026, 11), utc(2026, 12), False),
        ("a_2026_12", utc(2026, 11), utc(2026, 12), True),
        ("a_2025_11", utc(2026, 11), utc(2026, 12), True),
        ("a_2026_11", first(2026, 11, DHAKA), first(2026, 12, DHAKA), False),
        ("a_2026_10", first(2026, 11, DHAKA), first(2026, 12, DHAKA), True),
        ("a_2026_11", utc(2026, 11), utc(2027, 2), False),
        ("a_2026_04", utc(2026, 3, 15), utc(2026, 5), False),
        ("a", utc(2026, 11), utc(2026, 12), False),
        ("a_2026_11", None, utc(2026, 12), False),
        ("a_0001_01", utc(2026, 11), utc(2026, 12), False),
    ],
)
def test_names_that_say_another_month(name: str, lower: Optional[datetime], upper: datetime, wrong: bool) -> None:
    items = {item["id"]: item for item in findings(parent(part(name, lower, upper)), server(utc(2026, 11, 5)), utc(2026, 11, 5), Settings())}
    assert ("name_disagrees" in items) is wrong
    if wrong:
        assert items["name_disagrees"]["expected"] == "a name for 2026-11"


# --- likeness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "id", "action", "text"),
    [
        ({"owner": "postgres"}, "owner_differs", "set_owner", "its owner is postgres"),
        ({"acl": ()}, "grants_differ", "set_grants", "INSERT for audit_writer_login to be given"),
        ({"acl": (*ACL, "=r/owner")}, "grants_differ", "set_grants", "SELECT for PUBLIC to be taken"),
        ({"replica_identity": "full"}, "replica_identity_differs", "set_replica_identity", "its replica identity is full"),
        ({"comment": ""}, "comment_differs", "set_comment", "it has no comment"),
    ],
)
def test_partitions_that_differ_from_the_table(change: dict[str, Any], id: str, action: str, text: str) -> None:
    """Cases 80 and 81."""
    now = utc(2026, 11, 5)
    settings = Settings(months_ahead=1, alarm_days=9)
    table = parent(month(2026, 11, comment="c"), replace(month(2026, 12, comment="c"), **change), comment="c")
    item = found(table, now, settings)[id]
    assert (item["severity"], item["object"]) == ("warning", f"audit.{TABLE}_2026_12")
    assert item["found"].endswith(text)
    site = Site(table)
    assert actions(site.run(now, settings)) == [(action, f"{TABLE}_2026_12")]
    assert found(site.table, now, settings) == {}
    off = replace(settings, repair=False)
    assert plan(table, server(now), off) == []
    assert found(table, now, off)[id]["hint"].endswith("when repair is true.")


def test_many_that_differ_are_one_finding() -> None:
    table = parent(*(month(2026, number, owner="postgres") for number in range(5, 13)))
    item = found(table, utc(2026, 11, 5), Settings(months_ahead=1, alarm_days=9))["owner_differs"]
    assert item["object"] == "audit.audit_events"
    names = [f"{TABLE}_2026_{number:02d}" for number in (5, 6, 7, 8)]
    assert item["found"] == f"its owner is postgres, for 8 partitions: {', '.join(names)}, 3 more, {TABLE}_2026_12"


def test_a_comment_of_its_own_is_kept() -> None:
    table = parent(month(2026, 11, comment="looked through by S."), comment="c")
    item = found(table, utc(2026, 11, 5), Settings(months_ahead=1, alarm_days=0))["comment_differs"]
    assert (item["severity"], item["hint"]) == ("info", "It is left as it is.")
    assert [step.action for step in plan(table, server(utc(2026, 11, 5)), Settings(months_ahead=1))] == ["create"]


def test_a_foreign_table_has_no_replica_identity() -> None:
    table = parent(month(2026, 11, kind="foreign", replica_identity="nothing"))
    assert set(found(table, utc(2026, 11, 5), Settings(months_ahead=1))) == {"horizon_short", "foreign_partition"}


def test_grants() -> None:
    def changes(have: tuple[str, ...], want: tuple[str, ...], owner: str = "owner", version: int = 150000) -> list[Grant]:
        return grant_changes(have, owner, want, "owner", version)

    assert changes((), ()) == []
    assert changes((), ("owner=arwdDxt/owner",)) == []
    assert changes((), ("owner=arwdDxt/owner",), version=170000) == [Grant("owner", ("MAINTAIN",), revoke=True)]
    assert changes(("owner=arwdDxtm/owner",), (), version=170000) == []
    assert changes((), ("owner=arwdDxt/owner", "w=a/owner", "=r/owner")) == [Grant("", ("SELECT",)), Grant("w", ("INSERT",))]
    assert changes(("owner=arwdDxt/owner", "w=arm/owner"), ("owner=arwdDxt/owner", "w=a/owner")) == [Grant("w", ("MAINTAIN", "SELECT"), revoke=True)]
    # Who granted it does not matter.
    assert changes(("owner=arwdDxt/owner", "w=a/somebody"), ("owner=arwdDxt/owner", "w=a/owner")) == []
    # The grant option comes and goes.
    assert changes(("w=a/o",), ("w=a*/o",)) == [Grant("w", ("INSERT",), grantable=True)]
    assert changes(("w=a*r/o",), ("w=ar/o",)) == [Grant("w", ("INSERT",), revoke=True), Grant("w", ("INSERT",))]
    # ALTER TABLE … OWNER TO takes the old owner's rights along.
    assert changes((), ("owner=arwdDxt/owner", "w=a/owner"), owner="postgres") == [Grant("w", ("INSERT",))]
    assert changes(("postgres=arwdDxt/postgres", "w=a/postgres"), ("owner=arwdDxt/owner", "w=a/owner"), owner="postgres") == []
    # Names that need quotes, with what acl items are made of in them.
    assert changes((), ("owner=arwdDxt/owner", '"a=b/""c"=a/owner', "লেখক=r/owner")) == [Grant('a=b/"c', ("INSERT",)), Grant("লেখক", ("SELECT",))]


# --- other findings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "id", "text"),
    [
        ({"oid": 0}, "missing_table", "no such table"),
        ({"strategy": ""}, "not_partitioned", "a table without partitions"),
        ({"strategy": "list"}, "wrong_strategy", "partitioned by list"),
        ({"strategy": "hash"}, "wrong_strategy", "partitioned by hash"),
        ({"keys": ("id", "event_time")}, "several_keys", "the keys id, event_time"),
        ({"keys": ("id",), "key_type": "bigint"}, "key_not_time", "the key id of type bigint"),
    ],
)
def test_tables_that_can_not_be_planned(change: dict[str, Any], id: str, text: str) -> None:
    table = replace(parent(), **change)
    items = findings(table, server(utc(2026)), utc(2026), Settings())
    assert [(item["id"], item["severity"], item["object"], item["found"]) for item in items] == [(id, "error", "audit.audit_events", text)]
    assert plan(table, server(utc(2026)), Settings()) == []
    assert unusable(parent()) is None


def test_kinds_and_upkeep() -> None:
    """Cases 76 and 145: the partitions are judged, not the table above them."""
    now = utc(2026, 11, 5)
    quiet = Settings(months_ahead=1, alarm_days=9)

    def seen(settings: Settings = quiet, **more: Any) -> dict[str, dict[str, Any]]:
        return found(parent(month(2026, 11, **more), month(2026, 12)), now, settings)

    assert seen() == {}
    assert seen(kind="partitioned", has_children=True)["sub_partitions"]["severity"] == "info"
    assert seen(kind="partitioned")["sub_partitions"]["severity"] == "error"
    assert seen(kind="foreign")["foreign_partition"]["severity"] == "info"
    assert seen(bytes=11 << 30)["partition_oversized"]["severity"] == "info"
    assert "11.0 GB" in seen(bytes=11 << 30)["partition_oversized"]["found"]
    assert seen(replace(quiet, max_bytes=0), bytes=11 << 30) == {}
    old = parent(month(2026, 10, bytes=11 << 30), month(2026, 11), month(2026, 12))
    assert found(old, now, quiet)["partition_oversized"]["severity"] == "warning"
    assert seen(age=500_000_000)["never_vacuumed"]["severity"] == "warning"
    assert seen(age=2_000_000_000)["never_vacuumed"]["severity"] == "error"
    assert "200000 rows" in seen(vacuumed=False, rows=200_000.0, dead=5.0)["never_vacuumed"]["found"]
    assert seen(vacuumed=False, rows=2000.0) == seen(vacuumed=None, rows=1e9) == seen(vacuumed=True, rows=1e9) == {}
    assert seen(referenced_by=("fk of audit.other",)) == {}
    assert "fk of audit.other" in seen(replace(quiet, retention=True), referenced_by=("fk of audit.other",))["partition_referenced"]["found"]


def test_errors_come_first() -> None:
    table = parent(month(2026, 1, owner="x", kind="foreign"), month(2026, 3), month(2026, 11))
    severities = [item["severity"] for item in findings(table, server(utc(2026, 11, 5)), utc(2026, 11, 5), Settings())]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert set(severities) == {"error", "warning", "info"}


# --- the maintenance function --------------------------------------------------------------------------------------

# pg_get_functiondef of the lab's, PostgreSQL 15.18.
GOOD = """CREATE OR REPLACE FUNCTION audit.create_next_month_partitions()
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
DECLARE
    parent text;
    month  date := (date_trunc('month', now()) + interval '1 month')::date;
BEGIN
    FOREACH parent IN ARRAY ARRAY['audit_events', 'fhir_rejected_submissions'] LOOP
        EXECUTE format(
            'CREATE TABLE IF NOT EXISTS audit.%I PARTITION OF audit.%I FOR VALUES FROM (%L) TO (%L)', parent, parent, month, month);
    END LOOP;
END
$function$
"""


def test_a_right_function() -> None:
    assert judge_function(GOOD, "owner", True, Settings()) == []
    assert judge_function(GOOD, "owner", True, Settings(time_zone="")) == []
    assert judge_function(GOOD, "owner", True, Settings(maintenance_function="")) == []


@pytest.mark.parametrize(
    ("old", "new", "owns", "id", "text"),
    [
        ("TABLE IF NOT EXISTS", "TABLE", True, "function_not_idempotent", "fails when the month is there"),
        (" SECURITY DEFINER\n", "", True, "function_not_owner", "rights of its caller"),
        ("", "", False, "function_not_owner", "the rights of somebody"),
        (" SET \"TimeZone\" TO 'UTC'\n", "", True, "function_zone", "whatever zone its session has"),
        ("TO 'UTC'", "TO 'Asia/Dhaka'", True, "function_zone", "months of Asia/Dhaka"),
        (" SET search_path TO 'pg_catalog', 'pg_temp'\n", "", True, "function_search_path", "search_path of its caller"),
        ("'pg_catalog', 'pg_temp'", "'audit'", True, "function_search_path", "audit: temporary objects"),
    ],
)
def test_a_function_that_is_wrong(old: str, new: str, owns: bool, id: str, text: str) -> None:
    definition = GOOD.replace(old, new, 1) if old else GOOD
    items = judge_function(definition, "somebody", owns, Settings(), "audit.create_next_month_partitions()")
    assert [(item["id"], item["severity"], item["object"]) for item in items] == [(id, "warning", "audit.create_next_month_partitions()")]
    assert text in items[0]["found"]
    assert "when replace_function is true" in items[0]["hint"]
    wanted = Settings(replace_function=True)
    steps = plan_function("audit", [TABLE], "owner", definition, "somebody", owns, wanted)
    assert [(step.action, step.partition, step.owner, step.sql_kind) for step in steps] == [
        ("replace_function", "create_next_month_partitions", "owner", "transaction")
    ]
    assert id in steps[0].why
    assert plan_function("audit", [TABLE], "owner", definition, "somebody", owns, Settings()) == []


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("TABLE IF NOT EXISTS", "TABLE -- if it is not there\n", True),
        ("TABLE IF NOT EXISTS", "TABLE /* IF NOT EXISTS ( */", True),
        ("BEGIN", "BEGIN IF to_regclass('x') IS NOT NULL THEN RETURN; END IF; CREATE TABLE x();", False),
        ("END\n$", "EXCEPTION WHEN duplicate_table THEN NULL;\nEND\n$", False),
    ],
)
def test_functions_that_look_first(old: str, new: str, wrong: bool) -> None:
    items = judge_function(GOOD.replace(old, new), "owner", True, Settings())
    assert [item["id"] for item in items] == (["function_not_idempotent"] if wrong else [])


@pytest.mark.parametrize("pin", ["month := now() AT TIME ZONE 'UTC';", "PERFORM set_config('TimeZone', 'UTC', true);", "SET LOCAL TIME ZONE 'UTC';"])
def test_functions_that_pin_their_zone_inside(pin: str) -> None:
    definition = GOOD.replace(" SET \"TimeZone\" TO 'UTC'\n", "").replace("BEGIN", "BEGIN " + pin)
    assert judge_function(definition, "owner", True, Settings()) == []


def test_no_function() -> None:
    assert [(item["id"], item["severity"]) for item in judge_function("", "", False, Settings())] == [("function_missing", "info")]
    wanted = Settings(replace_function=True)
    assert [step.why for step in plan_function("audit", [TABLE], "o", "", "", False, wanted)] == ["function_missing: no such function"]
    assert plan_function("audit", [TABLE], "o", "", "", False, replace(wanted, maintenance_function="")) == []


def as_shown(text: str) -> str:
    """Return the text of a function as pg_get_functiondef shows it."""
    header, body = split_function(text)
    zone = header.split("timezone = ")[1].split("\n")[0]
    head = GOOD.partition("AS $")[0].replace("'UTC'", zone)
    return f"{head} SET client_min_messages TO 'warning'\nAS $function${body}$function$\n"


def test_the_function_that_is_put_there() -> None:
    text = function_text("audit", [TABLE, "fhir_rejected_submissions"], "Asia/Dhaka", 6)
    for part_of in (
        'FUNCTION "audit"."create_next_month_partitions"() RETURNS void',
        "SECURITY DEFINER",
        "SET search_path = pg_catalog, pg_temp",
        "SET timezone = 'Asia/Dhaka'",
        "ARRAY['audit_events', 'fhir_rejected_submissions']",
        "IN 0..6 LOOP",
        "CREATE TABLE IF NOT EXISTS",
    ):
        assert part_of in text
    dhaka = Settings(time_zone="Asia/Dhaka", replace_function=True)
    assert judge_function(as_shown(text), "owner", True, dhaka) == []
    tables = [TABLE, "fhir_rejected_submissions"]
    assert plan_function("audit", tables, "owner", as_shown(text), "owner", True, dhaka) == []
    # It is ours: what it is made of has changed.
    for settings, names in ((replace(dhaka, months_ahead=7), tables), (dhaka, tables[:1])):
        steps = plan_function("audit", names, "owner", as_shown(text), "owner", True, settings)
        assert [step.why for step in steps] == ["it was written for other tables or months"]
    # The site's own is left alone as long as it is right.
    assert plan_function("audit", tables, "owner", GOOD, "owner", True, Settings(replace_function=True)) == []


def test_the_function_with_names_that_need_quotes() -> None:
    name = "Ev'ents\"$function$\\" + "অ" * 14
    text = function_text('A"u', [name], "UTC", 6)
    assert '"A""u"."create_next_month_partitions"()' in text
    assert "ARRAY[E'Ev''ents\"$function$\\\\অ" in text
    assert "AS $function_$" in text
    assert split_function(text)[1].count(_partitions.stem_of(name)[-8:]) == 1


# --- any state -----------------------------------------------------------------------------------------------------


@st.composite
def states(draw: st.DrawFn) -> tuple[Site, datetime, Settings]:
    """Months of a zone with some missing, some detached, some pending, some odd, perhaps a default partition with rows."""
    zone_text = draw(st.sampled_from([*ZONES, *ODD_ZONES]))
    zone = zone_of(zone_text)
    now = utc(2026, 11, 1) + timedelta(minutes=draw(st.integers(0, 60 * 24 * 1200)))
    start = Month.of(now, zone).plus(draw(st.integers(-14, 3)))
    partitions, tables = [], []
    edge = start.start(zone)
    for number in range(draw(st.integers(0, 20))):
        at = start.plus(number)
        lower, upper = max(edge, at.start(zone)), at.next().start(zone)
        what = draw(st.sampled_from(["month", "month", "month", "month", "missing", "partition_detached", "pending", "odd"]))
        name = name_of(TABLE, at)
        if what == "odd":
            upper = lower + draw(st.sampled_from([timedelta(days=3), timedelta(days=45), timedelta(hours=700)]))
            name = draw(st.sampled_from([name, f"odd{number}"]))
        if what == "partition_detached":
            fits = draw(st.booleans())
            tables.append(Loose(number, "audit", name, fits, "" if fits else "it has no column id"))
        if what in ("month", "pending", "odd") and lower < upper:
            partitions.append(part(name, lower, upper, detach_pending=what == "pending"))
            edge = upper
    rows: list[datetime] = []
    if draw(st.booleans()):
        partitions = [*(replace(item, detach_pending=False) for item in partitions), DEFAULT]
        keys = draw(st.lists(st.integers(-400, 400), max_size=5))
        taken = [(item.lower, item.upper) for item in partitions if item.lower and item.upper]
        rows = [now + timedelta(days=key) for key in keys]
        rows = [key for key in rows if not any(lower <= key < upper for lower, upper in taken)]
    settings = Settings(months_ahead=draw(st.integers(1, 14)), time_zone=zone_text, alarm_days=0, attach_detached=draw(st.booleans()))
    return Site(parent(*partitions, loose=tuple(tables)), tuple(rows)), now, settings


@given(states())
@examples(max_examples=300, deadline=None)
def test_any_state_becomes_whole(state: tuple[Site, datetime, Settings]) -> None:
    """No step is refused by the server, the second run does nothing, and what is still missing has a finding that says why."""
    site, now, settings = state
    before = findings(site.parent, server(now), now, settings)
    site.run(now, settings)
    assert site.run(now, settings) == []
    zone = zone_of(settings.time_zone)
    errors = site.errors(now, settings)
    gaps = coverage(site.parent, now, settings.months_ahead, zone).gaps
    if not any(item["id"] in ("name_taken", "partition_detached", "partition_overlap") for item in errors):
        assert gaps == ()
        assert {item["id"] for item in errors} <= {"default_rows"}
    after = findings(site.parent, server(now), now, settings)
    if gaps:
        assert {item["id"] for item in after} & {"coverage_gap", "horizon_short"}
        assert {item["id"] for item in before} & {"coverage_gap", "horizon_short"}
    assert all(item["hint"] for item in [*before, *after])


@given(st.lists(st.integers(0, 59), unique=True), st.sampled_from([*ZONES, *ODD_ZONES]), st.integers(0, 60 * 24 * 400))
@examples(max_examples=100, deadline=None)
def test_any_months_that_are_missing_come_back(gone: list[int], zone_text: str, minutes: int) -> None:
    zone = zone_of(zone_text)
    months = [Month(2025, 1).plus(number) for number in range(60) if number not in gone]
    site = Site(parent(*(part(name_of(TABLE, item), item.start(zone), item.next().start(zone)) for item in months)))
    now = utc(2026, 11, 1) + timedelta(minutes=minutes)
    local = now.astimezone(zone)
    settings = Settings(time_zone=zone_text)
    site.run(now, settings)
    check(site.table, zone, local.year, local.month)
    assert site.errors(now, settings) == []


def test_ten_thousand_partitions() -> None:
    """Neither the plan nor the findings compare each with each other one."""
    start = Month(1200, 1)
    partitions = [part(name_of(TABLE, item), item.start(UTC), item.next().start(UTC)) for item in (start.plus(number) for number in range(10_000))]
    table = parent(*partitions[:9990], *partitions[9991:])
    now = utc(2026, 11, 5)
    assert actions(plan(table, server(now), Settings())) == [("create", partitions[9990].name)]
    assert set(found(table, now)) == {"coverage_gap"}
