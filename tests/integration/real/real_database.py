# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A compose project with a real PostgreSQL, a real pgBouncer, and if wanted a standby and replicas that tell Hikari's sizes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker

IMAGES = Path(__file__).parents[2] / "lab/images"

SUPERUSER_PASSWORD = "super-S3cret-word"
APP_PASSWORD = "app-S3cret-word"
STATS_PASSWORD = "stats-S3cret-word"
# What must not be seen anywhere in what a module returns.
SECRETS = (SUPERUSER_PASSWORD, APP_PASSWORD, STATS_PASSWORD)

ENV = f"""FHIR_DB_SUPERUSER_PASSWORD={SUPERUSER_PASSWORD}
FHIR_DB_APP_PASSWORD={APP_PASSWORD}
STATS_PASSWORD={STATS_PASSWORD}
EMPTY_PASSWORD=
WRONG_PASSWORD=not-the-password
"""
INIT = """#!/usr/bin/env bash
set -euo pipefail
echo 'host replication all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
echo "max_connections = $MAX_CONNECTIONS" >> "$PGDATA/postgresql.conf"
psql -v ON_ERROR_STOP=1 --no-psqlrc -U postgres -d "$POSTGRES_DB" -v app="$APP_PASSWORD" <<'SQL'
CREATE ROLE hapi_app LOGIN PASSWORD :'app';
CREATE ROLE reporter LOGIN PASSWORD :'app';
SQL
"""
POSTGRES = """
  postgres:
    image: %(postgres)s
    command: ["postgres", "-c", "fsync=off", "-c", "shared_buffers=16MB"%(postgres_args)s]
    environment:
      POSTGRES_DB: fhirdb
      POSTGRES_PASSWORD: ${FHIR_DB_SUPERUSER_PASSWORD}
      POSTGRES_INITDB_ARGS: --no-sync
      APP_PASSWORD: ${FHIR_DB_APP_PASSWORD}
      MAX_CONNECTIONS: %(max_connections)d
    volumes:
      - data:/var/lib/postgresql/data
      - ./init.sh:/docker-entrypoint-initdb.d/init.sh:ro
"""
PGBOUNCER = """
  pgbouncer:
    image: %(pgbouncer)s
    entrypoint: ["pgbouncer", "/site/pgbouncer.ini"]
    stop_signal: SIGTERM
    volumes: ["./pooler:/site:ro"]
"""
# The user of the image's server, by its numbers as postgres_replica writes it; a directory of its own, because pg_basebackup wants an empty one.
STANDBY = """
  standby:
    image: %(postgres)s
    user: "999:999"
    environment:
      PGDATA: /var/lib/postgresql/data/standby
      PGPASSWORD: ${FHIR_DB_SUPERUSER_PASSWORD}
    command:
      - bash
      - -c
      - >-
        [ -s $$PGDATA/PG_VERSION ] || until pg_basebackup -h postgres -U postgres -D $$PGDATA -R -c fast; do rm -rf $$PGDATA; sleep 0.2; done;
        exec postgres -c fsync=off -c shared_buffers=16MB -c wal_retrieve_retry_interval=200ms
"""
HAPI = """
  hapi:
    image: %(nginx)s
    scale: %(replicas)d
    stop_signal: SIGKILL
    environment: {%(hapi_environment)s}
    volumes: ["./hapi.conf:/etc/nginx/nginx.conf:ro", "./metrics:/metrics:ro"]
"""
HAPI_CONF = """events {}
http {
  server {
    listen 8080;
    location = /actuator/prometheus { default_type text/plain; alias /metrics/prometheus.txt; }
  }
}
"""
INI = """[databases]
fhirdb = host=postgres port=5432 dbname=fhirdb%(line)s
%(lines)s
[pgbouncer]
listen_addr = *
listen_port = 6432
auth_type = scram-sha-256
auth_file = /site/userlist.txt
ignore_startup_parameters = extra_float_digits
admin_users = hapi_app
stats_users = stats
max_client_conn = 200
%(settings)s
%(tail)s"""


