# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of port_handover with Docker and HAProxy replaced by a small world; the real ones are in tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change, _ports
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import ComposeError, Docker, Expected, parse_container
from ansible_collections.dghs.bd_fhir.plugins.module_utils._haproxy import HAProxyError, Server
from ansible_collections.dghs.bd_fhir.plugins.modules import port_handover

Run = Callable[..., dict[str, Any]]
EXPECTED = Expected("relay", 1, "h", ("h",), "reg/haproxy:3", "sha256:img", False, None, "", ["8080->8080/tcp"], 0)


def inspected(service: str, number: int, state: str, **more: Any) -> dict[str, Any]:
    return {
        "Id": f"{service}{number}", "Name": f"/p-{service}-{number}", "Image": "sha256:img",
        "Config": {"Image": "i", "Labels": {"com.docker.compose.service": service, "com.docker.compose.container-number": str(number),
                                            "com.docker.compose.config-hash": "h"}},
        "State": {"Status": state, "ExitCode": 143}, "HostConfig": {"PortBindings": {"8080/tcp": [{"HostIp": "", "HostPort": "8080"}]}},
        "NetworkSettings": {"Networks": {"net": {"IPAddress": f"10.0.0.{number}"}}}, **more,
    }  # fmt: skip


class World:
    """Containers, and what is said to Docker. Raises what is in `broken` when a command begins with it."""

    def __init__(self, *containers: dict[str, Any]) -> None:
        self.data = {item["Id"]: item for item in containers}
        self.calls: list[str] = []
        self.broken: dict[str, str] = {}
        self.known = True
        self.expects = EXPECTED
        self.keep_fds: list[int] = []
        self.project_dir = "/srv/p"
        self.command_timeout = 120

    def project_name(self) -> str:
        return "p"

    def config(self, refresh: bool = False) -> dict[str, Any]:
        return {"services": {"relay": {}} if self.known else {}}

    def expected(self, service: str) -> Expected:
        if not self.known:
            raise ComposeError("The project has no service relay.")
        return self.expects

    def containers(self, service: str) -> list[Any]:
        return [item for item in map(parse_container, self.data.values()) if item.service == service]

    def inspect(self, ids: list[str]) -> list[dict[str, Any]]:
        return [self.data[item] for item in ids if item in self.data]

    def logs_tail(self, ident: str, lines: int) -> str:
        return "its last words"

    def clean(self, text: str) -> str:
        return text

    def docker(self, *args: str, check: bool = True, timeout: float = 0) -> tuple[int, str, str]:
        verb, ident = args[0], args[-1]
        if verb == "ps":
            return 0, "\n".join(name for name, item in self.data.items() if item["State"]["Status"] == "running"), ""
        self.calls.append(f"{verb} {ident}")
        if f"{verb} {ident}" in self.broken:
            if check:
                raise ComposeError(self.broken[f"{verb} {ident}"])
            return 1, "", self.broken[f"{verb} {ident}"]
        if verb == "rm":
            del self.data[ident]
        else:
            self.data[ident]["State"]["Status"] = {"stop": "exited", "start": "running"}[verb]
        return 0, "", ""

    def compose(self, *args: str, check: bool = True) -> tuple[int, str, str]:
        self.calls.append("compose " + " ".join(args))
        if "compose" in self.broken:
            return 1, "", self.broken["compose"]
        self.data["relay1"] = inspected("relay", 1, "created")
        return 0, "", ""


