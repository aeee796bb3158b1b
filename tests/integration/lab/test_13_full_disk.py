# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The primary's disk runs full under load, beside a standby: what fails, for how long, and that nothing acknowledged is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from load import Load
from pilot_host import FIRST, healthy, ok, on_host, until
from standby import SMALL, back, psql, streams

pytestmark = [pytest.mark.lab, pytest.mark.full]

DISK = "/mnt/primary"
VOLUME = "bd-fhir-national_postgres-fhir-data"


@pytest.fixture(scope="module")
def small_disk() -> Iterator[None]:
    """A deployment whose HAPI database has a disk of its own."""
    ok("tests/lab/pilot.yml", "-e", "lab_reset=true", "-e", "lab_files_only=true")
    on_host("bash", "-c", f"mkdir -p {DISK} && mount -t tmpfs -o size=900m tmpfs {DISK} && mkdir {DISK}/data && docker volume create"
            " --label com.docker.compose.project=bd-fhir-national --label com.docker.compose.volume=postgres-fhir-data"
            f" --opt type=none --opt o=bind --opt device={DISK}/data {VOLUME}")
    try:
        ok("tests/lab/pilot.yml")
        ok("scale_regional", *FIRST)
        until("three healthy replicas", 300, lambda: healthy(3))
        yield
    finally:
        # Its volume is no part of the owner's project, and would stay.
        ok("rollback_add_read_replica")
        ok("tests/lab/pilot.yml", "-e", "lab_reset=true", "-e", "lab_files_only=true")
        on_host("umount", DISK)
        ok("tests/lab/pilot.yml")


def test_requests_fail_only_until_there_is_room_again(small_disk: None) -> None:
    ok("add_read_replica", "-e", "postgres_replica_reads=required", *SMALL)
    until("it is read", 60, back)
    with Load() as load:
        time.sleep(5)
        assert load.failed() == 0
        # To the last byte, whatever the server takes meanwhile.
        on_host("dd", "if=/dev/zero", f"of={DISK}/ballast", "bs=64k", check=False)
        begin = time.monotonic()

        def refused() -> bool:
            # WAL is written into files that are there already until these are full.
            psql("CREATE TABLE IF NOT EXISTS filler AS SELECT repeat('x', 1000) AS t FROM generate_series(1, 20000)", check=False)
            psql("DROP TABLE IF EXISTS filler", check=False)
            return load.failed() > 0

        until("requests fail", 180, refused)
        full = time.monotonic() - begin
        time.sleep(10)
        on_host("rm", f"{DISK}/ballast")
        freed = time.monotonic()
        until("the primary serves again", 120, lambda: psql("SELECT 1", check=False) == "1")
        served = time.monotonic() - freed
        until("it streams again", 120, streams)
        until("it is read again", 90, back)
        time.sleep(10)
        settled = load.failed()
        time.sleep(10)
        assert load.failed() == settled, "requests still fail after there was room"
    print(f"primary's disk full: the first request failed after {full:.0f} s, it served again {served:.1f} s after there was room;"
          f" {len(load.ledger.failures)} requests failed, {len(load.ledger.written)} writes were acknowledged")
    assert load.lost() == []
    assert ok("add_read_replica", "-e", "postgres_replica_reads=required", *SMALL).changed == 0
