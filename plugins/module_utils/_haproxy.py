# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HAProxy's runtime API: which server of a backend has which address, what state it is in, and setting that state."""

from __future__ import annotations

import csv
import io
import re
import socket
import time

from dataclasses import dataclass
from typing import Any, Callable, Optional, Union
from collections.abc import Iterable

# srv_admin_state of `show servers state`, a bit mask (HAProxy management guide).
ADMIN_FORCED_MAINT = 0x01
ADMIN_INHERITED_MAINT = 0x02
ADMIN_CONFIGURED_MAINT = 0x04
ADMIN_FORCED_DRAIN = 0x08
ADMIN_INHERITED_DRAIN = 0x10
ADMIN_RESOLUTION_MAINT = 0x20
ADMIN_HOSTNAME_MAINT = 0x40
ADMIN_ANY_MAINT = 0x67
ADMIN_ANY_DRAIN = 0x18

OP_STOPPED, OP_STARTING, OP_RUNNING, OP_STOPPING = range(4)

CHECK_ENABLED = 0x04

_NAME = re.compile(r"[A-Za-z0-9_.:-]+\Z")
# A map's name is a path. What would end the word or the command on HAProxy's command line is not taken.
_WORD = re.compile(r"[A-Za-z0-9_.:/@+=-]+\Z")
_MAP = re.compile(r"-?[0-9]+ \((.+?)\) pattern loaded from file ")


class HAProxyError(Exception):
    """A command could not be sent or was refused. The text is complete: socket, command, answer, what to do."""


@dataclass(frozen=True)
class Server:
    """One server (slot) of a backend."""

    name: str
    address: Optional[str]  # None as long as no name is resolved for it
    port: int
    admin_state: int  # ADMIN_* bits
    op_state: int  # OP_*
    checked: bool  # whether HAProxy itself checks its health
    check_health: int
    check_health_full: int  # rise + fall - 1; 0 if unknown
    check_status: str  # L7OK, L4CON, ...; of the slot's former address for a moment after a new one came
    sessions: int  # requests in flight
    queued: int
    weight: int
    status: str  # as `show stat` words it: UP, DOWN, MAINT (resolution), DRAIN, ...

    @property
    def drained(self) -> bool:
        """Somebody set it to drain: it gets no new request, whichever address the slot has or will have."""
        return bool(self.admin_state & ADMIN_FORCED_DRAIN)

    @property
    def forced_maint(self) -> bool:
        """Somebody put it into maintenance by hand."""
        return bool(self.admin_state & ADMIN_FORCED_MAINT)

    @property
    def unresolved(self) -> bool:
        """It has no address: DNS does not name a container for it."""
        return self.address is None or bool(self.admin_state & (ADMIN_RESOLUTION_MAINT | ADMIN_HOSTNAME_MAINT))

    @property
    def alive(self) -> bool:
        """Its health is good, whether or not it may get requests.

        A slot that just got an address is UP before the first check (HAProxy before 3.1 has no init-state); its
        health is then just at the rise threshold. Only one that has passed a check since counts.
        """
        if self.op_state not in (OP_STARTING, OP_RUNNING):
            return False
        return not self.checked or not self.check_health_full or self.check_health >= self.check_health_full

    @property
    def up(self) -> bool:
        """It gets new requests."""
        return self.alive and not self.admin_state & (ADMIN_ANY_MAINT | ADMIN_ANY_DRAIN)

    def describe(self) -> str:
        """Return one phrase for messages."""
        return "%s (%s, %s, last check %s, %d in flight)" % (
            self.name,
            self.address or "no address",
            self.status or "state %d" % self.op_state,
            self.check_status or "none",
            self.sessions,
        )


