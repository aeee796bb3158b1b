# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a PostgreSQL server is in a streaming replication, and what is wrong with it. All pure, fed with rows that a module has read.

Two things are never taken for good news. A link from which nothing is heard tells no lag: until wal_receiver_timeout has passed,
pg_stat_wal_receiver calls it 'streaming', and what was received last was replayed long ago. And a primary at which nobody writes
makes no lag, however old its last commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ._findings import finding
from ._parameters import STANDBY_PARAMETERS

# What a server that is to answer the same statements alike has besides.
ALIKE_PARAMETERS = (
    "shared_buffers", "effective_cache_size", "work_mem", "maintenance_work_mem", "random_page_cost", "effective_io_concurrency",
    "shared_preload_libraries", "TimeZone",
)  # fmt: skip
PARAMETERS = (
    *STANDBY_PARAMETERS,
    "hba_file",
    "hot_standby",
    "hot_standby_feedback",
    "listen_addresses",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "port",
    "synchronous_commit",
    "wal_keep_size",
    "wal_level",
    "wal_receiver_status_interval",
    "wal_receiver_timeout",
    "wal_sender_timeout",
)
# A busy host may be this late in sending, or in reading, what keeps the link alive.
LATE_SECONDS = 2.0
# Without wal_receiver_timeout nobody asks for a sign of life; after this much silence nothing can be said of the lag.
SILENT_SECONDS = 32.0
SEGMENT = 16 * 1024**2
# With less than this the server can't make its next WAL segments.
FULL_BYTES = 2 * SEGMENT
NO_SPACE = "No space left on device"

# Only lines of these kinds are kept of a log: others are of clients, and may hold a statement with its values.
_LEVELS = re.compile(r"\b(?:LOG|WARNING|FATAL|PANIC|HINT): ")
_PROGRAMS = re.compile(r"\A(?:postgres|initdb|pg_basebackup|pg_ctl|pg_rewind|chown|chmod|mkdir|rm): ")
_CLIENTS = re.compile(r"\b(?:statement|execute [^:]*|parse [^:]*|bind [^:]*|duration|parameters): ?", re.IGNORECASE)
_LOWER = re.compile(r"\b([a-z_]+) = ([0-9]+) is a lower setting than on the primary(?: server)?, where its value was ([0-9]+)")
_PASSWORD = re.compile(r"(password\s*=\s*)(?:'(?:[^'\\]|\\.|'')*'|\S+)|(://[^:/@\s]*:)[^@\s]+(?=@)", re.IGNORECASE)
_STREAMS = "started streaming WAL from primary"
_READY = "database system is ready to accept"
# What the receiver writes to the log when it can't go on.
_ENDED = (
    "could not connect to the primary server",
    "could not receive data from wal stream",
    "could not send data to wal stream",
    "could not start wal streaming",
    "terminating walreceiver",
    "replication terminated by primary server",
    "database system identifier differs",
    "is ahead of the wal flush position",
    "highest timeline",
    NO_SPACE.lower(),
)
# The primary answers, and says no: kind, marks.
_REFUSED = (
    ("slot_missing", ('replication slot "', "does not exist")),
    ("slot_in_use", ('replication slot "', "is active for pid")),
    ("slot_lost", ("can no longer get changes from replication slot",)),
    ("slot_lost", ("cannot read from replication slot",)),
    ("slot_lost", ("requested wal segment", "has already been removed")),
    ("other_cluster", ("database system identifier differs",)),
    ("full", (NO_SPACE.lower(),)),
    ("refused", ("no pg_hba.conf entry",)),
    ("refused", ("pg_hba.conf rejects",)),
    ("refused", ("authentication failed",)),
    ("refused", ("no password supplied",)),
    ("refused", ('role "', "does not exist")),
    ("refused", ("exceeds max_wal_senders",)),
    ("refused", ("too many clients",)),
    ("refused", ("connection slots are reserved",)),
    ("refused", ("must be superuser or replication role",)),
    ("refused", ("is ahead of the wal flush position",)),
    ("refused", ("highest timeline",)),
    ("refused", ("is starting up",)),
    ("refused", ("is shutting down",)),
    ("refused", ("not yet accepting connections",)),
)


@dataclass(frozen=True)
class Wanted:
    """What the caller expects of the server."""

    service: str
    expect: str  # primary, standby or any
    slot: str = ""
    standby_name: str = ""
    max_lag_bytes: int = 0
    max_lag_seconds: float = 0


@dataclass(frozen=True)
class Ending:
    """Why the receiver of a standby ended last, from its log. kind is cut, full, or one of those in which the primary said no."""

    kind: str
    text: str


def lsn_number(text: Optional[str]) -> Optional[int]:
    """Return the bytes of a place in the WAL such as 0/3000060, None for none. Raises ValueError for other text."""
    if not text:
        return None
    high, slash, low = text.partition("/")
    if not slash:
        raise ValueError("not an LSN: %r" % text)
    return (int(high, 16) << 32) + int(low, 16)


