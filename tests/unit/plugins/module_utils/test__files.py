# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _files


@pytest.mark.parametrize("new", ["short\n", "a much longer text than before \udcf6\n"])
def test_overwrite_keeps_the_file(tmp_path: Path, new: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"what was before\n")
    inode = path.stat().st_ino
    _files.overwrite_file(str(path), new)
    assert path.read_bytes() == _files.to_bytes(new)
    assert path.stat().st_ino == inode
    with pytest.raises(FileNotFoundError):
        _files.overwrite_file(str(tmp_path / "none"), new)


def test_overwrite_is_whole_before_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between writing and cutting leaves empty lines and no rest of the old text."""
    path = tmp_path / "x"
    path.write_bytes(b"what was before\n")
    seen = []
    cut = os.ftruncate

    def watched(descriptor: int, size: int) -> None:
        seen.append(path.read_bytes())
        cut(descriptor, size)

    monkeypatch.setattr(_files.os, "ftruncate", watched)
    _files.overwrite_file(str(path), "short\n")
    assert seen == [b"short\n" + b"\n" * 10]
    assert path.read_bytes() == b"short\n"
