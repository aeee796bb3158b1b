# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import datetime
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _balance
from ansible_collections.dghs.bd_fhir.plugins.module_utils._balance import Count, Entry, Slot, Tally, View
from ansible_collections.dghs.bd_fhir.plugins.module_utils._fhir import Client
from ansible_collections.dghs.bd_fhir.plugins.module_utils._replicas import Replica
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.http_stub import Balancer, Hapi, Server, reply
from hypothesis import given
from hypothesis import strategies as st

STARTED = datetime.datetime(2026, 11, 25, 10, 0, tzinfo=datetime.timezone.utc)
NGINX = Entry("p-nginx-1", "nginx", "nginx:1.22", ("frontend",), "2026-11-25T08:00:00Z")


def replica(number, **changes):
    address = "172.18.0.%d" % (2 + number)
    values = {
        "name": "hapi-%d" % number, "url": "http://%s:8080" % address, "address": address, "addresses": (address,),
        "networks": ("frontend",), "started_at": "2026-11-25T09:00:00.123456789Z",
    }  # fmt: skip
    return Replica(**{**values, **changes})


def view(shares, header=True, counters=True, **changes):
    """A probe in which hapi-1, hapi-2, ... answered so many requests each."""
    replicas = [replica(number + 1) for number in range(len(shares))]
    total = sum(shares)
    tally = Tally(sent=total, succeeded=total)
    if header:
        tally.served = Counter({"%s:8080" % item.address: n for item, n in zip(replicas, shares) if n})
    else:
        tally.unmarked = total
    values = {
        "service": "hapi",
        "replicas": replicas,
        "tally": tally,
        "ready": {item.name: True for item in replicas},
        "before": {item.name: Count(100) if counters else Count(problem="GET x: HTTP 404") for item in replicas},
        "after": {
            item.name: Count(100 + n) if counters else Count(problem="GET x: HTTP 404")
            for item, n in zip(replicas, shares)
        },
        "slots": None,
        "entry": None,
        "started": STARTED,
    }
    return View(**{**values, **changes})


def named(findings):
    return [(item["id"], item["object"]) for item in findings]


# -- the verdict


@pytest.mark.parametrize(("header", "basis"), [(True, "header"), (False, "counter")])
def test_an_even_spread_has_no_finding(header, basis):
    rows, judged_by, findings = _balance.judge(view([100, 100, 100], header=header))
    assert (judged_by, findings) == (basis, [])
    assert [row["share"] for row in rows] == [0.3333] * 3
    assert [row["counted"] for row in rows] == [100] * 3
    assert [row["tagged"] for row in rows] == ([100] * 3 if header else [None] * 3)


@pytest.mark.parametrize("header", [True, False])
def test_case_38_one_replica_gets_all(header):
    findings = _balance.judge(view([300, 0, 0], header=header, entry=NGINX))[2]
    assert named(findings) == [("replica_gets_none", "hapi-2"), ("replica_gets_none", "hapi-3")]
    for item in findings:
        assert item["severity"] == "error"
        assert item["found"] == "none of 300"
        assert "p-nginx-1 was started 2026-11-25 08:00:00" in item["hint"]
        assert "resolves a name in upstream or proxy_pass once" in item["hint"]
        assert "nginx -s reload" in item["hint"]


def test_half_an_even_share_is_the_edge():
    assert _balance.judge(view([50, 125, 125]))[2] == []
    (item,) = _balance.judge(view([49, 125, 126]))[2]
    assert (item["id"], item["object"], item["severity"]) == ("share_low", "hapi-1", "error")
    assert item["found"] == "16.3 % (49)"
    assert item["expected"] == "at least 16.7 % of the requests"
    assert _balance.judge(view([1, 150, 149], min_share=0))[2] == []


def test_without_any_witness_the_verdict_is_never_good():
    rows, basis, findings = _balance.judge(view([100, 100], header=False, counters=False))
    assert basis == "none"
    assert [row["share"] for row in rows] == [None, None]
    assert ("cannot_judge", "hapi") in named(findings)
    assert {item["severity"] for item in findings} == {"error"}


