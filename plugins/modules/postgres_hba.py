#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_hba
short_description: Keep a block of lines in the pg_hba.conf of a PostgreSQL server in a container
version_added: 1.0.0
description:
  - Keeps one block of lines between two marked comments in the server's C(pg_hba.conf), lets the server read it, and proves that it has.
    All other bytes of the file stay as they are, and without the block the file is as it was before.
  - The file is replaced as a whole, wherever it lives, see RV(method), so that a kill leaves the former or the new file.
  - Before the server is told, C(pg_hba_file_rules) has to read the new file without an error. Otherwise the former text is put back,
    and the module fails with the line and the error.
  - A file that has errors already is refused, since the server would not start with it.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Only the block is shown. Other lines may hold passwords.
  idempotent:
    support: full
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.change
options:
  service:
    description:
      - Service of the server. It must have one container.
    type: str
    required: true
  name:
    description:
      - Name of the block, of small letters, digits and underscores. It stands in both markers.
    type: str
    required: true
  rules:
    description:
      - The lines of the block, in their order. Required with O(state=present).
    type: list
    elements: dict
    default: []
    suboptions:
      type:
        description:
          - Over which kind of connection the client comes.
        type: str
        required: true
        choices:
          - local
          - host
          - hostssl
          - hostnossl
          - hostgssenc
          - hostnogssenc
      databases:
        description:
          - Names of databases, or V(all), V(sameuser), V(samerole) or V(replication).
          - As in the file, a name in double quotes is never such a word, so that V("replication") with its quotes is a database of that name.
        type: list
        elements: str
        required: true
      users:
        description:
          - Names of roles, V(all), or V(+group) for the members of a role. In double quotes it is always the name of a role.
        type: list
        elements: str
        required: true
      address:
        description:
          - Where the client comes from, a network such as V(10.0.0.0/8) or V(fd00::/8), an address, the name of a host, V(samehost),
            V(samenet) or V(all). Required unless O(rules[].type=local), where there is none.
          - An IPv4 network never matches a client that comes by IPv6. See O(reached_from).
        type: str
      method:
        description:
          - How the client proves who it is.
        type: str
        required: true
        choices:
          - trust
          - reject
          - scram-sha-256
          - md5
          - password
          - gss
          - sspi
          - ident
          - peer
          - ldap
          - radius
          - cert
          - pam
          - bsd
      options:
        description:
          - Options of the method. C(ldapbindpasswd) and C(radiussecrets) are refused, since they are passwords.
        type: dict
        default: {}
  position:
    description:
      - Where in the file the block stands. The server takes the first line that matches a connection, and no other one.
      - With V(first), no line of the file can take a connection away from the block.
        With V(last), the block gets only those that nothing else in the file matches, which RV(findings) tell.
      - A block that is there stays where it is as long as only comments, and blocks of this module, stand before it (V(first)) or behind
        it (V(last)).
    type: str
    choices:
      - first
      - last
    default: first
  reached_from:
    description:
      - IP addresses of clients that the block is for. One that none of O(rules) matches is refused before any change, above all an IPv6
        address where the rules are for IPv4.
    type: list
    elements: str
    default: []
  state:
    description:
      - Whether the block is in the file.
    type: str
    choices:
      - present
      - absent
    default: present
notes:
  - The reload lets the server read its other files too. What comes into effect by that is named in RV(findings), and with an error in
    one of them nothing is changed.
  - The file in which PostgreSQL 16 and newer may include others is the one that C(hba_file) names. Included ones are judged and never changed.
seealso:
  - module: dghs.bd_fhir.postgres_parameter
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Let the standby in
  dghs.bd_fhir.postgres_hba:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    name: replica
    rules:
      - type: host
        databases: [replication]
        users: [replicator]
        address: 10.20.0.0/16
        method: scram-sha-256
    reached_from: [10.20.1.7]

- name: The way back
  dghs.bd_fhir.postgres_hba:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    name: replica
    state: absent
"""

RETURN = r"""
hba_file:
  description: The file, as the server names it.
  returned: success, and on failure once it is known
  type: str
  sample: /var/lib/postgresql/data/pg_hba.conf
