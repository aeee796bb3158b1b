# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lease and the journal: who may have the deployment, and what is read of a journal that was cut or damaged."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from ansible_collections.dghs.bd_fhir.plugins.module_utils._change import ChangeError, ChangeGuard, LeaseUnreadable, Now, Store, Token, Wish
from hypothesis import given
from hypothesis import strategies as st

BOOT = "52278ee7-98e3-4073-b952-9998c58dfcbe"
OTHER_BOOT = "0b0e0a34-1a61-4b51-8f2f-8a4d2a4f3c11"
RAHIM = Wish("scale_hapi", "CHG-1042", "rahim@ops", {"hostname": "ops", "pid": 4711})
KARIM = Wish("rollback_scale_hapi", "", "karim@ops", {})


class Module:
    """What ChangeGuard uses of an AnsibleModule."""

    def __init__(self, token: str = "", check: bool = False) -> None:
        self.params = {"change_token": token}
        self.check_mode = check
        self.no_log_values = {"t0psecret"}
        self._name = "dghs.bd_fhir.compose_rollout"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(_change, "STATE_DIR", str(tmp_path / "state"))
    return Store(_change.directory_of("bd-fhir"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A clock to set: [wall, boot id, seconds since boot]."""
    moment: list[Any] = [1_800_000_000.0, BOOT, 5000.0]
    monkeypatch.setattr(Now, "read", classmethod(lambda cls: Now(*moment)))
    return moment


def opened(store: Store, wish: Wish = RAHIM) -> Token:
    token = _change.take(store, wish).token
    assert token
    return token


def guard(token: object = "", project: str = "bd-fhir") -> ChangeGuard:
    return ChangeGuard.from_module(Module(str(token)), project)  # type: ignore[arg-type]


def kinds(store: Store) -> list[str]:
    return [item["kind"] for item in store.journal().records]


# --- time ----------------------------------------------------------------------------------------------------------


def lease_at(wall: float, boot: str, seconds: float, ttl: int = 900) -> dict[str, Any]:
    return {"ttl": ttl, "renewed": {"wall": wall, "boot_id": boot, "seconds": seconds}}


@pytest.mark.parametrize(
    ("now", "age"),
    [
        (Now(1000.0, BOOT, 160.0), 60),
        # The wall clock was set back by a day, and forward by a year: the boot's own clock counts.
        (Now(1000.0 - 86400, BOOT, 160.0), 60),
        (Now(1000.0 + 31_536_000, BOOT, 160.0), 60),
        # After a reboot the wall clock counts, and at least the time since that boot if the wall clock went back.
        (Now(1500.0, OTHER_BOOT, 30.0), 500),
        (Now(1000.0 - 86400, OTHER_BOOT, 901.0), 901),
        (Now(1000.0, BOOT, 90.0), 0),
    ],
)
def test_age_in_spite_of_the_clock(now: Now, age: float) -> None:
    assert _change.age_of(lease_at(1000.0, BOOT, 100.0), now) == pytest.approx(age)


def test_expired_only_after_its_time_to_live() -> None:
    lease = lease_at(1000.0, BOOT, 100.0)
    assert not _change.expired(lease, Now(0, BOOT, 1000.0))
    assert _change.expired(lease, Now(0, BOOT, 1000.1))


def test_duration() -> None:
    assert [_change.duration(value) for value in (0.4, 59, 60, 3599, 3600, 90_000)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 0 min",
    ]  # fmt: skip


# --- token ---------------------------------------------------------------------------------------------------------


def test_token_comes_back_from_its_text() -> None:
    token = Token(7, "0c9d5a3e-5f0e-4f3c-9a52-0a1f6cbb2f9e", "/var/lib/dghs-bd-fhir/bd-fhir")
    assert Token.parse(str(token)) == token


ID = "0c9d5a3e-5f0e-4f3c-9a52-0a1f6cbb2f9e"


@pytest.mark.parametrize("text", ["7", "x:y:z", f"0:{ID}:/x", f"7:{ID}:x", "7:short:/x"])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ChangeError, match="no change has returned"):
        guard(text)


def test_token_of_another_project_is_refused(store: Store) -> None:
    token = opened(store)
    with pytest.raises(ChangeError, match="project bd-fhir, and this is the project other"):
        guard(token, "other")
    guard(token, "").verify()


# --- taking --------------------------------------------------------------------------------------------------------


def test_second_is_refused_and_told_who_has_it(store: Store, clock: list[Any]) -> None:
    token = opened(store)
    clock[2] += 61
    held = _change.take(store, KARIM)
    assert held.token is None
    text = _change.held_text(held.lease, Now(*clock))
    for word in ("rahim@ops", "process 4711 on ops", "scale_hapi", "CHG-1042", "2027-01-15T08:00:00Z", "1 min 1 s ago", "13 min 59 s", "force_owner"):
        assert word in text
    guard(token).verify()


def test_a_closed_one_is_free_and_the_token_grows(store: Store) -> None:
    token = opened(store)
    _change.close(store, token, "succeeded", "")
    second = opened(store, KARIM)
    assert (token.number, second.number) == (1, 2)
    assert store.journal().records == []


def test_expired_is_taken_over_and_recorded(store: Store, clock: list[Any]) -> None:
    token = opened(store)
    clock[2] += 900
    assert _change.take(store, KARIM).token is None
    clock[2] += 0.5
    taken = _change.take(store, KARIM)
    assert taken.reason == "expired"
    assert taken.previous
    assert taken.previous["owner"] == "rahim@ops"
    record = store.journal().records[-1]
    assert (record["kind"], record["message"], record["object"], record["before"]["owner"]) == ("taken_over", "expired", token.change, "rahim@ops")


def test_expired_but_not_taken_is_still_ours(store: Store, clock: list[Any]) -> None:
    token = opened(store)
    clock[2] += 5000
    guard(token).step("start", "hapi")
    assert _change.take(store, KARIM).token is None


def test_a_step_renews(store: Store, clock: list[Any]) -> None:
    token = opened(store)
    for _number in range(5):
        clock[2] += 800
        guard(token).step("start", "hapi")
    clock[2] += 800
    guard(token).verify()
    clock[2] += 800
    assert _change.take(store, KARIM).token is None


def test_a_step_of_hours_is_not_taken_for_dead(store: Store, clock: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_change, "HEARTBEAT", 0.01)
    token = opened(store)

    def renewed_since(seconds: float) -> bool:
        lease = store.lease()
        return lease is not None and lease["renewed"]["seconds"] >= seconds

    def hours() -> None:
        for _number in range(10):
            clock[2] += 800
            deadline = time.monotonic() + 10
            while not renewed_since(clock[2]) and time.monotonic() < deadline:
                time.sleep(0.01)
        assert _change.take(store, KARIM).token is None

    with guard(token).kept():
        hours()
    clock[2] += 1000
    assert not renewed_since(clock[2])
    taken = _change.take(store, KARIM)
    assert taken.token
    # Who has lost it is told by what comes next, and does not take it back.
    with guard(token).kept():
        time.sleep(0.1)
        with pytest.raises(ChangeError, match="rollback_scale_hapi"):
            guard(token).step("stop", "hapi")
    assert (store.lease() or {})["token"] == taken.token.number


def test_a_renewal_that_fails_once_is_tried_again(store: Store, clock: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_change, "HEARTBEAT", 0.01)
    token = opened(store)
    real, tries = _change.renew, [0]

    def full_once(*args: Any) -> Any:
        tries[0] += 1
        if tries[0] == 1:
            raise ChangeError("no room")
        return real(*args)

    monkeypatch.setattr(_change, "renew", full_once)
    clock[2] += 800
    with guard(token).kept():
        deadline = time.monotonic() + 10
        while tries[0] < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    clock[2] += 800
    assert _change.take(store, KARIM).token is None


def test_nothing_is_renewed_without_a_token_or_in_check_mode(store: Store, clock: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_change, "HEARTBEAT", 0.01)
    token = opened(store)
    before = store.lease()
    clock[2] += 100
    for one in (guard(), ChangeGuard.from_module(Module(str(token), check=True), "bd-fhir")):  # type: ignore[arg-type]
        with one.kept():
            time.sleep(0.1)
    assert store.lease() == before


def test_dead_needs_the_very_change(store: Store) -> None:
    token = opened(store)
    assert _change.take(store, Wish("x", "", "karim", {}, dead="another")).token is None
    assert _change.take(store, Wish("x", "", "karim", {}, dead=token.change)).reason == "dead"


def test_forced_needs_the_exact_name(store: Store) -> None:
    opened(store)
    for name in ("rahim", "RAHIM@ops", "rahim@ops ", "*"):
        assert _change.take(store, Wish("x", "", "karim", {}, force_owner=name)).token is None
    assert _change.take(store, Wish("x", "", "karim", {}, force_owner="rahim@ops")).reason == "forced"


@pytest.mark.parametrize("closed", [False, True])
def test_superseded_is_told_by_whom(store: Store, closed: bool) -> None:
    token = opened(store)
    guard(token).step("start", "hapi")
    second = _change.take(store, Wish("rollback_scale_hapi", "", "karim@ops", {}, force_owner="rahim@ops")).token
    assert second
    if closed:
        _change.close(store, second, "succeeded", "")
    before = store.journal().size
    for act in (guard(token).verify, lambda: guard(token).step("stop", "hapi"), lambda: _change.close(store, token, "failed", "")):
        with pytest.raises(ChangeError) as caught:
            act()
        for word in ("token 1", "superseded", "karim@ops", "token 2", "rollback_scale_hapi", "forced", "ended at" if closed else "goes on"):
            assert word in str(caught.value)
    assert store.journal().size == before


def test_closed_does_not_go_on(store: Store) -> None:
    token = opened(store)
    _change.close(store, token, "failed", "x")
    assert _change.close(store, token, "failed", "x")
    with pytest.raises(ChangeError, match="closed at .* as failed"):
        guard(token).step("start", "hapi")


def test_a_lost_lease_stops_its_change_and_keeps_the_numbers(store: Store) -> None:
    for _number in range(3):
        token = opened(store)
        guard(token).step("start", "hapi")
        _change.close(store, token, "succeeded", "")
    token = opened(store)
    guard(token).step("start", "hapi")
    os.unlink(store.lease_path)
    with pytest.raises(ChangeError, match="is gone"):
        guard(token).verify()
    assert _change.close(store, token, "succeeded", "") is None
    assert opened(store, KARIM).number == 5
    with pytest.raises(ChangeError, match="superseded"):
        guard(token).verify()


def test_an_old_lease_put_back_does_not_set_the_numbers_back(store: Store) -> None:
    token = opened(store)
    _change.close(store, token, "succeeded", "")
    old = Path(store.lease_path).read_text(encoding="utf-8")
    for _number in range(2):
        token = opened(store)
        guard(token).step("start", "hapi")
        _change.close(store, token, "succeeded", "")
    Path(store.lease_path).write_text(old, encoding="utf-8")
    assert opened(store).number == 4


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "open"}', '{"state": "lost", "token": 1}', "\0" * 9])
def test_an_unreadable_lease_is_never_taken(store: Store, text: str) -> None:
    token = opened(store)
    guard(token).step("start", "hapi")
    Path(store.lease_path).write_text(text, encoding="utf-8")
    for act in (lambda: _change.take(store, KARIM), guard(token).verify, guard().verify, lambda: guard().step("start", "hapi")):
        with pytest.raises(LeaseUnreadable, match="mv .*lease.json.broken"):
            act()
    os.rename(store.lease_path, store.lease_path + ".broken")
    assert opened(store, KARIM).number == 2


def test_a_folder_that_others_can_write_to_is_not_trusted(store: Store) -> None:
    os.makedirs(store.directory)
    os.chmod(store.directory, 0o777)  # noqa: S103
    with pytest.raises(ChangeError, match="proves nothing"):
        opened(store)


def test_modes(store: Store) -> None:
    token = opened(store)
    guard(token).step("start", "hapi")
    assert os.stat(store.directory).st_mode & 0o777 == 0o700
    assert os.stat(os.path.dirname(store.directory)).st_mode & 0o777 == 0o700
    for path in (store.lease_path, store.journal_path, store.lock_path):
        assert os.stat(path).st_mode & 0o777 == 0o600


# --- journal -------------------------------------------------------------------------------------------------------


def test_opened_is_written_at_the_first_step_and_once(store: Store) -> None:
    token = opened(store)
    guard(token).verify()
    assert kinds(store) == []
    guard(token).step("start", "bd-fhir-hapi-2", ["a"], {"replicas": 3})
    guard(token).step("stop", "bd-fhir-hapi-1")
    _change.close(store, token, "succeeded", "")
    records = store.journal().records
    assert [item["kind"] for item in records] == ["opened", "step", "step", "closed"]
    assert [item["seq"] for item in records] == [1, 2, 3, 4]
    assert {item["change"] for item in records} == {token.change}
    step = records[1]
    assert set(_change.RECORD_KEYS) == set(step)
    assert (step["module"], step["action"], step["object"], step["before"], step["after"]) == (
        "compose_rollout", "start", "bd-fhir-hapi-2", ["a"], {"replicas": 3},
    )  # fmt: skip
    assert (step["verb"], step["why"], step["owner"]) == ("scale_hapi", "CHG-1042", "rahim@ops")
    assert records[3]["result"] == "succeeded"


def test_opened_is_not_written_twice_after_a_kill_between_journal_and_lease(store: Store) -> None:
    token = opened(store)
    guard(token).step("start", "hapi")
    lease = store.lease()
    assert lease
    store.write_lease(dict(lease, recorded=False))
    guard(token).step("start", "hapi")
    assert kinds(store) == ["opened", "step", "step"]


def test_alone_is_refused_only_while_somebody_holds_it(store: Store, clock: list[Any]) -> None:
    alone = guard()
    alone.verify()
    assert not os.path.exists(store.directory)
    alone.step("edit", "/etc/nginx/nginx.conf")
    token = opened(store)
    for act in (alone.verify, lambda: alone.step("edit", "x")):
        with pytest.raises(ChangeError, match=r"without its token: rahim@ops.*group/dghs.bd_fhir.changing"):
            act()
    clock[2] += 901
    alone.step("edit", "y")
    _change.close(store, token, "succeeded", "")
    alone.step("edit", "z")
    assert [(item["change"], item["kind"], item["object"]) for item in store.journal().records] == [
        ("", "step", "/etc/nginx/nginx.conf"), ("", "step", "y"), ("", "step", "z"),
    ]  # fmt: skip


def test_without_token_and_project_nothing_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_change, "STATE_DIR", str(tmp_path / "none"))
    guard("", "").verify()
    guard("", "").step("write", "/x/.env")
    assert not (tmp_path / "none").exists()


def test_check_mode_does_nothing(store: Store) -> None:
    token = opened(store)
    _change.take(store, Wish("x", "", "k", {}, force_owner="rahim@ops"))
    before = sorted((path.name, path.read_bytes()) for path in Path(store.directory).iterdir())
    checking = ChangeGuard.from_module(Module(str(token), check=True), "bd-fhir")  # type: ignore[arg-type]
    checking.verify()
    checking.step("start", "hapi")
    assert sorted((path.name, path.read_bytes()) for path in Path(store.directory).iterdir()) == before


def test_secrets_are_masked_and_long_values_cut(store: Store) -> None:
    token = opened(store)
    guard(token).step("write", "x t0psecret y", {"a": "t0psecret"}, {"long": "x" * 100_000})
    data = Path(store.journal_path).read_bytes()
    assert b"t0psecret" not in data
    assert len(data) < 10_000
    assert "(100012 characters)" in store.journal().records[-1]["after"]


SCALARS = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(SCALARS, lambda below: st.lists(below) | st.dictionaries(st.text(), below), max_leaves=8))
def test_every_value_is_one_line(value: Any) -> None:
    line = json.dumps({"seq": 1, "kind": "step", "after": _change.bounded(value)}).encode("ascii") + b"\n"
    journal = _change.parse_journal(line)
    assert len(journal.records) == 1
    assert not journal.broken


LINES = b'{"seq": 1, "kind": "step"}\n{"seq": 2, "kind": "step"}\n{"seq": 3, "kind": "step"}\n'


@given(st.integers(min_value=0, max_value=len(LINES)))
def test_a_cut_anywhere_costs_only_the_line_that_was_cut(length: int) -> None:
    journal = _change.parse_journal(LINES[:length])
    assert len(journal.records) == len([end for end in (26, 53, 80) if length >= end])
    assert [item["cut"] for item in journal.broken] == ([True] if length % 27 not in (0, 26) else [])
    for item in journal.broken:
        assert item["offset"] == length - length % 27
        assert item["line"] == length // 27 + 1


@pytest.mark.parametrize("tail", [b'{"seq": 9, "ki', b"\0\0\0\0", b'{"seq": 9}\n', b"\xff\xfe\n", b"no record\n"])
def test_after_a_cut_the_next_record_stands_alone_and_says_so(store: Store, tail: bytes) -> None:
    token = opened(store)
    guard(token).step("start", "a")
    size = os.stat(store.journal_path).st_size
    with open(store.journal_path, "ab") as handle:
        handle.write(tail)
    assert store.journal().broken == [{"line": 3, "offset": size, "bytes": len(tail), "cut": True}]
    guard(token).step("start", "b")
    guard(token).step("start", "c")
    journal = store.journal()
    assert [item["seq"] for item in journal.records] == [1, 2, 3, 4]
    assert journal.records[2]["damage"] == {"offset": size, "bytes": len(tail)}
    assert "damage" not in journal.records[3]
    assert [(item["line"], item["offset"], item["cut"]) for item in journal.broken] == [(3, size, True)]
    assert tail in Path(store.journal_path).read_bytes()


def test_a_record_that_only_lacks_its_newline_is_kept(store: Store) -> None:
    token = opened(store)
    guard(token).step("start", "a")
    data = Path(store.journal_path).read_bytes()
    Path(store.journal_path).write_bytes(data[:-1])
    guard(token).step("start", "b")
    journal = store.journal()
    assert [item["object"] for item in journal.records] == ["", "a", "b"]
    assert not journal.broken


def test_a_broken_line_in_the_middle_is_no_cut(store: Store) -> None:
    token = opened(store)
    for name in "abc":
        guard(token).step("start", name)
    lines = Path(store.journal_path).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"kind"', b'"kin"')
    Path(store.journal_path).write_bytes(b"".join(lines))
    journal = store.journal()
    assert [(item["line"], item["cut"]) for item in journal.broken] == [(2, False)]
    assert [item["object"] for item in journal.records] == ["", "b", "c"]
    guard(token).step("start", "d")
    assert store.journal().records[-1]["seq"] == 5


def test_a_long_journal_is_read_from_its_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_change, "TAIL", 2000)
    token = opened(store)
    for number in range(20):
        guard(token).step("start", str(number))
    assert os.stat(store.journal_path).st_size > 4000
    assert len(store.tail().records) < 8
    assert store.tail().records[-1]["seq"] == 21
    # Nothing in the end that could be read: then the whole is.
    with open(store.journal_path, "ab") as handle:
        handle.write(b"x" * 3000)
    guard(token).step("start", "last")
    record = store.journal().records[-1]
    assert (record["seq"], record["damage"]["bytes"]) == (22, 3000)


@pytest.mark.parametrize(
    ("number", "word"), [(errno.ENOSPC, "Make room"), (errno.EROFS, "read-only"), (errno.EACCES, "become"), (errno.EIO, "Look at the disk")]
)
def test_what_can_not_be_recorded_is_not_done(store: Store, monkeypatch: pytest.MonkeyPatch, number: int, word: str) -> None:
    token = opened(store)
    guard(token).step("start", "a")
    data = Path(store.journal_path).read_bytes()
    real = os.write

    def fail(descriptor: int, text: bytes) -> int:
        if len(text) < 20:
            raise OSError(number, os.strerror(number))
        return real(descriptor, text[:-10])

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(ChangeError, match=word) as caught:
        guard(token).step("start", "b")
    assert store.journal_path in str(caught.value)
    monkeypatch.undo()
    assert Path(store.journal_path).read_bytes() == data


def test_a_lock_that_nobody_gives_back_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_change, "LOCK_TIMEOUT", 0.05)
    with store.locked(), pytest.raises(ChangeError, match="fuser"):
        _change.take(Store(store.directory), KARIM)


# --- reading it all ------------------------------------------------------------------------------------------------


def test_grouped(store: Store, clock: list[Any]) -> None:
    first = opened(store)
    clock[0] += 60
    guard(first).step("start", "a")
    _change.close(store, first, "failed", "no")
    guard().step("edit", "b")
    guard().step("edit", "c")
    second = opened(store)
    guard(second).step("start", "d")
    third = _change.take(store, Wish("rollback_scale_hapi", "", "karim@ops", {}, force_owner="rahim@ops")).token
    assert third
    _change.write_down(store, third, "backup", backup_id="20261125-201500F", message="before")

    def look() -> list[tuple[Any, ...]]:
        groups = _change.grouped(store.journal().records, store.lease(), Now(*clock))
        return [(item["verb"], item["state"], [step["object"] for step in item["steps"]], item["backup_id"]) for item in groups]

    wanted = [
        ("scale_hapi", "failed", ["a"], ""),
        ("", "alone", ["b", "c"], ""),
        ("scale_hapi", "taken_over", ["d"], ""),
        ("rollback_scale_hapi", "open", [second.change, ""], "20261125-201500F"),
    ]
    assert look() == wanted
    groups = _change.grouped(store.journal().records, store.lease(), Now(*clock))
    assert groups[0]["opened_at"] == "2027-01-15T08:00:00Z"
    assert groups[0]["ended_at"] == "2027-01-15T08:01:00Z"
    assert groups[2]["message"] == "forced by karim@ops"
    clock[2] += 1000
    assert look()[3][1] == "expired"
    os.unlink(store.lease_path)
    assert look()[3][1] == "unknown"
