# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The job that runs commands on alerts, as a process, against a server that answers as Alertmanager does."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "roles/monitoring/files/alert_command.py"


class Site:
    """A job with one receiver whose command writes what it is told, and what Alertmanager answers."""

    def __init__(self, path: Path, **receiver: Any) -> None:
        self.path = path
        self.alerts: list[dict[str, Any]] | None = []
        # Whether Prometheus hands its alerts on, of which one fires always.
        self.watchdog = True
        self.fails = path / "fails"
        self.told_file = path / "told.jsonl"
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
                found = [WATCHDOG] * site.watchdog + (site.alerts or [])
                # As Alertmanager leaves out what was not asked for.
                kinds = [kind for kind in ("silenced", "inhibited") if asked.get(kind) == "false"]
                body = json.dumps([item for item in found if not any(item["status"][f"{kind[:-1]}By"] for kind in kinds)]).encode()
                self.send_response(200 if site.alerts is not None else 503)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        command = ["/bin/sh", "-c", f"test ! -e {self.fails} && cat >> {self.told_file} && echo >> {self.told_file}"]
        config = {
            "url": f"http://127.0.0.1:{self.server.server_port}", "deployment": "bd", "metrics": str(path / "textfile/command.prom"),
            "receivers": [{"name": "script", "command": command, **receiver}],
        }  # fmt: skip
        (path / "config.json").write_text(json.dumps(config))

    def run(self) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(SCRIPT), "--config", str(self.path / "config.json"), "--state", str(self.path / "state.json")]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def told(self) -> list[dict[str, list[str]]]:
        """What the command was told, by the names of alerts, oldest first."""
        lines = self.told_file.read_text().splitlines() if self.told_file.exists() else []
        return [{key: [item["labels"]["alertname"] for item in value] for key, value in json.loads(line).items()} for line in lines]


def alert(name: str, severity: str = "warning", deployment: str = "bd", **by: list[str]) -> dict[str, Any]:
    """As Alertmanager tells one. by: inhibitedBy or silencedBy."""
    labels = {"alertname": name, "severity": severity, "deployment": deployment}
    status = {"state": "suppressed" if by else "active", "inhibitedBy": [], "silencedBy": [], **by}
    return {"fingerprint": name, "labels": labels, "annotations": {"summary": name}, "startsAt": "2026-11-26T00:00:00Z", "status": status}


WATCHDOG = alert("Watchdog", "none")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.server.shutdown()


def test_what_begins_and_what_ends_is_told_once(site: Site) -> None:
    site.alerts = [alert("PoolFull"), alert("BdFhirMonitoringTest", "test")]
    for _again in range(2):
        assert site.run().returncode == 0
    site.alerts = []
    for _again in range(4):
        assert site.run().returncode == 0
    assert site.told() == [{"firing": ["PoolFull"], "resolved": []}, {"firing": [], "resolved": ["PoolFull"]}]


def test_a_command_that_fails_is_run_again(site: Site) -> None:
    site.alerts = [alert("PoolFull")]
    site.fails.touch()
    failed = site.run()
    assert (failed.returncode, site.told()) == (1, [])
    assert "the command of script failed" in failed.stderr
    site.fails.unlink()
    assert site.run().returncode == 0
    assert site.told() == [{"firing": ["PoolFull"], "resolved": []}]


def test_an_alertmanager_that_is_down_is_told_after_a_while_and_once(site: Site) -> None:
    site.alerts = [alert("PoolFull")]
    site.run()
    site.alerts = None
    for _again in range(5):
        assert site.run().returncode == 0
    site.alerts = [alert("PoolFull")]
    site.run()
    assert site.told()[1:] == [{"firing": ["AlertmanagerUnreachable"], "resolved": []}, {"firing": [], "resolved": ["AlertmanagerUnreachable"]}]


def test_a_state_that_was_cut_in_half_is_begun_anew(site: Site) -> None:
    site.alerts = [alert("PoolFull")]
    site.run()
    state = site.path / "state.json"
    state.write_text(state.read_text()[:20])
    assert site.run().returncode == 0
    assert len(site.told()) == 2


