# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
from dataclasses import replace

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _rollout
from ansible_collections.dghs.bd_fhir.plugins.module_utils._rollout import (
    BROKEN,
    DEAD,
    PENDING,
    READY,
    REMOVE,
    SET_READY,
    START,
    STOP,
    WAIT,
    Refused,
    Replica,
    State,
    Want,
    apply_step,
    next_step,
    plan,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "rollout"
PHASES = {"r": READY, "p": PENDING, "b": BROKEN, "d": DEAD}


def state(text: str, stuck: tuple[str, ...] = ()) -> State:
    """Build a state: one word a replica, o(utdated) or c(urrent), then r(eady), p(ending), b(roken) or d(ead), ! drained."""
    replicas = []
    for number, word in enumerate(text.split(), 1):
        name = "service-%d" % number
        replicas.append(
            Replica("id%d" % number, name, number, PHASES[word[1]], word[0] == "c", word.endswith("!"), "why " + word)
        )
    return State(tuple(replicas), stuck)


def shape(steps: list[_rollout.Step]) -> str:
    return " ".join("%s-%s" % (step.action, step.target.rpartition("-")[2]) for step in steps)


@pytest.mark.parametrize(
    ("start", "want", "expected"),
    [
        # as wanted
        ("cr", Want(1), ""),
        ("cr cr cr", Want(3), ""),
        # from nothing, and up
        ("", Want(2), "start-1 start-2"),
        ("cr", Want(3), "start-2 start-3"),
        # a new image at three: never more than four, never fewer than three
        ("or or or", Want(3), "start-4 stop-3 start-5 stop-2 start-6 stop-1"),
        # up and a new image at once
        ("or", Want(3), "start-2 start-3 start-4 stop-1"),
        # down: the highest number goes; with a new image the outdated go first, and room is made first
        ("cr cr cr", Want(1), "stop-3 stop-2"),
        ("or or or", Want(1), "stop-3 stop-2 start-2 stop-1"),
        ("or or or cr", Want(3), "stop-3 start-5 stop-2 start-6 stop-1"),
        ("or cr cr cr", Want(3), "stop-1"),
        ("cr cb cr cr", Want(3), "stop-2"),
        # what a killed run leaves behind
        ("or or or cp", Want(3), "wait-4 stop-3 start-5 stop-2 start-6 stop-1"),
        ("or or or cd", Want(3), "remove-4 start-4 stop-3 start-5 stop-2 start-6 stop-1"),
        ("or or or! cr", Want(3), "stop-3 start-5 stop-2 start-6 stop-1"),
        ("or or od cr", Want(3), "remove-3 start-5 stop-2 start-6 stop-1"),
        ("cr cr cr!", Want(2), "stop-3"),
        # drained, but needed now that another one is gone
        ("or or! cr", Want(3), "ready-2 start-4 stop-2 start-5 stop-1"),
        ("cr cr!", Want(2), "ready-2"),
        # a replica that is broken is replaced, one that is not ready yet is waited for
        ("cr cb cr", Want(3), "start-4 stop-2"),
        ("cr cp cr", Want(3), "wait-2"),
        ("cp", Want(3), "wait-1 start-2 start-3"),
        # one that nobody needs is not waited for
        ("cr cr cp", Want(2), "stop-3"),
        # nothing serves: the new one comes before the old ones go
        ("ob ob ob", Want(3), "start-4 stop-3 start-5 stop-2 start-6 stop-1"),
        ("op op op", Want(3), "start-4 stop-3 start-5 stop-2 start-6 stop-1"),
        # no room
        ("ob", Want(1, max_surge=0), "stop-1 start-1"),
        ("cr cb cr", Want(3, max_surge=0), "stop-2 start-4"),
        ("or", Want(1, 0, True), "stop-1 start-1"),
        ("or or", Want(2, 0, True), "stop-2 start-2 stop-1 start-3"),
    ],
)
def test_plan(start: str, want: Want, expected: str) -> None:
    steps, after, blocked = plan(state(start), want)
    assert blocked == ""
    assert shape(steps) == expected
    assert done(after, want)


def done(now: State, want: Want) -> bool:
    return (
        len(now.replicas) == want.replicas
        and all(item.current and item.serving for item in now.replicas)
        and not now.stuck
    )


def test_stuck_slots_are_freed() -> None:
    steps, after, dummy = plan(state("cr", ("hapi-7", "hapi-9")), Want(1))
    assert [(step.action, step.target, step.id) for step in steps] == [
        (SET_READY, "hapi-7", ""),
        (SET_READY, "hapi-9", ""),
    ]
    assert after.stuck == ()


@pytest.mark.parametrize(
    ("start", "want", "text"),
    [
        ("or", Want(1, 0), "nothing would serve"),
        ("or or or", Want(3, 0), "only 2 of 3 would serve"),
    ],
)
def test_refused_without_room(start: str, want: Want, text: str) -> None:
    with pytest.raises(Refused, match=text) as caught:
        next_step(state(start), want)
    assert "service-" in str(caught.value)
    assert "allow_interruption" in str(caught.value)
    steps, dummy, blocked = plan(state(start), want)
    assert steps == []
    assert text in blocked


def test_interruption_is_marked() -> None:
    steps, dummy, dummy = plan(state("or"), Want(1, 0, True))
    assert [(step.action, step.interrupts) for step in steps] == [(STOP, True), (START, False)]
    assert not any(step.interrupts for step in plan(state("or"), Want(1, 1, True))[0])


def test_waiting_is_no_change() -> None:
    steps = plan(state("cp"), Want(1))[0]
    assert [step.action for step in steps] == [WAIT]
    assert not steps[0].changes
    assert all(step.changes for step in plan(state("or od"), Want(2))[0])


def test_names() -> None:
    step = next_step(State(()), Want(1), "hapi", "bd-")
    assert step is not None
    assert step.target == "bd-hapi-1"


def test_most_at_once() -> None:
    for text, want, most in (("or or or", Want(3), 4), ("cr", Want(1), 1), ("or", Want(1, 0, True), 1)):
        assert _rollout.most_at_once(state(text), plan(state(text), want)[0]) == most


replicas = st.lists(
    st.tuples(st.sampled_from([READY, READY, PENDING, BROKEN, DEAD]), st.booleans(), st.booleans()), max_size=7
)
wants = st.builds(Want, st.integers(1, 5), st.integers(0, 2), st.booleans())
# What the world does to a replica between two steps, or a kill does to a step.
events = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["die", "break", "hang", "drain", "undrain", "recover"]))
)
kills = st.lists(st.sampled_from(["", "", "half", "almost"]), max_size=12)


