# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role monitoring writes, read by the programs that take it: promtool, amtool and Compose."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker, free_port

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
        "postgres-audit": service("backend-audit"), "postgres-fhir-replica": {**service("backend-fhir"), "standby_of": "postgres-fhir"},
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
                "__monitoring_textfile_stat": {"stat": {"exists": True}}, "__monitoring_cron_probe": {"rc": 0},
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
    assert ours["monitoring-node"]["user"] == "65534:65534"
    assert list(ours["monitoring-postgres-audit"]["networks"]) == ["backend-audit", "monitoring"]


def test_the_rules_get_the_sites_own_sizes(render: Render) -> None:
    found = json.loads((render(only=["rules.json"]) / "rules.json").read_text())
    assert (found["replicas"], found["hikari_max"]) == (3, {"fhir": 5, "audit": 2})
    assert (found["sides"], found["standbys"], found["standbys_of"]) == (["fhir", "audit"], ["fhir-replica"], {"fhir": ["fhir-replica"]})
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
        ({"monitoring_heartbeat_url": "hc.example.org/a"}, "monitoring_heartbeat_url is no URL"),
        ({"monitoring_receivers": [RECEIVERS[5]], "__monitoring_cron_probe": {"rc": 1, "stdout_lines": ["no cron daemon runs on this host"]}},
         "needs cron. no cron daemon runs"),
        ({"monitoring_receivers": [RECEIVERS[5]], "__monitoring_cron_probe": {"rc": 127, "stderr": "not found"}}, "needs cron. not found"),
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


def encoded(text: str) -> dict[str, str]:
    """As slurp gives a file."""
    return {"content": base64.b64encode(text.encode()).decode()}


ROOT_IS = "22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw\n27 1 8:1 / / rw,relatime %s- ext4 /dev/sda1 rw,errors=remount-ro\n"


def test_the_disks_of_the_host(render: Render) -> None:
    """Those below Docker's volumes are seen and its own mounts are not; what is mounted later is seen where Docker can have it."""
    for optional, propagation in (("", ""), ("shared:1 ", "rslave"), ("master:41 ", "rslave"), ("shared:1 master:2 ", "rslave"), ("unbindable ", "")):
        out = render(only=["fragment.yml"], __monitoring_mounts=encoded(ROOT_IS % optional), monitoring_node_uid=0)
        node = compose(out)["services"]["monitoring-node"]
        assert node["user"] == "0:0"
        root = next(item for item in node["volumes"] if item["target"] == "/host")
        assert (root["source"], root["read_only"], root.get("bind", {}).get("propagation", "")) == ("/", True, propagation), optional
    excluded = re.compile(next(word for word in node["command"] if "exclude" in word).partition("=")[2].replace("$$", "$"))
    for path in ("/", "/data", "/var/lib/docker", "/var/lib/docker/volumes", "/var/lib/docker/volumes/bd_pgdata/_data", "/var/lib/dockers", "/etc",
                 "/textfiles", "/runs"):
        assert not excluded.search(path), path
    for path in ("/dev", "/run/user/0", "/var/lib/docker/overlay2/3f/merged", "/var/lib/docker/containers/3f/mounts/shm", "/etc/hosts", "/textfile",
                 "/etc/resolv.conf", "/var/lib/docker/rootfs/overlayfs/3f", "/var/lib/docker/netns/default"):
        assert excluded.search(path), path


def test_the_rules_are_about_what_the_site_has(render: Render) -> None:
    """The job of the commands, that of HAPI's partitions where it tells a metric, and the audit tables as their own job has them."""
    few = json.loads((render(only=["rules.json"]) / "rules.json").read_text())
    assert (few["command_job"], few["hapi_partitions_job"], few["audit_schema"]) == (False, False, "audit")
    for metrics, there in (("/var/lib/prometheus/node-exporter/bd_fhir_hfj_partitions.prom", True), ("", False)):
        values: dict[str, Any] = {"__monitoring_hapi_partitions_config": encoded(json.dumps({"metrics": metrics}))}
        out = render(only=["rules.json", "rules/audit.yml", "rules/partitions.yml"], monitoring_receivers=RECEIVERS, monitoring_audit_schema="trail",
                     monitoring_audit_alarm_days="40", monitoring_audit_months_ahead="2", **values)  # fmt: skip
        found = json.loads((out / "rules.json").read_text())
        assert (found["command_job"], found["hapi_partitions_job"], found["audit_schema"]) == (True, there, "trail")
        alerts = {rule["alert"]: rule["expr"] for name in ("audit", "partitions") for group in load(out / f"{name}.yml")["groups"]
                  for rule in group["rules"]}  # fmt: skip
        assert ("absent(" in alerts["HapiPartitionsNotWatched"]) == there
        assert alerts["AuditPartitionsFew"].endswith("< 56 >= 40.0")
        assert 'schema="trail"' in alerts["AuditPartitionLarge"]


def test_what_fires_always_is_told_to_who_waits_for_it_and_to_nobody_else(render: Render) -> None:
    for url in ("", "https://hc.example.org/ping/3f#a"):
        out = render(only=["alertmanager.yml"], monitoring_receivers=RECEIVERS, monitoring_heartbeat_url=url)
        assert "SUCCESS" in checked(out, "amtool", "alertmanager", "check-config", "/etc/check/alertmanager.yml")
        argv = ("config", "routes", "test", "--config.file=/etc/check/alertmanager.yml", "deployment=bd", "severity=none", "alertname=Watchdog")
        assert checked(out, "amtool", "alertmanager", *argv).split() == ["role-heartbeat" if url else "nobody"]
        receivers = {item["name"]: item for item in load(out / "alertmanager.yml")["receivers"]}
        assert ("role-heartbeat" in receivers) == bool(url)
        if url:
            assert receivers["role-heartbeat"]["webhook_configs"] == [{"url": url, "send_resolved": False}]


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


