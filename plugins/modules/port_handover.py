#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: port_handover
short_description: Hand a published port from one Compose service to another, with one short and measured interruption
version_added: 1.0.0
author: "The dghs.bd_fhir developers (@dghs-bd)"
description:
  - Docker gives a port of the host to one container at a time, so that a service which publishes one can't run twice.
    This module hands such a port to another service, that publishes it in place of the first one and passes on what comes in.
  - The container of O(service) is made beforehand. Then the container that has the port is stopped, after its requests have ended,
    and the other one is started at once. What lies between is in RV(interrupted_seconds).
  - If the successor does not start or does not answer, the container that had the port is started again.
  - With O(state=released) the container of O(service) is stopped and removed, so that the port is free.
  - Other services of the project are never started, stopped or recreated.
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.balancer
  - dghs.bd_fhir.lock
  - dghs.bd_fhir.change
  - dghs.bd_fhir.attributes
attributes:
  check_mode:
    support: full
    details:
      - Takes no lock and changes nothing. What a real run would refuse is in RV(findings), and does not fail the task.
      - O(service) need not be in the compose files yet if O(ports) names the ports.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  service:
    description:
      - Service that shall have the ports. It has one container.
    type: str
    required: true
  holder:
    description:
      - Service whose container has the ports up to now. Its compose configuration must not publish them any more.
    type: str
    required: true
  ports:
    description:
      - The published ports as C(8080->8080/tcp) or C(127.0.0.1:8080->8080/tcp).
      - By default those that the configuration of O(service) publishes.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(held) is for O(service) having the ports, V(released) for it not running.
    type: str
    choices:
      - held
      - released
    default: held
  if_free:
    description:
      - With O(state=held), leave all as it is while a container of O(holder) has the ports.
        This is for what an interrupted run has left behind, when nobody has them.
    type: bool
    default: false
  path:
    description:
      - Path that has to answer 200 at the port after it has changed hands.
      - If empty, a connection is enough. Docker itself accepts it, so that it tells little.
    type: str
    default: ''
  balancer:
    description:
      - The HAProxy behind O(service). The container that leaves is drained there, and nothing is handed over while no other
        server is up.
  drain_timeout:
    description:
      - Seconds to wait for the requests that the balancer has in flight to the container that leaves.
        Those that come in by the port itself end after C(SIGTERM), as the application does it.
    type: int
    default: 30
  stop_timeout:
    description:
      - Seconds from C(SIGTERM) to C(SIGKILL) for the container that leaves.
    type: int
    default: 40
  ready_timeout:
    description:
      - Seconds within which the port has to answer again.
    type: int
    default: 20
  allow_interruption:
    description:
      - Allows what lies between the stop and the start.
    type: bool
    default: false
seealso:
  - module: dghs.bd_fhir.compose_rollout
"""

EXAMPLES = r"""
- name: Say what handing the port over would interrupt
  dghs.bd_fhir.port_handover:
    project_dir: /opt/bd-fhir-national
    service: hapi-balancer-port
    holder: hapi
    ports: ["8080->8080/tcp"]
  check_mode: true

- name: Hand the port over
  dghs.bd_fhir.port_handover:
    project_dir: /opt/bd-fhir-national
    service: hapi-balancer-port
    holder: hapi
    path: /balancer-health
    balancer:
      socket: /opt/bd-fhir-national/compose.d/balancer/run/admin.sock
      backend: hapi
    allow_interruption: true

- name: Free the port for the service that had it before
  dghs.bd_fhir.port_handover:
    project_dir: /opt/bd-fhir-national
    service: hapi-balancer-port
    holder: hapi
    state: released
    allow_interruption: true
"""

RETURN = r"""
ports:
  description: The ports of the host that this is about.
  type: list
  elements: str
  returned: always
  sample: ["8080"]
holders:
  description: Names of the containers that had the ports at the start, those of O(service) included.
  type: list
  elements: str
  returned: always
  sample: [bd-fhir-national-hapi-1]
