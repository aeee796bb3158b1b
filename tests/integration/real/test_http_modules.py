# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""balance_info and hapi_metadata_info on a real engine: a real nginx, a real HAProxy, and replicas that are stubs.

(The stubs speak as HAPI does; the lab's tests run the same modules against the real HAPI.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir import plugins
from ansible_collections.dghs.bd_fhir.plugins.modules import balance_info, hapi_metadata_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker, free_port
from ansible_collections.dghs.bd_fhir.tests.unit.plugins import http_stub

pytestmark = pytest.mark.engine

SERVERS = "bd-fhir-test/http:1"
DOCKERFILE = f"""FROM {IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends nginx-light haproxy socat python3 \\
 && rm -rf /var/lib/apt/lists/* && rm -f /etc/nginx/sites-enabled/default
"""
NGINX = """
upstream hapi { server hapi:8080; }
server { listen 80; location / { proxy_pass http://hapi; } }
"""
# %si and %sp are the server that answered. Only answers of tagged requests tell it.
HAPROXY = """
global
  stats socket /run/admin.sock mode 660 level admin
defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
resolvers docker
  nameserver dns 127.0.0.11:53
  hold valid 1s
  hold obsolete 1s
frontend entry
  bind :80
  http-request set-var(txn.probe) req.hdr(X-BD-Probe)
  http-response set-header X-BD-Served-By %si:%sp if { var(txn.probe) -m found }
  default_backend hapi
backend hapi
  balance roundrobin
  option httpchk GET /actuator/health/readiness
  server-template slot- 1-5 hapi:8080 check inter 500ms resolvers docker init-addr none
"""
REPLICA = """
import os, sys, threading
sys.path.insert(0, "/stub")
import http_stub
http_stub.Hapi(os.environ["VERSION"], address="0.0.0.0", port=8080)
threading.Event().wait()
"""


@pytest.fixture(scope="session")
def servers() -> None:
    """An image with nginx, HAProxy and Python."""
    if subprocess.run(["docker", "image", "inspect", SERVERS], capture_output=True, check=False).returncode:
        docker("build", "-q", "-t", SERVERS, "-", stdin=DOCKERFILE)


class Site(Project):
    """The project: nginx with a static upstream, HAProxy beside it, and hapi."""

    nginx_port: int
    haproxy_port: int

    def url(self, port: int) -> str:
        return f"http://127.0.0.1:{port}/fhir/metadata"

    def names(self) -> list[str]:
        return [f"{self.name}-hapi-{number}" for number in (1, 2, 3)]

    def scale(self, count: int, version: str = "0.3.0") -> None:
        self.write(".env", f"VERSION={version}\n")
        self.compose("up", "-d", "--no-recreate", "--scale", f"hapi={count}")

    def haproxy(self, command: str) -> str:
        return docker("exec", "-i", f"{self.name}-lb-1", "socat", "-", "/run/admin.sock", stdin=command + "\n")

    def wait_for(self, what: Callable[[], bool], seconds: float = 20) -> None:
        ends = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < ends, "it did not come about in time"
            time.sleep(0.3)

    def answers(self, port: int) -> bool:
        client = hapi_metadata_info.Client(timeout=2)
        try:
            return bool(client.get(self.url(port)).status == 200)
        except hapi_metadata_info.HttpError:
            return False

    def slots_up(self) -> int:
        return self.haproxy("show stat hapi 4 -1").count(",UP,")


@pytest.fixture
def site(tmp_path: Path, servers: None) -> Iterator[Site]:
    """One replica, and an nginx that has resolved it."""
    item = Site(tmp_path / "site", "htp")
    item.dir.mkdir()
    item.nginx_port, item.haproxy_port = free_port(), free_port()
    item.write("nginx.conf", NGINX, 0o644)
    item.write("haproxy.cfg", HAPROXY, 0o644)
    item.write("replica.py", REPLICA, 0o644)
    stub = Path(http_stub.__file__).resolve()
    item.write(
        "docker-compose.yml",
        f"""name: {item.name}
services:
  hapi:
    image: {SERVERS}
    command: [python3, /replica.py]
    init: true
    environment: {{VERSION: "${{VERSION}}"}}
    networks: [front]
    volumes: ["./replica.py:/replica.py:ro", "{stub.parent}:/stub:ro"]
  nginx:
    image: {SERVERS}
    command: [nginx, -g, "daemon off;"]
    networks: [front]
    ports: ["127.0.0.1:{item.nginx_port}:80"]
    volumes: ["./nginx.conf:/etc/nginx/conf.d/default.conf:ro"]
    depends_on: [hapi]
  lb:
    image: {SERVERS}
    command: [haproxy, -W, -db, -f, /haproxy.cfg]
    networks: [front]
    ports: ["127.0.0.1:{item.haproxy_port}:80"]
    volumes: ["./haproxy.cfg:/haproxy.cfg:ro", "./run:/run"]
networks:
  front: {{}}
""",
    )
    try:
        item.scale(1)
        item.wait_for(lambda: item.answers(item.nginx_port))
        yield item
    finally:
        item.remove()


def ids(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["id"], item["object"]) for item in result["findings"]]


