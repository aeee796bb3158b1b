# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the modules run: from cron, past a Docker socket elsewhere, by a user who may not. And the owner's narrower commands."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.modules import compose_fragment, deployment_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker

pytestmark = pytest.mark.engine
Run = Callable[..., dict[str, Any]]

SOCKET = "/var/run/docker.sock"
# As Debian's cron starts a job, less HOME, which some schedulers do not set either.
CRON = {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "LANG": "C"}


def site(project: Project) -> None:
    project.write(".env", "PW='pa$sw0rd'\n")
    project.write("docker-compose.yml", f"""name: {project.name}
services:
  web:
    image: {IMAGE}
    command: [sleep, infinity]
    init: true
    environment: {{PW: '${{PW}}'}}
    healthcheck: {{test: [CMD, "true"], interval: 1s, start_period: 1s}}
  other:
    image: {IMAGE}
    command: [sleep, infinity]
    init: true
""")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    item = Project(tmp_path / "site", "rev")
    item.dir.mkdir()
    yield item
    item.remove()


def module(name: str, environment: dict[str, str], user: int | None = None, check: bool = False, **args: Any) -> dict[str, Any]:
    """Run a module as Ansible starts it on a host: a process of its own, in this environment, without a terminal."""
    # After the imports: the Python environment of the tests may lie where nobody else can read.
    become = "" if user is None else f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
    text = (f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}\n"
            "from ansible.module_utils.testing import patch_module_args\n"
            "from ansible.module_utils._internal._json._profiles import _module_legacy_c2m, _module_legacy_m2c\n"
            f"import encodings.ascii\nfrom ansible_collections.dghs.bd_fhir.plugins.modules import {name}\n{become}"
            f"with patch_module_args({dict(args, _ansible_check_mode=check)!r}): {name}.main()\n")
    done = subprocess.run([sys.executable, "-"], input=text, env=environment, capture_output=True, text=True, check=False, start_new_session=True,
                          cwd="/")
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    result["rc"] = done.returncode
    return result


def severe(found: dict[str, Any]) -> list[str]:
    return [item["id"] for item in found["findings"] if item["severity"] == "error"]


# -- case 22


def test_case_22_the_owners_no_deps_up_keeps_the_scaled_count(project: Project, run: Run) -> None:
    """`up -d --no-deps hapi`, as the roadmap's upgrade does it; without the fragment it would leave one."""
    site(project)
    project.compose("up", "-d")
    run(compose_fragment, project_dir=str(project.dir), name="hapi", content="services:\n  web:\n    scale: 3\n")
    project.compose("up", "-d")
    three = project.ids("web")
    assert len(three) == 3
    project.compose("up", "-d", "--no-deps", "web")
    assert project.ids("web") == three
    # And it can fail: past the fragment the same command leaves one.
    project.compose("-f", "docker-compose.yml", "up", "-d", "--no-deps", "web")
    assert len(project.ids("web")) == 1


# -- case 40


def test_case_40_without_terminal_home_and_much_of_a_path(project: Project) -> None:
    site(project)
    project.compose("up", "-d", "--wait")
    found = module("deployment_info", CRON, project_dir=str(project.dir), scale_service="web", scale_replicas=2)
    assert found["rc"] == 0, found
    assert severe(found) == []
    assert len(found["deployment"]["services"]["web"]["replicas"]) == 1
    args = {"project_dir": str(project.dir), "service": "web", "replicas": 2, "steps": 0, "settle": 0, "stop_timeout": 5, "drain_timeout": 1,
            "lock_dir": str(project.dir / "lock")}
    plan = module("compose_rollout", CRON, check=True, **args)
    assert [step["action"] for step in plan["plan"]] == ["start"]
    done = module("compose_rollout", CRON, **args)
    assert (done["rc"], done["changed"]) == (0, True), done
    assert len(project.ids("web")) == 2
    set_name = module("env_file", CRON, path=str(project.dir / ".env"), values={"NEW": "a b$c"}, guard_project_dir=str(project.dir))
    assert (set_name["rc"], set_name["validated_by"]) == (0, "compose"), set_name