def built(items: list[tuple[str, bool, bool]]) -> State:
    return State(
        tuple(
            Replica("id%d" % number, "service-%d" % number, number, phase, current, drained and phase != DEAD)
            for number, (phase, current, drained) in enumerate(items, 1)
        )
    )


def change(now: State, index: int, **values: object) -> State:
    if not now.replicas:
        return now
    index %= len(now.replicas)
    items = list(now.replicas)
    items[index] = replace(items[index], **values)  # type: ignore[arg-type]
    return replace(now, replicas=tuple(items))


def disturb(now: State, index: int, what: str) -> State:
    if not now.replicas or now.replicas[index % len(now.replicas)].phase == DEAD:
        return now
    return change(
        now,
        index,
        **{
            "die": {"phase": DEAD, "drained": False},
            "break": {"phase": BROKEN},
            "hang": {"phase": PENDING},
            "drain": {"drained": True},
            "undrain": {"drained": False},
            "recover": {"phase": READY},
        }[what],
    )


def killed(now: State, step: _rollout.Step, how: str) -> State:
    """What a step that was killed leaves behind."""
    if step.action == START:
        after = apply_step(now, step)
        return change(after, len(after.replicas) - 1, phase=DEAD if how == "half" else PENDING)
    if step.action == STOP:
        index = [item.name for item in now.replicas].index(step.target)
        if how == "half":
            return change(now, index, drained=True)
        # Stopped, but neither removed nor its slot given back.
        return replace(change(now, index, phase=DEAD, drained=False), stuck=(*now.stuck, "slot-" + step.target))
    return now


def serving(now: State) -> int:
    return sum(1 for item in now.replicas if item.serving)


def running(now: State) -> int:
    return sum(1 for item in now.replicas if item.phase != DEAD)


@settings(max_examples=400, deadline=None)
@given(replicas, wants, events, kills)
@example([(READY, False, False)] * 3, Want(3), [], ["almost"] * 12)
def test_properties(
    items: list[tuple[str, bool, bool]], want: Want, world: list[tuple[int, str]], cuts: list[str]
) -> None:
    now = built(items)
    most = max(running(now), want.replicas + want.max_surge)
    world, cuts = list(world), list(cuts)
    for _dummy in range(200):
        try:
            step = next_step(now, want)
        except Refused:
            # Only ever for want of room, and never when it was allowed.
            assert want.max_surge == 0
            assert not want.allow_interruption
            return
        if step is None:
            if not world:
                break
            now = disturb(now, *world.pop())
            continue
        cut = cuts.pop() if cuts else ""
        after = killed(now, step, cut) if cut else apply_step(now, step)
        # 1. No step takes serving replicas below what is wanted, or below what served before.
        if not step.interrupts:
            assert serving(after) >= min(want.replicas, serving(now)), (now, step)
        else:
            assert want.allow_interruption
            assert want.max_surge == 0
        # 2. Never more containers than wanted and the surge, except where more were there.
        assert running(after) <= most, (now, step)
        if step.action == START:
            assert running(now) < want.replicas + want.max_surge
            assert not any(item.phase == DEAD for item in now.replicas)
        # 3. What is removed does not run; what is waited for is current.
        target = next((item for item in now.replicas if item.name == step.target), None)
        if step.action == REMOVE:
            assert target is not None
            assert target.phase == DEAD
        if step.action == WAIT:
            assert target is not None
            assert target.current
            assert target.phase == PENDING
        now = after
        if world and not cut:
            now = disturb(now, *world.pop())
    else:
        raise AssertionError("it does not end")
    # 4. The end is what was asked for.
    assert done(now, want)


