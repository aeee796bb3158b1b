# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pg_hba.conf as text. That a real server reads it alike: tests/integration/real/test_postgres_hba.py."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _files
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hba import (
    BEGIN,
    END,
    HbaError,
    Rule,
    Word,
    check_reach,
    clashes,
    converge,
    entries,
    faults,
    fields_of,
    hidden,
    meets,
    missing,
    rules_of,
    split,
    torn,
)
from hypothesis import given
from hypothesis import strategies as st

# As initdb writes it, a few comments less.
DEFAULT = """# PostgreSQL Client Authentication Configuration File
# TYPE  DATABASE        USER            ADDRESS                 METHOD

local   all             all                                     trust
# IPv4 local connections:
host    all             all             127.0.0.1/32            trust
host    all             all             ::1/128                 trust
local   replication     all                                     trust
host    replication     all             127.0.0.1/32            trust
host all all all scram-sha-256
"""
PATH = "/data/pg_hba.conf"


def item(**changes: Any) -> dict[str, Any]:
    base = {"type": "host", "databases": ["replication"], "users": ["replicator"], "address": "10.20.0.0/16", "method": "scram-sha-256"}
    return {**base, "options": {}, **changes}


def rule(line: str) -> Rule:
    (entry,) = entries(line)
    assert entry.rule is not None
    return entry.rule


RULES = rules_of([item()])


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("", []),
        ("  # host all", []),
        ("local all all trust # why", [["local"], ["all"], ["all"], ["trust"]]),
        ("host a,b  c, d\t10.0.0.0/8 md5\r", [["host"], ["a", "b"], ["c", "d"], ["10.0.0.0/8"], ["md5"]]),
        ("host a ,b", [["host"], ["a"], ["b"]]),
        ('x "a b","c,d" "e#f" "g""h"', [["x"], ["a b", "c,d"], ["e#f"], ['g"h']]),
        ('host all all all ldap ldapprefix="cn=a, b"', [["host"], ["all"], ["all"], ["all"], ["ldap"], ["ldapprefix=cn=a, b"]]),
        ("local all all trust#why", [["local"], ["all"], ["all"], ["trust"]]),
    ],
)
def test_a_line_is_split_as_the_server_does(line: str, fields: list[list[str]]) -> None:
    assert [[word.text for word in field] for field in fields_of(line)] == fields


def test_what_lines_say() -> None:
    text = (
        '# host all \\\nhost all all all reject\nlocal all \\\n  "replication" peer\r\nhost all a 10.1.2.3 255.255.0.0 md5\n'
        "host all a 10.0.0.0/8 md5 map=x\nhostssl @dbs +grp .example.org cert\nhosts all\ninclude other.conf\nhost all all fd00::1 ffff:: md5\n"
        "host all all 10.0.0.0 255.0.255.0 md5\nhost all all"
    )
    found = entries(text)
    assert [entry.number for entry in found] == [3, 5, 6, 7, 8, 9, 10, 11, 12]
    assert found[0].rule == Rule("local", (Word("all"),), (Word("replication", True),), "", "peer")
    assert [entry.rule.address for entry in found if entry.rule] == [
        "", "10.1.0.0/16", "10.0.0.0/8", ".example.org", "fd00::/16", "10.0.0.0",
    ]  # fmt: skip
    assert found[2].rule is not None
    assert found[2].rule.options == (("map", "x"),)
    assert [entry.includes for entry in found] == [False] * 5 + [True] + [False] * 3
    assert [entry.rule is None for entry in found] == [False, False, False, False, True, True, False, False, True]


NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12).filter(lambda text: not text.startswith("/"))
ADDRESSES = st.one_of(
    st.ip_addresses().flatmap(lambda address: st.integers(0, address.max_prefixlen).map(lambda bits: (address, bits))).map(
        lambda pair: str(ipaddress.ip_network(f"{pair[0]}/{pair[1]}", strict=False))),
    st.sampled_from(["all", "samehost", "samenet", "db.example.org", ".example.org"]),
)  # fmt: skip


