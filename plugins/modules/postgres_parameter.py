#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_parameter
short_description: Set parameters of a PostgreSQL server in a container, and restart it without a failed request
version_added: 1.0.0
description:
  - Converges parameters of the running server by C(ALTER SYSTEM), above all C(max_connections), and brings them into effect.
  - What only a start of the server changes is brought about by C(docker restart) of the same container, so that the owner's plain
    C(docker compose up -d) restarts nothing. O(restart) says how the clients are spared.
  - Before the first change, the values are checked against what the server says of each parameter, against the connections in use and
    the standbys, and a server with these values is started for a trial in a container of its own, from the same image, with the same
    memory and without any data of the real one.
  - A server that does not come up with new values gets the old ones back, is started again, and the module fails with the last lines of its log.
attributes:
  check_mode:
    support: full
    details:
      - Every refusal comes as in a real run, and the trial container is started and removed.
  diff_mode:
    support: full
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
  parameters:
    description:
      - Parameters and their values, with or without a unit as in C(postgresql.conf).
      - V(null) takes back what C(ALTER SYSTEM) has set, so that the value of C(postgresql.conf) counts again.
      - A value that the server's command line sets (C(-c name=value)) can't be changed here, and is refused.
    type: dict
    required: true
  restart:
    description:
      - What to do about parameters that only a start of the server changes.
      - V(never) sets them and leaves the restart to somebody else, see RV(restart_required).
      - V(pause) holds the clients of O(pooler) back with C(PAUSE) while the server restarts. None of their statements fails.
        It needs transaction mode. In session mode clients keep their server connections, so a pause would never come about, and it is refused.
      - V(window) lets the balancer answer V(503) with C(Retry-After) for the time of the restart, see O(window).
        Sessions of clients are cut, which are idle then.
      - V(standby) restarts a standby at once. Its readers are cut, and have to ask the primary meanwhile, as HAPI's reads do. It is refused for a
        server that takes writes.
    type: str
    choices:
      - never
      - pause
      - window
      - standby
    default: never
  login_user:
    description:
      - Superuser to log in with on the server, and on O(standbys).
  pooler:
    description:
      - The pgBouncer through which clients reach the server. Required with O(restart=pause).
      - With O(restart=window) it is optional. Clients that come while the server is down then wait for it, and it is proven that they reach it.
    type: dict
    suboptions:
      service:
        description:
          - Service of the pooler. It must have one container.
        type: str
        required: true
      port:
        description:
          - Port on which it listens. By default what its environment or its image says, else 6432.
        type: int
      admin_user:
        description:
          - User of its admin console, one of its C(admin_users).
        type: str
        required: true
      admin_password:
        description:
          - The password.
        type: str
      admin_password_variable:
        description:
          - Name of the variable in the environment file that holds the password.
        type: str
      databases:
        description:
          - Databases of the pooler that lead to the server.
          - By default those whose host is one of the names or addresses of the server's container.
        type: list
        elements: str
        default: []
      user:
        description:
          - User with whom a query through the pooler is proven, before and after. By default O(pooler.admin_user).
        type: str
      password:
        description:
          - The password of O(pooler.user).
        type: str
      password_variable:
        description:
          - Name of the variable in the environment file that holds the password of O(pooler.user).
        type: str
      pause_timeout:
        description:
          - Seconds that running transactions may take to end. Those who want to begin one are held back meanwhile.
          - When they have passed, all go on as before, nothing is restarted, and the module fails.
        type: int
        default: 15
  window:
    description:
      - The window of the balancer. Required with O(restart=window).
    type: dict
    suboptions:
      socket:
        description:
          - HAProxy's admin socket on the host.
        type: str
        required: true
      map_path:
        description:
          - Path on the host of the map that holds the window, see M(dghs.bd_fhir.balancer_window).
        type: path
        required: true
      backend:
        description:
          - HAProxy's backend.
        type: str
        required: true
      seconds:
        description:
          - For how long the window is opened. It is closed as soon as the server is proven, prolonged while that takes longer, and ends
            by itself when the module was killed.
        type: int
        default: 120
      retry_after:
        description:
          - What clients are told in C(Retry-After). V(0) tells them the seconds that are left.
        type: int
        default: 0
      drain_timeout:
        description:
          - Seconds that requests in flight may take to end. When they have passed, the window is closed again, nothing is restarted, and
            the module fails.
        type: int
        default: 30
  standbys:
    description:
      - Services of the standbys of this server in the same project. A primary is refused more than each of them has.
    type: list
    elements: str
    default: []
  trial:
    description:
      - Whether a server with the new values is started for a trial before they are set. It takes a few seconds.
    type: bool
    default: true
  stop_timeout:
    description:
      - Seconds that the server may take to shut down. After that Docker kills it, and it has to recover from its WAL.
    type: int
    default: 60
  ready_timeout:
    description:
      - Seconds that the server may take to accept connections again.
    type: int
    default: 120
notes:
  - The restart waits for no one who connects past the pooler. Such clients are named in RV(findings).
  - When the module is killed while it holds clients back, a process that it has left behind lets them go on once the server accepts connections.
    The next run with the same values finishes the work.
  - A container may come back with another address. Clients of a pooler are held back until it has forgotten the former one, up to its C(dns_max_ttl).
seealso:
  - module: dghs.bd_fhir.connection_budget_info
  - module: dghs.bd_fhir.pgbouncer_pool
  - module: dghs.bd_fhir.balancer_window
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Allow 40 connections, while the clients of a pooler in transaction mode wait
  dghs.bd_fhir.postgres_parameter:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    parameters:
      max_connections: 40
    restart: pause
    pooler:
      service: pgbouncer-fhir
      admin_user: hapi_app
      admin_password_variable: FHIR_DB_APP_PASSWORD

