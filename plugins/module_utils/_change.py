# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An operator's change: a lease on one deployment, and a journal of what was done to it.

A lock (_lock.py) ends with its process. A change is many modules, each in a process of its own, so it is a lease: taken once,
renewed by each step, over when it has not been renewed for its time to live. The lease carries a number that only grows (a
fencing token). Who was superseded meanwhile learns it from that number at the next step, before that step changes anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import threading
import time
import uuid

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

from ._compose import ComposeError, Docker
from ._files import replace_file, sync_directory

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

STATE_DIR = "/var/lib/dghs-bd-fhir"
DEFAULT_TTL = 900

CHANGE_ARGUMENTS: dict[str, Any] = {
    "change_token": {"type": "str", "default": "", "no_log": False},
}

LOCK_TIMEOUT = 30.0  # seconds; what is done under the lock takes milliseconds
HEARTBEAT = 20.0  # seconds after which the lease is renewed while one step goes on; the shortest time to live is three of them
MAX_VALUE = 4000  # characters of JSON that `before` and `after` may each take in the journal
TAIL = 1 << 18

RECORD_KEYS = (
    "at", "seq", "change", "token", "kind", "verb", "why", "owner", "module", "action", "object", "before", "after",
    "backup_id", "result", "message",
)  # fmt: skip


class ChangeError(Exception):
    """The change can't be opened, gone on with or recorded. The text is complete: who holds it, what to do."""


class LeaseUnreadable(ChangeError):
    """There is a lease, but what stands in it is none."""


# --- time ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Now:
    """One moment by two clocks: the wall's, which may be set, and that of this boot, which only goes forward."""

    wall: float
    boot_id: str
    seconds: float

    @classmethod
    def read(cls) -> Now:
        """Return the moment of the call."""
        return cls(time.time(), _boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME))

    @property
    def text(self) -> str:
        """The wall clock's time, as ISO 8601 in UTC."""
        return iso(self.wall)


def iso(seconds: float) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as handle:
            return handle.read().strip()
    except OSError:
        return ""


def age_of(lease: Mapping[str, Any], now: Now) -> float:
    """Return the seconds since a lease was renewed last, however the wall clock was set meanwhile. Pure."""
    renewed = lease["renewed"]
    if renewed["boot_id"] == now.boot_id:
        return max(0.0, now.seconds - float(renewed["seconds"]))
    # Before this boot. If the clock went back over the boot, what the host has been up for is still a lower bound,
    # so that a lease never outlives a reboot by more than its time to live.
    return max(now.wall - float(renewed["wall"]), now.seconds)


def expired(lease: Mapping[str, Any], now: Now) -> bool:
    """Tell whether a lease was not renewed for its time to live. Pure."""
    return age_of(lease, now) > float(lease["ttl"])


def live(lease: Optional[Mapping[str, Any]], now: Now) -> bool:
    """Tell whether somebody holds the deployment. Pure."""
    return lease is not None and lease["state"] == "open" and not expired(lease, now)


def describe(lease: Mapping[str, Any], now: Now) -> str:
    """Return one phrase that names the holder of a lease. Pure."""
    controller = lease.get("controller") or {}
    where = ""
    if controller.get("pid"):
        where = ", process %s on %s" % (controller["pid"], controller.get("hostname") or "an unnamed controller")
    left = float(lease["ttl"]) - age_of(lease, now)
    return "%s%s, verb %s%s, since %s; renewed %s ago, %s" % (
        lease["owner"],
        where,
        lease["verb"],
        " (%s)" % lease["why"] if lease["why"] else "",
        lease["opened_at"],
        duration(age_of(lease, now)),
        "ends in %s unless it is renewed" % duration(left) if left >= 0 else "expired %s ago" % duration(-left),
    )


