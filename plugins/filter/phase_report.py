# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: phase_report
short_description: Write what phase_info returned for people and for programs
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Takes the result of M(dghs.bd_fhir.phase_info) and returns a text, as JSON, as Markdown, as a textfile for Prometheus, or as one page of
    HTML with charts that opens without a network and holds no script.
  - It reads nothing and changes nothing. Every name that comes from elsewhere is escaped.
positional: format, title, host
options:
  _input:
    description: The result of M(dghs.bd_fhir.phase_info).
    type: dict
    required: true
  format:
    description: What to write.
    type: str
    choices: [html, json, markdown, prometheus]
    default: html
  title:
    description: Title of the report.
    type: str
    default: Assessment
  host:
    description: Host that was assessed.
    type: str
    default: ''
seealso:
  - module: dghs.bd_fhir.phase_info
"""

EXAMPLES = r"""
- name: Keep the page beside the playbook
  ansible.builtin.copy:
    content: "{{ phase | dghs.bd_fhir.phase_report('html', 'BD FHIR National', inventory_hostname) }}"
    dest: "{{ playbook_dir }}/{{ inventory_hostname }}.html"
    mode: "0644"
  delegate_to: localhost

- name: Let node_exporter tell it
  ansible.builtin.copy:
    content: "{{ phase | dghs.bd_fhir.phase_report('prometheus') }}"
    dest: /var/lib/node_exporter/textfile/bd_fhir_assess.prom
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The report.
  type: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ..module_utils._phase_page import as_html
from ..module_utils._phase_report import as_json, as_markdown, as_prometheus

FORMATS = {"html": as_html, "json": as_json, "markdown": as_markdown, "prometheus": as_prometheus}


def phase_report(result: Any, format: str = "html", title: str = "Assessment", host: str = "") -> str:
    """Return the report. Raises AnsibleFilterError for what is no result, and for a format that there is not."""
    if format not in FORMATS:
        raise AnsibleFilterError("phase_report writes %s, not %r." % (", ".join(sorted(FORMATS)), format))
    if not isinstance(result, Mapping) or "metrics" not in result:
        raise AnsibleFilterError("phase_report takes the result of phase_info, and this is none: it has no metrics.")
    return FORMATS[format](result, {"title": title, "host": host})


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name -> filter."""
        return {"phase_report": phase_report}
