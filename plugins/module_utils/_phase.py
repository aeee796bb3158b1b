# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which phase the load asks for, which one is deployed, and what is due. Pure.

The roadmap's limits leave values that belong to no phase: 100,000 to 1,000,000 resources a day, and exactly 500 vendors or
10,000,000 resources. The rule for these: such a load has left what regional was made for and not reached what national begins
with, so the phase is still regional, marked as exceeded, and the move to national is to be planned. The order pilot, regional,
regional exceeded, national is what a growing load goes through, never back.

What could not be read counts for nothing: the phase is then what the rest asks for at least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Optional

from ._findings import finding
from ._growth import Projection, Sample, iso, project

PHASES = ("pilot", "regional", "national")
METRICS = ("vendors", "resources_per_day", "resources")
LABELS = {"vendors": "vendors", "resources_per_day": "resources a day", "resources": "resources"}
LIMITS = ("pilot_below", "regional_below", "national_above")
# The roadmap's own table.
DEFAULTS: dict[str, dict[str, float]] = {
    "vendors": {"pilot_below": 50, "regional_below": 500, "national_above": 500},
    "resources_per_day": {"pilot_below": 10_000, "regional_below": 100_000, "national_above": 1_000_000},
    "resources": {"pilot_below": 1_000_000, "regional_below": 10_000_000, "national_above": 10_000_000},
}
# Replicas that a phase has at least.
REPLICAS = {"regional": 3, "national": 5}
# Where a load is: the phases, and the values between two of them.
LEVELS = ("pilot", "regional", "regional_exceeded", "national")
BOUNDARIES = dict(zip(LIMITS, LEVELS[1:]))
PHASE_OF_LEVEL = (0, 1, 1, 2)

# Rows of HFJ_RESOURCE from which the roadmap evaluates partitioning, and from which its V1 migration does it.
PARTITION_PLAN = 5_000_000
PARTITION_DUE = 10_000_000
# Days before a projected crossing at which it is told as a finding: what is due then takes weeks to prepare.
LEAD_DAYS = 90
USED_WARNING = 80.0

SEVERITY_ORDER = {"error": 0, "warning": 1, "info": 2}
EXIT_CODES = {"ok": 0, "due": 1, "critical": 2, "partial": 3}


class PhaseError(Exception):
    """Thresholds that can't be judged by. The text is complete."""


@dataclass(frozen=True)
class Threshold:
    """The limits of one metric. Below pilot_below is pilot, below regional_below regional, above national_above national."""

    metric: str
    pilot_below: float
    regional_below: float
    national_above: float

    def level(self, value: float) -> int:
        """Return the place of a value in LEVELS; a larger value is never in an earlier one."""
        if value < self.pilot_below:
            return 0
        if value < self.regional_below:
            return 1
        return 3 if value > self.national_above else 2

    def limits(self) -> list[tuple[str, float]]:
        """Return the level that each limit opens, with the limit. National begins above its own, the others at theirs."""
        return [(BOUNDARIES[name], getattr(self, name)) for name in LIMITS]


@dataclass(frozen=True)
class Measure:
    """A figure and how it was come by. value is None when it could not be read; why tells the reason."""

    value: Optional[float]
    method: str = ""
    # exact, estimate, at_least or at_most
    quality: str = ""
    why: str = ""
    # When the statistics were made from which it was estimated.
    as_of: Optional[datetime] = None


def figure(value: float) -> str:
    """Return a limit as people write it."""
    return format(value, ",.15g")


