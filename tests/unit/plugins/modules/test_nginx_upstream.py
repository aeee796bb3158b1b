# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order of things and the refusals. The real nginx is in tests/integration/real/test_nginx_upstream.py."""

from __future__ import annotations

import json
import os
import pathlib
import time
from typing import Any, Callable, Optional

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _nginx
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import Container, Docker
from ansible_collections.dghs.bd_fhir.plugins.modules import nginx_upstream

TEXT = "events {}\nhttp { server { location / { proxy_set_header Host $host; proxy_pass http://hapi:8080; } } }\n"
MASTER = "nginx: master process nginx"


class Fake:
    """Stands in for Docker and for the processes of some nginx containers that share one file."""

    project_dir = ""
    command_timeout = 9

    def __init__(self, site: pathlib.Path, names: list[str]) -> None:
        self.project_dir = str(site)
        self.conf = site / "nginx.conf"
        self.conf.write_text(TEXT)
        self.names = names
        self.calls: list[str] = []
        self.refused: dict[str, str] = {}  # container -> a word that its nginx does not accept
        self.seen: dict[str, str] = {}  # container -> text that it sees instead of the file
        self.workers = {name: 100 + 10 * index for index, name in enumerate(names)}
        self.takes_over = True
        self.hook: Callable[[str], None] = lambda call: None
        self.aliases = ["hapi-balancer"]
        self.mounts = [{"type": "bind", "name": "", "source": str(self.conf), "destination": "/n.conf", "rw": False}]
        self.keep_fds: list[int] = []

    def project_name(self) -> str:
        return "site"

    def clean(self, text: str) -> str:
        return text

    def logs_tail(self, container_id: str, lines: int = 20) -> str:
        return "[emerg] bind() failed"

    def containers(self, service: str) -> list[Container]:
        fields = dict.fromkeys(("health", "image_ref", "image_id", "config_hash", "created", "started_at", "restart_policy"), "")
        return [
            Container(
                id=name, name=name, service=service, number=1, oneoff=False, state="running", exit_code=0, oom_killed=False,
                restart_count=0, mounts=self.mounts, **fields,
            )
            for name in self.names
        ]  # fmt: skip

    def inspect(self, ids: list[str]) -> list[dict[str, Any]]:
        return [
            {
                "Id": name,
                "Name": "/" + name,
                "Path": "nginx",
                "Args": [],
                "State": {"Pid": index + 1},
                "NetworkSettings": {"Networks": {"front": {"NetworkID": "n1", "Aliases": self.aliases}}},
            }
            for index, name in enumerate(self.names)
            if name in ids
        ]

    def docker(self, *args: str, check: bool = True, timeout: Optional[float] = None) -> tuple[int, str, str]:
        if args[0] == "ps":
            return 0, "\n".join(self.names), ""
        name, options = args[1], " ".join(args[3:])
        call = "%s %s" % (name, options)
        self.calls.append(call)
        self.hook(call)
        text = self.seen.get(name, self.conf.read_text())
        if options == "-s reload":
            if self.takes_over:
                self.workers[name] += 1
            return 0, "", ""
        if name in self.refused and self.refused[name] in text:
            return 1, "", "nginx: [emerg] host not found in upstream"
        return 0, "# configuration file /n.conf:\n%s\n" % text, ""

    def processes(self, root: int) -> list[_nginx.Process]:
        now = time.time() + 5
        pid = self.workers[self.names[root - 1]]
        return [_nginx.Process(root, 0, now, MASTER), _nginx.Process(pid, root, now, "nginx: worker process")]


@pytest.fixture
def fake(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    site = tmp_path / "site"
    site.mkdir()
    item = Fake(site, ["one", "two"])
    monkeypatch.setattr(Docker, "from_module", lambda module: item)
    monkeypatch.setattr(_nginx, "processes", item.processes)
    monkeypatch.setattr(_nginx, "same_file", lambda *args: None)
    monkeypatch.setattr(nginx_upstream, "CLOCK_MARGIN", 0)
    return item


@pytest.fixture
def run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        base: dict[str, Any] = {
            "project_dir": str(tmp_path / "site"),
            "original": "hapi:8080",
            "target": "hapi-balancer:8080",
            "lock_dir": str(tmp_path / "lock"),
            "reload_timeout": 1,
            "_ansible_check_mode": check,
        }
        capsys.readouterr()
        with patch_module_args({**base, **args}), pytest.raises(SystemExit) as ended:
            nginx_upstream.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        result["rc"] = ended.value.code
        return result

    return call


def ids(result: dict[str, Any]) -> list[str]:
    return [item["id"] for item in result["findings"]]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"original": "hapi;8080"}, "original must be a host name"),
        ({"target": "http://lb:1"}, "target must be a host name"),
        ({"target": "lb:0"}, "target must be a host name"),
        ({"target": "HAPI:8080"}, "the same server"),
        ({"original": "hapi", "target": "hapi:80"}, "the same server"),
        ({"resolver": "1.1.1.1; evil"}, "resolver must be an address"),
        ({"resolver_valid": 0}, "resolver_valid must be from 1"),
        ({"reload_timeout": -1}, "reload_timeout must be from 1"),
    ],
)
def test_wrong_options_are_refused(run: Callable[..., dict[str, Any]], args: dict[str, Any], message: str) -> None:
    for check in (False, True):
        result = run(check=check, **args)
        assert result["rc"] == 1
        assert message in result["msg"]
        assert not result["changed"]


