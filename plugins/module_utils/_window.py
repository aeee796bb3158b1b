# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An announced window in which the balancer itself answers 503 with Retry-After, and which ends by itself.

The role balancer makes HAProxy compare the time of each request with those in a map file (haproxy.cfg.j2). Two
copies of the map count: the one in the memory of HAProxy decides at once, the file is read at a start or reload.
"""

from __future__ import annotations

import dataclasses
import os
import time

from dataclasses import dataclass
from typing import Optional
from collections.abc import Mapping

from ._files import replace_file
from ._haproxy import HAProxy, HAProxyError

HEADER = "# Managed by dghs.bd_fhir.balancer_window. Each time is in seconds since 1970, 0 is none.\n"
SCOPES = ("all", "writes")
MAX_SECONDS = 900
# A second call right after the first one asks for an end that is a little later. It is no reason for a change.
DEFAULT_TOLERANCE = 10

LAY_HINT = "Run the playbook scale_hapi first: its role balancer gives HAProxy the window."


class WindowError(HAProxyError):
    """The balancer has no window, or it did not take. The text is complete."""


@dataclass(frozen=True)
class Window:
    """What the map says. A time in the past is as good as none."""

    all: int = 0  # until when every request is answered by the balancer
    writes: int = 0  # until when every write is
    retry_after: int = 0  # what is told to clients; 0: the seconds that are left

    def at(self, now: int) -> Window:
        """Return the part that still counts, so that two maps with the same effect are equal."""
        live = Window(self.all if self.all > now else 0, self.writes if self.writes > now else 0, self.retry_after)
        return live if live.all or live.writes else Window()

    @property
    def until(self) -> int:
        """When the last scope ends, 0 for a window that was never open or was closed."""
        return max(self.all, self.writes)

    def scope(self, now: int) -> str:
        """Return the widest scope that is open, "" if none is."""
        return "all" if self.all > now else "writes" if self.writes > now else ""

    def lines(self, now: int) -> str:
        """Return the text for a diff."""
        live = self.at(now)
        return "".join(
            "%s: %s\n" % (name, value)
            for name, value in (
                ("all requests", "503 until %s" % iso(live.all) if live.all else "served"),
                ("writes", "503 until %s" % iso(live.until) if live.until else "served"),
                ("Retry-After", str(live.retry_after or "seconds left") if live.until else "none"),
            )
        )


def iso(moment: int) -> str:
    """Return a time as ISO 8601 in UTC, "" for none. Pure."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)) if moment else ""


def render(window: Window) -> str:
    """Return the text of the map file. Pure."""
    fields = dataclasses.asdict(window)
    return HEADER + "".join("%s %d\n" % (name, fields[name]) for name in fields)


def window_of(values: Mapping[str, str]) -> Optional[Window]:
    """Return what the entries of a map say, None when they are not (all) there or are no numbers. Pure."""
    try:
        return Window(**{field.name: int(values[field.name]) for field in dataclasses.fields(Window)})
    except (KeyError, ValueError):
        return None


def parse_file(text: str) -> Optional[Window]:
    """Return what a map file says, None for one that is damaged. Pure."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            key, dummy, value = line.strip().partition(" ")
            # As in HAProxy, the first one counts.
            values.setdefault(key, value.strip())
    return window_of(values)


def opened(current: Window, now: int, seconds: int, scope: str, retry_after: int, tolerance: int) -> Window:
    """Return the window that is open for seconds from now on, current itself where that is enough. Pure.

    A window never gets shorter or narrower by this, whoever opened it.
    """
    until = now + seconds
    # Half of what was asked for has to be left in any case.
    enough = until - min(tolerance, seconds // 2)
    live = current.at(now)
    covered = live.all >= enough or (scope == "writes" and live.writes >= enough)
    if not covered:
        live = dataclasses.replace(live, **{scope: max(until, getattr(live, scope))})
    return dataclasses.replace(live, retry_after=retry_after)


@dataclass(frozen=True)
class Plan:
    """What is there and what is wanted."""

    map_path: str
    reference: str  # name of the map in HAProxy
    loaded: Optional[Window]  # in the memory of HAProxy; None if damaged
    stored: Optional[Window]  # in the file; None if damaged
    wanted: Window
    now: int

    @property
    def before(self) -> Window:
        """What clients saw."""
        return (self.loaded or Window()).at(self.now)

    @property
    def after(self) -> Window:
        """What clients shall see."""
        return self.wanted.at(self.now)

    @property
    def changed(self) -> bool:
        """Whether the memory of HAProxy or the file says something else."""
        return any(item is None or item.at(self.now) != self.after for item in (self.loaded, self.stored))


def _read(haproxy: HAProxy, map_path: str) -> tuple[str, Optional[Window], Optional[Window]]:
    """Return the map's name in HAProxy, what is loaded and what is stored. Raises HAProxyError."""
    name = os.path.basename(map_path)
    found = [item for item in haproxy.map_files() if os.path.basename(item) == name]
    if len(found) != 1:
        raise WindowError(
            "HAProxy at %s has %s map file named %s, so that it can't answer for a window. %s"
            % (haproxy.address, "no" if not found else "more than one", name, LAY_HINT)
        )
    try:
        with open(map_path, encoding="utf-8", errors="surrogateescape") as handle:
            text = handle.read()
    except OSError as exc:
        hint = LAY_HINT if isinstance(exc, FileNotFoundError) else "Use become."
        raise WindowError("The map file %s can't be read: %s. %s" % (map_path, exc.strerror, hint)) from None
    if not text.startswith(HEADER):
        raise WindowError(
            "%s is not the map file of the window: its first line is another one. Check map_path; the role balancer"
            " lays the file when it is moved away." % map_path
        )
    return found[0], window_of(haproxy.map_entries(found[0])), parse_file(text)


