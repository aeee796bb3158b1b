# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""deployment_info against real projects."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.modules import compose_fragment, deployment_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker

pytestmark = pytest.mark.engine
Run = Callable[..., dict[str, Any]]


def site(project: Project, web: str = "labels: {a: b}", env: str = "PW='pa$sw0rd'\n", more: str = "") -> None:
    project.write(".env", env)
    project.write("site.conf", "x", 0o644)
    project.write(
        "docker-compose.yml",
        f"""name: {project.name}
services:
  web:
    image: {IMAGE}
    command: [sleep, infinity]
    init: true
    mem_limit: 64m
    env_file: .env
    volumes: ["./site.conf:/site.conf:ro"]
    healthcheck: {{test: [CMD, "true"], interval: 1s, start_period: 1s}}
    {web}
{more}""",
    )


def ids(found: dict[str, Any], severity: str | None = None) -> list[str]:
    return [item["id"] for item in found["findings"] if severity in (None, item["severity"])]


def info(run: Run, project: Project, **more: Any) -> dict[str, Any]:
    found = run(deployment_info, project_dir=str(project.dir), **more)
    assert found["rc"] == 0, found
    assert not found["changed"]
    assert "sw0rd" not in json.dumps(found)
    return found


def test_the_whole_deployment(project: Project, run: Run) -> None:
    site(project)
    project.compose("up", "-d", "--wait")
    found = info(run, project, scale_service="web", scale_replicas=3)
    assert ids(found) == []
    deployment = found["deployment"]
    assert deployment["exists"]
    assert deployment["project"]["name"] == project.name
    assert deployment["project"]["files_default"] == deployment["project"]["files_running"] == [str(project.dir / "docker-compose.yml")]
    web = deployment["services"]["web"]
    assert web["environment_names"] == ["PW"]
    assert web["scale"] == 1
    assert web["memory_limit"] == 64 * 1024 * 1024
    assert web["healthcheck"]
    (replica,) = web["replicas"]
    assert replica["health"] == "healthy"
    assert not replica["outdated"]
    # Another way: docker's own view.
    raw = json.loads(docker("inspect", replica["id"]))[0]
    assert replica["addresses"] == {f"{project.name}_default": raw["NetworkSettings"]["Networks"][f"{project.name}_default"]["IPAddress"]}
    assert replica["config_hash"] == web["config_hash"] == raw["Config"]["Labels"]["com.docker.compose.config-hash"]
    assert replica["mounts"] == [{"type": "bind", "name": "", "source": str(project.dir / "site.conf"), "destination": "/site.conf", "rw": False}]
    assert found["scale"]["memory_needed"] == 4 * 64 * 1024 * 1024
    assert deployment["engine"]["server_version"] == docker("version", "--format", "{{.Server.Version}}").strip()


def test_case_31_scaling_does_not_look_outdated(project: Project, run: Run) -> None:
    """Also with env_file, which `config --hash` of Compose leaves out although the container's label has it."""
    site(project)
    project.compose("up", "-d")
    run(compose_fragment, project_dir=str(project.dir), name="hapi", content="services:\n  web:\n    scale: 2\n", allow_changed=["web"])
    project.compose("up", "-d")
    found = info(run, project)
    replicas = found["deployment"]["services"]["web"]["replicas"]
    assert [item["number"] for item in replicas] == [1, 2]
    assert not any(item["outdated"] for item in replicas)
    assert ids(found) == []
    assert found["deployment"]["project"]["fragments"] == [{"path": str(project.dir / "compose.d/hapi.yml"), "loaded": True}]
    # It goes red: what env_file brings is part of the hash.
    with (project.dir / ".env").open("a") as handle:
        handle.write("NEW=1\n")
    found = info(run, project)
    assert all(item["outdated"] for item in found["deployment"]["services"]["web"]["replicas"])
    assert ids(found) == ["replicas_outdated"]
    project.compose("up", "-d")
    assert ids(info(run, project)) == []


def test_an_image_that_moved_makes_outdated(project: Project, run: Run) -> None:
    site(project)
    tag = f"{project.name}:1"
    docker("tag", IMAGE, tag)
    try:
        text = (project.dir / "docker-compose.yml").read_text()
        project.write("docker-compose.yml", text.replace(IMAGE, tag))
        project.compose("up", "-d")
        assert "replicas_outdated" not in ids(info(run, project))
        docker("build", "-q", "-t", tag, "-", stdin=f"FROM {IMAGE}\nLABEL new=1\n")
        assert "replicas_outdated" in ids(info(run, project))
    finally:
        project.remove()
        docker("rmi", tag, check=False)


