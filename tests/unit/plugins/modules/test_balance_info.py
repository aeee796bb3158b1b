# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import inspect
import json
import re
import socket
import threading
from types import SimpleNamespace

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _balance
from ansible_collections.dghs.bd_fhir.plugins.module_utils._haproxy import Server as HAProxyServer
from ansible_collections.dghs.bd_fhir.plugins.module_utils._replicas import Replica
from ansible_collections.dghs.bd_fhir.plugins.modules import balance_info
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.http_stub import (
    Balancer,
    Hapi,
    Server,
    make_ca,
    reply,
    server_context,
)

SECRET = "s3cr3t-token-value"


@pytest.fixture
def three():
    with Hapi(address="127.0.0.2") as one, Hapi(address="127.0.0.3") as two, Hapi(address="127.0.0.4") as last:
        yield [one, two, last]


@pytest.fixture
def run(capsys):
    """Run main() with arguments; returns (rc, result)."""

    def call(replicas, entry, **arguments):
        urls = [{"name": "hapi-%d" % (n + 1), "url": item.url} for n, item in enumerate(replicas)]
        url = entry if isinstance(entry, str) else entry.url + "/fhir/metadata"
        arguments = {"urls": urls, "url": url, "requests": 60, "timeout": 3, **arguments}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            balance_info.main()
        return ended.value.code, json.loads(capsys.readouterr().out)

    return call


def ids(result):
    return [(item["id"], item["object"]) for item in result["findings"]]


def test_an_even_spread_by_the_header(run, three):
    with Balancer(three) as entry:
        rc, result = run(three, entry, expect_replicas=3, fail_on=["error"])
    assert (rc, result["changed"], result["findings"]) == (0, False, [])
    assert (result["requests"], result["succeeded"], result["failed_requests"]) == (60, 60, 0)
    assert result["judged_by"] == "header"
    assert result["failures"] == {}
    # 61 requests came, the first one to see whether the entry point redirects.
    assert sorted(row["tagged"] for row in result["replicas"]) == [20, 20, 20]
    assert [row["counted"] for row in result["replicas"]] == [row["tagged"] for row in result["replicas"]]
    assert all(row["ready"] and row["share"] == 0.3333 for row in result["replicas"])
    assert result["run_id"].startswith("bdp-")
    assert sum(asked.headers.get("x-bd-probe") == result["run_id"] for asked in entry.asked) == 60


def test_an_even_spread_by_the_counters_alone(run, three):
    with Balancer(three, header=None) as entry:
        rc, result = run(three, entry, fail_on=["error"])
    assert (rc, result["judged_by"], result["findings"]) == (0, "counter", [])
    assert [row["counted"] for row in result["replicas"]] == [20, 20, 20]
    assert [row["tagged"] for row in result["replicas"]] == [None] * 3


@pytest.mark.parametrize("header", ["X-BD-Served-By", None])
def test_case_38_goes_red_and_names_the_cause(run, three, header):
    with Balancer(three[:1], header=header) as entry:
        rc, result = run(three, entry, fail_on=["error"])
    assert rc == 1
    assert result["failed"]
    assert ids(result) == [("replica_gets_none", "hapi-2"), ("replica_gets_none", "hapi-3")]
    assert "nginx resolves a name in upstream or proxy_pass once" in result["msg"]
    assert "nginx -s reload" in result["msg"]


def test_without_fail_on_it_only_tells(run, three):
    with Balancer(three[:1]) as entry:
        rc, result = run(three, entry)
    assert rc == 0
    assert len(result["findings"]) == 2


def test_no_witness_is_never_ok(run, three):
    for hapi in three:
        hapi.routes.pop("/actuator/prometheus")
    with Balancer(three, header=None) as entry:
        rc, result = run(three, entry, fail_on=["error"])
    assert rc == 1
    assert result["judged_by"] == "none"
    assert ids(result) == [("counter_missing", "hapi-%d" % number) for number in (1, 2, 3)] + [("cannot_judge", "hapi")]


def test_a_metric_by_a_wrong_name_is_told(run, three):
    with Balancer(three) as entry:
        rc, result = run(three, entry, metric="http_requests_total")
    assert rc == 0
    assert {item["id"] for item in result["findings"]} == {"counter_missing"}
    assert {item["severity"] for item in result["findings"]} == {"warning"}


