# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: env_value
short_description: Take one value out of the text of an environment file
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Returns the value that Compose gives to a name in a C(.env), with quotes, escapes and earlier names of the same file resolved.
  - Use it with C(no_log), where the value is a secret that another host needs too.
positional: name
options:
  _input:
    description: Text of the file.
    type: str
    required: true
  name:
    description: Name to look for.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Read the file
  ansible.builtin.slurp:
    src: /opt/bd-fhir-national/.env
  register: env
  no_log: true

- name: Give another host the standby's password
  dghs.bd_fhir.env_file:
    path: /opt/bd-fhir-replica/.env
    values:
      FHIR_REPLICA_PASSWORD: "{{ env.content | b64decode | dghs.bd_fhir.env_value('FHIR_REPLICA_PASSWORD') }}"
  delegate_to: fhir-replica
  no_log: true
"""

RETURN = r"""
_value:
  description: The value. It fails where the file has no such name, or can't be read as Compose reads it; the error shows no value.
  type: str
  sample: Gx2kq0yZ
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ..module_utils._dotenv import DotenvError, parse, values_of


def env_value(text: str, name: str) -> str:
    """Return what Compose gives to a name. Raises AnsibleFilterError."""
    try:
        values = values_of(parse(text))
    except DotenvError as exc:
        raise AnsibleFilterError("The environment file can't be read as Compose reads it: %s." % exc) from exc
    if name not in values:
        raise AnsibleFilterError("The environment file has no %s. Set it there, and run this again." % name)
    return values[name]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name -> filter."""
        return {"env_value": env_value}