def test_one_missing_counter_is_enough_to_not_judge_by_counters():
    seen = view([150, 0], header=False)
    seen.after["hapi-2"] = Count(problem="GET http://172.18.0.4:8080/actuator/prometheus: HTTP 404")
    basis, findings = _balance.judge(seen)[1:]
    assert basis == "none"
    assert named(findings) == [("counter_missing", "hapi-2"), ("cannot_judge", "hapi")]
    assert "Expose /actuator/prometheus" in findings[0]["hint"]
    seen.after["hapi-2"] = Count(problem="GET http://172.18.0.4:8080/actuator/prometheus: HTTP 401", status=401)
    assert "Give a credential" in _balance.judge(seen)[2][0]["hint"]


def test_a_header_on_a_part_of_the_answers_is_not_trusted():
    seen = view([100, 100], header=True)
    seen.tally.served["172.18.0.3:8080"] -= 40
    seen.tally.unmarked = 40
    rows, basis, findings = _balance.judge(seen)
    assert (basis, findings) == ("counter", [])
    assert [row["tagged"] for row in rows] == [60, 100]
    blind = dataclasses.replace(seen, after={name: Count(problem="GET x: HTTP 401") for name in seen.after})
    assert _balance.judge(blind)[1] == "none"
    (item,) = [item for item in _balance.judge(blind)[2] if item["id"] == "cannot_judge"]
    assert item["found"].startswith("40 of 200 answers without the header X-BD-Served-By")


def test_the_header_is_enough_but_missing_counters_are_told():
    basis, findings = _balance.judge(view([100, 100], counters=False))[1:]
    assert basis == "header"
    assert [(item["id"], item["severity"]) for item in findings] == [("counter_missing", "warning")] * 2


def test_witnesses_that_contradict_each_other():
    seen = view([100, 100])
    seen.after["hapi-2"] = Count(105)
    assert named(_balance.judge(seen)[2]) == [("counts_disagree", "hapi-2")]
    more = view([100, 100])
    more.after["hapi-2"] = Count(900)  # other traffic
    assert _balance.judge(more)[2] == []


def test_counters_that_do_not_add_up_show_that_something_else_answers():
    seen = view([100, 100], header=False)
    seen.after["hapi-1"] = Count(140)
    basis, findings = _balance.judge(seen)[1:]
    assert basis == "counter"
    assert named(findings) == [("counts_disagree", "hapi")]
    cached = view([0, 0], header=False)
    cached.tally.sent = cached.tally.succeeded = cached.tally.unmarked = 300
    assert named(_balance.judge(cached)[2]) == [("counts_disagree", "hapi")]


def test_answers_of_a_server_that_is_no_replica():
    seen = view([100, 100])
    seen.tally.served["172.18.0.99:8080"] = 100
    seen.tally.sent = seen.tally.succeeded = 300
    rows, dummy, findings = _balance.judge(seen)
    assert named(findings) == [("unknown_server", "hapi")]
    assert findings[0]["found"] == "100 answers of 172.18.0.99:8080"
    assert [row["share"] for row in rows] == [0.3333, 0.3333]


def test_failed_requests_and_all_failed_requests():
    seen = view([100, 100])
    seen.tally.sent = 203
    seen.tally.failures = Counter({"HTTP 502": 2, "timeout": 1})
    seen.tally.example = "GET http://x: HTTP 502"
    (item,) = _balance.judge(seen)[2]
    assert item["found"] == "3 of 203 failed: 2 x HTTP 502, 1 x timeout"
    assert "HTTP 502" in item["hint"]
    dead = view([0, 0])
    dead.tally.sent, dead.tally.failures = 300, Counter({"HTTP 502": 300})
    rows, basis, findings = _balance.judge(dead)
    assert basis == "none"
    assert named(findings) == [("requests_failed", "hapi")]


