# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of a container's addresses answers. Apart from _replicas, so that what only speaks to a database loads nothing of HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence


def listening(address: str, port: int, timeout: float = 2.0) -> bool:
    """Tell whether something accepts TCP connections at an address."""
    try:
        with socket.create_connection((address, port), timeout):
            return True
    except OSError:
        return False


def choose_address(addresses: Sequence[str], port: int, probe: Callable[[str, int], bool] = listening) -> str:
    """Return the first address that accepts connections, else the first one, else ''.

    A container on several networks need not listen on, or let through, all of them.
    """
    if len(addresses) > 1:
        for address in addresses:
            if probe(address, port):
                return address
    return addresses[0] if addresses else ""
