# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads a whole compose deployment and judges it. What is judged is pure; what is read goes through Docker."""

from __future__ import annotations

import json
import os
import re

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional
from collections.abc import Iterable, Mapping

from . import _dotenv
from ._compose import (
    LABEL_DIR,
    LABEL_PROJECT,
    LABEL_STANDBY_OF,
    ComposeError,
    Container,
    Docker,
    Expected,
    config_scale,
    last_lines,
    read_env_text,
    scan_services,
    version_tuple,
)
from ._findings import finding
from ._fragments import fragments_in
from ._image import migrations_of_image

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

MAX_REPLICAS = 50
_SIZES = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3, "TiB": 1024**4}

Findings = list[dict[str, Any]]


@dataclass
class Deployment:
    """What was read. config holds secrets and stays inside."""

    engine: dict[str, str] = field(default_factory=dict)
    compose_version: str = ""
    name: str = ""
    files_default: list[str] = field(default_factory=list)
    containers: list[Container] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, Expected] = field(default_factory=dict)
    all_profiles: dict[str, list[str]] = field(default_factory=dict)  # service -> its profiles, inactive ones too
    active_profiles: list[str] = field(default_factory=list)
    fragments: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # compose file -> text

    @property
    def newest(self) -> Optional[Container]:
        """The container that was created last."""
        return max(self.containers, key=lambda item: item.created, default=None)

    @property
    def files_running(self) -> list[str]:
        """The compose files from which the newest container was made."""
        return self.newest.config_files if self.newest else []


# -- pure judgements


def env_text_findings(text: str, path: str, environment: Optional[Mapping[str, str]] = None) -> Findings:
    """Judge the text of an environment file: what Compose refuses, and values that `$` damages. No value is told."""
    try:
        statements = _dotenv.parse(text, environment)
    except _dotenv.DotenvError as exc:
        return [
            finding(
                "env_file_damaged",
                "error",
                path,
                "a file that Compose can read",
                str(exc),
                "Correct line %d of %s, or set the name anew with dghs.bd_fhir.env_file." % (exc.line, path),
            )
        ]
    found = []
    last = {item.name: item for item in statements}
    for item in last.values():
        if item.unset:
            found.append(
                finding(
                    "env_file_damaged",
                    "error",
                    item.name,
                    "a value that Compose gives on unchanged",
                    "%s line %d: a $ in the value starts a variable that is not set, so that a part of the value is lost" % (path, item.line),
                    "Set %s with dghs.bd_fhir.env_file, which writes the value so that it arrives; or put it in single quotes." % item.name,
                )
            )
        elif item.doubled:
            found.append(
                finding(
                    "env_file_dollar_doubled",
                    "info",
                    item.name,
                    "-",
                    "%s line %d: $$ in the value arrives as a single $" % (path, item.line),
                    "Fine if it is meant as an escape. Else set %s with dghs.bd_fhir.env_file." % item.name,
                )
            )
    return found


def normal(paths: Iterable[str]) -> list[str]:
    """Return paths with links resolved, so that two spellings of one file are equal."""
    return [os.path.realpath(path) for path in paths]


def files_findings(default: list[str], running: list[str], fragments: list[str], fragment_dir: str) -> Findings:
    """Compare the compose files that a plain command loads with those that the running containers were made from."""
    if not running:
        return []
    ours = set(normal(fragments))
    directory = os.path.realpath(fragment_dir)

    def owners(paths: list[str]) -> list[str]:
        # A fragment of ours that was removed since is still named by the label.
        return [path for path in normal(paths) if path not in ours and not (os.path.dirname(path) == directory and not os.path.exists(path))]

    if owners(default) == owners(running):
        return []
    return [
        finding(
            "compose_files_differ",
            "error",
            "project",
            ", ".join(running),
            ", ".join(default) or "none",
            "The containers were made from other compose files than a plain `docker compose up` loads now, so a change would"
            " alter more than it says. Run `docker compose up -d` with the right set by hand first, or correct COMPOSE_FILE"
            " in the environment file.",
        )
    ]


