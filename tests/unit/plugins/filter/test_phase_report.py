# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Optional

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.dghs.bd_fhir.plugins.filter import phase_report as plugin
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _phase_page, _phase_report
from ansible_collections.dghs.bd_fhir.plugins.modules import phase_info
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures/phase/result.json").read_text())
HOSTILE = "</title></style><script>alert('1')</script>\"'><img src=x onerror=alert(1)>&amp;|`*[a](javascript:x)\n\\ \x00\u202e{% raw %}"
report = plugin.FilterModule().filters()["phase_report"]


class Page(HTMLParser):
    """What is in a page: its tags in order, attributes and texts; unbalanced tags are an error."""

    VOID = {"meta", "link"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, Optional[str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def hostile(value: Any, text: str, keep: frozenset[str] = frozenset()) -> Any:
    """Put a text in the place of every text that comes from a database, a server or a file."""
    ours = {
        "status", "now", "at", "phase", "level", "to", "quality", "projected", "earliest", "latest", "confidence", "severity", "decided_by",
        "state", "source",
        "when", "as_of", "covered_until",
    } | keep  # fmt: skip
    if isinstance(value, dict):
        return {key: item if key in ours else hostile(item, text, keep) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, text, keep) for item in value]
    return text if isinstance(value, str) else value


def bare() -> dict[str, Any]:
    """What is there when nothing could be read."""
    unknown = {
        "value": None,
        "method": "",
        "quality": "",
        "as_of": None,
        "why": "it could not be read",
        "level": None,
        "phase": None,
        "threshold": {},
    }
    limits = [{"to": "regional", "limit": 50, "reached": None, "left": None, "share": None, "projected": None, "earliest": None, "latest": None,
               "per_day": None, "confidence": "none", "why": "not enough history"}]  # fmt: skip
    return {
        "phase": None, "level": None, "exceeded": False, "at_least": True, "decided_by": "", "metrics": {"vendors": {**unknown, "limits": limits}},
        "deployed": {"phase": "pilot", "at_least": True, "held_by": ["replicas"], "aspects": {"replicas": {"found": "not known", "phase": None}}},
        "due": [], "next": None, "status": "partial", "exit_code": 3, "partial": True, "unread": [{"what": "all", "service": "x", "why": "down"}],
        "partitioning": {"state": "unknown", "why": "x"}, "plans": {"source": "", "searches": []}, "databases": {"fhir": None, "audit": None},
        "tables": [], "indexes": [], "connections": [], "partitions": None, "sample": {}, "history": {"samples": [], "faults": []},
        "now": "2026-11-26T03:00:00Z", "findings": [], "writes_per_day": None,
    }  # fmt: skip


@pytest.mark.parametrize("result", [FIXTURE, bare(), {"metrics": {}}], ids=["full", "bare", "empty"])
@pytest.mark.parametrize("kind", sorted(plugin.FORMATS))
def test_every_report_of_every_result(result: dict[str, Any], kind: str) -> None:
    before = copy.deepcopy(result)
    text = report(result, kind, "BD FHIR", "fhir1")
    assert text.endswith("\n")
    assert report(result, kind, "BD FHIR", "fhir1") == text
    assert result == before


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = report(FIXTURE)
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|@font-face", text)
    assert not {"script", "iframe", "img", "object", "form", "base"} & set(page.tags)
    assert {name for name, value in page.attributes if name in ("src", "href", "action", "xlink:href")} == {"href"}
    assert [value for name, value in page.attributes if name == "href"] == ["data:,"]
    assert not [name for name, _value in page.attributes if name.startswith("on")]
    assert "default-src 'none'" in text
    assert ("name", "viewport") in page.attributes
    for part in ("prefers-color-scheme:dark", "@media print", "max-width:640px"):
        assert part in text


def test_the_page_tells_all_parts() -> None:
    page = Page(report(FIXTURE, "html", "BD FHIR National", "fhir-pilot"))
    told = " ".join(page.texts)
    for text in (
        "Something is critical", "The load asks for the phase pilot, by vendors (47). Deployed is pilot.", "This answer is partial.",
        "permission denied for table hfj_spidx_string", "maintain_audit_partitions", "about 812,000", "27 of 27 usable, 100.0 %",
        "1.9 GB, 4,800,000 rows",
        "no index begins with hash_value", "401 days left", "1 gap", "32.1 %, 387 of 1,204", "<script>alert(1)</script>", "too few to judge",
        "fhir-pilot",
    ):  # fmt: skip
        assert text in told, text
    # A chart for each metric, with its words for who does not see it.
    charts = [value for name, value in page.attributes if name == "aria-label"]
    assert [text for text in charts if text and text.startswith("Vendors: 47 now; regional at 50: 2026-12-20")]
    assert page.tags.count("polyline") == 6
    assert page.tags.count("svg") == 3 + 2 + 6 + 11 + 3


@pytest.mark.parametrize("kind", ["html", "markdown"])
def test_whose_searches_were_planned(kind: str) -> None:
    assert "Plans of the site" in report(FIXTURE, kind)
    plans = {**FIXTURE["plans"], "source": "default", "why": "a superuser plans nothing of others"}
    assert "Plans of a default set: 1 (a superuser plans nothing of others)." in report({**FIXTURE, "plans": plans}, kind)


@pytest.mark.parametrize("kind", ["html", "markdown"])
def test_what_is_not_known_of_the_audit_tables_is_not_told_as_nothing(kind: str) -> None:
    def told(**changed: Any) -> str:
        return report({**FIXTURE, "partitions": {**FIXTURE["partitions"], **changed}}, kind)

    assert "Not known." not in told()
    assert "Not known." not in told(rejections=[])
    assert told(rejections=None).count("Not known.") == 1
    assert report({**FIXTURE, "partitions": None}, kind).count("Not known.") == 2
    table = {**FIXTURE["partitions"]["tables"][0], "readable": False, "days_left": None, "gaps": None, "bytes": None, "partitions": []}
    text = told(tables=[table])
    assert "ot known" in text
    assert "no gap" not in text
    assert "| not known | not known | not known |" in text or kind == "html"


def test_a_page_of_nothing_says_so() -> None:
    told = " ".join(Page(report(bare())).texts)
    assert "Nothing of the load could be read, so no phase can be told." in told
    assert "Not known: it could not be read" in told
    assert "Something is" not in told
    assert "Nothing is due" not in told


def test_hostile_texts_stay_texts() -> None:
    plain, attacked = Page(report(FIXTURE)), Page(report(hostile(FIXTURE, HOSTILE), "html", HOSTILE, HOSTILE))
    assert attacked.tags == plain.tags
    assert [name for name, _value in attacked.attributes] == [name for name, _value in plain.attributes]
    assert not re.search("[\x00\u202e]", report(hostile(FIXTURE, HOSTILE)))


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text(max_size=30))
def test_no_text_changes_the_form(text: str) -> None:
    attacked = hostile(FIXTURE, text)
    assert Page(report(attacked, "html", text, text)).tags == Page(report(hostile(FIXTURE, "x"), "html", "x", "x")).tags or not text.strip()
    json.loads(report(attacked, "json", text, text))
    lines = report(attacked, "prometheus", text, text).split("\n")
    assert all(re.fullmatch(r'# (HELP|TYPE) bd_fhir_\w+ .+|bd_fhir_\w+(\{(\w+="([^"\\]|\\.)*",?)*\})? \S+', line) for line in lines if line)
    rows = [line for line in report(attacked, "markdown", text, text).split("\n") if line.startswith("| ")]
    for line in rows:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) in (4, 5, 6)


