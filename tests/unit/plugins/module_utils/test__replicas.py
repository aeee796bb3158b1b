# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _addresses, _compose, _replicas
from ansible_collections.dghs.bd_fhir.plugins.module_utils._fhir import HttpError
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.http_stub import Server


def container(**changes):
    values = {
        "id": "1", "name": "p-hapi-1", "service": "hapi", "number": 1, "oneoff": False, "state": "running",
        "health": "healthy", "exit_code": 0, "oom_killed": False, "image_ref": "hapi:1", "image_id": "sha256:1",
        "config_hash": "h", "created": "", "started_at": "2026-11-25T09:00:00Z", "restart_count": 0,
        "restart_policy": "no", "addresses": {"backend": "172.18.0.3", "frontend": "172.19.0.3"},
    }  # fmt: skip
    return _compose.Container(**{**values, **changes})


def test_a_container_becomes_a_replica():
    replica = _replicas.from_container(container(), 8080, lambda address, port: True)
    assert (replica.name, replica.url, replica.address) == ("p-hapi-1", "http://172.18.0.3:8080", "172.18.0.3")
    assert replica.networks == ("backend", "frontend")
    assert replica.running


def test_of_several_addresses_the_one_that_listens_is_taken():
    probed = []

    def only_second(address, port):
        probed.append((address, port))
        return address == "172.19.0.3"

    assert _replicas.from_container(container(), 8080, only_second).address == "172.19.0.3"
    assert probed == [("172.18.0.3", 8080), ("172.19.0.3", 8080)]
    assert _replicas.from_container(container(), 8080, lambda *args: False).address == "172.18.0.3"


def test_a_single_address_is_not_probed_first():
    assert _addresses.choose_address(["10.0.0.1"], 1, lambda *args: pytest.fail("probed")) == "10.0.0.1"
    assert _addresses.choose_address([], 1) == ""


def test_listening_is_measured():
    with Server() as server:
        assert _addresses.listening(server.address, server.port)
    assert not _addresses.listening(server.address, server.port)


@pytest.mark.parametrize("state", ["exited", "created", "restarting", "dead", "paused"])
def test_a_container_that_does_not_run_cannot_be_asked_and_says_why(state):
    replica = _replicas.from_container(container(state=state, exit_code=137, addresses={}), 8080)
    assert not replica.running
    assert replica.url == ""
    assert replica.why_not() == "the container is %s (exit code 137)" % state


def test_a_running_container_without_a_network():
    replica = _replicas.from_container(container(addresses={}), 8080)
    assert not replica.running
    assert "on no network" in replica.why_not()


def test_urls():
    items = [
        {"name": "a", "url": "http://10.0.0.1:8080/"},
        {"name": "b", "url": "https://H:8443/fhir/"},
        {"name": "c", "url": "http://[fd00::5]:8080/tenant/fhir?x=y"},
    ]
    result = _replicas.from_urls(items, "/fhir")
    assert [item.url for item in result] == ["http://10.0.0.1:8080", "https://H:8443", "http://[fd00::5]:8080/tenant"]
    assert [item.address for item in result] == ["10.0.0.1", "h", "fd00::5"]
    assert all(item.running for item in result)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([{"name": "a", "url": "10.0.0.1:8080"}], "item a: .*not an absolute"),
        ([{"name": "a", "url": "http://u:hidden@10.0.0.1"}], "url_username"),
        ([{"name": "a", "url": "http://x"}, {"name": "a", "url": "http://y"}], "names a twice"),
    ],
)
def test_bad_urls_are_refused(items, words):
    with pytest.raises(HttpError, match=words) as error:
        _replicas.from_urls(items)
    assert "hidden" not in str(error.value)


def test_discovery_asks_docker_only_without_urls(monkeypatch):
    module = SimpleNamespace(
        params={"urls": [{"name": "a", "url": "http://10.0.0.1"}], "service": "hapi", "port": 8080}
    )
    assert _replicas.discover(module)[1] is None
    docker = SimpleNamespace(containers=lambda service: [container(addresses={"n": "10.0.0.9"})])
    monkeypatch.setattr(_replicas.Docker, "from_module", lambda module: docker)
    module.params["urls"] = None
    replicas, used = _replicas.discover(module)
    assert used is docker
    assert [item.url for item in replicas] == ["http://10.0.0.9:8080"]
