# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The budget of database connections of one side: HAPI's replicas, the pooler, the server and its standbys. All pure.

Two sums have to hold. What HAPI asks the pooler for must fit into the pooler's pool, and what the pooler and everybody else
can ask the server for must fit below its max_connections, the reserved slots left free.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Optional
from urllib.parse import parse_qs

from ._findings import finding

# max_connections is proposed in steps of this size, so that one more exporter does not ask for another restart.
ROUND_TO = 5
UNLIMITED = -1
# From this version pgBouncer keeps track of prepared statements in transaction mode, if max_prepared_statements is not 0.
PREPARED_SINCE = (1, 21)
PRIMARY = ""

_JDBC = re.compile(r"jdbc:postgresql://(?P<hosts>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?\Z")


@dataclass(frozen=True)
class Sessions:
    """Client backends of one kind that a server has now. address is "" for the server's own socket."""

    user: str
    application: str
    address: str
    count: int


@dataclass(frozen=True)
class Server:
    """What one PostgreSQL server says of its connections."""

    service: str
    max_connections: int
    superuser_reserved: int = 3
    reserved: int = 0  # reserved_connections, PostgreSQL 16 and newer
    in_recovery: bool = False
    version: int = 150000
    source: str = "configuration file"
    sourcefile: str = ""
    sourceline: Optional[int] = None
    pending_restart: bool = False
    pending: Optional[int] = None  # the value that a restart would bring, where it could be read
    sessions: tuple[Sessions, ...] = ()
    replication: int = 0
    max_wal_senders: int = 10
    role_limits: Mapping[str, int] = field(default_factory=dict)
    database_limit: int = UNLIMITED

    @property
    def kept_free(self) -> int:
        """Slots that ordinary users do not get."""
        return self.superuser_reserved + self.reserved

    @property
    def usable(self) -> int:
        """Connections that ordinary users get."""
        return self.max_connections - self.kept_free

    @property
    def used(self) -> int:
        """Client connections of now."""
        return sum(item.count for item in self.sessions)


@dataclass(frozen=True)
class Pool:
    """One pool of a pooler: a database line and a user."""

    database: str
    user: str
    active: int = 0  # server connections that serve a client
    servers: int = 0  # server connections, idle ones too
    waiting: int = 0  # clients
    longest_wait: float = 0  # seconds


@dataclass(frozen=True)
class Line:
    """One database line of a pooler. server is PRIMARY, or the service of another server that it leads to."""

    name: str
    database: str
    size: int
    reserve: int = 0
    max_connections: int = 0  # max_db_connections for this line, 0 for no limit
    mode: str = ""
    user: str = ""  # force_user
    server: str = PRIMARY


@dataclass(frozen=True)
class Pooler:
    """What one pgBouncer says of itself. 0 is no limit."""

    service: str
    version: tuple[int, ...] = (1, 18, 0)
    mode: str = "session"
    default_pool_size: int = 20
    reserve_pool_size: int = 0
    max_client_conn: int = 100
    max_db_connections: int = 0
    max_user_connections: int = 0
    max_prepared_statements: int = 0
    lines: tuple[Line, ...] = ()
    pools: tuple[Pool, ...] = ()
    user_sizes: Mapping[str, int] = field(default_factory=dict)  # pool_size of a user, pgBouncer 1.23 and newer
    user_limits: Mapping[str, int] = field(default_factory=dict)  # max_user_connections of a user
    hapi_users: tuple[str, ...] = ()  # users as whom HAPI's replicas are connected
    other_clients: int = 0  # clients of the application's line that are no replicas


@dataclass(frozen=True)
class Demand:
    """What HAPI asks of one side."""

    hikari: int  # connections of one replica
    running: int  # replicas that run
    wanted: int
    surge: int  # replicas more than wanted while one is replaced
    service: str = "hapi"
    reads: int = 0  # connections of one replica's pool to a standby

    @property
    def readers(self) -> int:
        """Connections to a standby while a replica is replaced; each replica has one beside its pool, which watches the standby."""
        return (self.reads + 1) * max(self.wanted + self.surge, self.running) if self.reads else 0

    @property
    def steady(self) -> int:
        """Connections with the wanted replicas."""
        return self.hikari * self.wanted

    @property
    def peak(self) -> int:
        """Connections while a replica is replaced, or of those that run now if they are more."""
        return self.hikari * max(self.wanted + self.surge, self.running)


