#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_upstream
short_description: Point a running nginx from one upstream server to another, and take it back
version_added: 1.0.0
author: "The dghs.bd_fhir developers (@dghs-bd)"
description:
  - Edits the configuration of an nginx that is a service of a compose project, so that it passes its requests to O(target) instead
    of O(original). The edit is tested with C(nginx -t) and loaded with C(nginx -s reload). The container is never restarted or recreated,
    and requests in flight end in the old workers.
  - The files are found by asking the running nginx (C(nginx -T)), and mapped to the host through the bind mounts of its container.
    They are written in place, since a single-file bind mount never sees a file that was put in place by a rename.
  - C(proxy_pass) to O(original) without a URI part gets a variable and O(resolver), so that a target that comes back under another address
    is found within O(resolver_valid) seconds, and nginx starts without it too.
    Where a variable would change the meaning, only the name is replaced, and a finding says so.
  - When C(nginx -t) does not accept the result, or no worker takes it over, the old bytes are put back and the module fails with what
    nginx answered.
  - O(state=absent) takes back the edit and nothing else. If the owner did not touch the files meanwhile, they have the same bytes as before.
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.lock
  - dghs.bd_fhir.change
  - dghs.bd_fhir.attributes
attributes:
  check_mode:
    support: full
    details:
      - Shows every edit and writes nothing, so that C(nginx -t) is run on the present configuration only.
      - What a real run would refuse is in RV(findings), and does not fail the task.
  diff_mode:
    support: full
    details:
      - Shows the directives that change and not the whole file, which may hold secrets.
  idempotent:
    support: full
options:
  service:
    description:
      - Name of the service that runs nginx.
    type: str
    default: nginx
  original:
    description:
      - The server that the owner's configuration names, as C(host) or C(host:port). Without a port, port 80 is meant.
    type: str
    required: true
  target:
    description:
      - The server that nginx shall pass requests to instead, as C(host) or C(host:port). It has to speak HTTP.
    type: str
    required: true
  resolver:
    description:
      - Address of the name server that nginx asks for O(target) while it runs. The default is the one that Docker has in every container.
      - A C(resolver) of the owner that is the same and has C(valid=) is used as it is.
      - With an empty string, only the name is replaced. nginx then resolves it once, at each load.
    type: str
    default: 127.0.0.11
  resolver_valid:
    description:
      - Seconds for which nginx keeps an answer of O(resolver). Docker's own value is 600.
    type: int
    default: 5
  state:
    description:
      - Whether nginx is pointed to O(target), or to O(original) again.
      - To change to another target, take back the old one first.
    type: str
    choices:
      - present
      - absent
    default: present
  reload_timeout:
    description:
      - Seconds within which new workers have to serve after the reload.
    type: int
    default: 30
notes:
  - Has to run on the Docker host itself, as a user who may write nginx's files and see its processes in C(/proc). Normally that is root.
  - The bytes from before the first edit are kept in C(compose.d/nginx-upstream) in O(project_dir), until O(state=absent) has done its work.
    During a change the bytes before and after are kept there too, from which the next run recovers if this one is killed.
  - "Workers that are older than the last change of a file that names O(original) or O(target) do not know it. Then nginx is reloaded, and
    the module reports a change, also when the file itself is as wanted."
seealso:
  - module: dghs.bd_fhir.compose_rollout
  - module: dghs.bd_fhir.balance_info
"""

EXAMPLES = r"""
- name: Show what would be edited
  dghs.bd_fhir.nginx_upstream:
    project_dir: /opt/bd-fhir-national
    original: hapi:8080
    target: hapi-balancer:8080
  check_mode: true
  diff: true
  register: plan

- name: Point nginx to the balancer
  dghs.bd_fhir.nginx_upstream:
    project_dir: /opt/bd-fhir-national
    original: hapi:8080
    target: hapi-balancer:8080

- name: Take it back
  dghs.bd_fhir.nginx_upstream:
    project_dir: /opt/bd-fhir-national
    original: hapi:8080
    target: hapi-balancer:8080
    state: absent