def test_a_replica_that_answers_with_errors_does_get_its_share():
    seen = view([150, 150])
    seen.tally.succeeded = 150
    seen.tally.failures = Counter({"HTTP 500": 150})
    assert named(_balance.judge(seen)[2]) == [("requests_failed", "hapi")]


def test_counts_of_replicas():
    assert named(_balance.judge(view([50, 50], expect_replicas=3))[2]) == [("replica_count_differs", "hapi")]
    assert _balance.judge(view([50, 50], expect_replicas=2))[2] == []
    assert ("no_replicas", "hapi") in named(_balance.judge(view([]))[2])


def test_a_container_that_is_gone_is_no_finding_and_a_dead_one_is():
    seen = view([100, 100, 0])
    replicas = list(seen.replicas)
    replicas[2] = dataclasses.replace(replicas[2], state="removed")
    assert _balance.judge(dataclasses.replace(seen, replicas=replicas))[2] == []
    replicas[2] = dataclasses.replace(replicas[2], state="exited", exit_code=137)
    findings = _balance.judge(dataclasses.replace(seen, replicas=replicas))[2]
    assert named(findings) == [("replica_gets_none", "hapi-3")]
    assert findings[0]["hint"].startswith("The container is exited (exit code 137)")


@given(st.lists(st.integers(0, 500), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_no_finding_only_if_each_has_its_share(shares, header, counters):
    seen = view(shares, header=header, counters=counters)
    rows, basis, findings = _balance.judge(seen)
    errors = [item for item in findings if item["severity"] == "error"]
    fair = sum(shares) > 0 and all(n and n >= 0.5 * sum(shares) / len(shares) for n in shares)
    if sum(shares):
        assert (not errors) == (fair and (header or counters))
        assert basis == ("header" if header else "counter" if counters else "none")
    if basis != "none":
        assert sum(row["share"] for row in rows) == pytest.approx(1, abs=0.01)


def test_a_replica_that_cannot_be_asked_blocks_unless_the_header_shows_that_it_answered():
    gone = Count(problem="GET x: refused", reachable=False)
    answered = view([100, 100])
    answered.after["hapi-2"] = gone
    assert [(item["id"], item["severity"]) for item in _balance.judge(answered)[2]] == [
        ("replica_unreachable", "warning")
    ]
    silent = view([200, 0])
    silent.after["hapi-2"] = gone
    assert [(item["id"], item["severity"]) for item in _balance.judge(silent)[2]] == [
        ("replica_unreachable", "error"),
        ("replica_gets_none", "error"),
    ]
    unread = view([100, 100], header=False)
    unread.after["hapi-2"] = gone
    assert [(item["id"], item["severity"]) for item in _balance.judge(unread)[2]] == [
        ("replica_unreachable", "error"),
        ("cannot_judge", "error"),
    ]


# -- why


def why(number=2, **changes):
    seen = view([100, 100, 100], **changes)
    return _balance.cause(seen.replicas[number - 1], seen)


def slots(state, address="172.18.0.4", detail="L7STS/503"):
    return [Slot("hapi-1", "172.18.0.3", "up"), Slot("hapi-2", address, state, detail), Slot("hapi-3", "", "down")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ready": {"hapi-2": False}}, "It is not ready"),
        (
            {"slots": slots("drain"), "backend": "be"},
            "slot hapi-2 in HAProxy is in state drain.*set server be/hapi-2 state ready",
        ),
        ({"slots": slots("maint"), "backend": "be"}, "state maint"),
        ({"slots": slots("down"), "backend": "be"}, "check of its slot hapi-2 fails .L7STS/503."),
        ({"slots": slots("up"), "backend": "be"}, "do not come through backend be.*Point nginx at HAProxy"),
        ({"slots": slots("up", address="172.18.0.77"), "backend": "be"}, "No slot.*on none of its net.*show resolvers"),
        ({"slots": slots("up", address="172.18.0.77")[:2], "backend": "be"}, "All 2 slots.*server-template"),
        ({"entry": dataclasses.replace(NGINX, networks=("edge",))}, "no network of p-nginx-1 .edge., but only on fro"),
        (
            {"slots": slots("up", address="x"), "entry": dataclasses.replace(NGINX, networks=("edge",))},
            "No slot of HAProxy",
        ),
        ({"entry": NGINX}, "p-nginx-1 was started .*08:00:00.*this replica later, 2026-11-25 09:00:00"),
        ({"entry": dataclasses.replace(NGINX, started_at="2026-11-25T09:30:00Z")}, "may have had its address.*ip_hash"),
        ({"entry": dataclasses.replace(NGINX, service="lb", image="reg.io/nginx/haproxy")}, "does not send it"),
        ({}, "Most likely the proxy in front"),
    ],
)  # fmt: skip
def test_the_cause_is_named(changes, words):
    import re

    assert re.search(words, why(**changes)), why(**changes)


def test_a_replica_younger_than_the_probe():
    seen = view([100, 100])
    young = dataclasses.replace(seen.replicas[1], started_at="2026-11-25T10:00:01Z")
    assert "started while the probe ran" in _balance.cause(young, seen)


def test_the_entry_point_is_the_container_that_publishes_the_port():
    def made(name, service, ports, state="running", mounts=None):
        return SimpleNamespace(
            id=name,
            name=name,
            service=service,
            ports=ports,
            state=state,
            image_ref="i",
            addresses={"n": "1"},
            started_at="",
            mounts=mounts or [],
        )

    both = ["0.0.0.0:443->443/tcp", ":::443->443/tcp"]
    conf = {"source": "/opt/site/nginx.conf", "destination": "/etc/nginx/nginx.conf"}
    nginx = made("nginx-1", "nginx", both, mounts=[conf, {"source": "/certs", "destination": "/certs"}])
    others = [
        made("hapi-1", "hapi", both),
        made("db", "db", ["127.0.0.1:5443->443/tcp"]),
        made("old", "x", both, "exited"),
    ]
    entry = _balance.find_entry("https://127.0.0.1/fhir", [nginx, *others], "hapi")
    assert (entry.name, entry.files) == ("nginx-1", ("/opt/site/nginx.conf",))
    assert "on this host: /opt/site/nginx.conf." in why(entry=dataclasses.replace(entry, networks=("frontend",)))
    assert _balance.find_entry("http://127.0.0.1/fhir", [nginx, *others], "hapi") is None
    assert _balance.find_entry("https://h/", [nginx, made("two", "y", both)], "hapi") is None


# -- who


REPLICAS = [replica(1), replica(2, addresses=("172.18.0.4", "fd00::4"))]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("172.18.0.3", "hapi-1"),
        ("172.18.0.3:8080", "hapi-1"),
        ("[fd00::4]:8080", "hapi-2"),
        ("fd00::4", "hapi-2"),
        ("hapi-2", "hapi-2"),
        ("slot7", "hapi-1"),
        ("172.18.0.99:443, 172.18.0.4:8080", "hapi-2"),
        ("172.18.0.99", None),
        ("-", None),
        ("", None),
    ],
)
def test_identify(value, name):
    assert _balance.identify(value, REPLICAS, [Slot("slot7", "172.18.0.3", "up"), Slot("free", "", "down")]) == name


