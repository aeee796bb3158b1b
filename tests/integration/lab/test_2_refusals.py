# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong input: the real run is refused before the first change and says what to do; a dry run lists the same and ends with 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pilot_host import PROJECT, REGISTRY, ok, on_host, play, snapshot

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("pilot")]

COMPOSE = f"{PROJECT}/docker-compose.yml"


@dataclass(frozen=True)
class Wrong:
    """``damage`` and ``mend`` run on the host as root; ``says`` must all be in what the operator reads."""

    name: str
    says: tuple[str, ...]
    args: tuple[str, ...] = ()
    damage: str = "true"
    mend: str = "true"
    # A value that no run could take is refused in check mode as well: it is no finding about the host.
    check_refuses: bool = False


CASES = (
    Wrong("container_name", ("container_name_set", "docker-compose.yml", "!reset", "hapi_reset_container_name"),
          damage=f"sed -i '/^  hapi:/a\\    container_name: bd-hapi' {COMPOSE}", mend=f"sed -i '/container_name: bd-hapi/d' {COMPOSE}"),
    Wrong("fixed_port", ("fixed_host_port", "18080", "!reset", "hapi_reset_ports"),
          damage=f"sed -i '/^  hapi:/a\\    ports: [\"18080:8080\"]' {COMPOSE}", mend=f"sed -i '/18080:8080/d' {COMPOSE}"),
    Wrong("too_little_memory", ("memory_short",), args=("-e", "preflight_replica_memory=99000000000")),
    Wrong("another_set_of_files", ("compose_files_differ", "docker-compose.override.yml"),
          damage=f"printf 'services:\\n  nginx:\\n    labels: {{a: b}}\\n' > {PROJECT}/docker-compose.override.yml",
          mend=f"rm {PROJECT}/docker-compose.override.yml"),
    Wrong("env_missing", ("env_file_missing", f"{PROJECT}/.env"),
          damage=f"mv {PROJECT}/.env {PROJECT}/env.away", mend=f"mv {PROJECT}/env.away {PROJECT}/.env"),
    Wrong("env_unreadable", ("env_file_unreadable",), args=("-e", "ansible_user=deployer", "-e", "ansible_become=false")),
    Wrong("env_damaged_by_dollar", ("env_file_damaged", "SMTP_PASSWORD"),
          damage=f"cp -p {PROJECT}/.env {PROJECT}/env.copy && printf 'SMTP_PASSWORD=pa$sw0rd%%x\\n' >> {PROJECT}/.env",
          mend=f"cat {PROJECT}/env.copy > {PROJECT}/.env && rm {PROJECT}/env.copy"),
    Wrong("no_replicas", ("replicas",), args=("-e", "hapi_replicas=0")),
    Wrong("negative_replicas", ("replicas",), args=("-e", "hapi_replicas=-1")),
    Wrong("absurd_replicas", ("replicas",), args=("-e", "hapi_replicas=1000")),
    Wrong("replicas_no_number", ("hapi_replicas",), args=("-e", "hapi_replicas=three"), check_refuses=True),
    Wrong("no_health_check", ("no_health_check", "probe"),
          damage=f"cp {COMPOSE} {COMPOSE}.copy && sed -i '/^  hapi:/,/^  postgres-fhir:/{{/healthcheck:/,/start_period:/d}}' {COMPOSE}"
                 f" && sed -i '/^      hapi:/,/condition:/s/service_healthy/service_started/' {COMPOSE}",
          mend=f"cat {COMPOSE}.copy > {COMPOSE} && rm {COMPOSE}.copy"),
    Wrong("image_unknown", ("image_not_pullable", "hapi:9.9.9"), args=("-e", f"hapi_image={REGISTRY}/hapi:9.9.9")),
    Wrong("image_with_migration", ("V3__audit_comment.sql", "hapi_allow_migration"), args=("-e", f"hapi_image={REGISTRY}/hapi:1.2.0-migration")),
    Wrong("no_consent", ("balancer_edit_nginx", "nginx.conf"), args=("-e", "balancer_edit_nginx=false")),
    Wrong("not_the_target", ("not_the_target", "bd-fhir-national"), args=("-e", "bd_fhir_project_dir=/opt/elsewhere"),
          damage="mkdir -p /opt/elsewhere && printf 'name: elsewhere\\nservices:\\n  hapi:\\n    image: x\\n' > /opt/elsewhere/docker-compose.yml"
                 " && touch /opt/elsewhere/.env && chmod 600 /opt/elsewhere/.env", mend="rm -r /opt/elsewhere"),
    Wrong("no_such_directory", ("project_dir_missing", "/opt/nowhere"), args=("-e", "bd_fhir_project_dir=/opt/nowhere")),
    Wrong("no_such_service", ("service_missing", "fhir-server"), args=("-e", "bd_fhir_hapi_service=fhir-server")),
)