def fragment_findings(default: list[str], fragments: list[str], fragment_services: Mapping[str, list[str]], containers: list[Container]) -> Findings:
    """Find fragments of ours that exist but are not loaded, or that the running containers don't know."""
    found = []
    loaded = set(normal(default))
    for path in fragments:
        if os.path.realpath(path) not in loaded:
            found.append(
                finding(
                    "fragment_not_loaded",
                    "warning",
                    path,
                    "named in COMPOSE_FILE",
                    "not loaded by a plain `docker compose up`",
                    "The next `docker compose up` undoes what the fragment holds. Run the playbook that owns it again, or"
                    " take it away with dghs.bd_fhir.compose_fragment and state absent.",
                )
            )
            continue
        for service in fragment_services.get(path, []):
            mine = [item for item in containers if item.service == service]
            newest = max(mine, key=lambda item: item.created, default=None)
            if newest and os.path.realpath(path) not in normal(newest.config_files):
                found.append(
                    finding(
                        "fragment_not_running",
                        "warning",
                        service,
                        "containers made with %s" % path,
                        "the newest one, %s, was made without it" % newest.name,
                        "Run the playbook that owns the fragment again, or `docker compose --env-file .env up -d`.",
                    )
                )
    return found


def profile_findings(active: list[str], all_profiles: Mapping[str, list[str]], services: Iterable[str], env_file: str) -> Findings:
    """Find profiles that COMPOSE_PROFILES names although Compose leaves their services out (some versions do)."""
    found = []
    present = set(services)
    for profile in active:
        if not profile or profile == "*":
            continue
        wanted = sorted(service for service, names in all_profiles.items() if profile in names)
        missing = [service for service in wanted if service not in present]
        if missing:
            found.append(
                finding(
                    "profiles_ignored",
                    "error",
                    profile,
                    "services %s" % ", ".join(wanted),
                    "without %s" % ", ".join(missing),
                    "COMPOSE_PROFILES in %s names the profile, but this version of Compose ignores it. Upgrade the Compose"
                    " plugin; 2.27.1 is known for it." % env_file,
                )
            )
        elif not wanted:
            found.append(
                finding(
                    "profiles_ignored",
                    "warning",
                    profile,
                    "a service with this profile",
                    "none",
                    "COMPOSE_PROFILES in %s names a profile that no service has. Check the spelling." % env_file,
                )
            )
    return found


def container_findings(containers: list[Container], expected: Mapping[str, Expected], scale_service: Optional[str]) -> Findings:
    """Judge the containers against what the configuration asks for."""
    found = []
    for item in containers:
        if item.state in ("running",) and item.health != "unhealthy":
            continue
        if item.state == "exited" and item.exit_code == 0 and item.restart_policy in ("no", ""):
            # A job that has done its work: Compose's own --wait calls it a failure (docker/compose#10596).
            continue
        if item.state == "exited" and item.restart_policy in ("no", "") and item.service != scale_service:
            found.append(
                finding(
                    "one_shot_failed",
                    "error",
                    item.service,
                    "exit code 0",
                    "%s exited with %d" % (item.name, item.exit_code),
                    "Read `docker logs %s`, correct the cause and run the service again." % item.name,
                )
            )
            continue
        state = item.state if item.state != "running" else item.health
        extra = " with %d%s" % (item.exit_code, ", out of memory" if item.oom_killed else "") if item.state == "exited" else ""
        found.append(
            finding(
                "replica_unhealthy",
                "warning",
                item.name,
                "running and healthy",
                state + extra,
                "Read `docker logs %s`. compose_rollout replaces it before any other." % item.name,
            )
        )
    for service in sorted({item.service for item in containers}):
        mine = [item for item in containers if item.service == service]
        if service not in expected:
            found.append(
                finding(
                    "service_orphaned",
                    "warning",
                    service,
                    "a service of the loaded compose files",
                    "%d container(s), no such service" % len(mine),
                    "`docker compose up --remove-orphans` would remove them. Check COMPOSE_FILE and COMPOSE_PROFILES.",
                )
            )
            continue
        old = [item.name for item in mine if item.outdated(expected[service])]
        if old:
            found.append(
                finding(
                    "replicas_outdated",
                    "info",
                    service,
                    "made from the present configuration and image",
                    ", ".join(old),
                    "The next `docker compose up` recreates them all at once; compose_rollout does it one by one.",
                )
            )
    for service, want in sorted(expected.items()):
        mine = [item for item in containers if item.service == service]
        running = [item for item in mine if item.state in ("running", "restarting", "paused")]
        jobs = [item for item in mine if item.state == "exited" and item.exit_code == 0 and item.restart_policy in ("no", "")]
        if containers and len(running) + len(jobs) != want.scale:
            found.append(
                finding(
                    "replicas_differ",
                    "warning",
                    service,
                    want.scale,
                    len(running),
                    "The next `docker compose up` brings it to %d." % want.scale,
                )
            )
    return found


