#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_clone
short_description: Make, watch and remove the data directory of a streaming standby in a Docker volume
version_added: 1.0.0
description:
  - Clones a running primary with C(pg_basebackup), in a container of its own from the standby's image, into the directory C(standby) of a volume.
    The standby's container mounts the volume at C(/var/lib/postgresql/data), and has C(PGDATA=/var/lib/postgresql/data/standby).
  - The container that clones goes on when the play ends or is killed. The next run finds it, and there are never two for one volume.
  - The copy is made in C(standby.new) and gets its name when all of it is there.
  - A marker, C(bd_fhir_clone.json) at the volume's root, is written first. Nothing is replaced or removed that the marker does not prove to be
    a clone of this primary which is still a standby.
  - The clone holds the name of the file with the password, never the password.
attributes:
  check_mode:
    support: full
    details:
      - The primary is not asked, since the role, the rule and the password file may be made by earlier tasks of the same play.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - With O(reclone=true) each run makes a new clone, unless one is being made.
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.lock
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.change
options:
  state:
    description:
      - V(present) starts a clone if there is none, takes up one that runs, and waits for its end.
      - V(absent) removes the clone, and the volume if this module has made it. No running container may use the volume.
      - V(read) only looks.
    type: str
    choices:
      - present
      - absent
      - read
    default: present
  volume:
    description:
      - Name of the Docker volume. It is made if there is none.
    type: str
    required: true
  volume_labels:
    description:
      - Labels of a volume that is made, such as those by which Compose knows its own.
    type: dict
    default: {}
  image:
    description:
      - Image of the standby, which should be the primary's. It must be on the host.
    type: str
    required: true
  network:
    description:
      - Docker network through which the primary is reached, or V(host) for the host's own. Required with O(state=present).
    type: str
  primary_host:
    description:
      - Name or address of the primary, as seen from O(network). Required with O(state=present).
    type: str
  primary_port:
    description:
      - Port of the primary.
    type: int
    default: 5432
  user:
    description:
      - Role with the attributes C(LOGIN) and C(REPLICATION). Required with O(state=present).
    type: str
  passfile:
    description:
      - Path on the host of a password file of libpq, with a line for O(primary_host), O(primary_port), the database C(replication) and O(user).
      - It must have mode 0600 and belong to RV(owner). Required with O(state=present).
    type: path
  passfile_in_container:
    description:
      - Path of that file in the container that clones, and in the standby's.
    type: str
    default: /run/bd-fhir/passfile
  slot:
    description:
      - Physical replication slot on the primary. It must exist, and nobody else may stream by it. Required with O(state=present).
    type: str
  system_identifier:
    description:
      - The primary's system identifier (C(SELECT system_identifier FROM pg_control_system())), in quotes. Required with O(state=present).
      - With other states, a clone of another primary is then told as V(foreign).
    type: str
    default: ''
  application_name:
    description:
      - Name under which the standby shows itself in C(pg_stat_replication).
    type: str
    default: ''
  settings:
    description:
      - Parameters that are written into the clone's C(postgresql.auto.conf), in place of those of the same name there.
      - V(null) only takes the primary's value away.
      - C(primary_conninfo), C(primary_slot_name) and C(recovery_target_timeline) are written anyway.
    type: dict
    default: {}
  hba:
    description:
      - Text of the clone's C(pg_hba.conf). By default it is the primary's.
    type: str
  max_rate:
    description:
      - How much may be copied a second, such as V(20M). By default there is no limit.
    type: str
  memory:
    description:
      - Limit for the memory of the container that clones, such as V(512m). By default there is none.
    type: str
  needed_bytes:
    description:
      - Size of the primary's data. The clone is refused unless 1.1 times that are free beside O(min_free_bytes).
    type: int
    default: 0
  min_free_bytes:
    description:
      - What must stay free on the volume's file system, which may be the primary's too. A clone stops itself before it takes that.
    type: int
    default: 1073741824
  reclone:
    description:
      - Whether a finished clone is replaced by a new one. No running container may use the volume. The old one stays until the new one is there,
        so there must be room for both.
    type: bool
    default: false
  timeout:
    description:
      - Seconds to wait for the end. When they have passed, the module fails, and the clone goes on.
    type: int
    default: 43200
