# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Archives for `docker cp`; the copying itself: tests/integration/real/test_postgres_hba.py and test_postgres_parameter.py."""

from __future__ import annotations

import io
import tarfile

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils._container_files import archive, unarchive


def test_archive_keeps_every_byte() -> None:
    text = "# é\nprimary_conninfo = 'x''y'\n\udcff"
    assert unarchive(archive("postgresql.auto.conf", text, "999:998")) == (text, "999:998")
    for broken in ("", "no archive"):
        with pytest.raises(ValueError, match="."):
            unarchive(broken)


def test_archive_has_owner_and_mode() -> None:
    text = archive("pg_hba.conf", "x", "70:71", 0o640)
    with tarfile.open(fileobj=io.BytesIO(text.encode("utf-8", "surrogateescape"))) as handle:
        (info,) = handle.getmembers()
    assert (info.name, info.uid, info.gid, info.mode) == ("pg_hba.conf", 70, 71, 0o640)
