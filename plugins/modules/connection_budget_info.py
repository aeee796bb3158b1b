#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: connection_budget_info
short_description: Count everything that takes a database connection, and say what does not fit
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Counts, for each database side, what the replicas of HAPI ask their pooler for, what the pooler's pools and everybody else can ask
    the server for, and compares it with what pgBouncer and PostgreSQL give.
  - Reads HAPI's Hikari pools from each replica's actuator, the pooler's sizes from its admin console, and the server's settings,
    sessions and limits from PostgreSQL itself. Nothing is taken from a configuration file, which may not be what runs.
  - Proposes sizes for the wanted number of replicas, and the order in which they have to be changed.
  - What could not be read makes the module fail. It never says that all is well without having looked.
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.http_client
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.info_module
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  service:
    description:
      - Compose service of HAPI. Each of its running containers is asked at its own address.
    type: str
    default: hapi
  port:
    description:
      - Port of the actuator inside of the containers of O(service).
    type: int
    default: 8080
  actuator_path:
    description:
      - Path of Spring Boot's actuator.
    type: str
    default: /actuator
  replicas:
    description:
      - Number of replicas that everything is judged for. By default the number that runs.
    type: int
  surge:
    description:
      - Replicas that run above that number while one is replaced.
    type: int
    default: 1
  margin:
    description:
      - Connections that a proposed C(max_connections) has to spare.
    type: int
    default: 3
  lower:
    description:
      - Whether smaller sizes are proposed too where the present ones are larger than needed. Never below what is in use.
    type: bool
    default: false
  hikari_sizes:
    description:
      - Maximum size of Hikari pools by their name. For a HAPI that does not run, or to try a size.
      - A pool that is named here is not asked for; if all are, no replica is asked at all.
    type: dict
    default: {}
  sides:
    description:
      - The databases, each with its pooler. No two may share a server or a pooler.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the side in the result.
        type: str
        required: true
      database_service:
        description:
          - Compose service of the primary PostgreSQL server.
        type: str
        required: true
      standby_services:
        description:
          - Compose services of its standbys.
        type: list
        elements: str
        default: []
      pooler_service:
        description:
          - Compose service of the pgBouncer in front of it. Empty if there is none.
        type: str
        default: ''
      database:
        description:
          - Database that HAPI uses.
        type: str
        required: true
      database_port:
        description:
          - Port of the servers inside of their containers.
        type: int
        default: 5432
      login_user:
        description:
          - User on the servers. A superuser, or a member of C(pg_monitor).
        type: str
        default: postgres
      login_password:
        description:
          - Password of O(sides[].login_user).
        type: str
      login_password_variable:
        description:
          - Variable of the environment file that holds this password, so that it never leaves the host.
        type: str
      admin_user:
        description:
          - User on the pooler's admin console. One in C(stats_users) does. Needed with O(sides[].pooler_service).
        type: str
      admin_password:
        description:
          - Password of O(sides[].admin_user).
        type: str
      admin_password_variable:
        description:
          - Variable of the environment file that holds this password.
        type: str
      pooler_port:
        description:
          - Port of the pooler inside of its container. By default what the container's environment or image says, else 6432.
        type: int
      hikari_pool:
        description:
          - Name of the Hikari pool that uses this side. By default O(sides[].name).
        type: str
      direct_connections:
        description:
          - Connections past the pooler that come and go, such as an exporter's, C(pg_dump)'s or C(psql)'s.
          - They are counted besides those that are seen at the moment.
        type: int
        default: 2
  connect_timeout:
    description:
      - Seconds that a server or a pooler has to accept a connection.
    type: int
    default: 5
requirements:
  - psycopg2 on the host (package C(python3-psycopg2))
  - PostgreSQL 12 or newer
notes:
  - Connections of replication (C(max_wal_senders)) are shown and not counted. Since PostgreSQL 12 they do not take from C(max_connections).
  - A pool that nobody has used yet is not known to pgBouncer. It is counted once for each database line.
  - pgBouncer 1.24 tells the C(pool_size) of one user for those behind it in C(SHOW USERS) too. A size that repeats the one before
    is taken for that, so of several users with the same size of their own only the first is seen.
