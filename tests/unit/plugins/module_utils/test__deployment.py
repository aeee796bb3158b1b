# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The judgements of deployment_info: each is shown going green and red."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _deployment as d
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import Container, Expected

FIXTURES = Path(__file__).parents[1] / "fixtures" / "compose"


def ids(findings: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in findings]


def container(service: str = "hapi", number: int = 1, **changes: Any) -> Container:
    values: dict[str, Any] = {
        "id": f"{service}{number}", "name": f"x-{service}-{number}", "service": service, "number": number, "oneoff": False,
        "state": "running", "health": "healthy", "exit_code": 0, "oom_killed": False, "image_ref": "img:1", "image_id": "sha256:1",
        "config_hash": "h1", "created": f"2026-01-01T00:00:0{number}Z", "started_at": "", "restart_count": 0,
        "restart_policy": "unless-stopped", "config_files": ["/x/docker-compose.yml"],
    }  # fmt: skip
    return Container(**{**values, **changes})


def expect(service: str = "hapi", **changes: Any) -> Expected:
    values: dict[str, Any] = {
        "service": service, "scale": 1, "config_hash": "h1", "config_hashes": ("h1",), "image_ref": "img:1", "image_id": "sha256:1",
        "healthcheck": True, "stop_grace_period": 40.0, "container_name": "", "ports": [], "memory_limit": 0,
    }  # fmt: skip
    return Expected(**{**values, **changes})


def deployment(service: dict[str, Any], text: str = "", **changes: Any) -> d.Deployment:
    return d.Deployment(
        config={"services": {"hapi": service}}, expected={"hapi": expect(**changes)}, files_default=["/x/docker-compose.yml"],
        texts={"/x/docker-compose.yml": text},
    )  # fmt: skip


# -- the environment file (case 12)


def test_env_file_damage_names_variable_and_line_never_the_value() -> None:
    found = d.env_text_findings("A=1\nDB_PASSWORD=pa$sw0rd%x\n", "/x/.env")
    assert ids(found) == ["env_file_damaged"]
    assert found[0]["severity"] == "error"
    assert found[0]["object"] == "DB_PASSWORD"
    assert "line 2" in found[0]["found"]
    assert "sw0rd" not in json.dumps(found)


def test_env_file_that_compose_refuses() -> None:
    found = d.env_text_findings("A='sw0rd\n", "/x/.env")
    assert ids(found) == ["env_file_damaged"]
    assert found[0]["object"] == "/x/.env"
    assert "sw0rd" not in json.dumps(found)


@pytest.mark.parametrize("text", ["", "A='pa$sw0rd'\n", "A=1\nB=$A\n", "B=${C:-x}\n", "A=pa$sw0rd\nA=good\n", "A=5$ \n"])
def test_env_file_without_damage(text: str) -> None:
    assert d.env_text_findings(text, "/x/.env") == []


def test_doubled_dollar_is_only_told() -> None:
    found = d.env_text_findings("A=a$$b\n", "/x/.env")
    assert [(item["id"], item["severity"]) for item in found] == [("env_file_dollar_doubled", "info")]


# -- files and fragments


def test_files_differ(tmp_path: Path) -> None:
    base, other, mine = str(tmp_path / "a.yml"), str(tmp_path / "b.yml"), str(tmp_path / "compose.d" / "hapi.yml")
    directory = str(tmp_path / "compose.d")
    assert d.files_findings([base], [base], [], directory) == []
    assert d.files_findings([base, mine], [base], [mine], directory) == []
    # Removed since, but the label of the running container still names it.
    assert d.files_findings([base], [base, mine], [], directory) == []
    assert d.files_findings([base], [], [], directory) == []
    found = d.files_findings([base], [base, other], [], directory)
    assert ids(found) == ["compose_files_differ"]
    assert other in found[0]["expected"]
    assert other not in found[0]["found"]
    # The order decides which file wins.
    assert ids(d.files_findings([base, other], [other, base], [], directory)) == ["compose_files_differ"]


