# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same verbs as an operator's machine and AWX start them: from the built tarball, and by ansible-runner."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import ansible_runner
import pytest
from pilot_host import HOST, INVENTORY, ROOT, snapshot

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("pilot")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty place that holds nothing but the built collection."""
    place = tmp_path_factory.mktemp("installed")
    subprocess.run(["ansible-galaxy", "collection", "build", "--output-path", str(place)], cwd=ROOT, check=True, capture_output=True)
    tarball = next(place.glob("dghs-bd_fhir-*.tar.gz"))
    # --force: the checkout is on the collections path of this process, and would count as installed already.
    subprocess.run(["ansible-galaxy", "collection", "install", "--force", "--offline", "--no-deps", "-p", str(place / "collections"),
                    str(tarball)], check=True, capture_output=True)
    assert (place / "collections/ansible_collections/dghs/bd_fhir/MANIFEST.json").is_file()
    return place / "collections"


@pytest.mark.parametrize(("verb", "args"), [
    ("assess", ()), pytest.param("scale_hapi", ("--check", "--diff"), marks=pytest.mark.full),
    pytest.param("scale_regional", ("--check",), marks=pytest.mark.full), pytest.param("rollback_scale_regional", (), marks=pytest.mark.full),
])
def test_the_built_tarball_runs_the_verbs(installed: Path, tmp_path: Path, verb: str, args: tuple[str, ...]) -> None:
    untouched = snapshot()
    environment = {key: value for key, value in os.environ.items() if key not in ("ANSIBLE_CONFIG", "PYTHONPATH")}
    environment["ANSIBLE_COLLECTIONS_PATH"] = str(installed)
    # From an empty folder: neither the checkout's ansible.cfg nor its tree may help.
    done = subprocess.run(["ansible-playbook", "-i", str(ROOT / INVENTORY), f"dghs.bd_fhir.{verb}", *args],
                          cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "DEPRECAT" not in done.stdout + done.stderr
    assert snapshot() == untouched


def test_assess_runs_as_awx_starts_it(installed: Path, tmp_path: Path) -> None:
    """AWX names a playbook of its project: the thin file that imports the verb."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "assess.yml").write_text("---\n- name: Assess\n  ansible.builtin.import_playbook: dghs.bd_fhir.assess\n")
    (tmp_path / "ansible.cfg").touch()
    runner = ansible_runner.run(
        private_data_dir=str(tmp_path), playbook="assess.yml", inventory=str(ROOT / INVENTORY), quiet=True,
        envvars={"ANSIBLE_COLLECTIONS_PATH": str(installed), "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")})
    assert runner.status == "successful", runner.stdout.read()
    assert runner.rc == 0
    stats = runner.stats
    assert stats is not None
    assert stats["ok"][HOST] > 3
    assert stats["changed"] == {}
    # What AWX hands to a workflow's next node: the callback puts it on the event of the recap.
    handed_on = next(event["event_data"]["artifact_data"] for event in runner.events if event["event"] == "playbook_on_stats")
    record = handed_on["bd_fhir_assess"][HOST]
    # Three replicas and one more while one is replaced take the whole pool of twenty.
    # How much other tests have written today decides which phase the load asks for.
    assert [(item["id"], item["severity"]) for item in record["findings"] if item["id"] != "phase_behind"] == [("pool_full", "info")]
    assert [replica["software_version"] for replica in record["replicas"]] == ["0.2.1"]
