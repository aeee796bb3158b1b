#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_info
short_description: Read a whole compose deployment, and what would stop a scale-out
version_added: 1.0.0
description:
  - Reads in one call what runs and what the files ask for.
    That is the compose files really in use, services, replicas with their addresses, health and mounts, images, networks, ports,
    names and memory.
  - Works on a host where nothing exists yet. What is missing there is a finding, not a failure.
  - With O(scale_service) it also says what would stop that service from running O(scale_replicas) times.
  - Values of environment variables are never returned, only their names.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
  idempotent:
    support: full
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.info_module
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  scale_service:
    description:
      - Service that is about to be scaled or rolled.
    type: str
  scale_replicas:
    description:
      - How many replicas it shall have. By default as many as the configuration asks for.
      - A number outside 1 to 50 is a finding.
    type: int
  surge:
    description:
      - How many replicas more may run while they are replaced one by one.
    type: int
    default: 1
  replica_memory:
    description:
      - Memory that one replica needs, in bytes.
      - By default the memory limit of the service, else the largest use of a running replica.
    type: int
  image:
    description:
      - Image reference that is about to be rolled out for O(scale_service), if another than the configuration's.
      - If it is on the host, its Flyway scripts are compared with those of the running image.
        For that, both are exported to a temporary file, one after the other. They are not run.
    type: str
  probe:
    description:
      - How readiness of a replica is asked for where the service has no health check.
    type: dict
    suboptions:
      port:
        description:
          - Port within the container.
        type: int
        required: true
      path:
        description:
          - Path that answers 200 when the replica is ready.
        type: str
        required: true
  minimum_docker:
    description:
      - Oldest version of the Docker daemon that will do.
    type: str
    default: '20.10'
  minimum_compose:
    description:
      - Oldest version of the Compose plugin that will do.
    type: str
    default: '2.20'
  fragments_dir:
    description:
      - Directory of our fragments. Defaults to C(compose.d) in O(project_dir).
    type: path
seealso:
  - module: dghs.bd_fhir.compose_fragment
  - module: dghs.bd_fhir.compose_rollout
  - module: dghs.bd_fhir.env_file
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Read the deployment
  dghs.bd_fhir.deployment_info:
    project_dir: /opt/bd-fhir-national
  register: info

- name: Show where each replica of hapi is reached
  ansible.builtin.debug:
    msg: "{{ item.name }} {{ item.addresses }}"
  loop: "{{ info.deployment.services.hapi.replicas }}"
  loop_control:
    label: "{{ item.name }}"

- name: Fail when something would stop three replicas of hapi
  dghs.bd_fhir.deployment_info:
    project_dir: /opt/bd-fhir-national
    scale_service: hapi
    scale_replicas: 3
    image: git.dghs.gov.bd/dghs/bd-fhir-national:v1.1.0
    fail_on:
      - error
