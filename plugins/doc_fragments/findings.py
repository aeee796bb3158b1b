# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  fail_on:
    description:
      - Severities that make the module fail after it has looked at everything.
      - By default the module never fails on what it found, only on what it could not read.
    type: list
    elements: str
    choices:
      - info
      - warning
      - error
    default: []
"""