def test_only_the_severities_that_are_asked_for(tmp_path: Path) -> None:
    site = Site(tmp_path, severities=["critical"])
    site.alerts = [alert("PoolFull"), alert("Down", "critical")]
    site.run()
    site.server.shutdown()
    assert site.told() == [{"firing": ["Down"], "resolved": []}]


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    site = Site(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["receivers"][0]["command"] = ["/nowhere/tell"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    site.alerts = [alert("PoolFull")]
    failed = site.run()
    site.server.shutdown()
    assert failed.returncode == 1
    assert "/nowhere/tell" in failed.stderr


def test_a_prometheus_that_is_gone_is_told_and_ends_nothing(site: Site) -> None:
    """Its alerts end in Alertmanager a few minutes after it has, though nothing is well."""
    site.alerts = [alert("HapiDown", "critical")]
    site.run()
    site.alerts, site.watchdog = [], False
    for _again in range(6):
        assert "Watchdog, which fires always, is missing" in site.run().stderr
    assert site.told()[1:] == [{"firing": ["PrometheusSilent"], "resolved": []}]
    site.alerts, site.watchdog = [alert("HapiDown", "critical")], True
    site.run()
    assert site.told()[2:] == [{"firing": [], "resolved": ["PrometheusSilent"]}]
    site.alerts = []
    for _again in range(4):
        site.run()
    assert site.told()[3:] == [{"firing": [], "resolved": ["HapiDown"]}]


def test_the_watchdog_of_another_deployment_does_not_count(site: Site) -> None:
    site.watchdog = False
    site.alerts = [alert("Watchdog", "none", "another")]
    for _again in range(3):
        site.run()
    assert site.told() == [{"firing": ["PrometheusSilent"], "resolved": []}]


def test_an_alertmanager_that_has_just_started_ends_nothing(site: Site) -> None:
    """It has forgotten every alert, and gets the watchdog again before others."""
    site.alerts = [alert("PoolFull")]
    site.run()
    for answer, watchdog in ((None, True), ([], False), ([], False), ([], True), ([], True), ([alert("PoolFull")], True)):
        site.alerts, site.watchdog = answer, watchdog
        assert site.run().returncode == 0
    assert site.told() == [{"firing": ["PoolFull"], "resolved": []}]


def test_one_trouble_after_the_other(site: Site) -> None:
    site.alerts = None
    for _again in range(3):
        site.run()
    site.alerts, site.watchdog = [], False
    for _again in range(3):
        site.run()
    assert site.told() == [
        {"firing": ["AlertmanagerUnreachable"], "resolved": []}, {"firing": [], "resolved": ["AlertmanagerUnreachable"]},
        {"firing": ["PrometheusSilent"], "resolved": []},
    ]  # fmt: skip


@pytest.mark.parametrize("by", [{"inhibitedBy": ["HapiDown"]}, {"silencedBy": ["a3b8"]}])
def test_what_is_inhibited_or_silenced_has_not_ended_and_does_not_begin(site: Site, by: dict[str, list[str]]) -> None:
    site.alerts = [alert("PoolFull")]
    site.run()
    site.alerts = [alert("PoolFull", **by), alert("Slow", **by)]
    for _again in range(5):
        site.run()
    assert site.told() == [{"firing": ["PoolFull"], "resolved": []}]
    site.alerts = [alert("PoolFull"), alert("Slow")]
    site.run()
    assert site.told()[1:] == [{"firing": ["Slow"], "resolved": []}]


def test_the_watchdog_itself_is_told_to_nobody(tmp_path: Path) -> None:
    """Not even to who asks for its severity."""
    site = Site(tmp_path, severities=["none"])
    site.run()
    site.server.shutdown()
    assert site.told() == []


def test_two_runs_do_not_overlap(site: Site) -> None:
    site.alerts = [alert("PoolFull")]
    with (site.path / "state.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = site.run()
        assert (held.returncode, held.stderr.strip(), site.told()) == (0, "the run before is still at work", [])
    assert site.run().returncode == 0
    assert site.told() == [{"firing": ["PoolFull"], "resolved": []}]


def test_a_good_run_leaves_its_time_and_no_other_does(site: Site) -> None:
    folder = site.path / "textfile"
    site.run()
    assert not folder.exists()
    folder.mkdir()
    site.fails.touch()
    site.alerts = [alert("PoolFull")]
    assert site.run().returncode == 1
    site.alerts = None
    site.run()
    assert list(folder.iterdir()) == []
    site.alerts = []
    site.run()
    text = (folder / "command.prom").read_text()
    found = re.fullmatch(r"# HELP (\w+) .+\n# TYPE \1 gauge\n\1 (\d+)\n", text)
    assert found
    assert found[1] == "bd_fhir_alert_command_last_success_timestamp_seconds"
    assert abs(int(found[2]) - time.time()) < 60
    assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [("command.prom", 0o644)]
