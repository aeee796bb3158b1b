# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HAPI's tables with the modules that partition them, for the tests of those modules."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _postgres
from ansible_collections.dghs.bd_fhir.plugins.modules import hfj_partition
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import SECRETS
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import CREATE, HapiTables, fhir

Run = Callable[..., dict[str, Any]]
TOKEN = "hfj_spidx_token"
VERSIONS = "hfj_res_ver"
KNOWN = ("plain", "preparing", "prepared", "swapped", "unfinished")


def full(*values: Any) -> Any:
    """One of the variants that only make test-all runs."""
    return pytest.param(*values, marks=pytest.mark.full)


class Site(HapiTables):
    """The server with what its tests and modules take."""

    def args(self, **more: Any) -> dict[str, Any]:
        return {"project_dir": str(self.dir), "service": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD", **more}

    def resource(self, *ids: int) -> None:
        """Create resources as HAPI does, each in one transaction."""
        connection = self.connection("postgres", "hapi_app")
        try:
            connection.autocommit = False
            for id in ids:
                for statement in CREATE:
                    connection.cursor().execute(statement, {"id": id, "pid": id + 10**7, "token": id + 10**7})
                connection.commit()
        finally:
            connection.close()

    def checksum(self, table: str) -> str:
        return self.script(f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t")

    def lands_in(self, table: str, key: str, id: int) -> str:
        return self.script(f"SELECT DISTINCT tableoid::regclass FROM {table} WHERE {key} = {id}")

    def sequence(self) -> int:
        return int(self.script("SELECT last_value FROM seq_resource_id"))

    def sequence_at(self, id: int) -> None:
        self.script(f"SELECT setval('seq_resource_id', {id})")


def steps(site: Site, run: Run, table: str, **given: Any) -> Run:
    """Return what does one step with a table; its result must hold no secret, and be no failure unless that is expected."""

    def call(step: str, table: str = table, check: bool = False, fails: bool = False, **more: Any) -> dict[str, Any]:
        found = run(hfj_partition, check, **site.args(table=table, step=step, **{**given, **more}))
        assert not any(secret in json.dumps(found) for secret in SECRETS)
        assert bool(found.get("failed")) == fails, (found.get("msg"), found)
        return found

    return call


def actions(found: dict[str, Any]) -> list[str]:
    return [step["action"] for step in found["plan"]]


def ids(found: dict[str, Any], *severities: str) -> list[str]:
    return [item["id"] for item in found["findings"] if item["severity"] in (severities or ("error", "warning"))]


def killed_at(site: Site, number: int, **args: Any) -> bool:
    """Run the module in a process that is killed before its number-th statement that changes something; return whether it was."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            real = _postgres.Session._run
            count = [0]

            def run(self: Any, query: Any, params: Any) -> Any:
                text = query if isinstance(query, str) else query.as_string(self._connection)
                if not text.lstrip().upper().startswith(("SELECT", "SET", "EXPLAIN")):
                    count[0] += 1
                    if count[0] == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                return real(self, query, params)

            _postgres.Session._run = run  # type: ignore[method-assign]
            with patch_module_args(site.args(**args)):
                hfj_partition.main()
        except SystemExit as exc:
            os._exit(int(exc.code or 0))
        finally:
            os._exit(99)
    dummy, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def patient(number: int) -> dict[str, Any]:
    return {
        "resourceType": "Patient", "meta": {"tag": [{"system": "http://example.org/tags", "code": "a"}]}, "birthDate": "1990-01-01",
        "identifier": [{"system": "http://example.org/id", "value": str(number)}], "name": [{"family": f"Name{number}"}],
    }  # fmt: skip


def functional(base: str) -> None:
    """What HAPI does with resources, each seen to work."""
    number = time.time_ns()
    status, made = fhir(f"{base}/fhir/Patient", "POST", patient(number))
    assert status == 201, made
    id = made["id"]
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": f"Patient/{id}"}}
    status, seen = fhir(f"{base}/fhir/Observation", "POST", body)
    assert status == 201, seen
    assert fhir(f"{base}/fhir/Patient/{id}")[0] == 200
    assert fhir(f"{base}/fhir/Patient/{id}", "PUT", {**patient(number + 1), "id": id})[0] == 200
    assert fhir(f"{base}/fhir/Patient/{id}/_history/1")[0] == 200
    assert fhir(f"{base}/fhir/Patient/{id}/_history")[1]["total"] == 2
    for search in (
        f"Patient?identifier=http://example.org/id%7C{number + 1}", f"Patient?family=Name{number + 1}", f"Observation?subject=Patient/{id}",
        f"Observation?subject:Patient.family=Name{number + 1}&_include=Observation:subject", f"Patient?_tag=http://example.org/tags%7Ca&_id={id}",
    ):  # fmt: skip
        status, found = fhir(f"{base}/fhir/{search}")
        assert status == 200, found
        assert len(found["entry"]) == (2 if "_include" in search else 1), search
    assert len(fhir(f"{base}/fhir/Patient/{id}/$everything")[1]["entry"]) == 2
    # Something refers to it.
    assert fhir(f"{base}/fhir/Patient/{id}", "DELETE")[0] == 409
    assert fhir(f"{base}/fhir/Observation/{seen['id']}", "DELETE")[0] == 200
    assert fhir(f"{base}/fhir/Patient/{id}", "DELETE")[0] == 200
    assert fhir(f"{base}/fhir/Patient/{id}")[0] == 410
