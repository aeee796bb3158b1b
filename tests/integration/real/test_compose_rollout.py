# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""compose_rollout against a real Docker engine, a real HAProxy and a real load.

The application is a stand-in that behaves as HAPI does where it matters here: it listens late, is ready later, closes
its listener on SIGTERM, ends its requests in flight, and writes down every request that reached it. Its log is what
tells whether a request was lost, or a POST sent twice; the client's own view is the other half.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable, Optional

import pytest

pytestmark = pytest.mark.engine

ASSETS = pathlib.Path(__file__).parent / "compose_rollout"
IMAGE = "rol-test"
COLLECTIONS = str(pathlib.Path(__file__).parents[3])
BASE_IMAGE = os.environ.get("BASE_IMAGE", "bd-fhir-lab/base:bookworm")

COMPOSE = """
services:
  hapi:
    image: rol-test:live
    environment:
      VERSION: "${VERSION}"
      LISTEN_AFTER: "${LISTEN_AFTER}"
      READY_AFTER: "${READY_AFTER}"
      CRASH_AFTER: "${CRASH_AFTER}"
      DB_PASSWORD: "${DB_PASSWORD}"
    restart: unless-stopped
    stop_grace_period: 20s
    depends_on: {other: {condition: service_started}}
    volumes: ["./events:/events"]
    networks: [backend]
    healthcheck: HEALTHCHECK
  other:
    image: rol-test:live
    init: true
    command: sleep infinity
    networks: [backend]
  lb:
    image: rol-test:live
    command: ["haproxy", "-W", "-db", "-f", "/etc/balancer/haproxy.cfg"]
    stop_grace_period: 1s
    volumes: ["./balancer:/etc/balancer:ro", "./run:/run/balancer"]
    networks: [backend]
networks:
  backend: {}
"""
HEALTHCHECK = (
    '{test: ["CMD", "python3", "-c", "import urllib.request as u;'
    "u.urlopen('http://127.0.0.1:8080/actuator/health/readiness', timeout=2)\"], interval: 1s, timeout: 3s, retries: 3}"
)
ENV = {"VERSION": "1", "LISTEN_AFTER": "1.5", "READY_AFTER": "2.5", "CRASH_AFTER": "", "DB_PASSWORD": "hush-8c1f"}


