# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways back, and the watching of a deployment, killed in the middle: the next run ends where an undisturbed one would have.

A verb is killed once for each of some numbers of steps that it has written into the journal, and so at the beginning, later, and near its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from load import Load
from pilot_host import FIRST, Background, modules_at_work, ok, on_host, owner_files, owner_up, snapshot, until

pytestmark = [pytest.mark.lab, pytest.mark.full]

JOURNAL = "/var/lib/dghs-bd-fhir/bd-fhir-national/journal.jsonl"
WINDOW = ("-e", json.dumps({"pgbouncer_allow_window": True, "database_passwords_allow_window": True, "hapi_allow_interruption": True,
                            "postgres_backup_required": False}))
SECRET = ("-e", "database_passwords_secret=audit_maintainer")


@dataclass(frozen=True)
class Way:
    """A verb that is killed, what comes before it each time, and what has to stand as it did before that."""

    verb: str
    first: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    # Of a way back: the owner's files and what was there. Of a verb that goes forward, a second run says it.
    returns: bool = True

    def __str__(self) -> str:
        return self.verb


WAYS = [
    Way("monitor", returns=False),
    Way("rollback_monitor", ("monitor",)),
    Way("maintain_audit_partitions", returns=False),
    Way("rollback_maintain_audit_partitions", ("maintain_audit_partitions",)),
    Way("rollback_rotate_passwords", ("rotate_passwords",), SECRET),
    Way("rollback_tune_pools", ("tune_pools",), ("-e", "hapi_replicas=5")),
    Way("rollback_scale_hapi", ("scale_hapi",), FIRST),
]


def steps(verb: str) -> int:
    """How many steps of the verb the journal has. A line that is being written is left for the next look."""
    text = on_host("bash", "-c", f"cat {JOURNAL} 2>/dev/null; true")
    records = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return sum(1 for record in records if record["verb"] == verb and record["kind"] == "step")


@pytest.fixture(scope="module", autouse=True)
def there(scaled: None) -> Iterator[None]:
    yield
    ok("rollback_monitor")
    ok("rollback_maintain_audit_partitions")


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_killed_run_is_finished_by_the_next(way: Way, number: int) -> None:
    ok(way.verb if way.returns else f"rollback_{way.verb}", *way.args, *WINDOW)
    before = owner_files()
    for verb in way.first:
        ok(verb, *way.args, *WINDOW)
    since = steps(way.verb)
    with Load(announced=True) as load:
        doomed = Background(way.verb, *way.args, *WINDOW)
        until(f"step {number}", 400, lambda: steps(way.verb) - since >= number or doomed.process.poll() is not None)
        assert doomed.process.poll() is None, "it ended before the moment came"
        doomed.kill()
        until("the last module's end", 120, lambda: not modules_at_work())
        run = ok(way.verb, *way.args, *WINDOW)
    assert load.ledger.failures == [], run.out[-3000:]
    assert load.lost() == []
    assert ok(way.verb, *way.args, *WINDOW).changed == 0
    if way.returns:
        assert owner_files() == before
    else:
        untouched = snapshot()
        assert "Recreate" not in owner_up()
        assert snapshot() == untouched
