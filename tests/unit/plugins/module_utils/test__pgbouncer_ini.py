# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading and changing pgbouncer.ini. That pgBouncer reads it alike is tested in tests/integration/real."""

from __future__ import annotations

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer_ini import (
    Ini,
    IniError,
    change,
    line_words,
    load,
    misplaced,
    repeated,
    with_texts,
    words,
)
from hypothesis import given
from hypothesis import strategies as st

MAIN = "/etc/pgbouncer/pgbouncer.ini"
TEXT = """\
; a comment = 1
[databases]
fhirdb = host=pg pool_size='7' password='it''s # = x'\t
'odd name' = host=pg
* = host=pg  reserve_pool = 2

[pgbouncer]   listen_port = 6432
  default_pool_size=20
# default_pool_size = 99
default_pool_size =\t25 ; not a comment
auth_file =
[users]
app = pool_mode=session
"""


def read(text: str = TEXT, **more: str) -> Ini:
    texts = {MAIN: text, **{f"/{name}.ini": value for name, value in more.items()}}
    return load(MAIN, lambda path: texts[path])


def test_read_as_pgbouncer_does() -> None:
    ini = read()
    assert [(item.line, item.section, item.key, item.value) for item in ini.entries] == [
        (3, "databases", "fhirdb", "host=pg pool_size='7' password='it''s # = x'"),
        (4, "databases", "odd name", "host=pg"),
        (5, "databases", "*", "host=pg  reserve_pool = 2"),
        (7, "pgbouncer", "listen_port", "6432"),
        (8, "pgbouncer", "default_pool_size", "20"),
        (10, "pgbouncer", "default_pool_size", "25 ; not a comment"),
        (11, "pgbouncer", "auth_file", ""),
        (13, "users", "app", "pool_mode=session"),
    ]
    for item in ini.entries:
        assert TEXT[item.start : item.end] == item.value
    entry = ini.get("default_pool_size")
    assert entry is not None
    assert entry.where == f"{MAIN}:10"
    assert ini.get("nothing") is None
    assert [item.line for item in repeated(ini, ["default_pool_size", "auth_file"])] == [8]
    assert "host" not in repr(ini)
    assert "host" not in repr(ini.entries[0])


def test_includes_are_followed_and_keep_the_section() -> None:
    ini = read("[pgbouncer]\na = 1\n%include /more.ini\nc = 3\n%included = x\n".replace("%included = x\n", ""), more="b = 2\n[users]\n")
    assert [(item.path, item.section, item.key) for item in ini.entries] == [
        (MAIN, "pgbouncer", "a"),
        ("/more.ini", "pgbouncer", "b"),
        (MAIN, "users", "c"),
    ]
    assert list(ini.texts) == [MAIN, "/more.ini"]


@pytest.mark.parametrize(
    ("text", "words_of"),
    [
        ("[pgbouncer]\n\nsecret\n", [":3", "name = value"]),
        ("[pgbouncer\nsecret = 1\n", [":1", "section"]),
        ("[databases]\n'secret = host=x\n", [":2", "quote"]),
        ("%include more.ini\n", [":1", "absolute"]),
        (f"%include {MAIN}\n", [":1", "10"]),
    ],
)
def test_broken_files_name_the_line_and_nothing_else(text: str, words_of: list[str]) -> None:
    with pytest.raises(IniError) as raised:
        read(text)
    assert all(word in str(raised.value) for word in words_of)
    assert "secret" not in str(raised.value)


def test_words() -> None:
    value = "host = pg  port=5432 password='a'' b' dbname=\tx"
    found = words(value)
    assert [(word.key, word.value) for word in found] == [("host", "pg"), ("port", "5432"), ("password", "a' b"), ("dbname", "x")]
    assert [value[word.start : word.end] for word in found] == ["pg", "5432", "'a'' b'", "x"]
    assert words("") == []
    assert "a' b" not in repr(found)


@pytest.mark.parametrize("value", ["secret", "a=", "a=''", "password='secret", "password='secret''", "=secret"])
def test_broken_words(value: str) -> None:
    with pytest.raises(IniError) as raised:
        words(value)
    assert "secret" not in str(raised.value)


def test_lines_that_set_their_own() -> None:
    ini = read()
    assert [(entry.key, word.key, word.value) for entry, word in line_words(ini, "default_pool_size")] == [("fhirdb", "pool_size", "7")]
    assert [(entry.key, word.key, word.value) for entry, word in line_words(ini, "reserve_pool_size")] == [("*", "reserve_pool", "2")]
    assert line_words(ini, "server_login_retry") == []
    with pytest.raises(IniError, match=f"{MAIN}:2"):
        line_words(read("[databases]\nx = password='secret\n[pgbouncer]\n"), "default_pool_size")