@pytest.fixture
def damaged(request: pytest.FixtureRequest) -> Iterator[Wrong]:
    case: Wrong = request.param
    on_host("bash", "-c", case.damage)
    try:
        yield case
    finally:
        on_host("bash", "-c", case.mend)


@pytest.mark.parametrize("damaged", CASES, indirect=True, ids=[case.name for case in CASES])
def test_a_real_run_is_refused_before_the_first_change(damaged: Wrong) -> None:
    untouched = snapshot()
    result = play("scale_hapi", *damaged.args)
    assert result.rc != 0
    # An image may have been fetched into the host's store; the deployment itself is as it was.
    assert snapshot() == untouched
    flat = " ".join(result.out.split())
    for part in damaged.says:
        assert part in flat, f"{part!r} is not in:\n{result.out[-3000:]}"
    assert "pa$sw0rd" not in result.out
    assert "Traceback" not in result.out


@pytest.mark.full
@pytest.mark.parametrize("damaged", CASES, indirect=True, ids=[case.name for case in CASES])
def test_a_dry_run_lists_it_and_ends_with_0(damaged: Wrong) -> None:
    untouched = snapshot()
    result = play("scale_hapi", "--check", "--diff", *damaged.args)
    assert (result.rc != 0) == damaged.check_refuses, result.out[-3000:]
    assert snapshot() == untouched
    # A migration shows only once the image is on the host, and a dry run fetches nothing.
    if damaged.name != "image_with_migration":
        assert damaged.says[0] in result.out


BARE = ("-e", "bd_fhir_hosts=lab_bare")


@pytest.mark.parametrize("verb", ["assess", "scale_hapi", "scale_regional", "rollback_scale_hapi", "add_read_replica"])
def test_a_dry_run_on_a_bare_host_ends_with_0(verb: str) -> None:
    untouched = snapshot("fhir-bare")
    result = ok(verb, "--check", "--diff", *BARE)
    assert result.count("changed", "fhir-bare") == 0
    assert "docker_missing" in result.out
    assert snapshot("fhir-bare") == untouched


@pytest.mark.parametrize("verb", ["scale_hapi", "rollback_scale_hapi"])
def test_a_real_run_on_a_bare_host_is_refused(verb: str) -> None:
    untouched = snapshot("fhir-bare")
    result = play(verb, *BARE)
    assert result.rc != 0
    assert "docker_missing" in result.out
    assert snapshot("fhir-bare") == untouched


@pytest.mark.parametrize(("become", "works"), [
    (("-e", "ansible_user=careful", "-e", "ansible_become_password=lab-Sudo pw$1"), True),
    (("-e", "ansible_user=careful"), False),
    (("-e", "ansible_user=deployer", "-e", "ansible_become=false"), True),
], ids=["sudo_with_password", "sudo_without_its_password", "docker_group_only"])
def test_users_of_every_kind_can_assess_or_are_told_what_is_missing(become: tuple[str, ...], works: bool) -> None:
    args = list(become)
    # A value with a space needs the quotes of the key=value form.
    args = [f'{value.split("=", 1)[0]}="{value.split("=", 1)[1]}"' if " " in value else value for value in args]
    result = play("assess", *args)
    assert (result.rc == 0) == works, result.out[-2000:]
    if not works:
        assert "sudo" in result.out.lower()
