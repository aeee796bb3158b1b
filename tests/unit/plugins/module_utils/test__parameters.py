# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a parameter's value means and takes, without a server; rows are those of PostgreSQL 15.18."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils._parameters import (
    FileEntry,
    Item,
    ParameterError,
    Server,
    Setting,
    argument_of,
    check_primary,
    check_slots,
    check_standbys,
    conf_text,
    faults,
    others_pending,
    others_reloaded,
    parse_control,
    plan,
    proven_text,
    text_of,
    trial_values,
)

CONF = "/etc/postgresql/postgresql.conf"
AUTO = "/var/lib/postgresql/data/postgresql.auto.conf"

# name, setting, unit, context, vartype, source, boot_val, min_val, max_val, enumvals
ROWS: list[tuple[Any, ...]] = [
    ("max_connections", "30", None, "postmaster", "integer", "configuration file", "100", "1", "262143", None),
    ("superuser_reserved_connections", "3", None, "postmaster", "integer", "default", "3", "0", "262143", None),
    ("shared_buffers", "4096", "8kB", "postmaster", "integer", "configuration file", "16384", "16", "1073741823", None),
    ("wal_buffers", "128", "8kB", "postmaster", "integer", "default", "-1", "-1", "262143", None),
    ("max_wal_senders", "10", None, "postmaster", "integer", "default", "10", "0", "262143", None),
    ("wal_level", "replica", None, "postmaster", "enum", "default", "replica", None, None, ["minimal", "replica", "logical"]),
    ("shared_preload_libraries", "", None, "postmaster", "string", "default", "", None, None, None),
    ("work_mem", "8192", "kB", "user", "integer", "configuration file", "4096", "64", "2147483647", None),
    ("random_page_cost", "1.1", None, "user", "real", "configuration file", "4", "0", "1.79769e+308", None),
    ("checkpoint_timeout", "300", "s", "sighup", "integer", "default", "300", "30", "86400", None),
    ("vacuum_cost_delay", "0", "ms", "user", "real", "default", "0", "0", "100", None),
    ("wal_compression", "on", None, "superuser", "enum", "configuration file", "off", None, None, ["pglz", "lz4", "zstd", "on", "off"]),
    ("autovacuum", "on", None, "sighup", "bool", "default", "on", None, None, None),
    ("TimeZone", "Etc/UTC", None, "user", "string", "configuration file", "GMT", None, None, None),
    ("statement_timeout", "30000", "ms", "user", "integer", "session", "0", "0", "2147483647", None),
    ("server_version_num", "150018", None, "internal", "integer", "default", "150018", "150018", "150018", None),
    ("data_directory", "/var/lib/postgresql/data", None, "postmaster", "string", "override", None, None, None, None),
    ("port", "5432", None, "postmaster", "integer", "default", "5432", "1", "65535", None),
    ("primary_conninfo", "", None, "sighup", "string", "default", "", None, None, None),
    ("listen_addresses", "*", None, "postmaster", "string", "configuration file", "localhost", None, None, None),
]
FILE = {"max_connections": "30", "shared_buffers": "32MB", "work_mem": "8MB", "random_page_cost": "1.1", "wal_compression": "on",
        "TimeZone": "Etc/UTC", "listen_addresses": "*"}  # fmt: skip


def setting(name: str, **changes: Any) -> Setting:
    keys = ("name", "setting", "unit", "context", "vartype", "source", "boot_val", "min_val", "max_val", "enumvals")
    row = dict(zip(keys, next(row for row in ROWS if row[0] == name)))
    row.update(sourcefile=None, sourceline=None, pending_restart=False)
    if row["source"] == "configuration file":
        row.update(sourcefile=CONF, sourceline=7)
    return Setting.of({**row, **changes})


def entry(name: str, value: str, auto: bool = False, error: str = "", applied: bool = True, line: int = 7) -> FileEntry:
    return FileEntry.of({"name": name, "setting": value, "sourcefile": AUTO if auto else CONF, "sourceline": line,
                         "applied": applied and not error, "error": error or None})  # fmt: skip