@given(
    st.lists(NAMES, min_size=1, max_size=3), st.lists(NAMES, min_size=1, max_size=3), ADDRESSES,
    st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda name: "pass" not in name), NAMES, max_size=2),
)  # fmt: skip
def test_what_is_written_is_what_is_read(databases: list[str], users: list[str], address: str, options: dict[str, str]) -> None:
    """Every name in double quotes, with any character that a file can hold."""
    quoted = [['"{}"'.format(name.replace('"', '""')) for name in names] for names in (databases, users)]
    (wanted,) = rules_of([item(databases=quoted[0], users=quoted[1], address=address, options=options)])
    assert entries(wanted.render()) == entries(wanted.render() + "\r\n")
    assert rule(wanted.render()) == wanted
    assert [word.text for word in wanted.databases + wanted.users] == databases + users
    assert all(word.quoted for word in wanted.databases + wanted.users)


@pytest.mark.parametrize(
    ("value", "text", "rendered"),
    [
        ("all", "all", "all"),
        ('"all"', "all", '"all"'),
        ("my db", "my db", '"my db"'),
        ("a,b", "a,b", '"a,b"'),
        ("+group", "+group", "+group"),
        ("+my group", "+my group", '+"my group"'),
        ('"+group"', "+group", '"+group"'),
        ('a"b', 'a"b', '"a""b"'),
        ('"@file"', "@file", '"@file"'),
        ("Über", "Über", '"Über"'),
        ("hapi_app", "hapi_app", "hapi_app"),
    ],
)
def test_names(value: str, text: str, rendered: str) -> None:
    (wanted,) = rules_of([item(users=[value])])
    assert [word.text for word in wanted.users] == [text]
    assert wanted.users[0].render() == rendered
    assert rule(wanted.render()) == wanted


# --- wrong input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"address": "10.20.1.0/16"}, "10.20.1.0/16 has bits set behind its prefix. Write 10.20.0.0/16 for the network, or 10.20.1.0/32"),
        ({"address": "fd00::1/8"}, "Write fd00::/8 for the network, or fd00::1/128"),
        ({"address": "10.20.0.0/33"}, "'10.20.0.0/33' is none"),
        ({"address": "10.20.0"}, "is none"),
        ({"address": "10.20.0.0 255.255.0.0"}, "is none"),
        ({"address": 'x"y'}, "is none"),
        ({"address": "a\nhost all all all trust"}, "is none"),
        ({"address": ""}, "needs an address"),
        ({"address": None}, "needs an address"),
        ({"type": "local"}, "has no address"),
        ({"method": "peer"}, "type local only"),
        ({"method": "cert"}, "type hostssl"),
        ({"type": "local", "address": None, "method": "ident"}, "peer does"),
        ({"databases": []}, "databases is empty"),
        ({"users": []}, "users is empty"),
        ({"users": [""]}, "empty name"),
        ({"users": ['""']}, "empty name"),
        ({"users": ["+"]}, "empty name"),
        ({"users": ["a\nb"]}, "line break"),
        ({"databases": ["a\x00"]}, "control character"),
        ({"users": ["/^rep"]}, "expression"),
        ({"users": ['"/^rep"']}, "expression"),
        ({"databases": ["@dbs"]}, "a file of names"),
        ({"users": ["é" * 32]}, "more than 63 bytes, which no user can have"),
        ({"options": {"map": True}}, "Write it as a text"),
        ({"options": {"map": None}}, "Write it as a text"),
        ({"options": {"map": "a\nb"}}, "line break"),
        ({"options": {"map": ""}}, "is empty"),
        ({"options": {"Map": "x"}}, "no name of an option"),
        ({"options": {"ldapbindpasswd": "x"}}, "is a password"),
    ],
)
def test_wrong_rules_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(HbaError) as caught:
        rules_of([item(), item(**changes)])
    assert words in str(caught.value)
    assert "Nothing was changed: rule 2 of rules" in str(caught.value)


def test_no_rules_are_refused() -> None:
    with pytest.raises(HbaError, match="state: absent"):
        rules_of([])