"""

RETURN = r"""
files:
  description: The files that were edited, or would be in check mode.
  returned: always
  type: list
  elements: dict
  contains:
    container_path:
      description: Path in the container. Empty when nginx could not tell its files and the kept bytes told them.
      type: str
      sample: /etc/nginx/nginx.conf
    host_path:
      description: Path on the host. Empty when the file is not on a bind mount.
      type: str
      sample: /opt/bd-fhir-national/nginx/nginx.conf
    edits:
      description: The directives that change, with the number of the line in the file as it was.
      type: list
      elements: dict
      contains:
        line:
          description: Number of the line, from 1.
          type: int
        before:
          description: What stood there.
          type: str
        after:
          description: What stands there now.
          type: str
      sample:
        - line: 37
          before: proxy_pass http://hapi:8080;
          after: set $bd_fhir_upstream hapi-balancer; resolver 127.0.0.11 valid=5s; proxy_pass http://$bd_fhir_upstream:8080;
reloaded:
  description: Whether nginx was reloaded and new workers were seen to serve. In check mode, whether it would be.
  returned: always
  type: bool
  sample: true
recovered:
  description: Files on the host in which a write of an earlier run had been cut off, or had not been accepted, and that were put back first.
  returned: always
  type: list
  elements: str
  sample: []
backup:
  description: Where the bytes from before the first edit are kept afterwards, one file for each file that was edited.
  returned: always
  type: list
  elements: str
  sample:
    - /opt/bd-fhir-national/compose.d/nginx-upstream/nginx~1nginx.conf.orig
findings:
  description:
    - What is not as it should be.
    - C(id) is one of V(deployment_missing), V(nginx_not_running), V(config_refused), V(upstream_not_found), V(not_understood),
      V(not_on_bind_mount), V(stale_mount), V(target_missing) (severity V(error); V(target_missing) is a V(warning) in check mode and when
      nginx is pointed there already), V(static_upstream), V(other_protocol), V(named_elsewhere), V(interrupted_write)
      (severity V(warning)), V(reload_due) (severity V(info)).
    - A real run fails on severity V(error), before the first change.
  returned: always
  type: list
  elements: dict
  sample:
    - id: static_upstream
      severity: warning
      object: /etc/nginx/nginx.conf:41
      expected: a name that nginx resolves again every few seconds
      found: "a name that nginx resolves once at load: with a variable nginx would no longer replace the location by the URI part"
      hint: When hapi-balancer:8080 comes back under another address, nginx has to be reloaded (`nginx -s reload`) before it finds it.
