# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of deployment_info on a host where little or nothing is; with an engine: tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.modules import deployment_info

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(module: Any, check: bool = False, **args: Any) -> dict[str, Any]:
        with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit) as ended:
            module.main()
        return {**json.loads(capsys.readouterr().out), "rc": ended.value.code}

    return call


def fake_docker(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    binary = directory / "docker"
    binary.write_text("#!/bin/sh\n" + script)
    binary.chmod(0o755)
    monkeypatch.setattr(deployment_info.AnsibleModule, "get_bin_path", lambda self, name, *rest, **more: str(binary) if name == "docker" else None)


def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_info.AnsibleModule, "get_bin_path", lambda *args, **kwargs: None)


def ids(result: dict[str, Any]) -> list[str]:
    return [item["id"] for item in result["findings"]]


@pytest.mark.parametrize("check", [True, False])
def test_bare_host(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, check: bool) -> None:
    no_docker(monkeypatch)
    found = run(deployment_info, check, project_dir=str(tmp_path / "none"), scale_service="hapi", scale_replicas=0)
    assert found["rc"] == 0
    assert not found["changed"]
    assert found["deployment"]["exists"] is False
    assert found["deployment"]["services"] == {}
    assert ids(found) == ["docker_missing", "project_dir_missing", "replicas_invalid"]
    assert found["deployment"]["memory"]["total"] > 0


def test_fail_on_fails_after_it_has_looked(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_docker(monkeypatch)
    found = run(deployment_info, project_dir=str(tmp_path / "none"), fail_on=["error"])
    assert found["rc"] == 1
    assert found["failed"]
    assert "docker_missing" in found["msg"]
    assert "project_dir_missing" in found["msg"]
    assert found["deployment"]["exists"] is False


VERSION = (Path(__file__).parents[1] / "fixtures/compose/version-28.2.2-20.10.json").read_text().strip()


def test_daemon_that_is_not_reachable(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client = json.dumps({"Client": json.loads(VERSION)["Client"], "Server": None})
    fake_docker(
        tmp_path, monkeypatch,
        'case "$1" in version) echo \'%s\'; echo "permission denied while trying to connect to the Docker daemon socket" >&2; exit 1;;'
        " compose) echo 2.40.3;; esac" % client,
    )  # fmt: skip
    found = run(deployment_info, project_dir=str(tmp_path))
    assert found["rc"] == 0
    assert "docker_unreachable" in ids(found)
    assert "permission denied" in found["findings"][0]["found"]
    assert found["deployment"]["engine"]["server_version"] == ""


def test_compose_missing_and_docker_too_old(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_docker(
        tmp_path, monkeypatch,
        'case "$1" in version) echo \'%s\';; info) echo overlay2;;'
        ' *) echo "docker: \'compose\' is not a docker command." >&2; exit 1;; esac' % VERSION,
    )  # fmt: skip
    found = run(deployment_info, project_dir=str(tmp_path), minimum_docker="25.0")
    assert ids(found)[:2] == ["docker_too_old", "compose_missing"]
    assert found["findings"][0]["found"].startswith("20.10")


def test_compose_too_old(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_docker(
        tmp_path, monkeypatch,
        'case "$1" in version) echo \'%s\';; info) echo overlay2;; compose) echo v2.17.2;; esac' % VERSION,
    )  # fmt: skip
    found = run(deployment_info, project_dir=str(tmp_path / "none"))
    assert ids(found) == ["compose_too_old", "project_dir_missing"]


def test_env_file_findings_need_no_docker(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_docker(monkeypatch)
    assert ids(run(deployment_info, project_dir=str(tmp_path))) == ["docker_missing", "env_file_missing", "compose_file_missing"]
    (tmp_path / ".env").write_text("PW=pa$sw0rd%x\n")
    (tmp_path / ".env").chmod(0o644)
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    found = run(deployment_info, project_dir=str(tmp_path))
    assert ids(found) == ["docker_missing", "env_file_mode", "env_file_damaged"]
    assert "sw0rd" not in json.dumps(found)


def test_env_file_that_cannot_be_read(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_docker(monkeypatch)
    (tmp_path / ".env").mkdir()
    assert ids(run(deployment_info, project_dir=str(tmp_path))) == ["docker_missing", "env_file_unreadable"]
