# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which replica answered how many tagged requests, and why one gets none."""

from __future__ import annotations

import datetime
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Optional

from . import _prometheus
from ._fhir import NO_ANSWER, Client, HttpError, actuator_hint, join, origin, parse_instant
from ._findings import finding
from ._replicas import Replica


@dataclass
class Tally:
    """What came back for the tagged requests."""

    sent: int = 0
    succeeded: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)  # 'HTTP 502' -> how often
    served: Counter[str] = field(default_factory=Counter)  # value of the served-by header -> how often
    unmarked: int = 0  # succeeded, but without that header
    example: str = ""  # one failure in full

    @property
    def failed(self) -> int:
        """How many requests got no answer or one that is no success."""
        return self.sent - self.succeeded


@dataclass(frozen=True)
class Count:
    """A replica's own request counter: its value, None for no such series.

    problem says why it could not be read; reachable is false when nothing answered at all; status is that of the answer.
    """

    value: Optional[int] = None
    problem: str = ""
    reachable: bool = True
    status: int = 200


@dataclass(frozen=True)
class Slot:
    """A server of the balancer's backend. state: up, down, drain, maint; detail is what its check says."""

    name: str
    address: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Entry:
    """The container that publishes the port that was asked."""

    name: str
    service: str
    image: str
    networks: tuple[str, ...]
    started_at: str
    files: tuple[str, ...] = ()  # its nginx configuration, as the host has it

    @property
    def is_nginx(self) -> bool:
        """Tell whether it looks like nginx."""
        return "nginx" in self.service or "nginx" in self.image.rpartition("/")[2]


@dataclass(frozen=True)
class View:
    """All that was seen, for judge()."""

    service: str
    replicas: Sequence[Replica]
    tally: Tally
    ready: dict[str, Optional[bool]]
    before: dict[str, Count]
    after: dict[str, Count]
    slots: Optional[Sequence[Slot]]  # None: no balancer was asked
    entry: Optional[Entry]
    started: datetime.datetime
    served_by_header: str = "X-BD-Served-By"
    metric: str = "http_server_requests_seconds_count"
    min_share: float = 0.5
    expect_replicas: Optional[int] = None
    backend: str = ""


def send(
    client: Client,
    url: str,
    run_id: str,
    requests: int,
    concurrency: int,
    max_duration: float,
    served_by_header: str,
    method: str = "GET",
    host_header: Optional[str] = None,
) -> Tally:
    """Send tagged requests, each on a connection of its own, and count what comes back.

    A connection of its own: a proxy that balances connections would give all requests of a kept one to one replica.
    Ends after max_duration seconds even if not all were sent.
    """
    tally = Tally()
    lock = threading.Lock()
    numbers: Iterator[int] = iter(range(1, requests + 1))
    started = time.monotonic()
    marker = served_by_header.lower()

    def work() -> None:
        while time.monotonic() - started < max_duration:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            headers = {
                "X-BD-Probe": run_id,
                "X-Request-ID": "%s-%d" % (run_id, number),
                "Accept": "application/fhir+json",
            }
            if host_header:
                headers["Host"] = host_header
            served, failure, example = "", "", ""
            try:
                answer = client.get(url, headers=headers, method=method, follow=False)
                served = answer.headers.get(marker, "").strip()
                if not 200 <= answer.status < 300:
                    failure = "HTTP %d" % answer.status
                    example = "%s %s: %s" % (method, url, failure)
            except HttpError as error:
                failure, example = error.kind, str(error)
            with lock:
                tally.sent += 1
                if served:
                    tally.served[served] += 1
                if failure:
                    tally.failures[failure] += 1
                    tally.example = tally.example or example
                else:
                    tally.succeeded += 1
                    tally.unmarked += not served

    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        for future in [pool.submit(work) for _worker in range(concurrency)]:
            future.result()
    tally.seconds = time.monotonic() - started
    return tally


def read_count(client: Client, replica: Replica, actuator_path: str, metric: str) -> Count:
    """Read a replica's own request counter."""
    if not replica.running:
        return Count(problem=replica.why_not(), reachable=False)
    url = join(replica.url, actuator_path, "prometheus")
    try:
        return Count(_prometheus.requests_served(_prometheus.scrape(client, url), metric, actuator_path))
    except HttpError as error:
        return Count(problem=str(error), reachable=error.kind not in NO_ANSWER)
    except _prometheus.PrometheusError as error:
        return Count(problem="GET %s: %s" % (url, error), status=error.status)


