# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A compose project in which one password stands where it stands in the deployment: the server, a pooler, .env."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from ansible_collections.dghs.bd_fhir.plugins.module_utils._quoting import dotenv_quote
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import Project, docker

APP, SUPERUSER, READER = "pa$sw0rd%x #1\"@/:", "super-S3cret-word", "reader-S3cret-word"
# What careless quoting breaks: each format of the deployment has a character of its own.
HOSTILE = "%s$PATH @:/#,;\" ''\\!&*{}`~ বাংলা-য়\\"

COMPOSE = """name: %(name)s
services:
  postgres:
    image: %(postgres)s
    command: ["postgres", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "log_statement=all", "-c", "log_min_duration_statement=0"]
    environment:
      POSTGRES_DB: fhirdb
      POSTGRES_PASSWORD: ${SUPERUSER_PASSWORD}
      POSTGRES_INITDB_ARGS: --no-sync
      APP_PASSWORD: ${APP_PASSWORD}
      READER_PASSWORD: ${READER_PASSWORD}
    volumes: ["data:/var/lib/postgresql/data", "./init.sh:/docker-entrypoint-initdb.d/init.sh:ro"]
  pgbouncer:
    image: %(pgbouncer)s
    stop_signal: SIGTERM
    environment:
      POSTGRESQL_HOST: postgres
      POSTGRESQL_DATABASE: fhirdb
      POSTGRESQL_USERNAME: hapi_app
      POSTGRESQL_PASSWORD: ${APP_PASSWORD}
      PGBOUNCER_MAX_CLIENT_CONN: "100"
    depends_on: [postgres]
%(more)s
volumes:
  data:
%(volumes)s"""
INIT = """#!/usr/bin/env bash
set -euo pipefail
psql -v ON_ERROR_STOP=1 --no-psqlrc -U postgres -d fhirdb -v app="$APP_PASSWORD" -v reader="$READER_PASSWORD" <<'SQL'
CREATE ROLE hapi_app LOGIN PASSWORD :'app';
CREATE ROLE reader LOGIN PASSWORD :'reader';
CREATE TABLE seen (at timestamptz DEFAULT now());
GRANT INSERT, SELECT ON seen TO hapi_app, reader;
SQL
"""
# The owner's own files, read by a pooler that makes nothing of its environment.
INI = """[databases]
fhirdb = host=postgres port=5432 dbname=fhirdb%(line)s
[pgbouncer]
listen_addr = *
listen_port = 6432
auth_type = %(auth_type)s
auth_file = %(auth_file)s
admin_users = hapi_app
ignore_startup_parameters = extra_float_digits
%(settings)s
"""
MOUNTED = """  %(service)s:
    image: %(pgbouncer)s
    entrypoint: ["pgbouncer", "%(ini)s"]
    stop_signal: SIGTERM
    volumes: [%(mounts)s]
    depends_on: [postgres]
"""


