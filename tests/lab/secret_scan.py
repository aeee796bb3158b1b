# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks for secrets where none may be: command lines, what Docker tells, logs, plays, the journal, temporary files of a host.

What the owner's own compose file puts into the environment of a container is the owner's, and reported apart. Secrets are
handed to the host on standard input; a scan that put them on a command line would find itself.
"""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

from pilot_host import HOST, PROJECT

# Services of the project that are ours; the environment of all others is their owner's.
OURS = ("hapi-balancer",)
# The one place where passwords are kept, and the owner's own file with its dated copies.
KEPT = ("/var/lib/dghs-bd-fhir/*/rotations/*.json", f"{PROJECT}/.env", f"{PROJECT}/.env.*.bak")
PLACES = ("/var/lib/dghs-bd-fhir", "/run/lock/dghs-bd-fhir", "/tmp", "/var/tmp", "/root/.ansible", "/home", "/var/log", PROJECT)

# Runs on the host, with its own Python: the needles come on standard input, hits are told by name and place.
FILES = r"""
import fnmatch, json, os, sys
asked = json.load(sys.stdin)
for place in asked["places"]:
    for folder, names, files in os.walk(place):
        for name in files:
            path = os.path.join(folder, name)
            if any(fnmatch.fnmatch(path, item) for item in asked["kept"]) or not os.path.isfile(path):
                continue
            try:
                with open(path, "rb") as handle:
                    data = handle.read()
            except OSError:
                continue
            for secret, forms in asked["needles"].items():
                if any(form.encode() in data for form in forms):
                    print(json.dumps([secret, path]))
"""
# Reads every command line again and again until its standard input ends.
WATCH = r"""
import json, os, select, sys
needles = json.loads(sys.stdin.readline())
seen, rounds = set(), 0
while not select.select([sys.stdin], [], [], 0.02)[0]:
    rounds += 1
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as handle:
                data = handle.read()
        except OSError:
            continue
        for secret, forms in needles.items():
            if any(form.encode() in data for form in forms):
                seen.add((secret, data.split(b"\0")[0].decode("utf-8", "replace")))
print(json.dumps({"rounds": rounds, "seen": sorted(seen)}))
"""


def forms(secret: str) -> list[str]:
    """Every way in which a secret could be written: as it is, escaped for JSON, SQL, userlists, shells and URLs, and in base64."""
    found = {
        secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret), quote(secret, safe=""), quote_plus(secret), secret.replace('"', '""'), secret.replace("'", "''"),
        secret.replace("'", "'\"'\"'"), secret.replace("\\", "\\\\"), secret.replace("$", "$$"),
    }  # fmt: skip
    data = secret.encode()
    for before in range(3):
        # Within a longer text the first and the last characters depend on the neighbours.
        text = b64encode(b"\0" * before + data).decode().rstrip("=")
        found.add(text[(0, 2, 3)[before]: len(text) - (1 if (before + len(data)) % 3 else 0)])
    return sorted(item for item in found if len(item) > 7)


def shown(text: str, secrets: dict[str, str]) -> list[str]:
    """The names of the secrets that a text shows in any form."""
    return sorted(name for name, secret in secrets.items() if any(form in text for form in forms(secret)))


@dataclass
class Found:
    """ours: faults. owners: what the owner's compose file shows by its design."""

    ours: list[str] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)


def on(host: str, *argv: str, data: str | None = None) -> str:
    done = subprocess.run(["docker", "exec", "-i", host, *argv], input=data, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout + done.stderr


def environment_apart(inspected: Iterable[dict[str, object]]) -> list[tuple[str, str, str, str]]:
    """(container, service, its environment, everything else) of `docker inspect`. Pure."""
    found = []
    for item in inspected:
        text = json.loads(json.dumps(item))
        environment = json.dumps(text["Config"].pop("Env", None), ensure_ascii=False)
        service = str((text["Config"].get("Labels") or {}).get("com.docker.compose.service", ""))
        found.append((str(item["Name"]).lstrip("/"), service, environment, json.dumps(text, ensure_ascii=False)))
    return found


def scan(secrets: dict[str, str], outputs: Iterable[str] = (), host: str = HOST) -> Found:
    """Look everywhere. secrets: name -> value; outputs: what plays have printed."""
    found = Found()
    for number, text in enumerate(outputs):
        found.ours += [f"output {number} shows {name}" for name in shown(text, secrets)]
    ids = on(host, "docker", "ps", "-aq", "--no-trunc").split()
    for name, service, environment, rest in environment_apart(json.loads(on(host, "docker", "inspect", *ids)) if ids else []):
        # An escaped text is unescaped once, so that the plain forms count too.
        for secret in shown(environment, secrets) or shown("\n".join(json.loads(environment) or []), secrets):
            (found.ours if service in OURS or not service else found.owners).append(f"docker inspect {name} shows {secret} in its environment")
        found.ours += [f"docker inspect {name} shows {secret}" for secret in shown(rest, secrets)]
        found.ours += [f"docker logs {name} shows {secret}" for secret in shown(on(host, "docker", "logs", name), secrets)]
    found.ours += [f"journalctl shows {name}" for name in shown(on(host, "journalctl", "--no-pager", "-o", "cat"), secrets)]
    asked = {"places": PLACES, "kept": KEPT, "needles": {name: forms(secret) for name, secret in secrets.items()}}
    hits = on(host, "python3", "-c", FILES, data=json.dumps(asked))
    found.ours += ["{1} shows {0}".format(*json.loads(line)) for line in hits.splitlines()]
    return found


class Watch:
    """Reads the host's command lines while something runs; seen tells which of them showed a secret."""

    def __init__(self, secrets: dict[str, str], host: str = HOST) -> None:
        self.seen: list[str] = []
        self._needles = json.dumps({name: forms(secret) for name, secret in secrets.items()})
        self._process = subprocess.Popen(["docker", "exec", "-i", host, "python3", "-c", WATCH],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Watch:
        assert self._process.stdin is not None
        self._process.stdin.write(self._needles + "\n")
        self._process.stdin.flush()
        return self

    def __exit__(self, *dummy: object) -> None:
        out, dummy_error = self._process.communicate("end\n", timeout=60)
        told = json.loads(out)
        assert told["rounds"] > 0, "nothing was looked at"
        self.seen = [f"a command line of {program} showed {name}" for name, program in told["seen"]]