"""

RETURN = r"""
deployment:
  description: What was read.
  returned: always
  type: dict
  contains:
    exists:
      description: Whether containers of the project are on this host.
      type: bool
      sample: true
    engine:
      description: Versions of the Docker client (C(version)) and daemon (C(server_version)), its C(api) version and C(storage_driver).
      type: dict
      sample: {version: 27.3.1, api: '1.47', server_version: 27.3.1, storage_driver: overlay2}
    compose:
      description: The C(version) of the Compose plugin.
      type: dict
      sample: {version: 2.40.3}
    project:
      description:
        - The project. C(files_default) are the compose files that a plain C(docker compose --env-file .env) loads now,
          C(files_running) those from which the newest container was made, C(fragments) ours and whether each is loaded,
          C(profiles) those that E(COMPOSE_PROFILES) names.
      type: dict
      sample:
        name: bd-fhir-national
        dir: /opt/bd-fhir-national
        env_file: /opt/bd-fhir-national/.env
        files_default: [/opt/bd-fhir-national/docker-compose.yml]
        files_running: [/opt/bd-fhir-national/docker-compose.yml]
        fragments: []
        profiles: []
    services:
      description:
        - Services by name. C(memory_limit) is in bytes, 0 for none; C(stop_grace_period) in seconds. C(standby_of) is the service of the
          primary of which the role P(dghs.bd_fhir.postgres_replica#role) has made this one a standby, or the way to it; else empty.
        - C(replicas) are the containers, with C(name), C(number), C(state), C(health), C(addresses) (network to IPv4 address),
          C(ports), C(mounts), C(image_id), C(config_hash) and more. C(outdated) tells whether the next C(docker compose up)
          would recreate the container.
      type: dict
      sample:
        hapi:
          image: git.dghs.gov.bd/dghs/bd-fhir-national:v1.0.0
          image_id: sha256:6466dea686c867686368f5e966f5b6edc987dc9d7b628bbf2345951541d94906
          scale: 1
          config_hash: 2342948a4783bb5befc14de45d899cb084112c0cb526a15edb6bc4e5912ba749
          healthcheck: true
          stop_grace_period: 40.0
          container_name: ''
          ports: []
          networks: [backend-fhir, frontend]
          memory_limit: 2147483648
          environment_names: [HAPI_IG_VERSION]
          profiles: []
          depends_on: [pgbouncer-fhir]
          standby_of: ''
          mounts: []
          replicas: []
    networks:
      description: Networks by key, with their C(name) in Docker and whether they are C(internal).
      type: dict
      sample: {frontend: {name: bd-fhir-national_frontend, internal: false}}
    volumes:
      description: Volumes by key, with their C(name) in Docker.
      type: dict
      sample: {postgres-fhir-data: {name: bd-fhir-national_postgres-fhir-data}}
    memory:
      description: Bytes of memory on the host, C(total) and C(available), and the sum of the limits of the running containers.
      type: dict
      sample: {total: 8324653056, available: 3221225472, limits_sum: 5368709120}
findings:
  description: What stands in the way, each with C(id), C(severity), C(object), C(expected), C(found) and C(hint).
  returned: always
  type: list
  elements: dict
  sample:
    - id: container_name_set
      severity: error
      object: hapi
      expected: no container_name, since two containers can't have one name
      found: container_name bd-hapi in /opt/bd-fhir-national/docker-compose.yml:12
      hint: 'Allow the reset with hapi_reset_container_name: true ...'
scale:
  description:
    - The plan for O(scale_service). C(memory_needed) is what all replicas and the surge may use, C(memory_available) what is free
      or used by the running ones, both in bytes and V(null) if not known.
      C(set_by) is the key that a fragment has to set, V(scale), or V(deploy.replicas) where the owner's file has that.
  returned: when O(scale_service) is given
  type: dict
  sample: {service: hapi, replicas: 3, surge: 1, memory_needed: 8589934592, memory_available: 5368709120, set_by: scale}
"""

import os

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker, scan_services
from ..module_utils._deployment import (
    Deployment,
    Findings,
    container_findings,
    files_findings,
    fragment_findings,
    lines_of,
    memory_finding,
    memory_use,
    migration_finding,
    parse_meminfo,
    profile_findings,
    public,
    pull_finding,
    read_compose,
    read_engine,
    read_files,
    read_project,
    scale_findings,
)
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, summary


def read_all(module: AnsibleModule, docker: Docker) -> tuple[Deployment, Findings]:
    """Read what there is and judge it. Raises ComposeError, OSError."""
    params = module.params
    deployment = Deployment()
    fragments_dir = params["fragments_dir"] or os.path.join(docker.project_dir, "compose.d")
    with open("/proc/meminfo", encoding="ascii") as handle:
        deployment.memory = parse_meminfo(handle.read())
    findings = read_engine(module, docker, deployment, params["minimum_docker"])
    if deployment.engine:
        findings += read_compose(docker, deployment, params["minimum_compose"])
    findings += read_files(docker, deployment, fragments_dir)
    ids = {item["id"] for item in findings}
    stop = {"docker_missing", "docker_unreachable", "compose_missing", "project_dir_missing", "env_file_unreadable"}
    if ids & stop:
        return deployment, findings
    findings += read_project(docker, deployment)
    services = {path: sorted(scan_services(deployment.texts[path])) for path in deployment.fragments if path in deployment.texts}
    findings += files_findings(deployment.files_default, deployment.files_running, deployment.fragments, fragments_dir)
    findings += fragment_findings(deployment.files_default, deployment.fragments, services, deployment.containers)
    if deployment.all_profiles:
        findings += profile_findings(deployment.active_profiles, deployment.all_profiles, deployment.expected, docker.env_file)
    if deployment.config:
        findings += container_findings(deployment.containers, deployment.expected, params["scale_service"])
    return deployment, findings


def read_scale(module: AnsibleModule, docker: Docker, deployment: Deployment) -> tuple[dict[str, Any], Findings]:
    """Judge whether the service can be scaled. Raises ComposeError."""
    params = module.params
    service, replicas, surge = params["scale_service"], params["scale_replicas"], params["surge"]
    owners = [path for path in deployment.files_default if path not in deployment.fragments]
    set_by = lines_of(deployment.texts, owners, service, "deploy.replicas")
    findings = scale_findings(deployment, service, replicas, surge, params["probe"] is not None, set_by)
    scale: dict[str, Any] = {
        "service": service,
        "replicas": replicas,
        "surge": surge,
        "memory_needed": None,
        "memory_available": None,
        "set_by": "deploy.replicas" if set_by else "scale",
    }
    want = deployment.expected.get(service)
    if want is None:
        return scale, findings
    if replicas is None:
        replicas = scale["replicas"] = want.scale
    mine = [item for item in deployment.containers if item.service == service]
    used = memory_use(docker, mine)
    each: Optional[int] = params["replica_memory"] or want.memory_limit or max(used.values(), default=0) or None
    if 1 <= replicas <= 50:
        found, scale["memory_needed"] = memory_finding(service, replicas + surge, each, deployment.memory["available"], sum(used.values()))
        findings += [found] if found else []
    scale["memory_available"] = deployment.memory["available"] + sum(used.values())
    image = params["image"] or want.image_ref
    if docker.image(image) is None:
        found = pull_finding(docker, service, image)
        findings += [found] if found else []
    elif params["image"]:
        found = migration_finding(docker, service, image, deployment.containers, module.tmpdir)
        findings += [found] if found else []
    return scale, findings


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            scale_service={"type": "str"},
            scale_replicas={"type": "int"},
            surge={"type": "int", "default": 1},
            replica_memory={"type": "int"},
            image={"type": "str"},
            probe={
                "type": "dict",
                "options": {"port": {"type": "int", "required": True}, "path": {"type": "str", "required": True}},
            },
            minimum_docker={"type": "str", "default": "20.10"},
            minimum_compose={"type": "str", "default": "2.20"},
            fragments_dir={"type": "path"},
            **FINDINGS_OPTIONS,
        ),
        required_by={"scale_replicas": "scale_service", "image": "scale_service", "replica_memory": "scale_service"},
        supports_check_mode=True,
    )
    docker = Docker.from_module(module)
    result: dict[str, Any] = {"changed": False}
    try:
        deployment, findings = read_all(module, docker)
        if module.params["scale_service"]:
            result["scale"], more = read_scale(module, docker, deployment)
            findings += more
    except ComposeError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg="The deployment could not be read: %s. Use become if files belong to another user." % exc)
    result["deployment"] = public(deployment, docker.project_dir, docker.env_file)
    result["findings"] = findings
    failed = failed_on(findings, module.params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