def delta(before: Count, after: Count) -> tuple[Optional[int], str]:
    """Return how far a counter went, and why that is not known.

    A server that had answered nothing has no such series yet: that is zero, once the series is there.
    """
    problem = after.problem or before.problem
    if problem:
        return None, problem
    if after.value is None:
        return None, "the replica has no such series"
    gone = after.value - (before.value or 0)
    if gone < 0:
        return None, "the counter went backwards: the replica was restarted during the probe"
    return gone, ""


def host_of(value: str) -> str:
    """Return the host of 'host', 'host:port', '[v6]:port' or a bare IPv6 address."""
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0] if value.count(":") == 1 else value


def identify(value: str, replicas: Sequence[Replica], slots: Optional[Sequence[Slot]]) -> Optional[str]:
    """Return the name of the replica that a served-by header means: by address, by its name, or by its slot's name.

    Where two proxies set the header ('a, b'), the first part that means a replica counts.
    """
    by_slot = {slot.name: slot.address for slot in slots or [] if slot.address}
    for part in (part.strip() for part in value.split(",")):
        at_port = [item.name for item in replicas if item.url and part in item.url.partition("://")[2].split("/")]
        host = host_of(by_slot.get(part, part))
        same = at_port or [item.name for item in replicas if host in item.addresses or part == item.name]
        if len(same) == 1:
            return same[0]
    return None


def find_entry(url: str, containers: Sequence[Any], service: str) -> Optional[Entry]:
    """Return the running container of the project that publishes the port of a URL, None if none or more than one does.

    containers: of the whole project (objects of _compose.Container).
    """
    port = origin(url)[2]
    found = [
        item
        for item in containers
        if item.state == "running"
        and item.service != service
        and any(published.partition("->")[0].endswith(":%d" % port) for published in item.ports)
    ]
    if len({item.id for item in found}) != 1:
        return None
    item = found[0]
    files = tuple(mount["source"] for mount in item.mounts if mount["destination"].startswith("/etc/nginx"))
    return Entry(item.name, item.service, item.image_ref, tuple(sorted(item.addresses)), item.started_at, files)


def slot_of(replica: Replica, slots: Optional[Sequence[Slot]]) -> Optional[Slot]:
    """Return the slot that holds an address of the replica."""
    return next((slot for slot in slots or [] if slot.address in replica.addresses), None)


def _clock(text: str) -> str:
    moment = parse_instant(text)
    return moment.strftime("%Y-%m-%d %H:%M:%S %z") if moment else "an unknown time"


def _later(text: str, other: str) -> bool:
    first, second = parse_instant(text), parse_instant(other)
    return first is not None and second is not None and first > second


def cause(replica: Replica, view: View) -> str:
    """Return why a replica gets no (or too little) traffic, as far as it was seen, and what to do."""
    slot = slot_of(replica, view.slots)
    started = parse_instant(replica.started_at)
    if not replica.running:
        return "%s: look at its log, then start or remove it." % replica.why_not().capitalize()
    if view.ready.get(replica.name) is False:
        return "It is not ready, so a balancer rightly leaves it out. Look at its health and its log."
    if started is not None and started >= view.started:
        return "It was started while the probe ran: probe again."
    if slot is not None and slot.state in ("drain", "maint"):
        return (
            "Its slot %s in HAProxy is in state %s, so it is sent nothing. A run that was stopped may have left it so: "
            "run the rollout again, or `set server %s/%s state ready` at the socket."
            % (slot.name, slot.state, view.backend, slot.name)
        )
    if slot is not None and slot.state == "down":
        detail = slot.detail or "no detail"
        return "HAProxy's check of its slot %s fails (%s): look at its readiness endpoint and the port." % (
            slot.name,
            detail,
        )
    if slot is not None:
        return (
            "HAProxy has its slot %s up, so the requests do not come through backend %s: the entry point sends them "
            "elsewhere. Point nginx at HAProxy." % (slot.name, view.backend)
        )
    if view.slots is not None:
        free = [item.name for item in view.slots if not item.address]
        if not free:
            return "All %d slots of HAProxy's backend %s hold other addresses: raise the count of server-template." % (
                len(view.slots),
                view.backend,
            )
        return (
            "No slot of HAProxy's backend %s holds its address: HAProxy is on none of its networks, or its resolver "
            "gets no answer. Look at `show resolvers`." % view.backend
        )
    entry = view.entry
    # Only without HAProxy in between must the entry point itself reach the replica.
    if entry is not None and replica.networks and not set(entry.networks) & set(replica.networks):
        return "It is on no network of %s (%s), but only on %s: connect both by one network in the compose files." % (
            entry.name,
            ", ".join(entry.networks) or "none",
            ", ".join(replica.networks),
        )
    return _entry_cause(replica, entry)


