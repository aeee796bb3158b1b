# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HAPI's own tables with rows in a realistic distribution, and what HAPI does to them: for tests that need no HAPI server."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg2
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import APP_PASSWORD, Databases
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

SCHEMA = Path(__file__).parent / "hapi_7_2_schema.sql"
FILL = Path(__file__).parent / "hapi_fill.sql"
TEMPLATE = "hapi_filled"


# What HAPI 7.2.0 was seen to do for a create, an update and a search, in its order of tables.
CREATE = (
    "INSERT INTO hfj_resource (res_id, fhir_id, has_tags, res_published, res_updated, res_type, res_ver)"
    " VALUES (%(id)s, %(id)s::text, true, now(), now(), 'Observation', 1)",
    "INSERT INTO hfj_res_tag (pid, res_id, res_type, tag_id) VALUES (%(id)s, %(id)s, 'Observation', 1)",
    "INSERT INTO hfj_res_ver (pid, has_tags, res_published, res_updated, res_encoding, res_id, res_text_vc, res_type, res_ver)"
    " VALUES (%(pid)s, true, now(), now(), 'JSON', %(id)s, 'x', 'Observation', 1)",
    "INSERT INTO hfj_res_ver_prov (res_ver_pid, request_id, res_pid) VALUES (%(pid)s, 'r', %(id)s)",
    "INSERT INTO hfj_spidx_token (sp_id, sp_missing, sp_name, res_id, res_type, hash_identity, hash_sys_and_value, sp_value)"
    " VALUES (%(token)s, false, 'code', %(id)s, 'Observation', 1, 42, 'live')",
    "INSERT INTO hfj_spidx_date (sp_id, sp_missing, sp_name, res_id, res_type, hash_identity)"
    " VALUES (%(token)s, false, 'date', %(id)s, 'Observation', 11)",
    "INSERT INTO hfj_res_link (pid, src_path, src_resource_id, source_resource_type, target_resource_id, target_resource_type)"
    " VALUES (%(token)s, 'Observation.subject', %(id)s, 'Observation', 1, 'Patient')",
    "INSERT INTO hfj_history_tag (pid, tag_id, res_ver_pid, res_id, res_type) VALUES (%(pid)s, 1, %(pid)s, %(id)s, 'Observation')",
)
UPDATE = (
    "SELECT * FROM hfj_resource WHERE res_id = %(id)s",
    "SELECT * FROM hfj_res_ver WHERE res_id = %(id)s",
    "SELECT * FROM hfj_spidx_token WHERE res_id = %(id)s",
    "UPDATE hfj_spidx_token SET sp_value = 'again' WHERE res_id = %(id)s",
    "UPDATE hfj_resource SET res_updated = now() WHERE res_id = %(id)s",
    "DELETE FROM hfj_spidx_date WHERE res_id = %(id)s",
)
SEARCH = "SELECT res_id FROM hfj_spidx_token WHERE hash_sys_and_value = 42 LIMIT 20"


