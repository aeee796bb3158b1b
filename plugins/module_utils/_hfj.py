# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Partitioning of HAPI's large tables: what is there, whether it can be done, and the steps that are left. All of it is pure.

A table T becomes the first partition of a new parent without copying a row:

- online: a unique index on (primary key, key); an empty parent T_bd_new with the same indexes and foreign keys, and with partitions from N
  on; CHECK (key < N), validated. The CHECK comes last, since an id beyond N is refused from then on;
- under a short lock: T is renamed to T_p0, the parent to T, and T_p0 is attached up to N. The server takes the CHECK for a proof, so
  nothing is read.

The primary key of T stays where it is: the parent has a unique index on (primary key, key) instead, which is all that a partitioned table
can have. So the way back needs no index. Each step is one transaction or one statement, and which were made is read from the catalog.

HFJ_RESOURCE is partitioned by its primary key, which the parent has too. Its other unique index can't be kept over partitions: who chooses
so gets a guard table in its place, see _hfj_guard.py.
"""

from __future__ import annotations

import math
import re

from dataclasses import dataclass, field
from typing import Any, Optional

from ._findings import finding

NAME_BYTES = 63
RESOURCE = "hfj_resource"
RESOURCE_ID = "res_id"
# What is unique in HFJ_RESOURCE besides the id, and what its guard keeps unique over all partitions.
PAIR = ("res_type", "fhir_id")
GUARD = "_bd_guard"
NEW = "_bd_new"
FIRST = "_p0"
HASHED = "_h"
UNIQUE = "_bd_uk"
CHECK = "bd_fhir_below"

SERVER_VERSION = 15
OLDEST_VERSION = 14
NEWEST_VERSION = 17
# What another version than the 15 of the target does differently, as far as it matters here.
DIFFERENCES = {
    14: "It is of 2021; CREATE INDEX CONCURRENTLY waits for more transactions there. The same steps are used",
    16: "The same steps are used; they were not tried there",
    17: "The same steps are used, and the quick tests were seen to pass there",
    18: "It keeps NOT NULL as constraints with names and takes NOT VALID foreign keys on partitioned tables. The steps were not tried there",
}

# Below every id.
LOWEST = -(1 << 63)
LEAST_MARGIN = 10000
LEAST_WIDTH = 1000000
# So many calls of nextval() may happen between a look and a swap: replicas that start, each with its sequences.
CALLS_AHEAD = 100
NEAR_CALLS = 20
# The watch is to run at least so often, and until it does, so many times the busiest hour of the last month may come.
WATCH_HOURS = 1
PEAKS = 2
# What copying a table takes of its size: the copy with its indexes, and as much WAL.
COPY_BYTES = 2
# Bytes of an entry of the index on two bigints, with its share of pages.
ENTRY_BYTES = 32
# Bytes of a row of the guard with its entry in the index, as tests/bench/guard.py measures them.
GUARD_BYTES = 120
# Triggers of the guard as the catalog has them: after each row of a plain table, whose own unique index is to speak first; before each row of
# a partitioned one, where the guard is to speak before the unique index of a partition, whose name is another one.
AFTER_ROW = frozenset({5, 9, 17})
BEFORE_ROW = frozenset({7, 11, 19})


class HfjError(Exception):
    """It can't be done like that. The text is complete: what was tried, what was found, what to do next."""


@dataclass(frozen=True)
class Index:
    """An index of a table. rest is its definition from the method on, constraint whether a UNIQUE constraint owns it."""

    name: str
    rest: str
    unique: bool = False
    primary: bool = False
    constraint: bool = False
    valid: bool = True
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key from table to foreign_table; inherited: it belongs to one of a parent."""

    name: str
    schema: str
    table: str
    columns: tuple[str, ...]
    foreign_schema: str
    foreign_table: str
    foreign_columns: tuple[str, ...]
    validated: bool = True
    inherited: bool = False
    plain: bool = True  # no action, not deferrable, MATCH SIMPLE
    partitioned: bool = False  # table is, in which case it takes no key that is NOT VALID
    # For people: how it is written depends on the search_path.
    definition: str = field(default="", compare=False)

    def shape(self) -> tuple[Any, ...]:
        """Return what makes it the same key, whatever its table is called."""
        return (self.name, self.columns, self.foreign_schema, self.foreign_table, self.foreign_columns)


@dataclass(frozen=True)
class Inbound:
    """A foreign key of another table to this one, and the column there that holds the same as our key; "" if none does."""

    key: ForeignKey
    partner: str = ""

    @property
    def object(self) -> str:
        """Return how the key is called in a plan."""
        return "%s.%s" % (self.key.table, self.key.name)

    @property
    def in_use(self) -> bool:
        """Tell whether a partitioned table with rows refers to us; a parent that is not in use yet is empty."""
        return self.key.partitioned and not self.key.table.endswith(NEW)


@dataclass(frozen=True)
class Part:
    """A partition. lower and upper are None for MINVALUE and MAXVALUE."""

    name: str
    lower: Optional[int]
    upper: Optional[int]
    default: bool = False
    bytes: int = 0
    rows: float = 0.0


@dataclass(frozen=True)
class Column:
    """A column with all that a partition has in common with its parent, or that a row without a value gets."""

    name: str
    type: str
    collation: int = 0
    required: bool = False
    default: str = ""
    generated: str = ""


@dataclass(frozen=True)
class Relation:
    """A table as the catalog has it."""

    oid: int
    schema: str
    name: str
    kind: str
    owner: str = ""
    bytes: int = 0
    rows: float = -1.0
    indexes: tuple[Index, ...] = ()
    keys: tuple[ForeignKey, ...] = ()
    parts: tuple[Part, ...] = ()
    partition_key: str = ""
    check_bound: Optional[int] = None
    check_valid: bool = False
    analyzed: bool = False
    obstacles: tuple[str, ...] = ()
    # In order; by another order a row would be another one.
    columns: tuple[Column, ...] = ()
    # Names and definitions, but for our own.
    checks: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Guard:
    """The table that keeps PAIR unique over all partitions of HFJ_RESOURCE. filled: its rows up to this id are in; None: all of them."""

    oid: int
    name: str
    owner: str = ""
    bytes: int = 0
    rows: float = 0.0
    index: str = ""  # its valid unique index on PAIR; "" if there is none
    filled: Optional[int] = LOWEST
    function_owner: str = ""  # "" if there is no function, or none that runs with its owner's rights
    triggers: frozenset[tuple[str, int]] = frozenset()  # table and kind of those that are enabled
    unindexed: tuple[str, ...] = ()  # partitions without a unique index on PAIR


@dataclass(frozen=True)
class Table:
    """A table of HAPI with all that belongs to its partitioning. main is what has HAPI's name, new the parent that is not in use yet."""

    schema: str
    name: str
    pk: str = ""
    key: str = ""
    nullable: bool = False
    main: Optional[Relation] = None
    new: Optional[Relation] = None
    first: Optional[Relation] = None
    inbound: tuple[Inbound, ...] = ()
    taken: tuple[str, ...] = ()
    building: int = 0  # pid that builds our index right now
    progress: float = 0.0
    guard: Optional[Guard] = None

    @property
    def state(self) -> str:
        return state_of(self)

    @property
    def narrow(self) -> bool:
        """Tell whether it is partitioned by its primary key, as HFJ_RESOURCE: the parent can have that one too."""
        return bool(self.key) and self.key == self.pk

    @property
    def pair(self) -> tuple[str, ...]:
        """Return the columns that a foreign key to the partitioned table refers to."""
        return (self.pk,) if self.narrow else (self.pk, self.key)

    def referring(self, item: Inbound) -> tuple[str, ...]:
        """Return the columns of a foreign key to the partitioned table."""
        return (item.key.columns[0],) if self.narrow else (item.key.columns[0], item.partner)


