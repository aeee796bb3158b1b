# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is not known of one replica never decides where the reads of all go."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.filter import read_decision as plugin
from ansible_collections.dghs.bd_fhir.plugins.module_utils._fhir import Client
from ansible_collections.dghs.bd_fhir.plugins.module_utils._replicas import Replica
from ansible_collections.dghs.bd_fhir.plugins.modules import hapi_metadata_info
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.http_stub import Hapi, reply

decide = plugin.FilterModule().filters()["read_decision"]

METRIC = "fhir_read_routing_enabled 1.0\n"
WITHOUT = "process_uptime_seconds 12.0\n"


def asked(*figures: Any) -> dict[str, Any]:
    """What the module says of replicas whose figures are these: a text, a reply, or None for one that nobody reaches."""
    said, findings = [], []
    for number, text in enumerate(figures, start=1):
        with Hapi() as hapi:
            url = hapi.url
            hapi.routes["/actuator/prometheus"] = reply(text.encode(), "text/plain") if isinstance(text, str) else text
            if text is not None:
                one, found = hapi_metadata_info.ask(Client(timeout=3), Replica("hapi-%d" % number, url, "127.0.0.1"), "/fhir", "/actuator")
        if text is None:
            one, found = hapi_metadata_info.ask(Client(timeout=3), Replica("hapi-%d" % number, url, "127.0.0.1"), "/fhir", "/actuator")
        said.append(one)
        findings += found
    return {"replicas": said, "findings": findings}


NOBODY = None
BUSY = reply({}, status=503)
PAGE = reply("<html>Log in</html>", "text/html")
HIDDEN = reply({}, status=404)


def test_all_can() -> None:
    assert decide(asked(METRIC, METRIC)) == {"able": True, "why": "", "unread": []}


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize(("silent", "found"), [(NOBODY, "refused"), (BUSY, "HTTP 503"), (PAGE, "not in the Prometheus format")],
                         ids=["nobody", "busy", "page"])
def test_one_that_was_not_heard_decides_nothing_and_is_named(silent: Any, found: str, sent: bool) -> None:
    decision = decide(asked(METRIC, silent, METRIC), sent=sent)
    assert (decision["able"], decision["why"], len(decision["unread"])) == (False, "", 1)
    assert decision["unread"][0].startswith("hapi-2: expected ")
    assert found in decision["unread"][0]
    # Neither does it when another one says that its image can not: the two may be in the middle of a rollout.
    assert decide(asked(WITHOUT, silent), sent=sent)["unread"] != []


@pytest.mark.parametrize("sent", [True, False])
def test_only_figures_that_were_read_say_that_an_image_can_not(sent: bool) -> None:
    decision = decide(asked(METRIC, WITHOUT), sent=sent)
    assert (decision["able"], decision["unread"]) == (False, [])
    assert decision["why"].startswith("hapi-2 does not tell fhir_read_routing_enabled")


def test_a_server_without_that_page_keeps_reads_where_they_are() -> None:
    decision = decide(asked(HIDDEN))
    assert (decision["able"], decision["unread"]) == (False, [])
    assert "hapi-1 has nothing at /actuator/prometheus (HTTP 404)" in decision["why"]
    # Once reads are sent, it does not end that.
    assert "HTTP 404" in decide(asked(METRIC, HIDDEN), sent=True)["unread"][0]


@pytest.mark.parametrize("nobody", [{}, {"skipped": True}, {"replicas": [], "findings": []}])
def test_nobody_to_ask(nobody: dict[str, Any]) -> None:
    assert decide(nobody) == {"able": False, "why": "no replica of HAPI runs", "unread": []}
    assert "Start it first" in decide(nobody, sent=True)["unread"][0]


def test_no_balancer_keeps_reads_where_they_are() -> None:
    assert "run scale_hapi first" in decide(asked(METRIC), balanced=False)["why"]
    assert decide(asked(METRIC), sent=True, balanced=False)["able"]
