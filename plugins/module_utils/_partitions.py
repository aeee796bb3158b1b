# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Monthly partitions: which there are, which are missing at a time, and what has to be done about it. All pure.

Coverage is judged by time, never by name. Moments are aware datetimes in UTC. Keys without a zone (timestamp, date) are read
as if their clock were UTC's; Settings.time_zone then only says which month it is now.
A bound that datetime can't hold (beyond the years 1 to 9999) is as good as MINVALUE or MAXVALUE.
"""

from __future__ import annotations

import hashlib
import re
import zoneinfo
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from itertools import islice
from typing import Any, Optional

from ._findings import finding

UTC = timezone.utc
# What datetime holds, less the months at its ends, so that no zone's offset leads out of it.
EARLIEST = datetime(1, 2, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 1, tzinfo=UTC)
MAX_NAME = 63  # bytes
KEY_TYPES = ("timestamptz", "timestamp", "date")
FUNCTION = "create_next_month_partitions"
DAY = timedelta(days=1)
# A longer hole is filled for the wanted months only: it comes from a stray row or a slip, and nobody wants hundreds of empty tables.
LONGEST_HOLE = 120
# How far beyond the wanted months partitions are made for rows of the default partition.
DEFAULT_REACH = 12
# age(relfrozenxid): autovacuum has long been due at the first (autovacuum_freeze_max_age is 200 million), at the second
# vacuum leaves all else aside to save the server (vacuum_failsafe_age).
OLD_AGE = 400_000_000
FAILSAFE_AGE = 1_600_000_000
MANY_ROWS = 100_000
# Of one month, while writers wait. So many rows of the audit trail, with their indexes, took 6 seconds on two busy cores.
MOVE_LIMIT = 100_000
# How many months of one hole are named.
MOST_MONTHS = 1200

_MARK = "-- Written by dghs.bd_fhir.audit_partition."
_BOUND = r"\((MINVALUE|MAXVALUE|'[^']*')\)"
_RANGE = re.compile(r"FOR VALUES FROM %s TO %s\Z" % (_BOUND, _BOUND))
_TIME = re.compile(
    r"(?P<year>[0-9]{4,})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[ T](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,6}))?)?"
    r"(?P<sign>[+-])?(?P<offset>[0-9]{2}(?::?[0-9]{2}){0,2})?(?P<bc> BC)?\Z"
)
# _2027_03, and how others name them: _y2027m03, _p2027_03, 202703, 2027-03, _p20270301.
_MONTH = re.compile(r"(?<![0-9])(?P<year>[0-9]{4})[_.m-]?(?P<month>0[1-9]|1[0-2])(?:[_.d-]?01)?\Z")
_ACL = re.compile(r'(?P<grantee>(?:"(?:[^"]|"")*"|[^="/])*)=(?P<rights>[A-Za-z*]*)/')
# A function that is prepared for a month that is there, and one that does not take its session's zone.
_LOOKS_FIRST = re.compile(r"to_regclass|pg_class|pg_tables|pg_inherits|information_schema|duplicate_table|when\s+others|if\s+not\s+exists\s*\(")
_PINS_ZONE = re.compile(r"at\s+time\s+zone|timezone\s*\(|time\s+zone\s+(?:to\s+)?'|set_config\s*\(\s*'timezone'|set\s+(?:local\s+)?timezone")
_RIGHTS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "D": "TRUNCATE", "x": "REFERENCES", "t": "TRIGGER", "m": "MAINTAIN"}


class PartitionError(Exception):
    """A setting can't be used. The text is complete."""


@dataclass(frozen=True)
class Partition:
    """One attached partition. lower None is MINVALUE, upper None is MAXVALUE; both are None for the default partition."""

    oid: int
    schema: str
    name: str
    kind: str = "table"  # table, partitioned, foreign
    lower: Optional[datetime] = None
    upper: Optional[datetime] = None
    bound: str = ""  # as pg_get_expr shows it
    default: bool = False
    detach_pending: bool = False
    owner: str = ""
    acl: tuple[str, ...] = ()  # coalesce(relacl, acldefault('r', relowner))::text[]; () is as NULL
    replica_identity: str = "default"  # default, full, nothing, index
    comment: str = ""
    bytes: int = 0  # with indexes and TOAST
    rows: float = 0  # an estimate
    has_children: bool = False
    # Both bounds lie beyond what datetime holds (parse_bound says so): it takes no part in coverage.
    opaque: bool = False
    dead: float = 0  # n_dead_tup
    age: int = 0  # age(relfrozenxid)
    # Whether a vacuum has ever been there, by its statistics or because relallvisible > 0; None: not known.
    vacuumed: Optional[bool] = None
    referenced_by: tuple[str, ...] = ()  # foreign keys into it, in words ('fk_name of schema.table')


@dataclass(frozen=True)
class Loose:
    """A table of the parent's schema that looks like a month of it and is not attached to anything."""

    oid: int
    schema: str
    name: str
    fits: bool  # columns, types, NOT NULL, constraints: it could be attached
    misfit: str = ""  # in words, when it does not
    rows_span: Optional[tuple[datetime, datetime]] = None  # oldest and newest key, None when it is empty
    bytes: int = 0


@dataclass(frozen=True)
class Parent:
    """One table that should be partitioned by month. oid 0: there is no such table; strategy '': it is not partitioned."""

    oid: int
    schema: str
    name: str
    strategy: str = "range"  # range, list, hash
    keys: tuple[str, ...] = ()
    key_type: str = "timestamptz"  # timestamptz, timestamp, date, or what else it is
    owner: str = ""
    acl: tuple[str, ...] = ()
    replica_identity: str = "default"
    comment: str = ""
    partitions: tuple[Partition, ...] = ()
    default_rows: Optional[int] = None  # None: no default partition
    default_span: Optional[tuple[datetime, datetime]] = None  # oldest and newest key in it
    # lower, upper and number of rows of the months that would be made. Only counted where default_rows is more than move_limit.
    default_counts: tuple[tuple[datetime, datetime, int], ...] = ()
    loose: tuple[Loose, ...] = ()
    # Names of all other relations and types of the schema that end like a month: a partition can't have one of them.
    taken: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Server:
    """What one server says of itself."""

    version: int
    in_recovery: bool
    now: datetime
    time_zone: str = "UTC"
    user: str = ""
    is_superuser: bool = False


@dataclass(frozen=True)
class Settings:
    """What is wanted. check_settings() refuses what can't be."""

    months_ahead: int = 6
    time_zone: str = "UTC"  # '': that of the bounds that are there
    alarm_days: float = 45
    maintenance_function: str = "create_next_month_partitions"
    attach_detached: bool = True
    move_default_rows: bool = True
    move_limit: int = MOVE_LIMIT  # of one month; 0: no bound, neither of rows nor of the time for which writers wait
    replace_function: bool = False
    repair: bool = True  # owner, grants, replica identity, comments
    max_bytes: int = 10 << 30  # of one partition
    retention: bool = False  # whether partitions are to be archived and dropped: foreign keys into them matter then


@dataclass(frozen=True)
class Gap:
    """A time for which there is no partition. trailing: no partition comes after it."""

    lower: datetime
    upper: datetime
    months: tuple[str, ...]  # 2027-03 and so on, the first MOST_MONTHS of them
    trailing: bool = False


@dataclass(frozen=True)
class Coverage:
    """How far the attached partitions reach. The default partition counts for nothing, one with a pending detach neither."""

    covered_from: Optional[datetime]  # of the first partition; None: MINVALUE, or no partition at all
    covered_until: Optional[datetime]  # the first moment from now on without a partition; None: there is none
    days_left: float  # until then
    wanted_until: datetime
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True)
class Grant:
    """One change of rights on a table. grantee '' is PUBLIC. Those with revoke come first."""

    grantee: str
    privileges: tuple[str, ...]  # SELECT, INSERT, …
    revoke: bool = False
    grantable: bool = False  # WITH GRANT OPTION


