# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _dotenv, _fragments
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import ComposeError, default_files

D = "/opt/x"
BASE = [D + "/docker-compose.yml"]
HAPI = D + "/compose.d/hapi.yml"
REDIS = D + "/compose.d/redis.yml"


def values(text: str | None) -> dict[str, str]:
    return _dotenv.values_of(_dotenv.parse(text or ""))


def test_wanted_files_keep_the_owners_order_and_sort_ours() -> None:
    assert _fragments.wanted_files(BASE, REDIS, True, []) == [*BASE, REDIS]
    assert _fragments.wanted_files([*BASE, REDIS], HAPI, True, [REDIS]) == [*BASE, HAPI, REDIS]
    assert _fragments.wanted_files([*BASE, HAPI, REDIS], HAPI, False, [HAPI, REDIS]) == [*BASE, REDIS]
    own = D + "/compose.d/a-own.yml"
    assert _fragments.wanted_files([own, *BASE, REDIS], HAPI, True, [REDIS]) == [own, *BASE, HAPI, REDIS]


@pytest.mark.parametrize(
    "text",
    [None, "", "A=1", "A=1\n", "A=1\r\n", "A='x\ny'\n# end\n"],
)
def test_our_own_line_comes_and_goes_without_a_trace(text: str | None, tmp_path: Path) -> None:
    directory = str(tmp_path)
    (tmp_path / "docker-compose.yml").touch()
    base = [directory + "/docker-compose.yml"]
    hapi, redis = directory + "/compose.d/hapi.yml", directory + "/compose.d/redis.yml"
    one = _fragments.env_with(text, [*base, hapi], True, directory)
    assert default_files(directory, values(one)) == [*base, hapi]
    assert _fragments.env_with(one, [*base, hapi], True, directory) == one
    two = _fragments.env_with(one, [*base, hapi, redis], True, directory)
    assert default_files("/", values(two)) == [*base, hapi, redis]
    assert two is not None
    assert two.count("COMPOSE_FILE=") == 1
    assert two.count(_fragments.MARKER) == 1
    back = _fragments.env_with(two, [*base, hapi], True, directory)
    assert back == one
    assert _fragments.env_with(back, base, False, directory) == text


@pytest.mark.parametrize(
    "line",
    [
        "COMPOSE_FILE=docker-compose.yml:more.yml",
        'export COMPOSE_FILE = "docker-compose.yml:more.yml" # mine',
        "COMPOSE_FILE='docker-compose.yml:more.yml'",
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_owners_line_comes_back_as_it_was(line: str, ending: str) -> None:
    text = ending.join(["A=1", line, "B=2", ""])
    base = [D + "/docker-compose.yml", D + "/more.yml"]
    one = _fragments.env_with(text, [*base, HAPI], True, D)
    assert default_files("/", values(one)) == [*base, HAPI]
    assert _fragments.env_with(one, [*base, HAPI], True, D) == one
    assert _fragments.env_with(one, base, False, D) == text


def test_an_entry_that_the_owner_added_meanwhile_stays() -> None:
    one = _fragments.env_with("COMPOSE_FILE=a.yml\n", [D + "/a.yml", HAPI], True, D)
    assert one is not None
    edited = one.replace(":" + HAPI, ":" + HAPI + ":/b.yml")
    back = _fragments.env_with(edited, [D + "/a.yml", "/b.yml"], False, D)
    assert default_files("/", values(back)) == [D + "/a.yml", "/b.yml"]
    assert back is not None
    assert _fragments.MARKER not in back


def test_the_separator_is_respected_and_a_path_that_holds_it_refused() -> None:
    text = "COMPOSE_PATH_SEPARATOR=,\nCOMPOSE_FILE=a.yml\n"
    one = _fragments.env_with(text, [D + "/a.yml", HAPI], True, D)
    assert values(one)["COMPOSE_FILE"] == D + "/a.yml," + HAPI
    with pytest.raises(ComposeError, match="separator"):
        _fragments.env_with("", ["/o:dd/a.yml"], True, D)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-x", "a.b", "a b"])
def test_a_name_that_leaves_the_directory_is_refused(name: str) -> None:
    with pytest.raises(ComposeError):
        _fragments.fragment_path(D, name)


def test_ours_are_known_by_their_first_line(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(_fragments.fragment_text("services: {}"))
    (tmp_path / "a.yml").write_text("services: {}\n")
    (tmp_path / "c.txt").write_text(_fragments.fragment_text("services: {}"))
    assert _fragments.fragments_in(str(tmp_path)) == [str(tmp_path / "b.yml")]
    assert _fragments.fragments_in(str(tmp_path / "none")) == []
