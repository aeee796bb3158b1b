# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sites that differ from the pilot: each goes from one replica to three with larger pools, and back to its owner's own files.

The rows are a pairwise table: every two values of different columns meet in at least one of them, which a test proves.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pytest
from load import Load
from pilot_host import PROJECT, healthy, ok, on_host, play, until

pytestmark = pytest.mark.lab

VALUES: dict[str, tuple[Any, ...]] = {
    "pooler": ("bitnami", "newer", "default_pool_size", "ini"),
    "hapi": ("free", "container_name", "fixed_port"),
    "pool_mode": ("session", "transaction"),
    "names": ("pilot", "other"),
    "owner_override": (False, True),
}


@dataclass(frozen=True)
class Variant:
    pooler: str
    hapi: str
    pool_mode: str
    names: str
    owner_override: bool

    def __str__(self) -> str:
        return "-".join(str(getattr(self, field.name)) for field in fields(self))

    @property
    def lab(self) -> tuple[str, ...]:
        """What tests/lab/pilot.yml is told."""
        return ("-e", json.dumps({f"lab_{field.name}": getattr(self, field.name) for field in fields(self)}))

    @property
    def directory(self) -> str:
        return PROJECT if self.names == "pilot" else "/srv/national fhir"

    @property
    def name(self) -> dict[str, str]:
        """What the owner calls things."""
        if self.names == "pilot":
            return {"project": "bd-fhir-national", "prefix": "bd", "hapi": "hapi", "nginx": "nginx", "pooler": "pgbouncer-fhir", "database": "fhirdb"}
        return {"project": "moh_fhir", "prefix": "moh", "hapi": "fhir-server", "nginx": "gateway", "pooler": "clinical-pool", "database": "clinical"}

    @property
    def site(self) -> tuple[str, ...]:
        """What an operator writes into the inventory for this site."""
        facts: dict[str, Any] = {"bd_fhir_project_dir": self.directory, "bd_fhir_entry_ca_path": f"{self.directory}/tls/ca.crt"}
        if self.names != "pilot":
            facts |= {
                "bd_fhir_hapi_service": "fhir-server", "bd_fhir_nginx_service": "gateway",
                "bd_fhir_sides": [
                    {"name": "fhir", "database_service": "clinical-db", "pooler_service": "clinical-pool", "database": "clinical",
                     "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD", "admin_user": "hapi_app",
                     "admin_password_variable": "FHIR_DB_APP_PASSWORD", "hikari_pool": "fhir"},
                    {"name": "audit", "database_service": "trail-db", "pooler_service": "trail-pool", "database": "Trail-2",
                     "login_password_variable": "AUDIT_DB_SUPERUSER_PASSWORD", "admin_user": "audit_writer_login",
                     "admin_password_variable": "AUDIT_DB_WRITER_PASSWORD", "hikari_pool": "audit"},
                ],
            }
        if self.hapi == "container_name":
            facts["hapi_reset_container_name"] = True
        if self.hapi == "fixed_port":
            facts["hapi_reset_ports"] = True
        return ("-e", json.dumps(facts))

    # -- what stands, by other means than ours

    def containers(self, service: str, *more: str) -> list[str]:
        return on_host("docker", "ps", "-q", "--no-trunc", "--filter", f"label=com.docker.compose.project={self.name['project']}",
                       "--filter", f"label=com.docker.compose.service={service}", *more).split()

    def healthy(self, count: int) -> bool:
        found = self.containers(self.name["hapi"])
        return len(found) == count == len(self.containers(self.name["hapi"], "--filter", "health=healthy"))

    def pool_size(self) -> str:
        """The pooler's own word, asked with a client inside its container."""
        rows = on_host("bash", "-c", f"""
cd '{self.directory}' && password=$(docker compose --env-file .env config --format json | python3 -c '
import json, sys
environment = json.load(sys.stdin)["services"][sys.argv[1]]["environment"]
print(environment["HAPI_DATASOURCE_PASSWORD"].replace("$$", "$"))' {self.name['hapi']})
docker exec -e PGPASSWORD="$password" {self.containers(self.name['pooler'])[0]} \\
  psql -h 127.0.0.1 -p {5432 if self.pooler == "default_pool_size" else 6432} -U hapi_app -d pgbouncer -tA -c 'SHOW DATABASES'
""")
        return next(line.split("|")[5] for line in rows.splitlines() if line.startswith(self.name["database"] + "|"))

    def files(self) -> dict[str, str]:
        """The owner's files; the rollback has to leave them as they were, and nothing of ours beside them."""
        text = on_host("bash", "-c", f"cd '{self.directory}' && find . -type f -not -name '*.bak' -exec sha256sum {{}} +"
                                     " && stat -c '%a:%U mode-of-%n' .env")
        return {name: value for value, name in (line.split(maxsplit=1) for line in text.splitlines())}

    def up(self) -> str:
        return on_host("bash", "-c", f"cd '{self.directory}' && docker compose --env-file .env --progress plain up -d 2>&1")