@dataclass(frozen=True)
class Step:
    """One change. Everything of a step belongs into one transaction, unless sql_kind is 'alone'.

    finalize_detach: ALTER TABLE table DETACH PARTITION partition FINALIZE (sql_kind alone).
    attach: partition is a table of partition_schema; it becomes a partition for lower to upper, then gets owner and so on.
    create: a new table for lower to upper with the parent's owner, acl, replica_identity and comment.
    move_default_rows: under a lock on the parent: a new table (existing: the table that is there), the rows of the default partition
      (default_partition) from lower to upper moved into it, then attached; owner and so on as for create.
    set_owner, set_grants, set_replica_identity, set_comment: owner, acl, replica_identity or comment of the partition become these.
    replace_function: sql is the whole text.
    """

    action: str
    table: str
    partition: str = ""
    lower: Optional[datetime] = None
    upper: Optional[datetime] = None
    why: str = ""
    sql_kind: str = "transaction"  # or alone: outside of a transaction block
    schema: str = ""
    partition_schema: str = ""
    key_type: str = "timestamptz"
    keys: tuple[str, ...] = ()
    owner: str = ""
    acl: tuple[str, ...] = ()
    replica_identity: str = ""
    comment: str = ""
    existing: bool = False
    bounded: bool = False  # whether it is given up when writers would wait long
    default_partition: str = ""
    default_schema: str = ""
    sql: str = ""


