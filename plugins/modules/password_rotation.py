#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: password_rotation
short_description: Begin, write down and end the change of one password of a compose project
version_added: 1.0.0
description:
  - Keeps the thread of a password's rotation, so that it can be cut anywhere and taken up again.
  - With O(state=started) the old password (from the environment file) and the new one are put on disk before any server has the new one.
    M(dghs.bd_fhir.pgbouncer_user) and M(dghs.bd_fhir.postgres_password) then bring it to the servers,
    O(state=written) puts it into the environment file, and O(state=finished) forgets it and keeps the old one for the way back.
  - Neither password leaves the host. The record is a file of mode 0600 in a directory of mode 0700 beside the journal,
    C(/var/lib/dghs-bd-fhir/<project>/rotations/<name>.json); passwords are in no result, diff, journal or error.
  - No server and no container is touched by this module.
attributes:
  check_mode:
    support: full
    details:
      - Says what would be begun, and which services the new value would make outdated. A password is not generated.
  diff_mode:
    support: full
    details:
      - Shows states and names only.
  idempotent:
    support: full
    details:
      - A password is generated again only when the last rotation is older than O(older_than).
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.change
  - dghs.bd_fhir.attributes
options:
  name:
    description:
      - Name of the secret, by which the other modules find the rotation.
    type: str
    required: true
  variable:
    description:
      - Name in the environment file that holds the password.
    type: str
    required: true
  role:
    description:
      - PostgreSQL role that has the password.
    type: str
    required: true
  database_service:
    description:
      - Service whose PostgreSQL knows the role.
    type: str
    required: true
  state:
    description:
      - V(started) opens a rotation, or takes up the one that is open.
      - V(written) puts the new password into the environment file. Needs one that is open.
      - V(finished) ends it. Refused while the environment file says something else.
    type: str
    choices: [started, written, finished]
    default: started
  new_password:
    description:
      - The new password, with O(state=started). Without it one is generated, of 40 letters and digits.
      - Is refused when it could not arrive everywhere as it is, or is easy to guess.
    type: str
  min_length:
    description:
      - Least number of characters of O(new_password).
    type: int
    default: 12
  older_than:
    description:
      - Hours since the last rotation within which none with a generated password is begun, so that a second run changes nothing.
    type: float
    default: 24
  reverse:
    description:
      - Begin the way back to the password before the last rotation, or turn the one that is open around.
      - Does nothing when there is nothing to go back to.
    type: bool
    default: false
  guard_allow:
    description:
      - Services that may get another configuration hash when the environment file changes. Any other one is refused,
        already with O(state=started).
    type: list
    elements: str
    default: []
seealso:
  - module: dghs.bd_fhir.postgres_password
  - module: dghs.bd_fhir.pgbouncer_user
  - module: dghs.bd_fhir.env_file
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Begin, or take up what a killed run has left
  dghs.bd_fhir.password_rotation: &rotation
    project_dir: /opt/bd-fhir-national
    name: fhir_app
    variable: FHIR_DB_APP_PASSWORD
    role: hapi_app
    database_service: postgres-fhir
    guard_allow: [hapi, pgbouncer-fhir, postgres-fhir]
  register: rotation

- name: Bring it to the server
  dghs.bd_fhir.postgres_password:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    role: hapi_app
    database: fhirdb
    rotation: fhir_app
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
  when: rotation.open

- name: Write it into .env
  dghs.bd_fhir.password_rotation:
    <<: *rotation
    state: written
  when: rotation.open

- name: End it
  dghs.bd_fhir.password_rotation:
    <<: *rotation
    state: finished
"""

RETURN = r"""
name:
  description: Name of the secret.
  type: str
  returned: success
  sample: fhir_app
open:
  description: Whether a rotation is open afterwards. In check mode as predicted.
  type: bool
  returned: success
  sample: true
resumed:
  description: Whether it was open before.
  type: bool
  returned: success
  sample: false
reverse:
  description: Whether what is open, or was last, is a way back.
  type: bool
  returned: success
  sample: false
generated:
  description: Whether the new password is a generated one.
  type: bool
  returned: success
  sample: true
reason:
  description: Why a rotation is begun, or is not.
  type: str
  returned: success
  sample: no rotation is known
