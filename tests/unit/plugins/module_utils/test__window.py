# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _haproxy, _window
from ansible_collections.dghs.bd_fhir.plugins.module_utils._haproxy import HAProxy, HAProxyError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._window import Window, WindowError
from hypothesis import given
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).parents[4]
FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "haproxy"
MAP = "/usr/local/etc/haproxy/window.map"
NOW = 1_795_650_000

MOMENTS = st.integers(NOW - 2000, NOW + 2000)
WINDOWS = st.builds(Window, MOMENTS, MOMENTS, st.integers(0, 900))


def recorded(name: str) -> str:
    return (FIXTURES / name).read_text()


class Fake(HAProxy):
    """HAProxy's maps without HAProxy; what is tested is what is made of its answers."""

    def __init__(self, entries: dict[str, str], map_path: str = MAP) -> None:
        super().__init__("/run/fake.sock")
        self.entries = entries
        self.names = [map_path]
        self.rights = "admin"
        self.deaf = False
        self.waiting: list[int] = []
        self.sent: list[str] = []

    def level(self) -> str:
        return self.rights

    def map_files(self) -> list[str]:
        return self.names

    def map_entries(self, name: str) -> dict[str, str]:
        return dict(self.entries)

    def set_map(self, name: str, key: str, value: str) -> None:
        self.sent.append(key)
        if not self.deaf:
            self.entries[key] = value

    def sessions(self, backend: str) -> int:
        return self.waiting.pop(0) if len(self.waiting) > 1 else self.waiting[0]


def entries(window: Window) -> dict[str, str]:
    return {key: str(value) for key, value in dataclasses.asdict(window).items()}


@pytest.fixture
def path(tmp_path: pathlib.Path) -> str:
    item = tmp_path / "window.map"
    item.write_text(_window.render(Window()))
    return str(item)


# --- HAProxy's answers


def test_recorded_answers() -> None:
    assert _haproxy.parse_map_files(recorded("window.maps.txt")) == [MAP]
    assert _haproxy.parse_map_entries(recorded("window.map.txt")) == {"all": "1795653600", "writes": "0", "retry_after": "7"}
    assert _window.window_of(_haproxy.parse_map_entries(recorded("window.map.txt"))) == Window(1_795_653_600, 0, 7)


def test_only_map_files_are_named() -> None:
    text = recorded("window.maps.txt").replace("used by map at", "used by acl at")
    assert _haproxy.parse_map_files(text) == []
    assert _haproxy.parse_map_files("# id (file) description\n\n") == []


@pytest.mark.parametrize("text", ["", "Unknown command: 'show map'\n", "Permission denied\n"])
def test_other_answers_are_no_empty_list(text: str) -> None:
    with pytest.raises(ValueError, match="show map"):
        _haproxy.parse_map_files(text)


def test_an_unknown_map_is_no_empty_map() -> None:
    with pytest.raises(ValueError, match="Unknown map identifier"):
        _haproxy.parse_map_entries("Unknown map identifier. Please use #<id> or <file>.\n\n")
    assert _haproxy.parse_map_entries("\n") == {}


@pytest.mark.parametrize("words", [("/a map", "k", "1"), ("/a", "k;clear", "1"), ("/a", "k", "1\nclear map /a"), ("/a", "", "1")])
def test_no_second_command_is_smuggled_in(words: tuple[str, str, str]) -> None:
    with pytest.raises(HAProxyError, match="can't set entry"):
        HAProxy("/run/none.sock").set_map(*words)
    with pytest.raises(HAProxyError, match="can't be the name"):
        HAProxy("/run/none.sock").map_entries("/a; clear map /a")
    with pytest.raises(HAProxyError, match="can't be the name"):
        HAProxy("/run/none.sock").sessions("hapi;x")


# --- the map


def test_the_roles_file_is_a_closed_window() -> None:
    assert (ROOT / "roles/balancer/files/window.map").read_text() == _window.render(Window())


@given(WINDOWS)
def test_a_map_comes_back(window: Window) -> None:
    assert _window.parse_file(_window.render(window)) == window


@pytest.mark.parametrize("text", ["", _window.HEADER, "all 1\nwrites 2\n", "all 1\nwrites 2\nretry_after soon\n", "all\nwrites 1\nretry_after 1\n"])
def test_damage_is_not_taken_for_closed(text: str) -> None:
    assert _window.parse_file(text) is None


def test_the_first_of_two_entries_counts_as_in_haproxy() -> None:
    assert _window.parse_file("all 5\nall 9\nwrites 0\nretry_after 0\n") == Window(5)
    text = recorded("window.map.txt").rstrip() + "\n0x5627d3f0a0e0 all 1\n"
    assert _haproxy.parse_map_entries(text)["all"] == "1795653600"


