# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""balancer_window against the HAProxy that the role balancer itself has started, before a stand-in for HAPI, behind a real nginx.

What a client gets is asked for over HTTP, what HAProxy holds over its socket: neither by the module's own code.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
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
from ansible_collections.dghs.bd_fhir.plugins.modules import balancer_window
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[3]
APP = "win-test-app"
MAP = "/usr/local/etc/haproxy/window.map"
NGINX = """
events {}
http {
    access_log off;
    client_max_body_size 50m;
    resolver 127.0.0.11 valid=1s;
    server {
        listen 80;
        set $balancer hapi-balancer;
        location / { proxy_pass http://$balancer:8080; }
        location /unbuffered/ { proxy_http_version 1.1; proxy_request_buffering off; proxy_pass http://$balancer:8080; }
    }
}
"""
COMPOSE = """name: {name}
services:
  hapi:
    image: {app}
    scale: 2
    environment: {{LISTEN_AFTER: "0", READY_AFTER: "0"}}
    stop_grace_period: 2s
    volumes: ["./events:/events"]
    networks: [front]
  nginx:
    image: {nginx}
    command: [nginx, -g, "daemon off;"]
    volumes: ["./nginx.conf:/etc/nginx/nginx.conf:ro"]
    networks: [front]
networks:
  front: {{}}
"""

Run = Callable[..., dict[str, Any]]


class Answer:
    """What a client got."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.body = response.read()
        self.headers = response.headers

    @property
    def refused(self) -> bool:
        """It is the balancer's own answer of a window: a complete one, not any 503."""
        if self.status != 503 or not (self.headers["Retry-After"] or "").isdigit():
            return False
        outcome = json.loads(self.body)
        return bool(outcome["resourceType"] == "OperationOutcome" and outcome["issue"][0]["code"] == "transient")


