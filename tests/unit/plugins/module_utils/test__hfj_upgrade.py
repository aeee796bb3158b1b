# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pure part of the check before an upgrade; with real servers: tests/integration/real/test_hfj_upgrade_check.py."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _hfj_upgrade as upgrade
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hfj import HfjError

HIBERNATE = """2026-11-26 ERROR o.s.boot.SpringApplication - Application run failed
org.springframework.beans.factory.BeanCreationException: Error creating bean: Schema-validation: missing column [sp_uri] in table [hfj_spidx_uri]
Caused by: org.hibernate.tool.schema.spi.SchemaManagementException: Schema-validation: missing column [sp_uri] in table [hfj_spidx_uri]
"""
FLYWAY = """Caused by: org.flywaydb.core.internal.command.DbMigrate$FlywayMigrateException: Failed to execute script V9__bad.sql
Message    : ERROR: unique constraint on partitioned table must include all partitioning columns
Caused by: org.postgresql.util.PSQLException: ERROR: unique constraint on partitioned table must include all partitioning columns
"""
SPRING = """ERROR Error starting Tomcat context. Message: Error creating bean with name 'fhirServlet'

***************************
APPLICATION FAILED TO START
***************************

Description:

PACKAGE=x.tgz: there is no such package in this image.

Action:

Change both.
"""


def test_the_environment_of_the_service_with_more_put_over_it() -> None:
    config = {"environment": {"A": "pa$$word", "B": 5, "C": True, "D": None, "E": "old"}}
    assert upgrade.environment_of(config, {"E": "new", "F": False, "G": None}) == {"A": "pa$word", "B": "5", "C": "true", "E": "new", "F": "false"}
    assert upgrade.environment_of({}, {}) == {}
    with pytest.raises(HfjError, match="the variable KEY of HAPI has several lines") as told:
        upgrade.environment_of({"environment": {"KEY": "first\nsecond"}}, {})
    assert "second" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "after"),
    [
        ("jdbc:postgresql://pooler:6432/fhirdb?prepareThreshold=0", "jdbc:postgresql://bd-fhir-scratch:5432/fhirdb?prepareThreshold=0"),
        ("jdbc:postgresql://one,two:5433/fhirdb", "jdbc:postgresql://bd-fhir-scratch:5432/fhirdb"),
        ("jdbc:postgresql:///fhirdb", "jdbc:postgresql://bd-fhir-scratch:5432/fhirdb"),
        ("https://example.org/fhirdb", "https://example.org/fhirdb"),
    ],
)
def test_every_jdbc_url_leads_to_the_copy(url: str, after: str) -> None:
    assert upgrade.redirected({"URL": url}, ["fhirdb"]) == ({"URL": after}, {})
    assert upgrade.leads_to({"URL": after}, "fhirdb") == after.startswith("jdbc")


def test_a_database_that_is_not_copied_is_named() -> None:
    found, missing = upgrade.redirected({"AUDIT": "jdbc:postgresql://a/auditdb", "FHIR": "jdbc:postgresql://b/fhirdb"}, ["fhirdb"])
    assert missing == {"AUDIT": "auditdb"}
    assert not upgrade.leads_to(found, "other")


def test_values_that_a_log_must_not_show() -> None:
    environment = {"DB_PASSWORD": "a", "OAUTH_CLIENT_SECRET": "b", "TLS_KEY": "c", "API_TOKEN": "", "HAPI_KEYS_PATH": "d", "USER": "e"}
    assert upgrade.secrets_of(environment) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        (HIBERNATE, "schema_refused", "Schema-validation: missing column [sp_uri] in table [hfj_spidx_uri]"),
        (FLYWAY, "migrator_failed", "unique constraint on partitioned table must include all partitioning columns"),
        ('WARN Error executing DDL "alter table if exists hfj_resource" via JDBC\n' + HIBERNATE, "schema_refused", "missing column"),
        ('GenerationTarget: Error executing DDL "alter table x" via JDBC\n', "migrator_failed", "alter table x"),
        ("Migration of schema public to version 9 failed! Changes rolled back.\n", "migrator_failed", "version 9 failed"),
        ("ca.uhn.fhir.jpa.migrate.HapiMigrationException: 5 tasks\n", "migrator_failed", "5 tasks"),
        ("Caused by: java.net.UnknownHostException: redis\n", "start_failed", "UnknownHostException: redis"),
        (SPRING, "start_failed", "PACKAGE=x.tgz: there is no such package in this image."),
        ("one\ntwo\n", "start_failed", "one | two"),
        ("", "start_failed", "it said nothing"),
    ],
)
def test_why_a_start_failed(log: str, kind: str, words: str) -> None:
    found, reason = upgrade.reason_of(log)
    assert found == kind
    assert words in reason
    assert upgrade.Started(False, 1.23, log, True).public() == {"ready": False, "seconds": 1.2, "reason": reason}
    assert upgrade.Started(True, 1.0).public() == {"ready": True, "seconds": 1.0, "reason": ""}


