# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A scan for secrets is worth what it finds: each form of each secret, wherever it stands."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus, urlencode

import pytest
import secret_scan
from hypothesis import given
from hypothesis import strategies as st

SECRETS = ["pa$sw0rd%x #1\"@/:", "%s$PATH @:/#,;\" ''\\!&*{}`~ বাংলা-য়\\", "plainword12"]
WAYS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON, not ASCII": lambda text: json.dumps(text, ensure_ascii=False),
    "URL": lambda text: f"postgres://u:{quote(text, safe='')}@h/d",
    "URL with slashes": quote,
    "a form": lambda text: urlencode({"password": text}),
    "a query": quote_plus,
    "userlist": lambda text: '"u" "%s"' % text.replace('"', '""'),
    "SQL": lambda text: "PASSWORD '%s'" % text.replace("'", "''"),
    "a shell": shlex.quote,
    "Compose": lambda text: text.replace("$", "$$"),
    "Python": repr,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, one before": lambda text: base64.b64encode(b"x" + text.encode() + b"yz").decode(),
    "base64 of a login": lambda text: base64.b64encode(b"user:" + text.encode()).decode(),
    "base64 amidst": lambda text: base64.b64encode(b"PW=" + text.encode() + b"\nB=1\n").decode(),
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("way", WAYS)
def test_it_is_found_in_every_form(secret: str, way: str) -> None:
    text = f"a line\n  msg: {WAYS[way](secret)} and more\n"
    assert secret_scan.shown(text, {"it": secret, "another": "somethingelse"}) == ["it"]
    assert secret_scan.shown("a line without", {"it": secret}) == []


@given(st.binary(max_size=7), st.text("abcXYZ019+/=", min_size=9, max_size=30), st.binary(max_size=7))
def test_base64_wherever_it_stands(before: bytes, secret: str, after: bytes) -> None:
    assert secret_scan.shown(base64.b64encode(before + secret.encode() + after).decode(), {"it": secret}) == ["it"]


def test_the_owners_environment_is_told_apart() -> None:
    item = {"Name": "/bd-hapi-1", "Config": {"Env": ["PW=secret-of-the-owner"], "Labels": {"com.docker.compose.service": "hapi"}, "Cmd": ["x"]}}
    name, service, environment, rest = secret_scan.environment_apart([item])[0]
    assert (name, service) == ("bd-hapi-1", "hapi")
    assert "secret-of-the-owner" in environment
    assert "secret-of-the-owner" not in rest
    assert item["Config"]["Env"] == ["PW=secret-of-the-owner"], "what was inspected is not changed"  # type: ignore[index]


def test_files_are_read_and_those_that_may_are_left(tmp_path: Path) -> None:
    (tmp_path / "rotations").mkdir()
    (tmp_path / "rotations/app.json").write_text("plainword12")
    (tmp_path / "journal.jsonl").write_text('{"after": "plainword12"}')
    (tmp_path / "clean").write_text("nothing")
    asked = {"places": [str(tmp_path)], "kept": [f"{tmp_path}/rotations/*.json"], "needles": {"it": secret_scan.forms("plainword12")}}
    done = subprocess.run([sys.executable, "-c", secret_scan.FILES], input=json.dumps(asked), capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [["it", f"{tmp_path}/journal.jsonl"]]


def test_a_command_line_is_seen_and_the_watch_itself_is_not() -> None:
    watch = subprocess.Popen([sys.executable, "-c", secret_scan.WATCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert watch.stdin is not None
    watch.stdin.write(json.dumps({"shown": ["argv-word-77"], "hidden": ["stdin-word-88"]}) + "\n")
    watch.stdin.flush()
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1)", "argv-word-77"], check=True)
    told = json.loads(watch.communicate("end\n", timeout=30)[0])
    assert told["rounds"] > 1
    assert [name for name, program in told["seen"]] == ["shown"]