def test_a_lying_counter_is_told(run, three):
    def lie(asked):
        return reply('http_server_requests_seconds_count{uri="UNKNOWN"} 5\n', "text/plain")

    three[1].routes["/actuator/prometheus"] = lie
    with Balancer(three) as entry:
        rc, result = run(three, entry)
    assert ids(result) == [("counts_disagree", "hapi-2")]


def test_a_stranger_behind_the_balancer(run, three):
    with Balancer(three) as entry:
        rc, result = run(three[:2], entry)
    assert ids(result) == [("unknown_server", "hapi")]
    assert "127.0.0.4:%d" % three[2].port in result["findings"][0]["found"]


def test_failing_requests(run, three):
    three[2].routes["/fhir/metadata"] = reply({}, status=500)
    with Balancer(three) as entry:
        rc, result = run(three, entry)
    assert result["failures"] == {"HTTP 500": 20}
    assert result["failed_requests"] == 20
    assert ("requests_failed", "hapi") in ids(result)


def test_an_entry_point_that_does_not_answer(run, three):
    with Server() as gone:
        pass
    rc, result = run(three, gone.url + "/fhir/metadata", fail_on=["error"])
    assert rc == 1
    assert result["requests"] == 0
    assert result["judged_by"] == "none"
    assert ids(result) == [("entry_unreachable", gone.url + "/fhir/metadata")]


def test_a_redirect_is_followed_once_and_before_the_count(run, three):
    with Balancer(three) as entry:
        entry.routes["/"] = 301, {"Location": "/fhir/metadata"}, b""
        rc, result = run(three, entry.url + "/")
    assert result["url"] == entry.url + "/fhir/metadata"
    assert result["findings"] == []
    assert sum(asked.path == "/" for asked in entry.asked) == 1


def test_https_by_the_name_of_host_header(run, three, tmp_path):
    files = make_ca(tmp_path)
    with Balancer(three, context=server_context(files)) as entry:
        url = entry.url.replace("127.0.0.1", "localhost") + "/fhir/metadata"
        rc, result = run(three, url, ca_path=files["ca.pem"], host_header="fhir.example")
        assert result["findings"] == []
        assert result["succeeded"] == 60
        rc, result = run(three, url, ca_path=files["ca.pem"])
        assert ids(result) == [("entry_unreachable", url)]
        assert "host_header" in result["findings"][0]["found"]
        rc, result = run(three, url, validate_certs=False, requests=6)
        assert ids(result) == [("certificates_not_checked", url)]


def test_not_all_were_sent_in_time(run, three):
    with Balancer(three) as entry:
        slow = entry.fallback
        entry.fallback = lambda asked: threading.Event().wait(0.1) or slow(asked)
        rc, result = run(three, entry, max_duration=1, requests=1000, concurrency=2)
    assert ("requests_not_sent", entry.url + "/fhir/metadata") in ids(result)
    assert 0 < result["requests"] < 1000


def test_the_token_is_sent_and_not_shown(run, three):
    with Balancer(three) as entry:
        rc, result = run(three, entry, bearer_token=SECRET)
        assert {asked.headers["authorization"] for asked in entry.asked} == {"Bearer " + SECRET}
    assert SECRET not in json.dumps(result)


def test_a_replica_that_is_not_ready_gets_none_and_that_is_why(run, three):
    three[2].ready = "OUT_OF_SERVICE"
    with Balancer(three[:2]) as entry:
        rc, result = run(three, entry)
    assert [row["ready"] for row in result["replicas"]] == [True, True, False]
    assert ids(result) == [("replica_gets_none", "hapi-3")]
    assert result["findings"][0]["hint"].startswith("It is not ready")


# -- the balancer's own view


def server(name, address, **changes):
    values = {
        "name": name, "address": address, "port": 8080, "admin_state": 0, "op_state": 2, "checked": True,
        "check_health": 3, "check_health_full": 3, "check_status": "L7OK", "sessions": 0, "queued": 0, "weight": 1,
        "status": "UP",
    }  # fmt: skip
    return HAProxyServer(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "up"),
        ({"op_state": 0, "check_health": 0}, "down"),
        ({"admin_state": 8}, "drain"),
        ({"admin_state": 8, "op_state": 0}, "drain"),
        ({"admin_state": 1}, "maint"),
    ],
)
def test_slot_states(changes, state):
    slot = balance_info.to_slot(server("s1", "10.0.0.1", **changes))
    assert (slot.name, slot.address, slot.state, slot.detail) == ("s1", "10.0.0.1", state, "L7OK")


