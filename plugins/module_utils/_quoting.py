# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Quoting for every text format into which a secret is written. One function a format."""

from __future__ import annotations

import re

# Characters that no parser of a .env file treats in a special way, anywhere in a value.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]+\Z")

_DOUBLE = {"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class QuotingError(ValueError):
    """A value can't be represented in the wanted format. The message never holds the value."""


def dotenv_quote(value: str, bare: bool = True) -> str:
    """Return value as it has to stand behind NAME= in a .env file, so that Compose v2 reads exactly value.

    bare: whether a value that needs no quotes may go without them; not so where more follows on its line.

    A plain word stays bare, single quotes are used where nothing has to be escaped (there Compose expands nothing),
    double quotes with escapes otherwise: inside single quotes Compose 2.20 and 2.40 differ on an escaped quote.
    A newline is written as an escape, so that one name always stands on one line.
    Raises QuotingError for NUL, which no environment can carry, and for text that is not valid Unicode.
    """
    if "\0" in value:
        raise QuotingError("it holds a NUL character, which no environment variable can carry")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise QuotingError("it is not valid Unicode text (character %d)" % exc.start) from None
    if bare and (value == "" or _PLAIN.match(value)):
        return value
    if not any(char in value for char in "'\\\n\r"):
        return "'" + value + "'"
    return '"' + "".join(_DOUBLE.get(char, char) for char in value) + '"'


# What pgBouncer's parsers take for space at an end of a value: isspace() of the C locale.
_SPACE = " \t\n\r\v\f"
# Bytes that fit into a password of pgBouncer 1.18: a longer one it cuts, or it stops reading its file there.
PGBOUNCER_PASSWORD_BYTES = 2047
# A password of this form is taken for the hash of one.
_LOOKS_HASHED = re.compile(r"md5[0-9a-f]{32}\Z|SCRAM-SHA-256\$")
_CONNSTR_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,-]+\Z")


def _check_text(value: str, newline: bool) -> None:
    """Raise QuotingError for what no line of a configuration file can carry."""
    if "\0" in value:
        raise QuotingError("it holds a NUL character, which no configuration file can carry")
    if not newline and ("\n" in value or "\r" in value):
        raise QuotingError("it holds a line break, and this format has one line for a value")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise QuotingError("it is not valid Unicode text (character %d)" % exc.start) from None


def pgbouncer_ini_value(value: str) -> str:
    """Return value as it has to stand behind `name =` in pgbouncer.ini.

    There is no quoting there at all: the value is the rest of the line, without the space around it; quotes, `;` and `#`
    in it are ordinary characters. Raises QuotingError for what that cannot carry.
    """
    _check_text(value, newline=False)
    if value != value.strip(_SPACE):
        raise QuotingError("it begins or ends with space, which pgBouncer takes away")
    return value


def pgbouncer_connstr_value(value: str) -> str:
    """Return value as it has to stand behind `name=` within a line of the sections [databases] and [users].

    Single quotes, and each one in the value doubled; a backslash is an ordinary character. A value that begins with a
    single quote must be in quotes: bare, it stops pgBouncer from starting (pgbouncer/pgbouncer#1363).
    Raises QuotingError: for empty text too, which pgBouncer refuses here.
    """
    _check_text(value, newline=False)
    if value == "":
        raise QuotingError("it is empty, which pgBouncer refuses within a connection string")
    if len(value.encode("utf-8")) > PGBOUNCER_PASSWORD_BYTES:
        raise QuotingError("it is longer than %d bytes, and pgBouncer would cut it" % PGBOUNCER_PASSWORD_BYTES)
    if _CONNSTR_PLAIN.match(value):
        return value
    return "'" + value.replace("'", "''") + "'"


def userlist_quote(value: str, plain: bool = False) -> str:
    """Return a user name or a password as it has to stand in pgBouncer's auth_file: in double quotes, each one doubled.

    A backslash is an ordinary character (pgbouncer/pgbouncer#509).
    plain: the value is a password and no hash; then one that looks like a hash is refused, since it would be taken for it.
    Raises QuotingError.
    """
    # A line break may stand inside of the quotes; still it is refused: people and scripts read that file by lines.
    _check_text(value, newline=False)
    quoted = value.replace('"', '""')
    if len(quoted.encode("utf-8")) > PGBOUNCER_PASSWORD_BYTES:
        raise QuotingError("it is longer than %d bytes, at which pgBouncer stops reading its auth_file" % PGBOUNCER_PASSWORD_BYTES)
    if plain and _LOOKS_HASHED.match(value):
        raise QuotingError("it looks like the hash of a password, and pgBouncer would take it for one")
    return '"' + quoted + '"'


def pgpass_escape(value: str) -> str:
    """Return value as it has to stand in one field of a .pgpass file, so that libpq reads or matches exactly value.

    A lone `*` would match everything, and a `#` in front makes the line a comment: both get a backslash too.
    Raises QuotingError: for empty text too, which libpq takes for no password.
    """
    _check_text(value, newline=False)
    if value == "":
        raise QuotingError("it is empty, which libpq takes for no password")
    escaped = value.replace("\\", "\\\\").replace(":", "\\:")
    return "\\" + escaped if escaped == "*" or escaped.startswith("#") else escaped


def conninfo_value(value: str) -> str:
    """Return value as it has to stand behind `name=` in a libpq connection string.

    Single quotes, with a backslash before each quote and backslash in it. An empty value stands in quotes too, and libpq then
    takes its default. Raises QuotingError for a line break, which no line of a server's configuration file could carry.
    """
    _check_text(value, newline=False)
    if value and _CONNSTR_PLAIN.match(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
