# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is handed to the tools, and what they answer."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _backup, _backup_files
from ansible_collections.dghs.bd_fhir.plugins.module_utils._backup_files import BackupError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import Container
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import Login

FIXTURES = Path(__file__).parents[1] / "fixtures/backup"
SECRET = "p:w\\$ecret"


def answer(name: str) -> str:
    return (FIXTURES / f"pgbackrest-{name}.json").read_text(encoding="utf-8")


def test_a_stanza_and_its_backups() -> None:
    found = _backup.parse_stanza(answer("backups"))
    assert found.name == "main"
    assert found.labels == ("20261126-002456F", "20261126-002456F_20261126-002504I")
    assert found.sizes["20261126-002456F"] == 3043672
    assert found.sizes["20261126-002456F_20261126-002504I"] == 429
    assert _backup.parse_stanza(answer("empty"), "main").labels == ()


@pytest.mark.parametrize(
    ("text", "wanted", "told"),
    [
        (answer("none"), "", "has no stanza. Make one"),
        (answer("empty"), "other", "has no stanza other; it has: main"),
        (answer("empty").replace('"code":2', '"code":3').replace("no valid backups", "missing stanza data"), "", "missing stanza data"),
        ('[{"name": "a"}, {"name": "b"}]', "", "several stanzas: a, b"),
        ("ERROR: x", "", "unknown form"),
        ('{"a": 1}', "", "unknown form"),
    ],
)
def test_a_stanza_that_can_not_be_used(text: str, wanted: str, told: str) -> None:
    with pytest.raises(BackupError, match=told):
        _backup.parse_stanza(text, wanted)


def test_the_role_of_a_new_cluster_is_not_made_twice() -> None:
    text = (FIXTURES / "roles.sql").read_text(encoding="utf-8")
    found = _backup.without_bootstrap_role(text, "postgres")
    assert "CREATE ROLE postgres;" not in found
    assert "ALTER ROLE postgres WITH SUPERUSER" in found
    assert 'CREATE ROLE "Audit Owner";' in found
    assert 'CREATE ROLE "Audit Owner";' not in _backup.without_bootstrap_role(text, "Audit Owner")
    assert len(text.splitlines()) - len(found.splitlines()) == 1


@pytest.mark.parametrize(("wanted", "free", "jobs"), [(4, 30, 4), (4, 6, 4), (4, 5, 3), (4, 4, 2), (4, 3, 1), (4, 2, 1), (1, 2, 1)])
def test_one_connection_stays_free(wanted: int, free: int, jobs: int) -> None:
    assert _backup.fitting_jobs(wanted, free) == jobs
    assert (jobs + 1 if jobs > 1 else 1) <= free - 1


@pytest.mark.parametrize("free", [1, 0, -3])
def test_no_connection_is_free(free: int) -> None:
    with pytest.raises(BackupError, match="Nothing was done: %d of" % max(free, 0)):
        _backup.fitting_jobs(2, free)


def server() -> _backup.Server:
    names = ("name", "service", "state", "health", "image_ref", "config_hash", "created", "started_at", "restart_policy")
    values: dict[str, Any] = dict.fromkeys(names, "x")
    values.update(id="c0ffee", image_id="sha256:1", number=1, oneoff=False, exit_code=0, oom_killed=False, restart_count=0)
    return _backup.Server(Container(**values), 150018, "1", "postgres", "999:999", 0, 0, 0, 9, "", 0)


def test_no_argument_holds_the_secret() -> None:
    login = Login("10.0.0.2", 5432, "postgres", SECRET, "da ta=base")
    arguments = _backup.client_arguments(server(), login, "n", "p", "/b", ["pg_dump", "--x"], login.host, "0:0")
    assert SECRET not in " ".join(arguments)
    assert SECRET not in repr(login)
    assert arguments[-2:] == ["pg_dump", "--x"]
    # Not as an argument of pg_dump, which would take it for a connection string.
    assert "PGDATABASE=da ta=base" in arguments
    assert _backup.pgpass(SECRET) == "*:*:*:*:p\\:w\\\\$ecret\n"


def test_a_password_that_no_file_carries_is_refused_without_showing_it() -> None:
    with pytest.raises(BackupError, match="can't be given") as refused:
        _backup.pgpass("top\nsecret")
    assert "secret" not in str(refused.value)


def test_a_step_is_watched_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backup, "TICK", 0.01)
    monkeypatch.setattr(_backup, "HEARTBEAT", 0.0)
    stopped = threading.Event()
    beats = []

    def lost() -> None:
        beats.append(1)
        if len(beats) == 3:
            raise BackupError("the lease is gone")

    watch = _backup.Watch(lost, [])
    with pytest.raises(BackupError, match="the lease is gone"):
        watch.run([lambda: stopped.wait(10), lambda: stopped.wait(10)], stopped.set)
    assert stopped.is_set()
    assert len(beats) == 3


def test_a_step_that_fails_ends_the_others() -> None:
    stopped = threading.Event()

    def fail() -> None:
        raise BackupError("first")

    with pytest.raises(BackupError, match="first"):
        _backup.Watch(lambda: None, []).run([lambda: stopped.wait(10), fail], stopped.set)
    assert stopped.is_set()
    assert _backup.Watch(lambda: None, []).run([lambda: 1, lambda: 2], lambda: None) == [1, 2]


def test_a_disk_that_fills_ends_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backup, "room", lambda path: _backup_files.Room(1, 4, 100))
    with pytest.raises(BackupError, match="4 B left, and 5 B must stay free"):
        _backup.Watch(lambda: None, ["/x"]).look()
