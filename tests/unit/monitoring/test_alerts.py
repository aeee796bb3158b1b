# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every alert fires when it should and is silent when it should, by the real promtool on the rules that a site gets.

The cases are in alerts/*.yml. They are asked for by the series ALERTS, so that a case need not repeat the texts; those are looked at apart.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible_collections.dghs.bd_fhir.tests.unit.monitoring import monitoring_rules

# That it is never silent is what it is for.
ALWAYS = {"Watchdog"}
CASES = sorted((Path(__file__).parent / "alerts").glob("*.yml"))
EVERY = 'deployment="bd-fhir-national"'
LABELS = {
    **{f"hapi{number}": f'job="hapi", instance="10.0.0.{number + 1}:8080"' for number in range(1, 6)},
    "fhir": 'job="postgres", side="fhir", instance="fhir"',
    "audit": 'job="postgres", side="audit", instance="audit"',
    "standby": 'job="postgres", side="fhir-replica", instance="fhir-replica"',
    "pool_fhir": 'job="pgbouncer", side="fhir", instance="fhir"',
    "pool_audit": 'job="pgbouncer", side="audit", instance="audit"',
    "node": 'job="node", instance="fhir1"',
    "prometheus": 'job="prometheus", instance="prometheus"',
    "alertmanager": 'job="alertmanager", instance="alertmanager"',
}


def labelled(series: str) -> str:
    return re.sub(r"@(\w+)", lambda match: f"{LABELS[match.group(1)]}, {EVERY}", series)


def cases_of(paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        # Everything as text: 0x20, twenty zeros more, would be read as a number.
        for name, cases in yaml.load(path.read_text(), Loader=yaml.BaseLoader).items():
            assert name not in found, f"{name} is in two files"
            found[name] = cases
    return found


def expressions(name: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """What promtool shall find at that time."""
    firing = f'alertname="{name}", alertstate="firing"'
    if "silent" in case:
        return [{"expr": f"count(ALERTS{{{firing}}})", "eval_time": case["silent"], "exp_samples": []}]
    expected = [{"labels": "{}", "value": int(case.get("count", 1))}]
    return [
        {"expr": f"count(ALERTS{{{firing}}})", "eval_time": case["fires"], "exp_samples": expected},
        {"expr": f"count(ALERTS{{{firing}, {case['labels']}}})", "eval_time": case["fires"], "exp_samples": expected},
    ]


def unit_test(rules: list[Path], step: str, cases: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """A file for promtool test rules."""
    tests = [
        {
            "interval": step,
            "name": f"{name}: {case.get('why', 'fires' if 'fires' in case else 'silent')}",
            "input_series": [{"series": labelled(series), "values": str(values)} for series, values in case["series"].items()],
            "promql_expr_test": expressions(name, case),
        }
        for name, case in cases
    ]
    return {"rule_files": [str(path) for path in rules], "evaluation_interval": step, "tests": tests}


def unit_tests(rules: list[Path], cases: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One file for each step: what takes hours is looked at less often, or promtool takes minutes."""
    steps: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name, found in cases.items():
        for case in found:
            steps.setdefault(case.get("step", "15s"), []).append((name, case))
    return [unit_test(rules, step, found) for step, found in steps.items()]


def run(folder: Path, tests: list[dict[str, Any]]) -> tuple[int, str]:
    files = []
    for number, test in enumerate(tests):
        files.append(folder / f"test{number}.json")
        files[-1].write_text(json.dumps(test))
    done = monitoring_rules.promtool("test", "rules", *files, cwd=folder)
    return done.returncode, done.stdout + done.stderr


def judge(folder: Path, rules: list[Path], cases: dict[str, list[dict[str, Any]]]) -> str:
    """What promtool has against it; empty: nothing."""
    rc, said = run(folder, unit_tests(rules, cases))
    assert ("SUCCESS" in said and "FAILED" not in said) == (rc == 0), said
    return said if rc else ""


def missing(alerts: set[str], cases: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Alerts without a case that fires or one that does not, and cases of no alert."""
    faults = [f"{name} is no alert" for name in sorted(cases.keys() - alerts)]
    for name in sorted(alerts):
        for kind in ("fires",) if name in ALWAYS else ("fires", "silent"):
            if not any(kind in case and case["series"] for case in cases.get(name, [])):
                faults.append(f"{name} has no case in which it {'fires' if kind == 'fires' else 'is silent'}")
    return faults


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return monitoring_rules.write_rules(tmp_path_factory.mktemp("rules"), monitoring_rules.site())


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_fires_and_is_silent(rules: list[Path], tmp_path: Path, path: Path) -> None:
    """Cases 17, 112, 114-116, 118, 140, 142, 144 and 145 are among them, each with its number."""
    said = judge(tmp_path, [item for item in rules if item.stem == path.stem], cases_of([path]))
    assert not said, said


def test_every_alert_has_both() -> None:
    assert missing(set(monitoring_rules.alerts_of(monitoring_rules.site())), cases_of(CASES)) == []


def test_a_missing_case_goes_red() -> None:
    cases = cases_of(CASES)
    alerts = set(cases)
    cases["HapiDown"] = [case for case in cases["HapiDown"] if "silent" in case]
    cases["SlotLost"] = [case for case in cases["SlotLost"] if "fires" in case]
    del cases["DeadRows"]
    cases["Nothing"] = []
    assert missing(alerts, cases) == [
        "Nothing is no alert", "DeadRows has no case in which it fires", "DeadRows has no case in which it is silent",
        "HapiDown has no case in which it fires", "SlotLost has no case in which it is silent",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("HikariTimeouts", ("hikaricp_connections_timeout_total", "hikaricp_connection_timeout_total")),
        ("PostgresConnectionsExhausted", ("bd_fhir_pg_connections_usable", "bd_fhir_pg_connections_max")),
        ("HeapNearlyFull", (', area="heap"', "")),
        ("IndexUnused", ("* 86400", "* 60")),
        ("StandbyLag", ("bd_fhir_pg_standby_lag_seconds", "pg_replication_lag_seconds")),
        ("HapiRestarted", ('unless on (deployment) max_over_time((count by (deployment) (up{job="hapi"}))[15m:15s]) > 3', "")),
        ("DeadRows", ("bd_fhir_pg_table_vacuum_at_dead_rows", "0 * bd_fhir_pg_table_dead_rows")),
    ],
)
def test_the_roadmaps_faults_go_red(tmp_path: Path, name: str, damage: tuple[str, str]) -> None:
    """Cases 112, 140, 144, 66: a rule as the roadmap has it does not pass its cases, nor does a resets() alone in a roll."""
    rules = monitoring_rules.write_rules(tmp_path, monitoring_rules.site())
    for path in rules:
        path.write_text(path.read_text().replace(*damage))
    about = [path for path in rules if f"alert: {name}\n" in path.read_text()]
    assert "FAILED" in judge(tmp_path, about, {name: cases_of(CASES)[name]})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"standbys": [], "standbys_of": {}, "assess_hours": 0, "replicas": 1, "command_job": False, "hapi_partitions_job": False},
        {"jobs": dict.fromkeys(("postgres", "pgbouncer", "node", "prometheus", "alertmanager"), False), "sides": [], "standbys": [],
         "standbys_of": {}, "poolers": [], "pool_size": {}},
        {"standbys": ["a", "b", "c"], "standbys_of": {"fhir": ["a", "b"], "audit": ["c"]}, "pool_size": {"fhir": 30}},
    ],
    ids=["regional", "pilot", "rules only", "two standbys"],
)
def test_promtool_takes_the_rules_of_every_site(tmp_path: Path, changes: dict[str, Any]) -> None:
    rules = monitoring_rules.write_rules(tmp_path, monitoring_rules.site(**changes))
    done = monitoring_rules.promtool("check", "rules", *rules, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_switched_off_has_no_alert_of_absence() -> None:
    """Nor has a site without a standby one that it is missing; and every threshold of the site is in its rules."""
    jobs = {**monitoring_rules.SITE["jobs"], "pgbouncer": False}
    few = monitoring_rules.alerts_of(monitoring_rules.site(standbys=[], standbys_of={}, assess_hours=0, jobs=jobs))
    assert not {"StandbyNotStreaming", "PrimaryWithoutStandby", "StandbyLag", "AssessmentOld", "PgbouncerNotSeen"} & few.keys()
    assert "pgbouncer" not in few["TargetsMissing"]["expr"]
    alerts = monitoring_rules.alerts_of(monitoring_rules.site(replicas=7, heap_percent=71, partition_days=33, lag_bytes=12345, disk_percent=66))
    for name, wanted in (("HapiReplicasMissing", "< 7"), ("HeapNearlyFull", "> 71"), ("AuditPartitionsRunOut", "< 33"), ("StandbyLag", "> 12345"),
                         ("DiskNearlyFull", "> 66")):
        assert wanted in alerts[name]["expr"]


def default_thresholds(**values: Any) -> dict[str, Any]:
    """Those of the role; some are computed from its other variables."""
    found = yaml.safe_load((monitoring_rules.ROLE / "vars/main.yml").read_text())["_monitoring_default_thresholds"]
    values = {**yaml.safe_load((monitoring_rules.ROLE / "defaults/main.yml").read_text()), **values}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - no page
    return {name: yaml.safe_load(environment.from_string(value).render(values)) if isinstance(value, str) else value for name, value in found.items()}


@pytest.mark.parametrize(("months", "alarm", "warning"), [(6, 45.0, 90), (4, 45.0, 90), (2, 45.0, 56), (1, 20.0, 28)])
def test_a_job_that_has_made_all_its_months_is_never_told(tmp_path: Path, months: int, alarm: float, warning: int) -> None:
    """On the last day of January, with February to come: 28 days and one, and the months behind."""
    thresholds = default_thresholds(monitoring_audit_months_ahead=months, monitoring_audit_alarm_days=alarm)
    assert (thresholds["partition_days"], thresholds["partition_warning_days"]) == (alarm, warning)
    rules = monitoring_rules.write_rules(tmp_path, monitoring_rules.site(**thresholds))
    least = sum([28, 31, 30, 31, 30, 31][:months])
    series = 'bd_fhir_audit_partition_days_left{@node, schema="audit", table="audit_events"}'
    silent = {"silent": "25h", "step": "4m", "series": {series: f"{least}x6100"}}
    few = {"fires": "25h", "step": "4m", "series": {series: f"{warning - 1}x6100"}, "labels": 'table="audit_events"'}
    run_out = {"fires": "25h", "step": "4m", "series": {series: f"{alarm - 1}x6100"}, "labels": 'table="audit_events"'}
    about = [path for path in rules if path.stem == "audit"]
    said = judge(tmp_path, about, {"AuditPartitionsFew": [silent, few], "AuditPartitionsRunOut": [silent, run_out]})
    assert not said, said


def test_what_other_roles_decide_is_theirs() -> None:
    """Where the job of HAPI's partitions is, and what that of the audit partitions has when nobody says anything else."""
    paths = ("monitoring/vars/main.yml", "monitoring/defaults/main.yml", "hapi_partitioning/vars/job.yml", "audit_partitions/defaults/main.yml")
    values = {path: yaml.safe_load((monitoring_rules.ROOT / "roles" / path).read_text()) for path in paths}
    own, job = values["monitoring/vars/main.yml"], values["hapi_partitioning/vars/job.yml"]
    assert own["_monitoring_hapi_partitions_cron"] == job["_hapi_partitioning_job_cron_path"]
    assert own["_monitoring_hapi_partitions_config"] == job["_hapi_partitioning_job_config_path"]
    assert "metrics" in job["_hapi_partitioning_job_config"]
    play = yaml.safe_load((monitoring_rules.ROOT / "playbooks/monitor.yml").read_text())[0]["vars"]
    for name in ("schema", "alarm_days", "months_ahead"):
        default = values["audit_partitions/defaults/main.yml"][f"audit_partitions_{name}"]
        assert values["monitoring/defaults/main.yml"][f"monitoring_audit_{name}"] == default
        passed = jinja2.Environment(autoescape=False).from_string(play[f"monitoring_audit_{name}"])  # noqa: S701 - no page
        assert (passed.render(), passed.render({f"audit_partitions_{name}": "x"})) == (str(default), "x")


def test_the_audit_tables_may_be_in_another_schema(tmp_path: Path) -> None:
    rules = monitoring_rules.write_rules(tmp_path, monitoring_rules.site(audit_schema="trail"))
    series = 'bd_fhir_pg_partition_bytes{@audit, schema="%s", parent="audit_events", partition="audit_events_2026_11"}'
    cases = [{"fires": "70m", "step": "1m", "series": {series % "trail": "11000000000x300"}, "labels": 'schema="trail"'},
             {"silent": "70m", "step": "1m", "series": {series % "audit": "11000000000x300"}}]  # fmt: skip
    said = judge(tmp_path, [path for path in rules if path.stem == "audit"], {"AuditPartitionLarge": cases})
    assert not said, said


def test_where_nothing_of_hapi_is_partitioned_no_job_is_missed(tmp_path: Path) -> None:
    """Nor after its rollback. One that has been laid since, and is not started any more, is told all the same."""
    rules = monitoring_rules.write_rules(tmp_path, monitoring_rules.site(hapi_partitions_job=False))
    started = "bd_fhir_hfj_partition_scheduler_timestamp_seconds{@node}"
    cases = [{"silent": "90m", "step": "1m", "series": {"up{@node}": "1x100"}},
             {"silent": "90m", "step": "1m", "series": {"up{@node}": "1x100", started: "0+60x60 stale"}},
             {"fires": "90m", "step": "1m", "series": {started: "-7200x100"}, "labels": 'instance="fhir1"'}]  # fmt: skip
    said = judge(tmp_path, [path for path in rules if path.stem == "partitions"], {"HapiPartitionsNotWatched": cases})
    assert not said, said


def test_thresholds_are_those_of_the_role() -> None:
    """The cases judge what a site gets, not numbers of the tests. assess_hours is 0 there, which leaves an alert out."""
    found = default_thresholds()
    assert {name: monitoring_rules.SITE[name] for name in found} == {**found, "assess_hours": 192}
    known = set(found) | {"deployment", "jobs", "replicas", "command_job", "hapi_partitions_job", "audit_schema", "hikari_max", "hikari_pools",
                          "sides", "standbys", "standbys_of", "poolers", "pool_size", "max_connections",
                          "reserved_connections", "usable_connections"}  # fmt: skip
    assert set(monitoring_rules.SITE) == known


CASES_OF_THE_LIST = {
    "17": ["PostgresDown"], "112": ["HikariTimeouts"], "115": ["StandbyLag", "StandbyNotStreaming"], "116": ["HapiDown", "HapiMetricsMissing"],
    "118": ["AssessmentPartial"], "140": ["IndexUnused"], "142": ["PhaseLimitNear"], "144": ["PostgresConnectionsExhausted"], "145": ["DeadRows"],
}  # fmt: skip


def of_the_list(number: str) -> dict[str, list[dict[str, Any]]]:
    """The cases that are about a public report, by the number in their reason."""
    found = {name: [case for case in cases if f"(case {number})" in case.get("why", "")] for name, cases in cases_of(CASES).items()}
    return {name: cases for name, cases in found.items() if cases}


def judged(rules: list[Path], folder: Path, number: str) -> None:
    assert sorted(of_the_list(number)) == CASES_OF_THE_LIST[number]
    said = judge(folder, rules, of_the_list(number))
    assert not said, said


def test_case_17_a_password_that_the_exporter_gets_wrong_fires(rules: list[Path], tmp_path: Path) -> None:
    judged(rules, tmp_path, "17")


def test_case_112_the_roadmaps_name_never_fires(rules: list[Path], tmp_path: Path) -> None:
    judged(rules, tmp_path, "112")


def test_case_115_an_hour_without_a_write_is_silent(rules: list[Path], tmp_path: Path) -> None:
    judged(rules, tmp_path, "115")


def test_case_116_an_endpoint_that_is_not_exposed_fires(rules: list[Path], tmp_path: Path) -> None:
    """And says how to expose it."""
    judged(rules, tmp_path, "116")
    text = monitoring_rules.alerts_of(monitoring_rules.site())["HapiDown"]["annotations"]["description"]
    assert "management.endpoints.web.exposure.include" in text


def test_case_118_what_was_not_read_fires(rules: list[Path], tmp_path: Path) -> None:
    judged(rules, tmp_path, "118")


def test_case_140_young_statistics_give_no_advice(rules: list[Path], tmp_path: Path) -> None:
    judged(rules, tmp_path, "140")


def test_case_142_a_projection_without_history_is_silent(rules: list[Path], tmp_path: Path) -> None:
    judged(rules, tmp_path, "142")


def test_case_144_37_of_37_fires(rules: list[Path], tmp_path: Path) -> None:
    judged(rules, tmp_path, "144")


def test_case_145_partitions_are_judged(rules: list[Path], tmp_path: Path) -> None:
    judged(rules, tmp_path, "145")


def test_texts(rules: list[Path], tmp_path: Path) -> None:
    """Every text of an alert that fires can be read, has no hole in it, and says what to do."""
    told = ""
    for path in CASES:
        cases = {name: [next(case for case in found if "fires" in case)] for name, found in cases_of([path]).items()}
        tests = unit_tests([item for item in rules if item.stem == path.stem], cases)
        for wanted in tests:
            for test in wanted["tests"]:
                name = test["name"].partition(":")[0]
                del test["promql_expr_test"]
                test["alert_rule_test"] = [{"eval_time": cases[name][0]["fires"], "alertname": name, "exp_alerts": []}]
        told += run(tmp_path, tests)[1]
    cases = cases_of(CASES)
    texts = dict(re.findall(r'alertname: (\w+),.*?got:\[\s*0:\s*Labels:\{.*?\}\s*Annotations:(\{.*?\})\s*(?:\]|\d+:)', told, re.S))
    assert texts.keys() == cases.keys(), sorted(cases.keys() - texts.keys()) or told[:3000]
    for name, text in texts.items():
        assert not re.search(r"<no value>|<error|%!|\{\{|  |''", text), (name, text)


def test_every_alert_is_explained() -> None:
    """It has a severity, a summary, what to do, and a section of docs/alerts.md, which has no section of none."""
    page = (monitoring_rules.ROOT / "docs/alerts.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.M | re.S))
    alerts = monitoring_rules.alerts_of(monitoring_rules.site())
    assert sections.keys() == alerts.keys()
    for name, rule in alerts.items():
        # What fires always is for nobody.
        assert rule["labels"]["severity"] in (("none",) if name in ALWAYS else ("critical", "warning", "info")), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, name
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
        assert len(sections[name].strip()) > 60, name
        assert f"`{rule['labels']['severity']}`" in sections[name].strip().splitlines()[0], name


def test_what_the_texts_name_is_there() -> None:
    """Playbooks, modules and alerts that a text sends to exist; nothing is vacuumed or reindexed by an alert."""
    there = {path.stem for path in (monitoring_rules.ROOT / "playbooks").glob("*.yml")}
    there |= {path.stem for path in (monitoring_rules.ROOT / "plugins/modules").glob("*.py")}
    # Of the role itself.
    there |= {"monitor"}
    others = {"hot_standby_feedback", "max_connections", "max_slot_wal_keep_size", "pg_monitor", "postgres_queries", "pg_stat_progress_create_index",
              "fhir_rejected_submissions", "node_exporter"}
    alerts = monitoring_rules.alerts_of(monitoring_rules.site())
    for name, rule in alerts.items():
        text = rule["annotations"]["summary"] + " " + rule["annotations"]["description"]
        for word in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", re.sub(r"\{\{.*?\}\}|--\S+|audit\.\S+", "", text)):
            assert word in there | others, (name, word)
        for word in re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", text):
            assert word in alerts or word in {"OutOfMemoryError", "MaxRAMPercentage"}, (name, word)


@lru_cache
def paths_of_roles() -> set[str]:
    """What the defaults and vars of the roles name on a host, with the folders above."""
    found: set[str] = set()
    for role in (monitoring_rules.ROOT / "roles").iterdir():
        values: dict[str, Any] = {}
        for path in sorted([*role.glob("defaults/*.yml"), *role.glob("vars/*.yml")]):
            values |= yaml.safe_load(path.read_text())
        for value in values.values():
            text = str(value)
            for name in re.findall(r"\{\{ (\w+) \}\}", text):
                text = text.replace(f"{{{{ {name} }}}}", str(values.get(name, "{{")))
            if text.startswith("/") and "{{" not in text:
                found |= {text, *map(str, Path(text).parents)}
    return found


def paths_in(text: str) -> list[str]:
    return [path.rstrip(".") for path in re.findall(r"(?<![\w./:-])/[A-Za-z][\w./-]*", text)]


def wrong_paths(text: str) -> list[str]:
    # A page of Prometheus.
    return sorted(set(paths_in(text)) - paths_of_roles() - {"/rules"})


def test_paths_in_the_texts_are_those_of_the_roles() -> None:
    """Somebody who is woken by an alert finds the log where it says."""
    for name, rule in monitoring_rules.alerts_of(monitoring_rules.site()).items():
        assert wrong_paths(rule["annotations"]["description"]) == [], name
    page = (monitoring_rules.ROOT / "docs/alerts.md").read_text()
    assert wrong_paths(page) == []
    for path in re.findall(r"`((?:roles|tests|docs|playbooks)/[^`]*)`|\]\(([^)#]+)\)", page):
        assert (monitoring_rules.ROOT / "docs" / path[1]).exists() if path[1] else (monitoring_rules.ROOT / path[0]).exists(), path


def test_a_wrong_path_goes_red() -> None:
    """The first is what stood there once."""
    text = "Its log is /var/log/bd-fhir-audit-partitions.log; see /var/log/bd-fhir-audit/partitions.log, `/etc/cron.d`, and a/b or docs/alerts.md."
    assert paths_in(text) == ["/var/log/bd-fhir-audit-partitions.log", "/var/log/bd-fhir-audit/partitions.log", "/etc/cron.d"]
    assert wrong_paths(text) == ["/var/log/bd-fhir-audit-partitions.log"]


def test_names_in_the_documentation_are_there() -> None:
    """A playbook, a module or a variable that docs/alerts.md sends to."""
    page = (monitoring_rules.ROOT / "docs/alerts.md").read_text()
    there = {path.name.partition(".")[0] for folder in ("playbooks", "plugins/modules") for path in (monitoring_rules.ROOT / folder).iterdir()}
    for path in (monitoring_rules.ROOT / "roles").glob("*/defaults/main.yml"):
        there |= set(re.findall(r"(?m)^(\w+):", path.read_text()))
    there |= set(monitoring_rules.SITE)
    # Of a side, of PostgreSQL, of pgBouncer, and metrics that the roadmap names.
    there |= {"hikari_pool", "standby_services", "stats_users", "fhir_rejected_submissions", "_ccnew", "_ccold"}
    there |= {"hot_standby_feedback", "max_slot_wal_keep_size", "idx_scan", "n_dead_tup", "xact_start"}
    there |= {"hikaricp_connection_timeout_total", "hikaricp_connections_timeout_total", "hikaricp_connections_pending",
              "http_server_requests_seconds_max", "process_uptime_seconds"}  # fmt: skip
    named = set(re.findall(r"`(?:audit\.)?([a-z_]*_[a-z_]+)`", page))
    assert {"tune_pools", "maintain_audit_partitions", "hikari_pool"} <= named
    assert {name for name in named - there if not name.startswith("pg_")} == set()
