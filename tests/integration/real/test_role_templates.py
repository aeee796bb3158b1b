# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Case 14: values that YAML would take for something else, through the roles' templates and back, by PyYAML and by Compose."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[3]
EMOJI = "\U0001f600"
# What a careless template turns into a tag, a boolean, a number, nothing, an error, a list, and half a value.
WORDS = ("!x", "yes", "0123", "1e3", "null", "@x", "- x", "pa$s", "a: b", "#x", "'tis", 'a"b', "%x", "~", "অডিট", EMOJI, "${", "$$")
# Of these, those that Compose takes as a name of a service or network.
NAMES = ("yes", "0123", "1e3", "null", "no-1", "on")

Render = Callable[[str, list[dict[str, Any]]], list[str]]


class Loader(yaml.SafeLoader):
    """Knows Compose's own tags."""


Loader.add_constructor("!reset", lambda loader, node: None)


def load(text: str) -> Any:
    return yaml.load(text, Loader=Loader)  # noqa: S506 - a SafeLoader


def service(networks: list[str]) -> dict[str, Any]:
    return {"networks": networks, "stop_grace_period": 10, "image": "none", "replicas": []}


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Have Ansible render a role's fragment once for each set of variables, with the role's own defaults and vars below them."""

    def call(role: str, cases: list[dict[str, Any]]) -> list[str]:
        place = tmp_path_factory.mktemp("render")
        names = sorted({name for case in cases for name in case})
        assert all(sorted(case) == names for case in cases)
        play = [{
            "hosts": "localhost", "connection": "local", "gather_facts": False,
            "vars_files": [str(ROOT / "roles" / role / part / "main.yml") for part in ("defaults", "vars")],
            "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}",
                     "preflight_deployment": {"services": {name: service(["a"]) for name in ("nginx", "hapi", *NAMES)}}},
            "tasks": [{
                "name": "Render",
                "ansible.builtin.template": {"src": str(ROOT / f"roles/{role}/templates/fragment.yml.j2"), "dest": "{{ item.dest }}", "mode": "0600"},
                "vars": {name: "{{ item.vars[%r] }}" % name for name in names},
                "loop": "{{ _cases }}", "loop_control": {"label": "{{ item.dest }}"},
            }],
        }]
        paths = [place / f"rendered-{number}.yml" for number in range(len(cases))]
        (place / "play.yml").write_text(yaml.safe_dump(play))
        data = {"_cases": [{"dest": str(path), "vars": case} for path, case in zip(paths, cases)]}
        (place / "cases.json").write_text(json.dumps(data))
        done = subprocess.run(["ansible-playbook", "-i", "localhost,", str(place / "play.yml"), "-e", f"@{place}/cases.json"],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        return [path.read_text(encoding="utf-8") for path in paths]

    return call


def compose(tmp_path: Path, owners: dict[str, Any], fragment: str) -> dict[str, Any]:
    """What the real Compose reads from the owner's file with the fragment; a word of warning is a failure too."""
    folder = tmp_path / "site"
    folder.mkdir(exist_ok=True)
    # JSON is YAML in which everything is quoted.
    (folder / "docker-compose.yml").write_text(json.dumps({"name": "rev-templates", **owners}))
    (folder / "fragment.yml").write_text(fragment, encoding="utf-8")
    (folder / ".env").touch()
    base = ["docker", "compose", "--env-file", ".env", "-f", "docker-compose.yml", "-f", "fragment.yml"]
    done = subprocess.run([*base, "config", "--format", "json"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def balancer(**values: Any) -> dict[str, Any]:
    return {"balancer_image": "haproxy:3.0", "balancer_memory_limit": "128m", "balancer_networks": ["a"], **values}


def test_balancer_values_come_back_from_yaml(render: Render) -> None:
    words = [word for word in WORDS if word != EMOJI]
    cases = [balancer(balancer_image=word, balancer_memory_limit=word, balancer_networks=[word]) for word in words]
    for word, text in zip(words, render("balancer", cases)):
        found = load(text)["services"]["hapi-balancer"]
        # Compose expands a dollar sign in every value; doubled it stands for itself.
        assert found["image"] == word.replace("$", "$$"), text
        assert {key: found[key] for key in ("mem_limit", "networks")} == {"mem_limit": word, "networks": [word]}, text
        assert isinstance(found["image"], str)


@pytest.mark.full
def test_balancer_values_come_back_from_compose(render: Render, tmp_path: Path) -> None:
    owners = {"services": {"nginx": {"image": "none"}}, "networks": {name: {} for name in (*NAMES, "a")}}
    images = [word for word in WORDS if "$" not in word and word != EMOJI]
    for word, text in zip(images, render("balancer", [balancer(balancer_image=word) for word in images])):
        assert compose(tmp_path, owners, text)["services"]["hapi-balancer"]["image"] == word
    for name, text in zip(NAMES, render("balancer", [balancer(balancer_networks=[name]) for name in NAMES])):
        assert list(compose(tmp_path, owners, text)["services"]["hapi-balancer"]["networks"]) == [name]
    for text in render("balancer", [balancer(balancer_memory_limit=size) for size in ("128m", "0134217728")]):
        assert int(compose(tmp_path, owners, text)["services"]["hapi-balancer"]["mem_limit"]) == 134217728


@pytest.mark.parametrize("word", [word for word in WORDS if "$" in word])
def test_a_dollar_in_the_balancers_image_is_not_expanded(render: Render, tmp_path: Path, word: str) -> None:
    (text,) = render("balancer", [balancer(balancer_image=word)])
    found = compose(tmp_path, {"services": {"nginx": {"image": "none"}}, "networks": {"a": {}}}, text)
    # `config` doubles each dollar sign, so that its output can be read again.
    assert found["services"]["hapi-balancer"]["image"].replace("$$", "$") == word


def hapi(before: dict[str, str | None], name: str = "hapi", fragment: str = "") -> dict[str, Any]:
    return {"hapi_service": name, "hapi_replicas": 3, "__hapi_env_plan": {"previous": before}, "hapi_env": dict.fromkeys(before, "written"),
            "__hapi_fragment_file": {"content": base64.b64encode(fragment.encode()).decode()}}


def remembered(text: str) -> Any:
    return json.loads(base64.b64decode(load(text)["x-bd-fhir-before"]))


def test_what_the_hapi_fragment_remembers_is_remembered_exactly(render: Render) -> None:
    cases = [{"HAPI_IMAGE": word, "GONE": None} for word in WORDS]
    first = render("hapi", [hapi(case) for case in cases])
    for case, text in zip(cases, first):
        found = load(text)
        assert remembered(text) == {name: [value, "written"] for name, value in case.items()}
        assert found["services"]["hapi"]["scale"] == 3
        assert found["services"]["hapi"]["stop_grace_period"] == "45s"
    # A run that changes nothing leaves the file as it is; one that changes a name remembers what that name was before it.
    assert render("hapi", [hapi({}, fragment=text) for text in first]) == first
    for text in render("hapi", [hapi({"HAPI_IMAGE": "newer"}, fragment=text) for text in first]):
        assert remembered(text) == {"HAPI_IMAGE": ["newer", "written"], "GONE": [None, "written"]}


@pytest.fixture(scope="module")
def remembering(render: Render) -> dict[str, str]:
    return dict(zip(WORDS, render("hapi", [hapi({"HAPI_NOTE": word}) for word in WORDS])))


@pytest.mark.parametrize("word", WORDS)
def test_what_the_hapi_fragment_remembers_does_not_break_compose(remembering: dict[str, str], tmp_path: Path, word: str) -> None:
    """The owner's every command reads this file: no error, no warning, and no value of .env taken for an expression."""
    assert compose(tmp_path, {"services": {"hapi": {"image": "none"}}}, remembering[word])["services"]["hapi"]["scale"] == 3


@pytest.fixture(scope="module")
def scaling(render: Render) -> dict[str, str]:
    return dict(zip(NAMES, render("hapi", [hapi({}, name) for name in NAMES])))


@pytest.mark.parametrize("name", NAMES)
def test_a_service_of_any_name_is_scaled(scaling: dict[str, str], tmp_path: Path, name: str) -> None:
    found = compose(tmp_path, {"services": {name: {"image": "none"}}}, scaling[name])
    assert list(found["services"]) == [name]
    assert found["services"][name]["scale"] == 3


def pgbouncer(environment: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    return {"_pgbouncer_fragment_environment": environment, "__pgbouncer_memory": memory}


def test_what_the_pgbouncer_fragment_gives_arrives_in_the_container_exactly(render: Render, tmp_path: Path) -> None:
    words = [word for word in WORDS if word != EMOJI]
    cases = [pgbouncer({"pooler": {"SIZE": word, "OTHER": 30}}, {word: {"settings": {"default_pool_size": ["20", word]}}}) for word in words]
    # Whatever form the owner's own environment has: a list, as here, or a mapping.
    owners = {"services": {"pooler": {"image": "none", "environment": ["SIZE=20", "KEPT=yes"]}}}
    for case, word, text in zip(cases, words, render("pgbouncer", cases)):
        assert remembered(text) == case["__pgbouncer_memory"]
        found = compose(tmp_path, owners, text)["services"]["pooler"]["environment"]
        assert {name: value.replace("$$", "$") for name, value in found.items()} == {"SIZE": word, "OTHER": "30", "KEPT": "yes"}


def test_a_pgbouncer_fragment_that_only_remembers_changes_no_service(render: Render, tmp_path: Path) -> None:
    (text,) = render("pgbouncer", [pgbouncer({}, {"fhir": {"databases": {"postgres-fhir": [30, "/etc/postgresql/postgresql.conf"]}}})])
    assert list(load(text)) == ["x-bd-fhir-before"]
    owners = {"services": {"pooler": {"image": "none", "environment": {"SIZE": "20"}}}}
    with_it = compose(tmp_path, owners, text)["services"]
    assert with_it == compose(tmp_path, owners, "{}\n")["services"]


@pytest.mark.parametrize("name", NAMES)
def test_a_pooler_of_any_name_is_given_its_size(render: Render, tmp_path: Path, name: str) -> None:
    (text,) = render("pgbouncer", [pgbouncer({name: {"SIZE": "30"}}, {})])
    found = compose(tmp_path, {"services": {name: {"image": "none"}}}, text)["services"]
    assert {service: config["environment"] for service, config in found.items()} == {name: {"SIZE": "30"}}


def test_the_judge_goes_red(tmp_path: Path) -> None:
    """The same words, put in as a careless template would."""
    assert load("image: yes") != {"image": "yes"}
    assert load("image: 0123") != {"image": "0123"}
    with pytest.raises(AssertionError):
        compose(tmp_path, {"services": {"hapi": {"image": "none"}}}, "services:\n  hapi:\n    labels: {a: 'pa$s'}\n")
    assert docker("compose", "version", "--short").strip()