def test_fragments() -> None:
    fragment = "/x/compose.d/hapi.yml"
    base = "/x/docker-compose.yml"
    services = {fragment: ["hapi"]}
    with_it = container(config_files=[base, fragment])
    assert d.fragment_findings([base, fragment], [fragment], services, [with_it]) == []
    assert ids(d.fragment_findings([base], [fragment], services, [with_it])) == ["fragment_not_loaded"]
    found = d.fragment_findings([base, fragment], [fragment], services, [with_it, container(number=2)])
    assert ids(found) == ["fragment_not_running"]
    assert "x-hapi-2" in found[0]["found"]


def test_profiles() -> None:
    every = {"a": [], "job": ["ops"]}
    assert d.profile_findings(["ops"], every, ["a", "job"], "/x/.env") == []
    found = d.profile_findings(["ops"], every, ["a"], "/x/.env")
    assert [(item["id"], item["severity"]) for item in found] == [("profiles_ignored", "error")]
    assert "job" in found[0]["found"]
    assert [item["severity"] for item in d.profile_findings(["opps"], every, ["a"], "/x/.env")] == ["warning"]
    assert d.profile_findings(["*"], every, ["a"], "/x/.env") == []


# -- containers (case 29)


def test_healthy_containers_give_nothing() -> None:
    assert d.container_findings([container()], {"hapi": expect()}, "hapi") == []


@pytest.mark.parametrize(("code", "found"), [(0, []), (1, ["one_shot_failed"])])
def test_one_shot(code: int, found: list[str]) -> None:
    job = container("job", state="exited", exit_code=code, restart_policy="no", health="none")
    result = d.container_findings([job], {"job": expect("job")}, "hapi")
    assert [item for item in ids(result) if item != "replicas_differ"] == found
    assert ("replicas_differ" in ids(result)) is bool(code)


@pytest.mark.parametrize(
    "changes",
    [
        {"health": "unhealthy"}, {"state": "restarting"}, {"state": "dead"}, {"state": "created", "health": "none"},
        {"state": "exited", "exit_code": 137, "oom_killed": True}, {"state": "exited", "exit_code": 1, "restart_policy": "no"},
    ],
)  # fmt: skip
def test_unhealthy(changes: dict[str, Any]) -> None:
    found = d.container_findings([container(**changes)], {"hapi": expect()}, "hapi")
    assert "replica_unhealthy" in ids(found)
    assert {item["severity"] for item in found} <= {"warning"}


def test_outdated_orphaned_and_different_counts() -> None:
    old = container(config_hash="h0")
    found = d.container_findings([old, container("gone")], {"hapi": expect(scale=3)}, None)
    assert sorted(ids(found)) == ["replicas_differ", "replicas_outdated", "service_orphaned"]
    assert ids(d.container_findings([container(image_id="sha256:0")], {"hapi": expect()}, None)) == ["replicas_outdated"]


# -- scaling (case 23)

PLAIN = "services:\n  hapi:\n    image: img:1\n"


def test_nothing_in_the_way() -> None:
    assert d.scale_findings(deployment({}, PLAIN), "hapi", 3, 1, False, []) == []


def test_container_name_names_file_and_line() -> None:
    item = deployment({"container_name": "bd-hapi"}, PLAIN + "    container_name: bd-hapi\n", container_name="bd-hapi")
    found = d.scale_findings(item, "hapi", 3, 1, False, [])
    assert ids(found) == ["container_name_set"]
    assert "/x/docker-compose.yml:4" in found[0]["found"]
    assert "!reset null" in found[0]["hint"]
    # One replica, and none beside it: the name does no harm.
    assert d.scale_findings(item, "hapi", 1, 0, False, []) == []


