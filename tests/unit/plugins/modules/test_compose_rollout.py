# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() with Docker and HAProxy replaced by small worlds; the real ones are in tests/integration/real."""

from __future__ import annotations

import json
import pathlib
from dataclasses import replace
from typing import Any, Callable, Optional

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _haproxy
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import ComposeError, Container, Expected
from ansible_collections.dghs.bd_fhir.plugins.module_utils._haproxy import HAProxyError, Server
from ansible_collections.dghs.bd_fhir.plugins.modules import compose_rollout

EXPECTED = Expected(
    service="hapi",
    scale=2,
    config_hash="h2",
    config_hashes=("h2",),
    image_ref="reg/hapi:2",
    image_id="sha256:two",
    healthcheck=True,
    stop_grace_period=10.0,
    container_name="",
    ports=[],
    memory_limit=0,
)


def container(number: int, **more: Any) -> Container:
    values: dict[str, Any] = {
        "id": "id%d" % number,
        "name": "p-hapi-%d" % number,
        "service": "hapi",
        "number": number,
        "oneoff": False,
        "state": "running",
        "health": "healthy",
        "exit_code": 0,
        "oom_killed": False,
        "image_ref": "reg/hapi:2",
        "image_id": "sha256:two",
        "config_hash": "h2",
        "created": "",
        "started_at": "",
        "restart_count": 0,
        "restart_policy": "no",
        "addresses": {"net": "10.0.0.%d" % number},
    }
    values.update(more)
    return Container(**values)


class World:
    """A Docker in which things happen at once."""

    def __init__(self, *containers: Container) -> None:
        self.things = {item.id: item for item in containers}
        self.next = 1 + max([item.number for item in containers] or [0])
        self.expect = EXPECTED
        self.calls: list[tuple[str, ...]] = []
        self.keep_fds: list[int] = []
        self.project_dir = "/opt/p"
        self.command_timeout = 120
        self.version = "2.40.3"
        self.config_of: dict[str, Any] = {"services": {"hapi": {}}}
        self.dry_run = ""
        self.new: Callable[[int], Optional[Container]] = container
        self.stop_fails = False
        self.compose_rc = 0
        self.balancer: Optional[Balancer] = None

    def project_name(self) -> str:
        return "p"

    def compose_version(self) -> str:
        return self.version

    def config(self) -> dict[str, Any]:
        return self.config_of

    def clean(self, text: str) -> str:
        return text.replace("s3cret", "********")

    def expected(self, service: str, refresh: bool = False) -> Expected:
        return self.expect

    def containers(self, service: str) -> list[Container]:
        return sorted((item for item in self.things.values() if item.service == service), key=lambda item: item.number)

    def inspect(self, ids: list[str]) -> list[Container]:
        return [self.things[item] for item in ids if item in self.things]

    def logs_tail(self, container_id: str, lines: int) -> str:
        return "log of %s" % container_id

    def compose(self, *args: str, check: bool = True) -> tuple[int, str, str]:
        self.calls.append(args)
        if args[0] == "--dry-run":
            return 0, "", self.dry_run
        if "--no-start" not in args:
            made = self.new(self.next)
            self.next += 1
            if made:
                self.things[made.id] = made
                if self.balancer:
                    self.balancer.arrive(made)
        return self.compose_rc, "", "it said s3cret" if self.compose_rc else ""

    def docker(self, *args: str, timeout: Optional[float] = None, check: bool = True) -> tuple[int, str, str]:
        if args[0] == "events":
            return 0, "1\n42\n", ""
        self.calls.append(args)
        name = args[-1]
        if args[0] == "stop":
            if self.stop_fails:
                raise ComposeError("the daemon is gone")
            self.things[name] = replace(self.things[name], state="exited", exit_code=143)
            if self.balancer:
                self.balancer.leave(self.things[name])
        elif args[0] == "rm":
            assert self.things[name].state != "running" or "-f" in args
            del self.things[name]
        return 0, "", ""