seealso:
  - module: dghs.bd_fhir.hapi_metadata_info
  - module: dghs.bd_fhir.pgbouncer_pool
  - module: dghs.bd_fhir.postgres_parameter
"""

EXAMPLES = r"""
- name: Would five replicas fit?
  dghs.bd_fhir.connection_budget_info:
    project_dir: /opt/bd-fhir-national
    replicas: 5
    sides: "{{ bd_fhir_sides }}"
  register: budget

- name: Show what is wrong, and what to change in which order
  ansible.builtin.debug:
    msg: "{{ {'findings': budget.findings, 'order': budget.order} }}"

- name: Stop before a scale-out that the pools can't carry
  dghs.bd_fhir.connection_budget_info:
    project_dir: /opt/bd-fhir-national
    replicas: 5
    fail_on:
      - error
    sides:
      - name: fhir
        database_service: postgres-fhir
        pooler_service: pgbouncer-fhir
        database: fhirdb
        login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
        admin_user: hapi_app
        admin_password_variable: FHIR_DB_APP_PASSWORD

- name: Plan for a HAPI that does not run
  dghs.bd_fhir.connection_budget_info:
    project_dir: /opt/bd-fhir-national
    replicas: 3
    hikari_sizes:
      fhir: 5
      audit: 2
    sides: "{{ bd_fhir_sides }}"
"""

RETURN = r"""
sides:
  description: What was counted, in the order of O(sides).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the side.
      type: str
      sample: fhir
    database:
      description: Database that HAPI uses.
      type: str
      sample: fhirdb
    fits:
      description: Whether there is no finding of severity V(error) on this side.
      type: bool
      sample: false
    server:
      description:
        - The primary. RV(sides[].server.usable) is what ordinary users get, RV(sides[].server.used) what they have now.
        - RV(sides[].server.source), RV(sides[].server.sourcefile) and RV(sides[].server.sourceline) tell where C(max_connections)
          comes from; the file only for a superuser or a member of C(pg_read_all_settings).
      type: dict
      contains:
        usable:
          description: C(max_connections) less the reserved slots.
          type: int
        used:
          description: Client connections of now.
          type: int
        source:
          description: As in C(pg_settings); V(command line) beats every file.
          type: str
        sourcefile:
          description: The configuration file.
          type: str
        sourceline:
          description: The line in it.
          type: int
      sample:
        database_limit: -1
        in_recovery: false
        max_connections: 30
        max_wal_senders: 10
        pending: null
        pending_restart: false
        replication: 0
        reserved_connections: 0
        role_limits: {}
        service: postgres-fhir
        source: configuration file
        sourcefile: /etc/postgresql/postgresql.conf
        sourceline: 3
        superuser_reserved_connections: 3
        usable: 27
        used: 7
        version: 150018
    standbys:
      description: The same of each standby.
      type: list
      elements: dict
      sample: []
    pooler:
      description:
        - The pooler, V(null) when there is none. RV(sides[].pooler.effective) is what the pool of HAPI really gives.
        - Each pool has its size, where that comes from (V(default_pool_size), V(database) or V(user)), and what limits it.
      type: dict
      contains:
        effective:
          description: Connections that HAPI's pool really gives.
          type: int
      sample:
        default_pool_size: 20
        effective: 20
        max_client_conn: 200
        max_db_connections: 0
        max_prepared_statements: 0
        max_user_connections: 0
        other_clients: 0
        pool_mode: session
        pools:
          - active: 5
            database: fhirdb
            effective: 20
            limits: {}
            pool_mode: session
            pool_size: 20
            reserve_pool_size: 0
            server: ''
            servers: 5
            size_from: default_pool_size
            user: hapi_app
            waiting: 0
        reserve_pool_size: 0
        service: pgbouncer-fhir
        version: 1.18.0
    hikari:
      description:
        - What HAPI asks for. C(demand) is the most, while a replica is replaced. C(reads) is the size of a replica's pool to a standby,
          V(0) where reads go to the primary.
      type: dict
      sample:
        demand: 30
        pool: fhir
        reads: 0
        replicas: {bd-fhir-hapi-1: 5, bd-fhir-hapi-2: 5, bd-fhir-hapi-3: 5}
        running: 3
        size: 5
        surge: 1
        wanted: 5
    direct:
      description: Connections past the pooler, those seen and those expected besides.
      type: dict
      sample:
        expected: 2
        seen:
          - address: 172.20.0.9
            application: postgres_exporter
            count: 1
            user: monitor
        total: 3
    sum:
      description: What all may open on the primary with the sizes of now, and what that is to be compared with.
      type: dict
      sample: {direct: 3, of: 30, pools: 20, reserved: 3, total: 26}