@pytest.mark.parametrize(
    ("published", "found"), [("8080", ["fixed_host_port"]), ("8080-8081", ["fixed_host_port"]), ("8080-8083", []), ("", []), ("0", [])]
)
def test_fixed_host_port(published: str, found: list[str]) -> None:
    item = deployment({"ports": [{"published": published, "target": 8080}]}, PLAIN + "    ports:\n      - x\n")
    result = d.scale_findings(item, "hapi", 3, 1, False, [])
    assert ids(result) == found
    if found:
        assert "/x/docker-compose.yml:4" in result[0]["found"]
        assert "!reset []" in result[0]["hint"]


@pytest.mark.parametrize("replicas", [0, -1, 51, 1000])
def test_absurd_replicas(replicas: int) -> None:
    assert "replicas_invalid" in ids(d.scale_findings(deployment({}, PLAIN), "hapi", replicas, 1, False, []))
    assert "replicas_invalid" in ids(d.scale_findings(d.Deployment(), "hapi", replicas, 1, False, []))


def test_health_check_or_probe() -> None:
    item = deployment({}, PLAIN, healthcheck=False)
    assert ids(d.scale_findings(item, "hapi", 3, 1, False, [])) == ["no_health_check"]
    assert d.scale_findings(item, "hapi", 3, 1, True, []) == []


def test_service_missing_and_shared_network_and_deploy() -> None:
    assert ids(d.scale_findings(deployment({}, PLAIN), "hapy", 3, 1, False, [])) == ["service_missing"]
    assert ids(d.scale_findings(deployment({"network_mode": "host"}, PLAIN), "hapi", 3, 1, False, [])) == ["shared_network_mode"]
    assert ids(d.scale_findings(deployment({}, PLAIN), "hapi", 3, 1, False, ["/x:5"])) == ["scale_by_deploy_replicas"]


GIB = 1024**3


def test_memory() -> None:
    assert d.memory_finding("hapi", 4, 2 * GIB, 6 * GIB, 2 * GIB) == (None, 8 * GIB)
    found, needed = d.memory_finding("hapi", 4, 2 * GIB, 6 * GIB, 2 * GIB - 1)
    assert found is not None
    assert found["id"] == "memory_short"
    assert found["severity"] == "error"
    assert needed == 8 * GIB
    found, needed = d.memory_finding("hapi", 4, None, 6 * GIB, 0)
    assert found is not None
    assert found["id"] == "memory_unknown"
    assert needed is None


def test_sizes_and_meminfo() -> None:
    assert d.parse_size("139.4MiB") == int(139.4 * 1024**2)
    assert d.parse_size(" 0B ") == 0
    with pytest.raises(ValueError, match="not a size"):
        d.parse_size("--")
    memory = d.parse_meminfo((FIXTURES / "meminfo.txt").read_text())
    assert memory["total"] > memory["available"] > 1024**3
    with pytest.raises(KeyError):
        d.parse_meminfo("MemTotal: 5 kB\n")


def test_what_is_shown_has_names_of_the_environment_only() -> None:
    config = json.loads((FIXTURES / "config-2.40.3.json").read_text())
    item = d.Deployment(config=config, expected={name: expect(name) for name in config["services"]})
    shown = d.public(item, "/x", "/x/.env")
    assert "HELLO" in shown["services"]["full"]["environment_names"]
    assert "sw0rd" in json.dumps(config)
    assert "sw0rd" not in json.dumps(shown)
    assert shown["exists"] is False
    assert shown["services"]["full"]["depends_on"] == ["two"]
    assert shown["services"]["full"]["standby_of"] == ""
    json.dumps(shown)


def test_a_standby_of_ours_is_told() -> None:
    config = {"services": {"replica": {"image": "postgres:15", "labels": {"dghs.bd_fhir.standby_of": "clinical-db"}}, "own": {"labels": None}}}
    shown = d.public(d.Deployment(config=config, expected={name: expect(name) for name in config["services"]}), "/x", "/x/.env")["services"]
    assert (shown["replica"]["standby_of"], shown["own"]["standby_of"]) == ("clinical-db", "")