class Site(Project):
    """A project with the role's balancer."""

    image = ""

    @property
    def socket(self) -> Path:
        return self.dir / "compose.d/balancer/run/admin.sock"

    @property
    def map_file(self) -> Path:
        return self.dir / "compose.d/balancer/etc/window.map"

    def address(self, service: str) -> str:
        (container,) = self.ids(service)
        return docker("inspect", container, "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}").strip()

    def role(self) -> list[str]:
        """Run the role's own apply; return the names of the tasks that changed something."""
        play = [{
            "hosts": "localhost", "connection": "local", "gather_facts": False,
            "vars": {
                "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                "preflight_deployment": {"project": {"name": self.name}, "services": {"hapi": {}, "nginx": {}}},
                "balancer_project_dir": str(self.dir), "balancer_image": self.image, "balancer_networks": ["front"],
            },
            "tasks": [{"name": "Start the balancer", "ansible.builtin.include_role": {"name": "dghs.bd_fhir.balancer", "tasks_from": "apply"}}],
        }]  # fmt: skip
        (self.dir / "play.yml").write_text(yaml.safe_dump(play))
        done = subprocess.run(["ansible-playbook", "-i", "localhost,", str(self.dir / "play.yml")], capture_output=True, text=True, check=False,
                              env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"})  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        found = json.loads(done.stdout[done.stdout.index("{"):])
        return [task["task"]["name"].partition(" | ")[2] for item in found["plays"] for task in item["tasks"]
                if any(host.get("changed") for host in task["hosts"].values())]  # fmt: skip

    def cli(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket))
            connection.sendall((command + "\n").encode())
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer.decode()

    def loaded(self) -> dict[str, int]:
        return {fields[1]: int(fields[2]) for fields in (line.split() for line in self.cli(f"show map {MAP}").splitlines()) if fields}

    def stored(self) -> dict[str, int]:
        lines = [line.split() for line in self.map_file.read_text().splitlines() if not line.startswith("#")]
        return {key: int(value) for key, value in lines}

    def signal(self, name: str) -> None:
        docker("kill", "--signal", name, *self.ids("hapi-balancer"))

    def worker(self) -> str:
        return next(line for line in self.cli("show info").splitlines() if line.startswith("Pid:"))

    def reload(self) -> None:
        before = self.worker()
        self.signal("USR2")

        def renewed() -> bool:
            with contextlib.suppress(OSError, StopIteration):
                return self.worker() != before
            return False

        wait_for(renewed)

    def ask(self, method: str = "GET", path: str = "/item", port: int = 8080, service: str = "hapi-balancer", **more: Any) -> Answer:
        connection = http.client.HTTPConnection(self.address(service), port, timeout=20)
        try:
            connection.request(method, path, **more)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def up(self) -> int:
        return self.cli("show stat hapi 4 -1").count(",UP,")

    def arrived(self) -> list[str]:
        path = self.dir / "events" / "events.log"
        return [item["path"] for item in map(json.loads, path.read_text().splitlines()) if item["kind"] == "request"]

    def window(self, run: Run, state: str, check: bool = False, **more: Any) -> dict[str, Any]:
        return run(balancer_window, check, project_dir=str(self.dir), state=state, **more)


def wait_for(predicate: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.05)


class Sent(NamedTuple):
    """A request of the load."""

    begun: float
    ended: float
    path: str
    status: int
    error: str
    refused: bool

    @property
    def served(self) -> bool:
        return self.status in (200, 201)


class Load:
    """Reads and writes without a pause, each a connection of its own, and now and then a slow one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: list[Sent] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def go_on(self, count: int = 60) -> None:
        """Wait for the answers to so many more requests."""
        now = time.time()
        wait_for(lambda: len([item for item in list(self.answers) if item.begun > now]) > count, 60)

    def __exit__(self, *dummy: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, worker: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            path = f"/slow/1/{worker}-{number}" if number % 40 == 1 and worker else f"/item/{worker}-{number}"
            begun = time.time()
            connection = http.client.HTTPConnection(self.address, 8080, timeout=20)
            try:
                connection.request("POST" if number % 2 else "GET", path, body=b"{}" if number % 2 else None)
                answer = Answer(connection.getresponse())
                self.answers.append(Sent(begun, time.time(), path, answer.status, "", answer.refused))
            except (OSError, http.client.HTTPException) as exc:
                self.answers.append(Sent(begun, time.time(), path, 0, repr(exc), False))
            finally:
                connection.close()
            time.sleep(0.01)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    docker("build", "-q", "--build-arg", f"BASE_IMAGE={IMAGE}", "-t", APP, str(ROOT / "tests/integration/real/compose_rollout"))
    built = {name: docker("build", "-q", "--build-arg", f"BASE_IMAGE={IMAGE}", "-t", f"win-test-{name}", str(ROOT / "tests/lab/images" / name))
             for name in ("haproxy", "nginx")}  # fmt: skip
    assert all(built.values())
    item = Site(tmp_path_factory.mktemp("window") / "site", "win")
    # Another version, if one is at hand: HAPROXY_IMAGE, with the official image's user and folders.
    item.image = os.environ.get("HAPROXY_IMAGE", "win-test-haproxy")
    (item.dir / "events").mkdir(parents=True)
    (item.dir / "events").chmod(0o777)
    item.write("docker-compose.yml", COMPOSE.format(name=item.name, app=APP, nginx="win-test-nginx"), 0o644)
    item.write("nginx.conf", NGINX, 0o644)
    item.write(".env", "")
    try:
        item.compose("up", "-d")
        item.role()
        wait_for(lambda: item.up() == 2)
        wait_for(lambda: item.ask(service="nginx", port=80).status == 200)
        yield item
    finally:
        item.remove()
        shutil.rmtree(_change.directory_of(item.name), ignore_errors=True)


@pytest.fixture(autouse=True)
def closed(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The record of changes goes beside the test, and no test leaves a window to the next."""
    monkeypatch.setattr(_change, "STATE_DIR", str(tmp_path / "state"))
    yield
    # HAProxy's own word for it, so that a broken module can't hide.
    for key in ("all", "writes", "retry_after"):
        site.cli(f"set map {MAP} {key} 0")
    shutil.copyfile(ROOT / "roles/balancer/files/window.map", site.map_file)


def journal(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in (tmp_path / "state").glob("*/journal.jsonl") for line in path.read_text().splitlines()]


def test_open_again_extend_again_close_again(site: Site, run: Run, tmp_path: Path) -> None:
    def step(state: str, changed: bool, **more: Any) -> dict[str, Any]:
        truth = site.loaded(), site.map_file.read_bytes()
        predicted = site.window(run, state, check=True, **more)
        assert (site.loaded(), site.map_file.read_bytes()) == truth
        found = site.window(run, state, **more)
        assert (predicted["rc"], found["rc"]) == (0, 0), found
        for result in (predicted, found):
            assert result["changed"] is changed
            assert (result["diff"]["before"] != result["diff"]["after"]) is changed
        assert predicted.keys() == found.keys()
        assert {key: predicted[key] for key in ("state", "scope", "map_path")} == {key: found[key] for key in ("state", "scope", "map_path")}
        assert bool(predicted["seconds_left"]) is bool(found["seconds_left"])
        assert site.loaded() == site.stored()
        assert site.map_file.stat().st_mode & 0o777 == 0o644
        return found

    assert site.ask().status == 200
    # A tolerance for a busy machine; the default's is tested without one.
    opened = step("open", True, seconds=200)
    assert (opened["state"], opened["scope"]) == ("open", "all")
    assert 100 <= opened["seconds_left"] <= 200
    assert opened["until"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(site.loaded()["all"]))
    assert site.loaded()["writes"] == site.loaded()["retry_after"] == 0
    answer = site.ask()
    assert answer.refused
    assert 100 <= int(answer.headers["Retry-After"]) <= 200
    assert site.ask(headers={"X-BD-Probe": "1"}).refused

    same = site.loaded()
    step("open", False, seconds=200, tolerance=100)
    # A shorter or narrower one is no reason to open for some.
    step("open", False, seconds=20)
    step("open", False, seconds=30, scope="writes")
    assert site.loaded() == same

    longer = step("open", True, seconds=600, retry_after=7)
    assert longer["seconds_left"] > 500
    assert site.ask().headers["Retry-After"] == "7"
    step("open", False, seconds=600, retry_after=7, tolerance=100)

    done = step("closed", True)
    assert (done["state"], done["scope"], done["until"], done["seconds_left"], done["served"]) == ("closed", "", "", 0, True)
    assert set(site.loaded().values()) == {0}
    assert site.ask().status == 200
    assert step("closed", False)["served"] is None
    assert [(item["action"], item["object"]) for item in journal(tmp_path)] == [
        (action, f"{MAP} of {site.socket}") for action in ("open window", "open window", "close window")
    ]


def test_under_load_nothing_is_cut_and_nothing_gets_through(site: Site, run: Run) -> None:
    with Load(site.address("hapi-balancer")) as load:
        slow = threading.Thread(target=lambda: slowly.append(site.ask("POST", "/slow/3/mine")))
        slowly: list[Answer] = []
        slow.start()
        wait_for(lambda: "/slow/3/mine" in site.arrived())
        opening = time.time()
        opened = site.window(run, "open", seconds=120, drain=20)
        idle = time.time()
        assert (opened["rc"], opened["in_flight"]) == (0, 0)
        slow.join()
        assert [item.status for item in slowly] == [201]
        assert site.ask(path="/balancer-health").status == 200
        before = len(site.arrived())
        load.go_on()
        assert len(site.arrived()) == before
        closing = time.time()
        assert site.window(run, "closed")["rc"] == 0
        served = time.time()
        load.go_on()
    assert [item for item in load.answers if not item.served and not item.refused] == []
    # None is refused before, none after, and all in between.
    assert [item for item in load.answers if item.refused and (item.ended < opening or item.begun > served)] == []
    inside = [item for item in load.answers if idle < item.begun and item.ended < closing]
    assert len(inside) >= 60
    assert all(item.refused for item in inside)
    # Refused is refused: none of these requests has reached a replica.
    assert not {item.path for item in load.answers if item.refused} & set(site.arrived())


def test_it_ends_by_itself(site: Site, run: Run) -> None:
    assert site.window(run, "open", seconds=4)["rc"] == 0
    ends = site.loaded()["all"]
    assert site.ask().refused
    wait_for(lambda: site.ask().status == 200)
    assert time.time() >= ends
    # Nobody has cleaned up, and nobody has to.
    assert site.loaded()["all"] == ends
    assert site.window(run, "closed")["changed"] is False
    assert site.window(run, "open", seconds=30)["changed"] is True


def test_a_reload_and_a_restart_keep_it(site: Site, run: Run) -> None:
    assert site.window(run, "open", seconds=300, scope="writes", retry_after=9)["rc"] == 0
    same = site.loaded()
    site.reload()
    assert site.loaded() == same
    assert site.ask("POST", body=b"{}").refused
    docker("restart", "-t", "5", *site.ids("hapi-balancer"))

    def kept() -> bool:
        with contextlib.suppress(OSError):
            return site.ask("POST", body=b"{}").refused
        return False

    wait_for(kept)
    assert site.loaded() == same
    assert site.window(run, "open", seconds=200, scope="writes", retry_after=9)["changed"] is False
    # Closed before HAProxy has a replica again: it is waited for one.
    closed = site.window(run, "closed")
    assert (closed["served"], site.ask("POST", body=b"{}").status) == (True, 201)
    site.reload()
    assert set(site.loaded().values()) == {0}
    wait_for(lambda: site.up() == 2)


def test_writes_only(site: Site, run: Run) -> None:
    opened = site.window(run, "open", seconds=60, scope="writes")
    assert (opened["scope"], opened["state"]) == ("writes", "open")
    assert site.ask("GET").status == 200
    assert site.ask("POST", "/Patient/_search", body=b"name=x").status == 201
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert site.ask(method, "/Patient/1", body=b"{}").refused, method
    both = site.window(run, "open", seconds=30)
    assert (both["changed"], both["scope"]) == (True, "all")
    assert site.ask("GET").refused
    # The longer of the two stays.
    assert site.loaded()["writes"] > site.loaded()["all"]
    head = site.ask("HEAD")
    assert (head.status, head.body) == (503, b"")


def test_a_large_body_gets_503_through_nginx_and_never_502(site: Site, run: Run) -> None:
    """An answer before the body has come would break nginx's connection, and the client would get nginx's own 502."""
    assert site.window(run, "open", seconds=120)["rc"] == 0
    body = os.urandom(6 << 20)
    for path in ("/Bundle", "/unbuffered/Bundle"):
        answers = [site.ask("POST", path, 80, "nginx", body=body) for dummy in range(6)]
        assert [item.status for item in answers] == [503] * 6
        assert all(item.refused for item in answers)
    chunked = site.ask("POST", "/Bundle", 80, "nginx", body=iter([body[:100000], body[:5]]), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})  # fmt: skip
    assert chunked.refused


