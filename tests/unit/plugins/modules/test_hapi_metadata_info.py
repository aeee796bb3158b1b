# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._replicas import Replica
from ansible_collections.dghs.bd_fhir.plugins.modules import hapi_metadata_info
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.http_stub import (
    FIXTURES,
    Hapi,
    Server,
    reply,
    statement,
    statement_xml,
)

SECRET = "s3cr3t-token-value"
IG = "https://ig.example/core"


@pytest.fixture
def run(capsys):
    """Run main() with arguments; returns (rc, result)."""

    def call(servers, **arguments):
        given = [item if isinstance(item, str) else item.url for item in servers]
        urls = [{"name": "hapi-%d" % number, "url": url} for number, url in enumerate(given, start=1)]
        arguments = {"urls": urls, "retries": 0, "timeout": 3, **arguments}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            hapi_metadata_info.main()
        return ended.value.code, json.loads(capsys.readouterr().out)

    return call


def ids(result):
    return [(item["id"], item["object"]) for item in result["findings"]]


def test_three_equal_replicas(run):
    with Hapi() as one, Hapi() as two, Hapi() as three:
        rc, result = run([one, two, three], expect={"software_version": "0.3.0", "fhir_version": "4.0.1", "count": 3})
    assert (rc, result["changed"], result["findings"]) == (0, False, [])
    assert result["summary"] == {"count": 3, "answered": 3, "software_versions": ["0.3.0"], "consistent": True}
    said = result["replicas"][0]
    assert (said["name"], said["reachable"], said["attempts"], said["error"]) == ("hapi-1", True, 1, "")
    assert (said["health"], said["readiness"], said["format"]) == ("UP", "UP", "json")
    assert said["implementation_guides"] == [{"canonical": IG, "version": "0.3.0"}]
    assert said["hikari"]["HikariPool-1"]["max"] == 5
    assert said["hikari"]["HikariPool-1"]["idle"] is None
    assert said["jvm"] == {"heap_used": 10000000, "heap_max": None}
    assert said["uptime_seconds"] == 12
    # Without the read data source, and that is known.
    assert (said["figures"], said["reads"]) == (True, None)
    assert said["build"] == {"version": "1.4.0", "revision": "1a2b3c4"}
    assert said["url"] == one.url + "/fhir/metadata"
    assert said["address"] == "127.0.0.1"


def test_what_a_real_hapi_answered_is_read_whole(run):
    """The recorded answers of a HAPI 7.2 server with two pools."""
    routes = {
        "/fhir/metadata": reply((FIXTURES / "metadata.json").read_bytes(), "application/fhir+json;charset=UTF-8"),
        "/actuator/prometheus": reply((FIXTURES / "prometheus.txt").read_bytes(), "text/plain;version=0.0.4"),
        "/actuator/health": reply((FIXTURES / "health.json").read_bytes()),
        "/actuator/health/readiness": reply((FIXTURES / "readiness.json").read_bytes()),
        "/actuator/info": reply((FIXTURES / "info.json").read_bytes()),
    }
    with Server(routes) as server:
        rc, result = run([server], expect={"software_version": "0.2.1"})
    assert (rc, result["findings"]) == (0, [])
    said = result["replicas"][0]
    assert (said["software_name"], said["fhir_version"], said["health"]) == ("BD FHIR National", "4.0.1", "UP")
    assert {pool: figures["max"] for pool, figures in said["hikari"].items()} == {"audit": 2, "fhir": 5}
    assert said["build"] == {"version": "1.0.0", "revision": "abc1234"}
    assert said["statement_age_seconds"] is not None


def test_case_111_the_one_that_differs_is_named(run):
    expect = {"software_version": "0.3.0", "ig": IG, "ig_version": "0.3.0"}
    with Hapi() as one, Hapi("0.2.1") as two, Hapi() as three:
        two.routes["/fhir/metadata"] = reply(statement("0.2.1", IG + "|0.2.1"))
        rc, result = run([one, two, three], expect=expect, fail_on=["error"])
    assert rc == 1
    assert result["failed"]
    assert ids(result)[:2] == [("software_version_differs", "hapi-2"), ("ig_version_differs", "hapi-2")]
    assert "software_version_differs on hapi-2: expected 0.3.0, found 0.2.1" in result["msg"]
    assert result["summary"]["consistent"] is False
    mixed = [item for item in result["findings"] if item["id"] == "versions_mixed"]
    assert mixed[0]["found"] == "0.2.1: hapi-2; 0.3.0: hapi-1, hapi-3"


def test_mixed_versions_are_seen_without_an_expectation_and_do_not_fail_by_default(run):
    with Hapi() as one, Hapi("0.2.1") as two:
        rc, result = run([one, two])
    assert rc == 0
    assert set(ids(result)) == {("versions_mixed", "hapi")}
    assert result["summary"]["software_versions"] == ["0.2.1", "0.3.0"]


