# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a trial is made of. Trials of real images: tests/integration/real/test_pgbouncer_pool.py."""

from __future__ import annotations

import io
import os
import re
import tarfile
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer import PgbouncerError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer_trial import (
    create_arguments,
    host_path,
    listens,
    mount_of,
    process_mark,
    replaced,
    scrub_log,
)

MOUNTS: list[dict[str, Any]] = [
    {"Type": "bind", "Source": "/opt/x/pgbouncer", "Destination": "/etc/pgbouncer", "RW": True},
    {"Type": "bind", "Source": "/opt/x/userlist", "Destination": "/etc/pgbouncer/userlist.txt", "RW": False},
    {"Type": "volume", "Name": "site_logs", "Source": "/var/lib/docker/volumes/site_logs/_data", "Destination": "/var/log/pgbouncer", "RW": True},
    {"Type": "volume", "Name": "site_tls", "Source": "/var/lib/docker/volumes/site_tls/_data", "Destination": "/tls", "RW": False},
]
# Two lines of /proc/net/tcp and one of tcp6 of a container with pgBouncer on 6432 and one client.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1920 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 3051 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1920 0100007F:C350 01 00000000:00000000 00:00000000 00000000   101        0 3052 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:1921 0100007F:C351 01 00000000:00000000 00:00000000 00000000   101        0 3053 1 0000000000000000 20 4 30 10 -1
"""


def test_mount_of_a_path() -> None:
    def destination(path: str) -> str:
        found = mount_of(MOUNTS, path)
        return found["Destination"] if found else ""

    assert destination("/etc/pgbouncer/pgbouncer.ini") == "/etc/pgbouncer"
    assert destination("/etc/pgbouncer/userlist.txt") == "/etc/pgbouncer/userlist.txt"
    assert destination("/etc/pgbouncer2/x") == ""
    assert destination("/run/pgbouncer/pgbouncer.ini") == ""
    assert host_path(MOUNTS[0], "/etc/pgbouncer/a/b.ini") == "/opt/x/pgbouncer/a/b.ini"
    assert host_path(MOUNTS[1], "/etc/pgbouncer/userlist.txt") == "/opt/x/userlist"


def test_a_trial_can_touch_nothing_that_runs() -> None:
    data = {
        "Image": "sha256:abc",
        "Config": {"User": "postgres", "WorkingDir": "/w", "Entrypoint": ["/bin/sh", "-e"], "Cmd": ["run", "x"]},
        "HostConfig": {
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "Tmpfs": {"/run": "size=1m", "/tmp": ""},
            "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
        },
        "Mounts": MOUNTS,
    }
    text = " ".join(create_arguments(data, {"/etc/pgbouncer"}))
    assert text.endswith("--entrypoint /bin/sh sha256:abc -e run x")
    for part in (
        "--network none", "--pull never", "--restart no", "--read-only", "--user postgres", "--workdir /w", "--cap-drop ALL",
        "--tmpfs /run:size=1m", "--tmpfs /tmp", "--ulimit nofile=10:20", "--tmpfs /var/log/pgbouncer:mode=1777",
        "--mount type=bind,source=/opt/x/userlist,target=/etc/pgbouncer/userlist.txt,readonly",
        "--mount type=volume,source=site_tls,target=/tls,readonly",
    ):  # fmt: skip
        assert part in text
    assert "/opt/x/pgbouncer" not in text
    assert "site_logs" not in text


def test_an_entrypoint_that_was_taken_away_stays_away() -> None:
    argv = create_arguments({"Image": "i", "Config": {"Entrypoint": None, "Cmd": ["pgbouncer"]}}, set())
    assert argv[-4:] == ["--entrypoint", "", "i", "pgbouncer"]


def test_listens() -> None:
    assert listens(TCP, 6432)
    assert not listens(TCP, 6433)
    assert not listens("", 6432)


def test_who_made_a_trial_is_told_from_who_has_its_number_now() -> None:
    own = process_mark(str(os.getpid()))
    assert own == process_mark(str(os.getpid()))
    assert re.fullmatch(r"[0-9]+:[0-9]+", own)
    assert process_mark("999999999") == process_mark("") == process_mark("x") == "none"


def test_a_log_quotes_no_line_of_the_ini() -> None:
    line = 'ERROR invalid value "host=x password=\'s3cret" 1\'" for parameter fhirdb in configuration (/etc/pgbouncer.ini:2)'
    text = scrub_log("a\n" + line + "\nb")
    assert "s3cret" not in text
    assert "fhirdb in configuration (/etc/pgbouncer.ini:2)\nb" in text


def archive(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as target:
        for name, content in {"pgbouncer": "", **files}.items():
            member = tarfile.TarInfo("pgbouncer" if name == "pgbouncer" else f"pgbouncer/{name}")
            member.type = tarfile.DIRTYPE if name == "pgbouncer" else tarfile.FIFOTYPE if name == "pipe" else tarfile.REGTYPE
            member.uid, member.mode, member.size = 70, 0o600, 0 if name in ("pgbouncer", "pipe") else len(content)
            target.addfile(member, io.BytesIO(content.encode()) if member.size else None)
    return out.getvalue()


def test_a_copy_keeps_owners_and_has_the_new_text() -> None:
    made = replaced(archive(ini="old", userlist="x", pipe=""), "/etc", {"/etc/pgbouncer/ini": "newer"})
    with tarfile.open(fileobj=io.BytesIO(made)) as source:
        found = {member.name: member for member in source}
        handle = source.extractfile("pgbouncer/ini")
        assert handle is not None
        assert handle.read() == b"newer"
    assert sorted(found) == ["pgbouncer", "pgbouncer/ini", "pgbouncer/userlist"]
    assert (found["pgbouncer/ini"].uid, found["pgbouncer/ini"].mode) == (70, 0o600)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(PgbouncerError, match="/etc/pgbouncer/other"):
        replaced(archive(ini="old"), "/etc", {"/etc/pgbouncer/other": "x"})