def difference(end: Optional[str], start: Optional[str]) -> Optional[int]:
    """Return the bytes between two places in the WAL, None when one is not known."""
    first, last = lsn_number(start), lsn_number(end)
    return None if first is None or last is None else last - first


def furthest(*places: Optional[str]) -> Optional[str]:
    """Return the last of several places in the WAL."""
    known = [item for item in places if item]
    return max(known, key=lambda item: lsn_number(item) or 0) if known else None


# --- the log -------------------------------------------------------------------------------------------------------


def log_lines(text: str) -> list[str]:
    """Return the lines of a log that are about the server itself, in one line each, without passwords."""
    kept = []
    for line in text.splitlines():
        lower = _LOWER.search(line)
        if not lower and (_CLIENTS.search(line) or not (_LEVELS.search(line) or _PROGRAMS.match(line))):
            continue
        kept.append(_PASSWORD.sub(lambda match: (match.group(1) or match.group(2)) + "********", line.strip()))
    return kept


def since(lines: Sequence[str], mark: str) -> list[str]:
    """Return the lines after the last one with that mark, all when none has it."""
    for number in range(len(lines) - 1, -1, -1):
        if mark in lines[number]:
            return list(lines[number + 1 :])
    return list(lines)


def ending(lines: Sequence[str]) -> Optional[Ending]:
    """Return why the receiver ended last, None when it started to stream later than that, or nothing is said of it."""
    for line in reversed(since(lines, _STREAMS)):
        low = line.lower()
        if not any(mark in low for mark in _ENDED):
            continue
        text = re.sub(r"\A.*?\b(?:FATAL|LOG|WARNING|PANIC):\s+", "", line)
        for kind, marks in _REFUSED:
            if all(mark in low for mark in marks):
                return Ending(kind, text)
        return Ending("cut", text)
    return None


