# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role monitoring writes, read by the programs that take it: promtool, amtool and Compose."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles/monitoring"
# One of each kind, with what YAML takes for something else.
RECEIVERS = [
    {"name": "night", "type": "mail", "to": "a@example.org", "from": "b@example.org", "smarthost": "mail:587", "secret_variable": "MAIL_PASSWORD"},
    {"name": "chat", "type": "slack", "channel": "#fhir: yes", "secret_variable": "SLACK_URL", "severities": ["critical", "warning"]},
    {"name": "pager", "type": "pagerduty", "secret_variable": "PAGER_KEY", "severities": ["critical"]},
    {"name": "hub", "type": "webhook", "url": "http://hub:80/a?b=c#d", "secret_variable": "HUB_TOKEN"},
    {"name": "plain", "type": "webhook", "url": "http://hub:80/"},
    {"name": "script", "type": "command", "command": ["/bin/true"]},
]
EVERYTHING = ["prometheus", "alertmanager", "postgres_exporter", "pgbouncer_exporter", "node_exporter", "grafana"]


def service(*networks: str, scale: int = 1) -> dict[str, Any]:
    return {"networks": list(networks), "scale": scale, "replicas": []}


def side(name: str, size: int, usable: int, maximum: int) -> dict[str, Any]:
    return {
        "name": name, "hikari": {"pool": name, "size": size}, "server": {"usable": usable, "max_connections": maximum},
        "pooler": {"effective": 20, "max_client_conn": 200},
    }  # fmt: skip


DEPLOYMENT = {
    "project": {"name": "bd-fhir-national"}, "memory": {"available": 8_000_000_000},
    "services": {
        "hapi": service("backend-audit", "backend-fhir", "frontend", scale=3), "postgres-fhir": service("backend-fhir"),
        "postgres-audit": service("backend-audit"), "postgres-fhir-replica": service("backend-fhir"),
        "pgbouncer-fhir": service("backend-fhir"), "pgbouncer-audit": service("backend-audit"),
    },
}  # fmt: skip
OWNERS = {
    "services": {name: {"image": "none"} for name in DEPLOYMENT["services"]},
    "networks": {name: {} for name in ("frontend", "backend-fhir", "backend-audit")},
}

Render = Callable[..., Path]