last_finished:
  description: When the last rotation ended, in UTC. Empty if none is known.
  type: str
  returned: success
  sample: "2026-11-25T21:04:09Z"
can_go_back:
  description: Whether the password before is remembered.
  type: bool
  returned: success
  sample: true
hash_changes:
  description: Services that the next C(docker compose up) recreates because of the new value in the environment file.
  type: list
  elements: dict
  returned: success
  sample:
    - service: hapi
      before: 2342948a4783bb5befc14de45d899cb084112c0cb526a15edb6bc4e5912ba749
      after: 37a55ba4de69fa75711c8f7bfcbbfa99edfb16f6d387753eb30cbc7d360b704e
      reason: changes in environment (HAPI_DATASOURCE_PASSWORD)
path:
  description: The record on the host. Its text is secret.
  type: str
  returned: success
  sample: /var/lib/dghs-bd-fhir/bd-fhir-national/rotations/fhir_app.json
"""

import json
import os
import shutil
import tempfile
import time

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard, iso
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker, read_env_text
from ..module_utils._dotenv import DotenvError, parse, set_value, valid_name, values_of
from ..module_utils._files import replace_file, to_bytes
from ..module_utils._passwords import GENERATED_LENGTH, generate, unusable, weak
from ..module_utils._postgres import PostgresError, secret_of
from ..module_utils._quoting import QuotingError
from ..module_utils._rotation import BACK, DONE, Record, RotationError, load, path_of, save


def due(record: Optional[Record], current: str, wanted: Optional[str], older_than: float, now: float) -> tuple[bool, str]:
    """Return whether a rotation forward is to be begun, and why (not). Pure."""
    if wanted is not None:
        if wanted == current:
            return False, "the environment file has this password already"
        return True, "another password was given"
    if record is None or record.state == BACK:
        return True, "no rotation is known" if record is None else "the last rotation was taken back"
    age = (now - record.at) / 3600
    if not record.wrote(current):
        return True, "the password was changed past this collection since the last rotation"
    if age < older_than:
        return False, "the last rotation ended %.1f hours ago, which is less than older_than (%g)" % (max(age, 0), older_than)
    return True, "the last rotation ended %.1f hours ago" % age


def describe(record: Optional[Record]) -> str:
    """Return one line about a record for a diff, without secrets. Pure."""
    if record is None:
        return "no rotation\n"
    back = ", way back" if record.reverse else ""
    return "%s of %s for %s: %s%s\n" % (record.variable, record.database_service, record.role, record.state, back)


class Rotation:
    """Reads and writes the record and the environment file. Raises RotationError, PostgresError, ComposeError, DotenvError, OSError, ChangeError."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.docker = Docker.from_module(module)
        self.guard = ChangeGuard.for_docker(module, self.docker)
        self.path = path_of(self.docker.project_name(), self.params["name"])
        self.before = load(self.path)
        self.current = secret_of(self.docker, None, self.params["variable"])
        self.now = time.time()
        self.changes: list[dict[str, Any]] = []
        known = [self.current, self.params["new_password"] or ""]
        if self.before:
            known += [self.before.old, self.before.new]
            self.same_secret(self.before)
        module.no_log_values.update(item for item in known if len(item) > 3)

    def same_secret(self, record: Record) -> None:
        """Refuse a record that was made for something else under this name."""
        told = {key: self.params[key] for key in ("variable", "role", "database_service")}
        for key, value in told.items():
            if getattr(record, key) != value:
                if not record.open:
                    raise RotationError(
                        "The record %s is of %s %s, and now it is %s. Give the secret another name, or move the record away"
                        " if nobody needs the way back any more." % (self.path, key, getattr(record, key), value)
                    )
                raise RotationError(
                    "A rotation of %s is open, with %s %s where now it is %s. Finish it with the same values first."
                    % (record.name, key, getattr(record, key), value)
                )

    def started(self) -> tuple[Optional[Record], str]:
        """Return the record that is wanted, and why."""
        record, wanted = self.before, self.params["new_password"]
        if record and record.open:
            if self.params["reverse"] and not record.reverse:
                return record.turned(self.now), "the rotation that is open is turned around"
            if record.reverse and not self.params["reverse"]:
                raise RotationError("A way back of the password %s is open. Finish it by running the rollback again." % record.name)
            if not record.reverse and wanted is not None and wanted != record.new:
                raise RotationError(
                    "A rotation of %s to another new password is open, and a server may have that one already. Finish it without giving"
                    " a password, or roll it back; then rotate again." % record.name
                )
            return record, "taken up where the last run was cut"
        base = record or Record(self.params["name"], self.params["variable"], self.params["role"], self.params["database_service"])
        if self.params["reverse"]:
            if record is None or record.state != DONE:
                return record, "there is no rotation to go back from"
            if not record.wrote(self.current):
                raise RotationError(
                    "The value of %s in %s is not what the last rotation wrote: somebody has changed it since, and the password before"
                    " that rotation would undo the later change. Rotate to a new password instead." % (record.variable, self.docker.env_file)
                )
            return base.opened(self.current, record.old, True, False, self.now), "the last rotation is taken back"
        begin, reason = due(record, self.current, wanted, self.params["older_than"], self.now)
        if not begin:
            return record, reason
        generated = wanted is None
        new = generate() if wanted is None else wanted
        self.acceptable(new)
        return base.opened(self.current, new, False, generated, self.now), reason

    def acceptable(self, new: str) -> None:
        """Refuse a new password that could not arrive, or is weak."""
        why = unusable(new) or weak(new, self.params["role"], self.params["min_length"])
        if why:
            raise RotationError("Nothing was changed: the new password for %s can't be used: %s." % (self.params["role"], why))

    def env_with(self, value: str) -> tuple[str, str]:
        """Return the environment file's text as it is, and with the value; remembers which services change and refuses others."""
        text = read_env_text(self.docker.env_file)
        wanted = set_value(text, self.params["variable"], value)
        if values_of(parse(text)).get(self.params["variable"]) == value:
            return text, text
        self.readable(wanted, value)
        self.changes = self.docker.hash_changes({self.docker.env_file: wanted})
        refused = [item for item in self.changes if item["service"] not in self.params["guard_allow"]]
        if refused:
            raise RotationError(
                "Nothing was changed: with a new value of %s in %s the next `docker compose up` would recreate services that"
                " guard_allow does not name. %s. Name them among the consumers of the secret if they use it, or keep the variable out of them."
                % (self.params["variable"], self.docker.env_file, "; ".join("%s: %s" % (item["service"], item["reason"]) for item in refused))
            )
        return text, wanted

    def readable(self, text: str, value: str) -> None:
        """Ask the Compose on this host what it would give to a container from the new text."""
        variable = self.params["variable"]
        directory = tempfile.mkdtemp(prefix="rotation-", dir=self.module.tmpdir)  # 0700
        try:
            candidate = os.path.join(directory, "candidate.env")
            with open(candidate, "wb") as handle:
                handle.write(to_bytes(text))
            config = {"services": {"reader": {"image": "none", "environment": {variable: "${%s}" % variable}}}}
            out = self.docker.compose(
                "config", "--format", "json", files=["-"], data=json.dumps(config), env_file=candidate, project_dir=directory, name="rotation-check"
            )[1]
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        # `config` doubles each dollar sign so that its output can be read again.
        if json.loads(out)["services"]["reader"]["environment"][variable].replace("$$", "$") != value:
            raise RotationError(
                "Nothing was changed: Compose would not give a container the new value of %s. Is it also set in the environment of the"
                " remote user, or twice in %s? Otherwise this is a fault of this module; please report it." % (variable, self.docker.env_file)
            )

    def opened(self, what: str) -> Record:
        """Return the record, which has to be open."""
        if self.before is None or not self.before.open:
            raise RotationError(
                "There is no open rotation of %s to be %s (%s). Run it with state started first." % (self.params["name"], what, self.path)
            )
        return self.before

    def arrived(self, record: Record) -> None:
        """Make sure that Compose reads from the environment file what was written into it."""
        self.docker.invalidate()
        if self.docker.env_values().get(record.variable) != record.new:
            raise RotationError(
                "%s was written, but %s reads back differently. Another program changes it too." % (self.docker.env_file, record.variable)
            )


