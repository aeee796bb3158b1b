# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Starting a pooler's image once more, apart from everything, to see what it makes of an environment or of an ini file.

The trial has the image, the command, the user and the environment of the container that runs, and no network at all.
What the running one mounts read-only it sees too; of what it may write, only a copy, so that nothing of it can change.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import tarfile
import tempfile
import time

from dataclasses import dataclass, field
from typing import Any, Optional
from collections.abc import Mapping

from ._compose import Docker
from ._pgbouncer import PgbouncerError, environment_of

LABEL = "dghs.bd_fhir.trial"
LABEL_OWNER = LABEL + ".owner"

# Seconds to wait for a trial to listen; the image's entrypoint has to write its files before.
START_TIMEOUT = 30.0
# Where nothing can be run inside of the container, one that lives for so long counts as started.
ALIVE_SECONDS = 3.0


@dataclass(frozen=True)
class Outcome:
    """What became of a trial. texts: path -> text inside of it after the start; log: its last lines, without secrets."""

    started: bool
    texts: dict[str, str] = field(repr=False)
    log: str = ""


def process_mark(pid: str) -> str:
    """Return a text that only this run of a process has: its number and when it began; none for one that does not run."""
    try:
        with open("/proc/%d/stat" % int(pid), encoding="ascii", errors="replace") as handle:
            # Behind the name, which may hold anything, the 20th field is the start.
            return "%s:%s" % (pid, handle.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return "none"


def mount_of(mounts: list[dict[str, Any]], path: str) -> Optional[dict[str, Any]]:
    """Return the mount (of `docker container inspect`) in which a path of the container lies, None for the image's own. Pure."""
    covering = [item for item in mounts if path == item["Destination"] or path.startswith(item["Destination"].rstrip("/") + "/")]
    return max(covering, key=lambda item: len(item["Destination"])) if covering else None


def host_path(mount: Mapping[str, Any], path: str) -> str:
    """Return where a path inside of a mount lies on the host. Pure."""
    return str(mount["Source"]).rstrip("/") + path[len(str(mount["Destination"]).rstrip("/")) :]


def read_inside(docker: Docker, container: str, path: str) -> str:
    """Return the text of a file as a container sees it. Raises PgbouncerError.

    By cat where there is one: `docker cp` does not see what lies on a tmpfs.
    """
    rc, out, err = docker.docker("exec", container, "cat", "--", path, check=False)
    if rc == 0:
        return out
    rc, out, dummy = docker.docker("cp", "-L", "%s:%s" % (container, path), "-", check=False)
    if rc == 0:
        with tarfile.open(fileobj=io.BytesIO(_bytes(out))) as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.isfile() else None
                if handle is not None:
                    return handle.read().decode("utf-8", "surrogateescape")
    raise PgbouncerError("%s can't be read in the container %s: %s." % (path, container[:12], " ".join(docker.clean(err).split()).rstrip(".")))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def listens(table: str, port: int) -> bool:
    """Tell from the text of /proc/net/tcp and tcp6 whether somebody listens on a port. Pure."""
    for line in table.splitlines():
        parts = line.split()
        if len(parts) > 3 and parts[3] == "0A" and parts[1].endswith(":%04X" % port):
            return True
    return False


def scrub_log(text: str) -> str:
    """Take out what pgBouncer quotes from a line of its ini: a connection string holds a password. Pure."""
    return re.sub(r'(invalid value )".*"( for parameter)', r"\1(hidden)\2", text, flags=re.DOTALL)


def create_arguments(data: Mapping[str, Any], copied: set[str]) -> list[str]:
    """Return the options and the command of `docker create` for a trial of a container. Pure.

    data: its `docker container inspect`; copied: destinations of mounts, without a slash at the end, whose content is put there instead.
    """
    config, host = data["Config"], data.get("HostConfig") or {}
    argv = ["--network", "none", "--restart", "no", "--no-healthcheck", "--pull", "never"]
    if config.get("User"):
        argv += ["--user", config["User"]]
    if config.get("WorkingDir"):
        argv += ["--workdir", config["WorkingDir"]]
    if host.get("ReadonlyRootfs"):
        argv.append("--read-only")
    for option, key in (("--cap-add", "CapAdd"), ("--cap-drop", "CapDrop"), ("--security-opt", "SecurityOpt")):
        for value in host.get(key) or []:
            argv += [option, value]
    for item in host.get("Ulimits") or []:
        argv += ["--ulimit", "%s=%d:%d" % (item["Name"], item["Soft"], item["Hard"])]
    for target, options in sorted((host.get("Tmpfs") or {}).items()):
        argv += ["--tmpfs", "%s:%s" % (target, options) if options else target]
    for item in data.get("Mounts") or []:
        target = item["Destination"]
        if target.rstrip("/") in copied:
            continue
        if item["Type"] == "tmpfs":
            argv += ["--tmpfs", target]
        elif not item.get("RW"):
            source = item["Name"] if item["Type"] == "volume" else item["Source"]
            argv += ["--mount", "type=%s,source=%s,target=%s,readonly" % (item["Type"], source, target)]
        else:
            # A pid file, a socket or a log that the running pooler writes there must stay its own.
            argv += ["--tmpfs", "%s:mode=1777" % target]
    entrypoint = list(config.get("Entrypoint") or [])
    # Given empty, it takes that of the image away, as it is taken away in the container that runs.
    argv += ["--entrypoint", entrypoint[0] if entrypoint else ""]
    return argv + [data["Image"]] + entrypoint[1:] + list(config.get("Cmd") or [])


class Trials:
    """Trials of one container."""

    def __init__(self, docker: Docker, data: Mapping[str, Any], paths: list[str], port: int, tmpdir: str) -> None:
        """data: `docker container inspect` of the container that runs; paths: the files to be read afterwards; port: where it listens."""
        self._docker = docker
        self._data = data
        self._paths = paths
        self._port = port
        self._tmpdir = tmpdir
        labels = data["Config"].get("Labels") or {}
        self._label = "%s=%s/%s" % (LABEL, labels.get("com.docker.compose.project", ""), labels.get("com.docker.compose.service", ""))
        self._remove_left_over()

    def _remove_left_over(self) -> None:
        """Take away what a killed run has left, and not what another one, in check mode say, has under way."""
        template = '{{.ID}} {{.Label "%s"}}' % LABEL_OWNER
        out = self._docker.docker("ps", "-a", "--no-trunc", "--filter", "label=" + self._label, "--format", template)[1]
        for line in out.splitlines():
            container, dummy, owner = line.partition(" ")
            if owner != process_mark(owner.partition(":")[0]):
                self._docker.docker("rm", "--force", "--volumes", container)

    def _copies(self, files: Mapping[str, str]) -> dict[str, str]:
        """Return directory -> tar archive to be unpacked there: the mounts in which the files lie, with the files' new texts."""
        wanted: dict[str, dict[str, str]] = {}
        # A mount that can be written and holds what pgBouncer reads is copied even when none of its files differs.
        for path in {*files, *self._paths}:
            mount = mount_of(self._data.get("Mounts") or [], path)
            if mount is not None and (path in files or (mount.get("RW") and mount["Type"] != "tmpfs")):
                own = wanted.setdefault(mount["Destination"].rstrip("/"), {})
                own.update({path: files[path]} if path in files else {})
        archives = {}
        for target, own in wanted.items():
            out = self._docker.docker("cp", "-L", "%s:%s" % (self._data["Id"], target), "-")[1]
            archives[target] = _text(replaced(_bytes(out), posixpath.dirname(target), own))
        return archives

    def run(self, environment: Mapping[str, str], files: Optional[Mapping[str, str]] = None) -> Outcome:
        """Start once with this over the environment of the container, and with these texts in place of the files'.

        Raises PgbouncerError and ComposeError for a trial that could not be made at all.
        """
        copies = self._copies(files or {})
        merged = {**environment_of(self._data["Config"]), **environment}
        argv = ["create", "--label", self._label, "--label", "%s=%s" % (LABEL_OWNER, process_mark(str(os.getpid())))]
        env_file = self._write_environment(merged)
        try:
            created = self._docker.docker(*argv, "--env-file", env_file, *create_arguments(self._data, set(copies)))[1]
        finally:
            os.unlink(env_file)
        container = created.strip().splitlines()[-1]
        try:
            for target, archive in copies.items():
                self._docker.docker("cp", "-", "%s:%s" % (container, posixpath.dirname(target)), data=archive)
            self._docker.docker("start", container)
            started = self._wait(container)
            texts = {}
            for path in self._paths:
                try:
                    texts[path] = read_inside(self._docker, container, path)
                except PgbouncerError:
                    # It never came to write the file.
                    texts[path] = ""
            log = "" if started else self._log(container, merged)
            return Outcome(started, texts, log)
        finally:
            self._docker.docker("rm", "--force", "--volumes", container, check=False)

    def _log(self, container: str, environment: Mapping[str, str]) -> str:
        text = scrub_log(self._docker.logs_tail(container, 6))
        shown = {"true", "false", "yes", "no"}
        for value in sorted((item for item in environment.values() if len(item) > 3 and item not in shown), key=len, reverse=True):
            if not value.startswith("/") and not value.isdigit():
                text = text.replace(value, "********")
        return " | ".join(line.strip() for line in text.splitlines() if line.strip())

    def _write_environment(self, environment: Mapping[str, str]) -> str:
        for name, value in environment.items():
            if "\n" in value:
                raise PgbouncerError(
                    "The variable %s of the container %s holds a line break, which can't be handed to a trial of its image."
                    " Set trial to false, and give environment_names." % (name, self._data["Name"].lstrip("/"))
                )
        descriptor, path = tempfile.mkstemp(prefix="trial-", dir=self._tmpdir)  # 0600
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(_bytes("".join("%s=%s\n" % pair for pair in environment.items())))
        return path

    def _wait(self, container: str) -> bool:
        """Wait until the trial listens or has ended; tell whether it listens."""
        begin = time.monotonic()
        while time.monotonic() - begin < START_TIMEOUT:
            rc, out, err = self._docker.docker("exec", container, "cat", "/proc/net/tcp", "/proc/net/tcp6", check=False)
            if listens(out, self._port):
                return True
            state = self._docker.inspect([container])
            if not state or state[0]["State"]["Status"] != "running":
                return False
            if rc in (126, 127) and "cat" in err and time.monotonic() - begin > ALIVE_SECONDS:
                return True
            time.sleep(0.1)
        return False


def replaced(archive: bytes, directory: str, files: Mapping[str, str]) -> bytes:
    """Return a tar archive whose members lie below directory, with other texts for some of them, and nothing but files and folders.

    Owner and mode of each member stay. Raises PgbouncerError naming a file that is not in the archive. Pure.
    """
    left = dict(files)
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source:
            path = posixpath.join(directory, member.name).rstrip("/")
            if member.isfile():
                handle = source.extractfile(member)
                content = _bytes(left.pop(path)) if path in left else handle.read() if handle else b""
                member.size = len(content)
                target.addfile(member, io.BytesIO(content))
            elif member.isdir() or member.issym():
                target.addfile(member)
    if left:
        raise PgbouncerError("%s is not an ordinary file in its mount, so that a change to it can't be tried." % sorted(left)[0])
    return out.getvalue()