@dataclass(frozen=True, order=True)
class Month:
    """A month of the calendar."""

    year: int
    month: int

    def __str__(self) -> str:
        return "%04d-%02d" % (self.year, self.month)

    def next(self) -> Month:
        return self.plus(1)

    def previous(self) -> Month:
        return self.plus(-1)

    def plus(self, months: int) -> Month:
        """Return the month that comes so many months later."""
        number = self.year * 12 + self.month - 1 + months
        return Month(number // 12, number % 12 + 1)

    def start(self, zone: tzinfo) -> datetime:
        """Return its first moment in this zone, in UTC, as PostgreSQL reads the date in that zone. Raises PartitionError."""
        if not (EARLIEST.year, EARLIEST.month) <= (self.year, self.month) <= (LATEST.year, LATEST.month):
            raise PartitionError("The month %s lies beyond the years 1 to 9999, which is as far as partitions can be planned." % self)
        return _start(self.year, self.month, zone)

    @classmethod
    def of(cls, moment: datetime, zone: tzinfo) -> Month:
        """Return the month that a moment belongs to."""
        if not EARLIEST + DAY <= moment < LATEST - DAY:
            moment = moment.astimezone(UTC)
            return cls(moment.year, moment.month)
        local = moment.astimezone(zone)
        found = cls(local.year, local.month)
        # Only where clocks are put on or back over a month's first midnight.
        if moment < found.start(zone):
            return found.previous()
        return found.next() if moment >= found.next().start(zone) else found


@dataclass(frozen=True)
class Bound:
    """What parse_bound read. opaque: it takes no part in coverage."""

    lower: Optional[datetime] = None
    upper: Optional[datetime] = None
    default: bool = False
    opaque: bool = False


@lru_cache(maxsize=1 << 16)
def _start(year: int, month: int, zone: tzinfo) -> datetime:
    local = datetime(year, month, 1, tzinfo=zone)
    # Where clocks are put on over midnight, PostgreSQL counts with the offset before, where they are put back, with that after.
    later = local.replace(fold=1)
    ambiguous = (local.utcoffset() or timedelta()) > (later.utcoffset() or timedelta())
    return (later if ambiguous else local).astimezone(UTC)


LAST_MONTH = Month(LATEST.year, LATEST.month)


# --- settings, zones -----------------------------------------------------------------------------------------------


def check_settings(settings: Settings) -> None:
    """Raises PartitionError."""
    if not 1 <= settings.months_ahead <= 1200:
        raise PartitionError("months_ahead is %s. It takes 1 to 1200 months." % settings.months_ahead)
    if not 0 <= settings.move_limit <= 1 << 62:
        raise PartitionError("move_limit is %s. It takes a number of rows, or 0 for no bound." % settings.move_limit)
    if not settings.alarm_days >= 0:
        raise PartitionError("alarm_days is %s. It takes 0 or more days." % settings.alarm_days)
    if settings.time_zone:
        zone_of(settings.time_zone)


def zone_of(name: str) -> tzinfo:
    """Return a time zone. Raises PartitionError for one that is not known here."""
    if name in ("UTC", "Etc/UTC"):
        return UTC
    # Names that mean another zone on another machine, and clocks that count leap seconds, which PostgreSQL's do not.
    if name not in ("localtime", "posixrules") and not name.startswith(("right/", "posix/")):
        try:
            return zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            pass
    known = sorted(zoneinfo.available_timezones())
    if not known:
        raise PartitionError(
            "The time zone %s can't be looked up: this machine has no time zone data. Install the package tzdata "
            "(for Python alone: pip install tzdata), or use UTC, which needs none." % name
        )
    close = [item for item in known if item.lower() == name.lower()]
    raise PartitionError(
        "There is no time zone %s. %s"
        % (name, "Write %s." % close[0] if close else "Take a name as in Asia/Dhaka or UTC; old names are in the package tzdata-legacy.")
    )


def zone_name(zone: tzinfo) -> str:
    """Return the name of a zone of zone_of or resolve_zone."""
    return getattr(zone, "key", "") or str(zone)


def same_zone(first: str, second: str) -> bool:
    """Return whether months begin at the same moments in two zones, as far as the years 2020 to 2040 tell."""
    try:
        one, other = zone_of(first), zone_of(second)
    except PartitionError:
        return first.lower() == second.lower()
    return all(Month(2020, 1).plus(number).start(one) == Month(2020, 1).plus(number).start(other) for number in range(240))


def resolve_zone(parent: Parent, server: Server, settings: Settings) -> tzinfo:
    """Return the zone whose months count: the one that is asked for, or that of the bounds that are there. Raises PartitionError."""
    if settings.time_zone:
        return zone_of(settings.time_zone)
    if parent.key_type != "timestamptz":
        return UTC
    # The latest ones, should there be several.
    bounds = _bounds(parent)
    while bounds:
        zone = UTC if all(_starts_month(item, UTC) for item in bounds) else _zone_behind(bounds, server)
        if zone is not None:
            return zone
        bounds = bounds[(len(bounds) + 1) // 2 :]
    return UTC


def _clock(parent: Parent, now: datetime, zone: tzinfo) -> tuple[tzinfo, datetime]:
    """Return the zone of the bounds and the time of the keys: without a zone in the key both are those of a clock on the wall."""
    if parent.key_type == "timestamptz":
        return zone, now.astimezone(UTC)
    return UTC, now.astimezone(zone).replace(tzinfo=UTC)


def _starts_month(moment: datetime, zone: tzinfo) -> bool:
    return Month.of(moment, zone).start(zone) == moment


def _offset_behind(moment: datetime) -> Optional[timedelta]:
    """Return the offset of the zones in which this is the start of a month."""
    month = Month.of(moment, UTC)
    for start in (month.start(UTC), month.next().start(UTC)):
        if abs(start - moment) <= timedelta(hours=14):
            return start - moment
    return None


def _zone_behind(moments: Sequence[datetime], server: Server) -> Optional[tzinfo]:
    """Return a zone in which all of these are starts of months: that of the server rather than another one."""
    offsets = {_offset_behind(item) for item in moments}
    if not moments or None in offsets:
        return None
    hours = {-(item // timedelta(hours=1)) for item in offsets if item is not None and not item % timedelta(hours=1)}
    fixed = ["Etc/GMT%+d" % item for item in hours] if len(hours) == len(offsets) == 1 else []
    for name in (server.time_zone, "Asia/Dhaka", *fixed, *sorted(zoneinfo.available_timezones())):
        try:
            zone = zone_of(name)
        except PartitionError:
            continue
        if all(_starts_month(item, zone) for item in moments):
            return zone
    offset = offsets.pop()
    return timezone(offset) if offset is not None and not offsets else None


# --- names and bounds ----------------------------------------------------------------------------------------------


def name_of(parent_name: str, month: Month) -> str:
    """Return what the partition of a month is called: the table's name and _YYYY_MM, in no more bytes than a name may have."""
    return stem_of(parent_name) + "_%04d_%02d" % (month.year, month.month)


def stem_of(parent_name: str) -> str:
    """Return what the names of all partitions of a table begin with: its name, or the start of it with a digest of the whole."""
    room = MAX_NAME - len("_YYYY_MM")
    encoded = parent_name.encode("utf-8")
    if len(encoded) <= room:
        return parent_name
    digest = "_" + hashlib.sha256(encoded).hexdigest()[:8]
    return encoded[: room - len(digest)].decode("utf-8", "ignore") + digest


def month_in(name: str) -> Optional[Month]:
    """Return the month that a name ends with."""
    match = _MONTH.search(name)
    return Month(int(match["year"]), int(match["month"])) if match and int(match["year"]) else None


def parse_bound(text: str) -> Bound:
    """Read pg_get_expr(relpartbound, oid) of a session with TimeZone UTC and DateStyle ISO. Never raises: what it can't read is opaque."""
    if text == "DEFAULT":
        return Bound(default=True)
    match = _RANGE.match(text)
    if not match:
        return Bound(opaque=True)
    lower, upper = (_end(item.strip("'")) for item in match.groups())
    if lower is None or upper is None or lower >= LATEST or upper <= EARLIEST:
        return Bound(opaque=True)
    return Bound(lower if lower > EARLIEST else None, upper if upper < LATEST else None)


def parse_time(text: Optional[str]) -> Optional[datetime]:
    """Read a date or timestamp of such a session (with offset, or without: UTC). None for what datetime can't hold."""
    found = _end(text or "")
    return found if found is not None and EARLIEST < found < LATEST else None


def _end(text: str) -> Optional[datetime]:
    """Return a moment, cut to EARLIEST and LATEST; None for a text that is none."""
    if text in ("MINVALUE", "-infinity"):
        return EARLIEST
    if text in ("MAXVALUE", "infinity"):
        return LATEST
    match = _TIME.match(text)
    if not match or bool(match["sign"]) != bool(match["offset"]):
        return None
    if match["bc"]:
        return EARLIEST
    if int(match["year"]) > LATEST.year:
        return LATEST
    hours, minutes, seconds = ([int(item) for item in re.findall("[0-9]{2}", match["offset"] or "")] + [0, 0, 0])[:3]
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds) * (-1 if match["sign"] == "-" else 1)
    year, month, day, hour, minute, second = (int(match[item] or 0) for item in ("year", "month", "day", "hour", "minute", "second"))
    try:
        moment = datetime(year, month, day, hour, minute, second, int((match["fraction"] or "").ljust(6, "0")), UTC)
        return min(max(moment - offset, EARLIEST), LATEST)
    except ValueError:
        return None
    except OverflowError:
        return EARLIEST if year == 1 else LATEST


def bound_text(moment: Optional[datetime], key_type: str) -> Optional[str]:
    """Return a bound as a literal's text for the key's type, whatever the session's zone; None for MINVALUE and MAXVALUE."""
    if moment is None:
        return None
    plain = moment.astimezone(UTC).replace(tzinfo=None)
    if key_type == "date":
        return plain.date().isoformat()
    return plain.isoformat(" ") + ("+00" if key_type == "timestamptz" else "")


def _words(moment: Optional[datetime], key_type: str = "timestamptz") -> str:
    if moment is None:
        return "without an end"
    return str(bound_text(moment, key_type)).replace("+00", " UTC")


# --- rights --------------------------------------------------------------------------------------------------------


def parse_acl(acl: Iterable[str], owner: str, version: int) -> dict[str, dict[str, bool]]:
    """Return the rights of a table's acl: grantee ('' is PUBLIC) -> right -> whether with grant option. Empty: the owner has all."""
    found: dict[str, dict[str, bool]] = {}
    items = list(acl)
    for item in items:
        match = _ACL.match(item)
        if not match:
            continue
        grantee = match["grantee"]
        if grantee.startswith('"'):
            grantee = grantee[1:-1].replace('""', '"')
        rights = found.setdefault(grantee, {})
        for letter, star in re.findall(r"([A-Za-z])(\*?)", match["rights"]):
            word = _RIGHTS.get(letter, letter)
            rights[word] = rights.get(word, False) or bool(star)
    if not items:
        found[owner] = {word: False for letter, word in _RIGHTS.items() if letter != "m" or version >= 170000}
    return found


def grant_changes(acl: Sequence[str], owner: str, wanted_acl: Sequence[str], wanted_owner: str, version: int) -> list[Grant]:
    """Return what leads from the rights of a table to those of another. owner: of the table now; the change to wanted_owner comes first."""
    if (tuple(acl), owner) == (tuple(wanted_acl), wanted_owner):
        return []
    have, want = parse_acl(acl, owner, version), parse_acl(wanted_acl, wanted_owner, version)
    if owner != wanted_owner and owner in have:
        # What ALTER TABLE … OWNER TO does with them.
        for word, grantable in have.pop(owner).items():
            rights = have.setdefault(wanted_owner, {})
            rights[word] = rights.get(word, False) or grantable
    for rights in (have.get(wanted_owner, {}), want.get(wanted_owner, {})):
        # The owner can grant anyhow.
        rights.update(dict.fromkeys(rights, False))
    changes = []
    for grantee in sorted({*have, *want}):
        present, wanted = have.get(grantee, {}), want.get(grantee, {})
        gone = sorted(word for word in present if word not in wanted or (present[word] and not wanted[word]))
        if gone:
            changes.append(Grant(grantee, tuple(gone), revoke=True))
        for grantable in (False, True):
            new = sorted(word for word in wanted if wanted[word] is grantable and (word in gone or present.get(word) is not grantable))
            if new:
                changes.append(Grant(grantee, tuple(new), grantable=grantable))
    return sorted(changes, key=lambda item: not item.revoke)


def _rights_words(changes: Iterable[Grant]) -> str:
    texts = []
    for item in changes:
        words = ", ".join(item.privileges) + (" with grant option" if item.grantable else "")
        texts.append("%s for %s %s" % (words, item.grantee or "PUBLIC", "to be taken" if item.revoke else "to be given"))
    return "; ".join(texts)


# --- coverage ------------------------------------------------------------------------------------------------------


def _ranges(parent: Parent) -> list[Partition]:
    return [item for item in parent.partitions if not item.default and not item.opaque]


def _bounds(parent: Parent) -> list[datetime]:
    return sorted({end for item in _ranges(parent) for end in (item.lower, item.upper) if end is not None and EARLIEST < end < LATEST})


def _spans(parent: Parent) -> list[tuple[datetime, datetime]]:
    """Return the times that take rows, in order, joined where one begins at the other's end."""
    spans: list[tuple[datetime, datetime]] = []
    attached = [item for item in _ranges(parent) if not item.detach_pending]
    for lower, upper in sorted((max(item.lower or EARLIEST, EARLIEST), min(item.upper or LATEST, LATEST)) for item in attached):
        if spans and lower <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], upper))
        else:
            spans.append((lower, upper))
    return spans


