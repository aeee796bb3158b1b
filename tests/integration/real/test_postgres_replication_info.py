# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""postgres_replication_info against a real primary and a real standby; what is broken is broken on purpose, the truth is asked by psql."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_replication_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import APP_PASSWORD, SECRETS, Databases
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

Ask = Callable[..., dict[str, Any]]
SLOT = "fhir_replica"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """A primary with a slot of 64 MB at most, and a standby that uses it and looks for a cut link in 16 seconds."""
    item = Databases(tmp_path_factory.mktemp("replication") / "site", "repl")
    try:
        item.start(standby=True, postgres_args="-c min_wal_size=32MB -c max_wal_size=32MB -c wal_sender_timeout=24s")
        # The image's own passwords stay out of what is looked at.
        item.sql(f"CREATE ROLE watcher LOGIN PASSWORD '{APP_PASSWORD}' IN ROLE pg_monitor")
        item.sql("CREATE TABLE notes (text text)")
        change(item, "postgres", max_slot_wal_keep_size="64MB")
        whole(item)
        yield item
    finally:
        item.remove()


def whole(site: Databases) -> None:
    """Have slot and standby as they should be."""
    site.sql(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active AND slot_name = '{SLOT}'")
    site.sql(
        f"SELECT pg_create_physical_replication_slot('{SLOT}', true) WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{SLOT}')"
    )
    change(site, "standby", primary_slot_name=SLOT, wal_receiver_timeout="16s")
    site.until("the link", lambda: linked(site))


def change(site: Databases, service: str, **settings: str | None) -> None:
    """Set parameters (None: reset) and have the server read them."""
    for name, value in settings.items():
        site.sql(f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'", service)
    site.sql("SELECT pg_reload_conf()", service)


def linked(site: Databases) -> bool:
    """Tell whether the standby reads from its slot, and has replayed everything."""
    end = site.sql("SELECT pg_current_wal_flush_lsn()")
    return site.sql(f"SELECT active FROM pg_replication_slots WHERE slot_name = '{SLOT}'") == "t" and (
        site.sql(f"SELECT pg_last_wal_replay_lsn() >= '{end}'", "standby") == "t"
    )


def anew(site: Databases) -> None:
    """Clone the standby anew, whatever has become of it."""
    docker("rm", "-f", "-v", site.container("standby"))
    site.sql(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND NOT active")
    site.compose("up", "-d", "-t", "0")
    site.standby_ready()
    whole(site)


@pytest.fixture
def ask(site: Databases, run: Callable[..., dict[str, Any]]) -> Ask:
    """Run the module; no result may hold a password."""

    def call(service: str = "standby", **args: Any) -> dict[str, Any]:
        options = {"project_dir": str(site.dir), "service": service, "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD", "slot": SLOT, **args}
        result = run(postgres_replication_info, **options)
        assert not any(secret in json.dumps(result) for secret in SECRETS)
        assert not result.get("changed")
        return result

    return call


@pytest.fixture
def both(ask: Ask) -> Ask:
    """Run it against the primary, then against the standby with what was read; the result of the standby."""

    def call(**args: Any) -> dict[str, Any]:
        return ask("standby", expect="standby", primary=ask("postgres", expect="primary")["server"], **args)

    return call


def ids(result: dict[str, Any]) -> list[str]:
    assert result["rc"] == 0, result
    # The standby of these tests has its password in primary_conninfo.
    return sorted(item["id"] for item in result["findings"] if item["id"] != "clear_password")


def found(result: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the one finding of that id."""
    items = [item for item in result["findings"] if item["id"] == name]
    assert len(items) == 1, result
    return items[0]


@contextmanager
def writers(site: Databases) -> Iterator[None]:
    """Write rows all the time."""
    stop = threading.Event()

    def write() -> None:
        connection = site.connection("postgres", "postgres")
        while not stop.is_set():
            connection.cursor().execute("INSERT INTO notes SELECT repeat('x', 500) FROM generate_series(1, 50)")
        connection.close()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


@contextmanager
def dropped_packets(site: Databases) -> Iterator[None]:
    """Nothing passes between the two servers any more, and neither is told."""
    pid = docker("inspect", "-f", "{{.State.Pid}}", site.container("standby")).strip()
    tables = ("nsenter", "-t", pid, "-n", "iptables")
    rules = [("INPUT", "-s", site.address("postgres"), "-j", "DROP"), ("OUTPUT", "-d", site.address("postgres"), "-j", "DROP")]
    for rule in rules:
        subprocess.run([*tables, "-A", *rule], check=True)
    try:
        yield
    finally:
        for rule in rules:
            subprocess.run([*tables, "-D", *rule], check=True)


def write_wal(site: Databases, segments: int) -> None:
    for _number in range(segments):
        site.sql("INSERT INTO notes VALUES ('x'); SELECT pg_switch_wal()")
    site.sql("CHECKPOINT")


# --- it streams ----------------------------------------------------------------------------------------------------


def test_a_pair_that_streams(site: Databases, ask: Ask, both: Ask) -> None:
    """Under writes and without, in check mode as in a real run, and nothing is changed."""

    def state() -> list[str]:
        return [site.sql("SELECT name, setting FROM pg_settings WHERE context <> 'internal'", item) for item in ("postgres", "standby")]

    before = state()
    with writers(site):
        primary = ask("postgres", expect="primary")
        standby = both()
    assert state() == before
    assert (ids(primary), ids(standby)) == ([], [])
    server = primary["server"]
    assert (server["role"], server["timeline"], server["libc"]["family"], server["standby"]) == ("primary", 1, "glibc", None)
    assert server["system_identifier"] == site.sql("SELECT system_identifier FROM pg_control_system()")
    assert server["parameters"]["max_connections"]["value"] == "30"
    assert server["parameters"]["wal_sender_timeout"]["source"] == "command line"
    assert server["disk"]["wal_free_bytes"] > 0
    assert server["database_bytes"] > 20_000_000
    part = server["primary"]
    assert (part["free_senders"], part["free_slots"], len(part["senders"]), len(part["slots"])) == (9, 9, 1, 1)
    sender, slot = part["senders"][0], part["slots"][0]
    assert (sender["application_name"], sender["client_addr"], sender["state"], sender["silent"]) == (
        "walreceiver", site.address("standby"), "streaming", False,
    )
    assert (slot["name"], slot["active"], slot["wal_status"], slot["used_by"]["client_addr"]) == (SLOT, True, "reserved", site.address("standby"))
    assert [rule["auth_method"] for rule in part["hba_rules"]] == ["trust", "trust", "trust", "scram-sha-256"]
    mine = standby["server"]
    assert (mine["role"], mine["promoted"], mine["system_identifier"], mine["primary"]) == ("standby", False, server["system_identifier"], None)
    part = mine["standby"]
    assert (part["streaming"], part["link"] in ("streaming", "catching_up"), part["slot_name"], part["sender_host"]) == (True, True, SLOT, "postgres")
    assert 0 <= part["lag_seconds"] < 10
    assert part["lag_bytes"] >= 0
    assert part["lag_unknown"] is None
    assert part["primary_conninfo"]["user"] == "postgres"
    assert "password" not in part["primary_conninfo"]
    assert found(standby, "clear_password")["severity"] == "warning"
    real, predicted = both(), both(check=True)
    for result in (real, predicted):
        assert (ids(result), result["server"]["standby"]["link"], result["server"]["role"]) == ([], "streaming", "standby")


def test_case_115_an_idle_primary_makes_no_lag(site: Databases, both: Ask) -> None:
    """Nothing is written, the last commit gets older than may be, and there is no lag all the same. With a lag it goes red."""
    site.until("the link", lambda: linked(site))
    time.sleep(2.5)
    age = float(site.sql("SELECT extract(epoch FROM now() - pg_last_xact_replay_timestamp())", "standby"))
    result = both(max_lag_seconds=1, fail_on=["error"])
    assert age > 2
    assert ids(result) == []
    assert (result["server"]["standby"]["lag_bytes"], result["server"]["standby"]["lag_seconds"]) == (0, 0.0)
    site.sql("SELECT pg_wal_replay_pause()", "standby")
    try:
        site.sql("INSERT INTO notes SELECT repeat('x', 500) FROM generate_series(1, 3000)")
        behind = both(max_lag_seconds=1, max_lag_bytes=1_000_000)
        assert ids(behind) == ["replay_paused", "standby_lagging", "standby_lagging"]
        part = behind["server"]["standby"]
        assert (part["streaming"], part["lag_bytes"] > 1_000_000, part["lag_seconds"] > 2) == (True, True, True)
        assert "standby_lagging" in both(max_lag_seconds=1, fail_on=["warning"])["msg"]
    finally:
        site.sql("SELECT pg_wal_replay_resume()", "standby")


def test_a_reader_of_pg_monitor(site: Databases, ask: Ask) -> None:
    """It sees all but the rules of pg_hba.conf, and that is said."""
    site.until("the link", lambda: linked(site))
    login = {"login_user": "watcher", "login_password_variable": "FHIR_DB_APP_PASSWORD"}
    primary = ask("postgres", expect="primary", **login)
    assert ids(primary) == ["could_not_read"]
    assert found(primary, "could_not_read")["object"] == "pg_hba_file_rules"
    assert primary["server"]["primary"]["hba_rules"] is None
    assert primary["server"]["primary"]["slots"][0]["active"] is True
    standby = ask(expect="standby", primary=primary["server"], **login)
    assert ids(standby) == []
    assert standby["server"]["standby"]["link"] == "streaming"
    # As the finding says.
    site.sql("GRANT SELECT ON pg_hba_file_rules TO watcher; GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO watcher")
    assert ids(ask("postgres", expect="primary", database="fhirdb", **login)) == []


# --- the link is not what it seems ---------------------------------------------------------------------------------


def test_case_66_a_cut_link_is_never_no_lag(site: Databases, ask: Ask, both: Ask) -> None:
    """Packets are dropped: PostgreSQL goes on to say streaming, and all that was received is replayed."""
    site.until("the link", lambda: linked(site))
    primary = ask("postgres")["server"]
    with dropped_packets(site):
        # A question without an answer, and some seconds before PostgreSQL gives up.
        silent = "SELECT now() - last_msg_receipt_time > interval '10.1 s' FROM pg_stat_wal_receiver"
        site.until("silence", lambda: site.sql(silent, "standby") == "t")
        result = ask(expect="standby", primary=primary)
        assert site.sql("SELECT status FROM pg_stat_wal_receiver", "standby") == "streaming", "PostgreSQL has noticed it too: nothing is proven"
        part = result["server"]["standby"]
        assert (part["streaming"], part["link"], part["lag_bytes"], part["lag_seconds"]) == (False, "cut", None, None)
        assert "nothing is heard" in part["lag_unknown"]
        assert ids(result) == ["standby_link_cut"]
        assert found(result, "standby_link_cut")["severity"] == "error"
        assert part["last_message_age_seconds"] > part["cut_after_seconds"] == 10.0
        # The primary's view, and what it has written since.
        site.sql("INSERT INTO notes VALUES ('written while the link is cut')")
        site.until("silence", lambda: ask("postgres")["server"]["primary"]["senders"][0]["silent"])
        seen = ask("postgres")
        sender = seen["server"]["primary"]["senders"][0]
        assert (sender["silent"], sender["lag_seconds"], sender["lag_bytes"] > 0) == (True, None, True)
        assert "sender_silent" in ids(seen)
        assert both()["server"]["standby"]["lag_bytes"] > 0
        # When the standby has given the link up.
        site.until("the end of the receiver", lambda: site.sql("SELECT count(*) FROM pg_stat_wal_receiver", "standby") == "0")
        later = ask(expect="standby")
        assert (ids(later), later["server"]["standby"]["link"], later["server"]["standby"]["lag_seconds"]) == (["standby_link_cut"], "cut", None)
        assert "timeout" in later["server"]["standby"]["why"]
    docker("restart", "-t", "0", site.container("standby"))
    site.until("the link", lambda: linked(site))
    assert ids(both()) == []


@pytest.mark.full
def test_nobody_watches_the_link(site: Databases, ask: Ask) -> None:
    change(site, "standby", wal_receiver_timeout="0")
    try:
        assert ids(ask()) == ["standby_link_unwatched"]
    finally:
        change(site, "standby", wal_receiver_timeout="16s")


def test_the_primary_says_no(site: Databases, ask: Ask, both: Ask) -> None:
    """A slot that is not there, one of somebody else, a wrong password: each is told as what it is, and none is a cut link."""
    conninfo = site.sql("SHOW primary_conninfo", "standby")
    site.sql("SELECT pg_create_physical_replication_slot('theirs')")
    receiver = docker(
        "run", "-d", "--rm", "--network", f"container:{site.container('postgres')}", "--entrypoint", "pg_receivewal",
        docker("inspect", "-f", "{{.Image}}", site.container("postgres")).strip(), "-h", "127.0.0.1", "-U", "postgres", "-S", "theirs", "-D", "/tmp",
    ).strip()  # fmt: skip
    try:
        for settings, expected, words in (
            ({"primary_slot_name": "nowhere"}, ["slot_missing", "standby_not_streaming", "standby_without_slot"], '"nowhere" does not exist'),
            ({"primary_slot_name": "theirs"}, ["standby_not_streaming", "standby_without_slot"], "is active for PID"),
            ({"primary_conninfo": "host=postgres user=postgres password=wrong-word"}, ["standby_not_streaming"], "password authentication failed"),
        ):
            change(site, "standby", primary_slot_name=SLOT, primary_conninfo=conninfo.replace("'", "''"))
            change(site, "standby", **settings)
            site.until(words, lambda words=words: words in log(site))
            result = ask(expect="standby")
            part = result["server"]["standby"]
            assert ids(result) == expected
            assert (part["link"], part["streaming"], part["lag_seconds"], part["lag_bytes"]) == ("waiting", False, None, None)
            assert words in part["why"]
            assert "wrong-word" not in json.dumps(result)
            if "theirs" in settings.values():
                assert ids(both(slot="theirs")) == ["slot_in_use_by_other", "standby_not_streaming"]
        # Seen from the primary.
        assert "slot_missing" in ids(ask("postgres", slot="nowhere"))
        assert "slot_in_use_by_other" in ids(ask("postgres", slot="theirs", standby_name="fhir-standby"))
        assert "slot_in_use_by_other" not in ids(ask("postgres", slot="theirs", standby_name="pg_receivewal"))
    finally:
        docker("rm", "-f", receiver, check=False)
        change(site, "standby", primary_slot_name=SLOT, primary_conninfo=conninfo.replace("'", "''"))
        site.until("the link", lambda: linked(site))
        site.until("the slot", lambda: site.sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'theirs'") == "f")
        site.sql("SELECT pg_drop_replication_slot('theirs')")
    site.until("the standby as it was", lambda: ids(both()) == [])


def log(site: Databases) -> str:
    done = subprocess.run(["docker", "logs", "--tail", "20", site.container("standby")], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


# --- the slot ------------------------------------------------------------------------------------------------------


def test_case_58_and_59_a_stopped_standby_and_its_slot(site: Databases, ask: Ask, both: Ask) -> None:
    """It keeps WAL for a standby that is away, then too much, then it is lost; and the standby that comes back says so too."""
    site.until("the link", lambda: linked(site))
    docker("stop", "-t", "0", site.container("standby"))
    try:
        site.until("the end of the sender", lambda: site.sql("SELECT count(*) FROM pg_stat_replication") == "0")
        write_wal(site, 2)
        away = ask("postgres")
        slot = away["server"]["primary"]["slots"][0]
        assert ids(away) == ["slot_inactive"]
        assert (slot["active"], slot["retained_bytes"] > 16 * 1024**2, slot["safe_wal_size"] < 64 * 1024**2) == (False, True, True)
        assert ids(ask(expect="standby")) == ["standby_not_running"]
        # Without a limit, and with one that the disk does not have.
        for cap, expected in (("-1", ["slot_inactive", "slot_without_cap"]), ("10TB", ["slot_inactive", "slot_retains_too_much"])):
            change(site, "postgres", max_slot_wal_keep_size=cap)
            site.until(cap, lambda expected=expected: ids(ask("postgres")) == expected)
        change(site, "postgres", max_slot_wal_keep_size="64MB")
        write_wal(site, 6)
        lost = ask("postgres")
        assert site.sql("SELECT wal_status FROM pg_replication_slots") == "lost"
        assert ids(lost) == ["slot_lost"]
        docker("start", site.container("standby"))
        site.standby_ready()
        site.until("the refusal", lambda: "has already been removed" in log(site) or "can no longer" in log(site))
        back = both()
        part = back["server"]["standby"]
        assert ids(back) == ["slot_lost", "standby_not_streaming"]
        assert (part["refused"], part["link"], part["lag_seconds"], part["lag_bytes"] > 0) == ("slot_lost", "waiting", None, True)
    finally:
        change(site, "postgres", max_slot_wal_keep_size="64MB")
        anew(site)
    assert ids(both()) == []


# --- the server is not there ---------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_killed_and_restarted_standby(site: Databases, ask: Ask, both: Ask) -> None:
    docker("kill", "-s", "KILL", site.container("standby"))
    killed = ask(expect="standby")
    assert ids(killed) == ["standby_not_running"]
    container = killed["server"]["container"]
    assert (container["state"], container["exit_code"], container["accepts"], killed["server"]["standby"]) == ("exited", 137, False, None)
    assert killed["server"]["image"] == ask("postgres")["server"]["image"]
    assert "standby_not_running" in ask(expect="standby", fail_on=["error"])["msg"]
    docker("start", site.container("standby"))
    site.until("the link", lambda: linked(site))
    assert ids(both()) == []
    docker("restart", "-t", "0", site.container("standby"))
    site.until("the link", lambda: linked(site))
    assert ids(both()) == []


def test_case_56_a_standby_that_does_not_start_says_why(site: Databases, ask: Ask, both: Ask) -> None:
    """max_connections below the primary's: told while it still runs with more, when it has stopped, and when it is started over and over."""
    site.sql("ALTER SYSTEM SET max_connections = 20", "standby")
    try:
        docker("restart", "-t", "0", site.container("standby"))
        site.until("the end", lambda: docker("inspect", "-f", "{{.State.Status}}", site.container("standby")).strip() == "exited")
        result = both()
        assert ids(result) == ["standby_not_running", "standby_parameter_too_low"]
        low = found(result, "standby_parameter_too_low")
        assert (low["object"], low["expected"], low["found"]) == ("max_connections", "at least 30, as on the primary", "20 (its log says so)")
        assert "standby first" in low["hint"]
        docker("update", "--restart", "always", site.container("standby"))
        docker("start", site.container("standby"))
        site.until("a loop", lambda: int(docker("inspect", "-f", "{{.RestartCount}}", site.container("standby"))) > 1)
        assert ids(ask(expect="standby")) == ["standby_parameter_too_low", "standby_restarting"]
    finally:
        anew(site)
    # The primary with a value that it has only after a restart.
    change(site, "postgres", max_worker_processes="12")
    try:
        site.until("the reload", lambda: site.sql("SELECT pending_restart FROM pg_settings WHERE name = 'max_worker_processes'") == "t")
        result = both()
        assert ids(result) == ["standby_parameter_too_low"]
        assert found(result, "standby_parameter_too_low")["severity"] == "warning"
    finally:
        change(site, "postgres", max_worker_processes=None)


@pytest.mark.full
def test_a_promoted_standby(site: Databases, ask: Ask, both: Ask) -> None:
    """It is told as what it is, from the first moment: the control file still has the former timeline."""
    site.sql("SELECT pg_promote()", "standby")
    try:
        result = both()
        assert ids(result) == ["slot_missing", "standby_promoted"]
        server = result["server"]
        assert (server["role"], server["promoted"], server["timeline"], server["standby"]) == ("primary", True, 2, None)
        assert "on timeline 2, its primary on timeline 1" in found(result, "standby_promoted")["found"]
        # Without having read the primary too.
        assert "standby_promoted" in ids(ask(expect="standby"))
        refused = ask(primary=ask("standby", expect="any")["server"] | {"role": "standby"})
        assert "Run this module against the primary first" in refused["msg"]
    finally:
        anew(site)
    other = ask("postgres")["server"] | {"system_identifier": "1"}
    assert ids(ask(expect="standby", primary=other))[0] == "other_cluster"


# --- what can't be asked -------------------------------------------------------------------------------------------


def test_what_can_not_be_asked(site: Databases, ask: Ask) -> None:
    wrong = ask(login_password_variable="WRONG_PASSWORD")
    assert (wrong["rc"], wrong["kind"]) == (1, "password")
    assert "not-the-password" not in json.dumps(wrong)
    missing = ask("nowhere", expect="primary")
    assert (missing["rc"], missing["kind"]) == (1, "container")
    assert "no container of a service nowhere" in missing["msg"]
    assert ids(ask("nowhere", expect="standby")) == ["standby_not_running"]
    assert ask("postgres", expect="standby", slot="")["findings"][0]["id"] == "standby_promoted"
    assert ids(ask(expect="primary")) == ["primary_in_recovery"]
    assert "max_lag_seconds is -1" in ask(max_lag_seconds=-1)["msg"]
    pooler = ask("pgbouncer", port=6432, database="fhirdb", login_user="hapi_app", login_password_variable="FHIR_DB_APP_PASSWORD")
    assert "leads to one at" in pooler["msg"]
    nothing = ask("pgbouncer")
    assert (nothing["rc"], nothing["kind"]) == (1, "unreachable")
    assert "seems to be no PostgreSQL server" in nothing["msg"]


def test_rules_and_settings_of_the_primary(site: Databases, ask: Ask) -> None:
    """A broken pg_hba.conf, no rule but the image's own, and writes that are acknowledged too early."""
    inside = ("exec", "-u", "postgres", site.container("postgres"), "sh", "-c")
    docker(*inside, 'cp "$PGDATA/pg_hba.conf" /tmp/hba')
    try:
        docker(*inside, 'sed -i "/replication all all/d" "$PGDATA/pg_hba.conf"; echo "host nonsense" >> "$PGDATA/pg_hba.conf"')
        site.sql("ALTER ROLE hapi_app SET synchronous_commit = off")
        result = ask("postgres")
        assert ids(result) == ["hba_file_broken", "no_hba_rule", "synchronous_commit_off"]
        assert "pg_hba.conf:" in found(result, "hba_file_broken")["object"]
        assert found(result, "synchronous_commit_off")["object"] == "hapi_app in every database"
    finally:
        docker(*inside, 'cp /tmp/hba "$PGDATA/pg_hba.conf"')
        site.sql("ALTER ROLE hapi_app RESET synchronous_commit")
    assert ids(ask("postgres")) == []


@pytest.mark.full
def test_a_primary_that_can_not_have_a_standby(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    item = Databases(tmp_path / "site", "repl")
    try:
        args = "-c wal_level=minimal -c max_wal_senders=0 -c max_replication_slots=0 -c synchronous_commit=off"
        item.start(pooler="", postgres_args=args)
        options = {"project_dir": str(item.dir), "service": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}
        result = run(postgres_replication_info, expect="primary", slot=SLOT, **options)
        assert ids(result) == ["no_free_sender", "no_free_slot", "slot_missing", "synchronous_commit_off", "wal_level_too_low"]
    finally:
        item.remove()


@pytest.mark.full
def test_a_full_disk_of_the_standby(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    """Seen while the receiver can't write what it gets, when the server has stopped for it, and no longer when there is room again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m,mode=1777", "tmpfs", disk], check=True)
    item = Databases(tmp_path / "site", "repl")
    try:
        item.start(pooler="", standby=True, more=f"    volumes: ['{disk}:/var/lib/postgresql/data']\n", postgres_args="-c wal_keep_size=512MB")
        options = {"project_dir": str(item.dir), "service": "standby", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD", "expect": "standby"}
        assert ids(run(postgres_replication_info, **options)) == []
        item.sql("SELECT pg_wal_replay_pause()", "standby")
        item.sql("CREATE TABLE notes AS SELECT repeat('x', 500) AS text FROM generate_series(1, 60000)")
        end = item.sql("SELECT pg_current_wal_flush_lsn()")
        item.until("the WAL", lambda: item.sql(f"SELECT pg_last_wal_receive_lsn() >= '{end}'", "standby") == "t")
        subprocess.run(["dd", "if=/dev/zero", f"of={disk}/filler", "bs=4k"], check=False, capture_output=True)
        assert shutil.disk_usage(disk).free == 0

        def full() -> bool:
            item.sql("INSERT INTO notes VALUES ('x'); SELECT pg_switch_wal()")
            return "No space left on device" in log(item)

        # The server bears a full pg_wal. It ends when it has to replay what needs room.
        item.until("a full disk", full)
        receiving = run(postgres_replication_info, **options)
        assert receiving["server"]["container"]["accepts"]
        assert {"standby_disk_full", "replay_paused"} <= set(ids(receiving))
        assert receiving["server"]["disk"]["free_bytes"] < 32 * 1024**2
        item.sql("SELECT pg_wal_replay_resume()", "standby")
        item.until("the end", lambda: docker("inspect", "-f", "{{.State.Status}}", item.container("standby")).strip() == "exited")
        stopped = run(postgres_replication_info, **options)
        assert ids(stopped) == ["standby_disk_full", "standby_not_running"]
        assert "No space left on device" in found(stopped, "standby_disk_full")["found"]
        (disk / "filler").unlink()
        docker("start", item.container("standby"))
        item.until("the standby", lambda: ids(run(postgres_replication_info, **options)) == [])
    finally:
        item.remove()
        subprocess.run(["umount", disk], check=True)


@pytest.mark.full
def test_a_standby_that_lets_nobody_in(site: Databases, ask: Ask) -> None:
    """Its control file says what it is."""
    change(site, "standby", hot_standby="off")
    try:
        docker("restart", "-t", "0", site.container("standby"))
        site.until("the start", lambda: "entering standby mode" in log(site))
        result = ask(expect="standby")
        assert ids(result) == ["standby_not_ready"]
        server = result["server"]
        assert (server["role"], server["timeline"], server["container"]["accepts"]) == ("standby", 1, False)
        assert server["system_identifier"] == site.sql("SELECT system_identifier FROM pg_control_system()")
    finally:
        anew(site)


def test_a_login_needs_pg_monitor(site: Databases, ask: Ask) -> None:
    with pytest.raises(psycopg2.Error), site.connection("standby", "reporter") as connection:
        connection.cursor().execute("SELECT * FROM pg_hba_file_rules")
    refused = ask(login_user="reporter", login_password_variable="FHIR_DB_APP_PASSWORD")
    assert "GRANT pg_monitor" in refused["msg"]
