# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an expression asks for, compared with what a real scrape exposes: a metric that nobody exposes never fires and draws nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import promql_parser
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _prometheus
from ansible_collections.dghs.bd_fhir.tests.unit.monitoring import monitoring_rules

# Which job a recorded scrape is one of; what Prometheus adds to each of them comes with it.
JOBS = {
    "hapi": "hapi", "postgres-fhir": "postgres", "postgres-audit": "postgres", "postgres-fhir-replica": "postgres", "pgbouncer": "pgbouncer",
    "node": "node", "prometheus": "prometheus", "alertmanager": "alertmanager",
}  # fmt: skip
ADDED = ("job", "instance", "deployment")
SIDES = {"postgres-fhir": "fhir", "postgres-audit": "audit", "postgres-fhir-replica": "fhir-replica", "pgbouncer": "fhir"}
# What a job tells only where there is something to tell, or where it was laid, with its labels: not in what was recorded.
EMPTY = {
    "bd_fhir_audit_partition_default_rows": ("schema", "table"),
    "bd_fhir_alert_command_last_success_timestamp_seconds": (),
    "bd_fhir_hfj_partition_up": (),
    "bd_fhir_hfj_partition_exit_code": (),
    "bd_fhir_hfj_partition_scheduler_timestamp_seconds": (),
    "bd_fhir_hfj_partition_days_left": ("schema", "table"),
    "bd_fhir_hfj_partition_state": ("schema", "table", "state"),
}  # fmt: skip


@lru_cache
def exposed(folder: Path = monitoring_rules.SCRAPES) -> dict[str, list[dict[str, str]]]:
    """Metric -> the labels of its series, as Prometheus would keep them."""
    found: dict[str, list[dict[str, str]]] = {}
    for name, job in JOBS.items():
        added = {"job": job, "instance": name, "deployment": monitoring_rules.SITE["deployment"]}
        if name in SIDES:
            added["side"] = SIDES[name]
        found.setdefault("up", []).append(added)
        for sample in _prometheus.parse((folder / f"{name}.prom").read_text()):
            found.setdefault(sample.name, []).append({**sample.labels, **added})
    for name, labels in EMPTY.items():
        found.setdefault(name, []).append({**dict.fromkeys(labels, "any"), "job": "node", "instance": "node", "deployment": "any"})
    return found


def selectors(node: Any) -> Iterator[Any]:
    """Every selector of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, (promql_parser.AggregateExpr, promql_parser.UnaryExpr, promql_parser.ParenExpr, promql_parser.SubqueryExpr)):
        yield from selectors(node.expr)
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, promql_parser.Call):
        for item in node.args:
            yield from selectors(item)
    elif not isinstance(node, (promql_parser.NumberLiteral, promql_parser.StringLiteral)):
        raise AssertionError(f"a part of an expression that is not known here: {type(node).__name__}")


def recorded(rules: list[dict[str, Any]]) -> set[str]:
    return {rule["record"] for rule in rules if "record" in rule}


def faults(expression: str, own: set[str], series: dict[str, list[dict[str, str]]]) -> list[str]:
    """What this expression asks for that nobody exposes: a metric, or a label of it. own: metrics that rules record."""
    found = []
    for selector in selectors(promql_parser.parse(expression)):
        name = selector.name
        if not name:
            found.append(f"a selector without a metric in {expression}")
        elif name in own:
            continue
        elif name not in series:
            close = difflib.get_close_matches(name, [*series, *own], 1, 0.8)
            found.append(f"nobody exposes {name}" + (f"; did you mean {close[0]}?" if close else ""))
        else:
            labels = {label for one in series[name] for label in one}
            for matcher in selector.matchers.matchers:
                if matcher.name not in labels:
                    found.append(f"{name} has no label {matcher.name}")
                elif (matcher.name, matcher.op) == ("job", promql_parser.MatchOp.Equal) and matcher.value not in {one["job"] for one in series[name]}:
                    found.append(f"{name} is not exposed by the job {matcher.value}")
    return found
