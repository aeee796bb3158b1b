# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _replication as r
from ansible_collections.dghs.bd_fhir.plugins.module_utils._parameters import STANDBY_PARAMETERS, parse_control

RECORDED = Path(__file__).parents[1] / "fixtures/replication"
WANTED = r.Wanted("standby", "standby", slot="fhir_replica", max_lag_bytes=10**8, max_lag_seconds=30)
CONNINFO = {"host": "postgres", "user": "replicator", "passfile": "/site/pgpass"}


def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text())


def server(rows: dict[str, Any], role: str = "standby", **parameters: str) -> dict[str, Any]:
    """What the module puts together of the recorded rows, with other values of parameters."""
    settings = [{**row, "setting": parameters.get(row["name"], row["setting"])} for row in rows["SETTINGS"]]
    return {
        "service": role,
        "role": role,
        "system_identifier": "1",
        "timeline": 1,
        "lsn": "0/4000000",
        "data_directory": "/data",
        "disk": {"total_bytes": 10**12, "free_bytes": 10**11, "wal_total_bytes": 10**12, "wal_free_bytes": 10**11},
        "libc": {"family": "glibc", "version": "2.36"},
        "databases": [],
        "parameters": r.parameters_of(settings, {}),
        "primary": None,
        "standby": None,
    }


def standby(name: str = "standby", primary_lsn: str | None = None, settled: float | None = None, conninfo: Any = "usual", **changes: Any) -> Any:
    """The part of a standby from recorded rows; receiver: changes of its row, None for no row; replay: changes; parameters."""
    data = recorded(name)
    rows = data["rows"]
    receiver = rows["RECEIVER"][0] if rows["RECEIVER"] else None
    if "receiver" in changes:
        receiver = None if changes["receiver"] is None else {**receiver, **changes["receiver"]}
    replay = {**rows["REPLAY"][0], **changes.get("replay", {})}
    end = r.ending(r.log_lines(changes.get("log", data["log"])))
    found = server(rows, **changes.get("parameters", {}))
    return r.standby_of(receiver, replay, rows["CONFLICTS"][0], CONNINFO if conninfo == "usual" else conninfo, found, end, primary_lsn, settled)


def primary(name: str = "primary", **parameters: str) -> dict[str, Any]:
    rows = recorded(name)["rows"]
    found = server(rows, "primary", **parameters)
    rules = None if isinstance(rows["RULES"], str) else rows["RULES"]
    found["primary"] = r.primary_of(found, rows["SENDERS"], rows["SLOTS"], rules, rows["ROLE_SETTINGS"])
    return found


def judged(found: dict[str, Any], other: dict[str, Any] | None = None, control: dict[str, int] | None = None, **wanted: Any) -> list[dict[str, Any]]:
    return r.judge(found, other, r.Wanted(**{**vars(WANTED), **wanted}), control or {})


def ids(findings: list[dict[str, Any]]) -> list[str]:
    return sorted(item["id"] for item in findings)


def link_findings(part: dict[str, Any], **wanted: Any) -> list[str]:
    found = server(recorded("standby")["rows"])
    found["standby"] = part
    return ids(judged(found, **wanted))


# --- places and logs -----------------------------------------------------------------------------------------------


def test_places_in_the_wal() -> None:
    assert r.lsn_number("1/10") == 2**32 + 16
    assert r.difference("1/0", "0/FFFFFFF0") == 16
    assert (r.difference(None, "0/1"), r.lsn_number("")) == (None, None)
    assert r.furthest("0/9", None, "0/10", "0/A") == "0/10"
    assert r.furthest(None) is None
    with pytest.raises(ValueError, match="not an LSN"):
        r.lsn_number("12")


