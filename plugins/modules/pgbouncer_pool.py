#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer_pool
short_description: Set pool sizes and limits of a running pgBouncer, and see that they last
version_added: 1.0.0
description:
  - Applies settings to the pgBouncer of a service while it serves, by its admin console, and reads them back with C(SHOW CONFIG) and
    C(SHOW DATABASES). No connection is cut.
  - Then sees that they outlive the container. Where the image makes its C(pgbouncer.ini) from the environment, it is proven which
    variable the image really reads, and RV(environment) says what the container's environment has to be; whoever calls puts that
    into a compose fragment. Where C(pgbouncer.ini) is mounted, that file is changed on the host, and no byte of it but the values.
  - The proof is a trial. A container of the same image, with the same environment and no network, is started with the candidate, the
    file that pgBouncer reads in it is looked at, and it is removed. A new ini has to start there before the running pooler reads it.
  - A setting that the image ignores, that this version does not have, or that a line of C([databases]) overrides, is refused before
    the first change.
  - The module never restarts a pooler. RV(needs_recreate) says when that is still to be done.
  - Whether the sizes fit the database is not its business, see M(dghs.bd_fhir.connection_budget_info).
attributes:
  check_mode:
    support: full
    details:
      - The trials are made as in a real run, since they touch nothing that runs. Findings of severity V(error) are listed and do not fail.
      - On a host that has no project or no Docker yet, every setting is predicted to change.
  diff_mode:
    support: full
  idempotent:
    support: full
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.pgbouncer_console
  - dghs.bd_fhir.change
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  service:
    description:
      - The service of the pooler. It has to have one running container.
    type: str
    required: true
  admin_user:
    required: true
  connect_timeout:
    description:
      - Seconds within which the admin console has to take the login.
    type: int
    default: 5
  settings:
    description:
      - Settings of the section C([pgbouncer]) and their values, numbers or text.
      - Sizes, limits, time-outs and V(pool_mode). Whom pgBouncer lets in and what it listens on is not set by this module.
      - V(null) takes a setting out of the file, so that the default of pgBouncer counts. Where the image makes the file, no variable
        of the container shall say the setting, and the value is the image's own.
      - For a way back, give what RV(settings) has in C(in_file). A file that is mounted then has the bytes that it had.
    type: dict
    required: true
  on_line:
    description:
      - For a setting of O(settings), the value that the line of O(database) shall set for itself, where it sets one at all.
        By default that of O(settings), since the line's own counts more.
      - For a way back, give what RV(settings) has in C(on_line).
    type: dict
    default: {}
  database:
    description:
      - The entry of C([databases]) for which O(settings) are meant, where a line there sets its own V(pool_size) or the like.
        Its own value is then changed along.
      - By default the only entry that there is. Where there are more, one that overrides a setting is refused.
    type: str
    default: ''
  environment_names:
    description:
      - Setting to name of the variable by which the image takes it, for an image with names of its own.
      - By default E(PGBOUNCER_<SETTING>) and E(<SETTING>) are tried. A name that is given is proven too.
    type: dict
    default: {}
  trial:
    description:
      - Whether to prove by a trial. Only for an image that can't be started apart from its network.
      - Without it, O(environment_names) has to name the variable of each setting, and is believed.
    type: bool
    default: true
