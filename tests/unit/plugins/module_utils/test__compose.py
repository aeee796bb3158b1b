# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure parts of _compose, on what the real tools printed (tests/unit/plugins/fixtures/compose)."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _compose

FIXTURES = Path(__file__).parents[1] / "fixtures" / "compose"


def containers() -> dict[str, _compose.Container]:
    data = json.loads((FIXTURES / "inspect-20.10.json").read_text())
    return {item.service: item for item in (_compose.parse_container(entry) for entry in data)}


def test_container() -> None:
    item = containers()["full"]
    assert item.name == "cmp-p2-full-1"
    assert (item.number, item.oneoff, item.state, item.exit_code) == (1, False, "running", 0)
    assert item.health in ("starting", "healthy")
    assert sorted(item.addresses) == ["cmp-p2_back", "cmp-p2_front"]
    assert "127.0.0.1:18097->80/tcp" in item.ports
    assert item.memory_limit == 128 * 1024 * 1024
    assert item.stop_timeout == 90
    assert [os.path.basename(path) for path in item.config_files] == ["docker-compose.yml"]
    assert {"type": "bind", "name": "", "source": "/srv/compose-scratch/p2/conf", "destination": "/conf", "rw": False} in item.mounts
    assert item.image_id.startswith("sha256:")
    assert containers()["three"].addresses == {}


def test_what_is_shown_holds_no_environment() -> None:
    text = json.dumps([item.public() for item in containers().values()])
    assert "sw0rd" in (FIXTURES / "inspect-20.10.json").read_text()
    assert "sw0rd" not in text


def expected() -> _compose.Expected:
    item = containers()["two"]
    return _compose.Expected("two", 1, item.config_hash, (item.config_hash,), item.image_ref, item.image_id, False, None, "", [], 0)


def test_outdated() -> None:
    item = containers()["two"]
    assert not item.outdated(expected())
    assert not item.outdated(replace(expected(), image_id=None))
    assert item.outdated(replace(expected(), config_hash="0", config_hashes=("0",)))
    assert item.outdated(replace(expected(), image_id="sha256:0"))


def test_hashes() -> None:
    found = _compose.parse_hashes((FIXTURES / "hash-2.40.3.txt").read_text())
    assert sorted(found) == ["full", "three", "two"]
    with pytest.raises(ValueError, match="service and hash"):
        _compose.parse_hashes("no such flag: --hash\n")


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10.0), ("1m30s", 90.0), ("1h0m0.5s", 3600.5), ("500ms", 0.5), ("", None), (None, None)])
def test_duration(text: str | None, seconds: float | None) -> None:
    assert _compose.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["10", "ten", "1m x"])
def test_duration_goes_red(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        _compose.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("67108864", 64 * 1024**2), ("64m", 64 * 1024**2), ("100M", 100 * 1024**2), ("1.5gb", 3 * 1024**3 // 2), ("2GiB", 2 * 1024**3),
     (5, 5), ("", 0), (None, 0)],
)  # fmt: skip
def test_bytes(text: object, size: int) -> None:
    assert _compose.parse_bytes(text) == size


def test_bytes_goes_red() -> None:
    with pytest.raises(ValueError, match="not a size"):
        _compose.parse_bytes("much")


def test_env_files_are_merged_as_up_does(tmp_path: Path) -> None:
    """Compose 2.24.7 to 2.27.0 leaves env_file in what `config` prints; recorded from 2.24.7."""
    one, two = tmp_path / "one.env", tmp_path / "two.env"
    one.write_text("A='x$y'\nB=1\nC=$OUTER\n")
    two.write_text("B=2\nD=$A$B\n")
    config = {
        "services": {
            "full": {
                "environment": {"A": "kept"},
                "env_file": [{"path": str(one), "required": True}, {"path": str(two), "required": True}],
            },
            "two": {"env_file": [{"path": str(tmp_path / "none"), "required": False}]},
            "three": {"image": "x"},
        }
    }
    # As in compose-go, a reference takes an earlier file before its own.
    _compose.merge_env_files(config, {"OUTER": "o"})
    assert config["services"]["full"] == {"environment": {"A": "kept", "B": "2", "C": "o", "D": "x$$y1"}}
    assert config["services"]["two"] == {}
    with pytest.raises(_compose.ComposeError, match="does not exist"):
        _compose.merge_env_files({"services": {"a": {"env_file": [str(tmp_path / "none")]}}}, {})