def test_what_is_kept_of_a_log() -> None:
    """Nothing of clients, and no password."""
    text = """2026 UTC [1] LOG:  database system is ready to accept connections
2026 UTC [9] LOG:  statement: ALTER ROLE x PASSWORD 'S3cret'
2026 UTC [9] LOG:  duration: 3 ms  execute <unnamed>: INSERT INTO patients VALUES ('S3cret')
2026 UTC [9] ERROR:  duplicate key value
2026 UTC [9] DETAIL:  Key (nid)=(S3cret) already exists.
2026 UTC [9] STATEMENT:  INSERT INTO patients VALUES ('S3cret')
\tSELECT 'S3cret'
2026 UTC [7] FATAL:  could not connect with "host=a password='S3cret \\' S3cret' user=b"
2026 UTC [7] FATAL:  could not connect with "postgresql://b:S3cret@a/d"
pg_basebackup: error: connection refused
2026 UTC [8] DETAIL:  max_connections = 20 is a lower setting than on the primary server, where its value was 30.
"""
    lines = r.log_lines(text)
    assert "S3cret" not in "".join(lines)
    assert len(lines) == 5
    assert r.lower_settings(lines) == {"max_connections": (20, 30)}
    # What was said before a good start no longer counts.
    assert r.lower_settings([*lines, "LOG:  database system is ready to accept read-only connections"]) == {}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("FATAL:  terminating walreceiver due to timeout", "cut"),
        ("FATAL:  could not connect to the primary server: connection to server failed: Connection timed out", "cut"),
        ("FATAL:  could not connect to the primary server: connection failed: Connection refused", "cut"),
        ('FATAL:  could not connect to the primary server: FATAL:  password authentication failed for user "r"', "refused"),
        ('FATAL:  could not connect to the primary server: FATAL:  no pg_hba.conf entry for replication connection from host "1"', "refused"),
        ('FATAL:  could not connect to the primary server: FATAL:  role "r" does not exist', "refused"),
        ('FATAL:  could not start WAL streaming: ERROR:  replication slot "s" does not exist', "slot_missing"),
        ('FATAL:  could not start WAL streaming: ERROR:  replication slot "s" is active for PID 5', "slot_in_use"),
        ("FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 00 has already been removed", "slot_lost"),
        ('FATAL:  could not start WAL streaming: ERROR:  can no longer get changes from replication slot "s"', "slot_lost"),
        ("FATAL:  database system identifier differs between the primary and standby", "other_cluster"),
        ('FATAL:  could not write to file "pg_wal/xlogtemp.1": No space left on device', "full"),
    ],
)
def test_why_a_receiver_ended(line: str, kind: str) -> None:
    lines = ["LOG:  started streaming WAL from primary at 0/1 on timeline 1", "2026 UTC [5] " + line, "LOG:  waiting for WAL to become available"]
    found = r.ending(lines)
    assert found is not None
    assert (found.kind, found.text) == (kind, line.removeprefix("FATAL:  "))
    # It has started since.
    assert r.ending([*lines, "LOG:  started streaming WAL from primary at 0/1 on timeline 1"]) is None
    assert r.ending(["LOG:  checkpoint complete"]) is None


def test_a_full_disk_in_the_log() -> None:
    full = 'FATAL:  could not extend file "base/1": No space left on device'
    assert r.out_of_space(["LOG:  database system is ready to accept connections", full, "LOG:  shut down"]) == full
    assert r.out_of_space([full, "LOG:  database system is ready to accept connections"]) == ""


# --- what commands say ---------------------------------------------------------------------------------------------


def test_recorded_answers_of_commands() -> None:
    answers = recorded("standby")["exec"]
    disk = r.disk_of(answers["df"])
    assert disk is not None
    assert disk["total_bytes"] == disk["wal_total_bytes"] == 264212084 * 1024
    assert r.disk_of("df: /data/pg_wal: No such file") is None
    two = "Filesystem 1024-blocks Used Available Capacity Mounted on\noverlay and more 10 5 5 50% /\n/dev/b 100 100 -3 100% /data/pg_wal\n"
    assert r.disk_of(two) == {"total_bytes": 10240, "free_bytes": 5120, "wal_total_bytes": 102400, "wal_free_bytes": 0}
    state = r.parse_control_state(answers["pg_controldata"])
    assert (state["role"], state["timeline"], len(state["system_identifier"])) == ("standby", 1, 19)
    assert parse_control(answers["pg_controldata"])["max_connections"] == 30
    assert r.parse_control_state("") == {"role": "unknown", "system_identifier": None, "timeline": None}
    assert r.parse_control_state("Database cluster state: in production")["role"] == "primary"
    # A primary that was killed.
    assert r.parse_control_state("Database cluster state: in crash recovery")["role"] == "unknown"