@pytest.mark.full
def test_an_early_answer_would_have_become_a_502(site: Site, run: Run) -> None:
    """The judge goes red: the same bodies, with HAProxy's own way to answer, which in 3.0 only reads them first."""
    config = site.map_file.parent / "haproxy.cfg"
    ours = config.read_text()
    try:
        config.write_text(ours.replace("http-request use-service lua.window if", "http-request return status 503 if"))
        site.reload()
        assert site.window(run, "open", seconds=120)["rc"] == 0
        body = os.urandom(6 << 20)
        found = [site.ask("POST", "/Bundle", 80, "nginx", body=body).status for dummy in range(20)]
        assert 502 in found or "Version: 2.6" not in site.cli("show info")
    finally:
        config.write_text(ours)
        site.reload()
    wait_for(lambda: site.up() == 2)


def test_what_does_not_end_in_time_is_told(site: Site, run: Run) -> None:
    answers: list[Answer] = []
    slow = threading.Thread(target=lambda: answers.append(site.ask(path="/slow/4/late")))
    slow.start()
    wait_for(lambda: "/slow/4/late" in site.arrived())
    opened = site.window(run, "open", seconds=60, drain=1)
    assert (opened["rc"], opened["in_flight"]) == (0, 1)
    assert "1 requests that were let through" in json.dumps(opened["warnings"])
    assert site.ask().refused
    # The window is open already, and still it is waited.
    again = site.window(run, "open", seconds=60, drain=30, tolerance=30)
    assert (again["changed"], again["in_flight"]) == (False, 0)
    slow.join()
    assert [item.status for item in answers] == [200]


