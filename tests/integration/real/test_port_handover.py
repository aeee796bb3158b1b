# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A published port changes hands: the roles balancer and hapi on a real engine, with a real HAProxy and a stand-in for HAPI.

There is no nginx in this project: clients come to a port that HAPI publishes, as from a central nginx on another host.
What they get is asked for at that port, who has it is asked of Docker: neither by the modules' own code.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from ansible_collections.dghs.bd_fhir.plugins.modules import port_handover
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker, free_port

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[3]
APP, HAPROXY = "port-test-app", "port-test-haproxy"
RELAY = "hapi-balancer-port"
COMPOSE = """name: {name}
services:
  hapi:
    image: {app}
    environment: {{LISTEN_AFTER: "0.3", READY_AFTER: "0.5"}}
    ports: ["127.0.0.1:{port}:8080"]
    stop_grace_period: 20s
    volumes: ["./events:/events"]
    networks: [backend, front]
    healthcheck:
      test: [CMD, python3, -c, "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/actuator/health/readiness', timeout=2)"]
      interval: 1s
      timeout: 5s
      retries: 5
  database:
    image: {app}
    init: true
    command: sleep infinity
    networks: [backend]
networks:
  backend: {{}}
  front: {{}}
"""

Run = Callable[..., dict[str, Any]]


class Play(NamedTuple):
    rc: int
    changed: list[str]
    messages: list[str]
    out: str


