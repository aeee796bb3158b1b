# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of postgres_hba with a server that is played, whose file is mounted by itself; with real ones: tests/integration/real."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._change import ChangeError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hba import Layout, converge, entries, rules_of
from ansible_collections.dghs.bd_fhir.plugins.module_utils._parameters import Server as Parameters
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_hba
from ansible_collections.dghs.bd_fhir.plugins.modules.postgres_hba import NEW, OLD, parse_look, placed, shown, write_aside

SECRET = "hush-word-7"
HBA = "/etc/hba.conf"
BASE = "local all all trust\nhost all all 10.0.0.0 255.0.0.0 ldap ldapbindpasswd=%s\n" % SECRET
RULE = {"type": "host", "databases": ["replication"], "users": ["standby"], "address": "10.20.0.0/16", "method": "scram-sha-256"}
LINE = "host replication standby 10.20.0.0/16 scram-sha-256"
Run = Callable[..., dict[str, Any]]


class Server:
    """A server that reads its file only when it is told to, and the parts of Docker that the module asks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = 100.0
        self.changed = 50.0
        self.loaded = path.read_text()
        self.refuses = ""
        self.deaf = False
        self.superuser = True
        self.ssl = "off"
        self.steps: list[str] = []
        self._seen = path.read_text()

    def touch(self) -> float:
        """When the file was changed last, in a clock that only goes on with what happens."""
        if self.path.read_text() != self._seen:
            self._seen = self.path.read_text()
            self.changed = self.clock + 1
        return self.changed

    def value(self, query: str, params: Any = None) -> Any:
        answers = {
            "rolsuper": self.superuser, "hba_file": HBA, "data_directory": "/data", "'ssl'": self.ssl, "pg_conf_load_time": self.clock,
            "pg_read_binary_file": memoryview(self.path.read_bytes()),
        }  # fmt: skip
        return next(answer for word, answer in answers.items() if word in query)

    def rows(self, query: str, params: Any = None) -> list[dict[str, Any]]:
        assert "pg_hba_file_rules" in query
        found = []
        for entry in entries(self.path.read_text()):
            rule = entry.rule
            bad = rule is None or (self.refuses and self.refuses in entry.text)
            row: dict[str, Any] = {"line_number": entry.number, "type": None, "error": "bad line" if bad else None}
            if rule is not None and not bad:
                row.update(type=rule.type, database=[word.text for word in rule.databases], user_name=[word.text for word in rule.users],
                           address=rule.address, netmask=None, auth_method=rule.method)  # fmt: skip
            found.append(row)
        return found

    def execute(self, query: str) -> None:
        assert "pg_reload_conf" in query
        self.touch()
        if not self.deaf:
            self.clock = max(self.clock, self.changed) + 1
            self.loaded = self.path.read_text()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    # -- Docker

    project_dir = "/opt/site"

    def project_name(self) -> str:
        return "site"

    def docker(self, *args: str, **more: Any) -> tuple[int, str, str]:
        if "sh" not in args:
            return 0, "70:70\n", ""
        seconds = "%.3f" % self.touch()
        found = os.stat(self.path)
        return 0, "%s\n70:70 640 %d %s 1970-01-01 00:00:00.%s +0000\n0:0\n" % (HBA, found.st_ino, *seconds.split(".")), ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    path = tmp_path / "hba.conf"
    path.write_text(BASE)
    found = Server(path)
    mounts = [{"type": "bind", "source": str(path), "destination": HBA, "rw": False}]
    container = SimpleNamespace(id="c0ffee", name="site-db-1", addresses={"net": "192.0.2.9"}, mounts=mounts)
    guard = SimpleNamespace(verify=lambda: found.steps.append("verify"), step=lambda action, *args: found.steps.append(action))
    monkeypatch.setattr(postgres_hba, "Docker", SimpleNamespace(from_module=lambda module: found))
    monkeypatch.setattr(postgres_hba, "container_of", lambda docker, service: container)
    monkeypatch.setattr(postgres_hba, "connect", lambda login: found)
    monkeypatch.setattr(postgres_hba, "read_settings", lambda session: Parameters({}, []))
    monkeypatch.setattr(postgres_hba, "RELOAD_SECONDS", 0.3)
    monkeypatch.setattr(postgres_hba, "ChangeGuard", SimpleNamespace(for_docker=lambda module, docker: guard))
    return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        args = {"project_dir": "/opt/site", "service": "db", "login_password": SECRET, "name": "replica", "rules": [RULE], **args}
        with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
            postgres_hba.main()
        out = capsys.readouterr().out
        assert SECRET not in out
        return dict(json.loads(out))

    return call


def test_six_by_two(server: Server, run: Run) -> None:
    """Create, again, change, again, remove, again, each in check mode and for real."""
    keys = ("changed", "reloaded", "lines", "first_line", "method", "hba_file", "host_path", "diff", "findings")
    other = {**RULE, "address": "fd00::/8"}
    for args, changed, lines in (
        ({}, True, [LINE]), ({}, False, [LINE]),
        ({"rules": [other]}, True, ["host replication standby fd00::/8 scram-sha-256"]), ({"rules": [other]}, False, None),
        ({"state": "absent"}, True, []), ({"state": "absent"}, False, []),
    ):  # fmt: skip
        before, clock = server.path.read_text(), server.clock
        predicted = run(check=True, **args)
        assert (server.path.read_text(), server.clock) == (before, clock)
        done = run(**args)
        assert "failed" not in done, done
        assert [predicted[key] for key in keys] == [done[key] for key in keys]
        assert (done["changed"], done["reloaded"]) == (changed, changed)
        assert done["method"] == "in_place"
        if lines is not None:
            assert done["lines"] == lines
        assert server.loaded == server.path.read_text()
    assert server.path.read_text() == BASE
    assert server.steps == ["verify", "write_hba", "reload"] * 3
    assert os.listdir(server.path.parent) == ["hba.conf"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"name": "Replica"}, "small letters"),
        ({"name": "a" * 41}, "small letters"),
        ({"rules": []}, "rules is empty"),
        ({"rules": [{**RULE, "type": "hosts"}]}, "hosts"),
        ({"rules": [{**RULE, "method": "scram"}]}, "scram"),
        ({"rules": [{"type": "local"}]}, "missing required arguments"),
        ({"rules": [{**RULE, "type": "hostssl"}]}, "TLS is off"),
        ({"reached_from": ["fd00::1"]}, "address family mismatch"),
        ({"position": "middle"}, "middle"),
    ],
)
def test_wrong_input(server: Server, run: Run, args: dict[str, Any], words: str) -> None:
    for check in (True, False):
        done = run(check=check, **args)
        assert done["failed"]
        assert words in done["msg"]
        assert not done.get("changed")
    assert (server.path.read_text(), server.steps) == (BASE, [])


def test_no_superuser(server: Server, run: Run) -> None:
    server.superuser = False
    assert "no superuser" in run()["msg"]


def test_a_file_with_errors_is_refused(server: Server, run: Run) -> None:
    server.path.write_text(BASE + "hosts x\n")
    for check in (True, False):
        done = run(check=check)
        assert f"{HBA}:3: bad line" in done["msg"]
        assert not done["changed"]
    assert server.path.read_text() == BASE + "hosts x\n"


def test_errors_in_other_files_are_refused(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_hba, "parameter_faults", lambda server, names: ["/data/postgresql.conf:7: syntax error"])
    assert "/data/postgresql.conf:7: syntax error" in run()["msg"]
    assert server.path.read_text() == BASE


def test_what_the_server_refuses_is_put_back(server: Server, run: Run) -> None:
    server.refuses = "standby"
    done = run()
    assert f"{HBA}:2: bad line" in done["msg"]
    assert "The former text was put back" in done["msg"]
    assert not done["changed"]
    assert (server.path.read_text(), os.listdir(server.path.parent)) == (BASE, ["hba.conf"])
    assert "reload" not in server.steps


def test_what_can_not_be_put_back_is_said(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    server.refuses = "standby"
    write = postgres_hba.Run.write

    def once(self: Any, container: Any, place: Any, text: str, former: str) -> None:
        if text == BASE:
            raise postgres_hba.HbaError("the disk is gone.")
        write(self, container, place, text, former)

    monkeypatch.setattr(postgres_hba.Run, "write", once)
    done = run()
    assert "bad line" in done["msg"]
    assert "could not be put back, or not be proven to be: the disk is gone." in done["msg"]
    assert done["changed"]


def test_a_server_that_does_not_read_it(server: Server, run: Run) -> None:
    server.deaf = True
    done = run()
    assert "has not read it" in done["msg"]
    assert (done["changed"], done["reloaded"]) == (True, False)
    server.deaf = False
    # The lines are there, and still there is something to do.
    for check in (True, False):
        done = run(check=check)
        assert (done["changed"], done["reloaded"]) == (True, True)
        assert [item["id"] for item in done["findings"]] == ["hba_file_not_loaded"]
        assert done["diff"]["before"] != done["diff"]["after"]
    assert not run()["changed"]


def test_a_change_that_was_taken_over_stops_before_the_next_step(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(action: str, *args: Any) -> None:
        raise ChangeError("superseded")

    guard = SimpleNamespace(verify=lambda: None, step=step)
    monkeypatch.setattr(postgres_hba, "ChangeGuard", SimpleNamespace(for_docker=lambda module, docker: guard))
    done = run()
    assert (done["msg"], done["changed"], server.path.read_text()) == ("superseded", False, BASE)


def test_a_lost_session_while_it_is_judged(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*args: Any) -> None:
        raise PostgresError("The session was lost.", "lost")

    monkeypatch.setattr(postgres_hba.Run, "accepted", lost)
    done = run()
    assert done["msg"].startswith("The session was lost. The former text was put back")
    assert server.path.read_text() == BASE


def test_half_of_a_text_is_known_and_finished(server: Server, run: Run) -> None:
    new = converge(BASE, "replica", rules_of([RULE]), "first").text()
    folder = server.path.parent
    (folder / ("hba.conf" + OLD)).write_text(BASE)
    (folder / ("hba.conf" + NEW)).write_text(new)
    server.path.write_text(new[:30] + BASE[30:])
    predicted, done = run(check=True), run()
    assert "failed" not in done, done
    assert predicted["changed"]
    assert predicted["diff"] == done["diff"]
    assert (server.path.read_text(), os.listdir(folder)) == (new, ["hba.conf"])


def test_a_file_that_was_replaced_on_the_host(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_hba, "parse_look", lambda text: (HBA, "70:70", 0o640, 7, 50.0, "0:0"))
    assert "Restart the container" in run()["msg"]
    server.path.unlink()
    server.path.symlink_to("/nowhere")
    server.path = server.path.parent / "other"
    server.path.write_text(BASE)
    assert "can't be looked at on this host" in run()["msg"]


def test_what_stat_says() -> None:
    assert parse_look("/data/pg_hba.conf\n999:998 600 942333 1795650068 2026-11-25 23:41:08.625228892 +0000\n999:999\n") == (
        "/data/pg_hba.conf", "999:998", 0o600, 942333, 1795650068.625228892, "999:999",
    )  # fmt: skip
    # A stat that knows no fractions.
    assert parse_look("/a b\n0:0 640 1 17 2026-11-25 23:41:08\n0:0")[4] == 17.0
    for broken in ("", "x", "/a\n1\n2"):
        with pytest.raises(ValueError, match="."):
            parse_look(broken)


def mount(destination: str, kind: str = "bind", rw: bool = True) -> dict[str, Any]:
    return {"type": kind, "source": "/host" + destination, "destination": destination, "rw": rw}


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([], ("", "rename", False)),
        ([mount("/da")], ("", "rename", False)),
        ([mount("/data", "volume")], ("/host/data/pg/pg_hba.conf", "rename", True)),
        ([mount("/data", "volume", False)], ("/host/data/pg/pg_hba.conf", "rename_host", True)),
        ([mount("/data"), mount("/data/pg", rw=False)], ("/host/data/pg/pg_hba.conf", "rename_host", True)),
        ([mount("/data/pg/pg_hba.conf", rw=False), mount("/data")], ("/host/data/pg/pg_hba.conf", "in_place", True)),
        ([mount("/data"), mount("/data/pg", "tmpfs")], ("", "rename", False)),
        ([mount("/")], ("/host/data/pg/pg_hba.conf", "rename", True)),
    ],
)
def test_where_the_file_lives(mounts: list[dict[str, Any]], expected: tuple[str, str, bool]) -> None:
    assert placed("/data/pg/pg_hba.conf", mounts) == expected


def test_the_difference_holds_no_password() -> None:
    layout = Layout("x\n", "# BEGIN\nhost all all all ldap ldapbindpasswd=%s\r\n# END\n" % SECRET, "")
    assert shown(layout) == "line 2:\n# BEGIN\nhost all all all ldap ldapbindpasswd=********\n# END\n"
    assert shown(Layout("", "", "x")) == ""


def test_no_link_of_others_is_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs")
    (tmp_path / "new").symlink_to(other)
    write_aside(str(tmp_path / "new"), "ours", 0o640)
    assert (other.read_text(), (tmp_path / "new").read_text()) == ("theirs", "ours")
    assert os.stat(tmp_path / "new").st_mode & 0o7777 == 0o640
