# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's parameters: what a value means, where it comes from, and what has to happen for another one. All pure but read_settings()."""

from __future__ import annotations

import os
import re

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Optional
from collections.abc import Iterable, Mapping, Sequence

if TYPE_CHECKING:
    from ._postgres import Session

AUTO_CONF = "postgresql.auto.conf"

# On a standby none of these may be lower than on its primary (PostgreSQL: Hot Standby, Administrator's Overview).
STANDBY_PARAMETERS = (
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
)
# As pg_controldata words them.
CONTROL_NAMES = {
    "max_connections": "max_connections setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_worker_processes": "max_worker_processes setting",
}

# ALTER SYSTEM takes none of these, or the server could not find its own files afterwards.
PLACES = ("config_file", "data_directory", "hba_file", "ident_file", "external_pid_file")
# Their values are or hold passwords, and would be shown in results and differences.
SECRETS = ("primary_conninfo", "ssl_passphrase_command")

# ALTER SYSTEM writes each of their values in quotes of its own: one text of two would become one strange name, and an empty
# text a name without a letter, with which the server does not start.
LISTS = (
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
)

# What a trial server must not take over: where it listens and logs, whose files it reads, what it recovers from.
NOT_TRIED = (
    *PLACES,
    *SECRETS,
    "archive_mode",
    "huge_pages",
    "listen_addresses",
    "logging_collector",
    "port",
    "unix_socket_directories",
    "unix_socket_group",
    "unix_socket_permissions",
)

# Sources that outrank the configuration files for one session only, or for some.
_SESSION_SOURCES = ("database", "user", "database user", "client", "interactive", "session", "test")

_BYTES = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_MICROSECONDS = {"us": 1, "ms": 1000, "s": 1000000, "min": 60000000, "h": 3600000000, "d": 86400000000}
_NUMBER = re.compile(r"\s*([+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?))\s*([A-Za-z]*)\s*\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)*\Z")
# How the server's short options are named as parameters (postgres --help).
_SHORT = {"N": "max_connections", "B": "shared_buffers", "p": "port", "k": "unix_socket_directories", "h": "listen_addresses", "S": "work_mem"}


class ParameterError(Exception):
    """A parameter can't have this value. The text is complete."""