def server(*more: FileEntry, **changed: dict[str, Any]) -> Server:
    settings = {row[0].lower(): setting(row[0], **changed.get(row[0], {})) for row in ROWS}
    return Server(settings, [entry(name, value) for name, value in FILE.items()] + list(more))


def item(found: Server, name: str, value: Any) -> Item:
    return plan(found, {name: value})[0]


@pytest.mark.parametrize(
    ("name", "text", "normal"),
    [
        ("max_connections", "40", "40"),
        ("max_connections", "0x28", "40"),
        ("max_connections", "050", "40"),
        ("max_connections", " 40 ", "40"),
        ("max_connections", "4e1", "40"),
        ("shared_buffers", "32MB", "4096"),
        ("shared_buffers", "4096", "4096"),
        ("shared_buffers", "0.5GB", "65536"),
        ("shared_buffers", "30.1MB", "3853"),
        ("wal_buffers", "-1", "-1"),
        ("work_mem", "8MB", "8192"),
        ("work_mem", "8 MB", "8192"),
        ("checkpoint_timeout", "5min", "300"),
        ("checkpoint_timeout", "1h", "3600"),
        ("checkpoint_timeout", "90000ms", "90"),
        ("vacuum_cost_delay", "1500us", "1.5"),
        ("random_page_cost", "1.10", "1.1"),
        ("random_page_cost", "4", "4"),
        ("autovacuum", "TRUE", "on"),
        ("autovacuum", "y", "on"),
        ("autovacuum", "of", "off"),
        ("autovacuum", "0", "off"),
        ("wal_level", "LOGICAL", "logical"),
        ("TimeZone", "UTC", "UTC"),
    ],
)
def test_values_as_the_server_shows_them(name: str, text: str, normal: str) -> None:
    """Each was compared with the answer of a real server: tests/integration/real asks one."""
    assert item(server(), name, text).wanted == normal


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_conections", 40, ["no parameter max_conections", "max_connections"]),
        ("max_connections", 0, ["at least 1"]),
        ("max_connections", 300000, ["at most 262143"]),
        ("max_connections", "many", ["no number"]),
        ("max_connections", "40MB", ["no unit"]),
        ("max_connections", [40], ["list"]),
        ("max_connections", {"a": 1}, ["dict"]),
        ("shared_buffers", "32mb", ["mb", "capital letters"]),
        ("shared_buffers", "32s", ["none of its units"]),
        ("checkpoint_timeout", "20s", ["at least 30 s"]),
        ("wal_level", "archive", ["minimal, replica, logical"]),
        ("autovacuum", "maybe", ["on or off"]),
        ("autovacuum", "o", ["on or off"]),
        ("TimeZone", "UTC\nfsync=off", ["line break"]),
        ("server_version_num", 160000, ["can't be changed"]),
        ("data_directory", "/elsewhere", ["where its files are"]),
        ("primary_conninfo", "password=hush", ["password"]),
        ("max_connections; DROP", 40, ["no parameter"]),
    ],
)
def test_what_can_not_be_is_refused(name: str, value: Any, words: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        item(server(), name, value)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "hush" not in str(caught.value)


def test_yaml_values_become_what_the_server_takes() -> None:
    assert [text_of("x", value) for value in (True, False, 40, 1.5, "8MB")] == ["on", "off", "40", "1.5", "8MB"]


def state(found: Item) -> tuple[str, bool, bool, bool]:
    return found.wanted, found.write, found.reload, found.restart


def test_the_life_of_a_value_that_needs_a_restart() -> None:
    assert state(item(server(), "max_connections", 30)) == ("30", False, False, False)
    assert state(item(server(), "max_connections", 40)) == ("40", True, False, True)
    waits = entry("max_connections", "40", auto=True, error="setting could not be applied")
    waiting = server(waits, max_connections={"pending_restart": True})
    assert state(item(waiting, "max_connections", 40)) == ("40", False, False, True)
    assert item(waiting, "max_connections", 40).configured == "40"
    # Taking it back before anybody has restarted the server takes no restart.
    assert state(item(waiting, "max_connections", 30)) == ("30", True, False, False)
    done = server(entry("max_connections", "40", auto=True), max_connections={"setting": "40", "sourcefile": AUTO})
    assert state(item(done, "max_connections", 40)) == ("40", False, False, False)
    assert state(item(done, "max_connections", None)) == ("30", True, False, True)


def test_reset_of_what_no_file_sets() -> None:
    assert state(item(server(), "max_wal_senders", None)) == ("10", False, False, False)
    # Its computed default is none of the reset's business.
    assert state(item(server(), "wal_buffers", None)) == ("128", False, False, False)
    by_us = {"setting": "12", "source": "configuration file", "sourcefile": AUTO}
    set_before = server(entry("max_wal_senders", "12", auto=True), max_wal_senders=by_us)
    assert state(item(set_before, "max_wal_senders", None)) == ("10", True, False, True)
    reset = server(max_wal_senders={**by_us, "pending_restart": True})
    assert state(item(reset, "max_wal_senders", None)) == ("10", False, False, True)


def test_a_value_that_the_server_computes() -> None:
    assert state(item(server(), "wal_buffers", "-1")) == ("-1", True, False, True)
    assert state(item(server(entry("wal_buffers", "-1", auto=True)), "wal_buffers", -1)) == ("-1", False, False, False)


def test_reload() -> None:
    assert state(item(server(), "work_mem", "16MB")) == ("16384", True, True, False)
    # Edited by hand, or set by ALTER SYSTEM, without a reload.
    assert state(item(server(entry("work_mem", "16MB", auto=True)), "work_mem", "16MB")) == ("16384", False, True, False)
    assert state(item(server(), "work_mem", "8MB")) == ("8192", False, False, False)


def test_what_the_session_has_of_its_own_is_not_the_servers() -> None:
    assert item(server(), "statement_timeout", 0).running == "0"
    assert state(item(server(entry("statement_timeout", "5s")), "statement_timeout", "5s")) == ("5000", False, False, False)


def test_spelling_is_the_servers() -> None:
    found = server()
    found.spelled = {("TimeZone", "utc"): "UTC", ("TimeZone", "etc/utc"): "Etc/UTC"}
    assert state(item(found, "timezone", "etc/utc")) == ("Etc/UTC", False, False, False)
    assert state(item(found, "TimeZone", "utc")) == ("UTC", True, True, False)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["postgres", "-c", "max_connections=30"], "-c max_connections=30"),
        (["postgres", "-cmax_connections=30"], "-cmax_connections=30"),
        (["postgres", "--max-connections=30"], "--max-connections=30"),
        (["postgres", "--max_connections=30"], "--max_connections=30"),
        (["postgres", "-N", "30"], "-N 30"),
        (["postgres", "-N30"], "-N30"),
        (["postgres", "-c", "max_connections=20", "-c", "max_connections=30"], "-c max_connections=30"),
        (["postgres", "-c", "shared_buffers=1GB", "-c"], ""),
        ([], ""),
    ],
)
def test_the_argument_that_outranks_the_files(arguments: list[str], shown: str) -> None:
    assert argument_of(arguments, "max_connections") == shown


