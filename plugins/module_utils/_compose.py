# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One deployment of Docker Compose v2, read and driven through the docker command line.

Everything that Compose prints about a configuration holds secrets. They stay inside this file: errors are scrubbed,
and what modules return is built from named fields only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Optional
from collections.abc import Iterable, Mapping

from . import _dotenv
import contextlib

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

COMPOSE_ARGUMENTS: dict[str, Any] = {
    "project_dir": {"type": "path", "required": True},
    "project_name": {"type": "str"},
    "env_file": {"type": "path"},
    "command_timeout": {"type": "int", "default": 120},
}

# In the order in which Compose looks for them.
DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
DEFAULT_OVERRIDES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)

# How Docker itself writes a port that is published on every address of the host.
ANY_ADDRESS = "0.0.0.0"  # noqa: S104

LABEL_PROJECT = "com.docker.compose.project"
LABEL_SERVICE = "com.docker.compose.service"
LABEL_NUMBER = "com.docker.compose.container-number"
LABEL_ONEOFF = "com.docker.compose.oneoff"
LABEL_HASH = "com.docker.compose.config-hash"
LABEL_FILES = "com.docker.compose.project.config_files"
LABEL_DIR = "com.docker.compose.project.working_dir"
LABEL_ENV_FILE = "com.docker.compose.project.environment_file"
# Ours, on a standby or on the way to one on another host: the service of its primary.
LABEL_STANDBY_OF = "dghs.bd_fhir.standby_of"

# What Compose and its .env reader quote from a file that they can't read: it may be the half of a password.
_LEAKS = (
    re.compile(r"(unterminated quoted value ).*"),
    re.compile(r"(in variable name ).*"),
    re.compile(r"(?i)(invalid template: ).*"),
    re.compile(r"(invalid interpolation format for [^:]*:).*", re.DOTALL),
)
# A volume without a name in the compose files gets one of Docker's.
_ANONYMOUS = re.compile(r"[0-9a-f]{64}\Z")
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(h|ms|m|s|us|µs|μs|ns)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}


class ComposeError(Exception):
    """A call failed or answered nonsense. The text is complete and safe to show; rc is the return code, if any."""

    def __init__(self, message: str, rc: Optional[int] = None, output: str = "") -> None:
        super().__init__(message)
        self.rc = rc
        self.output = output
        # What the command `timeout` returns when it had to end, or to kill, what it started.
        self.timed_out = rc in (124, 137)


@dataclass(frozen=True)
class Container:
    """One container of the project, as `docker inspect` shows it."""

    id: str
    name: str
    service: str
    number: int
    oneoff: bool
    state: str  # running, exited, created, restarting, dead, paused or removing
    health: str  # healthy, unhealthy, starting or none
    exit_code: int
    oom_killed: bool
    image_ref: str
    image_id: str
    config_hash: str
    created: str
    started_at: str
    restart_count: int
    restart_policy: str
    addresses: dict[str, str] = field(default_factory=dict)  # network -> IPv4, only where one is attached
    ports: list[str] = field(default_factory=list)  # '0.0.0.0:8080->8080/tcp'
    memory_limit: int = 0  # bytes, 0 is no limit
    stop_timeout: Optional[int] = None  # seconds
    config_files: list[str] = field(default_factory=list)
    working_dir: str = ""
    env_file: str = ""
    mounts: list[dict[str, Any]] = field(default_factory=list)  # type, name, source, destination, rw

    def anonymous_volumes(self) -> dict[str, str]:
        """Return by their paths the volumes that Docker has made for this container alone: what is made in its place gets others."""
        return {item["destination"]: item["name"] for item in self.mounts if item["type"] == "volume" and _ANONYMOUS.match(item["name"])}

    def keeps(self, path: str) -> bool:
        """Tell whether what is made in place of this container has the same at a path: a folder of the host, or a volume with a name."""
        above = [item for item in self.mounts if (path.rstrip("/") + "/").startswith(item["destination"].rstrip("/") + "/")]
        nearest = max(above, key=lambda item: len(item["destination"]), default=None)
        return nearest is not None and nearest["type"] in ("bind", "volume") and nearest["destination"] not in self.anonymous_volumes()

    def public(self) -> dict[str, Any]:
        """Return what a module may show: no environment, no command, no labels of others."""
        return asdict(self)

    def outdated(self, expected: Expected) -> bool:
        """Tell whether an `up` would replace this container: other configuration, or the reference has a new image."""
        if self.config_hash not in expected.config_hashes:
            return True
        return expected.image_id is not None and self.image_id != expected.image_id


@dataclass(frozen=True)
class Expected:
    """What the configuration now asks of a service."""

    service: str
    scale: int
    config_hash: str
    config_hashes: tuple[str, ...]  # each of them means the same configuration, see Docker.hashes()
    image_ref: str
    image_id: Optional[str]  # None: the image is not on this host
    healthcheck: bool  # by the configuration or by the image
    stop_grace_period: Optional[float]  # seconds; None: Docker's default of 10 s, or the image's
    container_name: str  # "" when Compose names the containers itself
    ports: list[str]  # published ports, as '8080->8080/tcp' with the host address where one is set
    memory_limit: int  # bytes, 0 is no limit


def parse_duration(text: Optional[str]) -> Optional[float]:
    """Return the seconds of a Go duration such as 1m30s; None for nothing. Raises ValueError for other text."""
    if not text:
        return None
    rest = text
    seconds = 0.0
    while rest:
        match = _DURATION.match(rest)
        if match is None:
            raise ValueError("not a duration: %r" % text)
        seconds += float(match.group(1)) * _UNITS[match.group(2)]
        rest = rest[match.end() :]
    return seconds