class Site(Project):
    """PostgreSQL `postgres` with the roles hapi_app and reader, `pgbouncer` that writes its userlist from its environment, and more poolers."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rot")
        self.dir.mkdir(parents=True, exist_ok=True)
        self.services: list[str] = []
        self.volumes: list[str] = []

    def mounted(self, service: str, alone: bool, line: str = "", auth_type: str = "scram-sha-256", settings: str = "", users: str = "") -> None:
        """Add a pooler whose files lie on the host: each mounted by itself, or their directory."""
        inside = "/conf" if alone else "/site"
        values = {"line": line, "auth_type": auth_type, "auth_file": f"{inside}/userlist.txt", "settings": settings}
        self.write(f"{service}/pgbouncer.ini", INI % values, 0o644)
        self.write(f"{service}/userlist.txt", users or userlist({"hapi_app": APP}), 0o644)
        (self.dir / service).chmod(0o755)
        names = ("pgbouncer.ini", "userlist.txt")
        mounts = [f"./{service}/{name}:{inside}/{name}:ro" for name in names] if alone else [f"./{service}:{inside}:ro"]
        self.services.append(
            MOUNTED % {"service": service, "pgbouncer": image("pgbouncer"), "ini": f"{inside}/pgbouncer.ini", "mounts": json.dumps(mounts)[1:-1]}
        )

    def up(self) -> None:
        values = {"name": self.name, "postgres": image("postgres"), "pgbouncer": image("pgbouncer"), "more": "".join(self.services),
                  "volumes": "".join(f"  {name}:\n" for name in self.volumes)}  # fmt: skip
        self.write("docker-compose.yml", COMPOSE % values, 0o644)
        self.write("init.sh", INIT, 0o755)
        self.env(APP_PASSWORD=APP, SUPERUSER_PASSWORD=SUPERUSER, READER_PASSWORD=READER)
        self.compose("up", "-d", "--quiet-pull")
        until("PostgreSQL", lambda: self.lets_in("postgres", SUPERUSER, "postgres"))
        until("pgBouncer", lambda: self.lets_in("pgbouncer", APP))

    def env(self, **values: str) -> None:
        """Set names in .env as an owner would who knows the rules."""
        path = self.dir / ".env"
        known = {line.partition("=")[0]: line for line in path.read_text(encoding="utf-8").splitlines()} if path.exists() else {}
        known.update({name: f"{name}={dotenv_quote(value)}" for name, value in values.items()})
        self.write(".env", "\n".join(known.values()) + "\n")

    def container(self, service: str) -> str:
        return self.ids(service)[0]

    def address(self, service: str) -> str:
        return docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.container(service)).strip()

    def connection(self, service: str, password: str, user: str = "hapi_app", database: str = "fhirdb") -> Any:
        port = 5432 if service == "postgres" else 6432
        found = psycopg2.connect(host=self.address(service), port=port, user=user, password=password, dbname=database, connect_timeout=5)
        found.autocommit = True
        return found

    def lets_in(self, service: str, password: str, user: str = "hapi_app") -> bool:
        """Ask libpq whether a login up to the server works."""
        try:
            connection = self.connection(service, password, user)
        except psycopg2.OperationalError:
            return False
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT current_user")
            return bool(cursor.fetchone() == (user,))
        except psycopg2.OperationalError:
            return False
        finally:
            connection.close()

    def sql(self, query: str, check: bool = True) -> str:
        """Run SQL as the superuser on the server's own socket, by another way than the modules."""
        argv = ("exec", "-i", "-u", "postgres", self.container("postgres"), "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "fhirdb")
        return docker(*argv, stdin=query, check=check).strip()

    def verifier(self, role: str = "hapi_app") -> str:
        return self.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'")

    def userlist(self, service: str = "pgbouncer") -> str:
        return docker("exec", self.container(service), "cat", "/run/pgbouncer/userlist.txt")

    def admin(self, service: str, password: str, command: str) -> list[dict[str, Any]]:
        connection = self.connection(service, password, database="pgbouncer")
        try:
            cursor = connection.cursor()
            cursor.execute(command)
            if cursor.description is None:
                return []
            return [dict(zip([item[0] for item in cursor.description], row, strict=True)) for row in cursor.fetchall()]
        finally:
            connection.close()

    def reset(self) -> None:
        """Bring every place back to the first passwords, past the modules."""
        self.env(APP_PASSWORD=APP, SUPERUSER_PASSWORD=SUPERUSER, READER_PASSWORD=READER)
        self.compose("up", "-d")
        until("PostgreSQL", lambda: "accepting connections" in docker("exec", self.container("postgres"), "pg_isready", check=False))
        for role, password in (("hapi_app", APP), ("postgres", SUPERUSER), ("reader", READER)):
            self.sql(f"SET password_encryption = 'scram-sha-256'; ALTER ROLE {role} LOGIN PASSWORD $pw${password}$pw$ VALID UNTIL 'infinity'")
        # The entrypoint writes the userlist anew from the environment.
        self.anew("pgbouncer")
        until(f"the first passwords of {self.name}", lambda: self.lets_in("pgbouncer", APP))

    def anew(self, service: str) -> None:
        """Restart a pooler, so that it has no connection to its server from before."""
        # With time to end by itself: one that is killed leaves a file with the number of its process, and it is the same one again.
        docker("restart", "-t", "10", self.container(service))


def userlist(users: dict[str, str]) -> str:
    """The text of a userlist, by pgBouncer's documentation."""
    return "".join('"{}" "{}"\n'.format(*(item.replace('"', '""') for item in pair)) for pair in users.items())


def until(what: str, ready: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except (AssertionError, psycopg2.Error, IndexError):
            pass
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)


@contextmanager
def site_in(path: Path, prepare: Callable[[Site], None] = lambda site: None) -> Iterator[Site]:
    """A project that is up, and is removed again."""
    site = Site(path)
    try:
        prepare(site)
        site.up()
        yield site
    finally:
        site.remove()


def masks(secret: str) -> set[str]:
    """The forms in which a secret could turn up in what is printed."""
    from base64 import b64encode
    from urllib.parse import quote, quote_plus

    return {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret), quote(secret, safe=""), quote_plus(secret),
            b64encode(secret.encode()).decode(), secret.replace('"', '""'), secret.replace("'", "''")}  # fmt: skip


def shows(text: str, *secrets: str) -> list[str]:
    """Which of the secrets a text shows, in whatever form."""
    return [secret for secret in secrets if any(form in text for form in masks(secret))]
