# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where backups lie on a host: one directory each, named by its id, with a manifest and checksums; and the room they need.

<id>           complete; its manifest says whether it was restored and compared
<id>.partial   being made, or left by a killed run; never counted
<id>.bad       did not restore, or was damaged later; never counted
<id>.removing  on its way out, so that a killed removal leaves nothing that looks whole
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ._files import sync_directory

MANIFEST = "manifest.json"
CHECKSUMS = "SHA256SUMS"
MANIFEST_VERSION = 1

PARTIAL, BAD, REMOVING = ".partial", ".bad", ".removing"

# A file system that is filled by a backup takes the database down with it.
RESERVE_SHARE = 0.05
RESERVE_MOST = 2 * 1024**3

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")


class BackupError(Exception):
    """A backup was not made, not proven or not removed. The text is complete and never holds a secret."""


@dataclass(frozen=True)
class Backup:
    """A complete backup that lies in the directory."""

    path: str
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        return os.path.basename(self.path)

    @property
    def created(self) -> float:
        """Seconds since the epoch at which the state was taken that the backup holds."""
        return float(self.manifest["created"])

    def of(self, service: str, database: str) -> bool:
        return bool(self.manifest.get("service") == service and self.manifest.get("database") == database)


def slug(name: str) -> str:
    """Return a name for a part of a file name; two different names never give the same one. Pure."""
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", name).lstrip(".-")
    if plain == name and plain:
        return plain
    return "%s-%s" % (plain[:40] or "x", hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8])


def stamp(moment: float) -> str:
    """Return a moment in UTC as it stands in an id, such as 20260131T235959Z. Pure."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))


def new_id(service: str, database: str, moment: float) -> str:
    """Return the id of a backup that begins at a moment. Pure."""
    return "%s_%s_%s" % (slug(service), slug(database), stamp(moment))


def check_id(text: str) -> str:
    """Return an id that an operator gave. Raises BackupError for one that could lead out of the directory, or to an unfinished one."""
    if not _ID.match(text) or text.endswith((PARTIAL, BAD, REMOVING)):
        raise BackupError("%r is not the id of a backup. It is the name of its directory, such as postgres-fhir_fhirdb_20260131T235959Z." % text)
    return text


def prepare(directory: str) -> None:
    """Make the directory for backups. Raises BackupError for one that others may write to, OSError."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    info = os.stat(directory)
    if info.st_mode & 0o022 or info.st_uid not in (0, os.geteuid()):
        raise BackupError(
            "Nothing was done: %s may be written by others (mode %04o, uid %d), who could then replace a backup. Give it to root with mode 0700."
            % (directory, info.st_mode & 0o7777, info.st_uid)
        )


def load(path: str) -> Optional[Backup]:
    """Return the backup in a directory, None when its manifest is missing or is not one of ours."""
    try:
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as handle:
            data = json.load(handle)
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("version") != MANIFEST_VERSION or not isinstance(data.get("created"), (int, float)):
        return None
    return Backup(path, data)


def listed(directory: str) -> list[Backup]:
    """Return the complete backups in a directory, oldest first. Raises OSError."""
    if not os.path.isdir(directory):
        return []
    found = []
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name.endswith((PARTIAL, BAD, REMOVING)) or not os.path.isdir(path) or os.path.islink(path):
            continue
        backup = load(path)
        if backup:
            found.append(backup)
    return sorted(found, key=lambda item: (item.created, item.id))


def young_enough(backups: Iterable[Backup], now: float, max_age: float, proven: bool) -> list[Backup]:
    """Return the backups that may stand for a new one, newest first. proven: only those that were restored. Pure."""
    usable = [item for item in backups if 0 <= now - item.created < max_age and (item.manifest.get("restore_checked") or not proven)]
    return sorted(usable, key=lambda item: item.created, reverse=True)


def surplus(backups: Iterable[Backup], keep: int) -> list[Backup]:
    """Return the backups of one database that go when keep of them stay, oldest first. 0 keeps all. Pure.

    What pgBackRest holds is expired by its own retention, and the newest one that was restored always stays.
    """
    ours = sorted((item for item in backups if item.manifest.get("method") != "pgbackrest"), key=lambda item: (item.created, item.id))
    if keep <= 0 or len(ours) <= keep:
        return []
    proven = [item for item in ours if item.manifest.get("restore_checked")]
    return [item for item in ours[:-keep] if not proven or item is not proven[-1]]


def files_below(path: str) -> list[str]:
    """Return the files of a backup that its checksums cover, relative and sorted. Raises OSError."""
    found = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        found += [os.path.relpath(os.path.join(folder, name), path) for name in names]
    return sorted(name for name in found if name not in (MANIFEST, CHECKSUMS))


def digest(path: str, sync: bool = False) -> tuple[int, str]:
    """Return size and SHA-256 of a file; sync: make sure that it is on the disk. Raises OSError."""
    value, size = hashlib.sha256(), 0
    with open(path, "rb") as handle:
        if sync:
            os.fsync(handle.fileno())
        for block in iter(lambda: handle.read(1024 * 1024), b""):
            value.update(block)
            size += len(block)
    return size, value.hexdigest()


