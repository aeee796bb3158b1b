# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data directory of a streaming standby in a Docker volume: what is in there, whose it is, and how it is made.

At the volume's root lies a marker that says what was begun, and in each finished clone a file with the id of that marker. Only
both together prove that a directory is ours to replace or to remove.
"""

from __future__ import annotations

import calendar
import io
import json
import re
import tarfile
import time
import uuid

from dataclasses import dataclass
from typing import Any, Optional
from collections.abc import Mapping

from ._compose import ComposeError, Docker, last_lines
from ._parameters import PLACES, SECRETS, ParameterError, conf_text, text_of
from ._quoting import conninfo_value

LABEL = "dghs.bd_fhir.clone"
ROOT = "/var/lib/postgresql/data"
DIRECTORY = ROOT + "/standby"
MARKER = "bd_fhir_clone.json"
# Inside of the container that clones.
JOB = "/bd-fhir-clone"
# What a copy needs beside the size of the primary: the WAL of its time, and what is written meanwhile.
NEEDED = 1.1
# Seconds; removing a large directory takes its time.
REMOVE_SECONDS = 900
# Seconds that a slot may still be held by what was killed: a primary that hears nothing gives up after 60 (wal_sender_timeout).
SLOT_SECONDS = 66
# Exit code of a script of ours: the password file can't be read.
NOT_READABLE = 40
# What this module writes itself; a value of the caller would be another one's.
OWN_SETTINGS = ("primary_conninfo", "primary_slot_name", "recovery_target_timeline")

_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)*\Z")
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+\Z")
_PROGRESS = re.compile(r"\s*([0-9]+)/([0-9]+) kB \(([0-9]+)%\)")


class CloneError(Exception):
    """Something can't be done. The text is complete and holds no secret."""


# --- what pg_basebackup says -------------------------------------------------------------------------------------------