notes:
  - How far the clone is, is shown as soon as the percentage has moved.
seealso:
  - module: dghs.bd_fhir.postgres_parameter
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Look, to know as whom the password file has to belong
  dghs.bd_fhir.postgres_clone:
    project_dir: /opt/bd-fhir-national
    volume: bd-fhir-national_postgres-fhir-replica-data
    image: postgres:15-alpine
    state: read
  register: before

- name: Clone the primary, and wait for it
  dghs.bd_fhir.postgres_clone:
    project_dir: /opt/bd-fhir-national
    volume: bd-fhir-national_postgres-fhir-replica-data
    volume_labels:
      com.docker.compose.project: bd-fhir-national
      com.docker.compose.volume: postgres-fhir-replica-data
    image: postgres:15-alpine
    network: bd-fhir-national_backend-fhir
    primary_host: postgres-fhir
    user: fhir_replicator
    passfile: /opt/bd-fhir-national/compose.d/postgres_replica/passfile
    slot: fhir_replica
    system_identifier: "7712445167134965789"
    needed_bytes: 81788928000
    max_rate: 50M
    settings:
      max_connections: 40
      hot_standby_feedback: true
  register: clone
  failed_when: clone is failed or clone.state != 'done'

- name: Take it away
  dghs.bd_fhir.postgres_clone:
    project_dir: /opt/bd-fhir-national
    volume: bd-fhir-national_postgres-fhir-replica-data
    image: postgres:15-alpine
    state: absent
"""

RETURN = r"""
state:
  description:
    - What the volume is. In check mode what it would be.
    - V(absent), there is no clone and nothing else; V(cloning), it is being made; V(failed), that was broken off, and the next run begins anew;
      V(done); V(promoted), the clone takes writes of its own or will do; V(foreign), the volume holds something that is not proven to be a clone
      of this primary.
  returned: success, and on failure what was read
  type: str
  sample: done
reason:
  description:
    - Why it failed, in one word, with RV(state=failed) or when the primary could not be asked. One of V(passfile), V(hba), V(password), V(role),
      V(senders), V(slot_missing), V(slot_active), V(space), V(wal_removed), V(wal_level), V(version), V(other_primary), V(tablespaces),
      V(unreachable), V(memory), V(killed) and V(unknown). Empty otherwise.
  returned: success, and on failure what was read
  type: str
  sample: ''
failure:
  description: The same as a sentence with the next step.
  returned: success, and on failure what was read
  type: str
  sample: ''
progress:
  description: How far it is.
  returned: success, and on failure what was read
  type: dict
  contains:
    bytes_done:
      description: Bytes that were copied.
      type: int
      returned: always
      sample: 536870912
    bytes_total:
      description: Bytes that are to be copied, as the primary has estimated them. V(0) as long as it has not.
      type: int
      returned: always
      sample: 1279262720
    percent:
      description: The part that is done.
      type: int
      returned: always
      sample: 42
    seconds:
      description: How long it has taken.
      type: int
      returned: always
      sample: 71
marker:
  description: What the marker in the volume says, V({}) if there is none.
  returned: success, and on failure what was read
  type: dict
  sample:
    id: 0f6a2d5c3e1b4c8f9a7d6e5f4c3b2a19
    replaces: ''
    system_identifier: "7712445167134965789"
    primary:
      host: postgres-fhir
      port: 5432
    slot: fhir_replica
    state: done
    started: "2026-01-31T23:50:00Z"
    finished: "2026-01-31T23:59:59Z"
    bytes: 1279262720
    image: postgres:15-alpine