def test_config_fields() -> None:
    services = json.loads((FIXTURES / "config-2.40.3.json").read_text())["services"]
    assert _compose.config_ports(services["full"]) == ["127.0.0.1:18097->80/tcp", "18098->81/udp"]
    assert _compose.config_memory(services["full"]) == 128 * 1024 * 1024
    assert _compose.config_memory(services["two"]) == 100 * 1024 * 1024
    assert _compose.config_memory({}) == 0
    assert _compose.config_scale({"scale": 3, "deploy": {"replicas": 3}}) == 3
    assert _compose.config_scale({"deploy": {"replicas": 0}}) == 0
    assert _compose.config_scale({}) == 1


@pytest.mark.parametrize(("older", "newer"), [("2.9.0", "2.20.0"), ("20.10.24+dfsg1", "25.0"), ("v2.20.0", "v2.40.3-desktop.1"), ("", "1")])
def test_versions_compare(older: str, newer: str) -> None:
    assert _compose.version_tuple(older) < _compose.version_tuple(newer)


def test_scrub_takes_out_what_may_be_a_secret() -> None:
    text = "\n".join(
        [
            'time="2026" level=warning msg="The \\"sw0rd\\" variable is not set. Defaulting to a blank string."',
            "failed to read .env: line 3: unterminated quoted value 'pa$$w0rd",
            'line 1: unexpected character "$" in variable name "se$cret=1"',
            'invalid template: "se${cret"',
            "service web: connecting with t0psecret failed",
        ]
    )
    cleaned = _compose.scrub(text, ["t0psecret", "x"])
    for secret in ("sw0rd", "w0rd", "cret=1", "${cret", "t0psecret"):
        assert secret not in cleaned
    assert "line 3: unterminated quoted value" in cleaned
    assert "service web" in cleaned


def test_default_files(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    assert _compose.default_files(str(site), {}) == []
    (tmp_path / "compose.yml").touch()
    # As Compose does: the directories above are searched too.
    assert _compose.default_files(str(site), {}) == [str(tmp_path / "compose.yml")]
    (site / "docker-compose.yml").touch()
    (site / "docker-compose.override.yml").touch()
    assert _compose.default_files(str(site), {}) == [str(site / "docker-compose.yml"), str(site / "docker-compose.override.yml")]
    assert _compose.default_files(str(site), {"COMPOSE_FILE": "a.yml:/b.yml"}) == [str(site / "a.yml"), "/b.yml"]
    env = {"COMPOSE_FILE": "a:b.yml,c.yml", "COMPOSE_PATH_SEPARATOR": ","}
    assert _compose.default_files(str(site), env) == [str(site / "a:b.yml"), str(site / "c.yml")]


def test_scan_finds_lines_as_an_editor_counts_them() -> None:
    found = _compose.scan_services((FIXTURES / "full.yml").read_text())
    lines = (FIXTURES / "full.yml").read_text().splitlines()
    assert sorted(found) == ["full", "three", "two"]
    for service, key in [("full", "ports"), ("full", "env_file"), ("two", "env_file"), ("three", "network_mode")]:
        assert lines[found[service][key] - 1].strip().startswith(key + ":")
    assert "container_name" not in found["full"]
    # Taken in through `<<: *common`.
    assert lines[found["two"]["restart"] - 1].strip().startswith("restart:")
    assert found["two"]["deploy.replicas"] == found["two"]["deploy"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("services:\n  web:\n    image: x\n    container_name: y\n", 4),
        ("# services:\nservices:\n\n    web:\n        'container_name' : y\n", 5),
        ("services:\n  web: {image: x, container_name: y}\n", 2),
        ("services:\r\n  web:\r\n    container_name: y\r\n", 3),
        ("x-a: &a\n  container_name: y\nservices:\n  web:\n    <<: *a\n", 2),
        ("x-a: &a {container_name: y}\nservices:\n  web:\n    <<: [*b, *a]\n", 1),
        ("services:\n  web:\n    labels:\n      container_name: y\n", None),
        ("services:\n  web:\n    command: |\n      container_name: y\n", None),
        ("services:\n  web:\n    environment:\n      - container_name=y\n", None),
        ("services:\n  other:\n    container_name: y\n  web:\n    image: x\n", None),
        ("services:\n  web:\n    # container_name: y\n", None),
        ("volumes:\n  web:\n    container_name: y\nservices:\n  web:\n    image: x\n", None),
        ("not yaml at all {{", None),
    ],
)
def test_scan(text: str, line: int | None) -> None:
    assert _compose.scan_services(text).get("web", {}).get("container_name") == line


