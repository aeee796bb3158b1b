# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""compose_fragment against real projects, the owner's plain commands being the judge."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _compose, _fragments
from ansible_collections.dghs.bd_fhir.plugins.modules import compose_fragment
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker

pytestmark = pytest.mark.engine
Run = Callable[..., dict[str, Any]]

SCALE = "services:\n  web:\n    scale: 2\n"


def site(project: Project, web: str = "labels: {a: b}", env: str = "PW='x'\n# end") -> None:
    project.write(".env", env)
    project.write(
        "docker-compose.yml",
        f"""name: {project.name}
services:
  web:
    image: {IMAGE}
    command: [sleep, infinity]
    {web}
  two:
    image: {IMAGE}
    command: [sleep, infinity]
    volumes: ["./:/site:ro"]
""",
    )
    project.write("docker-compose.override.yml", "services:\n  two:\n    environment: {PW: '${PW}'}\n")


def args(project: Project, **more: Any) -> dict[str, Any]:
    return {"project_dir": str(project.dir), "name": "hapi", "content": SCALE, **more}


def started(project: Project) -> dict[str, str]:
    return {item: docker("inspect", item, "--format", "{{.State.StartedAt}}") for item in project.ids()}


def test_check_real_again_and_back(project: Project, run: Run) -> None:
    """Also case 31: nothing that runs is recreated, neither by the first `up` nor by a second."""
    site(project)
    original = (project.dir / ".env").read_bytes()
    project.compose("up", "-d")
    first = started(project)

    predicted = run(compose_fragment, True, **args(project))
    assert predicted["changed"]
    assert predicted["validated"]
    assert predicted["hash_changes"] == []
    assert (project.dir / ".env").read_bytes() == original
    assert not (project.dir / "compose.d").exists()
    done = run(compose_fragment, **args(project))
    for key in ("changed", "path", "compose_files", "hash_changes", "validated", "diff"):
        assert predicted[key] == done[key]
    files = [str(project.dir / name) for name in ("docker-compose.yml", "docker-compose.override.yml", "compose.d/hapi.yml")]
    assert done["compose_files"] == files
    assert (project.dir / ".env").stat().st_mode & 0o777 == 0o600
    for check in (True, False):
        assert not run(compose_fragment, check, **args(project))["changed"]

    project.compose("up", "-d")
    assert len(project.ids("web")) == 2
    assert project.label("two", "com.docker.compose.project.config_files") == ",".join(files[:2])
    assert first.items() <= started(project).items()
    both = started(project)
    project.compose("up", "-d")
    assert started(project) == both
    # From another directory too.
    docker("compose", "--project-directory", str(project.dir), "--env-file", str(project.dir / ".env"), "up", "-d", cwd=project.dir.parent)
    assert started(project) == both

    absent = {"project_dir": str(project.dir), "name": "hapi", "state": "absent"}
    assert run(compose_fragment, True, **absent)["changed"]
    assert run(compose_fragment, **absent)["compose_files"] == files[:2]
    assert (project.dir / ".env").read_bytes() == original
    assert not (project.dir / "compose.d").exists()
    assert not run(compose_fragment, **absent)["changed"]
    project.compose("up", "-d")
    assert len(project.ids("web")) == 1
    assert project.ids("two")[0] in first


def test_two_fragments_and_changed_content(project: Project, run: Run) -> None:
    site(project)
    run(compose_fragment, **args(project))
    more = {"project_dir": str(project.dir), "name": "a-redis", "content": f"services:\n  redis:\n    image: {IMAGE}\n"}
    assert "redis: the service is new" in run(compose_fragment, **more)["msg"]
    done = run(compose_fragment, **more, allow_changed=["redis"])
    assert [item["service"] for item in done["hash_changes"]] == ["redis"]
    assert [path.rsplit("/", 1)[1] for path in done["compose_files"][2:]] == ["a-redis.yml", "hapi.yml"]
    changed = run(compose_fragment, **args(project, content=SCALE.replace("2", "3")))
    assert changed["changed"]
    assert changed["diff"][1]["before"] == changed["diff"][1]["after"]
    assert run(compose_fragment, project_dir=str(project.dir), name="a-redis", state="absent")["failed"]
    run(compose_fragment, project_dir=str(project.dir), name="a-redis", state="absent", allow_changed=["redis"])
    run(compose_fragment, project_dir=str(project.dir), name="hapi", state="absent")
    assert (project.dir / ".env").read_text() == "PW='x'\n# end"


def test_case_23_a_container_name_is_reset(project: Project, run: Run) -> None:
    """Refused while hapi may not change; with leave, the name is gone and the rest is found by its labels (case 24)."""
    site(project, f"container_name: {project.name}-fixed")
    project.compose("up", "-d")
    reset = SCALE + "    container_name: !reset null\n"
    refused = run(compose_fragment, **args(project, content=reset))
    assert refused["failed"]
    assert "web: changes in container_name" in refused["msg"]
    assert "two" not in refused["msg"]
    assert not (project.dir / "compose.d").exists()
    two = project.ids("two")
    assert [item["service"] for item in run(compose_fragment, **args(project, content=reset, allow_changed=["web"]))["hash_changes"]] == ["web"]
    project.compose("up", "-d")
    assert len(project.ids("web")) == 2
    assert project.ids("two") == two


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("services:\n  web:\n    scall: 2\n", "scall"),
        ("services: [\n", "compose.d/hapi.yml"),
        ("services:\n  web:\n    labels: {pw: 't0psecret ${PW:?missing'}\n", "Nothing was changed"),
        ("services:\n  web:\n    deploy: {replicas: 3}\n    scale: 2\n", "deploy.replicas"),
    ],
)
def test_bad_content_is_refused_with_composes_answer(project: Project, run: Run, content: str, words: str) -> None:
    site(project)
    before = sorted(path.name for path in project.dir.iterdir())
    for check in (True, False):
        found = run(compose_fragment, check, **args(project, content=content))
        assert found["failed"]
        assert words in found["msg"]
        assert "shadow-" not in found["msg"]
    assert sorted(path.name for path in project.dir.iterdir()) == before


