# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers /metrics with what a pgBouncer's console tells, under the names of prometheus-community/pgbouncer_exporter 0.11."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg2
import psycopg2.extras

# SHOW … -> its labels, and column -> name below pgbouncer_<what>_.
ROWS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "databases": (
        ("name", "host", "port", "database", "force_user", "pool_mode"),
        {
            "pool_size": "pool_size", "reserve_pool": "reserve_pool", "max_connections": "max_connections",
            "current_connections": "current_connections", "paused": "paused", "disabled": "disabled",
        },
    ),
    "pools": (
        ("database", "user"),
        {
            "cl_active": "client_active_connections", "cl_waiting": "client_waiting_connections", "sv_active": "server_active_connections",
            "sv_idle": "server_idle_connections", "sv_used": "server_used_connections", "sv_tested": "server_testing_connections",
            "sv_login": "server_login_connections", "maxwait": "client_maxwait_seconds",
        },
    ),
}  # fmt: skip
LISTS = ("databases", "users", "pools", "free_clients", "used_clients", "login_clients", "free_servers", "used_servers")
CONFIG = {"max_client_conn": "max_client_connections", "max_user_connections": "max_user_connections"}


def sample(name: str, value: Any, labels: dict[str, Any] | None = None) -> str:
    def quoted(text: Any) -> str:
        return str("" if text is None else text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    told = ",".join(f'{label}="{quoted(text)}"' for label, text in (labels or {}).items())
    return f"pgbouncer_{name}{{{told}}} {value}" if told else f"pgbouncer_{name} {value}"


def samples(cursor: Any) -> Iterator[str]:
    for what, (labels, columns) in ROWS.items():
        cursor.execute(f"SHOW {what}")
        for row in cursor.fetchall():
            for column, name in columns.items():
                if row.get(column) is not None:
                    yield sample(f"{what}_{name}", float(row[column]), {label: row.get(label) for label in labels})
    cursor.execute("SHOW LISTS")
    yield from (sample(row["list"], float(row["items"])) for row in cursor.fetchall() if row["list"] in LISTS)
    cursor.execute("SHOW CONFIG")
    yield from (sample("config_" + CONFIG[row["key"]], float(row["value"])) for row in cursor.fetchall() if row["key"] in CONFIG)


def scrape(dsn: str) -> str:
    """A pooler that does not answer is a metric too, not an error of HTTP, as with the official exporter."""
    try:
        connection = psycopg2.connect(dsn, connect_timeout=5)
        try:
            connection.autocommit = True
            lines = list(samples(connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor)))
        finally:
            connection.close()
    except (psycopg2.Error, KeyError, ValueError) as exc:
        print(f"pgbouncer did not answer: {exc}", flush=True)
        return sample("up", 0) + "\n"
    return "\n".join([sample("up", 1), *lines]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pgBouncer.connectionString", dest="dsn", required=True)
    parser.add_argument("--web.listen-address", dest="listen", default=":9127")
    options = parser.parse_args()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = scrape(options.dsn).encode() if self.path == "/metrics" else b"pgbouncer_exporter\n"
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Nothing: a line for each scrape helps nobody."""

    address, port = options.listen.rsplit(":", 1)
    ThreadingHTTPServer((address, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