def test_a_setting_in_the_wrong_section() -> None:
    ini = read("[databases]\nmax_client_conn = 100\n[pgbouncer]\nmax_client_conn = 200\n[users]\npool_mode = x=1\n")
    assert [(item.line, item.section) for item in misplaced(ini, ["max_client_conn", "pool_mode"])] == [(2, "databases"), (6, "users")]


def test_only_the_bytes_of_the_values_change() -> None:
    ini = read()
    new = change(ini, {"default_pool_size": "30", "listen_port": "6432"}, {("fhirdb", "pool_size"): "30", ("*", "reserve_pool"): "3"})
    wanted = TEXT.replace("\t25 ; not a comment", "\t30").replace("pool_size='7'", "pool_size=30").replace("reserve_pool = 2", "reserve_pool = 3")
    assert new == {MAIN: wanted}
    assert change(with_texts(ini, new), {"default_pool_size": "30"}, {("fhirdb", "pool_size"): "30"}) == {}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[pgbouncer]\na = 1\n[users]\n", "[pgbouncer]\na = 1\nx = 2\n[users]\n"),
        ("[pgbouncer]\na = 1", "[pgbouncer]\na = 1\nx = 2"),
        ("[pgbouncer]\r\na = 1\r\n", "[pgbouncer]\r\na = 1\r\nx = 2\r\n"),
        ("[pgbouncer]\n", "[pgbouncer]\nx = 2\n"),
        ("[pgbouncer]\n%include /more.ini\n", "[pgbouncer]\nx = 2\n%include /more.ini\n"),
    ],
)
def test_a_setting_that_is_not_there_gets_a_line(text: str, wanted: str) -> None:
    ini = read(text, more="b = 1\n")
    assert change(ini, {"x": "2"}, {}) == {MAIN: wanted}
    assert change(read(wanted, more="b = 1\n"), {"x": None}, {}) == {MAIN: text}
    both = with_texts(ini, change(ini, {"x": "2", "y": "3"}, {}))
    assert change(both, {"x": None, "y": None}, {}) == {MAIN: text}
    one = with_texts(both, change(both, {"x": None, "z": "4"}, {}))
    assert change(one, {"y": None, "z": None}, {}) == {MAIN: text}


def test_a_setting_goes_with_all_its_lines() -> None:
    ini = read("[pgbouncer] x = 1\n  x=2\t\nb = 1\n%include /more.ini\n'x' = 3", more="; x = 5\nx = 4\n[users]\nx = 6\n[pgbouncer]\n")
    assert change(ini, {"x": None}, {}) == {MAIN: "[pgbouncer] \nb = 1\n%include /more.ini", "/more.ini": "; x = 5\n[users]\nx = 6\n[pgbouncer]\n"}
    assert change(ini, {"c": None}, {}) == {}


def test_a_setting_is_changed_in_the_file_that_has_it() -> None:
    ini = read("[pgbouncer]\nb = 0\n%include /more.ini\n", more="b = 1\n")
    assert change(ini, {"b": "2"}, {}) == {"/more.ini": "b = 2\n"}


def test_what_cannot_be_changed() -> None:
    with pytest.raises(IniError, match="section"):
        change(read("%include /more.ini\n", more="[pgbouncer]\na = 1\n"), {"x": "2"}, {})
    with pytest.raises(IniError, match="x can't stand"):
        change(read(), {"x": "1\n2"}, {})


VALUE = st.text(st.sampled_from("ab1 ='#;[]%\t"), max_size=8).map(str.strip)
LINE = st.one_of(
    st.just(""),
    st.builds("; {}".format, VALUE),
    st.builds("{}={}".format, st.sampled_from(["a", "b", "x"]), VALUE),
    st.builds(" {} \t= {} ".format, st.sampled_from(["a", "b", "x"]), VALUE),
    st.sampled_from(["[pgbouncer]", "[users]", "[databases] a = host=x"]),
)


@given(st.lists(LINE, max_size=10), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from(["1", "it's", "30"]))
def test_a_change_is_read_back_and_touches_nothing_else(lines: list[str], ending: str, last: bool, value: str) -> None:
    text = ending.join(["[pgbouncer]", *lines]) + (ending if last else "")
    ini = read(text)
    new = with_texts(ini, change(ini, {"x": value}, {}))
    entry = new.get("x")
    assert entry is not None
    assert entry.value == value

    def others(item: Ini) -> list[tuple[str, str, str]]:
        return [(entry.section, entry.key, entry.value) for entry in item.entries if (entry.section, entry.key) != ("pgbouncer", "x")]

    assert others(new) == others(ini)
    assert change(new, {"x": value}, {}) == {}
    gone = with_texts(new, change(new, {"x": None}, {}))
    assert gone.get("x") is None
    assert others(gone) == others(ini)
    assert change(gone, {"x": None}, {}) == {}
    if ini.get("x") is None:
        assert gone.texts == ini.texts
