# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No rule and no panel asks for a metric that nobody exposes in a recorded real scrape, and a real Prometheus answers each of them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _prometheus
from ansible_collections.dghs.bd_fhir.tests.unit.monitoring import exposed, monitoring_rules
from grafana_foundation_sdk.models import dashboard as models

RULES = list(monitoring_rules.rules_of(monitoring_rules.site()))
PAGES = ("service", "databases", "audit")
# ALERTS is Prometheus' own.
OWN = exposed.recorded(RULES) | {"ALERTS"}


def panels(name: str) -> list[tuple[str, str, str]]:
    """Title, expression and legend of each query of a dashboard, with its variables filled in."""
    page = json.loads((monitoring_rules.DASHBOARDS / f"{name}.json").read_text())
    return [(panel["title"], target["expr"].replace("$deployment", ".*"), target["legendFormat"])
            for panel in page["panels"] for target in panel.get("targets", [])]  # fmt: skip


PANELS = [(name, *panel) for name in PAGES for panel in panels(name)]


def test_rules_ask_for_what_is_exposed() -> None:
    found = {rule.get("alert", rule.get("record")): exposed.faults(rule["expr"], OWN, exposed.exposed()) for rule in RULES}
    assert {name: faults for name, faults in found.items() if faults} == {}
    assert len(found) > 50


def test_panels_ask_for_what_is_exposed() -> None:
    found = {f"{name}: {title}": exposed.faults(expression, OWN, exposed.exposed()) for name, title, expression, _legend in PANELS}
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_case_112_an_unknown_metric_goes_red() -> None:
    """The roadmap's name is one letter away from the real one; a label, or another job, is seen too."""
    series = exposed.exposed()
    assert exposed.faults('increase(hikaricp_connection_timeout_total{job="hapi"}[5m]) > 0', OWN, series) == [
        "nobody exposes hikaricp_connection_timeout_total; did you mean hikaricp_connections_timeout_total?"
    ]
    assert exposed.faults('hikaricp_connections{pol="fhir"}', OWN, series) == ["hikaricp_connections has no label pol"]
    assert exposed.faults('pg_up{job="node"}', OWN, series) == ["pg_up is not exposed by the job node"]
    both = exposed.faults("sum(a_b_c) / on (x) (pg_up or -rate(d_e_f[5m:1m])) > bool 1", OWN, series)
    assert both == ["nobody exposes a_b_c", "nobody exposes d_e_f"]
    assert exposed.faults('{job="hapi"}', OWN, series) == ['a selector without a metric in {job="hapi"}']


def test_case_112_a_doctored_rule_and_scrape_go_red(tmp_path: Path) -> None:
    broken = [{**rule, "expr": rule["expr"].replace("bd_fhir_pg_slot_active", "pg_replication_slots_active_now")} for rule in RULES]
    assert any(exposed.faults(rule["expr"], OWN, exposed.exposed()) for rule in broken)
    shutil.copytree(monitoring_rules.SCRAPES, tmp_path / "scrapes")
    hapi = tmp_path / "scrapes/hapi.prom"
    hapi.write_text("\n".join(line for line in hapi.read_text().split("\n") if "jvm_gc_pause" not in line))
    series = exposed.exposed(tmp_path / "scrapes")
    assert [rule.get("record") for rule in RULES if exposed.faults(rule["expr"], OWN, series)] == ["bd_fhir:gc_percent"]


def test_case_114_slots_by_either_exporter() -> None:
    """postgres_exporter 0.20 has renamed its metrics of slots. Ours come from our own query, and both tell them alike."""
    old, new = ({(sample.name, tuple(sorted(sample.labels.keys() - {"server"})))
                 for sample in _prometheus.parse((monitoring_rules.SCRAPES / f"{name}.prom").read_text())}
                for name in ("postgres-fhir", "postgres-fhir-new"))  # fmt: skip
    ours = {item for item in old if item[0].startswith("bd_fhir_pg_")}
    assert ours == {item for item in new if item[0].startswith("bd_fhir_pg_")}
    assert {"bd_fhir_pg_slot_active", "bd_fhir_pg_slot_lost", "bd_fhir_pg_slot_retained_bytes"} <= {name for name, _labels in ours}
    names = [{name for name, _labels in items if name.startswith("pg_replication_slots_slot_is_active")} for items in (old, new)]
    assert names == [set(), {"pg_replication_slots_slot_is_active"}]
    asked = {selector.name for rule in RULES for selector in exposed.selectors(exposed.promql_parser.parse(rule["expr"]))}
    assert not [name for name in asked if name.startswith("pg_replication_slot")]
    assert {name for name in asked if name.startswith("pg_")} <= {name for name, _labels in old & new} | {name for name, _labels in new}


