# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # PASSWORD_ARGUMENTS in plugins/module_utils/_rotation.py.
    DOCUMENTATION = r"""
options:
  password:
    description:
      - The password. Exactly one of O(password), O(password_variable) and O(rotation) is needed.
    type: str
  password_variable:
    description:
      - Name in the environment file of the project that holds the password, so that it never leaves the host.
    type: str
  rotation:
    description:
      - Name of a rotation that M(dghs.bd_fhir.password_rotation) has opened, whose new password is taken.
    type: str
"""
