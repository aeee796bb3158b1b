# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  login_user:
    description:
      - Superuser to log in with on the server.
    type: str
    default: postgres
  login_password:
    description:
      - Password of O(login_user). Better is O(login_password_variable), with which it never leaves the host.
    type: str
  login_password_variable:
    description:
      - Name of the variable in the environment file that holds the password of O(login_user).
    type: str
  connect_timeout:
    description:
      - Seconds within which a server or a pooler has to answer a login.
    type: int
    default: 5
requirements:
  - psycopg2 on the host (package C(python3-psycopg2))
"""
