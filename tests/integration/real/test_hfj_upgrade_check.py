# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hfj_upgrade_check with the lab's real HAPI server on a schema that it has made and hfj_partition has partitioned."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.modules import hfj_partition, hfj_upgrade_check
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import SECRETS, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import HapiTables, fhir, for_hapi, hapi, hapi_image

pytestmark = pytest.mark.engine

Run = Callable[..., dict[str, Any]]
TABLES = ("hfj_spidx_token", "hfj_res_link", "hfj_res_ver")
# As in the pilot's compose file: one database behind a pooler, which the copy does not have, and one beside it.
SERVICE = """
  hapi:
    image: ${HAPI_IMAGE}
    scale: 0
    environment:
      HAPI_DATASOURCE_URL: jdbc:postgresql://pgbouncer:6432/fhirdb?prepareThreshold=0
      HAPI_DATASOURCE_USERNAME: hapi_app
      HAPI_DATASOURCE_PASSWORD: ${FHIR_DB_APP_PASSWORD}
      HAPI_FLYWAY_URL: jdbc:postgresql://postgres:5432/fhirdb
      AUDIT_DATASOURCE_URL: jdbc:postgresql://postgres/auditdb?prepareThreshold=0
      AUDIT_DATASOURCE_USERNAME: audit_writer_login
      AUDIT_DATASOURCE_PASSWORD: ${FHIR_DB_APP_PASSWORD}
      AUDIT_FLYWAY_USERNAME: hapi_app
    mem_limit: 1g
"""
OTHERS = [{"service": "postgres", "database": "auditdb", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}]