"""

import os
import re
import time

from dataclasses import dataclass
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _nginx
from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Container, Docker, last_lines
from ..module_utils._findings import failed_on, finding, summary
from ..module_utils._lock import LOCK_ARGUMENTS, HostLock, LockError
from ..module_utils._nginx import NginxError

POLL = 0.1  # seconds between two looks at the processes
# A file's time of change and a process' time of start are both good to about 10 ms.
CLOCK_MARGIN = 0.1


@dataclass(frozen=True)
class Instance:
    """One running container of the service."""

    container: Container
    pid: int  # of its first process, on the host
    command: list[str]  # how its nginx is called
    networks: list[str]  # ids


@dataclass(frozen=True)
class Change:
    """One file on the host."""

    container_path: str
    host_path: str
    before: str
    after: str


class Upstream:
    """One run: read, plan, apply."""

    def __init__(
        self, module: AnsibleModule, docker: Docker, change: ChangeGuard, wanted: _nginx.Wanted, result: dict[str, Any]
    ) -> None:
        self.module = module
        self.change = change
        self.docker = docker
        self.wanted = wanted
        self.result = result
        self.findings: list[dict[str, Any]] = result["findings"]
        self.service: str = module.params["service"]
        self.present: bool = module.params["state"] == "present"
        self.timeout: int = module.params["reload_timeout"]
        self.store = _nginx.Store(docker.project_dir)
        self.unfinished: list[str] = []  # files that a killed run wrote and did not get loaded
        self.hosts: dict[str, Optional[str]] = {}  # path in the container -> on the host
        self.made: list[str] = []  # files whose bytes from before the first edit were kept by this run

    # -- reading

    def instances(self) -> list[Instance]:
        """Return the running containers of the service."""
        running = [item for item in self.docker.containers(self.service) if item.state == "running"]
        found = []
        for data in self.docker.inspect([item.id for item in running]):
            container = next(item for item in running if item.id == data["Id"])
            networks = (data.get("NetworkSettings") or {}).get("Networks") or {}
            found.append(
                Instance(
                    container,
                    int(data["State"].get("Pid") or 0),
                    _nginx.command([data.get("Path") or "", *(data.get("Args") or [])]),
                    [item["NetworkID"] for item in networks.values() if item and item.get("NetworkID")],
                )
            )
        return found

    def wait_running(self) -> list[Instance]:
        """Return the running containers; one that Docker is restarting is waited for."""
        deadline = time.monotonic() + self.timeout
        while True:
            found = self.instances()
            if found or time.monotonic() > deadline:
                return found
            if not any(item.state == "restarting" for item in self.docker.containers(self.service)):
                return found
            time.sleep(1)

    def nginx(self, instance: Instance, *options: str) -> tuple[int, str, str]:
        """Call nginx in a container; return rc, its output, and its answer in one line that is safe to show."""
        rc, out, err = self.docker.docker(
            "exec", instance.container.id, *instance.command, *options, check=False, timeout=self.docker.command_timeout
        )
        return rc, out, last_lines(self.docker.clean(err)) or "nothing"

    def host(self, path: str, container: Container) -> Optional[str]:
        """Return the file on the host behind a path in the container, None when there is none."""
        if path not in self.hosts:
            found = _nginx.locate(path, container.mounts, _nginx.read_link)
            self.hosts[path] = found if found and os.path.isfile(found) else None
        return self.hosts[path]

    def dump(self, instance: Instance) -> dict[str, str]:
        """Return path -> text of what nginx in a container reads now. Raises NginxError with its answer."""
        rc, out, answer = self.nginx(instance, "-T")
        if rc != 0:
            raise NginxError(
                "`nginx -T` in %s ended with return code %d: %s" % (instance.container.name, rc, answer.rstrip("."))
            )

        def read(path: str) -> Optional[str]:
            host = self.host(path, instance.container)
            return _nginx.read_text(host) if host else None

        return _nginx.parse_dump(out, read)

    def servers(self, instance: Instance) -> list[_nginx.Process]:
        """Return the workers of a container that take new connections. Raises NginxError when none can be seen."""
        family = _nginx.processes(instance.pid)
        if not _nginx.masters(family):
            raise NginxError(
                "No master process of nginx is seen in /proc for %s (process %d). Run this on the Docker host itself,"
                " with become; an nginx with `master_process off` can't be reloaded."
                % (instance.container.name, instance.pid)
            )
        return _nginx.workers(family)

    # -- what a killed run left

    def recover(self) -> bool:
        """Put right a write that was cut off. Returns False when check mode can't look further because of one."""
        readable = True
        for path in self.store.kept("after"):
            before, after = self.store.read(path, "before"), self.store.read(path, "after")
            if before is None or after is None:
                continue
            try:
                current = _nginx.read_text(path)
            except FileNotFoundError:
                raise NginxError(
                    "%s is gone, in the middle of a change. Its last bytes are in %s: copy them back, and run this again."
                    % (path, self.store.path(path, "before"))
                ) from None
            state = _nginx.state_of(current, before, after)
            if state == "torn":
                self.interrupted(path, "a mixture of the bytes before and after the change")
                if self.module.check_mode:
                    readable = False
                    continue
                self.change.step("restore", path, "a torn write", "the bytes from before it")
                _nginx.overwrite(path, before)
            if state == "after":
                self.unfinished.append(path)
            elif not self.module.check_mode:
                # Not begun, undone, or written by somebody else since.
                self.store.end(path)
        return readable

    def interrupted(self, path: str, found: str) -> None:
        """Report a change that was not finished."""
        self.result["recovered"].append(path)
        self.findings.append(
            finding(
                "interrupted_write",
                "warning",
                path,
                "a file that is written as a whole",
                found,
                "An earlier run was killed in the middle. The bytes from before its change are put back first.",
            )
        )

    def dump_or_undo(self, instance: Instance) -> dict[str, str]:
        """Like dump(); what a killed run wrote is taken back when nginx refuses it."""
        try:
            return self.dump(instance)
        except NginxError as exc:
            if not self.unfinished or self.module.check_mode:
                raise
            for path in self.unfinished:
                before = self.store.read(path, "before")
                if before is not None:
                    self.interrupted(path, "bytes that nginx refuses: %s" % exc)
                    self.change.step("restore", path, "bytes that nginx refuses", "the bytes from before them")
                    _nginx.overwrite(path, before)
                    self.store.end(path)
            self.unfinished = []
            return self.dump(instance)

    # -- planning

    def originals(self) -> dict[str, str]:
        """Return host path -> text before the first edit."""
        found = {}
        for path in self.store.kept("orig"):
            text = self.store.read(path, "orig")
            if text is not None:
                found[path] = text
        return found

    def plan(self, instances: list[Instance]) -> tuple[list[Change], list[str]]:
        """Return the files that have to change, and the files on the host whose workers have to be new enough."""
        first = instances[0]
        files = self.dump_or_undo(first)
        config = _nginx.Config(files)
        originals = self.originals()
        kept = {path: originals[host] for path in files if (host := self.host(path, first.container)) in originals}
        back = _nginx.backward(config, self.wanted, kept, static=not self.present)
        base = _nginx.edited(files, back)
        after = base
        if self.present:
            plan = _nginx.forward(_nginx.Config(base), self.wanted)
            for item in plan.findings:
                # The operator looks at the file on the host.
                path, colon, line = item["object"].rpartition(":")
                self.findings.append(dict(item, object=(self.host(path, first.container) or path) + colon + line))
            after = _nginx.edited(base, plan)
            if not plan.edits and not plan.pointed and not any(item["id"] == "not_understood" for item in plan.findings):
                self.findings.append(
                    finding(
                        "upstream_not_found",
                        "error",
                        self.service,
                        "a line that passes requests to %s or %s" % (self.wanted.original.text, self.wanted.target.text),
                        "these servers: %s" % (", ".join(_nginx.servers(config)) or "none"),
                        "Set original to the one that is meant. Nothing was changed.",
                    )
                )
        concerned = _nginx.concerned(config, self.wanted)
        changes: dict[str, Change] = {}
        watched = []
        for path in files:
            host = self.host(path, first.container)
            differs = after[path] != files[path]
            if not differs and path not in concerned:
                continue
            if host is None:
                if differs:
                    self.not_on_host(path, files[path], after[path])
                continue
            self.check_mount(instances, path, host, files[path])
            watched.append(host)
            if differs:
                change = Change(path, host, files[path], after[path])
                if host in changes and changes[host].after != change.after:
                    raise NginxError(
                        "%s is read as %s and as %s, where it would have to be edited differently. Edit it by hand."
                        % (host, changes[host].container_path, path)
                    )
                changes[host] = change
        for instance in instances[1:]:
            other = self.dump(instance)
            for path in concerned:
                if other.get(path) != files[path]:
                    self.stale(instance, path, self.host(path, first.container) or path)
        return list(changes.values()), sorted(set(watched))

    def not_on_host(self, path: str, before: str, after: str) -> None:
        """Report a file that can't be edited from the host."""
        edits = _nginx.describe(before, after)
        self.result["files"].append({"container_path": path, "host_path": "", "edits": edits})
        self.findings.append(
            finding(
                "not_on_bind_mount",
                "error",
                path,
                "a file on a bind mount",
                "a file of the image or of a named volume, which the next container would not have",
                "Change it where the image or the volume is made: %s"
                % "; ".join("line %d, `%s` becomes `%s`" % (item["line"], item["before"], item["after"]) for item in edits),
            )
        )

    def check_mount(self, instances: list[Instance], path: str, host: str, text: str) -> None:
        """Report a file that the container does not share with the host any more."""
        # Where it can't be found out which file it is, the bytes decide: now, and once more after the write.
        same = _nginx.read_text(host) == text and _nginx.same_file(instances[0].pid, path, host) is not False
        if not same:
            self.stale(instances[0], path, host)

    def stale(self, instance: Instance, path: str, host: str) -> None:
        """Report a stale mount."""
        self.findings.append(
            finding(
                "stale_mount",
                "error",
                host,
                "the file that %s reads as %s" % (instance.container.name, path),
                "another file: it was replaced since the container started (as most editors and copies do)",
                "An edit would not reach nginx. Restart it when a short interruption is acceptable (docker restart %s),"
                " and look first whether the file on the host is the one that is wanted." % instance.container.name,
            )
        )

    def check_target(self, instances: list[Instance], needed: bool) -> None:
        """Report a target that no container answers to: nginx -t would not see it, and each request would fail."""
        host = self.wanted.target.host
        if "." in host:
            # An address, or a name that is not Docker's.
            return
        ids = self.docker.docker("ps", "-q", "--no-trunc")[1].split()
        networks = set(instances[0].networks)
        for data in self.docker.inspect(ids):
            for item in ((data.get("NetworkSettings") or {}).get("Networks") or {}).values():
                names = {data["Name"].lstrip("/"), *(item.get("Aliases") or []), *(item.get("DNSNames") or [])}
                if item.get("NetworkID") in networks and host in {name.lower() for name in names}:
                    return
        self.findings.append(
            finding(
                "target_missing",
                "error" if needed and not self.module.check_mode else "warning",
                self.wanted.target.text,
                "a running container of that name in a network of %s" % instances[0].container.name,
                "none",
                "Start it first. nginx would answer every request with 502.",
            )
        )

    def due(self, instances: list[Instance], watched: list[str]) -> bool:
        """Tell whether workers serve that are older than the last change of a file."""
        if not self.present and not self.store.kept("orig"):
            # Nothing of ours was ever here; what the owner has not loaded yet is not our business.
            return bool(self.unfinished)
        changed = {path: os.stat(path).st_ctime for path in watched}
        late = [path for path in watched if changed[path] > time.time() + 1]
        if late:
            self.module.warn(
                "%s was changed in the future by the clock of this host, so it can't be told whether nginx has loaded it."
                % late[0]
            )
        old = []
        for instance in instances:
            for worker in self.servers(instance):
                old += [path for path in watched if path not in late and worker.started < changed[path]]
        if old or self.unfinished:
            self.findings.append(
                finding(
                    "reload_due",
                    "info",
                    (old or self.unfinished)[0],
                    "workers that started after the file was changed",
                    "workers that are older",
                    "nginx is reloaded.",
                )
            )
        return bool(old or self.unfinished)

    # -- applying

    def write(self, changes: list[Change]) -> None:
        """Write all files, each with a way back."""
        originals = self.originals()
        for change in changes:
            if self.present:
                config = _nginx.Config({change.host_path: change.before})
                ours = _nginx.backward(config, self.wanted, originals, static=False).edits
                # Kept once; made anew when the owner has put back a text of their own.
                if not ours and originals.get(change.host_path) != change.before:
                    self.store.keep(change.host_path, "orig", change.before)
                    self.made.append(change.host_path)
            if _nginx.read_text(change.host_path) != change.before:
                raise NginxError("%s was changed by somebody else just now. Run this again." % change.host_path)
            self.store.begin(change.host_path, change.before, change.after)
            _nginx.overwrite(change.host_path, change.after)

    def verify(self, instances: list[Instance], changes: list[Change]) -> None:
        """Test what was written, with the nginx that has to load it. Raises NginxError."""
        for instance in instances:
            seen = self.dump(instance)
            for change in changes:
                if change.container_path and seen.get(change.container_path) != change.after:
                    raise NginxError(
                        "%s does not see the new bytes of %s: its mount is stale, since the file was replaced after the"
                        " container had started. Restart it when a short interruption is acceptable (docker restart %s)"
                        % (instance.container.name, change.host_path, instance.container.name)
                    )

    def reload(self, instances: list[Instance], watched: list[str]) -> None:
        """Reload, and see new workers serve. Raises NginxError."""
        newest = max([os.stat(path).st_ctime for path in watched], default=0.0)
        # So that a later run can tell by the times alone that these workers know the file.
        time.sleep(min(max(0.0, newest + CLOCK_MARGIN - time.time()), 2.0))
        for instance in instances:
            before = self.servers(instance)
            rc, dummy, answer = self.nginx(instance, "-s", "reload")
            if rc != 0:
                raise NginxError(
                    "`nginx -s reload` in %s ended with return code %d: %s" % (instance.container.name, rc, answer)
                )
            deadline = time.monotonic() + self.timeout
            while not _nginx.replaced(before, self.servers(instance)):
                if time.monotonic() > deadline:
                    raise NginxError(
                        "nginx in %s was told to reload, but within %d seconds no new workers took over. Its last lines: %s"
                        % (
                            instance.container.name,
                            self.timeout,
                            last_lines(self.docker.logs_tail(instance.container.id, 10), 4) or "none",
                        )
                    )
                time.sleep(POLL)

    def undo(self, instances: list[Instance], changes: list[Change], reload: bool) -> str:
        """Put the old bytes back, also in nginx if it was told to reload; return a sentence about it."""
        undone, left = False, ""
        for change in changes:
            if self.store.read(change.host_path, "after") is None:
                continue
            if _nginx.state_of(_nginx.read_text(change.host_path), change.before, change.after) == "other":
                left += " %s was changed by somebody else meanwhile and left so; the bytes from before are in %s." % (
                    change.host_path,
                    self.store.path(change.host_path, "before"),
                )
                continue
            _nginx.overwrite(change.host_path, change.before)
            self.store.end(change.host_path)
            undone = True
        for path in self.made:
            if self.store.read(path, "after") is None:
                self.store.drop(path, "orig")
        if reload:
            for instance in instances:
                self.nginx(instance, "-s", "reload")
        if left:
            return left.strip()
        return "The files have their old bytes again, and nginx serves as before." if undone else "No file was changed."

    def execute(self, instances: list[Instance], changes: list[Change], watched: list[str]) -> None:
        """Write, test, reload; all or nothing."""
        self.announce(changes)
        if not changes:
            self.change.step("reload", self.service)
        reloading = False
        try:
            self.write(changes)
            self.verify(instances, changes)
            reloading = True
            self.reload(instances, watched)
        except (NginxError, ComposeError, OSError) as exc:
            try:
                told = self.undo(instances, changes, reloading)
            except (NginxError, ComposeError, OSError) as second:
                told = "The old bytes could not be put back: %s. They are in %s; run this again." % (
                    second,
                    self.store.directory,
                )
            raise NginxError("%s. %s" % (str(exc).rstrip("."), told)) from None
        for path in {change.host_path for change in changes} | set(self.unfinished):
            self.store.end(path)
        self.result["reloaded"] = True

    def announce(self, changes: list[Change]) -> None:
        """Record the edits right before they are made. Raises ChangeError."""
        for change in changes:
            edits = _nginx.describe(change.before, change.after)
            before, after = ({str(item["line"]): item[side] for item in edits} for side in ("before", "after"))
            self.change.step("edit", change.host_path, before, after)

    # -- a nginx that does not start

    def offline(self, instances: list[Instance], answer: str) -> bool:
        """Take back the edit where nginx can't tell its files: they are known from the kept bytes. False: nothing kept.

        This is for the case that the target went away before the edit that names it, so that nginx can't start.
        """
        originals = {path: text for path, text in self.originals().items() if os.path.isfile(path)}
        changes = []
        for path, text in originals.items():
            current = _nginx.read_text(path)
            config = _nginx.Config({path: current})
            after = _nginx.edited(config.files, _nginx.backward(config, self.wanted, {path: text}, static=True))[path]
            if after != current:
                changes.append(Change("", path, current, after))
        if not changes:
            return False
        self.report(changes, reload=bool(instances))
        if self.module.check_mode:
            return True
        self.announce(changes)
        for change in changes:
            self.store.begin(change.host_path, change.before, change.after)
            _nginx.overwrite(change.host_path, change.after)
        instances = self.wait_running()
        if not instances:
            self.module.warn(
                "The edit was taken back, but no container of %s runs to test it: %s. Start it."
                % (self.service, answer)
            )
            self.result["reloaded"] = False
        else:
            try:
                self.verify(instances, [])
                self.reload(instances, [change.host_path for change in changes])
            except NginxError as exc:
                raise NginxError("The edit was taken back in %s, but: %s." % (self.paths(changes), exc)) from None
        for change in changes:
            self.store.end(change.host_path)
        self.finish()
        return True

    @staticmethod
    def paths(changes: list[Change]) -> str:
        """Return the paths on the host for a message."""
        return ", ".join(change.host_path for change in changes)

    def finish(self) -> None:
        """Forget the kept bytes once the way back is done."""
        if not self.present:
            for path in self.store.kept("orig"):
                self.store.drop(path, "orig")
        self.result["backup"] = [self.store.path(path, "orig") for path in self.store.kept("orig")]

    # -- the run

    def report(self, changes: list[Change], reload: bool) -> None:
        """Put the changes into the result."""
        diff = []
        for change in changes:
            edits = _nginx.describe(change.before, change.after)
            self.result["files"].append(
                {"container_path": change.container_path, "host_path": change.host_path, "edits": edits}
            )
            diff.append(
                {
                    "before_header": change.host_path,
                    "after_header": change.host_path,
                    "before": "".join("line %d: %s\n" % (item["line"], item["before"]) for item in edits),
                    "after": "".join("line %d: %s\n" % (item["line"], item["after"]) for item in edits),
                }
            )
        self.result["diff"] = diff
        kept = set(self.store.kept("orig"))
        gone = kept and not self.present
        self.result["changed"] = bool(changes or reload or gone or self.result["recovered"])
        self.result["reloaded"] = reload
        if self.present:
            kept |= {change.host_path for change in changes}
        self.result["backup"] = [] if gone else [self.store.path(path, "orig") for path in sorted(kept)]

    def refuse(self) -> bool:
        """Fail on findings of severity error; return True when check mode only lists them."""
        errors = failed_on(self.findings, ["error"])
        if errors and not self.module.check_mode:
            raise NginxError("Nothing was changed: %s" % summary(errors))
        return bool(errors)

    def run(self) -> None:
        """Do it. Raises NginxError, ComposeError, ChangeError, OSError."""
        if not self.recover():
            self.result.update(changed=True, reloaded=True)
            return
        instances = self.wait_running()
        changes: list[Change] = []
        watched: list[str] = []
        try:
            if not instances:
                states = ["%s is %s" % (item.name, item.state) for item in self.docker.containers(self.service)]
                raise NginxError(", ".join(states) or "there is no container of service %s" % self.service)
            changes, watched = self.plan(instances)
        except NginxError as exc:
            if self.unfinished and self.module.check_mode:
                for path in self.unfinished:
                    self.interrupted(path, str(exc))
                self.result.update(changed=True, reloaded=True)
                return
            if not self.present and self.offline(instances, str(exc)):
                return
            self.findings.append(
                finding(
                    "config_refused" if instances else "nginx_not_running",
                    "error",
                    self.service,
                    "a running nginx that accepts its configuration",
                    str(exc),
                    "Correct the line and reload nginx by hand first." if instances else "Start it first.",
                )
            )
            self.refuse()
            return
        if self.present:
            self.check_target(instances, needed=bool(changes))
        if self.refuse():
            self.report(changes, reload=False)
            self.result["changed"] = False
            return
        reload = bool(changes) or self.due(instances, watched)
        self.report(changes, reload)
        if self.module.check_mode:
            return
        if reload:
            self.execute(instances, changes, watched)
        self.finish()