@dataclass(frozen=True)
class Sequence:
    """The sequence of the ids. used: no id beyond it was given out; per_day is None where that is not known."""

    name: str
    last: int
    increment: int
    cycles: bool = False
    highest: int = 0
    per_day: Optional[float] = None
    peak_hour: float = 0.0  # the most ids that were given out in an hour

    @property
    def used(self) -> int:
        # HAPI takes a block of ids with each call, and may count from what it got upwards.
        return max(self.last + self.increment, self.highest)


@dataclass(frozen=True)
class Bounds:
    """N, where the first partition ends, and the width of those that follow."""

    first: int
    width: int
    ahead: int


@dataclass(frozen=True)
class Step:
    """One transaction or one statement."""

    action: str
    object: str
    why: str
    lower: int = 0
    upper: int = 0


# --- names ---------------------------------------------------------------------------------------------------------


def part_name(table: str, lower: int) -> str:
    """Return the name of the partition of a table that begins at lower."""
    return "%s_p%d" % (table, lower)


def hash_name(table: str, remainder: int) -> str:
    """Return the name of a partition by hash."""
    return "%s%s%d" % (table, HASHED, remainder)


def names_made(table: Table, bounds: Bounds) -> list[str]:
    """Return every name that partitioning a table makes."""
    lowers = [bounds.first + number * bounds.width for number in range(bounds.ahead)]
    names = [table.name + NEW, table.name + FIRST, *(part_name(table.name, lower) for lower in lowers)]
    names += [table.name + GUARD] if table.narrow else [table.name + UNIQUE + NEW, table.name + UNIQUE + FIRST]
    guarded = guarded_index(table.main)
    for index in table.main.indexes if table.main else ():
        if (table.narrow or not index.primary) and not index.name.endswith((NEW, FIRST)):
            names += [index.name + (GUARD if guarded is not None and index.name == guarded.name else NEW), index.name + FIRST]
    names += [part_name(index.name, lower) for index in own_unique(table, table.main) for lower in lowers]
    return sorted(set(names))


def mirrored(table: Table, relation: Relation) -> list[Index]:
    """Return the indexes that the parent gets too: all but a primary key that lacks the key of the partitions, and the one that is guarded."""
    guarded = guarded_index(relation)
    return [index for index in relation.indexes if (table.narrow or not index.primary) and index != guarded]


def guarded_index(relation: Optional[Relation]) -> Optional[Index]:
    """Return the unique index on PAIR for which a guard can stand: nothing more than unique. None if there is none, or it is another table."""
    for index in relation.indexes if relation is not None and relation.name in (RESOURCE, RESOURCE + FIRST) else ():
        if index.unique and not index.primary and index.columns == PAIR and index.rest == "btree (%s)" % ", ".join(PAIR):
            return index
    return None


def hapis_name(index: Index) -> str:
    """Return how HAPI calls an index of the table or of its first partition."""
    return index.name[: -len(FIRST)] if index.name.endswith(FIRST) else index.name


def own_unique(table: Table, relation: Optional[Relation]) -> list[Index]:
    """Return the unique indexes of HAPI. HAPI looks for their names in errors, so those of each partition have to hold them."""
    found = relation.indexes if relation is not None else ()
    return [index for index in found if index.unique and not index.primary and hapis_name(index) != table.name + UNIQUE]


def unique_index(table: Table, relation: Optional[Relation], suffix: str = "") -> Optional[Index]:
    """Return the index on (primary key, key) of a relation, valid or not; of one that is partitioned by its primary key, that one."""
    for index in relation.indexes if relation else ():
        if index.primary if table.narrow else index.name == table.name + UNIQUE + suffix:
            return index
    return None


# --- state ---------------------------------------------------------------------------------------------------------


def parent_fits(table: Table) -> bool:
    """Tell whether the new parent has every column, index, check and foreign key of the table, as they are there, and nothing more."""
    if table.main is None or not parent_fits_so_far(table):
        return False
    return unique_index(table, table.main) is not None and all(key.validated for key in table.main.keys)


def first_bound(relation: Optional[Relation]) -> Optional[int]:
    """Return where the lowest partition of a parent begins; None if there is none."""
    lowers = [part.lower for part in relation.parts if part.lower is not None] if relation else []
    return min(lowers) if lowers else None


