# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""nginx_upstream against a real nginx in a real compose project; what serves is asked over HTTP, not from the module."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _nginx
from ansible_collections.dghs.bd_fhir.plugins.modules import nginx_upstream
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, Project, docker
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.module_utils import test__nginx as unit

pytestmark = pytest.mark.engine

REPOSITORY = Path(__file__).parents[3]
WANTED = _nginx.Wanted(unit.address("hapi:8080"), unit.address("hapi-balancer:8080"), "127.0.0.11", 5)

FRONT = """worker_processes 2;
error_log /dev/stderr warn;
pid /run/nginx.pid;
events { worker_connections 256; }
http {
    access_log off;
    proxy_http_version 1.1;
    # not this one: proxy_pass http://hapi:8080;
    server {
        listen 80;
        location /fhir {
            proxy_set_header Host $host;
            proxy_pass http://hapi:8080;    # the server
        }
        location /rw/ {
            rewrite ^/rw/(.*) /$1 break;
            proxy_pass http://hapi:8080;
        }
        location /plain/ {
            proxy_pass http://hapi:8080;
        }
MORE
    }
}
"""
STATIC = "        location /static/ { proxy_pass http://hapi:8080/x/; }"
BACK = """events {}
http {
    access_log off;
    server {
        listen 8080;
        location / { return 200 "NAME $request_method $request_uri $http_host\\n"; }
        location /fhir/slow { limit_rate 500; return 200 "NAME BODY"; }
        location /plain/redirect { return 302 http://$http_host/elsewhere; }
    }
}
"""
COMPOSE = """
name: %(name)s
services:
  hapi: &back
    image: %(image)s
    stop_grace_period: 1s
    stop_signal: SIGTERM
    volumes: ["./hapi.conf:/etc/nginx/nginx.conf:ro"]
  hapi-balancer:
    <<: *back
    volumes: ["./balancer.conf:/etc/nginx/nginx.conf:ro"]
  nginx:
    image: %(image)s
    restart: unless-stopped
    stop_grace_period: 1s
    stop_signal: SIGTERM
    volumes: ["%(mount)s:ro"]
    command: [%(command)s]
"""


@pytest.fixture(scope="session")
def image() -> str:
    """The lab's nginx, built if the lab has not been up on this machine."""
    found = docker("images", "-q", "bd-fhir-lab/nginx").split()
    if found:
        return found[0]
    directory = str(REPOSITORY / "tests/lab/images/nginx")
    docker("build", "-q", "-t", "bd-fhir-lab/nginx:dev", "--build-arg", "BASE_IMAGE=" + IMAGE, directory)
    return "bd-fhir-lab/nginx:dev"