- name: The same where the pooler is in session mode; the balancer announces the interruption
  dghs.bd_fhir.postgres_parameter:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    parameters:
      max_connections: 40
    restart: window
    pooler:
      service: pgbouncer-fhir
      admin_user: hapi_app
      admin_password_variable: FHIR_DB_APP_PASSWORD
    window:
      socket: /opt/bd-fhir-national/compose.d/balancer/run/haproxy.sock
      map_path: /opt/bd-fhir-national/compose.d/balancer/etc/window.map
      backend: hapi

- name: The way back to what postgresql.conf says; a later restart brings it into effect
  dghs.bd_fhir.postgres_parameter:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    parameters:
      max_connections:
  register: reset
  failed_when: reset is failed or not reset.restart_required
"""

RETURN = r"""
parameters:
  description:
    - Each parameter. C(before) and C(after) are the values with which the server works, in C(unit); C(configured) is what its files say,
      with which it works after a restart. C(source), C(sourcefile) and C(sourceline) tell where C(after) comes from.
      In check mode as predicted.
  returned: success, and on failure what was read
  type: dict
  sample:
    max_connections:
      before: '30'
      after: '40'
      configured: '40'
      unit: ''
      pending_restart: false
      source: configuration file
      sourcefile: /var/lib/postgresql/data/postgresql.auto.conf
      sourceline: 3
restarted:
  description: Whether the server was restarted. In check mode, whether it would be.
  returned: success
  type: bool
  sample: true
restart_required:
  description: Whether a parameter still waits for a restart.
  returned: success
  type: bool
  sample: false
method:
  description: How the values came into effect, V(none), V(reload), V(pause) or V(window).
  returned: success
  type: str
  sample: pause
interrupted_seconds:
  description: For how long clients were held back or told to come again, measured. V(0) in check mode.
  returned: success
  type: float
  sample: 2.4
interruption:
  description: What clients notice, in words, for a plan.
  returned: success
  type: str
  sample: 'clients of fhirdb on pgbouncer-fhir wait for the restart, mostly 2 to 10 seconds; none fails'
findings:
  description: What an operator should know, each with C(id), C(severity), C(object), C(expected), C(found) and C(hint).
  returned: success
  type: list
  elements: dict
  sample: []
"""

import os
import time
import uuid

from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Container, Docker, last_lines, read_env_text, scan_services
from ..module_utils._container_files import copy_in, unarchive
from ..module_utils._findings import finding
from ..module_utils._haproxy import HAProxy, HAProxyError
from ..module_utils._parameters import (
    AUTO_CONF,
    LISTS,
    STANDBY_PARAMETERS,
    Item,
    ParameterError,
    Server,
    Setting,
    check_primary,
    check_slots,
    check_standbys,
    conf_text,
    elements,
    faults,
    others_pending,
    others_reloaded,
    parse_control,
    plan,
    proven_text,
    read_settings,
    text_of,
    trial_values,
)
from ..module_utils._pause import Pause, PauseError, databases_of, paused, query_through, session_pools, wait_for_names
from ..module_utils._pgbouncer import CONSOLE_ARGUMENTS, Console, PgbouncerError, environment_of, port_of
from ..module_utils._postgres import LOGIN_ARGUMENTS, Login, PostgresError, Session, address_of, connect, container_of, secret_of
from ..module_utils._window import close_window, open_window, plan_open, wait_idle, wait_served

PORT = 5432
# Beside postgresql.auto.conf while the server is restarted: what that file is to hold when the server does not come up.
PROVEN_CONF = AUTO_CONF + ".bd-fhir"
DEFAULT_DATA = "/var/lib/postgresql/data"
# Seconds; the trial container ends by itself when nobody removes it.
TRIAL_SECONDS = 120
# Seconds; a standby that has lost its primary looks for it again every 5 (wal_retrieve_retry_interval).
REPLAY_SECONDS = 10
TRIAL_DATA = "/tmp/bd-fhir-trial"  # noqa: S108 - inside the trial container
TRIAL_LOG = TRIAL_DATA + ".log"
# Programs that stream as a standby does, but replay nothing.
RECEIVERS = ("pg_receivewal", "pg_basebackup", "pgbackrest", "barman_receive_wal")


class ServerDown(Exception):
    """The server does not come up. The text tells what its container and its log say."""


@dataclass
class Facts:
    """What was read of the server besides its parameters."""

    version: int  # such as 150018
    in_recovery: bool
    data_directory: str
    bindir: str
    in_use: int  # connections of clients, without ours
    owner: str = ""  # uid:gid of the data directory
    config: dict[str, Any] = field(default_factory=dict)  # the part Config of `docker container inspect` (secret!)
    names: list[str] = field(default_factory=list)  # names and addresses of the container on its networks


@dataclass
class Pooler:
    """The pooler through which clients reach the server."""

    service: str
    console: Login
    client: Login
    databases: list[str]


def spell(session: Session, server: Server, parameters: dict[str, Any]) -> None:
    """Let the server itself read texts that only it can judge, such as a time zone. Raises ParameterError."""
    for name, value in parameters.items():
        setting = server.settings.get(str(name).lower())
        if setting is None or setting.vartype != "string" or setting.context not in ("user", "superuser"):
            continue
        if value is None or setting.name in LISTS:
            continue
        entry = server.last(setting.name)
        for text in [text_of(setting.name, value)] + ([entry.setting] if entry else []):
            try:
                # Local to this one statement, since the session is in autocommit.
                server.spelled[setting.name, text] = session.value("SELECT pg_catalog.set_config(%s, %s, true)", (setting.name, text))
            except PostgresError as exc:
                if text != (entry.setting if entry else None):
                    raise ParameterError("%s can't be %r: %s" % (setting.name, text, exc)) from None


def start_lines(text: str, count: int = 8) -> str:
    """Return the last lines of a server's log that are about its start; never a statement of a client. Pure."""
    marks = ("FATAL:", "PANIC:", "HINT:", "LOG:")
    lines = text.splitlines()
    kept = [line for line in lines if any(mark in line for mark in marks) and "statement:" not in line.lower()]
    return last_lines("\n".join(kept or ["nothing about a start"]), count)