def test_identify_tells_replicas_at_one_address_apart_by_port():
    two = [
        replica(1, url="http://10.0.0.1:81", addresses=("10.0.0.1",)),
        replica(2, url="http://10.0.0.1:82", addresses=("10.0.0.1",)),
    ]
    assert _balance.identify("10.0.0.1:82", two, None) == "hapi-2"
    assert _balance.identify("10.0.0.1", two, None) is None


# -- counting


@pytest.mark.parametrize(
    ("before", "after", "result"),
    [
        (Count(5), Count(12), 7),
        (Count(None), Count(3), 3),  # no series before the first request
        (Count(5), Count(5), 0),
        (Count(5), Count(2), "restarted"),
        (Count(None), Count(None), "no such series"),
        (Count(5), Count(problem="gone"), "gone"),
        (Count(problem="not yet"), Count(5), "not yet"),
    ],
)
def test_delta(before, after, result):
    value, problem = _balance.delta(before, after)
    assert value == result if isinstance(result, int) else (value is None and result in problem)


def test_each_request_is_tagged_and_counted():
    with Hapi(address="127.0.0.2") as one, Hapi(address="127.0.0.3") as two, Balancer([one, two]) as entry:
        tally = _balance.send(
            Client(), entry.url + "/fhir/metadata", "bdp-1", 41, 4, 60, "X-BD-Served-By", host_header="fhir.example"
        )
        assert (tally.sent, tally.succeeded, tally.failed, tally.unmarked) == (41, 41, 0, 0)
        assert sum(tally.served.values()) == 41 == one.served + two.served
        assert tally.served["127.0.0.2:%d" % one.port] == one.served
        ids = sorted(asked.headers["x-request-id"] for asked in entry.asked)
        assert ids == sorted("bdp-1-%d" % number for number in range(1, 42))
        assert {asked.headers["x-bd-probe"] for asked in entry.asked} == {"bdp-1"}
        assert {asked.headers["host"] for asked in entry.asked} == {"fhir.example"}
        assert {asked.headers["connection"] for asked in entry.asked} == {"close"}


