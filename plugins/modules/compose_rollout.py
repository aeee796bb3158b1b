#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_rollout
short_description: Bring a Compose service to N replicas of the current configuration and image, one at a time
version_added: 1.0.0
author: "The dghs.bd_fhir developers (@dghs-bd)"
description:
  - Brings a service of a Docker Compose project to a number of replicas that are all made from the configuration and
    the image of today, in steps of one replica, without taking one that serves out before others can do its work.
  - Compose itself does not roll. It stops all replicas at once and then starts the new ones.
  - Every step is decided afresh from what is there at that moment. A run that was killed at any point is therefore
    continued by the next one, whatever it left behind, and a run on a service that is as wanted changes nothing.
  - With O(balancer), a leaving replica gets no new requests and its requests in flight end before it is told to stop.
  - Other services of the project are never started, stopped, scaled or recreated.
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
      - Takes no lock and changes nothing. RV(plan) holds every step to come, RV(replicas) and the diff show the
        predicted state.
      - What a real run would refuse is in RV(findings), and does not fail the task.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  service:
    description:
      - Name of the service in the compose file.
    type: str
    required: true
  replicas:
    description:
      - How many replicas are wanted, from 1 to 50.
      - So that a later C(docker compose up -d) keeps the count, C(scale) in the compose file set has to say the same.
        This module does not edit compose files.
    type: int
    required: true
  balancer:
    description:
      - The HAProxy that spreads the requests. Its backend is expected to find the replicas by DNS
        (C(server-template)).
      - Without it, requests in flight end well only if the application itself ends them after C(SIGTERM).
  probe:
    description:
      - An HTTP request to every replica, or a connection, that tells whether it is ready, made from the host to the
        container's address.
      - Needed when the service has no health check. When it has one, both have to be good.
    type: dict
    suboptions:
      port:
        description:
          - Port inside of the container. Required, except with V(tcp).
          - Left out or V(0), it is the port of a pgBouncer, which its container's environment names or its image exposes.
        type: int
      path:
        description:
          - Path that is asked for, with the query if there is one. Required, except with V(tcp).
        type: str
      scheme:
        description:
          - Protocol. With V(https) the certificate is not checked, since it can't name the address of a container.
          - With V(tcp), a connection that is accepted is enough, for a service that does not speak HTTP.
        type: str
        choices:
          - http
          - https
          - tcp
        default: http
      status:
        description:
          - Status code that means ready. Ignored with V(tcp).
        type: int
        default: 200
  max_surge:
    description:
      - How many replicas may run beyond O(replicas) while one replaces another.
      - With V(0) a replica is stopped before its successor starts, which O(allow_interruption) has to permit.
      - More than V(1) is used only when replicas are broken.
    type: int
    default: 1
  ready_timeout:
    description:
      - Seconds within which a new replica has to be ready.
      - One that is not, or that exits or restarts before, is removed, and the module fails with its last log lines.
        One that runs without a restart and is the only one there is stays.
    type: int
    default: 300
  settle:
    description:
      - Seconds for which a new replica has to stay ready before the next step.
    type: float
    default: 2
  drain_timeout:
    description:
      - Seconds to wait for the requests in flight of a leaving replica. What is left then is in the warnings.
    type: int
    default: 30
  stop_timeout:
    description:
      - Seconds from C(SIGTERM) to C(SIGKILL) for a leaving replica.
    type: int
    default: 40
  end_signal:
    description:
      - Signal on which the program ends soon and orderly, where the image's own stop signal asks for something else.
      - A PostgreSQL whose image says C(SIGTERM) waits on that for all of its clients to go, until it is killed; on V(SIGINT) it does not.
      - It is sent after the image's own, with which Docker knows that the end is wanted.
    type: str
  steps:
    description:
      - How many steps are done in one call. V(0) does all.
      - With V(1) in a loop over RV(plan), the task list of the play shows the progress.
    type: int
    default: 1
  allow_interruption:
    description:
      - Allows to stop a serving replica before its successor is ready, when there is no room for both.
    type: bool
    default: false
  data_paths:
    description:
      - Paths in the container whose content its successor needs, such as the data directory of a database.
      - A container in which one of them is neither in a folder of the host nor in a volume with a name is not taken out.
    type: list
    elements: str
    default: []
  allow_anonymous_volumes:
    description:
      - Paths at which a container may have a volume without a name, whose content its successor does not get.
      - Such a volume is not removed, but Compose does not know it any more. With O(max_surge=0) a container that has another one, with
        anything in it, is not taken out. With more, its successor already serves without that content, and a warning tells of it.
    type: list
    elements: str
    default: []
  assume_outdated:
    description:
      - Plan as if every replica were made from another configuration.
      - For a dry run in which the change that makes them so could not be written. Outside of check mode it is refused.
    type: bool
    default: false
seealso:
  - module: dghs.bd_fhir.deployment_info
  - module: dghs.bd_fhir.balance_info
"""

EXAMPLES = r"""
- name: Show what scaling to three replicas would do
  dghs.bd_fhir.compose_rollout:
    project_dir: /opt/bd-fhir-national
    service: hapi
    replicas: 3
    balancer:
      socket: /opt/bd-fhir-national/balancer/run/haproxy.sock
      backend: hapi
  check_mode: true
  register: plan

- name: Bring the service to three current replicas, one step at a time
  dghs.bd_fhir.compose_rollout:
    project_dir: /opt/bd-fhir-national
    service: hapi
    replicas: 3
    balancer:
      socket: /opt/bd-fhir-national/balancer/run/haproxy.sock
      backend: hapi
    drain_timeout: 60
    stop_timeout: 60
  loop: "{{ plan.plan }}"
  loop_control:
    label: "{{ item.action }} {{ item.replica }}: {{ item.reason }}"
  register: rollout

