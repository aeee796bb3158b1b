# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules against the real Docker engine that the docker command reaches. Every project is removed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change, _compose
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker

JOURNALS = pytest.StashKey[set[Path]]()


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """These tests mean nothing without an engine: fail, do not skip."""
    docker("version", "--format", "{{.Server.Version}}")
    docker("compose", "version")
    docker("image", "inspect", IMAGE)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.stash[JOURNALS] = set(Path(_change.STATE_DIR).glob("*"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A module that a test starts as a process of its own records its changes on this machine: they go when all workers have ended."""
    if hasattr(session.config, "workerinput"):
        return
    for directory in set(Path(_change.STATE_DIR).glob("*")) - session.stash[JOURNALS]:
        shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def journal_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What modules do in a test is not recorded on this machine."""
    monkeypatch.setattr(_change, "STATE_DIR", str(tmp_path / "journal"))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project whose name comes from `name:` in its compose file, written by base()."""
    item = Project(tmp_path / "site")
    item.dir.mkdir()
    yield item
    item.remove()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a module's main() for real and return its result, with the key rc."""

    def call(module: Any, check: bool = False, **args: Any) -> dict[str, Any]:
        args["_ansible_check_mode"] = check
        args["_ansible_diff"] = True
        capsys.readouterr()
        with patch_module_args(args), pytest.raises(SystemExit) as ended:
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        result["rc"] = ended.value.code
        return result

    return call


@pytest.fixture
def make_docker() -> Callable[..., _compose.Docker]:
    """Return a Docker as a module would build it."""

    def make(path: Path, **args: Any) -> _compose.Docker:
        with patch_module_args({"project_dir": str(path), **args}):
            return _compose.Docker.from_module(AnsibleModule(_compose.COMPOSE_ARGUMENTS))

    return make
