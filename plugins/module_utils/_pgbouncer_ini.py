# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pgbouncer.ini, read by pgBouncer's own rules and changed without touching any other byte. Pure.

The file may hold passwords: no error of this file quotes from it, and whoever calls must not show its text.
"""

from __future__ import annotations

import re

from dataclasses import dataclass, field
from typing import Optional
from collections.abc import Callable, Iterable, Mapping

from ._quoting import QuotingError, pgbouncer_ini_value

MAX_INCLUDE = 10

# What isspace() of the C locale counts.
_SPACE = " \t\n\r\v\f"
_KEY = re.compile(r"[A-Za-z0-9_.*-]*")

# Setting of the section [pgbouncer] -> the words by which a line of [databases] sets its own instead.
LINE_WORDS: dict[str, tuple[str, ...]] = {
    "default_pool_size": ("pool_size",),
    "min_pool_size": ("min_pool_size",),
    "reserve_pool_size": ("reserve_pool_size", "reserve_pool"),
    "max_db_connections": ("max_db_connections",),
    "max_db_client_connections": ("max_db_client_connections",),
    "pool_mode": ("pool_mode",),
    "query_wait_timeout": ("query_wait_timeout",),
    "server_lifetime": ("server_lifetime",),
}


class IniError(Exception):
    """The file can't be read by pgBouncer, or can't be changed as wanted. Names file and line, quotes nothing."""


@dataclass(frozen=True)
class Entry:
    """One `key = value`. begin is the place of the key in the text of its file, start and end are that of the value."""

    path: str
    line: int
    section: str
    key: str
    value: str = field(repr=False)
    begin: int
    start: int
    end: int

    @property
    def where(self) -> str:
        """Return file:line."""
        return "%s:%d" % (self.path, self.line)


@dataclass(frozen=True)
class Word:
    """One `key=value` within the value of an entry of [databases] or [users]; start and end count in that value."""

    key: str
    value: str = field(repr=False)
    start: int
    end: int


@dataclass(frozen=True)
class Ini:
    """A pgbouncer.ini with the files that it includes. texts: path -> text; the first is the main file."""

    path: str
    texts: Mapping[str, str] = field(repr=False)
    entries: tuple[Entry, ...] = ()

    def of_section(self, section: str) -> list[Entry]:
        """Return the entries of a section, in the order in which pgBouncer reads them."""
        return [item for item in self.entries if item.section == section]

    def get(self, key: str) -> Optional[Entry]:
        """Return the entry of [pgbouncer] that counts for a setting: the last one."""
        found = [item for item in self.of_section("pgbouncer") if item.key == key]
        return found[-1] if found else None

    def settings(self) -> dict[str, str]:
        """Return what the section [pgbouncer] sets."""
        return {item.key: item.value for item in self.of_section("pgbouncer")}


def load(path: str, read: Callable[[str], str]) -> Ini:
    """Read a file and what it includes. read returns the text of a path as pgBouncer sees it, and raises IniError."""
    texts: dict[str, str] = {}
    entries: list[Entry] = []
    _load(path, read, texts, entries, "", 0)
    return Ini(path, texts, tuple(entries))


def _load(path: str, read: Callable[[str], str], texts: dict[str, str], entries: list[Entry], section: str, level: int) -> str:
    """Read one file into texts and entries; return the section in which it ends, for the file that included it."""
    text = texts[path] = read(path)
    position = 0
    end = len(text)

    def line_of(offset: int) -> int:
        return text.count("\n", 0, offset) + 1

    while True:
        while position < end and text[position] in _SPACE:
            position += 1
        if position >= end:
            return section
        newline = text.find("\n", position)
        newline = end if newline < 0 else newline
        if text.startswith("%include", position) and text[position + 8 : position + 9] in (" ", "\t"):
            target = text[position + 8 : newline].strip(_SPACE)
            if not target.startswith("/"):
                raise IniError(
                    "%s:%d includes a file by a relative path, which depends on the directory in which pgBouncer was started."
                    " Write the absolute path there." % (path, line_of(position))
                )
            if level >= MAX_INCLUDE:
                raise IniError("%s:%d is more than %d files deep in includes, which pgBouncer refuses." % (path, line_of(position), MAX_INCLUDE))
            section = _load(target, read, texts, entries, section, level + 1)
            position = newline
        elif text[position] in "#;":
            position = newline
        elif text[position] == "[":
            close = text.find("]", position)
            if close < 0 or close > newline:
                raise IniError("%s:%d begins a section and does not end it." % (path, line_of(position)))
            section = text[position + 1 : close]
            position = close + 1
        else:
            start = position
            if text[position] in "'\"":
                close = text.find(text[position], position + 1)
                if close < 0:
                    raise IniError("%s:%d holds a name whose quote is not closed." % (path, line_of(start)))
                key = text[position + 1 : close]
                position = close + 1
            else:
                match = _KEY.match(text, position)
                key = match.group(0) if match else ""
                position += len(key)
            while position < end and text[position] in " \t":
                position += 1
            if text[position : position + 1] != "=":
                raise IniError("%s:%d is not of the form `name = value`." % (path, line_of(start)))
            position += 1
            while position < end and text[position] in " \t":
                position += 1
            newline = text.find("\n", position)
            newline = end if newline < 0 else newline
            stop = newline
            while stop > position and text[stop - 1] in _SPACE:
                stop -= 1
            entries.append(Entry(path, line_of(start), section, key, text[position:stop], start, position, stop))
            position = newline


def words(value: str) -> list[Word]:
    """Return the words of a connection string as pgBouncer reads it. Raises IniError that quotes nothing."""
    found: list[Word] = []
    position = 0
    while True:
        while position < len(value) and value[position] in " \t":
            position += 1
        if position >= len(value):
            return found
        begin = position
        while position < len(value) and value[position] not in "= ":
            position += 1
        key = value[begin:position]
        while position < len(value) and value[position] in " \t":
            position += 1
        if value[position : position + 1] != "=" or not key:
            raise IniError("a connection string is not made of name=value")
        position += 1
        while position < len(value) and value[position] in " \t":
            position += 1
        start = position
        if value[position : position + 1] == "'":
            position += 1
            text = ""
            while True:
                close = value.find("'", position)
                if close < 0:
                    raise IniError("a quote within a connection string is not closed")
                text += value[position:close]
                position = close + 1
                if value[position : position + 1] != "'":
                    break
                text += "'"
                position += 1
        else:
            while position < len(value) and value[position] != " ":
                position += 1
            text = value[start:position]
        if not text:
            raise IniError("a value within a connection string is empty")
        found.append(Word(key, text, start, position))


def line_words(ini: Ini, setting: str) -> list[tuple[Entry, Word]]:
    """Return the lines of [databases] that set their own value for a setting, each with the word that counts.

    Raises IniError naming the line that can't be read.
    """
    found = []
    for entry in ini.of_section("databases"):
        try:
            own = [word for word in words(entry.value) if word.key in LINE_WORDS.get(setting, ())]
        except IniError as exc:
            raise IniError("%s: %s." % (entry.where, exc)) from None
        if own:
            found.append((entry, own[-1]))
    return found


def misplaced(ini: Ini, names: Iterable[str]) -> list[Entry]:
    """Return the entries that bear the name of a setting but stand in another section than [pgbouncer]."""
    known = set(names)
    return [item for item in ini.entries if item.section != "pgbouncer" and item.key in known]


def repeated(ini: Ini, names: Iterable[str]) -> list[Entry]:
    """Return the entries of [pgbouncer] that a later one of the same name makes void."""
    last = {item.key: item for item in ini.of_section("pgbouncer")}
    known = set(names)
    return [item for item in ini.of_section("pgbouncer") if item.key in known and last[item.key] is not item]


def _insert_place(ini: Ini, removed: Iterable[Entry]) -> tuple[str, int]:
    """Return file and offset of the end of the line after which a new setting of [pgbouncer] belongs."""
    main = ini.texts[ini.path]
    own = [item for item in ini.of_section("pgbouncer") if item.path == ini.path and item not in removed]
    if own:
        newline = main.find("\n", own[-1].end)
        return ini.path, len(main) if newline < 0 else newline + 1
    for match in re.finditer(r"(?m)^[ \t]*\[pgbouncer\][^\n]*(?:\n|\Z)", main):
        return ini.path, match.end()
    raise IniError("%s has no section [pgbouncer] of its own. Add one; its settings may stay in the file that it includes." % ini.path)


def _line_of(text: str, entry: Entry) -> tuple[int, int]:
    """Return the place of an entry in its file: its line, or what it has of a line that it shares with the head of its section."""
    begin = text.rfind("\n", 0, entry.begin) + 1
    if text[begin : entry.begin].strip(_SPACE):
        return entry.begin, entry.end
    newline = text.find("\n", entry.end)
    return begin, len(text) if newline < 0 else newline + 1


def change(ini: Ini, settings: Mapping[str, Optional[str]], lines: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """Return path -> new text of the files that have to change, for settings of [pgbouncer] and words of database lines.

    lines: (database, word) -> value, each of which has to be there already. No byte but those of the values changes;
    a setting that is not there yet gets a line below the last one of the section, and None takes that away again, so that
    the file is what it was. Raises IniError.
    """
    edits: list[tuple[str, int, int, str]] = []
    added = []
    removed = [item for item in ini.of_section("pgbouncer") if item.key in settings and settings[item.key] is None]
    edits += [(item.path, *_line_of(ini.texts[item.path], item), "") for item in removed]
    for key, value in settings.items():
        if value is None:
            continue
        try:
            text = pgbouncer_ini_value(value)
        except QuotingError as exc:
            raise IniError("The value of %s can't stand in %s: %s." % (key, ini.path, exc)) from None
        entry = ini.get(key)
        if entry is None:
            added.append((key, text))
        elif entry.value != text:
            edits.append((entry.path, entry.start, entry.end, text))
    for (database, name), value in lines.items():
        for entry in ini.of_section("databases"):
            if entry.key != database:
                continue
            for word in words(entry.value):
                if word.key == name and word.value != value:
                    edits.append((entry.path, entry.start + word.start, entry.start + word.end, value))
    if added:
        path, place = _insert_place(ini, removed)
        main = ini.texts[path]
        ending = "\r\n" if "\r\n" in main else "\n"
        text = "".join("%s = %s%s" % (key, value, ending) for key, value in added)
        if place == len(main) and not main.endswith("\n"):
            # The last line stays one without an ending.
            text = ending + text[: -len(ending)]
        edits.append((path, place, place, text))
    texts = dict(ini.texts)
    # From the end, so that the places in front stay right.
    for path, start, end, text in sorted(edits, key=lambda item: (item[0], item[1]), reverse=True):
        texts[path] = texts[path][:start] + text + texts[path][end:]
    for path in {item.path for item in removed if _line_of(ini.texts[item.path], item)[1] == len(ini.texts[item.path])}:
        if not ini.texts[path].endswith("\n"):
            texts[path] = re.sub(r"\r?\n\Z", "", texts[path])
    return {path: text for path, text in texts.items() if text != ini.texts[path]}


def with_texts(ini: Ini, texts: Mapping[str, str]) -> Ini:
    """Return the same file read again with other texts."""
    merged = {**ini.texts, **texts}
    return load(ini.path, lambda path: merged[path])