def test_the_balancer_is_healthy_while_the_replicas_are_not(site: Site, run: Run) -> None:
    site.compose("stop", "-t", "0", "hapi")
    try:
        wait_for(lambda: site.ask(path="/balancer-health").status == 503)
        assert site.window(run, "open", seconds=60)["rc"] == 0
        assert site.ask(path="/balancer-health").status == 200
        alone = site.window(run, "closed", ready_timeout=1)
        assert (alone["changed"], alone["served"]) == (True, False)
        assert "no server of the backend hapi was up" in json.dumps(alone["warnings"])
        assert not site.ask().refused
        assert site.window(run, "open", seconds=60)["rc"] == 0
    finally:
        site.compose("start", "hapi")
    assert site.window(run, "closed")["served"] is True
    assert site.ask().status == 200
    wait_for(lambda: site.up() == 2)


def test_what_a_kill_or_a_hand_has_left_is_made_good(site: Site, run: Run) -> None:
    until = int(time.time()) + 200
    # Killed between the two: only the file knows of the window, then only HAProxy.
    site.map_file.write_text(site.map_file.read_text().replace("all 0", f"all {until}"))
    assert site.window(run, "closed", check=True)["changed"] is True
    assert site.window(run, "closed")["changed"] is True
    assert set(site.stored().values()) == {0}
    site.cli(f"set map {MAP} all {until}")
    assert site.window(run, "open", seconds=100)["changed"] is True
    assert site.stored() == site.loaded() == {"all": until, "writes": 0, "retry_after": 0}
    # Damage is not taken for "closed".
    site.map_file.write_text(site.map_file.read_text().replace(f"all {until}\n", "all"))
    assert site.window(run, "closed")["changed"] is True
    assert set(site.stored().values()) == {0}
    site.cli(f"del map {MAP} writes")
    assert site.window(run, "closed")["changed"] is True
    assert site.loaded() == {"all": 0, "writes": 0, "retry_after": 0}