def port_room(published: str) -> int:
    """Return how many containers a published port can serve: a single one serves 1, a range as many as it has. Pure.

    0 is Docker's own choice and serves any number, told as 0.
    """
    if published in ("", "0"):
        return 0
    first, dash, last = published.partition("-")
    return int(last) - int(first) + 1 if dash and first.isdigit() and last.isdigit() else 1


def lines_of(texts: Mapping[str, str], files: list[str], service: str, key: str) -> list[str]:
    """Return 'file:line' for each place where key of service stands in files, the one that counts last."""
    found = []
    for path in files:
        number = scan_services(texts.get(path, "")).get(service, {}).get(key)
        if number:
            found.append("%s:%d" % (path, number))
    return found


def scale_findings(
    deployment: Deployment,
    service: str,
    replicas: Optional[int],
    surge: int,
    probe: bool,
    set_by: list[str],
) -> Findings:
    """Judge whether the configuration of a service lets it run replicas + surge times."""
    found: Findings = []
    if replicas is not None and not 1 <= replicas <= MAX_REPLICAS:
        found.append(
            finding(
                "replicas_invalid",
                "error",
                service,
                "1 to %d" % MAX_REPLICAS,
                replicas,
                "Correct the number of replicas.",
            )
        )
    if not deployment.config:
        return found
    services = deployment.config.get("services") or {}
    if service not in services:
        found.append(
            finding(
                "service_missing",
                "error",
                service,
                "one of the project's services",
                ", ".join(sorted(services)) or "none",
                "Correct the name of the service, or COMPOSE_PROFILES if it hides behind a profile.",
            )
        )
        return found
    config, want = services[service], deployment.expected[service]
    count = (replicas or want.scale) + surge
    if want.container_name and count > 1:
        where = lines_of(deployment.texts, deployment.files_default, service, "container_name")
        found.append(
            finding(
                "container_name_set",
                "error",
                service,
                "no container_name, since two containers can't have one name",
                "container_name %s in %s" % (want.container_name, ", ".join(where) or "a file that is included"),
                "Allow the reset with hapi_reset_container_name: true, which puts `container_name: !reset null` into our"
                " fragment. Scripts that use the name %s then have to find the container by its service." % want.container_name,
            )
        )
    short = [
        "%s->%s" % (port.get("published"), port.get("target"))
        for port in config.get("ports") or []
        if 0 < port_room(str(port.get("published") or "")) < count
    ]
    if short and count > 1:
        where = lines_of(deployment.texts, deployment.files_default, service, "ports")
        found.append(
            finding(
                "fixed_host_port",
                "error",
                service,
                "no fixed host port, or a range of %d" % count,
                "%s in %s" % (", ".join(short), ", ".join(where) or "a file that is included"),
                "If requests come in by this port, such as from a central nginx, have the balancer take it over with"
                " balancer_take_ports: true. If nobody uses it, allow the reset with hapi_reset_ports: true, which puts"
                " `ports: !reset []` into our fragment.",
            )
        )
    if str(config.get("network_mode") or "").startswith(("host", "service:", "container:")) and count > 1:
        where = lines_of(deployment.texts, deployment.files_default, service, "network_mode")
        found.append(
            finding(
                "shared_network_mode",
                "error",
                service,
                "a network of its own for each replica",
                "network_mode %s in %s" % (config.get("network_mode"), ", ".join(where) or "a file that is included"),
                "Give the service an ordinary network: replicas that share one address can't be told apart.",
            )
        )
    if not want.healthcheck and not probe:
        found.append(
            finding(
                "no_health_check",
                "error",
                service,
                "a healthcheck, or a probe",
                "neither",
                "Set a probe (port and path), so that a replica gets traffic only when it is ready.",
            )
        )
    if set_by and replicas is not None and want.scale != replicas:
        found.append(
            finding(
                "scale_by_deploy_replicas",
                "warning",
                service,
                "the count set by scale",
                "deploy.replicas in %s" % ", ".join(set_by),
                "Compose refuses a fragment with scale beside it. Set deploy.replicas in the fragment; since the service has"
                " a deploy section already, that keeps its hash.",
            )
        )
    return found


