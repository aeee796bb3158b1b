# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a restored copy is what the database was."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _backup_contents as contents
from ansible_collections.dghs.bd_fhir.plugins.module_utils._backup_contents import Contents, Later, Table, Written, differences

TABLE = Table("Audit", 'Ev"ents-অডিট', ("When", "a"))


def made(**more: Any) -> Contents:
    values: dict[str, Any] = {
        "tables": {"public.a": (3, "7"), "public.b": (0, "0")},
        "objects": {"role": {"x"}, "index": {"i", "j"}},
        "sequences": {"public.s": 5, "public.n": None},
        "large_objects": (1, "9"),
    }
    return Contents(**{**values, **more})


def later(written: Optional[dict[str, Written]] = None, **more: Any) -> Later:
    return Later(**{"sequences": {"public.s": 9, "public.n": None}, "written": written, **more})


def test_a_statement_names_everything_in_quotes() -> None:
    assert TABLE.statement() == (
        "SELECT count(*)::text || ' ' || coalesce(sum(hashtextextended(ROW(t.\"When\", t.\"a\")::text COLLATE \"C\", 0)), 0)::text"
        ' FROM ONLY "Audit"."Ev""ents-অডিট" t'
    )
    assert TABLE.title == '"Audit"."Ev""ents-অডিট"'
    assert Table("public", "odd", ()).title == "public.odd"
    # A dot in a name makes no other table of it.
    assert contents.title("a.b", "c") != contents.title("a", "b.c")


def test_answers_become_contents() -> None:
    lines = ["3 -7", *['["x"]' for _kind in contents.OBJECTS], '{"public.s": null}', "2 12"]
    found = contents.parse_contents([TABLE], lines)
    assert found.tables == {TABLE.title: (3, "-7")}
    assert set(found.objects) == set(contents.OBJECTS)
    assert found.sequences == {"public.s": None}
    assert found.large_objects == (2, "12")
    assert found.rows == 3
    assert len(contents.statements([TABLE])) == len(lines)
    for wrong in (lines[1:], ["3", *lines[1:]], ["x 7", *lines[1:]], [*lines[:-2], "no", lines[-1]]):
        with pytest.raises(ValueError, match="."):
            contents.parse_contents([TABLE], wrong)


def test_the_same_is_the_same() -> None:
    assert differences(made(), made(), later()) == []
    assert differences(made(), made(), later({})) == []


@pytest.mark.parametrize(
    ("restored", "told"),
    [
        ({"tables": {"public.a": (2, "7"), "public.b": (0, "0")}}, "the table public.a has 2 rows instead of 3"),
        ({"tables": {"public.a": (3, "8"), "public.b": (0, "0")}}, "the table public.a has other contents"),
        ({"tables": {"public.a": (3, "7")}}, "the table public.b is missing, or has other columns"),
        ({"objects": {"role": {"x"}, "index": {"i"}}}, "missing index: j"),
        ({"objects": {"role": {"x", "y"}, "index": {"i", "j"}}}, "additional role: y"),
        ({"sequences": {"public.s": 4, "public.n": None}}, "the sequence public.s stands at 4, and stood at 5 to 9 while the backup was made"),
        ({"sequences": {"public.s": None, "public.n": None}}, "the sequence public.s stands at None, and stood at 5 to 9"),
        ({"sequences": {"public.s": 5}}, "the sequence public.n is missing"),
        ({"large_objects": (1, "8")}, "1 large objects instead of 1, or other contents"),
    ],
)
def test_every_difference_is_told(restored: dict[str, Any], told: str) -> None:
    (found,) = differences(made(), made(**restored), later())
    assert told in found


@pytest.mark.parametrize(
    ("restored", "written", "right"),
    [
        ((4, "8"), Written(1, 0, 0), True),
        ((5, "8"), Written(1, 0, 0), False),
        ((2, "8"), Written(1, 0, 0), False),  # a row that was there is lost
        ((2, "8"), Written(0, 0, 1), True),
        ((3, "8"), Written(0, 1, 0), True),
        ((3, "8"), Written(0, 0, 0), False),  # other contents that nobody wrote
        ((2, "8"), Written(0, 1, 0), False),
    ],
)
def test_a_physical_copy_may_differ_by_what_was_written(restored: tuple[int, str], written: Written, right: bool) -> None:
    copy = made(tables={"public.a": restored, "public.b": (0, "0")})
    assert (differences(made(), copy, later({"public.a": written})) == []) is right


def test_a_physical_copy_may_lack_what_the_source_has_lost_too() -> None:
    copy = made(tables={"public.a": (3, "7")}, objects={"role": {"x"}, "index": {"i", "k"}})
    now = {"role": {"x"}, "index": {"i", "k"}}
    assert differences(made(), copy, later({}, objects=now, tables=frozenset({"public.a"}))) == []
    assert len(differences(made(), copy, later({}, objects=now, tables=frozenset({"public.a", "public.b"})))) == 1
    # An index that neither moment knows.
    copy.objects["index"].add("z")
    assert differences(made(), copy, later({}, objects=now, tables=frozenset({"public.a"}))) == ["additional index: z"]


@pytest.mark.parametrize(
    ("before", "after", "value", "right"),
    [
        (5, 9, 5, True),
        (5, 9, 9, True),
        (5, 9, 10, False),
        (-5, -20, -10, True),
        (-5, -20, -1, False),
        (None, None, None, True),
        (None, None, 1, False),
        (None, 4, 2, True),
        (None, 4, None, True),
        (4, 6, None, False),
    ],
)
def test_sequences_stand_between(before: Any, after: Any, value: Any, right: bool) -> None:
    assert (contents.sequence_differences({"s": before}, {"s": after}, {"s": value}, [], {}) == []) is right
    assert contents.sequence_differences({"s": before}, {"s": after}, {"s": value}, ["s"], {}) == []
    # One that the source has lost meanwhile.
    assert contents.sequence_differences({"s": before}, {}, {}, [], {}) == []


def test_counters_that_were_set_back_count_from_zero() -> None:
    before = {"a": Written(10, 2, 1), "b": Written(10, 2, 1)}
    after = {"a": Written(12, 2, 4), "b": Written(3, 0, 0), "new": Written(1, 0, 0)}
    assert contents.since(before, after) == {"a": Written(2, 0, 3), "b": Written(3, 0, 0), "new": Written(1, 0, 0)}


@pytest.mark.parametrize(
    ("after", "value", "step", "right"), [(100, 132, 1, True), (100, 134, 1, False), (-316, -381, -5, True), (-316, -482, -5, False)]
)
def test_a_server_that_recovered_may_be_ahead_by_what_it_logs_at_once(after, value, step, right):
    """The log has 32 values more than were given out, and one that a session keeps; beyond that the copy is another database's."""
    before = after - 10 * step
    assert (contents.sequence_differences({"s": before}, {"s": after}, {"s": value}, [], {"s": step * 33}) == []) is right
    assert contents.sequence_differences({"s": before}, {"s": after}, {"s": value}, [], {}) != []