def _less(lower: datetime, upper: datetime, spans: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Return what these spans, which are in order, leave free."""
    free = []
    for start, end in spans:
        if lower < min(start, upper):
            free.append((lower, min(start, upper)))
        lower = max(lower, end)
    return [*free, (lower, upper)] if lower < upper else free


def _months(lower: datetime, upper: datetime, zone: tzinfo) -> Iterator[tuple[Month, datetime, datetime]]:
    """Cut a time where months begin."""
    month = Month.of(lower, zone)
    while lower < upper:
        end = upper if month >= LAST_MONTH else min(month.next().start(zone), upper)
        yield month, lower, end
        lower, month = end, month.next()


def _count(lower: datetime, upper: datetime, zone: tzinfo) -> int:
    """Return in how many months a time lies."""
    first, last = Month.of(lower, zone), Month.of(upper - timedelta(microseconds=1), zone)
    return (last.year - first.year) * 12 + last.month - first.month + 1


def _wanted(now: datetime, months_ahead: int, zone: tzinfo) -> tuple[datetime, datetime]:
    month = Month.of(now, zone)
    return month.start(zone), month.plus(months_ahead + 1).start(zone)


def coverage(parent: Parent, now: datetime, months_ahead: int, zone: tzinfo) -> Coverage:
    """Return how far the partitions reach. Raises PartitionError."""
    zone, now = _clock(parent, now, zone)
    first, wanted = _wanted(now, months_ahead, zone)
    spans = _spans(parent)
    lower = min([first, *(item[0] for item in spans)])
    last = max((item[1] for item in spans), default=EARLIEST)
    gaps = []
    for start, end in _less(lower, max(wanted, last), spans):
        months = tuple(str(item[0]) for item in islice(_months(start, end, zone), MOST_MONTHS))
        gaps.append(Gap(start, end, months, trailing=start >= last))
    until = next((upper for start, upper in spans if start <= now < upper), now)
    return Coverage(
        covered_from=spans[0][0] if spans and spans[0][0] > EARLIEST else None,
        covered_until=until if until < LATEST else None,
        days_left=(until - now) / DAY,
        wanted_until=wanted,
        gaps=tuple(gaps),
    )


# --- the layout: what is missing, and what can be made -------------------------------------------------------------


@dataclass
class _Piece:
    """A time without a partition, and the table that is to take it."""

    month: Month
    lower: datetime
    upper: datetime
    name: str
    whole: bool = True  # the whole month
    loose: Optional[Loose] = None  # a table that is there and is to be attached
    moves: bool = False  # the default partition may have rows of it
    back: bool = False  # it was a partition until its detach was begun
    obstacle: str = ""  # the id of what is in the way
    reason: str = ""  # and in words

    def refuse(self, obstacle: str, reason: str) -> None:
        """It can't be made."""
        self.obstacle, self.reason = obstacle, reason


@dataclass(frozen=True)
class _Foreign:
    """Bounds that are no starts of months in the wanted zone, and are in another one."""

    zone: tzinfo
    bounds: frozenset[datetime]
    all: bool  # all bounds that are starts of months somewhere are so in that zone


class _Layout:
    """What is missing from one table at a time, and what can be made of it."""

    def __init__(self, parent: Parent, server: Server, now: datetime, settings: Settings) -> None:
        self.parent = parent
        self.server = server
        self.settings = settings
        self.asked = resolve_zone(parent, server, settings)
        self.coverage = coverage(parent, now, settings.months_ahead, self.asked)
        self.zone, self.now = _clock(parent, now, self.asked)
        self.spans = _spans(parent)
        self.off = frozenset(item for item in _bounds(parent) if not _starts_month(item, self.zone))
        self.foreign = self._foreign()
        self.pending = [item for item in parent.partitions if item.detach_pending]
        self.default = next((item for item in parent.partitions if item.default), None)
        self.names = {item.name for item in parent.partitions if item.schema == parent.schema}
        self.left_out: list[tuple[datetime, datetime]] = []  # holes that are too long to be filled
        self.pieces = self._pieces()

    def _foreign(self) -> Optional[_Foreign]:
        if self.parent.key_type != "timestamptz" or not self.off:
            return None
        somewhere = [item for item in _bounds(self.parent) if _offset_behind(item) is not None]
        off = self.off.intersection(somewhere)
        if not off:
            return None
        zone = _zone_behind(somewhere, self.server)
        if zone is not None:
            return _Foreign(zone, off, True)
        zone = _zone_behind(sorted(off), self.server)
        return None if zone is None else _Foreign(zone, off, False)

    # - pieces

    def _pieces(self) -> list[_Piece]:
        pieces = []
        for lower, upper in self._holes():
            back = [item for item in self.pending if self._comes_back(item, lower, upper)]
            pieces += [self._piece_of(item) for item in back]
            spans = sorted((item.lower or EARLIEST, item.upper or LATEST) for item in back)
            for start, end in _less(lower, upper, spans):
                pieces += self._filled(start, end)
        for piece in pieces:
            self._judge(piece)
        # What is written to now and next comes first.
        return sorted(pieces, key=lambda item: (item.upper <= self.now, item.lower))

    def _holes(self) -> list[tuple[datetime, datetime]]:
        """Return the times that are to be filled."""
        first, wanted = _wanted(self.now, self.settings.months_ahead, self.zone)
        lower, upper = first, wanted
        if self.spans:
            lower, upper = min(lower, self.spans[0][0]), max(upper, self.spans[-1][1])
        if self.parent.default_rows and self.parent.default_span and self.settings.move_default_rows:
            lower, upper = self._reach(lower, upper, *self.parent.default_span)
        holes = []
        for start, end in _less(lower, upper, self.spans):
            if _count(start, end, self.zone) <= LONGEST_HOLE:
                holes.append((start, end))
                continue
            kept = [(max(start, first), min(end, wanted))] if start < wanted and first < end else []
            holes += kept
            self.left_out += _less(start, end, kept)
        return holes

    def _reach(self, lower: datetime, upper: datetime, oldest: datetime, newest: datetime) -> tuple[datetime, datetime]:
        """Take in the months of rows of the default partition that are not too far away."""
        if EARLIEST < oldest < lower and Month.of(oldest, self.zone).plus(DEFAULT_REACH) >= Month.of(lower, self.zone):
            lower = Month.of(oldest, self.zone).start(self.zone)
        if upper <= newest < LATEST and Month.of(upper, self.zone).plus(DEFAULT_REACH) > Month.of(newest, self.zone):
            upper = Month.of(newest, self.zone).next().start(self.zone)
        return lower, upper

    def _comes_back(self, partition: Partition, lower: datetime, upper: datetime) -> bool:
        """Whether a partition with a pending detach is to be attached again: its time would be a hole."""
        if not self.settings.attach_detached or partition.lower is None or partition.upper is None:
            return False
        return lower <= partition.lower and partition.upper <= upper

    def _piece_of(self, partition: Partition) -> _Piece:
        lower, upper = partition.lower or EARLIEST, partition.upper or LATEST
        loose = Loose(partition.oid, partition.schema, partition.name, True, bytes=partition.bytes)
        return _Piece(Month.of(lower, self.zone), lower, upper, partition.name, loose=loose, back=True)

    def _filled(self, lower: datetime, upper: datetime) -> list[_Piece]:
        """Cut a hole into months. A part of one whose name is gone goes to the month beside it."""
        pieces: list[_Piece] = []
        carried: Optional[_Piece] = None
        for month, start, end in _months(lower, upper, self.zone):
            piece = _Piece(month, start, end, name_of(self.parent.name, month))
            piece.whole = start == month.start(self.zone) and end == month.next().start(self.zone)
            self._name(piece)
            if carried is not None:
                if piece.obstacle:
                    pieces.append(carried)
                else:
                    piece.lower = carried.lower
                carried = None
            if piece.obstacle and not piece.whole:
                if pieces and not pieces[-1].obstacle and end == upper:
                    pieces[-1].upper = end
                else:
                    carried = piece
                continue
            pieces.append(piece)
        return [*pieces, carried] if carried is not None else pieces

    def _name(self, piece: _Piece) -> None:
        """Say whether the table of this piece can have its name, or is there already."""
        exact = next((item for item in self.parent.loose if item.name == piece.name), None)
        if exact is not None:
            piece.loose = exact
            if not exact.fits:
                piece.refuse("partition_detached", "the table %s is not attached and does not fit: %s" % (exact.name, exact.misfit))
            elif not self.settings.attach_detached:
                piece.refuse("partition_detached", "the table %s is not attached, and attach_detached is false" % exact.name)
        elif piece.name in self.names:
            piece.refuse("name_taken", "another partition has the name %s" % piece.name)
        elif piece.name in self.parent.taken:
            piece.refuse("name_taken", "something else in the schema has the name %s" % piece.name)
        else:
            others = [item for item in self.parent.loose if self._month_of(item) == piece.month]
            if self.settings.attach_detached and len(others) == 1 and others[0].fits and self._holds(piece, others[0]):
                piece.loose, piece.name = others[0], others[0].name
        if not piece.obstacle:
            self.names.add(piece.name)

    def _month_of(self, loose: Loose) -> Optional[Month]:
        """Return the month of a table that is surely one of this parent's own."""
        for stem in (self.parent.name, stem_of(self.parent.name)):
            match = _MONTH.search(loose.name[len(stem) :]) if loose.name.startswith(stem) else None
            if match and match.start() <= len("_p"):
                return month_in(loose.name)
        return None

    @staticmethod
    def _holds(piece: _Piece, loose: Loose) -> bool:
        return loose.rows_span is None or (piece.lower <= loose.rows_span[0] and loose.rows_span[1] < piece.upper)

    def _judge(self, piece: _Piece) -> None:
        if piece.obstacle or piece.back:
            return
        if self.foreign is not None and self.foreign.all and self.settings.time_zone:
            piece.refuse("zone_disagrees", "the months that are there begin in %s" % zone_name(self.foreign.zone))
            return
        if piece.loose is not None and not self._holds(piece, piece.loose):
            found = self.span(piece.loose.rows_span)
            piece.refuse("partition_overlap", "the table %s is not attached and has rows of %s" % (piece.loose.name, found))
            return
        span = self.parent.default_span
        piece.moves = bool(self.parent.default_rows) and (span is None or (span[0] < piece.upper and piece.lower <= span[1]))
        if piece.moves and not self.settings.move_default_rows:
            piece.refuse("default_rows", "the default partition has rows of this time, and move_default_rows is false")
        elif piece.moves:
            self._bound(piece)

    def _bound(self, piece: _Piece) -> None:
        """Leave rows where they are that are too many to be moved while writers wait."""
        limit = self.settings.move_limit
        if not limit or (self.parent.default_rows or 0) <= limit:
            return
        count = next((rows for lower, upper, rows in self.parent.default_counts if (lower, upper) == (piece.lower, piece.upper)), None)
        if count is None or count > limit:
            seen = "rows that could not be counted" if count is None else "%d rows" % count
            piece.refuse("move_limit", "the default partition has %s of %s, and move_limit is %d" % (seen, piece.month, limit))
        elif not count:
            piece.moves = False

    # - words

    def words(self, moment: Optional[datetime]) -> str:
        return _words(moment, self.parent.key_type)

    def span(self, span: Optional[tuple[Optional[datetime], Optional[datetime]]]) -> str:
        if span is None:
            return "an unknown time"
        lower = "the beginning" if span[0] is None else self.words(span[0])
        return "%s to %s" % (lower, "the end" if span[1] is None else self.words(span[1]))

    def makes(self, pieces: Sequence[_Piece]) -> str:
        """Say what audit_partition does about these pieces."""
        texts = []
        made = [item.name for item in pieces if not item.obstacle and item.loose is None]
        attached = [item.name for item in pieces if not item.obstacle and item.loose is not None]
        if made:
            texts.append("audit_partition creates %s." % _listed(made))
        if attached:
            texts.append("audit_partition attaches %s." % _listed(attached))
        reasons = list(dict.fromkeys(item.reason for item in pieces if item.obstacle))
        if reasons:
            texts.append("Nothing is created where it can't be: %s. Put that right first." % "; ".join(reasons))
        return " ".join(texts)

    # - steps

    def step(self, action: str, partition: str, why: str, **more: Any) -> Step:
        parent = self.parent
        return Step(
            action=action,
            table=parent.name,
            partition=partition,
            why=why,
            schema=parent.schema,
            **{"partition_schema": parent.schema, "key_type": parent.key_type, "keys": parent.keys, **more},
        )

    def steps(self) -> list[Step]:
        steps = []
        for item in self.pending:
            more = {"partition_schema": item.schema, "lower": item.lower, "upper": item.upper, "sql_kind": "alone"}
            steps.append(self.step("finalize_detach", item.name, "its detach was begun and not finished", **more))
        steps += [self._step_of(item) for item in self.pieces if not item.obstacle]
        if self.settings.repair:
            for item in self.parent.partitions:
                if not item.detach_pending:
                    steps += self.repairs(item)
        return steps

    def _step_of(self, piece: _Piece) -> Step:
        like = {"owner": self.parent.owner, "acl": self.parent.acl, "replica_identity": self.parent.replica_identity, "comment": self.parent.comment}
        schema = self.parent.schema if piece.loose is None else piece.loose.schema
        span: dict[str, Any] = {"lower": piece.lower, "upper": piece.upper, "partition_schema": schema, "bounded": bool(self.settings.move_limit)}
        why = "there is no partition for %s" % self.span((piece.lower, piece.upper))
        if piece.moves:
            default = self.default
            names = {"default_partition": default.name, "default_schema": default.schema} if default else {}
            why += ", and the default partition has rows of that time"
            return self.step("move_default_rows", piece.name, why, existing=piece.loose is not None, **names, **span, **like)
        return self.step("create" if piece.loose is None else "attach", piece.name, why, existing=piece.loose is not None, **span, **like)

    def repairs(self, item: Partition) -> list[Step]:
        """Return what makes a partition like its parent."""
        parent, steps = self.parent, []
        if item.owner != parent.owner:
            steps.append(self._repair(item, "set_owner", "its owner is %s" % item.owner, owner=parent.owner))
        changes = grant_changes(item.acl, item.owner, parent.acl, parent.owner, self.server.version)
        if changes:
            steps.append(self._repair(item, "set_grants", "its grants differ: %s" % _rights_words(changes), owner=parent.owner, acl=parent.acl))
        if item.kind != "foreign" and item.replica_identity != parent.replica_identity:
            why = "its replica identity is %s" % item.replica_identity
            steps.append(self._repair(item, "set_replica_identity", why, replica_identity=parent.replica_identity))
        if parent.comment and not item.comment:
            steps.append(self._repair(item, "set_comment", "it has no comment", comment=parent.comment))
        return steps

    def _repair(self, item: Partition, action: str, why: str, **more: Any) -> Step:
        return self.step(action, item.name, why, partition_schema=item.schema, **more)


def _listed(names: Sequence[str], most: int = 6) -> str:
    """Name a few in words."""
    shown = list(names) if len(names) <= most else [*names[: most - 2], "%d more" % (len(names) - most + 1), names[-1]]
    return ", ".join(shown)


# --- plan ----------------------------------------------------------------------------------------------------------


def plan(parent: Parent, server: Server, settings: Settings, now: Optional[datetime] = None) -> list[Step]:
    """Return what has to be done to one table, in order; nothing for one that can't be planned. now: read the clock as if it were then.

    Raises PartitionError.
    """
    return [] if unusable(parent) else _Layout(parent, server, now or server.now, settings).steps()


def moves(parent: Parent, server: Server, settings: Settings, now: datetime) -> list[tuple[datetime, datetime]]:
    """Return the months that rows of the default partition would be moved into if there were no bound. Raises PartitionError."""
    steps = plan(parent, server, replace(settings, move_limit=0), now)
    return [(step.lower, step.upper) for step in steps if step.action == "move_default_rows" and step.lower and step.upper]


# --- findings ------------------------------------------------------------------------------------------------------


def unusable(parent: Parent) -> Optional[dict[str, Any]]:
    """Return why a table can't be planned at all."""
    name = "%s.%s" % (parent.schema, parent.name)
    wanted = "a table that is partitioned by range of one time"
    if not parent.oid:
        return finding("missing_table", "error", name, wanted, "no such table", "Correct the options schema and tables, or create it.")
    if not parent.strategy:
        hint = "Leave it out of tables, or make it a partitioned one by a migration."
        return finding("not_partitioned", "error", name, wanted, "a table without partitions", hint)
    hint = "Leave it out of tables: months need a range of one key, a %s." % ", ".join(KEY_TYPES)
    if parent.strategy != "range":
        return finding("wrong_strategy", "error", name, wanted, "partitioned by %s" % parent.strategy, hint)
    if len(parent.keys) > 1:
        return finding("several_keys", "error", name, wanted, "the keys %s" % ", ".join(parent.keys), hint)
    if parent.key_type not in KEY_TYPES:
        return finding("key_not_time", "error", name, wanted, "the key %s of type %s" % (", ".join(parent.keys), parent.key_type), hint)
    return None


def findings(parent: Parent, server: Server, now: datetime, settings: Settings) -> list[dict[str, Any]]:
    """Return what is wrong with one table, errors first. Raises PartitionError."""
    problem = unusable(parent)
    if problem is not None:
        return [problem]
    found = _Findings(_Layout(parent, server, now, settings)).all()
    return sorted(found, key=lambda item: ("error", "warning", "info").index(item["severity"]))


class _Findings:
    """The findings on one table."""

    def __init__(self, layout: _Layout) -> None:
        self.layout = layout
        self.parent = layout.parent
        self.settings = layout.settings
        self.name = "%s.%s" % (self.parent.schema, self.parent.name)

    def all(self) -> list[dict[str, Any]]:
        """Return them."""
        found = [*self.zone(), *self.gaps(), *self.horizon(), *self.obstacles(), *self.pending(), *self.loose(), *self.default_rows()]
        return [*found, *self.bounds(), *self.names(), *self.likeness(), *self.kinds(), *self.sizes(), *self.vacuum(), *self.references()]

    def grouped(self, id: str, severity: str, expected: str, hint: str, seen: Sequence[tuple[Partition, str]]) -> list[dict[str, Any]]:
        """Build one finding for each text that was found; of several partitions it is one on the table that names them."""
        groups: dict[str, list[Partition]] = {}
        for item, text in seen:
            groups.setdefault(text, []).append(item)
        found = []
        for text, items in groups.items():
            if len(items) == 1:
                found.append(finding(id, severity, "%s.%s" % (items[0].schema, items[0].name), expected, text, hint))
            else:
                names = _listed([item.name for item in items])
                found.append(finding(id, severity, self.name, expected, "%s, for %d partitions: %s" % (text, len(items), names), hint))
        return found

    def single(self, id: str, severity: str, item: Partition, expected: str, found: str, hint: str) -> dict[str, Any]:
        return finding(id, severity, "%s.%s" % (item.schema, item.name), expected, found, hint)

    # - time

    def zone(self) -> list[dict[str, Any]]:
        foreign = self.layout.foreign
        if foreign is None:
            return []
        there, asked = zone_name(foreign.zone), zone_name(self.layout.asked)
        example = min(foreign.bounds)
        shown = "%s (%s, which is %s there)" % (there, self.layout.words(example), example.astimezone(foreign.zone).isoformat(" "))
        expected = "months that begin in %s" % asked
        if foreign.all:
            hint = "Set time_zone to %s, or to '' for the zone of the partitions that are there. Until then no partition is created." % there
            return [finding("zone_disagrees", "error", self.name, expected, "months that begin in %s" % shown, hint)]
        found = "%d of %d bounds are those of months in %s" % (len(foreign.bounds), len(_bounds(self.parent)), shown)
        hint = "audit_partition lets a new partition begin where the one before ends. Find what creates partitions in the other zone, and stop it."
        return [finding("zone_disagrees", "warning", self.name, expected, found, hint)]

    def gaps(self) -> list[dict[str, Any]]:
        layout, found = self.layout, []
        for gap in layout.coverage.gaps:
            if gap.trailing:
                continue
            pieces = [item for item in layout.pieces if item.lower < gap.upper and gap.lower < item.upper]
            left = [item for item in layout.left_out if item[0] < gap.upper and gap.lower < item[1]]
            hint = layout.makes(pieces)
            if left:
                hint += " The rest of it is too long to be filled. Drop the partition that lies apart, or create the months that you need."
            seen = "none for %s (%s)" % (layout.span((gap.lower, gap.upper)), _listed(gap.months))
            severity = "error" if pieces or not left else "warning"
            found.append(finding("coverage_gap", severity, self.name, "a partition for every month", seen, hint.strip()))
        return found

    def horizon(self) -> list[dict[str, Any]]:
        layout, seen = self.layout, self.layout.coverage
        trailing = next((item for item in seen.gaps if item.trailing), None)
        end = trailing.lower if trailing else seen.covered_until or LATEST
        days = max((end - layout.now) / DAY, 0)
        alarm = days < self.settings.alarm_days
        if trailing is None and (not alarm or any(item.lower <= end < item.upper for item in seen.gaps)):
            # A hole is a finding of its own.
            return []
        expected = "partitions until %s, and for %g days at least" % (layout.words(seen.wanted_until), self.settings.alarm_days)
        found = "partitions until %s, %.1f days left" % (layout.words(end), days)
        if not layout.spans:
            found = "no partition"
        if days == 0:
            found += ": rows of now %s" % ("go to the default partition" if layout.default else "are refused")
        hint = layout.makes([item for item in layout.pieces if trailing and item.upper > trailing.lower])
        hint = hint or "Raise months_ahead: %d gives fewer days than alarm_days asks for." % self.settings.months_ahead
        return [finding("horizon_short", "error" if alarm else "warning", self.name, expected, found, hint)]

    def obstacles(self) -> list[dict[str, Any]]:
        found = []
        for piece in self.layout.pieces:
            if piece.obstacle != "name_taken":
                continue
            seen = "no partition for %s: %s" % (self.layout.span((piece.lower, piece.upper)), piece.reason)
            lower, upper = ("'%s'" % bound_text(item, self.parent.key_type) for item in (piece.lower, piece.upper))
            hint = "Rename what has that name. Or create a partition of another name FOR VALUES FROM (%s) TO (%s) yourself." % (lower, upper)
            name = "%s.%s" % (self.parent.schema, piece.name)
            found.append(finding("name_taken", "error", name, "the name to be free for %s" % piece.month, seen, hint))
        return found

    def pending(self) -> list[dict[str, Any]]:
        found = []
        for item in self.layout.pending:
            back = any(piece.back and piece.loose and piece.loose.oid == item.oid for piece in self.layout.pieces)
            hint = "audit_partition finishes the detach and %s." % (
                "attaches it again, because its time would have no partition" if back else "leaves the table as it is: archive or drop it"
            )
            seen = "a detach that was begun and not finished: it is listed for %s and takes no rows" % self.layout.span((item.lower, item.upper))
            found.append(self.single("detach_pending", "error", item, "attached, or detached", seen, hint))
        return found

    def loose(self) -> list[dict[str, Any]]:
        return [self._loose(item) for item in self.parent.loose]

    def _loose(self, item: Loose) -> dict[str, Any]:
        layout = self.layout
        name, expected = "%s.%s" % (item.schema, item.name), "a partition of %s" % self.name
        rows = "rows of %s" % layout.span(item.rows_span) if item.rows_span else "no rows"
        piece = next((each for each in layout.pieces if each.loose is not None and each.loose.oid == item.oid), None)
        if piece is not None and not piece.obstacle:
            seen = "a table of its own with %s, while %s has no partition" % (rows, piece.month)
            hint = "audit_partition attaches it for %s." % layout.span((piece.lower, piece.upper))
            return finding("partition_detached", "error", name, expected, seen, hint)
        if piece is not None:
            seen = "a table of its own with %s, while %s has no partition: %s" % (rows, piece.month, piece.reason)
            hint = "Make it fit, rename it or drop it: as long as it has this name, nothing is created for %s." % piece.month
            if piece.obstacle == "zone_disagrees":
                hint = "Set time_zone right first."
            elif piece.obstacle in ("default_rows", "move_limit"):
                hint = "See default_rows: it is attached once those rows may be moved into it."
            elif item.fits and piece.obstacle == "partition_detached":
                hint = "Set attach_detached to true, or rename it."
            overlaps = piece.obstacle == "partition_overlap"
            return finding("partition_overlap" if overlaps else "partition_detached", "error", name, expected, seen, hint)
        if item.rows_span and any(lower <= item.rows_span[1] and item.rows_span[0] < upper for lower, upper in layout.spans):
            hint = "A query of %s does not see these rows. Copy those that are missing, then archive or drop the table." % self.name
            return finding("partition_overlap", "warning", name, expected, "a table of its own with %s, which other partitions take" % rows, hint)
        hint = "Its time has a partition or is not wanted. Archive or drop it, or attach it with audit_partition_archive."
        return finding("partition_detached", "warning", name, expected, "a table of its own with %s" % rows, hint)

    def default_rows(self) -> list[dict[str, Any]]:
        layout, rows = self.layout, self.parent.default_rows
        if not rows or layout.default is None:
            return []
        seen = "%d rows of %s" % (rows, layout.span(self.parent.default_span))
        pieces = [item for item in layout.pieces if item.moves]
        span = self.parent.default_span
        hint = ""
        if any(not item.obstacle for item in pieces):
            hint = "audit_partition creates the months and moves the rows, in one short step for each."
        if any(item.obstacle for item in pieces):
            hint += " %s" % layout.makes([item for item in pieces if item.obstacle])
        if any(item.obstacle == "move_limit" for item in pieces):
            hint += (
                " Writers would wait for as long as so many rows take. In a quiet hour, run maintain_audit_partitions with"
                " -e audit_partitions_allow_long_move=true, or audit_partition with move_limit 0."
            )
        if span is None or not pieces or span[0] < min(item.lower for item in pieces) or span[1] >= max(item.upper for item in pieces):
            hint += " What lies more than %d months off the others stays: correct or delete those rows, or create their months." % DEFAULT_REACH
        return [self.single("default_rows", "error", layout.default, "no rows", seen, hint.strip())]

    def bounds(self) -> list[dict[str, Any]]:
        layout, found = self.layout, []
        known = layout.foreign.bounds if layout.foreign else frozenset()
        wrong = layout.off - known
        for item in self.parent.partitions:
            if item.opaque:
                severity, hint = "warning", "It takes no part in what is judged: look at it yourself."
                if _RANGE.match(item.bound):
                    severity, hint = "info", "It lies beyond the years 1 to 9999 and takes no part in what is judged."
                found.append(self.single("wrong_bounds", severity, item, "bounds that can be read", item.bound or "none", hint))
            elif not item.default and self._off(item, known, wrong):
                seen = layout.span((item.lower, item.upper))
                hint = "It takes its rows, so it stays as it is. audit_partition makes the partitions beside it fit, without hole or overlap."
                if item.upper is None:
                    hint = "It takes all rows to come and only grows, and no month after it can have a partition. Split it by a migration."
                found.append(self.single("wrong_bounds", "warning", item, "one whole month of %s" % zone_name(layout.zone), seen, hint))
        return found

    def _off(self, item: Partition, known: frozenset[datetime], wrong: frozenset[datetime]) -> bool:
        """Whether a partition is not one month. One from the beginning of time is history, and all right."""
        if item.upper is None:
            return True
        if item.lower is None:
            return item.upper in wrong
        if {item.lower, item.upper} & wrong:
            return True
        zone = self.layout.zone
        # A seam between two zones is no month of either one, to the hour.
        slack = timedelta(hours=15) if {item.lower, item.upper} & known else timedelta()
        month = Month.of(item.lower + slack, zone)
        return abs(month.next().start(zone) - item.upper) > slack

    def names(self) -> list[dict[str, Any]]:
        found = []
        for item in _ranges(self.parent):
            month = month_in(item.name)
            if month is None or item.lower is None or item.upper is None or not Month(2, 1) < month < Month(9999, 1):
                continue
            start, end = month.start(self.layout.zone), month.next().start(self.layout.zone)
            common = min(end, item.upper) - max(start, item.lower)
            if common * 2 < min(end - start, item.upper - item.lower):
                expected = "a name for %s" % Month.of(item.lower + (item.upper - item.lower) / 2, self.layout.zone)
                hint = "Rows go by the bounds, which stay. Rename the table, so that nobody drops the wrong month."
                seen = "a name for %s, bounds of %s" % (month, self.layout.span((item.lower, item.upper)))
                found.append(self.single("name_disagrees", "warning", item, expected, seen, hint))
        return found

    # - likeness

    def likeness(self) -> list[dict[str, Any]]:
        seen: dict[str, list[tuple[Partition, str]]] = {}
        own = []
        for item in self.parent.partitions:
            if item.detach_pending:
                continue
            for step in self.layout.repairs(item):
                seen.setdefault(step.action, []).append((item, step.why))
            if self.parent.comment and item.comment not in ("", self.parent.comment):
                own.append((item, "a comment of its own: %s" % item.comment))
        parent = self.parent
        hint = "audit_partition makes it as the table's%s." % ("" if self.settings.repair else " when repair is true")
        identity = "the replica identity of the table, %s" % parent.replica_identity
        return (
            self.grouped("owner_differs", "warning", "the owner of the table, %s" % parent.owner, hint, seen.get("set_owner", []))
            + self.grouped("grants_differ", "warning", "the grants of the table", hint, seen.get("set_grants", []))
            + self.grouped("replica_identity_differs", "warning", identity, hint, seen.get("set_replica_identity", []))
            + self.grouped("comment_differs", "warning", "the comment of the table", hint, seen.get("set_comment", []))
            + self.grouped("comment_differs", "info", "the comment of the table", "It is left as it is.", own)
        )

    def kinds(self) -> list[dict[str, Any]]:
        found = []
        for item in self.parent.partitions:
            if item.kind == "partitioned" and not item.has_children:
                hint = "Create its partitions, or replace it by a plain table: it takes no row as it is."
                found.append(self.single("sub_partitions", "error", item, "a table that takes rows", "a partitioned table without partitions", hint))
        nested = [(item, "is partitioned itself") for item in self.parent.partitions if item.kind == "partitioned" and item.has_children]
        hint = "Its bounds are judged, its own partitions are not."
        found += self.grouped("sub_partitions", "info", "a plain table", hint, nested)
        foreign = [(item, "is a foreign table") for item in self.parent.partitions if item.kind == "foreign"]
        return found + self.grouped("foreign_partition", "info", "a plain table", "Whether its server takes rows is not judged.", foreign)

    # - upkeep

    def sizes(self) -> list[dict[str, Any]]:
        if not self.settings.max_bytes:
            return []
        month = Month.of(self.layout.now, self.layout.zone).start(self.layout.zone)
        most = "at most %.1f GB" % (self.settings.max_bytes / (1 << 30))
        found = []
        for item in self.parent.partitions:
            if item.bytes <= self.settings.max_bytes:
                continue
            seen = "%.1f GB with indexes and TOAST" % (item.bytes / (1 << 30))
            if item.upper is not None and item.upper <= month:
                found.append(self.single("partition_oversized", "warning", item, most, seen, "Archive it with audit_partition_archive."))
            else:
                hint = "Archive it with audit_partition_archive once its month is over."
                found.append(self.single("partition_oversized", "info", item, most, seen, hint))
        return found

    def vacuum(self) -> list[dict[str, Any]]:
        """Judge the partitions: the table above them has no rows, and is never vacuumed by itself."""
        found = []
        for item in self.parent.partitions:
            if item.kind != "table":
                continue
            hint = "VACUUM (ANALYZE) it, and see why autovacuum does not: its settings on this table, a long transaction, a replication slot."
            if item.age > OLD_AGE:
                severity, most = "error" if item.age > FAILSAFE_AGE else "warning", "an age of at most %d transactions" % OLD_AGE
                found.append(self.single("never_vacuumed", severity, item, most, "%d transactions" % item.age, hint))
            elif item.vacuumed is False and item.rows + item.dead >= MANY_ROWS:
                seen = "about %d rows and %d dead ones" % (max(item.rows, 0), item.dead)
                found.append(self.single("never_vacuumed", "warning", item, "a vacuum once it has rows", "never vacuumed, %s" % seen, hint))
        return found

    def references(self) -> list[dict[str, Any]]:
        if not self.settings.retention:
            return []
        seen = [(item, "referenced by %s" % ", ".join(item.referenced_by)) for item in self.parent.partitions if item.referenced_by]
        hint = "It can't be archived and dropped as long as rows refer to it. Drop the foreign key, or delete those rows first."
        return self.grouped("partition_referenced", "warning", "no foreign key into it", hint, seen)


# --- the maintenance function --------------------------------------------------------------------------------------


def judge_function(definition: str, owner: str, owner_is_table_owner: bool, settings: Settings, name: str = "") -> list[dict[str, Any]]:
    """Return what is wrong with a maintenance function, from pg_get_functiondef ('' when there is none).

    owner_is_table_owner: whether its owner may create partitions of all the tables.
    """
    if not settings.maintenance_function:
        return []
    obj = name or settings.maintenance_function
    if not definition:
        hint = "audit_partition makes one." if settings.replace_function else "audit_partition does without. With replace_function it makes one."
        return [finding("function_missing", "info", obj, "a function that creates partitions", "no such function", hint)]
    hint = "audit_partition puts a right one in its place%s." % ("" if settings.replace_function else " when replace_function is true")
    header, body = split_function(definition)
    config = {key.strip('"').lower(): value for key, value in re.findall(r'^ SET ("?[\w.]+"?) TO (.*)$', header, re.M)}
    found = []

    def add(id: str, expected: str, seen: str) -> None:
        found.append(finding(id, "warning", obj, expected, seen, hint))

    code = re.sub(r"--[^\n]*|/\*.*?\*/", " ", body, flags=re.S).lower()
    creates = re.findall(r"create\s+(?:unlogged\s+)?table\s+(?!if\s+not\s+exists)", code)
    if creates and not _LOOKS_FIRST.search(code):
        add("function_not_idempotent", "CREATE TABLE IF NOT EXISTS", "CREATE TABLE, which fails when the month is there, and all after it too")
    definer = re.search(r"^ .*\bSECURITY DEFINER\b", header, re.M) is not None
    if not definer:
        add("function_not_owner", "SECURITY DEFINER and the tables' owner", "the rights of its caller, who has to own a table to add a partition")
    elif not owner_is_table_owner:
        add("function_not_owner", "SECURITY DEFINER and the tables' owner", "the rights of %s, who does not own the tables" % owner)
    pinned = config.get("timezone", "").strip("'")
    if pinned:
        if settings.time_zone and not same_zone(pinned, settings.time_zone):
            add("function_zone", "months of %s" % settings.time_zone, "months of %s" % pinned)
    elif not _PINS_ZONE.search(code):
        add("function_zone", "a fixed time zone (SET timezone)", "the months of whatever zone its session has")
    path = [item.strip().strip("'\"") for item in config.get("search_path", "").split(",") if item.strip()]
    if definer and not path:
        add("function_search_path", "a fixed search_path", "the search_path of its caller, whose own objects then work with the owner's rights")
    elif definer and path[-1] != "pg_temp":
        add("function_search_path", "a search_path that ends in pg_temp", "%s: temporary objects of its caller come first" % ", ".join(path))
    return found


def split_function(definition: str) -> tuple[str, str]:
    """Return what comes before the body of a function, and the body."""
    match = re.search(r"^AS (\$[^$\s]*\$)(.*)\1\s*\Z", definition, re.M | re.S)
    return (definition[: match.start()], match.group(2)) if match else (definition, definition)


def _ident(name: str) -> str:
    return '"%s"' % name.replace('"', '""')


def _literal(text: str) -> str:
    quoted = "'%s'" % text.replace("'", "''").replace("\\", "\\\\")
    return "E" + quoted if "\\" in text else quoted


def function_text(schema: str, tables: Sequence[str], zone: str, months_ahead: int, name: str = FUNCTION) -> str:
    """Return CREATE OR REPLACE FUNCTION for one that is right; execute it without parameters. Owner and grants stay those of the present one."""
    parents, stems = (", ".join(_literal(item) for item in items) for items in (tables, [stem_of(item) for item in tables]))
    body = """
%(mark)s
-- It creates what is missing from this month to %(ahead)d months ahead, and goes on to the next one where that fails.
DECLARE
    home    text   := %(schema)s;
    parents text[] := ARRAY[%(parents)s];
    stems   text[] := ARRAY[%(stems)s];
    month   date;
BEGIN
    FOR ahead IN 0..%(ahead)d LOOP
        month := (date_trunc('month', now()) + make_interval(months => ahead))::date;
        FOR number IN 1..cardinality(parents) LOOP
            BEGIN
                EXECUTE format(
                    'CREATE TABLE IF NOT EXISTS %%I.%%I PARTITION OF %%I.%%I FOR VALUES FROM (%%L) TO (%%L)',
                    home,
                    stems[number] || to_char(month, '_YYYY_MM'),
                    home,
                    parents[number],
                    to_char(month, 'YYYY-MM-DD'),
                    to_char(month + interval '1 month', 'YYYY-MM-DD'));
            EXCEPTION WHEN OTHERS THEN
                RAISE WARNING 'no partition of %%.%% for %%: %%', home, parents[number], to_char(month, 'YYYY-MM'), SQLERRM;
            END;
        END LOOP;
    END LOOP;
END
""" % {"mark": _MARK, "ahead": months_ahead, "schema": _literal(schema), "parents": parents, "stems": stems}
    tag = "function"
    while "$%s$" % tag in body:
        tag += "_"
    return """CREATE OR REPLACE FUNCTION %s.%s() RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = %s
    SET client_min_messages = warning
AS $%s$%s$%s$""" % (_ident(schema), _ident(name), _literal(zone), tag, body, tag)


def plan_function(
    schema: str, tables: Sequence[str], table_owner: str, definition: str, owner: str, owner_is_table_owner: bool, settings: Settings
) -> list[Step]:
    """Return the step that replaces the function, where that is asked for and needed: it is wrong, missing, or an older one of ours.

    settings.time_zone '' is UTC here: put the zone of the tables in its place first (zone_name of resolve_zone).
    A function that returns something else than void has to be dropped first, and its grants given again.
    """
    if not settings.replace_function or not settings.maintenance_function or not tables:
        return []
    zone = settings.time_zone or "UTC"
    text = function_text(schema, tables, zone, settings.months_ahead, settings.maintenance_function)
    wrong = judge_function(definition, owner, owner_is_table_owner, settings)
    body = split_function(definition)[1] if definition else ""
    why = "; ".join("%s: %s" % (item["id"], item["found"]) for item in wrong)
    if not why and _MARK in body and body != split_function(text)[1]:
        why = "it was written for other tables or months"
    if not why:
        return []
    name = settings.maintenance_function
    return [Step("replace_function", "", name, why=why, schema=schema, partition_schema=schema, owner=table_owner, sql=text)]