def memory_finding(service: str, count: int, each: Optional[int], available: int, used: int) -> tuple[Optional[dict[str, Any]], Optional[int]]:
    """Judge whether count replicas fit: their need against what is free and what the running ones use. All in bytes.

    Returns the finding, if any, and the need.
    """
    if each is None:
        return (
            finding(
                "memory_unknown",
                "warning",
                service,
                "a known need of memory for each replica",
                "no memory limit, no running replica to measure, and no replica_memory",
                "Set replica_memory.",
            ),
            None,
        )
    needed = each * count
    if needed <= available + used:
        return None, needed
    return (
        finding(
            "memory_short",
            "error",
            service,
            "%d MiB for %d replicas of %d MiB, the surge included" % (needed // 1048576, count, each // 1048576),
            "%d MiB (%d MiB available, %d MiB used by the running replicas)" % ((available + used) // 1048576, available // 1048576, used // 1048576),
            "Ask for fewer replicas, set the memory limit of the service lower, or add memory to the host.",
        ),
        needed,
    )


def parse_size(text: str) -> int:
    """Return the bytes of a size as `docker stats` prints it, such as 139.4MiB. Raises ValueError."""
    match = re.match(r"([0-9.]+)\s*([A-Za-z]+)\Z", text.strip())
    if not match or match.group(2) not in _SIZES:
        raise ValueError("not a size: %r" % text)
    return int(float(match.group(1)) * _SIZES[match.group(2)])


def parse_meminfo(text: str) -> dict[str, int]:
    """Return total and available bytes of /proc/meminfo. Raises KeyError when the kernel does not tell."""
    values = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return {"total": values["MemTotal"], "available": values["MemAvailable"]}


def public_service(config: Optional[Mapping[str, Any]], want: Optional[Expected], replicas: list[Container]) -> dict[str, Any]:
    """Return what a module may show of a service; of its environment only the names."""
    config = config or {}
    networks = config.get("networks") or {}
    return {
        "image": want.image_ref if want else (replicas[0].image_ref if replicas else ""),
        "image_id": want.image_id if want else None,
        "scale": config_scale(config) if want else 0,
        "config_hash": want.config_hash if want else "",
        "healthcheck": want.healthcheck if want else False,
        "stop_grace_period": want.stop_grace_period if want else None,
        "container_name": want.container_name if want else "",
        "ports": want.ports if want else [],
        "networks": sorted(networks),
        "memory_limit": want.memory_limit if want else 0,
        "environment_names": sorted(config.get("environment") or {}),
        "profiles": sorted(config.get("profiles") or []),
        "depends_on": sorted(config.get("depends_on") or {}),
        "standby_of": str((config.get("labels") or {}).get(LABEL_STANDBY_OF) or ""),
        "mounts": [
            {
                "type": item.get("type", ""),
                "source": item.get("source", ""),
                "destination": item.get("target", ""),
                "rw": not item.get("read_only", False),
            }
            for item in config.get("volumes") or []
        ],
        "replicas": [dict(item.public(), outdated=bool(want) and item.outdated(want)) for item in replicas if want]
        + [dict(item.public(), outdated=True) for item in replicas if not want],
    }


def public(deployment: Deployment, project_dir: str, env_file: str) -> dict[str, Any]:
    """Return the `deployment` that the module shows."""
    services = deployment.config.get("services") or {}
    names = sorted(set(services) | {item.service for item in deployment.containers})
    loaded = set(normal(deployment.files_default))
    running = [item for item in deployment.containers if item.state == "running"]
    return {
        "exists": bool(deployment.containers),
        "engine": deployment.engine,
        "compose": {"version": deployment.compose_version},
        "project": {
            "name": deployment.name,
            "dir": project_dir,
            "env_file": env_file,
            "files_default": deployment.files_default,
            "files_running": deployment.files_running,
            "fragments": [{"path": path, "loaded": os.path.realpath(path) in loaded} for path in deployment.fragments],
            "profiles": deployment.active_profiles,
        },
        "services": {
            name: public_service(services.get(name), deployment.expected.get(name), [item for item in deployment.containers if item.service == name])
            for name in names
        },
        "networks": {
            key: {"name": (item or {}).get("name", key), "internal": bool((item or {}).get("internal"))}
            for key, item in sorted((deployment.config.get("networks") or {}).items())
        },
        "volumes": {key: {"name": (item or {}).get("name", key)} for key, item in sorted((deployment.config.get("volumes") or {}).items())},
        "memory": dict(deployment.memory, limits_sum=sum(item.memory_limit for item in running)),
    }


# -- reading


def read_engine(module: AnsibleModule, docker: Docker, deployment: Deployment, minimum: str) -> Findings:
    """Read the versions of client and daemon. A daemon that does not answer is a finding, no failure."""
    if not module.get_bin_path("docker"):
        return [
            finding(
                "docker_missing",
                "error",
                "docker",
                "version %s or newer" % minimum,
                "no docker command on the PATH",
                "Install Docker Engine and its Compose plugin from Docker's apt repository. Or is this host not the target?",
            )
        ]
    rc, out, err = docker.docker("version", "--format", "{{json .}}", check=False)
    try:
        data = json.loads(out) if out.strip() else {}
    except ValueError:
        raise ComposeError(docker.failure(["docker", "version"], "/", rc, "", err or "the answer is not JSON")) from None
    client, server = data.get("Client") or {}, data.get("Server") or {}
    deployment.engine = {
        "version": client.get("Version", ""),
        "api": server.get("ApiVersion", ""),
        "server_version": server.get("Version", ""),
        "storage_driver": "",
    }
    if not server:
        return [
            finding(
                "docker_unreachable",
                "error",
                "docker",
                "an answer from the Docker daemon",
                last_lines(docker.clean(err), 2) or "none",
                "Start it (systemctl start docker), or use become or the group docker when permission is denied.",
            )
        ]
    deployment.engine["storage_driver"] = docker.docker("info", "--format", "{{.Driver}}")[1].strip()
    if version_tuple(server.get("Version", "")) < version_tuple(minimum):
        return [
            finding(
                "docker_too_old",
                "error",
                "docker",
                "version %s or newer" % minimum,
                server.get("Version", ""),
                "Upgrade Docker.",
            )
        ]
    return []


def read_compose(docker: Docker, deployment: Deployment, minimum: str) -> Findings:
    """Read the version of the Compose plugin."""
    rc, out, err = docker.docker("compose", "version", "--short", check=False)
    version = out.strip().lstrip("v")
    if rc != 0 or not version_tuple(version):
        return [
            finding(
                "compose_missing",
                "error",
                "docker compose",
                "version %s or newer" % minimum,
                last_lines(docker.clean(err), 2) or "no version",
                "Install the package docker-compose-plugin. The old docker-compose with a hyphen does not do.",
            )
        ]
    deployment.compose_version = version
    if version_tuple(version) < version_tuple(minimum):
        return [
            finding(
                "compose_too_old",
                "error",
                "docker compose",
                "version %s or newer" % minimum,
                version,
                "Upgrade the package docker-compose-plugin.",
            )
        ]
    ignored = docker.ignored_in_env_file()
    if ignored:
        return [
            finding(
                "compose_ignores_env_file",
                "error",
                "docker compose",
                "COMPOSE_FILE and COMPOSE_PROFILES honoured in the file that --env-file names",
                "version %s ignores %s there" % (version, " and ".join(ignored)),
                "Upgrade the package docker-compose-plugin; 2.27.1 is known for it (docker/compose#11856).",
            )
        ]
    return []


def read_files(docker: Docker, deployment: Deployment, fragments_dir: str) -> Findings:
    """Look at the project directory, the environment file and the compose files. Works without Docker."""
    directory, env_file = docker.project_dir, docker.env_file
    if not os.path.isdir(directory):
        return [
            finding(
                "project_dir_missing",
                "error",
                directory,
                "the directory of the deployment",
                "no such directory",
                "Correct bd_fhir_project_dir, or is this host not the target?",
            )
        ]
    found = []
    env_known = True
    try:
        mode = os.stat(env_file).st_mode & 0o777
        text = read_env_text(env_file)
    except FileNotFoundError:
        found.append(
            finding(
                "env_file_missing",
                "error",
                env_file,
                "the environment file",
                "no such file",
                "Copy .env.example and fill it in, with mode 0600.",
            )
        )
    except OSError as exc:
        env_known = False
        found.append(
            finding(
                "env_file_unreadable",
                "error",
                env_file,
                "a readable file",
                str(exc.strerror),
                "Use become, or correct its owner.",
            )
        )
    else:
        if mode & 0o077:
            found.append(
                finding(
                    "env_file_mode",
                    "warning",
                    env_file,
                    "0600",
                    "%04o" % mode,
                    "It holds secrets: chmod 600 %s" % env_file,
                )
            )
        problems = env_text_findings(text, env_file, os.environ)
        found += problems
        env_known = not any(item["object"] == env_file for item in problems)
    deployment.fragments = fragments_in(fragments_dir)
    if not env_known:
        return found
    deployment.files_default = docker.files_default()
    deployment.active_profiles = [item.strip() for item in docker.env_values().get("COMPOSE_PROFILES", "").split(",") if item.strip()]
    missing = [path for path in deployment.files_default if not os.path.isfile(path)]
    if missing or not deployment.files_default:
        found.append(
            finding(
                "compose_file_missing",
                "error",
                directory,
                "the compose files that are loaded by default",
                "no such file: %s" % ", ".join(missing) if missing else "none",
                "Correct COMPOSE_FILE in %s." % env_file if missing else "Is this the directory of the deployment?",
            )
        )
    for path in deployment.files_default:
        if path not in missing:
            deployment.texts[path] = read_env_text(path)
    return found


def read_project(docker: Docker, deployment: Deployment) -> Findings:
    """Read the configuration and the containers."""
    found: Findings = []
    try:
        deployment.config = docker.config()
        hashes = docker.hashes()
        deployment.expected = {name: docker.expect(name, item, hashes) for name, item in (deployment.config.get("services") or {}).items()}
        deployment.name = docker.project_name()
        out = docker.compose("--profile", "*", "config", "--format", "json", check=False)[1]
        everything = json.loads(out) if out.strip() else {}
        deployment.all_profiles = {name: item.get("profiles") or [] for name, item in (everything.get("services") or {}).items()}
    except ComposeError as exc:
        if exc.rc is None or exc.timed_out:
            raise
        deployment.config, deployment.expected = {}, {}
        found.append(
            finding(
                "compose_config_invalid",
                "error",
                docker.project_dir,
                "a configuration that Compose accepts",
                str(exc),
                "Correct the file that is named.",
            )
        )
        names = docker.names_of_directory()
        deployment.name = names[0] if names else os.path.basename(docker.project_dir)
        docker = docker.renamed(deployment.name)
    deployment.containers = docker.containers()
    if not deployment.containers:
        others = docker.docker("ps", "-a", "--format", '{{.Label "%s"}} in {{.Label "%s"}}' % (LABEL_PROJECT, LABEL_DIR))[1]
        names = sorted({line for line in others.splitlines() if line.strip() not in ("", "in")})
        found.append(
            finding(
                "not_the_target",
                "error",
                deployment.name,
                "containers of this project",
                "none; here are: %s" % ("; ".join(names) or "none"),
                "Is this the host of the deployment? If it is, start it with `docker compose --env-file .env up -d` first.",
            )
        )
    return found


def memory_use(docker: Docker, containers: list[Container]) -> dict[str, int]:
    """Return container id -> bytes in use, for running containers."""
    ids = [item.id for item in containers if item.state == "running"]
    if not ids:
        return {}
    used = {}
    rc, out, err = docker.docker("stats", "--no-stream", "--no-trunc", "--format", "{{json .}}", *ids, check=False)
    for line in out.splitlines():
        try:
            data = json.loads(line)
            used[str(data["ID"])] = parse_size(str(data["MemUsage"]).partition("/")[0])
        except (ValueError, KeyError):
            continue
    return used


def pull_finding(docker: Docker, service: str, ref: str) -> Optional[dict[str, Any]]:
    """Ask the registry for an image that is not on this host. Nothing is pulled."""
    answers = []
    for options in ([], ["--insecure"]):
        rc, out, err = docker.docker("manifest", "inspect", *options, ref, check=False, timeout=60)
        if rc == 0:
            return None
        answers.append(last_lines(docker.clean(err or out), 2) or "no answer")
    return finding(
        "image_not_pullable",
        "error",
        service,
        "%s on this host or in its registry" % ref,
        " | ".join(dict.fromkeys(answers)),
        "Check the reference, the network and `docker login` of the user that runs docker on this host.",
    )


def migration_finding(docker: Docker, service: str, ref: str, containers: list[Container], tmpdir: str) -> Optional[dict[str, Any]]:
    """Find Flyway scripts that an image brings and the image of the running replicas lacks."""
    new = docker.image(ref)
    ids = Counter(item.image_id for item in containers if item.service == service and item.state == "running")
    if new is None or not ids:
        return None
    old_id = ids.most_common(1)[0][0]
    if new["Id"] == old_id:
        return None
    old = docker.image(old_id)
    if old is None:
        # `docker image rm -f` can take away the name and layers list of an image that still runs.
        return finding(
            "migrations_unknown",
            "warning",
            ref,
            "the running image, to compare with",
            "%s is not on this host" % old_id,
            "Read the release notes of the image for schema migrations.",
        )
    try:
        before = migrations_of_image(docker, old_id, int(old.get("Size") or 0), tmpdir)
        after = migrations_of_image(docker, ref, int(new.get("Size") or 0), tmpdir)
    except ComposeError as exc:
        return finding(
            "migrations_unknown",
            "warning",
            ref,
            "a look into the image",
            str(exc),
            "Read the release notes of the image for schema migrations.",
        )
    added = [name for name in after if name not in before]
    if not added:
        return None
    return finding(
        "image_brings_migration",
        "warning",
        ref,
        "no new Flyway script",
        added,
        "The first new replica changes the schema while old ones still run. Take a backup, and make sure that the old image"
        " works with the new schema; going back to it may need the backup.",
    )
