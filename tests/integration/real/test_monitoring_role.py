# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook monitor on a small project with a real PostgreSQL and pgBouncer, and replicas that only tell metrics; the lab has the rest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import ENV, Databases, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker, free_port

pytestmark = [pytest.mark.engine, pytest.mark.full]

# Case 17: characters that break a DSN.
WORD = "p#=@{x"


class Site(Databases):
    """The project, and the verbs on it as an operator calls them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "mon")
        self.ports = {"monitoring_prometheus_port": free_port(), "monitoring_alertmanager_port": free_port()}

    def play(self, verb: str, *more: str, **values: Any) -> str:
        side = {
            "name": "fhir", "database_service": "postgres", "pooler_service": "pgbouncer", "database": "fhirdb", "hikari_pool": "fhir",
            "login_user": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
            "admin_user": "stats", "admin_password_variable": "STATS_PASSWORD",
        }  # fmt: skip
        images = {f"monitoring_{name}_image": image(name.replace("_", "-")) for name in
                  ("prometheus", "alertmanager", "postgres_exporter", "pgbouncer_exporter", "node_exporter")}
        values = {
            "bd_fhir_project_dir": str(self.dir), "bd_fhir_hosts": "localhost", "bd_fhir_sides": [side], **images, **self.ports,
            "monitoring_textfile_dir": str(self.dir / "textfile"), **values,
        }  # fmt: skip
        (self.dir.parent / "values.json").write_text(json.dumps(values))
        argv = ["ansible-playbook", "-i", "localhost,", "-c", "local", f"dghs.bd_fhir.{verb}", "-e", f"@{self.dir.parent}/values.json", *more]
        environment = {**os.environ, "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout

    def query(self, expression: str) -> dict[str, str]:
        """What Prometheus answers: the instance or job of each result, and its value."""
        address = f"http://127.0.0.1:{self.ports['monitoring_prometheus_port']}/api/v1/query?query={urllib.parse.quote(expression)}"
        with urllib.request.urlopen(address, timeout=20) as answer:  # noqa: S310 - a local address
            found = json.load(answer)["data"]["result"]
        return {item["metric"].get("job", "") + " " + item["metric"].get("instance", ""): item["value"][1] for item in found}


def changed(output: str) -> int:
    found = re.search(r"^localhost +: .*changed=(\d+)", output, re.MULTILINE)
    assert found
    return int(found[1])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    try:
        site.start(replicas=2)
        site.write(".env", ENV + f"FHIR_DB_MONITOR_PASSWORD={WORD!r}\n")
        yield site
    finally:
        site.remove()


def test_case_17_made_repeated_and_taken_back(site: Site) -> None:
    before = {"env": (site.dir / ".env").read_text(), "hba": site.sql("SELECT count(*) FROM pg_hba_file_rules"), "ids": site.ids()}
    dry = site.play("monitor", "--check", "--diff")
    assert "nothing was changed" in dry
    assert "; a real run would be refused" not in dry
    assert (site.ids(), (site.dir / ".env").read_text()) == (before["ids"], before["env"])
    site.play("monitor")
    # Nothing of the owner's was touched.
    assert set(before["ids"]) <= set(site.ids())
    assert sorted(site.query("up == 1")) == sorted([
        *(f"hapi {address}:8080" for address in addresses(site, "hapi")),
        "alertmanager alertmanager", "node localhost", "pgbouncer fhir", "postgres fhir", "prometheus prometheus",
    ])  # fmt: skip
    assert site.query("pg_up") == {"postgres fhir": "1"}
    assert site.query("pgbouncer_up") == {"pgbouncer fhir": "1"}
    ours = [item for item in site.ids() if item not in before["ids"]]
    told = docker("inspect", *ours) + "".join(docker("top", item, "-eo", "pid,args") for item in ours)
    assert not any(secret in told for secret in (WORD, "S3cret"))
    # The site's own password stays the site's.
    assert "FHIR_DB_MONITOR_PASSWORD" in (site.dir / ".env").read_text()
    assert changed(site.play("monitor", "--check")) == 0
    assert changed(site.play("monitor")) == 0
    # A threshold changes a rule, which is read without a restart.
    started = docker("inspect", *ours, "--format", "{{.State.StartedAt}}")
    assert changed(site.play("monitor", monitoring_scrape_seconds=10)) > 0
    assert docker("inspect", *ours, "--format", "{{.State.StartedAt}}") == started
    site.play("rollback_monitor", monitoring_remove_data=True)
    assert site.ids() == before["ids"]
    assert (site.dir / ".env").read_text() == before["env"]
    assert site.sql("SELECT count(*) FROM pg_hba_file_rules") == before["hba"]
    assert site.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'bd_fhir_monitor'") == "0"
    assert [path.name for path in site.dir.iterdir() if "monitor" in path.name or path.name in ("compose.d", "textfile")] == []
    for kind in ("volume", "network"):
        assert docker(kind, "ls", "-q", "--filter", f"name={site.name}_monitoring") == ""
    assert changed(site.play("rollback_monitor")) == 0


def addresses(site: Site, service: str) -> list[str]:
    found = []
    for item in site.ids(service):
        networks = json.loads(docker("inspect", item))[0]["NetworkSettings"]["Networks"]
        found.append(str(networks[f"{site.name}_default"]["IPAddress"]))
    return found