interruption:
  description: Seconds for which nobody may answer at the ports, at most. V(0) if nothing has to be stopped.
  type: int
  returned: always
  sample: 60
interrupted_seconds:
  description:
    - Seconds from the moment at which the container was told to stop until the port answered again. V(0) if nothing was stopped.
    - With O(state=released), until the port was free.
  type: float
  returned: always
  sample: 2.4
detail:
  description: What was seen.
  type: str
  returned: always
  sample: bd-fhir-national-hapi-1 ended by itself with exit code 143
findings:
  description: What stops a real run (severity V(error)).
  type: list
  elements: dict
  returned: always
  sample: []
lock_waited:
  description: Seconds that were spent waiting for another run.
  type: float
  returned: always
  sample: 0.0
"""

import http.client
import socket
import time

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _haproxy, _ports
from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Container, Docker, last_lines, parse_container
from ..module_utils._findings import failed_on, finding, summary
from ..module_utils._haproxy import HAProxy, HAProxyError, Server
from ..module_utils._lock import LOCK_ARGUMENTS, HostLock, LockError
from ..module_utils._ports import Binding

POLL = 0.1  # seconds between two questions to the port: it is what the interruption is measured with
RELEASE_TIMEOUT = 15.0  # seconds for HAProxy to notice that a stopped container is gone
LIVE = ("running", "restarting", "paused")


class HandoverError(Exception):
    """The port could not be handed over. The text is complete."""


class Handover:
    """Reads who has the ports, and hands them over. Raises HandoverError, ComposeError, HAProxyError."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.params = params
        self.service: str = params["service"]
        self.docker = Docker.from_module(module)
        self.balancer: Optional[HAProxy] = None
        self.backend = ""
        if params["balancer"]:
            self.balancer = HAProxy(params["balancer"]["socket"])
            self.backend = params["balancer"]["backend"]
        self.findings: list[dict[str, Any]] = []
        self.ports: list[Binding] = []
        self.own: list[Container] = []  # containers of the service
        self.leaving: list[Container] = []  # containers of the holder that have one of the ports
        self.touched = False
        self.seconds = 0.0
        self.detail = ""

    # -- reading

    def read(self) -> None:
        """Read configuration and containers."""
        texts = self.params["ports"]
        known = self.service in (self.docker.config(True).get("services") or {})
        if not texts and (known or not self.module.check_mode):
            texts = self.docker.expected(self.service).ports
        try:
            self.ports = _ports.parse_published(texts)
        except ValueError as exc:
            raise HandoverError("Nothing was changed: %s. Only single TCP ports of the host can be handed over." % exc) from None
        if not self.ports and self.params["state"] == "held" and not self.module.check_mode:
            raise HandoverError(
                "Nothing was changed: the service %s in %s publishes no port that it could have." % (self.service, self.docker.project_dir)
            )
        self.own = self.docker.containers(self.service)
        held = self.docker.containers(self.params["holder"])
        asked = {item["Id"]: _ports.bindings_of(item) for item in self.docker.inspect([item.id for item in held])}
        self.leaving = [item for item in held if item.state in LIVE and _ports.clashing(self.ports, asked.get(item.id, []))]

    def running(self) -> Optional[Container]:
        """The service's container, if it runs."""
        return next((item for item in self.own if item.state in LIVE), None)

    def names(self) -> list[str]:
        """Names of the containers that have the ports."""
        now = self.running()
        return [item.name for item in self.leaving] + ([now.name] if now else [])

    def needed(self) -> bool:
        """Tell whether there is anything to do."""
        if self.params["state"] == "released":
            return bool(self.own)
        return self.running() is None and not (self.leaving and self.params["if_free"])

    def interruption(self) -> int:
        """Return how many seconds nobody may answer, at most."""
        if not self.needed():
            return 0
        if self.params["state"] == "released":
            return int(self.params["stop_timeout"]) if self.running() else 0
        return int(self.params["stop_timeout"] + self.params["ready_timeout"]) if self.leaving else 0

    # -- what is refused

    def check(self) -> None:
        """Put into findings what stops this before its first change."""
        where = "port %s" % ", ".join(map(str, self.ports))
        if not self.needed():
            return
        if self.interruption() and not self.params["allow_interruption"]:
            self.add(
                "interruption_not_allowed",
                where,
                "no interruption",
                "from the stop of %s on nobody answers there for up to %d s" % (", ".join(self.names()), self.interruption()),
                "Choose a quiet hour, and allow it with allow_interruption.",
            )
        if self.params["state"] == "released":
            return
        for text in self.foreign():
            self.add(
                "port_taken",
                where,
                "free, or held by a container of %s" % self.params["holder"],
                text,
                "Stop what has the port, or publish another one.",
            )
        if self.leaving and self.balancer:
            addresses = {address for item in self.leaving for address in item.addresses.values()}
            try:
                ready = [item.name for item in self.balancer.servers(self.backend) if item.up and item.address not in addresses]
            except HAProxyError:
                # In a dry run the balancer may not be there yet.
                if not self.module.check_mode:
                    raise
                return
            # A dry run comes before the replicas that a real run starts first.
            if not ready and not self.module.check_mode:
                self.add(
                    "port_without_replica",
                    where,
                    "a replica behind the balancer that is not the one that leaves",
                    "none in backend %s" % self.backend,
                    "Give HAPI room for one replica beside the one that has the port (max_surge 1).",
                )

    def foreign(self) -> list[str]:
        """Return who else has one of the ports."""
        known = {item.id for item in self.own} | {item.id for item in self.leaving}
        found = []
        everyone = self.docker.docker("ps", "-q", "--no-trunc")[1].split()
        published: list[Binding] = []
        for data in self.docker.inspect(everyone):
            asked = _ports.bindings_of(data)
            published += asked
            if data["Id"] not in known and _ports.clashing(self.ports, asked):
                found.append("container %s" % data["Name"].lstrip("/"))
        for listens, inode in _ports.listeners():
            # What Docker published it listens for itself.
            if _ports.clashing(self.ports, [listens]) and not _ports.clashing([listens], published):
                found.append("process %s on %s" % (_ports.owner_of(inode) or "that this user can't see", listens))
        return sorted(set(found))

    def add(self, name: str, obj: str, expected: Any, found: Any, hint: str) -> None:
        """Add a finding that stops a real run."""
        self.findings.append(finding(name, "error", obj, expected, found, hint))

    # -- steps

    def release(self) -> None:
        """Stop and remove the service's container."""
        self.touched = True
        begun = time.monotonic()
        for item in self.own:
            if item.state in LIVE:
                self.stop(item)
                self.seconds = round(time.monotonic() - begun, 2)
            self.docker.docker("rm", item.id)
        self.detail = "%s removed" % ", ".join(item.name for item in self.own)

    def hold(self) -> None:
        """Give the ports to the service's container."""
        self.touched = True
        successor = self.prepare()
        if not self.leaving:
            self.docker.docker("start", successor.id)
            self.detail = "%s started%s" % (successor.name, "" if self.answers(False) else ", but the port does not answer yet")
            return
        servers = self.drain()
        begun = time.monotonic()
        try:
            for item in self.leaving:
                self.stop(item)
            self.docker.docker("start", successor.id)
            if not self.answers(True):
                raise HandoverError(
                    "%s was started, but port %s did not answer%s within %d s. Its last lines: %s."
                    % (
                        successor.name,
                        ", ".join(map(str, self.ports)),
                        " 200 at %s" % self.params["path"] if self.params["path"] else "",
                        self.params["ready_timeout"],
                        self.docker.logs_tail(successor.id, 5) or "(none)",
                    )
                )
        except (HandoverError, ComposeError) as exc:
            self.seconds = round(time.monotonic() - begun, 2)
            raise HandoverError("%s %s" % (exc, self.give_back(successor, servers))) from None
        self.seconds = round(time.monotonic() - begun, 2)
        seen = []
        for item in self.leaving:
            ended = parse_container(self.docker.inspect([item.id])[0])
            # 137 is SIGKILL: what was in flight is lost.
            killed = ended.exit_code == 137
            seen.append("%s %s" % (item.name, "was killed" if killed else "ended by itself with exit code %d" % ended.exit_code))
            if killed:
                self.module.warn("%s did not end within stop_timeout (%d s) and was killed." % (item.name, self.params["stop_timeout"]))
            self.docker.docker("rm", item.id)
        self.free(servers)
        self.detail = ", ".join(seen)

    def prepare(self) -> Container:
        """Make the service's container without starting it; one that is there and current is taken."""
        expected = self.docker.expected(self.service)
        if expected.image_id is None:
            raise HandoverError("Nothing was changed: the image %s is not on this host. Pull it first." % expected.image_ref)
        current = [item for item in self.own if not item.outdated(expected)]
        for item in self.own:
            if item not in current[:1]:
                self.docker.docker("rm", item.id)
        if current:
            return current[0]
        arguments = ["up", "--no-start", "--no-deps", "--no-build", "--pull", "never", "--scale", "%s=1" % self.service, self.service]
        rc, out, err = self.docker.compose(*arguments, check=False)
        made = self.docker.containers(self.service)
        if len(made) != 1:
            raise HandoverError(
                "Nothing was stopped: `docker compose %s` in %s should have made one container, but made %d (return code %d): %s."
                % (" ".join(arguments), self.docker.project_dir, len(made), rc, last_lines(self.docker.clean(err or out)) or "nothing was said")
            )
        return made[0]

    def stop(self, item: Container) -> None:
        """Stop a container."""
        grace = int(self.params["stop_timeout"])
        self.docker.docker("stop", "-t", str(grace), item.id, timeout=grace + max(30, self.docker.command_timeout))

    def answers(self, fully: bool) -> bool:
        """Wait until the ports answer; fully: with the wanted path."""
        deadline = time.monotonic() + self.params["ready_timeout"]
        while True:
            if all(self.ask(item, self.params["path"] if fully else "") for item in self.ports):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL)

    @staticmethod
    def ask(port: Binding, path: str) -> bool:
        """Tell whether a port answers now."""
        if not path:
            try:
                socket.create_connection((port.reachable, port.port), timeout=2).close()
            except OSError:
                return False
            return True
        connection = http.client.HTTPConnection(port.reachable, port.port, timeout=2)
        try:
            connection.request("GET", path, headers={"Accept": "*/*"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def drain(self) -> list[tuple[Server, Container]]:
        """Take the containers that leave out of the balancer, and wait for its requests to end there."""
        found: list[tuple[Server, Container]] = []
        if self.balancer is None:
            return found
        for item in self.leaving:
            server = _haproxy.find_by_address(self.balancer.servers(self.backend), item.addresses.values())
            if server is None:
                continue
            found.append((self.balancer.set_state(self.backend, server.name, "drain"), item))
            empty, last = self.balancer.wait(self.backend, server.name, _haproxy.idle, self.params["drain_timeout"], times=2)
            if not empty:
                self.module.warn("%s still had %d requests in flight after drain_timeout." % (item.name, last.sessions))
        return found

    def free(self, servers: list[tuple[Server, Container]]) -> None:
        """Let drained slots have requests again, as soon as that can't bring one to a container that left."""
        if self.balancer is None:
            return
        for server, item in servers:
            self.balancer.wait(self.backend, server.name, _haproxy.left(item.addresses.values()), RELEASE_TIMEOUT)
            self.balancer.set_state(self.backend, server.name, "ready")

    def give_back(self, successor: Container, servers: list[tuple[Server, Container]]) -> str:
        """After a failure: start again what had the ports. Returns what came of it, for the message."""
        self.docker.docker("stop", "-t", "3", successor.id, check=False)
        failed = []
        for item in self.leaving:
            rc, dummy, err = self.docker.docker("start", item.id, check=False)
            if rc != 0:
                failed.append("%s could not be started again: %s" % (item.name, last_lines(self.docker.clean(err), 2)))
        if self.balancer is not None:
            for server, _item in servers:
                self.balancer.set_state(self.backend, server.name, "ready")
        return "; ".join(failed) + "." if failed else "%s was started again and has the port." % ", ".join(item.name for item in self.leaving)


def run(module: AnsibleModule, handover: Handover, change: ChangeGuard, result: dict[str, Any]) -> None:
    """Do what was asked; fills result. Raises HandoverError, ComposeError, ChangeError, HAProxyError."""
    handover.read()
    ports = ", ".join(map(str, handover.ports))
    before = handover.names()
    result.update(ports=[str(item) for item in handover.ports], holders=before, interruption=handover.interruption())
    handover.check()
    result["findings"] = handover.findings
    needed = handover.needed()
    after = before
    if needed:
        after = ["%s-%s-1" % (handover.docker.project_name(), handover.service)] if module.params["state"] == "held" else []
    result["diff"] = {"before": line_of(ports, before), "after": line_of(ports, after)}
    if module.check_mode or not needed:
        result["changed"] = needed
        return
    errors = failed_on(handover.findings, ["error"])
    if errors:
        raise HandoverError("Refused before the first change. %s" % summary(errors))
    change.step("hand over" if module.params["state"] == "held" else "release", "port %s" % ports, before, after)
    try:
        if module.params["state"] == "held":
            handover.hold()
        else:
            handover.release()
    finally:
        result.update(changed=handover.touched, interrupted_seconds=handover.seconds, detail=handover.detail)


def line_of(ports: str, names: list[str]) -> str:
    """Return the line of a diff. Pure."""
    return "port %s: %s\n" % (ports or "(none)", ", ".join(names) or "nobody")


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            service={"type": "str", "required": True},
            holder={"type": "str", "required": True},
            ports={"type": "list", "elements": "str", "default": []},
            state={"type": "str", "choices": ["held", "released"], "default": "held"},
            if_free={"type": "bool", "default": False},
            path={"type": "str", "default": ""},
            balancer={"type": "dict", "options": _haproxy.BALANCER_OPTIONS},
            drain_timeout={"type": "int", "default": 30},
            stop_timeout={"type": "int", "default": 40},
            ready_timeout={"type": "int", "default": 20},
            allow_interruption={"type": "bool", "default": False},
            **LOCK_ARGUMENTS,
            **CHANGE_ARGUMENTS,
        ),
        supports_check_mode=True,
    )
    params = module.params
    for name in ("drain_timeout", "stop_timeout", "ready_timeout", "lock_timeout"):
        if params[name] < 0:
            module.fail_json(msg="%s is %g, but can't be negative." % (name, params[name]))
    if params["service"] == params["holder"]:
        module.fail_json(msg="service and holder are both %s: a port changes hands between two services." % params["service"])
    if params["path"] and not params["path"].startswith("/"):
        module.fail_json(msg="path is %r, but has to begin with a slash." % params["path"])
    result: dict[str, Any] = {
        "changed": False,
        "ports": [],
        "holders": [],
        "interruption": 0,
        "interrupted_seconds": 0.0,
        "detail": "",
        "findings": [],
        "lock_waited": 0.0,
    }
    lock: Optional[HostLock] = None
    try:
        handover = Handover(module)
        change = ChangeGuard.from_module(module, "" if module.check_mode else handover.docker.project_name())
        if not module.check_mode:
            what = "port_handover to %s (%s) in %s" % (params["service"], params["state"], params["project_dir"])
            lock = HostLock.of_project(handover.docker, params, what)
            result["lock_waited"] = round(lock.waited, 1)
            change.verify()
        run(module, handover, change, result)
    except (HandoverError, ComposeError, ChangeError, HAProxyError, LockError, OSError) as exc:
        module.fail_json(msg=str(exc), **result)
    finally:
        if lock is not None:
            lock.release()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
