#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_replication
short_description: Keep on a primary what one streaming standby needs, its role and its slot
version_added: 1.0.0
description:
  - Converges a role that may replicate, and one physical replication slot, on a PostgreSQL that runs in a service of the compose project.
  - Without a slot, a primary throws away WAL that a standby has not read yet, and the standby has to be cloned anew. With one, it keeps
    that WAL, up to C(max_slot_wal_keep_size); set that with M(dghs.bd_fhir.postgres_parameter) before the slot is made.
  - The line in C(pg_hba.conf) is the business of M(dghs.bd_fhir.postgres_hba).
  - A role or a slot of that name that was there already may belong to somebody else. It is taken as it is only with O(adopt).
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows no password and no verifier.
  idempotent:
    support: full
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.change
  - dghs.bd_fhir.attributes
options:
  service:
    description:
      - Service of the primary. It has to have exactly one running container.
    type: str
    required: true
  user:
    description:
      - Name of the role that the standby logs in as.
    type: str
    required: true
  password_variable:
    description:
      - Name of the variable in the environment file that holds the role's password. Required with O(state=present).
      - The verifier (SCRAM) is computed here, so that the password is in no statement and in no log.
    type: str
  slot:
    description:
      - Name of the slot, up to 63 lower-case letters, digits and underscores.
    type: str
    required: true
  monitor:
    description:
      - Whether the role is a member of C(pg_monitor), so that the standby can be watched with it where no other password is known.
      - With V(false) a membership is left as it is.
    type: bool
    default: false
  adopt:
    description:
      - What belongs to the caller though it was there before this call, because an earlier run has made it.
      - Anything else of that name is refused.
    type: list
    elements: str
    choices: [user, slot]
    default: []
  remake_lost_slot:
    description:
      - Drop and make a slot again whose WAL the primary has thrown away. Its standby has to be cloned anew.
      - Without it, such a slot is left and told in RV(findings).
    type: bool
    default: false
  remove:
    description:
      - With O(state=absent), what of the two goes. A role or slot that was there before the first change stays.
    type: list
    elements: str
    choices: [user, slot]
    default: [user, slot]
  state:
    description:
      - With V(absent), the slot goes first and then the role. A slot that a standby reads at this moment is refused.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: dghs.bd_fhir.postgres_hba
  - module: dghs.bd_fhir.postgres_clone
  - module: dghs.bd_fhir.postgres_replication_info
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Let one standby replicate
  dghs.bd_fhir.postgres_replication:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    user: replicator
    password_variable: FHIR_REPLICA_PASSWORD
    slot: bd_fhir_replica

- name: Make a lost slot again, before its standby is cloned anew
  dghs.bd_fhir.postgres_replication:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    user: replicator
    password_variable: FHIR_REPLICA_PASSWORD
    slot: bd_fhir_replica
    adopt: [user, slot]
    remake_lost_slot: true

- name: The way back
  dghs.bd_fhir.postgres_replication:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    user: replicator
    slot: bd_fhir_replica
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, in this order.
  returned: success
  type: list
  elements: str
  sample: [create user replicator, create slot bd_fhir_replica]
user:
  description: The role before and after. V(null) where there is none.
  returned: success
  type: dict
  sample: {before: null, after: {login: true, replication: true, superuser: false, monitor: false, password: scram-sha-256}}
slot:
  description: The slot before and after. V(null) where there is none.
  returned: success
  type: dict
  sample: {before: null, after: {type: physical, active: false, wal_status: reserved}}
findings:
  description:
    - What deserves a look.
    - C(id) is V(slot_lost) (severity V(error)) or V(user_is_superuser) (V(warning)).
  returned: success
  type: list
  elements: dict
  sample: []
"""

import re

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._findings import finding
from ..module_utils._passwords import kind_of, matches, scram_verifier, unusable
from ..module_utils._postgres import LOGIN_ARGUMENTS, PostgresError, Session, connect, container_of, login_to, secret_of

SLOT = re.compile(r"[a-z0-9_]{1,63}\Z")
ROLE = """
SELECT rolcanlogin AS login, rolreplication AS replication, rolsuper AS superuser, rolpassword AS verifier,
       pg_catalog.pg_has_role(oid, 'pg_monitor', 'USAGE') AS monitor
FROM pg_catalog.pg_authid WHERE rolname = %s
"""
SLOTS = """
SELECT s.slot_type AS type, s.active, s.wal_status, s.active_pid, a.application_name, host(a.client_addr) AS client
FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = %s
"""


class ReplicationError(Exception):
    """It can't be converged. The text is complete."""


