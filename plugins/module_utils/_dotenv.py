# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading and editing .env files, byte for byte as Compose v2 reads them.

The reader follows the grammar of compose-go's dotenv package (quotes, escapes, `export`, YAML style colons, variables),
and is tested to answer as the real Compose does. The editor changes only the bytes of the names that it is asked for.
"""

from __future__ import annotations

import re
import unicodedata

from dataclasses import dataclass
from typing import Callable, Optional
from collections.abc import Mapping

from ._quoting import dotenv_quote

_BOM = "\ufeff"
# Go's unicode.IsSpace; Python's str.isspace() knows four control characters more.
_UNICODE_SPACE = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
# The parser's own notion of a space within a line.
_LINE_SPACE = frozenset("\t\v\f\r \x85\xa0")
_EXPORT = re.compile(r"export[\t\n\f\r ]+")
_ESCAPE = re.compile(r'\\(?:[abcfnrtv$"\\]|0[0-9]{0,3})')
_SIMPLE_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\"}
_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<named>[_a-zA-Z][_a-zA-Z0-9]*)"
    r"|\{(?:(?P<braced>[_a-zA-Z][_a-zA-Z0-9]*(?::?[-+?](.*))?)\}|(?P<invalid>)))"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")

Lookup = Callable[[str], Optional[str]]


class DotenvError(Exception):
    """The text is not a .env file that Compose can read. The message names the line, never the content."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__("line %d: %s" % (line, problem))
        self.line = line
        self.problem = problem


@dataclass(frozen=True)
class Statement:
    """One assignment. Offsets count characters in the text that was parsed."""

    name: str
    value: Optional[str]  # None: the name alone stands there, Compose takes the value from the process environment
    line: int  # number of the line on which the name stands, from 1
    start: int  # first character of the statement, `export` included
    value_start: int  # where the written value starts, quotes included
    value_end: int  # behind the written value, quotes included; an inline comment comes later
    quote: str  # "'" or '"' or ""
    unset: tuple[str, ...]  # names that the value refers to with $NAME or ${NAME} and that have no value
    doubled: bool  # a `$$` in the value became a single `$`


def valid_name(name: str) -> bool:
    """Tell whether name can be set in a .env file and used by Compose as a variable."""
    return bool(_NAME.match(name))


def expand(template: str, lookup: Lookup, unset: Optional[list[str]] = None) -> str:
    """Replace $NAME, ${NAME}, ${NAME:-x} and their kind as Compose does. Raises ValueError for a broken template.

    Names without a value are appended to unset.
    """

    def replace(match: re.Match[str]) -> str:
        text = match.group(0)
        operator = _first_operator(text)
        closing = _closing_brace(text)
        rest = ""
        if closing > -1:
            text, rest = text[: closing + 1], text[closing + 1 :]
        inner = _VARIABLE.match(text)
        if inner is None:
            raise ValueError("a variable reference is not well formed")
        if inner.group("escaped"):
            return "$"
        braced = inner.group("named") is None
        reference = inner.group("named") or inner.group("braced")
        if not reference:
            raise ValueError("a variable reference is not well formed")
        if braced and operator and operator in reference:
            return _operate(reference, operator, lookup, unset) + expand(rest, lookup, unset)
        value = lookup(reference)
        if value is None:
            if unset is not None:
                unset.append(reference)
            return ""
        return value

    return _VARIABLE.sub(replace, template)


def _first_operator(text: str) -> str:
    found = [(text.find(item), -len(item), item) for item in (":?", "?", ":-", "-", ":+", "+") if item in text]
    return min(found)[2] if found else ""


def _closing_brace(text: str) -> int:
    depth = 0
    index = 0
    while index < len(text):
        if text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
        if text[index] == "{":
            depth += 1
            index += 1
        index += 1
    return -1


def _operate(reference: str, operator: str, lookup: Lookup, unset: Optional[list[str]]) -> str:
    name, dummy, other = reference.partition(operator)
    value = lookup(name)
    empty = value is None or (operator.startswith(":") and value == "")
    if operator.endswith("-"):
        return expand(other, lookup, unset) if empty else (value or "")
    if operator.endswith("+"):
        return (value or "") if empty else expand(other, lookup, unset)
    if empty:
        raise ValueError("a required variable has no value")
    return value or ""


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        text = match.group(0)
        if text == "\\$":
            return "$$"
        if text.startswith("\\0"):
            # Go wants exactly three octal digits behind the backslash; anything else is left as it is. Compose
            # takes the zero away first, so that four digits are needed. The result is a byte seen as a character.
            digits = text[2:]
            if len(digits) == 3 and all(digit in "01234567" for digit in digits) and int(digits, 8) < 256:
                return chr(int(digits, 8))
            return text
        return _SIMPLE_ESCAPES.get(text[1], text)

    return _ESCAPE.sub(replace, text)


