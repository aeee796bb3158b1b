# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: pool_fragment
short_description: Read the compose fragment that keeps the sizes of poolers
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Takes the text of C(compose.d/pgbouncer.yml), which the role C(dghs.bd_fhir.pgbouncer) keeps, and returns what it holds.
  - A text that this role has not written is an error.
options:
  _input:
    description: The text, empty where there is no fragment.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Read the fragment
  ansible.builtin.slurp:
    src: /opt/bd-fhir-national/compose.d/pgbouncer.yml
  register: fragment

- name: Show what the sides were before the first change
  ansible.builtin.debug:
    msg: "{{ (fragment.content | b64decode | dghs.bd_fhir.pool_fragment).memory }}"
"""

RETURN = r"""
_value:
  description:
    - The text without the line that M(dghs.bd_fhir.compose_fragment) writes above every fragment (C(content)), what is remembered of
      each side (C(memory)), and the variables that it gives to each pooler (C(environment)).
  type: dict
  sample:
    content: |
      x-bd-fhir-before: "e30="
    environment:
      pgbouncer-fhir: {PGBOUNCER_DEFAULT_POOL_SIZE: '30'}
    memory: {}
"""

import base64
import json
import re

from collections.abc import Callable
from typing import Any

import yaml

from ansible.errors import AnsibleFilterError

HEADER = re.compile(r"\A# Kept by [^\n]*\n")
KEY = "x-bd-fhir-before"


def pool_fragment(text: str) -> dict[str, Any]:
    """Return what the fragment holds."""
    try:
        found = yaml.safe_load(text) or {}
        memory = json.loads(base64.b64decode(found.get(KEY, "e30="), validate=True))
        # A dollar sign stands twice, because Compose expands a single one.
        environment = {
            service: {name: value.replace("$$", "$") if isinstance(value, str) else value for name, value in config["environment"].items()}
            for service, config in (found.get("services") or {}).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise AnsibleFilterError(
            "compose.d/pgbouncer.yml is not as the role pgbouncer has written it (%s: %s). It holds the way back: take your own changes"
            " out of it, or put a copy of it there." % (type(error).__name__, error)
        ) from error
    return {"content": HEADER.sub("", text), "memory": memory, "environment": environment}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name -> filter."""
        return {"pool_fragment": pool_fragment}
