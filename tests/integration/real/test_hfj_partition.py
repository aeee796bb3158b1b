# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hfj_partition_info and hfj_partition on HAPI's own tables of 7.2 in a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.modules import hfj_partition, hfj_partition_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import SECRETS
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import HapiTables

pytestmark = pytest.mark.engine

Run = Callable[..., dict[str, Any]]
TOKEN = "hfj_spidx_token"
COUNT = 6000


class Site(HapiTables):
    """The server, and the two modules on it."""

    def args(self, **more: Any) -> dict[str, Any]:
        found = {"project_dir": str(self.dir), "service": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD", "min_size": "1MB"}
        if "step" in more:
            del found["min_size"]
        return {**found, **more}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("hfj") / "site", "hfj")
    try:
        site.start(pooler="", max_connections=60)
        site.template(COUNT)
        yield site
    finally:
        site.remove()


@pytest.fixture
def site(made: Site) -> Site:
    made.fresh()
    return made


@pytest.fixture
def do(site: Site, run: Run) -> Run:
    """Do one step with a table; the result must hold no secret, and be no failure unless that is expected."""

    def call(step: str, table: str = TOKEN, check: bool = False, fails: bool = False, **more: Any) -> dict[str, Any]:
        found = run(hfj_partition, check, **site.args(table=table, step=step, **more))
        assert not any(secret in json.dumps(found) for secret in SECRETS)
        assert bool(found.get("failed")) == fails, found.get("msg", found)
        return found

    return call


def test_info_first(site: Site, run: Run) -> None:
    found = run(hfj_partition_info, **site.args())
    print(json.dumps(found, indent=1)[:6000])
    assert found["rc"] == 0


def test_way(site: Site, do: Run) -> None:
    for step in ("prepare", "swap", "verify", "extend", "undo"):
        found = do(step, check=True) if step in ("prepare", "swap") else {}
        found = do(step)
        print(step, json.dumps({k: v for k, v in found.items() if k not in ("invocation", "diff")}, indent=None))
        again = do(step)
        assert not again["changed"]
