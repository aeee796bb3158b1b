# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verb assess on this machine's engine: what it tells of the phase, what it keeps, what it writes, and that it changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import APP_PASSWORD, SECRETS, Databases, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker
from ansible_collections.dghs.bd_fhir.tests.integration.real.test_phase_info import AUDIT, EVENTS, HAPI, ROLE, ROWS

pytestmark = [pytest.mark.engine, pytest.mark.full]

# Beside the interpreter: PATH may have another one.
PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))
AUDIT_SERVICE = """
  postgres-audit:
    image: %s
    command: ["postgres", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
    environment:
      POSTGRES_DB: auditdb
      POSTGRES_PASSWORD: ${FHIR_DB_SUPERUSER_PASSWORD}
      POSTGRES_INITDB_ARGS: --no-sync
"""
LOGIN = {"login_user": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD", "pooler_service": ""}
SIDES = [
    {"name": "fhir", "database_service": "postgres", "database": "fhirdb", **LOGIN},
    {"name": "audit", "database_service": "postgres-audit", "database": "auditdb", **LOGIN},
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Two databases and one replica that tells its pools."""
    item = Databases(tmp_path_factory.mktemp("assess") / "site", "assess")
    try:
        item.start(pooler="", replicas=1, more=AUDIT_SERVICE % image("postgres"))
        item.metrics({"fhir": 5, "audit": 3})
        sql(item, "postgres", "fhirdb", HAPI + ROWS)
        item.until("the audit database", lambda: "1" in sql(item, "postgres-audit", "auditdb", "SELECT 1", check=False))
        sql(item, "postgres-audit", "auditdb", AUDIT.read_text() + EVENTS)
        yield item
    finally:
        item.remove()


def sql(site: Databases, service: str, database: str, text: str, check: bool = True) -> str:
    argv = [
        "docker",
        "exec",
        "-i",
        site.container(service),
        "psql",
        "-XAtq",
        "-v",
        "ON_ERROR_STOP=1",
        "-U",
        "postgres",
        "-h",
        "127.0.0.1",
        "-d",
        database,
    ]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


class Runs:
    """Runs of the verb on one site, with one place for its samples and one for its reports."""

    def __init__(self, site: Databases, path: Path) -> None:
        self.site, self.path = site, path
        self.reports = path / "reports"
        self.samples = path / "state" / site.name / "samples.jsonl"
        interpreter = "{{ ansible_playbook_python }}"
        hosts = {"fhir_hosts": {"hosts": {"site": {"ansible_connection": "local", "ansible_python_interpreter": interpreter}}}}
        (path / "hosts.yml").write_text(json.dumps(hosts))

    def __call__(self, *args: str, rc: int = 0, through: tuple[str, ...] = (), **more: Any) -> str:
        """Run it; its output, which tells no secret and, without an error, no change."""
        values = {
            "bd_fhir_project_dir": str(self.site.dir), "bd_fhir_sides": SIDES, "bd_fhir_samples_dir": str(self.path / "state"),
            "bd_fhir_report_dir": str(self.reports), "hapi_replicas": 1, **more,
        }  # fmt: skip
        (self.path / "values.json").write_text(json.dumps(values))
        argv = [*through, PLAYBOOK, "-i", str(self.path / "hosts.yml"), "dghs.bd_fhir.assess", "-e", f"@{self.path}/values.json", *args]
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(argv, cwd=self.path, env=environment, capture_output=True, text=True, check=False)
        out = done.stdout + done.stderr
        assert not any(secret in out for secret in SECRETS)
        assert done.returncode == rc, out
        assert rc or "changed=0" in out, out
        return out

    def told(self) -> dict[str, Any]:
        """What the JSON report says."""
        text = (self.reports / "site.json").read_text()
        assert not any(secret in text for secret in SECRETS)
        found: dict[str, Any] = json.loads(text)
        return found


@pytest.fixture
def assess(site: Databases, tmp_path: Path) -> Runs:
    return Runs(site, tmp_path)


def test_what_a_run_tells_keeps_and_writes(assess: Runs) -> None:
    """In check mode nothing is kept or written; then a sample and four reports; then a second sample."""
    assert "not kept in check mode" in assess("--check")
    assert not assess.samples.exists()
    assert not assess.reports.exists()
    out = assess()
    told = assess.told()
    assert (told["phase"], told["partial"], told["unread"], told["host"]) == ("pilot", False, [], "site")
    assert told["metrics"]["resources_per_day"]["value"] == pytest.approx(1000, rel=0.02)
    assert told["metrics"]["vendors"]["value"] == 3
    assert {item["client"] for item in told["partitions"]["rejections"]} == {"vendor-a", "vendor-b", "vendor-c", "unknown"}
    assert [item["service"] for item in told["connections"]] == ["postgres", "postgres-audit"]
    assert "sample: kept" in out
    assert {path.suffix for path in assess.reports.iterdir()} == {".html", ".json", ".md", ".prom"}
    assert "vendor-a" in (assess.reports / "site.html").read_text()
    assess()
    first, second = (json.loads(line) for line in assess.samples.read_text().splitlines())
    assert first["database"] == second["database"]
    assert len(assess.told()["history"]["samples"]) == 1


def test_a_file_of_samples_that_was_cut(assess: Runs) -> None:
    assess.samples.parent.mkdir(parents=True)
    assess.samples.write_text('{"format": 1, "at": "2026-11-01T00:00')
    assert "samples_damaged" in assess()
    lines = assess.samples.read_text().splitlines()
    assert (len(lines), json.loads(lines[1])["format"]) == (2, 1)


def test_samples_that_can_not_be_read_or_kept(assess: Runs) -> None:
    """It ends well all the same, and says that the sample was not kept and that earlier ones were not read, not that there are too few."""
    assert "earlier_samples: 0 of this database" in assess()
    assert assess.samples.parent.stat().st_mode & 0o777 == 0o700
    assess.samples.unlink()
    assess.samples.mkdir()
    assess.samples.parent.chmod(0o751)
    out = " ".join(assess().split())
    assert "earlier_samples: 'not read: Source is a directory" in out
    assert "sample: 'not kept: tee: " in out
    told = assess.told()
    assert [item["what"] for item in told["unread"]] == ["the samples of earlier runs"]
    assert "not enough history" not in json.dumps(told["metrics"])
    # A place that is there stays as it is.
    assert assess.samples.parent.stat().st_mode & 0o777 == 0o751


# Whom a directory of somebody else's keeps out, as root's does a user of the group docker.
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")


def test_a_user_without_root(assess: Runs) -> None:
    assess()
    before = assess.samples.read_text()
    state = assess.path / "state"
    state.chmod(0o700)
    os.chown(state, 65534, 65534)
    out = " ".join(assess(through=UNPRIVILEGED).split())
    assert "earlier_samples: 'not read: File is not readable" in out
    assert "sample: 'not kept: tee: " in out
    told = assess.told()
    assert ([item["what"] for item in told["unread"]], told["phase"]) == (["the samples of earlier runs"], "pilot")
    assert assess.samples.read_text() == before


def test_a_database_that_is_down_and_one_that_nobody_may_read(assess: Runs) -> None:
    docker("stop", "-t", "0", assess.site.container("postgres-audit"))
    try:
        out = assess()
        told = assess.told()
        assert (told["partial"], told["at_least"], told["metrics"]["resources"]["value"] > 50_000) == (True, True, True)
        assert {item["what"] for item in told["unread"]} == {"vendors", "connections", "the audit partitions"}
        assert "figure_unread" in out
    finally:
        docker("start", assess.site.container("postgres-audit"))
        assess.site.until("the audit database", lambda: "1" in sql(assess.site, "postgres-audit", "auditdb", "SELECT 1", check=False))


def test_the_exit_code_and_limits_of_the_sites_own(assess: Runs) -> None:
    limits = {"resources": {"pilot_below": 50_000, "regional_below": 90_000, "national_above": 90_000}}
    assess(bd_fhir_thresholds=limits)
    told = assess.told()
    assert (told["phase"], told["decided_by"], told["exit_code"], told["due"][0]["playbook"]) == ("regional", "resources", 1, "scale_regional")
    assert "phase_behind" in assess(rc=2, bd_fhir_thresholds=limits, bd_fhir_fail_on=["warning"])
    out = assess(rc=2, bd_fhir_thresholds={"vendors": {"pilot_below": 501}})
    assert "vendors is out of order" in out


def test_the_role_that_only_reads_is_enough(assess: Runs) -> None:
    """As docs/assess.md says: nothing is missing, and no superuser's password is used."""
    for service, database in (("postgres", "fhirdb"), ("postgres-audit", "auditdb")):
        argv = ["docker", "exec", "-i", "-e", f"ASSESS_PASSWORD={APP_PASSWORD}", assess.site.container(service), "psql", "-XAtq", "-U", "postgres"]
        subprocess.run([*argv, "-h", "127.0.0.1", "-d", database], input=ROLE.read_text(), capture_output=True, text=True, check=True)
    assess(bd_fhir_sides=[{**side, "login_user": "assess", "login_password_variable": "FHIR_DB_APP_PASSWORD"} for side in SIDES])
    told = assess.told()
    assert (told["unread"], told["partial"], told["metrics"]["vendors"]["value"]) == ([], False, 3)
    assert told["plans"]["why"] == "pg_stat_statements is not in this database"


DHAKA = """
CREATE SCHEMA reporting;
CREATE TABLE reporting.deliveries (event_time timestamptz NOT NULL, client_id text, outcome text NOT NULL) PARTITION BY RANGE (event_time);
DO $$ DECLARE first timestamp := date_trunc('month', now() AT TIME ZONE 'Asia/Dhaka') - interval '1 month'; BEGIN
  FOR i IN 0..5 LOOP
    EXECUTE format('CREATE TABLE reporting.%I PARTITION OF reporting.deliveries FOR VALUES FROM (%L) TO (%L)',
      'deliveries_' || to_char(first + i * interval '1 month', 'YYYY_MM'), (first + i * interval '1 month') AT TIME ZONE 'Asia/Dhaka',
      (first + (i + 1) * interval '1 month') AT TIME ZONE 'Asia/Dhaka');
  END LOOP;
END $$;
INSERT INTO reporting.deliveries SELECT now() - i * interval '1 minute', 'vendor-d', CASE WHEN i < 3 THEN 'REJECTED' ELSE 'ACCEPTED' END
  FROM generate_series(1, 10) i;
"""


def test_it_judges_the_tables_that_the_site_keeps(assess: Runs) -> None:
    """Another schema, another table and months of Dhaka, as maintain_audit_partitions is told of them; and the site's own thresholds."""
    kept = {
        "audit_partitions_schema": "reporting", "audit_partitions_tables": ["deliveries"], "audit_partitions_time_zone": "Asia/Dhaka",
        "audit_partitions_months_ahead": 4, "audit_partitions_maintenance_function": "",
    }  # fmt: skip
    sql(assess.site, "postgres-audit", "auditdb", DHAKA)
    try:
        out = assess(**kept)
        told = assess.told()
        assert "zone_disagrees" not in out
        assert "coverage_gap" not in out
        assert (told["unread"], told["metrics"]["vendors"]["value"], told["partitions"]["errors"]) == ([], 1, [])
        assert [(item["client"], item["events"], item["enough"]) for item in told["partitions"]["rejections"]] == [("vendor-d", 10, False)]
        assert "rejection_rate_high" not in out
        assert "rejection_rate_high" in assess(**kept, monitoring_thresholds={"rejection_minimum": 5})
        assert "rejection_rate_high" not in assess(**kept, monitoring_thresholds={"rejection_minimum": 5, "rejection_percent": 40})
        # What is not counted is not known, and not none.
        assess(**kept, bd_fhir_rejection_days=0)
        assert assess.told()["partitions"]["rejections"] is None
        # Seen to go red: the zone that is not theirs, and an alarm that is the site's.
        assert "zone_disagrees" in assess(**{**kept, "audit_partitions_time_zone": "UTC"})
        assert "horizon_short" in assess(**kept, audit_partitions_alarm_days=400)
    finally:
        sql(assess.site, "postgres-audit", "auditdb", "DROP SCHEMA reporting CASCADE")


def test_a_bare_host(assess: Runs, tmp_path: Path) -> None:
    """Nothing is there: nothing is told of a phase, nothing is kept, and the run ends well."""
    assert "phase: not told" in assess(bd_fhir_project_dir=str(tmp_path / "nothing"))
    assert not assess.samples.exists()
    assert not assess.reports.exists()
