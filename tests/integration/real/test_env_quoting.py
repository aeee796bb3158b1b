# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Case 12: what stands in .env arrives byte for byte. Our writer and our reader against the real Compose."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _compose, _dotenv
from ansible_collections.dghs.bd_fhir.plugins.module_utils._quoting import dotenv_quote
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.engine

HOSTILE = [
    "pa$sw0rd%x", "", " ", " lead", "trail ", "it's", 'say "x"', "both ' and \"", "back\\slash", "end\\", "\\", "\\'", '\\"',
    "a#b", "a #b", "#", "${X}", "$X", "$$", "$", "${", "$$$x", "${X:-y}", "\\$X", "\\${X}", "\\n", "a\nb", "a\r\nb", "\t", "'", '"',
    "''", '""', "`id`", "$(id)", "!qwe", "a=b", "a:b", "=", "export X", "ü অডিট 🙂", "\u00a0x\u00a0", "\u0085", "\u2028", "\x01\x7f",
    "L+<S6$Mw>p'h q&", "a,b", "pas%sword", "p#=@{x", "\\0", "\\041", "\\x41", "\\u0041", "\ufeffx", "'''$x\\", "\\\\'", "a\\\\\"$",
]  # fmt: skip

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
# Mostly the characters that a grammar of quotes can get wrong.
NASTY = st.text(st.sampled_from("\\'\"$#{}:-+? \n\r\tabnrtX01=`%"), max_size=20)
MANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def version() -> tuple[int, ...]:
    return _compose.version_tuple(docker("compose", "version", "--short"))


# These show a service's env_file instead of what is in it.
SHOWS_ENV_FILE = not (2, 24, 7) <= version() <= (2, 27, 0)


