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