proposals:
  description:
    - For each side by its name, sizes that carry the wanted replicas. A size that suffices is the present one.
    - A size that a side does not have is V(null). A limit of V(0) is none.
    - C(default_pool_size) is what HAPI asks for at most. Where the database's own line, or the user, has a size,
      it has to be set there.
    - C(max_connections) is what all may open, the reserved slots and O(margin), up to the next multiple of 5.
  returned: success
  type: dict
  sample:
    fhir:
      default_pool_size: 30
      max_client_conn: 200
      max_connections: 40
      max_db_connections: 0
      max_user_connections: 0
      standby_max_connections: {}
order:
  description:
    - The changes that lead to RV(proposals) and to the wanted number of replicas, in the order in which they have to be made.
      Empty when nothing has to be changed.
    - Upwards each standby, its primary, the pooler, HAPI. Downwards the other way round.
  returned: success
  type: list
  elements: dict
  sample:
    - from: 30
      interruption: 'a restart, which cuts every connection'
      object: postgres-fhir
      step: 1
      to: 40
      what: max_connections
    - from: 20
      interruption: none while it runs
      object: pgbouncer-fhir
      step: 2
      to: 30
      what: default_pool_size
    - from: 3
      interruption: none, one replica at a time
      object: hapi
      step: 3
      to: 5
      what: replicas
findings:
  description:
    - What does not fit.
    - C(id) is one of V(pool_too_small), V(pool_over_max_connections), V(max_connections_too_small), V(standby_below_primary),
      V(standby_unread), V(server_role_unexpected), V(connection_limit_too_small), V(max_client_conn_too_small), V(pool_mode_unusable)
      (severity V(error)),
      V(prepared_statements_unsupported) (V(error) or V(warning)), V(pool_capped), V(max_connections_overridden),
      V(max_connections_pending), V(hikari_sizes_differ), V(clients_waiting) (V(warning)), V(pool_full) (V(info)).
  returned: success, and when O(fail_on) makes the module fail
  type: list
  elements: dict
  sample:
    - id: pool_too_small
      severity: error
      object: pgbouncer-fhir
      expected: 'a pool of at least 30 for fhirdb: 5 replicas x 5 = 25, 30 with 1 more while one is replaced'
      found: '20 (default_pool_size): 25 > 20'
      hint: Raise default_pool_size, after max_connections of the server.
"""

from dataclasses import asdict, replace
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _prometheus
from ..module_utils._budget import (
    PRIMARY,
    Demand,
    Line,
    Pool,
    Pooler,
    Server,
    Sessions,
    Side,
    app_line,
    app_users,
    check,
    jdbc_urls,
    order_of,
    propose,
    side_report,
)
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Container, Docker
from ..module_utils._fhir import (
    HTTP_ARGUMENTS,
    HTTP_EXCLUSIVE,
    HTTP_REQUIRED_BY,
    HTTP_TOGETHER,
    Client,
    HttpError,
    actuator_hint,
    join,
    module_client,
    out_of_range,
)
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, finding, summary
from ..module_utils._pgbouncer import Console, PgbouncerError, console_of
from ..module_utils._postgres import Login, PostgresError, Session, address_of, connect, container_of, secret_of
from ..module_utils._replicas import from_container

RANGES = {
    "replicas": (0, 1000),
    "surge": (0, 100),
    "margin": (0, 1000),
    "port": (1, 65535),
    "timeout": (1, 3600),
    "connect_timeout": (1, 300),
}
SIDE_OPTIONS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "database_service": {"type": "str", "required": True},
    "standby_services": {"type": "list", "elements": "str", "default": []},
    "pooler_service": {"type": "str", "default": ""},
    "database": {"type": "str", "required": True},
    "database_port": {"type": "int", "default": 5432},
    "login_user": {"type": "str", "default": "postgres"},
    "login_password": {"type": "str", "no_log": True},
    "login_password_variable": {"type": "str", "no_log": False},
    "admin_user": {"type": "str"},
    "admin_password": {"type": "str", "no_log": True},
    "admin_password_variable": {"type": "str", "no_log": False},
    "pooler_port": {"type": "int"},
    "hikari_pool": {"type": "str"},
    "direct_connections": {"type": "int", "default": 2},
}
OLDEST_SERVER = 120000

SETTINGS = """
SELECT name, setting, source, sourcefile, sourceline, pending_restart
  FROM pg_catalog.pg_settings
 WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections', 'max_wal_senders')
