# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text of a userlist by pgBouncer's rules, and the file on the host; with a pooler: tests/integration/real/test_pgbouncer_user.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _userlist as userlist
from hypothesis import given
from hypothesis import strategies as st

TEXT = """; a comment with "quotes"
"app" "old"   rest of the line "is" ignored

  "other""user" "a""b"
"app" ""
"""


def test_parse_by_pgbouncers_rules() -> None:
    found = userlist.parse(TEXT)
    assert [(item.user, item.password, item.line) for item in found] == [("app", "old", 2), ('other"user', 'a"b', 4), ("app", "", 5)]
    assert userlist.password_of(TEXT, "app") == ""
    assert userlist.password_of(TEXT, 'other"user') == 'a"b'
    assert userlist.password_of(TEXT, "nobody") is None
    assert userlist.parse("") == userlist.parse("\n ; only a comment") == []


@pytest.mark.parametrize(("text", "line"), [('"a" "b"\na "b"\n', 2), ('"a" "b', 1), ('\n\n"a"', 3), ('"a', 1), ('"a""" \n', 1)])
def test_where_pgbouncer_stops_reading(text: str, line: int) -> None:
    with pytest.raises(userlist.UserlistError, match=f"line {line} is not of the form"):
        userlist.parse(text)


def test_only_the_password_changes() -> None:
    after = userlist.with_password(TEXT, "app", 'n"w')
    assert after == TEXT.replace('"app" "old"', '"app" "n""w"').replace('"app" ""', '"app" "n""w"')
    assert userlist.with_password(after, "app", 'n"w') == after
    assert userlist.with_password(TEXT, "new", "x") == TEXT + '"new" "x"\n'
    assert userlist.with_password('"a" "b"', "new", "x") == '"a" "b"\n"new" "x"\n'
    assert userlist.with_password("", "new", "x") == '"new" "x"\n'


def test_a_user_goes_with_all_lines() -> None:
    assert userlist.without_user(TEXT, "app") == TEXT.replace('"app" "old"   rest of the line "is" ignored\n', "").replace('"app" ""\n', "")
    assert userlist.without_user(TEXT, "nobody") == TEXT
    assert userlist.without_user('"a" "b"', "a") == ""


def test_a_remark_stands_for_a_user_who_was_taken_out() -> None:
    after = userlist.taken_out(TEXT, "app")
    remark = '; "app" was taken out by dghs.bd_fhir, and the pooler has not read that yet'
    assert after == TEXT.replace('"app" "old"   rest of the line "is" ignored', remark).replace('"app" ""\n', "")
    assert [item.user for item in userlist.parse(after)] == ['other"user']
    assert userlist.without_remark(after, "app") == userlist.without_user(TEXT, "app")
    assert userlist.without_remark(after, 'other"user') == after
    assert userlist.taken_out(TEXT, "nobody") == TEXT


WORD = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(st.dictionaries(WORD, WORD, max_size=5), WORD, WORD)
def test_what_is_written_is_read(users: dict[str, str], user: str, password: str) -> None:
    text = "; ours\n"
    for item in users.items():
        text = userlist.with_password(text, *item)
    after = userlist.with_password(text, user, password)
    assert {item.user: item.password for item in userlist.parse(after)} == {**users, user: password}
    if user not in users:
        assert userlist.without_user(after, user) == text
    assert userlist.without_remark(userlist.taken_out(after, user), user) == userlist.without_user(after, user)


class Container:
    """What host_path() and AuthFile look at."""

    id, name, service = "c0ffee", "site-pooler-1", "pooler"

    def __init__(self, *mounts: tuple[str, str, str]) -> None:
        self.mounts = [{"type": kind, "source": source, "destination": destination} for kind, source, destination in mounts]


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        ((), ("", False)),
        ((("bind", "/srv/users.txt", "/etc/pgbouncer/userlist.txt"),), ("/srv/users.txt", True)),
        ((("bind", "/srv/conf", "/etc/pgbouncer"),), ("/srv/conf/userlist.txt", False)),
        ((("bind", "/srv/conf", "/etc/pgbouncer/"), ("bind", "/srv/u", "/etc/pgbouncer/userlist.txt")), ("/srv/u", True)),
        ((("bind", "/srv/conf", "/etc"), ("volume", "/var/lib/docker/volumes/v", "/etc/pgbouncer")), ("", False)),
        ((("bind", "/srv/conf", "/etc/pgb"),), ("", False)),
    ],
)
def test_where_a_file_lies_on_the_host(mounts: Any, found: tuple[str, bool]) -> None:
    container: Any = Container(*mounts)
    assert userlist.host_path(container, "/etc/pgbouncer/userlist.txt") == found


