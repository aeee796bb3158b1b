# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import math

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _prometheus
from ansible_collections.dghs.bd_fhir.plugins.module_utils._fhir import Client
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.http_stub import FIXTURES, Server, reply
from hypothesis import given
from hypothesis import strategies as st


def real() -> list[_prometheus.Sample]:
    """What a HAPI 7.2 server of overlay/ said (Spring Boot 3.2.5)."""
    return list(_prometheus.parse((FIXTURES / "prometheus.txt").read_text()))


def test_a_scrape_says_why_there_is_none():
    page = "<html>s3cret-token</html>"
    with Server({"/figures": reply("up 1\n", "text/plain"), "/page": reply(page, "text/html")}) as server:
        client = Client(bearer_token="s3cret-token")
        assert _prometheus.scrape(client, server.url + "/figures") == [_prometheus.Sample("up", 1.0)]
        with pytest.raises(_prometheus.PrometheusError, match="HTTP 404") as missing:
            _prometheus.scrape(client, server.url + "/nothing")
        with pytest.raises(_prometheus.PrometheusError, match="line 1 .*html>[*]{8}<") as another:
            _prometheus.scrape(client, server.url + "/page")
    assert (missing.value.status, another.value.status) == (404, 200)


def test_a_real_scrape_is_read_whole():
    lines = [line for line in (FIXTURES / "prometheus.txt").read_text().splitlines() if line and line[0] != "#"]
    assert len(real()) == len(lines) > 100


def test_figures_of_a_real_scrape():
    samples = real()
    pools = _prometheus.hikari(samples)
    assert pools
    for figures in pools.values():
        assert set(figures) == {"total", "active", "idle", "pending", "max", "timeouts"}
        assert None not in figures.values()
        assert figures["active"] + figures["idle"] == figures["total"] <= figures["max"]
    heap = _prometheus.jvm(samples)
    assert 0 < heap["heap_used"] < heap["heap_max"]
    assert _prometheus.total(samples, "process_uptime_seconds") > 0
    assert _prometheus.requests_served(samples, "http_server_requests_seconds_count") >= 0


def test_every_figure_that_is_looked_for_exists_in_a_real_scrape():
    """Case 112: a metric by a wrong name is never there, and nobody notices."""
    names = {sample.name for sample in real()}
    assert set(_prometheus.HIKARI_GAUGES.values()) <= names
    assert "hikaricp_connection_timeout_total" not in names
    assert {"jvm_memory_used_bytes", "jvm_memory_max_bytes", "http_server_requests_seconds_count"} <= names


def test_labels_are_unescaped_and_may_hold_anything():
    text = 'm{a="x\\"y\\\\z\\n",b="} 7 # {",c="বাংলা\u2028x",} 1.5e3 1700000000000\n'
    assert list(_prometheus.parse(text)) == [
        _prometheus.Sample("m", 1500.0, {"a": 'x"y\\z\n', "b": "} 7 # {", "c": "বাংলা\u2028x"})
    ]


def test_openmetrics_exemplar_empty_labels_and_special_values():
    text = '# TYPE a counter\na_total{} 3 # {trace_id="x"} 0.67\nb +Inf\nc NaN\n# EOF\n'
    a, b, c = _prometheus.parse(text)
    assert (a.value, b.value, math.isnan(c.value)) == (3.0, math.inf, True)


@pytest.mark.parametrize(
    "text",
    [
        "<html><body>Bad Gateway</body></html>",
        '{"status":404}',
        "metric_without_value",
        "metric{a=b} 1",
        'metric{a="b" 1',
        'metric{a="b" c="d"} 1',
        "metric one",
    ],
)
def test_another_format_is_an_error_and_not_an_empty_scrape(text):
    with pytest.raises(_prometheus.PrometheusError, match="line 1"):
        list(_prometheus.parse(text))


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser_otherwise(text):
    with contextlib.suppress(_prometheus.PrometheusError):
        list(_prometheus.parse(text))


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), st.text(max_size=20), max_size=4))
def test_what_was_escaped_comes_back(labels):
    def escape(value):
        return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    text = "m{%s} 1" % ",".join('%s="%s"' % (name, escape(value)) for name, value in labels.items())
    (sample,) = _prometheus.parse(text)
    assert sample.labels == labels


def test_heap_is_summed_and_a_pool_without_maximum_is_left_out():
    text = (
        'jvm_memory_used_bytes{area="heap",id="G1 Eden Space"} 10\n'
        'jvm_memory_used_bytes{area="heap",id="G1 Old Gen"} 20\n'
        'jvm_memory_used_bytes{area="nonheap",id="Metaspace"} 400\n'
        'jvm_memory_max_bytes{area="heap",id="G1 Eden Space"} -1.0\n'
        'jvm_memory_max_bytes{area="heap",id="G1 Old Gen"} 512\n'
    )
    samples = list(_prometheus.parse(text))
    assert _prometheus.jvm(samples) == {"heap_used": 30, "heap_max": 512}
    only_unlimited = [item for item in samples if item.labels["id"] != "G1 Old Gen"]
    assert _prometheus.jvm(only_unlimited)["heap_max"] is None


def test_two_pools_stay_two():
    text = 'hikaricp_connections_max{pool="fhir"} 5\nhikaricp_connections_max{pool="audit"} 3\n'
    pools = _prometheus.hikari(list(_prometheus.parse(text)))
    assert {name: figures["max"] for name, figures in pools.items()} == {"audit": 3, "fhir": 5}
    assert pools["fhir"]["timeouts"] is None


def test_requests_to_the_actuator_do_not_count():
    text = (
        'm{uri="UNKNOWN",status="200"} 7\nm{uri="UNKNOWN",status="404"} 2\nm{uri="/actuator/health/**"} 999\n'
        'm{uri="/actuator"} 5\nm{uri="/actuators-of-mine"} 1\nother{uri="x"} 50\n'
    )
    samples = list(_prometheus.parse(text))
    assert _prometheus.requests_served(samples, "m") == 10
    assert _prometheus.requests_served(samples, "m", "/manage") == 1014
    assert _prometheus.requests_served(samples, "no_such_series") is None
    assert _prometheus.requests_served(_prometheus.parse('m{uri="/actuator/info"} 3'), "m") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jvm_threads 3", None),
        (
            "fhir_read_routing_enabled 0.0",
            {"enabled": False, "standby": 0, "primary": 0, "standby_up": None, "lag_seconds": None},
        ),
        (
            'fhir_read_routing_enabled 1\nfhir_read_requests_total{route="standby",reason="ok"} 7\n'
            'fhir_read_requests_total{route="primary",reason="out"} 2\nfhir_read_requests_total{route="primary",reason="retried"} 1\n'
            "fhir_read_standby_up 0\nfhir_read_standby_lag_seconds NaN",
            {"enabled": True, "standby": 7, "primary": 3, "standby_up": False, "lag_seconds": None},
        ),
        (
            "fhir_read_routing_enabled 1\nfhir_read_standby_up 1\nfhir_read_standby_lag_seconds 0.25",
            {"enabled": True, "standby": 0, "primary": 0, "standby_up": True, "lag_seconds": 0.25},
        ),
    ],
)
def test_reads_are_told_apart_from_an_image_without_them(text: str, expected: dict[str, object] | None) -> None:
    assert _prometheus.reads(list(_prometheus.parse(text))) == expected