def test_env_file_users_are_named_before_env_is_touched(project: Project, run: Run) -> None:
    """A service that reads .env gets COMPOSE_FILE as a variable too, and would be recreated."""
    site(project, "env_file: .env")
    found = run(compose_fragment, **args(project))
    assert found["failed"]
    assert "web: changes in environment (COMPOSE_FILE)" in found["msg"]
    assert "docker-compose.yml:6" in found["msg"]
    assert (project.dir / ".env").read_text() == "PW='x'\n# end"


def test_a_kill_after_the_first_write_is_healed(project: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    site(project)
    original = (project.dir / ".env").read_bytes()
    real = compose_fragment.replace_file

    def killed(path: str, *rest: Any) -> None:
        if path.endswith(".env"):
            raise KeyboardInterrupt
        real(path, *rest)

    monkeypatch.setattr(compose_fragment, "replace_file", killed)
    with pytest.raises(KeyboardInterrupt):
        compose_fragment_run(project)
    assert (project.dir / "compose.d/hapi.yml").exists()
    assert (project.dir / ".env").read_bytes() == original
    project.compose("config", "-q")
    monkeypatch.undo()
    assert run(compose_fragment, **args(project))["changed"]
    assert not run(compose_fragment, **args(project))["changed"]

    real_unlink = os.unlink

    def killed_unlink(path: str, **more: Any) -> None:
        if path == str(project.dir / "compose.d/hapi.yml"):
            raise KeyboardInterrupt
        real_unlink(path, **more)

    monkeypatch.setattr(compose_fragment.os, "unlink", killed_unlink)
    with pytest.raises(KeyboardInterrupt):
        compose_fragment_run(project, state="absent")
    monkeypatch.undo()
    assert (project.dir / "compose.d/hapi.yml").exists()
    assert (project.dir / ".env").read_bytes() == original
    assert run(compose_fragment, project_dir=str(project.dir), name="hapi", state="absent")["changed"]
    assert not (project.dir / "compose.d").exists()


def compose_fragment_run(project: Project, **more: Any) -> None:
    from ansible.module_utils.testing import patch_module_args

    with patch_module_args(args(project, **more)):
        compose_fragment.main()


def test_a_lost_fragment_is_healed_by_a_rerun(project: Project, run: Run) -> None:
    """Somebody removed the file by hand: nothing of Compose works any more, and the same call brings it back."""
    site(project)
    run(compose_fragment, **args(project))
    (project.dir / "compose.d/hapi.yml").unlink()
    with pytest.raises(AssertionError):
        project.compose("config", "-q")
    assert run(compose_fragment, **args(project))["changed"]
    project.compose("config", "-q")
    (project.dir / "compose.d/hapi.yml").unlink()
    assert run(compose_fragment, project_dir=str(project.dir), name="hapi", state="absent")["changed"]
    assert (project.dir / ".env").read_text() == "PW='x'\n# end"


def test_the_owners_own_file_is_not_overwritten(project: Project, run: Run) -> None:
    site(project)
    project.write("compose.d/hapi.yml", "services: {}\n")
    found = run(compose_fragment, **args(project))
    assert found["failed"]
    assert "not written by this module" in found["msg"]
    assert (project.dir / "compose.d/hapi.yml").read_text() == "services: {}\n"


def test_the_owners_compose_file_line_with_its_separator(project: Project, run: Run) -> None:
    env = "COMPOSE_PATH_SEPARATOR=,\nCOMPOSE_FILE='docker-compose.yml,more.yml' # mine\nPW=x\n"
    site(project, env=env)
    project.write("more.yml", "services:\n  two:\n    labels: {more: '1'}\n")
    assert len(run(compose_fragment, **args(project))["compose_files"]) == 3
    project.compose("up", "-d")
    assert len(project.ids("web")) == 2
    assert project.label("two", "more") == "1"
    # Setting COMPOSE_FILE never loaded the override file, and must not start to.
    assert "PW=x" not in docker("inspect", project.ids("two")[0])
    run(compose_fragment, project_dir=str(project.dir), name="hapi", state="absent")
    assert (project.dir / ".env").read_text() == env


def test_no_env_file_at_all(project: Project, run: Run) -> None:
    site(project)
    (project.dir / ".env").unlink()
    assert run(compose_fragment, **args(project))["changed"]
    assert (project.dir / ".env").stat().st_mode & 0o777 == 0o600
    run(compose_fragment, project_dir=str(project.dir), name="hapi", state="absent")
    assert not (project.dir / ".env").exists()


def test_a_compose_that_ignores_the_env_file_is_refused_before_a_change(project: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 2.27.1 does (docker/compose#11856, case 26)."""
    site(project)
    monkeypatch.setattr(_compose.Docker, "ignored_in_env_file", lambda self: ["COMPOSE_FILE", "COMPOSE_PROFILES"])
    found = run(compose_fragment, **args(project))
    assert found["failed"]
    assert "2.27.1" in found["msg"]
    assert (project.dir / ".env").read_text() == "PW='x'\n# end"
    assert not (project.dir / "compose.d").exists()


def test_read_back_goes_red(project: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong idea of what Compose loads is noticed by asking it."""
    site(project)
    monkeypatch.setattr(_fragments._dotenv, "set_value", lambda text, name, value, comment=None: text + "\n#" + name + "=" + value + "\n")
    found = run(compose_fragment, **args(project))
    assert found["failed"]
