#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_monitor_role
short_description: Keep the role with which an exporter watches a PostgreSQL server
version_added: 1.0.0
description:
  - Converges a role that may log in, is a member of C(pg_monitor), and may do nothing else, on a PostgreSQL that runs in a service of
    the compose project. It sees sessions, sizes and settings, and no row of any table.
  - Whatever its client asks for, it begins read-only, and is stopped after O(statement_timeout) seconds.
  - A role of that name that was there already may belong to somebody else. It is taken only with O(adopt).
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
  database:
    description:
      - Database that the exporter logs in to. The role is let in to it where not everybody is.
    type: str
    required: true
  user:
    description:
      - Name of the role.
    type: str
    required: true
  password_variable:
    description:
      - Name of the variable in the environment file that holds the role's password. Required with O(state=present).
      - The verifier (SCRAM) is computed here, so that the password is in no statement and in no log.
    type: str
  connection_limit:
    description:
      - How many sessions the role may have at a time, so that an exporter that went wild takes none of HAPI's connections.
    type: int
    default: 3
  statement_timeout:
    description:
      - Seconds after which a query of the role is stopped.
    type: int
    default: 10
  adopt:
    description:
      - The role belongs to the caller though it was there before this call, because an earlier run has made it.
    type: bool
    default: false
  state:
    description:
      - Whether the role shall be there. With V(absent), its sessions are ended first.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: dghs.bd_fhir.postgres_passfile
  - module: dghs.bd_fhir.postgres_hba
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Let the exporter watch the server
  dghs.bd_fhir.postgres_monitor_role:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    database: fhirdb
    user: bd_fhir_monitor
    password_variable: FHIR_MONITOR_PASSWORD

- name: The way back
  dghs.bd_fhir.postgres_monitor_role:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    database: fhirdb
    user: bd_fhir_monitor
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, in this order.
  returned: success
  type: list
  elements: str
  sample: [create role bd_fhir_monitor, grant pg_monitor to bd_fhir_monitor]
role:
  description: The role before and after. V(null) where there is none.
  returned: success
  type: dict
  sample:
    before: null
    after: {login: true, privileged: false, monitor: true, connect: true, connection_limit: 3, settings: [], password: scram-sha-256}
"""

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._passwords import kind_of, matches, scram_verifier, unusable
from ..module_utils._postgres import LOGIN_ARGUMENTS, PostgresError, Session, connect, container_of, login_to, secret_of

ROLE = """
SELECT rolcanlogin AS login, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls AS privileged,
       pg_catalog.pg_has_role(oid, 'pg_monitor', 'USAGE') AS monitor,
       pg_catalog.has_database_privilege(oid, pg_catalog.current_database(), 'CONNECT') AS connect,
       rolconnlimit AS connection_limit, rolpassword AS verifier,
       ARRAY(SELECT pg_catalog.unnest(s.setconfig) FROM pg_catalog.pg_db_role_setting s
             WHERE s.setrole = r.oid AND s.setdatabase = 0 ORDER BY 1) AS settings
FROM pg_catalog.pg_authid r WHERE rolname = %s
"""
SHOWN = ("login", "privileged", "monitor", "connect", "connection_limit", "settings")


class MonitorRoleError(Exception):
    """It can't be converged. The text is complete."""


def shown(row: Optional[dict[str, Any]]) -> Optional[dict[str, Any]]:
    """Return what may be seen of a role: the form of its password only. Pure."""
    if row is None:
        return None
    return {**{name: row[name] for name in SHOWN}, "password": kind_of(row["verifier"])}


def wanted_settings(statement_timeout: int) -> list[str]:
    """Return what each session of the role begins with, in the order of the names. Pure."""
    return ["default_transaction_read_only=on", "lock_timeout=2s", "statement_timeout=%ds" % statement_timeout]


def plan(row: Optional[dict[str, Any]], user: str, password: str, limit: int, settings: list[str], adopt: bool) -> list[str]:
    """Return what is to be done, in order. Pure. Raises MonitorRoleError."""
    if row is None:
        actions = ["create role " + user, "grant pg_monitor to " + user]
        return actions + ["set %s of %s" % (setting, user) for setting in settings]
    if not adopt:
        raise MonitorRoleError("There is a role %s already that no run of ours has made. Name another one, or drop it if nobody uses it." % user)
    if row["privileged"]:
        raise MonitorRoleError(
            "The role %s may do more than watch (a superuser, or one that may create, replicate or bypass row security), and that is not given"
            " to an exporter. Take it away, or name another role." % user
        )
    actions = []
    if not (row["login"] and row["connection_limit"] == limit and matches(row["verifier"], password, user)):
        actions.append("alter role " + user)
    if not row["monitor"]:
        actions.append("grant pg_monitor to " + user)
    return actions + ["set %s of %s" % (setting, user) for setting in settings if setting not in row["settings"]]


def text(value: Optional[dict[str, Any]]) -> str:
    """Return one line for a diff. Pure."""
    return "none" if value is None else ", ".join("%s %s" % (name, str(value[name]).lower()) for name in sorted(value))


