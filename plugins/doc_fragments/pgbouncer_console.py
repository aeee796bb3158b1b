# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # CONSOLE_ARGUMENTS in plugins/module_utils/_pgbouncer.py.
    DOCUMENTATION = r"""
options:
  admin_user:
    description:
      - A user whom C(admin_users) of the pooler names.
    type: str
  admin_password:
    description:
      - The password of O(admin_user).
    type: str
  admin_password_variable:
    description:
      - Name of the variable of the project's environment file that holds the password of O(admin_user), so that it never leaves the host.
    type: str
  port:
    description:
      - Port on which pgBouncer listens in its container.
      - By default what the container's environment names, else the only port that the image exposes, else 6432.
    type: int
requirements:
  - psycopg2 on the host (package C(python3-psycopg2))
"""