def test_compare_says_which_service_changes_and_why() -> None:
    before = ({"services": {"a": {"environment": {"X": "old"}, "image": "1"}, "b": {}, "s": {"scale": 1}}}, {"a": "1", "b": "2", "s": "5"})
    after = ({"services": {"a": {"environment": {"X": "new", "Y": "z"}, "image": "2"}, "c": {}, "s": {"scale": 3}}}, {"a": "9", "c": "3", "s": "5"})
    found = {item["service"]: item for item in _compose.compare(before, after, {"a": "/x/docker-compose.yml:7"})}
    assert sorted(found) == ["a", "b", "c"]
    assert found["a"]["reason"] == "changes in environment (X, Y), image; the service has an env_file (/x/docker-compose.yml:7)"
    assert found["b"]["after"] is None
    assert found["c"]["before"] is None
    assert "old" not in json.dumps(found)
    assert "z" not in found["a"]["reason"].split("(")[1]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ({"deploy": {"replicas": 1, "resources": {}}}, {"deploy": {"replicas": 3}, "image": "2"}, "changes in image"),
        ({}, {"deploy": {"replicas": 3, "resources": {}}}, "changes in deploy (the section comes or goes)"),
        ({"deploy": {"replicas": 1}}, {"deploy": {"replicas": 1, "resources": {"limits": {"cpus": 1}}}}, "changes in deploy"),
        ({}, {}, "its hash changes"),
    ],
)
def test_reason_leaves_out_a_count_that_is_not_hashed(old: dict[str, object], new: dict[str, object], reason: str) -> None:
    before, after = ({"services": {"a": old}}, {"a": "1"}), ({"services": {"a": new}}, {"a": "2"})
    assert [item["reason"] for item in _compose.compare(before, after, {})] == [reason]


def test_shadow_follows_nothing_out_of_itself(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "compose.d").mkdir(parents=True)
    (site / "data").mkdir()
    (site / "data" / "keep").write_text("x")
    (site / ".env").write_text("A=1\n")
    (site / "docker-compose.yml").write_text(f"env_file: {site}/.env\nother: {site}-data\n")
    fragment = str(site / "compose.d" / "hapi.yml")
    shadow = _compose.Shadow(str(site), str(site / ".env"), [fragment, str(site / ".env")], [], str(tmp_path))
    shadow.build({fragment: "new", str(site / ".env"): "A=2\n"})
    root = Path(shadow.root)
    assert (root / ".env").read_text() == "A=2\n"
    assert (root / "compose.d" / "hapi.yml").read_text() == "new"
    assert (root / "docker-compose.yml").read_text() == f"env_file: {root}/.env\nother: {site}-data\n"
    assert (root / "data").is_symlink()
    assert root.parent.stat().st_mode & 0o777 == 0o700
    shadow.build({})
    assert (root / ".env").read_text() == "A=1\n"
    assert not (root / "compose.d" / "hapi.yml").exists()
    shadow.remove()
    assert not root.exists()
    assert (site / "data" / "keep").exists()
    assert (site / ".env").read_text() == "A=1\n"
    with pytest.raises(_compose.ComposeError, match="not inside"):
        _compose.Shadow(str(site), str(site / ".env"), ["/etc/passwd"], [], str(tmp_path))