class Site(Project):
    """A project without an nginx."""

    port = 0

    def roles(self, *steps: tuple[str, str], check: bool = False, **more: Any) -> Play:
        """Run tasks of roles with the values that the playbooks hand to them."""
        variables = {
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "preflight_project_dir": str(self.dir), "preflight_service": "hapi", "preflight_replicas": 3, "preflight_accept": ["fixed_host_port"],
            "balancer_project_dir": str(self.dir), "balancer_image": HAPROXY, "balancer_nginx_service": "", "balancer_take_ports": True,
            "balancer_check_path": "/actuator/health/readiness", "hapi_project_dir": str(self.dir), "hapi_replicas": 3,
            "hapi_port_service": RELAY, "hapi_balancer_socket": f"{self.dir}/compose.d/balancer/run/admin.sock", "hapi_entry_url": "",
            "hapi_ready_timeout": 60, "hapi_allow_interruption": True,
        }  # fmt: skip
        play = [{
            "hosts": "localhost", "connection": "local", "gather_facts": False,
            "tasks": [{"name": f"{role} {tasks}", "ansible.builtin.include_role": {"name": f"dghs.bd_fhir.{role}", "tasks_from": tasks}}
                      for role, tasks in (("preflight", "main"), *steps)],
        }]  # fmt: skip
        (self.dir.parent / "play.yml").write_text(yaml.safe_dump(play))
        (self.dir.parent / "vars.json").write_text(json.dumps({**variables, **more}))
        argv = ["ansible-playbook", "-i", "localhost,", "-e", f"@{self.dir.parent}/vars.json", *(["--check", "--diff"] if check else [])]
        done = subprocess.run([*argv, str(self.dir.parent / "play.yml")], capture_output=True, text=True, check=False,
                              env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"})  # fmt: skip
        found = json.loads(done.stdout[done.stdout.index("{"):])
        tasks = [task for item in found["plays"] for task in item["tasks"]]
        results = [(task["task"]["name"].partition(" | ")[2], host) for task in tasks for host in task["hosts"].values()]
        texts = [str(item.get("msg", "")) for _name, item in results if item.get("msg")]
        return Play(done.returncode, [name for name, item in results if item.get("changed")], texts, done.stdout)

    def scale(self, check: bool = False, **more: Any) -> Play:
        return self.roles(("balancer", "preflight"), ("hapi", "preflight"), ("balancer", "main"), ("hapi", "apply"), check=check, **more)

    def back(self, check: bool = False, **more: Any) -> Play:
        return self.roles(("hapi", "rollback"), ("balancer", "rollback"), check=check, preflight_service="", **more)

    def who(self) -> list[str]:
        """The services whose running containers publish the port."""
        out = docker("ps", "--filter", f"label=com.docker.compose.project={self.name}", "--filter", f"publish={self.port}",
                     "--format", '{{.Label "com.docker.compose.service"}}')  # fmt: skip
        return out.split()

    def ask(self, path: str = "/item/0", method: str = "GET") -> tuple[int, str]:
        """One request at the port; status 0 if there was no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        try:
            connection.request(method, path, body=b"{}" if method == "POST" else None)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers["X-Replica"] or ""
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def starts(self) -> dict[str, str]:
        ids = self.ids()
        return dict(line.split() for line in docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", *ids).splitlines())

    def posted(self) -> collections.Counter[str]:
        events = [json.loads(line) for line in (self.dir / "events/events.log").read_text().splitlines()]
        return collections.Counter(item["path"] for item in events if item["kind"] == "request" and item["method"] == "POST")

    def args(self, **more: Any) -> dict[str, Any]:
        locks = str(self.dir.parent / "locks")
        return {"project_dir": str(self.dir), "service": RELAY, "holder": "hapi", "lock_dir": locks, "stop_timeout": 20, **more}


class Sent(NamedTuple):
    begun: float
    ended: float
    method: str
    path: str
    status: int


class Load:
    """Reads and writes at the port, each a connection of its own."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.sent: list[Sent] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.sent) > 20)
        return self

    def __exit__(self, *dummy: object) -> None:
        now = time.time()
        with contextlib.suppress(AssertionError):
            wait_for(lambda: len([item for item in list(self.sent) if item.begun > now and item.status in (200, 201)]) > 20)
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, worker: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            method = "POST" if number % 2 else "GET"
            path = f"/slow/0.5/{self.name}-{worker}-{number}" if number % 30 == 1 else f"/item/{self.name}-{worker}-{number}"
            begun = time.time()
            status, _replica = self.site.ask(path, method)
            self.sent.append(Sent(begun, time.time(), method, path, status))
            time.sleep(0.02)

    def failed(self) -> list[Sent]:
        return [item for item in self.sent if item.status not in (200, 201)]

    def gap(self) -> float:
        """Seconds between the first and the last failure: all of them are in it."""
        failed = self.failed()
        return max(item.ended for item in failed) - min(item.begun for item in failed) if failed else 0.0

    def kept(self) -> None:
        """Every acknowledged write arrived, and none twice."""
        posted = self.site.posted()
        assert {path: count for path, count in posts(posted, self.name).items() if count != 1} == {}
        assert {item.path for item in self.sent if item.method == "POST" and item.status == 201} - set(posted) == set()


def posts(posted: collections.Counter[str], name: str) -> dict[str, int]:
    return {path: count for path, count in posted.items() if f"/{name}-" in path}


def wait_for(predicate: Callable[[], Any], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def images() -> None:
    docker("build", "-q", "--build-arg", f"BASE_IMAGE={IMAGE}", "-t", APP, str(ROOT / "tests/integration/real/compose_rollout"))
    docker("build", "-q", "--build-arg", f"BASE_IMAGE={IMAGE}", "-t", HAPROXY, str(ROOT / "tests/lab/images/haproxy"))


@pytest.fixture(scope="module")
def site(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    item = Site(tmp_path_factory.mktemp("port") / "site", "port")
    item.port = free_port()
    (item.dir / "events").mkdir(parents=True)
    (item.dir / "events").chmod(0o777)
    item.write("docker-compose.yml", COMPOSE.format(name=item.name, app=APP, port=item.port), 0o644)
    item.write(".env", "")
    try:
        item.compose("up", "-d")
        wait_for(lambda: item.ask()[0] == 200)
        yield item
    finally:
        item.remove()
        shutil.rmtree(_change.directory_of(item.name), ignore_errors=True)


# --- one story, each chapter standing on the one before ------------------------------------------------------------------


def test_a_dry_run_and_a_refusal_change_nothing(site: Site) -> None:
    before = site.starts()
    told = site.scale(check=True)
    assert told.rc == 0, told.out[-3000:]
    assert any(f"Port 127.0.0.1:{site.port} changes hands" in text and "at most" in text for text in told.messages), told.messages[-4:]
    assert "Hand the port over" in told.changed
    refused = site.scale(hapi_allow_interruption=False)
    assert refused.rc != 0
    assert any("Nothing was changed" in text and "hapi_allow_interruption=true" in text for text in refused.messages), refused.messages[-4:]
    assert site.starts() == before
    assert not (site.dir / "compose.d").exists()
    assert site.who() == ["hapi"]


def test_the_port_changes_hands_under_load(site: Site) -> None:
    first = site.ids("hapi")
    with Load(site, "over") as load:
        done = site.scale()
    assert done.rc == 0, done.messages
    assert site.who() == [RELAY]
    assert len(site.ids("hapi")) == 3
    assert not set(first) & set(site.ids("hapi"))
    load.kept()
    # The stop of the old replica, its slow request of half a second included, and the start of the new owner of the port.
    assert load.failed(), "nothing failed: the load did not see the port change hands, and proves nothing"
    assert load.gap() < 15, load.failed()
    print(f"handed over: {len(load.sent)} requests, {len(load.failed())} refused within {load.gap():.2f} s")
    assert len({site.ask()[1] for _number in range(60)}) == 3


@pytest.mark.full
def test_the_state_is_kept(site: Site) -> None:
    before = site.starts()
    # Forgotten in a later run, the port stays where it is answered.
    again = site.scale(balancer_take_ports=False, hapi_port_service="")
    assert (again.rc, again.changed) == (0, []), again.messages[-4:]
    site.compose("up", "-d")
    assert site.starts() == before
    assert site.who() == [RELAY]


@pytest.mark.full
def test_a_balancer_that_is_replaced_is_waited_for(site: Site) -> None:
    before = site.ids("hapi-balancer")
    with Load(site, "wait") as load:
        site.compose("up", "-d", "--no-deps", "--force-recreate", "hapi-balancer")
        wait_for(lambda: site.ask()[0] == 200)
    assert site.ids("hapi-balancer") != before
    assert load.failed() == []
    load.kept()


@pytest.mark.full
def test_what_has_the_port_is_replaced_with_consent_and_configured_without_a_failed_request(site: Site) -> None:
    assert site.scale().changed == []
    told = site.scale(check=True)
    assert (told.rc, told.changed) == (0, [])
    before = site.ids(RELAY)
    refused = site.scale(balancer_memory_limit="200m")
    assert refused.rc != 0
    assert site.ids(RELAY) == before
    done = site.scale(balancer_memory_limit="200m", balancer_allow_interruption=True)
    assert done.rc == 0, done.messages[-4:]
    assert site.ids(RELAY) != before
    assert site.who() == [RELAY]
    with Load(site, "load") as load:
        done = site.scale(balancer_memory_limit="200m", balancer_request_timeout=90)
    assert "Make what has the port run its configuration" in done.changed, done.messages[-4:]
    assert load.failed() == []


@pytest.mark.full
def test_a_way_back_that_fails_leaves_the_port_where_it_answers(site: Site) -> None:
    """The owner's own HAPI can't start any more, at an address that the host lost: what has the port is put back."""
    owners = site.dir / "docker-compose.yml"
    good = owners.read_text()
    owners.write_text(good.replace('"127.0.0.1:', '"203.0.113.9:'))
    try:
        done = site.back()
    finally:
        owners.write_text(good)
    assert done.rc != 0
    assert any("has the port again, and the fragment is back" in text for text in done.messages), done.messages[-4:]
    assert site.who() == [RELAY]
    assert site.ask()[0] == 200
    assert "hapi.yml" in (site.dir / ".env").read_text()


def test_the_port_goes_back_under_load(site: Site) -> None:
    refused = site.back(hapi_allow_interruption=False)
    assert refused.rc != 0
    assert site.who() == [RELAY]
    with Load(site, "back") as load:
        done = site.back()
    assert done.rc == 0, done.messages
    assert site.who() == ["hapi"]
    assert len(site.ids("hapi")) == 1
    assert sorted(path.name for path in site.dir.iterdir()) == [".env", "docker-compose.yml", "events"]
    assert (site.dir / ".env").read_bytes() == b""
    load.kept()
    assert load.failed()
    assert load.gap() < 30, load.failed()
    before = site.starts()
    assert site.back().changed == []
    site.compose("up", "-d")
    assert site.starts() == before
    assert site.ask()[0] == 200


# --- the module ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(site: Site) -> Iterator[Site]:
    """HAPI has the port; the compose files already say that another service shall have it, and it answers at /item/0."""
    (site.dir / "fragment.yml").write_text(yaml.safe_dump({"services": {
        RELAY: {"image": APP, "ports": [f"127.0.0.1:{site.port}:8080"], "environment": {"LISTEN_AFTER": "0", "READY_AFTER": "0"}, "scale": 1,
                "stop_grace_period": "2s", "networks": ["front"]}}}))  # fmt: skip
    site.compose("up", "-d", "--force-recreate", "hapi")
    wait_for(lambda: site.ask()[0] == 200)
    site.write(".env", f"COMPOSE_FILE={site.dir}/docker-compose.yml:{site.dir}/fragment.yml\n")
    yield site
    site.write(".env", "")
    site.compose("up", "-d", "--remove-orphans", check=False)
    (site.dir / "fragment.yml").unlink()


def test_create_again_change_again_remove_again(ready: Site, run: Run) -> None:
    def step(changed: bool, **more: Any) -> dict[str, Any]:
        truth = ready.starts()
        told = run(port_handover, True, **ready.args(**more))
        assert ready.starts() == truth
        found = run(port_handover, **ready.args(**more))
        assert (told["rc"], found["rc"]) == (0, 0), found
        assert told.keys() == found.keys()
        for result in (told, found):
            assert result["changed"] is changed
            assert (result["diff"]["before"] != result["diff"]["after"]) is changed
        same = ("ports", "holders", "interruption", "diff")
        assert [told[key] for key in same] == [found[key] for key in same]
        return found

    holder = docker("inspect", "--format", "{{.Name}}", *ready.ids("hapi")).strip().lstrip("/")
    step(False, if_free=True)
    # Without consent it is a finding in a dry run, and refused in a real one.
    told = run(port_handover, True, **ready.args())
    assert ([item["id"] for item in told["findings"]], told["rc"]) == (["interruption_not_allowed"], 0)
    refused = run(port_handover, **ready.args())
    assert refused["rc"] == 1
    assert "nobody answers there for up to 40 s" in refused["msg"]
    assert ready.who() == ["hapi"]
    found = step(True, allow_interruption=True, path="/item/0")
    assert (found["holders"], found["ports"], found["interruption"]) == ([holder], [f"127.0.0.1:{ready.port}"], 40)
    assert 0 < found["interrupted_seconds"] < 40
    assert ready.who() == [RELAY]
    assert ready.ids("hapi") == []
    step(False, allow_interruption=True)
    step(True, state="released", allow_interruption=True)
    assert ready.who() == []
    step(False, state="released", allow_interruption=True)
    # Nobody has it now: no consent is needed to have it answer again.
    step(True)
    wait_for(lambda: ready.ask()[0] == 200)
    assert run(port_handover, **ready.args(state="released"))["rc"] == 1
    step(True, state="released", allow_interruption=True)


@pytest.mark.parametrize("path", ["/nowhere-else", "start"])
def test_a_successor_that_does_not_answer_gives_the_port_back(ready: Site, run: Run, path: str) -> None:
    before = ready.ids("hapi")
    fragment = yaml.safe_load((ready.dir / "fragment.yml").read_text())
    if path == "start":
        fragment["services"][RELAY]["command"] = ["/no/such/program"]
    else:
        fragment["services"][RELAY]["environment"]["READY_AFTER"] = "600"
    (ready.dir / "fragment.yml").write_text(yaml.safe_dump(fragment))
    found = run(port_handover, **ready.args(allow_interruption=True, path="/actuator/health/readiness", ready_timeout=2))
    assert found["rc"] == 1
    assert "was started again and has the port" in found["msg"]
    assert ready.who() == ["hapi"]
    assert ready.ids("hapi") == before
    wait_for(lambda: ready.ask()[0] == 200)


def test_somebody_elses_port_is_refused_before_anything_stops(ready: Site, run: Run) -> None:
    docker("stop", "-t", "1", *ready.ids("hapi"))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", ready.port))
        other.listen()
        found = run(port_handover, **ready.args())
    assert found["rc"] == 1
    assert f"(pid {os.getpid()}) on 127.0.0.1:{ready.port}" in found["findings"][0]["found"]
    name = f"{ready.name}-other"
    docker("run", "-d", "--rm", "--name", name, "-p", f"{ready.port}:1", IMAGE, "sleep", "100")
    try:
        found = run(port_handover, **ready.args())
    finally:
        docker("rm", "-f", name)
    assert [item["id"] for item in found["findings"]] == ["port_taken"]
    assert name in found["findings"][0]["found"]
    assert run(port_handover, **ready.args())["rc"] == 0


def test_a_kill_between_stop_and_start_is_made_good_at_once(ready: Site, run: Run) -> None:
    """The module is killed in the moment in which nobody has the port."""
    holder = ready.ids("hapi")
    params = {**ready.args(allow_interruption=True), "_ansible_check_mode": False}
    process = subprocess.Popen([sys.executable, "-m", "ansible_collections.dghs.bd_fhir.plugins.modules.port_handover"], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                               env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)})  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": params}).encode())
    process.stdin.close()
    wait_for(lambda: docker("inspect", "--format", "{{.State.Running}}", *holder).strip() == "false")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = run(port_handover, **ready.args(if_free=True))
    assert found["rc"] == 0, found
    assert ready.who() == [RELAY]
    wait_for(lambda: ready.ask()[0] == 200)


# --- what the roles refuse -------------------------------------------------------------------------------------------------


def test_what_cannot_be_taken_over_is_refused_before_the_first_change(site: Site, tmp_path: Path) -> None:
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "range": ({"ports": ["8080-8085->8080/tcp"]}, "8080-8085->8080/tcp cannot be taken over"),
        "udp": ({"ports": ["8080->8080/tcp", "8080->8080/udp"]}, "8080->8080/udp cannot be taken over"),
        "debugger": ({"ports": ["8080->8080/tcp", "5005->5005/tcp"]}, "5005->5005/tcp cannot be taken over"),
        "nothing": ({"ports": []}, "hapi publishes no port"),
        "not asked": ({"ports": ["8080->8080/tcp"], "take": False}, "Set balancer_take_ports=true"),
    }
    facts = {"project": {"name": site.name}, "networks": {"front": {"internal": False}}}
    tasks = [{
        "block": [{"ansible.builtin.include_role": {"name": "dghs.bd_fhir.balancer", "tasks_from": "preflight"}, "vars": {
            "balancer_take_ports": case.get("take", True), "balancer_nginx_service": "", "balancer_image": HAPROXY,
            "preflight_deployment": {**facts, "services": {"hapi": {"ports": case["ports"], "networks": ["front"]}}}}}],
        "rescue": [{"ansible.builtin.copy": {"dest": f"{tmp_path}/{name}", "content": "{{ ansible_failed_result.msg }}"}}],
    } for name, (case, _text) in cases.items()]  # fmt: skip
    play = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks,
             "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}}]  # fmt: skip
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    done = subprocess.run(["ansible-playbook", "-i", "localhost,", str(tmp_path / "play.yml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    for name, (_case, text) in cases.items():
        assert (tmp_path / name).exists(), f"{name} was not refused"
        said = " ".join((tmp_path / name).read_text().split())
        assert text in said
        assert said.startswith("Nothing was changed.")