def test_at() -> None:
    assert Window(NOW, NOW - 5, 7).at(NOW) == Window()
    assert Window(NOW + 1, NOW - 5, 7).at(NOW) == Window(NOW + 1, 0, 7)
    assert [Window(*item).scope(NOW) for item in ((NOW + 1, NOW + 9), (NOW, NOW + 9), (NOW, NOW))] == ["all", "writes", ""]


def test_lines() -> None:
    assert Window().lines(NOW) == "all requests: served\nwrites: served\nRetry-After: none\n"
    text = Window(0, NOW + 60).lines(NOW)
    assert text == "all requests: served\nwrites: 503 until 2026-11-25T23:41:00Z\nRetry-After: seconds left\n"
    assert "Retry-After: 7" in Window(NOW + 60, 0, 7).lines(NOW)


# --- opening


@pytest.mark.parametrize(
    ("current", "seconds", "scope", "expected"),
    [
        (Window(), 60, "all", Window(NOW + 60)),
        (Window(), 60, "writes", Window(0, NOW + 60)),
        # What is over is forgotten.
        (Window(NOW - 1, NOW - 1, 7), 60, "all", Window(NOW + 60)),
        # Ten seconds less are near enough, eleven are not.
        (Window(NOW + 50), 60, "all", Window(NOW + 50)),
        (Window(NOW + 49), 60, "all", Window(NOW + 60)),
        # Half of it in any case.
        (Window(NOW + 2), 4, "all", Window(NOW + 2)),
        (Window(NOW + 1), 4, "all", Window(NOW + 4)),
        # Never shorter, never narrower.
        (Window(NOW + 300), 60, "all", Window(NOW + 300)),
        (Window(NOW + 300), 60, "writes", Window(NOW + 300)),
        (Window(NOW + 30), 60, "writes", Window(NOW + 30, NOW + 60)),
        (Window(0, NOW + 300), 60, "all", Window(NOW + 60, NOW + 300)),
    ],
)
def test_opened(current: Window, seconds: int, scope: str, expected: Window) -> None:
    assert _window.opened(current, NOW, seconds, scope, 0, 10) == expected