def parse_bytes(value: Any) -> int:
    """Return the bytes of a memory size as Compose writes it: a number, or text such as 64m or 1.5GB (units of 1024).

    Nothing is 0. Raises ValueError for other text.
    """
    if value in (None, ""):
        return 0
    match = re.match(r"([0-9]*\.?[0-9]+) ?(?:([kmgtp])?i?b?)\Z", str(value).strip().lower())
    if match is None:
        raise ValueError("not a size: %r" % value)
    return int(float(match.group(1)) * 1024 ** (" kmgtp".index(match.group(2) or " ")))


def parse_container(data: Mapping[str, Any]) -> Container:
    """Build a Container from one element of `docker inspect`. Pure. Raises KeyError for something else."""
    config = data["Config"]
    labels = config.get("Labels") or {}
    state = data["State"]
    host = data.get("HostConfig") or {}
    network = data.get("NetworkSettings") or {}
    ports = []
    for inner, bindings in sorted((network.get("Ports") or {}).items()):
        for binding in bindings or []:
            ports.append("%s:%s->%s" % (binding.get("HostIp") or ANY_ADDRESS, binding.get("HostPort"), inner))
    addresses = {}
    for name, item in sorted((network.get("Networks") or {}).items()):
        if item and item.get("IPAddress"):
            addresses[name] = item["IPAddress"]
    mounts = [
        {
            "type": item.get("Type", ""),
            "name": item.get("Name", ""),
            "source": item.get("Source", ""),
            "destination": item.get("Destination", ""),
            "rw": bool(item.get("RW")),
        }
        for item in sorted(data.get("Mounts") or [], key=lambda item: str(item.get("Destination", "")))
    ]
    files = labels.get(LABEL_FILES) or ""
    return Container(
        id=data["Id"],
        name=data["Name"].lstrip("/"),
        service=labels.get(LABEL_SERVICE, ""),
        number=int(labels.get(LABEL_NUMBER) or 0),
        oneoff=str(labels.get(LABEL_ONEOFF, "")).lower() == "true",
        state=state["Status"],
        health=(state.get("Health") or {}).get("Status") or "none",
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        image_ref=config.get("Image") or "",
        image_id=data["Image"],
        config_hash=labels.get(LABEL_HASH, ""),
        created=data.get("Created") or "",
        started_at=state.get("StartedAt") or "",
        restart_count=int(data.get("RestartCount") or 0),
        restart_policy=(host.get("RestartPolicy") or {}).get("Name") or "no",
        addresses=addresses,
        ports=ports,
        memory_limit=int(host.get("Memory") or 0),
        stop_timeout=config.get("StopTimeout"),
        config_files=[item for item in files.split(",") if item],
        working_dir=labels.get(LABEL_DIR, ""),
        env_file=labels.get(LABEL_ENV_FILE, ""),
        mounts=mounts,
    )


def parse_hashes(text: str) -> dict[str, str]:
    """Parse `docker compose config --hash "*"`: one service and its hash a line. Raises ValueError for another line."""
    hashes = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        service, dummy, value = line.strip().rpartition(" ")
        if not service or not re.match(r"[0-9a-f]{64}\Z", value):
            raise ValueError("not a line of service and hash")
        hashes[service] = value
    return hashes


def version_tuple(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, so that they compare: v2.40.3-desktop.1 gives (2, 40, 3)."""
    match = re.match(r"v?([0-9]+(?:\.[0-9]+)*)", text.strip())
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Take out of an error text what may be a secret: warnings about variables, quoted lines, known values.

    A warning such as `The "sw0rd" variable is not set` shows a part of the password pa$sw0rd: it goes altogether.
    """
    lines = [line for line in text.splitlines() if "level=warning" not in line and "variable is not set" not in line]
    text = "\n".join(lines)
    for pattern in _LEAKS:
        text = pattern.sub(r"\1 (hidden)", text)
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, "********")
    return text


def last_lines(text: str, count: int = 8) -> str:
    """Return the last lines of text that are not empty, joined by ' | ' for a one-line message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:])


def config_ports(service: Mapping[str, Any]) -> list[str]:
    """Return the published ports of a service of the parsed configuration, as '127.0.0.1:8080->80/tcp'."""
    found = []
    for port in service.get("ports") or []:
        published = port.get("published")
        if published in (None, ""):
            continue
        prefix = port.get("host_ip", "") + ":" if port.get("host_ip") else ""
        found.append("%s%s->%s/%s" % (prefix, published, port.get("target"), port.get("protocol", "tcp")))
    return found


def config_memory(service: Mapping[str, Any]) -> int:
    """Return the memory limit of a service of the parsed configuration in bytes, 0 for none."""
    limit = parse_bytes(service.get("mem_limit"))
    if not limit:
        limit = parse_bytes((((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}).get("memory"))
    return limit


def merge_env_files(config: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Put what a service's env_file brings into its environment, in place, where Compose has left that undone.

    From 2.24.7 to 2.27.0 `config` does so, while `up` has it in the containers and in their hash. environment is what
    Compose interpolates with. Raises ComposeError naming the file that can't be read.
    """
    for service in (config.get("services") or {}).values():
        entries = service.pop("env_file", None)
        merged: dict[str, Any] = {}
        for entry in [entries] if isinstance(entries, str) else entries or []:
            item = {"path": entry} if isinstance(entry, str) else entry
            try:
                text = read_env_text(item["path"])
                values = _dotenv.values_of(_dotenv.parse(text, {**environment, **merged}))
            except FileNotFoundError:
                if item.get("required", True):
                    raise ComposeError("%s, an env_file of a service, does not exist." % item["path"]) from None
                continue
            except (OSError, _dotenv.DotenvError) as exc:
                raise ComposeError("%s, an env_file of a service, can't be read: %s." % (item["path"], exc)) from None
            merged.update(values)
        if merged:
            # In the output of `config` each dollar sign is doubled.
            escaped = {name: value.replace("$", "$$") for name, value in merged.items()}
            service["environment"] = {**escaped, **(service.get("environment") or {})}