def lines_of(text: str) -> list[str]:
    """Return the lines of a log; a carriage return ends one too, since progress is written over itself on a terminal. Pure."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def parse_progress(text: str) -> dict[str, int]:
    """Return how far the log of pg_basebackup says that it is. Pure."""
    for line in reversed(lines_of(text)):
        match = _PROGRESS.match(line)
        if match:
            done, total, percent = (int(item) for item in match.groups())
            return {"bytes_done": done * 1024, "bytes_total": total * 1024, "percent": min(percent, 100)}
    return {"bytes_done": 0, "bytes_total": 0, "percent": 0}


def said(text: str) -> list[str]:
    """Return the lines of a log that are no progress. Pure."""
    return [line for line in lines_of(text) if not _PROGRESS.match(line) and line.strip() != "waiting for checkpoint"]


# Kind, texts, next step. The first that fits counts.
_REASONS = (
    (
        "passfile",
        ("has group or world access", "could not open password file", "passfile can't be read"),
        "The file must have mode 0600 and belong to the user of the image's server, whom state read returns as owner.",
    ),
    (
        "hba",
        ("no pg_hba.conf entry", "pg_hba.conf rejects"),
        "The primary's pg_hba.conf has no line for replication by this user from this address: `host all` does not cover it. Add one, and reload.",
    ),
    (
        "password",
        ("password authentication failed", "no password supplied", "sasl authentication failed"),
        "The password in the passfile is wrong, or none of its lines fits (they name host, port, the database `replication` and the user), or the"
        " role does not exist.",
    ),
    (
        "role",
        ('role "', "must be superuser or replication role", "permission denied to start wal sender"),
        "The role must exist on the primary, and have LOGIN and REPLICATION.",
    ),
    (
        "senders",
        ("requested standby connections exceeds", "remaining connection slots", "too many clients"),
        "The primary has no free WAL sender; a clone takes two for its time. Raise max_wal_senders there (0 also means that wal_level is minimal),"
        " or end one that nobody needs (pg_stat_replication).",
    ),
    (
        "slot_missing",
        ("replication slot",),
        "Make the slot on the primary: SELECT pg_create_physical_replication_slot(...).",
    ),
    (
        "space",
        ("no space left on device", "disk quota exceeded"),
        "The volume's file system is full. What was copied is removed again. Free some space, or move the volume.",
    ),
    (
        "wal_removed",
        ("has already been removed",),
        "The primary has removed WAL that the clone needs: the slot is lost, or max_slot_wal_keep_size too small. Make the slot anew, or raise it.",
    ),
    (
        "wal_level",
        ("wal level not sufficient", "wal_level"),
        "The primary's wal_level must be replica or logical, which takes a restart of it.",
    ),
    (
        "version",
        ("incompatible server version",),
        "The image must have the primary's version of PostgreSQL: use the primary's image.",
    ),
    (
        "other_primary",
        ("system identifier",),
        "Another server answers at this address than the one that was meant. Correct primary_host.",
    ),
    (
        "tablespaces",
        ("tablespaces of its own",),
        "Only a primary without tablespaces of its own can be cloned here.",
    ),
    (
        "unreachable",
        (
            "could not translate host name",
            "connection refused",
            "no route to host",
            "network is unreachable",
            "timeout expired",
            "timed out",
            "address family",
            "cannot assign requested address",
            "server closed the connection",
            "connection reset",
        ),
        "The primary is not reached from this network. See that it runs, that listen_addresses and the port are right, and that the name or the"
        " address, IPv4 or IPv6, exists on the network.",
    ),
)


def reason_of(text: str) -> tuple[str, str]:
    """Return the kind of a failure and the next step, from what the programs have said. Pure."""
    low = text.lower()
    for kind, marks, hint in _REASONS:
        if not any(mark in low for mark in marks):
            continue
        if kind == "slot_missing" and "is active for pid" in low:
            return "slot_active", "Somebody streams by this slot already, see pg_replication_slots: end that, or use a slot of its own."
        if kind == "slot_missing" and "does not exist" not in low:
            continue
        if kind == "role" and 'role "' in low and "does not exist" not in low and "not permitted to log in" not in low:
            continue
        return kind, hint
    return "unknown", "Look at the log for the reason."


# --- the marker --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marker:
    """What the marker says. Everything in it can be shown."""

    id: str
    replaces: str  # id of the clone that stays until this one is done, "" for none
    system_identifier: str
    primary: dict[str, Any]  # host, port
    slot: str
    state: str  # cloning or done
    started: str
    finished: str
    bytes: int
    image: str

    def public(self) -> dict[str, Any]:
        """Return it as it stands in the file."""
        return dict(vars(self))

    def text(self) -> str:
        """Return the file's text: one line, in the form that finish() of the scripts changes."""
        return json.dumps(self.public()) + "\n"


def new_marker(system: str, host: str, port: int, slot: str, image: str, replaces: str) -> Marker:
    """Return the marker of a clone that begins now."""
    return Marker(uuid.uuid4().hex, replaces, system, {"host": host, "port": port}, slot, "cloning", stamp(time.time()), "", 0, image)


def stamp(seconds: float) -> str:
    """Return a moment as it stands in the marker. Pure."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def parse_marker(text: str) -> Marker:
    """Read a marker. Pure. Raises ValueError for something else."""
    data = json.loads(text)
    if not isinstance(data, dict) or not isinstance(data.get("primary"), dict):
        raise ValueError("it has not the form of a marker")
    try:
        marker = Marker(**data)
    except TypeError:
        raise ValueError("it has not the form of a marker") from None
    if marker.state not in ("cloning", "done") or not re.match(r"[0-9a-f]{32}\Z", str(marker.id)):
        raise ValueError("it has not the form of a marker")
    return marker


# --- what is in the volume ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What was seen in a volume."""

    owner: str  # uid:gid of the image's user postgres
    free: int  # bytes on the volume's file system
    spare: int = 0  # bytes that go when a clone starts
    entries: tuple[str, ...] = ()  # what is not ours by its name
    standby: str = "none"  # none, empty (a directory), data (a data directory) or other
    new: str = "none"
    old: str = "none"
    id: str = ""  # that the clone bears
    new_id: str = ""  # that the unfinished one bears, when all of it is there
    signal: bool = False  # whether the clone would start as a standby
    system: str = ""  # identifier as its control file says
    cluster: str = ""  # its state, as its control file says
    marker: Optional[Marker] = None
    broken: str = ""  # why the marker can't be read

    @property
    def cleared(self) -> bool:
        """Whether nothing is there that bears a name of ours."""
        return self.marker is None and not self.broken and not {self.standby, self.new, self.old} - {"none", "empty"}