@given(WINDOWS, st.integers(1, 900), st.sampled_from(_window.SCOPES), st.integers(0, 900), st.integers(0, 900))
def test_opening_is_enough_never_less_and_idempotent(current: Window, seconds: int, scope: str, retry_after: int, tolerance: int) -> None:
    found = _window.opened(current, NOW, seconds, scope, retry_after, tolerance)
    assert _window.opened(found, NOW, seconds, scope, retry_after, tolerance) == found
    assert max(found.all, getattr(found, scope)) >= NOW + seconds - min(tolerance, seconds // 2)
    assert found.all >= current.at(NOW).all
    assert found.writes >= current.at(NOW).writes
    # However it was before, it ends: at what was asked for, or at what was open.
    assert found.until <= max(NOW + seconds, current.until)
    assert found.at(NOW) == found


# --- file and HAProxy


def test_open_again_close_again(path: str) -> None:
    haproxy = Fake(entries(Window()))
    plan = _window.open_window(haproxy, path, 60)
    assert plan.changed
    assert haproxy.sent == ["retry_after", "all", "writes"]
    assert _window.parse_file(pathlib.Path(path).read_text()) == _window.window_of(haproxy.entries) == plan.wanted
    inode = pathlib.Path(path).stat().st_ino
    assert not _window.open_window(haproxy, path, 60).changed
    assert pathlib.Path(path).stat().st_ino == inode
    haproxy.sent.clear()
    assert _window.close_window(haproxy, path).changed
    assert haproxy.sent == ["all", "writes", "retry_after"]
    assert not _window.close_window(haproxy, path).changed
    assert pathlib.Path(path).read_text() == _window.render(Window())


@pytest.mark.parametrize("missing", ["all", "retry_after"])
def test_an_entry_that_is_gone_is_a_change(path: str, missing: str) -> None:
    haproxy = Fake(entries(Window()))
    del haproxy.entries[missing]
    assert _window.close_window(haproxy, path).changed
    assert _window.window_of(haproxy.entries) == Window()


def test_over_is_closed(path: str) -> None:
    over = Window(int(time.time()) - 1, 0, 7)
    pathlib.Path(path).write_text(_window.render(over))
    assert not _window.close_window(Fake(entries(over)), path).changed
    # A window that only a restarted HAProxy would have is one.
    pathlib.Path(path).write_text(_window.render(Window(int(time.time()) + 100)))
    assert _window.close_window(Fake(entries(over)), path).changed


def test_what_did_not_take_is_told(path: str) -> None:
    haproxy = Fake(entries(Window()))
    haproxy.deaf = True
    with pytest.raises(WindowError, match="Somebody else may be changing it"):
        _window.open_window(haproxy, path, 60)


def test_without_the_right_to_set_it_nothing_is_written(path: str) -> None:
    haproxy = Fake(entries(Window()))
    haproxy.rights = "operator"
    with pytest.raises(WindowError, match="level admin"):
        _window.open_window(haproxy, path, 60)
    assert pathlib.Path(path).read_text() == _window.render(Window())


@pytest.mark.parametrize("names", [[], [MAP, "/other/window.map"], ["/etc/haproxy/hosts.map"]])
def test_a_balancer_without_the_map_is_refused(path: str, names: list[str]) -> None:
    haproxy = Fake(entries(Window()))
    haproxy.names = names
    with pytest.raises(WindowError, match="scale_hapi first"):
        _window.plan_open(haproxy, path, 60)


@pytest.mark.parametrize(("text", "word"), [(None, "scale_hapi first"), ("all 0\nwrites 0\nretry_after 0\n", "not the map file of the window")])
def test_another_file_is_not_overwritten(path: str, text: Optional[str], word: str) -> None:
    item = pathlib.Path(path)
    item.unlink()
    if text is not None:
        item.write_text(text)
    with pytest.raises(WindowError, match=word):
        _window.open_window(Fake(entries(Window())), path, 60)
    assert (item.read_text() if item.exists() else None) == text


@pytest.mark.parametrize(("seconds", "scope", "retry_after"), [(0, "all", 0), (901, "all", 0), (60, "reads", 0), (60, "all", 901), (60, "all", -1)])
def test_what_is_no_window_is_refused(path: str, seconds: int, scope: str, retry_after: int) -> None:
    with pytest.raises(WindowError, match="1 to 900 seconds"):
        _window.plan_open(Fake(entries(Window())), path, seconds, scope, retry_after)


@pytest.mark.parametrize(("waiting", "timeout", "left"), [([0], 0, 0), ([2, 1, 0, 0], 5, 0), ([3], 0.02, 3), ([0, 1, 0, 0], 5, 0), ([4], 0, 4)])
def test_wait_idle(waiting: list[int], timeout: float, left: int) -> None:
    haproxy = Fake({})
    haproxy.waiting = waiting
    assert _window.wait_idle(haproxy, "hapi", timeout, 0.001) == left


def test_sessions_and_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """From recorded answers: the backend's requests, and whether one of its servers is up."""
    answers = {
        "show stat hapi 2 -1": recorded("window.backend.csv").replace("hapi,BACKEND,0,0,0,", "hapi,BACKEND,1,2,5,"),
        "show servers state hapi": recorded("mixed.state.txt"),
        "show stat hapi 4 -1": recorded("mixed.stat.csv"),
        "show stat nope 2 -1": "No such proxy.\n\n",
        f"show map {MAP}": recorded("window.map.txt"),
        "show map": recorded("window.maps.txt"),
        "show map /nope": "Unknown map identifier. Please use #<id> or <file>.\n\n",
        f"set map {MAP} all 7": "\n",
        f"set map {MAP} writes 7": "Permission denied\n",
        f"add map {MAP} new 1": "\n",
    }
    haproxy = HAProxy("/run/none.sock")
    monkeypatch.setattr(haproxy, "command", answers.__getitem__)
    assert haproxy.sessions("hapi") == 5
    with pytest.raises(HAProxyError, match="No such proxy.*backend's name"):
        haproxy.sessions("nope")
    assert haproxy.map_files() == [MAP]
    with pytest.raises(HAProxyError, match="Unknown map identifier.*map's name"):
        haproxy.map_entries("/nope")
    haproxy.set_map(MAP, "all", "7")
    haproxy.set_map(MAP, "new", "1")
    with pytest.raises(HAProxyError, match="level admin"):
        haproxy.set_map(MAP, "writes", "7")
    assert _window.wait_served(haproxy, "hapi", 0)
    answers["show servers state hapi"] = recorded("mixed.state.txt").replace(" 2 0 ", " 0 0 ")
    assert not _window.wait_served(haproxy, "hapi", 0.01, 0.001)
    answers["show map"] = "Unknown command\n"
    with pytest.raises(HAProxyError, match="not HAProxy's runtime API"):
        haproxy.map_files()