class Site(Project):
    """hapi, hapi-balancer and an nginx before them."""

    def start(self, image: str, more: str = "", mount: str = "./nginx.conf:/etc/nginx/nginx.conf", command: str = "nginx") -> None:
        self.write(".env", "A=b\n")
        for name in ("hapi", "balancer"):
            self.write(name + ".conf", BACK.replace("NAME", name).replace("BODY", "x" * 2000), 0o644)
        self.conf = self.write("nginx.conf", FRONT.replace("MORE", more), 0o640)
        self.original = self.conf.read_bytes()
        values = {"name": self.name, "image": image, "mount": mount, "command": command + ', "-g", "daemon off;"'}
        self.write("docker-compose.yml", COMPOSE % values, 0o644)
        # nginx does not start before it can resolve hapi.
        self.compose("up", "-d", "hapi", "hapi-balancer")
        self.compose("up", "-d")
        self.wait()

    def container(self, service: str = "nginx") -> str:
        return self.ids(service)[0]

    def look(self, template: str, service: str = "nginx") -> str:
        return docker("inspect", self.container(service), "--format", template).strip()

    def address(self) -> str:
        return self.look("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")

    def started(self) -> str:
        return self.look("{{.Id}} {{.State.StartedAt}} {{.RestartCount}}")

    def ask(self, path: str, method: str = "GET", address: str = "") -> tuple[int, str, Any]:
        connection = http.client.HTTPConnection(address or self.address(), 80, timeout=15)
        try:
            connection.request(method, path, headers={"Host": "fhir.example", "Connection": "close"}, body=b"x" if method == "POST" else None)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers
        finally:
            connection.close()

    def who(self, path: str = "/fhir/x") -> str:
        status, text, dummy = self.ask(path)
        return text.split()[0] if status == 200 else str(status)

    def wait(self, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.ask("/nothing")[0]:
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise AssertionError(docker("logs", "--tail", "5", self.container())) from None
            time.sleep(0.2)

    def workers(self) -> set[str]:
        lines = docker("top", self.container(), "-eo", "pid,args").splitlines()
        return {line.split()[0] for line in lines if "worker process" in line and "shutting" not in line}

    def remove(self) -> None:
        # Containers that compose does not know would keep the network.
        ids = self.ids()
        if ids:
            docker("rm", "-f", *ids, check=False)
        super().remove()

    def kept(self) -> list[str]:
        directory = self.dir / "compose.d" / "nginx-upstream"
        return sorted(os.listdir(directory)) if directory.is_dir() else []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    item = Site(tmp_path / "site", "ngx")
    item.dir.mkdir()
    yield item
    item.remove()


@pytest.fixture
def point(site: Site, tmp_path: Path, run: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def call(**args: Any) -> dict[str, Any]:
        return run(nginx_upstream, **{**arguments(site, tmp_path), **args})

    return call


def arguments(site: Site, tmp_path: Path) -> dict[str, Any]:
    return {
        "project_dir": str(site.dir),
        "original": "hapi:8080",
        "target": "hapi-balancer:8080",
        "lock_dir": str(tmp_path / "lock"),
        "reload_timeout": 20,
    }


class Load:
    """Reads and writes, each on a connection of its own, until the end of the block."""

    def __init__(self, site: Site, threads: int = 3) -> None:
        self.site, self.address = site, site.address()
        self.seen: dict[str, int] = {}
        self.failed: list[str] = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=("POST" if number == 0 else "GET",)) for number in range(threads)]

    def work(self, method: str) -> None:
        while not self.ended.is_set():
            try:
                status, text, dummy = self.site.ask("/fhir/x", method, self.address)
                who = text.split()[0] if status == 200 else ""
                if who:
                    self.seen[who] = self.seen.get(who, 0) + 1
                else:
                    self.failed.append(f"{method} {status}")
            except OSError as exc:
                self.failed.append(f"{method} {exc!r}")
            time.sleep(0.05)

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *dummy: object) -> None:
        time.sleep(0.5)
        self.ended.set()
        for thread in self.threads:
            thread.join()


def ids(result: dict[str, Any]) -> list[str]:
    return [item["id"] for item in result["findings"]]