def parse_look(text: str) -> Look:
    """Read what the script has seen. Pure. Raises CloneError for something else."""
    head, mark, tail = text.partition("\nmarker\n")
    values: dict[str, str] = {}
    entries = []
    for line in head.splitlines():
        key, dummy, value = line.partition(" ")
        if key == "entry":
            entries.append(value)
        else:
            values[key] = value.strip()
    try:
        if not mark or not re.match(r"[0-9]+:[0-9]+\Z", values["owner"]):
            raise ValueError
        free, spare = int(values["free"]) * 1024, int(values["spare"]) * 1024
        standby, new, old = (values[key] for key in ("standby", "new", "old"))
    except (KeyError, ValueError):
        raise CloneError(
            "The volume could not be looked into: the image's shell answered %d characters of an unknown form. The image must be one of"
            " PostgreSQL, with a user postgres." % len(text)
        ) from None
    marker, broken = None, ""
    if tail.strip():
        try:
            marker = parse_marker(tail)
        except ValueError:
            broken = "it has not the form of a marker"
    return Look(
        values["owner"], free, spare, tuple(entries), standby, new, old, values.get("id", ""), values.get("new_id", ""), "signal" in values,
        values.get("system", ""), values.get("cluster", ""), marker, broken,
    )  # fmt: skip


@dataclass(frozen=True)
class Maker:
    """The container that clones, as it is now."""

    id: str
    state: str
    exit_code: int
    oom_killed: bool
    started: float
    finished: float
    log: str

    @property
    def runs(self) -> bool:
        """Whether it may still be at work."""
        return self.state in ("running", "paused", "restarting")


@dataclass(frozen=True)
class Verdict:
    """What a volume is. state: absent, cloning, failed, done, foreign or promoted; why in words for the last three of them and failed."""

    state: str
    why: str = ""
    other_primary: bool = False
    # All of the copy is there, and only its last renames are left.
    complete: bool = False


def judge(look: Optional[Look], maker: Optional[Maker], system: str = "") -> Verdict:
    """Say what a volume is, given what was seen in it (None: there is no volume) and whose clone it should be. Pure."""
    if look is None:
        return Verdict("absent")
    if look.broken:
        return Verdict("foreign", "its marker %s can't be read: %s" % (MARKER, look.broken))
    marker = look.marker
    if marker is None:
        names = list(look.entries)
        ours = (("standby", look.standby), ("standby.new", look.new), ("standby.old", look.old))
        names += [name for name, kind in ours if kind not in ("none", "empty")]
        if not names:
            return Verdict("absent")
        return Verdict("foreign", "it holds %s, and no marker %s that says that they are a clone of ours" % (", ".join(names), MARKER))
    if system and marker.system_identifier != system:
        return Verdict(
            "foreign",
            "it is a clone of another primary: of %s:%s with system identifier %s, not %s"
            % (marker.primary.get("host"), marker.primary.get("port"), marker.system_identifier, system),
            other_primary=True,
        )
    if look.standby == "other":
        return Verdict("foreign", "its directory standby is no data directory of PostgreSQL")
    if look.standby == "data":
        found = _judge_standby(look, marker)
        if found:
            return found
    if marker.state == "done":
        return Verdict("done") if look.standby == "data" else Verdict("absent")
    complete = (look.standby == "data" and look.id == marker.id) or (look.new == "data" and look.new_id == marker.id)
    if maker and maker.runs:
        return Verdict("cloning")
    return Verdict("failed", complete=complete)