class Balancer:
    """A backend whose servers are at 10.0.0.1 and 10.0.0.2."""

    up: tuple[bool, ...] = (True, True)
    states: list[str]

    def __init__(self, address: str) -> None:
        self.address = address

    def servers(self, backend: str) -> list[Server]:
        class One:
            def __init__(self, number: int, up: bool) -> None:
                self.name, self.address, self.up, self.unresolved, self.sessions = f"s{number}", f"10.0.0.{number}", up, False, 0

        found: Any = [One(number, up) for number, up in enumerate(self.up, 1)]
        return list(found)

    def set_state(self, backend: str, name: str, state: str) -> Any:
        Balancer.states.append(f"{name} {state}")
        return next(item for item in self.servers(backend) if item.name == name)

    def wait(self, backend: str, name: str, predicate: Any, timeout: float, times: int = 1) -> Any:
        return True, next(item for item in self.servers(backend) if item.name == name)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    item = World(inspected("hapi", 1, "running"))
    Balancer.states = []
    monkeypatch.setattr(Balancer, "up", (True, True))
    monkeypatch.setattr(Docker, "from_module", lambda module: item)
    monkeypatch.setattr(port_handover, "HAProxy", Balancer)
    monkeypatch.setattr(_ports, "listeners", list)
    monkeypatch.setattr(port_handover.Handover, "ask", staticmethod(lambda port, path: True))
    monkeypatch.setattr(_change, "STATE_DIR", str(tmp_path / "state"))
    return item


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, world: World) -> Run:
    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        args = {"project_dir": "/srv/p", "service": "relay", "holder": "hapi", "lock_dir": str(tmp_path / "locks"), "ready_timeout": 1, **args}
        with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit) as ended:
            port_handover.main()
        return {**json.loads(capsys.readouterr().out), "rc": ended.value.code}

    return call