def shown_role(row: Optional[dict[str, Any]]) -> Optional[dict[str, Any]]:
    """Return what may be seen of a role: the form of its password only. Pure."""
    if row is None:
        return None
    return {**{name: row[name] for name in ("login", "replication", "superuser", "monitor")}, "password": kind_of(row["verifier"])}


def shown_slot(row: Optional[dict[str, Any]]) -> Optional[dict[str, Any]]:
    """Return what is told of a slot. Pure."""
    return None if row is None else {name: row[name] for name in ("type", "active", "wal_status")}


def refused_role(row: Optional[dict[str, Any]], user: str, password: str, mine: bool, monitor: bool = False) -> str:
    """Return why a role can't be used, "" if it can. Pure."""
    if row is None or mine:
        return ""
    good = row["login"] and row["replication"] and matches(row["verifier"], password, user)
    if good and monitor and not row["monitor"]:
        return (
            "There is a role %s already that no run of ours has made, and it is no member of pg_monitor, with which the standby is watched."
            " Grant it, or name another role." % user
        )
    if good:
        return ""
    return (
        "There is a role %s already that no run of ours has made, and it %s. Name another one, or, if it is there for this standby, give it"
        " LOGIN and REPLICATION and the password that the environment file holds."
        % (user, "has another password" if row["login"] and row["replication"] else "may not log in or not replicate")
    )


def refused_slot(row: Optional[dict[str, Any]], name: str, mine: bool) -> str:
    """Return why a slot can't be used, "" if it can. Pure."""
    if row is None:
        return ""
    user = ""
    if row["active"]:
        user = ", read by %s from %s" % (row["application_name"] or "a client without a name", row["client"] or "the server's own host")
    if row["type"] != "physical":
        return "The slot %s is a %s one%s, which no standby reads. Name another one." % (name, row["type"], user)
    if not mine:
        return "There is a slot %s already that no run of ours has made%s. A slot serves one standby only: name another one." % (name, user)
    return ""