def test_case_40_the_exit_code_is_kept_and_the_reason_said(project: Project) -> None:
    site(project)
    nowhere = {**CRON, "PATH": "/nonexistent"}
    found = module("deployment_info", nowhere, project_dir=str(project.dir))
    assert (found["rc"], severe(found)) == (0, ["docker_missing"])
    failed = module("deployment_info", nowhere, project_dir=str(project.dir), fail_on=["error"])
    assert failed["rc"] == 1
    rolled = module("compose_rollout", nowhere, project_dir=str(project.dir), service="web", replicas=1, lock_dir=str(project.dir / "lock"))
    assert rolled["rc"] == 1
    assert "docker command was not found" in rolled["msg"]


# -- case 138


class Relay:
    """A Docker socket at another path, as a root-less engine has it; counts who came through."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        path.chmod(0o666)
        self._server.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._server.accept()[0]
            except OSError:
                return
            self.count += 1
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            far.connect(SOCKET)
            for one, two in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(one, two), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    item = Relay(tmp_path / "docker.sock")
    yield item
    item.close()


@pytest.mark.parametrize("by", ["DOCKER_HOST", "context"])
def test_case_138_an_engine_behind_another_socket(project: Project, relay: Relay, tmp_path: Path, by: str) -> None:
    """A root-less engine is named by DOCKER_HOST or by a context of the user; both are honoured, in reading and in writing."""
    site(project)
    project.compose("up", "-d", "--wait")
    where = f"unix://{tmp_path}/docker.sock"
    environment = {**CRON, "DOCKER_HOST": where}
    if by == "context":
        settings = tmp_path / "settings"
        settings.mkdir()
        # Compose may be a plugin of this machine's user, which another settings folder would hide.
        (settings / "cli-plugins").symlink_to(Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "cli-plugins")
        environment = {**CRON, "DOCKER_CONFIG": str(settings)}
        for words in (["create", "rootless", "--docker", f"host={where}"], ["use", "rootless"]):
            subprocess.run(["docker", "context", *words], env={**environment, "PATH": os.environ["PATH"]}, capture_output=True, check=True)
    found = module("deployment_info", environment, project_dir=str(project.dir))
    assert (found["rc"], severe(found)) == (0, []), found
    assert relay.count > 0
    seen = relay.count
    rolled = module("compose_rollout", environment, project_dir=str(project.dir), service="web", replicas=2, settle=0,
                    lock_dir=str(project.dir / "lock"))
    assert rolled["rc"] == 0, rolled
    assert relay.count > seen
    assert len(project.ids("web")) == 2


def test_case_138_a_socket_that_nobody_answers(project: Project, tmp_path: Path) -> None:
    site(project)
    found = module("deployment_info", {**CRON, "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}, project_dir=str(project.dir))
    assert (found["rc"], severe(found)) == (0, ["docker_unreachable"])
    assert str(tmp_path / "nobody.sock") in str(found["findings"])


def test_case_138_a_user_who_may_neither_read_nor_ask(project: Project, run: Run) -> None:
    """Neither in the group docker nor the owner of .env: both are said at once, with what to do, and nothing breaks."""
    assert os.geteuid() == 0, "it takes root to become somebody else"
    site(project)
    project.compose("up", "-d")
    readable = Path("/tmp") / project.name
    shutil.copytree(project.dir, readable)
    readable.chmod(0o755)
    (readable / ".env").chmod(0o600)
    try:
        found = module("deployment_info", CRON, user=65534, project_dir=str(readable))
        assert found["rc"] == 0
        assert {"docker_unreachable", "env_file_unreadable"} <= set(severe(found))
        hints = " ".join(item["hint"] for item in found["findings"])
        assert "become" in hints
        assert "group docker" in hints
        assert "sw0rd" not in json.dumps(found)
    finally:
        shutil.rmtree(readable)
    assert docker("ps", "-q", "--filter", f"label=com.docker.compose.project={project.name}").strip()
    assert run(deployment_info, project_dir=str(project.dir))["deployment"]["exists"]