@pytest.mark.parametrize(
    ("banner", "getconf", "family", "version"),
    [
        ("PostgreSQL 15.18 on x86_64-pc-linux-gnu, compiled by gcc", "glibc 2.36", "glibc", "2.36"),
        ("PostgreSQL 15.5 on x86_64-pc-linux-musl, compiled by gcc", "", "musl", None),
        ("PostgreSQL 15.5 on aarch64-unknown-linux-gnu, compiled by gcc", "", "glibc", None),
        ("PostgreSQL 15.5", "", "unknown", None),
    ],
)
def test_libc(banner: str, getconf: str, family: str, version: str | None) -> None:
    assert r.libc_of(banner, getconf) == {"family": family, "version": version}


# --- the link and the lag ------------------------------------------------------------------------------------------


def test_it_streams() -> None:
    part = standby()
    assert (part["streaming"], part["link"], part["lag_bytes"], part["lag_seconds"], part["lag_unknown"]) == (True, "streaming", 0, 0.0, None)
    assert (part["cut_after_seconds"], part["slot_name"], part["sender_host"], part["clear_password"]) == (8.0, "fhir_replica", "postgres", False)
    assert link_findings(part) == []


def test_case_66_a_cut_link_is_never_no_lag() -> None:
    """PostgreSQL says streaming in the recorded row, and all that was received is replayed."""
    rows = recorded("standby-cut")["rows"]
    assert rows["RECEIVER"][0]["status"] == "streaming"
    assert rows["RECEIVER"][0]["received_lsn"] == rows["REPLAY"][0]["replayed_lsn"]
    for name in ("standby-cut", "standby-cut-later"):
        part = standby(name)
        assert (part["streaming"], part["link"], part["lag_bytes"], part["lag_seconds"]) == (False, "cut", None, None)
        assert part["lag_unknown"]
        assert link_findings(part, max_lag_bytes=0, max_lag_seconds=0) == ["standby_link_cut"]
        # What the primary had more is a fact; that it had no more is none, for it may have written since.
        assert standby(name, primary_lsn="0/3027018")["lag_bytes"] == 0x3027018 - 0x3026F70
        assert standby(name, primary_lsn=rows["REPLAY"][0]["replayed_lsn"])["lag_bytes"] is None


@pytest.mark.parametrize(("age", "link"), [(0.0, "streaming"), (7.9, "streaming"), (8.1, "cut"), (3600.0, "cut")])
def test_the_age_of_the_last_message_decides(age: float, link: str) -> None:
    part = standby(receiver={"last_message_age_seconds": age})
    assert part["link"] == link
    assert (part["lag_seconds"] is None) == (link == "cut")


def test_case_115_an_idle_primary_makes_no_lag() -> None:
    part = standby(replay={"last_commit_age_seconds": 3600.0})
    assert (part["lag_bytes"], part["lag_seconds"]) == (0, 0.0)
    assert link_findings(part, max_lag_seconds=1) == []


def test_lag_is_measured_or_the_most_that_it_can_be() -> None:
    behind = standby("standby-behind")
    assert (behind["lag_bytes"], behind["lag_seconds"], behind["replay_paused"]) == (0x31F8C28 - 0x305D630, 11.5, True)
    assert link_findings(behind, max_lag_seconds=11) == ["replay_paused", "standby_lagging"]
    assert link_findings(behind, max_lag_bytes=10**6) == ["replay_paused", "standby_lagging"]
    assert standby("standby-behind", settled=0.24)["lag_seconds"] == 0.2
    unknown = standby("standby-behind", replay={"last_commit_age_seconds": None})
    assert (unknown["lag_seconds"], "no commit" in unknown["lag_unknown"]) == (None, True)
    # From what the primary has written, not only from what was heard of it.
    assert standby(primary_lsn="0/4026F08")["lag_bytes"] == 0x4026F08 - 0x3026F08
    assert standby(primary_lsn="0/5026F08")["link"] == "catching_up"
    assert standby(replay={"replayed_lsn": None})["lag_seconds"] is None


