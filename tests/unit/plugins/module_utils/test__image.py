# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from ansible_collections.dghs.bd_fhir.plugins.module_utils import _image


def jar(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return data.getvalue()


def image(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("app/link.jar")
        link.type, link.linkname = tarfile.SYMTYPE, "app.jar"
        archive.addfile(link)
    return str(path)


def test_scripts_are_found_in_files_and_jars(tmp_path: Path) -> None:
    path = image(
        tmp_path / "i.tar",
        {
            "app/classes/db/migration/audit/V2__audit.sql": b"x",
            "./db/migration/V1__a.sql": b"x",
            "app/app.jar": jar("BOOT-INF/classes/db/migration/fhir/V3__c.sql", "db/migration/R__view.sql", "x/V9__no.sql"),
            "app/broken.jar": b"not a zip",
            "usr/lib/jvm/x.jar": jar("db/migration/V8__jvm.sql"),
            "app/db/migration/readme.md": b"x",
            "app/db/migration/notes__V1.sql": b"x",
        },
    )
    assert _image.scripts_of_tar(path) == {"audit/V2__audit.sql", "V1__a.sql", "fhir/V3__c.sql", "R__view.sql"}


def test_an_image_without_scripts(tmp_path: Path) -> None:
    assert _image.scripts_of_tar(image(tmp_path / "i.tar", {"etc/passwd": b"x"})) == set()
