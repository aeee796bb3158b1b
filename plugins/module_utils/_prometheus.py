# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Prometheus text format (0.0.4, and what OpenMetrics adds to it), and the figures that are read from it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from ._fhir import Client

# What Micrometer calls them (Spring Boot 3.2, read from a real HAPI 7.2 server). The roadmap's
# hikaricp_connection_timeout_total does not exist: an alert on it never fires.
HIKARI_GAUGES = {
    "total": "hikaricp_connections",
    "active": "hikaricp_connections_active",
    "idle": "hikaricp_connections_idle",
    "pending": "hikaricp_connections_pending",
    "max": "hikaricp_connections_max",
    "timeouts": "hikaricp_connections_timeout_total",
}

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,?)')
_CLOSING = re.compile(r"\s*\}")
_ESCAPE = re.compile(r"\\(.)")


class PrometheusError(ValueError):
    """There are no figures: the text is not in the Prometheus format (the message names the line), or status is not 200."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Sample:
    """One line: a metric name, its labels, its value (a float: also NaN and infinities)."""

    name: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: {"n": "\n"}.get(match.group(1), match.group(1)), text)


def _labels(line: str, position: int, number: int) -> tuple[dict[str, str], int]:
    """Read the labels that start at position, behind the brace; return them and the position behind their end."""
    labels: dict[str, str] = {}
    while True:
        closing = _CLOSING.match(line, position)
        if closing:
            return labels, closing.end()
        match = _LABEL.match(line, position)
        if not match:
            raise PrometheusError("line %d: unreadable labels: %s" % (number, line[:80]))
        labels[match.group(1)] = _unescape(match.group(2))
        position = match.end()
        if not match.group(3) and not _CLOSING.match(line, position):
            raise PrometheusError("line %d: unreadable labels: %s" % (number, line[:80]))


def parse(text: str) -> Iterator[Sample]:
    """Yield the samples of a scrape. Raises PrometheusError at the first line that is neither a sample nor a comment.

    A page in another format (HTML from a proxy, say) is an error, never an empty scrape.
    """
    # Not splitlines(): that also splits at U+2028 and the like, which may stand in a label value.
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        match = _NAME.match(line)
        if not match:
            raise PrometheusError("line %d is not in the Prometheus format: %s" % (number, line[:80]))
        position = match.end()
        labels: dict[str, str] = {}
        if line.startswith("{", position):
            labels, position = _labels(line, position + 1, number)
        # Behind the value may stand a timestamp and, in OpenMetrics, an exemplar.
        rest = line[position:].split()
        try:
            value = float(rest[0])
        except (IndexError, ValueError):
            raise PrometheusError("line %d has no value: %s" % (number, line[:80])) from None
        yield Sample(match.group(0), value, labels)


def scrape(client: Client, url: str) -> list[Sample]:
    """Ask an actuator for its figures. Raises HttpError when no answer came, PrometheusError, without a secret, for another one."""
    answer = client.get(url, headers={"Accept": "text/plain;version=0.0.4, text/plain;q=0.9"})
    if answer.status != 200:
        raise PrometheusError("HTTP %d" % answer.status, answer.status)
    try:
        return list(parse(answer.text()))
    except PrometheusError as error:
        raise PrometheusError(client.scrub(str(error))) from None


def total(samples: Iterable[Sample], name: str, **labels: str) -> Optional[float]:
    """Return the sum over the series of a metric that carry these labels; None when there is no such series.

    Negative values are left out: the JVM says -1 for a memory pool that has no maximum.
    """
    found = [item.value for item in samples if item.name == name and labels.items() <= item.labels.items()]
    if not found:
        return None
    usable = [value for value in found if not math.isnan(value) and value >= 0]
    return math.fsum(usable) if usable else None


def whole(value: Optional[float]) -> Optional[int]:
    """Return a figure as an integer, None when there is none or it is not finite."""
    return None if value is None or not math.isfinite(value) else int(value)


def hikari(samples: list[Sample]) -> dict[str, dict[str, Optional[int]]]:
    """Return the figures of every Hikari pool by pool name (two data sources are two pools, never summed)."""
    pools = sorted({item.labels.get("pool", "") for item in samples if item.name in HIKARI_GAUGES.values()})
    return {
        pool: {
            key: whole(total((item for item in samples if item.labels.get("pool", "") == pool), name))
            for key, name in HIKARI_GAUGES.items()
        }
        for pool in pools
    }


def jvm(samples: list[Sample]) -> dict[str, Optional[int]]:
    """Return heap_used and heap_max in bytes, summed over the heap's memory pools; None for what is not told."""
    return {
        "heap_used": whole(total(samples, "jvm_memory_used_bytes", area="heap")),
        "heap_max": whole(total(samples, "jvm_memory_max_bytes", area="heap")),
    }


def reads(samples: list[Sample]) -> Optional[dict[str, Any]]:
    """Return how a replica sends its reads, as the read data source of overlay/ tells it; None for an image without that.

    A lag that is not known is None, never 0.
    """
    enabled = total(samples, "fhir_read_routing_enabled")
    if enabled is None:
        return None
    up = total(samples, "fhir_read_standby_up")
    lag = total(samples, "fhir_read_standby_lag_seconds")
    return {
        "enabled": enabled > 0,
        "standby": whole(total(samples, "fhir_read_requests_total", route="standby")) or 0,
        "primary": whole(total(samples, "fhir_read_requests_total", route="primary")) or 0,
        "standby_up": None if up is None else up > 0,
        "lag_seconds": lag if lag is not None and math.isfinite(lag) else None,
    }


def requests_served(samples: Iterable[Sample], name: str, actuator_path: str = "/actuator") -> Optional[int]:
    """Return how many requests a replica has answered, those to its actuator left out.

    Health checks of the balancer and of Docker, and scrapes, go to the actuator: they are no sign of traffic.
    None when the scrape has no series of that name at all, which is not the same as zero.
    """
    found = [item for item in samples if item.name == name]
    if not found:
        return None
    prefix = actuator_path.rstrip("/") + "/"
    counted = [item.value for item in found if not (item.labels.get("uri", "") + "/").startswith(prefix)]
    return int(math.fsum(value for value in counted if math.isfinite(value)))