host_path:
  description: The same file on the host. Empty when it is in no mount of the container.
  returned: success, and on failure once it is known
  type: str
  sample: /var/lib/docker/volumes/fhir_pgdata/_data/pg_hba.conf
method:
  description:
    - How the file is written, whether it had to be or not.
    - V(rename), a new file takes its place inside of the container. V(rename_host), the same from the host, since the container may not write.
      V(in_place), the file is mounted by itself, so that the container would not see another one in its place. It is written over,
      with copies of the former and the new text beside it until that is done.
  returned: success, and on failure once it is known
  type: str
  sample: rename
lines:
  description: The lines of the block without its markers, as they are afterwards. In check mode as predicted.
  returned: success
  type: list
  elements: str
  sample:
    - host replication replicator 10.20.0.0/16 scram-sha-256
first_line:
  description: Number of the line at which the block begins, V(0) without a block. In check mode as predicted.
  returned: success
  type: int
  sample: 1
reloaded:
  description: Whether the server has read its files anew. In check mode, whether it would.
  returned: success
  type: bool
  sample: true
findings:
  description: What an operator should know, each with C(id), C(severity), C(object), C(expected), C(found) and C(hint).
  returned: success, and on failure what was found until then
  type: list
  elements: dict
  sample: []
"""

import contextlib
import os
import posixpath
import time

from dataclasses import dataclass
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Container, Docker
from ..module_utils._container_files import copy_in, unarchive
from ..module_utils._findings import finding
from ..module_utils._files import overwrite_file, sync_directory, to_bytes
from ..module_utils._hba import (
    BLOCK_NAME,
    METHODS,
    TYPES,
    HbaError,
    Layout,
    Rule,
    check_reach,
    clashes,
    converge,
    faults,
    hidden,
    missing,
    rules_of,
    split,
    torn,
)
from ..module_utils._parameters import faults as parameter_faults, others_reloaded, read_settings
from ..module_utils._postgres import LOGIN_ARGUMENTS, Login, PostgresError, Session, connect, container_of, login_to

# Beside the file, only while it is written.
NEW = ".bd_fhir.new"
OLD = ".bd_fhir.old"
# Seconds
RELOAD_SECONDS = 15

# In one call: where the file really is, what it is like, and whose directory it is in.
LOOK = 'real=$(readlink -f -- "$1") && printf "%s\\n" "$real" && stat -c "%u:%g %a %i %Z %z" -- "$real" && stat -c "%u:%g" -- "$(dirname -- "$real")"'
# The bytes are on the disk before the name is theirs.
MOVE = 'sync -- "$1" && mv -f -- "$1" "$2" && sync -- "$(dirname -- "$2")"'


@dataclass(frozen=True)
class Place:
    """Where the file lives, and what it is like."""

    path: str  # in the container, no link
    owner: str  # uid:gid
    mode: int
    inode: int
    changed: float  # seconds since the epoch
    folder_owner: str  # of the directory, who may therefore replace it
    host_path: str
    method: str
    kept: bool  # when the container is made anew


def parse_look(text: str) -> tuple[str, str, int, int, float, str]:
    """Return path, owner, mode, inode, time of the last change, and owner of the directory, from the output of LOOK. Pure. Raises ValueError."""
    path, line, folder = text.strip("\n").split("\n")
    owner, mode, inode, seconds, moment = line.split(" ", 4)
    # 2025-11-26 11:44:13.123456789 +0000
    fraction = moment.partition(".")[2].partition(" ")[0]
    return path, owner, int(mode, 8), int(inode), float("%s.%s" % (seconds, fraction or "0")), folder.strip()


def placed(path: str, mounts: list[dict[str, Any]]) -> tuple[str, str, bool]:
    """Return where a file of a container is on the host, how it is written, and whether it outlives the container. Pure."""
    inside = [item for item in mounts if path == item["destination"] or path.startswith(item["destination"].rstrip("/") + "/")]
    if not inside:
        return "", "rename", False
    mount = max(inside, key=lambda item: len(item["destination"]))
    if mount["type"] not in ("bind", "volume"):
        return "", "rename", False
    if path == mount["destination"]:
        return mount["source"], "in_place", True
    below = posixpath.relpath(path, mount["destination"])
    return posixpath.join(mount["source"], below), "rename" if mount["rw"] else "rename_host", True


def shown(layout: Layout, note: str = "") -> str:
    """Return the block for the difference. Pure."""
    if not layout.block:
        return note
    return "line %d:\n%s\n%s" % (layout.lines()[0], hidden(layout.block.replace("\r", "").strip("\n")), note)


def inner_lines(layout: Layout) -> list[str]:
    """Return the lines of the block without its markers. Pure."""
    return [hidden(line.rstrip("\r")) for line in layout.block.strip("\n").split("\n")[1:-1]]


def write_aside(path: str, text: str, mode: int = 0o600, owner: Optional[tuple[int, int]] = None) -> None:
    """Write a file of ours beside another one, with a name by which the next run finds it. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    # Others may be allowed to write in that directory: no link of theirs is followed.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(to_bytes(text))
        handle.flush()
        if owner:
            os.fchown(handle.fileno(), *owner)
        os.fchmod(handle.fileno(), mode)
        os.fsync(handle.fileno())


