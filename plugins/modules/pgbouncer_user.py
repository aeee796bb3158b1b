#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer_user
short_description: Set the password of one user of a running pgBouncer
version_added: 1.0.0
description:
  - Converges one user in the C(auth_file) of a pgBouncer that runs in the compose project, without restarting it.
    pgBouncer takes the password from there for the logins of clients and, unless its configuration says otherwise, for its own at the server.
  - Where the file is, the pooler itself is asked. One inside of the container is replaced by rename, since pgBouncer skips a file that
    looks unchanged; one that is mounted by itself is written in place, and its time is moved.
  - Other lines, comments included, stay as they are. Clients that are logged in stay connected.
  - With O(state=absent) a comment stands in place of the user until the pooler has been told to read the file.
    By it the next run knows what one that was killed in between has left to do.
  - In a container whose image writes the file from its environment, the environment has to say the same, else a new container
    has the old password. This module does not touch it.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows forms of passwords, never the passwords.
  idempotent:
    support: full
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.pgbouncer_console
  - dghs.bd_fhir.role_password
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.change
  - dghs.bd_fhir.attributes
options:
  service:
    description:
      - Service of the pooler. It has to have exactly one running container.
    type: str
    required: true
  user:
    description:
      - Name of the user, which is that of the PostgreSQL role.
    type: str
    required: true
  state:
    description:
      - Whether the user shall be in the file.
    type: str
    choices: [present, absent]
    default: present
  password:
    description:
      - The password. One of O(password), O(password_variable) and O(rotation) is needed with O(state=present).
  form:
    description:
      - How the password stands in the file. V(auto) keeps the form that is there, and takes V(plain) for a new user.
      - With V(plain) the pooler can log in to every server.
      - V(scram-sha-256) lets it log in only if the server has the identical verifier, which is therefore copied from
        O(database_service), or made with the salt of the O(rotation). Needs pgBouncer 1.14.
      - With V(md5) it can log in to the server only while that keeps MD5 hashes too.
    type: str
    choices: [auto, plain, scram-sha-256, md5]
    default: auto
  reload:
    description:
      - Let the pooler read the file, if it has not done so yet.
      - With V(false) the file is only laid ready; M(dghs.bd_fhir.postgres_password) with O(dghs.bd_fhir.postgres_password#module:poolers)
        then reloads the pooler in the moment in which the server gets the new password.
    type: bool
    default: true
  admin_user:
    description:
      - User of the admin console. By default O(user).
  admin_password_variable:
    description:
      - Name in the environment file of the project that holds the password of O(admin_user).
      - If O(admin_user) is the O(user), the wanted password and the one before are tried as well.
  database_service:
    description:
      - Service of the PostgreSQL behind the pooler, from which V(scram-sha-256) copies the verifier outside of a rotation.
    type: str
  login_user:
    description:
      - Superuser of O(database_service).
seealso:
  - module: dghs.bd_fhir.postgres_password
  - module: dghs.bd_fhir.password_rotation
  - module: dghs.bd_fhir.pgbouncer_pool
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Give the pooler the password that .env says
  dghs.bd_fhir.pgbouncer_user:
    project_dir: /opt/bd-fhir-national
    service: pgbouncer-fhir
    user: hapi_app
    password_variable: FHIR_DB_APP_PASSWORD

- name: Lay the new password ready in the midst of a rotation
  dghs.bd_fhir.pgbouncer_user:
    project_dir: /opt/bd-fhir-national
    service: pgbouncer-fhir
    user: hapi_app
    rotation: fhir_app
    admin_password_variable: FHIR_DB_APP_PASSWORD
    reload: false

- name: Ask whether the pooler takes the password of .env, and change nothing
  dghs.bd_fhir.pgbouncer_user:
    project_dir: /opt/bd-fhir-national
    service: pgbouncer-fhir
    user: hapi_app
    password_variable: FHIR_DB_APP_PASSWORD
  check_mode: true
  register: pooler
  failed_when: pooler is failed or pooler is changed
"""

RETURN = r"""
user:
  description: The user.
  type: str
  returned: success
  sample: hapi_app
auth_file:
  description: The file, as the pooler names it.
  type: str
  returned: success
  sample: /run/pgbouncer/userlist.txt
host_path:
  description: Where it lies on the host. Empty for one inside of the container.
  type: str
  returned: success
  sample: ""
method:
  description:
    - How the file is replaced, V(rename) or V(in_place).
    - V(auth_query) if the user is not in the file and the pooler asks the server for it. Nothing is then to be changed here.
  type: str
  returned: success
  sample: rename
form_before:
  description: Form of the password that the file had, V(none) if the user was not in it.
  type: str
  returned: success
  sample: plain
form:
  description: Form of the password that the file has now.
  type: str
  returned: success
  sample: plain
written:
  description: Whether the file was changed.
  type: bool
  returned: success
  sample: true
reloaded:
  description: Whether the pooler was told to read it.
  type: bool
  returned: success
  sample: false
needs_reload:
  description: Whether the pooler goes by something else than the file says.
  type: bool
  returned: success
  sample: true
version:
  description: Version of the pooler.
  type: str
  returned: success
  sample: "1.18.0"
findings:
  description: What deserves a look.
  type: list
  elements: dict
  returned: success
  sample: []
"""

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._findings import finding
from ..module_utils._passwords import MD5, NONE, PLAIN, SCRAM, kind_of, matches, verifier_of
from ..module_utils._pgbouncer import CONSOLE_ARGUMENTS, PgbouncerError
from ..module_utils._postgres import LOGIN_ARGUMENTS, Login, PostgresError, address_of, connect, container_of, secret_of
from ..module_utils._quoting import QuotingError
from ..module_utils._rotation import (
    PASSWORD_ARGUMENTS,
    PASSWORD_SOURCES,
    OpenPooler,
    Passwords,
    RotationError,
    checks_passwords,
    passwords_of,
    pooler_takes,
    stored_verifier,
)
from ..module_utils._userlist import UserlistError, parse, password_of, taken_out, with_password, without_remark, without_user

# The first version that logs in to a server with what a client's SCRAM login has told it.
SCRAM_PASSED_ON = (1, 14)


def wanted_form(form: str, before: str) -> str:
    """Return the form to write. Pure."""
    if form != "auto":
        return form
    return PLAIN if before == NONE else before


def file_findings(text: str, user: str, path: str) -> list[dict[str, Any]]:
    """Return what is wrong with the file besides. Pure. Raises UserlistError."""
    lines = [item.line for item in parse(text) if item.user == user]
    if len(lines) < 2:
        return []
    return [
        finding(
            "userlist_user_twice", "warning", user, "one line", "lines %s" % ", ".join(str(line) for line in lines),
            "pgBouncer takes the last one. All are kept alike; remove the others from %s." % path,
        )
    ]  # fmt: skip


class User:
    """One user of one running pooler. Raises the errors that main() knows."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.user: str = module.params["user"]
        self.docker = Docker.from_module(module)
        self.passwords: Optional[Passwords] = None
        if module.params["state"] == "present":
            self.passwords = passwords_of(module, self.docker, self.user)
        known = self.passwords or Passwords("")
        self.pooler = OpenPooler(self.docker, module.params, self.user, known, "pgbouncer", module.params["connect_timeout"])
        self.container = self.pooler.container
        self.login = self.pooler.login

    def entry(self, passwords: Passwords, form: str, before: Optional[str], version: tuple[int, ...]) -> str:
        """Return what has to stand in the file."""
        password = passwords.wanted
        if form != SCRAM:
            if form != kind_of(before) or not matches(before, password, self.user):
                return verifier_of(form, password, self.user)
            return before or ""
        if version < SCRAM_PASSED_ON:
            raise RotationError(
                "Nothing was changed: pgBouncer %s can't log in to a server with a SCRAM verifier; that came with 1.14. Set form to plain,"
                " or take a newer image." % ".".join(str(part) for part in version)
            )
        if passwords.salt is not None:
            return verifier_of(SCRAM, password, self.user, passwords.salt)
        verifier = self.server_verifier()
        if kind_of(verifier) != SCRAM or not matches(verifier, password, self.user):
            raise RotationError(
                "Nothing was changed: the server %s has %s for the role %s, which is not a SCRAM verifier of this password. The pooler can"
                " only log in with the identical verifier: change the server first (dghs.bd_fhir.postgres_password), or set form to plain."
                % (self.params["database_service"], kind_of(verifier), self.user)
            )
        return verifier or ""

    def server_verifier(self) -> Optional[str]:
        """Read what the server holds for the role."""
        params = self.params
        if not params["database_service"]:
            raise RotationError(
                "Nothing was changed: a SCRAM verifier has to be the server's own. Name the server in database_service, or set form to plain."
            )
        container = container_of(self.docker, params["database_service"])
        password = secret_of(self.docker, params["login_password"], params["login_password_variable"])
        login = Login(address_of(container, 5432), 5432, params["login_user"], password, "postgres", self.login.connect_timeout)
        with connect(login) as session:
            return stored_verifier(session, self.user, params["database_service"], params["login_user"])

    def run(self) -> dict[str, Any]:
        """Converge and return the result."""
        try:
            return self.converge()
        finally:
            self.pooler.console.close()

    def converge(self) -> dict[str, Any]:
        """Converge through the open console."""
        config, version, file = self.pooler.config, self.pooler.version, self.pooler.file
        result: dict[str, Any] = {
            "changed": False, "user": self.user, "auth_file": config.get("auth_file", ""), "host_path": "", "method": "auth_query",
            "form_before": NONE, "form": NONE, "written": False, "reloaded": False, "needs_reload": False,
            "version": ".".join(str(part) for part in version), "findings": [],
        }  # fmt: skip
        text = file.read() if file else ""
        try:
            before = password_of(text, self.user)
        except UserlistError as exc:
            raise UserlistError("%s of %s is damaged: %s. Correct that line." % (result["auth_file"], self.container.name, exc)) from None
        # Without what a run that was cut before its RELOAD has remarked.
        plain = without_remark(text, self.user)
        unread = self.passwords is None and plain != text
        if before is None and config.get("auth_user") and self.params["form"] == "auto" and not unread:
            # The server is asked for this user, so the server's password is the pooler's.
            return dict(result, diff=self.diff(result, NONE, NONE))
        if file is None:
            raise RotationError(
                "Nothing was changed: %s has no auth_file (SHOW CONFIG), so its users come from somewhere else. Set one in its configuration."
                % self.container.name
            )
        self.not_forced()
        result.update(host_path=file.host_path, method=file.method, form_before=kind_of(before))
        wanted = None
        if self.passwords is None:
            after = without_user(plain, self.user)
        else:
            form = wanted_form(self.params["form"], kind_of(before))
            if form == MD5 and config.get("auth_type") == SCRAM:
                raise RotationError(
                    "Nothing was changed: with auth_type scram-sha-256 no client can log in by an MD5 hash. Set form to plain or scram-sha-256."
                )
            wanted = self.entry(self.passwords, form, before, version)
            after = with_password(plain, self.user, wanted)
        result.update(form=kind_of(wanted), written=after != plain)
        result["findings"] = file_findings(text, self.user, file.path) + self.unchecked(config)
        # What is loaded can differ from the file, after a run that was cut between the two.
        stale = after != text or not self.loaded(result["findings"])
        result["reloaded"] = stale and self.params["reload"]
        result["needs_reload"] = stale and not self.params["reload"]
        result["changed"] = result["written"] or result["reloaded"]
        result["diff"] = self.diff(result, result["form_before"], result["form"])
        if self.module.check_mode or not result["changed"]:
            return result
        guard = ChangeGuard.for_docker(self.module, self.docker)
        where = "%s, user %s" % (self.params["service"], self.user)
        if result["written"]:
            guard.step("write auth_file", where, {"form": result["form_before"]}, {"form": result["form"]})
            text = after if self.passwords else taken_out(plain, self.user)
            file.write(text)
        if result["reloaded"]:
            guard.step("RELOAD", where)
            self.pooler.console.command("RELOAD")
            self.prove(result["findings"])
            if text != after:
                file.write(after)
        return result

    def diff(self, result: dict[str, Any], before: str, after: str) -> dict[str, str]:
        """Return the diff: which form, and whether the text changes."""
        header = "%s of %s" % (result["auth_file"], self.container.name)
        line = "%s: %s%s\n"
        return {
            "before_header": header,
            "after_header": header,
            "before": line % (self.user, before, ""),
            "after": line % (self.user, after, " (changed, hidden)" if result["written"] else ""),
        }

    def not_forced(self) -> None:
        """Refuse where the pooler logs in to its server by what the ini says."""
        forced = [row["name"] for row in self.pooler.console.show("DATABASES") if row["force_user"] == self.user and row["name"] != "pgbouncer"]
        if forced:
            raise RotationError(
                "Nothing was changed: the line of database %s in the pooler's [databases] sets user=%s, so the password for the server is"
                " there and not in the auth_file. Take user= and password= out of that line first." % (", ".join(forced), self.user)
            )

    def unchecked(self, config: dict[str, str]) -> list[dict[str, Any]]:
        """Return a finding where the pooler lets in anybody."""
        if config.get("auth_type") not in ("trust", "any") and (self.passwords is None or checks_passwords(self.login, pooler=True)):
            return []
        return [
            finding(
                "login_without_password", "warning", self.params["service"], "a password is asked for", "auth_type %s" % config.get("auth_type"),
                "Anybody who reaches the port is let in, and that a login works proves nothing. Set auth_type to scram-sha-256.",
            )
        ]  # fmt: skip

    def loaded(self, findings: list[dict[str, Any]]) -> bool:
        """Tell whether the pooler goes by what the file is to say; it is taken to where that can't be seen."""
        if any(item["id"] == "login_without_password" for item in findings):
            return True
        if self.passwords is None:
            return True
        return pooler_takes(self.login).accepted

    def prove(self, findings: list[dict[str, Any]]) -> None:
        """After a RELOAD: the new password is taken, the old one is not."""
        if self.passwords is None or any(item["id"] == "login_without_password" for item in findings):
            return
        found = pooler_takes(self.login)
        if not found.accepted:
            raise RotationError(
                "%s has read its auth_file, but does not take the new password of %s: %s. Look at its log; the users below a line that it"
                " can't read are unknown to it." % (self.container.name, self.user, found.text)
            )


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            service={"type": "str", "required": True},
            user={"type": "str", "required": True},
            state={"type": "str", "choices": ["present", "absent"], "default": "present"},
            form={"type": "str", "choices": ["auto", PLAIN, SCRAM, MD5], "default": "auto"},
            reload={"type": "bool", "default": True},
            database_service={"type": "str"},
            **CONSOLE_ARGUMENTS,
            **PASSWORD_ARGUMENTS,
            **LOGIN_ARGUMENTS,
            **CHANGE_ARGUMENTS,
        ),
        mutually_exclusive=[PASSWORD_SOURCES],
        required_if=[("state", "present", PASSWORD_SOURCES, True)],
        supports_check_mode=True,
    )
    try:
        result = User(module).run()
    except (RotationError, UserlistError, PgbouncerError, PostgresError, ComposeError, ChangeError) as exc:
        module.fail_json(msg=str(exc))
    except QuotingError as exc:
        module.fail_json(msg="Nothing was changed: the user or the password can't stand in pgBouncer's auth_file: %s." % exc)
    for item in result["findings"]:
        module.warn("%s: %s. %s" % (item["object"], item["found"], item["hint"]))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
