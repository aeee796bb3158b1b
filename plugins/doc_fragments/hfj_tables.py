# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # HFJ_ARGUMENTS in plugins/module_utils/_hfj_catalog.py.
    DOCUMENTATION = r"""
options:
  service:
    description:
      - Service of the database server, the primary. It must have one container.
    type: str
    default: postgres-fhir
  database:
    description:
      - Database of HAPI.
    type: str
    default: fhirdb
  schema:
    description:
      - Schema of HAPI's tables, as it is written in the catalog, without quotes.
    type: str
    default: public
  sequence:
    description:
      - The sequence that gives out the ids of HFJ_RESOURCE. The catalog does not tie it to the table.
    type: str
    default: seq_resource_id
  unique_guard:
    description:
      - Whether HFJ_RESOURCE, if it is named, is partitioned too. Its UNIQUE (RES_TYPE, FHIR_ID) can't be kept over partitions by id, and HAPI
        relies on it. So a guard table with both columns of each resource is made, with a unique index of the same name, and triggers keep it.
      - This costs each new resource a call of a function and a row of about 120 bytes. Tables that refer to HFJ_RESOURCE have to be plain at that
        time.
      - It is a choice for one who needs it. What was begun with a guard is gone on with.
    type: bool
    default: false
  first_bound:
    description:
      - The first id that does not belong to the first partition. V(0) computes it from the growth, beyond what the sequence can use in
        O(wait_days), and far beyond what the busiest hours of the last month would use. Where there are resources of less than a day, C(prepare)
        refuses to compute it.
      - From C(prepare) until C(swap), ids from there on are refused. So it must not be near.
    type: int
    default: 0
  width:
    description:
      - How many ids each further partition takes. V(0) computes it from the growth and O(months).
    type: int
    default: 0
  months:
    description:
      - For how many months of the present growth a computed partition lasts.
      - Every search visits every partition, so there should be few.
    type: int
    default: 12
  ahead:
    description:
      - How many empty partitions there have to be ahead of the sequence.
    type: int
    default: 2
  wait_days:
    description:
      - How many days may pass between C(prepare) and C(swap) with a computed O(first_bound).
    type: float
    default: 30
  alarm_days:
    description:
      - For fewer days than these ahead of the sequence, the end of the partitions is an error.
    type: float
    default: 60
  max_lag_bytes:
    description:
      - How far a standby may be behind.
    type: bytes
    default: 256MB
requirements:
  - psycopg2 on the host (package C(python3-psycopg2))
  - PostgreSQL 15. On 14, 16 and 17 there is a warning, on others a refusal.
notes:
  - Tables become partitioned by RANGE of the resource's id. This buys shorter vacuums, smaller indexes to rebuild and archiving by age. It does
    not make searches quicker, since HAPI filters them by hashes. Look-ups by resource visit one partition.
  - HFJ_RESOURCE stays whole, because its UNIQUE (RES_TYPE, FHIR_ID) can't be kept over partitions by id, unless O(unique_guard) is chosen.
"""
