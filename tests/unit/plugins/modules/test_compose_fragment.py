# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of compose_fragment on a host where nothing is; with an engine: tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.modules import compose_fragment

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(module: Any, check: bool = False, **args: Any) -> dict[str, Any]:
        with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit) as ended:
            module.main()
        return {**json.loads(capsys.readouterr().out), "rc": ended.value.code}

    return call


@pytest.fixture(autouse=True)
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose_fragment.AnsibleModule, "get_bin_path", lambda *args, **kwargs: None)


def test_fragment_on_a_bare_host(run: Run, tmp_path: Path) -> None:
    args = {"project_dir": str(tmp_path / "none"), "name": "hapi", "content": "services: {}\n"}
    predicted = run(compose_fragment, True, **args)
    assert predicted["rc"] == 0
    assert predicted["changed"]
    assert not predicted["validated"]
    assert "services: {}" in predicted["diff"][0]["after"]
    refused = run(compose_fragment, **args)
    assert refused["rc"] == 1
    assert "Nothing was changed" in refused["msg"]
    assert not (tmp_path / "none").exists()
    absent = run(compose_fragment, project_dir=str(tmp_path / "none"), name="hapi", state="absent")
    assert absent["rc"] == 0
    assert not absent["changed"]


@pytest.mark.parametrize("args", [{"name": "../x"}, {"name": "x", "mode": "u=rw"}, {"name": "x", "mode": "0o644"}])
def test_fragment_refuses_bad_options(run: Run, tmp_path: Path, args: dict[str, Any]) -> None:
    assert run(compose_fragment, project_dir=str(tmp_path), content="services: {}\n", **args)["failed"]
