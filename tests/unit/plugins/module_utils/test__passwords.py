# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verifiers by what PostgreSQL 15.18 made of known passwords; with a server at hand: tests/integration/real/test_postgres_password.py."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _passwords as passwords
from hypothesis import given
from hypothesis import strategies as st

# Recorded: SELECT rolpassword FROM pg_authid after ALTER ROLE ... PASSWORD.
# fmt: off
RECORDED = [
    ("pencil",
     "SCRAM-SHA-256$4096:LN5nomVZusQbvYOfs6VHYA==$"
     "J3Jk7wAZXao02UEOJbEhiywstWhS4e8yGgAvWDD5fW4=:83pRbhvw1xGSys5G0qnxbSPmZyPUP3qPjC/rQassxj8="),
    ("pa$sw0rd%x #1\"@/:",
     "SCRAM-SHA-256$4096:M+IBBeVPtJuRXrb8YVcGPg==$"
     "oIqGuhwE2e05bljSWx9PwTWrSKlgvUgxWl9M7/6ttm8=:VJt6nAnLHYv0hbVzJjlqnBcwdqu2PLBFymbQVsxbJB8="),
    ("বাংলা-পাসওয়ার্ড",
     "SCRAM-SHA-256$4096:lc6iLRp2uYN47GDEgT4TeQ==$"
     "YNAmROucyQld5CE2g/yD+Co27X2z7wF7nVsXFEVV0z0=:AEJ9JeSI+hWpZW53asqki53ML21eqpy1p2RcVkwe6uY="),
    ("a\u00a0b\u2168\u00ad",
     "SCRAM-SHA-256$4096:zn+EYbLguLquGFjR/TaJsA==$"
     "SrRZ4UW7dypPgPNg2ROE/ezZQxQ0SjrG3FRGvcbkASA=:YxObEPbX/cQRcwwN7VkkZJoYbjgtiuYcA+0y5lIZvR0="),
    ("\u0627b-prohibited",
     "SCRAM-SHA-256$4096:f1JAB/5zwWEjFtes6yAYLQ==$"
     "MwYnJWYcPK+ifCKhWeFCthhjzDYt3aFjikXfhOY2FiA=:bUZspN+C5zQq/RFfilVPW/aSkf9j4AibJhX3IJln5nQ="),
    ("\u09df\u09dc",
     "SCRAM-SHA-256$4096:WFX1SRKClA5u7UGT4h+TPA==$"
     "Y+DogMf0MFfhuFmO4h7hYnt0XVgP7ZHruwTOsy4282E=:V2kwGAk3QOH9o8hVpPtV2P+Vb7UYbqoEImswEtqCmSQ="),
]
# fmt: on


@pytest.mark.parametrize(("password", "verifier"), RECORDED)
def test_a_verifier_of_the_server_fits_its_password_only(password: str, verifier: str) -> None:
    parts = passwords.parse_scram(verifier)
    assert parts is not None
    assert parts.text() == verifier
    assert passwords.kind_of(verifier) == "scram-sha-256"
    assert passwords.scram_verifier(password, parts.salt, parts.iterations) == verifier
    assert passwords.matches(verifier, password, "any")
    assert not passwords.matches(verifier, password + "x", "any")
    assert not passwords.matches(verifier, "", "any")


