# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # BALANCER_OPTIONS in plugins/module_utils/_haproxy.py. What it is asked for, each module says itself.
    DOCUMENTATION = r"""
options:
  balancer:
    description:
      - The HAProxy in front of the service.
    type: dict
    suboptions:
      socket:
        description:
          - HAProxy's runtime API as the host reaches it, the path of a Unix socket or C(host:port).
          - A server can be drained only by one with C(level admin).
        type: str
        required: true
      backend:
        description:
          - Name of the backend in HAProxy's configuration.
        type: str
        required: true
"""