class Site(HapiTables):
    """The deployment, and the check on it."""

    def args(self, **more: Any) -> dict[str, Any]:
        login = {"project_dir": str(self.dir), "service": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}
        return {**login, "others": OTHERS, "lock_dir": str(self.dir / "lock"), "start_timeout": 600, "cpu_shares": 1024, **more}

    def left(self) -> list[str]:
        """What of the check is there."""
        names = docker("ps", "-a", "--format", "{{.Names}}").split() + docker("network", "ls", "--format", "{{.Name}}").split()
        return sorted(name for name in names if name.startswith(f"{self.name}-upgrade-check"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("hfj") / "site", "hfjup")
    try:
        made.start(pooler="", max_connections=60, more=SERVICE.replace("${HAPI_IMAGE}", hapi_image("1.0.0")))
        for_hapi(made)
        with hapi(made) as base:
            made.until("HAPI", lambda: fhir(f"{base}/fhir/metadata")[0] == 200, 600)
        yield made
    finally:
        made.remove()


@pytest.fixture
def check(site: Site, run: Run) -> Run:
    """Run the check; the deployment is as it was, nothing is left of the check, and nothing of it tells a secret."""

    def call(fails: bool = False, **more: Any) -> dict[str, Any]:
        before = site.dump()
        found = run(hfj_upgrade_check, **site.args(**more))
        assert not any(secret in json.dumps(found) for secret in SECRETS)
        assert bool(found.get("failed")) == fails, found.get("msg")
        assert not found.get("changed")
        assert site.dump() == before
        assert site.left() == []
        return found

    return call


@pytest.fixture
def partitioned(site: Site, run: Run) -> Site:
    for table in TABLES:
        for step in ("prepare", "swap"):
            args = {name: value for name, value in site.args().items() if name in ("project_dir", "service", "login_password_variable")}
            found = run(hfj_partition, **args, table=table, step=step, **({"first_bound": 500000} if step == "prepare" else {}))
            assert "failed" not in found, found["msg"]
    return site


def ids(found: dict[str, Any], *severities: str) -> list[str]:
    return [item["id"] for item in found["findings"] if item["severity"] in (severities or ("error", "warning", "info"))]


def test_what_can_not_be_tried_is_refused_before_anything_is_started(check: Run) -> None:
    assert "the image none:1 is not on this host" in check(fails=True, image="none:1")["msg"]
    assert "there is no service other; there are hapi, postgres" in check(fails=True, hapi_service="other")["msg"]
    assert "AUDIT_DATASOURCE_URL (auditdb). Name them in others" in check(fails=True, others=[])["msg"]
    # Another database than HAPI uses.
    assert "databases that are not copied: HAPI_DATASOURCE_URL (fhirdb)" in check(fails=True, database="postgres")["msg"]
    assert "FHIR_NONE is not set" in check(fails=True, login_password_variable="FHIR_NONE")["msg"]
    assert "memory is 'much'" in check(fails=True, memory="much")["msg"]


def test_partitioned_tables_are_accepted(partitioned: Site, check: Run) -> None:
    found = check(fail_on=["error", "warning"])
    assert found["partitioned"] == sorted(TABLES)
    assert found["start"]["ready"]
    assert (found["changes"], found["findings"], found["log"]) == ([], [], [])
    # Seen red in the same run.
    assert not found["control"]["ready"]
    assert "missing column [SP_URI]" in found["control"]["reason"]


@pytest.mark.full
def test_a_server_that_ends_and_what_a_killed_run_leaves(partitioned: Site, check: Run) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            with patch_module_args(partitioned.args()):
                hfj_upgrade_check.main()
        finally:
            os._exit(99)
    partitioned.until("HAPI on the copy", lambda: f"{partitioned.name}-upgrade-check-hapi" in partitioned.left(), 120)
    time.sleep(1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(partitioned.left()) == 3
    # An image that is no HAPI: the server of PostgreSQL without a password.
    found = check(image=image("postgres"))
    assert ids(found) == ["upgrade_check_leftover", "start_failed"]
    assert not found["start"]["ready"]
    assert found["control"] == {}
    assert "start_failed" in check(fails=True, image=image("postgres"), fail_on=["error"])["msg"]


@pytest.mark.full
def test_what_a_release_makes_of_the_schema_is_told(partitioned: Site, check: Run, tmp_path: Path) -> None:
    """A migration of the next release: one that goes, and touches a partitioned table, and one that partitioned tables do not take."""
    tag = f"{partitioned.name}-next"
    folder = tmp_path / "db/migration/fhir"
    folder.mkdir(parents=True)
    (tmp_path / "Dockerfile").write_text(f"FROM {hapi_image('1.0.0')}\nCOPY db /app/db\n")
    good = "ALTER TABLE hfj_spidx_token ADD late text; CREATE INDEX idx_late ON hfj_spidx_token (late); CREATE TABLE hfj_new (i int PRIMARY KEY)"
    bad = "CREATE UNIQUE INDEX idx_bad ON hfj_spidx_token (sp_id, hash_value);"
    try:
        (folder / "V8__next.sql").write_text(good)
        docker("build", "-q", "-t", tag, str(tmp_path))
        found = check(image=tag, control=False)
        assert found["start"]["ready"]
        assert ids(found) == ["migrator_changed"]
        assert ids(found, "warning") == ["migrator_changed"]
        assert {(row["change"], row["object"]) for row in found["changes"]} == {
            ("added", "column hfj_spidx_token.late"), ("added", "index hfj_spidx_token.idx_late"), ("added", "table hfj_new"),
            ("added", "column hfj_new.i"), ("added", "index hfj_new.hfj_new_pkey"), ("added", "constraint hfj_new.hfj_new_pkey"),
        }  # fmt: skip
        (folder / "V9__bad.sql").write_text(bad)
        docker("build", "-q", "-t", tag, str(tmp_path))
        found = check(image=tag)
        assert ids(found, "error") == ["migrator_failed"]
        assert "must include all partitioning columns" in found["start"]["reason"]
        # The migration before it was made.
        assert "table hfj_new" in [row["object"] for row in found["changes"]]
    finally:
        docker("rmi", "-f", tag, check=False)


@pytest.mark.full
def test_a_schema_that_is_refused_and_a_validation_that_is_not_there(partitioned: Site, check: Run) -> None:
    # Without the variable the image does not look at the schema at all.
    found = check(environment={"HAPI_HBM2DDL_AUTO": "none"})
    assert (found["start"]["ready"], ids(found, "error")) == (True, ["validation_not_seen"])
    partitioned.script("ALTER TABLE hfj_spidx_token RENAME COLUMN sp_value TO other")
    try:
        found = check(fails=True, fail_on=["error"])
        assert ids(found) == ["schema_refused"]
        assert "missing column [SP_VALUE]" in found["start"]["reason"]
    finally:
        partitioned.script("ALTER TABLE hfj_spidx_token RENAME COLUMN other TO sp_value")