def state_of(table: Table) -> str:
    """Return missing, plain, preparing, prepared, swapped, unfinished (swapped, and something is left to be done), rewritten, or foreign."""
    main = table.main
    if main is None:
        return "missing"
    if main.kind == "r":
        index = unique_index(table, main)
        if (index is None or table.narrow) and table.guard is None and table.new is None and main.check_bound is None:
            return "plain"
        ready = index is not None and index.valid and parent_fits(table) and guard_ready(table)
        bound = first_bound(table.new)
        return "prepared" if ready and bound is not None and main.check_valid and main.check_bound == bound else "preparing"
    if main.kind == "p" and table.first is not None and any(part.name == table.name + FIRST and part.lower is None for part in main.parts):
        return "unfinished" if leftovers(table) else "swapped"
    return "rewritten" if main.kind == "p" and rewritten_parts(table) else "foreign"


def rewritten_parts(table: Table) -> int:
    """Return into how many partitions by hash we have copied a table; 0 if we have not."""
    main = table.main
    if main is None or not table.key or main.partition_key != "HASH (%s)" % table.key:
        return 0
    ours = {hash_name(table.name, number) for number in range(len(main.parts))}
    return len(main.parts) if {part.name for part in main.parts} == ours and unique_index(table, main) is not None else 0


def leftovers(table: Table) -> list[Step]:
    """Return what is left to be done online after a swap."""
    steps = [
        Step("validate_key", item.object, "it is NOT VALID: rows from before the change were not looked at")
        for item in table.inbound
        if not item.key.validated
    ]
    if table.main is not None and not table.main.analyzed:
        steps.append(Step("analyze", table.name, "autovacuum never analyzes a parent, and the planner would guess"))
    return steps


# --- the guard -----------------------------------------------------------------------------------------------------


def guard_faults(table: Table) -> list[str]:
    """Return what keeps the guard of a table from seeing every row, in words."""
    guard, main = table.guard, table.main
    if guard is None or main is None:
        return ["there is none"]
    faults = [] if guard.index else ["it has no valid unique index on (%s)" % ", ".join(PAIR)]
    if guard.function_owner != guard.owner:
        whose = "belongs to %s and not to %s" % (guard.function_owner, guard.owner)
        faults.append("its function " + (whose if guard.function_owner else "is gone"))
    # What belongs to a parent and is disabled there would be so on each further partition.
    for name in [main.name, *(part.name for part in main.parts)]:
        wanted = BEFORE_ROW if main.kind == "p" else AFTER_ROW
        if wanted - {kind for relation, kind in guard.triggers if relation == name}:
            faults.append("a trigger of %s is gone or disabled" % name)
    return faults


def guard_ready(table: Table) -> bool:
    """Tell whether everything that the swap needs of a guard is there, where one is needed."""
    if guarded_index(table.main) is None:
        return True
    return not guard_faults(table) and table.guard is not None and table.guard.filled is None


def judge_guard(table: Table) -> list[dict[str, Any]]:
    """Return what is wrong with the guard of a partitioned table, as far as the catalog tells it."""
    if table.name != RESOURCE or table.main is None or table.main.kind != "p":
        return []
    guard, name, found = table.guard, "%s.%s" % (table.schema, table.name), []
    first = guarded_index(table.first)
    index = "on (%s)" % ", ".join(PAIR) if first is None else hapis_name(first)
    if guard is None or not guard.index or (first is not None and guard.index != index):
        what = "there is none" if guard is None else "its unique index is %s" % (guard.index or "gone")
        found.append(
            finding(
                "guard_missing", "error", name, "the table %s with a unique index %s" % (table.name + GUARD, index), what,
                "Parallel writes of one new id make duplicates now. Bring the table back with step=undo at once, then prepare it anew.",
            )
        )  # fmt: skip
        return found
    faults = guard_faults(table)
    if faults:
        found.append(
            finding(
                "guard_trigger_off", "error", name, "the triggers of the guard on each partition, enabled", "; ".join(faults),
                "Parallel writes of one new id may make duplicates now. ALTER TABLE ... ENABLE TRIGGER where one is disabled, else step=undo; then"
                " step=verify, which compares every row.",
            )
        )  # fmt: skip
    if guard.unindexed:
        found.append(
            finding(
                "guard_index_missing", "error", name, "a unique index on (%s) in each partition" % ", ".join(PAIR), ", ".join(guard.unindexed),
                "Look-ups by FHIR id read all of that partition. CREATE UNIQUE INDEX CONCURRENTLY there.",
            )
        )  # fmt: skip
    return found