@dataclass(frozen=True)
class Side:
    """All that was read of one side."""

    name: str
    database: str
    server: Server
    demand: Demand
    pooler: Optional[Pooler] = None
    pooler_addresses: tuple[str, ...] = ()
    hapi_addresses: tuple[str, ...] = ()
    standbys: tuple[Server, ...] = ()
    direct_connections: int = 2
    jdbc: tuple[tuple[str, bool], ...] = ()  # variable, whether its URL turns prepared statements off

    def direct(self, server: Optional[Server] = None) -> tuple[Sessions, ...]:
        """Return the sessions of a server, the primary by default, that the pools or HAPI's own demand do not count."""
        pooled = self.pooler_addresses if self.pooler else self.hapi_addresses
        return tuple(item for item in (server or self.server).sessions if not item.address or item.address not in pooled)

    def direct_total(self) -> int:
        """Return the connections past the pooler: those seen, and those that come and go."""
        return sum(item.count for item in self.direct()) + self.direct_connections


@dataclass(frozen=True)
class Proposal:
    """Sizes that carry the demand. Each is the present one where that is large enough."""

    default_pool_size: Optional[int]  # None without a pooler
    max_client_conn: Optional[int]
    max_db_connections: Optional[int]
    max_user_connections: Optional[int]
    max_connections: int
    standby_max_connections: Mapping[str, int] = field(default_factory=dict)


