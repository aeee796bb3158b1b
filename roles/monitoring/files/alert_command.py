# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs commands on the host when alerts begin or end. Cron starts it every minute.

It asks Alertmanager, instead of being called by it: so no port of the host has to be open to containers, no daemon has to be
kept alive, and an Alertmanager that is down is told too. A command gets JSON on its standard input, and is tried again a
minute later as long as it fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

# One missed answer may be a restart.
MISSED_BEFORE_TOLD = 3
UNREACHABLE = "unreachable"


def ask(url: str) -> list[dict[str, Any]]:
    """The alerts that are active and neither silenced nor inhibited."""
    with urllib.request.urlopen(url + "/api/v2/alerts?active=true&silenced=false&inhibited=false", timeout=20) as answer:  # noqa: S310 - our own URL
        found: list[dict[str, Any]] = json.load(answer)
    return found


def wanted(alerts: list[dict[str, Any]], severities: list[str]) -> dict[str, dict[str, Any]]:
    """Fingerprint -> what is told of it. Without severities, every one but the role's own test."""
    found = {}
    for alert in alerts:
        severity = alert["labels"].get("severity", "")
        if severity in severities if severities else severity != "test":
            found[alert["fingerprint"]] = {"labels": alert["labels"], "annotations": alert["annotations"], "startsAt": alert["startsAt"]}
    return found


def news(told: dict[str, Any], now: dict[str, Any]) -> dict[str, list[Any]]:
    """What has begun and what has ended since the command was last run."""
    return {
        "firing": [now[key] for key in sorted(now) if key not in told],
        "resolved": [told[key] for key in sorted(told) if key not in now],
    }


def run(command: list[str], message: dict[str, Any]) -> str:
    """Run it and return why it failed, "" if it did not."""
    try:
        done = subprocess.run(command, input=json.dumps(message), text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return f"exit code {done.returncode}" if done.returncode else ""


def one(receiver: dict[str, Any], state: dict[str, Any], alerts: list[dict[str, Any]] | None, reason: str) -> str:
    """Tell one receiver what is new, and return why that failed."""
    told: dict[str, Any] = state.get("told", {})
    if alerts is None:
        state["missed"] = state.get("missed", 0) + 1
        if state["missed"] < MISSED_BEFORE_TOLD:
            return ""
        labels = {"alertname": "AlertmanagerUnreachable", "severity": "critical"}
        now = {**told, UNREACHABLE: {"labels": labels, "annotations": {"summary": reason}, "startsAt": ""}}
    else:
        state["missed"] = 0
        now = wanted(alerts, receiver.get("severities", []))
    message = news(told, now)
    if not any(message.values()):
        return ""
    failed = run(receiver["command"], message)
    if not failed:
        state["told"] = now
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--state", required=True)
    options = parser.parse_args()
    with open(options.config, encoding="utf-8") as file:
        config = json.load(file)
    try:
        with open(options.state, encoding="utf-8") as file:
            state = json.load(file)
    except (OSError, ValueError):
        # None yet, or one that was cut: alerts that go on are told once more, which is better than never.
        state = {}
    alerts, reason = None, ""
    try:
        alerts = ask(config["url"])
    except (OSError, ValueError) as exc:
        reason = f"Alertmanager does not answer at {config['url']}: {exc}"
        print(reason, file=sys.stderr)
    worst = 0
    for receiver in config["receivers"]:
        failed = one(receiver, state.setdefault(receiver["name"], {}), alerts, reason)
        if failed:
            print(f"the command of {receiver['name']} failed: {failed}", file=sys.stderr)
            worst = 1
    with open(options.state + ".new", "w", encoding="utf-8") as file:
        json.dump(state, file)
    os.replace(options.state + ".new", options.state)
    return worst


if __name__ == "__main__":
    sys.exit(main())
