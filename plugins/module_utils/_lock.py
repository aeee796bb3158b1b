# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One writer at a time on a host: a lock that the kernel frees when its holder, and what it started, has ended."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from ._compose import Docker

DEFAULT_LOCK_DIR = "/run/lock/dghs-bd-fhir"
DEFAULT_LOCK_TIMEOUT = 600

LOCK_ARGUMENTS: dict[str, Any] = {
    "lock_dir": {"type": "path", "default": DEFAULT_LOCK_DIR},
    "lock_timeout": {"type": "int", "default": DEFAULT_LOCK_TIMEOUT},
}


class LockError(Exception):
    """The lock was not got. The text is complete: which file, who holds it since when, what to do."""


class HostLock:
    """An exclusive flock on a file, held from acquire() until release() or the end of the process.

    The descriptor can be handed to child processes (`fd`): the lock then stays held until the last of them has ended,
    also when this process is killed. So a docker command that outlives its module keeps the next run waiting.
    The file stays after release: removing it would let two processes lock two files of one name.
    """

    def __init__(self, directory: str, name: str, what: str, timeout: float) -> None:
        """name: of the thing that is locked, such as the compose project; what: shown to whoever has to wait."""
        self.path = os.path.join(directory, "%s.lock" % re.sub(r"[^A-Za-z0-9_.-]", "_", name))
        self.directory = directory
        self.what = what
        self.timeout = timeout
        self.waited = 0.0
        self._fd: Optional[int] = None

    @classmethod
    def of_project(cls, docker: Docker, params: Mapping[str, Any], what: str) -> HostLock:
        """Wait for the lock of a compose project, as LOCK_ARGUMENTS say. Raises LockError, ComposeError.

        Docker commands hold it too: one that outlives a killed module keeps the next run waiting.
        """
        lock = cls(params["lock_dir"], docker.project_name(), what, params["lock_timeout"]).acquire()
        docker.keep_fds.append(lock.fd)
        return lock

    @property
    def fd(self) -> int:
        """Descriptor that holds the lock. Raises LockError when it is not held."""
        if self._fd is None:
            raise LockError("The lock %s is not held." % self.path)
        return self._fd

    def acquire(self) -> HostLock:
        """Wait for the lock for at most `timeout` seconds. Raises LockError."""
        started = time.monotonic()
        descriptor = self._open()
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as exc:
                    if exc.errno not in (errno.EAGAIN, errno.EACCES):
                        text = "%s can't be locked: %s. Choose a local lock_dir." % (self.path, exc.strerror)
                        raise LockError(text) from None
                if time.monotonic() - started >= self.timeout:
                    raise LockError(
                        "%s has been locked for more than %g seconds: %s. Wait for it to end (that frees the lock)"
                        ", or end it, or raise lock_timeout."
                        % (self.path, self.timeout, describe(read_holder(descriptor)))
                    )
                time.sleep(min(0.2, max(0.01, self.timeout)))
            self.waited = time.monotonic() - started
            self._write(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._fd = descriptor
        return self

    def release(self) -> None:
        """Free the lock, unless a child process still holds the descriptor."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> HostLock:
        return self.acquire()

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.release()

    def _open(self) -> int:
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            info = os.lstat(self.directory)
            # /run/lock is writable for everybody: a directory or link that somebody else put there is not trusted.
            if not stat.S_ISDIR(info.st_mode) or info.st_uid not in (0, os.geteuid()):
                raise LockError(
                    "%s is not a directory of root or of the remote user. Remove it, or set lock_dir." % self.directory
                )
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise LockError(
                "The lock file %s can't be opened: %s. Use become, or set lock_dir to a directory of the remote user."
                % (self.path, exc.strerror)
            ) from None

    def _write(self, descriptor: int) -> None:
        text = json.dumps(
            {
                "pid": os.getpid(),
                "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "what": self.what,
                "argv": _argv(os.getpid()),
            }
        )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode() + b"\n", 0)


def read_holder(descriptor: int) -> dict[str, Any]:
    """Return what the holder wrote into the lock file; {} when it can't be read (it is being written)."""
    try:
        data = json.loads(os.pread(descriptor, 65536, 0).decode("utf-8", "replace"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def describe(holder: dict[str, Any]) -> str:
    """Return one phrase that names the holder: pid, since when, what for, command line, and whether it still lives."""
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return "the holder did not say who it is"
    text = "pid %d since %s, %s" % (pid, holder.get("since", "?"), holder.get("what", "?"))
    argv = _argv(pid)
    # A pid may have been given to another process by now.
    if argv and argv == holder.get("argv"):
        return text + ", command line: %s" % argv
    return text + "; that process has ended, but a docker command that it started has not"


def _argv(pid: int) -> str:
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as handle:
            return handle.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()[:300]
    except OSError:
        return ""
