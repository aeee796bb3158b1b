#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_replication_info
short_description: Tell what one PostgreSQL server is in a streaming replication, how far it is behind, and what is wrong
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Reads one server, a primary or a standby, on the host where its container runs. A server that is stopped, restarts or lets nobody in
    is told by its container, its log and its control file.
  - Run it against the primary first, and hand RV(server) of that to the run against a standby as O(primary). Then lag is counted from what
    the primary has written, and parameters, C library and system identifier are compared.
  - A link from which nothing is heard is V(cut) in RV(server.standby.link), even while PostgreSQL still calls it streaming, and its lag in
    seconds is V(null), never V(0). A primary at which nobody writes makes no lag.
  - What could not be read is a finding C(could_not_read), or makes the module fail. It never says that all is well without having looked.
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.info_module
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  service:
    description:
      - Compose service of the server. It has at most one running container.
    type: str
    required: true
  login_user:
    description:
      - User on the server. A superuser, or a member of C(pg_monitor), who can't read the rules of C(pg_hba.conf) unless that is granted.
  database:
    description:
      - Database to log in to.
    type: str
    default: postgres
  port:
    description:
      - Port of the server inside of its container.
    type: int
    default: 5432
  expect:
    description:
      - What the server should be. Something else is a finding.
    type: str
    choices:
      - primary
      - standby
      - any
    default: any
  primary:
    description:
      - For a standby, RV(server) of an earlier run against its primary.
      - If that run could not read the primary, nothing is compared, and a finding says so.
    type: dict
  slot:
    description:
      - Replication slot that the standby uses. Without it no slot is missed, and those that exist are still judged.
    type: str
  standby_name:
    description:
      - Name with which the standby connects (C(application_name), by default its C(cluster_name), else V(walreceiver)).
      - If given, a O(slot) that is read under another name is a finding.
    type: str
  max_lag_bytes:
    description:
      - How many bytes of WAL a standby may be behind. By default eight WAL segments, as are soon made up for by a standby that works.
    type: int
    default: 134217728
  max_lag_seconds:
    description:
      - How many seconds a standby may be behind.
    type: int
    default: 30
notes:
  - How soon a cut link is seen is up to C(wal_receiver_timeout) of the standby. After half of it the standby asks for a sign of life. Two
    seconds later at most, an unanswered question is seen as a cut link. With V(10s) this takes 7 seconds, with the server's default of
    V(1min) it takes 32.
  - In RV(server.primary.senders) the age of the last answer is the difference between the clocks of two hosts.
  - Why a standby does not stream is read from the log of its container, in English. With C(logging_collector) nothing is in there.
requirements:
  - PostgreSQL 13 or newer
seealso:
  - module: dghs.bd_fhir.postgres_parameter
  - module: dghs.bd_fhir.connection_budget_info
"""

EXAMPLES = r"""
- name: Read the primary
  dghs.bd_fhir.postgres_replication_info:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    expect: primary
    slot: fhir_replica
  register: primary

- name: Read the standby, on the host where it runs, and compare
  dghs.bd_fhir.postgres_replication_info:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir-replica
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    expect: standby
    primary: "{{ primary.server }}"
    slot: fhir_replica
  register: standby

- name: Show the lag, which is unknown while the link is cut
  ansible.builtin.debug:
    msg: "{{ standby.server.standby.lag_bytes }} bytes, {{ standby.server.standby.lag_seconds }} seconds, {{ standby.server.standby.link }}"

- name: Fail unless the standby streams and nothing threatens it
  dghs.bd_fhir.postgres_replication_info:
    project_dir: /opt/bd-fhir-national
    service: postgres-fhir-replica
    login_user: watcher
    login_password_variable: WATCHER_PASSWORD
    expect: standby
    primary: "{{ primary.server }}"
    max_lag_seconds: 10
    fail_on:
      - error
      - warning
