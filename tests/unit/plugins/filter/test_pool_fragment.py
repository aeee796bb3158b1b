# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role writes with templates/fragment.yml.j2 is read again."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.dghs.bd_fhir.plugins.filter import pool_fragment as plugin
from ansible_collections.dghs.bd_fhir.plugins.module_utils._fragments import HEADER
from hypothesis import given
from hypothesis import strategies as st

TEMPLATE = Path(__file__).resolve().parents[4] / "roles/pgbouncer/templates/fragment.yml.j2"
MEMORY = {"fhir": {"settings": {"default_pool_size": ["20", 30]}, "databases": {"postgres-fhir": [30, "/a$b/অডিট.conf"]},
                   "written": {"postgres-fhir": 40}}}
read = plugin.FilterModule().filters()["pool_fragment"]


def fragment(memory: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    jinja = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - YAML
    jinja.filters["to_json"] = json.dumps
    jinja.filters["b64encode"] = lambda value: base64.b64encode(value.encode()).decode()
    values = {"_pgbouncer_fragment_memory": memory, "_pgbouncer_fragment_environment": environment}
    return jinja.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)


def test_what_was_written_is_read() -> None:
    environment = {"pgbouncer-fhir": {"PGBOUNCER_DEFAULT_POOL_SIZE": "30", "NOTE": "pa$s$$ ${X}"}, "yes": {"SIZE": "1"}}
    text = fragment(MEMORY, environment)
    assert read(HEADER + "\n" + text) == {"content": text, "memory": MEMORY, "environment": environment}


@given(word=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12))
def test_any_word_is_read_as_it_was_written(word: str) -> None:
    found = read(fragment({word: {"settings": {"x": [word, word]}}}, {word: {word: word}} if word else {}))
    assert found["memory"] == {word: {"settings": {"x": [word, word]}}}
    assert found["environment"] == ({word: {word: word}} if word else {})


def test_no_fragment_remembers_nothing() -> None:
    assert read("") == {"content": "", "memory": {}, "environment": {}}
    assert read(HEADER + "\n" + fragment(MEMORY, {}))["environment"] == {}


NOT_OURS = ("services: [", "- a\n", 'x-bd-fhir-before: "?"\n', 'x-bd-fhir-before: "YQ=="\n', "services: {pgbouncer: {image: x}}\n")


@pytest.mark.parametrize("text", NOT_OURS)
def test_what_the_role_has_not_written_is_refused(text: str) -> None:
    """It holds the way back: taken for an empty one, that would be lost."""
    with pytest.raises(AnsibleFilterError, match=r"compose\.d/pgbouncer\.yml is not as the role pgbouncer has written it"):
        read(text)