class Balancer:
    """An HAProxy that follows DNS at once."""

    address = "/run/h.sock"

    def __init__(self, *containers: Container, slots: int = 5) -> None:
        self.slots = {"s%d" % number: slot("s%d" % number, None) for number in range(1, slots + 1)}
        self.may = "admin"
        self.busy = 0
        self.history: list[str] = []
        for item in containers:
            self.arrive(item)

    def arrive(self, item: Container) -> None:
        name = next(name for name, server in self.slots.items() if server.address is None)
        self.slots[name] = replace(
            self.slots[name], address=item.addresses["net"], op_state=2, check_health=3,
            admin_state=self.slots[name].admin_state & ~_haproxy.ADMIN_RESOLUTION_MAINT,
        )  # fmt: skip

    def leave(self, item: Container) -> None:
        for name, server in self.slots.items():
            if server.address == item.addresses["net"]:
                self.slots[name] = replace(
                    server, address=None, op_state=0, check_health=0,
                    admin_state=server.admin_state | _haproxy.ADMIN_RESOLUTION_MAINT,
                )  # fmt: skip

    def level(self) -> str:
        return self.may

    def servers(self, backend: str) -> list[Server]:
        return list(self.slots.values())

    def set_state(self, backend: str, name: str, state: str) -> Server:
        self.history.append("%s %s" % (name, state))
        server = self.slots[name]
        admin = server.admin_state & ~_haproxy.ADMIN_FORCED_DRAIN
        if state == "drain":
            admin |= _haproxy.ADMIN_FORCED_DRAIN
        self.slots[name] = replace(server, admin_state=admin, sessions=self.busy if state == "drain" else 0)
        return self.slots[name]

    def wait(self, backend: str, name: str, predicate: Any, timeout: float, times: int = 1) -> tuple[bool, Server]:
        return predicate(self.slots[name]), self.slots[name]


def slot(name: str, address: Optional[str], **more: Any) -> Server:
    values: dict[str, Any] = {
        "name": name,
        "address": address,
        "port": 8080,
        "admin_state": 0 if address else _haproxy.ADMIN_RESOLUTION_MAINT,
        "op_state": 2 if address else 0,
        "checked": True,
        "check_health": 3 if address else 0,
        "check_health_full": 3,
        "check_status": "L7OK",
        "sessions": 0,
        "queued": 0,
        "weight": 1,
        "status": "UP",
    }
    values.update(more)
    return Server(**values)


class Result(dict):  # type: ignore[type-arg]
    """What main() printed."""

    def actions(self, key: str = "done") -> list[str]:
        return ["%s %s" % (item["action"], item["replica"]) for item in self[key]]

    def errors(self) -> list[str]:
        return [item["id"] for item in self["findings"] if item["severity"] == "error"]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> Callable[..., Result]:
    monkeypatch.setattr(compose_rollout, "POLL", 0)
    monkeypatch.setattr(compose_rollout, "REMOVING_TIMEOUT", 0)
    monkeypatch.setattr(compose_rollout, "FOREIGN_TIMEOUT", 0)
    monkeypatch.setattr(compose_rollout, "parse_container", lambda item: item)

    def call(world: World, balancer: Optional[Balancer] = None, check: bool = False, **more: Any) -> Result:
        args: dict[str, Any] = {
            "project_dir": "/opt/p",
            "service": "hapi",
            "replicas": 2,
            "steps": 0,
            "settle": 0,
            "ready_timeout": 0,
            "lock_dir": str(tmp_path / "locks"),
            "_ansible_check_mode": check,
        }
        world.balancer = balancer
        if balancer:
            args["balancer"] = {"socket": "/run/h.sock", "backend": "hapi"}
        args.update(more)
        monkeypatch.setattr(compose_rollout.Docker, "from_module", lambda module: world)
        monkeypatch.setattr(compose_rollout, "HAProxy", lambda address: balancer)
        with patch_module_args(args), pytest.raises(SystemExit):
            compose_rollout.main()
        result = Result(json.loads(capsys.readouterr().out))
        assert set(result) >= {
            "changed",
            "service",
            "want",
            "plan",
            "done",
            "remaining",
            "replicas",
            "findings",
            "logs",
        }
        return result

    return call