"""
# The last one that sets a parameter counts.
PENDING = "SELECT setting FROM pg_catalog.pg_file_settings WHERE name = 'max_connections' ORDER BY seqno DESC LIMIT 1"
SESSIONS = """
SELECT coalesce(usename, '') AS "user", application_name AS application, coalesce(host(client_addr), '') AS address, count(*) AS count
  FROM pg_catalog.pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
 GROUP BY 1, 2, 3
 ORDER BY 1, 2, 3
"""
SERVER = """
SELECT pg_catalog.current_setting('server_version_num')::int AS version,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all,
       (SELECT count(*) FROM pg_catalog.pg_stat_replication) AS replication,
       (SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) AS database_limit
"""
ROLE_LIMITS = "SELECT rolname, rolconnlimit FROM pg_catalog.pg_roles WHERE rolcanlogin AND rolconnlimit >= 0"


class BudgetError(Exception):
    """Something could not be read, or the options contradict each other. The text is complete."""


def check_options(params: dict[str, Any]) -> None:
    """Raise BudgetError for options that the argument spec can't refuse."""
    problem = out_of_range(params, RANGES)
    if problem:
        raise BudgetError(problem)
    sides = params["sides"]
    if not sides:
        raise BudgetError("Option sides is empty. Name at least one database.")
    taken: dict[str, str] = {}
    for side in sides:
        if side["name"] in {item["name"] for item in sides if item is not side}:
            raise BudgetError("Option sides names %s twice. Give every side a name of its own." % side["name"])
        for service in [side["database_service"], *side["standby_services"], *filter(None, [side["pooler_service"]])]:
            if service in taken:
                raise BudgetError(
                    "The service %s is named by side %s and by side %s. Sides that share a server or a pooler can't be counted apart."
                    % (service, taken[service], side["name"])
                )
            taken[service] = side["name"]
        if side["pooler_service"] and not side["admin_user"]:
            raise BudgetError(
                "Side %s has the pooler %s and no admin_user. Give a user that admin_users or stats_users of the pooler names."
                % (side["name"], side["pooler_service"])
            )
        problem = out_of_range(side, {"direct_connections": (0, 10000), "database_port": (1, 65535), "pooler_port": (1, 65535)})
        if problem:
            raise BudgetError("Side %s: %s" % (side["name"], problem))
    for name, size in params["hikari_sizes"].items():
        if isinstance(size, bool) or not str(size).isdigit() or int(size) < 1:
            raise BudgetError("Option hikari_sizes gives %r for the pool %s, but must give a number of at least 1." % (size, name))


# How the read data source of overlay/ names its pool.
READS = "-read"


def pool_name(side: dict[str, Any]) -> str:
    """Return the name of the Hikari pool of a side."""
    return str(side["hikari_pool"] or side["name"])