- name: Replace the only replica where memory does not allow a second one
  dghs.bd_fhir.compose_rollout:
    project_dir: /opt/bd-fhir-national
    service: hapi
    replicas: 1
    max_surge: 0
    allow_interruption: true
    probe:
      port: 8080
      path: /actuator/health/readiness
    steps: 0
"""

RETURN = r"""
service:
  description: Name of the service.
  type: str
  returned: always
  sample: hapi
want:
  description: Wanted number of replicas.
  type: int
  returned: always
  sample: 3
plan:
  description: The steps that led from the state at the start to the wanted one, as seen at the start.
  type: list
  elements: dict
  returned: always
  contains:
    action:
      description:
        - V(start) makes a new replica and waits until it is ready. V(wait) waits for one that is there.
        - V(stop) takes one out, V(remove) removes one that does not run.
        - V(ready) lets a drained slot of the balancer have requests again.
      type: str
    replica:
      description: Name of the replica, or of the slot of the balancer. For V(start) the name that it will probably get.
      type: str
    reason:
      description: Why.
      type: str
    interruption:
      description: Seconds for which the service may be interrupted, at most. V(0) if it is not.
      type: int
    interruption_text:
      description: What is interrupted. Empty if nothing is.
      type: str
  sample:
    - action: start
      replica: bd-fhir-national-hapi-2
      reason: 1 of 3 current replicas are there
      interruption: 0
      interruption_text: ""
done:
  description: The steps that this call did, like RV(plan) with what came of them. Empty in check mode.
  type: list
  elements: dict
  returned: always
  contains:
    action:
      description: See RV(plan).
      type: str
    replica:
      description: Name of the replica, or of the slot.
      type: str
    reason:
      description: Why.
      type: str
    interruption:
      description: See RV(plan).
      type: int
    interruption_text:
      description: See RV(plan).
      type: str
    seconds:
      description: How long the step took.
      type: float
    detail:
      description: What was seen.
      type: str
  sample:
    - action: stop
      replica: bd-fhir-national-hapi-1
      reason: another image than registry/hapi:1.1
      interruption: 0
      interruption_text: ""
      seconds: 3.4
      detail: server hapi-2 drained in 1.2 s, ended by itself with exit code 143
remaining:
  description: The steps that are left, like RV(plan). Empty when the service is as wanted.
  type: list
  elements: dict
  returned: always
  sample: []
replicas:
  description:
    - The replicas afterwards.
    - In check mode those predicted, where a new one has the name that it will probably get.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: Name of the container.
      type: str
    id:
      description: ID of the container, empty for a predicted one.
      type: str
    number:
      description: Number that Compose gave it.
      type: int
    state:
      description: State that Docker tells.
      type: str
    health:
      description: Health that Docker tells. V(none) without a health check.
      type: str
    phase:
      description: What it is good for, V(ready), V(pending), V(broken) or V(dead).
      type: str
    current:
      description: Whether it was made from the configuration and the image of today.
      type: bool
    drained:
      description: Whether its slot in the balancer is set to drain.
      type: bool
    server:
      description: Its slot in the balancer. Empty without one.
      type: str
    why:
      description: Why it is outdated, or not ready.
      type: str
    addresses:
      description: Network and address.
      type: dict
    image_id:
      description: ID of its image.
      type: str
    config_hash:
      description: Hash of the configuration that it was made from.
      type: str
    started_at:
      description: When it was started.
      type: str
    restart_count:
      description: How often Docker has restarted it.
      type: int
findings:
  description: What would stop a real run (severity V(error)), or deserves a look.
  type: list
  elements: dict
  returned: always
  sample: []
logs:
  description: The last lines of replicas that were removed because they did not run or did not get ready, by name.
  type: dict
  returned: always
  sample: {}
lock_waited:
  description: Seconds that were spent waiting for another run.
  type: float
  returned: always
  sample: 0.0
"""

import contextlib
import dataclasses
import http.client
import os
import re
import signal
import socket
import ssl
import time

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _haproxy, _rollout
from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import (
    COMPOSE_ARGUMENTS,
    ComposeError,
    Container,
    Docker,
    Expected,
    last_lines,
    parse_container,
    version_tuple,
)
from ..module_utils._findings import failed_on, finding, summary
from ..module_utils._haproxy import HAProxy, HAProxyError, Server
from ..module_utils._lock import LOCK_ARGUMENTS, HostLock, LockError
from ..module_utils._pgbouncer import port_of
from ..module_utils._rollout import Refused, Replica, State, Step, Want

POLL = 0.5  # seconds between two looks at something that is waited for
RELEASE_TIMEOUT = 15.0  # seconds for HAProxy to notice that a stopped replica is gone
FOREIGN_TIMEOUT = 5.0  # seconds after which a drained server that still answers is somebody else's
REMOVING_TIMEOUT = 20.0  # seconds for Docker to finish a removal that somebody else began
# Before this version the hash that `up --no-deps` writes leaves out depends_on, that of a plain `up` does not.
NO_DEPS_KEEPS_HASH = (2, 29, 3)


class RolloutError(Exception):
    """A step did not succeed. The text is complete."""


def why_outdated(container: Container, expected: Expected) -> str:
    """Return one phrase that tells why a container is outdated, "" if it is not. Pure."""
    if container.config_hash not in expected.config_hashes:
        return "made from another configuration"
    if expected.image_id is not None and container.image_id != expected.image_id:
        return "made from another image than %s is now" % expected.image_ref
    return ""


def judge(
    container: Container,
    expected: Expected,
    answer: Optional[str],
    balanced: bool,
    server: Optional[Server],
) -> Replica:
    """Tell what a container is good for. Pure.

    answer: what is wrong with the probe's answer, "" if it was good, None if there is no probe.
    balanced: whether there is a balancer; server: the container's slot in it, if it has one.
    """
    outdated = why_outdated(container, expected)
    phase, why = _rollout.READY, ""
    if container.state in ("created", "exited", "dead"):
        phase = _rollout.DEAD
        why = "it is %s" % container.state
        if container.state != "created":
            why += ", exit code %d%s" % (container.exit_code, ", out of memory" if container.oom_killed else "")
    elif container.state == "restarting":
        phase, why = _rollout.BROKEN, "it ends again and again, exit code %d" % container.exit_code
    elif container.health == "unhealthy":
        phase, why = _rollout.BROKEN, "its health check fails"
    elif container.health == "starting":
        phase, why = _rollout.PENDING, "its health check has not passed yet"
    elif answer:
        phase, why = _rollout.PENDING, answer
    elif balanced and server is None:
        phase, why = _rollout.PENDING, "the balancer has no server with its address"
    elif server is not None and server.forced_maint:
        phase, why = _rollout.PENDING, "server %s was put into maintenance by hand" % server.name
    elif server is not None and not server.alive:
        phase, why = _rollout.PENDING, "the balancer says %s" % server.describe()
    elif server is not None and not server.up and not server.drained:
        phase, why = _rollout.PENDING, "the balancer sends it nothing: %s" % server.describe()
    return Replica(
        id=container.id,
        name=container.name,
        number=container.number,
        phase=phase,
        current=not outdated,
        drained=server is not None and server.drained,
        why="; ".join(part for part in (outdated, why) if part),
    )


def is_empty(container: Container, path: str) -> bool:
    """Tell whether a mount is seen to hold nothing. One that can't be looked into is none."""
    source = next(item["source"] for item in container.mounts if item["destination"] == path)
    try:
        return not os.listdir(source)
    except OSError:
        return False


