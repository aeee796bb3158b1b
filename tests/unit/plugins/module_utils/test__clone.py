# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told of a clone, and whose a volume is. With real servers: tests/integration/real/test_postgres_clone.py."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _clone
from ansible_collections.dghs.bd_fhir.plugins.module_utils._clone import CloneError, Look, Maker, Marker, judge
from ansible_collections.dghs.bd_fhir.plugins.module_utils._parameters import ParameterError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._quoting import QuotingError, pgpass_escape
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

FIXTURES = Path(__file__).parents[1] / "fixtures/clone"
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=40)
NASTY = st.text(st.sampled_from("\\'\"$#{}:;,@/%*?=&![]- \tabমা01"), min_size=1, max_size=20)


def said(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_text(encoding="utf-8")


# --- progress and reasons ----------------------------------------------------------------------------------------------


def test_progress_of_a_real_log() -> None:
    lines = said("ok").splitlines(keepends=True)
    assert _clone.parse_progress("".join(lines[:1])) == {"bytes_done": 0, "bytes_total": 0, "percent": 0}
    assert _clone.parse_progress("".join(lines[:2])) == {"bytes_done": 3086 << 10, "bytes_total": 62952 << 10, "percent": 4}
    assert _clone.parse_progress("".join(lines)) == {"bytes_done": 62962 << 10, "bytes_total": 62962 << 10, "percent": 100}
    # As it is written on a terminal, where a line is written over itself.
    assert _clone.parse_progress("\r".join(line.rstrip() for line in lines[:3]) + "\r")["percent"] == 17
    assert _clone.said("".join(lines)) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("full", "space"),
        ("noname", "unreachable"),
        ("refused", "unreachable"),
        ("family", "unreachable"),
        ("norole", "role"),
        ("plain", "role"),
        ("nopass", "password"),
        ("wrong", "password"),
        ("passmode", "passfile"),
        ("hba", "hba"),
        ("active", "slot_active"),
        ("slot_missing", "slot_missing"),
        ("senders", "senders"),
        ("senders2", "senders"),
    ],
)
def test_the_reason_in_what_was_really_said(name: str, kind: str) -> None:
    found, hint = _clone.reason_of(said(name))
    assert found == kind
    assert hint.endswith(".")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # As PostgreSQL 17 words it.
        ('FATAL:  number of requested standby connections exceeds "max_wal_senders" (currently 0)', "senders"),
        ("ERROR:  requested WAL segment 00000001000000000000000A has already been removed", "wal_removed"),
        ("ERROR:  WAL level not sufficient for making an online backup", "wal_level"),
        ("pg_basebackup: error: incompatible server version 17.1", "version"),
        ("bd-fhir: the server has system identifier 5, not 6", "other_primary"),
        ("bd-fhir: the primary has tablespaces of its own", "tablespaces"),
        ('FATAL:  role "r" is not permitted to log in', "role"),
        ('could not drop the replication slot "x" for a role "y"', "unknown"),
        ("something new", "unknown"),
    ],
)
def test_the_reason_in_other_words(text: str, kind: str) -> None:
    assert _clone.reason_of(text)[0] == kind


def maker(**values: Any) -> Maker:
    return dataclasses.replace(Maker("1", "exited", 1, False, 10.0, 20.0, ""), **values)


@pytest.mark.parametrize(
    ("found", "kind", "word"),
    [
        (None, "killed", "gone"),
        (maker(state="created"), "killed", "gone"),
        (maker(exit_code=137), "killed", "137"),
        (maker(exit_code=255), "killed", "255"),
        (maker(exit_code=137, oom_killed=True), "memory", "memory"),
        (maker(exit_code=0), "unknown", "left no clone"),
        (maker(log=said("ok") + said("active")), "slot_active", "active for PID"),
        (maker(log=""), "unknown", "exit code 1"),
    ],
)
def test_why_it_failed(found: Optional[Maker], kind: str, word: str) -> None:
    told = _clone.why_failed(found, found.log if found else "")
    assert told[0] == kind
    assert word in told[1]
    assert told[2].endswith(".")


# --- the marker and what is in the volume ------------------------------------------------------------------------------

MARKER = Marker("a" * 32, "", "77", {"host": "p", "port": 5432}, "s", "cloning", "2026-01-31T23:50:00Z", "", 0, "postgres:15")
DONE = dataclasses.replace(MARKER, state="done")
AGAIN = dataclasses.replace(MARKER, id="b" * 32, replaces="a" * 32)
EMPTY = Look("70:70", 1 << 30)
CLONE = dataclasses.replace(EMPTY, standby="data", id="a" * 32, signal=True, system="77", cluster="in archive recovery", marker=DONE)
HALF = dataclasses.replace(EMPTY, new="other", marker=MARKER)
RUNS = maker(state="running", exit_code=0)


