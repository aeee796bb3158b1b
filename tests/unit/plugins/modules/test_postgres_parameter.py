# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of postgres_parameter with a server that is played; with real ones: tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._change import ChangeError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_parameter
from ansible_collections.dghs.bd_fhir.plugins.modules.postgres_parameter import data_directory_of, start_lines

pytest.importorskip("psycopg2")

DATA = "/var/lib/postgresql/data"
AUTO = f"{DATA}/postgresql.auto.conf"
SECRET = "hush-word-7"
Run = Callable[..., dict[str, Any]]

# name: context, what a new server has, unit
PARAMETERS = {
    "max_connections": ("postmaster", "30", None),
    "superuser_reserved_connections": ("postmaster", "3", None),
    "max_wal_senders": ("postmaster", "10", None),
    "work_mem": ("user", "4096", "kB"),
    "checkpoint_timeout": ("sighup", "300", "s"),
}


class Server:
    """A server that keeps the rules: files are read on a reload, and some parameters are taken at a start only."""

    def __init__(self) -> None:
        self.auto: dict[str, str] = {}
        self.works = {name: value for name, (context, value, unit) in PARAMETERS.items()}
        self.said: list[str] = []
        self.refuses = ""
        self.in_use = 5

    def rows(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        if "pg_settings" in query:
            return [self._setting(name) for name in PARAMETERS]
        if "pg_file_settings" in query:
            return [
                {"name": name, "setting": value, "sourcefile": AUTO, "sourceline": line, "applied": self.works[name] == value,
                 "error": None if self.works[name] == value or PARAMETERS[name][0] != "postmaster" else "setting could not be applied"}
                for line, (name, value) in enumerate(self.auto.items(), 3)
            ]  # fmt: skip
        if "server_version_num" in query:
            return [{"version": 150018, "in_recovery": False, "data_directory": DATA, "bindir": "/usr/lib/postgresql/15/bin", "in_use": self.in_use}]
        return []

    def _setting(self, name: str) -> dict[str, Any]:
        context, default, unit = PARAMETERS[name]
        by_us = name in self.auto
        return {
            "name": name, "setting": self.works[name], "unit": unit, "context": context, "vartype": "integer",
            "source": "configuration file" if by_us else "default", "sourcefile": AUTO if by_us else None, "sourceline": 3 if by_us else None,
            "pending_restart": context == "postmaster" and self.auto.get(name, default) != self.works[name],
            "boot_val": default, "min_val": "1", "max_val": "262143", "enumvals": None,
        }  # fmt: skip

    def value(self, query: str, params: Any = None) -> Any:
        return {"SELECT rolsuper": True}.get(query[:15])

    def execute(self, query: Any, params: Any = None) -> None:
        text = self._text(query)
        self.said.append(text)
        words = text.replace('"', "").split()
        if self.refuses and self.refuses in text:
            raise PostgresError("the server refuses it")
        if text.startswith("ALTER SYSTEM SET"):
            self.auto[words[3]] = words[5].strip("'")
        elif text.startswith("ALTER SYSTEM RESET"):
            self.auto.pop(words[3], None)
        elif "pg_reload_conf" in text:
            for name, (context, default, _unit) in PARAMETERS.items():
                if context != "postmaster":
                    value = self.auto.get(name, default)
                    self.works[name] = str(int(value[:-2]) * 1024) if value.endswith("MB") else value

    def _text(self, query: Any) -> str:
        """Words of a composed statement; as_string() needs a connection."""
        if isinstance(query, str):
            return query
        parts = []
        for item in query.seq:
            kind = type(item).__name__
            if kind == "Composed":
                parts.append(self._text(item))
            elif kind == "Identifier":
                parts.append('"%s"' % item.strings[0])
            else:
                parts.append("'%s'" % item.wrapped if kind == "Literal" else item.string)
        return "".join(parts)

    def close(self) -> None:
        pass

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    container = SimpleNamespace(id="c0ffee", name="site-db-1", addresses={"net": "192.0.2.9"})

    class Docker:
        project_dir = "/opt/site"
        env_file = "/opt/site/.env"

        @classmethod
        def from_module(cls, module: Any) -> Any:
            return cls()

        def docker(self, *args: str, **more: Any) -> tuple[int, str, str]:
            if args[0] == "cp":
                return 1, "", "no such file"
            return 0, "999:999\n" if "stat" in args else "", ""

        def inspect(self, ids: list[str]) -> list[dict[str, Any]]:
            return [{"Args": ["postgres", "-c", "shared_buffers=1GB"], "Config": {}, "NetworkSettings": {}}]

        def containers(self, service: str) -> list[Any]:
            return [container]

        def files_default(self) -> list[str]:
            return []

        def project_name(self) -> str:
            return "site"

    monkeypatch.setattr(postgres_parameter, "Docker", Docker)
    monkeypatch.setattr(postgres_parameter, "container_of", lambda docker, service: container)
    monkeypatch.setattr(postgres_parameter, "connect", lambda login, statement_timeout=0: found)
    return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        args = {"project_dir": "/opt/site", "service": "db", "login_password": SECRET, "trial": False, **args}
        with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
            postgres_parameter.main()
        out = capsys.readouterr().out
        assert SECRET not in out.replace('"login_password": "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"', "")
        return dict(json.loads(out))

    return call


def test_six_by_two(server: Server, run: Run) -> None:
    """Create, again, change, again, remove, again, each in check mode and for real."""
    keys = ("changed", "restarted", "restart_required", "method", "diff", "findings")
    for value, after, changed in (("8MB", "8192", True), (8192, "8192", False), ("9MB", "9216", True), ("9MB", "9216", False),
                                  (None, "4096", True), (None, "4096", False)):  # fmt: skip
        before, said = dict(server.auto), list(server.said)
        predicted = run(check=True, parameters={"work_mem": value})
        assert (server.auto, server.said) == (before, said)
        done = run(parameters={"work_mem": value})
        assert "failed" not in done, done
        assert [predicted[key] for key in keys] == [done[key] for key in keys]
        assert done["changed"] is changed
        assert done["parameters"]["work_mem"]["after"] == predicted["parameters"]["work_mem"]["after"] == after == server.works["work_mem"]
        assert done["parameters"]["work_mem"]["unit"] == "kB"
    assert server.auto == {}


def test_a_restart_is_never_made_unasked(server: Server, run: Run) -> None:
    for changed in (True, False):
        done = run(parameters={"max_connections": 40})
        assert (done["changed"], done["restarted"], done["restart_required"]) == (changed, False, True)
        assert done["parameters"]["max_connections"] == {
            "before": "30", "after": "30", "configured": "40", "unit": "", "pending_restart": True, "source": "configuration file",
            "sourcefile": AUTO, "sourceline": 3,
        }  # fmt: skip
        assert [item["id"] for item in done["findings"]] == ["parameter_waits_for_restart"]
    assert server.works["max_connections"] == "30"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"parameters": {"max_connections": 40}, "restart": "pause"}, "pooler"),
        ({"parameters": {"max_connections": 40}, "restart": "window"}, "window"),
        ({"parameters": {"max_connections": 40}, "restart": "always"}, "restart"),
        ({"parameters": {"work_mem": "8MB", "max_connections": 7}}, "8 is the least"),
        ({"parameters": {"work_mem": "8MB", "checkpoint_timeout": "soon"}}, "no number"),
    ],
)
def test_wrong_input(server: Server, run: Run, args: dict[str, Any], words: str) -> None:
    for check in (True, False):
        done = run(check=check, **args)
        assert done["failed"]
        assert words in done["msg"]
    assert server.said == []