def test_links_of_other_kinds() -> None:
    assert standby(receiver=None, conninfo={})["link"] == "none"
    assert standby(receiver=None, log="", replay={"startup_wait": ""})["link"] == "catching_up"
    # It has a link to nobody and replays: that is no streaming, and no lag is known.
    assert standby(receiver=None, log="", replay={"startup_wait": ""})["lag_seconds"] is None
    # A paused replay does not hide that nothing comes in.
    assert standby(receiver=None, log="", replay={"startup_wait": "RecoveryPause"})["link"] == "cut"
    assert standby(receiver={"status": "waiting"})["link"] == "waiting"
    assert standby(receiver=None, conninfo=None, log="")["link"] == "cut"
    unwatched = standby(parameters={"wal_receiver_timeout": "0"}, receiver={"last_message_age_seconds": 100.0})
    assert (unwatched["streaming"], unwatched["lag_seconds"], unwatched["lag_bytes"]) == (True, None, None)
    assert link_findings(unwatched) == ["standby_link_unwatched"]


def test_the_primary_says_no() -> None:
    missing = standby("standby-slot-missing")
    assert (missing["link"], missing["refused"], missing["lag_seconds"]) == ("waiting", "slot_missing", None)
    assert link_findings(missing, slot="") == ["slot_missing", "standby_not_streaming"]
    assert link_findings(missing) == ["slot_missing", "standby_not_streaming", "standby_without_slot"]
    assert link_findings(standby("standby-slot-lost")) == ["slot_lost", "standby_not_streaming"]
    busy = 'FATAL:  could not start WAL streaming: ERROR:  replication slot "fhir_replica" is active for PID 5'
    mine = server(recorded("standby")["rows"])
    mine.update(standby=standby(receiver=None, log=busy), container={"addresses": {"net": "10.0.0.9"}})
    theirs = primary()
    address = theirs["primary"]["senders"][0]["client_addr"]
    assert ids(judged(mine)) == ["standby_not_streaming"]
    assert "former connection" in judged(mine)[0]["hint"]
    assert ids(judged(mine, theirs)) == ["slot_in_use_by_other", "standby_not_streaming"]
    assert ids(judged(mine, theirs, standby_name="walreceiver")) == ["standby_not_streaming"]
    assert ids(judged(mine, theirs, standby_name="mine")) == ["slot_in_use_by_other", "standby_not_streaming"]
    # Its own connection of before the link was cut.
    assert ids(judged(mine, primary("primary-silent"))) == ["standby_not_streaming"]
    mine["container"]["addresses"]["other"] = address
    assert ids(judged(mine, theirs)) == ["standby_not_streaming"]
    full = 'FATAL:  could not write to file "pg_wal/xlogtemp.1": No space left on device'
    assert link_findings(standby(receiver=None, log=full)) == ["standby_disk_full", "standby_not_streaming"]


def test_a_password_in_clear_is_told_and_not_shown() -> None:
    part = standby(conninfo={**CONNINFO, "password": "S3cret"})
    assert "S3cret" not in json.dumps(part)
    assert link_findings(part) == ["clear_password"]


# --- the primary ---------------------------------------------------------------------------------------------------


def test_a_primary() -> None:
    found = primary()
    part = found["primary"]
    assert (part["free_senders"], part["free_slots"]) == (9, 9)
    sender, slot = part["senders"][0], part["slots"][0]
    assert (sender["silent"], sender["lag_bytes"], sender["lag_seconds"]) == (False, 0, 0.0)
    assert (slot["active"], slot["wal_status"], slot["used_by"]["application_name"]) == (True, "reserved", "walreceiver")
    assert ids(judged(found, expect="primary")) == []
    assert primary("primary-monitor")["primary"]["hba_rules"] is None


def test_a_sender_that_is_not_heard() -> None:
    found = primary("primary-silent")
    sender = found["primary"]["senders"][0]
    assert (sender["state"], sender["silent"], sender["lag_bytes"], sender["lag_seconds"]) == ("streaming", True, 168, None)
    assert ids(judged(found, expect="primary")) == ["sender_silent"]
    # Nobody watches that link.
    assert primary("primary-silent", wal_sender_timeout="0")["primary"]["senders"][0]["silent"] is False


