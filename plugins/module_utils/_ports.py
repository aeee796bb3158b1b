# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ports that a host publishes: which container has one, and who else listens. Pure but for listeners() and owner_of()."""

from __future__ import annotations

import glob
import os
import re
import socket

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Optional

_PUBLISHED = re.compile(r"(?:(?P<address>.*):)?(?P<first>[0-9]+)(?:-(?P<last>[0-9]+))?->(?P<target>[0-9]+)/(?P<protocol>[a-z]+)\Z")
_ANY = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, never bound
_LISTEN = "0A"


@dataclass(frozen=True)
class Binding:
    """A port of the host, "" as address being all of them."""

    address: str
    port: int

    def __str__(self) -> str:
        if not self.address:
            return str(self.port)
        return ("[%s]:%d" if ":" in self.address else "%s:%d") % (self.address, self.port)

    def clashes(self, other: Binding) -> bool:
        """Tell whether one process can't listen on this one while another has the other."""
        return self.port == other.port and (not self.address or not other.address or self.address == other.address)

    @property
    def reachable(self) -> str:
        """Address at which the host itself reaches it."""
        return self.address or "127.0.0.1"


def binding(address: str, port: int) -> Binding:
    """Return a Binding, with one spelling for all addresses."""
    address = address.strip("[]")
    return Binding("" if address in _ANY else address, port)


def parse_published(texts: Iterable[str]) -> list[Binding]:
    """Return the host's ports of '127.0.0.1:8080->80/tcp'. Raises ValueError for what one container can't hand to another.

    A range is left to Docker's choice, and so is port 0: nobody could tell which of them the clients use.
    """
    found = []
    for text in texts:
        match = _PUBLISHED.match(text)
        if match is None:
            raise ValueError("%r is not a published port such as 8080->8080/tcp" % text)
        if match.group("protocol") != "tcp":
            raise ValueError("%s is no TCP port" % text)
        if match.group("last") or match.group("first") == "0":
            raise ValueError("%s is not one port of the host" % text)
        found.append(binding(match.group("address") or "", int(match.group("first"))))
    return found


def bindings_of(data: Mapping[str, Any]) -> list[Binding]:
    """Return the TCP ports of the host that a container asks for, from its `docker inspect`, whether it runs or not."""
    found = []
    for inner, items in sorted(((data.get("HostConfig") or {}).get("PortBindings") or {}).items()):
        for item in items or []:
            port = str(item.get("HostPort") or "")
            if inner.endswith("/tcp") and port.isdigit() and port != "0":
                found.append(binding(str(item.get("HostIp") or ""), int(port)))
    return found


def clashing(wanted: Iterable[Binding], others: Iterable[Binding]) -> bool:
    """Tell whether one of the others is in the way of one of the wanted."""
    others = list(others)
    return any(one.clashes(other) for one in wanted for other in others)


def parse_listeners(text: str) -> list[tuple[Binding, int]]:
    """Return port and inode of each listening socket in the text of /proc/net/tcp or tcp6."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != _LISTEN:
            continue
        packed, dummy, port = fields[1].partition(":")
        found.append((binding(_address(packed), int(port, 16)), int(fields[9])))
    return found


def _address(packed: str) -> str:
    # The kernel writes 32-bit words as numbers of this machine's own byte order.
    raw = b"".join(int(packed[start : start + 8], 16).to_bytes(4, "little") for start in range(0, len(packed), 8))
    text = socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
    return text[7:] if text.startswith("::ffff:") else text


def listeners() -> list[tuple[Binding, int]]:
    """Return the listening TCP sockets of this host. Raises OSError."""
    found = []
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        # A host without IPv6 has no second file.
        if os.path.exists(path):
            with open(path, encoding="ascii") as handle:
                found += parse_listeners(handle.read())
    return found


def owner_of(inode: int) -> Optional[str]:
    """Return 'name (pid N)' of the process that has a socket, None when it can't be seen."""
    for path in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(path) != "socket:[%d]" % inode:
                continue
            pid = path.split("/")[2]
            with open("/proc/%s/comm" % pid, encoding="utf-8", errors="replace") as handle:
                return "%s (pid %s)" % (handle.read().strip(), pid)
        except OSError:
            # It has ended, or belongs to somebody whom this user may not look at.
            continue
    return None