def read_wanted(params: dict[str, Any]) -> _nginx.Wanted:
    """Return what the options ask for. Raises NginxError for what nginx could not be given."""
    addresses = {}
    for name in ("original", "target"):
        address = _nginx.parse_address(params[name])
        if address is None:
            raise NginxError(
                "%s must be a host name or IPv4 address, with a port if it is not 80, such as hapi:8080, and not %r."
                % (name, params[name])
            )
        addresses[name] = address
    if addresses["original"].same(addresses["target"]):
        raise NginxError("original and target are the same server, %s." % params["original"])
    for name in ("resolver_valid", "reload_timeout"):
        if not 0 < params[name] <= 3600:
            raise NginxError("%s must be from 1 to 3600 seconds, and not %d." % (name, params[name]))
    resolver = " ".join(params["resolver"].split())
    if not re.match(r"[A-Za-z0-9.:\[\] -]*\Z", resolver):
        raise NginxError("resolver must be an address such as 127.0.0.11, and not %r." % params["resolver"])
    return _nginx.Wanted(addresses["original"], addresses["target"], resolver, params["resolver_valid"])


def missing(module: AnsibleModule, docker: Docker) -> str:
    """Return what is not on this host at all, '' when one can look."""
    if not os.path.isdir(docker.project_dir):
        return "no such directory"
    try:
        docker.project_name()
    except ComposeError as exc:
        return str(exc)
    return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            **LOCK_ARGUMENTS,
            service={"type": "str", "default": "nginx"},
            original={"type": "str", "required": True},
            target={"type": "str", "required": True},
            resolver={"type": "str", "default": "127.0.0.11"},
            resolver_valid={"type": "int", "default": 5},
            state={"type": "str", "choices": ["present", "absent"], "default": "present"},
            reload_timeout={"type": "int", "default": 30},
            **CHANGE_ARGUMENTS,
        ),
        supports_check_mode=True,
    )
    params = module.params
    result: dict[str, Any] = {
        "changed": False,
        "files": [],
        "reloaded": False,
        "recovered": [],
        "backup": [],
        "findings": [],
    }
    lock: Optional[HostLock] = None
    try:
        wanted = read_wanted(params)
        docker = Docker.from_module(module)
        if module.check_mode:
            gap = missing(module, docker)
            if gap:
                hint = "A real run is refused. Check project_dir and the inventory, and install Docker first."
                result["findings"].append(
                    finding("deployment_missing", "error", params["project_dir"], "a compose project", gap, hint)
                )
                module.exit_json(**result)
            change = ChangeGuard.from_module(module, "")
        else:
            what = "nginx_upstream (%s) of %s in %s" % (params["state"], params["service"], params["project_dir"])
            lock = HostLock.of_project(docker, params, what)
            change = ChangeGuard.for_docker(module, docker)
            change.verify()
        Upstream(module, docker, change, wanted, result).run()
    except (NginxError, ComposeError, ChangeError, LockError) as exc:
        result.update(changed=bool(result["recovered"]), reloaded=False)
        module.fail_json(msg=str(exc), **result)
    except OSError as exc:
        result.update(changed=bool(result["recovered"]), reloaded=False)
        module.fail_json(msg="A file of nginx could not be read or written: %s. Use become." % exc, **result)
    finally:
        if lock is not None:
            lock.release()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