class Catalog:
    """A session on a schema of one table."""

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        if query == upgrade.SCHEMA_TABLES:
            return [{"oid": 1, "name": "t", "kind": "p", "key": "RANGE (res_id)"}, {"oid": 2, "name": "history", "kind": "r", "key": ""}]
        if query == upgrade.SCHEMA_SEQUENCES:
            return [{"name": "s", "what": "increment 50, from 1"}]
        assert params == {"oid": 1}
        if query == upgrade.COLUMNS:
            required = {"name": "c", "type": "bigint", "required": True, "default": "1"}
            return [required, {"name": "d", "type": "text", "required": False, "default": ""}]
        if query == upgrade.INDEXES:
            return [{"name": "i", "definition": "CREATE INDEX i", "valid": False}]
        return [{"name": "k", "what": "CHECK (c > 0)"}]


def test_a_schema_as_lines_and_what_differs() -> None:
    before = upgrade.shape(Catalog(), "public", ["history"])  # type: ignore[arg-type]
    assert before == {
        "table t": "kind p by RANGE (res_id)", "column t.c": "bigint NOT NULL DEFAULT 1", "column t.d": "text",
        "index t.i": "CREATE INDEX i (invalid)", "constraint t.k": "CHECK (c > 0)", "sequence s": "increment 50, from 1",
    }  # fmt: skip
    after = {**before, "column t.e": "text", "sequence s": "increment 1, from 1"}
    del after["index t.i"]
    assert upgrade.changes_between(before, before) == []
    assert [(row["object"], row["table"], row["change"]) for row in upgrade.changes_between(before, after)] == [
        ("column t.e", "t", "added"), ("index t.i", "t", "removed"), ("sequence s", "", "changed"),
    ]  # fmt: skip
    assert upgrade.in_words(upgrade.changes_between(before, after), 2) == "added column t.e, removed index t.i and 1 more"


def test_roles_of_two_servers_are_made_once() -> None:
    one = "CREATE ROLE postgres;\nALTER ROLE postgres WITH SUPERUSER;\nCREATE ROLE app;\n"
    two = 'CREATE ROLE "app";\nCREATE ROLE app;\nALTER ROLE app WITH LOGIN;\n'
    assert upgrade.merged_roles([one, two], "postgres") == (
        'ALTER ROLE postgres WITH SUPERUSER;\nCREATE ROLE app;\nCREATE ROLE "app";\nALTER ROLE app WITH LOGIN;\n'
    )


def test_hapi_gets_its_own_files_and_can_not_change_them() -> None:
    config = {
        "entrypoint": ["java", "-jar"], "command": ["app.jar", "pa$$s"], "user": "10001", "working_dir": "/app",
        "volumes": [{"type": "bind", "source": "/srv/app.yaml", "target": "/app.yaml"}, {"type": "volume", "source": "data", "target": "/data"}],
    }  # fmt: skip
    found = upgrade.hapi_arguments("hapi", "net", "image:1", config, "1g", 128, "/tmp/env")  # noqa: S108
    text = " ".join(found)
    assert text.endswith("--entrypoint java image:1 -jar app.jar pa$s")
    for words in (
        "--network net", "--cpu-shares 128", "--env-file /tmp/env", "--memory 1g", "--user 10001", "--workdir /app",
        "--mount type=bind,source=/srv/app.yaml,target=/app.yaml,readonly",
    ):  # fmt: skip
        assert words in text
    assert "/data" not in text
    assert upgrade.hapi_arguments("hapi", "net", "image:1", {}, "", 128, "f")[-3:] == ["--env-file", "f", "image:1"]