# --- who is reached ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "reached", "unproven"),
    [
        (["10.20.0.0/16"], "10.20.1.7", []),
        (["10.20.0.0/16", "fd00::/8"], "fd00::7", []),
        (["all"], "fd00::7", []),
        (["samenet"], "10.20.1.7", ["10.20.1.7"]),
        (["10.1.0.0/16", "db.example.org"], "10.20.1.7", ["10.20.1.7"]),
        (["samenet", "10.20.0.0/16"], "10.20.1.7", []),
    ],
)
def test_who_is_reached(addresses: list[str], reached: str, unproven: list[str]) -> None:
    assert check_reach(rules_of([item(address=address) for address in addresses]), [reached]) == unproven


@pytest.mark.parametrize(
    ("addresses", "reached", "words"),
    [
        (["10.20.0.0/16"], "fd00:1:2:3::7", "address family mismatch: fd00:1:2:3::7 of reached_from is an IPv6 address, and the rules"),
        (["10.20.0.0/16"], "fd00:1:2:3::7", "such as fd00:1:2:3::/64"),
        (["fd00::/8"], "10.20.1.7", "is an IPv4 address, and the rules are for IPv6 only"),
        (["10.20.0.0/16"], "10.21.1.7", "no rule matches 10.21.1.7"),
        (["10.20.0.0/16"], "standby", "no IP address"),
    ],
)
def test_who_is_not_reached(addresses: list[str], reached: str, words: str) -> None:
    with pytest.raises(HbaError) as caught:
        check_reach(rules_of([item(address=address) for address in addresses]), [reached])
    assert words in str(caught.value)


def test_a_reject_reaches_nobody_and_only_the_first_counts() -> None:
    rejected = item(method="reject", address="10.20.1.0/24")
    with pytest.raises(HbaError, match="rejected by the first rule"):
        check_reach(rules_of([rejected, item()]), ["10.20.1.7"])
    assert check_reach(rules_of([item(), rejected]), ["10.20.1.7"]) == []
    with pytest.raises(HbaError, match="no rule matches"):
        check_reach(rules_of([item(type="local", address=None)]), ["10.20.1.7"])


# --- what is matched first -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("host all all all md5", "host replication r 10.0.0.0/8 md5", False),
        ("host replication all all md5", "host replication r 10.0.0.0/8 md5", True),
        ('host "replication" all all md5', "host replication r 10.0.0.0/8 md5", False),
        ('host "replication" all all md5', "host all r 10.0.0.0/8 md5", True),
        ("local all all trust", "host all all all md5", False),
        ("hostssl all all all md5", "host all all all md5", True),
        ("hostssl all all all md5", "hostnossl all all all md5", False),
        ("hostssl all all all md5", "hostgssenc all all all md5", False),
        ("hostnossl all all all md5", "hostgssenc all all all md5", True),
        ("host all all 127.0.0.1/32 md5", "host all all ::1/128 md5", False),
        ("host all all 10.0.0.0 255.0.0.0 md5", "host all all 10.1.0.0/16 md5", True),
        ("host all all samenet md5", "host all all 10.1.0.0/16 md5", True),
        ("host all +g all md5", "host all x all md5", True),
        ('host all "+g" all md5', "host all x all md5", False),
        ("host a,b x all md5", "host b,c x all md5", True),
        ("host a x all md5", "host b x all md5", False),
        ("host @f x all md5", "host replication x all md5", True),
        ("host sameuser x all md5", "host b x all md5", True),
    ],
)
def test_two_rules_for_one_connection(one: str, other: str, expected: bool) -> None:
    assert meets(rule(one), rule(other)) is expected
    assert meets(rule(other), rule(one)) is expected


def test_which_lines_count_before_ours() -> None:
    text = (
        "host all all all trust\nhost replication all 10.20.1.0/24 reject\nhost replication all all scram-sha-256\ninclude x.conf\n"
        "host replication replicator all md5\n"
    )
    layout = converge(text, "x", RULES, "last")
    before, after = layout.outer()
    shadowed, overruled = clashes(before, RULES, after)
    assert [item.entry.number for item in shadowed] == [2, 4, 5]
    assert overruled == []
    layout = converge(text, "x", RULES, "first")
    before, after = layout.outer()
    shadowed, overruled = clashes(before, RULES, after)
    assert shadowed == []
    # In the numbers of the file with the block.
    assert [item.entry.number for item in overruled] == [5]


