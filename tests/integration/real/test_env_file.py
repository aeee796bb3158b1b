# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""env_file against a real project: the guard sees what an `up` would recreate, also through env_file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.modules import env_file
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker

pytestmark = pytest.mark.engine
Run = Callable[..., dict[str, Any]]


def site(project: Project, env_file_line: str = "env_file: .env") -> None:
    project.write(".env", "PW=old\nTAG=bookworm\n")
    project.write(
        "docker-compose.yml",
        f"""name: {project.name}
services:
  reader:
    image: {IMAGE}
    command: [sleep, infinity]
    {env_file_line}
  other:
    image: {IMAGE.rsplit(":", 1)[0]}:${{TAG}}
    command: [sleep, infinity]
""",
    )


@pytest.mark.parametrize("line", ["env_file: .env", "env_file: {dir}/.env", "env_file: [./.env]"])
def test_guard_names_the_service_and_the_reason(project: Project, run: Run, line: str) -> None:
    site(project, line.format(dir=project.dir))
    before = (project.dir / ".env").read_bytes()
    args = {"path": str(project.dir / ".env"), "values": {"NEW": "pa$sw0rd"}, "guard_project_dir": str(project.dir)}
    for check in (True, False):
        found = run(env_file, check, **args)
        assert found["failed"]
        assert "reader: changes in environment (NEW)" in found["msg"]
        assert f"{project.dir}/docker-compose.yml:6" in found["msg"]
        assert "other" not in found["msg"]
        assert "sw0rd" not in str(found)
    assert (project.dir / ".env").read_bytes() == before
    assert sorted(path.name for path in project.dir.iterdir()) == [".env", "docker-compose.yml"]


def test_guard_is_right_about_what_up_recreates(project: Project, run: Run) -> None:
    """What the guard foretells is what Compose then does."""
    site(project)
    project.compose("up", "-d")
    reader, other = project.ids("reader"), project.ids("other")
    found = run(
        env_file, path=str(project.dir / ".env"), values={"NEW": "x y"}, guard_project_dir=str(project.dir), guard_allow=["reader"],
    )  # fmt: skip
    assert found["changed"]
    assert [item["service"] for item in found["hash_changes"]] == ["reader"]
    assert found["validated_by"] == "compose"
    project.compose("up", "-d")
    assert project.ids("reader") != reader
    assert project.ids("other") == other


def test_guard_lets_pass_what_nobody_reads(project: Project, run: Run) -> None:
    site(project, "labels: {a: b}")
    project.compose("up", "-d")
    ids = project.ids()
    found = run(env_file, path=str(project.dir / ".env"), values={"NEW": "x"}, guard_project_dir=str(project.dir))
    assert found["changed"]
    assert found["hash_changes"] == []
    project.compose("up", "-d")
    assert project.ids() == ids


def test_guard_sees_an_image_and_a_project_name(project: Project, run: Run) -> None:
    site(project, "labels: {a: b}")
    path = str(project.dir / ".env")
    found = run(env_file, path=path, values={"TAG": "new"}, guard_project_dir=str(project.dir), guard_allow=["reader"])
    assert found["failed"]
    assert "other: changes in image" in found["msg"]
    found = run(env_file, path=path, values={"COMPOSE_PROJECT_NAME": "cmp-other"}, guard_project_dir=str(project.dir))
    assert found["failed"]
    assert "COMPOSE_PROJECT_NAME" in found["msg"]
    assert "reader" in found["msg"]


def test_guard_without_a_project_has_nothing_to_guard(project: Project, run: Run) -> None:
    project.write(".env", "A=1\n")
    found = run(env_file, path=str(project.dir / ".env"), values={"A": "2"}, guard_project_dir=str(project.dir / "none"))
    assert found["changed"]
    assert found["hash_changes"] == []


def test_value_that_would_break_the_project_is_refused(project: Project, run: Run) -> None:
    site(project, "labels: {a: b}")
    text = (project.dir / "docker-compose.yml").read_text()
    project.write("docker-compose.yml", text.replace("labels: {a: b}", "mem_limit: ${PW}"))
    project.write(".env", "PW=5m\nTAG=bookworm\n")
    found = run(env_file, path=str(project.dir / ".env"), values={"PW": "t0psecret"}, guard_project_dir=str(project.dir))
    assert found["failed"]
    assert "Nothing was changed" in found["msg"]
    assert "t0psecret" not in found["msg"]
    assert (project.dir / ".env").read_text() == "PW=5m\nTAG=bookworm\n"
    assert docker("ps", "-aq", "--filter", "label=com.docker.compose.project=env-file-check") == ""