def test_the_example_of_rfc_7677() -> None:
    """The verifier of user/pencil from which the RFC's exchange follows."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    found = passwords.parse_scram(passwords.scram_verifier("pencil", salt, 4096))
    assert found is not None
    assert base64.b64encode(found.stored_key) == b"WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
    assert base64.b64encode(found.server_key) == b"wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="


def test_md5_as_postgresql_has_it() -> None:
    # Recorded like the others, with password_encryption = md5.
    assert passwords.md5_verifier("secret", "joe") == "md5c59ec932d911ffdf487595b5a2adf973"
    assert passwords.kind_of(passwords.md5_verifier("foo", "role")) == "md5"
    assert passwords.matches(passwords.md5_verifier("foo", "role"), "foo", "role")
    assert not passwords.matches(passwords.md5_verifier("foo", "role"), "foo", "other")


@pytest.mark.parametrize(
    "text",
    ["", "SCRAM-SHA-256$4096:x$y:z", "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA", "SCRAM-SHA-256$0:AAAA$" + "A" * 43 + "=:" + "A" * 43 + "=", "md5abc"],
)
def test_what_is_no_verifier(text: str) -> None:
    assert passwords.parse_scram(text) is None
    assert passwords.kind_of(text) in ("none", "plain")


def test_a_salt_of_its_own_each_time_unless_one_is_given() -> None:
    assert passwords.scram_verifier("x") != passwords.scram_verifier("x")
    assert passwords.scram_verifier("x", b"1" * 16) == passwords.scram_verifier("x", b"1" * 16)
    assert passwords.verifier_of("plain", "x", "r") == "x"
    with pytest.raises(ValueError, match="no form"):
        passwords.verifier_of("rot13", "x", "r")


@given(st.text(min_size=1).filter(lambda text: "\0" not in text), st.text(max_size=5))
def test_every_form_fits_its_password(password: str, role: str) -> None:
    for kind in ("md5", "plain"):
        verifier = passwords.verifier_of(kind, password, role)
        if passwords.kind_of(verifier) == kind:
            assert passwords.matches(verifier, password, role)
            assert not passwords.matches(verifier, password + "x", role)


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("plain ascii \x01", "plain ascii \x01"),
        ("I\u00adX", "IX"),  # RFC 4013: a soft hyphen is mapped to nothing
        ("\u00aa", "a"),  # RFC 4013: NFKC
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u09df", "\u09af\u09bc"),  # a Bangla letter that NFKC takes apart
        ("\u0007", "\u0007"),
        ("\u0627\u0031", None),  # RFC 4013: bidirectional
        ("\u00ad", None),
        ("\ue000x", None),
        ("\u0378x", None),
    ],
)
def test_saslprep(password: str, prepared: str | None) -> None:
    assert passwords.saslprep(password) == prepared
    assert passwords.prepared(password) == (password if prepared is None else prepared).encode()


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("", "empty"),
        ("abc\0def", "NUL"),
        ("abc\ndef", "a newline"),
        ("abc\rdef", "a carriage return"),
        ("abc\tdef", "a tabulator"),
        ("abc\x1bdef", "a control character"),
        ("abc\x85def", "a control character"),
        (" abc", "white space"),
        ("abc\u00a0", "white space"),
        ("\ud800abc", "Unicode"),
        ("x" * 129, "longer than 128"),
        ("md5" + "0" * 32, "a stored verifier"),
        ("SCRAM-SHA-256$anything", "a stored verifier"),
        ("a${b}", "Spring"),
        ("a#{b}", "Spring"),
        ("\u0627b", "SCRAM prohibits"),
    ],
)
def test_unusable(password: str, words: str) -> None:
    found = passwords.unusable(password)
    assert found is not None
    assert words in found
    assert password.strip() == "" or password not in found


@pytest.mark.parametrize("password", [
    "%s$PATH @:/#,;\" ''\\!&*{}`~ বাংলা-য়\\", "$a", "#b", "{$}", "x" * 128, "md5", pytest.param(passwords.generate(), id="generated"),
])  # fmt: skip
def test_usable(password: str) -> None:
    assert passwords.unusable(password) is None


@pytest.mark.parametrize(
    ("password", "words"), [("Sh0rt!", "shorter than 12"), ("ababababababab", "different"), ("my-HAPI_APP-2026", "the name of the role")]
)
def test_weak(password: str, words: str) -> None:
    found = passwords.weak(password, "hapi_app")
    assert found is not None
    assert words in found


def test_generated_passwords_are_good_and_differ() -> None:
    found = {passwords.generate() for dummy in range(50)}
    assert len(found) == 50
    assert all(item.isalnum() and item.isascii() and len(item) == 40 and passwords.weak(item, "hapi_app") is None for item in found)