def _judge_standby(look: Look, marker: Marker) -> Optional[Verdict]:
    """Return what speaks against the data directory being the clone that the marker names."""
    if look.id not in [item for item in (marker.id, marker.replaces) if item]:
        return Verdict("foreign", "its directory standby is not the one that the marker %s speaks of" % MARKER)
    if look.system != marker.system_identifier:
        return Verdict(
            "foreign",
            "the data in its directory standby has system identifier %s, and its marker says %s" % (look.system or "none", marker.system_identifier),
            other_primary=True,
        )
    if not look.signal:
        return Verdict(
            "promoted", "it was promoted: its directory standby has no standby.signal%s" % (", and is %s" % look.cluster if look.cluster else "")
        )
    return None


def why_failed(maker: Optional[Maker], clean_log: str) -> tuple[str, str, str]:
    """Return the kind of a failure, what was seen, and the next step. Pure."""
    again = "Run this again: it begins anew, after removing what was copied."
    if maker is None or maker.state == "created":
        return "killed", "it was broken off, and the container that cloned is gone", again
    lines = last_lines("\n".join(said(clean_log)), 4)
    if maker.oom_killed:
        return "memory", "the kernel killed it for want of memory", "Give it more memory. " + again
    if maker.exit_code == 0:
        return "unknown", "the container that cloned has ended, and left no clone", again
    kind, hint = reason_of(lines)
    # 255 is what Docker says of one that it has lost sight of, as when the host went down.
    if kind == "unknown" and maker.exit_code in (137, 143, 255):
        return "killed", "the container that cloned was killed (exit code %d)" % maker.exit_code, again
    return kind, lines or "exit code %d, and no word" % maker.exit_code, hint


# --- what is written into the clone ------------------------------------------------------------------------------------


def conninfo(host: str, port: int, user: str, passfile: str, application_name: str = "") -> str:
    """Return the connection string of the standby. It names the file with the password, never the password. Pure. Raises QuotingError."""
    values = {"host": host, "port": str(port), "user": user, "passfile": passfile, "application_name": application_name}
    return " ".join("%s=%s" % (name, conninfo_value(value)) for name, value in values.items() if value)


def settings_text(settings: Mapping[str, Any], connection: str, slot: str) -> tuple[str, str]:
    """Return what is added to the clone's postgresql.auto.conf, and a pattern (grep -iE) of the lines that it replaces. Pure.

    A value of None only takes the primary's own one away. Raises ParameterError.
    """
    values: dict[str, str] = {}
    names = []
    for key, value in settings.items():
        name = str(key).lower()
        if not _SETTING.match(name):
            raise ParameterError("%r is no name of a parameter." % key)
        if name in OWN_SETTINGS:
            raise ParameterError("%s is set from the other options; take it out of settings." % name)
        if name in PLACES or name in SECRETS:
            raise ParameterError("%s can't be set here. Set it in the service's command, or in postgresql.conf." % name)
        names.append(name)
        if value is not None:
            values[name] = text_of(name, value)
    values.update({"primary_conninfo": connection, "primary_slot_name": slot, "recovery_target_timeline": "latest"})
    pattern = "|".join(re.sub(r"([.$])", r"\\\1", name) for name in [*names, *OWN_SETTINGS])
    return conf_text(values), r"^[[:space:]]*(%s)([[:space:]]|=|$)" % pattern


def passwords_of(text: str) -> list[str]:
    """Return the passwords in a password file of libpq, so that no message shows one. Pure."""
    found = []
    for line in re.split(r"\r?\n", text):
        fields = re.findall(r"(?:\\.|[^\\:])*(?::|\Z)", line)
        if len(fields) >= 5 and not line.startswith("#"):
            raw = line[sum(len(item) for item in fields[:4]) :]
            found += [raw, re.sub(r"\\(.)", r"\1", raw)]
    return [item for item in found if len(item) > 3]