def old(number: int, **more: Any) -> Container:
    return container(number, image_id="sha256:one", **more)


def test_as_wanted(run: Callable[..., Result]) -> None:
    world = World(container(1), container(2))
    for check in (True, False):
        result = run(world, check=check)
        assert (result["changed"], result["plan"], result["done"], result["remaining"]) == (False, [], [], [])
    assert world.calls == []
    assert result["diff"]["before"] == result["diff"]["after"] != ""


def test_replace(run: Callable[..., Result]) -> None:
    things = old(1), container(2, config_hash="h1")
    world, balancer = World(*things), Balancer(*things)
    plan = run(world, balancer, check=True)
    assert plan["changed"]
    assert plan["done"] == []
    assert set(world.things) == {"id1", "id2"}
    assert balancer.history == []
    result = run(world, balancer)
    steps = ["start p-hapi-3", "stop p-hapi-2", "start p-hapi-4", "stop p-hapi-1"]
    assert plan.actions("plan") == result.actions("plan") == result.actions() == steps
    assert plan["remaining"] == plan["plan"]
    assert result["remaining"] == []
    assert set(plan) == set(result)
    assert [item["name"] for item in plan["replicas"]] == [item["name"] for item in result["replicas"]]
    assert plan["diff"] == result["diff"]
    assert balancer.history == ["s2 drain", "s2 ready", "s1 drain", "s1 ready"]
    assert "another configuration" in result["done"][1]["reason"]
    assert "another image" in result["done"][3]["reason"]
    # Only ever with what keeps Compose from touching anything else.
    ups = [call for call in world.calls if call[0] == "up"]
    assert ups[0] == (
        "up", "-d", "--no-deps", "--no-recreate", "--no-build", "--pull", "never", "--scale", "hapi=3", "hapi",
    )  # fmt: skip
    assert len(ups) == 2


def test_one_step(run: Callable[..., Result]) -> None:
    world = World(old(1), old(2))
    result = run(world, steps=1)
    assert result.actions() == ["start p-hapi-3"]
    assert result["changed"]
    assert result.actions("remaining") == result.actions("plan")[1:]


def test_new_replica_fails(run: Callable[..., Result]) -> None:
    """Case 30."""
    world = World(old(1), old(2))
    world.new = lambda number: container(number, state="exited", health="none", exit_code=3, addresses={})
    result = run(world)
    assert result["failed"]
    assert result["changed"]
    assert result["done"] == []
    assert "exit code 3" in result["msg"]
    assert "log of id3" in result["msg"]
    assert set(world.things) == {"id1", "id2"}
    world.new = lambda number: container(number, state="exited", exit_code=137, oom_killed=True, addresses={})
    assert "lack of memory" in run(world)["msg"]
    world.new = lambda number: container(number, state="restarting", restart_count=1)
    assert "did not stay up: restarting, exit code 0" in run(world)["msg"]
    world.new = lambda number: container(number, health="starting")
    result = run(world)
    assert "not ready within 0 seconds: its health check has not passed yet" in result["msg"]
    assert set(world.things) == {"id1", "id2"}