def data_directory_of(config: dict[str, Any]) -> str:
    """Return where the server in a container has its data, from the part Config of `docker container inspect`. Pure."""
    command = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
    for index, item in enumerate(command):
        if item == "-D" and index + 1 < len(command):
            return str(command[index + 1])
        if item.startswith(("data_directory=", "--data_directory=", "--data-directory=")):
            return str(item.partition("=")[2])
    return environment_of(config).get("PGDATA") or DEFAULT_DATA


def difference(items: list[Item], restarts: bool) -> dict[str, str]:
    """Return how the parameters are before and afterwards, for the diff. Pure."""

    def line(item: Item, value: str, files: str) -> str:
        unit = " x " + item.setting.unit if item.setting.unit else ""
        return "%s = %s%s%s\n" % (item.name, value, unit, "" if files == value else ", %s after a restart" % files)

    return {
        "before": "".join(line(item, item.running, item.configured) for item in items),
        "after": "".join(line(item, item.running if item.restart and not restarts else item.wanted, item.wanted) for item in items),
    }


@dataclass
class Job:
    """A restart that was judged to be right."""

    container: Container
    facts: Facts
    items: list[Item]
    pooler: Optional[Pooler]
    haproxy: Optional[HAProxy]


class Run:
    """One call of the module."""

    def __init__(self, module: AnsibleModule, docker: Docker, result: dict[str, Any]) -> None:
        self.module = module
        self.docker = docker
        self.params = module.params
        self.service: str = module.params["service"]
        self.result = result
        self.guard = ChangeGuard.for_docker(module, docker)
        self.password = secret_of(docker, self.params["login_password"], self.params["login_password_variable"])
        self.findings: list[dict[str, Any]] = result["findings"]
        self.auto_conf = AUTO_CONF

    # -- reading

    def login(self, container: Container, database: str = "postgres") -> Login:
        return Login(address_of(container, PORT), PORT, self.params["login_user"], self.password, database, self.params["connect_timeout"])

    def read(self, session: Session, container: Container) -> tuple[Server, Facts]:
        """Read everything about the server. Raises PostgresError, ComposeError, ParameterError."""
        if not session.value("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"):
            raise PostgresError(
                "%s is no superuser on %s, and ALTER SYSTEM needs one. Give another login_user." % (self.params["login_user"], self.service)
            )
        server = read_settings(session)
        inspected = self.docker.inspect([container.id])[0]
        server.arguments = [str(item) for item in inspected.get("Args") or []]
        server.command = self.command_place()
        spell(session, server, self.params["parameters"])
        row = session.rows(
            "SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS in_recovery,"
            " current_setting('data_directory') AS data_directory,"
            " (SELECT setting FROM pg_catalog.pg_config WHERE name = 'BINDIR') AS bindir,"
            " (SELECT count(*)::int FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) AS in_use"
        )[0]
        facts = Facts(**row)
        facts.config = inspected.get("Config") or {}
        facts.names = [self.service, container.name, *container.addresses.values()]
        for network in ((inspected.get("NetworkSettings") or {}).get("Networks") or {}).values():
            facts.names += [*(network.get("Aliases") or []), *(network.get("DNSNames") or [])]
        facts.owner = self.docker.docker("exec", container.id, "stat", "-c", "%u:%g", facts.data_directory)[1].strip()
        return server, facts

    def command_place(self) -> str:
        """Return in words where the arguments of the server come from."""
        words = "`command` of the service %s" % self.service
        for path in reversed(self.docker.files_default()):
            try:
                line = scan_services(read_env_text(path)).get(self.service, {}).get("command")
            except OSError:
                continue
            if line:
                return "%s (%s:%d)" % (words, path, line)
        return words

    # -- judging

    def judge(self, session: Session, container: Container, server: Server, facts: Facts, items: list[Item]) -> None:
        """Refuse what would do harm, and note what an operator should know. Raises ParameterError, PostgresError, ComposeError."""
        active = [item for item in items if item.write or item.reload or item.restart]
        names = [item.name for item in items]
        restarts = any(item.restart for item in items) and self.params["restart"] != "never"
        if not active:
            return
        broken = faults(server, names)
        if broken:
            raise ParameterError(
                "Nothing was changed: files of the server have errors, so that it would read none of them, and not start again: %s."
                " Correct them first." % "; ".join(broken)
            )
        check_slots(server, active, facts.in_use)
        self.judge_standbys(session, container, facts, [item for item in active if item.name in STANDBY_PARAMETERS])
        pending = others_pending(server, names)
        for setting, new, where in pending:
            self.findings.append(
                finding(
                    "other_parameter_pending", "error" if restarts else "warning", setting.name, "%s, as it runs" % setting.setting,
                    "%s after a restart, from %s" % (new, where),
                    "Name it in parameters too, with the value that it shall have, or correct its file.",
                )
            )  # fmt: skip
        if pending and restarts:
            raise ParameterError(
                "Nothing was changed: a restart would change more than was asked for: %s. Name them in parameters too, each with the value"
                " that it shall have, or correct the file."
                % "; ".join("%s from %s to %s (%s)" % (setting.name, setting.setting, new, where) for setting, new, where in pending)
            )
        for setting, new, where in others_reloaded(server, names):
            self.findings.append(
                finding(
                    "other_parameter_reloaded", "warning", setting.name, "%s, as it runs" % setting.setting, "%s, from %s" % (new, where),
                    "It comes into effect with ours, since the server reads its files as a whole.",
                )
            )  # fmt: skip
        for row in session.rows(
            "SELECT coalesce(r.rolname, 'every role') AS role, coalesce(d.datname, 'every database') AS database, c.entry"
            " FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole"
            " LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) AS c(entry)"
        ):
            name, dummy, value = str(row["entry"]).partition("=")
            if name.lower() in names:
                self.findings.append(
                    finding(
                        "parameter_overridden", "warning", name, "the value that is set here",
                        "%s for %s in %s" % (value, row["role"], row["database"]),
                        "Sessions of that role there keep their own value: ALTER ROLE or ALTER DATABASE ... RESET takes it back.",
                    )
                )  # fmt: skip

    def judge_standbys(self, session: Session, container: Container, facts: Facts, items: list[Item]) -> None:
        if not items:
            return
        if facts.in_recovery:
            self.judge_below(container, facts, items)
            return
        values: dict[str, dict[str, int]] = {}
        known: set[str] = set()
        for service in self.params["standbys"]:
            standby = container_of(self.docker, service)
            known.update(standby.addresses.values())
            try:
                other = connect(self.login(standby))
            except PostgresError as exc:
                raise PostgresError("The standby %s could not be read, so that nothing was changed. %s" % (service, exc), exc.kind) from None
            with other:
                if not other.value("SELECT pg_is_in_recovery()"):
                    raise ParameterError("The service %s is named in standbys, but is no standby: it takes writes. Correct standbys." % service)
                rows = other.rows("SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY(%s)", (list(STANDBY_PARAMETERS),))
            values[service] = {row["name"]: int(row["setting"]) for row in rows}
        check_standbys(items, values)
        raised = [item.name for item in items if int(item.wanted) > int(item.running)]
        for row in session.rows("SELECT application_name, host(client_addr) AS address FROM pg_catalog.pg_stat_replication WHERE state <> 'backup'"):
            if raised and row["address"] not in known and row["application_name"] not in RECEIVERS:
                self.findings.append(
                    finding(
                        "standby_not_named", "warning", "%s at %s" % (row["application_name"], row["address"]), "every standby named in standbys",
                        "it streams from %s, and %s would be raised" % (self.service, ", ".join(raised)),
                        "A standby with less stops replaying and does not start again. Raise it there first.",
                    )
                )  # fmt: skip

    def judge_below(self, container: Container, facts: Facts, items: list[Item]) -> None:
        """Refuse less than the primary has, as far as this standby knows. It learns of a change when it replays it, a little later."""
        end = time.monotonic() + REPLAY_SECONDS
        while True:
            text = self.docker.docker("exec", container.id, os.path.join(facts.bindir, "pg_controldata"), "-D", facts.data_directory)[1]
            try:
                return check_primary(items, parse_control(text))
            except ParameterError:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.5)

    def judge_restart(self, session: Session, facts: Facts, pooler: Optional[Pooler]) -> None:
        """Refuse a restart that would cut what must not be cut, and name who is cut. Raises ParameterError, PostgresError."""
        if facts.version >= 130000 and session.value("SELECT count(*) FROM pg_catalog.pg_stat_progress_basebackup"):
            raise ParameterError(
                "Nothing was changed: a base backup of %s is running, which a restart would break off. Wait for its end." % self.service
            )
        if self.params["restart"] == "standby":
            if not facts.in_recovery:
                raise ParameterError(
                    "Nothing was changed: the server of %s takes writes, and restart: standby would cut them off. Use restart: pause or window."
                    % self.service
                )
            return
        own = address_of(container_of(self.docker, pooler.service)) if pooler else ""
        for row in session.rows(
            "SELECT usename, application_name, coalesce(host(client_addr), 'its socket') AS address, count(*)::int AS number"
            " FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        ):
            if pooler is None or row["address"] != own:
                self.findings.append(
                    finding(
                        "direct_clients_cut", "warning", "%s from %s" % (row["usename"], row["address"]), "clients that come through the pooler",
                        "%d connections of %s past it" % (row["number"], row["application_name"] or "an unnamed program"),
                        "The restart cuts them. Most programs connect again by themselves; see that a job of yours does.",
                    )
                )  # fmt: skip

    def open_pooler(self, facts: Facts) -> Optional[Pooler]:
        """Look at the pooler before anything is changed. Raises PauseError, PgbouncerError, PostgresError, ComposeError."""
        options = self.params["pooler"]
        if options is None:
            return None
        container = container_of(self.docker, options["service"])
        port = options["port"] or port_of(self.docker, container)
        host, timeout = address_of(container, port), self.params["connect_timeout"]
        secret = secret_of(self.docker, options["admin_password"], options["admin_password_variable"])
        console = Login(host, port, options["admin_user"], secret, "pgbouncer", timeout)
        pausing = self.params["restart"] == "pause"
        with Console.open(console) as admin:
            rows = admin.show("DATABASES")
            names = options["databases"] or databases_of(rows, facts.names, PORT)
            missing = sorted(set(names) - {row["name"] for row in rows})
            if missing or not names:
                raise PauseError(
                    "Nothing was changed: the pooler %s has no database %s. It has: %s. Correct pooler.databases or pooler.service."
                    % (
                        options["service"], ", ".join(missing) or "on the server of %s" % self.service,
                        ", ".join("%s on %s" % (row["name"], row["host"]) for row in rows if row["host"]) or "none",
                    )
                )  # fmt: skip
            session = session_pools(rows, admin.show("USERS"), admin.show("POOLS"), admin.config(), names)
            if session and pausing:
                raise PauseError(
                    "Nothing was changed: the pooler %s is in session mode (%s), where PAUSE waits until each client has gone, and those of a"
                    " connection pool never go. Use restart: window." % (options["service"], ", ".join(session))
                )
            # A killed run's watcher may be about to let them go on.
            end = time.monotonic() + 30
            while paused(admin, names) and time.monotonic() < end:
                time.sleep(0.5)
            held = paused(admin, names)
            if held:
                raise PauseError(
                    "Nothing was changed: clients of %s on the pooler %s are held back already. If nobody works there, run RESUME on its console,"
                    " then this again." % (", ".join(held), options["service"])
                )
        user = options["user"] or options["admin_user"]
        if options["password"] or options["password_variable"]:
            secret = secret_of(self.docker, options["password"], options["password_variable"])
        client = Login(host, port, user, secret, names[0], timeout)
        try:
            query_through(client, "SELECT 1", timeout)
        except PostgresError as exc:
            raise PauseError("Nothing was changed, since afterwards nothing could be proven. %s Give a pooler.user who may." % exc) from None
        return Pooler(options["service"], console, client, list(names))

    def window_client(self) -> HAProxy:
        """Look at the balancer before anything is changed. Raises HAProxyError."""
        window = self.params["window"]
        haproxy = HAProxy(window["socket"])
        plan_open(haproxy, window["map_path"], window["seconds"], "all", window["retry_after"])
        haproxy.sessions(window["backend"])
        return haproxy

    def trial(self, container: Container, server: Server, facts: Facts, items: list[Item]) -> None:
        """Start a server with the new values, far from the real one. Raises ParameterError, ComposeError."""
        answer = self.try_start(container, facts, trial_values(server, items))
        if not answer:
            return
        present = self.try_start(container, facts, trial_values(server, []))
        if present:
            raise ParameterError(
                "Nothing was changed: a trial server of the image %s does not start even with the present values, so that nothing is known of the"
                " new ones. It said: %s. Set trial: false to go without." % (container.image_ref, present)
            )
        raise ParameterError(
            "Nothing was changed: a trial server with these values does not start, while one with the present values does: %s" % answer
        )

    def try_start(self, container: Container, facts: Facts, values: dict[str, str]) -> str:
        """Return why a server with these values does not start, "" when it does."""
        name = "bd-fhir-trial-%s" % uuid.uuid4().hex[:12]
        argv = ["run", "-d", "--rm", "--name", name, "--network", "none", "--user", facts.owner, "--entrypoint", "sleep"]
        if container.memory_limit:
            argv += ["--memory", str(container.memory_limit)]
        self.docker.docker(*argv, container.image_id, str(TRIAL_SECONDS))

        def inside(program: str, *args: str, data: Optional[str] = None) -> tuple[int, str, str]:
            return self.docker.docker("exec", *(["-i"] if data is not None else []), name, program, *args, check=False, data=data)

        try:
            control, initdb = (os.path.join(facts.bindir, item) for item in ("pg_ctl", "initdb"))
            rc, out, err = inside(initdb, "-D", TRIAL_DATA, "-N", "-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8")
            if rc != 0:
                return "initdb ended with %d: %s" % (rc, last_lines(err or out, 3))
            own = {"listen_addresses": "", "unix_socket_directories": "/tmp", "fsync": "off", "logging_collector": "off"}  # noqa: S108
            rc, out, err = inside("tee", "-a", os.path.join(TRIAL_DATA, "postgresql.conf"), data=conf_text({**values, **own}))
            rc, out, err = inside(control, "-D", TRIAL_DATA, "-w", "-t", "60", "-l", TRIAL_LOG, "start")
            if rc == 0:
                return ""
            return start_lines(inside("tail", "-n", "40", TRIAL_LOG)[1]) or last_lines(err or out, 3)
        finally:
            # With the volume that its image asks for.
            self.docker.docker("rm", "-f", "-v", name, check=False)

    # -- changing

    def alter(self, container: Container, items: list[Item]) -> None:
        """Write what ALTER SYSTEM writes, all of it or nothing, and let the server read it. Raises PostgresError, ChangeError."""
        writes = [item for item in items if item.write]
        # The server notes that a value waits for a start only when it reads its files.
        if not writes and not any(item.reload or (item.restart and not item.setting.pending_restart) for item in items):
            return
        with connect(self.login(container)) as session:
            entries = {entry.name: entry for entry in read_settings(session).entries if entry.auto}
            done: list[Item] = []
            try:
                for item in writes:
                    self.guard.step(
                        "alter_system",
                        "%s: %s" % (self.service, item.name),
                        {"configured": item.configured},
                        {"configured": item.wanted, "reset": item.text is None},
                    )
                    self.alter_one(session, item.name, item.text)
                    done.append(item)
            except (PostgresError, ChangeError):
                for item in reversed(done):
                    entry = entries.get(item.name)
                    self.alter_one(session, item.name, entry.setting if entry else None)
                raise
            self.guard.step("reload", self.service, None, {item.name: item.wanted for item in items if item.write or item.reload})
            session.execute("SELECT pg_catalog.pg_reload_conf()")

    @staticmethod
    def alter_one(session: Session, name: str, text: Optional[str]) -> None:
        from psycopg2 import sql

        if text is None:
            session.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
        else:
            values = elements(text) if name in LISTS else [text]
            literals = sql.SQL(", ").join(sql.Literal(value) for value in values)
            session.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), literals))

    def settled(self, container: Container, seconds: float = 10) -> tuple[Server, list[Item]]:
        """Read back, in new sessions, until the server has read its files. Raises PostgresError, ParameterError."""
        end = time.monotonic() + seconds
        while True:
            with connect(self.login(container)) as session:
                server = read_settings(session)
                spell(session, server, self.params["parameters"])
            items = plan(server, self.params["parameters"])
            wrong = [item for item in items if item.write or item.reload]
            unread = [item for item in items if item.restart and not item.setting.pending_restart]
            if not wrong and not unread:
                return server, items
            if time.monotonic() >= end:
                raise PostgresError(
                    "The server of %s has not taken: %s. Look at its log for the reason."
                    % (self.service, "; ".join("%s is %s, wanted %s" % (item.name, item.running, item.wanted) for item in wrong + unread))
                )
            time.sleep(0.1)

    def restart(self, job: Job, server: Server) -> Container:
        """Restart the server in the way that was asked for, and return its container. Raises everything that this file knows."""
        container, facts, waiting = job.container, job.facts, [item for item in job.items if item.restart]
        with connect(self.login(container), statement_timeout=0) as session:
            text = session.value("SELECT pg_catalog.pg_read_file(%s)", (AUTO_CONF,))
            # Done now, it need not be done while clients wait.
            session.execute("CHECKPOINT")
        self.guard.step("restart", self.service, {item.name: item.running for item in waiting}, {item.name: item.wanted for item in waiting})
        copy_in(self.docker, container.id, facts.data_directory, PROVEN_CONF, proven_text(text, server, waiting), facts.owner)
        found = self.announced(job, job.haproxy) if job.haproxy else self.held(job, time.monotonic(), lambda: None)
        self.docker.docker("exec", "-u", facts.owner, found.id, "rm", "-f", os.path.join(facts.data_directory, PROVEN_CONF))
        return found

    def held(self, job: Job, begin: float, tick: Callable[[], None]) -> Container:
        """Restart the server while the clients of the pooler are held back, and prove it through the pooler."""
        pooler = job.pooler
        if pooler is None:
            return self.bounced(job, tick)
        pausing = self.params["restart"] == "pause"
        timeout = self.params["pooler"]["pause_timeout"]
        limit = timeout + self.params["stop_timeout"] + 2 * self.params["ready_timeout"] + 120
        pause = Pause(pooler.console, pooler.databases)
        pause.hold(timeout, limit, lambda: self.revived(job.container.id), wait=pausing)
        try:
            found = self.bounced(job, tick)
            wait_for_names(pooler.console, job.facts.names, list(found.addresses.values()))
        finally:
            pause.release()
            self.result["interrupted_seconds"] = round(time.monotonic() - begin, 2)
        query_through(pooler.client, "SELECT 1", self.params["ready_timeout"])
        return found

    def announced(self, job: Job, haproxy: HAProxy) -> Container:
        """Restart the server in a window of the balancer."""
        window = self.params["window"]
        seconds, path, backend = window["seconds"], window["map_path"], window["backend"]
        begin = time.monotonic()
        opened = open_window(haproxy, path, seconds, "all", window["retry_after"])
        # One that somebody else has opened is theirs to close.
        mine = not opened.before.until
        until = [opened.wanted.until]

        def keep_open() -> None:
            if until[0] - time.time() < min(20, seconds / 2):
                until[0] = open_window(haproxy, path, seconds, "all", window["retry_after"]).wanted.until

        serves = True
        try:
            left = wait_idle(haproxy, backend, window["drain_timeout"])
            if left:
                raise PauseError(
                    "Nothing was restarted: %d requests to %s were still in flight after %d seconds, so the window is closed again. See which"
                    " they are (show sess on %s), and run this again, or raise window.drain_timeout."
                    % (left, backend, window["drain_timeout"], window["socket"])
                )
            serves = False
            found = self.held(job, begin, keep_open)
            serves = True
            if not wait_served(haproxy, backend, 60):
                raise HAProxyError(
                    "The server of %s runs with the new values, but HAProxy at %s finds no server of %s up. Look at the logs of the replicas."
                    % (self.service, window["socket"], backend)
                )
        finally:
            # While the server is down an announced 503 is better than a 500. It ends by itself.
            if mine and (serves or self.accepts(job.container.id)):
                close_window(haproxy, path)
            self.result["interrupted_seconds"] = round(time.monotonic() - begin, 2)
        return found

    def bounced(self, job: Job, tick: Callable[[], None]) -> Container:
        """Restart the container. Raises ServerDown, with the server running on its former values if that could be brought about."""
        container, facts = job.container, job.facts
        since = str(int(time.time()))
        signal = facts.config.get("StopSignal") or "SIGTERM"
        if signal not in ("SIGINT", "INT", "2"):
            # On SIGTERM the server waits for its clients to go, until Docker kills it. What runs already is not undone by that signal.
            control = ("exec", "-u", facts.owner, container.id, os.path.join(facts.bindir, "pg_ctl"), "-D", facts.data_directory)
            self.docker.docker(*control, "status")
            # First, since it also tells Docker that the end is wanted. Otherwise the restart policy may start the server in between, and
            # that start is then what is stopped, half done.
            self.docker.docker("kill", "-s", signal, container.id)
            # Without clients it has ended by now.
            self.docker.docker(*control, "-m", "fast", "-W", "stop", check=False)
        seconds = self.params["stop_timeout"]
        self.docker.docker("restart", "-t", str(seconds), container.id, timeout=seconds + 60)
        self.result["restarted"] = True
        try:
            return self.wait_ready(container.id, tick, since)
        except ServerDown as exc:
            told = str(exc)
        back = self.put_back(container, facts.data_directory, facts.owner, tick)
        raise ServerDown(
            "The server of %s does not start with %s: %s. %s"
            % (self.service, ", ".join("%s = %s" % (item.name, item.wanted) for item in job.items if item.restart), told, back)
        )

    def wait_ready(self, identity: str, tick: Callable[[], None], since: str = "") -> Container:
        """Wait until the server takes sessions. Raises ServerDown, PostgresError for a login that can't come about by waiting."""
        end = time.monotonic() + self.params["ready_timeout"]
        while True:
            found = [item for item in self.docker.containers(self.service) if item.id == identity]
            container = found[0] if found else None
            told = "its container is %s" % ("%s, exit code %d" % (container.state, container.exit_code) if container else "gone")
            if container and container.state == "running" and not container.restart_count:
                try:
                    connect(self.login(container)).close()
                    return container
                except PostgresError as exc:
                    if exc.kind in ("password", "role", "hba", "database", "driver", "configuration"):
                        raise
                    told = str(exc)
            elif not container or container.restart_count or container.state in ("exited", "dead"):
                end = 0
            if time.monotonic() >= end:
                lines = self.docker.docker("logs", "--tail", "60", *(["--since", since] if since else []), identity, check=False)
                raise ServerDown("%s; its log: %s" % (told, start_lines(self.docker.clean(lines[1] + lines[2]))))
            tick()
            time.sleep(0.2)

    def accepts(self, identity: str) -> bool:
        """Tell whether the server takes sessions now."""
        found = [item for item in self.docker.containers(self.service) if item.id == identity]
        if not found or found[0].state != "running":
            return False
        try:
            connect(self.login(found[0])).close()
        except PostgresError:
            return False
        return True

    def revived(self, identity: str) -> bool:
        """The same for a watcher whose module is gone: what that had stopped is started."""
        found = [item for item in self.docker.containers(self.service) if item.id == identity]
        if found and found[0].state == "exited":
            self.docker.docker("start", identity, check=False)
        return self.accepts(identity)

    def put_back(self, container: Container, directory: str, owner: str, tick: Callable[[], None]) -> str:
        """Give the server the file back with which it is known to start, and start it; return how it went."""
        rc, out, err = self.docker.docker("cp", "%s:%s" % (container.id, os.path.join(directory, PROVEN_CONF)), "-", check=False)
        try:
            text = unarchive(out)[0]
        except ValueError:
            return "What it ran with before could not be put back: %s is not there (%s)." % (os.path.join(directory, PROVEN_CONF), last_lines(err, 1))
        # It is in a loop of starts, in which its file must not change.
        self.docker.docker("stop", "-t", str(self.params["stop_timeout"]), container.id, timeout=self.params["stop_timeout"] + 60)
        copy_in(self.docker, container.id, directory, AUTO_CONF, text, owner)
        self.docker.docker("start", container.id)
        try:
            self.wait_ready(container.id, tick)
        except ServerDown as exc:
            return "It got back what it ran with before, and does not start with that either: %s. The data is untouched; read the whole log." % exc
        self.docker.docker("exec", "-u", owner, container.id, "rm", "-f", os.path.join(directory, PROVEN_CONF))
        return "It got back what it ran with before, and runs again."

    # -- after a kill

    def recover(self) -> Container:
        """Return the server's container; finish or undo what a killed run has left. Raises ServerDown, PostgresError, ComposeError."""
        found = self.docker.containers(self.service)
        if len(found) != 1:
            return container_of(self.docker, self.service)
        container = found[0]
        config = self.docker.inspect([container.id])[0].get("Config") or {}
        directory = data_directory_of(config)
        rc, out, err = self.docker.docker("cp", "%s:%s" % (container.id, os.path.join(directory, PROVEN_CONF)), "-", check=False)
        if rc != 0:
            # No restart of ours was under way: a server that is down is somebody else's business.
            return container_of(self.docker, self.service)
        if container.state == "running" and self.accepts(container.id):
            return container
        words = "An earlier run was broken off while it restarted the server of %s" % self.service
        if self.module.check_mode:
            raise ServerDown("%s, which does not take sessions now. A real run waits for it, or gives it back what it ran with before." % words)
        self.guard.verify()
        try:
            return self.wait_ready(container.id, lambda: None)
        except ServerDown as exc:
            told = str(exc)
        self.guard.step("put_back", self.service, None, None)
        try:
            owner = unarchive(out)[1]
        except ValueError as exc:
            raise ServerDown("%s. The server does not start: %s. %s can't be read: %s." % (words, told, PROVEN_CONF, exc)) from None
        raise ServerDown("%s. The server does not start: %s. %s" % (words, told, self.put_back(container, directory, owner, lambda: None)))

    def sweep(self, session: Session, container: Container, facts: Facts) -> None:
        """Remove what a killed run has left in a server that runs well."""
        if session.value("SELECT size FROM pg_catalog.pg_stat_file(%s, true)", (PROVEN_CONF,)) is not None:
            self.docker.docker("exec", "-u", facts.owner, container.id, "rm", "-f", os.path.join(facts.data_directory, PROVEN_CONF))

    # -- telling

    def tell(self, items: list[Item], before: dict[str, str], sources: dict[str, Setting], waits: bool) -> None:
        """Put the parameters into the result; waits: what needs a restart has not had one."""
        for item in items:
            setting = sources[item.name]
            held_back = waits and item.restart
            auto = item.text is not None and item.write and not held_back and self.module.check_mode
            self.result["parameters"][item.name] = {
                "before": before[item.name],
                "after": item.running if held_back else item.wanted,
                "configured": item.wanted,
                "unit": setting.unit,
                "pending_restart": held_back,
                "source": "configuration file" if auto else setting.source,
                "sourcefile": self.auto_conf if auto else setting.sourcefile,
                "sourceline": 0 if auto else setting.sourceline,
            }
        self.result["restart_required"] = waits and any(item.restart for item in items)
        waiting = [item for item in items if waits and item.restart]
        for item in waiting:
            self.findings.append(
                finding(
                    "parameter_waits_for_restart", "warning", item.name, item.wanted,
                    "%s, with which the server works until it is started anew" % item.running,
                    "Run this with restart: pause, window or, for a standby, standby.",
                )
            )  # fmt: skip

    def interruption(self, pooler: Optional[Pooler]) -> str:
        method = self.params["restart"]
        at_most = self.params["stop_timeout"] + self.params["ready_timeout"]
        if method == "pause" and pooler:
            return "clients of %s on %s wait while the server restarts, mostly 2 to 10 seconds, at most %d; none of their statements fails" % (
                ", ".join(pooler.databases), pooler.service, at_most + self.params["pooler"]["pause_timeout"],
            )  # fmt: skip
        if method == "standby":
            return "readers of the standby are cut, and have to ask the primary while it restarts, mostly 5 to 20 seconds, at most %d" % at_most
        return (
            "the balancer answers 503 with Retry-After while the server restarts, mostly 5 to 20 seconds, at most %d; sessions of clients are cut"
            % (at_most + self.params["window"]["drain_timeout"])
        )

    def run(self) -> None:
        """Converge. Raises everything that main() knows."""
        container = self.recover()
        method = self.params["restart"]
        check = self.module.check_mode
        pooler: Optional[Pooler] = None
        haproxy: Optional[HAProxy] = None
        with connect(self.login(container)) as session:
            server, facts = self.read(session, container)
            self.auto_conf = os.path.join(facts.data_directory, AUTO_CONF)
            items = plan(server, self.params["parameters"])
            before = {item.name: item.running for item in items}
            self.judge(session, container, server, facts, items)
            restarts = any(item.restart for item in items) and method != "never"
            if restarts:
                pooler = self.open_pooler(facts)
                haproxy = self.window_client() if method == "window" else None
                self.judge_restart(session, facts, pooler)
            if self.params["trial"] and any(item.restart and (item.write or restarts) for item in items):
                self.trial(container, server, facts, items)
            if not check:
                self.sweep(session, container, facts)
        written = any(item.write or item.reload for item in items)
        self.result["changed"] = written or restarts
        self.result["method"] = method if restarts else "reload" if written else "none"
        if restarts:
            self.result["interruption"] = self.interruption(pooler)
        self.result["diff"] = difference(items, restarts)
        if check or not self.result["changed"]:
            self.result["restarted"] = restarts
            self.tell(items, before, {item.name: item.setting for item in items}, waits=not restarts)
            return
        self.guard.verify()
        self.alter(container, items)
        server, items = self.settled(container)
        if restarts and not any(item.restart for item in items):
            # A value of which only the server knew that it works with it already.
            self.result.update(method="reload", interruption="none")
        elif restarts:
            container = self.restart(Job(container, facts, items, pooler, haproxy), server)
            server, items = self.settled(container)
            wrong = [item for item in items if item.restart]
            if wrong:
                raise PostgresError(
                    "The server of %s was restarted, but: %s. Look at its log."
                    % (self.service, "; ".join("%s is %s, wanted %s" % (item.name, item.running, item.wanted) for item in wrong))
                )
        self.tell(items, before, {item.name: item.setting for item in items}, waits=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            service={"type": "str", "required": True},
            parameters={"type": "dict", "required": True},
            restart={"type": "str", "choices": ["never", "pause", "window", "standby"], "default": "never"},
            pooler={
                "type": "dict",
                "options": {
                    **CONSOLE_ARGUMENTS,
                    "service": {"type": "str", "required": True},
                    "admin_user": {"type": "str", "required": True},
                    "databases": {"type": "list", "elements": "str", "default": []},
                    "user": {"type": "str"},
                    "password": {"type": "str", "no_log": True},
                    "password_variable": {"type": "str", "no_log": False},
                    "pause_timeout": {"type": "int", "default": 15},
                },
            },
            window={
                "type": "dict",
                "options": {
                    "socket": {"type": "str", "required": True},
                    "map_path": {"type": "path", "required": True},
                    "backend": {"type": "str", "required": True},
                    "seconds": {"type": "int", "default": 120},
                    "retry_after": {"type": "int", "default": 0},
                    "drain_timeout": {"type": "int", "default": 30},
                },
            },
            standbys={"type": "list", "elements": "str", "default": []},
            trial={"type": "bool", "default": True},
            stop_timeout={"type": "int", "default": 60},
            ready_timeout={"type": "int", "default": 120},
            **LOGIN_ARGUMENTS,
            **CHANGE_ARGUMENTS,
        ),
        required_if=[("restart", "pause", ["pooler"]), ("restart", "window", ["window"])],
        supports_check_mode=True,
    )
    docker = Docker.from_module(module)
    result: dict[str, Any] = {
        "changed": False,
        "parameters": {},
        "restarted": False,
        "restart_required": False,
        "method": "none",
        "interrupted_seconds": 0.0,
        "interruption": "none",
        "findings": [],
    }
    try:
        Run(module, docker, result).run()
    except (ComposeError, PostgresError, PgbouncerError, PauseError, HAProxyError, ParameterError, ChangeError, ServerDown) as exc:
        module.fail_json(msg=str(exc), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