def test_check_mode_where_nothing_is(run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    assert ids(run(check=True)) == ["deployment_missing"]
    assert run()["rc"] == 1
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("ansible.module_utils.basic.AnsibleModule.get_bin_path", lambda *args, **kwargs: None)
    result = run(check=True)
    assert (result["rc"], ids(result), result["changed"]) == (0, ["deployment_missing"], False)
    assert "docker command was not found" in result["findings"][0]["found"]
    assert "docker command was not found" in run()["msg"]


def test_every_container_is_tested_before_the_first_is_reloaded(fake: Fake, run: Callable[..., dict[str, Any]]) -> None:
    result = run()
    assert result["rc"] == 0, result
    assert fake.calls == ["one -T", "two -T", "one -T", "two -T", "one -s reload", "two -s reload"]
    assert "hapi-balancer" in fake.conf.read_text()
    assert not run()["changed"]


def test_the_second_container_refuses(fake: Fake, run: Callable[..., dict[str, Any]]) -> None:
    fake.refused["two"] = "hapi-balancer"
    result = run()
    assert result["rc"] == 1
    assert "`nginx -T` in two ended with return code 1: nginx: [emerg] host not found in upstream" in result["msg"]
    assert fake.conf.read_text() == TEXT
    assert "one -s reload" not in fake.calls
    assert sorted(os.listdir(fake.project_dir)) == ["nginx.conf"]


def test_the_second_container_sees_another_file(fake: Fake, run: Callable[..., dict[str, Any]]) -> None:
    fake.seen["two"] = TEXT + "# old\n"
    assert ids(run(check=True)) == ["stale_mount"]
    assert "stale_mount" in run()["msg"]
    assert fake.conf.read_text() == TEXT


def test_no_worker_takes_over(fake: Fake, run: Callable[..., dict[str, Any]]) -> None:
    fake.takes_over = False
    result = run()
    assert result["rc"] == 1
    assert "within 1 seconds no new workers took over. Its last lines: [emerg] bind() failed" in result["msg"]
    assert fake.conf.read_text() == TEXT
    # Told to load the old bytes again, in case it was only slow.
    assert fake.calls[-2:] == ["one -s reload", "two -s reload"]


def test_somebody_else_writes_just_before(fake: Fake, run: Callable[..., dict[str, Any]]) -> None:
    def write(call: str) -> None:
        if fake.calls == ["one -T", "two -T"]:
            fake.seen["two"] = TEXT
            fake.conf.write_text(TEXT + "# theirs\n")

    fake.hook = write
    result = run()
    assert result["rc"] == 1
    assert "changed by somebody else just now" in result["msg"]
    assert fake.conf.read_text() == TEXT + "# theirs\n"


def test_somebody_else_writes_before_the_way_back(fake: Fake, run: Callable[..., dict[str, Any]]) -> None:
    def write(call: str) -> None:
        if call == "one -s reload":
            fake.conf.write_text(TEXT + "# theirs\n")

    fake.hook, fake.takes_over = write, False
    result = run()
    assert result["rc"] == 1
    assert "changed by somebody else meanwhile and left so" in result["msg"]
    assert fake.conf.read_text() == TEXT + "# theirs\n"
    assert (pathlib.Path(fake.project_dir) / "compose.d/nginx-upstream/nginx.conf.before").read_text() == TEXT


def test_what_is_not_understood_is_refused(fake: Fake, run: Callable[..., dict[str, Any]]) -> None:
    fake.conf.write_text(TEXT.replace("proxy_pass http://hapi:8080", "set $b hapi:8080; proxy_pass http://$b"))
    planned = run(check=True)
    assert (planned["rc"], planned["changed"], ids(planned)) == (0, False, ["not_understood"])
    assert planned["findings"][0]["object"] == "%s:2" % fake.conf
    result = run()
    assert result["rc"] == 1
    assert "by hand" in result["msg"]
    assert fake.calls == ["one -T", "two -T"] * 2


def test_a_target_in_another_network_is_none(fake: Fake, run: Callable[..., dict[str, Any]]) -> None:
    fake.aliases = ["other"]
    assert ids(run(check=True)) == ["target_missing"]
    assert run()["rc"] == 1
    # A name that is not Docker's can't be looked up here.
    assert run(target="lb.example.org:80")["rc"] == 0


def test_a_change_in_the_future_is_told(fake: Fake, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run()["rc"] == 0
    real = os.stat

    class Late:
        def __init__(self, item: os.stat_result) -> None:
            self.item = item
            self.st_ctime = item.st_ctime + 3600

        def __getattr__(self, name: str) -> Any:
            return getattr(self.item, name)

    monkeypatch.setattr(nginx_upstream.os, "stat", lambda path, **args: Late(real(path, **args)))
    result = run()
    assert not result["changed"]
    assert "in the future" in str(result["warnings"])


def test_absent_leaves_alone_what_was_never_ours(fake: Fake, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    old = time.time() - 3600
    family = [_nginx.Process(1, 0, old, MASTER), _nginx.Process(5, 1, old, "nginx: worker process")]
    monkeypatch.setattr(_nginx, "processes", lambda root: family)
    # The owner's file is newer than the workers, and that is the owner's business.
    assert not run(state="absent")["changed"]
    assert run(check=True)["reloaded"]


def test_a_file_that_went_in_the_middle_of_a_change(fake: Fake, run: Callable[..., dict[str, Any]]) -> None:
    store = _nginx.Store(fake.project_dir)
    store.begin(str(fake.conf), TEXT, "x")
    fake.conf.unlink()
    result = run()
    assert result["rc"] == 1
    assert "Its last bytes are in %s" % store.path(str(fake.conf), "before") in result["msg"]


def test_no_master_is_seen(fake: Fake, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nginx, "processes", lambda root: [])
    result = run()
    assert result["rc"] == 1
    assert "No master process of nginx is seen in /proc for one" in result["msg"]
    assert fake.conf.read_text() == TEXT