def thresholds_of(given: Mapping[str, Any]) -> dict[str, Threshold]:
    """Return the thresholds, the roadmap's where nothing is given. Raises PhaseError that names all that is wrong."""
    faults = ["there is no metric %s; there are %s" % (name, ", ".join(METRICS)) for name in sorted(set(given) - set(METRICS))]
    found = {}
    for metric in METRICS:
        own = given.get(metric) or {}
        unknown = sorted(set(own) - set(LIMITS)) if isinstance(own, Mapping) else [str(own)]
        if unknown:
            faults.append("%s has no limit %s; it has %s" % (metric, ", ".join(unknown), ", ".join(LIMITS)))
            continue
        values = {name: DEFAULTS[metric][name] if own.get(name) is None else own[name] for name in LIMITS}
        wrong = [name for name, value in values.items() if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)]
        if wrong:
            faults.append("%s.%s is no number" % (metric, ", ".join(wrong)))
            continue
        item = Threshold(metric, **values)
        if item.pilot_below <= 0:
            faults.append("%s.pilot_below is %s, so that no load would be pilot; it must be more than 0" % (metric, figure(item.pilot_below)))
        if item.regional_below <= item.pilot_below:
            faults.append(
                "%s is out of order: regional_below (%s) must be more than pilot_below (%s)"
                % (metric, figure(item.regional_below), figure(item.pilot_below))
            )
        if item.national_above < item.regional_below:
            faults.append(
                "%s overlaps: %s to %s would be regional and national; national_above must be at least regional_below"
                % (metric, figure(item.national_above), figure(item.regional_below))
            )
        found[metric] = item
    if faults:
        raise PhaseError("The thresholds can't be judged by: %s. Correct the option thresholds." % "; ".join(faults))
    return found


# --- what the load asks for ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Where the load is. level is None when nothing could be read."""

    level: Optional[int]
    decided_by: str
    # A figure is missing that could put it higher.
    at_least: bool

    @property
    def phase(self) -> Optional[str]:
        """The phase that the load asks for."""
        return None if self.level is None else PHASES[PHASE_OF_LEVEL[self.level]]

    @property
    def exceeded(self) -> bool:
        """Whether the load has left regional and not reached national."""
        return self.level == 2


def share(threshold: Threshold, value: float) -> float:
    """Return how far a value is on the way to the next limit, 1 at the limit and beyond the last."""
    level = threshold.level(value)
    limits = (threshold.pilot_below, threshold.regional_below, threshold.national_above)
    return 1.0 if level == 3 else min(1.0, value / limits[level])


def verdict(thresholds: Mapping[str, Threshold], measures: Mapping[str, Measure]) -> Verdict:
    """Return where the load is: as high as its highest metric. Of several, the one that is nearest to the next limit decides."""
    known = {name: measures[name].value for name in METRICS if name in measures and measures[name].value is not None}
    ranked = [(thresholds[name].level(value), share(thresholds[name], value), name) for name, value in known.items() if value is not None]
    if not ranked:
        return Verdict(None, "", True)
    # The first in METRICS of those that are alike.
    level, _share, name = max(ranked, key=lambda item: (item[0], item[1], -METRICS.index(item[2])))
    return Verdict(level, name, len(known) < len(METRICS) and level < 3)


def distances(threshold: Threshold, measure: Measure, history: Sequence[Sample], now: datetime) -> list[dict[str, Any]]:
    """Return what is missing to each limit of a metric, and when it is reached."""
    found = []
    for level, limit in threshold.limits():
        reached: Optional[bool] = None
        if measure.value is not None:
            reached = threshold.level(measure.value) >= LEVELS.index(level)
        if reached:
            when = Projection(None, None, None, None, "certain", "reached")
        else:
            # Exactly at the limit of national is not yet above it.
            goal = math.nextafter(limit, math.inf) if level == "national" else limit
            when = project(history, threshold.metric, goal, measure.value, now)
        found.append(
            {
                "to": level,
                "limit": limit,
                "reached": reached,
                "left": None if measure.value is None else max(0.0, limit - measure.value),
                "share": None if measure.value is None else round(measure.value / limit, 4),
                "projected": iso(when.date),
                "earliest": iso(when.earliest),
                "latest": iso(when.latest),
                "per_day": when.per_day,
                "confidence": when.confidence,
                "why": when.why,
            }
        )
    return found


# --- what is deployed ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aspect:
    """One thing in which phases differ. rank is the phase that it allows; None when it could not be read."""

    name: str
    found: str
    rank: Optional[int]


def replicas_aspect(count: Optional[int]) -> Aspect:
    """Judge the number of replicas that serve."""
    if count is None:
        return Aspect("replicas", "not known", None)
    rank = 2 if count >= REPLICAS["national"] else 1 if count >= REPLICAS["regional"] else 0
    return Aspect("replicas", "%d" % count, rank)


def orchestrator_aspect(name: str) -> Aspect:
    """Judge what runs the containers. The roadmap's national runs on Kubernetes."""
    return Aspect("orchestrator", name or "not known", {"docker-compose": 1, "kubernetes": 2}.get(name))


