# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role pgbouncer decides of each side, forth and back, and what it remembers of it. All pure.

A budget is what connection_budget_info returns. A memory is what the role's fragment keeps of a side from before its first change:
settings (name -> what it was, and whatever was written since, in that order), databases (service -> max_connections, and the file
that it came from) and written (service -> each max_connections that was written, in that order); where there are any, unset (settings
that stood nowhere) and on_line (setting -> what the database's line in pgBouncer's own file said).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from ._budget import PRIMARY, round_up
from ._parameters import AUTO_CONF

# What Ansible hands over: a part of the budget, a side as the inventory has it, a part of the memory.
Report = Mapping[str, Any]

POOL_SIZE = "default_pool_size"
LIMITS = ("max_db_connections", "max_user_connections")
# Settings that the budget proposes.
PROPOSED = (POOL_SIZE, "max_client_conn", *LIMITS)
# Modes in which a server connection is lent, so that clients need not have one each and can be held back between two.
LENDING = ("transaction", "statement")


@dataclass(frozen=True)
class Wishes:
    """What the operator asks for in place of what is proposed for one side."""

    pool: Any = None
    connections: Any = None
    settings: Report = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """How max_connections of one database is changed."""

    service: str
    value: Optional[int]  # None takes back what ALTER SYSTEM has set
    side: Report
    pooler: Optional[dict[str, Any]]  # of the database, as postgres_parameter takes it
    standbys: tuple[str, ...]  # that must not have less
    restart: str  # pause, window or standby
    lower: bool  # after the pooler instead of before it, and in the reverse order
    after_primary: bool  # refused as long as the primary has more, so that nothing can be asked of it beforehand


@dataclass(frozen=True)
class Decision:
    """What becomes of one side."""

    side: Report
    pool: int  # server connections that HAPI's pool then gives
    least_pool: int  # those without which HAPI does not work
    capped_by: str  # what makes the pool smaller than its wanted size, if anything does
    settings: dict[str, Any]  # of the pooler; None for one that shall stand nowhere
    databases: dict[str, Optional[int]]  # service -> max_connections, standbys first
    needed: int  # max_connections below which somebody may be refused
    fits: bool
    touched: bool  # whether there is something to do, or was in an earlier run that may have been cut short
    changes: tuple[Change, ...]
    stays: Optional[int] = None  # the former max_connections, which would be too few for what the owner has set since
    on_line: dict[str, str] = field(default_factory=dict)  # what the database's line says of a setting, where it is not the same

    def report(self) -> dict[str, Any]:
        """Return the decision as Ansible takes it."""
        return dict(vars(self), changes=[dict(vars(item), standbys=list(item.standbys)) for item in self.changes])


def number(value: Any) -> int:
    """Return a number that may have come as text from the command line. What is none is 0, and refused where a size is expected."""
    try:
        return int(float(value))
    except (OverflowError, TypeError, ValueError):
        return 0


# -- the pools as they are, and as they would be


def application_pools(report: Report) -> list[Report]:
    """Return the pools that may be HAPI's: which of several users is HAPI's the report does not tell, but what its pool gives."""
    pools = [item for item in report["pooler"]["pools"] if item["server"] == PRIMARY]
    named = [item for item in pools if item["database"] == report["database"]]
    return [item for item in named or pools if item["effective"] == report["pooler"]["effective"]]


def settable_sizes(report: Report) -> set[int]:
    """Return what HAPI's pool has by default_pool_size or by its line of [databases], which go along; nothing where the user has a size."""
    return {item["pool_size"] for item in application_pools(report) if item["size_from"] != "user"}


def resized(report: Report, settings: Mapping[str, Any]) -> list[Report]:
    """Return all pools as they are with these settings."""
    lines = {item["database"] for item in application_pools(report)}
    return [resized_pool(report["pooler"], item, settings, item["database"] in lines) for item in report["pooler"]["pools"]]