def parse(text: str, environment: Optional[Mapping[str, str]] = None) -> list[Statement]:
    """Return the assignments of a .env file in their order. Raises DotenvError where Compose refuses the file.

    environment is the process environment, which wins over the file when a value refers to a variable.
    """
    outer = environment or {}
    values: dict[str, str] = {}
    statements: list[Statement] = []

    def lookup(name: str) -> Optional[str]:
        return outer[name] if name in outer else values.get(name)

    def line_of(offset: int) -> int:
        return text.count("\n", 0, offset) + 1

    pos = len(_BOM) if text.startswith(_BOM) else 0
    end = len(text)
    while True:
        while pos < end and text[pos] in _UNICODE_SPACE:
            pos += 1
        if pos >= end:
            return statements
        if text[pos] == "#":
            newline = text.find("\n", pos)
            if newline < 0:
                return statements
            pos = newline
            continue
        start = pos
        export = _EXPORT.match(text, pos)
        if export:
            pos += len("export")
            while pos < end and text[pos] in _LINE_SPACE:
                pos += 1
        name, pos, inherited = _read_name(text, pos, line_of)
        while pos < end and text[pos] in _LINE_SPACE:
            pos += 1
        if " " in name:
            raise DotenvError(line_of(start), "the name of a variable holds a space")
        if inherited is not None:
            value = outer.get(name)
            if value is not None:
                values[name] = value
            statements.append(Statement(name, None, line_of(start), start, inherited, inherited, "", (), False))
            continue
        value_start = pos
        quote = text[pos] if pos < end and text[pos] in "'\"" else ""
        unset: list[str] = []
        if quote:
            raw, pos = _read_quoted(text, pos, quote, line_of)
            value_end = pos
            template = _unescape(raw) if quote == '"' else None
        else:
            newline = text.find("\n", pos)
            stop = end if newline < 0 else newline
            raw = text[pos:stop].split(" #", 1)[0].rstrip("".join(_UNICODE_SPACE))
            value_end = pos + len(raw)
            pos = end if newline < 0 else newline + 1
            template = raw
        if template is None:
            final = raw
        else:
            try:
                final = expand(template, lookup, unset)
            except ValueError as exc:
                raise DotenvError(line_of(start), "%s in the value of %s" % (exc, name or "a variable")) from None
        values[name] = final
        doubled = "$$" in raw and template is not None
        statements.append(Statement(name, final, line_of(start), start, value_start, value_end, quote, tuple(unset), doubled))


def _read_name(text: str, pos: int, line_of: Callable[[int], int]) -> tuple[str, int, Optional[int]]:
    """Return the name, the offset behind its separator, and for a name that stands alone the offset behind it."""
    for index in range(pos, len(text)):
        char = text[index]
        if char in _LINE_SPACE:
            continue
        if char in "=:\n":
            name = text[pos:index].rstrip("".join(_UNICODE_SPACE))
            return name, index + 1, (pos + len(name) if char == "\n" else None)
        if char in "_.-[]" or unicodedata.category(char)[0] in "LN":
            continue
        raise DotenvError(line_of(index), "unexpected character in the name of a variable")
    # Compose takes a last line without separator and without newline for the value of a variable without a name.
    return "", pos, None


def _read_quoted(text: str, pos: int, quote: str, line_of: Callable[[int], int]) -> tuple[str, int]:
    chars: list[str] = []
    escaped = False
    for index in range(pos + 1, len(text)):
        char = text[index]
        if char != quote:
            if not escaped and char == "\\":
                escaped = True
                continue
            if escaped:
                escaped = False
                chars.append("\\")
            chars.append(char)
            continue
        if escaped:
            escaped = False
            chars.append(char)
            continue
        return "".join(chars), index + 1
    raise DotenvError(line_of(pos), "a quoted value is not ended")


def values_of(statements: list[Statement]) -> dict[str, str]:
    """Return name -> value as Compose sees them: the last assignment wins, a name alone counts for nothing here."""
    return {item.name: item.value for item in statements if item.value is not None}


def line_ending(text: str) -> str:
    """Return the line ending of the file: that of its first line, or a newline."""
    newline = text.find("\n")
    return "\r\n" if newline > 0 and text[newline - 1] == "\r" else "\n"


def set_value(text: str, name: str, value: str, comment: Optional[str] = None) -> str:
    """Return text with name set to value; only the bytes of its last assignment change.

    A name that is not there is appended in the file's line ending, below a comment line if one is given. The file ends
    with a newline afterwards only if it did before, so that remove_name() gives the same bytes back.
    """
    statements = [item for item in parse(text) if item.name == name]
    if statements:
        last = statements[-1]
        rest = text[last.value_end :].partition("\n")[0].strip()
        # Without quotes, a comment would be the value of an empty name, and what else follows a part of any value.
        written = dotenv_quote(value, bare=not rest or (value != "" and rest.startswith("#")))
        if last.value is None:
            return text[: last.value_end] + "=" + written + text[last.value_end :]
        return text[: last.value_start] + written + text[last.value_end :]
    ending = line_ending(text)
    lines = ([comment] if comment else []) + [name + "=" + dotenv_quote(value)]
    if text and not text.endswith("\n"):
        return text + ending + ending.join(lines)
    return text + "".join(line + ending for line in lines)


def remove_name(text: str, name: str, comment: Optional[str] = None) -> str:
    """Return text without any assignment of name, and without the line comment where it stands right above one."""
    while True:
        found = [item for item in parse(text) if item.name == name]
        if not found:
            return text
        text = _cut(text, found[-1], comment)


def _cut(text: str, item: Statement, comment: Optional[str]) -> str:
    start = text.rfind("\n", 0, item.start) + 1
    newline = text.find("\n", item.value_end)
    stop = len(text) if newline < 0 else newline + 1
    before = text[start : item.start].strip(_BOM)
    after = text[item.value_end : stop].strip()
    if before.strip() or (after and not after.startswith("#")):
        # Something else stands on that line: take only the statement.
        return text[: item.start] + text[item.value_end :]
    start = item.start - len(before)
    if comment:
        above = text.rfind("\n", 0, max(start - 1, 0)) + 1
        if start > above and text[above:start].rstrip("\r\n") == comment:
            start = above
    if newline < 0 and start > 0:
        # The last line has no newline: the one that ends the line before goes with it.
        start -= 2 if text[:start].endswith("\r\n") else 1
    return text[:start] + text[stop:]
