# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard of HFJ_RESOURCE, what of it is pure; on a real server: tests/integration/real/test_hfj_guard.py."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _hfj_guard as guarding
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _hfj_sql
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hfj import Guard, HfjError, Relation, Table
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError

MAIN = Relation(1, "public", "hfj_resource", "r")
TABLE = Table("public", "hfj_resource", "res_id", "res_id", main=MAIN, guard=Guard(7, "hfj_resource_bd_guard", filled=10))


class Server:
    """Answers with what is told; counts transactions."""

    def __init__(self, **row: Any) -> None:
        self.row = row
        self.said: list[str] = []

    def execute(self, query: Any, params: Any = None) -> None:
        self.said.append(query if isinstance(query, str) else repr(query))

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        return [self.row]


def test_names_of_any_kind_stay_names_in_the_function() -> None:
    text = guarding.function_text('odd "schema', "it's 100%")
    assert '"odd ""schema"."it\'s 100%"' in text
    assert "filling in of it''s 100%%'" in text
    assert guarding.quoted("a", 'b"c') == '"a"."b""c"'


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"missing": 0, "more": 0, "resources": 5, "guarded": 5}, ""),
        ({"missing": 2, "more": 0, "resources": 5, "guarded": 3}, "2 resources are missing in it"),
        ({"missing": 0, "more": 1, "resources": 5, "guarded": 6}, "1 of its rows have no resource"),
        ({"missing": 0, "more": 0, "resources": 5, "guarded": 4}, "1 resources have the type and FHIR id of another one"),
    ],
)
def test_differences_are_counted(row: dict[str, int], words: str) -> None:
    server = Server(**row)
    assert guarding.differences(server, TABLE) == words  # type: ignore[arg-type]
    if words:
        with pytest.raises(HfjError, match=words):
            guarding.done(server, TABLE)  # type: ignore[arg-type]
        assert not any("COMMENT" in text for text in server.said)
    else:
        guarding.done(server, TABLE)  # type: ignore[arg-type]
        assert "bd_fhir: complete" in server.said[-1]


def test_filling_in_goes_on_gives_way_and_is_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    places, between, busy = [], [0], [2]
    vacuum = {
        "pid": 4, "user": "", "application": "autovacuum worker", "backend_type": "autovacuum worker", "state": "active", "query_start": "",
        "seconds": 9, "wraparound": False, "table": "hfj_resource_bd_guard",
    }  # fmt: skip

    def fill(session: Any, table: Table, after: int) -> Optional[int]:
        if after == 20 and busy[0]:
            busy[0] -= 1
            raise PostgresError("held", "statement", "55P03")
        places.append(after)
        return after + 10 if after < 30 else None

    def count() -> None:
        between[0] += 1

    server = Server(missing=0, more=0, resources=5, guarded=5, **vacuum)
    monkeypatch.setattr(guarding, "fill", fill)
    limits = _hfj_sql.Limits(tries=3, pause=lambda seconds: None, between=count)
    told = _hfj_sql.Locking()
    _hfj_sql.fill_guard(server, TABLE, limits, told)  # type: ignore[arg-type]
    assert places == [10, 20, 30]
    assert between == [3]
    # Each batch is a transaction, and what could not be had in time was put back.
    assert (server.said.count("COMMIT"), server.said.count("ROLLBACK")) == (3, 2)
    # An autovacuum of the guard goes.
    assert sum("pg_cancel_backend" in text for text in server.said) == 2
    busy[0] = 9
    with pytest.raises(PostgresError, match="A batch of the filling in of hfj_resource_bd_guard was tried 3 times, .*pid 4 .*held"):
        _hfj_sql.fill_guard(server, TABLE, limits, told)  # type: ignore[arg-type]
