# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Passwords as PostgreSQL keeps them: verifiers, whether one fits a password, and what a good password is. All pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import string
import stringprep
import unicodedata

from dataclasses import dataclass
from typing import Optional

SCRAM = "scram-sha-256"
MD5 = "md5"
PLAIN = "plain"
NONE = "none"

# What PostgreSQL 10 to 15 use, and 16 and later by default; a higher count only slows down each login of a pooler.
ITERATIONS = 4096
SALT_BYTES = 16
MIN_LENGTH = 12
MIN_DISTINCT = 6
# In characters. Every version of pgBouncer that speaks SCRAM and every client takes this much, also of three-byte letters.
MAX_LENGTH = 128
GENERATED_LENGTH = 40

_SCRAM = re.compile(r"SCRAM-SHA-256\$([0-9]+):([A-Za-z0-9+/]+=*)\$([A-Za-z0-9+/]+=*):([A-Za-z0-9+/]+=*)\Z")
_MD5 = re.compile(r"md5[0-9a-f]{32}\Z")


@dataclass(frozen=True)
class Scram:
    """The parts of a verifier in the form of RFC 5803, as pg_authid.rolpassword and a userlist hold it."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def text(self) -> str:
        """Return the verifier."""
        return "SCRAM-SHA-256$%d:%s$%s:%s" % (self.iterations, _base64(self.salt), _base64(self.stored_key), _base64(self.server_key))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def saslprep(password: str) -> Optional[str]:
    """Return the password prepared by RFC 4013, None when the profile prohibits it.

    PostgreSQL takes text of ASCII as it is, and a prohibited password unprepared: see prepared().
    """
    if all(ord(char) < 128 for char in password):
        return password
    mapped = "".join(" " if stringprep.in_table_c12(char) else char for char in password if not stringprep.in_table_b1(char))
    text = unicodedata.normalize("NFKC", mapped)
    if not text:
        return None
    prohibited = (
        stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4, stringprep.in_table_c5,
        stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8, stringprep.in_table_c9, stringprep.in_table_a1,
    )  # fmt: skip
    if any(table(char) for char in text for table in prohibited):
        return None
    if any(stringprep.in_table_d1(char) for char in text):
        mixed = any(stringprep.in_table_d2(char) for char in text)
        if mixed or not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])):
            return None
    return text


def prepared(password: str) -> bytes:
    """Return the bytes that PostgreSQL derives the keys of SCRAM from."""
    text = saslprep(password)
    return (password if text is None else text).encode("utf-8")


def scram_verifier(password: str, salt: Optional[bytes] = None, iterations: int = ITERATIONS) -> str:
    """Return the verifier that `ALTER ROLE ... PASSWORD` stores as it is, so that the password itself never travels."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password), salt, iterations)
    client_key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    server_key = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    return Scram(iterations, salt, hashlib.sha256(client_key).digest(), server_key).text()


def md5_verifier(password: str, role: str) -> str:
    """Return the old form, in which the name of the role is the salt."""
    return "md5" + hashlib.md5((password + role).encode("utf-8")).hexdigest()  # noqa: S324 - PostgreSQL's format


def parse_scram(verifier: str) -> Optional[Scram]:
    """Return the parts of a SCRAM verifier, None for anything else."""
    match = _SCRAM.match(verifier)
    if match is None:
        return None
    try:
        salt, stored_key, server_key = (base64.b64decode(item, validate=True) for item in match.groups()[1:])
    except binascii.Error:
        return None
    if len(stored_key) != 32 or len(server_key) != 32 or int(match.group(1)) < 1:
        return None
    return Scram(int(match.group(1)), salt, stored_key, server_key)


def kind_of(verifier: Optional[str]) -> str:
    """Return the form of what a server or a userlist holds: scram-sha-256, md5, plain, or none for nothing."""
    if not verifier:
        return NONE
    if parse_scram(verifier):
        return SCRAM
    return MD5 if _MD5.match(verifier) else PLAIN


def matches(verifier: Optional[str], password: str, role: str) -> bool:
    """Tell whether a login of role with this password passes against the verifier (or plain text)."""
    kind = kind_of(verifier)
    if verifier is None or kind == NONE or not password:
        return False
    parts = parse_scram(verifier) if kind == SCRAM else None
    if parts is not None:
        return hmac.compare_digest(scram_verifier(password, parts.salt, parts.iterations), parts.text())
    if kind == MD5:
        return hmac.compare_digest(md5_verifier(password, role), verifier)
    return hmac.compare_digest(verifier.encode("utf-8", "surrogateescape"), password.encode("utf-8", "surrogateescape"))


def verifier_of(kind: str, password: str, role: str, salt: Optional[bytes] = None) -> str:
    """Return what stands for the password in the form kind. Raises ValueError for a form that there is not."""
    if kind == SCRAM:
        return scram_verifier(password, salt)
    if kind == MD5:
        return md5_verifier(password, role)
    if kind == PLAIN:
        return password
    raise ValueError("no form %r" % kind)


def generate(length: int = GENERATED_LENGTH) -> str:
    """Return a random password of letters and digits, which needs no quoting anywhere."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for dummy in range(length))


def unusable(password: str) -> Optional[str]:
    """Return why this text can't be a password everywhere it has to arrive, None if it can. The text holds no part of it."""
    if not password:
        return "it is empty"
    try:
        password.encode("utf-8")
    except UnicodeEncodeError:
        return "it is not valid Unicode text"
    for char in password:
        if unicodedata.category(char) == "Cc":
            names = {"\0": "a NUL character", "\n": "a newline", "\r": "a carriage return", "\t": "a tabulator"}
            return "it holds %s" % names.get(char, "a control character")
    if password != password.strip():
        return "it begins or ends with white space, which gets lost wherever somebody copies it"
    if kind_of(password) == MD5 or password.startswith("SCRAM-SHA-256$"):
        return "it looks like a stored verifier, and PostgreSQL and pgBouncer would take it for one"
    if len(password) > MAX_LENGTH:
        return "it is longer than %d characters" % MAX_LENGTH
    if "${" in password or "#{" in password:
        return "it holds ${ or #{, which the configuration of a Spring application expands"
    if saslprep(password) is None:
        return "it holds a character that SCRAM prohibits (RFC 4013), so that clients differ in what they make of it"
    return None


def weak(password: str, role: str, min_length: int = MIN_LENGTH) -> Optional[str]:
    """Return why this password is too easy to guess, None if it is not."""
    if len(password) < min_length:
        return "it is shorter than %d characters" % min_length
    if len(set(password)) < MIN_DISTINCT:
        return "it has fewer than %d different characters" % MIN_DISTINCT
    if role and role.lower() in password.lower():
        return "it holds the name of the role"
    return None