def duration(seconds: float) -> str:
    """Return seconds in a form that is read at a glance. Pure."""
    whole = int(seconds)
    if whole < 60:
        return "%d s" % whole
    if whole < 3600:
        return "%d min %d s" % (whole // 60, whole % 60)
    return "%d h %d min" % (whole // 3600, whole % 3600 // 60)


# --- token ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Token:
    """What a play carries from module to module: the fencing number, the change, and where its lease lies."""

    number: int
    change: str
    directory: str

    def __str__(self) -> str:
        return "%d:%s:%s" % (self.number, self.change, self.directory)

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token. Raises ChangeError when it is none."""
        match = re.match(r"([1-9][0-9]*):([0-9a-f-]{36}):(/.+)\Z", text)
        if not match:
            raise ChangeError(
                "Nothing was changed: change_token is %r, which no change has returned. Hand over the token that the role"
                " change_record sets as change_record_token, or leave it empty." % text
            )
        return cls(int(match.group(1)), match.group(2), match.group(3))


# --- journal -------------------------------------------------------------------------------------------------------


@dataclass
class Journal:
    """What was read of a journal."""

    records: list[dict[str, Any]] = field(default_factory=list)
    # Lines that are no record: {line (from 1), offset, bytes, cut}. cut: a write that a kill or a power cut broke off.
    broken: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    ends_with_newline: bool = True

    @property
    def tail_broken(self) -> Optional[dict[str, Any]]:
        """The broken line after which nothing was written yet."""
        last = self.broken[-1] if self.broken else None
        return last if last and last["offset"] + last["bytes"] == self.size else None


def parse_journal(data: bytes, offset: int = 0) -> Journal:
    """Read the bytes of a journal, or of its end from offset on; what is broken is kept apart. Pure."""
    journal = Journal(size=offset + len(data), ends_with_newline=not data or data.endswith(b"\n"))
    position = offset
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        length = len(line) + (0 if number == len(lines) else 1)
        if line:
            record = _record_of(line)
            if record is not None:
                journal.records.append(record)
                # The record after a torn line says so: nobody has altered the journal there.
                damage = record.get("damage")
                if isinstance(damage, dict):
                    for item in journal.broken:
                        item["cut"] = item["cut"] or item["offset"] == damage.get("offset")
            else:
                journal.broken.append({"line": number, "offset": position, "bytes": length, "cut": False})
        position += length
    if journal.tail_broken:
        journal.tail_broken["cut"] = True
    return journal


def _record_of(line: bytes) -> Optional[dict[str, Any]]:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("seq"), int) or not isinstance(record.get("kind"), str):
        return None
    return record


def bounded(value: Any) -> Any:
    """Return a value that JSON can carry, cut when it is long. Pure."""
    text = json.dumps(value, default=str, sort_keys=True)
    if len(text) <= MAX_VALUE:
        return json.loads(text)
    return "%s… (%d characters)" % (text[:MAX_VALUE], len(text))


# --- the directory of one deployment -------------------------------------------------------------------------------


def directory_of(project: str, state_dir: Optional[str] = None) -> str:
    """Return where the lease and the journal of a compose project lie."""
    return os.path.join(state_dir or STATE_DIR, re.sub(r"[^A-Za-z0-9_.-]", "_", project))


def project_of(module: AnsibleModule) -> Optional[str]:
    """Return the name of the compose project of a module whose spec includes COMPOSE_ARGUMENTS; None where there is none yet.

    Raises ComposeError when there is one whose name can't be told, such as while Docker does not answer.
    """
    if module.params["project_name"]:
        return str(module.params["project_name"])
    docker = Docker.from_module(module)
    if not os.path.isdir(docker.project_dir) or not module.get_bin_path("docker") or not docker.files_default():
        return None
    return docker.project_name()


class Store:
    """lease.json and journal.jsonl of one deployment. Every method raises ChangeError."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.lease_path = os.path.join(directory, "lease.json")
        self.journal_path = os.path.join(directory, "journal.jsonl")
        self.lock_path = os.path.join(directory, "journal.lock")

    # -- reading

    def lease(self) -> Optional[dict[str, Any]]:
        """Return the lease, open or closed, None when there never was one."""
        try:
            with open(self.lease_path, encoding="utf-8") as handle:
                lease = json.load(handle)
            if lease["state"] not in ("open", "closed") or not isinstance(lease["token"], int):
                raise ValueError("unknown state or token")
            age_of(lease, Now(0.0, "", 0.0))
            describe(lease, Now(0.0, "", 0.0))
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._failed("read", self.lease_path, exc) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LeaseUnreadable(
                "The lease %s can't be understood, so it can't be told whether somebody is changing this deployment. Nothing was"
                " changed. See that no play runs on it, then move the file away (mv %s %s.broken): the journal still knows the"
                " last token." % (self.lease_path, self.lease_path, self.lease_path)
            ) from None
        return dict(lease)

    def journal(self) -> Journal:
        """Return the whole journal; an append that is under way is waited for."""
        with self._shared():
            return self.journal_unlocked()

    def journal_unlocked(self) -> Journal:
        """Return the whole journal; for use inside of locked()."""
        return parse_journal(self._bytes())

    def _bytes(self) -> bytes:
        try:
            with open(self.journal_path, "rb") as handle:
                return handle.read()
        except FileNotFoundError:
            return b""
        except OSError as exc:
            raise self._failed("read", self.journal_path, exc) from None

    @contextlib.contextmanager
    def _shared(self) -> Iterator[None]:
        # Reading makes nothing: no file, no directory.
        try:
            descriptor = os.open(self.lock_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            yield
            return
        except OSError as exc:
            raise self._failed("read", self.lock_path, exc) from None
        try:
            self._flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    # -- writing, only inside of locked()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who reads, decides and writes, for a moment."""
        self._make_directory()
        try:
            descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise self._failed("opened", self.lock_path, exc) from None
        try:
            self._flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _flock(self, descriptor: int, kind: int) -> None:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                return
            except OSError as exc:
                if exc.errno not in (errno.EAGAIN, errno.EACCES):
                    raise self._failed("locked", self.lock_path, exc) from None
            if time.monotonic() > deadline:
                raise ChangeError(
                    "Nothing was changed: %s has been locked for %g s by another process, which should take milliseconds. Find it"
                    " with `fuser %s`; a stopped process or a disk that hangs is likely." % (self.lock_path, LOCK_TIMEOUT, self.lock_path)
                )
            time.sleep(0.02)

    def _make_directory(self) -> None:
        try:
            for path in (os.path.dirname(self.directory), self.directory):
                if not os.path.isdir(path):
                    os.makedirs(path, mode=0o700, exist_ok=True)
                    sync_directory(os.path.dirname(path))
            info = os.lstat(self.directory)
        except OSError as exc:
            raise self._failed("made", self.directory, exc) from None
        if not stat.S_ISDIR(info.st_mode) or info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o022:
            raise ChangeError(
                "Nothing was changed: %s is not a directory that only root or the remote user can write to, so that a lease in it"
                " proves nothing. Correct its owner and mode (0700)." % self.directory
            )

    def write_lease(self, lease: Mapping[str, Any]) -> None:
        """Replace the lease as a whole."""
        try:
            replace_file(self.lease_path, json.dumps(lease, indent=2, sort_keys=True) + "\n")
        except OSError as exc:
            raise self._failed("written", self.lease_path, exc) from None

    def tail(self) -> Journal:
        """Return the end of the journal, with at least one record if the journal has one."""
        size = 0
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(self.journal_path).st_size
        if size > TAIL:
            with open(self.journal_path, "rb") as handle:
                handle.seek(size - TAIL)
                data = handle.read()
            start = data.find(b"\n") + 1
            journal = parse_journal(data[start:], size - TAIL + start)
            if start and journal.records:
                return journal
        return self.journal_unlocked()

    def append(self, records: list[dict[str, Any]], now: Now) -> None:
        """Add records, all or none, and make sure that a power cut does not take them away."""
        try:
            self._append(records, now)
        except OSError as exc:
            raise self._failed("written", self.journal_path, exc) from None

    def _append(self, records: list[dict[str, Any]], now: Now) -> None:
        tail = self.tail()
        seq = tail.records[-1]["seq"] if tail.records else 0
        lines: list[str] = []
        for number, values in enumerate(records, 1):
            record: dict[str, Any] = dict.fromkeys(RECORD_KEYS, "")
            record.update(values, at=now.text, seq=seq + number)
            if not lines and tail.tail_broken:
                record["damage"] = {key: tail.tail_broken[key] for key in ("offset", "bytes")}
            lines.append(json.dumps(record) + "\n")
        # What a kill has cut off stays; ours starts on a line of its own.
        data = ("" if tail.ends_with_newline else "\n").encode() + "".join(lines).encode("ascii")
        descriptor = os.open(self.journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
                os.fsync(descriptor)
            except OSError:
                # A disk that is full has taken a part. Only our own bytes go, and only while nobody else can write.
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        if not before:
            sync_directory(self.directory)

    def _failed(self, what: str, path: str, exc: OSError) -> ChangeError:
        hint = "Use become: the record of changes belongs to root."
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Make room on that file system (df %s): without a record nothing is changed." % self.directory
        elif exc.errno == errno.EROFS:
            hint = "The file system is read-only, mostly after an error of the disk (dmesg). Without a record nothing is changed."
        elif exc.errno not in (errno.EACCES, errno.EPERM):
            hint = "Look at the disk and at %s." % self.directory
        return ChangeError("Stopped before the next change: %s can't be %s: %s. %s" % (path, what, exc.strerror or exc, hint))


# --- taking and giving back ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """Who wants the deployment, what for, and from whom it may be taken."""

    verb: str
    why: str
    owner: str
    controller: dict[str, Any]
    ttl: int = DEFAULT_TTL
    force_owner: str = ""
    dead: str = ""  # id of the change whose ansible-playbook is proven to have ended


@dataclass(frozen=True)
class Taken:
    """An attempt: token is None when somebody else holds the deployment, whose lease it then is."""

    token: Optional[Token]
    lease: dict[str, Any]
    reason: str = ""  # why it was taken from another: expired, dead, forced
    previous: Optional[dict[str, Any]] = None


def why_taken(lease: Mapping[str, Any], wish: Wish, now: Now) -> Optional[str]:
    """Return why an open lease may be taken over: expired, dead, forced; None when it may not. Pure."""
    if expired(lease, now):
        return "expired"
    if wish.dead and wish.dead == lease["id"]:
        return "dead"
    if wish.force_owner and wish.force_owner == lease["owner"]:
        return "forced"
    return None


def take(store: Store, wish: Wish) -> Taken:
    """Take the deployment if it is free, or may be taken over. Raises ChangeError."""
    with store.locked():
        now = Now.read()
        lease = store.lease()
        reason: Optional[str] = ""
        if lease and lease["state"] == "open":
            reason = why_taken(lease, wish, now)
            if reason is None:
                return Taken(None, lease)
        # A lost lease must not set the numbers back: then a play of long ago could take itself for the present one.
        records = (store.tail() if lease else store.journal_unlocked()).records
        known = [item["token"] for item in records if isinstance(item.get("token"), int)]
        token = Token(max([lease["token"] if lease else 0, *known]) + 1, str(uuid.uuid4()), store.directory)
        taken_from = None
        if lease and reason:
            taken_from = {key: lease[key] for key in ("id", "token", "owner", "verb", "opened_at", "renewed_at")}
            # First, so that the last sign of life of the other one is kept even if the next line is never reached.
            record = {
                "change": token.change,
                "token": token.number,
                "kind": "taken_over",
                "verb": wish.verb,
                "why": wish.why,
                "owner": wish.owner,
                "object": lease["id"],
                "before": taken_from,
                "message": reason,
            }
            store.append([record], now)
        new = {
            "state": "open",
            "token": token.number,
            "id": token.change,
            "verb": wish.verb,
            "why": wish.why,
            "owner": wish.owner,
            "controller": wish.controller,
            "ttl": wish.ttl,
            "opened_at": now.text,
            "recorded": False,
            "taken_from": dict(taken_from, reason=reason) if taken_from else None,
        }
        store.write_lease(renewed(new, now))
        return Taken(token, new, reason or "", lease if reason else None)


def renewed(lease: dict[str, Any], now: Now) -> dict[str, Any]:
    """Put the moment of the renewal into a lease, and return it."""
    lease["renewed_at"] = now.text
    lease["renewed"] = {"wall": now.wall, "boot_id": now.boot_id, "seconds": now.seconds}
    return lease


def own_lease(store: Store, token: Token, now: Now) -> dict[str, Any]:
    """Return the lease if it is still that of the token. Raises ChangeError that says what has become of it."""
    lease = store.lease()
    if lease is None:
        raise ChangeError(
            "Stopped before the next change: the lease %s of this change is gone, so that others may be changing this deployment"
            " too. Somebody has removed it. See that no other play runs, then run the verb again." % store.lease_path
        )
    if lease["id"] == token.change and lease["token"] == token.number:
        if lease["state"] == "closed":
            raise ChangeError(
                "Stopped before the next change: this change (token %d) was closed at %s as %s. Open a new one."
                % (token.number, lease.get("closed_at"), lease.get("result"))
            )
        return lease
    taken = lease.get("taken_from") or {}
    how = " because it was %s" % taken["reason"] if taken.get("id") == token.change else ""
    state = "goes on there" if lease["state"] == "open" else "ended at %s as %s" % (lease.get("closed_at"), lease.get("result"))
    raise ChangeError(
        "Stopped before the next change: this change (token %d) was superseded. %s took the deployment over at %s (token %d, verb"
        " %s)%s, and %s. This run changes nothing more; look at what stands with the verb show_journal, then run it again."
        % (token.number, lease["owner"], lease["opened_at"], lease["token"], lease["verb"], how, state)
    )


def record_of(lease: Mapping[str, Any], kind: str, **values: Any) -> dict[str, Any]:
    """Return a journal record of a change. Pure."""
    own = {"change": lease["id"], "token": lease["token"], "verb": lease["verb"], "why": lease["why"], "owner": lease["owner"]}
    return dict(own, kind=kind, **values)


def is_recorded(store: Store, lease: Mapping[str, Any]) -> bool:
    """Tell whether a change has its first record in the journal; for use inside of locked()."""
    return bool(lease["recorded"]) or any(
        item.get("change") == lease["id"] and item["kind"] == "opened" for item in store.journal_unlocked().records
    )


def write_down(store: Store, token: Token, kind: str, **values: Any) -> None:
    """Renew the lease of a token and add a record; the first one also opens the change in the journal. Raises ChangeError."""
    with store.locked():
        now = Now.read()
        lease = renewed(own_lease(store, token, now), now)
        records = [record_of(lease, kind, **values)]
        known = is_recorded(store, lease)
        if not known:
            records.insert(0, record_of(lease, "opened", after={"controller": lease["controller"], "opened_at": lease["opened_at"]}))
        # The journal comes last: where the disk is full, it must not tell of a step that the lease then stops.
        store.write_lease(lease)
        store.append(records, now)
        if not known:
            with contextlib.suppress(ChangeError):
                # Saves the search the next time, no more.
                store.write_lease(dict(lease, recorded=True))


def refuse_alone(store: Store) -> None:
    """Raise ChangeError when somebody holds the deployment, for what works without a token."""
    lease, now = store.lease(), Now.read()
    if lease and live(lease, now):
        raise ChangeError(
            "Nothing was changed: a change is open on this deployment, and this module was called without its token: %s. Wait for"
            " it to end. Inside of that change, hand the token over: module_defaults of group/dghs.bd_fhir.changing with"
            " change_token." % describe(lease, now)
        )


def write_down_alone(store: Store, kind: str, **values: Any) -> None:
    """Add a record that belongs to no change. Raises ChangeError."""
    with store.locked():
        refuse_alone(store)
        store.append([dict(values, kind=kind, token=0)], Now.read())


def renew(store: Store, token: Token) -> dict[str, Any]:
    """Renew the lease of a token, and return it. Raises ChangeError."""
    with store.locked():
        now = Now.read()
        lease = renewed(own_lease(store, token, now), now)
        store.write_lease(lease)
        return lease


def close(store: Store, token: Token, result: str, message: str, backup_id: str = "") -> Optional[dict[str, Any]]:
    """Give the deployment back; return the lease as it is then, None when there is none any more. Raises ChangeError."""
    if not os.path.isdir(store.directory):
        return None
    with store.locked():
        now = Now.read()
        lease = store.lease()
        if lease is None:
            return None
        if lease["state"] == "closed" and lease["id"] == token.change:
            return lease
        lease = own_lease(store, token, now)
        if is_recorded(store, lease):
            store.append([record_of(lease, "closed", result=result, message=message, backup_id=backup_id)], now)
        lease = dict(lease, state="closed", result=result, message=message, closed_at=now.text)
        store.write_lease(lease)
        return lease


def held_text(lease: Mapping[str, Any], now: Now, waited: float = 0) -> str:
    """Return the refusal that names who holds a deployment. Pure."""
    return (
        "Nothing was changed: %sanother change is open on this deployment: %s. Wait for it to end (change_record_wait), talk to"
        " its owner, or, if you know that it is dead, take it over by name with change_record_force_owner=%s; it is then stopped"
        " at its next step." % ("after waiting %s " % duration(waited) if waited else "", describe(lease, now), json.dumps(lease["owner"]))
    )


# --- what each changing module does --------------------------------------------------------------------------------


class ChangeGuard:
    """The change under which a module works. verify() before it changes anything, step() right before each change.

    With a token, the module belongs to that change. Without one it is used alone: it must then only not get into the change of
    somebody else, and what it does is recorded as nobody's.
    """

    def __init__(self, module: AnsibleModule, store: Optional[Store], token: Optional[Token]) -> None:
        self._module = module
        self._store = store
        self._token = token

    @classmethod
    def from_module(cls, module: AnsibleModule, project: str) -> ChangeGuard:
        """Build from a module whose spec includes CHANGE_ARGUMENTS. Raises ChangeError for a token that is none.

        project: name of the compose project. Empty: the token tells it; without a token nothing is checked or recorded.
        """
        text = module.params["change_token"]
        if not text:
            return cls(module, Store(directory_of(project)) if project else None, None)
        token = Token.parse(text)
        if project and os.path.basename(token.directory) != os.path.basename(directory_of(project)):
            raise ChangeError(
                "Nothing was changed: change_token is of a change on the project %s, and this is the project %s."
                % (os.path.basename(token.directory), project)
            )
        return cls(module, Store(token.directory), token)

    @classmethod
    def for_docker(cls, module: AnsibleModule, docker: Docker) -> ChangeGuard:
        """The same, for a module that has a Docker. Raises ChangeError.

        Where today's files can't be read, as while a killed run left them torn, the token tells the project; without one, its
        name is taken to be the directory's, as Compose itself would.
        """
        try:
            project = docker.project_name()
        except ComposeError:
            project = "" if module.params["change_token"] else os.path.basename(docker.project_dir)
        return cls.from_module(module, project)

    def verify(self) -> None:
        """Make sure that this module may change the deployment now. Raises ChangeError."""
        if self._store is None or self._module.check_mode:
            return
        if self._token:
            renew(self._store, self._token)
        else:
            refuse_alone(self._store)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease now and then meanwhile: a step of hours is none of a play that has died.

        Who has lost the lease all the same is told by the next verify() or step(), as ever.
        """
        store, token = self._store, self._token
        if store is None or token is None or self._module.check_mode:
            yield
            return
        over = threading.Event()

        def renew_it() -> None:
            while not over.wait(HEARTBEAT):
                # A disk that is full for a moment must not end it; of a lease that is lost each try says so again.
                with contextlib.suppress(ChangeError, OSError):
                    renew(store, token)

        # It ends with the module, however that ends.
        thread = threading.Thread(target=renew_it, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def step(self, action: str, obj: str, before: Any = None, after: Any = None) -> None:
        """Record one change right before it is made. before and after must hold no secret. Raises ChangeError."""
        if self._store is None or self._module.check_mode:
            return
        # Not at the top: the audit job on a host uses this file too, and has no Ansible.
        from ansible.module_utils.common.parameters import remove_values

        hidden = self._module.no_log_values
        values = {
            "module": str(self._module._name).rpartition(".")[2],
            "action": action,
            "object": remove_values(obj, hidden),
            "before": bounded(remove_values(before, hidden)),
            "after": bounded(remove_values(after, hidden)),
        }
        if self._token:
            write_down(self._store, self._token, "step", **values)
            return
        write_down_alone(self._store, "step", **values)


# --- reading it all ------------------------------------------------------------------------------------------------


def grouped(records: list[dict[str, Any]], lease: Optional[Mapping[str, Any]], now: Now) -> list[dict[str, Any]]:
    """Return the changes of a journal in the order in which they began, each with its steps. Pure.

    What was done without a change is a group of its own, as long as nothing else comes between.
    """
    groups: list[dict[str, Any]] = []
    by_id: dict[str, dict[str, Any]] = {}
    previous = None
    for record in records:
        name = str(record.get("change") or "")
        group = by_id.get(name) if name else groups[-1] if previous == "" else None
        previous = name
        if group is None:
            group = {key: record.get(key, "") for key in ("change", "token", "verb", "why", "owner")}
            group.update(opened_at=record.get("at", ""), ended_at="", state="" if name else "alone", message="", backup_id="", steps=[])
            groups.append(group)
            by_id[name] = group
        group["backup_id"] = record.get("backup_id") or group["backup_id"]
        if record["kind"] == "opened":
            after = record.get("after")
            if isinstance(after, dict) and after.get("opened_at"):
                group["opened_at"] = after["opened_at"]
        elif record["kind"] == "closed":
            group.update(state=record.get("result") or "closed", ended_at=record.get("at", ""), message=record.get("message", ""))
        else:
            keys = ("at", "kind", "module", "action", "object", "before", "after", "backup_id", "message")
            group["steps"].append({key: record.get(key, "") for key in keys})
        if record["kind"] == "taken_over" and record.get("object") in by_id:
            loser = by_id[record["object"]]
            if not loser["state"]:
                loser.update(state="taken_over", ended_at=record.get("at", ""), message="%s by %s" % (record.get("message"), record.get("owner")))
    for group in groups:
        if not group["state"]:
            mine = lease is not None and lease["id"] == group["change"] and lease["state"] == "open"
            group["state"] = ("open" if live(lease, now) else "expired") if mine else "unknown"
    return groups
