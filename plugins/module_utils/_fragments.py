# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Our compose fragments beside the owner's files, and their membership in COMPOSE_FILE. Pure but for reading files."""

from __future__ import annotations

import os
import re

from typing import Optional

from . import _dotenv
from ._compose import ComposeError, default_files, read_env_text
from ._quoting import dotenv_quote

FRAGMENTS_DIR = "compose.d"
# First line of each of our files: how we know them from files that the owner keeps in the same directory.
HEADER = "# Kept by dghs.bd_fhir.compose_fragment. Changes by hand are overwritten."
# Stands right above a COMPOSE_FILE line that we wrote. What the owner's line said follows, as it was written.
MARKER = "# dghs.bd_fhir.compose_fragment keeps the next line. Before: "
_NOTHING = "(not set)"
_NO_FILE = "(no file)"


def fragment_path(project_dir: str, name: str) -> str:
    """Return the path of the fragment name. Raises ComposeError for a name that is not a plain word."""
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z", name):
        raise ComposeError("%r can't name a fragment. Use letters, digits, - and _." % name)
    return os.path.join(project_dir, FRAGMENTS_DIR, name + ".yml")


def fragment_text(content: str) -> str:
    """Return the text of the file for the wanted content."""
    return HEADER + "\n" + content + ("" if content.endswith("\n") else "\n")


def is_ours(path: str) -> bool:
    """Tell whether path is a fragment that we wrote."""
    try:
        return read_env_text(path).startswith(HEADER)
    except OSError:
        return False


def fragments_in(directory: str) -> list[str]:
    """Return our fragments in a directory, absolute, in name order."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [os.path.join(directory, name) for name in names if name.endswith(".yml") and is_ours(os.path.join(directory, name))]


def wanted_files(loaded: list[str], fragment: str, present: bool, ours: list[str]) -> list[str]:
    """Return the set of files that shall be loaded: the owner's in their order, then our fragments in name order. Pure.

    loaded: what is loaded now; ours: which fragments are ours. One that exists but is not loaded stays so: somebody
    may have taken it out, and deployment_info tells of it.
    """
    known = set(ours) | {fragment}
    owners = [path for path in loaded if path not in known]
    fragments = {path for path in loaded if path in known and path != fragment}
    if present:
        fragments.add(fragment)
    return owners + sorted(fragments)


def marked(text: str) -> Optional[str]:
    """Return what our marker line remembers about the owner's COMPOSE_FILE, None when there is no marker. Pure."""
    statement = _last(text)
    if statement is None:
        return None
    start = text.rfind("\n", 0, statement.start) + 1
    above = text[text.rfind("\n", 0, max(start - 1, 0)) + 1 : start].strip("\r\n") if start else ""
    return above[len(MARKER) :] if above.startswith(MARKER) else None


def _last(text: str) -> Optional[_dotenv.Statement]:
    found = [item for item in _dotenv.parse(text) if item.name == "COMPOSE_FILE"]
    return found[-1] if found else None


def _the_last(text: str) -> _dotenv.Statement:
    statement = _last(text)
    if statement is None:
        raise AssertionError("COMPOSE_FILE was in this text a moment ago")
    return statement


def env_with(text: Optional[str], files: list[str], ours_left: bool, project_dir: str) -> Optional[str]:
    """Return the text of the environment file that loads files; None: there shall be no file. Pure.

    text None: there is no such file. ours_left False: no fragment of ours is in files, so the owner's line comes back
    byte for byte, or goes, as it was before us. Raises DotenvError, ComposeError.
    """
    old = text or ""
    statement = _last(old)
    memory = marked(old)
    values = _dotenv.values_of(_dotenv.parse(old))
    if not ours_left:
        if statement is None or memory is None:
            # Not ours. If a fragment has to go from the owner's own line, that line is rewritten below.
            if statement is None or default_files(project_dir, values) == files:
                return text
        elif memory in (_NOTHING, _NO_FILE):
            bare = _dotenv.remove_name(old, "COMPOSE_FILE", MARKER + memory)
            return None if memory == _NO_FILE and not bare.strip() else bare
        else:
            restored = _take_marker(old, memory)
            item = _the_last(restored)
            restored = restored[: item.value_start] + memory + restored[item.value_end :]
            if default_files(project_dir, _dotenv.values_of(_dotenv.parse(restored))) == files:
                return restored
            # The owner has changed the set meanwhile: keep that, without our marker.
            old, statement, memory = _take_marker(old, memory), _last(_take_marker(old, memory)), None
    separator = values.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
    for path in files:
        if separator in path:
            raise ComposeError(
                "%s can't be named in COMPOSE_FILE, since its name holds the separator %r. Set COMPOSE_PATH_SEPARATOR in the"
                " environment file to a character that is in no path." % (path, separator)
            )
    value = separator.join(files)
    if statement is None:
        remembered = _NO_FILE if text is None else _NOTHING
        return _dotenv.set_value(old, "COMPOSE_FILE", value, MARKER + remembered)
    if values.get("COMPOSE_FILE") == value:
        return old
    if memory is None and ours_left:
        raw = old[statement.value_start : statement.value_end]
        if "\n" not in raw:
            start = old.rfind("\n", 0, statement.start) + 1
            old = old[:start] + MARKER + raw + _dotenv.line_ending(old) + old[start:]
            statement = _the_last(old)
    return old[: statement.value_start] + dotenv_quote(value) + old[statement.value_end :]


def _take_marker(text: str, memory: str) -> str:
    line = MARKER + memory
    start = text.index(line)
    return text[:start] + text[text.index("\n", start) + 1 :]