def docker(*args: str, check: bool = True) -> str:
    result = subprocess.run(["docker", *args], capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise AssertionError("docker %s: %s" % (" ".join(args), result.stderr))
    return result.stdout


class Deployment:
    """A project of its own in a directory of its own."""

    def __init__(self, root: pathlib.Path, name: str) -> None:
        self.root = root
        self.name = name
        self.env = dict(ENV)
        for directory in ("events", "run", "balancer", "locks"):
            (root / directory).mkdir()
        (root / "events").chmod(0o777)
        (root / "locks").chmod(0o700)
        shutil.copy(ASSETS / "haproxy.cfg", root / "balancer" / "haproxy.cfg")
        self.write_compose()
        self.write_env()

    def write_compose(self, healthcheck: str = HEALTHCHECK, change: Callable[[str], str] = lambda text: text) -> None:
        (self.root / "docker-compose.yml").write_text(change(COMPOSE.replace("HEALTHCHECK", healthcheck)))

    def write_env(self, **values: str) -> None:
        self.env.update(values)
        (self.root / ".env").write_text("".join("%s=%s\n" % item for item in self.env.items()))

    def compose(self, *args: str) -> str:
        result = subprocess.run(
            ["docker", "compose", "-p", self.name, "--env-file", ".env", *args],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    def up(self, replicas: int = 1) -> None:
        """Start as the owner would, and wait until the balancer has all replicas."""
        self.compose("up", "-d", "--scale", "hapi=%d" % replicas)
        wait_for(lambda: len(self.up_servers()) == replicas, 30)
        wait_for(
            lambda: all(
                item["State"].get("Health", {}).get("Status") in (None, "healthy") for item in self.containers()
            ),
            30,
        )

    def containers(self, service: str = "hapi") -> list[dict[str, Any]]:
        ids = docker(
            "ps",
            "-aq",
            "--filter",
            "label=com.docker.compose.project=%s" % self.name,
            "--filter",
            "label=com.docker.compose.service=%s" % service,
        ).split()
        # One that is just being made or removed may be listed, but not found: then it is left out.
        return json.loads(docker("container", "inspect", *ids, check=False)) if ids else []

    def ids(self, service: str = "hapi") -> set[str]:
        return {item["Id"] for item in self.containers(service)}

    def starts(self, service: str = "hapi") -> dict[str, str]:
        return {item["Id"]: item["State"]["StartedAt"] for item in self.containers(service)}

    def images(self) -> set[str]:
        return {item["Image"] for item in self.containers()}

    def address(self, service: str) -> str:
        networks = self.containers(service)[0]["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    def haproxy(self, command: str) -> str:
        """Speak to the runtime API without the collection's own client."""
        import socket

        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.root / "run" / "haproxy.sock"))
            connection.sendall((command + "\n").encode())
            answer = b""
            while True:
                part = connection.recv(65536)
                if not part:
                    return answer.decode()
                answer += part

    def slots(self) -> dict[str, tuple[str, int, int]]:
        """Slot -> address, operational state, administrative state; running only counts once a check has passed."""
        found = {}
        try:
            answer = self.haproxy("show servers state hapi")
        except OSError:
            return {}
        for line in answer.splitlines()[2:]:
            fields = line.split()
            if len(fields) > 10:
                # Health 3 is full with rise 2 and fall 2; a slot that just got an address is "running" with 2.
                running = int(fields[5]) if fields[12] == "3" else 0
                found[fields[3]] = (fields[4], running, int(fields[6]))
        return found

    def up_servers(self) -> list[str]:
        return [name for name, (address, state, admin) in self.slots().items() if state == 2 and admin == 0]

    def drained(self) -> list[str]:
        return [name for name, (address, state, admin) in self.slots().items() if admin & 8]

    def events(self) -> list[dict[str, Any]]:
        path = self.root / "events" / "events.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def params(self, replicas: int, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = {
            "project_dir": str(self.root),
            "service": "hapi",
            "replicas": replicas,
            "balancer": {"socket": str(self.root / "run" / "haproxy.sock"), "backend": "hapi"},
            "ready_timeout": 40,
            "drain_timeout": 15,
            "stop_timeout": 20,
            "settle": 1,
            "steps": 0,
            "lock_dir": str(self.root / "locks"),
        }
        found.update(more)
        return {key: value for key, value in found.items() if value is not None}

    def start_module(self, replicas: int, check: bool = False, **more: Any) -> subprocess.Popen[str]:
        params = dict(self.params(replicas, **more), _ansible_check_mode=check, _ansible_diff=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "ansible_collections.dghs.bd_fhir.plugins.modules.compose_rollout"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)),
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": params}))
        process.stdin.close()
        process.stdin = None
        return process

    def module(self, replicas: int, check: bool = False, **more: Any) -> dict[str, Any]:
        out, err = self.start_module(replicas, check, **more).communicate(timeout=240)
        try:
            return dict(json.loads(out))
        except ValueError:
            raise AssertionError("no JSON: %s %s" % (out, err)) from None

    def roll(self, replicas: int, **more: Any) -> dict[str, Any]:
        result = self.module(replicas, **more)
        assert not result.get("failed"), result.get("msg")
        return result

    def remove(self) -> None:
        ids = docker("ps", "-aq", "--filter", "label=com.docker.compose.project=%s" % self.name).split()
        if ids:
            docker("rm", "-f", "-v", *ids)
        for network in docker(
            "network", "ls", "-q", "--filter", "label=com.docker.compose.project=%s" % self.name
        ).split():
            docker("network", "rm", network, check=False)


def wait_for(predicate: Callable[[], Any], timeout: float) -> float:
    """Wait until predicate is true; returns the seconds it took."""
    started = time.monotonic()
    while not predicate():
        assert time.monotonic() - started < timeout, "not within %g s" % timeout
        time.sleep(0.05)
    return time.monotonic() - started