def test_failures_are_counted_by_kind():
    turn = iter(range(100))

    def sometimes(asked):
        number = next(turn)
        return reply({}) if number % 3 == 0 else reply({}, status=502) if number % 3 == 1 else None

    with Server({"/m": sometimes}) as server:
        tally = _balance.send(Client(), server.url + "/m", "r", 9, 1, 60, "X-BD-Served-By")
    assert (tally.succeeded, tally.failed, dict(tally.failures)) == (3, 6, {"HTTP 502": 3, "connect": 3})
    assert tally.unmarked == 3
    assert "HTTP 502" in tally.example


def test_a_redirect_of_a_tagged_request_is_a_failure_and_not_a_second_request():
    with Server({"/m": (302, {"Location": "/n"}, b""), "/n": reply({})}) as server:
        tally = _balance.send(Client(), server.url + "/m", "r", 2, 1, 60, "X-BD-Served-By")
        assert dict(tally.failures) == {"HTTP 302": 2}
        assert len(server.asked) == 2


def test_sending_ends_after_max_duration():
    with Server({"/m": lambda asked: time.sleep(0.2) or reply({})}) as server:
        started = time.monotonic()
        tally = _balance.send(Client(), server.url + "/m", "r", 1000, 2, 0.5, "X-BD-Served-By")
        assert time.monotonic() - started < 2
        assert 0 < tally.sent < 20


def test_reading_a_count():
    with Hapi() as hapi:
        one = Replica("a", hapi.url, hapi.address)
        assert _balance.read_count(Client(), one, "/actuator", "http_server_requests_seconds_count") == Count(0)
        hapi.served = 3
        assert _balance.read_count(Client(), one, "/actuator", "http_server_requests_seconds_count") == Count(3)
        assert _balance.read_count(Client(), one, "/actuator", "other") == Count(None)
        missing = _balance.read_count(Client(), one, "/manage", "x")
        assert missing == Count(problem="GET %s/manage/prometheus: HTTP 404" % hapi.url, status=404)
        hapi.routes["/actuator/prometheus"] = reply("<html>", "text/html")
        assert "line 1" in _balance.read_count(Client(), one, "/actuator", "x").problem
    assert "nothing listens" in _balance.read_count(Client(), one, "/actuator", "x").problem
    assert not _balance.read_count(Client(), one, "/actuator", "x").reachable
    dead = Replica("b", "", "", state="exited", exit_code=1)
    assert _balance.read_count(Client(), dead, "/actuator", "x") == Count(
        None, "the container is exited (exit code 1)", reachable=False
    )