notes:
  - What was set by the console holds until pgBouncer reads its file again. Where RV(persisted) is V(false) a C(RELOAD) takes it back.
  - Before pgBouncer 1.16 the pool size of a database that is there already does not change by C(SET) (pgbouncer/pgbouncer#248);
    RV(method) is then V(restart).
seealso:
  - module: dghs.bd_fhir.connection_budget_info
  - module: dghs.bd_fhir.compose_fragment
  - module: dghs.bd_fhir.compose_rollout
  - name: Configuration of pgBouncer
    description: What each setting means.
    link: https://www.pgbouncer.org/config.html
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Give the FHIR side a pool of 30, without cutting a connection
  dghs.bd_fhir.pgbouncer_pool:
    project_dir: /opt/bd-fhir-national
    service: pgbouncer-fhir
    admin_user: hapi_app
    admin_password_variable: FHIR_DB_APP_PASSWORD
    settings:
      default_pool_size: 30
  register: pool

- name: Keep it when the container is made anew
  dghs.bd_fhir.compose_fragment:
    project_dir: /opt/bd-fhir-national
    name: pgbouncer
    content: "{{ {'services': {'pgbouncer-fhir': {'environment': pool.environment}}} | to_nice_yaml }}"
    allow_changed:
      - pgbouncer-fhir
  when: not pool.persisted

- name: An image that calls its variable otherwise
  dghs.bd_fhir.pgbouncer_pool:
    project_dir: /opt/bd-fhir-national
    service: pgbouncer-fhir
    admin_user: hapi_app
    admin_password_variable: FHIR_DB_APP_PASSWORD
    settings:
      default_pool_size: 30
    environment_names:
      default_pool_size: POOL_SIZE
"""

RETURN = r"""
version:
  description: Version of the running pgBouncer.
  returned: success
  type: str
  sample: 1.18.0
pool_mode:
  description: Pool mode of the pooler afterwards; a line of C([databases]) may set another for its database.
  returned: success
  type: str
  sample: session
settings:
  description:
    - Each setting C(before) and C(after), as the running pgBouncer says. In check mode as predicted.
    - C(in_file) is the value that its file had before, V(null) where it had no line for it.
      C(on_line) is the one that the line of O(database) had for itself before, V(null) where it had none.
  returned: success
  type: dict
  sample:
    default_pool_size:
      before: '20'
      after: '30'
      in_file: null
      on_line: null
databases:
  description: Each database of C(SHOW DATABASES) with its pool size before and after.
  returned: success
  type: dict
  sample:
    fhirdb:
      before: 20
      after: 30
method:
  description:
    - How the running pooler got the settings.
    - V(restart) means that the running pgBouncer cannot take them, so that it has to be started anew.
  returned: success
  type: str
  sample: set
environment:
  description:
    - What the environment of the container has to say so that a pooler made anew has the settings.
    - Empty where a mounted file does that, or where the image has the values anyway.
  returned: success
  type: dict
  sample:
    PGBOUNCER_DEFAULT_POOL_SIZE: '30'
ini_path:
  description: The mounted C(pgbouncer.ini) on the host, empty where the image makes the file.
  returned: success
  type: str
  sample: ''
persisted:
  description: Whether a pooler that Compose makes anew from the files as they are has the settings.
  returned: success
  type: bool
  sample: false
needs_recreate:
  description: Whether the container still has to be made anew, because its environment is another or its pgBouncer can't take the settings.
  returned: success
  type: bool
  sample: true
findings:
  description: What was noticed, each with C(id), C(severity), C(object), C(expected), C(found) and C(hint).
  returned: success
  type: list
  elements: dict
  sample: []
"""

import difflib
import os
import posixpath
import re

from dataclasses import dataclass, field
from typing import Any, Optional
from collections.abc import Mapping

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker, read_env_text
from ..module_utils._files import overwrite_file, replace_file
from ..module_utils._findings import failed_on, finding, summary
from ..module_utils._pgbouncer import CONSOLE_ARGUMENTS, Console, PgbouncerError, environment_of, listen_port
from ..module_utils._pgbouncer_ini import LINE_WORDS, Ini, IniError, change, line_words, load, misplaced, repeated
from ..module_utils._pgbouncer_trial import Outcome, Trials, host_path, mount_of, read_inside
from ..module_utils._postgres import Login, PostgresError, address_of, container_of, secret_of

# Setting -> the form of its values. Numbers as pgBouncer takes them: whole ones for sizes, also fractions for seconds.
COUNT = "count"
SECONDS = "seconds"
MODE = "mode"
SETTINGS: dict[str, str] = {
    "autodb_idle_timeout": SECONDS,
    "cancel_wait_timeout": SECONDS,
    "client_idle_timeout": SECONDS,
    "client_login_timeout": SECONDS,
    "default_pool_size": COUNT,
    "idle_transaction_timeout": SECONDS,
    "max_client_conn": COUNT,
    "max_db_client_connections": COUNT,
    "max_db_connections": COUNT,
    "max_prepared_statements": COUNT,
    "max_user_client_connections": COUNT,
    "max_user_connections": COUNT,
    "min_pool_size": COUNT,
    "pool_mode": MODE,
    "query_timeout": SECONDS,
    "query_wait_notify": COUNT,
    "query_wait_timeout": SECONDS,
    "reserve_pool_size": COUNT,
    "reserve_pool_timeout": SECONDS,
    "server_check_delay": SECONDS,
    "server_connect_timeout": SECONDS,
    "server_fast_close": COUNT,
    "server_idle_timeout": SECONDS,
    "server_lifetime": SECONDS,
    "server_login_retry": SECONDS,
    "server_round_robin": COUNT,
    "suspend_timeout": SECONDS,
    "transaction_timeout": SECONDS,
}
POOL_MODES = ("session", "transaction", "statement")
# A pool of none, or a pooler that takes nobody in, is an outage and no size.
AT_LEAST_ONE = ("default_pool_size", "max_client_conn")

# Settings that came after 1.18, and with which version.
SINCE = {
    "max_prepared_statements": (1, 21),
    "max_db_client_connections": (1, 24),
    "max_user_client_connections": (1, 24),
    "query_wait_notify": (1, 25),
    "transaction_timeout": (1, 25),
}
# Before, a database that is there already takes a new pool size by RELOAD only, and only if a line of [databases] is its own.
LIVE_POOL_SIZE = (1, 16)

# Setting -> the column of SHOW DATABASES that shows what a database really has.
COLUMNS = {
    "default_pool_size": ("pool_size",),
    "min_pool_size": ("min_pool_size",),
    "reserve_pool_size": ("reserve_pool_size", "reserve_pool"),
}
CONSOLE_DATABASE = "pgbouncer"


class Refused(Exception):
    """Findings stand against the change."""

    def __init__(self, findings: list[dict[str, Any]]) -> None:
        super().__init__(summary(findings))


@dataclass
class State:
    """What the running pooler says of itself."""

    version: tuple[int, ...]
    config: dict[str, str]
    defaults: dict[str, str]
    changeable: dict[str, bool]
    databases: list[dict[str, str]]
    clients: int

    @classmethod
    def read(cls, console: Console) -> State:
        """Ask the console. Raises PgbouncerError."""
        rows = console.show("CONFIG")
        lists = {row.get("list", ""): row.get("items", "") for row in console.show("LISTS")}
        used = lists.get("used_clients", "")
        return cls(
            version=console.version(),
            config={row["key"]: row["value"] for row in rows},
            # Versions before 1.15 do not tell.
            defaults={row["key"]: row["default"] for row in rows if "default" in row},
            changeable={row["key"]: row.get("changeable", "yes") == "yes" for row in rows},
            databases=[row for row in console.show("DATABASES") if row["name"] != CONSOLE_DATABASE],
            # The module's own connection is among them.
            clients=max(int(used) - 1, 0) if used.isdigit() else 0,
        )


@dataclass
class Plan:
    """What is to be done, computed before anything is."""

    live: dict[str, str] = field(default_factory=dict)  # settings that the running pooler does not have
    files: dict[str, str] = field(default_factory=dict)  # path in the container -> new text
    lines: dict[tuple[str, str], str] = field(default_factory=dict)  # (database, word) -> value
    line_before: dict[tuple[str, str], str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    mounted: bool = False
    reload: bool = False
    persisted: bool = False
    recreate: bool = False


# -- pure


def normalised(settings: Mapping[str, Any], option: str = "settings") -> dict[str, Optional[str]]:
    """Return the settings as text, None for one that shall stand nowhere. Raises ValueError that names the one that is wrong. Pure."""
    found: dict[str, Optional[str]] = {}
    for name, value in settings.items():
        if name not in SETTINGS:
            near = difflib.get_close_matches(str(name), SETTINGS, 1)
            raise ValueError(
                "%s names %s, which is no size, limit or time-out of pgBouncer that this module sets%s"
                % (option, name, "; did you mean %s?" % near[0] if near else ": %s." % ", ".join(sorted(SETTINGS)))
            )
        if value is None:
            found[name] = None
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError("%s: %s must be a number or text, not %s." % (option, name, type(value).__name__))
        text = str(value).strip()
        form = SETTINGS[name]
        if form == MODE and text not in POOL_MODES:
            raise ValueError("%s: %s must be one of %s, not %r." % (option, name, ", ".join(POOL_MODES), text))
        if form == COUNT and not re.match(r"[0-9]{1,9}\Z", text):
            raise ValueError("%s: %s must be a whole number from 0, not %r." % (option, name, text))
        if form == SECONDS and not re.match(r"[0-9]{1,9}(\.[0-9]{1,6})?\Z", text):
            raise ValueError("%s: %s must be a number of seconds without a unit, not %r." % (option, name, text))
        if name in AT_LEAST_ONE and int(text) < 1:
            raise ValueError(
                "%s: %s must be 1 or more; %s would be an outage or no limit at all, depending on the version." % (option, name, text)
            )
        found[name] = text
    return found


def of_lines(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what a line of [databases] shall set for itself. Raises ValueError. Pure."""
    found = {}
    for name, text in normalised(values, "on_line").items():
        if name not in settings or name not in LINE_WORDS:
            raise ValueError("on_line names %s, which settings does not name, or which no line of [databases] can set." % name)
        if text is None:
            raise ValueError("on_line: %s must have a value; leave it out for a line that has none." % name)
        found[name] = text
    return found


def same(one: Optional[str], other: Optional[str]) -> bool:
    """Tell whether two values of a setting mean the same: 30 and 30.0 do. Pure."""
    if one == other or one is None or other is None:
        return one == other
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def names_for(setting: str, given: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    """Return the variables by which the image may take a setting, those that the environment has already first. Pure."""
    if given.get(setting):
        return [given[setting]]
    names = ["PGBOUNCER_" + setting.upper(), setting.upper()]
    return sorted(names, key=lambda name: name not in environment)


def probes(setting: str, value: str, names: list[str]) -> dict[str, str]:
    """Return a different value for each name, the first one the wanted, so that one trial tells which name counts. Pure."""
    if SETTINGS[setting] == MODE:
        others = [mode for mode in POOL_MODES if mode != value]
        return {name: ([value] + others)[number % len(POOL_MODES)] for number, name in enumerate(names)}
    return {name: value if number == 0 else str(int(float(value)) + number) for number, name in enumerate(names)}


def check_user(user: str, state: State, service: str) -> list[dict[str, Any]]:
    """Return what the pooler has against commands of a user, before anything was written for it to read. Pure."""
    admins = [item.strip() for item in state.config.get("admin_users", "").split(",")]
    if user in admins or state.config.get("auth_type") == "any":
        return []
    return [
        finding(
            "console_read_only",
            "error",
            service,
            "a user whom admin_users of the pooler names",
            "%s, who may only look (stats_users)" % user,
            "Give one of: %s. Or add the user to admin_users." % (", ".join(item for item in admins if item) or "none is there yet"),
        )
    ]


def check_settings(wanted: Mapping[str, Optional[str]], state: State, service: str) -> list[dict[str, Any]]:
    """Return what the running pgBouncer itself has against the settings. None is for a value that is not known. Pure."""
    version = ".".join(str(part) for part in state.version)
    findings = []
    for name, value in wanted.items():
        if name not in state.config:
            since = SINCE.get(name)
            findings.append(
                finding(
                    "setting_unknown",
                    "error",
                    service,
                    "pgBouncer %s or newer for %s" % (".".join(str(part) for part in since), name) if since else "a pgBouncer that knows %s" % name,
                    "pgBouncer %s, which has no such setting" % version,
                    "Take %s out of the settings, or use an image with a newer pgBouncer." % name,
                )
            )
        elif not state.changeable[name] and value is not None and not same(state.config[name], value):
            findings.append(
                finding(
                    "setting_unknown",
                    "error",
                    service,
                    "a setting that can be changed while pgBouncer runs",
                    "%s, which pgBouncer %s reads at its start only" % (name, version),
                    "Change it in the pooler's own configuration.",
                )
            )
    limit = wanted.get("max_client_conn")
    if limit is not None and int(limit) < state.clients:
        findings.append(
            finding(
                "max_client_conn_below_use",
                "error",
                service,
                "max_client_conn of at least the %d clients that are connected" % state.clients,
                limit,
                "Fewer replicas first, then the limit: a replica that reconnects would find no place.",
            )
        )
    return findings


def apart(databases: list[dict[str, str]], wanted: Mapping[str, str], own: Mapping[tuple[str, str], str]) -> list[tuple[str, str, str]]:
    """Return (database, setting, value) where SHOW DATABASES says another than wanted. Pure.

    own: (database, setting) -> value of a line of [databases] that sets its own; a database of no line has that of `*`.
    """
    found = []
    lines = {name for name, dummy in own}
    for row in databases:
        for setting, columns in COLUMNS.items():
            if setting not in wanted:
                continue
            column = next((name for name in columns if name in row), "")
            line = row["name"] if row["name"] in lines else "*"
            expected = own.get((line, setting), wanted[setting])
            if column and not same(row[column], expected):
                found.append((row["name"], setting, row[column]))
    return found


def pool_sizes(databases: list[dict[str, str]]) -> dict[str, int]:
    """Return database -> pool size from SHOW DATABASES. Pure."""
    return {row["name"]: int(row["pool_size"]) for row in databases if row.get("pool_size", "").lstrip("-").isdigit()}


def other_changes(ini: Ini, state: State, wanted: Mapping[str, Optional[str]]) -> list[str]:
    """Return the other settings that a RELOAD would change, because the file was edited or the console used. Pure."""
    return sorted(
        name
        for name, value in ini.settings().items()
        if name not in wanted and state.changeable.get(name) and not same(state.config.get(name), value)
    )


def shown(values: Mapping[str, Any]) -> str:
    """Return settings as text for a diff. Pure."""
    return "".join("%s = %s\n" % item for item in sorted(values.items()) if item[1] is not None)


# -- the module


class Pool:
    """One run of the module. Every method raises the errors that main() knows."""

    def __init__(self, module: AnsibleModule, docker: Docker, wanted: dict[str, Optional[str]], on_line: dict[str, str]) -> None:
        self.module = module
        self.docker = docker
        self.wanted = wanted
        self.on_line = on_line
        self.goal: dict[str, str] = {}  # what the running pooler shall say; without those whose default it does not tell
        self.line_values: dict[str, str] = {}  # setting -> what the line of the database sets for itself now
        self.service: str = module.params["service"]
        self.findings: list[dict[str, Any]] = []
        self.data: dict[str, Any] = {}
        self.state: State
        self.ini: Ini
        self.conffile = ""
        self.plan = Plan()

    def note(self, id: str, severity: str, expected: Any, found: Any, hint: str, obj: str = "") -> None:
        self.findings.append(finding(id, severity, obj or self.service, expected, found, hint))

    def refuse(self) -> None:
        """Stop when something stands against the change."""
        blocking = failed_on(self.findings, ["error"])
        if blocking:
            raise Refused(blocking)

    def open(self) -> Console:
        params = self.module.params
        container = container_of(self.docker, self.service)
        self.data = self.docker.inspect([container.id])[0]
        port = params["port"] or listen_port(self.data["Config"])
        password = secret_of(self.docker, params["admin_password"], params["admin_password_variable"])
        if len(password) > 3:
            # A shorter one would be taken out of every number of the result.
            self.module.no_log_values.add(password)
        return Console.open(Login(address_of(container, port), port, params["admin_user"], password, CONSOLE_DATABASE, params["connect_timeout"]))

    def read(self, console: Console) -> None:
        self.state = State.read(console)
        path = self.state.config.get("conffile", "")
        self.conffile = posixpath.normpath(posixpath.join(self.data["Config"].get("WorkingDir") or "/", path)) if path else ""
        if not self.conffile:
            raise PgbouncerError("SHOW CONFIG of the service %s does not tell its conffile, so that nothing can be made to last." % self.service)
        self.ini = load(self.conffile, self.read_in_container)

    def read_in_container(self, path: str) -> str:
        return read_inside(self.docker, self.data["Id"], path)

    # -- planning

    def make_plan(self) -> None:
        plan = self.plan
        mount = mount_of(self.data.get("Mounts") or [], self.conffile)
        plan.mounted = mount is not None and mount["Type"] in ("bind", "volume")
        for name, value in self.wanted.items():
            meant = self.left_to(name) if value is None else value
            if meant is not None:
                self.goal[name] = meant
        self.findings += check_user(self.module.params["admin_user"], self.state, self.service)
        self.findings += check_settings({name: self.goal.get(name) for name in self.wanted}, self.state, self.service)
        self.check_sections()
        self.refuse()
        self.plan_lines()
        plan.live = {name: value for name, value in self.goal.items() if not same(self.state.config[name], value)}
        if plan.mounted:
            self.plan_mounted()
        else:
            self.plan_environment()
        self.check_file_limit()
        late = apart(self.state.databases, self.goal, self.own_values())
        stuck = sorted({setting for name, setting, dummy in late if self.keeps_size(name)})
        if stuck:
            plan.recreate = True
            self.note(
                "pool_size_not_live",
                "warning",
                "a pgBouncer that takes %s while it runs" % ", ".join(stuck),
                "pgBouncer %s, whose databases keep the sizes that they had at its start" % self.version_text(),
                "Start the pooler anew within a window; from 1.16 on that is not needed.",
            )
        # Without a setting to change: a file that a killed run has written, or an owner, and that was not read yet.
        unread = [name for name, dummy, value in late if not self.keeps_size(name)]
        plan.reload = plan.mounted and bool(plan.files or plan.live or unread)
        if plan.reload:
            self.note_other_changes()

    def left_to(self, name: str) -> Optional[str]:
        """Return the value of a setting that nobody sets, None when it can't be told."""
        entry = self.ini.get(name)
        if entry is not None and not self.plan.mounted:
            running = environment_of(self.data["Config"])
            if not any(variable in running for variable in names_for(name, self.module.params["environment_names"], running)):
                return entry.value
        return self.state.defaults.get(name)

    def keeps_size(self, database: str) -> bool:
        """Tell whether this pgBouncer can't give a database another size while it runs, by the way that is open here."""
        if self.state.version >= LIVE_POOL_SIZE:
            return False
        return not self.plan.mounted or database not in {item.key for item in self.ini.of_section("databases")}

    def version_text(self) -> str:
        return ".".join(str(part) for part in self.state.version)

    def check_sections(self) -> None:
        for entry in misplaced(self.ini, SETTINGS):
            self.note(
                "ini_wrong_section",
                "error",
                "%s in the section [pgbouncer]" % entry.key,
                "%s in the section [%s], where pgBouncer takes it for a name" % (entry.where, entry.section),
                "Move that line to the section [pgbouncer], or delete it.",
                entry.path,
            )
        for entry in repeated(self.ini, [name for name, value in self.wanted.items() if value is not None]):
            self.note(
                "ini_setting_repeated",
                "warning",
                "%s once" % entry.key,
                "%s, which a later line makes void" % entry.where,
                "Delete that line; the last one counts.",
                entry.path,
            )

    def plan_lines(self) -> None:
        """See which lines of [databases] set their own value, and which of them go along."""
        entries = [item.key for item in self.ini.of_section("databases")]
        chosen = self.module.params["database"] or (entries[0] if len(set(entries)) == 1 else "")
        if self.module.params["database"] and chosen not in entries:
            raise PgbouncerError(
                "database is %s, and the pooler of the service %s has: %s. Correct the name."
                % (chosen, self.service, ", ".join(sorted(set(entries))))
            )
        for setting in self.wanted:
            for entry, word in line_words(self.ini, setting) if setting in LINE_WORDS else []:
                value = self.goal.get(setting)
                if entry.key == chosen:
                    self.line_values[setting] = word.value
                    value = self.on_line.get(setting, value)
                if value is None or same(word.value, value):
                    continue
                mounted = mount_of(self.data.get("Mounts") or [], entry.path)
                if entry.key == chosen and mounted is not None:
                    self.plan.lines[entry.key, word.key] = value
                    self.plan.line_before[entry.key, word.key] = word.value
                    continue
                if entry.key != chosen and self.module.params["database"]:
                    # Another database than the one that is meant may have a size of its own.
                    continue
                self.note(
                    "pool_size_on_database_line",
                    "error",
                    "%s = %s for the database %s" % (setting, value, entry.key),
                    "%s sets %s=%s for it, which counts more" % (entry.where, word.key, word.value),
                    "Name the entry by database, so that its line is changed along."
                    if mounted is not None
                    else "Take that out of the line, where the image makes it from a variable.",
                    entry.path,
                )
        self.refuse()

    def own_values(self) -> dict[tuple[str, str], str]:
        """Return (database, setting) -> value of the lines that set their own, as they will be."""
        found = {}
        for setting in COLUMNS:
            for entry, word in line_words(self.ini, setting):
                found[entry.key, setting] = self.plan.lines.get((entry.key, word.key), word.value)
        return found

    def trials(self) -> Trials:
        port = self.state.config.get("listen_port", "")
        paths = list(self.ini.texts)
        return Trials(self.docker, self.data, paths, int(port) if port.isdigit() else listen_port(self.data["Config"]), self.module.tmpdir)

    def failed_trial(self, outcome: Outcome, what: str, hint: str) -> None:
        found = outcome.log or "it does not listen, and logs nothing"
        self.note("trial_failed", "error", "a pooler of the same image that starts %s" % what, found, hint)
        self.refuse()

    def plan_mounted(self) -> None:
        """Plan the change of a file that is mounted, or of the environment when the image overwrites that file."""
        plan = self.plan
        self.check_host_files(list(self.ini.texts))
        changes = change(self.ini, {name: value for name, value in self.wanted.items() if not self.as_wanted(name)}, plan.lines)
        if not changes:
            plan.persisted = True
            return
        if self.module.params["trial"]:
            outcome = self.trials().run({}, changes)
            if not outcome.started:
                self.explain_failed_file()
                self.failed_trial(outcome, "with the new %s" % self.ini.path, "The running pooler was left alone. Correct the file.")
            if any(outcome.texts.get(path) != text for path, text in changes.items()):
                if plan.lines:
                    self.note(
                        "ini_rewritten",
                        "error",
                        "a mounted file that stays as it is",
                        "the image writes %s anew at each start" % self.ini.path,
                        "Take the sizes out of the lines of [databases], where the image makes them from a variable.",
                    )
                    self.refuse()
                plan.mounted = False
                self.plan_environment()
                return
        plan.files = changes
        plan.persisted = True

    def explain_failed_file(self) -> None:
        """Tell whether the file as it stands could have been tried at all."""
        outcome = self.trials().run({})
        if not outcome.started:
            self.failed_trial(
                outcome,
                "with %s as it stands" % self.ini.path,
                "The next restart of the pooler may fail alike: look at that first. Where the image only can't start apart from its"
                " network, set trial to false.",
            )

    def note_other_changes(self) -> None:
        others = other_changes(self.ini, self.state, self.wanted)
        if others:
            self.note(
                "reload_changes_more",
                "warning",
                "only %s" % ", ".join(sorted(self.wanted)),
                "the file differs from the running pooler in %s too" % ", ".join(others),
                "RELOAD takes them over as well. If that is not wanted, correct the file first.",
                self.ini.path,
            )

    def as_wanted(self, name: str) -> bool:
        """Tell whether the file that the pooler reads gives the wanted value, by a line or by leaving it to the default."""
        entry = self.ini.get(name)
        if self.wanted[name] is None:
            return entry is None
        return same(entry.value if entry else self.state.defaults.get(name), self.wanted[name])

    def check_host_files(self, paths: list[str]) -> None:
        """Make sure that each file lies on the host as the container sees it."""
        for path in paths:
            mount = mount_of(self.data.get("Mounts") or [], path)
            if mount is None or mount["Type"] not in ("bind", "volume"):
                raise PgbouncerError(
                    "%s of the service %s is included from %s and is not mounted, so that it can't be kept. Mount it too."
                    % (path, self.service, self.ini.path)
                )
            host = host_path(mount, path)
            try:
                text = read_env_text(host)
            except FileNotFoundError:
                text = None
            if text != self.ini.texts[path]:
                self.note(
                    "ini_mount_stale",
                    "error",
                    "one file, %s on the host and %s in the container" % (host, path),
                    "the container sees another text: the file was replaced on the host after the container was made",
                    "See which of the two is right, then make the container anew (docker compose up -d --force-recreate %s)." % self.service,
                    host,
                )
        self.refuse()

    def plan_environment(self) -> None:
        """Find out by which variables the image takes the settings, and whether Compose gives them."""
        plan = self.plan
        given = self.module.params["environment_names"]
        running = environment_of(self.data["Config"])
        config = self.docker.config().get("services", {})
        if self.service not in config:
            self.docker.expected(self.service)
        composed = {
            name: value.replace("$$", "$") for name, value in (config[self.service].get("environment") or {}).items() if value is not None
        }
        names = {setting: names_for(setting, given, {**running, **composed}) for setting in self.wanted}
        open_settings = []
        unwanted = [name for setting, value in self.wanted.items() if value is None for name in names[setting]]
        for setting, value in self.wanted.items():
            if value is None:
                continue
            alike = all(composed.get(name, running.get(name)) == running.get(name) for name in names[setting])
            if alike and self.as_wanted(setting):
                # The file that this environment made says so: that is the proof.
                plan.environment.update({name: running[name] for name in names[setting] if name in running and same(running[name], value)})
            else:
                open_settings.append(setting)
        if open_settings:
            plan.environment.update(self.prove(open_settings, names))
        merged = {**running, **composed}
        plan.persisted = all(same(merged.get(name), value) for name, value in plan.environment.items()) and not composed.keys() & set(unwanted)
        made = sorted(running.keys() & set(unwanted))
        plan.recreate = bool(made) or any(not same(running.get(name), value) for name, value in plan.environment.items())
        if plan.recreate:
            says = ["%s=%s" % item for item in sorted(plan.environment.items())] + ["nothing for %s" % name for name in made]
            self.note(
                "pool_live_only",
                "warning",
                "a container whose environment says %s" % ", ".join(says),
                "a container that was made with another environment",
                "Until it is made anew with that, a RELOAD or a restart of the pooler takes the settings back.",
            )

    def prove(self, settings: list[str], names: Mapping[str, list[str]]) -> dict[str, str]:
        """Return variable -> value by which the image takes the settings. Raises Refused for one that it ignores."""
        if not self.module.params["trial"]:
            missing = [name for name in settings if name not in self.module.params["environment_names"]]
            if missing:
                raise PgbouncerError("trial is false, so environment_names has to name the variable for %s." % ", ".join(missing))
            return {names[name][0]: self.goal[name] for name in settings}
        trials = self.trials()
        candidates: dict[str, str] = {}
        for setting in settings:
            candidates.update(probes(setting, self.goal[setting], names[setting]))
        hint = "Where the image only can't start apart from its network, set trial to false and give environment_names."
        first = trials.run(candidates)
        if not first.started:
            self.failed_trial(first, "with %s" % ", ".join(sorted(candidates)), hint)
        seen = load(self.conffile, lambda path: first.texts.get(path, ""))
        chosen = {}
        for setting in settings:
            entry = seen.get(setting)
            taken = [name for name in names[setting] if entry is not None and same(entry.value, candidates[name])]
            if taken:
                chosen[taken[0]] = self.goal[setting]
        outcome = first
        # Where each setting came by the first of its names, which had the wanted value, that trial was the proof.
        if any(candidates[name] != value for name, value in chosen.items()):
            outcome = trials.run(chosen)
            if not outcome.started:
                self.failed_trial(outcome, "with %s" % ", ".join(sorted(chosen)), hint)
        made = load(self.conffile, lambda path: outcome.texts.get(path, ""))
        for setting in settings:
            entry = made.get(setting)
            if entry is None or not same(entry.value, self.goal[setting]):
                self.note(
                    "setting_ignored",
                    "error",
                    "an image that takes %s from %s" % (setting, " or ".join(names[setting])),
                    "%s, started with that, writes %s" % (self.data["Config"].get("Image"), "no such line" if entry is None else entry.value),
                    "Give the right name by environment_names, or mount a pgbouncer.ini.",
                )
        self.refuse()
        return chosen

    def check_file_limit(self) -> None:
        """Warn when the process may not open as many files as it would have connections."""
        clients = self.goal.get("max_client_conn")
        if clients is None:
            return
        rc, out, dummy = self.docker.docker("exec", self.data["Id"], "cat", "/proc/1/limits", check=False)
        match = re.search(r"^Max open files +([0-9]+)", out, re.MULTILINE) if rc == 0 else None
        size = max(pool_sizes(self.state.databases).values(), default=0)
        needed = int(clients) + max(size, int(self.goal.get("default_pool_size", "0"))) * max(len(self.state.databases), 1) + 32
        if match and int(match.group(1)) < needed:
            self.note(
                "file_limit_short",
                "warning",
                "a limit of open files of about %d or more for max_client_conn %s" % (needed, clients),
                match.group(1),
                "Raise ulimits.nofile of the service; above the limit pgBouncer refuses clients.",
            )

    # -- applying

    def apply(self, console: Console, guard: ChangeGuard) -> None:
        plan = self.plan
        before = {name: self.state.config[name] for name in plan.live}
        if plan.files:
            words = {"%s %s" % key: value for key, value in plan.lines.items()}
            old = {"%s %s" % key: value for key, value in plan.line_before.items()}
            for path in plan.files:
                guard.step("write", self.host_of(path), dict(before, **old), dict(self.wanted, **words))
                self.write(path, plan.files[path])
        if plan.reload:
            guard.step("reload", self.service, before, plan.live)
            console.command("RELOAD")
        elif plan.live:
            guard.step("set", self.service, before, plan.live)
            for name, value in plan.live.items():
                console.set(name, value)

    def host_of(self, path: str) -> str:
        mount = mount_of(self.data.get("Mounts") or [], path)
        return host_path(mount, path) if mount else ""

    def write(self, path: str, text: str) -> None:
        mount = mount_of(self.data.get("Mounts") or [], path)
        host = self.host_of(path)
        if mount is not None and mount["Destination"].rstrip("/") == path:
            overwrite_file(host, text)
        else:
            replace_file(host, text)

    def verify(self, console: Console) -> State:
        """Read back. Raises PgbouncerError when the pooler says otherwise than it was told."""
        after = State.read(console)
        differ = [name for name, value in self.goal.items() if not same(after.config.get(name), value)]
        wrong = ["%s is %s, not %s" % (name, after.config.get(name), self.goal[name]) for name in differ]
        late = [item for item in apart(after.databases, self.goal, self.own_values()) if not self.keeps_size(item[0])]
        wrong += ["%s of the database %s is %s" % (setting, name, value) for name, setting, value in late]
        if wrong:
            raise PgbouncerError(
                "The pooler of the service %s was told %s, and then says: %s. Another program may set it too; look at its log, then run this again."
                % (self.service, ", ".join("%s = %s" % item for item in sorted(self.goal.items())), "; ".join(wrong))
            )
        return after

    # -- the result

    def result(self, after: Optional[State] = None) -> dict[str, Any]:
        """Return what the module returns: as read back, or without after as predicted."""
        plan, state = self.plan, self.state
        sizes = pool_sizes(state.databases)
        if after is not None:
            sizes_after = pool_sizes(after.databases)
        else:
            own = self.own_values()
            named = {name for name, dummy in own}
            sizes_after = {
                name: size
                if self.keeps_size(name) or "default_pool_size" not in self.goal
                else int(own.get((name if name in named else "*", "default_pool_size"), self.goal["default_pool_size"]))
                for name, size in sizes.items()
            }
        config = after.config if after is not None else {**state.config, **self.goal}
        method = "reload" if plan.reload else "set" if plan.live else "none"
        if any(item["id"] == "pool_size_not_live" for item in self.findings):
            method = "restart"
        return {
            "changed": bool(plan.live or plan.files or plan.reload),
            "version": self.version_text(),
            "pool_mode": config.get("pool_mode", ""),
            "settings": {name: self.told(name, config.get(name)) for name in self.wanted},
            "databases": {name: {"before": size, "after": sizes_after.get(name)} for name, size in sizes.items()},
            "method": method,
            "environment": plan.environment,
            "ini_path": self.host_of(self.conffile) if plan.mounted else "",
            "persisted": plan.persisted,
            "needs_recreate": plan.recreate,
            "findings": self.findings,
            "diff": self.diff(),
        }

    def told(self, name: str, after: Optional[str]) -> dict[str, Optional[str]]:
        """Return what is told of one setting."""
        entry = self.ini.get(name)
        return {
            "before": self.state.config.get(name),
            "after": after,
            "in_file": entry.value if entry is not None else None,
            "on_line": self.line_values.get(name),
        }

    def diff(self) -> list[dict[str, str]]:
        plan = self.plan
        items = [
            {
                "before_header": "%s, running" % self.service,
                "after_header": "%s, running" % self.service,
                "before": shown({name: self.state.config[name] for name in plan.live}),
                "after": shown(plan.live),
            }
        ]
        # Never the text: a connection string in it may hold a password.
        entries = {name: self.ini.get(name) for name in self.wanted if not self.as_wanted(name)}
        before = {name: entry.value for name, entry in entries.items() if entry is not None}
        after = {name: self.wanted[name] for name in entries}
        before.update({"%s: %s" % key: value for key, value in plan.line_before.items()})
        after.update({"%s: %s" % key: value for key, value in plan.lines.items()})
        for path in plan.files:
            header = self.host_of(path)
            items.append({"before_header": header, "after_header": header, "before": shown(before), "after": shown(after)})
        return items


def absent_host(module: AnsibleModule, docker: Docker) -> Optional[str]:
    """Return why there is nothing here yet that could be asked, None when there is."""
    if not os.path.isdir(docker.project_dir):
        return "the directory %s does not exist" % docker.project_dir
    if not module.get_bin_path("docker"):
        return "there is no docker command"
    return None


def predicted_from_nothing(wanted: Mapping[str, Optional[str]]) -> dict[str, Any]:
    """Return the result of check mode on a host that has no pooler yet. Pure."""
    return {
        "changed": True,
        "version": "",
        "pool_mode": wanted.get("pool_mode", ""),
        "settings": {name: {"before": None, "after": value, "in_file": None, "on_line": None} for name, value in wanted.items()},
        "databases": {},
        "method": "set",
        "environment": {},
        "ini_path": "",
        "persisted": False,
        "needs_recreate": False,
        "findings": [],
        "diff": [{"before_header": "running", "after_header": "running", "before": "", "after": shown(wanted)}],
    }


def run(module: AnsibleModule, docker: Docker, wanted: dict[str, Optional[str]], on_line: dict[str, str]) -> dict[str, Any]:
    """Plan, apply, read back; return the result."""
    missing = absent_host(module, docker)
    if missing and module.check_mode:
        module.warn("Nothing could be asked: %s on this host." % missing)
        return predicted_from_nothing(wanted)
    if missing:
        raise PgbouncerError("Nothing was changed: %s on this host. Check project_dir and the inventory." % missing)
    guard = ChangeGuard.from_module(module, docker.project_name())
    if not module.check_mode:
        guard.verify()
    pool = Pool(module, docker, wanted, on_line)
    with pool.open() as console:
        pool.read(console)
        try:
            pool.make_plan()
        except Refused as exc:
            if not module.check_mode:
                result = dict(refused_result(pool), msg="Nothing was changed on the pooler of the service %s: %s" % (pool.service, exc))
                module.fail_json(**result)
            return refused_result(pool)
        if module.check_mode:
            return pool.result()
        pool.apply(console, guard)
        return pool.result(pool.verify(console))


def refused_result(pool: Pool) -> dict[str, Any]:
    """Return what stands, with the findings, for a change that is refused."""
    pool.plan = Plan(mounted=pool.plan.mounted)
    return dict(
        pool.result(pool.state),
        settings={name: pool.told(name, pool.state.config.get(name)) for name in pool.wanted},
        persisted=False,
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            **CHANGE_ARGUMENTS,
            **dict(CONSOLE_ARGUMENTS, admin_user={"type": "str", "required": True}),
            service={"type": "str", "required": True},
            connect_timeout={"type": "int", "default": 5},
            settings={"type": "dict", "required": True},
            on_line={"type": "dict", "default": {}},
            database={"type": "str", "default": ""},
            environment_names={"type": "dict", "default": {}},
            trial={"type": "bool", "default": True},
        ),
        required_one_of=[("admin_password", "admin_password_variable")],
        mutually_exclusive=[("admin_password", "admin_password_variable")],
        supports_check_mode=True,
    )
    try:
        if not module.params["settings"]:
            raise ValueError("settings is empty: name at least one, such as default_pool_size.")
        wanted = normalised(module.params["settings"])
        on_line = of_lines(module.params["on_line"], wanted)
        check_names(module.params["environment_names"])
    except ValueError as exc:
        module.fail_json(msg="Nothing was changed: %s" % exc)
    docker = Docker.from_module(module)
    try:
        result = run(module, docker, wanted, on_line)
    except (PgbouncerError, PostgresError, ComposeError, ChangeError) as exc:
        module.fail_json(msg=str(exc))
    except IniError as exc:
        module.fail_json(msg="The configuration of the pooler of the service %s can't be read: %s" % (module.params["service"], exc))
    except OSError as exc:
        module.fail_json(msg="The pooler's configuration could not be read or written on the host: %s. Use become." % exc)
    module.exit_json(**result)


def check_names(names: Mapping[str, Any]) -> None:
    """Raise ValueError for a variable that is none, or a setting that is none. Pure."""
    for setting, name in names.items():
        if setting not in SETTINGS:
            raise ValueError("environment_names names %s, which is no setting that this module knows." % setting)
        if not isinstance(name, str) or not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", name):
            raise ValueError("environment_names: %r is not the name of a variable." % (name,))


if __name__ == "__main__":
    main()