def test_restarted_meanwhile(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker was quicker than we were: the exit code comes from its events."""
    world = World(container(1))
    inspect = world.inspect
    monkeypatch.setattr(world, "inspect", lambda ids: [replace(item, restart_count=1) for item in inspect(ids)])
    assert "did not stay up: restarted, exit code 42, 1 restarts" in run(world)["msg"]


def test_what_compose_says_is_not_what_counts(run: Callable[..., Result]) -> None:
    world = World(container(1))
    world.compose_rc = 1
    assert run(world).actions() == ["start p-hapi-2"]
    world = World(container(1))
    world.new = lambda number: None
    result = run(world)
    assert result["failed"]
    assert "made none (return code 0)" in result["msg"]
    world.compose_rc = 17
    result = run(world)
    assert "return code 17" in result["msg"]
    assert "s3cret" not in json.dumps(result)
    world.new = lambda number: container(number, state="created", health="none")
    result = run(world)
    assert "does not start" in result["msg"]
    assert set(world.things) == {"id1"}


def test_new_replica_with_another_hash(run: Callable[..., Result]) -> None:
    """A Compose that writes another hash than it prints would otherwise make the roll go on for ever."""
    world = World(container(1))
    world.new = lambda number: container(number, config_hash="h9")
    result = run(world)
    assert "already outdated" in result["msg"]
    assert set(world.things) == {"id1"}


def test_failure_between_drain_and_stop(run: Callable[..., Result]) -> None:
    """A replica that stays must not stay in drain."""
    things = container(1), container(2), container(3)
    world, balancer = World(*things), Balancer(*things)
    world.stop_fails = True
    result = run(world, balancer)
    assert "the daemon is gone" in result["msg"]
    assert result["changed"]
    assert balancer.history == ["s3 drain", "s3 ready"]
    assert not any(server.drained for server in balancer.slots.values())


def test_drain_that_takes_too_long(run: Callable[..., Result]) -> None:
    things = container(1), container(2), container(3)
    world, balancer = World(*things), Balancer(*things)
    balancer.busy = 4
    result = run(world, balancer, drain_timeout=1)
    assert result["warnings"]
    assert "4 requests in flight" in str(result["warnings"])
    assert "4 requests still in flight" in result["done"][0]["detail"]
    assert set(world.things) == {"id1", "id2"}


def test_wait_never_removes_what_may_have_served(run: Callable[..., Result]) -> None:
    world = World(container(1), container(2, health="starting"))
    result = run(world)
    assert result["failed"]
    assert not result["changed"]
    assert set(world.things) == {"id1", "id2"}
    # One too many is what a killed run has added.
    world = World(old(1), old(2), container(3, health="starting"))
    result = run(world)
    assert "was removed" in result["msg"]
    assert set(world.things) == {"id1", "id2"}


def test_refused_in_a_real_run_and_listed_in_check_mode(run: Callable[..., Result]) -> None:
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("image_missing", {"image_id": None}, {}),
        ("no_health_check", {"healthcheck": False}, {}),
        ("container_name_set", {"container_name": "bd-hapi"}, {}),
        ("fixed_host_port", {"ports": ["8080->8080/tcp"]}, {}),
        ("fixed_host_port", {"ports": ["127.0.0.1:8080-8081->8080/tcp"]}, {}),
        ("interruption_not_allowed", {}, {"max_surge": 0}),
    ]
    for name, expect, more in cases:
        world = World(*(old(number, config_hash="h1", ports=["0.0.0.0:%d->8080/tcp" % (8079 + number)]) for number in (1, 2)))
        world.expect = replace(EXPECTED, **expect)
        plan = run(world, check=True, **more)
        assert plan.errors() == [name]
        assert not plan.get("failed")
        result = run(world, **more)
        assert result["failed"]
        assert name in result["msg"]
        assert not result["changed"]
        assert not [call for call in world.calls if call[0] != "--dry-run"]
    # The same settings where they do no harm.
    world = World(container(1))
    world.expect = replace(EXPECTED, container_name="bd-hapi", ports=["8080->8080/tcp"], image_id=None)
    assert run(world, replicas=1).errors() == []
    world = World(old(1))
    world.expect = replace(EXPECTED, ports=["8080-8099->8080/tcp"])
    assert run(world, replicas=1).errors() == []
    # One that was made without the port is not in the way of the one that gets it.
    world = World(old(1))
    world.expect = replace(EXPECTED, ports=["8080->8080/tcp"])
    assert run(world, replicas=1).errors() == []
    world = World(old(1, ports=["0.0.0.0:8080->8080/tcp"]))
    world.expect = replace(EXPECTED, ports=["8080->8080/tcp"])
    assert run(world, replicas=1).errors() == ["fixed_host_port"]


def test_would_touch_others(run: Callable[..., Result]) -> None:
    world = World(container(1))
    world.dry_run = " DRY-RUN MODE -  Container p-db-1  Stopping\n"
    assert run(world, check=True).errors() == ["would_touch_others"]
    assert "container p-db-1: Stopping" in run(world)["msg"]
    assert not [call for call in world.calls if call[0] == "up"]


def test_paused(run: Callable[..., Result]) -> None:
    assert run(World(container(1, state="paused"), container(2)), check=True).errors() == ["replica_paused"]


def test_balancer_that_is_not_fit(run: Callable[..., Result]) -> None:
    things = (container(1),)
    balancer = Balancer(*things, slots=1)
    balancer.may = "operator"
    assert run(World(*things), balancer, check=True).errors() == ["balancer_not_admin", "balancer_slots"]
    balancer = Balancer(*things)
    balancer.slots["s4"] = replace(balancer.slots["s4"], admin_state=_haproxy.ADMIN_FORCED_MAINT)
    assert run(World(*things), balancer, check=True).errors() == ["balancer_maintenance"]


def test_slots_left_in_drain(run: Callable[..., Result]) -> None:
    things = container(1), container(2)
    world, balancer = World(*things), Balancer(*things)
    for name in ("s1", "s4"):
        balancer.set_state("hapi", name, "drain")
    result = run(world, balancer)
    assert result.actions() == ["ready p-hapi-1", "ready s4"]
    assert result["changed"]
    assert not any(server.drained for server in balancer.slots.values())
    assert world.calls == []


def test_new_replica_in_a_drained_slot(run: Callable[..., Result]) -> None:
    """A slot that was drained behind our back just when the new replica came: it is set ready."""
    things = (container(1),)
    world, balancer = World(*things), Balancer(*things)
    arrive = balancer.arrive

    def late(item: Container) -> None:
        arrive(item)
        balancer.set_state("hapi", "s2", "drain")

    balancer.arrive = late  # type: ignore[method-assign]
    assert run(world, balancer, ready_timeout=5).actions() == ["start p-hapi-2"]
    assert balancer.history == ["s2 drain", "s2 ready"]


def test_leftovers(run: Callable[..., Result]) -> None:
    world = World(container(1), container(2), container(3, state="exited", exit_code=1, addresses={}))
    result = run(world)
    assert result.actions() == ["remove p-hapi-3"]
    assert result["logs"] == {"p-hapi-3": "log of id3"}


def test_old_compose_makes_it_with_dependencies_in_sight(run: Callable[..., Result]) -> None:
    world = World(container(1), replace(container(9), service="db"), replace(container(10), service="db"))
    world.config_of = {"services": {"hapi": {"depends_on": {"db": {}, "once": {}}}, "db": {}, "once": {}}}
    world.version = "2.29.2"
    world.next = 2
    assert run(world).actions() == ["start p-hapi-2"]
    create, start = [call for call in world.calls if call[0] == "up"]
    assert "--no-start" in create
    assert "--no-deps" not in create
    assert "db=2" in create
    assert "once=0" in create
    assert "hapi=2" in create
    assert "--no-deps" in start
    assert "db=2" not in start


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("replicas", 0, "from 1 to 50"),
        ("replicas", -1, "from 1 to 50"),
        ("replicas", 51, "from 1 to 50"),
        ("drain_timeout", -1, "drain_timeout is -1"),
        ("max_surge", -1, "max_surge is -1"),
        ("settle", -0.5, "settle is -0.5"),
    ],
)
def test_absurd(
    option: str,
    value: Any,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = {"project_dir": "/opt/p", "service": "hapi", "replicas": 1, option: value}
    with patch_module_args(args), pytest.raises(SystemExit):
        compose_rollout.main()
    result = json.loads(capsys.readouterr().out)
    assert result["failed"]
    assert text in result["msg"]


@pytest.mark.parametrize(
    ("more", "server", "answer", "phase", "why"),
    [
        ({}, slot("s", "10.0.0.1"), None, "ready", ""),
        ({"health": "none"}, slot("s", "10.0.0.1"), "", "ready", ""),
        ({"health": "none"}, slot("s", "10.0.0.1"), "no answer", "pending", "no answer"),
        ({"health": "starting"}, slot("s", "10.0.0.1"), None, "pending", "not passed yet"),
        ({"health": "unhealthy"}, slot("s", "10.0.0.1"), None, "broken", "health check fails"),
        ({"state": "restarting", "exit_code": 1}, None, None, "broken", "again and again, exit code 1"),
        ({"state": "exited", "exit_code": 2}, None, None, "dead", "exit code 2"),
        ({"state": "created"}, None, None, "dead", "it is created"),
        ({"state": "dead", "oom_killed": True}, None, None, "dead", "out of memory"),
        ({}, None, None, "pending", "no server with its address"),
        ({}, slot("s", "10.0.0.1", admin_state=1), None, "pending", "maintenance by hand"),
        ({}, slot("s", "10.0.0.1", op_state=0), None, "pending", "the balancer says"),
        ({}, slot("s", "10.0.0.1", check_health=2), None, "pending", "the balancer says"),
        ({}, slot("s", "10.0.0.1", admin_state=4), None, "pending", "sends it nothing"),
        ({}, slot("s", "10.0.0.1", admin_state=8), None, "ready", ""),
    ],
)
def test_judge(more: dict[str, Any], server: Optional[Server], answer: Optional[str], phase: str, why: str) -> None:
    found = compose_rollout.judge(container(1, **more), EXPECTED, answer, True, server)
    assert found.phase == phase
    assert why in found.why
    assert found.drained == (server is not None and server.drained)


def test_judge_without_a_balancer() -> None:
    assert compose_rollout.judge(container(1), EXPECTED, None, False, None).phase == "ready"


def test_unreachable_balancer(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    balancer = Balancer(container(1))

    def nobody(backend: str) -> list[Server]:
        raise HAProxyError("HAProxy at /run/h.sock: nobody")

    balancer.servers = nobody  # type: ignore[method-assign]
    result = run(World(container(1)), balancer)
    assert result["failed"]
    assert "nobody" in result["msg"]
    # Before the balancer is set up, check mode says so and plans without it.
    result = run(World(container(1)), balancer, check=True)
    assert result.errors() == ["balancer_unreachable"]
    assert result.actions("plan") == ["start p-hapi-2"]


def test_servers_of_others_stay_drained(run: Callable[..., Result]) -> None:
    things = container(1), container(2)
    world, balancer = World(*things), Balancer(*things)
    balancer.arrive(container(77))
    balancer.set_state("hapi", "s3", "drain")
    result = run(world, balancer)
    assert (result["changed"], result["plan"]) == (False, [])
    assert balancer.slots["s3"].drained


def test_a_failure_shows_what_is_left(run: Callable[..., Result]) -> None:
    world = World(container(1), container(2), container(3))
    world.stop_fails = True
    stop = world.docker

    def half(*args: str, **more: Any) -> tuple[int, str, str]:
        world.things.pop("id2", None)
        return stop(*args, **more)

    world.docker = half  # type: ignore[method-assign]
    result = run(world)
    assert result["failed"]
    assert [item["name"] for item in result["replicas"]] == ["p-hapi-1", "p-hapi-3"]