"""

RETURN = r"""
server:
  description:
    - What the server is. Below RV(server.container) everything is V(null), or empty, when the server lets nobody in.
  returned: success, and when a finding made the module fail
  type: dict
  contains:
    service:
      description: Compose service of the server.
      type: str
    read_at:
      description: When it was read, in seconds since 1970, by the clock of its host.
      type: float
    container:
      description:
        - C(name), C(state) (V(missing) when there is none), C(accepts) (whether it lets sessions in) and C(why) not, C(restarting) (it ends
          again and again), C(restart_count), C(exit_code), C(oom_killed), C(addresses), and C(log), the last lines about the server when
          something is wrong, without statements of clients and without passwords.
      type: dict
    image:
      description: C(reference) and C(id) of the image.
      type: dict
    role:
      description: V(primary), V(standby), or V(unknown).
      type: str
    promoted:
      description:
        - Whether a server that should be a standby (O(expect=standby)) has left recovery, and is of the same cluster as O(primary).
        - V(null) when nothing was expected, or nothing known.
      type: bool
    system_identifier:
      description: The same for a primary and all its standbys. A text, since it is larger than JSON's numbers.
      type: str
    timeline:
      description: The present timeline. Each promotion begins a new one.
      type: int
    server_version:
      description: Version of the server.
      type: str
    server_version_num:
      description: The same as a number.
      type: int
    lsn:
      description: On a primary how far WAL is on its disk, on a standby how far it is replayed.
      type: str
    data_directory:
      description: The data directory.
      type: str
    disk:
      description: Total and free bytes of the file systems of the data directory and of its C(pg_wal), which may be another one.
      type: dict
    libc:
      description: Family (V(glibc), V(musl) or V(unknown)) and, for glibc, the version of the C library.
      type: dict
    databases:
      description:
        - For each database its C(provider) of collations, its C(collate), the version by which its indexes are sorted (C(recorded_version))
          and that of the running server (C(actual_version)). The versions are V(null) before PostgreSQL 15, and where none is kept.
      type: list
      elements: dict
    database_bytes:
      description: Size of all databases.
      type: int
    rows_read:
      description:
        - Rows that all sessions have read in O(database) since its statistics began. On a standby this counts what was read there.
      type: int
    alike:
      description:
        - Parameters by which the same statement runs alike on two servers, each with its value in the server's own unit, as a file takes it.
      type: dict
    parameters:
      description:
        - Parameters that count for a replication, each with C(value) in C(unit), C(source), C(sourcefile), C(sourceline), C(pending_restart),
          and C(configured), the value after a restart (V(null) if it could not be read).
      type: dict
    primary:
      description: The part of a primary, V(null) for others.
      type: dict
      contains:
        senders:
          description:
            - Who receives from it. C(lag_bytes) is counted from the WAL on its disk to what was replayed there. C(silent) tells that nothing was
              heard for longer than C(wal_sender_timeout) allows; C(lag_seconds) is V(null) then.
          type: list
          elements: dict
        free_senders:
          description: How many more may receive.
          type: int
        slots:
          description: The replication slots. C(retained_bytes) is what one keeps, C(used_by) who reads.
          type: list
          elements: dict
        free_slots:
          description: How many more may be made.
          type: int
        hba_rules:
          description: The rules for replication in C(pg_hba.conf), as the file stands. V(null) when they could not be read.
          type: list
          elements: dict
        hba_errors:
          description: Lines of C(pg_hba.conf) that the server can't read.
          type: list
          elements: dict
        synchronous_commit_off:
          description: Roles and databases for which it is set off.
          type: list
          elements: dict
    standby:
      description: The part of a standby, V(null) for others.
      type: dict
      contains:
        streaming:
          description: Whether it receives, and the link is alive.
          type: bool
        link:
          description:
            - V(streaming), V(catching_up) (more than a WAL segment behind, or still replaying what it has), V(cut) (nothing is heard),
              V(waiting) (the primary answers and gives nothing) or V(none) (nothing to receive from).
          type: str
        why:
          description: The same in words.
          type: str
        refused:
          description: Why the primary gives nothing, V(slot_missing), V(slot_in_use), V(slot_lost), V(other_cluster), V(full) or V(refused).
          type: str
        sender_host:
          description: From whom it receives.
          type: str
        sender_port:
          description: Port of that.
          type: int
        slot_name:
          description: The slot that it uses.
          type: str
        received_lsn:
          description: How far it has received.
          type: str
        replayed_lsn:
          description: How far it has replayed.
          type: str
        known_end_lsn:
          description: How far the primary is known to have come.
          type: str
        last_message_age_seconds:
          description: When the primary was heard last.
          type: float
        cut_after_seconds:
          description: With which age of the last message a link counts as cut. V(null) when C(wal_receiver_timeout) is 0.
          type: float
        lag_bytes:
          description:
            - Bytes from RV(server.standby.known_end_lsn) to what is replayed. While the link is not alive only what O(primary) had more is told,
              else V(null).
          type: int
        lag_seconds:
          description:
            - V(0) when all that is known to exist is replayed. Else the time that it took to replay what was known first, or after two seconds
              the age of the last commit that was replayed, which is the most it can be. V(null) with RV(server.standby.lag_unknown).
          type: float
        lag_unknown:
          description: Why RV(server.standby.lag_seconds) is V(null).
          type: str
        replay_paused:
          description: Whether replay is paused.
          type: bool
        conflicts:
          description: Queries that were cancelled because replay had to go on, by kind.
          type: dict
        primary_conninfo:
          description: With what it connects, without a password. V(null) when it could not be read.
          type: dict
        clear_password:
          description: Whether C(primary_conninfo) holds a password in clear.
          type: bool
  sample:
    service: postgres-fhir-replica
    read_at: 1795693615.2
    role: standby
    promoted: false
    system_identifier: '7712445220050923549'
    timeline: 1
    lsn: 0/302EC78
    primary:
    standby:
      streaming: true
      link: streaming
      why: the last message came 0.4 seconds ago
      lag_bytes: 0
      lag_seconds: 0.0
