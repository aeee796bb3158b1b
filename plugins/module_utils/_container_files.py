# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files inside of a container, written by `docker cp`: it needs no program there, and works while the container is stopped."""

from __future__ import annotations

import io
import tarfile
import time

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._compose import Docker


def archive(name: str, text: str, owner: str, mode: int = 0o600) -> str:
    """Return a tar archive with one file for `docker cp`, as text with every byte kept. owner is uid:gid. Pure."""
    data = text.encode("utf-8", "surrogateescape")
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), mode, int(time.time())
    info.uid, info.gid = (int(part) for part in owner.split(":"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as handle:
        handle.addfile(info, io.BytesIO(data))
    return buffer.getvalue().decode("utf-8", "surrogateescape")


def unarchive(text: str) -> tuple[str, str]:
    """Return the text and the owner (uid:gid) of the one file in a tar archive of `docker cp`. Pure. Raises ValueError."""
    try:
        with tarfile.open(fileobj=io.BytesIO(text.encode("utf-8", "surrogateescape"))) as handle:
            for info in handle:
                member = handle.extractfile(info)
                if member is not None:
                    return member.read().decode("utf-8", "surrogateescape"), "%d:%d" % (info.uid, info.gid)
    except tarfile.TarError as exc:
        raise ValueError(str(exc)) from None
    raise ValueError("no file in it")


def copy_in(docker: Docker, container: str, directory: str, name: str, text: str, owner: str, mode: int = 0o600) -> None:
    """Write a file into a directory of a container. Raises ComposeError."""
    # Not -a: that gives it to the container's user, whom Docker does not find where that is a number.
    docker.docker("cp", "-", "%s:%s" % (container, directory), data=archive(name, text, owner, mode))
