# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HFJ_RESOURCE of the lab's real HAPI partitioned with its guard, and plain again, under load.

Three replicas get the same new id at once, before, between and after: one of them creates it, and no other does. The tests build
upon one another.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from functools import cache

import pytest
from hapi_tables import fill, partitioned, parts, psql, rows, schema
from load import Load, request
from pilot_host import ok, owner_files, play, snapshot

pytestmark = [pytest.mark.lab, pytest.mark.full]

VERB = "partition_hapi_tables"
BACK = "rollback_partition_hapi_tables"
TABLES = ["hfj_resource", "hfj_spidx_token"]
ROUNDS = 20
AT_ONCE = 6


@cache
def bound() -> int:
    """Where the first partitions end: far beyond what earlier tests on this host have made of the sequence."""
    return (int(psql("SELECT last_value FROM seq_resource_id")) // 1000000 + 1) * 1000000


def facts(**more: object) -> tuple[str, ...]:
    given = {"tables": TABLES, "first_bound": bound(), "width": 1000000, "unique_guard": True, **more}
    return ("-e", json.dumps({f"hapi_partitioning_{name}": value for name, value in given.items()}))


def put(patient: str, statuses: list[int]) -> None:
    body = {"resourceType": "Patient", "id": patient, "birthDate": "1990-01-01"}
    statuses.append(request("PUT", f"/fhir/Patient/{patient}", body)[0])


def race(name: str) -> Counter[int]:
    """Write each of some new ids several times at once, through the entry point; return the answers. One of them creates it."""
    run = uuid.uuid4().hex[:8]
    answers: Counter[int] = Counter()
    for turn in range(ROUNDS):
        patient = f"{name}-{run}-{turn}"
        statuses: list[int] = []
        threads = [threading.Thread(target=put, args=(patient, statuses)) for _number in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert len(statuses) == AT_ONCE, statuses
        assert set(statuses) <= {200, 201, 409}, statuses
        assert statuses.count(201) == 1, statuses
        answers.update(statuses)
    double = f"SELECT count(*) FROM (SELECT 1 FROM hfj_resource WHERE fhir_id LIKE '{name}-{run}-%' GROUP BY res_type, fhir_id HAVING count(*) > 1) x"
    assert psql(double) == "0"
    assert psql(f"SELECT count(*) FROM hfj_resource WHERE fhir_id LIKE '{name}-{run}-%'") == str(ROUNDS)
    print(f"{name}: {dict(answers)}")
    return answers


@pytest.fixture(scope="module")
def before(scaled: None) -> dict[str, str]:
    """What is there before the first change: the owner's files, and the schema."""
    ok(BACK, "-e", "hapi_partitioning_allow_copy=true")
    fill(5)
    race("plain")
    return {**owner_files(), "schema": schema()}


def test_it_is_a_choice(before: dict[str, str]) -> None:
    untouched = snapshot()
    refused = play(VERB, *facts(unique_guard=False))
    assert refused.rc != 0
    assert "unique_without_key (public.hfj_resource)" in " ".join(refused.out.split()), refused.out[-3000:]
    run = ok(VERB, "--check", "--diff", *facts())
    assert "+public.hfj_resource: swapped" in run.out
    assert (snapshot(), schema()) == (untouched, before["schema"])


def test_there_under_load(before: dict[str, str]) -> None:
    count = rows("hfj_resource")
    with Load() as load:
        ok(VERB, *facts())
        answers = race("guarded")
    print(f"{sum(load.ledger.sent.values())} requests, the longest {load.ledger.longest * 1000:.0f} ms")
    assert load.ledger.failures == []
    assert load.lost() == []
    assert partitioned() == TABLES
    assert rows("hfj_resource") > count
    assert answers[409] > 0, answers
    assert ok(VERB, *facts()).changed == 0


def test_ids_on_both_sides_of_a_bound(before: dict[str, str]) -> None:
    """Replicas take ids by the fifty: until all have used up theirs, one writes below the bound and another one above it."""
    psql(f"SELECT setval('seq_resource_id', {bound() - 49})")
    answers: Counter[int] = Counter()
    for _turn in range(20):
        answers += race("across")
        if rows(f"hfj_resource_p{bound()}") > 2 * ROUNDS:
            break
    assert rows(f"hfj_resource_p{bound()}") > 2 * ROUNDS
    assert answers[409] > 0, answers


def test_a_trigger_that_is_off_is_told(before: dict[str, str]) -> None:
    trigger = "hfj_resource_bd_guard_insert"
    psql(f"ALTER TABLE hfj_resource_p0 DISABLE TRIGGER {trigger}")
    try:
        stands = schema()
        told = play(VERB, *facts())
        assert told.rc != 0
        assert "guard_trigger_off" in told.out, told.out[-3000:]
        assert schema() == stands
    finally:
        psql(f"ALTER TABLE hfj_resource_p0 ENABLE TRIGGER {trigger}")
    assert ok(VERB, *facts()).changed == 0


def test_back_under_load(before: dict[str, str]) -> None:
    count = rows("hfj_resource")
    with Load() as load:
        ok(BACK, "-e", "hapi_partitioning_allow_copy=true")
    assert load.ledger.failures == []
    assert load.lost() == []
    assert partitioned() == []
    assert parts("hfj_resource") == []
    assert rows("hfj_resource") >= count
    assert schema() == before["schema"]
    race("back")
    files = owner_files()
    assert files == {name: before[name] for name in files}
