# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs commands on the host when alerts begin or end. Cron starts it every minute.

It asks Alertmanager, instead of being called by it: so no port of the host has to be open to containers, no daemon has to be
kept alive, and an Alertmanager that is down, or gets nothing of Prometheus, is told too. A command gets JSON on its standard
input, and is tried again a minute later as long as it fails.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

# One missed answer may be a restart. After its own, Alertmanager gets each alert again within a minute and a quarter: Prometheus sends those that go
# on once a minute. So what has ended is missing in as many answers too.
MISSED_BEFORE_TOLD = 3
# Fires always. While it is missing nothing is known of the others.
WATCHDOG = "Watchdog"
UNREACHABLE, SILENT = "unreachable", "silent"
TROUBLES = {UNREACHABLE: "AlertmanagerUnreachable", SILENT: "PrometheusSilent"}
METRIC = "bd_fhir_alert_command_last_success_timestamp_seconds"


def ask(url: str) -> list[dict[str, Any]]:
    """Every alert that goes on. One that is silenced or inhibited has not ended, so it is asked for too."""
    query = "?active=true&silenced=true&inhibited=true&unprocessed=true"
    with urllib.request.urlopen(url + "/api/v2/alerts" + query, timeout=20) as answer:  # noqa: S310 - our own URL
        found: list[dict[str, Any]] = json.load(answer)
    return found


def watched(alerts: list[dict[str, Any]], deployment: str) -> bool:
    """Tell whether the Prometheus of this deployment hands its alerts on."""
    return any(alert["labels"].get("alertname") == WATCHDOG and alert["labels"].get("deployment") == deployment for alert in alerts)


def wanted(alerts: list[dict[str, Any]], severities: list[str]) -> dict[str, dict[str, Any]]:
    """Fingerprint -> what is told of it. Without severities, every one but the role's own test. None that is silenced or inhibited is told."""
    found = {}
    for alert in alerts:
        severity = alert["labels"].get("severity", "")
        if alert["labels"].get("alertname") == WATCHDOG or alert.get("status", {}).get("state", "active") == "suppressed":
            continue
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


def one(receiver: dict[str, Any], state: dict[str, Any], alerts: list[dict[str, Any]], trouble: str, reason: str) -> str:
    """Tell one receiver what is new, and return why that failed. trouble: why nothing is known of what has ended; empty: nothing is."""
    told: dict[str, Any] = state.get("told", {})
    state["missed"] = (state.get("missed", 0) if trouble == state.get("trouble") else 0) + 1 if trouble else 0
    state["trouble"] = trouble
    there = {alert["fingerprint"] for alert in alerts}
    # In how many answers in a row, each with the watchdog, what was told is missing.
    before = {} if trouble else state.get("gone", {})
    known = {key: item for key, item in told.items() if key not in TROUBLES}
    state["gone"] = {} if trouble else {key: before.get(key, 0) + 1 for key in known if key not in there}
    now = {key: item for key, item in known.items() if state["gone"].get(key, 0) < MISSED_BEFORE_TOLD}
    now = {**wanted(alerts, receiver.get("severities", [])), **now}
    if trouble and state["missed"] >= MISSED_BEFORE_TOLD:
        labels = {"alertname": TROUBLES[trouble], "severity": "critical"}
        now[trouble] = told.get(trouble, {"labels": labels, "annotations": {"summary": reason}, "startsAt": ""})
    message = news(told, now)
    if not any(message.values()):
        return ""
    failed = run(receiver["command"], message)
    if not failed:
        state["told"] = now
    return failed


def tell_age(path: str) -> None:
    """Leave for node_exporter that a run went well, where its folder is."""
    if not os.path.isdir(os.path.dirname(path)):
        return
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(f"# HELP {METRIC} When Alertmanager was last asked, and every command that had to be run went well.\n# TYPE {METRIC} gauge\n")
        file.write(f"{METRIC} {int(time.time())}\n")
    os.chmod(path + ".new", 0o644)
    os.replace(path + ".new", path)


def work(config: dict[str, Any], state_path: str) -> int:
    try:
        with open(state_path, encoding="utf-8") as file:
            state = json.load(file)
    except (OSError, ValueError):
        # None yet, or one that was cut: alerts that go on are told once more, which is better than never.
        state = {}
    alerts: list[dict[str, Any]] = []
    trouble = reason = ""
    try:
        alerts = ask(config["url"])
    except (OSError, ValueError) as exc:
        trouble, reason = UNREACHABLE, f"Alertmanager does not answer at {config['url']}: {exc}"
    if not trouble and not watched(alerts, config["deployment"]):
        trouble = SILENT
        reason = f"Alertmanager at {config['url']} gets nothing of Prometheus: the alert {WATCHDOG}, which fires always, is missing"
    if trouble:
        print(reason, file=sys.stderr)
    worst = 0
    for receiver in config["receivers"]:
        failed = one(receiver, state.setdefault(receiver["name"], {}), alerts, trouble, reason)
        if failed:
            print(f"the command of {receiver['name']} failed: {failed}", file=sys.stderr)
            worst = 1
    with open(state_path + ".new", "w", encoding="utf-8") as file:
        json.dump(state, file)
    os.replace(state_path + ".new", state_path)
    if config.get("metrics") and not worst and trouble != UNREACHABLE:
        tell_age(config["metrics"])
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--state", required=True)
    options = parser.parse_args()
    with open(options.config, encoding="utf-8") as file:
        config = json.load(file)
    # Commands may take longer than the minute until the next run. That one would tell the same a second time.
    with open(options.state + ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("the run before is still at work", file=sys.stderr)
            return 0
        return work(config, options.state)


if __name__ == "__main__":
    sys.exit(main())