def test_a_slot_without_an_address():
    assert balance_info.to_slot(server("s1", None, admin_state=32, op_state=0)).address == ""


def test_the_reason_comes_from_the_balancer(run, three, monkeypatch):
    servers = [
        server("s1", "127.0.0.2"),
        server("s2", "127.0.0.3", admin_state=8),
        server("s3", "127.0.0.4", op_state=0),
    ]
    monkeypatch.setattr(balance_info.HAProxy, "servers", lambda self, backend: servers)
    with Balancer(three[:1]) as entry:
        rc, result = run(three, entry, balancer={"socket": "/run/x.sock", "backend": "hapi"})
    assert [row["slot_state"] for row in result["replicas"]] == ["up", "drain", "down"]
    assert "set server hapi/s2 state ready" in result["findings"][0]["hint"]
    assert "check of its slot s3 fails (L7OK)" in result["findings"][1]["hint"]


def test_a_balancer_that_cannot_be_read_takes_the_reason_only(run, three, tmp_path, monkeypatch):
    monkeypatch.setattr(balance_info.HAProxy.__init__, "__defaults__", (1.0, 0.0))
    with Balancer(three) as entry:
        rc, result = run(three, entry, balancer={"socket": str(tmp_path / "none.sock"), "backend": "hapi"})
    assert ids(result) == [("balancer_unreadable", "hapi")]
    assert result["findings"][0]["severity"] == "warning"
    assert result["judged_by"] == "header"


# -- a project of containers


def test_containers_that_come_and_go_meanwhile(run, three, monkeypatch):
    made = [Replica("p-hapi-%d" % n, item.url, item.address, (item.address,)) for n, item in enumerate(three, start=1)]
    seen = iter([made[:2], [made[0], made[2]]])
    docker = SimpleNamespace(containers=list)
    monkeypatch.setattr(balance_info, "discover", lambda module: (next(seen), docker))
    with Balancer(three) as entry:
        rc, result = run(three, entry, urls=None, project_dir="/x")
    assert [row["name"] for row in result["replicas"]] == ["p-hapi-1", "p-hapi-3", "p-hapi-2"]
    assert [row["tagged"] for row in result["replicas"]] == [20, 20, 20]
    assert result["findings"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"requests": 0}, "Option requests is 0, but must be from 1 to 100000"),
        ({"requests": 100001}, "Option requests"),
        ({"concurrency": 65}, "Option concurrency"),
        ({"min_share": 1.5}, "Option min_share"),
        ({"method": "POST"}, "method must be one of: GET, HEAD"),
        ({"url": "127.0.0.1/fhir"}, "not an absolute http or https URL"),
        ({"url": "http://u:%s@127.0.0.1/" % SECRET}, "url_username"),
        ({"balancer": {"socket": "/x"}}, "backend"),
        ({"urls": None}, "one of the following is required"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_sent(run, three, arguments, words):
    with Balancer(three) as entry:
        rc, result = run(three, entry, **arguments)
        assert entry.asked == []
    assert rc == 1
    assert words in result["msg"]
    assert SECRET not in json.dumps(result)


def test_it_talks_to_nothing_but_what_it_was_given(run, three, monkeypatch):
    connected = set()
    original = socket.create_connection

    def spy(address, *args, **kwargs):
        connected.add(address[0])
        return original(address, *args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", spy)
    with Balancer(three) as entry:
        run(three, entry, requests=3)
    assert connected <= {"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"}


def test_the_docs_name_every_finding():
    source = inspect.getsource(balance_info).partition("import dataclasses")[2] + inspect.getsource(_balance)
    used = set(re.findall(r'finding\(\s*"(\w+)"', source))
    documented = set(re.findall(r"V\((\w+)\)", balance_info.RETURN.partition("findings:")[2]))
    assert used == documented - {"error", "warning"}