def test_a_value_of_the_command_line_is_refused_with_the_argument() -> None:
    found = server(max_connections={"source": "command line", "sourcefile": None})
    found.arguments = ["postgres", "-c", "max_connections=30"]
    found.command = "`command` of the service db (/opt/x/docker-compose.yml:12)"
    with pytest.raises(ParameterError) as caught:
        item(found, "max_connections", 40)
    assert all(word in str(caught.value) for word in ("`-c max_connections=30`", "service db", "docker-compose.yml:12"))
    assert state(item(found, "max_connections", 30)) == ("30", False, False, False)
    assert not item(found, "max_connections", None).restart


@pytest.mark.parametrize(("limit", "in_use", "words"), [(3, 0, "would not start"), (20, 18, "21 is the least"), (20, 17, "")])
def test_slots(limit: int, in_use: int, words: str) -> None:
    found = server()
    items = plan(found, {"max_connections": limit})
    if not words:
        check_slots(found, items, in_use)
        return
    with pytest.raises(ParameterError, match=words):
        check_slots(found, items, in_use)


def test_more_reserved_than_there_are() -> None:
    found = server()
    with pytest.raises(ParameterError, match="30 connections are reserved"):
        check_slots(found, plan(found, {"superuser_reserved_connections": 30}), 0)
    check_slots(found, plan(found, {"work_mem": "1MB"}), 100)