def test_slots() -> None:
    away, lost = primary("primary-slot-inactive"), primary("primary-slot-lost")
    assert ids(judged(away, expect="primary")) == ["slot_inactive"]
    assert ids(judged(lost, expect="primary")) == ["slot_lost"]
    assert ids(judged(primary(), expect="primary", slot="other")) == ["slot_missing"]
    assert ids(judged(primary(max_replication_slots="1"), expect="primary", slot="other")) == ["no_free_slot", "slot_missing"]
    assert ids(judged(primary(max_slot_wal_keep_size="-1"), expect="primary")) == ["slot_without_cap"]
    assert ids(judged(primary(), expect="primary", standby_name="mine")) == ["slot_in_use_by_other"]
    assert ids(judged(primary(), expect="primary", standby_name="walreceiver")) == []
    slot = away["primary"]["slots"][0]
    assert ids(r.judge_slot({**slot, "wal_status": "unreserved"}, 64, 10**12)) == ["slot_inactive", "slot_unreserved"]
    logical = primary()
    logical["primary"]["slots"][0].update(type="logical", database="fhirdb")
    assert ids(judged(logical, expect="primary")) == ["slot_in_use_by_other"]


@pytest.mark.parametrize(
    ("cap", "retained", "safe", "free", "severity"),
    [
        (64, 10, 1000, 2000, None),
        (64, 10, 1000, 500, "warning"),
        (64, 900, 1000, 500, "error"),
        (-1, 400, None, 500, None),
        (-1, 600, None, 500, "error"),
    ],
)
def test_more_wal_than_the_disk_has_room_for(cap: int, retained: int, safe: int | None, free: int, severity: str | None) -> None:
    slot = {**primary()["primary"]["slots"][0], "retained_bytes": retained, "safe_wal_size": safe}
    found = [item["severity"] for item in r.judge_slot(slot, cap, free) if item["id"] == "slot_retains_too_much"]
    assert found == ([severity] if severity else [])


def test_what_keeps_a_primary_from_having_a_standby() -> None:
    poor = primary(wal_level="minimal", max_wal_senders="1", synchronous_commit="off")
    poor["primary"]["synchronous_commit_off"] = [{"role": "app", "database": "every database"}]
    found = judged(poor, expect="primary")
    assert ids(found) == ["no_free_sender", "synchronous_commit_off", "synchronous_commit_off", "wal_level_too_low"]
    # The standby of this slot has its sender.
    assert next(item for item in found if item["id"] == "no_free_sender")["severity"] == "warning"
    assert next(item for item in judged(poor, slot="", expect="primary") if item["id"] == "no_free_sender")["severity"] == "error"
    # The image's own rules are for its container alone.
    poor = primary()
    poor["primary"]["hba_rules"] = [rule for rule in poor["primary"]["hba_rules"] if rule["address"] != "all"]
    assert len(poor["primary"]["hba_rules"]) == 3
    poor["primary"]["hba_errors"] = [{"line_number": 9, "error": "end-of-line before database specification"}]
    assert ids(judged(poor, expect="primary")) == ["hba_file_broken", "no_hba_rule"]


# --- the role, and the two beside each other -----------------------------------------------------------------------


def test_roles() -> None:
    one, other = primary(), primary()
    assert ids(judged(one, expect="any", slot="")) == []
    assert ids(judged(one, expect="standby")) == ["standby_promoted"]
    one["timeline"] = 2
    found = judged(one, other)
    assert ids(found) == ["standby_promoted"]
    assert "timeline 2, its primary on timeline 1" in found[0]["found"]
    assert r.promoted(one, other, WANTED) is True
    other["system_identifier"] = "2"
    assert ids(judged(one, other)) == ["other_cluster"]
    assert r.promoted(one, other, WANTED) is False
    mine = server(recorded("standby")["rows"])
    mine["standby"] = standby()
    assert ids(judged(mine, expect="primary")) == ["primary_in_recovery"]
    assert (r.promoted(mine, None, WANTED), r.promoted(mine, None, r.Wanted("s", "any"))) == (False, None)