def read_text(path: str) -> str:
    """Return the text of a file with every byte kept. Raises OSError."""
    with open(path, "rb") as handle:
        return handle.read().decode("utf-8", "surrogateescape")


class Run:
    """One call of the module."""

    def __init__(self, module: AnsibleModule, docker: Docker, result: dict[str, Any]) -> None:
        self.module = module
        self.docker = docker
        self.params = module.params
        self.service: str = module.params["service"]
        self.name: str = module.params["name"]
        self.result = result
        self.guard = ChangeGuard.for_docker(module, docker)
        self.findings: list[dict[str, Any]] = result["findings"]
        self.hba_file = ""

    def login(self, container: Container) -> Login:
        return login_to(self.docker, container, self.params, "postgres")

    # -- reading

    def wanted_rules(self) -> Optional[list[Rule]]:
        """Return the rules that were asked for, None for no block. Raises HbaError before anything was looked at."""
        if not BLOCK_NAME.match(self.name):
            raise HbaError("Nothing was changed: name is %r; it takes 1 to 40 small letters, digits and underscores." % self.name)
        if self.params["state"] == "absent":
            return None
        rules = rules_of(self.params["rules"])
        for address in check_reach(rules, self.params["reached_from"]):
            self.findings.append(
                finding(
                    "hba_reach_not_proven", "warning", address, "a rule for its network",
                    "only rules for names of hosts, samehost or samenet may match it",
                    "Give the network of the clients as an address of a rule, or see that they get in.",
                )
            )  # fmt: skip
        return rules

    def locate(self, session: Session, container: Container) -> Place:
        """Raises PostgresError, ComposeError, HbaError."""
        if not session.value("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"):
            raise PostgresError(
                "%s is no superuser on %s, and only one may read %s. Give another login_user."
                % (self.params["login_user"], self.service, "pg_hba.conf")
            )
        self.hba_file = str(session.value("SELECT current_setting('hba_file')"))
        self.result["hba_file"] = self.hba_file
        place = self.look(session, container)
        self.result.update(host_path=place.host_path, method=place.method)
        if place.method != "rename":
            try:
                inode = os.stat(place.host_path).st_ino
            except OSError as exc:
                raise HbaError(
                    "Nothing was changed: %s of %s is mounted from %s, which can't be looked at on this host: %s. Run this on the host of"
                    " the container, and use become." % (self.hba_file, self.service, place.host_path, exc.strerror)
                ) from None
            if inode != place.inode:
                raise HbaError(
                    "Nothing was changed: %s on the host is another file than the one that the container of %s has as %s: it was replaced"
                    " after the container had been started. Restart the container, so that it gets the present one, then run this again."
                    % (place.host_path, self.service, self.hba_file)
                )
        return place

    def look(self, session: Session, container: Container) -> Place:
        """Return what the file is like now. Raises PostgresError, ComposeError, HbaError."""
        directory = session.value("SELECT current_setting('data_directory')")
        # The user of the server can reach its file, which root without its rights over files can't.
        server = self.docker.docker("exec", container.id, "stat", "-c", "%u:%g", directory)[1].strip()
        out = self.docker.docker("exec", "-u", server, container.id, "sh", "-c", LOOK, "sh", self.hba_file)[1]
        try:
            path, owner, mode, inode, changed, folder = parse_look(out)
        except ValueError:
            raise HbaError(
                "Nothing was changed: the container of %s says of %s what is not known here: %r." % (self.service, self.hba_file, out)
            ) from None
        host_path, method, kept = placed(path, container.mounts)
        return Place(path, owner, mode, inode, changed, folder, host_path, method, kept)

    @staticmethod
    def text_of(session: Session, place: Place) -> str:
        """Return the text as the server itself reads it. Raises PostgresError."""
        return bytes(session.value("SELECT pg_catalog.pg_read_binary_file(%s)", (place.path,))).decode("utf-8", "surrogateescape")

    @staticmethod
    def file_rules(session: Session) -> list[dict[str, Any]]:
        return session.rows("SELECT * FROM pg_catalog.pg_hba_file_rules")

    @staticmethod
    def load_time(session: Session) -> float:
        return float(session.value("SELECT extract(epoch FROM pg_catalog.pg_conf_load_time())"))

    @staticmethod
    def broken_off(place: Place, text: str) -> Optional[str]:
        """Return the former text where a killed run has left half of a new one. Raises HbaError."""
        if place.method != "in_place":
            return None
        try:
            old, new = read_text(place.host_path + OLD), read_text(place.host_path + NEW)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise HbaError(
                "Nothing was changed: the copies that a killed run has left beside %s can't be read: %s." % (place.host_path, exc)
            ) from None
        return old if torn(text, old, new) else None

    # -- judging

    def judge(self, session: Session, now: Layout, rules: Optional[list[Rule]], whole: bool) -> None:
        """Refuse what would do harm, and note what comes along. whole: the file is no half. Raises HbaError, PostgresError."""
        broken = faults(self.file_rules(session), self.hba_file, now.lines(), new=False) if whole else []
        if broken:
            raise HbaError(
                "Nothing was changed: %s of %s has errors already, with which the server keeps its former rules and would not start again: %s."
                " Correct these lines first." % (self.hba_file, self.service, "; ".join(broken))
            )
        server = read_settings(session)
        broken = parameter_faults(server, [])
        if broken:
            raise HbaError(
                "Nothing was changed: other files of the server have errors, so that it would not tell whether it has read this one: %s."
                " Correct them first." % "; ".join(broken)
            )
        if any(rule.type == "hostssl" for rule in rules or []) and session.value("SELECT current_setting('ssl')") == "off":
            raise HbaError(
                "Nothing was changed: TLS is off on %s (ssl = off), so that a rule of type hostssl never matches. Use host." % self.service
            )
        for setting, new, where in others_reloaded(server, []):
            self.findings.append(
                finding(
                    "other_parameter_reloaded", "warning", setting.name, "%s, as it runs" % setting.setting, "%s, from %s" % (new, where),
                    "It comes into effect with ours, since the server reads its files as a whole.",
                )
            )  # fmt: skip

    def note(self, place: Place, wanted: Layout, rules: list[Rule]) -> None:
        """Tell what an operator should know of a block that is there, or is about to be."""
        if not place.kept:
            self.findings.append(
                finding(
                    "hba_file_not_kept", "warning", self.hba_file, "a file in a volume or on the host",
                    "a file of the container itself",
                    "It is lost when the container is made anew. Mount the file, or let hba_file name one in the data directory.",
                )
            )  # fmt: skip
        before, after = wanted.outer()
        shadowed, overruled = clashes(before, rules, after)
        for item in shadowed:
            self.findings.append(
                finding(
                    "hba_rule_shadowed", "warning", item.rule.render(), "to be the first line that matches",
                    "line %d may match the same connections before it: %s" % (item.entry.number, hidden(item.entry.text)),
                    "Use position: first, or remove that line.",
                )
            )  # fmt: skip
        for item in overruled:
            self.findings.append(
                finding(
                    "hba_reject_overruled", "info", item.rule.render(), "no reject for the same connections",
                    "line %d rejects some of them, and no longer gets to see them: %s" % (item.entry.number, hidden(item.entry.text)),
                    "Nothing if it was meant so. Otherwise make the rule narrower, or use position: last.",
                )
            )  # fmt: skip

    # -- changing

    def write(self, container: Container, place: Place, text: str, former: str) -> None:
        """Put a text in place of the file's. Raises ComposeError, HbaError."""
        folder, base = posixpath.split(place.path)
        if place.method == "rename":
            copy_in(self.docker, container.id, folder, base + NEW, text, place.owner, place.mode)
            out = self.docker.docker("cp", "%s:%s" % (container.id, place.path + NEW), "-")[1]
            try:
                arrived = unarchive(out)[0] == text
            except ValueError:
                arrived = False
            if not arrived:
                raise HbaError("%s did not arrive as it was sent. Look whether its disk is full." % (place.path + NEW))
            self.docker.docker("exec", "-u", place.folder_owner, container.id, "sh", "-c", MOVE, "sh", place.path + NEW, place.path)
            return
        path = place.host_path
        try:
            found = os.stat(path)
            owner = (found.st_uid, found.st_gid)
            if place.method == "rename_host":
                write_aside(path + NEW, text, found.st_mode & 0o7777, owner)
                os.replace(path + NEW, path)
                sync_directory(os.path.dirname(path))
                return
            # Both, so that the next run can tell what a kill has left.
            write_aside(path + NEW, text)
            write_aside(path + OLD, former)
            sync_directory(os.path.dirname(path))
            overwrite_file(path, text)
        except OSError as exc:
            raise HbaError("%s can't be written: %s." % (path, exc.strerror or exc)) from None

    def sweep(self, session: Session, container: Container, place: Place) -> None:
        """Remove what a run has left beside the file. Raises ComposeError, PostgresError, HbaError."""
        if place.method == "rename":
            if session.value("SELECT size FROM pg_catalog.pg_stat_file(%s, true)", (place.path + NEW,)) is not None:
                self.docker.docker("exec", "-u", place.folder_owner, container.id, "rm", "-f", "--", place.path + NEW)
            return
        for ending in (OLD, NEW):
            try:
                os.unlink(place.host_path + ending)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise HbaError("%s is left over and can't be removed: %s." % (place.host_path + ending, exc.strerror)) from None

    def replace(self, session: Session, container: Container, place: Place, former: str, wanted: Layout, rules: Optional[list[Rule]]) -> None:
        """Write the file and let the server judge it; with an error the former text is put back. Raises HbaError."""
        try:
            self.result["changed"] = True
            self.write(container, place, wanted.text(), former)
            self.accepted(session, place, wanted, rules)
        except (ComposeError, PostgresError, HbaError) as exc:
            raise HbaError("%s %s" % (exc, self.put_back(container, place, former, "The former text"))) from None

    def accepted(self, session: Session, place: Place, wanted: Layout, rules: Optional[list[Rule]]) -> None:
        """Make sure that the server reads in the file what was asked for. Raises HbaError, PostgresError."""
        if self.text_of(session, place) != wanted.text():
            raise HbaError("%s of %s is not what was written to it: somebody else writes it too." % (self.hba_file, self.service))
        rows = self.file_rules(session)
        broken = faults(rows, self.hba_file, wanted.lines(), new=True)
        if broken:
            raise HbaError("The server of %s does not take the new lines: %s." % (self.service, "; ".join(broken)))
        unread = missing(rows, self.hba_file, wanted, rules or [])
        if unread:
            raise HbaError("The server of %s reads the new lines of %s as something else: %s." % (self.service, self.hba_file, "; ".join(unread)))

    def put_back(self, container: Container, place: Place, former: str, what: str) -> str:
        """Give the file a text with which the server starts; return how it went."""
        try:
            self.write(container, place, former, former)
            with connect(self.login(container)) as session:
                same = self.text_of(session, place) == former
                self.sweep(session, container, place)
        except (ComposeError, PostgresError, HbaError) as exc:
            return (
                "%s could not be put back, or not be proven to be: %s The server was not told to read the file; run this again before it is"
                " restarted." % (what, exc)
            )
        if not same:
            return "%s was put back, and somebody else has written the file since. Look at it." % what
        self.result["changed"] = False
        return "%s was put back, and the server was not told to read anything." % what

    def reload(self, session: Session, container: Container, place: Place, wanted: Layout, rules: Optional[list[Rule]]) -> None:
        """Let the server read its files, and prove that it has. Raises HbaError, PostgresError, ComposeError, ChangeError."""
        before = self.load_time(session)
        self.guard.step("reload", self.service, None, {"file": self.hba_file})
        session.execute("SELECT pg_catalog.pg_reload_conf()")
        end = time.monotonic() + RELOAD_SECONDS
        while True:
            # An older session tells when it has read the files itself.
            with connect(self.login(container)) as fresh:
                loaded = self.load_time(fresh)
                if loaded > before and loaded >= self.look(fresh, container).changed:
                    self.accepted(fresh, place, wanted, rules)
                    self.result.update(changed=True, reloaded=True)
                    return
            if time.monotonic() >= end:
                raise HbaError(
                    "%s of %s is as it was asked for, and the server has not read it within %d seconds after pg_reload_conf(). Look at its log."
                    % (self.hba_file, self.service, RELOAD_SECONDS)
                )
            time.sleep(0.1)

    def run(self) -> None:
        """Converge. Raises everything that main() knows."""
        rules = self.wanted_rules()
        container = container_of(self.docker, self.service)
        with connect(self.login(container)) as session:
            place = self.locate(session, container)
            text = self.text_of(session, place)
            half = self.broken_off(place, text)
            former = text if half is None else half
            now = split(former, self.name)
            wanted = converge(former, self.name, rules, self.params["position"])
            writes = wanted.text() != text
            unread = place.changed > self.load_time(session)
            if rules:
                self.note(place, wanted, rules)
            if unread:
                self.findings.append(
                    finding(
                        "hba_file_not_loaded", "warning", self.hba_file, "what the server works with", "changed after the server has read it last",
                        "Another's edit, or what a killed run has left, comes into effect with this run.",
                    )
                )  # fmt: skip
            changes = writes or unread
            self.result.update(
                lines=inner_lines(wanted),
                first_line=wanted.lines()[0],
                diff={
                    "before_header": self.hba_file,
                    "after_header": self.hba_file,
                    "before": shown(now, "# not all of the file is read by the server\n" if unread else ""),
                    "after": shown(wanted),
                },
            )
            if changes:
                self.judge(session, now, rules, whole=half is None)
            if self.module.check_mode:
                self.result.update(changed=changes, reloaded=changes)
                return
            if changes:
                self.guard.verify()
            if writes:
                steps = {"line": now.lines()[0], "lines": inner_lines(now)}, {"line": wanted.lines()[0], "lines": inner_lines(wanted)}
                self.guard.step("write_hba", "%s: %s" % (self.service, self.hba_file), *steps)
                self.replace(session, container, place, former, wanted, rules)
            elif changes:
                # As after a kill before the server has judged it.
                try:
                    self.accepted(session, place, wanted, rules)
                except HbaError as exc:
                    raise HbaError("%s %s" % (exc, self.put_back(container, place, now.before + now.after, "The file without the block"))) from None
            if changes:
                self.reload(session, container, place, wanted, rules)
            self.sweep(session, container, place)


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            service={"type": "str", "required": True},
            name={"type": "str", "required": True},
            rules={
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "type": {"type": "str", "required": True, "choices": list(TYPES)},
                    "databases": {"type": "list", "elements": "str", "required": True},
                    "users": {"type": "list", "elements": "str", "required": True},
                    "address": {"type": "str"},
                    "method": {"type": "str", "required": True, "choices": list(METHODS)},
                    "options": {"type": "dict", "default": {}},
                },
            },
            position={"type": "str", "choices": ["first", "last"], "default": "first"},
            reached_from={"type": "list", "elements": "str", "default": []},
            state={"type": "str", "choices": ["present", "absent"], "default": "present"},
            **LOGIN_ARGUMENTS,
            **CHANGE_ARGUMENTS,
        ),
        supports_check_mode=True,
    )
    docker = Docker.from_module(module)
    result: dict[str, Any] = {
        "changed": False,
        "hba_file": "",
        "host_path": "",
        "method": "",
        "lines": [],
        "first_line": 0,
        "reloaded": False,
        "findings": [],
    }
    try:
        Run(module, docker, result).run()
    except (ComposeError, PostgresError, HbaError, ChangeError) as exc:
        module.fail_json(msg=str(exc), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
