#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_password
short_description: Set the password of a PostgreSQL role, and reload the poolers in the same moment
version_added: 1.0.0
description:
  - Converges the password of a role on a PostgreSQL that runs in the compose project. E(POSTGRES_PASSWORD) and what an init script reads
    do nothing on a volume that is initialised; only C(ALTER ROLE) does.
  - The verifier is computed here, so that the password is in no statement, and therefore in no log of the server.
  - Sessions that are logged in stay. Between the server's change and that of a pooler the pooler could make no new connection, and would
    then wait for its C(server_login_retry); so the poolers in O(poolers), whose files have to be laid ready by
    M(dghs.bd_fhir.pgbouncer_user), are reloaded over consoles that were opened before, within milliseconds.
  - Afterwards logins prove it, at the server and through each pooler, on a connection that the pooler makes afresh. The new password
    has to be let in and the old one refused.
attributes:
  check_mode:
    support: full
    details:
      - Logins are tried in check mode too. What they say is in RV(logins), so that a play can tell which password counts where.
  diff_mode:
    support: full
    details:
      - Shows forms of verifiers only.
  idempotent:
    support: full
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.role_password
  - dghs.bd_fhir.change
  - dghs.bd_fhir.attributes
options:
  service:
    description:
      - Service of the PostgreSQL server. It has to have exactly one running container.
    type: str
    required: true
  role:
    description:
      - The role, which has to exist.
    type: str
    required: true
  database:
    description:
      - Database in which the logins are proven.
    type: str
    default: postgres
  encryption:
    description:
      - Form in which the server keeps it. V(auto) is the one that the role has now, so that no client is locked out that knows no
        other; for a role without a password it is V(scram-sha-256).
    type: str
    choices: [auto, scram-sha-256, md5]
    default: auto
  poolers:
    description:
      - The pgBouncers that log in to this server as O(role).
    type: list
    elements: dict
    default: []
    suboptions:
      service:
        description:
          - Service of the pooler. It has to have exactly one running container.
        type: str
        required: true
      database:
        description:
          - Database of the pooler through which the login is proven. By default O(database).
        type: str
      admin_user:
        description:
          - User of the admin console. By default O(role).
        type: str
      admin_password:
        description:
          - Its password.
        type: str
      admin_password_variable:
        description:
          - Name in the environment file of the project that holds the password of the admin user.
          - If that is the O(role), the wanted password and the one before are tried as well.
        type: str
      port:
        description:
          - Port on which the pooler listens inside of its container. Found out by default.
        type: int
  before_restart:
    description:
      - A restart of the server follows. Refuses while a base backup is taken, which that would break off, and, outside of check mode, has the
        server write what is in its memory (C(CHECKPOINT)), so that it ends soon when it is stopped.
    type: bool
    default: false
  login_user:
    description:
      - Superuser, or a role that may alter O(role). May be O(role) itself.
  login_password_variable:
    description:
      - Name in the environment file of the project that holds the password of O(login_user).
      - If the O(rotation) is of this variable, its new and its old password are tried.
seealso:
  - module: dghs.bd_fhir.pgbouncer_user
  - module: dghs.bd_fhir.password_rotation
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Give the maintenance role the password that .env says
  dghs.bd_fhir.postgres_password:
    project_dir: /opt/bd-fhir-national
    service: postgres-audit
    role: audit_maintainer_login
    database: auditdb
    password_variable: AUDIT_DB_MAINTAINER_PASSWORD
    login_password_variable: AUDIT_DB_SUPERUSER_PASSWORD

- name: Change the application's password at the server and reload its pooler in the same moment
  dghs.bd_fhir.postgres_password:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    role: hapi_app
    database: fhirdb
    rotation: fhir_app
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    poolers:
      - service: pgbouncer-fhir
        admin_password_variable: FHIR_DB_APP_PASSWORD

- name: Fail when .env does not hold the password that the server takes, and change nothing
  dghs.bd_fhir.postgres_password:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    role: hapi_app
    database: fhirdb
    password_variable: FHIR_DB_APP_PASSWORD
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
  check_mode: true
  register: server
  failed_when: server is failed or server is changed