findings:
  description: What is wrong, each with C(id), C(severity), C(object), C(expected), C(found) and C(hint).
  returned: success, and when a finding made the module fail
  type: list
  elements: dict
  sample:
    - id: slot_inactive
      severity: warning
      object: fhir_replica
      expected: a standby that reads from it
      found: nobody; it keeps 48 MB of WAL
      hint: Start its standby. A slot that nobody needs any more keeps WAL until the disk is full, drop it.
kind:
  description: Why the server could not be asked, such as V(password), V(hba), V(role), V(database), V(full), V(container) or V(unreachable).
  returned: failure to log in
  type: str
  sample: password
"""

import time

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Container, Docker
from ..module_utils._fhir import out_of_range
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, summary
from ..module_utils._parameters import parse_control
from ..module_utils._postgres import LOGIN_ARGUMENTS, Login, PostgresError, Session, address_of, connect, container_of, driver, secret_of
from ..module_utils._replication import (
    ALIKE_PARAMETERS,
    PARAMETERS,
    Wanted,
    could_not_read,
    difference,
    disk_of,
    ending,
    furthest,
    judge,
    judge_container,
    libc_of,
    log_lines,
    parameters_of,
    parse_control_state,
    primary_of,
    promoted,
    standby_of,
)

RANGES = {
    "port": (1, 65535),
    "connect_timeout": (1, 300),
    "max_lag_bytes": (0, 2**62),
    "max_lag_seconds": (0, 10**9),
}
OLDEST_SERVER = 130000
# Lines of a log that are looked at, and how many of them are shown.
LOG_LINES = 400
SHOWN_LINES = 8
# Seconds for which a standby that is behind may catch up with what was known to exist, so that its lag is measured and not guessed.
SETTLE_SECONDS = 2.0
# Seconds for which a receiver has to live before it is believed.
YOUNG_SECONDS = 1.0
# Not ready, or not yet, apart from a refusal by password, pg_hba.conf and the like, which an operator has to correct.
NOT_READY = ("starting", "unreachable", "lost")

SERVER = """
SELECT pg_catalog.current_setting('server_version_num')::int AS server_version_num,
       pg_catalog.current_setting('server_version') AS server_version,
       pg_catalog.version() AS banner,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       pg_catalog.pg_has_role(current_user, 'pg_monitor', 'USAGE') AS sees_all,
       pg_catalog.host(pg_catalog.inet_server_addr()) AS address,
       (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system_identifier,
       (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS checkpoint_timeline,
       extract(epoch FROM pg_catalog.clock_timestamp())::float8 AS now
"""
SETTINGS = """
SELECT name, setting, unit, source, sourcefile, sourceline, pending_restart
  FROM pg_catalog.pg_settings
 WHERE name = ANY(%s)
 ORDER BY name
"""
# The last one that sets a parameter counts.
PENDING = "SELECT name, setting FROM pg_catalog.pg_file_settings WHERE name = ANY(%s) ORDER BY seqno"
DATABASES = """
SELECT datname AS name,
       CASE datlocprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' ELSE 'builtin' END AS provider,
       coalesce(datcollate, '') AS collate,
       datcollversion AS recorded_version,
       pg_catalog.pg_database_collation_actual_version(oid) AS actual_version
  FROM pg_catalog.pg_database
 ORDER BY datname
"""
DATABASES_BEFORE_15 = """
SELECT datname AS name, 'libc' AS provider, datcollate AS collate, NULL::text AS recorded_version, NULL::text AS actual_version
  FROM pg_catalog.pg_database
 ORDER BY datname
"""
DATABASE_BYTES = "SELECT sum(pg_catalog.pg_database_size(oid))::int8 FROM pg_catalog.pg_database"
ALIKE = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY(%s)"
ROWS_READ = """
SELECT coalesce(sum(tup_returned + tup_fetched), 0)::int8 AS rows_read FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()
"""

PLACE = """
SELECT pg_catalog.pg_current_wal_flush_lsn()::text AS lsn,
       pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) AS timeline
"""
SENDERS = """
SELECT pid, usename AS "user", application_name, pg_catalog.host(client_addr) AS client_addr, state, sync_state,
       sent_lsn::text, write_lsn::text, flush_lsn::text, replay_lsn::text,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), replay_lsn)::int8 AS lag_bytes,
       extract(epoch FROM replay_lag)::float8 AS replay_lag_seconds,
       extract(epoch FROM pg_catalog.clock_timestamp() - reply_time)::float8 AS reply_age_seconds
  FROM pg_catalog.pg_stat_replication
 ORDER BY application_name, pid