def fixed_ports(ports: list[str], most: int) -> list[str]:
    """Return those published ports that `most` containers can't have at the same time. Pure."""
    fixed = []
    for port in ports:
        published = port.partition("->")[0].rpartition(":")[2]
        match = re.match(r"([0-9]+)(?:-([0-9]+))?\Z", published)
        if match and int(match.group(2) or match.group(1)) - int(match.group(1)) + 1 < most:
            fixed.append(port)
    return fixed


class Roller:
    """Reads the service's state and does steps. Raises RolloutError, ComposeError, HAProxyError."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.params = params
        self.service: str = params["service"]
        self.want = Want(params["replicas"], params["max_surge"], params["allow_interruption"])
        self.docker = Docker.from_module(module)
        self.balancer: Optional[HAProxy] = None
        self.backend = ""
        if params["balancer"]:
            self.balancer = HAProxy(params["balancer"]["socket"])
            self.backend = params["balancer"]["backend"]
        self.probe: Optional[dict[str, Any]] = params["probe"]
        self.logs: dict[str, str] = {}
        self.findings: list[dict[str, Any]] = []
        self.done: list[dict[str, Any]] = []
        self.touched = False  # whether anything was changed, also by a step that failed afterwards
        self.containers: list[Container] = []
        self.servers: list[Server] = []
        self.expected: Expected

    # -- reading

    def prefix(self) -> str:
        """Return what stands before the number in names of the service's containers."""
        return "%s-%s-" % (self.docker.project_name(), self.service)

    def read(self) -> State:
        """Read everything afresh: configuration, containers, probes, balancer."""
        self.expected = self.docker.expected(self.service, refresh=True)
        return self.look()

    def look(self) -> State:
        """Read the state again, with the configuration that was read last."""
        deadline = time.monotonic() + REMOVING_TIMEOUT
        while True:
            found = self.docker.containers(self.service)
            going = [item.name for item in found if item.state == "removing"]
            if not going:
                break
            if time.monotonic() >= deadline:
                raise RolloutError(
                    "Docker has been removing %s for more than %g seconds. Look at the daemon's log, and remove the"
                    " container by hand (docker rm -f %s)." % (", ".join(going), REMOVING_TIMEOUT, going[0])
                )
            time.sleep(POLL)
        self.containers = found
        self.servers = self.read_balancer()
        replicas = tuple(self.judge(item) for item in found)
        return State(replicas, self.stuck())

    def read_balancer(self) -> list[Server]:
        """Read the backend's servers. In check mode a balancer that is not there (yet) is a finding."""
        if self.balancer is None:
            return []
        try:
            return self.balancer.servers(self.backend)
        except HAProxyError as exc:
            if not self.module.check_mode:
                raise
            self.add(
                "balancer_unreachable",
                self.balancer.address,
                "HAProxy's runtime API with backend %s" % self.backend,
                str(exc),
                "Set the balancer up first. The plan was made without it.",
            )
            self.balancer = None
            return []

    def stuck(self) -> tuple[str, ...]:
        """Return the names of drained slots that no replica is in.

        A slot whose replica has just gone may still have its address for a second. One that keeps an address that is not
        ours, and answers there, is somebody else's server: it is left alone.
        """
        owned: set[str] = set()
        for item in self.containers:
            if item.state in ("running", "restarting"):
                owned.update(item.addresses.values())
        deadline = time.monotonic() + FOREIGN_TIMEOUT
        while True:
            drained = [item for item in self.servers if item.drained and item.address not in owned]
            free = [item for item in drained if _haproxy.left([item.address or ""])(item)]
            if len(free) == len(drained) or time.monotonic() >= deadline:
                return tuple(item.name for item in free)
            time.sleep(POLL)
            self.servers = self.read_balancer()

    def judge(self, container: Container) -> Replica:
        """Judge one container by all there is; asks the probe and uses what the balancer said last."""
        answer = None
        if self.probe and container.state == "running":
            answer = self.ask(container, self.probe)
        server = _haproxy.find_by_address(self.servers, container.addresses.values())
        expected = self.expected
        if self.params["assume_outdated"]:
            expected = dataclasses.replace(expected, config_hashes=())
        return judge(container, expected, answer, self.balancer is not None, server)

    def haproxy(self) -> HAProxy:
        """The balancer, for a step that only a balancer can have led to. Raises RolloutError when there is none."""
        if self.balancer is None:
            raise RolloutError("This step needs a balancer, and none was given. Please report it.")
        return self.balancer

    def ask(self, container: Container, probe: dict[str, Any]) -> str:
        """Send the probe; returns what is wrong with the answer, "" if nothing is."""
        answer = "it has no address"
        for address in container.addresses.values():
            if probe["scheme"] == "tcp":
                port = probe["port"] or port_of(self.docker, container)
                try:
                    socket.create_connection((address, port), timeout=5).close()
                    return ""
                except OSError as exc:
                    answer = "%s:%d takes no connection (%s)" % (address, port, exc.strerror or exc)
                    continue
            where = "%s://%s:%d%s" % (probe["scheme"], address, probe["port"], probe["path"])
            connection: http.client.HTTPConnection
            if probe["scheme"] == "https":
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                connection = http.client.HTTPSConnection(address, probe["port"], timeout=5, context=context)
            else:
                connection = http.client.HTTPConnection(address, probe["port"], timeout=5)
            try:
                connection.request("GET", probe["path"], headers={"Accept": "*/*"})
                response = connection.getresponse()
                if response.status == probe["status"]:
                    return ""
                answer = "%s answers with status %d" % (where, response.status)
            except (OSError, http.client.HTTPException) as exc:
                answer = "%s does not answer (%s)" % (where, getattr(exc, "strerror", None) or exc.__class__.__name__)
            finally:
                connection.close()
        return answer

    def container(self, container_id: str) -> Optional[Container]:
        """Return one container as it is now, None when it is gone."""
        items = self.docker.inspect([container_id])
        return parse_container(items[0]) if items else None

    def public(self, state: State) -> list[dict[str, Any]]:
        """Return what the module shows of the replicas of a state, real or predicted."""
        by_id = {item.id: item for item in self.containers}
        shown = []
        for replica in sorted(state.replicas, key=lambda item: item.number):
            container = by_id.get(replica.id)
            server = _haproxy.find_by_address(self.servers, container.addresses.values()) if container else None
            shown.append(
                {
                    "name": replica.name,
                    "id": replica.id,
                    "number": replica.number,
                    "state": container.state if container else "running",
                    "health": self.health_of(replica, container),
                    "phase": replica.phase,
                    "current": replica.current,
                    "drained": replica.drained,
                    "server": server.name if server else "",
                    "why": replica.why,
                    "addresses": container.addresses if container else {},
                    "image_id": container.image_id if container else self.expected.image_id or "",
                    "config_hash": container.config_hash if container else self.expected.config_hash,
                    "started_at": container.started_at if container else "",
                    "restart_count": container.restart_count if container else 0,
                }
            )
        return shown

    def health_of(self, replica: Replica, container: Optional[Container]) -> str:
        """Return the health that Docker tells, or will tell of a replica that is predicted to be ready."""
        if container and (container.health != "starting" or replica.phase != _rollout.READY):
            return container.health
        return "healthy" if self.expected.healthcheck else "none"

    def public_step(self, step: Step) -> dict[str, Any]:
        """Return what the module shows of a step."""
        seconds, text = 0, ""
        if step.interrupts:
            seconds = self.params["stop_timeout"] + self.params["ready_timeout"]
            if self.want.replicas == 1:
                text = "nothing serves from the moment that %s stops until its successor is ready" % step.target
            else:
                text = "one replica fewer serves until the successor of %s is ready" % step.target
        return {
            "action": step.action,
            "replica": step.target,
            "reason": step.reason,
            "interruption": seconds,
            "interruption_text": text,
        }

    def plan(self, state: State) -> tuple[list[Step], State, str]:
        """Return the steps to come, the predicted state, and why they stop early."""
        return _rollout.plan(state, self.want, self.service, self.docker.project_name() + "-")

    # -- what is refused

    def check(self, state: State, steps: list[Step], blocked: str) -> None:
        """Put into findings what stops this plan before its first change."""
        where = "service %s in %s" % (self.service, self.docker.project_dir)
        starts = any(step.action == _rollout.START for step in steps)
        if blocked:
            self.add("interruption_not_allowed", where, "no interruption", blocked, "Give it room, or allow it.")
        if not self.expected.healthcheck and not self.probe:
            self.add(
                "no_health_check",
                where,
                "a health check or a probe",
                "neither",
                "Without one nobody can tell when a new replica is ready. Set probe (port and path).",
            )
        for item in self.containers:
            if item.state == "paused":
                self.add(
                    "replica_paused",
                    item.name,
                    "running or not running",
                    "paused",
                    "Somebody froze it on purpose. Let it go on (docker unpause %s), or remove it." % item.name,
                )
        if starts and self.expected.image_id is None:
            self.add(
                "image_missing",
                self.expected.image_ref,
                "the image on this host",
                "no such image",
                "Pull it first (docker compose pull %s)." % self.service,
            )
        most = _rollout.most_at_once(state, steps)
        if starts and most > 1 and self.expected.container_name:
            self.add(
                "container_name_set",
                where,
                "no container_name, so that %d containers can run" % most,
                self.expected.container_name,
                "Reset it in a fragment (container_name: !reset null).",
            )
        # A replica that was made without the port is not in the way of one that is made with it.
        having = {item.id for item in self.containers if item.ports}
        with_ports = dataclasses.replace(state, replicas=tuple(item for item in state.replicas if item.id in having))
        for port in fixed_ports(self.expected.ports, _rollout.most_at_once(with_ports, steps)) if starts else []:
            self.add(
                "fixed_host_port",
                where,
                "no fixed host port, so that %d containers can run" % most,
                port,
                "Reset it in a fragment (ports: !reset []), and let the balancer publish the port.",
            )
        leaving = {step.id for step in steps if step.action in (_rollout.STOP, _rollout.REMOVE)}
        for item in self.containers:
            if item.id in leaving:
                self.check_data(item)
        if self.balancer:
            level = self.balancer.level()
            if level != "admin":
                self.add(
                    "balancer_not_admin",
                    self.balancer.address,
                    "level admin",
                    "level %s" % level,
                    "Put 'level admin' on HAProxy's 'stats socket' line.",
                )
            if starts and most > len(self.servers):
                self.add(
                    "balancer_slots",
                    "backend %s" % self.backend,
                    "at least %d servers" % most,
                    len(self.servers),
                    "Raise the count of 'server-template' in HAProxy's configuration.",
                )
            for server in self.servers:
                if server.forced_maint:
                    self.add(
                        "balancer_maintenance",
                        "server %s/%s" % (self.backend, server.name),
                        "not in maintenance",
                        server.status,
                        "Somebody put it there by hand; a replica in this slot gets no request. Set it ready again.",
                    )
                elif not server.checked and not server.unresolved:
                    self.add(
                        "balancer_no_check",
                        "server %s/%s" % (self.backend, server.name),
                        "a health check by HAProxy",
                        "none",
                        "Add 'check' to the server line, or a replica gets requests before it is ready.",
                        "warning",
                    )
        grace = self.expected.stop_grace_period
        if grace is not None and grace > self.params["stop_timeout"]:
            self.add(
                "stop_timeout_short",
                where,
                "at least its stop_grace_period, %g s" % grace,
                "stop_timeout %d s" % self.params["stop_timeout"],
                "A replica that takes as long as its own configuration allows would be killed. Raise stop_timeout.",
                "warning",
            )
        if self.expected.scale != self.want.replicas:
            self.add(
                "scale_differs",
                where,
                "scale %d in the compose file set" % self.want.replicas,
                self.expected.scale,
                "The next plain `docker compose up -d` goes back to the configured count. Set scale in a fragment.",
                "warning",
            )
        if starts and not failed_on(self.findings, ["error"]):
            try:
                dangers = self.dangers()
            except RolloutError as exc:
                dangers = []
                self.add("compose_refuses", where, "one new container", str(exc), "Correct what Compose complains of.")
            if dangers:
                self.add(
                    "would_touch_others",
                    where,
                    "one new container and nothing else",
                    "; ".join(dangers),
                    "Compose would do this along with the new container, whatever options it is given. The usual cause"
                    " is a network or volume whose definition has changed since it was made: take that change back, or"
                    " apply it in a maintenance window.",
                )

    def check_data(self, container: Container) -> None:
        """Put into findings what the successor of a container would not have. A plain `up` hands on even volumes without a name."""
        for path, volume in sorted(container.anonymous_volumes().items()):
            if path not in self.params["allow_anonymous_volumes"] and not is_empty(container, path):
                self.add(
                    "anonymous_volume",
                    container.name,
                    "%s in a volume with a name, or in a folder of the host" % path,
                    "volume %s, which no other container gets" % volume,
                    "If it holds what is needed, copy it into a volume with a name, and give the service that one, before anything"
                    " is made anew. If it can be made again, name the path in allow_anonymous_volumes.",
                    "warning" if self.want.max_surge else "error",
                )
        for path in self.params["data_paths"]:
            if not container.keeps(path):
                self.add(
                    "data_not_kept",
                    container.name,
                    "%s in a volume with a name, or in a folder of the host" % path,
                    "mounts at %s" % (", ".join(item["destination"] for item in container.mounts) or "no path"),
                    "What is made in its place would begin with nothing. Copy the data into a volume with a name, and give the service"
                    " that one, in a maintenance window; until then this container must only be restarted.",
                )

    def add(self, name: str, obj: str, expected: Any, found: Any, hint: str, severity: str = "error") -> None:
        """Add a finding."""
        self.findings.append(finding(name, severity, obj, expected, found, hint))

    def up_arguments(self, count: int) -> list[list[str]]:
        """Return the compose commands that bring the number of containers to count and touch nothing else."""
        common = ["--no-recreate", "--no-build", "--pull", "never", "--scale", "%s=%d" % (self.service, count)]
        start = ["up", "-d", "--no-deps"] + common + [self.service]
        dependencies = _rollout.closure(self.docker.config(), self.service)
        if not dependencies or version_tuple(self.docker.compose_version()) >= NO_DEPS_KEEPS_HASH:
            return [start]
        # An older Compose would write a hash that makes the owner's next plain `up` recreate the replica. So it is made
        # with its dependencies in sight, each held at the count that it has now, and started without them.
        create = ["up", "--no-start"] + common
        for name in dependencies:
            create += ["--scale", "%s=%d" % (name, len(self.docker.containers(name)))]
        return [create + [self.service], start]

    def dangers(self) -> list[str]:
        """Ask Compose what it would do for one more container; returns what is not that container."""
        # A fixed name allows one container at a time: its successor is made when it is gone, and Compose refuses to be
        # asked for two.
        count = 1 if self.expected.container_name else len(self.containers) + 1
        first = self.up_arguments(count)[0]
        rc, out, err = self.docker.compose("--dry-run", *first, check=False)
        if rc != 0:
            raise RolloutError(
                "Compose would not start another replica: `docker compose --dry-run %s` ended with return code %d: %s."
                % (" ".join(first), rc, last_lines(self.docker.clean(err)) or "no output")
            )
        return _rollout.dry_run_dangers(out + "\n" + err, self.prefix(), self.expected.container_name)

    # -- steps

    def do(self, step: Step) -> None:
        """Do one step and note it in done. Raises RolloutError when it did not succeed."""
        started = time.monotonic()
        target = next((item for item in self.containers if step.id and item.id == step.id), None)
        if step.action == _rollout.START:
            detail = self.start()
        elif step.action == _rollout.SET_READY:
            detail = self.set_ready(step, target)
        elif target is None:
            raise RolloutError("There is no container %s any more." % step.target)
        elif step.action == _rollout.WAIT:
            detail = self.wait(target)
        elif step.action == _rollout.STOP:
            detail = self.take_out(target)
        else:
            detail = self.remove(target)
        name = step.target
        if step.action == _rollout.START:
            name, dummy, detail = detail.partition(" ")
        self.done.append(
            dict(self.public_step(step), replica=name, seconds=round(time.monotonic() - started, 1), detail=detail)
        )

    def start(self) -> str:
        """Make one more container and wait until it is ready. Returns its name and what was seen."""
        dangers = self.dangers()
        if dangers:
            raise RolloutError(
                "Compose would do more than make one container: %s. Nothing was started." % "; ".join(dangers)
            )
        before = {item.id for item in self.containers}
        self.touched = True
        rc, out, err = 0, "", ""
        for arguments in self.up_arguments(len(before) + 1):
            rc, out, err = self.docker.compose(*arguments, check=False)
            if rc != 0:
                break
        # The return code is not trusted either way: the containers are what counts.
        new = [item for item in self.docker.containers(self.service) if item.id not in before]
        said = last_lines(self.docker.clean(err)) or last_lines(self.docker.clean(out)) or "nothing"
        if len(new) != 1:
            raise RolloutError(
                "`docker compose %s` in %s should have made one container, but made %s (return code %d): %s."
                % (
                    " ".join(arguments),
                    self.docker.project_dir,
                    ", ".join(item.name for item in new) or "none",
                    rc,
                    said,
                )
            )
        made = new[0]
        try:
            if made.state == "created":
                raise RolloutError("%s was made, but does not start (return code %d): %s." % (made.name, rc, said))
            outdated = why_outdated(made, self.expected)
            if outdated:
                self.expected = self.docker.expected(self.service, refresh=True)
                outdated = why_outdated(made, self.expected)
            if outdated:
                raise RolloutError(
                    "%s has just been made and is already outdated: %s. The compose files or the image changed"
                    " meanwhile, or this Compose writes another hash than it prints. Run again; if it stays so, please"
                    " report it with the version of Compose." % (made.name, outdated)
                )
            seconds = self.await_ready(made)
        except RolloutError as exc:
            running = [item for item in self.docker.containers(self.service) if item.state == "running"]
            if [item.id for item in running] == [made.id] and running[0].restart_count == made.restart_count:
                # It runs, and may serve after all; without it there is nothing. One that keeps ending is no better than none.
                raise RolloutError("%s It is the only one there is, and was left running." % exc) from None
            self.discard(made)
            raise RolloutError("%s The new replica was removed, the others were left as they are." % exc) from None
        return "%s ready after %.1f s" % (made.name, seconds)

    def wait(self, target: Container) -> str:
        """Wait for a replica that an earlier run, or somebody else, has started."""
        try:
            return "ready after %.1f s" % self.await_ready(target)
        except RolloutError as exc:
            # One too many is what an earlier run has added; any other may have served before, so it stays.
            if len([item for item in self.containers if item.state == "running"]) > self.want.replicas:
                self.touched = True
                self.discard(target)
                raise RolloutError("%s It was one too many and was removed." % exc) from None
            raise

    def await_ready(self, target: Container) -> float:
        """Wait until a container is ready and has stayed so; returns the seconds. Raises RolloutError with its log."""
        started = time.monotonic()
        ready_since: Optional[float] = None
        while True:
            now = self.container(target.id)
            if now is None:
                raise RolloutError("%s was removed by somebody while it was waited for." % target.name)
            if now.state not in ("running", "paused") or now.restart_count > target.restart_count:
                self.keep_log(now)
                raise RolloutError(
                    "%s did not stay up: %s, %d restarts. Its last lines: %s"
                    % (now.name, self.how_it_ended(now), now.restart_count, self.logs[now.name] or "(none)")
                )
            if self.balancer:
                self.servers = self.balancer.servers(self.backend)
            replica = self.judge(now)
            if replica.phase == _rollout.READY and replica.drained:
                # It landed in a slot that a killed run left in drain.
                self.undrain(now)
                replica = self.judge(now)
            if replica.serving:
                ready_since = time.monotonic() if ready_since is None else ready_since
                if time.monotonic() - ready_since >= self.params["settle"]:
                    return time.monotonic() - started
            else:
                ready_since = None
                if time.monotonic() - started >= self.params["ready_timeout"]:
                    self.keep_log(now)
                    raise RolloutError(
                        "%s was not ready within %d seconds: %s. Its last lines: %s"
                        % (
                            now.name,
                            self.params["ready_timeout"],
                            replica.why or "drained",
                            self.logs[now.name] or "(none)",
                        )
                    )
            time.sleep(POLL)

    def how_it_ended(self, container: Container) -> str:
        """Return one phrase with the exit code of a container that ended, also when Docker has restarted it since."""
        code = str(container.exit_code)
        if container.state == "running":
            # A restarted container does not tell any more how it ended before. The daemon's last events do.
            rc, out, dummy = self.docker.docker(
                "events", "--since", "1h", "--until", "%.6f" % time.time(), "--filter", "container=%s" % container.id,
                "--filter", "event=die", "--format", "{{.Actor.Attributes.exitCode}}", check=False,
            )  # fmt: skip
            codes = out.split() if rc == 0 else []
            code = codes[-1] if codes else "unknown"
        return "%s, exit code %s%s" % (
            container.state if container.state != "running" else "restarted",
            code,
            ", killed for lack of memory" if container.oom_killed else "",
        )

    def keep_log(self, container: Container) -> None:
        """Keep the last lines of a container that is about to go, or to be complained of."""
        self.logs[container.name] = self.docker.logs_tail(container.id, 20)

    def discard(self, target: Container) -> None:
        """Take away a container that did not get ready. It may have been ready for a moment, so with all care."""
        now = self.container(target.id)
        if now is None:
            return
        if now.state == "running":
            self.take_out(now)
        else:
            # Removing by force also ends the restarts.
            self.docker.docker("rm", "-f", now.id, timeout=self.docker.command_timeout)

    def remove(self, target: Container) -> str:
        """Remove a container that does not run."""
        self.keep_log(target)
        now = self.container(target.id)
        if now is None:
            return "it is gone already"
        if now.state not in ("created", "exited", "dead"):
            raise RolloutError("%s was to be removed because it did not run, but now it is %s." % (now.name, now.state))
        self.touched = True
        # Not by force: should it be started in this very moment, Docker refuses.
        self.docker.docker("rm", now.id)
        return "was %s, exit code %d" % (now.state, now.exit_code)

    def set_ready(self, step: Step, target: Optional[Container]) -> str:
        """Let a slot have requests again."""
        self.touched = True
        if target is not None:
            return self.undrain(target)
        addresses = [item.address for item in self.servers if item.name == step.target and item.address]
        return self.free_slot(step.target, addresses)

    def undrain(self, target: Container) -> str:
        """Set the slot of a replica that stays ready, if it is drained."""
        balancer = self.haproxy()
        server = _haproxy.find_by_address(balancer.servers(self.backend), target.addresses.values())
        if server is None or not server.drained:
            return "it is not drained any more"
        self.touched = True
        server = balancer.set_state(self.backend, server.name, "ready")
        self.servers = balancer.servers(self.backend)
        return "server %s set ready" % server.name

    def free_slot(self, name: str, addresses: list[str]) -> str:
        """Set a drained slot ready as soon as that can't bring requests to the addresses of a replica that left.

        Drain is a property of the slot: without this, the next replica in it would get no request. Doing it while DNS
        or the health check still believe in the old replica would send requests to nobody.
        """
        balancer = self.haproxy()
        is_left = _haproxy.left(addresses)
        gone, server = balancer.wait(self.backend, name, is_left, RELEASE_TIMEOUT)
        if not gone:
            self.module.warn(
                "HAProxy at %s still holds server %s after %g s, although its replica is gone. It is set ready now;"
                " check the resolvers section (hold valid, hold obsolete)."
                % (balancer.address, server.describe(), RELEASE_TIMEOUT)
            )
        if server.drained:
            balancer.set_state(self.backend, name, "ready")
        return "server %s set ready" % name

    def take_out(self, target: Container) -> str:
        """Drain a replica, stop it, remove it, and give its slot back. Returns what was seen."""
        seen = []
        addresses = list(target.addresses.values())
        server = None
        self.touched = True
        if self.balancer:
            server = _haproxy.find_by_address(self.balancer.servers(self.backend), addresses)
        stopped = False
        try:
            if self.balancer and server:
                begun = time.monotonic()
                self.balancer.set_state(self.backend, server.name, "drain")
                empty, last = self.balancer.wait(
                    self.backend, server.name, _haproxy.idle, self.params["drain_timeout"], times=2
                )
                if empty:
                    seen.append("server %s drained in %.1f s" % (server.name, time.monotonic() - begun))
                else:
                    seen.append("%d requests still in flight" % last.sessions)
                    self.module.warn(
                        "%s still had %d requests in flight after drain_timeout (%d s) when it was told to stop; it has"
                        " stop_timeout (%d s) to end them."
                        % (target.name, last.sessions, self.params["drain_timeout"], self.params["stop_timeout"])
                    )
            grace = self.params["stop_timeout"]
            self.hurry(target)
            self.docker.docker(
                "stop", "-t", str(grace), target.id, timeout=grace + max(30, self.docker.command_timeout)
            )
            stopped = True
        finally:
            if not stopped and self.balancer and server:
                self.give_back(target)
        ended = self.container(target.id)
        if ended is not None:
            # 137 is SIGKILL: the grace was over, and what was in flight is lost.
            if ended.exit_code == 137:
                seen.append("killed after %d s" % self.params["stop_timeout"])
                self.module.warn(
                    "%s did not end within stop_timeout (%d s) and was killed."
                    % (target.name, self.params["stop_timeout"])
                )
            else:
                seen.append("ended by itself with exit code %d" % ended.exit_code)
            self.docker.docker("rm", target.id)
        if self.balancer and server:
            self.free_slot(server.name, addresses)
        return ", ".join(seen)

    def hurry(self, target: Container) -> None:
        """Send the signal on which the program ends soon, if the image's own is another one."""
        wanted = self.params["end_signal"]
        if not wanted:
            return
        own = str((self.docker.inspect([target.id])[0].get("Config") or {}).get("StopSignal") or "SIGTERM")
        if own.upper().replace("SIG", "") in (wanted.upper().replace("SIG", ""), str(int(signal.Signals[wanted]))):
            return
        # Without clients it may have ended on the first one.
        for name in (own, wanted):
            self.docker.docker("kill", "-s", name, target.id, check=False)

    def give_back(self, target: Container) -> None:
        """After a failure between drain and stop: a replica that still runs gets its requests back."""
        now = self.container(target.id)
        if now is not None and now.state == "running":
            self.undrain(now)