def archive(files: Mapping[str, str]) -> str:
    """Return a tar archive of the directory JOB for `docker cp`, as text with every byte kept. Pure."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as handle:
        folder = tarfile.TarInfo(JOB.strip("/"))
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
        handle.addfile(folder)
        for name, text in files.items():
            data = text.encode("utf-8", "surrogateescape")
            info = tarfile.TarInfo("%s/%s" % (JOB.strip("/"), name))
            # Nothing of it is secret.
            info.size, info.mode, info.mtime = len(data), 0o644, int(time.time())
            handle.addfile(info, io.BytesIO(data))
    return buffer.getvalue().decode("utf-8", "surrogateescape")


# --- scripts, for the shells of Debian and of Alpine -------------------------------------------------------------------

_COMMON = r"""
export LC_ALL=C
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin | tr ' ' ':')
cd %(root)s || exit 1
""" % {"root": ROOT}

LOOK = (
    _COMMON
    + r"""
plain() { tr -c ' -~' '?'; }
kind() {
  if [ ! -e "$1" ] && [ ! -L "$1" ]; then echo none
  elif [ ! -d "$1" ] || [ -L "$1" ]; then echo other
  elif [ -z "$(ls -A "$1")" ]; then echo empty
  elif [ -s "$1/PG_VERSION" ]; then echo data
  else echo other
  fi
}
echo "owner $(id -u postgres):$(id -g postgres)"
echo "free $(df -Pk . | awk 'NR == 2 { print $4 }')"
echo "spare $(du -sk standby.new standby.old 2> /dev/null | awk '{ sum += $1 } END { print sum + 0 }')"
for name in * .[!.]* ..?*; do
  case $name in standby | standby.new | standby.old | MARKER | MARKER.new | lost+found) continue ;; esac
  if [ -e "$name" ] || [ -L "$name" ]; then printf 'entry '; printf '%s' "$name" | plain; echo; fi
done | head -n 12
echo "standby $(kind standby)"
echo "new $(kind standby.new)"
echo "old $(kind standby.old)"
echo "id $(head -c 64 standby/bd_fhir_clone 2> /dev/null | plain)"
echo "new_id $(head -c 64 standby.new/bd_fhir_clone 2> /dev/null | plain)"
if [ -e standby/standby.signal ]; then echo signal; fi
if [ -s standby/PG_VERSION ]; then
  pg_controldata -D standby 2> /dev/null | sed -n 's/^Database system identifier: */system /p; s/^Database cluster state: */cluster /p'
fi
echo marker
if [ -e MARKER ]; then head -c 65536 MARKER; fi
"""
).replace("MARKER", MARKER)

# As root: $1 uid:gid, $2 the marker, $3 the id that a clone which is there may bear. The marker comes first, so that whatever is made
# after it is provably ours; an empty directory of a container that was started too early goes.
PREPARE = (
    _COMMON
    + r"""
set -e
umask 022
rmdir standby 2> /dev/null || true
if [ -e standby ] && { [ -z "$3" ] || [ "$(cat standby/bd_fhir_clone)" != "$3" ]; }; then
  echo 'bd-fhir: the directory standby is not the one that was seen' >&2
  exit 41
fi
printf '%s\n' "$2" > MARKER.new
chown "$1" . MARKER.new
chmod u+rwx .
mv MARKER.new MARKER
rm -rf standby.new standby.old
sync
"""
).replace("MARKER", MARKER)

_FINISH = r"""
finish() {
  if [ -d standby.new ]; then
    rmdir standby 2> /dev/null
    if [ -e standby ]; then
      rm -rf standby.old
      mv standby standby.old || return 1
    fi
    mv standby.new standby || return 1
  fi
  [ "$(cat standby/bd_fhir_clone)" = "$id" ] || return 1
  rm -rf standby.old
  size=$(du -sk standby | awk '{ print $1 }')
  sed -e 's/"state": "cloning"/"state": "done"/' -e "s/\"finished\": \"\"/\"finished\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"/" \
    -e "s/\"bytes\": 0/\"bytes\": $((size * 1024))/" MARKER > MARKER.new || return 1
  sync
  mv MARKER.new MARKER || return 1
  sync
}
""".replace("MARKER", MARKER)

# As the server's user: $1 the id. All of the copy is there.
FINISH = (
    _COMMON
    + _FINISH
    + r"""
id=$1
finish
"""
)

# As the server's user, in a container of its own that nobody has to wait for.
CLONE = (
    _COMMON
    + _FINISH
    + r"""
