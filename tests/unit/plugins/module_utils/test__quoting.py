# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each format can't carry is refused, and never shown. That the real programs read ours is tested in tests/integration/real."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer_ini import load, words
from ansible_collections.dghs.bd_fhir.plugins.module_utils._quoting import (
    QuotingError,
    conninfo_value,
    pgbouncer_connstr_value,
    pgbouncer_ini_value,
    pgpass_escape,
    userlist_quote,
)
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

FORMATS = [pgbouncer_ini_value, pgbouncer_connstr_value, userlist_quote, pgpass_escape, conninfo_value]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=40)
NASTY = st.text(st.sampled_from("\\'\"$#{}:;,@/%*?=&![]- \tabমা01"), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("quote", "value", "written"),
    [
        (pgbouncer_ini_value, "a'b;#\"", "a'b;#\""),
        (pgbouncer_ini_value, "", ""),
        (pgbouncer_connstr_value, "plain-1.0/x:y@z%40*", "'plain-1.0/x:y@z%40*'"),
        (pgbouncer_connstr_value, "host.name", "host.name"),
        (pgbouncer_connstr_value, "'tis", "'''tis'"),
        (pgbouncer_connstr_value, "a b\\", "'a b\\'"),
        (userlist_quote, 'a"b', '"a""b"'),
        (userlist_quote, "end\\", '"end\\"'),
        (userlist_quote, "", '""'),
        (pgpass_escape, "a:b\\", "a\\:b\\\\"),
        (pgpass_escape, "*", "\\*"),
        (pgpass_escape, "#a#", "\\#a#"),
        (pgpass_escape, "a*", "a*"),
        (conninfo_value, "", "''"),
        (conninfo_value, "fd00::1", "fd00::1"),
        (conninfo_value, "a b\\'", "'a b\\\\\\''"),
    ],
)
def test_written(quote: Callable[[str], str], value: str, written: str) -> None:
    assert quote(value) == written


@pytest.mark.parametrize("quote", FORMATS)
@pytest.mark.parametrize("value", ["a\0b", "a\nb", "a\rb", "\ud800"])
def test_what_no_line_carries_is_refused_without_being_shown(quote: Callable[[str], str], value: str) -> None:
    with pytest.raises(QuotingError) as raised:
        quote("hidden" + value)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("quote", "value", "word"),
    [
        (pgbouncer_ini_value, " lead", "space"),
        (pgbouncer_ini_value, "trail\t", "space"),
        (pgbouncer_connstr_value, "", "empty"),
        (pgbouncer_connstr_value, "x" * 2048, "longer"),
        (userlist_quote, '"' * 1024, "longer"),
        (pgpass_escape, "", "empty"),
    ],
)
def test_what_one_format_does_not_carry(quote: Callable[[str], str], value: str, word: str) -> None:
    with pytest.raises(QuotingError, match=word):
        quote(value)


@pytest.mark.parametrize("value", ["md5" + "0123456789abcdef" * 2, "SCRAM-SHA-256$4096:c2FsdA==$a:b"])
def test_a_plain_password_that_looks_like_a_hash(value: str) -> None:
    assert userlist_quote(value) == f'"{value}"'
    with pytest.raises(QuotingError, match="hash") as raised:
        userlist_quote(value, plain=True)
    assert value not in str(raised.value)


@given(TEXT | NASTY)
def test_our_reader_reads_ours(value: str) -> None:
    line = f"d = host=h password={pgbouncer_connstr_value(value)} pool_size=5"
    assert [(word.key, word.value) for word in words(line[4:])] == [("host", "h"), ("password", value), ("pool_size", "5")]
    ini = load("x", lambda dummy: f"[databases]\n{line}\n[pgbouncer]\na = 1\n")
    assert [item.key for item in ini.entries] == ["d", "a"]


@given(TEXT | NASTY)
def test_libpq_reads_ours(value: str) -> None:
    assert parse_dsn(f"host=h password={conninfo_value(value)} user=u") == {"host": "h", "password": value, "user": "u"}