def lower_settings(lines: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return parameter -> (here, on the primary) for those of which the log says that they stop the standby."""
    found = {}
    for line in since(lines, _READY):
        match = _LOWER.search(line)
        if match:
            found[match.group(1)] = (int(match.group(2)), int(match.group(3)))
    return found


def out_of_space(lines: Sequence[str]) -> str:
    """Return the last line that tells of a full disk since the server was ready, "" for none."""
    for line in reversed(since(lines, _READY)):
        if NO_SPACE in line:
            return line
    return ""


# --- what was read, put in order -----------------------------------------------------------------------------------


def parameters_of(rows: Iterable[Mapping[str, Any]], configured: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the parameters by name. configured: what the files say of those that wait for a restart."""
    return {
        row["name"]: {
            "value": row["setting"],
            "unit": row["unit"] or "",
            "source": row["source"],
            "sourcefile": row["sourcefile"] or "",
            "sourceline": row["sourceline"] or 0,
            "pending_restart": row["pending_restart"],
            "configured": configured.get(row["name"]) if row["pending_restart"] else row["setting"],
        }
        for row in rows
        if row["name"] in PARAMETERS
    }


def parameter(server: Mapping[str, Any], name: str) -> str:
    """Return the value with which a server works, "" when it was not read."""
    return str((server.get("parameters") or {}).get(name, {}).get("value", ""))


def number_of(server: Mapping[str, Any], name: str) -> Optional[int]:
    """Return a parameter as a number, None when it was not read."""
    text = parameter(server, name)
    return int(text) if re.match(r"-?[0-9]+\Z", text) else None


def silence_limit(server: Mapping[str, Any], name: str) -> Optional[float]:
    """Return after how many seconds of silence a link is no longer alive, None when nobody watches it.

    name is wal_receiver_timeout or wal_sender_timeout. After half of it both sides ask the other one for a sign of life, which comes
    at once; at the end of it they give the link up.
    """
    milliseconds = number_of(server, name)
    return milliseconds / 2000.0 + LATE_SECONDS if milliseconds else None


def libc_of(banner: str, getconf: str) -> dict[str, Optional[str]]:
    """Return family and version of the C library, by whose rules texts are sorted, from version() and `getconf GNU_LIBC_VERSION`."""
    family = "unknown"
    if "-musl" in banner:
        family = "musl"
    elif "-gnu" in banner or getconf.startswith("glibc "):
        family = "glibc"
    match = re.match(r"glibc ([0-9.]+)\s*\Z", getconf)
    return {"family": family, "version": match.group(1) if match and family == "glibc" else None}


def disk_of(text: str) -> Optional[dict[str, Any]]:
    """Return the sizes from `df -Pk DATA DATA/pg_wal`, None for another answer."""
    sizes = []
    for line in text.splitlines()[1:]:
        match = re.match(r"\S.*?\s+([0-9]+)\s+([0-9]+)\s+(-?[0-9]+)\s+[0-9]+%\s+/", line)
        if match:
            sizes.append((int(match.group(1)) * 1024, max(0, int(match.group(3))) * 1024))
    if len(sizes) != 2:
        return None
    return {
        "total_bytes": sizes[0][0],
        "free_bytes": sizes[0][1],
        "wal_total_bytes": sizes[1][0],
        "wal_free_bytes": sizes[1][1],
    }


def parse_control_state(text: str) -> dict[str, Any]:
    """Return role, system_identifier and timeline from pg_controldata, for a server that lets nobody in."""
    found = {}
    for line in text.splitlines():
        key, dummy, value = line.partition(":")
        found[key.strip()] = value.strip()
    state = found.get("Database cluster state", "")
    timeline = found.get("Latest checkpoint's TimeLineID", "")
    return {
        "role": "standby" if "recovery" in state and "crash" not in state else "primary" if state == "in production" else "unknown",
        "system_identifier": found.get("Database system identifier") or None,
        "timeline": int(timeline) if timeline.isdigit() else None,
    }


def primary_of(
    server: Mapping[str, Any],
    senders: Sequence[Mapping[str, Any]],
    slots: Sequence[Mapping[str, Any]],
    rules: Optional[Sequence[Mapping[str, Any]]],
    role_settings: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the part of a primary. rules None: they could not be read."""
    limit = silence_limit(server, "wal_sender_timeout")
    found = []
    for row in senders:
        age = None if row["reply_age_seconds"] is None else round(max(0.0, row["reply_age_seconds"]), 1)
        silent = row["state"] != "backup" and age is not None and limit is not None and age > limit
        lag = None if row["lag_bytes"] is None else max(0, row["lag_bytes"])
        seconds: Optional[float] = None
        if not silent and lag is not None:
            seconds = 0.0 if lag == 0 else row["replay_lag_seconds"]
        found.append({**row, "lag_bytes": lag, "lag_seconds": seconds, "reply_age_seconds": age, "silent": silent})
    for item in found:
        del item["replay_lag_seconds"]
    users = {row["pid"]: row for row in senders}
    reserved = []
    for row in slots:
        user = users.get(row["active_pid"])
        used_by = {"application_name": user["application_name"], "client_addr": user["client_addr"]} if user else None
        reserved.append({**row, "used_by": used_by})
    max_senders, max_slots = number_of(server, "max_wal_senders"), number_of(server, "max_replication_slots")
    return {
        "senders": found,
        "free_senders": None if max_senders is None else max_senders - len(found),
        "slots": reserved,
        "free_slots": None if max_slots is None else max_slots - len(reserved),
        "hba_rules": None
        if rules is None
        else [{key: value for key, value in row.items() if key != "error"} for row in rules if not row["error"]],
        "hba_errors": None if rules is None else [{"line_number": row["line_number"], "error": row["error"]} for row in rules if row["error"]],
        "synchronous_commit_off": [dict(row) for row in role_settings],
    }


def link_of(
    receiver: Optional[Mapping[str, Any]],
    conninfo: Optional[Mapping[str, str]],
    end: Optional[Ending],
    limit: Optional[float],
    startup: Optional[str],
    known_end: Optional[str],
) -> tuple[str, str]:
    """Return what became of the link to the primary, and why in words.

    conninfo None: it could not be read; empty: there is none. limit: see silence_limit(). startup: for what the startup process waits, ""
    when it works. known_end: how far the primary is known to have come.
    """
    if receiver is None:
        if conninfo is not None and not conninfo:
            return "none", "primary_conninfo is empty, so that this server receives from nobody"
        if end is not None and end.kind != "cut":
            return "waiting", "the log says: %s" % end.text
        if end is None and startup == "":
            return "catching_up", "it replays what it has, and does not receive yet"
        return "cut", "nothing is received, and %s" % ("the log says: %s" % end.text if end else "the log does not say why")
    status = receiver["status"]
    if status != "streaming":
        return "waiting", "the receiver is %s%s" % (status or "not to be seen", "; the log says: %s" % end.text if end else "")
    age = receiver["last_message_age_seconds"]
    if limit is not None and age is not None and age > limit:
        return "cut", (
            "nothing was heard from the primary for %.1f seconds, and a sign of life was due after %.1f; the receiver calls this streaming until"
            " wal_receiver_timeout has passed" % (age, limit - LATE_SECONDS)
        )
    behind = difference(known_end, receiver["received_lsn"])
    if behind is not None and behind > SEGMENT:
        return "catching_up", "the primary is %d bytes ahead of what was received" % behind
    return "streaming", "the last message came %.1f seconds ago" % age if age is not None else "the receiver says so"


def standby_of(
    receiver: Optional[Mapping[str, Any]],
    replay: Mapping[str, Any],
    conflicts: Mapping[str, Any],
    conninfo: Optional[Mapping[str, str]],
    server: Mapping[str, Any],
    end: Optional[Ending],
    primary_lsn: Optional[str],
    settled: Optional[float],
) -> dict[str, Any]:
    """Return the part of a standby.

    primary_lsn: how far the primary had come when it was read, if it was. settled: seconds until what was known to exist was replayed; None
    when that was not waited for, or did not come about. In conninfo a password is only known to be there, or not.
    """
    received = furthest(receiver["received_lsn"] if receiver else None, replay["received_lsn"])
    replayed = replay["replayed_lsn"]
    known_end = furthest(received, receiver["latest_end_lsn"] if receiver else None, primary_lsn)
    limit = silence_limit(server, "wal_receiver_timeout")
    link, why = link_of(receiver, conninfo, end, limit, replay["startup_wait"], known_end)
    age = receiver["last_message_age_seconds"] if receiver else None
    alive = receiver is not None and link in ("streaming", "catching_up")
    unwatched = alive and limit is None and age is not None and age > SILENT_SECONDS
    lag_bytes = difference(known_end, replayed)
    lag_seconds: Optional[float] = None
    reason = ""
    if not alive or unwatched:
        ahead = difference(primary_lsn, replayed)
        # What the primary had is a fact. That nothing more than what was received exists is not one.
        lag_bytes = ahead if ahead is not None and ahead > 0 else None
        if unwatched:
            reason = "wal_receiver_timeout is 0, so that nobody asks for a sign of life, and none came for %.1f seconds" % (age or 0)
        else:
            reason = "nothing is heard from the primary (%s), so that nobody here knows what it has written since" % link
    elif lag_bytes is None:
        reason = "nothing was replayed yet"
    elif lag_bytes <= 0:
        lag_bytes, lag_seconds = 0, 0.0
    elif settled is not None:
        lag_seconds = round(settled, 1)
    elif replay["last_commit_age_seconds"] is not None:
        lag_seconds = round(max(0.0, replay["last_commit_age_seconds"]), 1)
    else:
        reason = "no commit was replayed since the server was started, so that there is no time to count from"
    return {
        "streaming": alive,
        "link": link,
        "why": why,
        "refused": end.kind if end and link == "waiting" else None,
        "sender_host": receiver["sender_host"] if receiver else (conninfo or {}).get("host"),
        "sender_port": receiver["sender_port"] if receiver else None,
        "slot_name": (receiver["slot_name"] if receiver else None) or replay["slot_name"] or None,
        "received_lsn": received,
        "replayed_lsn": replayed,
        "known_end_lsn": known_end,
        "last_message_age_seconds": None if age is None else round(max(0.0, age), 1),
        "cut_after_seconds": limit,
        "lag_bytes": lag_bytes,
        "lag_seconds": lag_seconds,
        "lag_unknown": reason or None,
        "replay_paused": replay["paused"],
        "conflicts": dict(conflicts),
        "primary_conninfo": None if conninfo is None else {name: value for name, value in conninfo.items() if name != "password"},
        "clear_password": None if conninfo is None else bool(conninfo.get("password")),
    }


# --- judging -------------------------------------------------------------------------------------------------------


def size_text(number: float) -> str:
    """Return bytes for people."""
    for unit in ("B", "kB", "MB"):
        if abs(number) < 1024:
            return "%d %s" % (number, unit)
        number /= 1024
    return "%.1f GB" % number


def could_not_read(what: str, found: str, hint: str) -> dict[str, Any]:
    """Return the finding for something that stays unknown."""
    return finding("could_not_read", "warning", what, "to be read", found, hint)


def judge_container(container: Mapping[str, Any], wanted: Wanted) -> list[dict[str, Any]]:
    """Return the findings of a server that lets nobody in."""
    primary = wanted.expect == "primary"
    state, lines = container["state"], container["log"]
    grave = [line for line in since(lines, _READY) if "FATAL:" in line or "PANIC:" in line] or lines
    last = "; its log says: %s" % grave[-1] if grave else ""
    found: list[dict[str, Any]] = []
    if state == "missing":
        found.append(
            finding(
                "standby_not_running", "error", wanted.service, "a running server", "no container; services that run: %s" % container["others"],
                "Start it with `docker compose up -d`, or correct the name of the service.",
            )
        )  # fmt: skip
    elif state == "running" and not container["restarting"]:
        found.append(
            finding(
                "primary_not_ready" if primary else "standby_not_ready", "error", wanted.service, "a server that lets sessions in",
                "%s%s" % (container["why"], last),
                "It may be on its way: a clone is being made, or WAL replayed until the data is consistent. Look at its log, and run this again.",
            )
        )  # fmt: skip
    elif container["restarting"]:
        found.append(
            finding(
                "primary_restarting" if primary else "standby_restarting", "error", wanted.service, "a server that stays up",
                "started again %d times, exit code %d%s" % (container["restart_count"], container["exit_code"], last),
                "Read its log (docker logs %s) for what ends it." % container["name"],
            )
        )  # fmt: skip
    else:
        killed = ", killed for want of memory" if container["oom_killed"] else ""
        found.append(
            finding(
                "primary_not_running" if primary else "standby_not_running", "error", wanted.service, "a running server",
                "%s, exit code %d%s%s" % (state, container["exit_code"], killed, last),
                "Read its log (docker logs %s), correct what ended it, and start it." % container["name"],
            )
        )  # fmt: skip
    full = out_of_space(lines)
    if full:
        found.append(disk_full(wanted.service, primary, full))
    for name, (here, there) in sorted(lower_settings(lines).items()):
        # Somebody may have corrected it since: the next start tells.
        found.append(too_low(name, here, there, "its log says so"))
    return found


def disk_full(service: str, primary: bool, what: str) -> dict[str, Any]:
    """Return the finding for a full disk."""
    return finding(
        "primary_disk_full" if primary else "standby_disk_full", "error", service, "room for data and WAL", what,
        "Give the file system of its volume more room, or free some; never delete a file of the server. Then start it again.",
    )  # fmt: skip


def too_low(name: str, here: int, there: int, how: str, severity: str = "error") -> dict[str, Any]:
    """Return the finding for a parameter in which a standby has less than its primary."""
    return finding(
        "standby_parameter_too_low", severity, name, "at least %d, as on the primary" % there, "%d (%s)" % (here, how),
        "The standby stops replaying, and does not start again. When raising, raise it on the standby first, then on the primary;"
        " when lowering, the primary first.",
    )  # fmt: skip


def judge(server: Mapping[str, Any], primary: Optional[Mapping[str, Any]], wanted: Wanted, control: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the findings of a server that was read. primary: the same of its primary, if it was read earlier."""
    found = judge_role(server, primary, wanted)
    disk = server["disk"]
    if disk is not None and min(disk["free_bytes"], disk["wal_free_bytes"]) < FULL_BYTES:
        left = min(disk["free_bytes"], disk["wal_free_bytes"])
        words = "%s left in the file system of %s" % (size_text(left), server["data_directory"])
        found.append(disk_full(wanted.service, server["role"] == "primary", words))
    if server["role"] == "primary" and server["primary"] is not None:
        found += judge_slots(server, wanted) + judge_primary(server, wanted)
    if server["role"] == "standby" and server["standby"] is not None:
        found += judge_link(server, primary, wanted) + judge_parameters(server, primary, control)
        if primary is not None:
            found += judge_libc(server, primary, wanted)
    return found + judge_collations(server)


def judge_role(server: Mapping[str, Any], primary: Optional[Mapping[str, Any]], wanted: Wanted) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if wanted.expect == "primary" and server["role"] == "standby":
        found.append(
            finding(
                "primary_in_recovery", "error", wanted.service, "a primary, which takes writes", "a standby (pg_is_in_recovery)",
                "Was there a failover? Name the service of the server that is the primary now.",
            )
        )  # fmt: skip
    if primary is not None and primary["system_identifier"] != server["system_identifier"]:
        found.append(
            finding(
                "other_cluster", "error", wanted.service, "the system identifier of the primary, %s" % primary["system_identifier"],
                str(server["system_identifier"]),
                "The data of this server is no copy of that primary. See which of the two is named wrongly; it can't be made its standby"
                " without giving up this data.",
            )
        )  # fmt: skip
    elif wanted.expect == "standby" and server["role"] == "primary":
        where = "" if primary is None else ", its primary on timeline %s" % primary["timeline"]
        found.append(
            finding(
                "standby_promoted", "error", wanted.service, "a standby", "a primary of its own, on timeline %s%s" % (server["timeline"], where),
                "Somebody has promoted it, or its standby.signal is gone: it may hold writes that the primary has not. Find out which of the two"
                " the applications use before anything is cloned anew.",
            )
        )  # fmt: skip
    return found


def promoted(server: Mapping[str, Any], primary: Optional[Mapping[str, Any]], wanted: Wanted) -> Optional[bool]:
    """Tell whether a server that should be a standby has left recovery; None when nobody said that it should be one."""
    if wanted.expect != "standby" or server["role"] == "unknown":
        return None
    same = primary is None or primary["system_identifier"] == server["system_identifier"]
    return server["role"] == "primary" and same


def judge_slots(server: Mapping[str, Any], wanted: Wanted) -> list[dict[str, Any]]:
    part = server["primary"]
    found: list[dict[str, Any]] = []
    named = [item for item in part["slots"] if item["name"] == wanted.slot]
    if wanted.slot and not named:
        found.append(
            finding(
                "slot_missing", "error", wanted.slot, "a physical replication slot", "no such slot on %s" % wanted.service,
                "Without it the primary throws away WAL that the standby still needs. Make it: add_read_replica does.",
            )
        )  # fmt: skip
        if part["free_slots"] is not None and part["free_slots"] < 1:
            found.append(
                finding(
                    "no_free_slot", "error", wanted.service, "a free replication slot",
                    "max_replication_slots is %s, and all are taken: %s"
                    % (parameter(server, "max_replication_slots"), ", ".join(item["name"] for item in part["slots"]) or "none can be made"),
                    "Drop a slot that nobody needs any more, or raise max_replication_slots (a restart).",
                )
            )  # fmt: skip
    for item in named:
        user = item["used_by"]
        if item["type"] != "physical":
            found.append(slot_of_other(wanted.slot, "a %s slot of the database %s" % (item["type"], item["database"])))
        elif wanted.standby_name and user and user["application_name"] != wanted.standby_name:
            found.append(slot_of_other(wanted.slot, "%s at %s uses it" % (user["application_name"], user["client_addr"])))
    cap = number_of(server, "max_slot_wal_keep_size")
    free = server["disk"]["wal_free_bytes"] if server["disk"] else None
    for item in part["slots"]:
        if not item["temporary"]:
            found += judge_slot(item, cap, free)
    return found


def slot_of_other(name: str, what: str) -> dict[str, Any]:
    """Return the finding for a slot that somebody else has."""
    return finding(
        "slot_in_use_by_other", "error", name, "a slot of this standby alone", what,
        "Two that read from one slot lose WAL. Give the standby a slot with another name.",
    )  # fmt: skip


def slot_lost(name: str, what: str) -> dict[str, Any]:
    """Return the finding for a slot whose WAL is gone."""
    return finding(
        "slot_lost", "error", name, "the WAL that its standby needs", what,
        "It never comes back by itself: the standby has to be cloned anew, and the slot dropped and made anew. See first what stopped the standby.",
    )  # fmt: skip


def judge_slot(item: Mapping[str, Any], cap: Optional[int], free: Optional[int]) -> list[dict[str, Any]]:
    """Return the findings of one slot. cap: max_slot_wal_keep_size in MB; free: bytes where the WAL is."""
    found: list[dict[str, Any]] = []
    name, retained = item["name"], item["retained_bytes"]
    if item["wal_status"] == "lost":
        found.append(slot_lost(name, "wal_status lost: more than max_slot_wal_keep_size was written while nobody read"))
        return found
    if item["wal_status"] == "unreserved":
        found.append(
            finding(
                "slot_unreserved", "warning", name, "WAL that is kept", "wal_status unreserved: the next checkpoint takes it away",
                "Let the standby read at once, or it is lost. A larger max_slot_wal_keep_size saves it, if the disk has room.",
            )
        )  # fmt: skip
    kept = "it keeps %s of WAL" % size_text(retained) if retained is not None else "nothing is kept for it yet"
    if not item["active"]:
        found.append(
            finding(
                "slot_inactive", "warning", name, "a standby that reads from it", "nobody; %s" % kept,
                "Start its standby. A slot that nobody needs any more keeps WAL until the disk is full: drop it (pg_drop_replication_slot).",
            )
        )  # fmt: skip
    if cap == -1:
        found.append(
            finding(
                "slot_without_cap", "warning", name, "max_slot_wal_keep_size below the free disk", "-1, no limit; %s" % kept,
                "A standby that is away fills the disk of the primary. Set max_slot_wal_keep_size.",
            )
        )  # fmt: skip
    if free is not None and retained is not None:
        hint = "Bring the standby back or drop the slot; set max_slot_wal_keep_size to less than the free disk."
        if cap == -1 and retained > free:
            found.append(
                finding(
                    "slot_retains_too_much", "error", name, "less WAL than the disk has room for",
                    "%s, and only %s are free" % (kept, size_text(free)), hint,
                )
            )  # fmt: skip
        elif item["safe_wal_size"] is not None and item["safe_wal_size"] > free:
            found.append(
                finding(
                    "slot_retains_too_much", "error" if retained > free else "warning", name, "a limit that is reached before the disk is full",
                    "%s, may keep %s more, and only %s are free" % (kept, size_text(item["safe_wal_size"]), size_text(free)), hint,
                )
            )  # fmt: skip
    return found


def judge_primary(server: Mapping[str, Any], wanted: Wanted) -> list[dict[str, Any]]:
    part = server["primary"]
    found: list[dict[str, Any]] = []
    served = any(item["active"] for item in part["slots"] if item["name"] == wanted.slot)
    if parameter(server, "wal_level") == "minimal":
        found.append(
            finding(
                "wal_level_too_low", "error", wanted.service, "wal_level replica or logical", "minimal",
                "The WAL of minimal can't be replayed by a standby. Set wal_level to replica (a restart), then clone.",
            )
        )  # fmt: skip
    if part["free_senders"] is not None and part["free_senders"] < 1:
        found.append(
            finding(
                "no_free_sender", "warning" if served else "error", wanted.service, "a free WAL sender",
                "max_wal_senders is %s, and all are taken: %s"
                % (parameter(server, "max_wal_senders"), ", ".join(item["application_name"] for item in part["senders"]) or "there are none"),
                "Raise max_wal_senders (a restart; on the standby first). A clone needs two for a while.",
            )
        )  # fmt: skip
    found += judge_hba(server, wanted)
    if parameter(server, "synchronous_commit") == "off":
        found.append(
            finding(
                "synchronous_commit_off", "warning", wanted.service, "synchronous_commit on or local", "off",
                "Writes are acknowledged before they are on disk: a crash of the primary loses the last of them. Set it to on, or local.",
            )
        )  # fmt: skip
    for row in part["synchronous_commit_off"]:
        found.append(
            finding(
                "synchronous_commit_off", "warning", "%s in %s" % (row["role"], row["database"]), "synchronous_commit on or local", "off",
                "Writes of these sessions are acknowledged before they are on disk. ALTER ROLE or ALTER DATABASE ... RESET takes it back.",
            )
        )  # fmt: skip
    for item in part["senders"]:
        if item["silent"]:
            found.append(
                finding(
                    "sender_silent", "warning", "%s at %s" % (item["application_name"], item["client_addr"]), "an answer to each sign of life",
                    "the last one %.1f seconds ago (by the clocks of both hosts)" % item["reply_age_seconds"],
                    "The link is cut, or the standby hangs: run this on the standby. The primary gives the link up after wal_sender_timeout.",
                )
            )  # fmt: skip
    return found


def from_outside(rule: Mapping[str, Any]) -> bool:
    """Tell whether a rule for replication lets somebody in who is not in the container itself, as the image's own rules are."""
    address = rule["address"] or ""
    inside = address in ("::1", "localhost", "samehost") or address.startswith("127.")
    return rule["type"].startswith("host") and rule["auth_method"] != "reject" and not inside


def judge_hba(server: Mapping[str, Any], wanted: Wanted) -> list[dict[str, Any]]:
    part = server["primary"]
    if part["hba_rules"] is None:
        return []
    found = [
        finding(
            "hba_file_broken", "error", "%s:%s" % (parameter(server, "hba_file"), row["line_number"]), "a file without errors", row["error"],
            "The server goes on with the rules that it read before, and does not start with this file. Correct the line.",
        )
        for row in part["hba_errors"]
    ]  # fmt: skip
    if not any(from_outside(row) for row in part["hba_rules"]):
        found.append(
            finding(
                "no_hba_rule", "error", wanted.service, "a line in pg_hba.conf for replication over the network", "none",
                "`all` does not stand for replication. Add a line with the role, the address of the standby and scram-sha-256.",
            )
        )  # fmt: skip
    return found


def other_user(slot: str, server: Mapping[str, Any], primary: Optional[Mapping[str, Any]], wanted: Wanted) -> str:
    """Return who else reads from the slot of a standby, "" when that is not known.

    After a cut link it is its own former connection, which the primary gives up after wal_sender_timeout.
    """
    part = (primary or {}).get("primary") or {"slots": [], "senders": []}
    for item in part["slots"]:
        user = item["used_by"]
        if item["name"] != slot or not user:
            continue
        if wanted.standby_name:
            own = user["application_name"] == wanted.standby_name
        else:
            silent = any(sender["silent"] for sender in part["senders"] if sender["pid"] == item["active_pid"])
            own = silent or user["client_addr"] in ((server.get("container") or {}).get("addresses") or {}).values()
        if not own:
            return "%s at %s" % (user["application_name"], user["client_addr"])
    return ""


def judge_link(server: Mapping[str, Any], primary: Optional[Mapping[str, Any]], wanted: Wanted) -> list[dict[str, Any]]:
    part = server["standby"]
    slot = part["slot_name"] or wanted.slot or wanted.service
    other = other_user(slot, server, primary, wanted)
    found: list[dict[str, Any]] = []
    kind = part["refused"]
    if kind == "slot_missing":
        found.append(
            finding(
                "slot_missing", "error", slot, "a physical replication slot", part["why"],
                "Make it anew on the primary. If the WAL is still there, the standby goes on; else it has to be cloned anew.",
            )
        )  # fmt: skip
    elif kind == "slot_in_use" and other:
        found.append(slot_of_other(slot, "%s uses it" % other))
    elif kind == "slot_lost":
        found.append(slot_lost(slot, part["why"]))
    elif kind == "full":
        found.append(disk_full(wanted.service, False, part["why"]))
    if part["link"] == "cut":
        found.append(
            finding(
                "standby_link_cut", "error", wanted.service, "a primary that is heard", part["why"],
                "See that the primary runs, and that packets pass between the two hosts (firewall, network of the containers).",
            )
        )  # fmt: skip
    elif not part["streaming"]:
        found.append(
            finding(
                "standby_not_streaming", "error", wanted.service, "a standby that receives from its primary", "%s: %s" % (part["link"], part["why"]),
                "Its own former connection still holds the slot, until wal_sender_timeout of the primary, or somebody else does: read the primary"
                " first, and hand that over as primary."
                if kind == "slot_in_use" and not other
                else "Correct what it says. The standby tries again every few seconds (wal_retrieve_retry_interval).",
            )
        )  # fmt: skip
    elif part["cut_after_seconds"] is None:
        found.append(
            finding(
                "standby_link_unwatched", "warning", wanted.service, "wal_receiver_timeout above 0", "0",
                "A cut link is never noticed, not by the standby either. Set wal_receiver_timeout, such as to 10s.",
            )
        )  # fmt: skip
    if part["lag_bytes"] is not None and part["lag_bytes"] > wanted.max_lag_bytes:
        found.append(lagging(wanted, size_text(wanted.max_lag_bytes), size_text(part["lag_bytes"]), part))
    if part["lag_seconds"] is not None and part["lag_seconds"] > wanted.max_lag_seconds:
        found.append(lagging(wanted, "%g seconds" % wanted.max_lag_seconds, "%.1f seconds" % part["lag_seconds"], part))
    if wanted.slot and part["slot_name"] != wanted.slot:
        found.append(
            finding(
                "standby_without_slot", "warning", wanted.service, "primary_slot_name %s" % wanted.slot, part["slot_name"] or "none",
                "Without its slot the primary throws away WAL that it still needs. Set primary_slot_name and reload.",
            )
        )  # fmt: skip
    if part["replay_paused"]:
        found.append(
            finding(
                "replay_paused", "warning", wanted.service, "a standby that replays",
                "replay is paused, by pg_wal_replay_pause() or by the server itself",
                "Readers see old data. If a parameter is too low, correct it and restart; else pg_wal_replay_resume().",
            )
        )  # fmt: skip
    if part["clear_password"]:
        found.append(
            finding(
                "clear_password", "warning", "primary_conninfo", "a passfile", "a password in clear",
                "It stands in postgresql.auto.conf, in every copy of the data directory, and in pg_settings. Put it into a file (0600) that"
                " passfile names.",
            )
        )  # fmt: skip
    return found


def lagging(wanted: Wanted, limit: str, lag: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the finding for a standby that is behind by more than it may be."""
    return finding(
        "standby_lagging", "warning", wanted.service, "at most %s behind the primary" % limit, "%s (%s)" % (lag, part["link"]),
        "See whether it grows: a long query with conflicts, a paused replay, a slow disk or network; or the primary writes more than usual.",
    )  # fmt: skip


def judge_parameters(server: Mapping[str, Any], primary: Optional[Mapping[str, Any]], control: Mapping[str, int]) -> list[dict[str, Any]]:
    found = []
    for name in STANDBY_PARAMETERS:
        here = number_of(server, name)
        there = number_of(primary or {}, name)
        known = max(item for item in (there, control.get(name), -1) if item is not None)
        if here is None:
            continue
        if here < known:
            found.append(too_low(name, here, known, "the value with which it runs"))
            continue
        entry = (primary or {}).get("parameters", {}).get(name, {})
        if entry.get("pending_restart") and str(entry.get("configured") or "").isdigit() and here < int(entry["configured"]):
            found.append(too_low(name, here, int(entry["configured"]), "the primary has that value after its next restart", "warning"))
    return found


def judge_libc(server: Mapping[str, Any], primary: Mapping[str, Any], wanted: Wanted) -> list[dict[str, Any]]:
    mine, theirs = server["libc"], primary.get("libc") or {}
    hint = "Indexes of texts are sorted by the primary's rules, and searches here can miss rows. Use the primary's image."
    if "unknown" not in (mine["family"], theirs.get("family", "unknown")) and mine["family"] != theirs["family"]:
        return [finding("other_libc", "error", wanted.service, "the C library of the primary, %s" % theirs["family"], mine["family"], hint)]
    # Without a rule of the library nothing can be sorted otherwise.
    sorts = any(item["provider"] == "libc" and not plain(item["collate"]) for item in server["databases"])
    if sorts and mine["version"] and theirs.get("version") and mine["version"] != theirs["version"]:
        expected, now = ("%s %s" % (item["family"], item["version"]) for item in (theirs, mine))
        return [finding("collation_version_differs", "error", wanted.service, "the C library of the primary, %s" % expected, now, hint)]
    return []


def plain(collation: str) -> bool:
    """Tell whether texts are sorted by their bytes or code points, whatever the library."""
    return collation in ("C", "POSIX") or collation.startswith("C.")


def judge_collations(server: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        finding(
            "collation_version_differs", "error" if server["role"] == "standby" else "warning", item["name"],
            "version %s, by which its indexes are sorted" % item["recorded_version"], "version %s" % item["actual_version"],
            "Searches by text can miss rows. On a standby: use the primary's image. On a primary: REINDEX, then"
            " ALTER DATABASE ... REFRESH COLLATION VERSION.",
        )
        for item in server["databases"]
        if item["recorded_version"] and item["actual_version"] and item["recorded_version"] != item["actual_version"]
    ]  # fmt: skip