# --- the block -----------------------------------------------------------------------------------------------------


def test_case_63_the_file_that_initdb_writes() -> None:
    first = converge(DEFAULT, "replica", RULES, "first")
    assert first.text() == (
        "# BEGIN dghs.bd_fhir replica (made by postgres_hba, the first line that matches counts)\n"
        "host replication replicator 10.20.0.0/16 scram-sha-256\n# END dghs.bd_fhir replica\n" + DEFAULT
    )
    assert first.lines() == (1, 3)
    again = converge(first.text(), "replica", RULES, "first")
    assert again.text() == first.text()
    assert converge(first.text(), "replica", None, "first").text() == DEFAULT


LINES = st.sampled_from(
    ["", "# note", "host all all 127.0.0.1/32 trust", "host all all ::1/128 md5", "  local all all peer", "host x y 10.0.0.0 255.0.0.0 md5",
     "# END dghs.bd_fhir other", BEGIN + "ours2", END + "ours2", "host all all \\", "\x0c", "\x85 é \udcff"]
)  # fmt: skip
TEXTS = st.builds(lambda lines, newline, end: newline.join(lines) + end, st.lists(LINES, max_size=8), st.sampled_from(["\n", "\r\n"]),
                  st.sampled_from(["", "\n", "\r\n"]))  # fmt: skip
OTHER = rules_of([item(users=["x"]), item(users=["y"], address="::1/128")])


@given(TEXTS, st.sampled_from(["first", "last"]), st.sampled_from(["first", "last"]))
def test_all_else_keeps_its_bytes(text: str, position: str, other: str) -> None:
    """Create, again, change, again, move, again, remove, again."""
    made = text
    for rules, place in ((RULES, position), (OTHER, position), (OTHER, other)):
        made = converge(made, "ours", rules, place).text()
        layout = converge(made, "ours", rules, place)
        assert layout.text() == made
        found = split(made, "ours")
        assert (found.before, found.block, found.after) == (layout.before, layout.block, layout.after)
        first, last = layout.lines()
        inner = [line.rstrip("\r") for line in made.split("\n")[first : last - 1]]
        assert inner == [item.render() for item in rules]
    assert converge(made, "ours", None, position).text() == text
    assert converge(text, "ours", None, position).text() == text


@given(TEXTS, st.permutations(["a", "b", "a", "b", "a"]), st.sampled_from(["first", "last"]))
def test_two_blocks_come_to_rest(text: str, order: list[str], position: str) -> None:
    made = converge(converge(text, "a", RULES, position).text(), "b", OTHER, position).text()
    for name in order:
        assert converge(made, name, RULES if name == "a" else OTHER, position).text() == made
    for name in order:
        made = converge(made, name, None, position).text()
    assert made == text


def test_a_line_in_front_of_the_block_lets_it_move() -> None:
    made = converge(DEFAULT, "x", RULES, "first").text()
    assert converge("# comment\n\n" + made, "x", RULES, "first").lines()[0] == 3
    assert converge("local all all trust\n" + made, "x", RULES, "first").lines()[0] == 1
    # What others have put behind a block that had no newline keeps its own line.
    made = converge("local all all trust", "x", RULES, "last").text()
    assert converge(made + "\nlocal a b trust", "x", None, "last").text() == "local all all trust\nlocal a b trust"


def test_line_ends_follow_the_file() -> None:
    made = converge("a\r\nb\r\n", "x", RULES, "first").text()
    assert made.count("\r\n") == made.count("\n")
    unix = made.replace("\r\n", "\n")
    assert "\r" not in converge(unix, "x", RULES, "first").text()


@pytest.mark.parametrize("broken", ["B", "E", "BB", "EB", "BEE", "BEBE"])
def test_markers_that_are_no_pair(broken: str) -> None:
    text = "\n".join({"B": BEGIN, "E": END}[char] + "x" for char in broken) + "\n"
    with pytest.raises(HbaError, match=r"not one pair: line 1 .* by hand"):
        split(text, "x")
    # Another block's are none of ours.
    assert split(text, "xx").block == ""