TABLE = [
    Variant("newer", "free", "transaction", "other", True),
    Variant("default_pool_size", "container_name", "session", "other", False),
    Variant("ini", "fixed_port", "transaction", "pilot", False),
    Variant("bitnami", "free", "session", "pilot", True),
    Variant("bitnami", "container_name", "transaction", "other", False),
    Variant("bitnami", "fixed_port", "session", "other", True),
    Variant("newer", "container_name", "session", "pilot", True),
    Variant("newer", "fixed_port", "transaction", "pilot", False),
    Variant("default_pool_size", "free", "transaction", "pilot", True),
    Variant("default_pool_size", "fixed_port", "session", "pilot", True),
    Variant("ini", "free", "session", "other", False),
    Variant("ini", "container_name", "session", "pilot", True),
]


def test_every_two_values_meet_in_a_row() -> None:
    wanted = {
        ((one, first), (other, second))
        for one, other in itertools.combinations(VALUES, 2)
        for first, second in itertools.product(VALUES[one], VALUES[other])
    }
    met = {((one, getattr(row, one)), (other, getattr(row, other))) for row in TABLE for one, other in itertools.combinations(VALUES, 2)}
    assert wanted - met == set()
    assert len(set(TABLE)) == len(TABLE)


def take_away(directory: str) -> None:
    """The whole deployment with its data, as if it had never been."""
    on_host("bash", "-c", f"[ ! -d '{directory}' ] || {{ cd '{directory}' && docker compose --env-file .env down -v --remove-orphans -t 5; cd /;"
                          f" rm -rf '{directory}'; }}")


@pytest.fixture(scope="module")
def pilot_again() -> Iterator[None]:
    """The pilot has to make room: its ports are the others' ports."""
    yield
    ok("tests/lab/pilot.yml")
    until("one healthy replica", 180, lambda: healthy(1))


@pytest.fixture(params=TABLE, ids=str)
def variant(request: pytest.FixtureRequest, pilot_again: None) -> Iterator[Variant]:
    row: Variant = request.param
    take_away(PROJECT)
    take_away(row.directory)
    try:
        ok("tests/lab/pilot.yml", *row.lab, "-e", json.dumps({"bd_fhir_project_dir": row.directory}))
        until("one healthy replica", 180, lambda: row.healthy(1))
        yield row
    finally:
        take_away(row.directory)


# A row takes about five minutes.
@pytest.mark.full
def test_from_the_pilot_to_three_and_back(variant: Variant) -> None:
    before = variant.files()
    with Load(database=(f"{variant.name['prefix']}-postgres-fhir", variant.name["database"])) as load:
        ok("scale_regional", *variant.site)
    assert load.ledger.failures == []
    assert load.lost() == []
    assert variant.healthy(3)
    assert ok("scale_regional", *variant.site).changed == 0
    more = (*variant.site, "-e", json.dumps({"hapi_replicas": 5, "pgbouncer_allow_window": True, "postgres_backup_required": False}))
    ok("tune_pools", *more)
    assert variant.pool_size() == "30"
    assert ok("tune_pools", *more).changed == 0
    standing = variant.containers(variant.name["hapi"]) + variant.containers(variant.name["pooler"])
    assert "Recreate" not in variant.up()
    assert variant.containers(variant.name["hapi"]) + variant.containers(variant.name["pooler"]) == standing
    ok("rollback_tune_pools", *variant.site, "-e", "pgbouncer_allow_window=true")
    assert variant.pool_size() == "20"
    if variant.hapi != "free":
        refused = play("rollback_scale_regional", *variant.site)
        assert refused.rc != 0
        assert "hapi_allow_interruption" in refused.out
    ok("rollback_scale_regional", *variant.site, "-e", "hapi_allow_interruption=true")
    assert variant.healthy(1)
    assert variant.files() == before