"""
SLOTS = """
SELECT slot_name AS name, slot_type AS type, database, temporary, active, active_pid, wal_status, safe_wal_size, restart_lsn::text,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), restart_lsn)::int8 AS retained_bytes
  FROM pg_catalog.pg_replication_slots
 ORDER BY slot_name
"""
RULES = """
SELECT line_number, type, database, user_name AS "user", address, netmask, auth_method, error
  FROM pg_catalog.pg_hba_file_rules
 WHERE error IS NOT NULL OR 'replication' = ANY(database)
 ORDER BY line_number
"""
ROLE_SETTINGS = """
SELECT coalesce(r.rolname, 'every role') AS role, coalesce(d.datname, 'every database') AS database
  FROM pg_catalog.pg_db_role_setting s
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
  LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
 WHERE 'synchronous_commit=off' = ANY(s.setconfig)
 ORDER BY 1, 2
"""

RECEIVER = """
SELECT status, slot_name, sender_host, sender_port, received_tli, flushed_lsn::text AS received_lsn, latest_end_lsn::text,
       extract(epoch FROM pg_catalog.clock_timestamp() - last_msg_receipt_time)::float8 AS last_message_age_seconds,
       (SELECT extract(epoch FROM pg_catalog.clock_timestamp() - backend_start)::float8
          FROM pg_catalog.pg_stat_activity WHERE pg_stat_activity.pid = pg_stat_wal_receiver.pid) AS age_seconds
  FROM pg_catalog.pg_stat_wal_receiver