def config_scale(service: Mapping[str, Any]) -> int:
    """Return how many containers the configuration asks for."""
    scale = service.get("scale")
    if scale is None:
        scale = (service.get("deploy") or {}).get("replicas")
    return 1 if scale is None else int(scale)


def default_files(project_dir: str, env_values: Mapping[str, str]) -> list[str]:
    """Return the compose files, absolute, that a plain `docker compose --env-file .env` in project_dir loads now.

    COMPOSE_FILE in the environment file decides if it is set, relative entries counting from project_dir. Otherwise the
    first default name that exists, in project_dir or above it as Compose searches, and the override file beside it.
    """
    if "COMPOSE_FILE" in env_values:
        separator = env_values.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        entries = env_values["COMPOSE_FILE"].split(separator)
        return [os.path.normpath(os.path.join(project_dir, entry)) for entry in entries]
    here = os.path.abspath(project_dir)
    while True:
        for name in DEFAULT_FILES:
            if os.path.exists(os.path.join(here, name)):
                files = [os.path.join(here, name)]
                for override in DEFAULT_OVERRIDES:
                    if os.path.exists(os.path.join(here, override)):
                        files.append(os.path.join(here, override))
                        break
                return files
        parent = os.path.dirname(here)
        if parent == here:
            return []
        here = parent


def read_env_text(path: str) -> str:
    """Return the text of an environment file with every byte kept. Raises OSError."""
    with open(path, "rb") as handle:
        return handle.read().decode("utf-8", "surrogateescape")