def seal(path: str) -> tuple[int, str]:
    """Write SHA256SUMS over all files of a backup; return the sum of their sizes and the SHA-256 of that list. Raises OSError."""
    total, lines = 0, []
    for name in files_below(path):
        size, value = digest(os.path.join(path, name), sync=True)
        total += size
        lines.append("%s  %s\n" % (value, name))
    for folder, _folders, _names in os.walk(path):
        sync_directory(folder)
    text = "".join(lines)
    write(os.path.join(path, CHECKSUMS), text)
    return total, hashlib.sha256(text.encode()).hexdigest()


def damage(backup: Backup) -> str:
    """Return what is wrong with the files of a backup, "" when every byte is as it was. Reads all of it. Raises OSError."""
    sums = os.path.join(backup.path, CHECKSUMS)
    try:
        with open(sums, encoding="utf-8") as handle:
            text = handle.read()
    except FileNotFoundError:
        return "%s is missing" % CHECKSUMS
    if hashlib.sha256(text.encode()).hexdigest() != backup.manifest.get("sha256"):
        return "%s is not the one that the manifest names" % CHECKSUMS
    wanted = {name: value for value, name in (line.split("  ", 1) for line in text.splitlines())}
    there = set(files_below(backup.path))
    for name in sorted(wanted):
        if name not in there:
            return "%s is missing" % name
        if digest(os.path.join(backup.path, name))[1] != wanted[name]:
            return "%s was altered" % name
    return ""


def write(path: str, text: str) -> None:
    """Write a file that only its owner may read, and make sure that it is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(text.encode("utf-8", "surrogateescape"))
        handle.flush()
        os.fsync(handle.fileno())


def write_manifest(path: str, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a backup. Raises OSError."""
    write(os.path.join(path, MANIFEST), json.dumps(dict(manifest, version=MANIFEST_VERSION), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    sync_directory(path)


def finish(partial: str, ending: str = "") -> str:
    """Give a partial directory its final name (ending: BAD for one that is kept aside), and return it. Raises OSError."""
    target = partial[: -len(PARTIAL)] + ending
    os.rename(partial, target)
    sync_directory(os.path.dirname(target))
    return target


def set_aside(backup: Backup) -> str:
    """Take a damaged backup out of what counts; return its new path. Raises OSError."""
    target = backup.path + BAD
    shutil.rmtree(target, ignore_errors=True)
    os.rename(backup.path, target)
    sync_directory(os.path.dirname(target))
    return target


def remove(path: str) -> None:
    """Remove a directory of ours so that a kill in between leaves nothing that looks like a whole backup. Raises OSError."""
    target = path if path.endswith(REMOVING) else path + REMOVING
    if target != path:
        os.rename(path, target)
        sync_directory(os.path.dirname(target))
    shutil.rmtree(target)
    sync_directory(os.path.dirname(target))


def leftovers(directory: str, prefix: str, mine: Callable[[str], bool] = lambda path: True) -> list[str]:
    """Return what killed runs left for the ids that begin with a prefix, and all but the newest bad backup. Raises OSError.

    mine: tells of a path that ends in PARTIAL, BAD or REMOVING whether it may be touched.
    """
    if not os.path.isdir(directory):
        return []
    names = sorted(name for name in os.listdir(directory) if name.startswith(prefix) and name.endswith((PARTIAL, BAD, REMOVING)))
    names = [name for name in names if os.path.isdir(os.path.join(directory, name)) and mine(os.path.join(directory, name))]
    bad = [name for name in names if name.endswith(BAD)]
    gone = [name for name in names if name.endswith((PARTIAL, REMOVING))] + bad[:-1]
    return [os.path.join(directory, name) for name in gone]


# --- room --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """What is free on the file system of a path."""

    device: int
    free: int
    total: int

    @property
    def reserve(self) -> int:
        """Bytes that must stay free at any moment."""
        return min(int(self.total * RESERVE_SHARE), RESERVE_MOST)


def room(path: str) -> Room:
    """Read the file system on which a path lies, or would lie once it is made. Raises OSError."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    info = os.statvfs(path)
    return Room(os.stat(path).st_dev, info.f_bavail * info.f_frsize, info.f_blocks * info.f_frsize)


def short_of(wants: Iterable[tuple[str, int, Room]]) -> str:
    """Return which file systems are too small for what is wanted of them, "" when there is room. Pure.

    wants: path, bytes, and the room there. What lies on one file system is added up.
    """
    devices: dict[int, list[tuple[str, int, Room]]] = {}
    for item in wants:
        devices.setdefault(item[2].device, []).append(item)
    texts = []
    for items in devices.values():
        space = items[0][2]
        need = sum(item[1] for item in items)
        if space.free - space.reserve < need:
            texts.append(
                "the file system of %s has %s free, of which %s must stay free, and %s are needed"
                % (" and ".join(item[0] for item in items), human(space.free), human(space.reserve), human(need))
            )
    return "; ".join(texts)


def human(count: float) -> str:
    """Return bytes as people read them. Pure."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return "%.*f %s" % (0 if unit == "B" else 1, count, unit)
        count /= 1024
    return "%.1f TiB" % count