def test_a_missing_guide_another_fhir_version_and_another_count(run):
    with Hapi() as one:
        rc, result = run([one], expect={"ig": IG + "/other", "fhir_version": "5.0.0", "count": 3})
    assert ids(result) == [
        ("fhir_version_differs", "hapi-1"),
        ("ig_missing", "hapi-1"),
        ("replica_count_differs", "hapi"),
    ]
    assert result["findings"][1]["found"] == IG + "|0.3.0"


def test_case_101_xml_is_read_and_html_is_an_error(run):
    with Hapi() as one, Hapi() as two:
        one.routes["/fhir/metadata"] = reply(statement_xml(), "application/fhir+xml")
        two.routes["/fhir/metadata"] = reply("<html><body>Please <b>log in</b></body></html>", "text/html")
        rc, result = run([one, two])
    assert [said["format"] for said in result["replicas"]] == ["xml", ""]
    assert result["replicas"][0]["software_version"] == "0.3.0"
    assert ids(result) == [("statement_unreadable", "hapi-2")]
    assert "HTML page" in result["replicas"][1]["error"]
    assert "Please log in" in result["replicas"][1]["error"]
    # It answered, so the rest of it is read; but it is not consistent.
    assert result["replicas"][1]["reachable"]
    assert result["replicas"][1]["readiness"] == "UP"
    assert result["summary"] == {"count": 2, "answered": 1, "software_versions": ["0.3.0"], "consistent": False}


def test_a_dead_replica_is_never_consistent(run):
    with Hapi() as gone:
        url = gone.url
    with Hapi() as one:
        rc, result = run([one, url])
        rc_failing = run([one, url], fail_on=["error"])[0]
    assert (rc, rc_failing) == (0, 1)
    assert ids(result) == [("replica_unreachable", "hapi-2")]
    said = result["replicas"][1]
    assert said["reachable"] is False
    assert "nothing listens" in said["error"]
    assert result["summary"]["consistent"] is False


def test_case_105_a_stored_statement_is_asked_for_again(run):
    answers = iter([statement("0.2.1"), statement("0.2.1"), statement("0.3.0")])
    with Hapi() as one:
        one.routes["/fhir/metadata"] = lambda asked: reply(next(answers))
        rc, result = run([one], retries=3, retry_delay=0.01, expect={"software_version": "0.3.0"}, fail_on=["error"])
    assert rc == 0
    assert result["replicas"][0]["attempts"] == 3
    assert all(asked.headers["cache-control"] == "no-cache" for asked in one.asked if "metadata" in asked.path)


def test_retries_end(run):
    with Hapi("0.2.1") as one:
        rc, result = run([one], retries=2, retry_delay=0.01, expect={"software_version": "0.3.0"}, fail_on=["error"])
    assert rc == 1
    assert result["replicas"][0]["attempts"] == 3


def test_an_answer_out_of_a_cache_and_an_old_statement_are_told(run):
    old = {**statement("0.2.1"), "date": "2020-01-01T00:00:00Z"}
    with Hapi() as one:
        one.routes["/fhir/metadata"] = reply(old, Age="45")
        rc, result = run([one], expect={"software_version": "0.3.0"})
    assert ids(result) == [("statement_cached", "hapi-1"), ("software_version_differs", "hapi-1")]
    assert "kept for 45 s" in result["findings"][0]["found"]
    assert "before this process started" in result["findings"][1]["hint"]


def test_not_ready_and_unhealthy(run):
    down = {"status": "DOWN", "components": {"db": {"status": "DOWN"}, "ping": {"status": "UP"}}}
    with Hapi(ready="OUT_OF_SERVICE") as one:
        one.routes["/actuator/health"] = reply(down, status=503)
        rc, result = run([one])
    assert [(item["id"], item["severity"]) for item in result["findings"]] == [
        ("replica_unhealthy", "warning"),
        ("replica_not_ready", "error"),
    ]
    assert result["findings"][0]["found"] == "DOWN (db DOWN)"
    assert result["replicas"][0]["readiness"] == "OUT_OF_SERVICE"


def test_case_116_what_is_not_exposed_is_told_with_how_to_expose_it(run):
    with Hapi() as one:
        for path in ("/actuator/prometheus", "/actuator/health", "/actuator/health/readiness", "/actuator/info"):
            del one.routes[path]
        rc, result = run([one])
    assert [item["id"] for item in result["findings"]] == ["health_not_exposed"] * 2 + ["prometheus_not_exposed"]
    assert "management.endpoints.web.exposure.include" in result["findings"][2]["hint"]
    assert "micrometer-registry-prometheus" in result["findings"][2]["hint"]
    said = result["replicas"][0]
    assert (said["health"], said["figures"], said["hikari"], said["jvm"]["heap_used"]) == (None, False, {}, None)