"""

RETURN = r"""
role:
  description: The role.
  type: str
  returned: success
  sample: hapi_app
encryption_before:
  description: Form of the verifier that the server had, V(none) for a role without a password.
  type: str
  returned: success
  sample: scram-sha-256
encryption:
  description: Form of the verifier that it has now.
  type: str
  returned: success
  sample: scram-sha-256
altered:
  description: Whether the server was changed.
  type: bool
  returned: success
  sample: true
reloaded:
  description: The poolers that were reloaded.
  type: list
  elements: str
  returned: success
  sample: [pgbouncer-fhir]
gap_seconds:
  description: Time from the server's change to the answer of the last pooler that was reloaded.
  type: float
  returned: success
  sample: 0.004
logins:
  description: What the logins said that were tried; in check mode those before, otherwise those afterwards.
  type: list
  elements: dict
  returned: success
  contains:
    service:
      description: Service of the server or the pooler.
      type: str
    password:
      description: Which one was tried, V(wanted) or V(old), the one before the rotation.
      type: str
    accepted:
      description: Whether it was let in. For a pooler, up to the server.
      type: bool
    kind:
      description:
        - Why it was not. V(password) was refused, V(pooled) by the server behind the pooler, V(timeout), V(unreachable) and others.
      type: str
    detail:
      description: What came back when it was not.
      type: str
  sample:
    - service: postgres-fhir
      password: wanted
      accepted: true
      kind: ""
      detail: ""
findings:
  description: What deserves a look.
  type: list
  elements: dict
  returned: success
  sample: []
