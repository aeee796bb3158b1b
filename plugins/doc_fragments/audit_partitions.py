# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # PARTITION_ARGUMENTS in plugins/module_utils/_partition_catalog.py.
    DOCUMENTATION = r"""
options:
  service:
    description:
      - Service of the database server. It must have one container.
    type: str
    default: postgres-audit
  database:
    description:
      - Database that holds the tables.
    type: str
    default: auditdb
  schema:
    description:
      - Schema of the tables, as it is written in the catalog, without quotes. A table of the same name in another schema is left alone.
    type: str
    default: audit
  tables:
    description:
      - The tables that are partitioned by month, as they are written in the catalog, without quotes.
    type: list
    elements: str
    default:
      - audit_events
      - fhir_rejected_submissions
  months_ahead:
    description:
      - How many months after the present one must have a partition, from 1 to 1200.
    type: int
    default: 6
  time_zone:
    description:
      - The zone in which months begin, such as V(UTC) or V(Asia/Dhaka). The zone of the session, of the host and of the server never counts.
      - Empty follows the bounds that are there.
      - Where the key is a C(timestamp) or a C(date), it only says which month it is now.
    type: str
    default: UTC
  alarm_days:
    description:
      - For how many days there have to be partitions at least. Fewer are an error, whatever the day of the month.
    type: float
    default: 45
  maintenance_function:
    description:
      - The site's own function in O(schema) that creates partitions. It is judged. Empty if there is none.
    type: str
    default: create_next_month_partitions
  now:
    description:
      - Read the clock as if it were then, a moment with an offset as in V(2027-12-20T00:00:00Z), to rehearse what is going to happen.
      - By default the clock of the server counts.
    type: str
    default: ''
requirements:
  - psycopg2 on the host (package C(python3-psycopg2))
  - time zone data on the host (package C(tzdata)) for another O(time_zone) than V(UTC)
  - PostgreSQL 14 or newer
notes:
  - Bounds beyond the years 1 to 9999 take no part in what is judged.
"""