class Hub:
    """Where messages arrive: an HTTP server and a mail server at the address that containers know this machine by."""

    def __init__(self) -> None:
        network = json.loads(docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]
        # An engine that was told none does not write down which it took: the first one.
        self.address = network.get("Gateway") or str(next(ipaddress.ip_network(network["Subnet"]).hosts()))
        self.posted: list[tuple[str, str, dict[str, Any]]] = []
        self.mails: list[Any] = []
        hub = self

        class Posts(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hub.posted.append((self.path, self.headers.get("Authorization", ""), json.loads(body)))
                # PagerDuty's answer; the others are content with any 2xx.
                self.send_response(202 if self.path == "/pager" else 200)
                self.end_headers()
                self.wfile.write(b'{"status": "success"}')

        class Mails(Message):
            def handle_message(self, message: Any) -> None:
                hub.mails.append(message)

        self.http = ThreadingHTTPServer((self.address, 0), Posts)
        self.smtp = Controller(Mails(), hostname=self.address, port=free_port(self.address))

    def __enter__(self) -> Hub:
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.smtp.start()
        return self

    def __exit__(self, *dummy: object) -> None:
        self.http.shutdown()
        self.smtp.stop()

    def of(self, path: str) -> list[tuple[str, dict[str, Any]]]:
        return [(secret, body) for where, secret, body in self.posted if where == path]

    def counts(self) -> tuple[int, int, int, int]:
        return len(self.mails), len(self.of("/chat")), len(self.of("/pager")), len(self.of("/hub?a=b"))


SUMMARY = "\u09aa\u09cd\u09b0 \"x\""


@pytest.mark.full
def test_messages_of_each_kind_arrive(render: Render, tmp_path: Path) -> None:
    """By the real Alertmanager with the role's configuration; who wants only critical ones is told of no warning."""
    with Hub() as hub:
        url = f"http://{hub.address}:{hub.http.server_port}"
        receivers = [
            {"name": "night", "type": "mail", "to": "ops@example.org", "from": "fhir@example.org", "require_tls": False,
             "smarthost": f"{hub.address}:{hub.smtp.port}"},
            {"name": "chat", "type": "slack", "channel": "#fhir: yes", "secret_variable": "SLACK_URL", "severities": ["critical", "warning"]},
            {"name": "pager", "type": "pagerduty", "secret_variable": "PAGER_KEY", "severities": ["critical"], "url": f"{url}/pager"},
            {"name": "hub", "type": "webhook", "url": f"{url}/hub?a=b", "secret_variable": "HUB_TOKEN"},
        ]
        out = render(only=["alertmanager.yml"], monitoring_group_wait="1s", monitoring_group_interval="2s", monitoring_receivers=receivers)
        secrets = tmp_path / "secrets"
        secrets.mkdir()
        for name, text in (("chat", f"{url}/chat"), ("pager", "pager-S3cret"), ("hub", "hub-S3cret")):
            (secrets / f"monitoring_receiver_{name}").write_text(text)
        # Its user is nobody, as the official image's is.
        for folder in (tmp_path, out, secrets):
            folder.chmod(0o755)
        mounts = ("--volume", f"{out}:/etc/alertmanager:ro", "--volume", f"{secrets}:/run/secrets:ro")
        server = docker("run", "-d", *mounts, image("alertmanager")).strip()
        try:
            address = docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", server).strip()

            def until(what: str, condition: Callable[[], object]) -> None:
                end = time.monotonic() + 30
                while not condition():
                    assert time.monotonic() < end, f"{what}: {hub.counts()} {hub.posted}\n{docker('logs', server)}"
                    time.sleep(0.3)

            def up() -> bool:
                try:
                    return bool(urllib.request.urlopen(f"http://{address}:9093/-/ready", timeout=5).status == 200)
                except OSError:
                    return False

            def send(name: str, severity: str, **more: str) -> None:
                labels = {"alertname": name, "severity": severity, "deployment": "bd"}
                body = json.dumps([{"labels": labels, "annotations": {"summary": SUMMARY}, **more}]).encode()
                request = urllib.request.Request(f"http://{address}:9093/api/v2/alerts", body, {"Content-Type": "application/json"})
                assert urllib.request.urlopen(request, timeout=10).status == 200

            until("it is up", up)
            send("Warned", "warning")
            until("the warning is told", lambda: hub.counts() == (1, 1, 0, 1))
            send("Broken", "critical")
            until("it is told to all", lambda: hub.counts() == (2, 2, 1, 2))
            assert (hub.mails[1]["To"], hub.mails[1]["From"]) == ("ops@example.org", "fhir@example.org")
            assert "Broken" in hub.mails[1]["Subject"]
            page = hub.of("/pager")[0][1]
            assert (page["routing_key"], page["event_action"], page["payload"]["severity"]) == ("pager-S3cret", "trigger", "error")
            assert hub.of("/chat")[1][1]["channel"] == "#fhir: yes"
            secret, told = hub.of("/hub?a=b")[1]
            assert secret == "Bearer hub-S3cret"
            assert [(item["labels"]["alertname"], item["annotations"]["summary"]) for item in told["alerts"]] == [("Broken", SUMMARY)]
            send("Broken", "critical", startsAt="2026-01-01T00:00:00Z", endsAt="2026-01-01T00:01:00Z")
            until("its end is told to all", lambda: hub.counts() == (3, 3, 2, 3))
            assert hub.of("/pager")[1][1]["event_action"] == "resolve"
            assert "RESOLVED" in hub.mails[2]["Subject"]
        finally:
            docker("rm", "-f", "-v", server)