def test_a_page_in_place_of_the_figures_is_told(run):
    with Hapi() as one:
        one.routes["/actuator/prometheus"] = reply("<html>Log in</html>", "text/html")
        one.routes["/actuator/health"] = reply("<html>Log in</html>", "text/html")
        one.routes["/actuator/health/readiness"] = reply({}, status=401)
        rc, result = run([one])
        one.routes["/actuator/prometheus"] = reply({}, status=403)
        refused = run([one])[1]["findings"][2]
    assert [item["id"] for item in result["findings"]] == ["health_unreadable"] * 2 + ["prometheus_unreadable"]
    assert (refused["id"], refused["found"]) == ("prometheus_unreadable", "HTTP 403")
    assert [item["hint"].startswith("Give a credential") for item in (*result["findings"], refused)] == [False, True, False, True]


def test_401_and_the_token_nowhere_in_the_result(run):
    def deny(asked):
        return reply({"message": "bad token " + asked.headers["authorization"]}, status=401, WWW_Authenticate="Bearer")

    with Hapi() as one:
        one.routes["/fhir/metadata"] = deny
        rc, result = run([one], bearer_token=SECRET)
    assert "token of option bearer_token was sent" in result["replicas"][0]["error"]
    assert SECRET not in json.dumps(result)


def test_secret_headers_are_masked_and_harmless_ones_spoil_nothing(run):
    with Hapi() as one:
        one.routes["/fhir/metadata"] = lambda asked: reply(statement(version=asked.headers["x-api-key"]))
        rc, result = run([one], headers={"X-Api-Key": SECRET, "Host": "hapi", "X-Forwarded-Proto": "http"})
        assert one.asked[0].headers["host"] == "hapi"
    assert SECRET not in json.dumps(result)
    assert result["replicas"][0]["name"] == "hapi-1"
    assert result["replicas"][0]["url"].startswith("http://")


@pytest.mark.parametrize("url", ["http://user:%s@127.0.0.1:1/" % SECRET, "http://%s@127.0.0.1:1/" % SECRET])
def test_a_password_in_a_url_is_refused_and_masked(run, url):
    rc, result = run([url])
    assert rc == 1
    assert "url_username" in result["msg"]
    assert SECRET not in json.dumps(result)


def test_unchecked_certificates_are_never_silent(run):
    with Hapi() as one:
        rc, result = run([one], validate_certs=False)
    assert ids(result) == [("certificates_not_checked", "hapi")]


def test_a_bad_ca_file_is_refused(run):
    rc, result = run(["http://127.0.0.1:1"], ca_path="/no/such.pem")
    assert rc == 1
    assert "/no/such.pem" in result["msg"]
    assert "ca_path" in result["msg"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"urls": None}, "one of the following is required: urls, project_dir"),
        ({"project_dir": "/x"}, "mutually exclusive: urls|project_dir"),
        ({"url_username": "u"}, "required together"),
        ({"url_username": "u", "url_password": "p-1", "bearer_token": "t-1"}, "mutually exclusive"),
        ({"client_key": "/k"}, "client_cert"),
        ({"expect": {"ig_version": "1"}}, "ig"),
        ({"retries": -1}, "Option retries"),
        ({"timeout": 0}, "Option timeout"),
        ({"port": 70000}, "Option port"),
    ],
)
def test_wrong_arguments_are_refused(run, arguments, words):
    rc, result = run(["http://127.0.0.1:1"], **arguments)
    assert rc == 1
    assert words in result["msg"]


def test_replicas_of_a_compose_project(run, monkeypatch):
    """Discovery itself is tested with a real engine; here: what comes of it, a dead container too."""
    with Hapi() as one:
        found = [
            Replica("p-hapi-1", one.url, one.address, (one.address,)),
            Replica("p-hapi-2", "", "", state="exited", exit_code=137),
        ]
        monkeypatch.setattr(hapi_metadata_info, "discover", lambda *args: (found, SimpleNamespace()))
        rc, result = run([], urls=None, project_dir="/x", retries=3, retry_delay=60)
    assert ids(result) == [("replica_unreachable", "p-hapi-2")]
    assert "docker logs p-hapi-2" in result["findings"][0]["hint"]
    assert result["replicas"][1]["error"] == "the container is exited (exit code 137)"


def test_no_replica_at_all(run, monkeypatch):
    monkeypatch.setattr(hapi_metadata_info, "discover", lambda *args: ([], SimpleNamespace()))
    rc, result = run([], urls=None, project_dir="/x", expect={"count": 1})
    assert ids(result) == [("no_replicas", "hapi"), ("replica_count_differs", "hapi")]
    assert result["summary"]["consistent"] is False


def test_check_mode_is_the_same(run):
    with Hapi() as one:
        plain = run([one])[1]
        checked = run([one], _ansible_check_mode=True)[1]
    for result in (plain, checked):
        result["replicas"][0].pop("statement_age_seconds")
    assert plain == checked


def test_the_docs_name_every_finding():
    """A finding that the documentation does not know cannot be acted upon by a play."""
    import inspect
    import re

    source = inspect.getsource(hapi_metadata_info).partition("import contextlib")[2]
    used = set(re.findall(r'finding\(\s*"(\w+)"', source)) | {"software_version_differs", "fhir_version_differs"}
    documented = set(re.findall(r"V\((\w+)\)", hapi_metadata_info.RETURN.partition("findings:")[2]))
    assert used == documented - {"error", "warning"}
