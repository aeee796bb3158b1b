# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs on the lab's pilot host, as an operator runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import HOSTS

ROOT = Path(__file__).resolve().parents[2]
# Two hosts are alike, so that two workers of pytest-xdist can each have one; a third worker would have none, and ends here.
HOST, INVENTORY, ENTRY_PORT = (
    ("fhir-pilot", "inventories/lab", 8444),
    ("fhir-second", "inventories/lab-second", 8447),
)[int(os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw") or os.environ.get("LAB_SLOT", "0"))]
PORT = next(outer for host in HOSTS if host.name == HOST for outer, inner in host.ports if inner == 443)
PROJECT = "/opt/bd-fhir-national"
REGISTRY = "registry:5000/bd-fhir"


def release(version: str, ig_version: str) -> tuple[str, str]:
    """The arguments that name a release: its image and the IG version that only this image holds change together."""
    return ("-e", json.dumps({"hapi_image": f"{REGISTRY}/hapi:{version}", "hapi_env": {"HAPI_IG_VERSION": ig_version}}))


FIRST = release("1.0.0", "0.2.1")
FIRST_BACK = ("-e", json.dumps({"hapi_rollback_image": f"{REGISTRY}/hapi:1.0.0", "hapi_rollback_env": {"HAPI_IG_VERSION": "0.2.1"}}))
SECOND = release("1.1.0", "0.3.0")


def on_host(*argv: str, check: bool = True, host: str = HOST, data: str | None = None) -> str:
    """Run a command as root on a lab host, past Ansible: what a test asserts is seen with another tool."""
    done = subprocess.run(["docker", "exec", "-i", host, *argv], input=data, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def owner_up() -> str:
    """The owner's own command; what it did is on its standard error."""
    done = subprocess.run(
        ["docker", "exec", "-w", PROJECT, HOST, "docker", "compose", "--env-file", ".env", "--progress", "plain", "up", "-d"],
        capture_output=True, text=True, check=True)
    return done.stderr


@dataclass(frozen=True)
class Run:
    rc: int
    out: str

    def count(self, what: str, host: str = HOST) -> int:
        found = re.search(rf"^{host}\s.*\b{what}=(\d+)", self.out, re.MULTILINE)
        assert found, f"no recap for {host}:\n{self.out[-3000:]}"
        return int(found.group(1))

    @property
    def changed(self) -> int:
        return self.count("changed")


def command(verb: str, *args: str, inventory: str = INVENTORY) -> list[str]:
    playbook = verb if verb.endswith(".yml") else f"dghs.bd_fhir.{verb}"
    return ["ansible-playbook", "-i", str(ROOT / inventory), playbook, *args]


def play(verb: str, *args: str, timeout: int = 900) -> Run:
    done = subprocess.run(command(verb, *args), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=timeout, check=False)
    return Run(done.returncode, done.stdout)


def ok(verb: str, *args: str) -> Run:
    result = play(verb, *args)
    assert result.rc == 0, result.out[-6000:]
    return result


class Background:
    """A play that runs beside the test, in a process group of its own so that a kill reaches all of it and nothing else."""

    def __init__(self, verb: str, *args: str) -> None:
        self.process = subprocess.Popen(command(verb, *args), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        start_new_session=True)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def result(self, timeout: int = 900) -> Run:
        out, dummy = self.process.communicate(timeout=timeout)
        return Run(self.process.returncode, out)


@dataclass(frozen=True)
class Replica:
    name: str
    id: str
    image: str
    started: str
    status: str
    health: str
    pid: int
    address: str


def replicas(service: str = "hapi", everything: bool = False) -> list[Replica]:
    """The service's containers as the engine tells them."""
    ids = on_host("docker", "ps", "-q", *(["-a"] if everything else []), "--no-trunc",
                  "--filter", "label=com.docker.compose.project=bd-fhir-national",
                  "--filter", f"label=com.docker.compose.service={service}").split()
    if not ids:
        return []
    found = []
    # One that is gone since is left out: docker inspect then fails, and shows the others.
    for data in json.loads(on_host("docker", "inspect", *ids, check=False)):
        networks = data["NetworkSettings"]["Networks"]
        found.append(Replica(
            data["Name"].lstrip("/"), data["Id"], data["Config"]["Image"], data["State"]["StartedAt"], data["State"]["Status"],
            data["State"].get("Health", {}).get("Status", "none"), data["State"]["Pid"],
            networks.get("bd-fhir-national_frontend", {}).get("IPAddress", "")))
    return sorted(found, key=lambda replica: replica.name)


def snapshot(host: str = HOST) -> dict[str, str]:
    """Everything that a run could have changed: the project's files with owner and mode, and the containers with their start."""
    files = on_host("bash", "-c", f"cd {PROJECT} 2>/dev/null && find . -type f -exec stat -c '%n %U:%G %a %i' {{}} + | sort && "
                    "find . -type f -exec sha256sum {} + | sort; true", host=host)
    containers = on_host("bash", "-c", "docker ps -aq --no-trunc 2>/dev/null | sort | xargs -r docker inspect"
                         " --format '{{.Id}} {{.State.StartedAt}} {{.Config.Image}}'; true", host=host)
    return {"files": files, "containers": containers}


def until(what: str, seconds: float, condition: Callable[[], object]) -> float:
    """Wait for a condition; returns how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.2)
    return time.monotonic() - started


def healthy(count: int) -> bool:
    found = replicas(everything=True)
    return len(found) == count and all(replica.health == "healthy" for replica in found)


def owner_files() -> dict[str, str]:
    """The owner's files as they are: none of them may differ after a rollback, and none of ours may be left beside them.

    Dated copies of .env stay on purpose: they are what an operator reaches for when all else is lost.
    """
    text = on_host("bash", "-c", f"cd {PROJECT} && sha256sum docker-compose.yml .env nginx/nginx.conf && stat -c '%a:%U %n.mode' .env"
                   " && ls -A | grep -v '^[.]env[.].*[.]bak$' | sed 's/^/listed /'")
    return {name: value for value, name in (line.split(maxsplit=1) for line in text.splitlines())}


def modules_at_work() -> list[int]:
    """The modules that run on the host: each is a Python that a sudo of Ansible's has started, and has no name of its own."""
    return [int(line) for line in on_host("bash", "-c", """
for module in $(pgrep -x python3); do
  ancestor=$module
  while [ "${ancestor:-0}" -gt 1 ]; do
    [ "$(cat "/proc/$ancestor/comm" 2>/dev/null)" != sudo ] || { echo "$module"; break; }
    ancestor=$(awk '/^PPid/ { print $2 }' "/proc/$ancestor/status" 2>/dev/null)
  done
done
""").split()]


def drained() -> str:
    """HAProxy's own word on the servers that are being drained."""
    stat = on_host("python3", "-c", f"""
import socket
s = socket.socket(socket.AF_UNIX); s.connect('{PROJECT}/compose.d/balancer/run/admin.sock'); s.sendall(b'show stat\\n')
data = b''
while chunk := s.recv(65536): data += chunk
print(data.decode())
""")
    return " ".join("drain" for line in stat.splitlines() if ",DRAIN" in line or "DRAIN (" in line)