def run(module: AnsibleModule, roller: Roller, change: ChangeGuard, result: dict[str, Any]) -> None:
    """Do what was asked; fills result. Raises RolloutError, ComposeError, ChangeError, HAProxyError."""
    state = roller.read()
    before = roller.public(state)
    steps, after, blocked = roller.plan(state)
    result["plan"] = [roller.public_step(step) for step in steps]
    result["remaining"] = result["plan"]
    result["replicas"] = before
    roller.check(state, steps, blocked)
    result["findings"] = roller.findings
    text = "\n".join(_rollout.lines_of(before) + [""])
    result["diff"] = {"before": text, "after": text}
    if module.check_mode:
        result["changed"] = any(step.changes for step in steps)
        result["replicas"] = roller.public(after)
        result["diff"]["after"] = "\n".join(_rollout.lines_of(result["replicas"]) + [""])
        return
    errors = failed_on(roller.findings, ["error"])
    if errors:
        raise RolloutError("Refused before the first change. %s" % summary(errors))
    try:
        # The state of one step is the starting point of the next; nothing is planned ahead.
        while True:
            step = _rollout.next_step(state, roller.want, roller.service, roller.docker.project_name() + "-")
            if step is None or (module.params["steps"] and len(roller.done) >= module.params["steps"]):
                break
            if step.changes:
                wanted = {"replicas": roller.want.replicas, "reason": step.reason}
                change.step(step.action, step.target, _rollout.lines_of(roller.public(state)), wanted)
            # A start and a drain take as long as the site allows them.
            with change.kept():
                roller.do(step)
            state = roller.read()
    except Refused as exc:
        raise RolloutError(str(exc)) from None
    except (RolloutError, ComposeError, ChangeError, HAProxyError):
        # What is left is worth more to the operator than what was there before; the error itself is worth most.
        with contextlib.suppress(RolloutError, ComposeError, HAProxyError):
            state = roller.look()
            result["replicas"] = roller.public(state)
            result["remaining"] = [roller.public_step(step) for step in roller.plan(state)[0]]
            result["diff"]["after"] = "\n".join(_rollout.lines_of(result["replicas"]) + [""])
        raise
    finally:
        result["changed"] = roller.touched
        result["done"] = roller.done
    steps, after, blocked = roller.plan(state)
    result["remaining"] = [roller.public_step(step) for step in steps]
    result["replicas"] = roller.public(state)
    result["diff"]["after"] = "\n".join(_rollout.lines_of(result["replicas"]) + [""])
    if blocked:
        raise RolloutError(blocked)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            service={"type": "str", "required": True},
            replicas={"type": "int", "required": True},
            balancer={"type": "dict", "options": _haproxy.BALANCER_OPTIONS},
            probe={
                "type": "dict",
                "options": {
                    "port": {"type": "int"},
                    "path": {"type": "str"},
                    "scheme": {"type": "str", "choices": ["http", "https", "tcp"], "default": "http"},
                    "status": {"type": "int", "default": 200},
                },
                "required_if": [("scheme", "http", ["port", "path"]), ("scheme", "https", ["port", "path"])],
            },
            max_surge={"type": "int", "default": 1},
            ready_timeout={"type": "int", "default": 300},
            settle={"type": "float", "default": 2},
            data_paths={"type": "list", "elements": "str", "default": []},
            allow_anonymous_volumes={"type": "list", "elements": "str", "default": []},
            assume_outdated={"type": "bool", "default": False},
            drain_timeout={"type": "int", "default": 30},
            stop_timeout={"type": "int", "default": 40},
            end_signal={"type": "str"},
            steps={"type": "int", "default": 1},
            allow_interruption={"type": "bool", "default": False},
            **LOCK_ARGUMENTS,
            **CHANGE_ARGUMENTS,
        ),
        supports_check_mode=True,
    )
    params = module.params
    if not 1 <= params["replicas"] <= _rollout.MAX_REPLICAS:
        module.fail_json(
            msg="replicas is %d, but has to be from 1 to %d." % (params["replicas"], _rollout.MAX_REPLICAS)
        )
    for name in ("max_surge", "settle", "drain_timeout", "stop_timeout", "ready_timeout", "lock_timeout", "steps"):
        if params[name] < 0:
            module.fail_json(msg="%s is %g, but can't be negative." % (name, params[name]))
    if params["end_signal"] and params["end_signal"] not in signal.Signals.__members__:
        module.fail_json(msg="end_signal is %s, but has to be the name of a signal, such as SIGINT." % params["end_signal"])
    if params["assume_outdated"] and not module.check_mode:
        module.fail_json(msg="assume_outdated is for check mode: a real run sees what is outdated.")
    result: dict[str, Any] = {
        "changed": False,
        "service": params["service"],
        "want": params["replicas"],
        "plan": [],
        "done": [],
        "remaining": [],
        "replicas": [],
        "findings": [],
        "logs": {},
        "lock_waited": 0.0,
    }
    lock: Optional[HostLock] = None
    try:
        roller = Roller(module)
        result["logs"] = roller.logs
        change = ChangeGuard.from_module(module, "" if module.check_mode else roller.docker.project_name())
        if not module.check_mode:
            what = "compose_rollout of %s to %d in %s" % (params["service"], params["replicas"], params["project_dir"])
            lock = HostLock.of_project(roller.docker, params, what)
            result["lock_waited"] = round(lock.waited, 1)
            change.verify()
        run(module, roller, change, result)
    except (RolloutError, ComposeError, ChangeError, HAProxyError, LockError) as exc:
        module.fail_json(msg=str(exc), **result)
    finally:
        if lock is not None:
            lock.release()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