def test_refusals_change_nothing(site: Site, run: Run, tmp_path: Path) -> None:
    def refused(text: str, **more: Any) -> None:
        truth = site.loaded(), site.map_file.read_bytes()
        for check in (True, False):
            result = site.window(run, check=check, **{"state": "open", "seconds": 60, **more})
            assert (result["rc"], text in result["msg"]) == (1, True), result["msg"]
        assert (site.loaded(), site.map_file.read_bytes()) == truth

    refused("seconds is 901", seconds=901)
    refused("seconds is 0", seconds=0)
    refused("Check the backend's name", backend="hapy", drain=1)
    refused("scale_hapi", map_path=str(tmp_path / "window.map"))
    refused("no map file named other.map", map_path=str(tmp_path / "other.map"))
    (tmp_path / "window.map").write_text("all 0\n")
    refused("is not the map file of the window", map_path=str(tmp_path / "window.map"))
    # A balancer that is not there: told in a real run, predicted in a dry one.
    away: dict[str, Any] = {"socket": str(tmp_path / "away.sock"), "seconds": 60}
    assert "failed" in site.window(run, "open", **away)["msg"]
    predicted = site.window(run, "open", check=True, **away)
    assert (predicted["rc"], predicted["changed"], predicted["state"]) == (0, True, "open")
    assert "only predicted" in json.dumps(predicted["warnings"])
    assert site.window(run, "closed", check=True, socket=away["socket"])["changed"] is False
    assert journal(tmp_path) == []


def test_somebody_elses_change_keeps_it_out(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*dummy: Any) -> None:
        raise _change.ChangeError("somebody else holds the deployment")

    monkeypatch.setattr(_change.ChangeGuard, "verify", lost)
    result = site.window(run, "open", seconds=60)
    assert (result["rc"], result["msg"]) == (1, "somebody else holds the deployment")
    assert site.ask().status == 200
    assert set(site.stored().values()) == {0}


def test_a_balancer_from_before_gets_the_window_without_losing_a_request(site: Site, run: Run) -> None:
    """As an earlier release has left it: no window in its configuration. The role's next run reloads it under load."""
    config = site.map_file.parent / "haproxy.cfg"
    lines = [line for line in config.read_text().splitlines() if "window" not in line and "txn.w" not in line and "monitor fail" not in line]
    config.write_text("\n".join("    description before" if "description " in line else line for line in lines) + "\n")
    (site.map_file.parent / "window.lua").unlink()
    site.map_file.unlink()
    site.reload()
    wait_for(lambda: site.up() == 2)
    assert MAP not in site.cli("show map")
    old = site.window(run, "open", seconds=60)
    assert old["rc"] == 1
    assert "scale_hapi first" in old["msg"]
    container = site.ids("hapi-balancer")
    with Load(site.address("hapi-balancer")) as load:
        changed = site.role()
        load.go_on()
    assert [item for item in load.answers if not item.served] == []
    assert changed == [
        "Lay the map of the announced window",
        "Lay what answers in an announced window",
        "Write the balancer's configuration",
        "Make the balancer run its configuration",
    ]
    assert site.ids("hapi-balancer") == container
    assert site.window(run, "open", seconds=60)["changed"] is True
    assert site.ask().refused
    # A run of the role leaves an open window alone.
    assert site.role() == []
    assert site.ask().refused


def test_a_killed_module_leaves_a_window_that_ends(site: Site) -> None:
    """kill -9 while it waits for the requests in flight: nobody is left who could close it, and it ends."""
    slow = threading.Thread(target=lambda: site.ask(path="/slow/6/killed"))
    slow.start()
    wait_for(lambda: "/slow/6/killed" in site.arrived())
    arguments = {"ANSIBLE_MODULE_ARGS": {"project_dir": str(site.dir), "state": "open", "seconds": 7, "drain": 6}}
    process = subprocess.Popen([sys.executable, "-m", balancer_window.__name__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                               env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)})  # fmt: skip
    assert process.stdin
    process.stdin.write(json.dumps(arguments))
    process.stdin.close()
    wait_for(lambda: site.loaded()["all"] > 0)
    process.kill()
    process.wait()
    assert site.ask().refused
    slow.join()
    wait_for(lambda: site.ask().status == 200)
    assert site.stored() == site.loaded()