def _entry_cause(replica: Replica, entry: Optional[Entry]) -> str:
    once = "nginx resolves a name in upstream or proxy_pass once, when it loads, and knows no replica that came later"
    cure = (
        "Reload it (nginx -s reload) after every change of replicas, or let HAProxy find them (role balancer); "
        "a resolver with valid= and a variable in proxy_pass does it too."
    )
    if entry is not None and entry.files:
        cure += " Its configuration on this host: %s." % ", ".join(entry.files)
    if entry is None:
        return "Most likely the proxy in front does not know it: %s. %s" % (once, cure)
    if entry.is_nginx and _later(replica.started_at, entry.started_at):
        return "%s was started %s, this replica later, %s: %s. %s" % (
            entry.name,
            _clock(entry.started_at),
            _clock(replica.started_at),
            once,
            cure,
        )
    if entry.is_nginx:
        return (
            "%s was started after this replica, so it may have had its address: look at its upstream for fixed "
            "addresses, down, backup, ip_hash or hash, and at its error log. A replica that got another address since "
            "is lost too, as %s. %s" % (entry.name, once, cure)
        )
    return (
        "%s does not send it requests: look at its list of servers, at sticky sessions, and whether it resolves names "
        "again." % (entry.name)
    )


def judge(view: View) -> tuple[list[dict[str, Any]], str, list[dict[str, Any]]]:
    """Return one row a replica, what they were judged by (header, counter or none), and the findings."""
    tally = view.tally
    tagged: Counter[str] = Counter()
    strangers: Counter[str] = Counter()
    for value, times in tally.served.items():
        name = identify(value, view.replicas, view.slots)
        (tagged if name else strangers)[name or value] += times
    counted: dict[str, Optional[int]] = {}
    problems: dict[str, str] = {}
    for replica in view.replicas:
        counted[replica.name], problems[replica.name] = delta(view.before[replica.name], view.after[replica.name])
    running = [replica for replica in view.replicas if replica.running]
    known = [counted[replica.name] for replica in running]
    basis = "none"
    if tally.succeeded:
        if tally.served and not tally.unmarked:
            basis = "header"
        elif running and all(item is not None for item in known):
            basis = "counter"
    marked = bool(tally.served)
    got = {
        replica.name: tagged[replica.name] if basis == "header" else (counted[replica.name] or 0)
        for replica in view.replicas
    }
    whole = sum(got.values()) + (sum(strangers.values()) if basis == "header" else 0)
    rows = []
    for replica in view.replicas:
        slot = slot_of(replica, view.slots)
        rows.append(
            {
                "name": replica.name,
                "address": replica.address,
                "ready": view.ready.get(replica.name),
                "tagged": tagged[replica.name] if marked else None,
                "counted": counted[replica.name],
                "share": round(got[replica.name] / whole, 4) if basis != "none" and whole else None,
                "slot_state": slot.state if slot else None,
            }
        )
    findings = _request_findings(view)
    findings += _reading_findings(view, basis, problems, tagged)
    for value, times in sorted(strangers.items()):
        findings.append(
            finding(
                "unknown_server",
                "error",
                view.service,
                "answers of its own replicas only",
                "%d answers of %s" % (times, value),
                "The balancer sends requests to an address that is no replica of this service: look at its list of "
                "servers.",
            )
        )
    if basis == "none":
        if tally.succeeded:
            findings.append(_no_basis(view, marked))
        return rows, basis, findings
    findings += _disagreements(view, basis, tagged, counted)
    if basis == "counter" and not whole:
        # Every replica would be named for one and the same reason, which counts_disagree has told.
        return rows, basis, findings
    even = 1 / len(running) if running else 1.0
    for replica in view.replicas:
        wanted = view.min_share * even
        share = got[replica.name] / whole if whole else 0.0
        if replica.state == "removed":
            continue
        if not got[replica.name]:
            findings.append(
                finding(
                    "replica_gets_none",
                    "error",
                    replica.name,
                    "at least %.1f %% of the requests" % (100 * wanted),
                    "none of %d" % tally.sent,
                    cause(replica, view),
                )
            )
        elif share < wanted:
            findings.append(
                finding(
                    "share_low",
                    "error",
                    replica.name,
                    "at least %.1f %% of the requests" % (100 * wanted),
                    "%.1f %% (%d)" % (100 * share, got[replica.name]),
                    "It joined during the probe, has a smaller weight, or the balancer keeps clients at one server "
                    "(ip_hash, cookie). With few requests it may be chance: probe with more.",
                )
            )
    return rows, basis, findings