def test_half_of_it_is_taken_back(server: Server, run: Run) -> None:
    server.auto["work_mem"] = server.works["work_mem"] = "5000"
    server.refuses = "'600'"
    done = run(parameters={"work_mem": 6000, "max_connections": 40, "checkpoint_timeout": 600})
    assert done["failed"]
    assert server.auto == {"work_mem": "5000"}
    assert not any("reload" in text for text in server.said)


def test_a_change_that_was_taken_over_stops_before_the_next_step(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []

    def step(self: Any, action: str, obj: str, before: Any = None, after: Any = None) -> None:
        steps.append((action, obj))
        if len(steps) == 2:
            raise ChangeError("superseded")

    monkeypatch.setattr(postgres_parameter.ChangeGuard, "step", step)
    done = run(parameters={"work_mem": 6000, "checkpoint_timeout": 600})
    assert (done["failed"], done["msg"]) == (True, "superseded")
    assert steps == [("alter_system", "db: work_mem"), ("alter_system", "db: checkpoint_timeout")]
    assert server.auto == {}


@pytest.mark.parametrize(
    ("config", "directory"),
    [
        ({}, DATA),
        ({"Env": ["PGDATA=/pg/x"]}, "/pg/x"),
        ({"Env": ["PGDATA=/pg/x"], "Cmd": ["postgres", "-D", "/pg/y"]}, "/pg/y"),
        ({"Env": ["PGDATA=/pg/x"], "Cmd": ["postgres", "-c", "data_directory=/pg/z"]}, "/pg/z"),
        ({"Entrypoint": ["postgres"], "Cmd": ["--data-directory=/pg/z"]}, "/pg/z"),
    ],
)
def test_where_the_data_is_while_the_server_is_down(config: dict[str, Any], directory: str) -> None:
    assert data_directory_of(config) == directory


def test_what_is_told_of_a_log_is_about_the_start_only() -> None:
    log = "\n".join([
        "2026-11-25 23:49:38.828 UTC [1] LOG:  starting PostgreSQL 15.18",
        "2026-11-25 23:49:39.000 UTC [44] ERROR:  duplicate key value violates unique constraint",
        "2026-11-25 23:49:39.000 UTC [44] DETAIL:  Key (nid)=(1990123456789) already exists.",
        "2026-11-25 23:49:39.000 UTC [44] STATEMENT:  INSERT INTO person VALUES ('1990123456789')",
        "2026-11-25 23:49:39.100 UTC [44] LOG:  duration: 5000 ms  statement: SELECT '1990123456789'",
        '2026-11-25 23:49:40.000 UTC [1] FATAL:  could not access file "nothing": No such file or directory',
    ])  # fmt: skip
    told = start_lines(log)
    assert "1990123456789" not in told
    assert told.endswith("No such file or directory")
    assert start_lines("") == "nothing about a start"