class MonitorRole:
    """The role of one exporter. Raises the errors that main() knows."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.user: str = params["user"]
        self.service: str = params["service"]
        self.docker = Docker.from_module(module)
        self.password = ""
        if params["state"] == "present":
            self.password = secret_of(self.docker, None, params["password_variable"])
            why = unusable(self.password)
            if why:
                raise MonitorRoleError("Nothing was changed: the password in %s can't be used: %s." % (params["password_variable"], why))
        self.login = login_to(self.docker, container_of(self.docker, self.service), params, params["database"])

    def run(self) -> dict[str, Any]:
        """Converge and return the result."""
        with connect(self.login) as session:
            if session.value("SELECT pg_catalog.pg_is_in_recovery()"):
                raise MonitorRoleError(
                    "%s is a standby, and a role can only be made on its primary. Name the service of the primary." % self.service
                )
            row = self.read(session)
            actions, after = self.decide(session, row)
            result: dict[str, Any] = {"changed": bool(actions), "actions": actions, "role": {"before": shown(row), "after": after}}
            if actions and not self.module.check_mode:
                self.apply(session, row, actions)
                result["role"]["after"] = shown(self.read(session))
        header = "role %s on %s" % (self.user, self.service)
        result["diff"] = {
            "before_header": header,
            "after_header": header,
            **{side: "%s\n" % text(result["role"][side]) for side in ("before", "after")},
        }
        return result

    def read(self, session: Session) -> Optional[dict[str, Any]]:
        """Return the role, None if it is not there."""
        rows = session.rows(ROLE, (self.user,))
        return rows[0] if rows else None

    def decide(self, session: Session, row: Optional[dict[str, Any]]) -> tuple[list[str], Optional[dict[str, Any]]]:
        """Return what is to be done, and the role as it will be seen then. Raises MonitorRoleError."""
        params = self.module.params
        if params["state"] == "absent":
            return (["drop role " + self.user] if row else []), None
        settings = wanted_settings(params["statement_timeout"])
        try:
            actions = plan(row, self.user, self.password, params["connection_limit"], settings, params["adopt"])
        except MonitorRoleError as exc:
            raise MonitorRoleError("Nothing was changed. %s" % exc) from None
        may_connect = (
            bool(row["connect"]) if row else bool(session.value("SELECT pg_catalog.has_database_privilege('public', current_database(), 'CONNECT')"))
        )
        if not may_connect:
            actions.append("grant CONNECT on %s to %s" % (params["database"], self.user))
        names = {setting.split("=", 1)[0] for setting in settings}
        kept = [setting for setting in (row or {}).get("settings", []) if setting.split("=", 1)[0] not in names]
        return actions, {
            "login": True,
            "privileged": False,
            "monitor": True,
            "connect": True,
            "connection_limit": params["connection_limit"],
            "settings": sorted(kept + settings),
            "password": "scram-sha-256",
        }

    def apply(self, session: Session, row: Optional[dict[str, Any]], actions: list[str]) -> None:
        """Do what was planned."""
        from psycopg2 import sql

        guard = ChangeGuard.for_docker(self.module, self.docker)
        role = sql.Identifier(self.user)
        for action in actions:
            guard.step(action, self.service, {"role": shown(row)})
            if action.startswith("drop role "):
                session.rows("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename = %s", (self.user,))
                # What it was granted in this database would keep it.
                session.execute(sql.SQL("DROP OWNED BY {}").format(role))
                session.execute(sql.SQL("DROP ROLE {}").format(role))
            elif action.startswith("grant pg_monitor "):
                session.execute(sql.SQL("GRANT pg_monitor TO {}").format(role))
            elif action.startswith("grant CONNECT "):
                session.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(self.module.params["database"]), role))
            elif action.startswith("set "):
                name, value = action.split()[1].split("=", 1)
                session.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(role, sql.Identifier(name), sql.Literal(value)))
            else:
                session.keep_out_of_logs()
                session.execute(
                    sql.SQL(("CREATE" if row is None else "ALTER") + " ROLE {} LOGIN CONNECTION LIMIT {} PASSWORD {}").format(
                        role, sql.Literal(self.module.params["connection_limit"]), sql.Literal(scram_verifier(self.password))
                    )
                )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **COMPOSE_ARGUMENTS,
            **LOGIN_ARGUMENTS,
            **CHANGE_ARGUMENTS,
            "service": {"type": "str", "required": True},
            "database": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "password_variable": {"type": "str", "no_log": False},
            "connection_limit": {"type": "int", "default": 3},
            "statement_timeout": {"type": "int", "default": 10},
            "adopt": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["password_variable"])],
        supports_check_mode=True,
    )
    params = module.params
    if params["connection_limit"] < 1 or params["statement_timeout"] < 1:
        module.fail_json(msg="connection_limit and statement_timeout must be 1 or more: an exporter without a limit could take every connection.")
    try:
        module.exit_json(**MonitorRole(module).run())
    except (MonitorRoleError, PostgresError, ComposeError, ChangeError) as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