def resized_pool(pooler: Report, pool: Report, settings: Mapping[str, Any], application: bool) -> Report:
    """Return one pool as it is with these settings.

    pgbouncer_pool changes what the application's own line of [databases] says along with the setting. What a user has of its own
    counts more than either.
    """
    size, reserve, limits = pool["pool_size"], pool["reserve_pool_size"], dict(pool["limits"])
    if POOL_SIZE in settings and (pool["size_from"] == POOL_SIZE or (application and pool["size_from"] == "database")):
        size = number(settings[POOL_SIZE])
    if "reserve_pool_size" in settings and (application or reserve == pooler["reserve_pool_size"]):
        reserve = number(settings["reserve_pool_size"])
    for name in LIMITS:
        general = limits.get(name, 0) == pooler[name]
        if name in settings and (general or (application and name == "max_db_connections")):
            limits[name] = number(settings[name])
    limits = {name: value for name, value in limits.items() if value > 0}
    return {**pool, "pool_size": size, "reserve_pool_size": reserve, "limits": limits, "effective": min([size, *limits.values()])}


def load(pools: Iterable[Report]) -> int:
    """Return how many connections pools can open on the primary: with their reserve, those of a line no more than its limit."""
    totals: dict[str, int] = {}
    limits: dict[str, int] = {}
    for item in pools:
        if item["server"] == PRIMARY:
            line = item["database"]
            totals[line] = totals.get(line, 0) + min([item["pool_size"] + item["reserve_pool_size"], *item["limits"].values()])
            if "max_db_connections" in item["limits"]:
                limits[line] = item["limits"]["max_db_connections"]
    return sum(min(total, limits.get(line, total)) for line, total in totals.items())


def needed_with(report: Report, settings: Mapping[str, Any]) -> int:
    """Return the max_connections below which somebody may be refused, with these settings in place of the present ones."""
    total: int = report["sum"]["total"]
    return total - report["sum"]["pools"] + load(resized(report, settings)) if report["pooler"] else total


def pool_with(report: Report, settings: Mapping[str, Any]) -> Report:
    """Return HAPI's pool as it is with these settings. Of several that may be it the largest: what is refused is refused for certain."""
    before = application_pools(report)
    found = [then for item, then in zip(report["pooler"]["pools"], resized(report, settings)) if item in before]
    return max(found, key=lambda item: int(item["effective"]))


def capped_by(pool: Report, size: int) -> str:
    """Return what makes a pool give less than size, '' when nothing does."""
    if pool["effective"] >= size:
        return ""
    for name, value in sorted(pool["limits"].items()):
        if value == pool["effective"]:
            return "%s %d" % (name, value)
    return "pool_size %d of the user %s" % (pool["pool_size"], pool["user"])


def lends(mode: str) -> bool:
    """Tell whether a pooler in this mode lends a server connection for a transaction."""
    return mode in LENDING


def least_pool(report: Report, settings: Mapping[str, Any]) -> int:
    """Return the connections that HAPI's pool must give at least.

    In session mode each connection of a replica takes one of the server's. Where they are lent, one replica must be able to have all
    of its own, since a request may hold one and wait for a second one.
    """
    present = (report["pooler"] or {}).get("pool_mode", "")
    lent = lends(present) and lends(settings.get("pool_mode", present))
    return int(report["hikari"]["size"] if lent else report["hikari"]["demand"])


# -- the databases


def servers_of(report: Report) -> list[Report]:
    """Return the servers of a side."""
    return [report["server"], *report["standbys"]]


def pooler_option(side: Report) -> Optional[dict[str, Any]]:
    """Return the pooler of a side as postgres_parameter takes it, None when there is none."""
    if not side.get("pooler_service"):
        return None
    names = {"service": "pooler_service", "port": "pooler_port", "admin_user": "admin_user", "admin_password_variable": "admin_password_variable"}
    return {option: side[name] for option, name in names.items() if side.get(name) is not None}


def changes_of(
    side: Report, report: Report, settings: Mapping[str, Any], databases: Mapping[str, Optional[int]], then: Mapping[str, Any]
) -> tuple[Change, ...]:
    """Return the changes of the databases of a side, in the order in which they are raised. then: service -> what it has afterwards."""
    primary, maximum = side["database_service"], report["server"]["max_connections"]
    lower = then.get(primary, 0) < maximum
    present = (report["pooler"] or {}).get("pool_mode", "")
    # A pooler that lends holds the clients while its database restarts; one in session mode would wait for them for ever. What is
    # lowered comes after the pooler has its settings, and is planned before.
    held = lends(present) and (not lower or lends(settings.get("pool_mode", present)))
    return tuple(
        Change(
            service=service,
            value=value,
            side=side,
            # No client of the pooler comes to a standby, and its readers ask the primary meanwhile.
            pooler=pooler_option(side) if service == primary else None,
            standbys=tuple(side.get("standby_services") or ()) if service == primary else (),
            restart="standby" if service != primary else "pause" if held else "window",
            lower=lower,
            after_primary=lower and service != primary and primary in databases and then[service] < maximum,
        )
        for service, value in databases.items()
    )


