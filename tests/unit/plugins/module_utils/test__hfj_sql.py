# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks of the partitioning of HAPI's tables with a server that is played; on a real one: tests/integration/real/test_hfj_partition.py."""

from __future__ import annotations

import time
from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _hfj_sql as work
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hfj import ForeignKey, HfjError, Relation, Sequence, Step, Table
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError

HOLDER = {
    "pid": 7, "user": "hapi_app", "application": "hapi", "backend_type": "client backend", "state": "active", "query_start": "2026-11-26 03:00:00+00",
    "seconds": 12, "wraparound": False, "table": "t",
}  # fmt: skip
BUSY = PostgresError("busy", "statement", "55P03")
LOCKS = [("hfj_resource", "ACCESS EXCLUSIVE"), ("t", "ACCESS EXCLUSIVE")]


class Server:
    """Remembers what it was told; refuses the locks that it is to refuse."""

    def __init__(self, busy: int = 0, holders: Optional[list[dict[str, Any]]] = None) -> None:
        self.busy = busy
        self.found = holders or []
        self.said: list[str] = []
        self.timeouts: list[int] = []
        self.values: list[Any] = []

    def execute(self, query: Any, params: Any = None) -> None:
        text = query if isinstance(query, str) else repr(query)
        self.said.append(text if params is None else f"{text} {params}")
        if "lock_timeout" in text:
            self.timeouts.append(int((params or ["0ms"])[0].removesuffix("ms")))
        if ("LOCK TABLE" in text or "VALIDATE" in text) and self.busy:
            self.busy -= 1
            raise BUSY

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        return self.found

    def value(self, query: Any, params: Any = None) -> Any:
        return self.values.pop(0) if self.values else None


def tried(server: Server, told: work.Locking, **more: Any) -> Any:
    limits = work.Limits(pause=lambda seconds: None, **{"tries": 3, **more})
    return work.under_lock(server, "The swap of t", "public", LOCKS, lambda session: "done", limits, told)  # type: ignore[arg-type]


def test_all_locks_first_and_within_one_limit() -> None:
    server, told = Server(), work.Locking()
    assert tried(server, told) == "done"
    assert told.tries == 1
    assert told.blockers == []
    locks = [text for text in server.said if "LOCK TABLE" in text]
    assert "hfj_resource" in locks[0]
    assert "'t'" in locks[1]
    # What is left for the second is less than the whole: nobody may wait for us for longer than deadlock_timeout.
    assert 1 <= server.timeouts[-1] <= server.timeouts[0] == 500
    assert any("idle_in_transaction_session_timeout" in text for text in server.said)
    assert server.said[-1] == "COMMIT"


def test_the_limit_is_for_everything_under_the_locks() -> None:
    limits = work.Limits(tries=1, hold=0.3)

    def slow(session: Any) -> None:
        session.execute("ALTER 1")
        time.sleep(0.1)
        session.value("SELECT 2")
        time.sleep(0.25)
        session.rows("SELECT 3")

    server, told = Server(), work.Locking(held=0.01)
    with pytest.raises(PostgresError, match="longer than hold_seconds, 0.3 s, so everything was put back"):
        work.under_lock(server, "x", "public", LOCKS, slow, limits, told)  # type: ignore[arg-type]
    given = [int(text.split("'")[-2].removesuffix("ms")) for text in server.said if "'statement_timeout'" in text][1:]
    # Each gets what is left, and the third is not begun.
    assert len(given) == 2
    assert given[1] < given[0] - 80
    assert server.said[-1] == "ROLLBACK"
    assert told.held > 0.3
    # It is also looked at before the end: many quick statements, or work of our own.
    server = Server()
    with pytest.raises(PostgresError, match="put back"):
        work.under_lock(server, "x", "public", LOCKS, lambda session: time.sleep(0.35), limits, told)  # type: ignore[arg-type]
    assert server.said[-1] == "ROLLBACK"
    server = Server()
    work.under_lock(server, "x", "public", LOCKS, lambda session: (session.no_limit(), time.sleep(0.35)), limits, told)  # type: ignore[arg-type]
    assert server.said[-1] == "COMMIT"
    # The longest of all is told.
    held = told.held
    work.under_lock(server, "x", "public", LOCKS, lambda session: None, limits, told)  # type: ignore[arg-type]
    assert told.held == held


