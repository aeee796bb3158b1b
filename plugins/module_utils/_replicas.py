# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The replicas that an HTTP check asks: found by Docker, or given by URL."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional

from ._addresses import choose_address, listening
from ._compose import COMPOSE_ARGUMENTS, Docker
from ._fhir import HttpError, base_url, check_url, origin, public_url

if TYPE_CHECKING:
    from ._compose import Container

REPLICA_ARGUMENTS: dict[str, Any] = {
    **copy.deepcopy(COMPOSE_ARGUMENTS),
    "service": {"type": "str", "default": "hapi"},
    "urls": {
        "type": "list",
        "elements": "dict",
        "options": {"name": {"type": "str", "required": True}, "url": {"type": "str", "required": True}},
    },
    "port": {"type": "int", "default": 8080},
    "actuator_path": {"type": "str", "default": "/actuator"},
}
REPLICA_ARGUMENTS["project_dir"].update(required=False)
REPLICA_EXCLUSIVE = [("urls", "project_dir"), ("urls", "project_name"), ("urls", "env_file")]
REPLICA_ONE_OF = [("urls", "project_dir")]


@dataclass(frozen=True)
class Replica:
    """One replica. url is the root of its server, '' when it has none. What is unknown for a given URL is empty."""

    name: str
    url: str
    address: str
    addresses: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    state: str = "running"
    exit_code: int = 0
    started_at: str = ""

    @property
    def running(self) -> bool:
        """Tell whether it can be asked at all."""
        return self.state == "running" and bool(self.url)

    def why_not(self) -> str:
        """Return words for a replica that cannot be asked."""
        if self.state != "running":
            return "the container is %s (exit code %d)" % (self.state, self.exit_code)
        return "the container has no address: it is on no network"


def from_container(container: Container, port: int, probe: Callable[[str, int], bool] = listening) -> Replica:
    """Return the replica that a container is."""
    addresses = tuple(container.addresses[network] for network in sorted(container.addresses))
    address = choose_address(addresses, port, probe) if container.state == "running" else ""
    return Replica(
        name=container.name,
        url=base_url(address, port) if address else "",
        address=address,
        addresses=addresses,
        networks=tuple(sorted(container.addresses)),
        state=container.state,
        exit_code=container.exit_code,
        started_at=container.started_at,
    )


def from_urls(items: Sequence[Mapping[str, str]], strip: str = "") -> list[Replica]:
    """Return replicas given by URL; a path at its end that is strip (the FHIR base path) is taken off.

    Raises HttpError, without a password, for what is not a URL or holds a user, and for a name given twice.
    """
    result: list[Replica] = []
    for item in items:
        name, url = item["name"], item["url"]
        try:
            check_url(url)
        except HttpError as error:
            raise HttpError("request", "Option urls, item %s: %s" % (name, error)) from None
        host = origin(url)[1]
        root = public_url(url).partition("?")[0].rstrip("/")
        path = "/" + strip.strip("/")
        if path != "/" and root.endswith(path):
            root = root[: -len(path)]
        if name in {replica.name for replica in result}:
            raise HttpError("request", "Option urls names %s twice. Give every replica a name of its own." % name)
        result.append(Replica(name=name, url=root, address=host, addresses=(host,)))
    return result


def discover(module: Any, strip: str = "") -> tuple[list[Replica], Optional[Docker]]:
    """Return the replicas that the options in REPLICA_ARGUMENTS name, and the Docker they were found by.

    Raises ComposeError when Docker cannot be asked, HttpError for a bad URL.
    """
    params = module.params
    if params["urls"]:
        return from_urls(params["urls"], strip), None
    docker = Docker.from_module(module)
    return [from_container(item, params["port"]) for item in docker.containers(params["service"])], docker