def _request_findings(view: View) -> list[dict[str, Any]]:
    tally = view.tally
    findings = []
    if tally.failed:
        kinds = ", ".join("%d x %s" % (times, kind) for kind, times in tally.failures.most_common())
        findings.append(
            finding(
                "requests_failed",
                "error",
                view.service,
                "no failed request",
                "%d of %d failed: %s" % (tally.failed, tally.sent, kinds),
                "One of them in full: %s" % tally.example,
            )
        )
    if view.expect_replicas is not None:
        running = sum(replica.running for replica in view.replicas)
        if running != view.expect_replicas:
            found = "%d running of %d" % (running, len(view.replicas))
            hint = "Scale it with compose_rollout, or correct the expectation."
            findings.append(finding("replica_count_differs", "error", view.service, view.expect_replicas, found, hint))
    if not view.replicas:
        hint = "Check service, project_dir and project_name, and whether the project is up."
        findings.append(finding("no_replicas", "error", view.service, "at least one container", "none", hint))
    return findings


def _reading_findings(view: View, basis: str, problems: dict[str, str], tagged: Counter[str]) -> list[dict[str, Any]]:
    """What could not be read. It blocks unless the header alone has told all."""
    findings = []
    for replica in view.replicas:
        problem = problems[replica.name]
        if not problem or replica.state == "removed":
            continue
        if view.before[replica.name].reachable and view.after[replica.name].reachable:
            hint = "Its own count is a second witness. " + actuator_hint(
                view.after[replica.name].status,
                "Expose /actuator/prometheus (management.endpoints.web.exposure.include), or name the right series in metric.",
            )
            severity = "warning" if basis == "header" else "error"
            findings.append(finding("counter_missing", severity, replica.name, view.metric, problem, hint))
        else:
            severity = "warning" if basis == "header" and tagged[replica.name] else "error"
            hint = "It could not be asked directly: is it up, and is the port right?"
            findings.append(finding("replica_unreachable", severity, replica.name, "its own count", problem, hint))
    return findings


def _no_basis(view: View, marked: bool) -> dict[str, Any]:
    return finding(
        "cannot_judge",
        "error",
        view.service,
        "to know which replica answered",
        "%d of %d answers without the header %s, and not every replica's own count"
        % (view.tally.unmarked, view.tally.succeeded, view.served_by_header)
        if marked
        else "no answer with the header %s, and not every replica's own count" % view.served_by_header,
        "Let the balancer add the header to answers of requests that carry X-BD-Probe (role balancer does), or expose "
        "/actuator/prometheus on every replica.",
    )


def _disagreements(
    view: View, basis: str, tagged: Counter[str], counted: dict[str, Optional[int]]
) -> list[dict[str, Any]]:
    """Two witnesses that cannot both be right. (More counted than tagged is other traffic, which is fine.)"""
    findings = []
    if basis == "header":
        for replica in view.replicas:
            own = counted[replica.name]
            if own is not None and own < tagged[replica.name]:
                findings.append(
                    finding(
                        "counts_disagree",
                        "error",
                        replica.name,
                        "at least %d requests by its own count" % tagged[replica.name],
                        str(own),
                        "The balancer says that this replica answered, its own counter says no: the address may "
                        "belong to another container now, or metric names the wrong series.",
                    )
                )
        return findings
    total = sum(item or 0 for item in counted.values())
    if total < view.tally.succeeded:
        findings.append(
            finding(
                "counts_disagree",
                "error",
                view.service,
                "at least %d requests by the replicas' own counts" % view.tally.succeeded,
                str(total),
                "Something else answers a part of the requests: another server behind the entry point, or a cache. "
                "Or metric names the wrong series.",
            )
        )
    return findings