class Load:
    """A steady load of reads and writes, each a connection of its own as nginx makes them by default."""

    def __init__(self, host: str, rate: int = 50, slow: float = 1.5) -> None:
        self.host = host
        self.rate = rate
        self.slow = slow
        self.answers: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        time.sleep(1)
        return self

    def __exit__(self, *dummy: object) -> None:
        time.sleep(1)
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        threads = []
        started = time.monotonic()
        number = 0
        while not self._stop.is_set():
            number += 1
            thread = threading.Thread(target=self._one, args=(number,))
            thread.start()
            threads.append(thread)
            time.sleep(max(0.0, started + number / self.rate - time.monotonic()))
        for thread in threads:
            thread.join()

    def _one(self, number: int) -> None:
        method = "POST" if number % 2 else "GET"
        path = "/slow/%g/%d" % (self.slow, number) if number % 15 == 0 else "/item/%d" % number
        begun = time.time()
        answer: dict[str, Any] = {"method": method, "path": path, "at": begun, "status": None, "replica": None}
        try:
            connection = http.client.HTTPConnection(self.host, 8080, timeout=30)
            connection.request(method, path, body=b"{}" if method == "POST" else None)
            response = connection.getresponse()
            response.read()
            answer.update(status=response.status, replica=response.getheader("X-Replica"))
            connection.close()
        except OSError as exc:
            answer["error"] = repr(exc)
        answer["seconds"] = time.time() - begun
        with self._guard:
            self.answers.append(answer)

    def bad(self) -> list[dict[str, Any]]:
        return [item for item in self.answers if item["status"] not in (200, 201)]

    def check(self, deployment: Deployment) -> None:
        """No request failed, every write arrived exactly once, and none reached a replica that was not ready."""
        assert len(self.answers) > 100
        assert self.bad() == []
        requests = [item for item in deployment.events() if item["kind"] == "request"]
        posts = collections.Counter(item["path"] for item in requests if item["method"] == "POST")
        sent = {item["path"] for item in self.answers if item["method"] == "POST"}
        assert {path: count for path, count in posts.items() if count != 1} == {}
        assert sent == set(posts)
        assert [item for item in requests if not item["ready"]] == []
        print(
            "load: %d requests, slowest %.2f s, by replica %s"
            % (
                len(self.answers),
                max(item["seconds"] for item in self.answers),
                dict(collections.Counter(item["replica"] for item in self.answers)),
            )
        )


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    docker("build", "-q", "--build-arg", "BASE_IMAGE=%s" % BASE_IMAGE, "-t", IMAGE + ":1", str(ASSETS))
    # The same program under another image id.
    subprocess.run(
        ["docker", "build", "-q", "-t", IMAGE + ":2", "-"],
        input="FROM %s:1\nLABEL release=2\n" % IMAGE,
        text=True,
        capture_output=True,
        check=True,
    )
    yield IMAGE
    docker("rmi", "-f", IMAGE + ":live", IMAGE + ":1", IMAGE + ":2", check=False)