def test_case_23_and_ports_before_a_change(project: Project, run: Run) -> None:
    site(project, f'container_name: {project.name}-fixed\n    ports: ["18093:80"]')
    project.compose("up", "-d")
    found = {item["id"]: item for item in info(run, project, scale_service="web", scale_replicas=2)["findings"]}
    assert sorted(found) == ["container_name_set", "fixed_host_port"]
    assert f"{project.dir}/docker-compose.yml:11" in found["container_name_set"]["found"]
    assert f"{project.dir}/docker-compose.yml:12" in found["fixed_host_port"]["found"]
    # The offered override does what is said.
    content = "services:\n  web:\n    container_name: !reset null\n    ports: !reset []\n    scale: 2\n"
    run(compose_fragment, project_dir=str(project.dir), name="hapi", content=content, allow_changed=["web"])
    assert ids(info(run, project, scale_service="web", scale_replicas=2), "error") == []
    project.compose("up", "-d")
    assert len(project.ids("web")) == 2
    failed = run(deployment_info, project_dir=str(project.dir), scale_service="web", scale_replicas=51, fail_on=["error"])
    assert failed["rc"] == 1
    assert "replicas_invalid" in failed["msg"]
    assert failed["deployment"]["exists"]


def test_case_24_containers_are_found_by_labels(project: Project, run: Run) -> None:
    site(project)
    project.compose("up", "-d")
    docker("rename", project.ids("web")[0], f"{project.name}_web_1")
    (replica,) = info(run, project)["deployment"]["services"]["web"]["replicas"]
    assert replica["name"] == f"{project.name}_web_1"
    assert replica["service"] == "web"


def test_a_project_started_under_another_name(project: Project, run: Run) -> None:
    site(project)
    other = project.name + "-p"
    docker("compose", "-p", other, "up", "-d", cwd=project.dir)
    try:
        found = info(run, project)
        assert found["deployment"]["project"]["name"] == other
        assert found["deployment"]["exists"]
    finally:
        docker("compose", "-p", other, "down", "-t", "0", cwd=project.dir)


JOB = "  job:\n    image: {image}\n    command: [{command}]\n    profiles: [ops]\n"


@pytest.mark.parametrize(("command", "expected"), [("'true'", []), ("'false'", ["one_shot_failed"])])
def test_cases_26_29_39_profiles_and_one_shots(project: Project, run: Run, command: str, expected: list[str]) -> None:
    site(project, env="PW=x\nCOMPOSE_PROFILES=ops\n", more=JOB.format(image=IMAGE, command=command))
    project.compose("up", "-d")
    docker("wait", *project.ids("job"))
    found = info(run, project)
    assert ids(found, "error") == expected
    assert found["deployment"]["project"]["profiles"] == ["ops"]
    assert sorted(found["deployment"]["services"]) == sorted(project.compose("config", "--services").split()) == ["job", "web"]


def test_case_27_services_really_affected(project: Project, run: Run) -> None:
    """Whatever wins, what is listed is what Compose itself resolves from the environment file."""
    more = JOB.format(image=IMAGE, command="'true'") + JOB.format(image=IMAGE, command="'true'").replace("job", "b").replace("ops", "b")
    site(project, env="PW=x\nCOMPOSE_PROFILES=b\n", more=more)
    project.compose("up", "-d")
    found = info(run, project)
    assert sorted(found["deployment"]["services"]) == ["b", "web"]
    assert "profiles_ignored" not in ids(found)


def test_process_environment_does_not_decide(project: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    site(project, more=JOB.format(image=IMAGE, command="'true'"))
    project.compose("up", "-d")
    monkeypatch.setenv("COMPOSE_PROFILES", "ops")
    monkeypatch.setenv("COMPOSE_FILE", "/nonexistent.yml")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "other")
    assert sorted(info(run, project)["deployment"]["services"]) == ["web"]


def test_not_the_target(project: Project, run: Run) -> None:
    site(project)
    found = info(run, project)
    assert ids(found) == ["not_the_target"]
    assert not found["deployment"]["exists"]


