# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ways back of the daily jobs and the folder from which node_exporter reads: not taken from under a container that has mounted it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))
# The role, the file of its tasks, and what holds the folders that it has made.
JOBS = [
    ("audit_partitions", "folders", "_audit_partitions_memory"),
    ("hapi_partitioning", "job_folders", "_hapi_partitioning_job_memory"),
]


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[str]:
    """A container that has mounted the folder, as node_exporter has."""
    folder = tmp_path / "prometheus/node-exporter"
    folder.mkdir(parents=True)
    name = f"folders-{os.getpid()}"
    docker("run", "-d", "--name", name, "--network", "none", "-v", f"{folder}:/textfile:ro", image("postgres"), "sleep", "600")
    yield name
    docker("rm", "-f", "-v", name, check=False)


def back(tmp_path: Path, role: str, file: str, memory: str, *more: str) -> str:
    """Run what takes the folders away; what it said."""
    task = {"name": "Take away", "ansible.builtin.include_role": {"name": f"dghs.bd_fhir.{role}", "tasks_from": file}}
    (tmp_path / "play.yml").write_text(json.dumps([{"name": "Back", "hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    folders = [str(tmp_path / "prometheus"), str(tmp_path / "prometheus/node-exporter")]
    (tmp_path / "values.json").write_text(json.dumps({memory: {"directories": folders}}))
    argv = [PLAYBOOK, "-i", "localhost,", "-c", "local", "play.yml", "-e", "@values.json", *more]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.parametrize(("role", "file", "memory"), JOBS)
def test_a_folder_that_a_container_has_mounted_stays(tmp_path: Path, exporter: str, role: str, file: str, memory: str) -> None:
    folder = tmp_path / "prometheus/node-exporter"
    for state in ("running", "stopped"):
        if state == "stopped":
            # Without its folder it would not start again.
            docker("stop", "-t", "0", exporter)
        for more in (("--check",), ()):
            out = back(tmp_path, role, file, memory, *more)
            assert f"{folder} stays: containers mount it ({docker('ps', '-aqf', f'name={exporter}').strip()})" in out
            assert "changed=0" in out
        assert folder.is_dir()
    docker("start", exporter)
    # What a later run lays there is seen.
    (folder / "job.prom").write_text("up 1\n")
    assert docker("exec", exporter, "cat", "/textfile/job.prom") == "up 1\n"
    (folder / "job.prom").unlink()
    docker("rm", "-f", "-v", exporter)
    assert "changed=0" in back(tmp_path, role, file, memory, "--check")
    assert folder.is_dir()
    assert "changed=1" in back(tmp_path, role, file, memory)
    assert not (tmp_path / "prometheus").exists()
    assert "changed=0" in back(tmp_path, role, file, memory)


@pytest.mark.parametrize(("role", "file", "memory"), JOBS)
def test_where_docker_can_not_be_asked_the_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, file: str, memory: str
) -> None:
    folder = tmp_path / "prometheus/node-exporter"
    folder.mkdir(parents=True)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert "could not be asked" in back(tmp_path, role, file, memory)
    assert folder.is_dir()
