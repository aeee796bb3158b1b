# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Replacing a file as a whole, so that a kill leaves either the old or the new bytes, never a half."""

from __future__ import annotations

import os
import tempfile
import time

from typing import Optional


def to_bytes(text: str) -> bytes:
    """Return the bytes of a text that was read with every byte kept."""
    return text.encode("utf-8", "surrogateescape")


def replace_file(path: str, text: str, new_mode: int = 0o600, new_owner: Optional[tuple[int, int]] = None) -> None:
    """Put text in place of the file path, or make it. Raises OSError.

    An existing file keeps its owner, group and mode, and a link stays a link: the file it points to is replaced.
    A new file gets new_mode, and new_owner (uid, gid) if given. At no moment can anyone read it who may not afterwards.
    """
    path = os.path.realpath(path)
    try:
        old: Optional[os.stat_result] = os.stat(path)
    except FileNotFoundError:
        old = None
    mode = old.st_mode & 0o7777 if old else new_mode
    owner = (old.st_uid, old.st_gid) if old else new_owner
    directory = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(prefix=".%s." % os.path.basename(path), dir=directory)  # 0600
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(to_bytes(text))
            handle.flush()
            if owner and owner != (os.geteuid(), os.getegid()):
                os.fchown(handle.fileno(), *owner)
            os.fchmod(handle.fileno(), mode)
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_directory(directory)


def overwrite_file(path: str, text: str) -> None:
    """Write text over the file that is there, for one that is mounted by itself: another in its place would not be seen in the container.

    What is left of a longer old text becomes empty lines before it is cut off, so that a kill in between does no harm where
    those mean nothing. Raises OSError.
    """
    data = to_bytes(text)
    descriptor = os.open(path, os.O_WRONLY)
    try:
        padded = data.ljust(os.fstat(descriptor).st_size, b"\n")
        written = 0
        while written < len(padded):
            written += os.pwrite(descriptor, padded[written:], written)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    """Make sure that a file that was made, replaced or removed in a directory stays so after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def backup_file(path: str) -> str:
    """Copy path beside itself with a time in the name, readable by its owner only; return the copy's path."""
    real = os.path.realpath(path)
    old = os.stat(real)
    with open(real, "rb") as handle:
        data = handle.read()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for count in range(100):
        target = "%s.%s%s.bak" % (real, stamp, "-%d" % count if count else "")
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(handle.fileno(), old.st_uid, old.st_gid)
            os.fsync(handle.fileno())
        return target
    raise FileExistsError("too many backups of %s within one second" % path)
