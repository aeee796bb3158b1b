# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What to do next to bring a service to N current replicas, decided from nothing but the state that is there now.

No memory is kept between steps. That is what makes a killed run resumable: whatever it left behind is just a state.
"""

from __future__ import annotations

import re

from dataclasses import dataclass, replace
from typing import Any, Optional
from collections.abc import Iterable, Mapping

MAX_REPLICAS = 50

# What a container is good for right now.
READY = "ready"  # it answers, and the balancer (if there is one) would send it requests
PENDING = "pending"  # it runs, but is not ready yet
BROKEN = "broken"  # it runs, but its health check has failed, or it restarts again and again
DEAD = "dead"  # created, exited or dead: nothing runs

START, WAIT, STOP, REMOVE, SET_READY = "start", "wait", "stop", "remove", "ready"


class Refused(Exception):
    """There is no step that keeps what was promised. The text says why, and what would allow it."""


@dataclass(frozen=True)
class Replica:
    """One container of the service."""

    id: str
    name: str
    number: int
    phase: str
    current: bool  # made from the configuration and the image of today
    drained: bool = False  # its slot in the balancer is set to drain
    why: str = ""  # one phrase: why it is outdated, broken or not ready

    @property
    def serving(self) -> bool:
        """It gets requests."""
        return self.phase == READY and not self.drained


@dataclass(frozen=True)
class State:
    """All containers of the service, and slots of the balancer that are drained but belong to none of them."""

    replicas: tuple[Replica, ...]
    stuck: tuple[str, ...] = ()


@dataclass(frozen=True)
class Want:
    """What the operator asked for."""

    replicas: int
    max_surge: int = 1
    allow_interruption: bool = False


@dataclass(frozen=True)
class Step:
    """One thing to do. target is a replica's name, or a slot's for `ready`; id the container's, "" for a new one."""

    action: str
    target: str
    id: str
    reason: str
    interrupts: bool = False

    @property
    def changes(self) -> bool:
        """Waiting changes nothing."""
        return self.action != WAIT


def order(replica: Replica) -> tuple[int, int, int]:
    """Sort key: who goes first. Outdated, then broken before not ready before serving, then the highest number."""
    fitness = {BROKEN: 0, PENDING: 1}.get(replica.phase, 3 if replica.serving else 2)
    return (0 if not replica.current else 1, fitness, -replica.number)


def next_step(state: State, want: Want, service: str = "service", prefix: str = "") -> Optional[Step]:
    """Return the next step, None when the service is as wanted. Pure.

    Raises Refused when nothing can be done without an interruption that was not allowed.
    What holds for every step: a serving replica is stopped only if at least want.replicas others serve (unless
    interrupts is set); a container is started only if fewer than want.replicas + want.max_surge exist.
    """
    for replica in state.replicas:
        if replica.phase == DEAD:
            return Step(REMOVE, replica.name, replica.id, replica.why or "it does not run")

    live = sorted(state.replicas, key=order)
    serving = sum(1 for replica in live if replica.serving)
    good = [replica for replica in live if replica.current and replica.phase != BROKEN]
    room = len(live) < want.replicas + want.max_surge
    # Only current replicas beyond the wanted count are too many: one that replaces an outdated one is needed.
    surplus = len(good) > want.replicas
    to_go = [replica for replica in live if surplus or not replica.current or replica.phase == BROKEN]

    for replica in live:
        if replica.drained:
            if replica in to_go and serving >= want.replicas:
                return _stop(replica, want)
            return Step(
                SET_READY, replica.name, replica.id, "its slot in the balancer was left in drain, and it is needed"
            )
    if state.stuck:
        return Step(
            SET_READY, state.stuck[0], "", "the slot was left in drain: the next replica in it would get no request"
        )

    for replica in to_go:
        if serving - (1 if replica.serving else 0) >= want.replicas:
            return _stop(replica, want)

    for replica in sorted(good, key=lambda item: item.number):
        if replica.phase == PENDING:
            return Step(WAIT, replica.name, replica.id, replica.why or "it is not ready yet")

    if not room:
        for replica in to_go:
            if not replica.serving:
                return _stop(replica, want, "and there is no room for a new one")

    if len(good) < want.replicas:
        if room:
            number = max([replica.number for replica in state.replicas] or [0]) + 1
            return Step(
                START,
                "%s%s-%d" % (prefix, service, number),
                "",
                "%d of %d current replicas are there" % (len(good), want.replicas),
            )
        victim = to_go[0]
        if want.allow_interruption:
            return _stop(victim, want, "and there is no room for a new one beside it", True)
        raise Refused(
            "%s has to be replaced (%s), but max_surge is %d: there is no room for its successor beside it, so that %s."
            " Set max_surge to 1 (memory for one more replica is needed), or allow_interruption to true."
            % (
                victim.name,
                victim.why or "it is outdated",
                want.max_surge,
                "nothing would serve until the successor is ready"
                if serving <= 1
                else "only %d of %d would serve until the successor is ready" % (serving - 1, want.replicas),
            )
        )
    return None


