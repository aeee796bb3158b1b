# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The job that runs commands on alerts, as a process, against a server that answers as Alertmanager does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
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
        self.fails = path / "fails"
        self.told_file = path / "told.jsonl"
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(site.alerts or []).encode()
                self.send_response(200 if site.alerts is not None else 503)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        command = ["/bin/sh", "-c", f"test ! -e {self.fails} && cat >> {self.told_file} && echo >> {self.told_file}"]
        config = {"url": f"http://127.0.0.1:{self.server.server_port}", "receivers": [{"name": "script", "command": command, **receiver}]}
        (path / "config.json").write_text(json.dumps(config))

    def run(self) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(SCRIPT), "--config", str(self.path / "config.json"), "--state", str(self.path / "state.json")]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def told(self) -> list[dict[str, list[str]]]:
        """What the command was told, by the names of alerts, oldest first."""
        lines = self.told_file.read_text().splitlines() if self.told_file.exists() else []
        return [{key: [item["labels"]["alertname"] for item in value] for key, value in json.loads(line).items()} for line in lines]


def alert(name: str, severity: str = "warning") -> dict[str, Any]:
    labels = {"alertname": name, "severity": severity}
    return {"fingerprint": name, "labels": labels, "annotations": {"summary": name}, "startsAt": "2026-11-26T00:00:00Z"}


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
    for _again in range(2):
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