"""
REPLAY = """
SELECT pg_catalog.pg_last_wal_receive_lsn()::text AS received_lsn,
       pg_catalog.pg_last_wal_replay_lsn()::text AS replayed_lsn,
       pg_catalog.pg_is_wal_replay_paused() AS paused,
       extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())::float8 AS last_commit_age_seconds,
       (SELECT coalesce(wait_event, '') FROM pg_catalog.pg_stat_activity WHERE backend_type = 'startup') AS startup_wait,
       (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'primary_slot_name') AS slot_name
"""
REPLAYED = "SELECT pg_catalog.pg_last_wal_replay_lsn()::text"
CONFLICTS = """
SELECT coalesce(sum(confl_tablespace), 0)::int8 AS tablespace, coalesce(sum(confl_lock), 0)::int8 AS lock,
       coalesce(sum(confl_snapshot), 0)::int8 AS snapshot, coalesce(sum(confl_bufferpin), 0)::int8 AS bufferpin,
       coalesce(sum(confl_deadlock), 0)::int8 AS deadlock
  FROM pg_catalog.pg_stat_database_conflicts
"""


def empty_server(service: str, now: float) -> dict[str, Any]:
    """Return RV(server) of a server of which nothing is known yet."""
    return {
        "service": service,
        "read_at": now,
        "container": None,
        "image": None,
        "role": "unknown",
        "promoted": None,
        "system_identifier": None,
        "timeline": None,
        "server_version": None,
        "server_version_num": None,
        "lsn": None,
        "data_directory": None,
        "disk": None,
        "libc": None,
        "databases": [],
        "database_bytes": None,
        "rows_read": None,
        "parameters": {},
        "alike": {},
        "primary": None,
        "standby": None,
    }


class Run:
    """One call of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        self.params = module.params
        self.docker = Docker.from_module(module)
        self.service: str = module.params["service"]
        self.wanted = Wanted(
            service=self.service,
            expect=self.params["expect"],
            slot=self.params["slot"] or "",
            standby_name=self.params["standby_name"] or "",
            max_lag_bytes=self.params["max_lag_bytes"],
            max_lag_seconds=self.params["max_lag_seconds"],
        )
        self.findings: list[dict[str, Any]] = []
        self.server = empty_server(self.service, time.time())

    def given_primary(self) -> Optional[dict[str, Any]]:
        """Return the primary that an earlier run has read. Raises PostgresError for something else."""
        given: Optional[dict[str, Any]] = self.params["primary"]
        if given is None:
            return None
        missing = sorted({"service", "role", "system_identifier", "timeline", "lsn", "parameters"} - set(given))
        if missing or given["role"] == "standby":
            raise PostgresError(
                "Option primary must be `server` of an earlier run against the primary, but it %s. Run this module against the primary first."
                % ("has no %s" % ", ".join(missing) if missing else "is of %s, a standby" % given["service"]),
                "configuration",
            )
        if given["role"] != "primary":
            self.findings.append(could_not_read("primary", "%s let nobody in when it was read" % given["service"], "See the findings of that run."))
            return None
        return given

    # -- the container

    def find(self) -> Optional[Container]:
        """Return the container, running or not, None when there is none. Raises PostgresError, ComposeError."""
        found = self.docker.containers(self.service)
        running = [item for item in found if item.state == "running"]
        if len(running) > 1 or (not found and self.wanted.expect == "primary"):
            return container_of(self.docker, self.service)
        if not found:
            return None
        return running[0] if running else found[-1]

    def tell_container(self, container: Optional[Container], why: str = "") -> None:
        """Put into the result what the container and its log say of a server that lets nobody in, and judge it."""
        if container is None:
            others = sorted({item.service for item in self.docker.containers() if item.state == "running"})
            told = self.container_of(None, False, "there is no container") | {"others": ", ".join(others) or "none"}
        else:
            told = self.container_of(container, False, why or "the container is %s" % container.state)
            told["log"] = self.log(container)
            if container.state == "running":
                # Only its control file can be asked now.
                self.server.update(parse_control_state(self.control_file(container)))
        self.findings += judge_container(told, self.wanted)
        told.pop("others", None)
        told["log"] = told["log"][-SHOWN_LINES:]
        self.server["container"] = told

    @staticmethod
    def container_of(container: Optional[Container], accepts: bool, why: str) -> dict[str, Any]:
        """Return the part of the container. Pure."""
        count = container.restart_count if container else 0
        state = container.state if container else "missing"
        return {
            "name": container.name if container else None,
            "state": state,
            "accepts": accepts,
            "why": why,
            # Between two starts of a loop it is 'running' for a moment.
            "restarting": not accepts and (state == "restarting" or (state == "running" and count > 0)),
            "restart_count": count,
            "exit_code": container.exit_code if container else 0,
            "oom_killed": bool(container and container.oom_killed),
            "addresses": dict(container.addresses) if container else {},
            "log": [],
        }

    def log(self, container: Container) -> list[str]:
        """Return the last lines of the log that are about the server, none when there is no log."""
        rc, out, err = self.docker.docker("logs", "--tail", str(LOG_LINES), container.id, check=False)
        return log_lines(self.docker.clean(out + "\n" + err)) if rc == 0 else []

    def inside(self, container: Container, *argv: str) -> str:
        """Return what a command in the container answers, "" when it fails or is not there."""
        rc, out, dummy = self.docker.docker("exec", container.id, *argv, check=False)
        return out if rc == 0 else ""

    def control_file(self, container: Container) -> str:
        """Return what pg_controldata says in a running container, "" when it is not there, or PGDATA not set."""
        return self.inside(container, "sh", "-c", 'LC_ALL=C exec pg_controldata -D "$PGDATA"')

    def is_postgres(self, container: Container) -> bool:
        """Tell whether this is, or will be, a PostgreSQL server, by what its image sets and by what runs in it."""
        config = self.docker.inspect([container.id])[0].get("Config") or {}
        if any(str(item).startswith(("PGDATA=", "PG_MAJOR=")) for item in config.get("Env") or []):
            return True
        return "postgres" in self.docker.docker("top", container.id, check=False)[1]

    # -- the server

    def open(self, container: Container) -> Optional[Session]:
        """Return a session, None for a server that lets nobody in yet. Raises PostgresError for what only an operator can correct."""
        password = secret_of(self.docker, self.params["login_password"], self.params["login_password_variable"])
        port = self.params["port"]
        login = Login(address_of(container, port), port, self.params["login_user"], password, self.params["database"], self.params["connect_timeout"])
        try:
            return connect(login)
        except PostgresError as exc:
            # Also what a standby says that does without readers (hot_standby off).
            if exc.kind not in NOT_READY and "not accepting connections" not in str(exc):
                raise
            if not self.is_postgres(container):
                raise PostgresError(
                    "The service %s seems to be no PostgreSQL server: its image sets neither PGDATA nor PG_MAJOR, no process of that name runs in it,"
                    " and: %s Correct the name of the service, or port." % (self.service, exc),
                    exc.kind,
                ) from None
            # It may have ended meanwhile.
            now = [item for item in self.docker.containers(self.service) if item.id == container.id]
            self.tell_container(now[0] if now else None, str(exc))
            return None

    def optional(self, session: Session, what: str, query: str, hint: str, params: Any = None) -> Optional[list[dict[str, Any]]]:
        """Return rows that not everybody may read, None with a finding when they could not be read. Raises PostgresError for other trouble."""
        try:
            return session.rows(query, params)
        except PostgresError as exc:
            if exc.sqlstate != "42501":
                raise
            self.findings.append(could_not_read(what, "%s may not read it" % self.params["login_user"], hint))
            return None

    def read(self, session: Session, container: Container, primary: Optional[dict[str, Any]]) -> None:
        """Read everything of a server that lets us in. Raises PostgresError, ComposeError."""
        row = session.rows(SERVER)[0]
        if row["server_version_num"] < OLDEST_SERVER:
            raise PostgresError("%s is PostgreSQL %s; 13 or newer is needed." % (self.service, row["server_version"]), "configuration")
        if row["address"] not in container.addresses.values():
            raise PostgresError(
                "The service %s is no PostgreSQL server but leads to one at %s, as a pooler does. Name the service of the server itself."
                % (self.service, row["address"]),
                "configuration",
            )
        if not row["sees_all"]:
            raise PostgresError(
                "%s on %s may not see the sessions of others, so nothing can be said of its replication. Log in as a superuser,"
                " or GRANT pg_monitor to it." % (self.params["login_user"], self.service),
                "configuration",
            )
        settings = session.rows(SETTINGS, ([*PARAMETERS, "data_directory", "primary_conninfo"],))
        values = {item["name"]: item["setting"] for item in settings}
        directory = values.get("data_directory")
        self.server.update(
            read_at=row["now"],
            container=self.container_of(container, True, ""),
            role="standby" if row["in_recovery"] else "primary",
            system_identifier=row["system_identifier"],
            timeline=row["checkpoint_timeline"],
            server_version=row["server_version"],
            server_version_num=row["server_version_num"],
            data_directory=directory,
            libc=libc_of(row["banner"], self.inside(container, "getconf", "GNU_LIBC_VERSION").strip()),
            databases=session.rows(DATABASES if row["server_version_num"] >= 150000 else DATABASES_BEFORE_15),
            database_bytes=int(session.value(DATABASE_BYTES)),
            rows_read=int(session.value(ROWS_READ)),
            alike={item["name"]: item["setting"] for item in session.rows(ALIKE, (list(ALIKE_PARAMETERS),))},
            parameters=parameters_of(settings, self.pending(session, settings)),
        )
        unread = sorted(set(PARAMETERS) - set(values))
        if unread:
            self.findings.append(could_not_read("pg_settings", "not told: %s" % ", ".join(unread), "Log in as a superuser, or GRANT pg_monitor."))
        if directory:
            self.server["disk"] = disk_of(self.inside(container, "df", "-Pk", directory, directory + "/pg_wal"))
        if self.server["disk"] is None:
            words = "no answer of `df -Pk %s` in the container" % directory
            self.findings.append(could_not_read("disk", words, "Run it by hand in the container, and see what it says."))
        if row["in_recovery"]:
            self.read_standby(session, container, values.get("primary_conninfo"), primary)
        else:
            self.read_primary(session)
        self.server["promoted"] = promoted(self.server, primary, self.wanted)

    def pending(self, session: Session, settings: list[dict[str, Any]]) -> dict[str, str]:
        """Return what the files say of parameters that wait for a restart."""
        names = [item["name"] for item in settings if item["pending_restart"] and item["name"] in PARAMETERS]
        if not names:
            return {}
        hint = "%s wait for a restart, with which values is unknown. Log in as a superuser." % ", ".join(names)
        rows = self.optional(session, "pg_file_settings", PENDING, hint, (names,))
        return {item["name"]: item["setting"] for item in rows or []}

    def read_primary(self, session: Session) -> None:
        place = session.rows(PLACE)[0]
        # Not of the last checkpoint: after a promotion that is one of the former timeline.
        self.server.update(lsn=place["lsn"], timeline=int(place["timeline"], 16))
        rules = self.optional(
            session, "pg_hba_file_rules", RULES,
            "Log in as a superuser, or in the database %s GRANT SELECT ON pg_hba_file_rules and GRANT EXECUTE ON FUNCTION pg_hba_file_rules() to it."
            % self.params["database"],
        )  # fmt: skip
        senders, slots = session.rows(SENDERS), session.rows(SLOTS)
        self.server["primary"] = primary_of(self.server, senders, slots, rules, session.rows(ROLE_SETTINGS))

    def read_standby(self, session: Session, container: Container, conninfo: Optional[str], primary: Optional[dict[str, Any]]) -> None:
        receiver = next(iter(session.rows(RECEIVER)), None)
        if receiver and (receiver["age_seconds"] or 0) < YOUNG_SECONDS:
            # A receiver whose slot is lost, or whose disk is full, is streaming for a moment, each time that it is started.
            time.sleep(YOUNG_SECONDS)
            receiver = next(iter(session.rows(RECEIVER)), None)
            if receiver and (receiver["age_seconds"] or 0) < YOUNG_SECONDS:
                receiver = None
        lines = self.log(container)
        replay = session.rows(REPLAY)[0]
        same = primary is not None and primary["system_identifier"] == self.server["system_identifier"]
        primary_lsn = primary["lsn"] if primary is not None and same else None
        known = furthest(primary_lsn, receiver["latest_end_lsn"] if receiver else None, receiver["received_lsn"] if receiver else None)
        settled = self.settle(session, known) if receiver else None
        # None: not told, which is said with the other parameters.
        parts = None if conninfo is None else self.conninfo(conninfo)
        standby = standby_of(receiver, replay, session.rows(CONFLICTS)[0], parts, self.server, ending(lines), primary_lsn, settled)
        if parts is None:
            self.findings.append(could_not_read("primary_conninfo", "%s may not read it" % self.params["login_user"], "Log in as a superuser."))
        timeline = max(self.server["timeline"], receiver["received_tli"] if receiver and receiver["received_tli"] else 0)
        self.server.update(standby=standby, lsn=replay["replayed_lsn"], timeline=timeline)
        if not standby["streaming"]:
            self.server["container"]["log"] = lines[-SHOWN_LINES:]

    @staticmethod
    def conninfo(text: str) -> dict[str, str]:
        """Return the parts of a connection string, as libpq takes it apart. Raises PostgresError without quoting it."""
        psycopg2 = driver()
        try:
            return dict(psycopg2.extensions.parse_dsn(text)) if text.strip() else {}
        except psycopg2.Error:
            raise PostgresError(
                "primary_conninfo of the standby is no connection string, so that the standby can't connect. Correct it (SHOW primary_conninfo).",
                "configuration",
            ) from None

    @staticmethod
    def settle(session: Session, known: Optional[str]) -> Optional[float]:
        """Return the seconds until a place in the WAL was replayed, None when that takes too long."""
        begin = time.monotonic()
        while True:
            behind = difference(known, session.value(REPLAYED))
            spent = time.monotonic() - begin
            if behind is not None and behind <= 0:
                return spent
            if behind is None or spent >= SETTLE_SECONDS:
                return None
            time.sleep(0.1)

    def run(self) -> dict[str, Any]:
        """Read and judge. Raises PostgresError, ComposeError."""
        problem = out_of_range(self.params, RANGES)
        if problem:
            raise PostgresError(problem, "configuration")
        primary = self.given_primary()
        container = self.find()
        if container is not None:
            self.server["image"] = {"reference": container.image_ref, "id": container.image_id}
        if container is None or container.state != "running":
            self.tell_container(container)
        else:
            session = self.open(container)
            if session is not None:
                with session:
                    self.read(session, container, primary)
                control: dict[str, int] = {}
                if self.server["role"] == "standby":
                    control = parse_control(self.control_file(container))
                self.findings += judge(self.server, primary, self.wanted, control)
        return {"changed": False, "server": self.server, "findings": self.findings}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **COMPOSE_ARGUMENTS,
            **LOGIN_ARGUMENTS,
            **FINDINGS_OPTIONS,
            "service": {"type": "str", "required": True},
            "database": {"type": "str", "default": "postgres"},
            "port": {"type": "int", "default": 5432},
            "expect": {"type": "str", "choices": ["primary", "standby", "any"], "default": "any"},
            "primary": {"type": "dict", "no_log": False},
            "slot": {"type": "str"},
            "standby_name": {"type": "str"},
            "max_lag_bytes": {"type": "int", "default": 134217728},
            "max_lag_seconds": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    try:
        result = Run(module).run()
    except PostgresError as exc:
        module.fail_json(msg=str(exc), kind=exc.kind)
    except ComposeError as exc:
        module.fail_json(msg=str(exc))
    failed = failed_on(result["findings"], module.params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