def image(name: str) -> str:
    """Return one of the lab's images, built if the lab has not been up on this machine."""
    found = docker("images", "-q", f"bd-fhir-lab/{name}").split()
    if found:
        return found[0]
    base = image("pgbouncer") if name.startswith("pgbouncer-") else IMAGE
    reference = f"bd-fhir-lab/{name}:dev"
    docker("build", "-q", "-t", reference, "--build-arg", "BASE_IMAGE=" + base, str(IMAGES / name))
    return reference


class Databases(Project):
    """PostgreSQL `postgres` with the database fhirdb and the roles hapi_app and reporter, and pgBouncer `pgbouncer`."""

    def __init__(self, path: Path, prefix: str = "dbs") -> None:
        super().__init__(path, prefix)
        self.dir.mkdir(parents=True, exist_ok=True)

    def start(
        self,
        pooler: str = "pgbouncer",
        postgres_args: str = "",
        max_connections: int = 30,
        standby: bool = False,
        replicas: int = 0,
        hapi_environment: str = "",
        more: str = "",
        disk: str = "",
    ) -> None:
        """Write the compose file and bring it up.

        pooler: which of the lab's images, "" for none; max_connections: in postgresql.conf of a new data directory; more: further services;
        disk: a folder that the data are in.
        """
        text = POSTGRES + (PGBOUNCER if pooler else "") + (STANDBY if standby else "") + (HAPI if replicas else "") + more
        values = {
            "postgres": image("postgres"),
            "pgbouncer": image(pooler) if pooler else "",
            "nginx": image("nginx") if replicas else "",
            "postgres_args": "".join(f', "{item}"' for item in postgres_args.split()),
            "max_connections": max_connections,
            "replicas": replicas,
            "hapi_environment": hapi_environment,
        }
        volume = f"    driver_opts: {{type: none, o: bind, device: {disk}}}\n" if disk else ""
        self.write("docker-compose.yml", f"name: {self.name}\nservices:" + text % values + "volumes:\n  data:\n" + volume, 0o644)
        self.write(".env", ENV)
        self.write("init.sh", INIT, 0o755)
        if pooler and not (self.dir / "pooler").exists():
            self.pooler_files()
        if replicas and not (self.dir / "metrics").exists():
            self.write("hapi.conf", HAPI_CONF, 0o644)
            self.metrics({"fhir": 5})
        self.compose("up", "-d", "-t", "0", "--remove-orphans")
        self.wait()
        if standby:
            self.standby_ready()

    def metrics(self, sizes: dict[str, int]) -> None:
        """Let the replicas tell these sizes of their Hikari pools."""
        text = "".join(f'hikaricp_connections_max{{pool="{name}"}} {size}.0\n' for name, size in sizes.items())
        self.write("metrics/prometheus.txt", text, 0o644)
        (self.dir / "metrics").chmod(0o755)

    def pooler_files(self, line: str = "", lines: str = "", settings: str = "", tail: str = "") -> None:
        """Write pgBouncer's files: more for the line of fhirdb, further lines, settings, and what comes last ([users])."""
        users = {"hapi_app": APP_PASSWORD, "reporter": APP_PASSWORD, "stats": STATS_PASSWORD}
        self.write("pooler/pgbouncer.ini", INI % {"line": line, "lines": lines, "settings": settings, "tail": tail}, 0o644)
        self.write("pooler/userlist.txt", "".join(f'"{name}" "{secret}"\n' for name, secret in users.items()), 0o644)
        (self.dir / "pooler").chmod(0o755)

    def pool(self, **files: str) -> None:
        """Give pgBouncer other files and start it anew, without the pools and clients that it had."""
        self.pooler_files(**files)
        docker("restart", "-t", "0", self.container("pgbouncer"))
        self.wait()

    def server(self, service: str = "postgres", **settings: Any) -> None:
        """Set parameters by ALTER SYSTEM (None: reset) and restart the server."""
        for name, value in settings.items():
            self.sql(f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'", service)
        docker("restart", self.container(service))
        self.wait()

    def new_standby(self) -> None:
        """Make the standby anew from a backup of the primary, with the primary's parameters."""
        docker("rm", "-f", "-v", self.container("standby"))
        self.compose("up", "-d", "-t", "0")
        self.standby_ready()

    def standby_ready(self) -> None:
        self.until("the standby", lambda: self.sql("SELECT pg_is_in_recovery()", "standby") == "t")

    def container(self, service: str) -> str:
        return self.ids(service)[0]

    def address(self, service: str) -> str:
        return docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.container(service)).strip()

    def sql(self, query: str, service: str = "postgres", check: bool = True) -> str:
        """Run SQL as the superuser on the server's own socket, by another way than the modules."""
        argv = ("exec", "-u", "postgres", self.container(service), "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "fhirdb")
        return docker(*argv, "-c", query, check=check).strip()

    def connection(self, service: str = "pgbouncer", user: str = "hapi_app", database: str = "fhirdb", **more: Any) -> Any:
        """Open a connection as a client would; autocommit."""
        more.setdefault("password", {"postgres": SUPERUSER_PASSWORD, "stats": STATS_PASSWORD}.get(user, APP_PASSWORD))
        port = 6432 if service == "pgbouncer" else 5432
        found = psycopg2.connect(host=self.address(service), port=port, user=user, dbname=database, connect_timeout=5, **more)
        found.autocommit = True
        return found

    @contextmanager
    def clients(self, count: int, service: str = "pgbouncer", **more: Any) -> Iterator[list[Any]]:
        """Hold this many connections, each of which has been used."""
        opened = []
        try:
            for _number in range(count):
                opened.append(self.connection(service, **more))
                opened[-1].cursor().execute("SELECT 1")
            yield opened
        finally:
            for item in opened:
                item.close()

    @contextmanager
    def replicas_connected(self, each: int) -> Iterator[None]:
        """Hold connections through the pooler that come from the addresses of HAPI's replicas, this many from each."""
        # Idle behind a first query: a statement that runs would go on in the server after its client is gone.
        script = f"for i in $(seq {each}); do (echo 'SELECT 1;'; sleep 600) | psql -XAtq -h pgbouncer -p 6432 -U hapi_app -d fhirdb & done; wait"
        helpers = [
            docker(
                "run", "-d", "--rm", "--network", f"container:{replica}", "-e", f"PGPASSWORD={APP_PASSWORD}", image("postgres"), "bash", "-c", script,
            ).strip()
            for replica in self.ids("hapi")
        ]  # fmt: skip
        wanted = each * len(helpers)
        try:
            self.until(f"{wanted} connections", lambda: sum(row["cl_active"] for row in self.show("POOLS") if row["database"] == "fhirdb") == wanted)
            yield
        finally:
            docker("rm", "-f", *helpers, check=False)

    def show(self, what: str) -> list[dict[str, Any]]:
        """Ask pgBouncer's console."""
        connection = self.connection(database="pgbouncer")
        try:
            cursor = connection.cursor()
            cursor.execute("SHOW " + what)
            return [dict(zip([item[0] for item in cursor.description], row, strict=True)) for row in cursor.fetchall()]
        finally:
            connection.close()

    def wait(self) -> None:
        """Wait until a query through each way is answered."""
        self.until("PostgreSQL", lambda: self.answers("postgres", "postgres"))
        if self.ids("pgbouncer"):
            self.until("pgBouncer", lambda: self.answers("pgbouncer", "hapi_app"))

    def answers(self, service: str, user: str) -> bool:
        try:
            # Through the pooler only its console: a query would leave a server connection in its pool.
            self.connection(service, user, "pgbouncer" if service == "pgbouncer" else "fhirdb").close()
        except psycopg2.Error:
            return False
        return True

    def until(self, what: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                if ready():
                    return
            except AssertionError:
                # docker exec into a container that is not up yet
                pass
            if time.monotonic() > end:
                logs = docker("compose", "-p", self.name, "logs", "--tail", "5", check=False, cwd=self.dir)
                raise AssertionError(f"{what} of {self.name} in {os.fspath(self.dir)} did not come up:\n{logs}")
            time.sleep(0.1)