def _stop(replica: Replica, want: Want, more: str = "", interrupts: bool = False) -> Step:
    if not replica.current:
        reason = replica.why or "it is outdated"
    elif replica.phase == BROKEN:
        reason = replica.why or "it is not healthy"
    else:
        reason = "more than %d replicas are there" % want.replicas
    return Step(STOP, replica.name, replica.id, " ".join(part for part in (reason, more) if part), interrupts)


def apply_step(state: State, step: Step) -> State:
    """Return the state after a step that went well. Pure; used to predict."""
    if step.action in (STOP, REMOVE):
        return replace(state, replicas=tuple(item for item in state.replicas if item.name != step.target))
    if step.action == START:
        number = int(step.target.rpartition("-")[2])
        new = Replica(id="", name=step.target, number=number, phase=READY, current=True)
        return replace(state, replicas=state.replicas + (new,))
    if step.action == WAIT:
        return replace(
            state,
            replicas=tuple(
                replace(item, phase=READY, why="") if item.name == step.target else item for item in state.replicas
            ),
        )
    return State(
        replicas=tuple(replace(item, drained=False) if item.name == step.target else item for item in state.replicas),
        stuck=tuple(name for name in state.stuck if name != step.target),
    )


def plan(state: State, want: Want, service: str = "service", prefix: str = "") -> tuple[list[Step], State, str]:
    """Return every step to come, the state after them, and why it stops early ("" if it does not). Pure."""
    steps: list[Step] = []
    # Each replica is touched a few times at most; a longer plan would be a fault in next_step().
    limit = 10 * (len(state.replicas) + len(state.stuck) + want.replicas + want.max_surge + 1)
    while len(steps) < limit:
        try:
            step = next_step(state, want, service, prefix)
        except Refused as exc:
            return steps, state, str(exc)
        if step is None:
            return steps, state, ""
        steps.append(step)
        state = apply_step(state, step)
    raise AssertionError("the plan does not end: %s" % steps[-4:])


def most_at_once(state: State, steps: Iterable[Step]) -> int:
    """Return the largest number of containers that run side by side while the steps are done. Pure."""
    most = sum(1 for item in state.replicas if item.phase != DEAD)
    for step in steps:
        state = apply_step(state, step)
        most = max(most, sum(1 for item in state.replicas if item.phase != DEAD))
    return most


def closure(config: Mapping[str, Any], service: str) -> list[str]:
    """Return the services that a service depends on, directly or not, sorted. Pure.

    config is the parsed configuration. What Compose counts as a dependency: depends_on, links, volumes_from, and the
    modes that borrow a namespace of another service.
    """
    services = config.get("services") or {}
    found: set[str] = set()
    todo = [service]
    while todo:
        item = services.get(todo.pop()) or {}
        names = list(item.get("depends_on") or {})
        names += [str(link).partition(":")[0] for link in item.get("links") or []]
        names += [str(entry).partition(":")[0] for entry in item.get("volumes_from") or []]
        for key in ("network_mode", "ipc", "pid"):
            mode = str(item.get(key) or "")
            if mode.startswith("service:"):
                names.append(mode.partition(":")[2])
        for name in names:
            if name in services and name not in found and name != service:
                found.add(name)
                todo.append(name)
    return sorted(found)


# "Container x-hapi-4  Creating", with or without the mark of a dry run; networks and volumes alike.
_EVENT = re.compile(r"(?:DRY-RUN MODE -\s+)?\b(Container|Network|Volume|Service|Image)\s+\"?(\S+?)\"?\s+(\w+)")
_HARMLESS = frozenset(("Running", "Creating", "Created", "Starting", "Started", "Waiting", "Healthy", "Exists"))


def dry_run_dangers(text: str, service_prefix: str, container_name: str = "") -> list[str]:
    """Return what `docker compose --dry-run up` would do beyond making containers of the service. Pure.

    text: its output. service_prefix: what stands before the number in names of the service's containers;
    container_name: the fixed name, if the service has one. Compose stops every container of a network whose definition
    has changed, whatever options it is given: that is what this is for.
    """
    dangers: list[str] = []
    for line in text.splitlines():
        match = _EVENT.search(line)
        if match is None:
            continue
        kind, name, event = match.groups()
        mine = kind != "Container" or name == container_name or re.match(re.escape(service_prefix) + r"[0-9]+\Z", name)
        if event not in _HARMLESS or (event in ("Creating", "Starting") and not mine):
            danger = "%s %s: %s" % (kind.lower(), name, event)
            if danger not in dangers:
                dangers.append(danger)
    return dangers


def lines_of(replicas: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one line a replica for a diff: name, image, configuration, state. Pure."""
    return [
        "%s image %s config %s %s"
        % (
            item["name"],
            short(item["image_id"]),
            short(item["config_hash"]),
            item["phase"] + (", drained" if item.get("drained") else "") + ("" if item["current"] else ", outdated"),
        )
        for item in replicas
    ]


def short(digest: Optional[str]) -> str:
    """Return the first 12 digits of a digest, without its algorithm. Pure."""
    return (digest or "?").rpartition(":")[2][:12]