class Docker:
    """Answers docker exec from a list, and remembers what it was asked."""

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, ...]] = []

    def docker(self, *args: str, check: bool = True, data: str | None = None) -> tuple[int, str, str]:
        self.asked.append((*args, "<" + data) if data is not None else args)
        return self.answers.pop(0)

    def clean(self, text: str) -> str:
        return text


def test_inside_of_the_container_it_is_renamed_over_and_read_back() -> None:
    docker: Any = Docker((0, "/run/real.txt\n", ""), (0, "", ""), (0, "", ""), (0, "", ""), (0, "new\n", ""))
    container: Any = Container()
    file = userlist.AuthFile(docker, container, "/run/link.txt")
    assert file.method == "rename"
    file.write("new\n")
    assert [" ".join(item) for item in docker.asked] == [
        "exec c0ffee readlink -f /run/link.txt", "exec c0ffee cp -p /run/real.txt /run/real.txt.dghs-bd-fhir",
        "exec -i c0ffee dd of=/run/real.txt.dghs-bd-fhir <new\n", "exec c0ffee mv -f /run/real.txt.dghs-bd-fhir /run/real.txt",
        "exec c0ffee cat /run/link.txt"]  # fmt: skip


def test_root_is_asked_when_the_containers_user_may_not() -> None:
    docker: Any = Docker((1, "", "Permission denied"), (0, "text", ""), (0, "text", ""))
    container: Any = Container()
    file = userlist.AuthFile(docker, container, "/run/userlist.txt")
    assert file.read() == "text"
    assert file.read() == "text"
    assert [item[1:3] for item in docker.asked] == [("c0ffee", "cat"), ("-u", "0"), ("-u", "0")]


def test_an_image_without_tools_is_named() -> None:
    docker: Any = Docker((126, "", "cat: not found"), (126, "", "cat: not found"))
    container: Any = Container()
    with pytest.raises(userlist.UserlistError, match=r"`cat /run/userlist.txt` in the container site-pooler-1 failed: cat: not found"):
        userlist.AuthFile(docker, container, "/run/userlist.txt").read()


def test_another_text_than_was_written_is_seen() -> None:
    docker: Any = Docker((0, "", ""), (0, "", ""), (0, "", ""), (0, "", ""), (0, "other", ""))
    container: Any = Container()
    with pytest.raises(userlist.UserlistError, match="reads back differently"):
        userlist.AuthFile(docker, container, "/run/userlist.txt").write("new")


@pytest.mark.parametrize("alone", [True, False])
def test_on_the_host(tmp_path: Path, alone: bool) -> None:
    path = tmp_path / "userlist.txt"
    path.write_text("a text that is longer\n")
    path.chmod(0o640)
    os.utime(path, (4_000_000_000, 4_000_000_000))
    before = path.stat()
    mount = ("bind", str(path), "/u/userlist.txt") if alone else ("bind", str(tmp_path), "/u")
    container: Any = Container(mount)
    docker: Any = Docker()
    file = userlist.AuthFile(docker, container, "/u/userlist.txt")
    assert file.method == ("in_place" if alone else "rename")
    for text in ("short\n", "a text that is very much longer than both\n", ""):
        inode = path.stat().st_ino
        file.write(text)
        assert path.read_text() == text
        # Of two files that are there at a time; a number that became free may come again later.
        assert (path.stat().st_ino == inode) == alone
    after = path.stat()
    assert after.st_mode == before.st_mode
    # pgBouncer goes by inode, size and second.
    assert (after.st_ino, int(after.st_mtime)) != (before.st_ino, int(before.st_mtime))
    path.unlink()
    with pytest.raises(userlist.UserlistError, match="can't be read"):
        file.read()