class Docker:
    """The docker command of one host, and one compose project in it. Every method raises ComposeError."""

    def __init__(
        self,
        module: AnsibleModule,
        project_dir: str,
        project_name: Optional[str] = None,
        env_file: Optional[str] = None,
        command_timeout: int = 120,
    ) -> None:
        """project_name None: found out when it is first needed; env_file None: .env in project_dir."""
        self._module = module
        self.project_dir = os.path.abspath(project_dir)
        self.env_file = os.path.abspath(env_file) if env_file else os.path.join(self.project_dir, ".env")
        self.command_timeout = command_timeout
        # File descriptors that the docker processes inherit. A lock (flock) whose descriptor is listed here stays held
        # until the last docker command that was started under it has ended, even when the module is killed.
        self.keep_fds: list[int] = []
        self._name = project_name or None
        self._config: Optional[dict[str, Any]] = None
        self._hashes: Optional[dict[str, str]] = None
        self._plain: Optional[dict[str, str]] = None
        self._more_secrets: list[str] = []

    @classmethod
    def from_module(cls, module: AnsibleModule) -> Docker:
        """Build from a module whose spec includes COMPOSE_ARGUMENTS."""
        params = module.params
        return cls(module, params["project_dir"], params["project_name"], params["env_file"], params["command_timeout"])

    def renamed(self, name: str) -> Docker:
        """Return the same for the project name."""
        return Docker(self._module, self.project_dir, name, self.env_file, self.command_timeout)

    # -- running commands

    def docker(self, *args: str, check: bool = True, timeout: Optional[float] = None, data: Optional[str] = None) -> tuple[int, str, str]:
        """Run `docker ARGS` and return rc, stdout, stderr. timeout in seconds, the option command_timeout if None."""
        return self._run(list(args), "/", check, timeout, data)

    def compose(
        self,
        *args: str,
        files: Optional[list[str]] = None,
        env_file: Optional[str] = None,
        check: bool = True,
        timeout: Optional[float] = None,
        data: Optional[str] = None,
        project_dir: Optional[str] = None,
        name: Optional[str] = None,
    ) -> tuple[int, str, str]:
        """Run `docker compose ARGS` for the project, as the owner does: same directory, same environment file.

        files, env_file, project_dir: other ones than those of the project, for trying a candidate.
        """
        directory = project_dir or self.project_dir
        env = env_file or self.env_file
        argv = ["compose", "--project-directory", directory]
        if env_file or os.path.exists(env):
            argv += ["--env-file", env]
        chosen = name or self._name
        if chosen:
            argv += ["-p", chosen]
        for path in files or []:
            argv += ["-f", path]
        return self._run(argv + list(args), directory, check, timeout, data)

    def _run(self, args: list[str], cwd: str, check: bool, timeout: Optional[float], data: Optional[str]) -> tuple[int, str, str]:
        binary = self._module.get_bin_path("docker")
        if not binary:
            raise ComposeError("The docker command was not found on this host. Install Docker, or put it on the PATH.")
        if not os.path.isdir(cwd):
            raise ComposeError("The directory %s does not exist. Check project_dir." % cwd)
        seconds = self.command_timeout if timeout is None else timeout
        argv = [binary] + args
        limiter = self._module.get_bin_path("timeout")
        # run_command has no time limit of its own; coreutils' timeout ends the whole process group.
        command = [limiter, "-k", "10", "%g" % seconds] + argv if limiter else argv
        for name in [name for name in os.environ if name.startswith("COMPOSE_")]:
            del os.environ[name]
        rc, out, err = self._module.run_command(
            command,
            cwd=cwd,
            data=data,
            binary_data=True,
            expand_user_and_vars=False,
            environ_update={"PWD": cwd},
            pass_fds=self.keep_fds or None,
            handle_exceptions=False,
        )
        if limiter and rc in (124, 137) and check:
            raise ComposeError(
                "`%s` in %s did not end within %g seconds and was stopped. Look whether the Docker daemon answers"
                " (docker info), or raise command_timeout." % (self._shown(argv), cwd, seconds),
                rc=rc,
            )
        if check and rc != 0:
            raise ComposeError(self.failure(argv, cwd, rc, out, err), rc=rc, output=self.clean(err))
        return rc, out, err

    def failure(self, argv: list[str], cwd: str, rc: int, out: str, err: str) -> str:
        """Return the message for a failed call: what was run, what came back, what to do next. No secret in it."""
        answer = last_lines(self.clean(err)) or last_lines(self.clean(out)) or "nothing"
        hint = "Run the command by hand in that directory to see all of its output."
        low = err.lower()
        if "permission denied" in low and "docker" in low and "sock" in low:
            hint = "The remote user may not talk to the Docker daemon: use become, or add the user to the group docker."
        elif "cannot connect to the docker daemon" in low or "is the docker daemon running" in low:
            hint = "Start the Docker daemon (systemctl start docker) or correct DOCKER_HOST."
        elif "'compose' is not a docker command" in low or "unknown command: docker compose" in low or "unknown flag: --project-directory" in low:
            hint = "Install the Compose plugin (package docker-compose-plugin)."
        return "`%s` in %s ended with return code %d: %s. %s" % (self._shown(argv), cwd, rc, answer, hint)

    @staticmethod
    def _shown(argv: list[str]) -> str:
        return " ".join(["docker"] + argv[1:])

    def clean(self, text: str) -> str:
        """Return text without the values of the environment file and without what Compose quotes from it."""
        return scrub(text, self._secrets())

    def _secrets(self) -> list[str]:
        try:
            text = read_env_text(self.env_file)
        except OSError:
            text = ""
        found = list(self._more_secrets)
        for line in text.splitlines():
            raw = line.partition("=")[2].strip()
            found += [raw, raw.strip("'\"")]
        with contextlib.suppress(_dotenv.DotenvError):
            found += list(_dotenv.values_of(_dotenv.parse(text)).values())
        # Paths and image references are what an operator has to read in an error.
        return [item for item in found if item and not item.startswith("/") and not re.search(r"[^:]/|:v?[0-9.]+$", item)]

    def _json(self, what: str, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as exc:
            # The text itself may hold secrets, so only its size is told.
            raise ComposeError(
                "The answer of `docker %s` is not JSON (%d characters, %s). Check the versions of Docker and Compose."
                % (what, len(text), exc.__class__.__name__)
            ) from None

    # -- versions

    def version(self) -> dict[str, Any]:
        """Return `docker version` as a dict with Client and Server; Server is None when the daemon is not reachable."""
        rc, out, err = self.docker("version", "--format", "{{json .}}", check=False)
        if not out.strip():
            raise ComposeError(self.failure(["docker", "version"], "/", rc, out, err), rc=rc, output=self.clean(err))
        data = self._json("version", out)
        if not isinstance(data, dict):
            raise ComposeError("The answer of `docker version` has an unknown form.")
        return data

    def engine_version(self) -> str:
        """Return the version of the Docker daemon."""
        return self.docker("version", "--format", "{{.Server.Version}}")[1].strip()

    def compose_version(self) -> str:
        """Return the version of the Compose plugin, without a leading v."""
        return self.docker("compose", "version", "--short")[1].strip().lstrip("v")

    # -- the project

    def project_name(self) -> str:
        """Return the name of the project: as given, of the containers that run from this directory, or as resolved."""
        if self._name:
            return self._name
        names = self.names_of_directory()
        if len(names) == 1:
            self._name = names[0]
            return self._name
        resolved = self._json("compose config", self.compose("config", "--format", "json")[1]).get("name")
        if names and resolved not in names:
            raise ComposeError(
                "Containers of %d projects were made from %s: %s, and Compose now resolves the name %s. Set project_name."
                % (len(names), self.project_dir, ", ".join(names), resolved)
            )
        self._name = str(resolved)
        return self._name

    def names_of_directory(self) -> list[str]:
        """Return the project names under which containers of project_dir exist, sorted."""
        names: set[str] = set()
        for directory in sorted({self.project_dir, os.path.realpath(self.project_dir)}):
            out = self.docker(
                "ps",
                "-a",
                "--filter",
                "label=%s=%s" % (LABEL_DIR, directory),
                "--format",
                '{{.Label "%s"}}' % LABEL_PROJECT,
            )[1]
            names.update(line.strip() for line in out.splitlines() if line.strip())
        return sorted(names)

    def env_values(self) -> dict[str, str]:
        """Return the values of the environment file as Compose sees them (secret!); none if there is no file."""
        try:
            text = read_env_text(self.env_file)
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise ComposeError("%s can't be read: %s. Use become." % (self.env_file, exc.strerror)) from None
        try:
            return _dotenv.values_of(_dotenv.parse(text, os.environ))
        except _dotenv.DotenvError as exc:
            raise ComposeError("%s can't be read by Compose: %s. Correct that line." % (self.env_file, exc)) from None

    def files_default(self) -> list[str]:
        """Return the compose files, absolute, that the owner's plain command loads now."""
        return default_files(self.project_dir, self.env_values())

    def config(self, refresh: bool = False) -> dict[str, Any]:
        """Return the parsed configuration. It holds secrets: never return or log it. Kept until refresh."""
        if self._config is None or refresh:
            self.project_name()
            config = self._parsed_config(self.compose("config", "--format", "json")[1])
            merge_env_files(config, {**self.env_values(), **os.environ})
            if refresh:
                self._plain = None
            # The same versions of Compose list the services of profiles that are not active.
            active = self.plain_hashes()
            config["services"] = {name: item for name, item in (config.get("services") or {}).items() if name in active}
            self._config = config
        return self._config

    def hashes(self, refresh: bool = False) -> dict[str, str]:
        """Return service -> configuration hash that an `up` would now write on its containers. Kept until refresh.

        `config --hash` alone answers something else since Compose 2.23: it leaves out what comes from a service's
        env_file, while `up` hashes it. So the resolved configuration is fed back to it, where no env_file is left.
        """
        if self._hashes is None or refresh:
            self._hashes = self.hashes_of(self.config(refresh))
        return self._hashes

    def hashes_of(self, config: Mapping[str, Any], env_file: Optional[str] = None, project_dir: Optional[str] = None) -> dict[str, str]:
        """Return service -> hash for a parsed configuration, see hashes()."""
        text = json.dumps(config)
        return self._parsed_hashes(
            self.compose(
                "config",
                "--hash",
                "*",
                files=["-"],
                data=text,
                env_file=env_file,
                project_dir=project_dir,
            )[1]
        )

    def plain_hashes(self) -> dict[str, str]:
        """Return `config --hash "*"` as it is: right for services without env_file, see hashes()."""
        if self._plain is None:
            self.project_name()
            self._plain = self._parsed_hashes(self.compose("config", "--hash", "*")[1])
        return self._plain

    def _parsed_config(self, text: str) -> dict[str, Any]:
        data = self._json("compose config", text)
        if not isinstance(data, dict):
            raise ComposeError("The answer of `docker compose config` has an unknown form.")
        return data

    @staticmethod
    def _parsed_hashes(text: str) -> dict[str, str]:
        try:
            return parse_hashes(text)
        except ValueError as exc:
            raise ComposeError('The answer of `docker compose config --hash "*"` has an unknown form: %s.' % exc) from None

    def invalidate(self) -> None:
        """Forget what was read from the files; to be called after they changed."""
        self._config = None
        self._hashes = None
        self._plain = None

    def containers(self, service: Optional[str] = None, oneoff: bool = False) -> list[Container]:
        """Return the containers of the project in every state, sorted by service and number; see oneoff.

        oneoff: also those of `docker compose run`.
        """
        argv = ["ps", "-aq", "--no-trunc", "--filter", "label=%s=%s" % (LABEL_PROJECT, self.project_name())]
        if service:
            argv += ["--filter", "label=%s=%s" % (LABEL_SERVICE, service)]
        ids = self.docker(*argv)[1].split()
        found = [parse_container(item) for item in self.inspect(ids)]
        return sorted(
            (item for item in found if oneoff or not item.oneoff),
            key=lambda item: (item.service, item.number, item.created),
        )

    def inspect(self, ids: list[str]) -> list[dict[str, Any]]:
        """Return `docker inspect` of many containers in one call. One that vanished meanwhile is left out."""
        if not ids:
            return []
        rc, out, err = self.docker("container", "inspect", *ids, check=False)
        unexpected = [line for line in err.splitlines() if line.strip() and "no such" not in line.lower()]
        if rc != 0 and (unexpected or not out.strip()):
            raise ComposeError(self.failure(["docker", "container", "inspect", "..."], "/", rc, "", err), rc=rc)
        data = self._json("container inspect", out)
        return data if isinstance(data, list) else []

    def image(self, ref: str) -> Optional[dict[str, Any]]:
        """Return `docker image inspect` of a reference or id, None when it is not on this host."""
        rc, out, err = self.docker("image", "inspect", ref, check=False)
        if rc != 0:
            if "no such image" in err.lower():
                return None
            raise ComposeError(self.failure(["docker", "image", "inspect", ref], "/", rc, "", err), rc=rc)
        data = self._json("image inspect", out)
        return data[0] if isinstance(data, list) and data else None

    def image_id(self, ref: str) -> Optional[str]:
        """Return the id that the reference has on this host now, None when the image is not here."""
        image = self.image(ref)
        return str(image["Id"]) if image else None

    def expected(self, service: str, refresh: bool = False) -> Expected:
        """Return what the configuration now asks of a service. Fails, naming the services, when it has none such."""
        services = self.config(refresh).get("services") or {}
        if service not in services:
            raise ComposeError(
                "The project %s in %s has no service %s. It has: %s. A service behind a profile counts only when"
                " COMPOSE_PROFILES in %s names the profile."
                % (self.project_name(), self.project_dir, service, ", ".join(sorted(services)) or "none", self.env_file)
            )
        if refresh:
            self._plain = None
        return self.expect(service, services[service], self.hashes(refresh))

    def expect(self, service: str, config: Mapping[str, Any], hashes: Mapping[str, str]) -> Expected:
        """Return what one service of a parsed configuration asks for."""
        ref = str(config.get("image") or "%s-%s" % (self.project_name(), service))
        image = self.image(ref)
        check = config.get("healthcheck")
        if check:
            has_check = not check.get("disable") and (check.get("test") or [""])[0] != "NONE"
        else:
            test = (((image or {}).get("Config") or {}).get("Healthcheck") or {}).get("Test") or []
            has_check = bool(test) and test[0] != "NONE"
        return Expected(
            service=service,
            scale=config_scale(config),
            config_hash=hashes.get(service, ""),
            # A container that carries the plain hash was made from this configuration too. Accepting both keeps a
            # Compose version that does not read its own output back exactly from looking outdated for ever.
            config_hashes=tuple({hashes.get(service, ""), self.plain_hashes().get(service, "")} - {""}),
            image_ref=ref,
            image_id=str(image["Id"]) if image else None,
            healthcheck=has_check,
            stop_grace_period=parse_duration(config.get("stop_grace_period")),
            container_name=str(config.get("container_name") or ""),
            ports=config_ports(config),
            memory_limit=config_memory(config),
        )

    def logs_tail(self, container_id: str, lines: int = 20) -> str:
        """Return the last lines that a container wrote, both streams, without values of the environment file."""
        rc, out, err = self.docker("logs", "--tail", str(lines), container_id, check=False)
        if rc != 0:
            return "(no log: %s)" % last_lines(self.clean(err), 2)
        return "\n".join(self.clean(out + ("\n" if out and not out.endswith("\n") else "") + err).splitlines()[-lines:])

    # -- candidates

    def ignored_in_env_file(self) -> list[str]:
        """Return which of COMPOSE_FILE and COMPOSE_PROFILES this Compose ignores in a file given by --env-file.

        Compose 2.27.1 ignores both (docker/compose#11856): there a fragment that .env names is not loaded. Asked by trying.
        """
        directory = tempfile.mkdtemp(prefix="probe-", dir=self._module.tmpdir)
        try:
            files = {
                "env": "COMPOSE_FILE=%s/a.json\nCOMPOSE_PROFILES=p\n" % directory,
                "a.json": json.dumps({"services": {"a": {"image": "none"}, "p": {"image": "none", "profiles": ["p"]}}}),
                "compose.yaml": json.dumps({"services": {"b": {"image": "none"}, "p": {"image": "none", "profiles": ["p"]}}}),
            }
            for name, text in files.items():
                with open(os.path.join(directory, name), "w", encoding="utf-8") as handle:
                    handle.write(text)
            out = self.compose("config", "--services", env_file=os.path.join(directory, "env"), project_dir=directory, name="compose-probe")[1]
        except OSError as exc:
            raise ComposeError("Files for a test of Compose could not be made below %s: %s." % (self._module.tmpdir, exc)) from None
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        services = out.split()
        return [name for name, service in (("COMPOSE_FILE", "a"), ("COMPOSE_PROFILES", "p")) if service not in services]

    def hash_changes(
        self,
        changes: Mapping[str, Optional[str]],
        files_after: Optional[list[str]] = None,
        files_before: Optional[list[str]] = None,
    ) -> list[dict[str, Any]]:
        """Return the services whose containers an `up` would replace, make or forget if files were changed so.

        changes: absolute path -> new text, or None for a file that goes. Nothing of the project is touched: a private
        directory of links stands in for project_dir, once with today's texts and once with the candidates, so that
        relative paths come out alike both times. files_*: the compose files that are loaded, absolute; by default what
        a plain command loads (afterwards: by the candidate of the environment file).
        Each item: service, before and after (hash or None), reason (text, names only).
        Raises ComposeError with Compose's own answer when the candidates are not a valid project.
        """
        try:
            name: Optional[str] = self.project_name()
        except ComposeError:
            # Today's set can't be read, such as when a file of it is lost. The shadow's own name then comes out alike
            # both times, and it is that of the project unless containers run under another one.
            name = None
        before_files = files_before if files_before is not None else self.files_default()
        env_text = changes.get(self.env_file)
        if files_after is None:
            after_files = before_files
            if env_text is not None:
                after_files = default_files(self.project_dir, self._candidate_values(env_text))
        else:
            after_files = files_after
        renamed = ""
        if env_text is not None:
            candidate = self._candidate_values(env_text)
            self._more_secrets = list(candidate.values())
            old_name, new_name = (values.get("COMPOSE_PROJECT_NAME") for values in (self.env_values(), candidate))
            if old_name != new_name:
                renamed = "COMPOSE_PROJECT_NAME changes from %s to %s: every container would be made anew beside the old" % (
                    old_name or "nothing",
                    new_name or "nothing",
                )
        shadow = Shadow(self.project_dir, self.env_file, list(changes), before_files + after_files, self._module.tmpdir)
        try:
            before = self._shadow_run(shadow, {}, before_files, name)
            after = self._shadow_run(shadow, changes, after_files, name)
        finally:
            shadow.remove()
        found = compare(before, after, self.env_file_lines(after_files))
        if renamed:
            same = {"before": None, "reason": renamed}
            found = [dict(same, service=service, after=value) for service, value in sorted(after[1].items())]
        return found

    def _candidate_values(self, text: str) -> dict[str, str]:
        try:
            return _dotenv.values_of(_dotenv.parse(text, os.environ))
        except _dotenv.DotenvError as exc:
            raise ComposeError("The candidate for %s can't be read by Compose: %s." % (self.env_file, exc)) from None

    def _shadow_run(
        self, shadow: Shadow, changes: Mapping[str, Optional[str]], files: list[str], name: Optional[str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        try:
            env_file = shadow.build(changes)
            if not files:
                return {}, {}
            config = self._parsed_config(
                self.compose(
                    "config",
                    "--format",
                    "json",
                    files=[shadow.map_path(path) for path in files],
                    env_file=env_file,
                    project_dir=shadow.root,
                    name=name,
                )[1]
            )
            merge_env_files(config, {**_dotenv.values_of(_dotenv.parse(read_env_text(env_file), os.environ)), **os.environ})
            return config, self.hashes_of(config, env_file, shadow.root)
        except OSError as exc:
            raise ComposeError("A private copy of %s could not be made to try the change: %s." % (self.project_dir, exc)) from None
        except _dotenv.DotenvError as exc:
            raise ComposeError("%s can't be read by Compose: %s." % (self.env_file, exc)) from None
        except ComposeError as exc:
            # The operator knows the project directory, not our copy of it.
            message, output = shadow.unmap_text(str(exc)), shadow.unmap_text(exc.output)
            if changes and exc.output:
                message = "Nothing was changed: Compose refuses the files as they would be: %s. They are %s." % (
                    last_lines(output),
                    ", ".join(files),
                )
            raise ComposeError(message, exc.rc, output) from None

    def env_file_lines(self, files: list[str]) -> dict[str, str]:
        """Return service -> 'file:line' where it has an env_file, for telling why its hash changes."""
        found = {}
        for path in files:
            try:
                text = read_env_text(path)
            except OSError:
                continue
            for service, keys in scan_services(text).items():
                if "env_file" in keys:
                    found[service] = "%s:%d" % (path, keys["env_file"])
        return found


class Shadow:
    """A private directory that looks like the project directory, except for the files that are to be tried.

    Everything is a link to the real thing, but the directories above a changed file, the changed files, and the YAML
    files beside them: in those, and in the environment file that Compose interpolates from, the absolute path of the
    project directory is replaced, so that `env_file: /opt/x/.env` reads the candidate as `env_file: .env` does.
    """

    def __init__(self, project_dir: str, env_file: str, changed: list[str], files: list[str], tmpdir: str) -> None:
        self.project_dir = project_dir
        self.env_file = env_file
        self._base = tempfile.mkdtemp(prefix="shadow-", dir=tmpdir)  # 0700
        self.root = os.path.join(self._base, os.path.basename(project_dir) or "root")
        self._interpolation = os.path.join(self._base, "env")
        self._changed = [path for path in changed if self._inside(path)]
        outside = [path for path in changed if not self._inside(path) and path != env_file]
        if outside:
            self.remove()
            raise ComposeError(
                "%s is not inside the project directory %s, so it can't be told what changing it does to the services." % (outside[0], project_dir)
            )
        self._real_dirs = {""}
        for path in self._changed + [path for path in files if self._inside(path)]:
            parts = os.path.dirname(self._relative(path)).split(os.sep)
            for count in range(1, len(parts) + 1):
                if parts[0]:
                    self._real_dirs.add(os.sep.join(parts[:count]))
        self._pattern = re.compile(r"(?<![\w./-])" + re.escape(project_dir) + r"(?![\w.-])")

    def _inside(self, path: str) -> bool:
        return path.startswith(self.project_dir.rstrip("/") + "/")

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self.project_dir)

    def map_path(self, path: str) -> str:
        """Return where path of the project lies in the shadow; another path is returned as it is."""
        return os.path.join(self.root, self._relative(path)) if self._inside(path) else path

    def unmap_text(self, text: str) -> str:
        """Return text with paths of the shadow replaced by those of the project."""
        return text.replace(self._interpolation, self.env_file).replace(self.root, self.project_dir)

    def _mapped(self, text: str) -> str:
        return self._pattern.sub(lambda match: self.root, text)

    def build(self, changes: Mapping[str, Optional[str]]) -> str:
        """Make the shadow anew with these changes; returns the environment file to give to Compose. Raises OSError."""
        shutil.rmtree(self.root, ignore_errors=True)
        for directory in sorted(self._real_dirs):
            target = os.path.join(self.root, directory)
            os.makedirs(target, mode=0o700, exist_ok=True)
            source = os.path.join(self.project_dir, directory)
            for name in sorted(os.listdir(source)) if os.path.isdir(source) else []:
                relative = os.path.join(directory, name)
                path = os.path.join(source, name)
                if relative in self._real_dirs or (path in changes and self._inside(path)):
                    continue
                if name.endswith((".yml", ".yaml")) and os.path.isfile(path):
                    self._write(os.path.join(target, name), self._mapped(read_env_text(path)))
                else:
                    os.symlink(path, os.path.join(target, name))
        for path, text in changes.items():
            if text is not None and self._inside(path):
                mapped = self._mapped(text) if path.endswith((".yml", ".yaml")) else text
                self._write(self.map_path(path), mapped)
        env_text = changes.get(self.env_file) if self.env_file in changes else None
        if env_text is None and self.env_file not in changes and os.path.exists(self.env_file):
            env_text = read_env_text(self.env_file)
        self._write(self._interpolation, self._mapped(env_text or ""))
        return self._interpolation

    @staticmethod
    def _write(path: str, text: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(text.encode("utf-8", "surrogateescape"))

    def remove(self) -> None:
        """Take the private directory away. Links are removed, never followed."""
        shutil.rmtree(self._base, ignore_errors=True)


def compare(
    before: tuple[Mapping[str, Any], Mapping[str, str]],
    after: tuple[Mapping[str, Any], Mapping[str, str]],
    env_file_lines: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return the services whose hash differs between two (configuration, hashes), see Docker.hash_changes(). Pure."""
    found = []
    for service in sorted(set(before[1]) | set(after[1])):
        old, new = before[1].get(service), after[1].get(service)
        if old == new:
            continue
        if old is None:
            reason = "the service is new"
        elif new is None:
            reason = "the service is gone from the configuration"
        else:
            reason = _why(
                (before[0].get("services") or {}).get(service) or {},
                (after[0].get("services") or {}).get(service) or {},
                env_file_lines.get(service),
            )
        found.append({"service": service, "before": old, "after": new, "reason": reason})
    return found


def _why(before: Mapping[str, Any], after: Mapping[str, Any], env_file_line: Optional[str]) -> str:
    parts = []
    only_count = False
    for key in sorted(set(before) | set(after)):
        old, new = before.get(key), after.get(key)
        # None of these is part of the hash.
        if old == new or key in ("scale", "depends_on", "profiles", "build", "pull_policy"):
            continue
        if key == "deploy" and _without_count(old) == _without_count(new):
            only_count = True
        elif key == "environment" and isinstance(old or {}, dict) and isinstance(new or {}, dict):
            old, new = old or {}, new or {}
            names = [name for name in sorted(set(old) | set(new)) if old.get(name) != new.get(name)]
            parts.append("environment (%s)" % ", ".join(names))
        else:
            parts.append(key)
    if not parts and only_count:
        # Since Compose 2.24 it counts whether there is a deploy section at all.
        parts = ["deploy (the section comes or goes)"]
    text = "changes in " + ", ".join(parts) if parts else "its hash changes"
    if env_file_line and "environment" in text:
        text += "; the service has an env_file (%s)" % env_file_line
    return text


def _without_count(deploy: Any) -> dict[str, Any]:
    return {key: value for key, value in (deploy or {}).items() if key != "replicas" and value}


_KEY = re.compile(r"""^(?P<indent> *)(?:- )?(?P<quote>["']?)(?P<key>[\w.-]+)(?P=quote) *:(?P<rest>\s.*|)$""")


def scan_services(text: str) -> dict[str, dict[str, int]]:
    """Return service -> key -> line number (from 1) of a compose file, without a YAML library. Pure.

    Keys are those right below a service, and `deploy.replicas`. A service that takes in an anchor (`<<: *name`) gets
    the anchor's keys too, with the lines where they stand. What is written in braces counts with the line of its brace.
    """
    lines = text.splitlines()
    blocks: dict[tuple[str, str], dict[str, int]] = {}
    anchors: dict[str, dict[str, int]] = {}
    merges: dict[tuple[str, str], list[str]] = {}
    path: list[tuple[int, str]] = []
    scalar_indent: Optional[int] = None
    for number, raw in enumerate(lines, 1):
        line = raw.rstrip()
        stripped = line.lstrip(" ")
        if not stripped or stripped.startswith("#"):
            continue
        indent = len(line) - len(stripped)
        if scalar_indent is not None:
            # Inside a block of text (`|` or `>`).
            if indent > scalar_indent:
                continue
            scalar_indent = None
        merge = re.match(r"<<\s*:\s*(.*)", stripped)
        match = None if merge else _KEY.match(line)
        if merge or match:
            while path and path[-1][0] >= indent:
                path.pop()
        if merge and path:
            merges.setdefault((path[0][1], path[-1][1]), []).extend(re.findall(r"\*([\w.-]+)", merge.group(1)))
            continue
        if not match:
            continue
        key, rest = match.group("key"), match.group("rest").strip()
        names = [item[1] for item in path] + [key]
        if re.match(r"(?:[&!][^ ]* +)*[|>][0-9+-]*(?: +#.*)?$", rest):
            scalar_indent = indent
        path.append((indent, key))
        top_block = (names[0], names[1]) if names[0] == "services" and len(names) > 1 else (names[0], names[0])
        keys = blocks.setdefault(top_block, {})
        below = names[2:] if top_block[0] == "services" and len(names) > 1 else names[1:]
        anchor = re.match(r"&([\w.-]+)", rest)
        if anchor and not below:
            anchors[anchor.group(1)] = keys
        if len(below) == 1 or below == ["deploy", "replicas"]:
            keys[".".join(below)] = number
        if "{" in rest:
            for inner in re.findall(r"[{,]\s*[\"']?([\w.-]+)[\"']?\s*:", rest):
                if not below:
                    keys.setdefault(inner, number)
                elif below == ["deploy"] and inner == "replicas":
                    keys.setdefault("deploy.replicas", number)
            if not below:
                merges.setdefault((names[0], names[-1]), []).extend(re.findall(r"<<\s*:\s*\*([\w.-]+)", rest))
    found: dict[str, dict[str, int]] = {}
    for (top, service), keys in blocks.items():
        if top != "services" or service == "services":
            continue
        merged: dict[str, int] = {}
        for anchor_name in merges.get((top, service), []):
            for key, number in anchors.get(anchor_name, {}).items():
                merged.setdefault(key, number)
        merged.update(keys)
        found[service] = merged
    return found
