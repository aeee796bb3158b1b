# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""change, change_info and what the changing modules do with a token: real processes, real kills, a real full disk.

What the journal says is read from the file, not from the module.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from ansible_collections.dghs.bd_fhir.plugins.module_utils._change import ChangeError, Store, Token, Wish
from ansible_collections.dghs.bd_fhir.plugins.modules import change, change_info, compose_fragment, compose_rollout, env_file
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project

pytestmark = pytest.mark.engine
Run = Callable[..., dict[str, Any]]

ANSIBLE = str(Path(sys.executable).with_name("ansible-playbook"))
PROJECT = "chg-play"

PLAY = """
- hosts: {hosts}
  connection: local
  gather_facts: false
  any_errors_fatal: true
  vars:
    ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
    change_record_project_dir: {dir}
    change_record_project_name: "{{{{ project | default('chg-play') }}}}"
    change_record_state_dir: {dir}/state
    change_record_verb: scale_hapi
  module_defaults:
    group/dghs.bd_fhir.changing:
      change_token: "{{{{ change_record_token | default('') }}}}"
  tasks:
    - block:
        - include_role: {{name: dghs.bd_fhir.change_record}}
        - include_role: {{name: dghs.bd_fhir.change_record}}
          when: nested | default(false)
        - dghs.bd_fhir.env_file:
            path: {dir}/.env
            values: {{IMAGE: "{{{{ image | default('a') }}}}"}}
            secret: false
            create: true
            validate: false
          throttle: 1
        - file: {{path: "{dir}/reached", state: touch}}
        - wait_for: {{path: "{dir}/go", timeout: "{{{{ hold }}}}"}}
          when: hold is defined
        - fail: {{msg: on purpose}}
          when: inventory_hostname == fail_on | default('')
        - include_role: {{name: dghs.bd_fhir.change_record, tasks_from: close}}
          when: nested | default(false)
        - dghs.bd_fhir.change: {{project_dir: {dir}, state: noted, text: inner one closed, token: "{{{{ change_record_token }}}}"}}
          when: nested | default(false)
        - include_role: {{name: dghs.bd_fhir.change_record, tasks_from: close}}
      rescue:
        - include_role: {{name: dghs.bd_fhir.change_record, tasks_from: fail}}
"""


