# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where backups lie: what counts, what goes, what is damaged, and whether there is room."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _backup_files as files
from hypothesis import given
from hypothesis import strategies as st

GIB = 1024**3


def make(directory: Path, name: str, created: float = 0, **manifest: Any) -> files.Backup:
    path = directory / name
    (path / "dump").mkdir(parents=True)
    (path / "dump/toc.dat").write_bytes(b"toc" * 1000)
    (path / "roles.sql").write_text("-- রহিম\n", encoding="utf-8")
    size, sha256 = files.seal(str(path))
    values = {"service": "s", "database": "d", "method": "pg_dump", "restore_checked": True, "created": created, "sha256": sha256, "bytes": size}
    files.write_manifest(str(path), {**values, **manifest})
    found = files.load(str(path))
    assert found
    return found


@given(st.text(), st.text())
def test_two_names_never_share_a_part_of_a_path(one: str, other: str) -> None:
    for name in (one, other):
        part = files.slug(name)
        assert part
        assert not set(part) & set("/\0_ \n")
        assert not part.startswith((".", "-")) or part == name
    assert (files.slug(one) == files.slug(other)) == (one == other)


def test_an_id_tells_service_database_and_moment() -> None:
    assert files.new_id("postgres-fhir", "fhirdb", 1769903999) == "postgres-fhir_fhirdb_20260131T235959Z"
    assert files.check_id("postgres-fhir_fhirdb_20260131T235959Z")


@pytest.mark.parametrize("text", ["", ".", "..", "../x", "/etc", "a/b", "-x", "x.partial", "x.bad", "x.removing", "x\n"])
def test_an_id_can_not_lead_elsewhere(text: str) -> None:
    with pytest.raises(files.BackupError, match="is not the id"):
        files.check_id(text)


def test_only_what_is_complete_counts(tmp_path: Path) -> None:
    assert files.listed(str(tmp_path / "none")) == []
    make(tmp_path, "b", 2)
    make(tmp_path, "a", 3)
    for name in ("c.partial", "d.bad", "e.removing"):
        make(tmp_path, name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    make(tmp_path, "broken")
    (tmp_path / "broken/manifest.json").write_text("{")
    make(tmp_path, "old")
    (tmp_path / "old/manifest.json").write_text('{"version": 0, "created": 1}')
    assert [item.id for item in files.listed(str(tmp_path))] == ["b", "a"]
    assert files.leftovers(str(tmp_path), "") == [str(tmp_path / name) for name in ("c.partial", "e.removing")]
    make(tmp_path, "e.bad")
    assert str(tmp_path / "d.bad") in files.leftovers(str(tmp_path), "")
    assert files.leftovers(str(tmp_path), "x") == []


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    backup = make(tmp_path, "a")
    assert files.damage(backup) == ""
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=backup.path, check=False).returncode == 0
    assert backup.manifest["bytes"] == 3000 + len("-- রহিম\n".encode())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: (path / "roles.sql").write_text("-- karim\n"), "roles.sql was altered"),
        (lambda path: (path / "dump/toc.dat").unlink(), "dump/toc.dat is missing"),
        (lambda path: (path / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
        (lambda path: (path / "SHA256SUMS").write_text(""), "SHA256SUMS is not the one"),
    ],
)
def test_every_damage_is_told(tmp_path: Path, change: Any, told: str) -> None:
    backup = make(tmp_path, "a")
    change(Path(backup.path))
    assert told in files.damage(backup)
    assert files.set_aside(backup).endswith("a.bad")
    assert files.listed(str(tmp_path)) == []


def test_young_enough() -> None:
    def one(created: float, proven: bool = True) -> files.Backup:
        return files.Backup("/x/%g" % created, {"created": created, "restore_checked": proven})

    backups = [one(10), one(20), one(30, False), one(200)]
    assert [item.created for item in files.young_enough(backups, 100, 90.5, True)] == [20, 10]
    assert [item.created for item in files.young_enough(backups, 100, 90.5, False)] == [30, 20, 10]
    assert files.young_enough(backups, 100, 0, True) == []


@pytest.mark.parametrize(
    ("proven", "keep", "gone"),
    [
        ("yyyy", 2, [0, 1]),
        ("yyyy", 0, []),
        ("yyyy", 4, []),
        ("yynn", 2, [0]),  # the newest that was restored stays
        ("nnnn", 1, [0, 1, 2]),
    ],
)
def test_surplus(proven: str, keep: int, gone: list[int]) -> None:
    backups = [files.Backup("/x/%d" % number, {"created": number, "restore_checked": mark == "y"}) for number, mark in enumerate(proven)]
    repository = files.Backup("/x/r", {"created": -1, "restore_checked": True, "method": "pgbackrest"})
    assert [item.created for item in files.surplus([repository, *backups], keep)] == gone


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    files.prepare(str(tmp_path / "a/b"))
    assert os.stat(tmp_path / "a/b").st_mode & 0o777 == 0o700
    (tmp_path / "a/b").chmod(0o770)
    with pytest.raises(files.BackupError, match="may be written by others"):
        files.prepare(str(tmp_path / "a/b"))


def test_room_is_added_up_by_file_system() -> None:
    small, large = files.Room(1, 10 * GIB, 20 * GIB), files.Room(2, 500 * GIB, 1000 * GIB)
    assert small.reserve == GIB
    assert large.reserve == 2 * GIB
    assert files.short_of([("/a", 9 * GIB, small), ("/b", 498 * GIB, large)]) == ""
    text = files.short_of([("/a", 5 * GIB, small), ("/b", 5 * GIB, small)])
    assert text == "the file system of /a and /b has 10.0 GiB free, of which 1.0 GiB must stay free, and 10.0 GiB are needed"
    assert files.room("/does/not/exist").device == os.stat("/").st_dev