def judge_guard_server(table: Table, version: int, unique_guard: bool) -> list[dict[str, Any]]:
    """Return whether a server is too old for a partitioned HFJ_RESOURCE."""
    if table.name != RESOURCE or version >= SERVER_VERSION * 10000 or not (unique_guard or table.guard is not None):
        return []
    return [
        finding(
            "guard_server_old", "error", "%s.%s" % (table.schema, table.name), "PostgreSQL %d or later" % SERVER_VERSION,
            "PostgreSQL %d" % (version // 10000),
            "There, a partition that is detached may lose its foreign key to a partitioned table, so the way back of the tables that refer to this"
            " one is not safe. Leave it whole.",
        )
    ]  # fmt: skip


# --- bounds --------------------------------------------------------------------------------------------------------


def round_up(number: int) -> int:
    """Return the next number with two figures that count, so that people can read it."""
    if number < 100:
        return max(number, 1)
    unit = int(10 ** (len(str(number)) - 2))
    return -(-number // unit) * unit


def propose(sequence: Sequence, wait_days: float, months: int, ahead: int, first: int = 0, width: int = 0) -> Bounds:
    """Return the bounds: N beyond what the sequence can use until the swap, then partitions for so many months each.

    first and width are the operator's own, 0 for none. Raises HfjError for an N that the sequence is too near to.
    """
    per_day = sequence.per_day or 0.0
    if not first:
        ahead_of = max(LEAST_MARGIN, CALLS_AHEAD * sequence.increment, math.ceil(per_day * wait_days), 4 * reserve(sequence))
        first = round_up(sequence.used + ahead_of)
    elif near(sequence, first):
        raise HfjError(
            "Nothing was changed: first_bound is %d, and the sequence %s has given out ids up to %d; %d more may come before a watch acts. Every"
            " insert beyond first_bound is refused until the swap. Give one that is well above it, or none, and it is computed."
            % (first, sequence.name, sequence.used, reserve(sequence))
        )
    return Bounds(first, width or max(LEAST_WIDTH, round_up(math.ceil(per_day * 30.4375 * months))), ahead)


def reserve(sequence: Sequence) -> int:
    """Return how many ids may be given out before a watch acts: an average day, some calls of nextval(), or the busiest hours."""
    return max(NEAR_CALLS * sequence.increment, math.ceil(sequence.per_day or 0.0), math.ceil(PEAKS * WATCH_HOURS * sequence.peak_hour))


def near(sequence: Sequence, bound: int) -> bool:
    """Tell whether inserts could soon be refused by CHECK (key < bound)."""
    return sequence.used + reserve(sequence) >= bound


def busiest_hour(points: list[tuple[int, float]]) -> float:
    """Return the most ids that were given out within an hour, from ids with the hour in which they came."""
    points = sorted(points)
    most = 0.0
    for place, (id, hour) in enumerate(points):
        for number, (later, at) in enumerate(points[place + 1 :]):
            if at - hour <= 1:
                most = max(most, float(later - id))
            elif number == 0:
                most = max(most, (later - id) / (at - hour))
    return most


def bound_unknown(table: Table, sequence: Sequence) -> bool:
    """Tell whether prepare would have to compute N without knowing the growth."""
    there = first_bound(table.new)
    return sequence.per_day is None and (there is None or near(sequence, there))


def parse_bound(text: str) -> tuple[Optional[int], Optional[int], bool]:
    """Return lower, upper and whether it is the default partition, from how the server writes bounds."""
    if text == "DEFAULT":
        return None, None, True
    found = re.match(r"FOR VALUES FROM \((MINVALUE|'?-?\d+'?)\) TO \((MAXVALUE|'?-?\d+'?)\)\Z", text)
    if not found:
        raise ValueError(text)
    lower, upper = (None if word.endswith("VALUE") else int(word.strip("'")) for word in found.groups())
    return lower, upper, False


def by_hash(text: str) -> bool:
    """Tell whether a bound, as the server writes it, is one by hash."""
    return bool(re.match(r"FOR VALUES WITH \(modulus \d+, remainder \d+\)\Z", text))


def parse_check(text: str, key: str) -> Optional[int]:
    """Return N of CHECK (key < N), or CHECK (key IS NOT NULL AND key < N), as the server writes it; None for another constraint."""
    name = re.escape('"%s"' % key.replace('"', '""')) + "|" + re.escape(key)
    pattern = r"CHECK \((?:\(\((?:%s) IS NOT NULL\) AND \((?:%s) < '?(\d+)'?(?:::bigint)?\)\)|\((?:%s) < '?(\d+)'?(?:::bigint)?\))\)( NOT VALID)?\Z"
    found = re.match(pattern % (name, name, name), text)
    return int(found.group(1) or found.group(2)) if found else None


def days_until(sequence: Sequence, bound: Optional[int]) -> Optional[float]:
    """Return for how many days ids last until a bound; None if the growth is not known, or there is no bound."""
    if bound is None or not sequence.per_day:
        return None
    return max(0.0, (bound - sequence.used) / sequence.per_day)


def last_bound(relation: Optional[Relation]) -> Optional[int]:
    """Return where the partitions of a parent end; None if the last one is open or there is none."""
    uppers = [part.upper for part in relation.parts if not part.default] if relation else []
    return None if not uppers or None in uppers else max(upper for upper in uppers if upper is not None)


# --- plans ---------------------------------------------------------------------------------------------------------


def plan_prepare(table: Table, sequence: Sequence, bounds: Bounds, fixed: bool = False) -> tuple[list[Step], Bounds]:
    """Return what is left of the online part, and the bounds that it leads to: those that are there where they are still far enough.

    fixed: the operator has named N, so another one that is there goes.
    """
    if table.state in ("swapped", "unfinished"):
        return [], bounds
    main = table.main
    if main is None:
        raise AssertionError("a state was told of a table that is not there")
    steps = []
    there = first_bound(table.new)
    # A parent without partitions has just been made.
    # The triggers of a parent need the function of the guard.
    sound = guarded_index(main) is None or not guard_faults(table)
    kept = sound and parent_fits_so_far(table) and (there is None or (not near(sequence, there) and (not fixed or there == bounds.first)))
    if kept and there is not None:
        bounds = Bounds(there, bounds.width, bounds.ahead)
    if main.check_bound is not None and (not kept or main.check_bound != bounds.first):
        steps.append(Step("drop_check", table.name, "CHECK (%s < %d) does not fit any more" % (table.key, main.check_bound), upper=main.check_bound))
    if table.new is not None and not kept:
        why = "its partitions begin at another id than is wanted, or the sequence comes near them"
        if not sound:
            why = "its triggers are those of a guard that has to be made anew"
        elif not parent_fits_so_far(table):
            why = "another index, foreign key, column or check is there now"
        steps.append(Step("drop_parent", table.name + NEW, why))
    index = unique_index(table, main)
    if index is not None and not index.valid:
        steps.append(Step("drop_index", index.name, "it is invalid: its making was broken off"))
    if index is None or not index.valid:
        steps.append(Step("build_index", table.name + UNIQUE, "a partitioned table needs %s in each unique index" % table.key))
    if guarded_index(main) is not None:
        steps += _guard_missing(table)
    if not kept:
        steps.append(Step("create_parent", table.name + NEW, "it takes the place of %s" % table.name))
    steps += _parts_missing(table, table.new if kept else None, bounds)
    if main.check_bound != bounds.first or not kept:
        steps.append(Step("add_check", table.name, "it proves that every row belongs below %d" % bounds.first, upper=bounds.first))
        steps.append(Step("validate_check", table.name, "a proof needs every row looked at", upper=bounds.first))
    elif not main.check_valid:
        steps.append(Step("validate_check", table.name, "a proof needs every row looked at", upper=bounds.first))
    return steps, bounds


def parent_fits_so_far(table: Table) -> bool:
    """Like parent_fits, when the unique index of the table itself may be missing or invalid."""
    main, new = table.main, table.new
    if main is None or new is None or unique_index(table, new, NEW) is None:
        return False
    ours = table.name + UNIQUE
    missing = unique_index(table, main) is None
    if guarded_index(main) is not None and BEFORE_ROW - {kind for name, kind in (table.guard.triggers if table.guard else ()) if name == new.name}:
        return False
    wanted = {(index.name + NEW, index.rest, index.unique, index.constraint) for index in mirrored(table, main)}
    have = {(index.name, index.rest, index.unique, index.constraint) for index in new.indexes if not missing or index.name != ours + NEW}
    return (
        wanted == have
        and {key.shape() for key in main.keys} == {key.shape() for key in new.keys}
        and (main.columns, main.checks) == (new.columns, new.checks)
    )


def _guard_missing(table: Table) -> list[Step]:
    guard, name = table.guard, table.name + GUARD
    faults = guard_faults(table)
    steps = []
    if guard is not None and faults:
        steps.append(Step("drop_guard", name, "it may have missed rows: %s" % "; ".join(faults)))
    if faults:
        steps.append(Step("create_guard", name, "(%s) can't be kept unique over partitions by an index" % ", ".join(PAIR)))
    if faults or guard is None or guard.filled is not None:
        steps.append(Step("fill_guard", name, "it has to hold every row that is there, and is compared with them"))
    return steps


def _parts_missing(table: Table, parent: Optional[Relation], bounds: Bounds) -> list[Step]:
    end = last_bound(parent) or bounds.first
    have = len(parent.parts) if parent else 0
    steps = []
    for _number in range(have, bounds.ahead):
        steps.append(_add(table, end, end + bounds.width))
        end += bounds.width
    return steps


def _add(table: Table, lower: int, upper: int) -> Step:
    return Step("add_partition", part_name(table.name, lower), "ids from %d on need a place" % lower, lower, upper)


def plan_extend(table: Table, sequence: Sequence, width: int, ahead: int, days: float = 0.0) -> list[Step]:
    """Return the partitions that are missing so that so many lie wholly ahead of the sequence, and last for so many days (0: it does not matter).

    width 0: as wide as the last one. Where ids come so quickly that those don't last, there is one more that does twice over: each search
    visits every partition, so more narrow ones would not do.
    """
    main = table.main
    if main is None or table.state not in ("swapped", "unfinished"):
        return []
    end = last_bound(main)
    if end is None:
        return []
    last = max((part for part in main.parts if part.upper == end), key=lambda part: part.lower or 0)
    if not width:
        width = end - last.lower if last.lower is not None else LEAST_WIDTH
    free = sum(1 for part in main.parts if part.lower is not None and part.lower > sequence.used)
    steps = []
    while free < ahead:
        steps.append(_add(table, end, end + width))
        free += end > sequence.used
        end += width
    needed = max(math.ceil((sequence.per_day or 0.0) * days), reserve(sequence) + 1)
    if days and end - sequence.used < needed:
        steps.append(_add(table, end, end + max(width, round_up(2 * needed))))
    return steps


def plan_swap(table: Table) -> list[Step]:
    """Return the swap, or what is left of it."""
    if table.state == "prepared":
        keys = [
            Step("validate_key", item.object, "rows from before the change have to be looked at")
            for item in table.inbound
            if not item.key.partitioned
        ]
        more = [*keys, Step("analyze", table.name, "autovacuum never analyzes a parent, and the planner would guess")]
        bound = first_bound(table.new) or 0
        return [Step("swap", table.name, "it becomes the first partition, up to %d" % bound, upper=bound), *more]
    return leftovers(table) if table.state in ("swapped", "unfinished") else []


def plan_rewrite(table: Table, modulus: int) -> list[Step]:
    """Return the copying into partitions by hash. Raises HfjError for a table on another way."""
    if table.state == "plain":
        return [Step("rewrite", table.name, "its rows are copied into %d partitions by HASH (%s)" % (modulus, table.key), upper=modulus)]
    if table.state != "rewritten" or rewritten_parts(table) != modulus:
        what = "%d partitions by hash" % rewritten_parts(table) if table.state == "rewritten" else table.state
        raise HfjError("Nothing was changed: %s is %s, and only a plain table can be rewritten. Run step=undo first." % (table.name, what))
    return []


def plan_undo(table: Table) -> list[Step]:
    """Return the way back to a plain table, from wherever it is."""
    steps = []
    main = table.main
    if table.state == "rewritten":
        return [Step("rewrite_back", table.name, "its rows are copied into a plain table")]
    if main is None or table.state in ("plain", "foreign"):
        return [
            Step("validate_key", item.object, "it was made anew and not validated yet")
            for item in table.inbound
            if not item.key.validated and table.state == "plain"
        ]
    if table.state in ("swapped", "unfinished"):
        steps.append(Step("swap_back", table.name, "the first partition becomes the table again"))
        if not table.narrow:
            steps.append(Step("drop_index", table.name + UNIQUE, "a plain table does not need it"))
        return steps + [
            Step("validate_key", item.object, "rows from before the change have to be looked at")
            for item in table.inbound
            if not item.key.partitioned
        ]
    if main.check_bound is not None:
        steps.append(Step("drop_check", table.name, "it would refuse ids from %d on" % main.check_bound, upper=main.check_bound))
    if table.new is not None:
        steps.append(Step("drop_parent", table.name + NEW, "it was never in use"))
    if table.guard is not None:
        steps.append(Step("drop_guard", table.guard.name, "a plain table has its unique index"))
    if unique_index(table, main) is not None and not table.narrow:
        steps.append(Step("drop_index", table.name + UNIQUE, "a plain table does not need it"))
    steps += [
        Step("validate_key", item.object, "it was made anew and not validated yet")
        for item in table.inbound
        if not item.key.validated
    ]
    return steps


def plan_watch(table: Table, sequence: Sequence) -> list[Step]:
    """Return the removal of a CHECK that would soon refuse inserts."""
    main = table.main
    if main is not None and main.kind == "r" and main.check_bound is not None and near(sequence, main.check_bound):
        why = "the sequence %s is at %d, and CHECK (%s < %d) would refuse inserts soon" % (sequence.name, sequence.used, table.key, main.check_bound)
        return [Step("drop_check", table.name, why, upper=main.check_bound)]
    return []


STATES_AFTER = {"prepare": "prepared", "swap": "swapped", "undo": "plain", "rewrite": "rewritten"}


# --- is it worth it ------------------------------------------------------------------------------------------------


def worth(table: Table, least: int) -> tuple[bool, str]:
    """Return whether partitioning a table pays, and why."""
    size = table.main.bytes if table.main else 0
    rows = table.main.rows if table.main else 0
    if size < least:
        return False, "%s is less than %s: vacuum and reindexing take no time worth saving, and each search would visit more indexes" % (
            human(size), human(least),
        )  # fmt: skip
    if not table.key or not table.pk:
        return False, "it is large, but has no key by which it could be partitioned"
    return True, "%s in %.0f rows: vacuum, reindexing and archiving then go by partitions. Searches get no quicker" % (human(size), max(rows, 0))


def human(size: float) -> str:
    """Return bytes as people write them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return "%.4g %s" % (size, unit)
        size /= 1024
    return "%.4g TB" % size


def needs(table: Table, seconds_per_row: Optional[float]) -> dict[str, Any]:
    """Return the disk that the online part takes, and the time, from a measured sample."""
    rows = max(table.main.rows, 0.0) if table.main else 0.0
    index = int(rows * (GUARD_BYTES if table.narrow else ENTRY_BYTES)) + 65536
    # Read, written and compared; and each index read, sorted and written.
    passes = 4 + 2 * len(table.main.indexes if table.main else ())
    return {
        "index_bytes": index,
        # Its pages again as WAL, and once more while it is sorted on disk.
        "disk_bytes": 3 * index,
        "seconds": None if seconds_per_row is None else round(2 * rows * seconds_per_row, 3),
        "rows_copied": 0,
        "rewrite_disk_bytes": COPY_BYTES * (table.main.bytes if table.main else 0),
        "rewrite_seconds": None if seconds_per_row is None else round(passes * rows * seconds_per_row, 3),
    }


# --- findings ------------------------------------------------------------------------------------------------------

# Names of HAPI 7.2.0 in the tables that grow, to tell a schema that is another one. They decide nothing else: what is done goes by the catalog.
HAPI_7_2 = {
    "hfj_idx_cmb_tok_nu": "fk_idxcmbtoknu_res_id hfj_idx_cmb_tok_nu_pkey idx_idxcmbtoknu_res idx_idxcmbtoknu_str",
    "hfj_res_link": "fk_reslink_source fk_reslink_target hfj_res_link_pkey idx_rl_src idx_rl_tgt_v2",
    "hfj_res_param_present": "fk_resparmpres_resid hfj_res_param_present_pkey idx_resparmpresent_hashpres idx_resparmpresent_resid",
    "hfj_res_tag": "fk_restag_resource fkbfcjbaftmiwr3rxkwsy23vneo hfj_res_tag_pkey idx_res_tag_res_tag idx_res_tag_tag_res idx_restag_tagid",
    "hfj_resource": "hfj_resource_pkey idx_res_date idx_res_fhir_id idx_res_resid_updated idx_res_type_del_updated idx_res_type_fhir_id",
    "hfj_res_ver": "fk_resource_history_resource hfj_res_ver_pkey idx_resver_date idx_resver_id_date idx_resver_id_ver idx_resver_type_date",
    "hfj_spidx_coords": "fkc97mpk37okwu8qvtceg2nh9vn hfj_spidx_coords_pkey idx_sp_coords_hash_v2 idx_sp_coords_resid idx_sp_coords_updated",
    "hfj_spidx_date": "fk_sp_date_res hfj_spidx_date_pkey idx_sp_date_hash_high_v2 "
    "idx_sp_date_hash_v2 idx_sp_date_ord_hash_high_v2 idx_sp_date_ord_hash_v2 idx_sp_date_resid_v2",
    "hfj_spidx_number": "fk_sp_number_res hfj_spidx_number_pkey idx_sp_number_hash_val_v2 idx_sp_number_resid_v2",
    "hfj_spidx_quantity": "fk_sp_quantity_res hfj_spidx_quantity_pkey idx_sp_quantity_hash_sysun_v2 "
    "idx_sp_quantity_hash_un_v2 idx_sp_quantity_hash_v2 idx_sp_quantity_resid_v2",
    "hfj_spidx_quantity_nrml": "fk_sp_quantitynm_res hfj_spidx_quantity_nrml_pkey idx_sp_qnty_nrml_hash_sysun_v2 "
    "idx_sp_qnty_nrml_hash_un_v2 idx_sp_qnty_nrml_hash_v2 idx_sp_qnty_nrml_resid_v2",
    "hfj_spidx_string": "fk_spidxstr_resource hfj_spidx_string_pkey idx_sp_string_hash_exct_v2 "
    "idx_sp_string_hash_ident_v2 idx_sp_string_hash_nrm_pattern_ops idx_sp_string_hash_nrm_v2 idx_sp_string_resid_v2",
    "hfj_spidx_token": "fk_sp_token_res hfj_spidx_token_pkey idx_sp_token_hash_s_v2 "
    "idx_sp_token_hash_sv_v2 idx_sp_token_hash_v2 idx_sp_token_hash_v_v2 idx_sp_token_resid_v2",
    "hfj_spidx_uri": "fkgxsreutymmfjuwdswv3y887do hfj_spidx_uri_pkey idx_sp_uri_coords "
    "idx_sp_uri_hash_identity_pattern_ops idx_sp_uri_hash_identity_v2 idx_sp_uri_hash_uri_v2",
}


def expected_names(table: str) -> frozenset[str]:
    """Return the names of HAPI 7.2.0's indexes and foreign keys of a table; none for one that is not known."""
    return frozenset(HAPI_7_2.get(table, "").split())


def judge(table: Table, bounds: Bounds, unique_guard: bool = False) -> list[dict[str, Any]]:
    """Return what is in the way of partitioning a table, and what is worth knowing. unique_guard: the operator has chosen the guard."""
    found: list[dict[str, Any]] = []
    name = "%s.%s" % (table.schema, table.name)

    def say(id: str, severity: str, expected: Any, what: Any, hint: str) -> None:
        found.append(finding(id, severity, name, expected, what, hint))

    main = table.main
    if main is None:
        say("table_missing", "error", "a table of HAPI", "no such table", "Correct the name, the schema or the database.")
        return found
    state = table.state
    if state == "foreign":
        say(
            "already_partitioned", "error", "a plain table, or one that this module has partitioned",
            "%s" % ("partitioned by %s" % main.partition_key if main.kind == "p" else "relkind %s" % main.kind),
            "It was done by other means: leave it, or bring it back to a plain table first.",
        )  # fmt: skip
        return found
    if state in ("swapped", "unfinished", "rewritten"):
        if state == "unfinished":
            say(
                "partition_unfinished", "warning", "all foreign keys validated, and statistics of the parent",
                ", ".join(step.action + " " + step.object for step in leftovers(table)), "Run hfj_partition with step=swap again: it goes on online.",
            )  # fmt: skip
        if table.new is not None:
            say("partition_leftover", "warning", "no %s" % (table.name + NEW), "it is there", "Nothing uses it: look at it, and drop it by hand.")
        return found + judge_guard(table)
    if state == "preparing":
        say(
            "partition_half_done", "info", "a table that is plain or prepared", _half(table),
            "hfj_partition with step=prepare goes on from here, with step=undo it goes back.",
        )  # fmt: skip
    broken = [index.name for index in main.indexes if not index.valid and index.name != table.name + UNIQUE]
    if broken:
        say("index_invalid", "error", "valid indexes", ", ".join(broken), "REINDEX INDEX CONCURRENTLY, or drop it, and run this again.")
    alone = [index for index in main.indexes if index.unique and not index.primary and table.key not in index.columns]
    guarded = guarded_index(main)
    # What was begun with a guard was chosen.
    if guarded is not None and (unique_guard or table.guard is not None):
        alone.remove(guarded)
    if alone or not table.key or (guarded is None and table.name == RESOURCE):
        what = ", ".join("%s (%s)" % (index.name, ", ".join(index.columns)) for index in alone)
        choice = " Or choose unique_guard: a guard table then keeps it unique, for a price with each write." if guarded is not None else ""
        say(
            "unique_without_key", "error", "each unique index contains the column of the partitions",
            what or ("no column that refers to HFJ_RESOURCE" if not table.key else "no unique index on (%s)" % ", ".join(PAIR)),
            "It can't be unique over partitions, and HAPI relies on it: parallel writes of one new id would make duplicates. Leave this table whole"
            " and partition those that hold the bulk: HFJ_SPIDX_*, HFJ_RES_LINK." + choice,
        )  # fmt: skip
        if not table.key:
            return found
    if table.key and table.nullable:
        # As in HFJ_RES_TAG: HAPI always writes it, and the proof covers it.
        say(
            "partition_key_nullable", "info", "%s NOT NULL" % table.key, "it may be null",
            "The CHECK asks for a value too, since a row without one belongs to no partition. Rows without one make prepare fail.",
        )  # fmt: skip
    if not table.pk:
        say("primary_key_other", "error", "a primary key of one column", "none", "This is not HAPI's table of 7.2.")
    for item in table.inbound:
        if not (item.partner or table.narrow) or not item.key.plain or len(item.key.columns) != 1:
            say(
                "inbound_key_unfit", "error", "a column beside %s in %s that holds our %s" % (item.key.columns, item.key.table, table.key),
                "foreign key %s: %s" % (item.key.name, item.key.definition),
                "A foreign key to a partitioned table must include its key, and this one can't.",
            )  # fmt: skip
    found += judge_order(table, "partitioned")
    unfit = [key.name for key in main.keys if not key.validated or not key.plain]
    if unfit:
        say(
            "foreign_key_unfit", "error", "validated foreign keys without actions", ", ".join(unfit),
            "ALTER TABLE ... VALIDATE CONSTRAINT first: otherwise each row would be looked at under the lock.",
        )  # fmt: skip
    if main.obstacles:
        say(
            "table_obstacles", "error", "nothing that follows the table's oid", ", ".join(main.obstacles),
            "It would stay with the first partition, and not see the others. Drop it before and make it anew on the parent after.",
        )  # fmt: skip
    long = [item for item in names_made(table, bounds) if len(item.encode()) > NAME_BYTES]
    if long:
        say(
            "name_too_long", "error", "names of at most %d bytes" % NAME_BYTES, ", ".join(long),
            "PostgreSQL would cut them. ALTER INDEX ... RENAME to something shorter first.",
        )  # fmt: skip
    if table.taken:
        say("partition_name_taken", "error", "these names free", ", ".join(table.taken), "Somebody else's: rename or drop them.")
    if table.building:
        say(
            "index_building", "warning", "nobody at work on it", "pid %d builds the index, %.0f %% done" % (table.building, table.progress),
            "Wait for it, or end it with pg_cancel_backend() and run this again.",
        )  # fmt: skip
    differing = names_differ(table)
    if differing:
        say(
            "schema_differs", "warning", "HAPI 7.2.0's indexes and foreign keys", differing,
            "What is done goes by the catalog, so they are taken along. Try the next HAPI upgrade on a copy first.",
        )  # fmt: skip
    return found


def judge_waiting(table: Table) -> list[dict[str, Any]]:
    """Return what has to be done for as long as a table waits for its swap."""
    return [
        finding(
            "watch_needed", "info", "%s.%s" % (table.schema, table.name), "step=watch at least every hour until the swap",
            "ids from the bound on are refused", "Let cron run it, begin no bulk load, and swap soon.",
        )
    ]  # fmt: skip


def judge_order(table: Table, wish: str) -> list[dict[str, Any]]:
    """Return which tables have to be plain before this one can be what is wished: a key to it has to be made anew, and they take none."""
    first = sorted({item.key.table for item in table.inbound if item.in_use})
    if not first:
        return []
    return [
        finding(
            "inbound_table_partitioned", "error", "%s.%s" % (table.schema, table.name), "the tables that refer to it plain",
            "%s partitioned" % ", ".join(first),
            "PostgreSQL takes no NOT VALID foreign key of a partitioned table, and any other would read it under the lock. Bring %s back with"
            " step=undo, make this one %s, and then partition the other again if that is wanted." % (", ".join(first), wish),
        )
    ]  # fmt: skip


def judge_back(table: Table) -> list[dict[str, Any]]:
    """Return what is in the way of the way back from a partitioned table."""
    found = []
    if table.main is not None and table.main.obstacles and table.state in ("swapped", "unfinished", "rewritten"):
        found.append(
            finding(
                "table_obstacles", "error", "%s.%s" % (table.schema, table.name), "nothing that was made on the partitioned table",
                ", ".join(table.main.obstacles), "It would go with the parent. Drop it before, and make it anew on the plain table after.",
            )
        )  # fmt: skip
    return found + (judge_order(table, "plain") if table.state in ("swapped", "unfinished", "rewritten") else [])


def names_differ(table: Table) -> str:
    """Return in words how the names of a plain table differ from 7.2's; "" if they do not, or are not known."""
    expected = expected_names(table.name)
    if not expected or table.main is None:
        return ""
    have = {index.name for index in table.main.indexes} | {key.name for key in table.main.keys}
    have.discard(table.name + UNIQUE)
    more, fewer = sorted(have - expected), sorted(expected - have)
    words = (["besides: " + ", ".join(more)] if more else []) + (["missing: " + ", ".join(fewer)] if fewer else [])
    return "; ".join(words)


def _half(table: Table) -> str:
    main = table.main
    index = unique_index(table, main)
    words = ["index %s" % ("missing" if index is None else "ready" if index.valid else "invalid")]
    if guarded_index(main) is not None:
        guard, faults = table.guard, guard_faults(table)
        done = "; ".join(faults) if guard is None or faults else "ready" if guard.filled is None else "filled up to id %d" % max(0, guard.filled)
        words = ["guard " + ("missing" if guard is None else done)]
    words.append("parent %s with %d partitions" % ("there", len(table.new.parts)) if table.new else "parent missing")
    words.append("CHECK %s" % ("missing" if main is None or main.check_bound is None else "validated" if main.check_valid else "not validated"))
    return ", ".join(words)


def judge_sequence(table: Table, sequence: Sequence, alarm_days: float) -> list[dict[str, Any]]:
    """Return what the position of the sequence says of a table."""
    name = "%s.%s" % (table.schema, table.name)
    main = table.main
    if main is not None and main.kind == "r" and main.check_bound is not None and near(sequence, main.check_bound):
        return [
            finding(
                "check_near", "error", name, "the sequence far below %d" % main.check_bound, "ids up to %d are given out" % sequence.used,
                "Inserts will be refused soon. hfj_partition with step=watch drops the CHECK; then prepare anew, or swap at once.",
            )
        ]  # fmt: skip
    end = last_bound(main) if table.state in ("swapped", "unfinished") else None
    left = days_until(sequence, end)
    if end is not None and (near(sequence, end) or (left is not None and left < alarm_days)):
        return [
            finding(
                "partitions_end", "error", name, "partitions for %g days" % alarm_days,
                "ids up to %d are given out, and the partitions end at %d (%s days)" % (sequence.used, end, "?" if left is None else "%.1f" % left),
                "hfj_partition with step=extend makes more. Inserts fail beyond the last one.",
            )
        ]  # fmt: skip
    return []


def judge_server(
    service: str, version: int, in_recovery: bool, hapi_partitions: bool, sequence: Sequence, standbys: list[dict[str, Any]], max_lag: int
) -> list[dict[str, Any]]:
    """Return what the server and HAPI's own settings say to partitioning."""
    found = []
    major = version // 10000
    if in_recovery:
        found.append(
            finding("server_is_standby", "error", service, "the primary", "a standby, which follows it", "Name the service of the primary.")
        )
    if major != SERVER_VERSION:
        severity = "warning" if OLDEST_VERSION <= major <= NEWEST_VERSION else "error"
        hint = DIFFERENCES.get(major, "Nothing is known of it") + ". Rehearse on a copy."
        found.append(finding("server_version_other", severity, service, "PostgreSQL %d" % SERVER_VERSION, "PostgreSQL %d" % major, hint))
    if hapi_partitions:
        found.append(
            finding(
                "hapi_partition_mode", "error", service, "HAPI's own partitioning off", "rows with a PARTITION_ID, or rows in HFJ_PARTITION",
                "HAPI then keeps tenants apart by that column, which is another thing and was not tried together. Leave the tables whole.",
            )
        )  # fmt: skip
    if sequence.cycles or sequence.increment < 1:
        found.append(
            finding(
                "sequence_unfit", "error", sequence.name, "a sequence that only rises", "it cycles, or has the increment %d" % sequence.increment,
                "Bounds by id need ids that rise. This is not HAPI's sequence of 7.2.",
            )
        )  # fmt: skip
    elif sequence.highest > sequence.last + sequence.increment:
        found.append(
            finding(
                "sequence_behind", "error", sequence.name, "at least %d, the highest id" % sequence.highest, "it is at %d" % sequence.last,
                "It will give out ids that exist, as after a restore without sequences. Name the right sequence, or setval() it.",
            )
        )  # fmt: skip
    for row in standbys:
        lag = row["lag_bytes"]
        if lag is None or lag > max_lag:
            found.append(
                finding(
                    "standby_lags", "error", str(row["application"]), "at most %s behind" % human(max_lag),
                    "lag unknown" if lag is None else human(lag), "Wait until it has caught up: the index and the swap are more to replay.",
                )
            )  # fmt: skip
    return found


def judge_disk(service: str, free: Optional[int], needed: int) -> list[dict[str, Any]]:
    """Return whether there is room for the online part; free is None where it could not be read."""
    if free is None:
        return [
            finding("disk_unknown", "warning", service, "%s free" % human(needed), "the free space could not be read", "Look at it by hand: df -h.")
        ]
    if free < needed * 1.2:
        return [
            finding(
                "disk_too_small", "error", service, "%s free and a fifth more" % human(needed), "%s" % human(free),
                "Free some space, or enlarge the volume. A full disk stops the server.",
            )
        ]  # fmt: skip
    return []
