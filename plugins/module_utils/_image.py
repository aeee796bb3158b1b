# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Looking into an image without running it: which Flyway scripts does it bring?"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import zipfile

from typing import IO, TYPE_CHECKING
from collections.abc import Iterable

from ._compose import ComposeError

if TYPE_CHECKING:
    from ._compose import Docker

LABEL = "dghs.bd_fhir.purpose=read-image"
# Versioned (V), undo (U) and repeatable (R) scripts of Flyway, wherever the application keeps them.
_SCRIPT = re.compile(r"(?:\A|/)db/migration/((?:[^/]+/)*[VRU][^/]*__[^/]+\.(?:sql|class))\Z")
# Java itself and the package manager bring large archives, and no scripts.
_SKIP = ("usr/lib/jvm/", "opt/java/", "usr/share/", "proc/", "sys/", "var/lib/docker/")


def scripts_of_names(names: Iterable[str]) -> set[str]:
    """Return the Flyway scripts among file names, as they stand below db/migration. Pure."""
    found = set()
    for name in names:
        match = _SCRIPT.search(name)
        if match:
            found.add(match.group(1))
    return found


def scripts_of_jar(handle: IO[bytes]) -> set[str]:
    """Return the Flyway scripts in a jar, at its top or below BOOT-INF/classes; none if it is no zip archive.

    Only the directory of the archive is read. Jars within jars (BOOT-INF/lib) are not opened.
    """
    try:
        with zipfile.ZipFile(handle) as archive:
            return scripts_of_names(archive.namelist())
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError):
        return set()


def scripts_of_tar(path: str) -> set[str]:
    """Return the Flyway scripts in the exported file system of a container. Raises OSError, tarfile.TarError."""
    found: set[str] = set()
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            name = member.name[2:] if member.name.startswith("./") else member.name
            found |= scripts_of_names([name])
            if member.isfile() and name.endswith((".jar", ".war")) and not name.startswith(_SKIP):
                handle = archive.extractfile(member)
                if handle is not None:
                    with handle:
                        found |= scripts_of_jar(handle)
            # TarFile remembers each member; an image has a hundred thousand.
            archive.members = []  # type: ignore[attr-defined]
    return found


def migrations_of_image(docker: Docker, ref: str, size: int, tmpdir: str) -> list[str]:
    """Return the Flyway scripts in a local image, sorted. Raises ComposeError.

    A container is created, never started, exported to a file below tmpdir (as large as the image: size in bytes), and
    removed. Its label makes one that a killed run left behind recognisable, and the next call removes it.
    """
    free = shutil.disk_usage(tmpdir).free
    if free < size * 1.1 + 64 * 1024 * 1024:
        raise ComposeError(
            "Looking into the image %s takes %d MB below %s, and only %d MB are free. Free some, or set remote_tmp."
            % (ref, size // 1048576, tmpdir, free // 1048576)
        )
    for left in docker.docker("ps", "-aq", "--filter", "label=" + LABEL, "--filter", "status=created")[1].split():
        docker.docker("rm", "-f", left, check=False)
    # The command is never run, but an image without one of its own can't make a container otherwise.
    container = docker.docker("create", "--pull=never", "--network=none", "--label", LABEL, ref, "/none")[1].strip()
    path = os.path.join(tmpdir, "image.tar")
    try:
        docker.docker("export", "-o", path, container)
        return sorted(scripts_of_tar(path))
    except (OSError, tarfile.TarError) as exc:
        raise ComposeError("The content of the image %s could not be read: %s." % (ref, exc)) from None
    finally:
        if os.path.exists(path):
            os.unlink(path)
        docker.docker("rm", "-f", container, check=False)