def round_up(number: int, step: int = ROUND_TO) -> int:
    """Return the next multiple of step that is not below number."""
    return -(-number // step) * step


# -- the pooler


def app_line(pooler: Pooler, database: str) -> Line:
    """Return the database line that HAPI uses; a line with the defaults when the pooler has none (it makes one on use)."""
    primary = [item for item in pooler.lines if item.server == PRIMARY]
    for item in primary:
        if item.name == database:
            return item
    for item in primary:
        if item.database == database:
            return item
    return Line(database, database, pooler.default_pool_size, pooler.reserve_pool_size, pooler.max_db_connections, pooler.mode)


def lines_of(pooler: Pooler, database: str) -> tuple[Line, ...]:
    """Return all lines, with the application's own even before the pooler has made it."""
    line = app_line(pooler, database)
    return pooler.lines if line in pooler.lines else (*pooler.lines, line)


def users_of(pooler: Pooler, line: Line) -> tuple[str, ...]:
    """Return the users that have a pool on a line; one unknown user ("") when nobody has been there yet."""
    found = tuple(sorted({item.user for item in pooler.pools if item.database == line.name}))
    return found or (line.user,)


def pool_size(pooler: Pooler, line: Line, user: str) -> int:
    """Return the size of a pool as configured: the user's own, or that of its line (which holds the default if it has none)."""
    return pooler.user_sizes.get(user) or line.size


def size_from(pooler: Pooler, line: Line, user: str) -> str:
    """Tell which setting the size of a pool comes from: user, database or default_pool_size."""
    if pooler.user_sizes.get(user):
        return "user"
    return "default_pool_size" if line.size == pooler.default_pool_size else "database"


def caps(pooler: Pooler, line: Line, user: str) -> dict[str, int]:
    """Return the limits other than its size that apply to a pool, by the name of the setting."""
    found = {
        "max_db_connections": line.max_connections,
        "max_user_connections": pooler.user_limits.get(user) or pooler.max_user_connections,
    }
    return {name: value for name, value in found.items() if value > 0}


def effective(pooler: Pooler, line: Line, user: str, reserve: bool = False) -> int:
    """Return how many server connections a pool really gives, with the reserve if asked for.

    The reserve helps only clients that have waited for reserve_pool_timeout, so it never counts as room for HAPI.
    """
    return min([pool_size(pooler, line, user) + (line.reserve if reserve else 0), *caps(pooler, line, user).values()])


def reach(pooler: Pooler, database: str, line: Line, user: str) -> dict[str, int]:
    """Return how many connections the pools that share a limit could open without it, by the name of the limit."""
    return {
        "max_db_connections": sum(pool_size(pooler, line, item) + line.reserve for item in users_of(pooler, line)),
        "max_user_connections": sum(
            pool_size(pooler, item, user) + item.reserve for item in lines_of(pooler, database) if user in users_of(pooler, item)
        ),
    }


def line_load(pooler: Pooler, line: Line) -> int:
    """Return how many connections a line can open on its server: all its users, the reserve, the limits."""
    total = sum(effective(pooler, line, user, reserve=True) for user in users_of(pooler, line))
    return min(total, line.max_connections) if line.max_connections > 0 else total


def pooler_load(pooler: Pooler, database: str, server: str = PRIMARY) -> int:
    """Return how many connections a pooler can open on a server."""
    return sum(line_load(pooler, line) for line in lines_of(pooler, database) if line.server == server)


def app_users(pooler: Pooler, line: Line) -> tuple[str, ...]:
    """Return the users as whom HAPI uses a line: those of its replicas, else all that have a pool there."""
    users = users_of(pooler, line)
    return tuple(user for user in users if user in pooler.hapi_users) or users


def app_pool(pooler: Pooler, database: str) -> tuple[Line, str, int]:
    """Return line, user and effective size of the pool that HAPI has to do with; of several the smallest."""
    line = app_line(pooler, database)
    user = min(app_users(pooler, line), key=lambda item: effective(pooler, line, item))
    return line, user, effective(pooler, line, user)


def in_use(pooler: Pooler, line: Line) -> int:
    """Return the largest number of clients that a pool of a line serves or lets wait now. Idle server connections go by themselves."""
    return max([item.active + item.waiting for item in pooler.pools if item.database == line.name], default=0)


def pool_need(side: Side) -> int:
    """Return the server connections that the application's pool needs so that nobody ever waits."""
    return side.demand.peak + (side.pooler.other_clients if side.pooler else 0)


def user_limit(pooler: Pooler, line: Line) -> int:
    """Return the smallest max_user_connections that applies to HAPI's users, 0 when none does."""
    return min((item for item in (caps(pooler, line, user).get("max_user_connections", 0) for user in app_users(pooler, line)) if item), default=0)


def resized(pooler: Pooler, database: str, proposal: Proposal) -> Pooler:
    """Return the pooler as it would be with the proposed sizes.

    Where it is not known which of several users is HAPI's, each of them gets what HAPI needs; none gets less than it has
    unless the proposal is to lower.
    """
    size, target = proposal.default_pool_size or 0, app_line(pooler, database)
    lowers = size < pool_size(pooler, *app_pool(pooler, database)[:2])
    users = app_users(pooler, target)
    sources = {user: size_from(pooler, target, user) for user in users}

    def sized(present: int) -> int:
        return size if lowers else max(present, size)

    lines = []
    for line in lines_of(pooler, database):
        of_default = "default_pool_size" in sources.values() and line.size == pooler.default_pool_size
        if of_default or (line == target and "database" in sources.values()):
            line = replace(line, size=sized(line.size))
        shared = line.max_connections == pooler.max_db_connections
        if line.max_connections > 0 and (line.name == target.name or shared):
            line = replace(line, max_connections=max(line.max_connections, proposal.max_db_connections or 0))
        lines.append(line)
    limit = proposal.max_user_connections or 0
    global_limit = pooler.max_user_connections > 0 and any(user not in pooler.user_limits for user in users)
    return replace(
        pooler,
        default_pool_size=sized(pooler.default_pool_size) if "default_pool_size" in sources.values() else pooler.default_pool_size,
        max_client_conn=proposal.max_client_conn or 0,
        max_db_connections=max(pooler.max_db_connections, proposal.max_db_connections or 0) if pooler.max_db_connections else 0,
        max_user_connections=max(pooler.max_user_connections, limit) if global_limit else pooler.max_user_connections,
        user_sizes={**pooler.user_sizes, **{user: sized(pooler.user_sizes[user]) for user in users if sources[user] == "user"}},
        user_limits={user: max(present, limit) if user in users else present for user, present in pooler.user_limits.items()},
        lines=tuple(lines),
    )


# -- the sums


def pools_load(side: Side, pooler: Optional[Pooler] = None) -> int:
    """Return what comes through the pooler at most; without a pooler what HAPI itself opens."""
    chosen = pooler or side.pooler
    return pooler_load(chosen, side.database) if chosen else side.demand.peak


def standby_load(side: Side, standby: Server, pooler: Optional[Pooler] = None) -> int:
    """Return what a standby's users may ask for: the pools that lead to it, HAPI's readers, and who else is there now."""
    chosen = pooler or side.pooler
    pools = pooler_load(chosen, side.database, standby.service) if chosen else 0
    # HAPI comes past the pooler here.
    others = [item for item in side.direct(standby) if not side.demand.reads or item.address not in side.hapi_addresses]
    return pools + side.demand.readers + sum(item.count for item in others)


def server_need(side: Side, pooler: Optional[Pooler] = None) -> int:
    """Return the max_connections below which somebody may be refused."""
    return pools_load(side, pooler) + side.direct_total() + side.server.kept_free


def propose(side: Side, margin: int, lower: bool = False) -> Proposal:
    """Return sizes for the demand.

    A size that is large enough stays: nobody restarts a database for a rounder number. Otherwise a pool becomes what HAPI
    asks for at most, and max_connections what all ask for and the margin, up to the next multiple of ROUND_TO.
    With lower, a size that is larger than that is proposed smaller too, never below what is in use now.
    """
    pooler = side.pooler
    sized: Optional[Pooler] = None
    proposal = Proposal(None, None, None, None, side.server.max_connections)
    if pooler:
        line, user = app_pool(pooler, side.database)[:2]
        # Also for no replica at all, a pool has room for the first one.
        need = max(pool_need(side), side.demand.hikari)
        present = pool_size(pooler, line, user)
        size = max(need, in_use(pooler, line)) if lower else max(need, present)
        # A limit holds for all pools of its line or user; each of the others keeps what it can have now.
        others = sum(effective(pooler, line, item, reserve=True) for item in users_of(pooler, line) if item != user)
        elsewhere = sum(
            effective(pooler, item, user, reserve=True)
            for item in lines_of(pooler, side.database)
            if item != line and user in users_of(pooler, item)
        )
        proposal = replace(
            proposal,
            default_pool_size=size,
            max_client_conn=max(pooler.max_client_conn, need) if pooler.max_client_conn else 0,
            max_db_connections=raised(line.max_connections, need, others),
            max_user_connections=raised(user_limit(pooler, line), need, elsewhere),
        )
        sized = resized(pooler, side.database, proposal)
    needed = server_need(side, sized)
    # What the owner has set for the next restart is not undone.
    pending = (side.server.pending or 0) if side.server.pending_restart and not lower else 0
    maximum = max(fitting(side.server.max_connections, needed, margin, lower), pending)
    standbys = {}
    for standby in side.standbys:
        own = standby_load(side, standby, sized) + standby.kept_free
        standbys[standby.service] = max(maximum, fitting(standby.max_connections, max(own, maximum), 0, lower))
    return replace(proposal, max_connections=maximum, standby_max_connections=standbys)


def fitting(present: int, need: int, margin: int, lower: bool) -> int:
    """Return a max_connections of at least need: the present one where it suffices, unless a smaller one is wanted and does."""
    rounded = round_up(need + margin)
    if present < need:
        return rounded
    return min(present, rounded) if lower else present


def raised(limit: int, need: int, others: int) -> int:
    """Return a limit that lets need through, others beside it; one that does so already, and none (0), stay."""
    return limit if limit == 0 or limit >= need else need + others


# -- what is wrong


def check(side: Side) -> list[dict[str, Any]]:
    """Return the findings of one side."""
    found = check_server(side)
    if side.pooler:
        found += check_pool(side, side.pooler) + check_pooler(side, side.pooler) + check_prepared(side, side.pooler)
    for standby in side.standbys:
        found += check_standby(side, standby)
    return found


def replicas_text(demand: Demand) -> str:
    """Return words for the demand, such as 5 replicas x 5 = 25, 30 with 1 more while one is replaced."""
    text = "%d replica%s x %d = %d" % (demand.wanted, "" if demand.wanted == 1 else "s", demand.hikari, demand.steady)
    if demand.running > demand.wanted + demand.surge:
        return text + ", %d with the %d that run now" % (demand.peak, demand.running)
    return text + (", %d with %d more while one is replaced" % (demand.peak, demand.surge) if demand.surge else "")


def check_pool(side: Side, pooler: Pooler) -> list[dict[str, Any]]:
    """Compare the application's pool with what HAPI asks for."""
    line, user, size = app_pool(pooler, side.database)
    demand, need = side.demand, pool_need(side)
    asked = replicas_text(demand) + (", and %d other clients" % pooler.other_clients if pooler.other_clients else "")
    source = size_from(pooler, line, user)
    limits = caps(pooler, line, user)
    configured = pool_size(pooler, line, user)
    mode = line.mode or pooler.mode
    by = "" if size == configured else ", by " + min(limits, key=lambda name: limits[name])
    where = {
        "default_pool_size": "default_pool_size",
        "database": "pool_size on the line of the database %s" % line.name,
        "user": "pool_size of the user %s" % user,
    }[source]
    found = []
    if mode == "session" and size < need:
        steady = demand.steady + pooler.other_clients
        short = "%d > %d" % (steady if steady > size else need, size)
        found.append(
            finding(
                "pool_too_small",
                "error",
                pooler.service,
                "a pool of at least %d for %s: %s" % (need, side.database, asked),
                "%d (%s%s): %s" % (size, where, by, short),
                "In session mode the replicas that come last wait for a connection until their requests time out. Raise %s, after"
                " max_connections of the server: see the order." % where,
            )
        )
    elif mode != "session" and size < demand.hikari:
        found.append(
            finding(
                "pool_too_small",
                "error",
                pooler.service,
                "a pool of at least %d for %s, as many as one replica has connections" % (demand.hikari, side.database),
                "%d (%s%s): %d > %d" % (size, where, by, demand.hikari, size),
                "A request of HAPI may hold one connection and wait for a second one; with fewer than one replica may open, such requests"
                " can wait for each other for ever. Raise %s." % where,
            )
        )
    elif mode == "session" and size == need:
        found.append(
            finding(
                "pool_full",
                "info",
                pooler.service,
                "more than %d, to have one to spare" % need,
                "%d: %s" % (size, asked),
                "It suffices, but the pool has nothing to spare while a replica is replaced: nobody else may use it, and one replica more"
                " needs a larger pool first.",
            )
        )
    for name, limit in sorted(limits.items()):
        if limit < configured:
            hint = "Raise %s, or lower the pool to what it really is." % name
        elif limit > reach(pooler, side.database, line, user)[name]:
            hint = "For more connections raise %s." % where
        else:
            continue
        found.append(
            finding(
                "pool_capped",
                "warning",
                pooler.service,
                "%s and the size of the pool to agree" % name,
                "%s %d, %s %d: the pool for %s really gives %d" % (name, limit, where, configured, side.database, size),
                "The smaller of the two decides. " + hint,
            )
        )
    return found


def check_pooler(side: Side, pooler: Pooler) -> list[dict[str, Any]]:
    """Look at what holds for the pooler as a whole, and at who waits now."""
    found = []
    need = pool_need(side)
    if 0 < pooler.max_client_conn < need:
        found.append(
            finding(
                "max_client_conn_too_small",
                "error",
                pooler.service,
                "at least %d: %s" % (need, replicas_text(side.demand)),
                "max_client_conn %d" % pooler.max_client_conn,
                "The pooler refuses the clients that come last. Raise max_client_conn.",
            )
        )
    mode = app_line(pooler, side.database).mode or pooler.mode
    if mode == "statement":
        found.append(
            finding(
                "pool_mode_unusable",
                "error",
                pooler.service,
                "session or transaction",
                "pool_mode statement",
                "HAPI uses transactions of many statements, and this mode refuses them. Set pool_mode to session.",
            )
        )
    for pool in pooler.pools:
        if pool.waiting:
            found.append(
                finding(
                    "clients_waiting",
                    "warning",
                    pooler.service,
                    "no client that waits for a connection",
                    "%d for %s as %s, the first for %g seconds" % (pool.waiting, pool.database, pool.user, pool.longest_wait),
                    "The pool is used up now, or the server refuses connections (its log, and the pooler's, say so): look at pool_too_small"
                    " and pool_over_max_connections.",
                )
            )
    return found


def check_prepared(side: Side, pooler: Pooler) -> list[dict[str, Any]]:
    """Tell whether server-side prepared statements of the JDBC driver survive the pool mode."""
    mode = app_line(pooler, side.database).mode or pooler.mode
    if mode == "session" or (pooler.version >= PREPARED_SINCE and pooler.max_prepared_statements > 0):
        return []
    version = ".".join(str(part) for part in pooler.version)
    state = "pool_mode %s, pgBouncer %s" % (mode, version)
    if pooler.version >= PREPARED_SINCE:
        state += ", max_prepared_statements 0"
        cure = "set max_prepared_statements (200, say)"
    else:
        cure = "use pgBouncer 1.21 or newer with max_prepared_statements"
    on = sorted(variable for variable, off in side.jdbc if not off)
    if on:
        return [
            finding(
                "prepared_statements_unsupported",
                "error",
                pooler.service,
                "prepareThreshold=0 in the JDBC URL, or a pooler that keeps track of prepared statements",
                "%s; no prepareThreshold=0 in %s of %s" % (state, ", ".join(on), side.demand.service),
                "A statement prepared on one server connection is missing on the next. Put pool_mode back to session, or %s." % cure,
            )
        ]
    seen = "prepareThreshold=0 in %s" % ", ".join(sorted(item[0] for item in side.jdbc)) if side.jdbc else "no JDBC URL that leads to it was found"
    return [
        finding(
            "prepared_statements_unsupported",
            "warning",
            pooler.service,
            "session mode, or a pooler that keeps track of prepared statements",
            "%s; %s" % (state, seen),
            "prepareThreshold=0 does not cover what reads with a cursor (fetchSize: bulk export, reindexing): that can still fail with"
            " 'prepared statement does not exist'. Use session mode, or %s." % cure,
        )
    ]


def check_server(side: Side) -> list[dict[str, Any]]:
    """Compare what all may open with the server's max_connections, now and for what is wanted."""
    server = side.server
    found = []
    if server.in_recovery:
        found.append(
            finding(
                "server_role_unexpected",
                "error",
                server.service,
                "the primary",
                "a standby (in recovery)",
                "The side names a standby as its database_service: has there been a failover? Correct the side.",
            )
        )
    pools, direct = pools_load(side), side.direct_total()
    need = server_need(side)
    if need > server.max_connections:
        found.append(
            finding(
                "pool_over_max_connections",
                "error",
                server.service,
                "max_connections of at least %d: pools %d + direct %d + reserved %d" % (need, pools, direct, server.kept_free),
                "%d: %d + %d + %d > %d" % (server.max_connections, pools, direct, server.kept_free, server.max_connections),
                "The pools as they are can ask for more than the server gives: connections are then refused under load. Raise"
                " max_connections (a restart), or lower the pool.",
            )
        )
    if side.pooler:
        line, user, size = app_pool(side.pooler, side.database)
        short = pool_need(side) - size if (line.mode or side.pooler.mode) == "session" else 0
        wanted = need + short
        if short > 0 and wanted > server.max_connections:
            found.append(
                finding(
                    "max_connections_too_small",
                    "error",
                    server.service,
                    "max_connections of at least %d before the pool is raised: pools %d + direct %d + reserved %d"
                    % (wanted, pools + short, direct, server.kept_free),
                    "%d: %d + %d + %d > %d" % (server.max_connections, pools + short, direct, server.kept_free, server.max_connections),
                    "A pool raised before the server's max_connections gets refusals instead of connections. Raise the standby's first, then"
                    " the primary's (a restart), then the pool.",
                )
            )
        if 0 <= server.role_limits.get(user, UNLIMITED) < max(size, size + short):
            found.append(limit_finding(server, "role %s" % user, server.role_limits[user], max(size, size + short)))
        pools += max(short, 0)
    if 0 <= server.database_limit < pools:
        found.append(limit_finding(server, "database %s" % side.database, server.database_limit, pools))
    if server.source == "command line":
        found.append(
            finding(
                "max_connections_overridden",
                "warning",
                server.service,
                "max_connections from a configuration file",
                "max_connections %d from the command line" % server.max_connections,
                "The argument (-c max_connections=...) in the service's command beats every file and ALTER SYSTEM: it has to be changed there.",
            )
        )
    if server.pending_restart:
        found.append(
            finding(
                "max_connections_pending",
                "warning",
                server.service,
                "max_connections %s" % ("unknown" if server.pending is None else server.pending),
                "max_connections %d until the server is restarted" % server.max_connections,
                "The files hold another value than the server runs with; the next restart, planned or not, brings it.",
            )
        )
    return found


def limit_finding(server: Server, what: str, limit: int, need: int) -> dict[str, Any]:
    """Return the finding for a CONNECTION LIMIT of a role or database that is below what the pools may open."""
    return finding(
        "connection_limit_too_small",
        "error",
        server.service,
        "no CONNECTION LIMIT below %d for the %s" % (need, what),
        "CONNECTION LIMIT %d" % limit,
        "The server refuses connections above it, whatever max_connections says. Raise it (ALTER %s ... CONNECTION LIMIT)." % what.split()[0].upper(),
    )


def check_standby(side: Side, standby: Server) -> list[dict[str, Any]]:
    """Compare a standby with its primary, and with its own users."""
    found = []
    if not standby.in_recovery:
        found.append(
            finding(
                "server_role_unexpected",
                "error",
                standby.service,
                "a standby (in recovery)",
                "a server that takes writes",
                "It was promoted, or the side names the wrong service as its standby. Two servers that take writes are two truths: find out first.",
            )
        )
    if standby.max_connections < side.server.max_connections:
        found.append(
            finding(
                "standby_below_primary",
                "error",
                standby.service,
                "max_connections of at least %d, as on %s" % (side.server.max_connections, side.server.service),
                standby.max_connections,
                "A standby with less than its primary stops replaying, and does not start again. Raise the standby's first, always.",
            )
        )
    need = standby_load(side, standby) + standby.kept_free
    if need > standby.max_connections:
        found.append(
            finding(
                "pool_over_max_connections",
                "error",
                standby.service,
                "max_connections of at least %d: pools and sessions %d + reserved %d" % (need, need - standby.kept_free, standby.kept_free),
                standby.max_connections,
                "The pools that lead to it can ask for more than it gives. Raise its max_connections (a restart of the standby).",
            )
        )
    return found


# -- the order


def steps_of(side: Side, proposal: Proposal) -> list[dict[str, Any]]:
    """Return the single changes of one side, in the order in which they are raised."""
    mode = (app_line(side.pooler, side.database).mode or side.pooler.mode) if side.pooler else ""
    primary_cut = {
        "transaction": "a restart; in transaction mode the pooler holds the clients meanwhile (PAUSE)",
        "session": "a restart, which cuts every connection: HAPI answers errors for some seconds unless the balancer's window is open",
    }.get(mode, "a restart, which cuts every connection")
    own = proposal.standby_max_connections
    # Recovery begins at the last restart point, and a larger value that the log has behind it stops the start.
    standby_cut = "a restart of the standby, which cuts its readers; before it is lowered, a CHECKPOINT on the primary and then on the standby"
    steps = [step(item.service, "max_connections", item.max_connections, own[item.service], standby_cut) for item in side.standbys]
    steps.append(step(side.server.service, "max_connections", side.server.max_connections, proposal.max_connections, primary_cut))
    pooler = side.pooler
    if pooler:
        line, user = app_pool(pooler, side.database)[:2]
        live = "none while it runs; a container that has to be made anew to keep it cuts every connection"
        steps += [
            step(pooler.service, "max_client_conn", pooler.max_client_conn, proposal.max_client_conn, live),
            step(pooler.service, "max_db_connections", line.max_connections, proposal.max_db_connections, live),
            step(pooler.service, "max_user_connections", user_limit(pooler, line), proposal.max_user_connections, live),
            step(pooler.service, "default_pool_size", pool_size(pooler, line, user), proposal.default_pool_size, live),
        ]
    return [item for item in steps if item["from"] != item["to"]]


def step(obj: str, what: str, before: Optional[int], after: Optional[int], interruption: str) -> dict[str, Any]:
    """Return one change."""
    return {"object": obj, "what": what, "from": before, "to": after, "interruption": interruption}


def order_of(sides: Sequence[tuple[Side, Proposal]], service: str, running: int, wanted: int) -> list[dict[str, Any]]:
    """Return all changes in the one order in which no server ever gets more asked than it gives.

    Upwards: each standby, its primary, the pooler, HAPI. Downwards the other way round: HAPI first, the standby last.
    """
    steps = [item for side, proposal in sides for item in steps_of(side, proposal)]
    ups = [item for item in steps if item["to"] > item["from"]]
    downs = [item for item in reversed(steps) if item["to"] < item["from"]]
    hapi = [step(service, "replicas", running, wanted, "none, one replica at a time")] if running != wanted else []
    return [{"step": number, **item} for number, item in enumerate(by_kind(ups, sides) + hapi + by_kind(downs, sides, backwards=True), start=1)]


def by_kind(steps: Iterable[dict[str, Any]], sides: Sequence[tuple[Side, Proposal]], backwards: bool = False) -> list[dict[str, Any]]:
    """Sort changes of several sides: all standbys, all primaries, all poolers. Within a kind their order stays."""
    kinds = {}
    for side in (item[0] for item in sides):
        kinds.update({standby.service: 0 for standby in side.standbys})
        kinds[side.server.service] = 1
        if side.pooler:
            kinds[side.pooler.service] = 2
    return sorted(steps, key=lambda item: -kinds[item["object"]] if backwards else kinds[item["object"]])


# -- what the module returns


def server_report(server: Server) -> dict[str, Any]:
    """Return what is shown of a server."""
    return {
        "service": server.service,
        "version": server.version,
        "in_recovery": server.in_recovery,
        "max_connections": server.max_connections,
        "superuser_reserved_connections": server.superuser_reserved,
        "reserved_connections": server.reserved,
        "usable": server.usable,
        "used": server.used,
        "source": server.source,
        "sourcefile": server.sourcefile,
        "sourceline": server.sourceline,
        "pending_restart": server.pending_restart,
        "pending": server.pending,
        "replication": server.replication,
        "max_wal_senders": server.max_wal_senders,
        "role_limits": dict(server.role_limits),
        "database_limit": server.database_limit,
    }


def pooler_report(pooler: Pooler, database: str) -> dict[str, Any]:
    """Return what is shown of a pooler."""
    by_key = {(item.database, item.user): item for item in pooler.pools}
    pools = []
    for line in lines_of(pooler, database):
        for user in users_of(pooler, line):
            seen = by_key.get((line.name, user), Pool(line.name, user))
            pools.append(
                {
                    "database": line.name,
                    "user": user,
                    "server": line.server,
                    "pool_mode": line.mode or pooler.mode,
                    "pool_size": pool_size(pooler, line, user),
                    "size_from": size_from(pooler, line, user),
                    "reserve_pool_size": line.reserve,
                    "effective": effective(pooler, line, user),
                    "limits": caps(pooler, line, user),
                    "active": seen.active,
                    "servers": seen.servers,
                    "waiting": seen.waiting,
                }
            )
    return {
        "service": pooler.service,
        "version": ".".join(str(part) for part in pooler.version),
        "pool_mode": app_line(pooler, database).mode or pooler.mode,
        "default_pool_size": pooler.default_pool_size,
        "reserve_pool_size": pooler.reserve_pool_size,
        "max_client_conn": pooler.max_client_conn,
        "max_db_connections": pooler.max_db_connections,
        "max_user_connections": pooler.max_user_connections,
        "max_prepared_statements": pooler.max_prepared_statements,
        "other_clients": pooler.other_clients,
        "effective": app_pool(pooler, database)[2],
        "pools": pools,
    }


def side_report(side: Side, findings: list[dict[str, Any]], sizes: Mapping[str, int], pool: str) -> dict[str, Any]:
    """Return what is shown of a side. sizes: replica -> size of its Hikari pool."""
    direct = side.direct()
    pools = pools_load(side)
    total = server_need(side)
    return {
        "name": side.name,
        "database": side.database,
        "server": server_report(side.server),
        "standbys": [server_report(item) for item in side.standbys],
        "pooler": pooler_report(side.pooler, side.database) if side.pooler else None,
        "hikari": {
            "pool": pool,
            "size": side.demand.hikari,
            "replicas": dict(sizes),
            "running": side.demand.running,
            "wanted": side.demand.wanted,
            "surge": side.demand.surge,
            "demand": side.demand.peak,
            "reads": side.demand.reads,
        },
        "direct": {
            "seen": [asdict(item) for item in direct],
            "expected": side.direct_connections,
            "total": side.direct_total(),
        },
        "sum": {"pools": pools, "direct": side.direct_total(), "reserved": side.server.kept_free, "total": total, "of": side.server.max_connections},
        "fits": not any(item["severity"] == "error" for item in findings),
    }


def jdbc_urls(environment: Mapping[str, Any], hosts: Iterable[str]) -> tuple[tuple[str, bool], ...]:
    """Return the variables of a service whose JDBC URL leads to one of these hosts, and whether it has prepareThreshold=0.

    The URL itself is not returned: it may hold a password.
    """
    wanted = set(hosts)
    found = []
    for name, value in sorted(environment.items()):
        match = _JDBC.match(str(value or ""))
        if not match:
            continue
        named = {item.rpartition(":")[0] or item for item in match.group("hosts").split(",")}
        if named & wanted:
            threshold = parse_qs(match.group("query") or "").get("prepareThreshold", [""])[-1]
            found.append((name, threshold == "0"))
    return tuple(found)