"""

import dataclasses
import time

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._findings import finding
from ..module_utils._passwords import MD5, SCRAM, kind_of, matches, verifier_of
from ..module_utils._pgbouncer import CONSOLE_ARGUMENTS, PgbouncerError
from ..module_utils._postgres import LOGIN_ARGUMENTS, Login, PostgresError, Session, address_of, connect, container_of
from ..module_utils._rotation import (
    PASSWORD_ARGUMENTS,
    PASSWORD_SOURCES,
    Attempt,
    OpenPooler,
    Passwords,
    RotationError,
    attempt,
    attempt_through,
    checks_passwords,
    passwords_of,
    pooler_takes,
    prove_fresh_server,
    server_keys,
    stored_verifier,
)
from ..module_utils._userlist import UserlistError, password_of

PORT = 5432
WANTED = "wanted"
OLD = "old"
ROLE = """
SELECT rolcanlogin, rolvaliduntil <= pg_catalog.now() AS expired, rolvaliduntil::text AS valid_until
FROM pg_catalog.pg_roles WHERE rolname = %s
"""


def wanted_encryption(wish: str, before: str) -> str:
    """Return the form in which the server shall keep it. Pure."""
    if wish != "auto":
        return wish
    return before if before in (SCRAM, MD5) else SCRAM


def no_login(found: Optional[dict[str, Any]], role: str, service: str) -> str:
    """Return why nobody could log in as a role, whatever its password, "" if somebody could. Pure."""
    if found is None:
        return "The role %s does not exist on %s. Check its spelling, which is case-sensitive." % (role, service)
    if not found["rolcanlogin"]:
        return "The role %s on %s may not log in (NOLOGIN), so a password is of no use to it. Name the role that logs in." % (role, service)
    if found["expired"]:
        return "The password of %s on %s is valid until %s, which is over, so that no password would be let in. ALTER ROLE ... VALID UNTIL first." % (
            role,
            service,
            found["valid_until"],
        )
    return ""


class Pooler(OpenPooler):
    """One running pooler, and what it says of the role before the change."""

    def __init__(self, docker: Docker, options: dict[str, Any], role: str, passwords: Passwords, database: str, timeout: int) -> None:
        """Raises PgbouncerError, PostgresError, ComposeError."""
        super().__init__(docker, options, role, passwords, options["database"] or database, timeout)
        self.auth_query = bool(self.config.get("auth_user"))
        self.checks = checks_passwords(self.login, pooler=True)
        self.takes = pooler_takes(self.login)
        self.servers = server_keys(self.console, role)

    def ready(self, role: str, password: str, verifier: str) -> str:
        """Return why the pooler could not use the new password after a RELOAD, "" if it could. Raises UserlistError, ComposeError."""
        entry = password_of(self.file.read(), role) if self.file else None
        if entry is None:
            return "" if self.auth_query else "has no user %s in its auth_file" % role
        if not matches(entry, password, role):
            return "has another password for %s in its auth_file" % role
        kind = kind_of(entry)
        if kind in (SCRAM, MD5) and entry != verifier:
            return (
                "has a verifier for %s in its auth_file that is not the one which the server is going to have (%s here, %s there), and could"
                " not log in with it" % (role, kind, kind_of(verifier))
            )
        if kind_of(verifier) == SCRAM and self.version < (1, 11):
            return "is pgBouncer %s, which can't log in by SCRAM; that came with 1.11" % ".".join(str(part) for part in self.version)
        return ""


class Password:
    """The password of one role. Raises the errors that main() knows."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.role: str = params["role"]
        self.service: str = params["service"]
        self.docker = Docker.from_module(module)
        self.passwords = passwords_of(module, self.docker, self.role)
        self.container = container_of(self.docker, self.service)
        self.login = Login(
            address_of(self.container, PORT), PORT, self.role, self.passwords.wanted, params["database"], params["connect_timeout"]
        )
        self.poolers: list[Pooler] = []
        self.findings: list[dict[str, Any]] = []

    def session(self) -> Session:
        """Open the session that alters, with the first password that is let in."""
        params = self.module.params
        candidates = self.passwords.candidates(
            self.docker, params["login_user"], self.role, params["login_password"], params["login_password_variable"]
        )
        error: Optional[PostgresError] = None
        for password in candidates:
            try:
                return connect(dataclasses.replace(self.login, user=params["login_user"], password=password, database="postgres"))
            except PostgresError as exc:
                if exc.kind != "password":
                    raise
                error = error or exc
        raise error or PostgresError("There is no password to try at the server.")

    def run(self) -> dict[str, Any]:
        """Converge and return the result."""
        with self.session() as session:
            try:
                for options in self.module.params["poolers"]:
                    self.poolers.append(
                        Pooler(self.docker, options, self.role, self.passwords, self.login.database, self.login.connect_timeout)
                    )
                result = self.converge(session)
                if self.module.params["before_restart"]:
                    self.before_restart(session)
                return result
            finally:
                for pooler in self.poolers:
                    pooler.console.close()

    def converge(self, session: Session) -> dict[str, Any]:
        """Converge through open sessions."""
        rows = session.rows(ROLE, (self.role,))
        problem = no_login(rows[0] if rows else None, self.role, self.service)
        if problem:
            raise RotationError("Nothing was changed: %s" % problem)
        before = self.stored(session)
        encryption = wanted_encryption(self.module.params["encryption"], kind_of(before))
        fits = kind_of(before) == encryption and matches(before, self.passwords.wanted, self.role)
        verifier = before if fits and before else verifier_of(encryption, self.passwords.wanted, self.role, self.passwords.salt)
        checked = checks_passwords(self.login, pooler=False)
        self.look(encryption, checked)
        stale = [pooler for pooler in self.poolers if not pooler.takes.accepted]
        # A pooler that takes the new password already has also got to have it for a server that is about to change.
        due = stale if fits else self.poolers
        for pooler in due:
            why = pooler.ready(self.role, self.passwords.wanted, verifier)
            if why:
                raise RotationError(
                    "Nothing was changed: the pooler %s %s. Lay the password ready with dghs.bd_fhir.pgbouncer_user, reload false, first."
                    % (pooler.service, why)
                )
        reload = [pooler.service for pooler in stale]
        result: dict[str, Any] = {
            "changed": not fits or bool(reload), "role": self.role, "encryption_before": kind_of(before), "encryption": encryption,
            "altered": not fits, "reloaded": reload, "gap_seconds": 0.0, "logins": [], "findings": self.findings,
        }  # fmt: skip
        header = "role %s of %s" % (self.role, self.service)
        lines = ["password: %s\n" % kind_of(before), "password: %s%s\n" % (encryption, "" if fits else " (changed, hidden)")]
        result["diff"] = {"before_header": header, "after_header": header, "before": lines[0], "after": lines[1]}
        if self.module.check_mode or not result["changed"]:
            result["logins"] = self.tried(checked)
            if not result["changed"]:
                self.as_it_is(result["logins"])
            return result
        guard = ChangeGuard.for_docker(self.module, self.docker)
        if not fits:
            guard.step("ALTER ROLE PASSWORD", "%s, role %s" % (self.service, self.role), {"form": kind_of(before)}, {"form": encryption})
        if stale:
            guard.step("RELOAD", ", ".join(reload))
        started = time.monotonic()
        if not fits:
            self.alter(session, verifier)
        for pooler in stale:
            pooler.console.command("RELOAD")
        result["gap_seconds"] = round(time.monotonic() - started, 4)
        stored = self.stored(session)
        if not matches(stored, self.passwords.wanted, self.role):
            raise RotationError(
                "ALTER ROLE %s on %s was answered, but the server keeps another password. Somebody changes it at the same time; run it again."
                % (self.role, self.service)
            )
        result["logins"] = self.proven(checked)
        return result

    def before_restart(self, session: Session) -> None:
        """Refuse to break off a base backup, and take work away from the stop that follows. Raises RotationError, PostgresError."""
        version = int(session.value("SELECT pg_catalog.current_setting('server_version_num')"))
        if version >= 130000 and session.value("SELECT count(*) FROM pg_catalog.pg_stat_progress_basebackup"):
            raise RotationError(
                "A base backup of %s is running, which the restart of the server that has to follow would break off. Wait for its end, and run"
                " this again." % self.service
            )
        if self.module.check_mode:
            return
        try:
            # It lasts as long as the disk needs.
            session.execute("SET statement_timeout = 0")
            session.execute("CHECKPOINT")
        except PostgresError as exc:
            self.findings.append(
                finding(
                    "checkpoint_not_made", "warning", self.service, "a CHECKPOINT before the server is stopped", str(exc),
                    "The server writes all of its memory while it is stopped, which may take longer than the stop may last. Let login_user do"
                    " that: GRANT pg_checkpoint.",
                )
            )  # fmt: skip

    def stored(self, session: Session) -> Optional[str]:
        """Read the verifier that the server keeps."""
        return stored_verifier(session, self.role, self.service, self.module.params["login_user"])

    def alter(self, session: Session, verifier: str) -> None:
        """Change the role. The statement holds the verifier only."""
        from psycopg2 import sql

        statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(self.role), sql.Literal(verifier))
        session.keep_out_of_logs()
        session.execute(statement)

    def look(self, encryption: str, checked: bool) -> None:
        """Put into findings what makes the password worth less."""
        if encryption == MD5:
            self.findings.append(
                finding(
                    "password_hash_weak", "warning", "%s, role %s" % (self.service, self.role), SCRAM, MD5,
                    "Who reads an MD5 hash can log in with it. Set encryption to scram-sha-256 once every client can do SCRAM.",
                )
            )  # fmt: skip
        for service, is_checked in [(self.service, checked)] + [(item.service, item.checks) for item in self.poolers]:
            if not is_checked:
                self.findings.append(
                    finding(
                        "login_without_password", "warning", service, "a password is asked for", "a made-up password was let in",
                        "Anybody who reaches the port is let in, and that a login works proves nothing. Correct pg_hba.conf, or the"
                        " pooler's auth_type.",
                    )
                )  # fmt: skip

    # -- logins

    def entry(self, service: str, password: str, found: Attempt) -> dict[str, Any]:
        """Return what is told of one login."""
        return {
            "service": service,
            "password": password,
            "accepted": found.accepted,
            "kind": found.kind,
            "detail": "" if found.accepted else found.text,
        }

    def tried(self, checked: bool) -> list[dict[str, Any]]:
        """Try every login as things stand."""
        found = []
        for label, password in ((WANTED, self.passwords.wanted), (OLD, self.passwords.old)):
            if not password:
                continue
            if checked:
                found.append(self.entry(self.service, label, attempt(dataclasses.replace(self.login, password=password))))
            for pooler in self.poolers:
                if not pooler.checks:
                    continue
                login = dataclasses.replace(pooler.login, password=password)
                # Where the pooler itself refuses, its server is not asked.
                taken = pooler_takes(login)
                found.append(self.entry(pooler.service, label, attempt_through(login) if taken.accepted else taken))
        return found

    def as_it_is(self, logins: list[dict[str, Any]]) -> None:
        """With nothing to change, every login has to work; the verifier alone does not say so. Raises RotationError."""
        for item in logins:
            if item["password"] == WANTED and item["kind"] == "timeout" and item["service"] != self.service:
                self.unproven(item["service"], item["detail"])
            elif item["password"] == WANTED and not item["accepted"]:
                raise RotationError(
                    "The role %s has this password on %s, and still a login at %s fails: %s. Look at pg_hba.conf and at the pooler's log."
                    % (self.role, self.service, item["service"], item["detail"])
                )

    def proven(self, checked: bool) -> list[dict[str, Any]]:
        """Prove the change by logins. Raises RotationError when one is not as it has to be."""
        found = []
        if checked:
            found.append(self.entry(self.service, WANTED, attempt(self.login)))
        for pooler in self.poolers:
            if pooler.checks and (not checked or found[0]["accepted"]):
                fresh = prove_fresh_server(pooler.console, pooler.login, pooler.servers)
                if fresh.kind == "timeout" and pooler_takes(pooler.login).accepted:
                    self.unproven(pooler.service, fresh.text)
                    continue
                found.append(self.entry(pooler.service, WANTED, fresh))
        for item in found:
            if not item["accepted"]:
                raise RotationError(
                    "The password of %s was changed on %s, but a login with it at %s fails: %s. Run it again; if it stays so, look at"
                    " pg_hba.conf and at the pooler's log." % (self.role, self.service, item["service"], item["detail"])
                )
        if self.passwords.old and self.passwords.old != self.passwords.wanted:
            found += self.old_refused(checked)
        return found

    def unproven(self, service: str, text: str) -> None:
        """Put into findings a pooler that takes the password, but had no connection to its server to spare."""
        self.findings.append(
            finding(
                "login_unproven", "warning", service, "a login up to the server", text,
                "The pooler takes the password, but has no room for a connection to its server. Look at SHOW POOLS.",
            )
        )  # fmt: skip

    def old_refused(self, checked: bool) -> list[dict[str, Any]]:
        """The old password must not be let in any more."""
        found = []
        if checked:
            found.append(self.entry(self.service, OLD, attempt(dataclasses.replace(self.login, password=self.passwords.old))))
        found += [
            self.entry(pooler.service, OLD, pooler_takes(dataclasses.replace(pooler.login, password=self.passwords.old)))
            for pooler in self.poolers
            if pooler.checks
        ]
        for item in found:
            if item["accepted"]:
                raise RotationError(
                    "The password of %s was changed on %s, but %s still lets the old one in. Run it again; if it stays so, report it with the"
                    " version of the pooler." % (self.role, self.service, item["service"])
                )
        return found


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            service={"type": "str", "required": True},
            role={"type": "str", "required": True},
            database={"type": "str", "default": "postgres"},
            encryption={"type": "str", "choices": ["auto", SCRAM, MD5], "default": "auto"},
            poolers={
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": dict(CONSOLE_ARGUMENTS, service={"type": "str", "required": True}, database={"type": "str"}),
            },
            before_restart={"type": "bool", "default": False},
            **PASSWORD_ARGUMENTS,
            **LOGIN_ARGUMENTS,
            **CHANGE_ARGUMENTS,
        ),
        mutually_exclusive=[PASSWORD_SOURCES],
        required_one_of=[PASSWORD_SOURCES],
        supports_check_mode=True,
    )
    try:
        result = Password(module).run()
    except (RotationError, UserlistError, PgbouncerError, PostgresError, ComposeError, ChangeError) as exc:
        module.fail_json(msg=str(exc))
    for item in result["findings"]:
        module.warn("%s: %s. %s" % (item["object"], item["found"], item["hint"]))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
