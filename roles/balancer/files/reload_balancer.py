# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a running HAProxy load its configuration if it runs another one: reload_balancer.py SOCKET STATE_FILE SERVICE WANTED.

Prints "unchanged" or "reloaded". What runs is told by the description that the configuration carries, so that a reload
that was lost, whoever lost it, is made good by the next run.

A new worker starts without addresses and would answer 503 until its first DNS answer; so it is given what the old one knew,
and the file is removed afterwards: an old drain or address must not come back at some later start.
"""

import os
import socket
import subprocess
import sys
import time


def ask(address, command):
    """One command of HAProxy's runtime API; returns its answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(address)
        client.sendall(command.encode() + b"\n")
        answer = b""
        while True:
            data = client.recv(65536)
            if not data:
                return answer.decode(errors="replace")
            answer += data


def description(address):
    """What the running configuration says of itself, empty if it says nothing."""
    for line in ask(address, "show info").splitlines():
        if line.startswith("description:"):
            return line.partition(":")[2].strip()
    return ""


def containers(service):
    """The running containers of the balancer's service, by its labels: a name or an id from before may be gone."""
    project, name = service.split("/", 1)
    listed = subprocess.run(
        ["docker", "ps", "--quiet", "--no-trunc", "--filter", "label=com.docker.compose.project=" + project,
         "--filter", "label=com.docker.compose.service=" + name],
        check=True, stdout=subprocess.PIPE, text=True)
    return listed.stdout.split()


def main():
    address, path, service, wanted = sys.argv[1:5]
    if description(address) == wanted:
        print("unchanged")
        return
    state = ask(address, "show servers state")
    if not state.startswith("1"):
        sys.exit("HAProxy at %s did not tell its servers' state: %r" % (address, state[:200]))
    try:
        with open(path, "w") as target:
            target.write(state)
            os.fchmod(target.fileno(), 0o644)
        for container in containers(service):
            # USR2: the master starts a worker with the new configuration while the old one ends its requests.
            subprocess.run(["docker", "kill", "--signal", "USR2", container], check=True, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                now = description(address)
            except OSError:
                now = ""
            if now == wanted:
                break
            if time.monotonic() > deadline:
                sys.exit("HAProxy at %s still runs the configuration %r, not %r; see its log (docker logs)." % (address, now, wanted))
            time.sleep(0.2)
    finally:
        if os.path.exists(path):
            os.unlink(path)
    print("reloaded")


if __name__ == "__main__":
    main()