# -- forth


def decide(side: Report, report: Report, proposal: Report, memory: Report, margin: int, wishes: Wishes) -> Decision:
    """Return what one side shall become."""
    pooler = report["pooler"]
    asked = wishes.settings.get(POOL_SIZE) or wishes.pool
    size = number(asked or proposal[POOL_SIZE])
    settings = wanted_settings(report, proposal, memory, size, wishes.settings) if pooler else {}
    pool = pool_with(report, settings) if pooler else {"effective": report["hikari"]["demand"]}
    cap = capped_by(pool, size) if pooler else ""
    needed = needed_with(report, settings)
    enough = proposal["max_connections"] if needed <= proposal["max_connections"] else round_up(needed + margin)
    maximum = number(wishes.connections or enough)
    # A standby must never have less than its primary.
    databases: dict[str, Optional[int]] = {name: max(value, maximum) for name, value in proposal["standby_max_connections"].items()}
    databases[side["database_service"]] = maximum
    servers = servers_of(report)
    least = least_pool(report, settings)
    return Decision(
        side=side,
        pool=pool["effective"],
        least_pool=least,
        capped_by=cap,
        settings=settings,
        databases=databases,
        needed=needed,
        # A proposal that a limit makes smaller may do; a size that was asked for is wanted whole.
        fits=pool["effective"] >= least and maximum >= needed and not (asked and cap),
        touched=bool(memory or settings)
        or any(item["pending_restart"] for item in servers)
        or {item["service"]: item["max_connections"] for item in servers} != databases,
        changes=changes_of(side, report, settings, databases, databases),
    )


def wanted_settings(report: Report, proposal: Report, memory: Report, size: int, own: Report) -> dict[str, Any]:
    """Return the settings that the pooler is given.

    A size that is as wanted is left alone, unless it is ours to keep; a further setting that was asked for once stays.
    """
    pooler, remembered = report["pooler"], memory.get("settings", {})
    present = {name: {pooler[name]} for name in PROPOSED}
    present[POOL_SIZE] = settable_sizes(report)
    # A limit that the pooler does not have is not set by us either, nor a size that HAPI's user has of its own.
    sized = {name: size if name == POOL_SIZE else proposal[name] for name in PROPOSED if any(present[name])}
    return {
        **{name: values[-1] for name, values in remembered.items() if name not in PROPOSED},
        **{name: value for name, value in sized.items() if name in remembered or present[name] != {value}},
        **own,
    }


def decide_all(budget: Report, sides: Iterable[Report], memory: Report, margin: int, wishes: Mapping[str, Wishes]) -> dict[str, Decision]:
    """Return side -> what it shall become. memory and wishes are by the name of a side."""
    reports = {item["name"]: item for item in budget["sides"]}
    return {
        name: decide(side, reports[name], budget["proposals"][name], memory.get(name, {}), margin, wishes.get(name, Wishes()))
        for name, side in ((item["name"], item) for item in sides)
    }


# -- what is remembered


