# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sites whose sides are others than the known target's: what the role makes of them by Ansible itself, and how their alerts fire."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.tests.unit.monitoring import monitoring_rules, test_alerts

Series = dict[str, str]

INDEX = 'schema="public", table="hfj_resource", index="idx"'
AUDIT_INDEX = 'schema="audit", table="audit_events", index="idx_audit"'
LONG, SHORT = "-2678400x300", "-3600x300"


def side(name: str, standbys: list[str], pool: str) -> dict[str, Any]:
    return {
        "name": name, "database_service": f"postgres-{name}", "standby_services": standbys, "pooler_service": f"pgbouncer-{name}",
        "database": f"{name}db", "admin_user": "admin", "admin_password_variable": "ADMIN_PASSWORD", "hikari_pool": pool,
    }  # fmt: skip


def budget(item: dict[str, Any]) -> dict[str, Any]:
    """What connection_budget_info says of such a side."""
    return {
        "name": item["name"], "hikari": {"pool": item["hikari_pool"], "size": 5}, "server": {"usable": 37, "max_connections": 40},
        "pooler": {"effective": 20, "max_client_conn": 200},
    }  # fmt: skip


def rules_of(folder: Path, sides: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """What the role's rules are rendered with there, by the real Ansible."""
    services = {service: {"networks": ["a"]} for item in sides for service in (item["database_service"], *item["standby_services"])}
    found = folder / "rules.json"
    play = {
        "hosts": "localhost", "connection": "local", "gather_facts": False,
        "vars_files": [str(monitoring_rules.ROLE / part / "main.yml") for part in ("defaults", "vars")],
        "vars": {
            "ansible_python_interpreter": "{{ ansible_playbook_python }}", "role_path": str(monitoring_rules.ROLE),
            "preflight_deployment": {"project": {"name": "bd-fhir-national"}, "services": {"hapi": {"scale": 3, "networks": ["a"]}, **services}},
            "__monitoring_budget": {"sides": [budget(item) for item in sides]},
        },
        "tasks": [{"name": "Render", "ansible.builtin.copy": {"content": "{{ _monitoring_rules | to_json }}", "dest": str(found), "mode": "0644"}}],
    }  # fmt: skip
    if not (folder / "templates").is_symlink():
        (folder / "templates").symlink_to(monitoring_rules.ROLE / "templates")
    (folder / "play.json").write_text(json.dumps([play]))
    argv = ["ansible-playbook", "-i", "localhost,", "-e", json.dumps({"monitoring_sides": sides, **values}), str(folder / "play.json")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    rules: dict[str, Any] = json.loads(found.read_text())
    return rules


def judged(folder: Path, rules: dict[str, Any], name: str, cases: list[dict[str, Any]]) -> str:
    found = [path for path in monitoring_rules.write_rules(folder, rules) if path.name == "databases.yml"]
    return test_alerts.judge(folder, found, {name: cases})


FHIR, AUDIT = side("fhir", ["fhir-standby"], "HikariPool-1"), side("audit", ["audit-standby"], "HikariPool-2")
FHIR_ALONE, AUDIT_ALONE = {**FHIR, "standby_services": []}, {**AUDIT, "standby_services": []}


def test_what_a_site_gets_is_what_the_cases_are_judged_with(tmp_path: Path) -> None:
    found = rules_of(tmp_path, [{**FHIR, "hikari_pool": "fhir"}, {**AUDIT_ALONE, "hikari_pool": "audit"}])
    for name in ("sides", "standbys", "standbys_of", "poolers", "hikari_pools", "pool_size", "jobs", "deployment", "replicas"):
        assert found[name] == monitoring_rules.SITE[name], name


def test_pools_have_the_name_that_hapi_gives_them(tmp_path: Path) -> None:
    """Five replicas of 5 before a pool of 20; HAPI tells no pool of the name of the side."""
    cases = [
        {"fires": "7m", "labels": 'side="fhir", pool="HikariPool-1"', "series": {
            **{f'hikaricp_connections_max{{@hapi{number}, pool="HikariPool-1"}}': "5x30" for number in range(1, 6)},
            'hikaricp_connections_max{@hapi1, pool="HikariPool-2"}': "5x30",
        }},
        {"silent": "7m", "series": {
            f'hikaricp_connections_max{{@hapi{number}, pool="HikariPool-{number % 2 + 1}"}}': "8x30" for number in range(1, 5)
        }},
    ]  # fmt: skip
    assert judged(tmp_path, rules_of(tmp_path, [FHIR, AUDIT]), "PoolSmallerThanReplicas", cases) == ""


def test_one_pool_of_hapi_for_two_sides(tmp_path: Path) -> None:
    cases = [{"fires": "7m", "labels": 'pool="one"', "count": 2, "series": {
        f'hikaricp_connections_max{{@hapi{number}, pool="one"}}': "5x30" for number in range(1, 6)}}]  # fmt: skip
    rules = rules_of(tmp_path, [{**FHIR, "hikari_pool": "one"}, {**AUDIT, "hikari_pool": "one"}])
    assert judged(tmp_path, rules, "PoolSmallerThanReplicas", cases) == ""


STREAMING = "bd_fhir_pg_server_standbys_streaming"


@pytest.mark.parametrize(
    ("sides", "alone", "missing"), [([FHIR_ALONE, AUDIT], "fhir", "audit"), ([FHIR, AUDIT_ALONE], "audit", "fhir")], ids=["audit", "fhir"]
)
def test_a_standby_is_missed_by_the_side_that_has_one(tmp_path: Path, sides: list[dict[str, Any]], alone: str, missing: str) -> None:
    cases = [
        {"fires": "3m", "labels": f'side="{missing}"', "series": {f"{STREAMING}{{@{missing}}}": "0x20", f"{STREAMING}{{@{alone}}}": "0x20"}},
        {"silent": "5m", "series": {f"{STREAMING}{{@{missing}}}": "1x20", f"{STREAMING}{{@{alone}}}": "0x20"}},
    ]
    assert judged(tmp_path, rules_of(tmp_path, sides), "PrimaryWithoutStandby", cases) == ""


def test_a_standby_is_missed_by_both_sides_and_by_none(tmp_path: Path) -> None:
    cases = [{"fires": "3m", "labels": 'job="postgres"', "count": 2, "series": {f"{STREAMING}{{@fhir}}": "0x20", f"{STREAMING}{{@audit}}": "0x20"}}]
    assert judged(tmp_path, rules_of(tmp_path, [FHIR, AUDIT]), "PrimaryWithoutStandby", cases) == ""
    assert "PrimaryWithoutStandby" not in monitoring_rules.alerts_of(rules_of(tmp_path, [FHIR_ALONE, AUDIT_ALONE]))


def test_a_standby_that_is_not_scraped_is_missed_too(tmp_path: Path) -> None:
    """The site's own exporters, of which the standby has none; and one that only a target tells of."""
    targets = {"postgres-fhir": "10.0.0.6:9187", "postgres-audit": "10.0.0.7:9187"}
    found = rules_of(tmp_path, [FHIR_ALONE, AUDIT], monitoring_components=[], monitoring_targets=targets)
    assert (found["standbys"], found["standbys_of"]) == ([], {"audit": []})
    alerts = monitoring_rules.alerts_of(found)
    assert 'side=~"audit"' in alerts["PrimaryWithoutStandby"]["expr"]
    assert "StandbyNotStreaming" not in alerts
    targets["postgres-audit-replica"] = "10.0.0.8:9187"
    found = rules_of(tmp_path, [FHIR_ALONE, AUDIT_ALONE], monitoring_components=[], monitoring_targets=targets)
    assert found["standbys_of"] == {"audit": ["audit-replica"]}


def unused(where: str, index: str, age: str = LONG) -> Series:
    return {f"bd_fhir_pg_index_unused{{@{where}, {index}}}": "1x300", f"bd_fhir_pg_server_statistics_since_seconds{{@{where}}}": age}


def test_indexes_are_judged_by_their_own_sides_standbys(tmp_path: Path) -> None:
    """An index of audit is never on a standby of fhir."""
    cases = [
        {"fires": "70m", "step": "1m", "labels": 'side="audit", index="idx_audit"',
         "series": {**unused("fhir", INDEX), **unused("audit", AUDIT_INDEX)}},
        {"fires": "70m", "step": "1m", "labels": 'side="fhir", index="idx"', "series": {**unused("fhir", INDEX), **unused("standby", INDEX)}},
        {"silent": "70m", "step": "1m", "why": "the standby was cloned an hour ago, and its predecessor may have used it",
         "series": {**unused("fhir", INDEX), **unused("standby", INDEX, SHORT)}},
    ]  # fmt: skip
    assert judged(tmp_path, rules_of(tmp_path, [FHIR, AUDIT_ALONE]), "IndexUnused", cases) == ""


def test_each_of_two_standbys_has_to_say_that_an_index_is_unused(tmp_path: Path) -> None:
    second = {name.replace("@standby", 'job="postgres", side="fhir-replica2", instance="fhir-replica2", deployment="bd-fhir-national"'): values
              for name, values in unused("standby", INDEX).items()}  # fmt: skip
    both = {**unused("fhir", INDEX), **unused("standby", INDEX)}
    cases = [{"fires": "70m", "step": "1m", "labels": 'side="fhir"', "series": {**both, **second}}, {"silent": "70m", "step": "1m", "series": both}]
    rules = rules_of(tmp_path, [{**FHIR, "standby_services": ["one", "two"]}, AUDIT])
    assert rules["standbys_of"] == {"fhir": ["fhir-replica", "fhir-replica2"], "audit": ["audit-replica"]}
    assert judged(tmp_path, rules, "IndexUnused", cases) == ""