directory:
  description: The standby's data directory in its container.
  returned: always
  type: str
  sample: /var/lib/postgresql/data/standby
owner:
  description: User and group of the image's server by number, to whom the password file has to belong. Empty where there is no image to ask.
  returned: success, and on failure what was read
  type: str
  sample: '70:70'
container:
  description: Name of the container that clones.
  returned: always
  type: str
  sample: bd-fhir-clone-bd-fhir-national_postgres-fhir-replica-data
log:
  description: The last lines of that container, without its progress.
  returned: success, and on failure what was read
  type: list
  elements: str
  sample: []
findings:
  description: What an operator should know, see the collection's C(docs/findings.md).
  returned: always
  type: list
  elements: dict
  sample: []
"""

import os
import re
import stat
import time

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _clone as making
from ..module_utils._backup_files import human
from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._clone import CloneError, Look, Maker, Marker, Order, Verdict, Volume
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker, parse_bytes, read_env_text
from ..module_utils._findings import finding, summary
from ..module_utils._lock import LOCK_ARGUMENTS, HostLock, LockError
from ..module_utils._parameters import ParameterError
from ..module_utils._quoting import QuotingError

NEEDED = ["network", "primary_host", "user", "passfile", "slot", "system_identifier"]
# Networks that Docker does not list.
OTHER_NETWORKS = ("host", "none")
_RATE = re.compile(r"[0-9]+[kM]?\Z")
_SLOT = re.compile(r"[a-z0-9_]{1,63}\Z")


def judged(params: dict[str, Any]) -> str:
    """Return what is wrong with the options by themselves, "" when nothing is. Pure."""
    wrong = making.volume_name_faults(params["volume"])
    if wrong:
        return wrong
    for name in ("needed_bytes", "min_free_bytes"):
        if params[name] < 0:
            return "%s is %d; it must be at least 0." % (name, params[name])
    if params["timeout"] < 1:
        return "timeout is %d; it must be at least 1." % params["timeout"]
    if params["max_rate"] and not _RATE.match(params["max_rate"]):
        return "max_rate is %r; give a number of kilobytes, or one with k or M behind it." % params["max_rate"]
    try:
        parse_bytes(params["memory"])
    except ValueError:
        return "memory is %r, which is no size. Write it as 512m." % params["memory"]
    if params["system_identifier"] and not params["system_identifier"].isdigit():
        return "system_identifier is %r; it is a number." % params["system_identifier"]
    if params["state"] != "present":
        return ""
    for name in NEEDED:
        # An empty text passes required_if.
        if not params[name]:
            return "%s is empty; state present needs it." % name
    if not _SLOT.match(params["slot"]):
        return "slot is %r; the name of a slot has small letters, digits and _ only." % params["slot"]
    if not params["passfile_in_container"].startswith("/"):
        return "passfile_in_container is %r; it must begin with /." % params["passfile_in_container"]
    for name in ("passfile", "passfile_in_container"):
        if re.search('[,"\n]', params[name]):
            return "%s holds a character that Docker's --mount can't carry: comma, quote or line break." % name
    return ""


class Run:
    """One call of the module."""

    def __init__(self, module: AnsibleModule, docker: Docker, result: dict[str, Any]) -> None:
        self.module = module
        self.params = module.params
        self.docker = docker
        self.result = result
        self.guard = ChangeGuard.for_docker(module, docker)
        self.findings: list[dict[str, Any]] = result["findings"]

    # -- reading

    def read(self, volume: Volume) -> tuple[Optional[dict[str, Any]], Look, Optional[Maker], Verdict]:
        """Look at everything, and put it into the result."""
        # The container first: when it ends in between, the marker says that it is done, and nothing is taken for broken off.
        maker = volume.maker()
        inspected = volume.inspect()
        look = volume.look(inspected is not None)
        verdict = making.judge(look, maker, self.params["system_identifier"])
        self.tell(look, maker, verdict)
        return inspected, look, maker, verdict

    def tell(self, look: Look, maker: Optional[Maker], verdict: Verdict) -> None:
        result, marker = self.result, look.marker
        result.update(state=verdict.state, owner=look.owner, marker=marker.public() if marker else {}, reason="", failure="", log=[])
        result["progress"] = {"bytes_done": 0, "bytes_total": 0, "percent": 0, "seconds": 0}
        if maker:
            result["log"] = making.said(maker.log)[-20:]
        if verdict.state in ("cloning", "failed") and maker:
            end = time.time() if maker.runs or not maker.finished else maker.finished
            result["progress"] = {**making.parse_progress(maker.log), "seconds": int(max(0, end - maker.started)) if maker.started else 0}
        if verdict.state == "done" and marker:
            took = making.seconds_of(marker.finished) - making.seconds_of(marker.started)
            result["progress"] = {"bytes_done": marker.bytes, "bytes_total": marker.bytes, "percent": 100, "seconds": int(max(0, took))}
        if verdict.state == "failed":
            kind, seen, hint = making.why_failed(maker, maker.log if maker else "")
            if verdict.complete:
                kind, seen, hint = "killed", "all of it was copied, but it was not put in its place", "Run this again, which only does that."
            result.update(reason=kind, failure="The clone in the volume %s failed: %s. %s" % (self.params["volume"], seen.rstrip("."), hint))
            self.findings.append(finding("clone_failed", "warning", self.params["volume"], "a finished clone", seen, hint))

    def refused(self, verdict: Verdict) -> None:
        """Note what the volume is, when nothing may be done with it."""
        name = self.params["volume"]
        if verdict.state == "promoted":
            self.findings.append(
                finding(
                    "clone_promoted", "error", name, "a clone that is a standby", verdict.why,
                    "It may hold what no other server has, so it is never replaced or removed here. If it is the primary now, correct the"
                    " inventory. If nobody needs it, remove the volume by hand.",
                )
            )  # fmt: skip
        elif verdict.other_primary:
            self.findings.append(
                finding(
                    "clone_other_primary", "error", name, "a clone of the primary that is meant", verdict.why,
                    "Correct primary_host, or the name of the volume. If nobody needs that clone, remove the volume by hand.",
                )
            )  # fmt: skip
        elif verdict.state == "foreign":
            self.findings.append(
                finding(
                    "clone_volume_foreign", "error", name, "an empty volume, or a clone of ours", verdict.why,
                    "Nothing in it was touched. Name another volume, or see for yourself that nobody needs this one, and remove it.",
                )
            )  # fmt: skip

    def in_the_way(self, volume: Volume, only_writers: bool) -> None:
        """Note the running containers that use the volume."""
        busy = [user for user in volume.users() if user.state in ("running", "restarting", "paused") and (user.rw or not only_writers)]
        if busy:
            self.findings.append(
                finding(
                    "clone_volume_in_use", "error", volume.name, "no container that runs with this volume",
                    ", ".join("%s is %s" % (user.name, user.state) for user in busy), "Stop it first, and run this again.",
                )
            )  # fmt: skip

    def stopped(self) -> bool:
        """Tell whether a finding forbids to go on; outside of check mode that is a failure. Raises CloneError."""
        errors = [item for item in self.findings if item["severity"] == "error"]
        if errors and not self.module.check_mode:
            raise CloneError("Nothing was changed: %s" % summary(errors))
        return bool(errors)

    # -- present

    def order(self) -> Order:
        """Return what is to be made. Raises CloneError, ParameterError."""
        params = self.params
        try:
            connection = making.conninfo(
                params["primary_host"], params["primary_port"], params["user"], params["passfile_in_container"], params["application_name"]
            )
        except QuotingError as exc:
            raise CloneError("Nothing was changed: primary_host, user, passfile_in_container or application_name can't be used: %s." % exc) from None
        auto_conf, replaced = making.settings_text(params["settings"], connection, params["slot"])
        hba = params["hba"]
        if hba is not None and not hba.endswith("\n"):
            hba += "\n"
        return Order(
            connection, params["slot"], params["system_identifier"], params["network"], params["passfile"], params["passfile_in_container"],
            auto_conf, replaced, hba, params["max_rate"] or "", params["memory"] or "", params["min_free_bytes"],
        )  # fmt: skip

    def judge_room(self, look: Look) -> None:
        need = int(self.params["needed_bytes"] * making.NEEDED) + self.params["min_free_bytes"]
        free = look.free + look.spare
        if free < need:
            self.findings.append(
                finding(
                    "clone_no_room", "error", self.params["volume"],
                    "%s: %s times the primary's %s, and %s that must stay free"
                    % (human(need), making.NEEDED, human(self.params["needed_bytes"]), human(self.params["min_free_bytes"])),
                    "%s are free on its file system" % human(free),
                    "Free some space, or put the volume on a larger disk."
                    + (" Without the old clone there may be room: state absent removes it." if look.standby == "data" else ""),
                )
            )  # fmt: skip

    def judge_passfile(self, volume: Volume, owner: str) -> None:
        """Look at the file with the password, and remember what no message may show."""
        path, check = self.params["passfile"], self.module.check_mode
        found, hint = "", "Write it with mode 0600, and let it belong to %s." % owner
        try:
            info = os.stat(path)
            if not stat.S_ISREG(info.st_mode):
                found = "it is no file"
            elif info.st_mode & 0o077:
                found = "mode %04o, and libpq then ignores it" % stat.S_IMODE(info.st_mode)
            else:
                volume.secrets = making.passwords_of(read_env_text(path))
                self.module.no_log_values.update(volume.secrets)
        except FileNotFoundError:
            # An earlier task of the same play may make it.
            found = "" if check else "it does not exist"
        except OSError as exc:
            found, hint = "it can't be read: %s" % exc.strerror, "Use become."
        if found:
            self.findings.append(finding("clone_passfile", "error", path, "a password file of libpq", found, hint))

    def judge_network(self) -> None:
        name = self.params["network"]
        if name in OTHER_NETWORKS or name.startswith("container:"):
            return
        rc, out, err = self.docker.docker("network", "inspect", "--format", "{{.Name}}", name, check=False)
        # In check mode it may be one that the play makes.
        if rc != 0 and not self.module.check_mode:
            self.findings.append(
                finding(
                    "clone_network_missing", "error", name, "a network of this host's Docker", "none",
                    "Correct network: docker network ls shows them; Compose puts the name of the project in front.",
                )
            )  # fmt: skip

    def ask(self, volume: Volume, order: Order, owner: str) -> None:
        """Let the primary say who it is, in the way in which it will be cloned. Raises CloneError."""
        rc, out, err = volume.ask(order, owner)
        answer = out.strip().partition("|")[0]
        if rc == 0 and answer == order.system:
            return
        if rc == 0:
            kind, seen = "other_primary", "the server there has system identifier %s, not %s" % (answer, order.system)
        elif rc == making.NOT_READABLE:
            kind, seen = "passfile", "the passfile can't be read by the image's user postgres (%s)" % owner
        else:
            seen = "; ".join(making.said(err)[-3:]) or "return code %d, and no word" % rc
            kind = ""
        known, hint = making.reason_of("system identifier" if kind == "other_primary" else "passfile can't be read" if kind else seen)
        self.result.update(reason=kind or known)
        raise CloneError(
            "Nothing was changed: the primary at %s:%d, asked as %s on the network %s, can't be cloned: %s. %s"
            % (self.params["primary_host"], self.params["primary_port"], self.params["user"], self.params["network"], seen.rstrip("."), hint)
        )

    def differs(self, marker: Marker) -> None:
        """Note what a finished clone was made with, where that is not what is asked for now."""
        wanted = {"host": self.params["primary_host"], "port": self.params["primary_port"], "slot": self.params["slot"]}
        had = {**marker.primary, "slot": marker.slot}
        parts = [name for name in wanted if had.get(name) != wanted[name]]
        if parts:
            self.findings.append(
                finding(
                    "clone_differs", "warning", self.params["volume"],
                    ", ".join("%s %s" % (name, wanted[name]) for name in parts), ", ".join("%s %s" % (name, had.get(name)) for name in parts),
                    "The standby was made with these, and goes on with them. Set primary_conninfo and primary_slot_name on it by ALTER SYSTEM, or"
                    " clone anew with reclone: true.",
                )
            )  # fmt: skip

    def present(self, volume: Volume) -> None:
        inspected, look, maker, verdict = self.read(volume)
        order = self.order()
        self.refused(verdict)
        if self.stopped() or verdict.state == "cloning":
            return
        marker = look.marker
        if verdict.state == "done" and not self.params["reclone"]:
            if maker and not self.module.check_mode:
                volume.forget_maker(maker)
            if marker:
                self.differs(marker)
            return
        finishing = verdict.state == "failed" and verdict.complete
        if inspected is not None:
            self.in_the_way(volume, only_writers=True)
        if not finishing:
            self.judge_room(look)
            self.judge_passfile(volume, look.owner)
            self.judge_network()
        if self.stopped():
            return
        self.result["changed"] = True
        self.result["diff"] = {"before": "%s: %s\n" % (volume.name, verdict.state), "after": "%s: done\n" % volume.name}
        if self.module.check_mode:
            self.result["state"] = "done"
            return
        self.result["changed"] = False
        self.guard.verify()
        if finishing and marker:
            self.begin("finish_clone", verdict, marker)
            volume.finish(look.owner, marker)
        else:
            self.ask(volume, order, look.owner)
            kept = look.id if look.standby == "data" else ""
            params = self.params
            new = making.new_marker(order.system, params["primary_host"], params["primary_port"], order.slot, params["image"], kept)
            self.begin("clone", verdict, new)
            if inspected is None:
                volume.create(params["volume_labels"])
            if maker:
                volume.forget_maker(maker)
            volume.prepare(look.owner, new)
            volume.start(order, look.owner, new)
        self.findings[:] = [item for item in self.findings if item["id"] != "clone_failed"]
        self.read(volume)

    def begin(self, action: str, verdict: Verdict, marker: Marker) -> None:
        self.guard.step(action, self.params["volume"], {"state": verdict.state}, {"primary": marker.primary, "slot": marker.slot, "id": marker.id})
        self.result["changed"] = True

    # -- absent

    def absent(self, volume: Volume) -> None:
        inspected, look, maker, verdict = self.read(volume)
        ours = inspected is not None and volume.ours(inspected)
        if not (ours and look.cleared):
            self.refused(verdict)
        if self.stopped():
            return
        if inspected is not None:
            self.in_the_way(volume, only_writers=False)
        if self.stopped():
            return
        self.findings[:] = [item for item in self.findings if item["id"] != "clone_failed"]
        holders = volume.users() if inspected is not None else []
        removable = ours and not holders and not look.entries
        if ours and not removable:
            self.findings.append(
                finding(
                    "clone_volume_kept", "info", volume.name, "a volume that nobody needs",
                    "; ".join([user.name + " was made with it" for user in holders] + ["it also holds " + name for name in look.entries]),
                    "The clone goes, the volume stays. Remove that container, or what is in there, and run this again.",
                )
            )  # fmt: skip
        if look.marker is None and maker is None and not removable:
            return
        self.result.update(changed=True, diff={"before": "%s: %s\n" % (volume.name, verdict.state), "after": "%s: absent\n" % volume.name})
        if self.module.check_mode:
            self.result.update(state="foreign" if look.entries else "absent", marker={})
            return
        self.result["changed"] = False
        self.guard.verify()
        self.guard.step("remove_clone", volume.name, {"state": verdict.state}, {"volume_removed": removable})
        self.result["changed"] = True
        if maker:
            volume.forget_maker(maker)
        if look.marker is not None:
            if maker and maker.runs:
                # It may just have put its copy in its place.
                look = volume.look(True)
            volume.wipe(look.id if look.standby == "data" else "")
        if removable:
            volume.remove()
        self.read(volume)

    # -- all

    def run(self) -> None:
        """Raises everything that main() knows."""
        image = self.docker.image(self.params["image"])
        if image is None:
            text = "The image %s is not on this host. Correct image, or pull it: docker pull %s" % (self.params["image"], self.params["image"])
            if not self.module.check_mode:
                raise CloneError(text)
            self.module.warn("%s. Only that a clone would be made is predicted." % text)
            self.predicted()
            return
        volume = Volume(self.docker, self.params["volume"], str(image["Id"]))
        state = self.params["state"]
        if state == "read" or self.module.check_mode:
            if state == "read" and self.params["change_token"]:
                # Whoever waits for a clone of hours holds the deployment meanwhile.
                self.guard.verify()
            self.part(volume, state)
            return
        with HostLock(self.params["lock_dir"], "clone-" + volume.name, "postgres_clone", self.params["lock_timeout"]) as lock:
            self.docker.keep_fds.append(lock.fd)
            self.part(volume, state)

    def part(self, volume: Volume, state: str) -> None:
        if state == "present":
            self.present(volume)
        elif state == "absent":
            self.absent(volume)
        else:
            self.refused(self.read(volume)[3])

    def predicted(self) -> None:
        """Put what can be said of a host on which nothing exists yet into the result."""
        if self.params["state"] == "present":
            self.result.update(changed=True, state="done")


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            **LOCK_ARGUMENTS,
            **CHANGE_ARGUMENTS,
            state={"type": "str", "choices": ["present", "absent", "read"], "default": "present"},
            volume={"type": "str", "required": True},
            volume_labels={"type": "dict", "default": {}},
            image={"type": "str", "required": True},
            network={"type": "str"},
            primary_host={"type": "str"},
            primary_port={"type": "int", "default": 5432},
            user={"type": "str"},
            # Names of files, not their content.
            passfile={"type": "path", "no_log": False},
            passfile_in_container={"type": "str", "default": "/run/bd-fhir/passfile", "no_log": False},
            slot={"type": "str"},
            system_identifier={"type": "str", "default": ""},
            application_name={"type": "str", "default": ""},
            settings={"type": "dict", "default": {}},
            hba={"type": "str"},
            max_rate={"type": "str"},
            memory={"type": "str"},
            needed_bytes={"type": "int", "default": 0},
            min_free_bytes={"type": "int", "default": 1 << 30},
            reclone={"type": "bool", "default": False},
            timeout={"type": "int", "default": 43200},
        ),
        required_if=[("state", "present", NEEDED)],
        supports_check_mode=True,
    )
    wrong = judged(module.params)
    if wrong:
        module.fail_json(msg="Nothing was changed: %s" % wrong)
    result: dict[str, Any] = {
        "changed": False,
        "state": "absent",
        "reason": "",
        "failure": "",
        "progress": {"bytes_done": 0, "bytes_total": 0, "percent": 0, "seconds": 0},
        "marker": {},
        "directory": making.DIRECTORY,
        "owner": "",
        "container": "bd-fhir-clone-%s" % module.params["volume"],
        "log": [],
        "findings": [],
    }
    docker = Docker.from_module(module)
    try:
        work = Run(module, docker, result)
        if module.check_mode and not module.get_bin_path("docker"):
            module.warn("There is no docker command on this host: only that a clone would be made is predicted.")
            work.predicted()
        else:
            work.run()
    except (CloneError, ComposeError, ParameterError, ChangeError, LockError) as exc:
        module.fail_json(msg=str(exc), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