def remember(memory: Report, decisions: Mapping[str, Report], budget: Report, before: Report) -> dict[str, Any]:
    """Return the memory with what each touched side is now and shall be; before: side -> setting -> {before, in_file, on_line}.

    What was remembered first stays: the way back leads to the owner's own sizes, not to those of the last run.
    """
    found = dict(memory)
    for report in budget["sides"]:
        name = report["name"]
        if not decisions[name]["touched"]:
            continue
        old, settings, now = memory.get(name, {}), decisions[name]["settings"], before.get(name, {})
        kept, written = old.get("settings", {}), old.get("written", {})
        # A dry run may not have learned what a setting is.
        first = {item: kept[item][0] if item in kept else now.get(item, {}).get("before") for item in settings}
        new = {item: now[item] for item in settings if item in now and item not in kept}
        unset = {item for item, told in new.items() if told.get("in_file", "") is None}
        lines = {item: told["on_line"] for item, told in new.items() if told.get("on_line") is not None}
        places = {"unset": sorted(unset | set(old.get("unset", ()))), "on_line": {**lines, **old.get("on_line", {})}}
        found[name] = {
            **{place: value for place, value in places.items() if value},
            # All that was written, and not only the last: a run that ended before its first change leaves the one before that in force.
            "settings": {**kept, **{item: [first[item], *another(kept.get(item, ())[1:], value)] for item, value in settings.items()}},
            # With the file that the value comes from: one of our own kind is put back, any other needs only that ours goes.
            "databases": {
                **{item["service"]: [item["max_connections"], item["sourcefile"]] for item in servers_of(report)},
                **old.get("databases", {}),
            },
            "written": {**written, **{item: another(written.get(item, ()), value) for item, value in decisions[name]["databases"].items()}},
        }
    return found


def another(values: Iterable[Any], value: Any) -> list[Any]:
    """Return the values with one that comes last, and stands there once."""
    return [item for item in values if item != value] + [value]


# -- back


def go_back(side: Report, report: Report, memory: Report) -> Decision:
    """Return what one side becomes on the way back. What the owner has changed since is the owner's."""
    kept, pooler = memory.get("settings", {}), report["pooler"]
    going = [name for name, values in kept.items() if not (pooler and setting_moved(report, name, values))]
    on_line = {name: value for name, value in memory.get("on_line", {}).items() if name in going}
    # What HAPI's pool then has: its line's own word counts more than the setting.
    settings = {name: on_line.get(name, kept[name][0]) for name in going}
    databases = former_databases(side, report, memory)
    former = {service: values[0] for service, values in memory.get("databases", {}).items()}
    pool = pool_with(report, settings) if pooler else {"effective": report["hikari"]["demand"]}
    least, needed, primary = least_pool(report, settings), needed_with(report, settings), side["database_service"]
    # What the owner has set since may need more than there was. What needs more with all sizes as they were did so before us.
    stays = len(going) < len(kept) and primary in databases and former[primary] < needed
    return Decision(
        side=side,
        pool=pool["effective"],
        least_pool=least,
        capped_by=capped_by(pool, number(settings.get(POOL_SIZE))) if pooler else "",
        settings={name: None if name in memory.get("unset", ()) else kept[name][0] for name in going},
        on_line=on_line,
        databases={} if stays else databases,
        needed=needed,
        # A pool that is not made smaller does not bar the way.
        fits=pool["effective"] >= least or not {POOL_SIZE, *LIMITS} & set(settings),
        touched=True,
        changes=() if stays else changes_of(side, report, settings, databases, former),
        stays=former[primary] if stays else None,
    )


def setting_moved(report: Report, name: str, values: list[Any]) -> bool:
    """Tell whether a setting is neither what it was nor anything that was written."""
    if name == POOL_SIZE:
        present = {str(size) for size in settable_sizes(report) or {report["pooler"][POOL_SIZE]}}
    elif name in report["pooler"]:
        present = {str(report["pooler"][name])}
    else:
        return False
    return not present & {str(value) for value in values}


def former_databases(side: Report, report: Report, memory: Report) -> dict[str, Optional[int]]:
    """Return service -> the former max_connections, standbys first; without those that have moved since, and standbys that are gone.

    Where the value came from another file than the one that ALTER SYSTEM writes, ours only has to go: None.
    """
    now = {item["service"]: item["max_connections"] for item in servers_of(report)}
    there = {side["database_service"], *(side.get("standby_services") or ())}
    found: dict[str, Optional[int]] = {}
    for service, (value, file) in sorted(memory.get("databases", {}).items(), key=lambda item: bool(item[0] == side["database_service"])):
        if service in there and now.get(service, value) in (value, *memory.get("written", {}).get(service, ())):
            found[service] = value if file.endswith(AUTO_CONF) else None
    return found


def go_back_all(budget: Report, sides: Iterable[Report], memory: Report) -> dict[str, Decision]:
    """Return side -> what it becomes on the way back, for the sides that are remembered."""
    reports = {item["name"]: item for item in budget["sides"]}
    return {side["name"]: go_back(side, reports[side["name"]], memory[side["name"]]) for side in sides if side["name"] in memory}