def test_every_query_of_ours_is_in_a_scrape() -> None:
    """A query that gives nothing on a real server is not tried by anything else."""
    text = (monitoring_rules.ROLE / "files/postgres_queries.yml").read_text()
    names = set(re.findall(r"(?m)^(bd_fhir_pg_\w+):", text))
    told = {name for name in exposed.exposed() if name.startswith("bd_fhir_pg_")}
    assert len(names) > 8
    assert [name for name in sorted(names) if not any(item.startswith(f"{name}_") for item in told)] == []


def test_dashboards_are_up_to_date() -> None:
    """What tools/dashboards.py makes is what is committed."""
    argv = [sys.executable, "tools/dashboards.py", "--check"]
    done = subprocess.run(argv, cwd=monitoring_rules.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in monitoring_rules.DASHBOARDS.glob("*.json")} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_dashboard_fits_the_schema(name: str) -> None:
    """The SDK reads it into its own classes and back without a loss; ids are there once, and no panel lies on another."""
    page = json.loads((monitoring_rules.DASHBOARDS / f"{name}.json").read_text())
    read = models.Dashboard.from_json(page)
    assert read.title == page["title"]
    assert len(read.panels or []) == len(page["panels"])
    own = [panel for panel in page["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in own}) == len(own)
    taken: set[tuple[int, int]] = set()
    for panel in page["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in own:
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]


class Scrapes(BaseHTTPRequestHandler):
    """Serves the recorded scrapes, each at its name."""

    def do_GET(self) -> None:
        body = (monitoring_rules.SCRAPES / f"{self.path.strip('/')}.prom").read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus with the role's rules that scrapes the recorded pages."""
    found = shutil.which("prometheus")
    assert found, "prometheus is missing: apt-get install prometheus, or 'tools/run python tests/lab/lab.py packages'"
    folder = tmp_path_factory.mktemp("prometheus")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scrapes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    jobs: dict[str, list[dict[str, Any]]] = {}
    for name, job in exposed.JOBS.items():
        labels = {"deployment": monitoring_rules.SITE["deployment"], "instance": name, "__metrics_path__": f"/{name}"}
        if name in exposed.SIDES:
            labels["side"] = exposed.SIDES[name]
        jobs.setdefault(job, []).append({"targets": [f"127.0.0.1:{server.server_port}"], "labels": labels})
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in monitoring_rules.write_rules(folder, monitoring_rules.site())],
        "scrape_configs": [{"job_name": job, "static_configs": items} for job, items in jobs.items()],
    }
    (folder / "prometheus.json").write_text(json.dumps(config))
    log = (folder / "log").open("w")
    child = subprocess.Popen(
        [found, f"--config.file={folder}/prometheus.json", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"],
        stdout=log,
        stderr=log,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 90
        # A rate needs two scrapes, and a record made of records another round.
        while not (child.poll() is None and ready(base)):
            assert child.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, (folder / "log").read_text()[-2000:]
            time.sleep(0.5)
        yield base
    finally:
        child.terminate()
        child.wait(30)
        log.close()
        server.shutdown()


def ask(base: str, expression: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{base}/api/v1/query?{urllib.parse.urlencode({'query': expression})}", timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def ready(base: str) -> bool:
    try:
        everything = len(ask(base, "count_over_time(up[1m]) > 5")) == len(exposed.JOBS) == len(ask(base, "up == 1"))
        return everything and bool(ask(base, "bd_fhir:gc_percent"))
    except OSError:
        return False


# What is well in the recorded scrapes: a panel that shows only trouble, or what nobody there had.
QUIET = {"Dead rows", "Rows in the default partition", "Server errors", "Mean time"}


def test_a_real_prometheus_answers_every_panel(prometheus: str) -> None:
    """And with series that have what the legend shows."""
    empty = []
    for name, title, expression, legend in PANELS:
        found = ask(prometheus, expression)
        if not found and title not in QUIET:
            empty.append(f"{name}: {title}: {expression}")
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            assert all(item["metric"].get(label) for item in found) or label in ("playbook",), (name, title, label)
    assert empty == []


def test_a_real_prometheus_evaluates_every_rule(prometheus: str) -> None:
    with urllib.request.urlopen(f"{prometheus}/api/v1/rules", timeout=10) as answer:
        groups = json.load(answer)["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule.get("alert", rule.get("record")) for rule in RULES}
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
