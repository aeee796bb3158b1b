# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watch over HAPI's partitions: python3 <this folder> --config FILE run | check. docs/partition-hapi-tables.md of dghs.bd_fhir tells more."""

import sys

if sys.version_info < (3, 9):  # noqa: UP036 - whoever starts it with an older one is told so, and not shown a syntax error
    sys.exit("The watch over HAPI's partitions needs Python 3.9 or later; this is %d.%d." % sys.version_info[:2])

from bd_fhir_hfj._hfj_job import main

if __name__ == "__main__":
    sys.exit(main())