class HapiTables(Databases):
    """PostgreSQL with HAPI's tables, which belong to hapi_app as HAPI leaves them."""

    def template(self, count: int, *tables: str) -> None:
        """Make a filled database from which each test gets a copy; the rows come before keys and indexes, as in a restore.

        tables: fill only these.
        """
        self.script(f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE); CREATE DATABASE {TEMPLATE} OWNER hapi_app", "postgres")
        self.script("ALTER SCHEMA public OWNER TO hapi_app", TEMPLATE)
        schema = SCHEMA.read_text()
        keys = re.search(r"^ALTER TABLE ONLY \S+\n +ADD ", schema, re.MULTILINE)
        assert keys
        self.script("SET ROLE hapi_app;" + schema[: keys.start()], TEMPLATE)
        fill = FILL.read_text().split(";\n")
        if tables:
            fill = [item for item in fill if not item.startswith("INSERT") or item.split()[2] in tables]
        self.script("SET ROLE hapi_app;\n\\set count %d\n" % count + ";\n".join(fill), TEMPLATE)
        self.script("SET ROLE hapi_app;" + schema[keys.start() :], TEMPLATE)

    def fresh(self) -> None:
        """Give fhirdb the filled tables anew."""
        make = f"CREATE DATABASE fhirdb TEMPLATE {TEMPLATE} STRATEGY file_copy OWNER hapi_app"
        self.script("DROP DATABASE IF EXISTS fhirdb WITH (FORCE); " + make, "postgres")

    def script(self, text: str, database: str = "fhirdb", check: bool = True) -> str:
        """Run SQL as the superuser on the server's own socket."""
        argv = ("exec", "-i", "-u", "postgres", self.container("postgres"), "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database)
        return docker(*argv, stdin=text, check=check).strip()

    def dump(self) -> str:
        """Everything of the schema that anybody could change, in one text."""
        text = docker("exec", "-u", "postgres", self.container("postgres"), "pg_dump", "--schema-only", "-d", "fhirdb")
        return "\n".join(line for line in text.splitlines() if line and not line.startswith(("--", "\\")))

    @contextmanager
    def load(self, writers: int = 3) -> Iterator[Load]:
        """Let clients create, update and search all the time, as HAPI does."""
        made = Load(self, writers)
        made.start()
        try:
            yield made
        finally:
            made.stop()


Tables = TypeVar("Tables", bound=HapiTables)


@contextmanager
def filled(site: Tables, count: int) -> Iterator[Tables]:
    """Start the server, with a filled database from which each test gets a copy, and take all away at the end."""
    try:
        site.start(pooler="", max_connections=60)
        site.template(count)
        yield site
    finally:
        site.remove()


class Load:
    """Clients that write and read; what failed, and the longest wait, are kept."""

    def __init__(self, site: HapiTables, writers: int) -> None:
        self.site = site
        self.done = 0
        self.failed: list[str] = []
        self.longest = 0.0
        self.ids: list[int] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _number in range(writers)]
        self._address = site.address("postgres")

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + 20
        while self.done < 20 and not self.failed and time.monotonic() < end:
            time.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _work(self) -> None:
        try:
            with psycopg2.connect(host=self._address, user="hapi_app", password=APP_PASSWORD, dbname="fhirdb", application_name="hapi") as connection:
                block: dict[str, int] = {}
                while not self._stop.is_set():
                    begun = time.monotonic()
                    try:
                        block = self._once(connection, block)
                    except psycopg2.Error as exc:
                        connection.rollback()
                        self.failed.append(str(exc))
                    self.longest = max(self.longest, time.monotonic() - begun)
                    self.done += 1
                    time.sleep(0.002)
        except psycopg2.Error as exc:
            self.failed.append(str(exc))

    def _once(self, connection: Any, block: dict[str, int]) -> dict[str, int]:
        """Do one round of requests, and return the ids for the next: HAPI takes 50 with each call of nextval()."""
        cursor = connection.cursor()
        values = {name: value + 1 for name, value in block.items()}
        if not values or values["id"] % 50 == 0:
            cursor.execute("SELECT nextval('seq_resource_id'), nextval('seq_resource_history_id'), nextval('seq_spidx_token')")
            values = dict(zip(("id", "pid", "token"), cursor.fetchone(), strict=True))
        for statement in CREATE:
            cursor.execute(statement, values)
        connection.commit()
        self.ids.append(values["id"])
        for statement in UPDATE:
            cursor.execute(statement, values)
        connection.commit()
        cursor.execute(SEARCH)
        cursor.fetchall()
        connection.commit()
        return values


def hapi_image(kind: str) -> str:
    """Return the newest of the lab's images of the real HAPI server: 1.0.0, 1.1.0, migration or broken."""
    images = [line for line in docker("images", "--format", "{{.Repository}}:{{.Tag}}", "bd-fhir-lab/hapi").split() if f":{kind}-" in line]
    assert images, "the lab's image of HAPI is not on this machine: make lab builds it"
    return images[0]


@contextmanager
def hapi(site: HapiTables, **environment: str) -> Iterator[str]:
    """Run the lab's real HAPI server on the database, and yield its address. The first one makes the tables."""
    url = f"jdbc:postgresql://{site.address('postgres')}:5432"
    values = {
        "HAPI_DATASOURCE_URL": url + "/fhirdb", "HAPI_DATASOURCE_USERNAME": "hapi_app", "HAPI_DATASOURCE_PASSWORD": APP_PASSWORD,
        "AUDIT_DATASOURCE_URL": url + "/auditdb", "AUDIT_DATASOURCE_USERNAME": "audit_writer_login", "AUDIT_DATASOURCE_PASSWORD": APP_PASSWORD,
        "AUDIT_FLYWAY_URL": url + "/auditdb", "AUDIT_FLYWAY_USERNAME": "hapi_app", "AUDIT_FLYWAY_PASSWORD": APP_PASSWORD, **environment,
    }  # fmt: skip
    options = [word for name, value in values.items() for word in ("-e", f"{name}={value}")]
    server = docker("run", "-d", "--network", f"{site.name}_default", *options, hapi_image("1.0.0")).strip()
    try:
        address = docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", server).strip()
        yield f"http://{address}:8080"
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{docker('logs', '--tail', '40', server)}") from exc
    finally:
        docker("rm", "-f", "-v", server)


def for_hapi(site: HapiTables) -> None:
    site.script(
        "ALTER DATABASE fhirdb OWNER TO hapi_app; ALTER SCHEMA public OWNER TO hapi_app; CREATE ROLE audit_maintainer_login LOGIN;"
        f"CREATE ROLE audit_writer_login LOGIN PASSWORD '{APP_PASSWORD}'"
    )
    site.script("CREATE DATABASE auditdb OWNER hapi_app")


def fhir(url: str, method: str = "GET", body: Any = None) -> tuple[int, dict[str, Any]]:
    """Send one request to HAPI; return the status and what came back."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/fhir+json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as exc:
        return exc.code, {"text": exc.read().decode()[:500]}
    except OSError as exc:
        return 0, {"text": str(exc)}