def read_hikari(params: dict[str, Any], client: Client, containers: list[Container]) -> dict[str, dict[str, int]]:
    """Return Hikari pool -> replica -> size, for every pool that the sides name, and for its twin to a standby where a replica tells one.

    Raises BudgetError, HttpError.
    """
    given = {name: int(size) for name, size in params["hikari_sizes"].items()}
    wanted = {pool_name(side) for side in params["sides"]}
    sizes: dict[str, dict[str, int]] = {name: {} for name in wanted}
    missing = wanted - set(given)
    if not missing:
        return sizes
    advice = "Start it, or give the sizes as hikari_sizes (%s)." % ", ".join(sorted(missing))
    if not containers:
        raise BudgetError("The service %s has no running container that could tell the size of its Hikari pools. %s" % (params["service"], advice))
    for container in containers:
        replica = from_container(container, params["port"])
        if not replica.url:
            raise BudgetError("The replica %s can't be asked for its Hikari pools: %s. %s" % (replica.name, replica.why_not(), advice))
        url = join(replica.url, params["actuator_path"], "prometheus")
        try:
            pools = _prometheus.hikari(_prometheus.scrape(client, url))
        except HttpError as error:
            raise BudgetError("The Hikari pools of %s can't be read: %s %s" % (replica.name, client.scrub(str(error)), advice)) from None
        except _prometheus.PrometheusError as error:
            what_next = actuator_hint(error.status, advice)
            raise BudgetError("The Hikari pools of %s can't be read: GET %s: %s. %s" % (replica.name, url, error, what_next)) from None
        for name in missing:
            size = pools.get(name, {}).get("max")
            if not size:
                raise BudgetError(
                    "The replica %s tells no size of a Hikari pool %s at %s. Its pools: %s. Correct hikari_pool, or give hikari_sizes."
                    % (replica.name, name, url, ", ".join(sorted(pools)) or "none")
                )
            sizes[name][replica.name] = size
            reads = pools.get(name + READS, {}).get("max")
            if reads:
                sizes.setdefault(name + READS, {})[replica.name] = reads
    return sizes