def parse_servers(state_text: str, stat_text: str, backend: str) -> list[Server]:
    """Join the answers of `show servers state` and `show stat` for one backend. Pure.

    Raises ValueError when an answer is not what HAProxy 2.4 to 3.x gives.
    """
    stats = {}
    for row in parse_stat(stat_text):
        if row.get("pxname") == backend and row.get("svname") not in ("FRONTEND", "BACKEND"):
            stats[row["svname"]] = row
    servers = []
    lines = [line for line in state_text.splitlines() if line.strip()]
    if not lines or lines[0].strip() != "1" or len(lines) < 2 or not lines[1].startswith("# "):
        raise ValueError("not version 1 of the answer of 'show servers state'")
    columns = lines[1][2:].split()
    for line in lines[2:]:
        item = dict(zip(columns, line.split()))
        if item.get("be_name") != backend:
            continue
        try:
            row = stats.get(item["srv_name"], {})
            check_state = int(item["srv_check_state"])
            rise, fall = _number(row.get("check_rise")), _number(row.get("check_fall"))
            address = item["srv_addr"]
            servers.append(
                Server(
                    name=item["srv_name"],
                    address=None if address == "-" else address,
                    port=int(item["srv_port"]),
                    admin_state=int(item["srv_admin_state"]),
                    op_state=int(item["srv_op_state"]),
                    checked=bool(check_state & CHECK_ENABLED),
                    check_health=int(item["srv_check_health"]),
                    check_health_full=rise + fall - 1 if rise and fall else 0,
                    # While a check runs, HAProxy puts "* " before the status of the one before.
                    check_status=(row.get("check_status") or "").replace("* ", ""),
                    sessions=_number(row.get("scur")),
                    queued=_number(row.get("qcur")),
                    weight=int(item["srv_uweight"]),
                    status=row.get("status") or "",
                )
            )
        except (KeyError, ValueError):
            raise ValueError("unknown line in the answer of 'show servers state': %s" % line[:120]) from None
    return servers


def parse_stat(text: str) -> list[dict[str, str]]:
    """Parse the CSV of `show stat` into one dict a line. Pure. Raises ValueError for something else."""
    if not text.startswith("# pxname,"):
        raise ValueError("not the CSV of 'show stat': %s" % text.strip()[:120])
    return [dict(row) for row in csv.DictReader(io.StringIO(text[2:]))]


def parse_map_files(text: str) -> list[str]:
    """Return the names of the map files in the answer of `show map`. Pure. Raises ValueError for something else."""
    if not text.startswith("# id (file)"):
        raise ValueError("not the answer of 'show map': %s" % text.strip()[:120])
    found = [_MAP.match(line) for line in text.splitlines()]
    return [match.group(1) for match in found if match and "used by map at" in match.string]


def parse_map_entries(text: str) -> dict[str, str]:
    """Return key and value of each entry in the answer of `show map <file>`. Pure. Raises ValueError for something else."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip():
            fields = line.split(None, 2)
            if len(fields) < 2 or not fields[0].startswith("0x"):
                raise ValueError("unknown line in the answer of 'show map': %s" % line[:120])
            # Of several entries with one key, the first is the one that a lookup finds.
            entries.setdefault(fields[1], fields[2].strip() if len(fields) > 2 else "")
    return entries


def _number(text: Optional[str]) -> int:
    return int(text) if text and text.lstrip("-").isdigit() else 0


def parse_socket(text: str) -> Union[str, tuple[str, int]]:
    """Return a Unix socket's path, or host and port of 'host:port' or '[v6]:port'. Raises ValueError."""
    if text.startswith("/"):
        return text
    host, dummy, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("%r is neither an absolute path of a Unix socket nor host:port" % text)
    return host, int(port)