@pytest.fixture
def render(tmp_path: Path) -> Render:
    """Have Ansible write what the role would, for a deployment that need not be there."""

    def call(**values: Any) -> Path:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        for name in ("templates", "files"):
            link = tmp_path / name
            if not link.is_symlink():
                link.symlink_to(ROLE / name)
        rules = sorted(path.name[:-3] for path in (ROLE / "templates/rules").glob("*.yml.j2"))
        everything = ["fragment.yml", "prometheus.yml", "alertmanager.yml", "datasource.yml", "dashboards.yml", "rules.json"]
        sources = values.pop("only", [*everything, *(f"rules/{rule}" for rule in rules)])
        tasks = [
            {
                "name": f"Render {name}",
                "ansible.builtin.template": {"src": name + ".j2", "dest": str(out / Path(name).name), "mode": "0644"},
            }
            for name in sources
        ]
        play = [{
            "hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks,
            "vars_files": [str(ROLE / part / "main.yml") for part in ("defaults", "vars")],
            "vars": {
                "ansible_python_interpreter": "{{ ansible_playbook_python }}", "role_path": str(ROLE), "preflight_deployment": DEPLOYMENT,
                "__monitoring_budget": {"sides": [side("fhir", 5, 37, 40), side("audit", 2, 27, 30)]}, "_monitoring_with_services": True,
                "__monitoring_memory": {}, "__monitoring_secrets": {"names_removed": values.pop("held", [])},
                "__monitoring_textfile_stat": {"stat": {"exists": True}},
            },
        }]  # fmt: skip
        (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
        (tmp_path / "values.json").write_text(json.dumps(values))
        argv = ["ansible-playbook", "-i", "localhost,", str(tmp_path / "play.yml"), "-e", f"@{tmp_path}/values.json"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        return out

    return call


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def compose(out: Path, **environment: str) -> dict[str, Any]:
    """What the real Compose reads from the owner's file with the fragment."""
    (out / "docker-compose.yml").write_text(json.dumps({"name": "mon-files", **OWNERS}))
    (out / ".env").write_text("".join(f"{key}={value}\n" for key, value in environment.items()))
    argv = ["compose", "--env-file", ".env", "-f", "docker-compose.yml", "-f", "fragment.yml", "config", "--format", "json"]
    found: dict[str, Any] = json.loads(docker(*argv, cwd=out))
    return found


def checked(out: Path, tool: str, name: str, *argv: str) -> str:
    return docker("run", "--rm", "--network", "none", "--volume", f"{out}:/etc/check:ro", "--entrypoint", f"/bin/{tool}", image(name), *argv)


def test_everything_is_taken_by_who_reads_it(render: Render) -> None:
    out = render(monitoring_components=EVERYTHING, monitoring_receivers=RECEIVERS)
    (out / "rules").mkdir()
    for path in (ROLE / "templates/rules").glob("*.yml.j2"):
        (out / path.name[:-3]).rename(out / "rules" / path.name[:-3])
    assert "SUCCESS" in checked(out, "promtool", "prometheus", "check", "config", "/etc/check/prometheus.yml")
    assert "SUCCESS" in checked(out, "amtool", "alertmanager", "check-config", "/etc/check/alertmanager.yml")
    secrets = {item["secret_variable"]: f"{item['name']}-S3cret" for item in RECEIVERS if "secret_variable" in item}
    found = compose(out, **secrets, GRAFANA_ADMIN_PASSWORD="grafana-S3cret")
    ours = {name: item for name, item in found["services"].items() if name.startswith("monitoring-")}
    assert sorted(ours) == [
        "monitoring-alertmanager", "monitoring-grafana", "monitoring-node", "monitoring-pgbouncer-audit", "monitoring-pgbouncer-fhir",
        "monitoring-postgres-audit", "monitoring-postgres-fhir", "monitoring-postgres-fhir-replica", "monitoring-prometheus",
    ]  # fmt: skip
    for name, item in ours.items():
        assert (item["restart"], item["cap_drop"]) == ("unless-stopped", ["ALL"]), name
        assert int(item["mem_limit"]) > 0, name
        assert item["healthcheck"]["test"][:2] == ["CMD", "wget"], name
        assert {port["host_ip"] for port in item.get("ports", [])} <= {"127.0.0.1"}, name
    # Secrets are in files: none is in what docker inspect would show.
    assert "S3cret" not in json.dumps(ours)
    assert list(ours["monitoring-prometheus"]["networks"]) == ["frontend", "monitoring"]
    assert list(ours["monitoring-postgres-audit"]["networks"]) == ["backend-audit", "monitoring"]


def test_the_rules_get_the_sites_own_sizes(render: Render) -> None:
    found = json.loads((render(only=["rules.json"]) / "rules.json").read_text())
    assert (found["replicas"], found["hikari_max"]) == (3, {"fhir": 5, "audit": 2})
    assert (found["sides"], found["standbys"]) == (["fhir", "audit"], ["fhir-replica"])
    assert (found["usable_connections_fhir"], found["reserved_connections"], found["pool_size_audit"]) == (37, {"fhir": 3, "audit": 3}, 20)
    assert found["jobs"] == dict.fromkeys(("hapi", "postgres", "pgbouncer", "node", "prometheus", "alertmanager"), True)


def test_each_replica_is_found_by_itself_and_each_target_says_where_it_belongs(render: Render) -> None:
    found = load(render(only=["prometheus.yml"]) / "prometheus.yml")
    jobs = {job["job_name"]: job for job in found["scrape_configs"]}
    assert jobs["hapi"]["dns_sd_configs"] == [{"names": ["hapi"], "type": "A", "port": 8080, "refresh_interval": "15s"}]
    labels = [item["labels"] for job in jobs.values() for item in job.get("static_configs", [])]
    assert {item["deployment"] for item in labels} == {"bd-fhir-national"}
    assert {item["side"] for item in labels if "side" in item} == {"fhir", "audit", "fhir-replica"}


@pytest.mark.full
def test_a_site_with_its_own_gets_the_files_and_only_what_it_wants(render: Render) -> None:
    targets = {"node": "10.0.0.5:9100", "postgres-fhir": "10.0.0.6:9187", "alertmanager": "alerts:9093"}
    out = render(monitoring_components=["pgbouncer_exporter"], monitoring_targets=targets)
    assert load(out / "prometheus.yml")["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == ["alerts:9093"]
    services = [name for name in compose(out)["services"] if name.startswith("monitoring-")]
    assert sorted(services) == ["monitoring-pgbouncer-audit", "monitoring-pgbouncer-fhir"]
    found = json.loads((out / "rules.json").read_text())
    assert (found["sides"], found["poolers"], found["jobs"]["prometheus"], found["jobs"]["node"]) == (["fhir"], ["fhir", "audit"], False, True)
    out = render(monitoring_components=[])
    assert "monitoring-" not in json.dumps(compose(out)["services"])
    assert "SUCCESS" in checked(out, "promtool", "prometheus", "check", "config", "--syntax-only", "/etc/check/prometheus.yml")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"monitoring_components": ["promtheus"]}, "monitoring_components has promtheus"),
        ({"monitoring_receivers": [{"name": "a", "type": "sms"}]}, "its type is sms"),
        ({"monitoring_receivers": [{"name": "a", "type": "slack", "channel": "x"}]}, "needs secret_variable"),
        ({"monitoring_receivers": [RECEIVERS[4], RECEIVERS[4]]}, "two receivers have one name"),
        ({"monitoring_receivers": [RECEIVERS[2]]}, "does not hold PAGER_KEY"),
        ({"monitoring_receivers": [{"name": "A b", "type": "webhook", "url": "x"}]}, "needs a name of small letters"),
        ({"monitoring_thresholds": {"heap": 3}}, "monitoring_thresholds has heap"),
        ({"monitoring_service": "web"}, "no deployment with a service web"),
        ({"monitoring_scrape_timeout": 60}, "monitoring_scrape_timeout no more than that"),
        ({"monitoring_memory": {"prometheus": "100g"}}, "or add memory"),
        ({"__monitoring_budget": {"msg": "The actuator answered 404."}}, "could not be read: The actuator answered 404."),
    ],
)
def test_what_can_not_go_well_is_refused_in_words(render: Render, values: dict[str, Any], words: str) -> None:
    held = ["FHIR_DB_APP_PASSWORD", "AUDIT_DB_WRITER_PASSWORD"]
    found = json.loads((render(only=["refusals"], held=held, **values) / "refusals").read_text())
    assert len(found) == 1, found
    assert words in found[0]


def test_a_site_as_it_should_be_is_not_refused(render: Render) -> None:
    held = ["FHIR_DB_APP_PASSWORD", "AUDIT_DB_WRITER_PASSWORD", "MAIL_PASSWORD", "SLACK_URL", "PAGER_KEY", "HUB_TOKEN"]
    assert json.loads((render(only=["refusals"], held=held, monitoring_receivers=RECEIVERS) / "refusals").read_text()) == []


def test_what_is_told_once_is_what_the_documentation_says(render: Render) -> None:
    found = load(render(only=["alertmanager.yml"]) / "alertmanager.yml")["inhibit_rules"]
    told = {}
    for line in (ROOT / "docs/alerts.md").read_text().split("## What is told once")[1].split("##")[0].splitlines()[4:]:
        if line.startswith("| "):
            left, right = line.strip("| ").split(" | ")
            told[left.split(",")[0].strip()] = {name.strip() for name in right.split(",")}
    rules = {item["source_matchers"][0].split('"')[1]: set(item["target_matchers"][0].split('"')[1].split("|")) for item in found}
    assert rules == told
    assert all(item["equal"][0] == "deployment" for item in found)