def read_with_compose(tmp: Path, text: str, names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return how the real Compose gives names to a container: by ${NAME}, and by env_file."""
    (tmp / ".env").write_bytes(text.encode("utf-8"))
    services = {
        "interpolated": {"image": "none", "environment": {name: "${%s}" % name for name in names}},
        "from_file": {"image": "none", "env_file": [str(tmp / ".env")]},
    }
    out = docker(
        "compose", "--project-directory", str(tmp), "--env-file", str(tmp / ".env"), "-p", "cmp-quote", "-f", "-",
        "config", "--format", "json", stdin=json.dumps({"services": services}),
    )  # fmt: skip
    found = json.loads(out)["services"]

    def environment(service: str) -> dict[str, str]:
        # `config` doubles each dollar sign.
        return {name: value.replace("$$", "$") for name, value in found[service].get("environment", {}).items()}

    interpolated = environment("interpolated")
    if SHOWS_ENV_FILE:
        return interpolated, environment("from_file")
    return interpolated, dict(interpolated)


def check(tmp: Path, values: list[str]) -> None:
    wanted = {f"V{number}": value for number, value in enumerate(values)}
    text = "".join(f"{name}={dotenv_quote(value)}\n" for name, value in wanted.items())
    interpolated, from_file = read_with_compose(tmp, text, list(wanted))
    assert interpolated == wanted
    assert from_file == wanted
    assert _dotenv.values_of(_dotenv.parse(text)) == wanted


def test_hostile_values(tmp_path: Path) -> None:
    check(tmp_path, HOSTILE)


def test_hostile_values_in_a_file_with_windows_line_ends(tmp_path: Path) -> None:
    text = "A=1\r\n"
    wanted = {f"V{number}": value for number, value in enumerate(HOSTILE)}
    for name, value in wanted.items():
        text = _dotenv.set_value(text, name, value)
    interpolated, from_file = read_with_compose(tmp_path, text, list(wanted))
    assert interpolated == wanted
    from_file.pop("A", None)
    assert from_file == wanted


@MANY
@given(st.lists(TEXT | NASTY, min_size=40, max_size=80))
def test_any_value(tmp_path: Path, values: list[str]) -> None:
    check(tmp_path, values)


def test_a_container_gets_the_bytes(tmp_path: Path) -> None:
    """Not only `config`: a container that ran has them."""
    site = Project(tmp_path)
    text = f"A={dotenv_quote('pa$sw0rd%x')}\nB={dotenv_quote(HOSTILE[-1])}\n"
    site.write(".env", text)
    site.write(
        "docker-compose.yml",
        f"name: {site.name}\nservices:\n  x:\n    image: {IMAGE}\n    command: [env]\n"
        "    environment: {A: '${A}', B: '${B}'}\n  y:\n    image: " + IMAGE + "\n    command: [env]\n    env_file: .env\n",
    )
    try:
        site.compose("up", "-d")
        for service in ("x", "y"):
            log = docker("logs", site.ids(service)[0])
            assert "A=pa$sw0rd%x\n" in log
            assert f"B={HOSTILE[-1]}\n" in log
    finally:
        site.remove()


def test_the_naive_way_goes_red(tmp_path: Path) -> None:
    """The check can fail: unquoted, the value of case 12 loses a part."""
    interpolated, from_file = read_with_compose(tmp_path, "V0=pa$sw0rd%x\n", ["V0"])
    assert interpolated == {"V0": "pa%x"}
    assert from_file == {"V0": "pa%x"}


# -- our reader against the real one, on files that nobody quoted well

NAMES = st.sampled_from(["A", "B", "C_1", "d.e", "F-G"])
VALUE = st.text(st.sampled_from("ab1 \\'\"$#{}:-=\n\r\t%A B"), max_size=12)
LINE = st.one_of(
    st.builds("{}={}".format, NAMES, VALUE),
    st.builds("export {} = {}".format, NAMES, VALUE),
    st.builds("{}: {}".format, NAMES, VALUE),
    st.builds("{}='{}' # c".format, NAMES, VALUE),
    st.builds('{}="{}"'.format, NAMES, VALUE),
    st.builds("# {}".format, VALUE),
    st.just("A"),
    st.just(""),
)


@pytest.mark.skipif(not SHOWS_ENV_FILE, reason="this Compose does not show what an env_file brings")
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINE, min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_our_reader_answers_as_compose(tmp_path: Path, lines: list[str], ending: str, last: bool) -> None:
    text = ending.join(lines) + (ending if last else "")
    path = tmp_path / "any.env"
    path.write_bytes(text.encode())
    project = json.dumps({"services": {"x": {"image": "none", "env_file": [str(path)]}}})
    (tmp_path / "empty.env").write_text("")
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "DOCKER_CONFIG", "DOCKER_HOST")}
    done = subprocess.run(
        ["docker", "compose", "--project-directory", str(tmp_path), "--env-file", str(tmp_path / "empty.env"), "-p", "cmp-q",
         "-f", "-", "config", "--format", "json"],
        input=project, capture_output=True, text=True, env=clean, check=False,
    )  # fmt: skip
    try:
        ours = _dotenv.values_of(_dotenv.parse(text))
    except _dotenv.DotenvError as exc:
        if done.returncode == 0:
            pytest.fail(f"we refuse ({exc}), Compose does not: {text!r}")
        return
    assert done.returncode == 0, f"Compose refuses, we do not: {text!r} {done.stderr}"
    environment = json.loads(done.stdout)["services"]["x"].get("environment") or {}
    theirs = {name: value.replace("$$", "$") for name, value in environment.items() if value is not None}
    ours.pop("", None)
    theirs.pop("", None)
    assert ours == theirs, repr(text)


@pytest.mark.parametrize("value", ["", "x", "it's", "pa$s"])
def test_what_follows_on_the_line_does_not_join_the_value(tmp_path: Path, value: str) -> None:
    for text in ("A='1' # one\n", "A=1 # one\n", "A=1\nB=2\n"):
        interpolated, dummy = read_with_compose(tmp_path, _dotenv.set_value(text, "A", value), ["A"])
        assert interpolated["A"] == value