@given(st.floats(min_value=0, max_value=1e12), st.floats(min_value=0, max_value=1e7), st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_a_chart_stays_within_its_bounds(value: float, per_day: float, days: int) -> None:
    metric = copy.deepcopy(FIXTURE["metrics"]["resources"])
    metric["value"] = value
    for limit in metric["limits"]:
        limit["per_day"] = per_day
        limit["projected"] = "%04d-01-01T00:00:00Z" % (2027 + days // 10)
    now = _phase_page.moment("2026-11-26T03:00:00Z")
    assert now is not None
    drawn = _phase_page.growth("resources", metric, FIXTURE["history"]["samples"][:days], now)
    for name, most in (("x|x1|x2|cx", _phase_page.WIDTH), ("y|y1|y2|cy", _phase_page.HEIGHT)):
        for number in re.findall(r' (?:%s)="([^"]+)"' % name, drawn):
            assert 0 <= float(number) <= most
    for pair in re.findall(r'points="([^"]+)"', drawn):
        assert all(0 <= float(part) <= _phase_page.WIDTH for item in pair.split() for part in item.split(","))


# --- for programs --------------------------------------------------------------------------------------------------


def test_json_is_the_whole_result_in_a_stable_order() -> None:
    told = json.loads(report({**FIXTURE, "changed": False, "failed": False, "_ansible_no_log": False}, "json", "T", "h"))
    assert told == {**FIXTURE, "report_format": 1, "title": "T", "host": "h"}
    assert list(told) == sorted(told)


def test_prometheus_tells_what_is_known_and_no_more() -> None:
    text = report(FIXTURE, "prometheus")
    for line in (
        "bd_fhir_assess_exit_code 2", "bd_fhir_assess_partial 1", "bd_fhir_load_level 0", 'bd_fhir_load{metric="vendors"} 47',
        'bd_fhir_load_limit{metric="vendors",to="regional"} 50', 'bd_fhir_connections_used{service="postgres-fhir"} 27',
        'bd_fhir_assess_audit_partition_days_left{table="audit.audit_events"} 400.9', 'bd_fhir_database_bytes{database="fhir"} 5600000000',
    ):  # fmt: skip
        assert line in text, line
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names))
    # All samples of a metric stand together.
    order = [line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert [name for place, name in enumerate(order) if name not in order[:place]] == names
    assert len([name for place, name in enumerate(order) if place == 0 or order[place - 1] != name]) == len(names)
    unknown = report(bare(), "prometheus")
    assert "bd_fhir_load{" not in unknown
    assert "bd_fhir_load_level" not in unknown
    assert "bd_fhir_assess_partial 1" in unknown


def test_the_metrics_come_in_our_order_and_what_is_the_same_of_all_limits_is_said_once() -> None:
    assert list(FIXTURE["metrics"]) == sorted(FIXTURE["metrics"])
    assert list(_phase_report.load_of(FIXTURE)) == ["vendors", "resources_per_day", "resources"]
    short = copy.deepcopy(FIXTURE)
    for metric in short["metrics"].values():
        for limit in metric["limits"]:
            limit.update(projected=None, reached=False, why="not enough history")
    told = Page(report(short)).texts
    assert told.count("regional at 50, end of regional at 500, national at 500: not enough history") == 1
    assert len([text for text in told if text.endswith(": not enough history")]) == 6


def test_words() -> None:
    assert [_phase_report.number(value) for value in (1234567, 0, None, True, "x")] == ["1,234,567", "0", "not known", "not known", "not known"]
    assert [_phase_report.size(value) for value in (0, 999, 1500, 123456, 2e9, 3e12, None)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "123 kB",
        "2.0 GB",
        "3.0 TB",
        "not known",
    ]
    assert _phase_report.what_next({}) == "Nothing is known to come next."
    exceeded = {
        "phase": "regional",
        "exceeded": True,
        "at_least": True,
        "decided_by": "resources",
        "metrics": FIXTURE["metrics"],
        "deployed": {"phase": "pilot"},
    }
    assert _phase_report.headline(exceeded) == (
        "The load asks for the phase regional at least, and is more than that was made for, by resources (about 812,000). Deployed is pilot."
    )


def test_what_is_no_result_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="writes html, json, markdown, prometheus, not 'pdf'"):
        report(FIXTURE, "pdf")
    for value in ({}, {"failed": True, "msg": "x"}, None, "x"):
        with pytest.raises(AnsibleFilterError, match="has no metrics"):
            report(value)


def test_the_fixture_has_the_form_of_a_result() -> None:
    assert set(yaml.safe_load(phase_info.RETURN)) == set(FIXTURE)