@settings(max_examples=200, deadline=None)
@given(replicas, wants)
def test_plan_ends(items: list[tuple[str, bool, bool]], want: Want) -> None:
    start = built(items)
    steps, after, blocked = plan(start, want)
    assert done(after, want) or blocked
    # A second look at the end sees nothing to do.
    if not blocked:
        assert plan(after, want)[0] == []


def test_a_planner_that_forgets_the_floor_goes_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """The properties are not vacuous: a planner that stops first and starts then is caught."""

    def careless(now: State, want: Want, *dummy: str) -> object:
        for item in now.replicas:
            if not item.current or item.phase == DEAD:
                return _rollout.Step(REMOVE if item.phase == DEAD else STOP, item.name, item.id, "")
        return next_step(now, want)

    monkeypatch.setitem(globals(), "next_step", careless)
    with pytest.raises(AssertionError):
        test_properties.hypothesis.inner_test([(READY, False, False)] * 3, Want(3), [], [])  # type: ignore[attr-defined]


CONFIG = {
    "services": {
        "hapi": {"depends_on": {"pgbouncer-fhir": {}, "once": {}}, "links": ["cache:c"]},
        "pgbouncer-fhir": {"depends_on": {"postgres-fhir": {}}},
        "postgres-fhir": {"network_mode": "service:net"},
        "once": {"depends_on": {"hapi": {}}},
        "cache": {"volumes_from": ["files:ro"]},
        "net": {},
        "files": {},
        "nginx": {"depends_on": {"hapi": {}}},
    }
}


def test_closure() -> None:
    assert _rollout.closure(CONFIG, "hapi") == [
        "cache",
        "files",
        "net",
        "once",
        "pgbouncer-fhir",
        "postgres-fhir",
    ]
    assert _rollout.closure(CONFIG, "net") == []
    assert _rollout.closure({}, "hapi") == []


@pytest.mark.parametrize(
    ("name", "dangers"),
    [
        ("dry-run-up-2.40.3.txt", []),
        ("dry-run-no-start-2.24.7.txt", []),
        (
            "dry-run-network-2.40.3.txt",
            [
                "container rol-exp-hapi-3: Stopping",
                "container rol-exp-hapi-3: Stopped",
                "container rol-exp-hapi-4: Stopping",
                "container rol-exp-hapi-4: Stopped",
                "container rol-exp-hapi-2: Stopping",
                "container rol-exp-hapi-2: Stopped",
                "network rol-exp_default: Removed",
            ],
        ),
    ],
)
def test_dry_run(name: str, dangers: list[str]) -> None:
    """Recorded from real Compose."""
    text = (FIXTURES / name).read_text()
    prefix = "rol-dep-hapi-" if "no-start" in name else "rol-exp-hapi-"
    assert _rollout.dry_run_dangers(text, prefix) == dangers


def test_dry_run_of_other_services() -> None:
    text = " DRY-RUN MODE -  Container x-hapi-worker-1  Creating\n DRY-RUN MODE -  Container x-hapi-2  Creating\n"
    assert _rollout.dry_run_dangers(text, "x-hapi-") == ["container x-hapi-worker-1: Creating"]
    assert _rollout.dry_run_dangers("Container bd-hapi  Creating", "x-hapi-", "bd-hapi") == []
    assert _rollout.dry_run_dangers("Container x-db-1  Recreate", "x-hapi-") == ["container x-db-1: Recreate"]


def test_lines() -> None:
    item = {
        "name": "x-hapi-1",
        "image_id": "sha256:0123456789abcdef",
        "config_hash": "fedcba9876543210",
        "phase": "ready",
        "current": False,
        "drained": True,
    }
    assert _rollout.lines_of([item]) == ["x-hapi-1 image 0123456789ab config fedcba987654 ready, drained, outdated"]
    assert _rollout.short(None) == "?"