class HAProxy:
    """Client of one runtime API. One connection a command, as HAProxy closes it after the answer."""

    def __init__(self, address: str, timeout: float = 5.0, patience: float = 5.0) -> None:
        """timeout: seconds for one command; patience: seconds to keep trying to connect (a reload renews the socket).

        Raises HAProxyError for an address that can't be one.
        """
        self.address = address
        self.timeout = timeout
        self.patience = patience
        try:
            self._target = parse_socket(address)
        except ValueError as exc:
            raise HAProxyError("The balancer's socket is wrong: %s." % exc) from None

    def command(self, text: str) -> str:
        """Send one command and return the whole answer. Raises HAProxyError."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return self._once(text)
            except (ConnectionRefusedError, FileNotFoundError) as exc:
                # Nothing was sent, so trying again is safe for every command.
                if time.monotonic() >= deadline:
                    raise HAProxyError(self._failed(text, exc)) from None
                time.sleep(0.2)
            except OSError as exc:
                raise HAProxyError(self._failed(text, exc)) from None

    def _failed(self, text: str, exc: OSError) -> str:
        hint = "Look whether HAProxy runs and whether this is its 'stats socket'."
        if isinstance(exc, PermissionError):
            hint = "Use become, or give the remote user's group access to the socket ('stats socket ... group ...')."
        return "HAProxy at %s: sending '%s' failed: %s. %s" % (self.address, text, exc.strerror or exc, hint)

    def _once(self, text: str) -> str:
        if isinstance(self._target, str):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(self.timeout)
        else:
            connection = socket.create_connection(self._target, self.timeout)
        with connection:
            if isinstance(self._target, str):
                connection.connect(self._target)
            connection.sendall((text + "\n").encode())
            chunks = []
            while True:
                chunk = connection.recv(65536)
                if not chunk:
                    break
                chunks.append(chunk)
        return b"".join(chunks).decode("utf-8", "replace")

    def _refused(self, text: str, answer: str) -> HAProxyError:
        hint = "Check the map's name." if " map " in text else "Check the backend's name."
        low = answer.lower()
        if "permission denied" in low:
            hint = "The 'stats socket' line needs 'level admin'."
        elif "unknown command" in low:
            hint = "This is not HAProxy's runtime API, or HAProxy is older than 2.4."
        return HAProxyError(
            "HAProxy at %s: '%s' was answered with '%s'. %s" % (self.address, text, answer.strip()[:200], hint)
        )

    def level(self) -> str:
        """Return what this socket may do: user, operator or admin. Raises HAProxyError."""
        answer = self.command("show cli level").strip()
        if answer not in ("user", "operator", "admin"):
            raise self._refused("show cli level", answer)
        return answer

    def servers(self, backend: str) -> list[Server]:
        """Return the servers of a backend in their order. Raises HAProxyError, also when there is no such backend."""
        if not _NAME.match(backend):
            raise HAProxyError("%r can't be the name of an HAProxy backend." % backend)
        state_command, stat_command = "show servers state %s" % backend, "show stat %s 4 -1" % backend
        state_text = self.command(state_command)
        if not state_text.startswith("1\n"):
            raise self._refused(state_command, state_text)
        stat_text = self.command(stat_command)
        try:
            return parse_servers(state_text, stat_text, backend)
        except ValueError as exc:
            raise HAProxyError("HAProxy at %s: %s." % (self.address, exc)) from None

    def server(self, backend: str, name: str) -> Server:
        """Return one server by its name. Raises HAProxyError when the backend has none such."""
        for item in self.servers(backend):
            if item.name == name:
                return item
        raise HAProxyError("HAProxy at %s: backend %s has no server %s." % (self.address, backend, name))

    def set_state(self, backend: str, name: str, state: str) -> Server:
        """Set a server to ready, drain or maint and read it back. Raises HAProxyError when it did not take."""
        if state not in ("ready", "drain", "maint") or not _NAME.match(backend) or not _NAME.match(name):
            raise HAProxyError("can't set server %r of backend %r to %r" % (name, backend, state))
        command = "set server %s/%s state %s" % (backend, name, state)
        answer = self.command(command)
        # HAProxy says nothing when all is well.
        if answer.strip():
            raise self._refused(command, answer)
        server = self.server(backend, name)
        wanted = {"ready": (False, False), "drain": (True, False), "maint": (server.drained, True)}[state]
        if (server.drained, server.forced_maint) != wanted:
            raise HAProxyError(
                "HAProxy at %s: after '%s' the server is %s. Somebody else may be changing it at the same time."
                % (self.address, command, server.describe())
            )
        return server

    def sessions(self, backend: str) -> int:
        """Return how many requests of a backend are in flight or wait for a server. Raises HAProxyError."""
        if not _NAME.match(backend):
            raise HAProxyError("%r can't be the name of an HAProxy backend." % backend)
        command = "show stat %s 2 -1" % backend
        text = self.command(command)
        try:
            for row in parse_stat(text):
                if (row.get("pxname"), row.get("svname")) == (backend, "BACKEND"):
                    return _number(row.get("scur"))
        except ValueError:
            raise self._refused(command, text) from None
        raise self._refused(command, "no line of that backend")

    def map_files(self) -> list[str]:
        """Return the names of the map files that its configuration uses. Raises HAProxyError."""
        text = self.command("show map")
        try:
            return parse_map_files(text)
        except ValueError:
            raise self._refused("show map", text) from None

    def map_entries(self, name: str) -> dict[str, str]:
        """Return what a map holds in HAProxy's memory. Raises HAProxyError, also when there is no such map."""
        if not _WORD.match(name):
            raise HAProxyError("%r can't be the name of an HAProxy map here." % name)
        command = "show map %s" % name
        text = self.command(command)
        try:
            return parse_map_entries(text)
        except ValueError:
            raise self._refused(command, text) from None

    def set_map(self, name: str, key: str, value: str) -> None:
        """Set one entry of a map in HAProxy's memory, or add it. Raises HAProxyError."""
        if not (_WORD.match(name) and _WORD.match(key) and _WORD.match(value)):
            raise HAProxyError("can't set entry %r of map %r to %r" % (key, name, value))
        verb = "set" if key in self.map_entries(name) else "add"
        command = "%s map %s %s %s" % (verb, name, key, value)
        answer = self.command(command)
        # HAProxy says nothing when all is well.
        if answer.strip():
            raise self._refused(command, answer)

    def wait(
        self,
        backend: str,
        name: str,
        predicate: Callable[[Server], bool],
        timeout: float,
        interval: float = 0.2,
        times: int = 1,
    ) -> tuple[bool, Server]:
        """Read a server until predicate holds `times` times in a row or timeout seconds are over; (held, last read)."""
        deadline = time.monotonic() + timeout
        held = 0
        while True:
            server = self.server(backend, name)
            held = held + 1 if predicate(server) else 0
            if held >= times:
                return True, server
            if time.monotonic() >= deadline:
                return False, server
            time.sleep(interval)


def find_by_address(servers: Iterable[Server], addresses: Iterable[str]) -> Optional[Server]:
    """Return the server that has one of the addresses, None if there is none (yet)."""
    wanted = set(addresses)
    for item in servers:
        if item.address in wanted and not item.unresolved:
            return item
    return None


def idle(server: Server) -> bool:
    """Tell whether no request is in flight to the server, nor waits for it."""
    return server.sessions == 0 and server.queued == 0


def left(addresses: Iterable[str]) -> Callable[[Server], bool]:
    """Return a predicate: setting the slot ready can't send a request to one of these addresses any more.

    Either the slot has lost the address (or has another one), or its health check has found it down: then it takes
    passed checks, not an administrative state, to bring it back.
    """
    gone = set(addresses)

    def predicate(server: Server) -> bool:
        return server.unresolved or server.address not in gone or server.op_state == OP_STOPPED

    return predicate


BALANCER_OPTIONS: dict[str, Any] = {
    "socket": {"type": "str", "required": True},
    "backend": {"type": "str", "required": True},
}