conninfo=$1 slot=$2 id=$3 system=$4 least=$5 rate=$6
umask 077
fail() {
  echo "bd-fhir: $*" >&2
  rm -rf ROOT/standby.new
  exit 1
}
mkdir -m 0700 standby.new || exit 1
set -- -d "$conninfo" -D ROOT/standby.new -X stream -S "$slot" -c fast -P -w
if [ -n "$rate" ]; then set -- "$@" -r "$rate"; fi
trap 'kill "$maker"; wait "$maker"; rm -rf standby.new; exit 143' TERM INT
said=/tmp/bd-fhir-said
mkfifo "$said.pipe" || exit 1
waited=0
while :; do
  tee "$said" < "$said.pipe" >&2 &
  teller=$!
  pg_basebackup "$@" 2> "$said.pipe" &
  maker=$!
  # The file system may be the primary's too: it must not be filled.
  while kill -0 "$maker" 2> /dev/null; do
    free=$(df -Pk . | awk 'NR == 2 { print $4 }')
    if [ "${free:-$least}" -lt "$least" ]; then
      kill "$maker"
      wait "$maker"
      fail "No space left on device but $free kB, and $least kB must stay free (min_free_bytes)"
    fi
    sleep 1
  done
  wait "$maker"
  code=$?
  # All that was said has to be in the log before this ends.
  wait "$teller"
  [ "$code" -ne 0 ] || break
  rm -rf standby.new
  # A clone that was killed a moment ago holds the slot until the primary notices: the former one's end is waited for.
  if [ "$waited" -ge PATIENCE ] || ! grep -q 'is active for PID' "$said"; then exit "$code"; fi
  waited=$((waited + 3))
  sleep 3
  mkdir -m 0700 standby.new || exit 1
done
[ -z "$(ls -A standby.new/pg_tblspc)" ] || fail 'the primary has tablespaces of its own'
found=$(pg_controldata -D standby.new | sed -n 's/^Database system identifier: *//p')
[ "$found" = "$system" ] || fail "the server has system identifier $found, not $system"
cd standby.new || fail 'the copy is gone'
grep -viE "$(cat JOB/replaced)" postgresql.auto.conf > postgresql.auto.conf.new
[ $? -le 1 ] || fail 'postgresql.auto.conf could not be read'
cat JOB/auto.conf >> postgresql.auto.conf.new && mv postgresql.auto.conf.new postgresql.auto.conf || fail 'postgresql.auto.conf could not be written'
if [ -e JOB/hba ]; then cat JOB/hba > pg_hba.conf || fail 'pg_hba.conf could not be written'; fi
rm -f recovery.signal
: > standby.signal || fail 'standby.signal could not be written'
chmod 0700 .
sync
printf '%s' "$id" > bd_fhir_clone || fail 'the id could not be written'
sync
cd .. || exit 1
finish || { echo 'bd-fhir: the finished copy could not be put in its place' >&2; exit 1; }
"""
).replace("ROOT", ROOT).replace("JOB", JOB).replace("PATIENCE", str(SLOT_SECONDS))

# As the server's user, on the network of the clone: $1 the file with the password, $2 the connection string.
ASK = (
    _COMMON
    + r"""
[ -r "$1" ] || exit 40
exec psql -XAtw -d "$2 dbname=replication replication=true" -c IDENTIFY_SYSTEM
"""
)

# As root: $1 the id of the clone, "" for none that is finished. Renamed first, so that a kill leaves no half of it under its name.
REMOVE = (
    _COMMON
    + r"""
set -e
rmdir standby 2> /dev/null || true
if [ -e standby ]; then
  if [ -z "$1" ] || [ "$(cat standby/bd_fhir_clone)" != "$1" ] || [ ! -e standby/standby.signal ]; then
    echo 'bd-fhir: the directory standby is not the one that was seen' >&2
    exit 41
  fi
  rm -rf standby.old
  mv standby standby.old