def plan_open(
    haproxy: HAProxy,
    map_path: str,
    seconds: int,
    scope: str = "all",
    retry_after: int = 0,
    tolerance: int = DEFAULT_TOLERANCE,
) -> Plan:
    """Read, and plan a window of seconds from now on. Changes nothing. Raises HAProxyError."""
    if not 1 <= seconds <= MAX_SECONDS or scope not in SCOPES or not 0 <= retry_after <= MAX_SECONDS:
        raise WindowError(
            "A window is open for 1 to %d seconds for all or writes, with a retry_after from 0 to %d; not for %r seconds"
            " for %r with %r." % (MAX_SECONDS, MAX_SECONDS, seconds, scope, retry_after)
        )
    reference, loaded, stored = _read(haproxy, map_path)
    now = int(time.time())
    wanted = opened(loaded or Window(), now, seconds, scope, retry_after, tolerance)
    return Plan(map_path, reference, loaded, stored, wanted, now)


def plan_close(haproxy: HAProxy, map_path: str) -> Plan:
    """Read, and plan to serve every request again. Changes nothing. Raises HAProxyError."""
    reference, loaded, stored = _read(haproxy, map_path)
    return Plan(map_path, reference, loaded, stored, Window(), int(time.time()))


def apply(haproxy: HAProxy, plan: Plan) -> None:
    """Bring the file and HAProxy to what is planned, and read both back. Raises HAProxyError."""
    if not plan.changed:
        return
    # Before the file is written: a window that only a restart would open is of no use.
    if haproxy.level() != "admin":
        raise WindowError("HAProxy at %s lets nobody set a map there: its 'stats socket' line needs 'level admin'." % haproxy.address)
    opens = plan.wanted.until > 0
    # The half that a kill leaves ends by itself. Opening, HAProxy may not know more than a restarted one would;
    # closing, nothing is more urgent than the requests.
    if opens:
        _store(plan)
    # Retry-After first when it opens, so that no client is told the one of another window.
    names = ("retry_after", "all", "writes") if opens else ("all", "writes", "retry_after")
    for name in names:
        haproxy.set_map(plan.reference, name, "%d" % getattr(plan.wanted, name))
    if not opens:
        _store(plan)
    dummy, loaded, stored = _read(haproxy, plan.map_path)
    if loaded != plan.wanted or stored != plan.wanted:
        raise WindowError(
            "The window was set, but HAProxy at %s now says %s, and %s says %s. Somebody else may be changing it at the"
            " same time; run it again." % (haproxy.address, loaded or "nonsense", plan.map_path, stored or "nonsense")
        )


def _store(plan: Plan) -> None:
    try:
        replace_file(plan.map_path, render(plan.wanted), 0o644)
    except OSError as exc:
        raise WindowError(
            "The map file %s can't be written: %s. Use become; it belongs to the administrator."
            % (plan.map_path, exc.strerror or exc)
        ) from None


def open_window(
    haproxy: HAProxy,
    map_path: str,
    seconds: int,
    scope: str = "all",
    retry_after: int = 0,
    tolerance: int = DEFAULT_TOLERANCE,
) -> Plan:
    """Let the balancer answer 503 itself for seconds from now on. Raises HAProxyError."""
    plan = plan_open(haproxy, map_path, seconds, scope, retry_after, tolerance)
    apply(haproxy, plan)
    return plan


def close_window(haproxy: HAProxy, map_path: str) -> Plan:
    """Let every request through again. Raises HAProxyError."""
    plan = plan_close(haproxy, map_path)
    apply(haproxy, plan)
    return plan


def wait_idle(haproxy: HAProxy, backend: str, timeout: float, interval: float = 0.2) -> int:
    """Wait until the backend has no request in flight, for at most timeout seconds; return how many are left.

    Raises HAProxyError.
    """
    deadline = time.monotonic() + timeout
    idle = 0
    while True:
        sessions = haproxy.sessions(backend)
        idle = 0 if sessions else idle + 1
        # Twice in a row: a request that was let through in the moment of opening may not be counted yet.
        if idle == 2 or (sessions and time.monotonic() >= deadline):
            return sessions
        time.sleep(interval)


def wait_served(haproxy: HAProxy, backend: str, timeout: float, interval: float = 0.2) -> bool:
    """Wait until a server of the backend gets requests, for at most timeout seconds; tell whether one does.

    Raises HAProxyError.
    """
    deadline = time.monotonic() + timeout
    while True:
        if any(server.up for server in haproxy.servers(backend)):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
