#!/usr/bin/env python3
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write what HAProxy knows of its servers where the next worker reads it: save_server_state.py SOCKET FILE.

A new worker starts without addresses and would answer 503 until its first DNS answer.
"""

import os
import socket
import sys


def main() -> None:
    address, path = sys.argv[1:3]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(address)
        client.sendall(b"show servers state\n")
        answer = b""
        while True:
            data = client.recv(65536)
            if not data:
                break
            answer += data
    if not answer.startswith(b"1"):
        sys.exit("HAProxy at %s did not tell its servers' state: %r" % (address, answer[:200]))
    with open(path + ".new", "wb") as target:
        target.write(answer)
        os.fchmod(target.fileno(), 0o644)
    os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