class Replication:
    """The role and the slot of one standby. Raises the errors that main() knows."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.user: str = params["user"]
        self.slot: str = params["slot"]
        self.service: str = params["service"]
        self.docker = Docker.from_module(module)
        self.password = ""
        if params["state"] == "present":
            self.password = secret_of(self.docker, None, params["password_variable"])
            why = unusable(self.password)
            if why:
                raise ReplicationError("The password in %s can't be used: %s. Set another one." % (params["password_variable"], why))
        self.login = login_to(self.docker, container_of(self.docker, self.service), params, "postgres")
        self.actions: list[str] = []
        self.findings: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Converge and return the result."""
        with connect(self.login) as session:
            if session.value("SELECT pg_catalog.pg_is_in_recovery()"):
                raise ReplicationError(
                    "%s is a standby itself, and a role can only be made on a primary. Name the service of the primary." % self.service
                )
            role, slot = self.read(session)
            wanted_role, wanted_slot = self.plan(role, slot)
            result: dict[str, Any] = {
                "changed": bool(self.actions),
                "actions": self.actions,
                "user": {"before": shown_role(role), "after": wanted_role},
                "slot": {"before": shown_slot(slot), "after": wanted_slot},
                "findings": self.findings,
            }
            if self.actions and not self.module.check_mode:
                self.apply(session, role, slot)
                role, slot = self.read(session)
                result["user"]["after"], result["slot"]["after"] = shown_role(role), shown_slot(slot)
        header = "replication on %s" % self.service
        result["diff"] = {
            "before_header": header,
            "after_header": header,
            **{
                side: "user %s: %s\nslot %s: %s\n" % (self.user, text(result["user"][side]), self.slot, text(result["slot"][side]))
                for side in ("before", "after")
            },
        }
        return result

    def read(self, session: Session) -> tuple[Optional[dict[str, Any]], Optional[dict[str, Any]]]:
        """Return the role and the slot, None for each that is not there."""
        found = []
        for query, name in ((ROLE, self.user), (SLOTS, self.slot)):
            rows = session.rows(query, (name,))
            found.append(rows[0] if rows else None)
        return found[0], found[1]

    def plan(self, role: Optional[dict[str, Any]], slot: Optional[dict[str, Any]]) -> tuple[Optional[dict[str, Any]], Optional[dict[str, Any]]]:
        """Decide what is to be done, and return the role and the slot as they will be seen then. Raises ReplicationError."""
        params = self.module.params
        if params["state"] == "absent":
            if slot and "slot" in params["remove"]:
                if slot["active"]:
                    raise ReplicationError(
                        "The slot %s is read by %s from %s at this moment, so it can't be dropped. Stop that standby first."
                        % (self.slot, slot["application_name"] or "a client without a name", slot["client"] or "the server's own host")
                    )
                self.actions.append("drop slot " + self.slot)
            if role and "user" in params["remove"]:
                self.actions.append("drop user " + self.user)
            return (
                None if "user" in params["remove"] else shown_role(role),
                None if "slot" in params["remove"] else shown_slot(slot),
            )
        for why in (
            refused_role(role, self.user, self.password, "user" in params["adopt"], params["monitor"]),
            refused_slot(slot, self.slot, "slot" in params["adopt"]),
        ):
            if why:
                raise ReplicationError("Nothing was changed. " + why)
        if role and role["superuser"]:
            self.findings.append(
                finding("user_is_superuser", "warning", self.user, "a role that may only replicate", "a superuser", "Name another role.")
            )
        if role is None:
            self.actions.append("create user " + self.user)
        elif not (role["login"] and role["replication"] and matches(role["verifier"], self.password, self.user)):
            self.actions.append("alter user " + self.user)
        monitor = bool(role and role["monitor"])
        if params["monitor"] and not monitor:
            self.actions.append("grant pg_monitor to " + self.user)
        lost = slot is not None and slot["wal_status"] == "lost"
        if lost and not params["remake_lost_slot"]:
            self.findings.append(
                finding(
                    "slot_lost", "error", self.slot, "a slot that holds the WAL its standby needs", "lost",
                    "The primary has thrown that WAL away, because max_slot_wal_keep_size was passed. Clone the standby anew.",
                )  # fmt: skip
            )
        if lost and params["remake_lost_slot"]:
            self.actions += ["drop slot " + self.slot, "create slot " + self.slot]
        elif slot is None:
            self.actions.append("create slot " + self.slot)
        after = shown_slot(slot)
        if slot is None or (lost and params["remake_lost_slot"]):
            after = {"type": "physical", "active": False, "wal_status": "reserved"}
        superuser = bool(role and role["superuser"])
        return {
            "login": True,
            "replication": True,
            "superuser": superuser,
            "monitor": monitor or params["monitor"],
            "password": "scram-sha-256",
        }, after

    def apply(self, session: Session, role: Optional[dict[str, Any]], slot: Optional[dict[str, Any]]) -> None:
        """Do what was planned."""
        from psycopg2 import sql

        guard = ChangeGuard.for_docker(self.module, self.docker)
        before = {"user": shown_role(role), "slot": shown_slot(slot)}
        for action in self.actions:
            guard.step(action, self.service, before)
            if action.startswith("drop slot "):
                session.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", (self.slot,))
            elif action.startswith("create slot "):
                # Reserved at once: what is written while the standby is cloned has to be there when it starts.
                session.execute("SELECT pg_catalog.pg_create_physical_replication_slot(%s, true)", (self.slot,))
            elif action.startswith("drop user "):
                session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(self.user)))
            elif action.startswith("grant pg_monitor "):
                session.execute(sql.SQL("GRANT pg_monitor TO {}").format(sql.Identifier(self.user)))
            else:
                session.keep_out_of_logs()
                verb = "CREATE" if role is None else "ALTER"
                session.execute(
                    sql.SQL(verb + " ROLE {} LOGIN REPLICATION PASSWORD {}").format(
                        sql.Identifier(self.user), sql.Literal(scram_verifier(self.password))
                    )
                )


def text(value: Optional[dict[str, Any]]) -> str:
    """Return one line for a diff. Pure."""
    return "none" if value is None else ", ".join("%s %s" % (name, str(value[name]).lower()) for name in sorted(value))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **COMPOSE_ARGUMENTS,
            **LOGIN_ARGUMENTS,
            **CHANGE_ARGUMENTS,
            "service": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "password_variable": {"type": "str", "no_log": False},
            "slot": {"type": "str", "required": True},
            "monitor": {"type": "bool", "default": False},
            "adopt": {"type": "list", "elements": "str", "choices": ["user", "slot"], "default": []},
            "remake_lost_slot": {"type": "bool", "default": False},
            "remove": {"type": "list", "elements": "str", "choices": ["user", "slot"], "default": ["user", "slot"]},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["password_variable"])],
        supports_check_mode=True,
    )
    if not SLOT.match(module.params["slot"]):
        module.fail_json(
            msg="slot %r can't be a name of a slot: it takes 1 to 63 lower-case letters, digits and underscores." % module.params["slot"]
        )
    try:
        module.exit_json(**Replication(module).run())
    except (ReplicationError, PostgresError, ComposeError, ChangeError) as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
