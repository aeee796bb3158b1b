# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests against the real engine share: docker without our modules, and a compose project."""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from pathlib import Path

IMAGE = os.environ.get("BASE_IMAGE", "bd-fhir-lab/base:bookworm")


def docker(*args: str, check: bool = True, cwd: Path | None = None, stdin: str | None = None) -> str:
    """Run docker and return what it says, for looking at the truth by another way than the modules."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    done = subprocess.run(["docker", *args], cwd=cwd, env=clean, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(args)}: rc {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on at an address of this machine."""
    with socket.socket() as item:
        item.bind((address, 0))
        return int(item.getsockname()[1])


class Project:
    """A compose project in a directory of its own."""

    def __init__(self, path: Path, prefix: str = "cmp") -> None:
        self.dir = path
        self.name = f"{prefix}-{uuid.uuid4().hex[:8]}"

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        path.chmod(mode)
        return path

    def compose(self, *args: str, check: bool = True) -> str:
        """As the owner: plain compose in the project directory."""
        return docker("compose", "--env-file", ".env", *args, check=check, cwd=self.dir)

    def ids(self, service: str | None = None) -> list[str]:
        more = ["--filter", f"label=com.docker.compose.service={service}"] if service else []
        out = docker("ps", "-aq", "--no-trunc", "--filter", f"label=com.docker.compose.project={self.name}", *more)
        return sorted(out.split())

    def label(self, service: str, label: str) -> str:
        return docker("inspect", self.ids(service)[0], "--format", f'{{{{index .Config.Labels "{label}"}}}}').strip()

    def remove(self) -> None:
        docker("compose", "-p", self.name, "down", "-t", "0", "-v", "--remove-orphans", check=False, cwd=Path("/"))
        ids = self.ids()
        if ids:
            docker("rm", "-f", *ids, check=False)
