# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Quoting and editing .env files. That Compose reads them alike is tested in tests/integration/real."""

from __future__ import annotations

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _dotenv
from ansible_collections.dghs.bd_fhir.plugins.module_utils._quoting import QuotingError, dotenv_quote
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
NASTY = st.text(st.sampled_from("\\'\"$#{}:-+? \n\r\tabnrtX01=`%"), max_size=20)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("", ""),
        ("plain-1.0/x:y@z", "plain-1.0/x:y@z"),
        ("pa$sw0rd%x", "'pa$sw0rd%x'"),
        ("two words", "'two words'"),
        ("it's", '"it\'s"'),
        ("it's $5", '"it\'s \\$5"'),
        ("end\\", '"end\\\\"'),
        ("a\nb", '"a\\nb"'),
    ],
)
def test_quote(value: str, written: str) -> None:
    assert dotenv_quote(value) == written


@given(TEXT | NASTY)
def test_quoted_value_is_read_back_and_stays_on_one_line(value: str) -> None:
    line = "A=" + dotenv_quote(value) + "\n"
    assert _dotenv.values_of(_dotenv.parse(line)) == {"A": value}
    assert line.count("\n") == 1


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_what_no_environment_carries_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(QuotingError) as raised:
        dotenv_quote("hidden" + value)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("export A=1\nB: x\n", {"A": "1", "B": "x"}),
        ("A=x # comment\nB=x#y\n", {"A": "x", "B": "x#y"}),
        ('A=\'$B\'\nB="a\\"b"\n', {"A": "$B", "B": 'a"b'}),
        ("A='two\nlines'\nB=1", {"A": "two\nlines", "B": "1"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=1\n", {"A": "1"}),
        ("A=1\nB=${A}2\nC=${D:-x}\nE=$A$A\n", {"A": "1", "B": "12", "C": "x", "E": "11"}),
        ("PW=pa$sw0rd%x\n", {"PW": "pa%x"}),
        ("PW=a$$b\n", {"PW": "a$b"}),
        ("A\n", {}),
        ("", {}),
    ],
)
def test_parse(text: str, values: dict[str, str]) -> None:
    assert _dotenv.values_of(_dotenv.parse(text)) == values


@pytest.mark.parametrize(
    ("text", "line"),
    [("A=1\nB='secret\n", 2), ("A=1\n\nse$cret=1\n", 3), ("A=1\nB=se${cret\n", 2), ("A B=secret\n", 1), ("A=${B:?secret}\n", 1)],
)
def test_broken_file_names_the_line_and_never_the_content(text: str, line: int) -> None:
    with pytest.raises(_dotenv.DotenvError) as raised:
        _dotenv.parse(text)
    assert raised.value.line == line
    assert "line %d" % line in str(raised.value)
    assert "cret" not in str(raised.value)


def test_lost_part_of_a_value_is_noticed() -> None:
    lost, doubled, meant, quoted = _dotenv.parse("PW=pa$sw0rd%x\nD=a$$b\nE=${D}\nQ='pa$sw0rd'\n")
    assert (lost.name, lost.line, lost.unset) == ("PW", 1, ("sw0rd",))
    assert doubled.doubled
    assert not doubled.unset
    assert not meant.unset
    assert not meant.doubled
    assert not quoted.unset
    assert not quoted.doubled


def test_process_environment_wins_in_references() -> None:
    assert _dotenv.values_of(_dotenv.parse("A=1\nB=$A\n", {"A": "2"}))["B"] == "2"


SAMPLE = "# head\r\nA=1 # one\r\n\r\nexport B = \"x\" # two\r\nPW=old\r\nM='l1\r\nl2'\r\nPW=new"


@pytest.mark.parametrize(
    ("name", "value", "old", "new"),
    [
        ("A", "2", "A=1 # one", "A=2 # one"),
        ("B", "it's", 'export B = "x" # two', 'export B = "it\'s" # two'),
        ("PW", "a b", "\r\nPW=new", "\r\nPW='a b'"),
        ("M", "x", "M='l1\r\nl2'", "M=x"),
    ],
)
def test_set_changes_only_the_bytes_of_the_last_assignment(name: str, value: str, old: str, new: str) -> None:
    assert SAMPLE.count(old) == 1
    assert _dotenv.set_value(SAMPLE, name, value) == SAMPLE.replace(old, new)


@pytest.mark.parametrize(
    ("text", "value", "result"),
    [
        ("A=1 # one\n", "", "A='' # one\n"),
        ("A='1' B='2'\n", "x", "A='x' B='2'\n"),
        ("A='1' B='2'\n", "", "A='' B='2'\n"),
        ("A='1' # one\n", "x", "A=x # one\n"),
    ],
)
def test_set_quotes_where_the_rest_of_the_line_would_join(text: str, value: str, result: str) -> None:
    assert _dotenv.set_value(text, "A", value) == result
    assert _dotenv.values_of(_dotenv.parse(result)) == {**_dotenv.values_of(_dotenv.parse(text)), "A": value}


@pytest.mark.parametrize("text", ["", "A=1", "A=1\n", "A=1\r\n", "A=1\r\nB=2", "# c", "A='x\ny'\n\n\n", "\ufeffA=1\n"])
@pytest.mark.parametrize("comment", [None, "# mark"])
def test_a_new_name_taken_out_again_leaves_the_same_bytes(text: str, comment: str | None) -> None:
    more = _dotenv.set_value(text, "NEW", "v w", comment)
    assert _dotenv.values_of(_dotenv.parse(more))["NEW"] == "v w"
    assert (comment or "") in more
    assert _dotenv.remove_name(more, "NEW", comment) == text


def test_remove_takes_every_assignment_and_nothing_else() -> None:
    assert _dotenv.remove_name(SAMPLE, "PW") == SAMPLE.replace("\r\nPW=old", "").replace("\r\nPW=new", "")
    assert _dotenv.remove_name(SAMPLE, "M") == SAMPLE.replace("M='l1\r\nl2'\r\n", "")
    assert _dotenv.remove_name(SAMPLE, "X") == SAMPLE
    assert _dotenv.remove_name("A='1' B='2'\n", "A").strip() == "B='2'"


def test_name_that_stands_alone_gets_a_value() -> None:
    assert _dotenv.set_value("A\nB=1\n", "A", "x") == "A=x\nB=1\n"


LINES = st.lists(st.sampled_from(["A=1", "B='x y' # c", 'C="\\$"', "# A=9", "", "export A = 2", "D='m\nn'", "A", "E: z", "A='1' B='2'"]), max_size=6)


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from("ABCDEF"), TEXT | NASTY)
def test_set_leaves_every_other_name_alone(lines: list[str], ending: str, last: bool, name: str, value: str) -> None:
    text = ending.join(lines) + (ending if last else "")
    if any(item.name == "" for item in _dotenv.parse(text)):
        return
    before = _dotenv.values_of(_dotenv.parse(text))
    after = _dotenv.values_of(_dotenv.parse(_dotenv.set_value(text, name, value)))
    assert after == {**before, name: value}
    assert _dotenv.set_value(_dotenv.set_value(text, name, value), name, value) == _dotenv.set_value(text, name, value)


@pytest.mark.parametrize(("name", "valid"), [("A", True), ("a.b-c_1", True), ("1A", False), ("", False), ("A B", False), ("A=", False)])
def test_valid_name(name: str, valid: bool) -> None:
    assert _dotenv.valid_name(name) is valid