@pytest.mark.parametrize("name", STANDBY_PARAMETERS)
def test_case_56_parameters_below_the_primary(name: str) -> None:
    rows = recorded("standby")["rows"]
    mine, theirs = server(rows, **{name: "5"}), server(rows, "primary", **{name: "6"})
    mine["standby"] = standby()
    found = judged(mine, theirs)
    assert [(item["id"], item["object"], item["severity"]) for item in found] == [("standby_parameter_too_low", name, "error")]
    assert ids(judged(mine, None, {name: 6})) == ["standby_parameter_too_low"]
    assert ids(judged(mine, server(rows, "primary", **{name: "5"}), {name: 5})) == []
    # The primary's files say more, from its next start on.
    theirs = server(rows, "primary", **{name: "5"})
    theirs["parameters"][name].update(pending_restart=True, configured="6")
    assert [item["severity"] for item in judged(mine, theirs)] == ["warning"]
    theirs["parameters"][name].update(configured=None)
    assert judged(mine, theirs) == []


def test_libraries_and_collations() -> None:
    mine, theirs = (server(recorded("standby")["rows"]) for _number in range(2))
    mine["standby"] = standby()
    theirs["libc"] = {"family": "musl", "version": None}
    assert ids(judged(mine, theirs)) == ["other_libc"]
    theirs["libc"] = {"family": "glibc", "version": "2.31"}
    database = {"name": "fhirdb", "provider": "libc", "collate": "C.UTF-8", "recorded_version": None, "actual_version": None}
    mine["databases"] = [database]
    assert ids(judged(mine, theirs)) == []
    mine["databases"] = [{**database, "collate": "en_US.UTF-8"}]
    assert ids(judged(mine, theirs)) == ["collation_version_differs"]
    mine["databases"] = [{**database, "collate": "en_US.UTF-8", "recorded_version": "2.31", "actual_version": "2.36"}]
    assert [item["object"] for item in judged(mine)] == ["fhirdb"]


def test_little_room() -> None:
    found = primary()
    found["disk"]["wal_free_bytes"] = 20 * 1024**2
    assert ids(judged(found, expect="any", slot="")) == ["primary_disk_full", "slot_retains_too_much"]
    found["disk"] = None
    assert ids(judged(found, expect="primary", slot="")) == []


# --- a server that lets nobody in ----------------------------------------------------------------------------------

CONTAINER = {
    "name": "p-standby-1", "state": "running", "accepts": False, "why": "it is starting up", "restarting": False, "restart_count": 0, "exit_code": 0,
    "oom_killed": False, "addresses": {}, "log": [], "others": "postgres",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "not_ready"),
        ({"restarting": True, "restart_count": 3, "exit_code": 1}, "restarting"),
        ({"state": "restarting", "restarting": True}, "restarting"),
        ({"state": "exited", "exit_code": 137, "oom_killed": True}, "not_running"),
        ({"state": "created"}, "not_running"),
        ({"state": "paused"}, "not_running"),
    ],
)
def test_containers(changes: dict[str, Any], expected: str) -> None:
    for expect in ("primary", "standby"):
        found = r.judge_container({**CONTAINER, **changes}, r.Wanted("service", expect))
        assert ids(found) == [f"{expect}_{expected}"]
    assert ids(r.judge_container({**CONTAINER, **changes}, r.Wanted("service", "any"))) == [f"standby_{expected}"]


def test_a_container_whose_log_says_why() -> None:
    log = [
        "FATAL:  password authentication failed",
        "LOG:  database system is ready to accept read-only connections",
        "FATAL:  recovery aborted because of insufficient parameter settings",
        "DETAIL:  max_wal_senders = 5 is a lower setting than on the primary server, where its value was 10.",
        "LOG:  database system is shut down",
    ]
    found = r.judge_container({**CONTAINER, "state": "exited", "log": log}, WANTED)
    assert ids(found) == ["standby_not_running", "standby_parameter_too_low"]
    assert "insufficient parameter settings" in found[0]["found"]
    full = ["LOG:  starting", "PANIC:  could not write: No space left on device"]
    assert ids(r.judge_container({**CONTAINER, "state": "exited", "log": full}, WANTED)) == ["standby_disk_full", "standby_not_running"]
    assert ids(r.judge_container({**CONTAINER, "state": "missing"}, WANTED)) == ["standby_not_running"]


def test_sizes_for_people() -> None:
    assert [r.size_text(item) for item in (5, 5 * 1024, 5 * 1024**2, 5.5 * 1024**3)] == ["5 B", "5 kB", "5 MB", "5.5 GB"]