def test_gives_way_and_tries_again() -> None:
    server, told = Server(2, [HOLDER]), work.Locking()
    assert tried(server, told) == "done"
    assert (told.tries, server.said.count("ROLLBACK")) == (3, 2)
    with pytest.raises(PostgresError) as caught:
        tried(Server(9, [HOLDER]), work.Locking())
    assert caught.value.sqlstate == "55P03"
    assert "tried 3 times, gave way each time, and changed nothing" in str(caught.value)
    who = "pid 7 (hapi, user hapi_app, active, its statement began 2026-11-26 03:00:00+00, its transaction is 12 s old) on t"
    assert who in str(caught.value)


def test_autovacuum_is_cancelled_but_for_the_one_that_must_not_be() -> None:
    worker = {**HOLDER, "backend_type": "autovacuum worker"}
    for row, more, cancelled in (
        (worker, {}, True), ({**worker, "wraparound": True}, {}, False), (worker, {"cancel_autovacuum": False}, False), (HOLDER, {}, False),
    ):  # fmt: skip
        server = Server(1, [row])
        tried(server, work.Locking(), **more)
        assert any("pg_cancel_backend" in text for text in server.said) == cancelled


def test_what_is_no_matter_of_locks_is_not_tried_again() -> None:
    def work_(error: Exception) -> Any:
        raise error

    for error in (PostgresError("no right", "statement", "42501"), HfjError("changed meanwhile")):
        server, told = Server(), work.Locking()
        with pytest.raises(type(error), match=str(error)):
            work.under_lock(server, "x", "public", LOCKS, lambda session, error=error: work_(error), work.Limits(), told)  # type: ignore[arg-type]
        assert (told.tries, server.said[-1]) == (1, "ROLLBACK")


def test_one_of_us_at_a_time() -> None:
    server = Server(holders=[{"pid": 9, "since": "2026-11-26 03:00:00+00"}])
    server.values = [False]
    busy = "another run is at work on public.t .pid 9, alive since 2026"
    with pytest.raises(HfjError, match=busy), work.alone(server, Table("public", "t")):  # type: ignore[arg-type]
        pass
    server.values = [True]
    with work.alone(server, Table("public", "t")):  # type: ignore[arg-type]
        assert server.said == []
    assert "pg_advisory_unlock" in server.said[-1]


def test_hfj_resource_is_locked_first() -> None:
    keys = [ForeignKey(name, "public", "t", ("a",), "public", name, ("a",)) for name in ("a_table", "hfj_resource", "hfj_tag_def")]
    found = work.referenced(Relation(1, "public", "t", "r", keys=tuple(keys)), "SHARE ROW EXCLUSIVE")
    assert [name for name, _mode in found] == ["hfj_resource", "a_table", "hfj_tag_def"]


def test_an_index_that_is_still_being_built_is_left_alone() -> None:
    server = Server(holders=[{"pid": 4, "percent": 40.0}])
    with pytest.raises(HfjError, match="pid 4 is still building"):
        work.drop_index(server, Table("public", "t"), "t_bd_uk")  # type: ignore[arg-type]
    assert server.said == []


def test_a_check_is_not_added_where_the_sequence_has_come_near() -> None:
    server = Server()
    with pytest.raises(HfjError, match="has come near 100"):
        work.carry_out(
            server, Table("public", "t"), Step("add_check", "t", "", upper=100),  # type: ignore[arg-type]
            lambda session: Sequence("s", 90, 50), Server, work.Limits(), work.Locking(),  # type: ignore[arg-type]
        )  # fmt: skip
    with pytest.raises(HfjError, match="no step jump"):
        work.carry_out(
            server, Table("public", "t"), Step("jump", "t", ""),  # type: ignore[arg-type]
            lambda session: Sequence("s", 1, 50), Server, work.Limits(), work.Locking(),  # type: ignore[arg-type]
        )  # fmt: skip
    assert server.said == []


def test_a_validation_waits_for_its_lock_only_for_a_while() -> None:
    server, told = Server(2, [HOLDER]), work.Locking()
    limits = work.Limits(tries=3, pause=lambda seconds: None)
    work.validate(server, "public", "t", "bd_fhir_below", limits, told)  # type: ignore[arg-type]
    assert told.tries == 3
    assert [text for text in server.said if "lock_timeout" in text][0].endswith("('500ms',)")
    server = Server(9, [HOLDER])
    with pytest.raises(PostgresError, match="validation of bd_fhir_below was tried 3 times.* pid 7 .hapi"):
        work.validate(server, "public", "t", "bd_fhir_below", limits, work.Locking())  # type: ignore[arg-type]