class Site:
    """A directory for plays, without a compose project: the lease does not need one."""

    def __init__(self, path: Path) -> None:
        self.dir = path
        self.started: list[subprocess.Popen[str]] = []

    def store(self, project: str = PROJECT) -> Store:
        return Store(_change.directory_of(project, str(self.dir / "state")))

    def records(self, project: str = PROJECT) -> list[dict[str, Any]]:
        path = Path(self.store(project).journal_path)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def kinds(self, project: str = PROJECT) -> list[str]:
        return [item["kind"] for item in self.records(project)]

    def lease(self, project: str = PROJECT) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(self.store(project).lease_path).read_text(encoding="utf-8"))
        return found

    def start(self, owner: str, *more: str, hosts: str = "localhost", inventory: str = "localhost,", check: bool = False, **extra: Any) -> Any:
        play = self.dir / f"play-{hosts}.yml"
        play.write_text(PLAY.format(dir=self.dir, hosts=hosts), encoding="utf-8")
        extra.update(change_record_owner=owner)
        command = [ANSIBLE, "-i", inventory, str(play), "-e", json.dumps(extra), *(["--check"] if check else []), *more]
        # A session of its own, as on another terminal.
        quick = dict(os.environ, ANSIBLE_PIPELINING="1")
        process = subprocess.Popen(command, env=quick, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        self.started.append(process)
        return process

    def run(self, owner: str, **extra: Any) -> tuple[int, str]:
        process = self.start(owner, **extra)
        out, _err = process.communicate(timeout=120)
        return process.returncode, " ".join(out.split())

    def wait_for(self, test: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end
            time.sleep(0.05)

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    item = Site(tmp_path)
    yield item
    item.end()


# --- two operators -------------------------------------------------------------------------------------------------


def test_case_135_two_operators_and_a_killed_one(site: Site) -> None:
    """The second stops and names the first; a dry run says it; the dead one is taken over at once."""
    first = site.start("rahim@ops", hold=100)
    site.wait_for((site.dir / "reached").exists)
    rc, out = site.run("karim@ops", image="b")
    assert rc != 0
    assert "Nothing was changed: another change is open on this deployment: rahim@ops, process %d on " % first.pid in out
    assert (site.dir / ".env").read_text() == "IMAGE=a\n"
    assert site.kinds() == ["opened", "step"]

    rc, out = site.run("karim@ops", check=True, image="b")
    assert rc == 0
    assert "A real run would wait or stop here: rahim@ops" in out

    # Not waited for: the killed process is a zombie, as below a shell that is busy.
    os.kill(first.pid, signal.SIGKILL)
    rc, out = site.run("karim@ops", image="b")
    assert rc == 0, out
    assert "Taken over (dead) from rahim@ops" in out
    assert (site.dir / ".env").read_text() == "IMAGE=b\n"
    assert site.kinds() == ["opened", "step", "taken_over", "opened", "step", "closed"]
    assert [item["message"] for item in site.records() if item["kind"] == "taken_over"] == ["dead"]
    assert site.records()[1]["module"] == "env_file"
    assert site.lease()["state"] == "closed"


def test_the_second_waits_until_the_first_has_ended(site: Site) -> None:
    first = site.start("rahim@ops", hold=100)
    site.wait_for((site.dir / "reached").exists)
    second = site.start("karim@ops", image="b", change_record_wait=100)
    time.sleep(3)
    assert second.poll() is None
    (site.dir / "go").touch()
    assert first.wait(60) == 0
    out, _err = second.communicate(timeout=60)
    assert second.returncode == 0, out
    assert [(item["kind"], item["owner"]) for item in site.records()] == [
        (kind, owner) for owner in ("rahim@ops", "karim@ops") for kind in ("opened", "step", "closed")
    ]


def test_a_forced_one_is_stopped_at_its_next_step(site: Site) -> None:
    first = site.start("rahim@ops", hold=100, nested=True)
    site.wait_for((site.dir / "reached").exists)
    rc, out = site.run("karim@ops", image="b", change_record_force_owner="rahim@ops", hold=1)
    assert "Taken over (forced) from rahim@ops" in out
    assert rc != 0
    (site.dir / "go").touch()
    out, _err = first.communicate(timeout=60)
    assert first.returncode != 0
    assert "superseded. karim@ops took the deployment over" in " ".join(out.split())
    assert (site.dir / ".env").read_text() == "IMAGE=b\n"
    assert [item["owner"] for item in site.records()] == ["rahim@ops"] * 2 + ["karim@ops"] * 4
    assert site.lease()["owner"] == "karim@ops"


def test_again_nested_failed_and_again(site: Site) -> None:
    """Nothing is recorded when nothing changes; an inner close does not give back; a failure does."""
    assert site.run("rahim@ops")[0] == 0
    assert site.kinds() == ["opened", "step", "closed"]
    rc, out = site.run("rahim@ops")
    assert rc == 0
    assert site.kinds() == ["opened", "step", "closed"]
    assert site.lease()["token"] == 2
    assert site.run("rahim@ops", nested=True)[0] == 0
    assert [(item["kind"], item["token"]) for item in site.records()[3:]] == [("opened", 3), ("note", 3), ("closed", 3)]
    rc, out = site.run("rahim@ops", image="c", fail_on="localhost")
    assert rc != 0
    assert "Closed" not in out
    last = site.records()[-1]
    assert (last["kind"], last["result"]) == ("closed", "failed")
    assert "on purpose" in last["message"]
    assert site.run("karim@ops", image="c")[0] == 0


def test_when_one_host_fails_the_others_are_given_back_too(site: Site) -> None:
    inventory = site.dir / "hosts.ini"
    inventory.write_text("one project=chg-one\ntwo project=chg-two\n", encoding="utf-8")
    rc, out = site.run("rahim@ops", hosts="all", inventory=str(inventory), fail_on="one")
    assert rc != 0
    for project in ("chg-one", "chg-two"):
        assert (site.lease(project)["state"], site.lease(project)["result"]) == ("closed", "failed"), out
    assert "on purpose" in site.records("chg-one")[-1]["message"]


# --- processes that contend, and are killed ------------------------------------------------------------------------

PROLOGUE = f"""
import sys
sys.path[:0] = {[path for path in sys.path if path]!r}
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
store = _change.Store(sys.argv[1])
"""


def python(directory: str, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROLOGUE + text, directory], stdout=subprocess.PIPE, text=True)


def test_of_many_that_ask_one_gets_it_and_no_number_comes_twice(site: Site) -> None:
    text = """
import time
end = time.monotonic() + 2
while time.monotonic() < end:
    taken = _change.take(store, _change.Wish("x", "", "o", {}))
    if taken.token:
        _change.write_down(store, taken.token, "step", action="work")
        _change.close(store, taken.token, "succeeded", "")
        print(taken.token.number, flush=True)
"""
    processes = [python(site.store().directory, text) for _number in range(3)]
    numbers = [int(line) for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert len(numbers) > 3
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    records = site.records()
    assert [item["seq"] for item in records] == list(range(1, 3 * len(numbers) + 1))
    # One at a time: the records of a change stand together.
    assert [(item["token"], item["kind"]) for item in records] == [
        (number, kind) for number in range(1, len(numbers) + 1) for kind in ("opened", "step", "closed")
    ]


def test_kills_between_and_in_the_middle_of_steps_lose_no_record(site: Site) -> None:
    """What a step has returned from is in the journal, whenever the process is killed."""
    text = """
token = _change.take(store, _change.Wish("x", "", "o", {}, force_owner="o")).token
number = 0
while True:
    number += 1
    _change.write_down(store, token, "step", action="work", object=str(number))
    print(token.number, number, flush=True)
"""
    done: list[str] = []
    for attempt in range(5):
        process = python(site.store().directory, text)
        assert process.stdout
        done.append(process.stdout.readline())
        time.sleep(0.05 + 0.013 * attempt)
        process.kill()
        done += process.communicate()[0].splitlines()
    journal = site.store().journal()
    seen = {(str(item["token"]), item["object"]) for item in journal.records if item["kind"] == "step"}
    assert {tuple(line.split()) for line in done} <= seen
    assert [item["seq"] for item in journal.records] == list(range(1, len(journal.records) + 1))
    assert all(item["cut"] for item in journal.broken)
    assert site.store().lease()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "none", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> None:
    with open(path / "ballast", "wb", buffering=0) as handle, contextlib.suppress(OSError):
        while True:
            handle.write(b"x" * 512)


def test_a_full_disk_stops_before_the_first_change(small_disk: Path, run: Run) -> None:
    path = small_disk / ".env"
    path.write_text("A=1\n", encoding="utf-8")
    fill(small_disk)
    args = {"project_dir": str(small_disk), "project_name": "chg-full", "state_dir": str(small_disk / "state")}
    refused = run(change, verb="x", owner="o", **args)
    assert refused["failed"]
    assert "Make room" in refused["msg"]
    (small_disk / "ballast").unlink()
    opened = run(change, verb="x", owner="o", **args)
    store = Store(Token.parse(opened["token"]).directory)
    _change.write_down(store, Token.parse(opened["token"]), "step", action="first")
    fill(small_disk)

    def work() -> None:
        for _number in range(50):
            _change.write_down(store, Token.parse(opened["token"]), "step", action="work", object="x" * 200)

    # The page that the journal ends in may still have room: it is used up.
    with pytest.raises(ChangeError, match="Make room"):
        work()
    size = os.stat(store.journal_path).st_size
    refused = run(env_file, path=str(path), values={"A": "2"}, secret=False, validate=False, backup=False, change_token=opened["token"])
    assert refused["failed"]
    assert "Make room" in refused["msg"]
    assert path.read_text(encoding="utf-8") == "A=1\n"
    assert os.stat(store.journal_path).st_size == size
    assert store.journal().broken == []
    (small_disk / "ballast").unlink()
    assert run(env_file, path=str(path), values={"A": "2"}, secret=False, validate=False, change_token=opened["token"])["changed"]


def test_a_read_only_disk_stops_before_the_first_change(small_disk: Path, run: Run) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for state_dir in (small_disk, small_disk / "state"):
        refused = run(change, verb="x", owner="o", project_dir="/", project_name="chg-ro", state_dir=str(state_dir))
        assert refused["failed"]
        assert "read-only" in refused["msg"]
    assert not run(change_info, project_dir="/", project_name="chg-ro", state_dir=str(small_disk))["rc"]


# --- the modules that change something -----------------------------------------------------------------------------


@pytest.fixture
def web(project: Project) -> Project:
    project.write(".env", "TAG=bookworm\n")
    project.write(
        "docker-compose.yml",
        f"""name: {project.name}
services:
  web:
    image: {IMAGE.rsplit(":", 1)[0]}:${{TAG}}
    command: [sleep, infinity]
    init: true
    healthcheck: {{test: [CMD, "true"], interval: 1s, start_period: 1s}}
""",
    )
    return project


def test_modules_record_their_steps_and_obey_the_lease(web: Project, run: Run, tmp_path: Path) -> None:
    web.compose("up", "-d")
    place = {"project_dir": str(web.dir)}
    tries: list[tuple[Any, dict[str, Any]]] = [
        (env_file, {"path": str(web.dir / ".env"), "values": {"NEW": "x"}, "secret": False, "guard_project_dir": str(web.dir)}),
        (env_file, {"path": str(web.dir / ".env"), "values": {"PW": "t0psecret"}, "project_name": web.name}),
        (compose_fragment, {**place, "name": "web", "content": "services:\n  web:\n    scale: 2\n"}),
        (compose_rollout, {**place, "service": "web", "replicas": 2, "steps": 0, "lock_dir": str(tmp_path / "locks")}),
    ]
    opened = run(change, verb="scale", owner="rahim@ops", **place)
    assert opened["opened"], opened
    store = Store(Token.parse(opened["token"]).directory)
    before = (web.dir / ".env").read_bytes()

    # Somebody else, without the token, is refused by each of them, and a dry run is not.
    for module, args in tries:
        refused = run(module, **args)
        assert refused["failed"], refused
        assert "rahim@ops" in refused["msg"]
        assert not run(module, check=True, **args).get("failed")
    assert (web.dir / ".env").read_bytes() == before
    assert len(web.ids("web")) == 1
    assert store.journal().records == []

    for module, args in tries:
        assert run(module, change_token=opened["token"], **args)["changed"]
    assert len(web.ids("web")) == 2
    records = store.journal().records
    assert [(item["kind"], item["action"]) for item in records] == [
        ("opened", ""), ("step", "write"), ("step", "write"), ("step", "write"), ("step", "start"),
    ]  # fmt: skip
    assert (records[1]["before"], records[1]["after"]) == ({"NEW": None}, {"NEW": "x"})
    assert records[2]["after"] == {"names_set": ["PW"], "names_removed": []}
    assert "t0psecret" not in json.dumps(records)
    assert "scale: 2" in records[3]["after"]["fragment"]
    assert records[4]["after"]["replicas"] == 2

    # Again: nothing is recorded.
    for module, args in tries:
        assert not run(module, change_token=opened["token"], **args)["changed"]
    assert len(store.journal().records) == 5

    # Taken over: each is stopped before it changes anything.
    assert run(change, verb="rollback", owner="karim@ops", force_owner="rahim@ops", **place)["took_over"] == "forced"
    state = (web.dir / ".env").read_bytes()
    for module, args in [
        (env_file, {**tries[0][1], "values": {"NEW": "y"}}),
        (compose_fragment, {**tries[2][1], "state": "absent"}),
        (compose_rollout, {**tries[3][1], "replicas": 1}),
    ]:
        refused = run(module, change_token=opened["token"], **args)
        assert refused["failed"]
        assert "superseded. karim@ops" in refused["msg"]
    assert (web.dir / ".env").read_bytes() == state
    assert (web.dir / "compose.d/web.yml").exists()
    assert len(web.ids("web")) == 2

    found = run(change_info, **place)
    assert [(item["owner"], item["state"]) for item in found["changes"]] == [("rahim@ops", "taken_over"), ("karim@ops", "open")]


def test_alone_is_recorded_as_nobodys(web: Project, run: Run) -> None:
    args = {"project_dir": str(web.dir), "name": "web", "content": "services:\n  web:\n    scale: 2\n"}
    assert run(compose_fragment, **args)["changed"]
    assert not run(compose_fragment, **args)["changed"]
    assert run(compose_fragment, **{**args, "state": "absent"})["changed"]
    found = run(change_info, project_dir=str(web.dir))
    assert [(item["state"], [step["action"] for step in item["steps"]]) for item in found["changes"]] == [("alone", ["write", "remove"])]
    assert _change.take(Store(found["path"]), Wish("x", "", "o", {})).token == Token(1, found_id(found["path"]), found["path"])


def found_id(directory: str) -> str:
    return str(json.loads((Path(directory) / "lease.json").read_text(encoding="utf-8"))["id"])
