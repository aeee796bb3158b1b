# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site whose nginx is a central one on another host: it sends to a port that HAPI publishes, and is never touched.

All load comes in through that nginx. The port changes hands once on the way to three replicas and once on the way back; what fails,
fails then, and for no longer than was said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from load import Ledger, Load, request
from pilot_host import ENTRY_PORT, PROJECT, Background, Run, healthy, ok, on_host, owner_up, play, replicas, snapshot, until

pytestmark = [pytest.mark.lab, pytest.mark.full]

RELAY = "hapi-balancer-port"
SITE = ("-e", json.dumps({
    "bd_fhir_nginx_service": "", "balancer_take_ports": True, "balancer_edit_nginx": False,
    "bd_fhir_entry_url": "http://127.0.0.1:8080/fhir/metadata?_summary=true", "bd_fhir_entry_host": "", "bd_fhir_entry_ca_path": "",
}))  # fmt: skip
CONSENT = ("-e", "hapi_allow_interruption=true")
# Requests that came in just before, and the pace of the load.
SLACK = 6.0


def take_away() -> None:
    on_host("bash", "-c", f"[ ! -d {PROJECT} ] || {{ cd {PROJECT} && docker compose --env-file .env down -v --remove-orphans -t 5;"
                          f" cd /; rm -rf {PROJECT}; }}")


@pytest.fixture(scope="module")
def central() -> Iterator[None]:
    take_away()
    ok("tests/lab/pilot.yml", "-e", "lab_nginx=central")
    until("one healthy replica", 180, lambda: healthy(1))
    until("the central nginx answers", 30, lambda: request("GET", "/fhir/metadata", port=ENTRY_PORT)[0] == 200)
    yield
    take_away()
    ok("tests/lab/pilot.yml")
    until("one healthy replica", 180, lambda: healthy(1))


def has_port() -> list[str]:
    return on_host("docker", "ps", "--filter", "publish=8080", "--format", '{{.Label "com.docker.compose.service"}}').split()


def files() -> str:
    return on_host("bash", "-c", f"cd {PROJECT} && find . -type f -not -name '*.bak' -exec sha256sum {{}} + | sort && stat -c '%a:%U' .env")


def entry() -> str:
    """The central nginx: its files and its processes."""
    look = "find /etc/nginx -type f -exec sha256sum {} + | sort; systemctl show -p ExecMainStartTimestamp nginx"
    return on_host("bash", "-c", look, host="fhir-entry")


def moments(ledger: Ledger) -> list[float]:
    return [float(text.partition("s ")[0]) for text in ledger.failures]


def said(result: Run, pattern: str) -> float:
    found = re.search(pattern, result.out)
    assert found, result.out[-3000:]
    return float(found.group(1))


def test_refused_or_told_before_anything_happens(central: None) -> None:
    untouched = snapshot()
    told = ok("scale_hapi", *SITE, "--check", "--diff")
    assert "Port 8080 changes hands" in told.out
    assert "consent with hapi_allow_interruption=true" in told.out
    for args, word in ((SITE, "hapi_allow_interruption=true"),
                       ((*SITE, *CONSENT, "-e", "balancer_take_ports=false", "-e", "hapi_reset_ports=true"), "balancer_take_ports=true")):
        refused = play("scale_hapi", *args)
        assert refused.rc != 0
        assert "Nothing was changed" in refused.out
        assert word in refused.out
    assert snapshot() == untouched


def test_from_one_to_three_and_back_through_the_central_nginx(central: None) -> None:
    before, nginx = files(), entry()
    with Load(port=ENTRY_PORT) as load:
        done = ok("scale_hapi", *SITE, *CONSENT)
    seconds = said(done, r'"?port_interrupted_seconds"?: "?([0-9.]+)')
    assert 0 < seconds <= 60
    failed = moments(load.ledger)
    assert not failed or max(failed) - min(failed) <= seconds + SLACK, load.ledger.failures
    assert load.lost() == []
    assert healthy(3)
    assert has_port() == [RELAY]
    assert len({request("GET", "/fhir/metadata", headers={"X-BD-Probe": "1"}, port=ENTRY_PORT)[2].get("x-bd-served-by") for dummy in range(60)}) == 3

    untouched = snapshot()
    assert ok("scale_hapi", *SITE).changed == 0
    assert "Recreate" not in owner_up()
    assert snapshot() == untouched
    # More replicas, and fewer: the port stays where it is.
    with Load(port=ENTRY_PORT) as load:
        ok("scale_hapi", *SITE, "-e", "hapi_replicas=2")
        ok("scale_hapi", *SITE)
    assert load.ledger.failures == []
    assert load.lost() == []

    refused = play("rollback_scale_hapi", *SITE)
    assert refused.rc != 0
    assert "hapi_allow_interruption" in refused.out
    with Load(port=ENTRY_PORT) as load:
        done = ok("rollback_scale_hapi", *SITE, *CONSENT)
    failed = moments(load.ledger)
    assert not failed or max(failed) - min(failed) <= said(done, r"([0-9.]+)\s+s\s+went\s+by") + SLACK, load.ledger.failures
    assert load.lost() == []
    assert healthy(1)
    assert has_port() == ["hapi"]
    assert files() == before
    assert entry() == nginx
    assert ok("rollback_scale_hapi", *SITE, *CONSENT).changed == 0
    assert "Recreate" not in owner_up()


def test_a_kill_while_nobody_has_the_port_is_made_good_by_the_next_run(central: None) -> None:
    holder = replicas()[0].id
    going = Background("scale_hapi", *SITE, *CONSENT)
    until("the replica that has the port stops", 600, lambda: holder not in {replica.id for replica in replicas()})
    going.kill()
    ok("scale_hapi", *SITE, *CONSENT)
    assert has_port() == [RELAY]
    assert healthy(3)
    ok("rollback_scale_hapi", *SITE, *CONSENT)
    assert has_port() == ["hapi"]