@dataclass(frozen=True)
class Setting:
    """One row of pg_settings."""

    name: str
    setting: str
    unit: str
    context: str
    vartype: str
    source: str
    sourcefile: str
    sourceline: int
    pending_restart: bool
    boot_val: Optional[str]
    min_val: Optional[str]
    max_val: Optional[str]
    enumvals: tuple[str, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Setting:
        """Build from a row as the driver returns it."""
        return cls(
            name=row["name"],
            setting=row["setting"] or "",
            unit=row["unit"] or "",
            context=row["context"],
            vartype=row["vartype"],
            source=row["source"] or "default",
            sourcefile=row["sourcefile"] or "",
            sourceline=row["sourceline"] or 0,
            pending_restart=bool(row["pending_restart"]),
            boot_val=row["boot_val"],
            min_val=row["min_val"],
            max_val=row["max_val"],
            enumvals=tuple(row["enumvals"] or ()),
        )

    @property
    def where(self) -> str:
        """Where the value comes from, in words."""
        return "%s:%d" % (self.sourcefile, self.sourceline) if self.sourcefile else self.source


@dataclass(frozen=True)
class FileEntry:
    """One row of pg_file_settings. When the server reads its files, the last one of a name counts."""

    name: str
    setting: str
    file: str
    line: int
    applied: bool
    error: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> FileEntry:
        """Build from a row as the driver returns it."""
        return cls(
            name=str(row["name"] or "").lower(),
            setting=row["setting"] or "",
            file=row["sourcefile"] or "",
            line=row["sourceline"] or 0,
            applied=bool(row["applied"]),
            error=row["error"] or "",
        )

    @property
    def auto(self) -> bool:
        """Whether ALTER SYSTEM has written it."""
        return os.path.basename(self.file) == AUTO_CONF


@dataclass
class Server:
    """What was read of one server."""

    settings: dict[str, Setting]
    entries: list[FileEntry]
    arguments: list[str] = field(default_factory=list)  # of its container
    command: str = ""  # where those come from, in words
    # (name, text) -> the text as the server spells it, for texts whose spelling only the server knows (time zones).
    spelled: dict[tuple[str, str], str] = field(default_factory=dict)

    def last(self, name: str, auto: bool = True) -> Optional[FileEntry]:
        """Return the entry of the files that counts; auto False: as if ALTER SYSTEM had never been used for it."""
        found = [item for item in self.entries if item.name == name.lower() and (auto or not item.auto)]
        return found[-1] if found else None

    def running(self, setting: Setting) -> str:
        """Return the value with which the server works, whatever the session that asked has of its own."""
        if setting.source not in _SESSION_SOURCES:
            return self.canonical(setting, setting.setting) if setting.name in LISTS else setting.setting
        entry = self.last(setting.name)
        return self.canonical(setting, entry.setting) if entry and entry.applied else setting.boot_val or ""

    def configured(self, setting: Setting, auto: bool = True) -> str:
        """Return the value that the files ask for."""
        entry = self.last(setting.name, auto)
        if entry is not None:
            return self.canonical(setting, entry.setting)
        if not setting.sourcefile and setting.source not in _SESSION_SOURCES:
            # Not from a file: a default, often one that was computed at the start.
            return setting.setting
        return setting.boot_val or ""

    def canonical(self, setting: Setting, text: str) -> str:
        """Return a value of a file as pg_settings would show it, the text itself when it is none."""
        try:
            return self.spelled.get((setting.name, text)) or normalise(setting, text)
        except ParameterError:
            return text


def read_settings(session: Session) -> Server:
    """Return what the server says of its parameters. Raises PostgresError."""
    rows = session.rows(
        "SELECT name, setting, unit, context, vartype, source, sourcefile, sourceline, pending_restart, boot_val, min_val, max_val, enumvals"
        " FROM pg_catalog.pg_settings"
    )
    entries = session.rows("SELECT name, setting, sourcefile, sourceline, applied, error FROM pg_catalog.pg_file_settings ORDER BY seqno")
    settings = {row["name"].lower(): Setting.of(row) for row in rows}
    return Server(settings, [FileEntry.of(row) for row in entries])


# --- values --------------------------------------------------------------------------------------------------------


def text_of(name: str, value: Any) -> str:
    """Return what an operator wrote in YAML as the server takes it. Raises ParameterError."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return str(value)
    if not isinstance(value, str):
        raise ParameterError(
            "The value of %s is of type %s. Give a number, a text or a boolean; to name several things, one text with commas."
            % (name, type(value).__name__)
        )
    if any(char in value for char in "\n\r\0"):
        raise ParameterError("The value of %s holds a line break or NUL, which a configuration file can't carry." % name)
    return value


def normalise(setting: Setting, text: str) -> str:
    """Return a value as pg_settings shows it: numbers in the parameter's unit, on or off. Raises ParameterError."""
    if setting.vartype == "bool":
        return _bool(setting, text)
    if setting.vartype == "enum":
        for choice in setting.enumvals:
            if choice.lower() == text.lower():
                return choice
        raise ParameterError("%s can't be %r. It takes: %s." % (setting.name, text, ", ".join(setting.enumvals)))
    if setting.vartype in ("integer", "real"):
        number = _number(setting, text)
        for limit, beyond, word in ((setting.min_val, -1, "at least"), (setting.max_val, 1, "at most")):
            if limit is not None and (number - Fraction(limit)) * beyond > 0:
                unit = " %s" % setting.unit if setting.unit else ""
                raise ParameterError("%s can't be %s: it must be %s %s%s." % (setting.name, text, word, limit, unit))
        return str(int(number)) if setting.vartype == "integer" else "%g" % float(number)
    return ", ".join(elements(text)) if setting.name in LISTS else text


def elements(text: str) -> list[str]:
    """Return the elements of a list of names, without their quotes. Raises ParameterError."""
    found = []
    if not re.match(r'\s*(?:"(?:[^"]|"")*"|[^,"]*)\s*(?:,\s*(?:"(?:[^"]|"")*"|[^,"]*)\s*)*\Z', text):
        raise ParameterError("%r is no list of names: they stand between commas, in double quotes where they need some." % text)
    for match in re.finditer(r'\s*(?:"((?:[^"]|"")*)"|([^,"]*))\s*(?:,|\Z)', text):
        element = match.group(1).replace('""', '"') if match.group(1) is not None else match.group(2).strip()
        if element:
            found.append(element)
    return found


def _bool(setting: Setting, text: str) -> str:
    low = text.strip().lower()
    for word, minimum, value in (("true", 1, "on"), ("yes", 1, "on"), ("on", 2, "on"), ("false", 1, "off"), ("no", 1, "off"), ("off", 2, "off")):
        if len(low) >= minimum and word.startswith(low):
            return value
    if low in ("1", "0"):
        return "on" if low == "1" else "off"
    raise ParameterError("%s can't be %r. It takes on or off." % (setting.name, text))


def _number(setting: Setting, text: str) -> Fraction:
    match = _NUMBER.match(text)
    if not match:
        raise ParameterError("%s can't be %r: that is no number%s." % (setting.name, text, ", with or without a unit" if setting.unit else ""))
    digits, unit = match.groups()
    if re.match(r"[+-]?0[xX]", digits):
        number = Fraction(int(digits, 16))
    elif re.match(r"[+-]?0[0-7]+\Z", digits):
        # As C reads it.
        number = Fraction(int(digits, 8))
    else:
        number = Fraction(digits)
    if unit:
        number = _converted(setting, number, unit, text)
    return Fraction(round(number)) if setting.vartype == "integer" else number


def _converted(setting: Setting, number: Fraction, unit: str, text: str) -> Fraction:
    base = re.match(r"([0-9]*)([A-Za-z]+)\Z", setting.unit)
    if not base:
        raise ParameterError("%s can't be %r: it has no unit." % (setting.name, text))
    table = _BYTES if base.group(2) in _BYTES else _MICROSECONDS
    if unit not in table:
        raise ParameterError(
            "%s can't be %r: %s is none of its units, which are %s (capital letters count)." % (setting.name, text, unit, ", ".join(table))
        )
    value = number * table[unit]
    if value.denominator != 1 or number.denominator != 1:
        # As the server does: 30.1GB is a whole number of the next smaller unit.
        smaller = [size for size in table.values() if size < table[unit]]
        if smaller:
            value = Fraction(round(value / max(smaller))) * max(smaller)
    return value / (int(base.group(1) or 1) * table[base.group(2)])


# --- what is to be done --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One parameter: what it is, what it shall be, and what that takes."""

    setting: Setting
    running: str
    configured: str
    wanted: str
    text: Optional[str]  # for ALTER SYSTEM SET; None: RESET
    write: bool  # the file that ALTER SYSTEM writes has to change
    restart: bool  # the server works with another value, and only a start changes that
    reload: bool

    @property
    def name(self) -> str:
        """The parameter's name in small letters, as in the files."""
        return self.setting.name.lower()


def plan(server: Server, parameters: Mapping[str, Any]) -> list[Item]:
    """Return what each parameter takes, in the order given. Raises ParameterError for the first that can't be."""
    items = []
    for name, value in parameters.items():
        setting = server.settings.get(str(name).lower())
        if setting is None or not _NAME.match(str(name)):
            near = sorted(item for item in server.settings if str(name).lower()[:6] in item)[:5]
            more = " Similar names: %s." % ", ".join(near) if near else ""
            raise ParameterError("This server has no parameter %s.%s" % (name, more))
        items.append(_item(server, setting, value))
    return items


def _item(server: Server, setting: Setting, value: Any) -> Item:
    name = setting.name.lower()
    if setting.context == "internal":
        raise ParameterError(
            "%s can't be changed: it is %s by the way in which the server was built or its data directory was made." % (name, setting.setting)
        )
    if name in PLACES:
        raise ParameterError("%s can't be changed here: it tells the server where its files are. Set it in the service's command." % name)
    if name in SECRETS:
        raise ParameterError("%s can't be changed here: its value holds a password, which results and differences would show." % name)
    postmaster = setting.context == "postmaster"
    running, configured = server.running(setting), server.configured(setting)
    if value is None:
        write = any(item.name == name and item.auto for item in server.entries)
        wanted = server.configured(setting, auto=False) if server.last(name, auto=False) else setting.boot_val or ""
        untouched = not write and not setting.pending_restart and server.last(name, auto=False) is None
        if untouched or setting.source == "command line":
            # Either the server has its default, maybe a computed one, or no file counts at all.
            wanted = running
        waits = setting.pending_restart or running != wanted
        return Item(setting, running, configured, wanted, None, write, postmaster and waits, not postmaster and running != wanted)
    text = text_of(name, value)
    if name in LISTS and not elements(text):
        if server.configured(setting, auto=False):
            raise ParameterError(
                "%s can't be emptied by ALTER SYSTEM, and is set in another file of the server: %s. Take it out there."
                % (name, server.configured(setting, auto=False))
            )
        return _item(server, setting, None)
    wanted = server.spelled.get((setting.name, text)) or normalise(setting, text)
    if setting.source == "command line" and running != wanted:
        argument = argument_of(server.arguments, name)
        raise ParameterError(
            "%s can't be set to %s: the server was started with %s, which outranks ALTER SYSTEM and every file, and works with %s."
            " It comes from %s. Take it out there, or set it there."
            % (
                name,
                text,
                "the argument `%s`" % argument if argument else "it on its command line",
                running,
                server.command or "the container's command",
            )
        )
    automatic = setting.vartype in ("integer", "real") and wanted == "-1" and setting.min_val == "-1"
    # A value of -1 mostly means that the server computes one: what it works with never reads -1 then.
    differs = setting.pending_restart or configured != wanted if automatic else running != wanted
    return Item(setting, running, configured, wanted, text, configured != wanted, postmaster and differs, not postmaster and differs)


def argument_of(arguments: Sequence[str], name: str) -> str:
    """Return the argument of the server's command line that sets a parameter, "" if none does."""
    found = ""
    for index, item in enumerate(arguments):
        after = arguments[index + 1] if index + 1 < len(arguments) else ""
        if item == "-c":
            shown, pair = "-c " + after, after
        elif item.startswith(("--", "-c")):
            shown, pair = item, item[2:]
        elif len(item) >= 2 and item[0] == "-" and _SHORT.get(item[1]) == name:
            shown, pair = (item + " " + after, name) if len(item) == 2 else (item, name)
        else:
            continue
        if pair.partition("=")[0].replace("-", "_").lower() == name:
            found = shown.strip()
    return found


def others_pending(server: Server, names: Iterable[str]) -> list[tuple[Setting, str, str]]:
    """Return (setting, value that a start would bring, from where) for parameters that are not ours and would change."""
    mine = set(names)
    found = []
    for name, setting in sorted(server.settings.items()):
        entry = server.last(name)
        if name in mine or setting.context != "postmaster" or setting.source == "command line" or name in PLACES:
            continue
        if entry is not None:
            new = server.canonical(setting, entry.setting)
            if entry.error and new != setting.setting:
                found.append((setting, new, "%s:%d" % (entry.file, entry.line)))
        elif setting.pending_restart:
            found.append((setting, "its default", "%s, where it does not stand any more" % (setting.sourcefile or "a file")))
    return found


def others_reloaded(server: Server, names: Iterable[str]) -> list[tuple[Setting, str, str]]:
    """Return the same for parameters that a mere reload would change."""
    mine = set(names)
    found = []
    for name, setting in sorted(server.settings.items()):
        entry = server.last(name)
        if name in mine or entry is None or not entry.applied or setting.context in ("postmaster", "internal") or setting.source not in (
            "default", "configuration file", "environment variable",
        ):  # fmt: skip
            continue
        new = server.canonical(setting, entry.setting)
        # Only the server knows how it spells a text such as a time zone or a date style.
        if new != setting.setting and not (setting.vartype == "string" and setting.setting.lower().startswith(new.lower())):
            found.append((setting, new, "%s:%d" % (entry.file, entry.line)))
    return found


def faults(server: Server, names: Iterable[str]) -> list[str]:
    """Return the errors in the server's files that keep it from reading them, or from starting again, as file:line and why.

    names: what ALTER SYSTEM is about to write anew.
    """
    found = []
    for entry in server.entries:
        setting = server.settings.get(entry.name)
        if not entry.error or (entry.auto and entry.name in names):
            continue
        if setting is None:
            found.append("%s:%d: %s" % (entry.file, entry.line, entry.error))
            continue
        try:
            normalise(setting, entry.setting)
        except ParameterError as exc:
            found.append("%s:%d: %s" % (entry.file, entry.line, exc))
    return found


# --- rules between parameters --------------------------------------------------------------------------------------


def after(server: Server, items: Sequence[Item], name: str) -> int:
    """Return the number that a parameter has once the items are done, 0 for one that this version does not have."""
    for item in items:
        if item.name == name:
            return int(item.wanted or 0)
    setting = server.settings.get(name)
    return int(setting.setting or 0) if setting else 0


def check_slots(server: Server, items: Sequence[Item], in_use: int) -> None:
    """Refuse a max_connections that is too small for what is there. Raises ParameterError."""
    names = ("max_connections", "superuser_reserved_connections", "reserved_connections")
    if not any(item.name in names for item in items):
        return
    limit, reserved = after(server, items, names[0]), after(server, items, names[1]) + after(server, items, names[2])
    if limit <= reserved:
        raise ParameterError(
            "max_connections %d can't be: %d connections are reserved (superuser_reserved_connections, reserved_connections), and the"
            " server would not start. Give more than that, plus what the clients need." % (limit, reserved)
        )
    if limit < in_use + reserved:
        raise ParameterError(
            "max_connections %d is too small: %d connections are in use now and %d are reserved, so %d is the least. Lower the pools"
            " first, then this." % (limit, in_use, reserved, in_use + reserved)
        )


def check_standbys(items: Sequence[Item], standbys: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse an order that would stop a standby. standbys: service -> parameter -> value. Raises ParameterError."""
    for item in items:
        if item.name not in STANDBY_PARAMETERS:
            continue
        for service, values in standbys.items():
            if int(item.wanted) > values[item.name]:
                raise ParameterError(
                    "%s %s is more than the standby %s has (%d): it would stop replaying, and not start again. Raise it there first, then on the"
                    " primary." % (item.name, item.wanted, service, values[item.name])
                )


def check_primary(items: Sequence[Item], control: Mapping[str, int]) -> None:
    """Refuse to lower a standby below its primary. control: parameter -> value of the primary. Raises ParameterError."""
    for item in items:
        least = control.get(item.name)
        if least is not None and int(item.wanted) < least:
            raise ParameterError(
                "%s %s is less than the primary of this standby has (%d), as far as the standby has heard: it would not start. Lower it on the"
                " primary first, then here."
                % (item.name, item.wanted, least)
            )


def parse_control(text: str) -> dict[str, int]:
    """Return from the answer of pg_controldata what the primary had when it wrote the WAL that was replayed last."""
    found = {}
    for line in text.splitlines():
        key, dummy, value = line.partition(":")
        for name, words in CONTROL_NAMES.items():
            if key.strip() == words and value.strip().isdigit():
                found[name] = int(value)
    return found


# --- files ---------------------------------------------------------------------------------------------------------


def conf_quote(value: str) -> str:
    """Return a value as it stands in a configuration file of the server."""
    return "'%s'" % value.replace("\\", "\\\\").replace("'", "''")


def conf_text(values: Mapping[str, str]) -> str:
    """Return the text of a configuration file."""
    return "".join("%s = %s\n" % (name, conf_quote(value)) for name, value in values.items())


def proven_text(text: str, server: Server, items: Iterable[Item]) -> str:
    """Return the text of postgresql.auto.conf with which the server is known to start: what waits for a start is as it runs."""
    waiting = {item.name: item for item in items if item.restart}
    lines = [line for line in text.splitlines(True) if re.split(r"[\s=]", line.strip(), maxsplit=1)[0].lower() not in waiting]
    values = {}
    for name, item in waiting.items():
        entry = server.last(name, auto=False)
        without = server.canonical(item.setting, entry.setting) if entry else item.setting.boot_val
        if item.running != without and item.setting.source != "command line":
            values[name] = item.running
    return "".join(lines) + conf_text(values)


def trial_values(server: Server, items: Sequence[Item]) -> dict[str, str]:
    """Return the parameters for a trial server: what a start decides, as it is now, with the items on top."""
    values = {
        name: setting.setting
        for name, setting in sorted(server.settings.items())
        if setting.context == "postmaster" and setting.source not in ("default", "override")
    }
    for item in items:
        if item.text is not None:
            values[item.name] = item.text
        elif server.last(item.name, auto=False):
            values[item.name] = item.wanted
        else:
            values.pop(item.name, None)
    dropped = ("ssl", "recovery_", "bonjour")
    return {name: value for name, value in values.items() if name not in NOT_TRIED and not name.startswith(dropped)}
