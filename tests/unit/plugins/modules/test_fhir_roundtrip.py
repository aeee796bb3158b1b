# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps against a small server that keeps resources; the real HAPI is asked by the lab's tests."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._replicas import Replica
from ansible_collections.dghs.bd_fhir.plugins.modules import fhir_roundtrip
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.http_stub import Server

SECRET = "s3cr3t-token-value"
STEPS = ["create", "read", "vread", "update", "search", "history", "everything", "delete", "gone"]


class Store:
    """A FHIR server with the interactions that are asked; broken names those that go wrong, and how."""

    def __init__(self, **broken):
        self.broken = broken
        self.versions = {}
        self.deleted = set()
        self.marks = []

    def __call__(self, asked):
        path, query = asked.path.partition("?")[::2]
        words = path.split("/")[2:]
        step = self.step(asked.method, words, query)
        self.marks.append((step, asked.headers.get("x-fhir-read-after", "")))
        return self.broken[step](asked) if step in self.broken else self.answer(step, words, query, asked)

    @staticmethod
    def step(method, words, query):
        if method != "GET":
            return {"POST": "create", "PUT": "update", "DELETE": "delete"}[method]
        if query:
            return "search"
        last = words[-1]
        return "history" if last == "_history" else "vread" if "_history" in words else "everything" if last.startswith("$") else "read"

    def answer(self, step, words, query, asked):
        number = words[1] if len(words) > 1 else ""
        if step in ("create", "update"):
            number = number or "7"
            versions = self.versions.setdefault(number, [])
            versions.append({**json.loads(asked.body), "id": number, "meta": {"versionId": str(len(versions) + 1)}})
            return said(versions[-1], 201 if step == "create" else 200, {"X-FHIR-Read-After": "0/%d" % len(versions)})
        if step == "delete":
            self.deleted.add(number)
            return 204, {}, b""
        if step == "search":
            value = query.partition("%7C")[2]
            return bundle([item[-1] for item in self.versions.values() if value in json.dumps(item[-1])])
        if step == "read" and number in self.deleted:
            return said({"resourceType": "OperationOutcome"}, 410)
        if step == "vread":
            return said(self.versions[number][int(words[-1]) - 1])
        versions = self.versions[number]
        return said(versions[-1]) if step == "read" else bundle(versions if step == "history" else versions[-1:])


def said(resource, status=200, headers=None):
    return status, {"Content-Type": "application/fhir+json", **(headers or {})}, json.dumps(resource).encode()


def bundle(resources):
    return said({"resourceType": "Bundle", "entry": [{"resource": item} for item in resources]})


@pytest.fixture
def run(capsys):
    def call(*stores, **arguments):
        servers = [Server(fallback=store) for store in stores]
        urls = [{"name": "hapi-%d" % number, "url": server.url} for number, server in enumerate(servers, start=1)]
        arguments = {"urls": urls, "timeout": 3, **arguments}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        try:
            with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
                fhir_roundtrip.main()
        finally:
            for server in servers:
                server.__exit__()
        return ended.value.code, json.loads(capsys.readouterr().out)

    return call


def ids(result):
    return [(item["id"], item["object"]) for item in result["findings"]]


def test_every_replica_does_every_step(run):
    one, two = Store(), Store()
    rc, result = run(one, two)
    assert (rc, result["changed"], result["findings"]) == (0, True, [])
    assert [item["ok"] for item in result["replicas"]] == [True, True]
    assert [item["step"] for item in result["replicas"][0]["steps"]] == STEPS
    assert [item["status"] for item in result["replicas"][0]["steps"]] == [201, 200, 200, 200, 200, 200, 200, 204, 410]
    assert one.deleted == two.deleted == {"7"}


def test_reads_show_the_mark_of_the_last_write(run):
    store = Store()
    run(store)
    assert dict(store.marks[1:4]) == {"read": "0/1", "vread": "0/1", "update": "0/1"}
    assert dict(store.marks[4:7]) == {"search": "0/2", "history": "0/2", "everything": "0/2"}


