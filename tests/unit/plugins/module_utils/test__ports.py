# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ports of a host, with texts of the real kernel and the real engine."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils._ports import (
    Binding,
    binding,
    bindings_of,
    clashing,
    listeners,
    owner_of,
    parse_listeners,
    parse_published,
)

# Linux 5.10: the header, sshd on all addresses, docker-proxy on loopback, and an established connection.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21034 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 88412 1 0000000000000000 100 0 0 10 0
   2: 0100007F:1F90 0100007F:C3A8 01 00000000:00000000 00:00000000 00000000     0        0 88500 1 0000000000000000 20 4 30 10 -1
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 901 1
   1: 00000000000000000000000001000000:1F92 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 902 1
   2: 0000000000000000FFFF00000100007F:1F93 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 903 1
"""


def test_listening_sockets_of_the_kernel() -> None:
    assert parse_listeners(TCP) == [(Binding("", 22), 21034), (Binding("127.0.0.1", 8080), 88412)]
    assert parse_listeners(TCP6) == [(Binding("", 8081), 901), (Binding("::1", 8082), 902), (Binding("127.0.0.1", 8083), 903)]
    assert parse_listeners("") == []


def test_a_listener_of_this_process_is_found_by_its_name() -> None:
    with socket.socket() as item:
        item.bind(("127.0.0.1", 0))
        item.listen()
        port = item.getsockname()[1]
        (inode,) = [inode for found, inode in listeners() if found.port == port]
        assert (owner_of(inode) or "").endswith(f"(pid {os.getpid()})")
    assert [found for found, _inode in listeners() if found.port == port] == []


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["8080->8080/tcp"], ["8080"]),
        (["0.0.0.0:8080->8080/tcp", "[::]:8080->8080/tcp"], ["8080", "8080"]),
        (["127.0.0.1:8080->80/tcp", "10.1.2.3:81->80/tcp"], ["127.0.0.1:8080", "10.1.2.3:81"]),
        (["::1:8080->80/tcp"], ["[::1]:8080"]),
        ([], []),
    ],
)
def test_published_ports(texts: list[str], wanted: list[str]) -> None:
    assert [str(item) for item in parse_published(texts)] == wanted


@pytest.mark.parametrize(
    ("text", "word"),
    [("8080->8080/udp", "no TCP port"), ("8080-8085->8080/tcp", "not one port"), ("0->8080/tcp", "not one port"), ("8080", "not a published port")],
)
def test_what_can_not_be_handed_over(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_published([text])


def test_what_a_container_asks_for() -> None:
    data: dict[str, Any] = {"HostConfig": {"PortBindings": {
        "8080/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": "18080"}],
        "53/udp": [{"HostIp": "", "HostPort": "53"}],
        "81/tcp": [{"HostIp": "", "HostPort": ""}, {"HostIp": "", "HostPort": "0"}],
        "82/tcp": None,
    }}}  # fmt: skip
    assert bindings_of(data) == [Binding("", 8080), Binding("127.0.0.1", 18080)]
    assert bindings_of({"HostConfig": {"PortBindings": None}}) == []
    assert bindings_of({}) == []


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (("", 80), ("", 80), True),
        (("", 80), ("127.0.0.1", 80), True),
        (("127.0.0.1", 80), ("0.0.0.0", 80), True),
        (("127.0.0.1", 80), ("10.0.0.1", 80), False),
        (("", 80), ("", 81), False),
    ],
)
def test_who_is_in_whose_way(one: tuple[str, int], other: tuple[str, int], clash: bool) -> None:
    assert clashing([binding(*one)], [binding(*other)]) is clash
    assert clashing([binding(*other)], [binding(*one)]) is clash
    assert not clashing([], [binding(*other)])


def test_where_the_host_reaches_it() -> None:
    assert [binding(address, 80).reachable for address in ("", "0.0.0.0", "10.0.0.1", "[::1]")] == ["127.0.0.1", "127.0.0.1", "10.0.0.1", "::1"]