BALANCER = {"socket": "/run/admin.sock", "backend": "hapi"}


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ({"stop_timeout": -1}, "stop_timeout is -1"),
        ({"holder": "relay"}, "service and holder are both relay"),
        ({"path": "health"}, "has to begin with a slash"),
        ({"state": "taken"}, "state"),
        ({"ports": ["80-81->80/tcp"]}, "80-81->80/tcp is not one port of the host"),
        ({"ports": ["80->80/udp"]}, "Nothing was changed"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_wrong_input_is_refused(run: Run, world: World, check: bool, args: dict[str, Any], word: str) -> None:
    found = run(check, **args)
    assert found["rc"] == 1
    assert word in found["msg"]
    assert world.calls == []


def test_the_successor_is_made_before_anything_stops(run: Run, world: World) -> None:
    found = run(allow_interruption=True, balancer=BALANCER, path="/health")
    assert found["rc"] == 0, found
    assert [call.split(" --")[0] for call in world.calls] == ["compose up", "stop hapi1", "start relay1", "rm hapi1"]
    assert Balancer.states == ["s1 drain", "s1 ready"]
    assert found["detail"] == "p-hapi-1 ended by itself with exit code 143"
    assert found["diff"] == {"before": "port 8080: p-hapi-1\n", "after": "port 8080: p-relay-1\n"}


def test_a_dry_run_before_the_service_is_known(run: Run, world: World) -> None:
    world.known = False
    found = run(True, ports=["8080->8080/tcp"], balancer=BALANCER)
    assert (found["rc"], found["changed"], found["interruption"]) == (0, True, 41)
    assert [item["id"] for item in found["findings"]] == ["interruption_not_allowed"]
    assert world.calls == []
    assert run()["rc"] == 1


def test_a_balancer_that_is_not_there_yet(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Balancer, backend: str) -> list[Server]:
        raise HAProxyError("HAProxy at /run/admin.sock does not answer.")

    monkeypatch.setattr(Balancer, "servers", missing)
    assert run(True, allow_interruption=True, balancer=BALANCER)["findings"] == []
    found = run(allow_interruption=True, balancer=BALANCER)
    assert (found["rc"], found["msg"]) == (1, "HAProxy at /run/admin.sock does not answer.")
    assert world.calls == []


def test_nothing_is_handed_to_a_balancer_without_another_replica(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Balancer, "up", (True, False))
    found = run(allow_interruption=True, balancer=BALANCER)
    assert (found["rc"], [item["id"] for item in found["findings"]]) == (1, ["port_without_replica"])
    assert world.calls == []


def test_who_else_has_the_port(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.data["other1"] = inspected("other", 1, "running")
    monkeypatch.setattr(_ports, "listeners", lambda: [(_ports.Binding("", 8080), 1), (_ports.Binding("", 22), 2)])
    found = run(True, allow_interruption=True)
    # Docker's own listener for a published port is nobody else.
    assert [(item["id"], item["found"]) for item in found["findings"]] == [("port_taken", "container p-other-1")]
    world.data.clear()
    found = run(True)
    assert [item["id"] for item in found["findings"]] == ["port_taken"]
    assert "process" in found["findings"][0]["found"]
    assert "8080" in found["findings"][0]["found"]


@pytest.mark.parametrize(
    ("broken", "word"),
    [("start relay1", "port is already allocated"), ("stop hapi1", "the daemon is away"), ("", "did not answer 200 at /health within 0 s")],
)
def test_what_fails_after_the_stop_is_undone(run: Run, world: World, monkeypatch: pytest.MonkeyPatch, broken: str, word: str) -> None:
    if broken:
        world.broken[broken] = word
    else:
        monkeypatch.setattr(port_handover.Handover, "ask", staticmethod(lambda port, path: False))
    found = run(allow_interruption=True, balancer=BALANCER, path="/health", ready_timeout=0)
    assert found["rc"] == 1
    assert word in found["msg"]
    assert "p-hapi-1 was started again and has the port." in found["msg"]
    assert world.calls[-2:] == ["stop relay1", "start hapi1"]
    assert Balancer.states == ["s1 drain", "s1 ready"]


def test_a_holder_that_does_not_come_back_is_named(run: Run, world: World) -> None:
    world.broken = {"start relay1": "no", "start hapi1": "no memory"}
    assert "p-hapi-1 could not be started again: no memory." in run(allow_interruption=True)["msg"]


def test_what_can_not_be_made_stops_nothing(run: Run, world: World) -> None:
    world.broken["compose"] = "the network is gone"
    found = run(allow_interruption=True)
    assert found["rc"] == 1
    assert "Nothing was stopped" in found["msg"]
    assert "the network is gone" in found["msg"]
    world.expects = replace(EXPECTED, image_id=None)
    assert "Pull it first" in run(allow_interruption=True)["msg"]
    assert [call for call in world.calls if "hapi1" in call] == []


def test_an_outdated_leftover_is_made_anew(run: Run, world: World) -> None:
    world.data["relay7"] = inspected("relay", 7, "created")
    world.data["relay7"]["Config"]["Labels"]["com.docker.compose.config-hash"] = "older"
    assert run(allow_interruption=True)["rc"] == 0
    assert world.calls[0] == "rm relay7"
    world.calls.clear()
    world.data = {"relay1": inspected("relay", 1, "exited")}
    found = run(if_free=True)
    assert (found["rc"], found["changed"], found["interruption"]) == (0, True, 0)
    assert world.calls == ["start relay1"]


def test_if_free_leaves_the_holder_alone(run: Run, world: World) -> None:
    found = run(if_free=True)
    assert (found["rc"], found["changed"], found["holders"]) == (0, False, ["p-hapi-1"])
    assert world.calls == []


def test_a_killed_container_is_told(run: Run, world: World) -> None:
    world.data["hapi1"]["State"]["ExitCode"] = 137
    found = run(allow_interruption=True)
    assert found["detail"] == "p-hapi-1 was killed"
    assert "did not end within stop_timeout (40 s)" in str(found["warnings"])


def test_release_and_again(run: Run, world: World) -> None:
    world.data = {"relay1": inspected("relay", 1, "running")}
    refused = run(state="released")
    assert (refused["rc"], world.calls) == (1, [])
    assert run(True, state="released")["changed"]
    assert run(state="released", allow_interruption=True)["changed"]
    assert world.calls == ["stop relay1", "rm relay1"]
    assert not run(state="released", allow_interruption=True)["changed"]