def test_the_site_s_own_resource_is_sent_with_its_identifiers(run):
    store = Store()
    own = {"resourceType": "Observation", "status": "final", "identifier": [{"system": "urn:x", "value": "1"}]}
    rc, result = run(store, resource=own)
    assert rc == 0
    made = store.versions["7"][0]
    assert made["status"] == "final"
    assert [item["system"] for item in made["identifier"]] == ["urn:x", fhir_roundtrip.SYSTEM]
    # $everything is none of an Observation's.
    assert "everything" not in [item["step"] for item in result["replicas"][0]["steps"]]


@pytest.mark.parametrize(
    ("step", "answer", "words"),
    [
        ("read", lambda asked: said({"resourceType": "Patient", "id": "7"}), "another resource came"),
        ("vread", lambda asked: said({}, 500), "status 500"),
        ("update", lambda asked: said({"id": "7", "meta": {"versionId": "1"}}), "still has version 1"),
        ("search", lambda asked: bundle([]), "0 of 0 entries"),
        ("history", lambda asked: bundle([{"id": "7"}]), "1 of 1 entries are the resource, expected at least 2"),
        ("everything", lambda asked: (200, {"Content-Type": "text/html"}, b"<html>"), "is no JSON"),
    ],
)
def test_each_step_can_go_wrong_and_is_named(run, step, answer, words):
    store = Store(**{step: answer})
    rc, result = run(store, fail_on=["error"])
    assert rc == 1
    assert ids(result) == [("roundtrip_failed", "hapi-1")]
    assert step + ": " in result["msg"]
    assert words in result["findings"][0]["found"]
    # What was made is gone all the same.
    assert store.deleted == {"7"}


def test_one_that_is_read_after_its_deletion_is_wrong(run):
    store = Store(delete=lambda asked: (204, {}, b""))
    rc, result = run(store)
    assert rc == 0
    assert "gone: status 200, expected 410" in result["findings"][0]["found"]


def test_what_could_not_be_deleted_is_named(run):
    rc, result = run(Store(delete=lambda asked: said({"resourceType": "OperationOutcome"}, 409)))
    assert ids(result) == [("roundtrip_failed", "hapi-1"), ("roundtrip_left", "hapi-1")]
    assert "Patient/7" in result["findings"][1]["found"]


def test_without_the_right_to_write_nothing_is_proven(run):
    rc, result = run(Store(create=lambda asked: said({"resourceType": "OperationOutcome"}, 401)), bearer_token=SECRET)
    assert ids(result) == [("roundtrip_refused", "hapi-1")]
    assert (result["changed"], result["replicas"][0]["ok"]) == (False, False)
    assert SECRET not in json.dumps(result)


def test_a_create_without_an_id_leaves_nothing_to_delete(run):
    rc, result = run(Store(create=lambda asked: said({}, 201)))
    assert ids(result) == [("roundtrip_failed", "hapi-1")]
    assert [item["step"] for item in result["replicas"][0]["steps"]] == ["create"]


def test_a_replica_that_does_not_answer_does_not_stop_the_others(run):
    store = Store()
    rc, result = run(Store(create=lambda asked: None), store)
    assert ids(result) == [("roundtrip_failed", "hapi-1")]
    assert [item["ok"] for item in result["replicas"]] == [False, True]


def test_one_that_does_not_run_and_none_at_all(run, monkeypatch):
    dead = Replica("p-hapi-2", "", "", state="exited", exit_code=137)
    monkeypatch.setattr(fhir_roundtrip, "discover", lambda *args: ([dead], SimpleNamespace()))
    assert ids(run(urls=None, project_dir="/x")[1]) == [("replica_unreachable", "p-hapi-2")]
    monkeypatch.setattr(fhir_roundtrip, "discover", lambda *args: ([], SimpleNamespace()))
    assert ids(run(urls=None, project_dir="/x")[1]) == [("no_replicas", "hapi")]


def test_check_mode_sends_nothing(run):
    store = Store()
    rc, result = run(store, _ansible_check_mode=True)
    assert (result["changed"], result["replicas"][0]["steps"], store.marks) == (True, [], [])
    # What was not looked at is not well.
    assert result["replicas"][0]["ok"] is False


@pytest.mark.parametrize("resource", [{"status": "final"}, {"resourceType": "Patient", "identifier": "x"}])
def test_a_resource_that_is_none_is_refused(run, resource):
    store = Store()
    rc, result = run(store, resource=resource)
    assert rc == 1
    assert "Nothing was sent" in result["msg"]
    assert store.marks == []