def topology_aspect(topology: str) -> Aspect:
    """Judge the servers of HAPI's database: single, standby_cut (it does not follow), standby, cluster."""
    words = {
        "single": "a single server",
        "standby_cut": "a standby that does not follow",
        "standby": "a primary and a standby that follows",
        "cluster": "a cluster",
    }
    return Aspect("postgresql", words.get(topology, "not known"), {"single": 0, "standby_cut": 0, "standby": 1, "cluster": 2}.get(topology))


def deployed(aspects: Sequence[Aspect]) -> dict[str, Any]:
    """Return which phase is deployed: that of its weakest part. What is not known counts as the weakest, never as good."""
    rank = min((item.rank or 0 for item in aspects), default=0)
    return {
        "phase": PHASES[rank],
        "at_least": any(item.rank is None for item in aspects),
        "held_by": [item.name for item in aspects if (item.rank or 0) == rank and rank < 2],
        "aspects": {item.name: {"found": item.found, "phase": None if item.rank is None else PHASES[item.rank]} for item in aspects},
    }


# --- what is due ---------------------------------------------------------------------------------------------------


def step(what: str, severity: str, why: str, playbook: Optional[str]) -> dict[str, Any]:
    """Return one step that is due. Without a playbook it is the operator's own."""
    return {"what": what, "severity": severity, "why": why, "playbook": playbook}