def test_other_file_set_than_the_running_one(project: Project, run: Run) -> None:
    site(project)
    project.write("extra.yml", "services:\n  web:\n    labels: {extra: '1'}\n")
    project.compose("-f", "docker-compose.yml", "-f", "extra.yml", "up", "-d")
    found = info(run, project)
    assert ids(found, "error") == ["compose_files_differ"]
    assert "extra.yml" in found["findings"][0]["expected"]


def test_a_lost_env_line_and_a_fragment_that_does_not_run(project: Project, run: Run) -> None:
    site(project, env="PW=x\n")
    fragment = {"project_dir": str(project.dir), "name": "hapi", "content": "services:\n  web:\n    scale: 2\n", "allow_changed": ["web"]}
    project.compose("up", "-d")
    run(compose_fragment, **fragment)
    assert sorted(ids(info(run, project))) == ["fragment_not_running", "replicas_differ", "replicas_outdated"]
    project.compose("up", "-d")
    assert ids(info(run, project)) == []
    (project.dir / ".env").write_text("PW=x\n")
    assert "fragment_not_loaded" in ids(info(run, project))


@pytest.mark.parametrize(
    ("env", "found"), [("PW=pa$sw0rd\n", "env_file_damaged"), ("PW='pa$sw0rd\n", "env_file_damaged"), (None, "env_file_missing")]
)
def test_environment_file(project: Project, run: Run, env: str | None, found: str) -> None:
    site(project)
    project.compose("up", "-d")
    (project.dir / ".env").unlink() if env is None else (project.dir / ".env").write_text(env)
    if env is None:
        text = (project.dir / "docker-compose.yml").read_text()
        project.write("docker-compose.yml", text.replace("    env_file: .env\n", ""))
    result = info(run, project)
    assert found in ids(result, "error")
    assert result["deployment"]["exists"]


def test_a_configuration_that_compose_refuses_is_a_finding(project: Project, run: Run) -> None:
    site(project)
    project.compose("up", "-d")
    project.write("docker-compose.yml", "services: [")
    found = info(run, project)
    assert "compose_config_invalid" in ids(found, "error")
    assert found["deployment"]["services"]["web"]["replicas"][0]["state"] == "running"


def test_image_that_cannot_be_pulled(project: Project, run: Run) -> None:
    site(project)
    project.compose("up", "-d")
    found = info(run, project, scale_service="web", image="localhost:1/nothing:1")
    assert ids(found) == ["image_not_pullable"]
    assert "connection refused" in found["findings"][0]["found"]
    assert info(run, project, scale_service="web", image=IMAGE)["findings"] == []


def test_memory_and_health_check(project: Project, run: Run) -> None:
    site(project)
    project.compose("up", "-d")
    found = info(run, project, scale_service="web", scale_replicas=3, replica_memory=2**40)
    assert ids(found) == ["memory_short"]
    text = (project.dir / "docker-compose.yml").read_text()
    project.write("docker-compose.yml", "\n".join(line for line in text.splitlines() if "healthcheck" not in line))
    assert "no_health_check" in ids(info(run, project, scale_service="web"))
    assert "no_health_check" not in ids(info(run, project, scale_service="web", probe={"port": 80, "path": "/"}))


@pytest.fixture
def migrating(project: Project) -> Iterator[str]:
    """An image that brings a Flyway script, made without a network."""
    tag = f"{project.name}:new"
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in [
            ("Dockerfile", f"FROM {IMAGE}\nCOPY V9__big.sql /app/db/migration/fhir/V9__big.sql\n".encode()),
            ("V9__big.sql", b"select 1;"),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    subprocess.run(["docker", "build", "-q", "-t", tag, "-"], input=data.getvalue(), check=True, capture_output=True)
    yield tag
    project.remove()
    docker("rmi", tag, check=False)


def test_an_image_that_brings_a_migration_is_named(project: Project, run: Run, migrating: str) -> None:
    site(project)
    project.compose("up", "-d")
    found = info(run, project, scale_service="web", image=migrating)
    assert ids(found) == ["image_brings_migration"]
    assert found["findings"][0]["found"] == ["fhir/V9__big.sql"]
    assert docker("ps", "-aq", "--filter", "label=dghs.bd_fhir.purpose=read-image") == ""
