# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""States of the lab that the tests start from."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator

import pytest
from lab import CACHE
from pilot_host import FIRST, FIRST_BACK, HOST, PROJECT, healthy, ok, on_host, until


@pytest.fixture(scope="session", autouse=True)
def lab() -> Iterator[None]:
    """The lab must be up: a test that could not look does not pass. Another run on the same host is waited for."""
    done = subprocess.run(["docker", "inspect", HOST], capture_output=True, check=False)
    assert done.returncode == 0, "the lab is not up: make lab-up"
    with open(CACHE / f"{HOST}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def pilot() -> None:
    """The deployment as its owner made it: one replica, no fragment of ours."""
    if on_host("bash", "-c", f"ls -d {PROJECT}/compose.d 2>/dev/null; true").strip():
        ok("rollback_add_read_replica")
        ok("rollback_scale_regional", *FIRST_BACK, "-e", "hapi_allow_interruption=true", "-e", "pgbouncer_allow_window=true")
    ok("tests/lab/pilot.yml")
    until("one healthy replica", 180, lambda: healthy(1))


@pytest.fixture(scope="module")
def scaled() -> None:
    """Three replicas of the first release behind the balancer."""
    ok("tests/lab/pilot.yml")
    ok("scale_regional", *FIRST)
    until("three healthy replicas", 300, lambda: healthy(3))