def run(module: AnsibleModule) -> dict[str, Any]:
    """Converge and return the result."""
    rotation = Rotation(module)
    record, state = rotation.before, module.params["state"]
    wanted: Optional[Record] = record
    text = new_text = ""
    if state == "started":
        wanted, reason = rotation.started()
        if wanted and wanted.open:
            # In check mode too: a service that nobody expects is to be found before the first change.
            dummy, new_text = rotation.env_with(wanted.new)
    elif state == "written":
        record = wanted = rotation.opened("written")
        text, new_text = rotation.env_with(record.new)
        reason = "the servers have the new password"
    else:
        reason = "the new password is everywhere"
        if record and record.open:
            if rotation.current != record.new:
                raise RotationError(
                    "The rotation of %s can't end: %s in %s is not the new password yet. Run it with state written first."
                    % (record.name, record.variable, rotation.docker.env_file)
                )
            wanted = record.finished(rotation.now)
    changed = text != new_text if state == "written" else wanted != record
    if changed and not module.check_mode:
        rotation.guard.step(
            "password rotation %s" % state,
            "%s (role %s of %s)" % (module.params["variable"], module.params["role"], module.params["database_service"]),
            describe(record).strip(),
            describe(wanted).strip(),
        )
        if state == "written" and record is not None:
            replace_file(rotation.docker.env_file, new_text)
            rotation.arrived(record)
        elif wanted is not None:
            save(rotation.path, wanted)
    ended = rotation.before if rotation.before and not rotation.before.open else wanted if wanted and not wanted.open else None
    line = "%s=(%s)\n" % (module.params["variable"], "hidden")
    diff = {"before_header": rotation.path, "after_header": rotation.path, "before": describe(record), "after": describe(wanted)}
    if state == "written":
        diff = {
            "before_header": rotation.docker.env_file,
            "after_header": rotation.docker.env_file,
            "before": line,
            "after": line.replace("hidden", "changed, hidden") if changed else line,
        }
    return {
        "changed": changed,
        "name": module.params["name"],
        "open": wanted is not None and wanted.open,
        "resumed": record is not None and record.open,
        "reverse": wanted is not None and wanted.reverse,
        "generated": wanted is not None and wanted.generated,
        "reason": reason,
        "last_finished": iso(ended.at) if ended else "",
        "can_go_back": wanted is not None and (wanted.state == DONE or (wanted.open and not wanted.reverse)),
        "hash_changes": rotation.changes,
        "path": rotation.path,
        "diff": diff,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            name={"type": "str", "required": True},
            variable={"type": "str", "required": True},
            role={"type": "str", "required": True},
            database_service={"type": "str", "required": True},
            state={"type": "str", "choices": ["started", "written", "finished"], "default": "started"},
            new_password={"type": "str", "no_log": True},
            min_length={"type": "int", "default": 12},
            older_than={"type": "float", "default": 24},
            reverse={"type": "bool", "default": False},
            guard_allow={"type": "list", "elements": "str", "default": []},
            **CHANGE_ARGUMENTS,
        ),
        supports_check_mode=True,
    )
    params = module.params
    if not valid_name(params["variable"]):
        module.fail_json(msg="%r can't be the name of a variable." % params["variable"])
    if not 1 <= params["min_length"] <= GENERATED_LENGTH:
        module.fail_json(msg="min_length is %d, but has to be from 1 to %d." % (params["min_length"], GENERATED_LENGTH))
    if params["new_password"] is not None and (params["reverse"] or params["state"] != "started"):
        module.fail_json(msg="new_password belongs to state started, and not to a way back, which knows its own.")
    try:
        result = run(module)
    except (RotationError, PostgresError, ComposeError, ChangeError) as exc:
        module.fail_json(msg=str(exc))
    except QuotingError as exc:
        module.fail_json(msg="Nothing was changed: the new password can't be written to the environment file: %s." % exc)
    except DotenvError as exc:
        module.fail_json(msg="The environment file can't be read: %s. Correct that line by hand." % exc)
    except OSError as exc:
        module.fail_json(msg="The environment file could not be read or replaced: %s. Use become if it belongs to another user." % exc)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