def test_there_and_back_under_load(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    was, life = site.conf.stat(), site.started()
    assert site.who() == "hapi"

    planned = point(check=True)
    assert planned["changed"]
    assert planned["reloaded"]
    assert site.conf.read_bytes() == site.original
    assert site.kept() == []

    slow: list[str] = []
    ask = threading.Thread(target=lambda: slow.append(site.ask("/fhir/slow")[1]))
    with Load(site) as load:
        ask.start()
        time.sleep(0.3)
        done = point()
    ask.join()
    assert done["rc"] == 0, done
    assert {key: done[key] for key in ("changed", "files", "reloaded")} == {key: planned[key] for key in ("changed", "files", "reloaded")}
    assert load.failed == []
    assert load.seen.keys() == {"hapi", "balancer"}
    # What was in flight ended in the old worker, whole.
    assert slow == ["hapi " + "x" * 2000]
    assert [edit["line"] for edit in done["files"][0]["edits"]] == [13, 16, 17, 20]
    assert done["files"][0]["host_path"] == str(site.conf)
    assert done["backup"] == [str(site.dir / "compose.d/nginx-upstream/nginx.conf.orig")]
    assert Path(done["backup"][0]).read_bytes() == site.original
    assert site.kept() == ["nginx.conf.orig"]
    assert done["findings"] == []

    # In every location the request arrives as it did before.
    assert site.ask("/fhir/x?a=%7Cb")[1] == "balancer GET /fhir/x?a=%7Cb fhir.example\n"
    assert site.ask("/rw/fhir/x?a=b")[1] == "balancer GET /fhir/x?a=b hapi-balancer:8080\n"
    assert site.ask("/plain/x", "POST")[1] == "balancer POST /plain/x hapi-balancer:8080\n"
    assert site.ask("/plain/redirect")[2]["Location"] == "http://fhir.example/elsewhere"

    workers = site.workers()
    again = point()
    assert not again["changed"]
    assert not again["reloaded"]
    assert not point(check=True)["changed"]
    assert site.workers() == workers

    now = site.conf.stat()
    assert (now.st_ino, now.st_mode, now.st_uid, now.st_gid) == (was.st_ino, was.st_mode, was.st_uid, was.st_gid)

    back_planned = point(state="absent", check=True)
    assert back_planned["changed"]
    with Load(site) as load:
        back = point(state="absent")
    assert back["rc"] == 0, back
    assert back["files"] == back_planned["files"]
    assert load.failed == []
    assert site.conf.read_bytes() == site.original
    assert site.conf.stat().st_ino == was.st_ino
    assert site.who() == "hapi"
    assert back["backup"] == []
    assert not (site.dir / "compose.d").exists()
    workers = site.workers()
    assert not point(state="absent")["changed"]
    assert not point(state="absent", check=True)["changed"]
    assert site.workers() == workers
    # Never restarted, never recreated.
    assert site.started() == life


def test_a_target_under_another_address_is_found_without_a_reload(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    assert point()["rc"] == 0
    before = site.look("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "hapi-balancer")
    docker("rm", "-f", site.container("hapi-balancer"))
    # Something takes the address, so that the new one gets another.
    network = site.name + "_default"
    docker("run", "-d", "--name", site.name + "-taker", "--network", network, "--label", "com.docker.compose.project=" + site.name, image)
    workers = site.workers()
    site.compose("up", "-d", "hapi-balancer")
    assert site.look("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "hapi-balancer") != before
    deadline = time.monotonic() + 15
    while site.who() != "balancer":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert site.workers() == workers
    # And nginx starts where the target is missing.
    docker("rm", "-f", site.container("hapi-balancer"))
    docker("restart", "-t", "1", site.container())
    site.wait()
    assert site.who() == "502"
    missing = point()
    assert ids(missing) == ["target_missing"]
    assert missing["findings"][0]["severity"] == "warning"
    assert not missing["changed"]


def test_a_missing_target_is_refused_before_the_first_change(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    planned = point(target="no-such-balancer:8080", check=True)
    assert planned["rc"] == 0
    assert ids(planned) == ["target_missing"]
    done = point(target="no-such-balancer:8080")
    assert done["rc"] == 1
    assert "target_missing on no-such-balancer:8080" in done["msg"]
    assert site.conf.read_bytes() == site.original
    assert site.kept() == []


def test_what_nginx_refuses_is_put_back(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    life, workers = site.started(), site.workers()
    with Load(site) as load:
        done = point(target="nobody.invalid:8080", resolver="")
    assert done["rc"] == 1
    assert 'host not found in upstream "nobody.invalid"' in done["msg"]
    assert "have their old bytes again" in done["msg"]
    assert site.conf.read_bytes() == site.original
    assert site.kept() == []
    assert load.failed == []
    assert site.workers() == workers
    assert site.started() == life
    assert point()["rc"] == 0


def test_what_the_master_does_not_take_over_is_put_back(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    """nginx -t can't see everything; here the master is kept from loading what the test accepted."""
    site.start(image)
    pid = site.look("{{.State.Pid}}")
    subprocess.run(["kill", "-STOP", pid], check=True)
    try:
        done = point(reload_timeout=2)
    finally:
        subprocess.run(["kill", "-CONT", pid], check=True)
    assert done["rc"] == 1
    assert "no new workers took over" in done["msg"]
    assert site.conf.read_bytes() == site.original
    assert site.kept() == []
    time.sleep(1.5)
    assert site.who() == "hapi"


@pytest.mark.parametrize("same_bytes", [False, True])
def test_a_stale_mount_is_refused(site: Site, point: Callable[..., dict[str, Any]], image: str, same_bytes: bool) -> None:
    site.start(image)
    copy = site.dir / "copy"
    copy.write_bytes(site.original if same_bytes else site.original + b"# newer\n")
    copy.rename(site.conf)
    planned = point(check=True)
    assert planned["rc"] == 0
    assert ids(planned) == ["stale_mount"]
    assert not planned["changed"]
    done = point()
    assert done["rc"] == 1
    assert "stale_mount on %s" % site.conf in done["msg"]
    assert "docker restart" in done["msg"]
    docker("restart", "-t", "1", site.container())
    site.wait()
    assert point()["rc"] == 0
    assert site.who() == "balancer"


def test_a_stale_mount_that_is_seen_only_after_the_write(
    site: Site, point: Callable[..., dict[str, Any]], image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.start(image)
    copy = site.dir / "copy"
    copy.write_bytes(site.original)
    copy.rename(site.conf)
    monkeypatch.setattr(_nginx, "same_file", lambda *args: None)
    done = point()
    assert done["rc"] == 1
    assert "does not see the new bytes" in done["msg"]
    assert site.conf.read_bytes() == site.original
    assert site.kept() == []


def test_files_in_the_image_are_not_edited(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    tag = site.name + "-baked"
    site.write("nginx.conf", FRONT.replace("MORE", ""))
    site.write("Dockerfile", "FROM %s\nCOPY nginx.conf /etc/nginx/nginx.conf\n" % image)
    docker("build", "-q", "-t", tag, str(site.dir))
    try:
        site.start(tag, mount="./nothing:/nothing")
        done = point()
        assert done["rc"] == 1
        assert "line 13, `proxy_pass http://hapi:8080;` becomes `set $bd_fhir_upstream hapi-balancer;" in done["msg"]
        planned = point(check=True)
        assert ids(planned) == ["not_on_bind_mount"]
        assert planned["files"][0]["host_path"] == ""
    finally:
        site.remove()
        docker("rmi", tag)


def test_a_directory_with_includes_and_later_edits_of_the_owner(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.write("etc/hapi.inc", "proxy_pass http://hapi:8080;\n", 0o644)
    site.write("etc/available/a.conf", "server { listen 81; location / { include /etc/nginx/conf.d/hapi.inc; } }\n", 0o644)
    (site.dir / "etc/enabled").mkdir()
    (site.dir / "etc/enabled/a.conf").symlink_to("../available/a.conf")
    server = "server { listen 80; location /fhir { proxy_pass http://hapi:8080; } }"
    site.write("etc/nginx.conf", "events {}\nhttp {\n include enabled/*.conf;\n %s\n}\n" % server, 0o644)
    site.start(image, mount="./etc:/etc/nginx/conf.d", command='nginx, "-c", "/etc/nginx/conf.d/nginx.conf"')
    done = point()
    assert done["rc"] == 0, done
    assert sorted(item["host_path"] for item in done["files"]) == [str(site.dir / "etc/hapi.inc"), str(site.dir / "etc/nginx.conf")]
    assert site.who() == "balancer"
    # The owner adds a server, and replaces the file by a rename: harmless in a directory mount.
    conf = site.dir / "etc/nginx.conf"
    copy = site.dir / "etc/copy"
    more = "client_max_body_size 7m; server { listen 82; location / { proxy_pass http://hapi:8080; } }"
    copy.write_text(conf.read_text().replace("http {", "http {\n " + more))
    copy.rename(conf)
    again = point()
    assert again["rc"] == 0, again
    assert [item["host_path"] for item in again["files"]] == [str(conf)]
    assert "hapi:8080" not in docker("exec", site.container(), "nginx", "-T", "-c", "/etc/nginx/conf.d/nginx.conf")
    back = point(state="absent")
    assert back["rc"] == 0, back
    assert conf.read_text() == "events {}\nhttp {\n %s\n include enabled/*.conf;\n %s\n}\n" % (more, server)
    assert (site.dir / "etc/hapi.inc").read_text() == "proxy_pass http://hapi:8080;\n"
    assert site.who() == "hapi"


def test_a_static_name_is_told_and_heals_when_the_target_went_first(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image, STATIC)
    done = point()
    assert ids(done) == ["static_upstream"]
    assert done["findings"][0]["object"] == "%s:22" % site.conf
    assert site.ask("/static/y")[1].startswith("balancer GET /x/y")
    # In the wrong order: the balancer goes, nginx restarts and can't start any more.
    docker("rm", "-f", site.container("hapi-balancer"))
    docker("restart", "-t", "1", site.container())
    deadline = time.monotonic() + 20
    while "restarting" not in site.look("{{.State.Status}}"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    planned = point(state="absent", check=True, reload_timeout=2)
    assert planned["changed"]
    back = point(state="absent", reload_timeout=60)
    assert back["rc"] == 0, back
    assert site.conf.read_bytes() == site.original
    assert site.kept() == []
    site.wait(60)
    assert site.who() == "hapi"
    assert not point(state="absent")["changed"]


def test_nginx_that_refuses_its_configuration_already(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    site.conf.write_bytes(site.original.replace(b"listen 80;", b"listen 80; nonsense;"))
    planned = point(check=True)
    assert planned["rc"] == 0
    assert ids(planned) == ["config_refused"]
    done = point()
    assert done["rc"] == 1
    assert 'unknown directive "nonsense"' in done["msg"]
    assert b"hapi-balancer" not in site.conf.read_bytes()


def test_nothing_that_names_the_original(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    done = point(original="hapi:9999")
    assert done["rc"] == 1
    assert "these servers: hapi:8080" in done["msg"]
    assert not point(original="hapi:9999", state="absent")["changed"]


def test_nginx_not_running(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    docker("stop", "-t", "1", site.container())
    assert ids(point(check=True)) == ["nginx_not_running"]
    assert "-nginx-1 is exited" in point()["msg"]
    assert "no container of service front" in point(service="front")["msg"]


def test_a_file_that_nginx_has_not_loaded(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    """Somebody puts the wanted bytes in place, with an old time, and forgets to reload."""
    site.start(image)
    assert point()["rc"] == 0
    edited, times = site.conf.read_bytes(), site.conf.stat()
    time.sleep(0.2)
    site.conf.write_bytes(site.original)
    docker("exec", site.container(), "nginx", "-s", "reload")
    time.sleep(1.5)
    site.conf.write_bytes(edited)
    os.utime(site.conf, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert site.who() == "hapi"
    planned = point(check=True)
    assert planned["changed"]
    assert ids(planned) == ["reload_due"]
    done = point()
    assert done["changed"]
    assert done["reloaded"]
    assert done["files"] == []
    assert site.who() == "balancer"
    assert not point()["changed"]


def after_text(site: Site) -> str:
    text = site.original.decode()
    return unit.forward({"/n": text}, WANTED)[0]["/n"]


def test_a_write_that_was_cut_off(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    store, before, after = _nginx.Store(str(site.dir)), site.original.decode(), after_text(site)
    store.begin(str(site.conf), before, after)
    _nginx.overwrite(str(site.conf), after[:400] + before[400:])
    torn = site.conf.read_bytes()
    planned = point(check=True)
    assert planned["changed"]
    assert ids(planned) == ["interrupted_write"]
    assert site.conf.read_bytes() == torn
    done = point()
    assert done["rc"] == 0, done
    assert done["recovered"] == [str(site.conf)]
    assert site.conf.read_text() == after
    assert site.kept() == ["nginx.conf.orig"]
    assert site.who() == "balancer"
    # Also on the way back.
    store.begin(str(site.conf), after, before)
    _nginx.overwrite(str(site.conf), before[:300] + after[300:])
    assert point(state="absent")["rc"] == 0
    assert site.conf.read_bytes() == site.original
    assert site.who() == "hapi"


def test_a_write_that_was_never_loaded(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    store, before, after = _nginx.Store(str(site.dir)), site.original.decode(), after_text(site)
    store.keep(str(site.conf), "orig", before)
    store.begin(str(site.conf), before, after)
    _nginx.overwrite(str(site.conf), after)
    # A worker that dies is replaced by one that knows no more than the master does.
    for pid in site.workers():
        subprocess.run(["kill", "-9", pid], check=True)
    time.sleep(1)
    assert site.who() == "hapi"
    assert point(check=True)["reloaded"]
    done = point()
    assert done["changed"]
    assert done["reloaded"]
    assert site.who() == "balancer"
    assert not point()["changed"]


def test_a_write_that_nginx_refuses_and_whose_run_was_killed(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    store, before = _nginx.Store(str(site.dir)), site.original.decode()
    bad = before.replace("http://hapi:8080", "http://nobody.invalid")
    store.begin(str(site.conf), before, bad)
    _nginx.overwrite(str(site.conf), bad)
    planned = point(check=True)
    assert planned["changed"]
    assert ids(planned) == ["interrupted_write"]
    done = point()
    assert done["rc"] == 0, done
    assert done["recovered"] == [str(site.conf)]
    assert site.conf.read_text() == after_text(site)
    assert site.who() == "balancer"


def test_the_owner_wrote_after_a_kill(site: Site, point: Callable[..., dict[str, Any]], image: str) -> None:
    site.start(image)
    store = _nginx.Store(str(site.dir))
    store.begin(str(site.conf), "something", "else")
    done = point()
    assert done["rc"] == 0, done
    assert done["recovered"] == []
    assert site.conf.read_text() == after_text(site)
    assert site.kept() == ["nginx.conf.orig"]


RUN = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.modules import nginx_upstream
with patch_module_args(json.loads(sys.argv[1])):
    nginx_upstream.main()
"""


def test_killed_at_any_moment(site: Site, point: Callable[..., dict[str, Any]], image: str, tmp_path: Path) -> None:
    site.start(image)
    note = site.dir / "compose.d/nginx-upstream/nginx.conf.after"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    states = []
    with Load(site) as load:
        for state, delay in [("present", 0.0), ("absent", 0.05), ("present", 0.15), ("absent", 0.3), ("present", 0.6)]:
            args = {**arguments(site, tmp_path), "state": state}
            command = [sys.executable, "-c", RUN, json.dumps(args)]
            child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not note.exists() and child.poll() is None:
                time.sleep(0.001)
            time.sleep(delay)
            child.kill()
            child.wait()
            states.append(len(site.kept()))
            done = point(state=state)
            assert done["rc"] == 0, done
            assert site.who() == ("balancer" if state == "present" else "hapi")
            assert site.kept() == (["nginx.conf.orig"] if state == "present" else [])
            assert not point(state=state)["changed"]
    assert load.failed == []
    # At least once it was killed with the change under way.
    assert max(states) == 3, states


def test_real_nginx_accepts_each_edit(image: str, tmp_path: Path) -> None:
    """The table of the unit tests, asked of the real parser."""
    names = {}
    for number, (label, text, _expected, found) in enumerate(unit.TABLE):
        if label in ("upstream that resolves", "stream", "glued variable", "variable of a variable") or "not_understood" in found:
            # Needs another nginx, or is not edited.
            continue
        names[number] = label
        after = unit.forward({unit.MAIN: text})[0][unit.MAIN]
        (tmp_path / f"{number}-before.conf").write_text(text)
        (tmp_path / f"{number}-after.conf").write_text(after)
    script = 'for f in /t/*.conf; do nginx -t -q -c "$f" 2>/dev/null && echo "$f"; done; true'
    hosts = ["--add-host", "hapi:127.0.0.9", "--add-host", "hapi-balancer:127.0.0.9", "--add-host", "hapi-old:127.0.0.9"]
    good = docker("run", "--rm", *hosts, "-v", f"{tmp_path}:/t:ro", image, "sh", "-c", script)
    before = {number for number in names if f"/t/{number}-before.conf" in good}
    refused = [names[number] for number in before if f"/t/{number}-after.conf" not in good]
    assert refused == []
    assert len(before) >= 25, [label for number, label in names.items() if number not in before]