@pytest.fixture
def deployment(image: str, tmp_path: pathlib.Path) -> Iterator[Deployment]:
    docker("tag", image + ":1", image + ":live")
    name = "rol-t%d" % (time.time_ns() // 1000000 % 100000000)
    # The name of the directory is the name of the project, as on the target.
    root = tmp_path / name
    root.mkdir()
    made = Deployment(root, name)
    try:
        yield made
    finally:
        made.remove()


def new_image() -> None:
    docker("tag", IMAGE + ":2", IMAGE + ":live")


def actions(result: dict[str, Any], key: str = "done") -> list[str]:
    return [item["action"] for item in result[key]]


def test_up_replace_down_under_load(deployment: Deployment) -> None:
    """Cases 22, 31, 35, 37: 1 to 3, another image at 3, 3 to 1, with 50 requests a second; others are not touched."""
    deployment.up(1)
    deployment.compose("up", "-d", "--no-recreate", "--scale", "other=2", "other")
    others = deployment.starts("other")
    assert len(others) == 2
    balancer = deployment.starts("lb")
    with Load(deployment.address("lb")) as load:
        first = deployment.ids()
        result = deployment.roll(3)
        assert actions(result) == ["start", "start"]
        assert result["changed"]
        assert result["remaining"] == []
        assert first < deployment.ids()
        assert len(deployment.ids()) == 3

        starts = deployment.starts()
        again = deployment.roll(3)
        assert (again["changed"], again["done"], again["plan"]) == (False, [], [])
        assert deployment.starts() == starts

        new_image()
        plan = deployment.roll(3, check=True)
        assert actions(plan, "plan") == ["start", "stop"] * 3
        assert plan["changed"]
        assert deployment.starts() == starts
        replaced = deployment.roll(3)
        assert actions(replaced) == ["start", "stop"] * 3
        assert [item["action"] for item in plan["plan"]] == actions(replaced)
        assert [item["name"] for item in plan["replicas"]] == [item["name"] for item in replaced["replicas"]]
        assert len(deployment.ids()) == 3
        assert not deployment.ids() & set(starts)
        assert len(deployment.images()) == 1
        print("replace at 3: %s" % [(item["action"], item["seconds"], item["detail"]) for item in replaced["done"]])

        down = deployment.roll(1)
        assert actions(down) == ["stop", "stop"]
        assert len(deployment.ids()) == 1
    load.check(deployment)
    assert deployment.drained() == []
    assert deployment.starts("other") == others
    assert deployment.starts("lb") == balancer
    # What was replaced got nothing after it had been told to stop.
    assert [item for item in deployment.events() if item["kind"] == "request" and item["stopping"]] == []


def test_plain_compose_under_load_loses_requests(deployment: Deployment) -> None:
    """The other way, on the same work: what the module is for, and the proof that the load would notice."""
    deployment.up(3)
    new_image()
    with Load(deployment.address("lb")) as load:
        deployment.compose("up", "-d", "--no-deps", "--scale", "hapi=3", "hapi")
        wait_for(lambda: len(deployment.up_servers()) == 3, 30)
    print("plain compose: %d of %d failed" % (len(load.bad()), len(load.answers)))
    assert len(load.bad()) > 10
    with pytest.raises(AssertionError):
        load.check(deployment)


def test_plain_up_afterwards_restarts_nothing(deployment: Deployment) -> None:
    """Case 31: the owner's own command finds the replicas as it would have made them."""
    deployment.up(1)
    deployment.roll(3)
    fragment = "services:\n  hapi:\n    scale: 3\n"
    (deployment.root / "scale.yml").write_text(fragment)
    deployment.write_env(COMPOSE_FILE="docker-compose.yml:scale.yml")
    starts = deployment.starts(), deployment.starts("other"), deployment.starts("lb")
    deployment.compose("up", "-d")
    assert (deployment.starts(), deployment.starts("other"), deployment.starts("lb")) == starts
    assert deployment.roll(3)["changed"] is False


def test_outdated_go_first(deployment: Deployment) -> None:
    """Case 32: when four shrink to three, and one to one, it is those of the old image that go."""
    deployment.up(3)
    old = deployment.ids()
    new_image()
    result = deployment.roll(3, steps=1)
    assert actions(result) == ["start"]
    assert len(deployment.ids()) == 4
    new = deployment.ids() - old
    result = deployment.roll(1)
    assert actions(result)[:3] == ["stop"] * 3
    assert deployment.ids() == new
    # A changed configuration is as outdated as a changed image.
    deployment.write_env(VERSION="2")
    result = deployment.roll(1)
    assert actions(result) == ["start", "stop"]
    assert "another configuration" in result["done"][1]["reason"]


def test_broken_image(deployment: Deployment) -> None:
    """Case 30: fails within the time limit with the last log lines; the serving set stays; a rerun the same."""
    deployment.up(3)
    starts = deployment.starts()
    deployment.write_env(CRASH_AFTER="0.5")
    with Load(deployment.address("lb")) as load:
        for _dummy in range(2):
            begun = time.monotonic()
            result = deployment.module(3)
            assert result["failed"]
            assert "exit code 3" in result["msg"]
            assert "cannot load the IG package" in result["msg"]
            assert time.monotonic() - begun < 20
            assert deployment.starts() == starts
            assert len(result["logs"]) == 1
            assert len(next(iter(result["logs"].values())).splitlines()) == 20
            assert "hush-8c1f" not in json.dumps(result)
    load.check(deployment)
    # Never ready instead of dead.
    deployment.write_env(CRASH_AFTER="", READY_AFTER="9999")
    result = deployment.module(3, ready_timeout=5)
    assert result["failed"]
    assert "not ready within 5 seconds" in result["msg"]
    assert deployment.starts() == starts
    assert deployment.drained() == []
    # The way back: the old configuration is what runs, so nothing is to do.
    deployment.write_env(READY_AFTER=ENV["READY_AFTER"])
    assert deployment.roll(3)["changed"] is False


def kill_when(deployment: Deployment, process: subprocess.Popen[str], moment: Callable[[], bool], whole: bool) -> None:
    """SIGKILL the module at a moment: alone, as an operator would, or with the docker commands it runs."""
    wait_for(lambda: moment() or process.poll() is not None, 60)
    assert process.poll() is None, "it ended before the moment came"
    if whole:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def stopping(deployment: Deployment) -> bool:
    return any(item["kind"] == "sigterm" for item in deployment.events())


@pytest.mark.parametrize(
    ("moment", "whole"),
    [
        pytest.param("creating", False, id="creating", marks=pytest.mark.full),
        pytest.param("creating", True, id="creating-with-docker", marks=pytest.mark.full),
        pytest.param("waiting", False, id="waiting", marks=pytest.mark.full),
        pytest.param("draining", False, id="draining"),
        pytest.param("stopping", False, id="stopping", marks=pytest.mark.full),
        pytest.param("stopping", True, id="stopping-with-docker", marks=pytest.mark.full),
        pytest.param("stopped", True, id="stopped", marks=pytest.mark.full),
    ],
)
def test_kill(deployment: Deployment, moment: str, whole: bool) -> None:
    """Case 34: killed at any moment, the rerun ends in the wanted state, without orphans, and nobody notices."""
    deployment.up(3)
    old = deployment.ids()
    new_image()
    moments: dict[str, Callable[[], bool]] = {
        "creating": lambda: len(deployment.ids()) == 4,
        "waiting": lambda: any(
            item["Id"] not in old and item["State"]["Status"] == "running" for item in deployment.containers()
        ),
        "draining": lambda: deployment.drained() != [],
        "stopping": lambda: stopping(deployment),
        "stopped": lambda: (
            stopping(deployment)
            and len(deployment.up_servers()) == 3
            and any(item["State"]["Status"] == "exited" for item in deployment.containers())
            or len(deployment.ids()) == 3
            and old - deployment.ids() != set()
        ),
    }
    with Load(deployment.address("lb"), rate=30) as load:
        kill_when(deployment, deployment.start_module(3), moments[moment], whole)
        print("after the kill: %d containers, drained %s" % (len(deployment.ids()), deployment.drained()))
        result = deployment.roll(3)
        assert len(deployment.ids()) == 3
        assert not deployment.ids() & old
        assert {item["State"]["Status"] for item in deployment.containers()} == {"running"}
        assert deployment.drained() == []
        assert len(deployment.up_servers()) == 3
        starts = deployment.starts()
        assert deployment.roll(3)["changed"] is False
        assert deployment.starts() == starts
    assert result["remaining"] == []
    load.check(deployment)


def test_left_in_drain(deployment: Deployment) -> None:
    """Drain belongs to the slot: one that was left so is freed, with a replica in it and without."""
    deployment.up(2)
    slots = deployment.slots()
    taken = next(name for name, item in slots.items() if item[0] != "-")
    free = next(name for name, item in slots.items() if item[0] == "-")
    for name in (taken, free):
        deployment.haproxy("set server hapi/%s state drain" % name)
    starts = deployment.starts()
    plan = deployment.roll(2, check=True)
    assert actions(plan, "plan") == ["ready", "ready"]
    assert plan["changed"]
    result = deployment.roll(2)
    assert sorted(actions(result)) == ["ready", "ready"]
    assert deployment.drained() == []
    assert deployment.starts() == starts
    assert deployment.roll(2)["changed"] is False


def test_leftovers(deployment: Deployment) -> None:
    """Containers that do not run are removed, and what they said last is told."""
    deployment.up(2)
    victim = sorted(deployment.containers(), key=lambda item: str(item["Name"]))[0]
    docker("stop", "-t", "5", victim["Id"])
    result = deployment.roll(2)
    assert actions(result) == ["remove", "start"]
    assert "listening" in result["logs"][victim["Name"].lstrip("/")]
    assert victim["Id"] not in deployment.ids()
    assert len(deployment.ids()) == 2


def test_second_run_waits_and_names_the_first(deployment: Deployment) -> None:
    """Case 135: one run at a time; who waits too long is told for whom; who waits long enough finds all done."""
    deployment.up(1)
    first = deployment.start_module(2)
    wait_for(lambda: any((deployment.root / "locks").iterdir()), 20)
    result = deployment.module(2, lock_timeout=0)
    assert result["failed"]
    assert "pid %d since" % first.pid in result["msg"], result["msg"]
    assert "compose_rollout of hapi to 2" in result["msg"]
    assert "command line:" in result["msg"]
    plan = deployment.roll(2, check=True)
    assert plan["lock_waited"] == 0
    second = deployment.roll(2, lock_timeout=60)
    out, dummy = first.communicate(timeout=60)
    assert json.loads(out)["changed"] is True
    assert second["changed"] is False
    assert second["lock_waited"] > 0.5


def test_docker_that_outlives_the_module_holds_the_lock(deployment: Deployment) -> None:
    """The module is killed in the middle of `docker stop`: the next run waits until that is over."""
    deployment.up(2)
    with Load(deployment.address("lb"), rate=20, slow=4) as load:
        process = deployment.start_module(1, drain_timeout=0)
        kill_when(deployment, process, lambda: stopping(deployment), False)
        result = deployment.module(1, lock_timeout=0)
        assert result["failed"], result
        assert "a docker command that it started has not" in result["msg"]
        assert deployment.roll(1, lock_timeout=30)["remaining"] == []
        assert len(deployment.ids()) == 1
    load.check(deployment)


def test_changed_network_is_refused(deployment: Deployment) -> None:
    """Compose stops every replica to renew a network whose definition changed: refused, and nothing was stopped."""
    deployment.up(1)
    starts = deployment.starts()
    deployment.write_compose(change=lambda text: text.replace("backend: {}", "backend: {labels: {a: b}}"))
    plan = deployment.roll(2, check=True)
    assert [item["id"] for item in plan["findings"] if item["severity"] == "error"] == ["would_touch_others"]
    result = deployment.module(2)
    assert result["failed"]
    assert "Stopped" in result["msg"]
    assert result["changed"] is False
    assert deployment.starts() == starts


def test_refused_before_the_first_change(deployment: Deployment) -> None:
    """Bad input, each refused with what was found; check mode lists the same and does not fail."""
    deployment.up(1)
    starts = deployment.starts()

    def refusal(replicas: int, **more: Any) -> tuple[list[str], str]:
        plan = deployment.module(replicas, check=True, **more)
        assert not plan.get("failed"), plan["msg"]
        result = deployment.module(replicas, **more)
        assert result["failed"]
        assert not result.get("changed")
        assert deployment.starts() == starts
        return [item["id"] for item in plan["findings"] if item["severity"] == "error"], result["msg"]

    for replicas in (0, -1, 51):
        assert "from 1 to 50" in deployment.module(replicas)["msg"]
    new_image()
    found, text = refusal(1, max_surge=0)
    assert found == ["interruption_not_allowed"]
    assert "allow_interruption" in text
    docker("rmi", IMAGE + ":live")
    found, text = refusal(2)
    assert found == ["image_missing"]
    assert "docker compose pull hapi" in text
    docker("tag", IMAGE + ":1", IMAGE + ":live")
    deployment.write_compose(change=lambda text: text.replace("  hapi:\n", "  hapi:\n    container_name: bd-hapi\n"))
    assert refusal(2)[0] == ["container_name_set"]
    deployment.write_compose(change=lambda text: text.replace("  hapi:\n", '  hapi:\n    ports: ["18080:8080"]\n'))
    assert refusal(2)[0] == ["fixed_host_port"]
    deployment.write_compose(healthcheck="{disable: true}")
    assert refusal(2)[0] == ["no_health_check"]
    deployment.write_compose()
    assert "no service hapy" in deployment.module(2, service="hapy")["msg"]
    result = deployment.module(2, balancer={"socket": str(deployment.root / "run" / "haproxy.sock"), "backend": "hapy"})
    assert "show servers state hapy" in result["msg"]
    assert "backend" in result["msg"]
    result = deployment.module(2, balancer={"socket": "/nowhere.sock", "backend": "hapi"})
    assert "/nowhere.sock" in result["msg"]
    docker("pause", *deployment.ids())
    assert "replica_paused" in refusal(2)[0]
    docker("unpause", *deployment.ids())


def test_probe_without_health_check(deployment: Deployment) -> None:
    """A service without a health check is rolled by a probe; without a balancer too."""
    deployment.write_compose(healthcheck="{disable: true}")
    deployment.up(1)
    probe = {"port": 8080, "path": "/actuator/health/readiness"}
    result = deployment.roll(2, probe=probe)
    assert actions(result) == ["start"]
    assert result["done"][0]["seconds"] >= 2.5
    new_image()
    assert actions(deployment.roll(2, probe=probe, balancer=None)) == ["start", "stop"] * 2
    result = deployment.module(3, probe=dict(probe, status=204), ready_timeout=5)
    assert result["failed"]
    assert len(deployment.ids()) == 2


def test_tcp_probe(deployment: Deployment) -> None:
    """A service that does not speak HTTP is ready when it takes connections, and not before."""
    deployment.write_compose(healthcheck="{disable: true}")
    deployment.up(1)
    probe = {"port": 8080, "scheme": "tcp"}
    result = deployment.roll(2, probe=probe, balancer=None)
    assert actions(result) == ["start"]
    # It listens after 1.5 s and has to stay so for a second.
    assert result["done"][0]["seconds"] >= 2
    assert deployment.roll(2, probe=probe, balancer=None)["changed"] is False
    closed = deployment.module(3, probe=dict(probe, port=8081), balancer=None, ready_timeout=3)
    assert closed["failed"]
    assert "takes no connection" in closed["msg"]
    assert len(deployment.ids()) == 2
    assert "path" in deployment.module(3, probe={"port": 8080})["msg"]


@pytest.mark.full
def test_tcp_probe_finds_the_port_of_a_pooler(deployment: Deployment) -> None:
    """Images of pgBouncer listen on different ports; the container's environment says on which."""

    def listening(port: int) -> dict[str, Any]:
        deployment.write_compose(
            healthcheck="{disable: true}", change=lambda text: text.replace("VERSION: ", "LISTEN_PORT: %d\n      VERSION: " % port))
        return deployment.module(1, probe={"scheme": "tcp"}, balancer=None, max_surge=0, allow_interruption=True, ready_timeout=5)

    result = listening(8080)
    assert not result.get("failed"), result
    result = listening(8081)
    assert result["failed"]
    # The one before was stopped for it: one that runs and does not answer yet is better than none.
    assert ":8081 takes no connection" in result["msg"]
    assert "It is the only one there is, and was left running." in result["msg"]
    assert len(deployment.ids()) == 1
    result = deployment.module(1, probe={"scheme": "tcp", "port": 8080}, balancer=None, max_surge=0, allow_interruption=True)
    assert not result.get("failed"), result
    assert result["changed"] is False
    # One that keeps ending is no better than none.
    deployment.write_env(CRASH_AFTER="0.5")
    result = listening(8080)
    assert "did not stay up" in result["msg"]
    assert not deployment.ids()


def test_only_replica_without_room(deployment: Deployment) -> None:
    """Announced and consented: stopped, then started, with the interruption in the plan."""
    deployment.up(1)
    new_image()
    plan = deployment.roll(1, check=True, max_surge=0, allow_interruption=True)
    assert actions(plan, "plan") == ["stop", "start"]
    assert plan["plan"][0]["interruption"] == 60
    assert "nothing serves" in plan["plan"][0]["interruption_text"]
    assert actions(deployment.roll(1, max_surge=0, allow_interruption=True)) == ["stop", "start"]
    assert len(deployment.ids()) == 1
    assert deployment.drained() == []


def test_another_signal_than_the_images_own(deployment: Deployment) -> None:
    """As PostgreSQL behind an image that says SIGTERM: it would be killed at the end of its grace."""
    deployment.write_compose(change=lambda text: text.replace("  hapi:\n", "  hapi:\n    stop_signal: SIGWINCH\n"))
    deployment.up(1)
    details = []
    for number, more in enumerate(({}, {"end_signal": "SIGTERM"}, {"end_signal": "SIGWINCH"})):
        deployment.write_env(VERSION=f"2.{number}")
        done = deployment.roll(1, max_surge=0, allow_interruption=True, stop_timeout=3, **more)["done"]
        details.append(next(step["detail"] for step in done if step["action"] == "stop"))
    assert ["killed" in detail for detail in details] == [True, False, True], details
    assert "has to be the name of a signal" in deployment.module(1, end_signal="SIGNONE")["msg"]


def test_data_that_a_successor_would_not_have(deployment: Deployment) -> None:
    """In a volume without a name, which only the owner's own `up` hands on: told before anything is stopped."""
    deployment.write_compose(change=lambda text: text.replace('volumes: ["./events:/events"]', 'volumes: ["./events:/events", "/data/deep"]'))
    deployment.up(1)
    new_image()
    (first,) = deployment.ids()
    alone = {"max_surge": 0, "allow_interruption": True, "check": True}
    # Nothing is in it.
    assert deployment.roll(1, **alone)["findings"] == []
    docker("exec", "-u", "0", first, "touch", "/data/deep/row")
    starts = deployment.starts()
    for more, found in (
        ({}, ["anonymous_volume"]), ({"allow_anonymous_volumes": ["/data"]}, ["anonymous_volume"]),
        ({"allow_anonymous_volumes": ["/data/deep"], "data_paths": ["/data/deep/pgdata"]}, ["data_not_kept"]),
        ({"allow_anonymous_volumes": ["/data/deep"], "data_paths": ["/data"]}, ["data_not_kept"]),
        ({"allow_anonymous_volumes": ["/data/deep"], "data_paths": ["/events/pgdata"]}, []),
    ):  # fmt: skip
        plan = deployment.roll(1, **{**alone, **more})
        assert [item["id"] for item in plan["findings"] if item["severity"] == "error"] == found, more
        if found:
            assert found[0] in deployment.module(1, **{**alone, **more, "check": False})["msg"]
    assert deployment.ids() == {first}
    assert deployment.starts() == starts
    # One that serves beside it has shown that it needs nothing of that.
    plan = deployment.roll(1)
    assert [(item["id"], item["severity"]) for item in plan["findings"]] == [("anonymous_volume", "warning")]
    assert first not in deployment.ids()


@pytest.mark.full
def test_fixed_name_is_taken_on_kept_and_given_up(deployment: Deployment) -> None:
    """The way back to an owner's container_name: Compose is never asked for two containers of one name."""
    deployment.up(1)
    fixed = "%s-only" % deployment.name

    def name_after_replacing() -> str:
        assert actions(deployment.roll(1, max_surge=0, allow_interruption=True)) == ["stop", "start"]
        (container,) = deployment.containers()
        return str(container["Name"]).lstrip("/")

    deployment.write_compose(change=lambda text: text.replace("  hapi:\n", "  hapi:\n    container_name: %s\n" % fixed))
    assert name_after_replacing() == fixed
    new_image()
    assert name_after_replacing() == fixed
    deployment.write_compose()
    assert name_after_replacing() == "%s-hapi-1" % deployment.name
    assert deployment.drained() == []


def test_requests_that_do_not_end(deployment: Deployment) -> None:
    """A drain that takes too long is a warning with the count; the requests still end by the application's grace."""
    deployment.up(2)
    with Load(deployment.address("lb"), rate=20, slow=6) as load:
        time.sleep(2)
        result = deployment.roll(1, drain_timeout=1)
        assert any("requests in flight after drain_timeout" in str(item) for item in result["warnings"])
        assert "ended by itself" in result["done"][0]["detail"]
    load.check(deployment)


def test_killed_replica_comes_back_elsewhere(deployment: Deployment) -> None:
    """A replica that dies and comes back under another address is served within 15 s, with nobody's help."""
    deployment.up(3)
    victim = deployment.containers()[0]
    network = "%s_backend" % deployment.name
    old = victim["NetworkSettings"]["Networks"][network]["IPAddress"]
    docker("kill", "--signal", "KILL", victim["Id"])
    wait_for(lambda: old not in [item[0] for item in deployment.slots().values()], 10)
    # Somebody else takes its address before it is started again.
    docker(
        "run", "-d", "--rm", "--name", deployment.name + "-squat", "--network", network, "--ip", old, IMAGE + ":live",
        "sleep", "120", check=False,
    )  # fmt: skip
    squat = docker("ps", "-q", "--filter", "name=%s-squat" % deployment.name).strip()
    if not squat:
        docker(
            "run",
            "-d",
            "--rm",
            "--name",
            deployment.name + "-squat",
            "--network",
            network,
            IMAGE + ":live",
            "sleep",
            "120",
        )
    try:
        with Load(deployment.address("lb"), rate=30) as load:
            begun = time.time()
            docker("start", victim["Id"])
            now = json.loads(docker("inspect", victim["Id"]))[0]["NetworkSettings"]["Networks"][network]["IPAddress"]
            time.sleep(8)
        assert now != old
        host = str(victim["Config"]["Hostname"])
        served = [item["at"] for item in load.answers if item["replica"] == host]
        assert served, "no request reached it"
        print("served %.1f s after its start, ready after %s s" % (min(served) - begun, ENV["READY_AFTER"]))
        assert min(served) - begun < float(ENV["READY_AFTER"]) + 15
        load.check(deployment)
    finally:
        docker("rm", "-f", deployment.name + "-squat", check=False)


def test_dying_replica_loses_no_read(deployment: Deployment) -> None:
    """A replica is killed with requests in flight: reads are answered by another one, writes are never sent twice."""
    deployment.up(3)

    def reading() -> list[str]:
        """Hosts with a read in flight that has begun within the last second."""
        return [
            item["host"]
            for item in deployment.events()
            if item.get("method") == "GET" and "/slow/" in item["path"] and time.time() - item["t"] < 1
        ]

    with Load(deployment.address("lb"), rate=30, slow=3) as load:
        time.sleep(2)
        wait_for(reading, 10)
        docker("kill", "--signal", "KILL", reading()[-1])
        time.sleep(4)
    print("lost in flight: %s" % [(item["method"], item["path"], item["status"]) for item in load.bad()])
    assert {item["method"] for item in load.bad()} <= {"POST"}
    requests = [item for item in deployment.events() if item["kind"] == "request"]
    counts = {
        method: collections.Counter(item["path"] for item in requests if item["method"] == method)
        for method in ("GET", "POST")
    }
    assert max(counts["GET"].values()) == 2, "no read was in flight, so nothing was shown"
    assert set(counts["POST"].values()) == {1}


@contextlib.contextmanager
def compose_plugin(path: Optional[str], directory: pathlib.Path) -> Iterator[None]:
    (directory / "cli-plugins").mkdir(parents=True)
    assert path is not None
    shutil.copy(path, directory / "cli-plugins" / "docker-compose")
    os.environ["DOCKER_CONFIG"] = str(directory)
    try:
        yield
    finally:
        del os.environ["DOCKER_CONFIG"]


@pytest.mark.skipif(
    not os.environ.get("OLD_COMPOSE"), reason="OLD_COMPOSE names no docker-compose binary before 2.29.3"
)
def test_old_compose(deployment: Deployment, tmp_path: pathlib.Path) -> None:
    """Before 2.29.3 `up --no-deps` writes another hash than a plain `up`: still nothing is recreated afterwards."""
    with compose_plugin(os.environ["OLD_COMPOSE"], tmp_path / "config"):
        test_plain_up_afterwards_restarts_nothing(deployment)
        others = deployment.starts("other")
        new_image()
        assert actions(deployment.roll(3)) == ["start", "stop"] * 3
        assert deployment.starts("other") == others