def look(base: Look, **values: Any) -> Look:
    return dataclasses.replace(base, **values)


@pytest.mark.parametrize(
    ("found", "clones", "state"),
    [
        (None, None, "absent"),
        (EMPTY, None, "absent"),
        (look(EMPTY, standby="empty"), None, "absent"),
        (look(EMPTY, entries=("base", "PG_VERSION")), None, "foreign"),
        # A directory with our name, and nothing that says that it is ours.
        (look(EMPTY, standby="data"), None, "foreign"),
        (look(EMPTY, new="data"), None, "foreign"),
        (look(EMPTY, old="data"), None, "foreign"),
        (look(EMPTY, broken="x"), None, "foreign"),
        (look(CLONE, broken="x", marker=None), None, "foreign"),
        (CLONE, None, "done"),
        (CLONE, RUNS, "done"),
        (look(CLONE, entries=("note",)), None, "done"),
        (look(CLONE, signal=False), None, "promoted"),
        (look(CLONE, id="c" * 32), None, "foreign"),
        (look(CLONE, id=""), None, "foreign"),
        (look(CLONE, id="", marker=dataclasses.replace(DONE, replaces="")), None, "foreign"),
        (look(CLONE, system="78"), None, "foreign"),
        (look(CLONE, system=""), None, "foreign"),
        (look(CLONE, marker=dataclasses.replace(DONE, system_identifier="78"), system="78"), None, "foreign"),
        (look(CLONE, standby="other"), None, "foreign"),
        # Somebody has removed the clone, and its marker is still there.
        (look(CLONE, standby="none", id="", signal=False), None, "absent"),
        (HALF, RUNS, "cloning"),
        (HALF, maker(state="paused"), "cloning"),
        (HALF, None, "failed"),
        (HALF, maker(), "failed"),
        (HALF, maker(state="created"), "failed"),
        # A new clone is made, and the old one is still there.
        (look(CLONE, new="other", marker=AGAIN), RUNS, "cloning"),
        (look(CLONE, new="other", marker=AGAIN), None, "failed"),
        (look(CLONE, new="other", marker=AGAIN, signal=False), None, "promoted"),
        (look(CLONE, new="other", marker=dataclasses.replace(AGAIN, replaces="")), None, "foreign"),
    ],
)
def test_whose_a_volume_is(found: Optional[Look], clones: Optional[Maker], state: str) -> None:
    verdict = judge(found, clones, "77")
    assert verdict.state == state
    assert bool(verdict.why) == (state in ("foreign", "promoted"))
    assert not verdict.complete


@pytest.mark.parametrize(
    "found",
    [
        look(CLONE, marker=MARKER),
        look(HALF, new="data", new_id="a" * 32),
        look(CLONE, new="data", new_id="b" * 32, marker=AGAIN),
        look(EMPTY, new="data", new_id="b" * 32, old="data", marker=AGAIN),
    ],
)
def test_all_of_it_is_there_and_only_renames_are_left(found: Look) -> None:
    assert judge(found, None, "77") == _clone.Verdict("failed", complete=True)
    assert not judge(found, RUNS, "77").complete


def test_names_and_identifiers_are_told() -> None:
    assert "base, PG_VERSION" in judge(look(EMPTY, entries=("base", "PG_VERSION")), None).why
    other = judge(CLONE, None, "78")
    assert other.other_primary
    assert "77, not 78" in other.why
    assert judge(CLONE, None).state == "done"
    assert "in production" in judge(look(CLONE, signal=False, cluster="in production"), None).why


def test_the_marker_is_read_back() -> None:
    marker = _clone.new_marker("77", "p", 5432, "s", "postgres:15", "")
    assert _clone.parse_marker(marker.text()) == marker
    assert marker.text().count("\n") == 1
    assert marker.state == "cloning"
    assert marker.id != _clone.new_marker("77", "p", 5432, "s", "postgres:15", "").id


@pytest.mark.parametrize("change", [{"state": "odd"}, {"id": "x"}, {"primary": "p"}, {"more": 1}])
def test_another_marker_is_none_of_ours(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="."):
        _clone.parse_marker(json.dumps({**MARKER.public(), **change}))
    for text in ("", "[]", "{}", "x"):
        with pytest.raises(ValueError, match="."):
            _clone.parse_marker(text)


HEAD = (
    "owner 70:70\nfree 1024\nspare 1\nentry a b\nentry c\nstandby data\nnew none\nold empty\nid x\nnew_id \nsignal\nsystem 77\n"
    "cluster in production\nmarker\n"
)