def test_a_half_written_file_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after any number of bytes, from a longer to a shorter text and back."""
    short, long = DEFAULT, converge(DEFAULT, "é", RULES, "first").text() + "é"
    path = tmp_path / "file"
    pwrite = os.pwrite

    class Killed(BaseException):
        pass

    for old, new in ((short, long), (long, short)):
        for count in range(0, len(long.encode()), 7):

            def cut(descriptor: int, data: bytes, offset: int, count: int = count) -> int:
                pwrite(descriptor, data[:count], offset)
                raise Killed

            path.write_bytes(old.encode())
            with monkeypatch.context() as patched:
                patched.setattr(os, "pwrite", cut)
                with pytest.raises(Killed):
                    _files.overwrite_file(str(path), new)
            text = path.read_bytes().decode("utf-8", "surrogateescape")
            assert torn(text, old, new) is (text not in (old, new))
        assert not torn(old, old, new)
        assert not torn(new, old, new)
        # Somebody has edited it since.
        assert not torn(old.replace("IPv4", "IPv5"), old, new)
        assert not torn("# mine\n" + old, old, new)
        assert not torn("", old, new)


# --- what the server says ------------------------------------------------------------------------------------------


def row(number: int, error: str = "", **more: Any) -> dict[str, Any]:
    base = {"line_number": number, "type": "host", "database": ["replication"], "user_name": ["replicator"], "address": "10.20.0.0",
            "netmask": "255.255.0.0", "auth_method": "scram-sha-256", "options": None, "error": error or None}  # fmt: skip
    return {**base, **more}


def test_errors_of_others_and_of_ours() -> None:
    rows = [
        row(2, "bad value", type=None), row(5, "invalid method", type=None), row(6, "hostssl record cannot match because SSL is disabled"),
        row(2, "no such file", type=None, file_name="/x.conf"), row(7),
    ]  # fmt: skip
    assert faults(rows, PATH, (1, 3), new=False) == [f"{PATH}:5: invalid method", "/x.conf:2: no such file"]
    assert faults(rows, PATH, (5, 7), new=True) == [
        f"{PATH}:2: bad value", f"{PATH}:5: invalid method", f"{PATH}:6: hostssl record cannot match because SSL is disabled",
        "/x.conf:2: no such file",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "read"),
    [
        (row(2), True),
        (row(2, file_name=PATH), True),
        (row(2, file_name="/other.conf"), False),
        (row(3), False),
        (row(2, "error"), False),
        (row(2, netmask="255.255.255.0"), False),
        (row(2, auth_method="trust"), False),
        (row(2, user_name=["all"]), False),
    ],
)
def test_what_the_server_reads(found: dict[str, Any], read: bool) -> None:
    layout = converge(DEFAULT, "x", RULES, "first")
    line = "line 2: host replication replicator 10.20.0.0/16 scram-sha-256"
    assert missing([found], PATH, layout, RULES) == ([] if read else [line])


@pytest.mark.parametrize(
    ("address", "answer", "mask"),
    [
        ("fd00::/8", "fd00::", "ff00::"), ("::1/128", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ("0.0.0.0/0", "0.0.0.0", "0.0.0.0"),
        ("all", "all", None), ("samenet", "samenet", None), ("db.example.org", "db.example.org", None),
    ],
)  # fmt: skip
def test_addresses_as_the_server_spells_them(address: str, answer: str, mask: str) -> None:
    rules = rules_of([item(address=address)])
    layout = converge("", "x", rules, "first")
    assert missing([row(2, address=answer, netmask=mask)], PATH, layout, rules) == []


def test_passwords_in_lines_are_hidden() -> None:
    line = 'host all all all ldap ldapserver=x ldapbindpasswd="se cr""et" ldapport=1\n'
    assert hidden(line) == "host all all all ldap ldapserver=x ldapbindpasswd=******** ldapport=1\n"
    assert hidden("radiussecrets=one,two x") == "radiussecrets=******** x"
