# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of the play, and of the module on the host, at five moments of a replacement; then the same play again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest
from load import Load
from pilot_host import FIRST, PROJECT, REGISTRY, SECOND, Background, Replica, drained, healthy, ok, on_host, play, replicas, until

pytestmark = [pytest.mark.lab]

LOCK = "/run/lock/dghs-bd-fhir/bd-fhir-national.lock"
COUNT = ("-e", "hapi_replicas=2")


@pytest.fixture(scope="module")
def two() -> None:
    ok("tests/lab/pilot.yml")
    ok("scale_hapi", *COUNT, *FIRST)
    until("two healthy replicas", 300, lambda: healthy(2))


def other_release() -> tuple[str, tuple[str, ...]]:
    """A roll needs an image that does not run yet: its reference, and the arguments that ask for it."""
    if any(replica.image.endswith("1.1.0") for replica in replicas()):
        return f"{REGISTRY}/hapi:1.0.0", (*COUNT, *FIRST)
    return f"{REGISTRY}/hapi:1.1.0", (*COUNT, *SECOND)


def of(image: str) -> list[Replica]:
    return [replica for replica in replicas(everything=True) if replica.image == image]


# What stands at the moment of the kill; `new` is the image that is being rolled out.
MOMENTS: dict[str, Callable[[str], bool]] = {
    "names_written": lambda new: new in on_host("cat", f"{PROJECT}/.env"),
    "new_replica_starting": lambda new: any(replica.status == "running" for replica in of(new)),
    "new_replica_ready": lambda new: any(replica.health == "healthy" for replica in of(new)),
    "old_replica_leaving": lambda new: len(replicas(everything=True)) - len(of(new)) < 2 or "drain" in drained(),
    "second_replacement": lambda new: len(of(new)) == 2,
}


def lock_holder() -> int:
    """The process that holds the host's lock, by the kernel's table and not by what the file says; 0 when nobody does."""
    found = on_host("bash", "-c",
                    f"inode=$(stat -c %i {LOCK} 2>/dev/null) && awk -v i=\":$inode\" '$6 ~ i\"$\" {{print $5}}' /proc/locks | head -1; true")
    return int(found.strip() or 0)


def assert_settled(image: str) -> None:
    """The wanted state and nothing else: two healthy replicas of the image, no container beside them, both served."""
    until("two healthy replicas", 60, lambda: healthy(2))
    assert {replica.image for replica in replicas(everything=True)} == {image}
    assert drained() == ""
    assert image in on_host("cat", f"{PROJECT}/.env")


@pytest.mark.parametrize("moment", [pytest.param(name, marks=[] if name == "old_replica_leaving" else [pytest.mark.full]) for name in MOMENTS])
def test_a_killed_play_is_finished_by_the_next(two: None, moment: str) -> None:
    new, arguments = other_release()
    with Load() as load:
        doomed = Background("scale_hapi", *arguments)
        until(moment, 240, lambda: MOMENTS[moment](new))
        doomed.kill()
        # Whatever the play left behind on the host may still be at work; the next run waits for its lock.
        result = ok("scale_hapi", *arguments)
    assert load.ledger.failures == [], result.out[-3000:]
    assert load.lost() == []
    assert_settled(new)
    assert ok("scale_hapi", *arguments).changed == 0


AT_WORK = {name: MOMENTS[name] for name in list(MOMENTS)[1:]} | {"first_step": lambda new: True}


@pytest.mark.full
@pytest.mark.parametrize("moment", AT_WORK)
def test_a_killed_module_is_finished_by_the_next_play(two: None, moment: str) -> None:
    new, arguments = other_release()
    with Load() as load:
        doomed = Background("scale_hapi", *arguments)
        until(moment, 240, lambda: lock_holder() and AT_WORK[moment](new))
        until("a module at work", 60, lock_holder)
        on_host("kill", "-9", str(lock_holder()), check=False)
        first = doomed.result()
        second = ok("scale_hapi", *arguments)
    assert first.rc != 0, "the play did not notice that its module was killed"
    assert load.ledger.failures == [], second.out[-3000:]
    assert load.lost() == []
    assert_settled(new)


@pytest.mark.full
def test_a_module_that_outlives_its_play_holds_the_lock_and_is_waited_for(two: None) -> None:
    new, arguments = other_release()
    doomed = Background("scale_hapi", *arguments)
    until("a module at work on a new replica", 240, lambda: lock_holder() and of(new))
    doomed.kill()
    time.sleep(1)
    holder = lock_holder()
    assert holder, "the module died with its play; this test needs one that goes on"
    # Stopped, it holds the lock for as long as the second play needs to come to it.
    on_host("kill", "-STOP", str(holder))
    assert lock_holder() == holder
    refused = play("scale_hapi", *arguments, "-e", "hapi_lock_timeout=1", "-e", "balancer_lock_timeout=1")
    on_host("kill", "-CONT", str(holder))
    assert refused.rc != 0
    # Which process it is can have changed: a worker of the killed play goes on with the steps that it was given.
    assert re.search(r"locked for more than 1 seconds: pid \d+ since .*compose_rollout of hapi", " ".join(refused.out.split())), refused.out[-2000:]
    ok("scale_hapi", *arguments)
    assert_settled(new)


@pytest.mark.full
def test_a_release_that_cannot_start_leaves_the_old_one_serving(two: None) -> None:
    before = {replica.id for replica in replicas()}
    env = on_host("cat", f"{PROJECT}/.env")
    with Load() as load:
        result = play("scale_hapi", *COUNT, "-e", f"hapi_image={REGISTRY}/hapi:1.2.0-broken", "-e", json.dumps({"hapi_allow_migration": True}))
    assert result.rc != 0
    assert "APPLICATION FAILED TO START" in result.out, "the operator does not see why"
    assert load.ledger.failures == []
    assert {replica.id for replica in replicas(everything=True)} == before
    assert on_host("cat", f"{PROJECT}/.env") == env, "the next plain up would start what has just failed"