def test_what_the_script_has_seen() -> None:
    found = _clone.parse_look(HEAD + MARKER.text())
    assert found == Look("70:70", 1 << 20, 1024, ("a b", "c"), "data", "none", "empty", "x", "", True, "77", "in production", MARKER, "")
    assert _clone.parse_look(HEAD).marker is None
    assert _clone.parse_look(HEAD + "x").broken


@pytest.mark.parametrize("old", ["owner 70:70\n", "free 1024\n", "standby data\n", "\nmarker\n", "70:70"])
def test_a_shell_that_answers_something_else(old: str) -> None:
    with pytest.raises(CloneError, match="could not be looked into"):
        _clone.parse_look(HEAD.replace(old, "\n" if old.startswith("\n") else ""))


# --- what is written ---------------------------------------------------------------------------------------------------


@given(TEXT | NASTY)
def test_libpq_reads_our_connection_strings(value: str) -> None:
    assert parse_dsn(_clone.conninfo(value, 1, value, value, value)) == {
        "host": value, "port": "1", "user": value, "passfile": value, "application_name": value,
    }  # fmt: skip


def test_connection_string() -> None:
    assert _clone.conninfo("p", 5432, "u", "/run/x", "it's") == "host=p port=5432 user=u passfile=/run/x application_name='it\\'s'"
    with pytest.raises(QuotingError):
        _clone.conninfo("p\nx", 5432, "u", "/run/x")


def test_settings() -> None:
    text, pattern = _clone.settings_text({"Max_Connections": 40, "hot_standby_feedback": True, "work_mem": None, "a.b": "it's \\"}, "host='a'", "s")
    assert text.splitlines() == [
        "max_connections = '40'", "hot_standby_feedback = 'on'", "a.b = 'it''s \\\\'", "primary_conninfo = 'host=''a'''", "primary_slot_name = 's'",
        "recovery_target_timeline = 'latest'",
    ]  # fmt: skip
    lines = "# max_connections = 1|max_connections = 1| WORK_MEM=1|work_mem_x = 1|a.b = 1|axb = 1|primary_conninfo 'x'|port = 1".replace("|", "\n")
    done = subprocess.run(["grep", "-viE", pattern], input=lines, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["# max_connections = 1", "work_mem_x = 1", "axb = 1", "port = 1"]


@pytest.mark.parametrize("name", ["primary_conninfo", "PRIMARY_SLOT_NAME", "data_directory", "ssl_passphrase_command", "a b", "x;y", "a'b"])
def test_settings_that_are_not_the_callers(name: str) -> None:
    with pytest.raises(ParameterError):
        _clone.settings_text({name: "x"}, "", "s")
    with pytest.raises(ParameterError):
        _clone.settings_text({"work_mem": ["x"]}, "", "s")


@given(TEXT | NASTY)
def test_the_passwords_of_a_password_file_are_known(value: str) -> None:
    text = "# a comment\n%s:5432:*:u:%s\n" % (pgpass_escape("fd00::1"), pgpass_escape(value))
    found = _clone.passwords_of(text)
    assert (value in found) == (len(value) > 3)
    assert all(item in (value, pgpass_escape(value)) for item in found)


def test_the_archive_holds_the_files() -> None:
    text = _clone.archive({"a": "1\n", "hba": "ü"})
    with tarfile.open(fileobj=io.BytesIO(text.encode("utf-8", "surrogateescape"))) as handle:
        assert handle.getnames() == ["bd-fhir-clone", "bd-fhir-clone/a", "bd-fhir-clone/hba"]
        member = handle.extractfile("bd-fhir-clone/hba")
        assert member is not None
        assert member.read().decode() == "ü"


@pytest.mark.parametrize("name", ["LOOK", "PREPARE", "FINISH", "CLONE", "ASK", "REMOVE"])
def test_the_scripts_are_shell(name: str) -> None:
    script = getattr(_clone, name)
    assert not re.search(r"\b(MARKER|ROOT|JOB|PATIENCE)\b", script)
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_moments() -> None:
    assert _clone.seconds_of("1970-01-02T00:00:00.123456789Z") == 86400.0
    assert _clone.seconds_of("0001-01-01T00:00:00Z") == 0.0
    assert _clone.seconds_of("None") == 0.0
    assert _clone.seconds_of(_clone.stamp(1e9)) == 1e9


@pytest.mark.parametrize(("name", "good"), [("a_b-c.d", True), ("/opt/x", False), ("a b", False), ("-a", False), ("", False), ("x,y", False)])
def test_names_of_volumes(name: str, good: bool) -> None:
    assert (_clone.volume_name_faults(name) == "") == good