def due_steps(level: Optional[int], aspects: Sequence[Aspect], needs: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what is due, what can't wait first. needs: reason by name, of what is due whatever the phase.

    A higher load never takes a step away.
    """
    steps = []
    if needs.get("audit_partitions"):
        steps.append(step("make the months of the audit tables", "error", needs["audit_partitions"], "maintain_audit_partitions"))
    if needs.get("audit_tables"):
        steps.append(step("put the audit tables right", "error", needs["audit_tables"], None))
    if needs.get("pools_full"):
        steps.append(step("make room for connections", "error", needs["pools_full"], "tune_pools"))
    elif needs.get("pools"):
        steps.append(step("make the pools fit", "warning", needs["pools"], "tune_pools"))
    rank = {item.name: item.rank for item in aspects}
    found = {item.name: item.found for item in aspects}
    if level is not None and level >= 1:
        behind = [name for name in ("replicas", "postgresql") if rank.get(name) == 0]
        if len(behind) == 2:
            why = "the load is regional, with %s replicas and %s" % (found["replicas"], found["postgresql"])
            steps.append(step("go to the regional phase", "warning", why, "scale_regional"))
        elif behind == ["replicas"]:
            why = "the load is regional, with %s replicas" % found["replicas"]
            steps.append(step("run %d replicas" % REPLICAS["regional"], "warning", why, "scale_hapi"))
        elif behind:
            steps.append(step("give the database a standby", "warning", "the load is regional, with %s" % found["postgresql"], "add_read_replica"))
    if needs.get("partitioning"):
        steps.append(step("partition HAPI's large tables", "warning", needs["partitioning"], "partition_hapi_tables"))
    if level is not None and level >= 2 and min((item.rank for item in aspects if item.rank is not None), default=0) < 2:
        severity = "warning" if level == 3 else "info"
        why = "the load is national" if level == 3 else "the load is more than regional was made for, and not yet national"
        steps.append(step("move to Kubernetes and a cluster of databases" if level == 3 else "plan the move to national", severity, why, None))
    if needs.get("partitioning_plan") and not needs.get("partitioning"):
        steps.append(step("plan the partitioning of HAPI's large tables", "info", needs["partitioning_plan"], "partition_hapi_tables"))
    return sorted(steps, key=lambda item: SEVERITY_ORDER[item["severity"]])


def next_step(
    steps: Sequence[Mapping[str, Any]], level: Optional[int], metrics: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Optional[dict[str, Any]]:
    """Return what is due next: the first step, or else the crossing that is projected soonest."""
    if steps:
        return {**steps[0], "when": "now"}
    crossings = [
        (item["projected"], name, item)
        for name, items in metrics.items()
        for item in items
        if item["projected"] and level is not None and LEVELS.index(item["to"]) > level
    ]
    if not crossings:
        return None
    when, name, item = min(crossings, key=lambda found: (found[0], found[1]))
    national = LEVELS.index(item["to"]) >= 2
    why = "%s are projected to reach %s (confidence %s)" % (LABELS[name], figure(item["limit"]), item["confidence"])
    what = "plan the move to national" if national else "go to the regional phase"
    return {**step(what, "info", why, None if national else "scale_regional"), "when": when}


# --- from the results of the other modules -------------------------------------------------------------------------


def serving(deployment: Mapping[str, Any], service: str) -> tuple[Optional[int], str]:
    """Return how many replicas of a service serve, and why that is not known. From deployment_info's result, or its deployment."""
    inner = deployment.get("deployment", deployment)
    services = (inner or {}).get("services") if isinstance(inner, Mapping) else None
    if not services:
        return None, str(deployment.get("msg") or "the result of deployment_info tells no service")
    if service not in services:
        return None, "the deployment has no service %s; it has %s" % (service, ", ".join(sorted(services)))
    replicas = services[service].get("replicas") or []
    return sum(1 for item in replicas if item.get("state") == "running" and item.get("health") in ("healthy", "", None, "none")), ""


def topology_of(replication: Mapping[str, Any], senders: Optional[int]) -> tuple[str, str]:
    """Return the topology of HAPI's database, and why it is not known.

    replication is the result of postgres_replication_info for the standby, or what the role postgres_replica keeps of it;
    senders is how many standbys the primary itself sends to, None when that could not be read.
    """
    server = replication.get("server", replication)
    standby = server.get("standby") if isinstance(server, Mapping) else None
    if standby:
        return ("standby" if standby.get("streaming") else "standby_cut"), ""
    if replication.get("failed") or replication.get("unread"):
        return "", str(replication.get("msg") or replication.get("unread"))
    if senders is None:
        return "", "neither a standby nor the primary told whether there is one"
    return ("standby" if senders else "single"), ""


def utilisation(connections: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return how much of the slots of each server that others than superusers can have is taken, by sessions in every state.

    An idle session takes a slot as an active one does.
    """
    found = []
    for side in connections.get("sides") or []:
        for server in [side.get("server") or {}, *(side.get("standbys") or [])]:
            usable, used = server.get("usable"), server.get("used")
            if isinstance(usable, int) and isinstance(used, int):
                percent = round(100.0 * used / usable, 1) if usable > 0 else 100.0
                found.append(
                    {
                        "side": side.get("name", ""),
                        "service": server.get("service", ""),
                        "used": used,
                        "usable": usable,
                        "max_connections": server.get("max_connections"),
                        "percent": percent,
                        "fits": side.get("fits"),
                    }
                )
    return found


def connection_findings(used: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a finding for each server whose slots are (nearly) all taken."""
    found = []
    for item in used:
        if item["percent"] >= USED_WARNING:
            full = item["used"] >= item["usable"]
            text = "%d of %d usable slots taken (%g %%), idle sessions included" % (item["used"], item["usable"], item["percent"])
            hint = "See pg_stat_activity for who holds them; tune_pools sets pools and max_connections that fit."
            found.append(
                finding("connections_used_up", "error" if full else "warning", str(item["service"]), "below %g %%" % USED_WARNING, text, hint)
            )
    return found


# What audit_partition_info finds of months that are missing, or will be: maintain_audit_partitions makes them, or tells what is in its way.
MONTHS = frozenset((
    "coverage_gap", "horizon_short", "default_rows", "partition_detached", "partition_overlap", "detach_pending", "name_taken",
))  # fmt: skip
# What it finds when it could not look: that is no news of the months.
UNREADABLE = {
    "table_unreadable": "the audit table %s",
    "default_unreadable": "the rows in the default partition %s",
    "rejections_unreadable": "the rejections in %s",
}


def coverage_unread(partitions: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what audit_partition_info itself could not read, each with the reason."""
    found = [item for item in partitions.get("findings") or [] if item.get("id") in UNREADABLE]
    unread = [(UNREADABLE[item["id"]] % item.get("object"), str(item.get("found"))) for item in found]
    told = {item.get("object") for item in found if item["id"] == "table_unreadable"}
    for item in partitions.get("tables") or []:
        name = "%s.%s" % (item.get("schema"), item.get("table"))
        if item.get("readable") is False and name not in told:
            unread.append((UNREADABLE["table_unreadable"] % name, "audit_partition_info could not read it"))
    return unread


def coverage(partitions: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    """Return what audit_partition_info tells of the months; None when it told nothing.

    errors are those of the months, faults the others. What could not be read is None, never nothing.
    """
    tables = partitions.get("tables")
    if not tables:
        return None
    errors = {item["id"] for item in partitions.get("findings") or [] if item.get("severity") == "error"} - set(UNREADABLE)
    counted = partitions.get("rejection_rates")
    if any(item.get("id") == "rejections_unreadable" for item in partitions.get("findings") or []):
        counted = None
    reports = []
    for item in tables:
        seen = item.get("readable") is not False
        reports.append(
            {
                "table": "%s.%s" % (item.get("schema"), item.get("table")),
                "readable": item.get("readable"),
                "days_left": item.get("days_left") if seen else None,
                "covered_until": item.get("covered_until"),
                "bytes": item.get("bytes") if seen else None,
                "gaps": len(item.get("gaps") or []) if seen else None,
                "partitions": [
                    {"name": part.get("name"), "bytes": part.get("bytes"), "rows": part.get("rows")} for part in item.get("partitions") or []
                ],
            }
        )
    return {
        # Of all of them only when all were read.
        "days_left": partitions.get("days_left") if all(item["readable"] is not False for item in reports) else None,
        "errors": sorted(errors & MONTHS),
        "faults": sorted(errors - MONTHS),
        "tables": reports,
        "rejections": None if counted is None else [dict(item) for item in counted],
    }


# --- the answer ----------------------------------------------------------------------------------------------------


def metric_report(threshold: Threshold, measure: Measure, history: Sequence[Sample], now: datetime) -> dict[str, Any]:
    """Return all that is known of one metric."""
    level = None if measure.value is None else threshold.level(measure.value)
    return {
        "value": measure.value,
        "method": measure.method,
        "quality": measure.quality,
        "as_of": iso(measure.as_of),
        "why": measure.why,
        "level": None if level is None else LEVELS[level],
        "phase": None if level is None else PHASES[PHASE_OF_LEVEL[level]],
        "limits": distances(threshold, measure, history, now),
        "threshold": {name: value for name, value in asdict(threshold).items() if name != "metric"},
    }


def phase_findings(found: Verdict, built: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Return what follows from load and deployment."""
    items = []
    if found.phase is not None and PHASES.index(found.phase) > PHASES.index(built["phase"]):
        items.append(
            finding(
                "phase_behind", "warning", ", ".join(built["held_by"]), "a deployment of the phase %s, which the load asks for (%s)"
                % (found.phase, LABELS[found.decided_by]), "%s%s" % (built["phase"], ", as far as it could be read" if built["at_least"] else ""),
                "Do what 'due' names, in its order.",
            )
        )  # fmt: skip
    if found.exceeded:
        limits = metrics[found.decided_by]["threshold"]
        items.append(
            finding(
                "phase_exceeded", "warning", LABELS[found.decided_by], "below %s" % figure(limits["regional_below"]),
                format(metrics[found.decided_by]["value"], ",.0f"),
                "The load is more than regional was made for; national begins above %s. Plan the move." % figure(limits["national_above"]),
            )
        )  # fmt: skip
    for name, metric in metrics.items():
        for item in metric["limits"]:
            if item["projected"] and item["confidence"] != "low":
                days = (datetime.fromisoformat(item["projected"].replace("Z", "+00:00")) - now).total_seconds() / 86400
                if days <= LEAD_DAYS:
                    items.append(
                        finding(
                            "threshold_near", "info", LABELS[name], "more than %d days to %s" % (LEAD_DAYS, figure(item["limit"])),
                            "%.0f days, at %s a day (confidence %s)" % (days, format(item["per_day"], ",.1f"), item["confidence"]),
                            "Prepare the step to %s." % item["to"].replace("_", " "),
                        )
                    )  # fmt: skip
    return items


def status_of(steps: Sequence[Mapping[str, Any]], findings: Sequence[Mapping[str, Any]], partial: bool) -> str:
    """Return one word for all: critical, due, partial (not all could be read, so it is not ok) or ok."""
    # What could not be read is told by partial; it must not hide that something is critical, nor be taken for it.
    levels = {item["severity"] for item in steps} | {item["severity"] for item in findings if item["id"] != "figure_unread"}
    if "error" in levels:
        return "critical"
    if "warning" in levels or steps:
        return "due"
    return "partial" if partial else "ok"