def test_case_38_static_nginx_goes_red_with_its_cause_and_green_after_a_reload(site: Site, run: Any) -> None:
    def probe(**more: Any) -> dict[str, Any]:
        result: dict[str, Any] = run(
            balance_info,
            project_dir=str(site.dir),
            url=site.url(site.nginx_port),
            requests=90,
            expect_replicas=3,
            **more,
        )
        return result

    site.scale(3)
    site.wait_for(lambda: run(hapi_metadata_info, project_dir=str(site.dir), retries=0)["summary"]["consistent"])
    first, *others = site.names()
    red = probe(fail_on=["error"])
    assert red["rc"] == 1
    assert ids(red) == [("replica_gets_none", name) for name in others]
    for item in red["findings"]:
        assert f"{site.name}-nginx-1 was started" in item["hint"]
        assert "this replica later" in item["hint"]
        assert "nginx -s reload" in item["hint"]
        assert str(site.dir / "nginx.conf") in item["hint"]
    assert [row["counted"] for row in red["replicas"]] == [90, 0, 0]
    assert red["judged_by"] == "counter"

    docker("exec", f"{site.name}-nginx-1", "nginx", "-s", "reload")
    site.wait_for(lambda: not ids(probe()))
    green = probe(fail_on=["error"])
    assert (green["rc"], green["findings"], green["failed_requests"]) == (0, [], 0)
    assert all(row["counted"] >= 15 for row in green["replicas"])


def test_haproxy_tells_who_answered_and_why_one_gets_nothing(site: Site, run: Any) -> None:
    site.scale(3)
    site.wait_for(lambda: site.slots_up() == 3)

    def probe(**more: Any) -> dict[str, Any]:
        result: dict[str, Any] = run(
            balance_info,
            project_dir=str(site.dir),
            url=site.url(site.haproxy_port),
            requests=60,
            balancer={"socket": str(site.dir / "run" / "admin.sock"), "backend": "hapi"},
            **more,
        )
        return result

    green = probe(fail_on=["error", "warning"])
    assert (green["rc"], green["judged_by"]) == (0, "header")
    assert [row["tagged"] for row in green["replicas"]] == [20, 20, 20]
    assert [row["counted"] for row in green["replicas"]] == [20, 20, 20]
    assert {row["slot_state"] for row in green["replicas"]} == {"up"}

    second = site.names()[1]
    address = next(row["address"] for row in green["replicas"] if row["name"] == second)
    lines = [line.split() for line in site.haproxy("show servers state hapi").splitlines()[2:] if line]
    slot = next(line[3] for line in lines if line[4] == address)
    site.haproxy(f"set server hapi/{slot} state drain")
    red = probe(fail_on=["error"])
    assert red["rc"] == 1
    assert ids(red) == [("replica_gets_none", second)]
    assert f"set server hapi/{slot} state ready" in red["findings"][0]["hint"]
    site.haproxy(f"set server hapi/{slot} state ready")

    # Without the tag nobody is told an inner address.
    plain = hapi_metadata_info.Client().get(site.url(site.haproxy_port))
    assert "x-bd-served-by" not in plain.headers


def test_a_replica_on_another_network_is_told_as_such(site: Site, run: Any) -> None:
    site.scale(2)
    other = f"{site.name}-other"
    second = site.names()[1]
    docker("network", "create", other)
    try:
        docker("network", "disconnect", f"{site.name}_front", second)
        docker("network", "connect", other, second)
        result = run(balance_info, project_dir=str(site.dir), url=site.url(site.nginx_port), requests=20)
        assert ids(result) == [("replica_gets_none", second)]
        assert (
            f"no network of {site.name}-nginx-1 ({site.name}_front), but only on {other}"
            in result["findings"][0]["hint"]
        )
    finally:
        docker("rm", "-f", second, check=False)
        docker("network", "rm", other)


def test_metadata_of_each_replica_one_old_and_one_stopped(site: Site, run: Any) -> None:
    """Case 111."""
    site.scale(2, version="0.2.1")
    site.scale(3)
    first, old, stopped = site.names()
    expect = {"software_version": "0.3.0", "count": 3}
    site.wait_for(lambda: run(hapi_metadata_info, project_dir=str(site.dir), retries=0)["summary"]["answered"] == 3)
    docker("stop", "-t", "0", stopped)
    result = run(
        hapi_metadata_info, project_dir=str(site.dir), expect=expect, fail_on=["error"], retries=1, retry_delay=0.1
    )
    assert result["rc"] == 1
    assert ids(result)[:2] == [("software_version_differs", old), ("replica_unreachable", stopped)]
    assert [said["software_version"] for said in result["replicas"]] == ["0.3.0", "0.2.1", ""]
    assert "the container is exited" in result["replicas"][2]["error"]
    assert result["summary"] == {
        "count": 3,
        "answered": 2,
        "software_versions": ["0.2.1", "0.3.0"],
        "consistent": False,
    }


def test_a_project_that_is_not_there_fails_and_says_so(tmp_path: Path, run: Any) -> None:
    result = run(hapi_metadata_info, project_dir=str(tmp_path / "none"))
    assert result["rc"] == 1
    assert str(tmp_path / "none") in result["msg"]


def test_by_ansible_itself_and_in_check_mode(site: Site) -> None:
    root = Path(plugins.__path__[0]).parents[3]
    ansible = Path(sys.executable).parent / "ansible"
    env = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(root),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
    }
    for module, arguments in (
        ("hapi_metadata_info", {"project_dir": str(site.dir), "bearer_token": "s3cr3t-token-value"}),
        ("balance_info", {"project_dir": str(site.dir), "url": site.url(site.nginx_port), "requests": 5}),
    ):
        argv = [str(ansible), "localhost", "-C", "-vvv", "-m", f"dghs.bd_fhir.{module}", "-a", json.dumps(arguments)]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, cwd=site.dir, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout
        assert '"changed": false' in done.stdout
        assert "s3cr3t-token-value" not in done.stdout.partition("SUCCESS")[2]
        assert "[WARNING]: Value" not in done.stdout + done.stderr