def read_server(session: Session, service: str) -> Server:
    """Return what a server says of itself. Raises BudgetError, PostgresError."""
    row = session.rows(SERVER)[0]
    if row["version"] < OLDEST_SERVER:
        raise BudgetError("%s is PostgreSQL %d; 12 or newer is needed." % (service, row["version"] // 10000))
    if not row["sees_all"]:
        raise BudgetError(
            "The user on %s may not see the sessions of others, so they can't be counted. Log in as a superuser, or GRANT pg_monitor to it." % service
        )
    settings = {item["name"]: item for item in session.rows(SETTINGS)}
    maximum = settings["max_connections"]
    pending: Optional[int] = None
    if maximum["pending_restart"]:
        try:
            value = session.value(PENDING)
            pending = None if value is None else int(value)
        except PostgresError as error:
            # Only superusers may read the files; that a restart is pending is known without them.
            if error.sqlstate != "42501":
                raise
    reserved = settings.get("reserved_connections")
    return Server(
        service=service,
        max_connections=int(maximum["setting"]),
        superuser_reserved=int(settings["superuser_reserved_connections"]["setting"]),
        reserved=int(reserved["setting"]) if reserved else 0,
        in_recovery=row["in_recovery"],
        version=row["version"],
        source=maximum["source"],
        sourcefile=maximum["sourcefile"] or "",
        sourceline=maximum["sourceline"],
        pending_restart=maximum["pending_restart"],
        pending=pending,
        sessions=tuple(Sessions(**item) for item in session.rows(SESSIONS)),
        replication=row["replication"],
        max_wal_senders=int(settings["max_wal_senders"]["setting"]),
        role_limits={item["rolname"]: item["rolconnlimit"] for item in session.rows(ROLE_LIMITS)},
        database_limit=row["database_limit"],
    )


def number(value: Optional[str]) -> int:
    """Return a number of the console; nothing, and what a version does not tell, is 0."""
    text = (value or "").strip()
    return int(text) if text.lstrip("-").isdigit() else 0


def user_sizes(users: list[dict[str, str]]) -> dict[str, int]:
    """Return the pool_size that users have of their own, from SHOW USERS. Pure.

    pgBouncer 1.24 shows the size of one user again for every user behind it that has none. So a size that repeats the
    row before is not believed.
    """
    found = {}
    before = 0
    for row in users:
        size = number(row.get("pool_size"))
        if size > 0 and size != before:
            found[row["name"]] = size
        before = size
    return found


def target_of(hosts: str, primary: str, names: dict[str, str]) -> str:
    """Return PRIMARY, or the other service of the project that a database line leads to. names: host -> service. Pure.

    A host that is nobody's in the project counts as the primary: rather one pool too many than one too few.
    """
    services = [names[host.strip()] for host in hosts.split(",") if host.strip() in names]
    return PRIMARY if not services or primary in services else services[0]


def read_pooler(console: Console, side: dict[str, Any], names: dict[str, str], hapi_addresses: tuple[str, ...]) -> Pooler:
    """Return what a pooler says of itself. Raises PgbouncerError."""
    config = console.config()
    users = console.show("USERS")
    lines = tuple(
        Line(
            name=row["name"],
            database=row["database"],
            size=number(row["pool_size"]),
            # Newer versions have the same name here as in the configuration.
            reserve=number(row.get("reserve_pool_size", row.get("reserve_pool"))),
            max_connections=number(row["max_connections"]),
            mode=row["pool_mode"],
            user=row["force_user"],
            server=target_of(row["host"], side["database_service"], names),
        )
        for row in console.show("DATABASES")
        if row["name"] != "pgbouncer"
    )
    pools = tuple(
        Pool(
            database=row["database"],
            user=row["user"],
            active=number(row["sv_active"]),
            servers=sum(number(value) for key, value in row.items() if key.startswith("sv_")),
            waiting=number(row["cl_waiting"]),
            longest_wait=number(row["maxwait"]),
        )
        for row in console.show("POOLS")
        if row["database"] != "pgbouncer"
    )
    pooler = Pooler(
        service=side["pooler_service"],
        version=console.version(),
        mode=config["pool_mode"],
        default_pool_size=number(config["default_pool_size"]),
        reserve_pool_size=number(config["reserve_pool_size"]),
        max_client_conn=number(config["max_client_conn"]),
        max_db_connections=number(config["max_db_connections"]),
        max_user_connections=number(config["max_user_connections"]),
        max_prepared_statements=number(config.get("max_prepared_statements")),
        lines=lines,
        pools=pools,
        user_sizes=user_sizes(users),
        user_limits={row["name"]: number(row.get("max_user_connections")) for row in users if number(row.get("max_user_connections")) > 0},
    )
    line = app_line(pooler, side["database"])
    clients = [row for row in console.show("CLIENTS") if row["database"] == line.name]
    pooler = replace(pooler, hapi_users=tuple(sorted({row["user"] for row in clients if row["addr"] in hapi_addresses})))
    others = [row for row in clients if row["addr"] not in hapi_addresses and row["user"] in app_users(pooler, line)]
    return replace(pooler, other_clients=len(others))


def hosts_of(container: Container) -> list[str]:
    """Return the names and addresses under which others reach a container."""
    return [container.service, container.name, *container.addresses.values()]


def read_side(
    docker: Docker, params: dict[str, Any], side: dict[str, Any], demand: Demand, hapi: list[Container], names: dict[str, str]
) -> tuple[Side, list[dict[str, Any]]]:
    """Return all that there is to know of one side, and a finding for each standby that tells nothing.

    Raises ComposeError, PostgresError, PgbouncerError, BudgetError.
    """
    password = secret_of(docker, side["login_password"], side["login_password_variable"])

    def server(service: str) -> Server:
        address = address_of(container_of(docker, service), side["database_port"])
        login = Login(address, side["database_port"], side["login_user"], password, side["database"], params["connect_timeout"])
        with connect(login) as session:
            return read_server(session, service)

    standbys: list[Server] = []
    unread = []
    for name in side["standby_services"]:
        # HAPI serves without it, so it must not bar a change that has nothing to do with it.
        try:
            standbys.append(server(name))
        except (ComposeError, PostgresError) as error:
            # A name that is none was written by mistake.
            if name not in docker.config()["services"]:
                raise
            hint = "Its connections are not counted, and its primary gets no more of them meanwhile. Bring it back, or take it away."
            unread.append(finding("standby_unread", "error", name, "a standby that answers", str(error), hint))
    hapi_addresses = tuple(address for item in hapi for address in item.addresses.values())
    pooler: Optional[Pooler] = None
    addresses: tuple[str, ...] = ()
    jdbc: tuple[tuple[str, bool], ...] = ()
    if side["pooler_service"]:
        container = container_of(docker, side["pooler_service"])
        addresses = tuple(container.addresses.values())
        secret = secret_of(docker, side["admin_password"], side["admin_password_variable"])
        login = (side["admin_user"], secret, side["pooler_port"], params["connect_timeout"])
        with console_of(docker, side["pooler_service"], *login) as console:
            pooler = read_pooler(console, side, names, hapi_addresses)
        if (app_line(pooler, side["database"]).mode or pooler.mode) != "session":
            service = docker.config()["services"].get(params["service"]) or {}
            jdbc = jdbc_urls(service.get("environment") or {}, hosts_of(container))
    found = Side(
        name=side["name"],
        database=side["database"],
        server=server(side["database_service"]),
        demand=demand,
        pooler=pooler,
        pooler_addresses=addresses,
        hapi_addresses=hapi_addresses,
        standbys=tuple(standbys),
        direct_connections=side["direct_connections"],
        jdbc=jdbc,
    )
    return found, unread


def sizes_differ(service: str, pool: str, sizes: dict[str, int]) -> list[dict[str, Any]]:
    """Return a finding when the replicas do not agree on the size of a Hikari pool."""
    if len(set(sizes.values())) < 2:
        return []
    found = ", ".join("%s: %d" % item for item in sorted(sizes.items()))
    hint = "Replicas of two configurations run: finish or undo the rollout. The largest size is calculated with."
    return [finding("hikari_sizes_differ", "warning", service, "one size of the pool %s on all replicas" % pool, found, hint)]


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read, count, compare. Raises what the readers raise."""
    params = module.params
    check_options(params)
    client = module_client(module)
    docker = Docker.from_module(module)
    containers = docker.containers()
    names = {host: item.service for item in containers if item.state == "running" for host in hosts_of(item)}
    hapi = [item for item in containers if item.service == params["service"] and item.state == "running"]
    wanted = len(hapi) if params["replicas"] is None else params["replicas"]
    if params["replicas"] is None and not hapi:
        raise BudgetError("The service %s has no running container. Start it, or say as replicas for how many is to be counted." % params["service"])
    hikari = read_hikari(params, client, hapi)
    given = {name: int(size) for name, size in params["hikari_sizes"].items()}
    sides, reports, findings = [], [], []
    for options in params["sides"]:
        pool = pool_name(options)
        sizes = hikari[pool]
        reads = max(hikari.get(pool + READS, {}).values(), default=0)
        demand = Demand(given.get(pool) or max(sizes.values()), len(hapi), wanted, params["surge"], params["service"], reads)
        try:
            side, unread = read_side(docker, params, options, demand, hapi, names)
        except (PostgresError, PgbouncerError, BudgetError) as error:
            raise BudgetError("Side %s could not be read, so nothing is said of it. %s" % (options["name"], error)) from None
        proposal = propose(side, params["margin"], params["lower"])
        found = sizes_differ(params["service"], pool, sizes) + unread + check(side)
        sides.append((side, proposal))
        reports.append(side_report(side, found, sizes, pool))
        findings += found
    return {
        "changed": False,
        "sides": reports,
        "proposals": {side.name: asdict(proposal) for side, proposal in sides},
        "order": order_of(sides, params["service"], len(hapi), wanted),
        "findings": findings,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **COMPOSE_ARGUMENTS,
            **HTTP_ARGUMENTS,
            **FINDINGS_OPTIONS,
            "service": {"type": "str", "default": "hapi"},
            "port": {"type": "int", "default": 8080},
            "actuator_path": {"type": "str", "default": "/actuator"},
            "replicas": {"type": "int"},
            "surge": {"type": "int", "default": 1},
            "margin": {"type": "int", "default": 3},
            "lower": {"type": "bool", "default": False},
            "hikari_sizes": {"type": "dict", "default": {}},
            "sides": {"type": "list", "elements": "dict", "required": True, "options": SIDE_OPTIONS},
            "connect_timeout": {"type": "int", "default": 5},
        },
        mutually_exclusive=HTTP_EXCLUSIVE,
        required_together=HTTP_TOGETHER,
        required_by=HTTP_REQUIRED_BY,
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (BudgetError, ComposeError, HttpError, PgbouncerError, PostgresError) as error:
        module.fail_json(msg=str(error))
    failed = failed_on(result["findings"], module.params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
