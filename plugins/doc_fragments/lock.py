# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # LOCK_ARGUMENTS in plugins/module_utils/_lock.py.
    DOCUMENTATION = r"""
options:
  lock_dir:
    description:
      - Directory of the lock that keeps two runs on one project apart.
    type: path
    default: /run/lock/dghs-bd-fhir
  lock_timeout:
    description:
      - Seconds to wait for another run on the same project, which may be one that outlived its play.
    type: int
    default: 600
"""