def test_standby_first_and_primary_first() -> None:
    found = server()
    with pytest.raises(ParameterError, match="Raise it there first"):
        check_standbys(plan(found, {"max_connections": 40}), {"replica": {"max_connections": 30}})
    check_standbys(plan(found, {"max_connections": 40, "work_mem": "1MB"}), {"replica": {"max_connections": 40}})
    with pytest.raises(ParameterError, match="Lower it on the primary first"):
        check_primary(plan(found, {"max_connections": 20}), {"max_connections": 30})
    check_primary(plan(found, {"max_connections": 40}), {"max_connections": 30})


def test_control_file() -> None:
    text = "wal_level setting:                    replica\nmax_connections setting:              40\nmax_prepared_xacts setting:           0\n"
    assert parse_control(text) == {"max_connections": 40, "max_prepared_transactions": 0}


def test_what_else_a_start_or_a_reload_would_change() -> None:
    waits = entry("shared_buffers", "64MB", error="setting could not be applied", line=9)
    found = server(waits, entry("work_mem", "9MB", line=11), max_wal_senders={"pending_restart": True})
    assert [(item.name, new, where) for item, new, where in others_pending(found, ["max_connections"])] == [
        ("max_wal_senders", "its default", "a file, where it does not stand any more"),
        ("shared_buffers", "8192", f"{CONF}:9"),
    ]
    assert others_pending(found, ["max_wal_senders", "shared_buffers"]) == []
    assert [(item.name, new) for item, new, where in others_reloaded(found, [])] == [("work_mem", "9216")]
    assert others_reloaded(found, ["work_mem"]) == []
    assert others_pending(server(), []) == []
    assert others_reloaded(server(), []) == []


def test_faults_of_the_files() -> None:
    broken = FileEntry.of({"name": None, "setting": None, "sourcefile": CONF, "sourceline": 3, "applied": False, "error": "syntax error"})
    wrong = entry("max_connections", "many", error="setting could not be applied", line=5)
    waits = entry("max_connections", "40", auto=True, error="setting could not be applied")
    assert faults(server(waits), []) == []
    assert faults(server(broken), [])[0] == f"{CONF}:3: syntax error"
    assert f"{CONF}:5: max_connections can't be 'many'" in faults(server(wrong), [])[0]
    own = entry("max_connections", "many", auto=True, error="setting could not be applied")
    assert faults(server(own), ["max_connections"]) == []
    assert faults(server(own), ["work_mem"])


def test_the_file_with_which_the_server_is_known_to_start() -> None:
    text = "# Do not edit this file manually!\nmax_connections = '40'\nwork_mem = '1MB'\nshared_preload_libraries = 'nothing'\n"
    waits = [
        entry("max_connections", "40", auto=True, error="setting could not be applied"),
        entry("shared_preload_libraries", "nothing", auto=True, error="setting could not be applied"),
    ]
    found = server(*waits)
    items = plan(found, {"max_connections": 40, "shared_preload_libraries": "nothing"})
    assert proven_text(text, found, items) == "# Do not edit this file manually!\nwork_mem = '1MB'\n"
    # What runs came from ALTER SYSTEM itself: then it has to stand there again.
    ran = server(*waits, max_connections={"setting": "35"})
    assert proven_text(text, ran, plan(ran, {"max_connections": 40})).endswith("shared_preload_libraries = 'nothing'\nmax_connections = '35'\n")


def test_quoting_of_a_configuration_file() -> None:
    assert conf_text({"a": "it's \\ %s"}) == "a = 'it''s \\\\ %s'\n"


def test_a_trial_takes_what_a_start_decides_and_no_place_of_the_real_server() -> None:
    values = trial_values(server(), plan(server(), {"max_connections": 40, "work_mem": "1MB", "port": 5433}))
    assert values == {"max_connections": "40", "shared_buffers": "4096", "work_mem": "1MB"}
    reset = server(entry("max_connections", "40", auto=True), max_connections={"setting": "40"})
    assert trial_values(reset, plan(reset, {"max_connections": None}))["max_connections"] == "30"