fi
rm -rf standby.old standby.new
rm -f MARKER.new MARKER
sync
"""
).replace("MARKER", MARKER)


# --- Docker ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """What a clone is made from."""

    conninfo: str
    slot: str
    system: str
    network: str
    passfile: str  # on the host
    passfile_inside: str
    auto_conf: str
    replaced: str
    hba: Optional[str]
    max_rate: str
    memory: str
    min_free: int


@dataclass(frozen=True)
class User:
    """A container that uses the volume."""

    name: str
    state: str
    rw: bool


def seconds_of(text: str) -> float:
    """Return the moment of a time as Docker writes it, 0 for none. Pure."""
    try:
        # In UTC; what has not happened has a moment in the year 1.
        return max(0.0, float(calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))))
    except ValueError:
        return 0.0


class Volume:
    """One volume, through containers of one image. Every method raises ComposeError."""

    def __init__(self, docker: Docker, name: str, image_id: str) -> None:
        self._docker = docker
        self.name = name
        self._image = image_id
        self.maker_name = "bd-fhir-clone-%s" % name
        self.secrets: list[str] = []

    def inspect(self) -> Optional[dict[str, Any]]:
        """Return what Docker says of the volume, None when there is none."""
        rc, out, err = self._docker.docker("volume", "inspect", self.name, check=False)
        if rc != 0:
            if "no such volume" in err.lower():
                return None
            raise ComposeError(self._docker.failure(["docker", "volume", "inspect", self.name], "/", rc, "", err), rc=rc)
        found: dict[str, Any] = json.loads(out)[0]
        return found

    def ours(self, inspected: Mapping[str, Any]) -> bool:
        """Tell whether the volume was made by this module."""
        return (inspected.get("Labels") or {}).get(LABEL) == self.name

    def create(self, labels: Mapping[str, Any]) -> None:
        """Make the volume."""
        more = []
        for key, value in {**labels, LABEL: self.name}.items():
            more += ["--label", "%s=%s" % (key, value)]
        self._docker.docker("volume", "create", *more, self.name)

    def remove(self) -> None:
        """Remove the volume."""
        self._docker.docker("volume", "rm", self.name)

    def users(self) -> list[User]:
        """Return the containers that use the volume, but for the one that clones."""
        ids = self._docker.docker("ps", "-aq", "--no-trunc", "--filter", "volume=%s" % self.name)[1].split()
        found = []
        for item in self._docker.inspect(ids):
            name = str(item["Name"]).lstrip("/")
            mounts = [mount for mount in item.get("Mounts") or [] if mount.get("Name") == self.name]
            if mounts and name != self.maker_name:
                found.append(User(name, str(item["State"]["Status"]), any(mount.get("RW") for mount in mounts)))
        return sorted(found, key=lambda user: user.name)

    def _mount(self, readonly: bool = False, anonymous: bool = False) -> list[str]:
        # Without a copy of what the image has there, which would give an empty volume other rights.
        parts = ["type=volume", "target=%s" % ROOT, "volume-nocopy"]
        if not anonymous:
            parts += ["source=%s" % self.name, *(["readonly"] if readonly else [])]
        return ["--mount", ",".join(parts)]

    def _run(self, script: str, *args: str, user: str = "0:0", network: str = "none", more: Optional[list[str]] = None,
             check: bool = True, timeout: Optional[float] = None) -> tuple[int, str, str]:  # fmt: skip
        """Run a script in a container that is thrown away; more: how the volume is mounted."""
        argv = ["run", "--rm", "--interactive", "--label", "%s=%s" % (LABEL, self.name), "--network", network, "--user", user, "--no-healthcheck"]
        argv += ["--security-opt", "label=disable", "--log-driver", "none", "--env", "PGCONNECT_TIMEOUT=10", *(more or self._mount())]
        return self._docker.docker(*argv, "--entrypoint", "sh", self._image, "-s", *args, check=check, timeout=timeout, data=script)

    def look(self, exists: bool) -> Look:
        """Look into the volume, or where it would lie. Raises CloneError."""
        return parse_look(self._run(LOOK, more=self._mount(readonly=True, anonymous=not exists))[1])

    def maker(self) -> Optional[Maker]:
        """Return the container that clones or has cloned. Raises CloneError for one that is somebody else's."""
        found = self._docker.inspect([self.maker_name])
        if not found:
            return None
        item = found[0]
        if ((item.get("Config") or {}).get("Labels") or {}).get(LABEL) != self.name:
            raise CloneError(
                "There is a container %s that is not ours: it has no label %s=%s. Remove or rename it." % (self.maker_name, LABEL, self.name)
            )
        rc, out, err = self._docker.docker("logs", "--tail", "60", item["Id"], check=False)
        state = item["State"]
        return Maker(
            item["Id"], str(state["Status"]), int(state.get("ExitCode") or 0), bool(state.get("OOMKilled")),
            seconds_of(str(state.get("StartedAt"))), seconds_of(str(state.get("FinishedAt"))), self.clean(out + "\n" + err if rc == 0 else ""),
        )  # fmt: skip

    def clean(self, text: str) -> str:
        """Return text without any secret that is known here."""
        text = self._docker.clean(text)
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "********")
        return text

    def forget_maker(self, maker: Maker) -> None:
        """Remove the container that clones, whatever it does."""
        self._docker.docker("rm", "--force", "--volumes", maker.id)

    def ask(self, order: Order, owner: str) -> tuple[int, str, str]:
        """Ask the primary who it is, in the way in which it will be cloned; returns rc, output and errors."""
        more = self._bind(order)
        rc, out, err = self._run(
            ASK, order.passfile_inside, order.conninfo, user=owner, network=order.network, more=[*more, *self._mount(anonymous=True)], check=False
        )
        return rc, out, self.clean(err)

    @staticmethod
    def _bind(order: Order) -> list[str]:
        return ["--mount", "type=bind,source=%s,target=%s,readonly" % (order.passfile, order.passfile_inside)]

    def prepare(self, owner: str, marker: Marker) -> None:
        """Write the marker and make room for the clone."""
        self._run(PREPARE, owner, marker.text().strip(), marker.replaces, timeout=REMOVE_SECONDS)

    def finish(self, owner: str, marker: Marker) -> None:
        """Put the copy that is all there in its place."""
        self._run(FINISH, marker.id, user=owner, timeout=REMOVE_SECONDS)

    def start(self, order: Order, owner: str, marker: Marker) -> None:
        """Start the container that clones, and wait for nothing."""
        argv = ["create", "--name", self.maker_name, "--label", "%s=%s" % (LABEL, self.name), "--network", order.network, "--user", owner]
        argv += ["--restart", "no", "--no-healthcheck", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt", "label=disable"]
        # The servers of the host come first. The log must be there to read, whatever the daemon does with logs by default.
        argv += ["--cpu-shares", "128", "--log-driver", "json-file", "--log-opt", "max-size=1m", "--log-opt", "max-file=2"]
        argv += ["--env", "PGCONNECT_TIMEOUT=10", *self._bind(order), *self._mount()]
        if order.memory:
            argv += ["--memory", order.memory]
        argv += ["--entrypoint", "sh", self._image, JOB + "/clone.sh"]
        argv += [order.conninfo, order.slot, marker.id, order.system, str(order.min_free // 1024), order.max_rate]
        identity = self._docker.docker(*argv)[1].strip()
        files = {"clone.sh": CLONE, "auto.conf": order.auto_conf, "replaced": order.replaced}
        if order.hba is not None:
            files["hba"] = order.hba
        self._docker.docker("cp", "-", "%s:/" % identity, data=archive(files))
        self._docker.docker("start", identity)

    def wipe(self, clone_id: str) -> None:
        """Remove everything of ours from the volume; clone_id: of the clone that is there, "" for none."""
        self._run(REMOVE, clone_id, timeout=REMOVE_SECONDS)


def volume_name_faults(name: str) -> str:
    """Return why a name can't be a volume's, "" when it can. Pure."""
    if _VOLUME.match(name):
        return ""
    return "The volume %r is no name that Docker takes: letters, digits, and after the first one also _ . -. A path can't be given." % name
