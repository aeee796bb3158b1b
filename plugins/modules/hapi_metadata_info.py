#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hapi_metadata_info
short_description: Ask every HAPI FHIR replica what it is and how it does
version_added: 1.0.0
author: "The dghs.bd_fhir developers (@dghs-bd)"
description:
  - Asks each replica of a HAPI FHIR server B(directly) for its capability statement, health, Hikari pools, heap and
    build,
    never through a balancer, which would show one replica at random.
  - Compares them with what is expected and with each other, and names the replica that differs.
  - A replica that could not be asked is a finding of severity V(error), and RV(summary.consistent) is then V(false).
extends_documentation_fragment:
  - dghs.bd_fhir.http_client.replicas
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.http_client
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.info_module
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  base_path:
    description:
      - Path of the FHIR API. Its C(/metadata) is asked.
    type: str
    default: /fhir
  retries:
    description:
      - How many more times a replica is asked that did not answer, is not ready, or differs from O(expect).
      - HAPI keeps a statement for a minute, and a replica that has just started may not answer yet.
    type: int
    default: 3
  retry_delay:
    description:
      - Seconds before each of these times.
    type: float
    default: 2
  expect:
    description:
      - What every replica is expected to say. What is not named here is not compared.
    type: dict
    suboptions:
      software_version:
        description:
          - C(software.version) of the capability statement.
        type: str
      fhir_version:
        description:
          - C(fhirVersion) of the capability statement.
        type: str
      ig:
        description:
          - Canonical of an implementation guide that the statement must list, without a version.
        type: str
      ig_version:
        description:
          - Version of O(expect.ig).
        type: str
      count:
        description:
          - Number of replicas.
        type: int
seealso:
  - module: dghs.bd_fhir.balance_info
  - module: dghs.bd_fhir.deployment_info
notes:
  - 'The capability statement is asked for with C(Cache-Control: no-cache), which makes HAPI build a new one.'
  - HAPI answers its own release as C(software.version) unless the application sets another one.
"""

EXAMPLES = r"""
- name: Look at all replicas
  dghs.bd_fhir.hapi_metadata_info:
    project_dir: /opt/bd-fhir-national
  register: metadata

- name: Show the versions
  ansible.builtin.debug:
    msg: "{{ metadata.replicas | map(attribute='name') | zip(metadata.replicas | map(attribute='software_version')) }}"

- name: Fail, naming the replica, unless all three run the new implementation guide
  dghs.bd_fhir.hapi_metadata_info:
    project_dir: /opt/bd-fhir-national
    expect:
      software_version: 0.3.0
      ig: https://fhir.dghs.gov.bd/core/ImplementationGuide/bd.fhir.core
      ig_version: 0.3.0
      count: 3
    fail_on:
      - error

- name: Ask replicas on other hosts, behind a private CA
  dghs.bd_fhir.hapi_metadata_info:
    urls:
      - name: fhir1
        url: https://10.0.1.5:8443
      - name: fhir2
        url: https://10.0.1.6:8443
    ca_path: /etc/ssl/private-ca.pem
    bearer_token: "{{ vault_fhir_token }}"
"""

RETURN = r"""
replicas:
  description: What each replica said, in the order of their numbers or of O(urls).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the container, or as given in O(urls).
      type: str
      sample: bd-fhir-national-hapi-1
    url:
      description: Where the capability statement was asked for. Empty when there was no address.
      type: str
      sample: http://172.20.0.5:8080/fhir/metadata
    address:
      description: Address of the replica.
      type: str
      sample: 172.20.0.5
    reachable:
      description: Whether the server answered at all.
      type: bool
      sample: true
    attempts:
      description: How many times it was asked.
      type: int
      sample: 1
    health:
      description: Status of the actuator's health endpoint, V(null) when it could not be read.
      type: str
      sample: UP
    readiness:
      description: Status of the actuator's readiness group, V(null) when it could not be read.
      type: str
      sample: UP
    software_name:
      description: C(software.name) of the statement. Empty, as the four below, when there is no statement.
      type: str
      sample: HAPI FHIR Server
    software_version:
      description: C(software.version) of the statement.
      type: str
      sample: 0.3.0
    fhir_version:
      description: C(fhirVersion) of the statement.
      type: str
      sample: 4.0.1
    implementation_guides:
      description: Implementation guides that the statement lists.
      type: list
      elements: dict
      contains:
        canonical:
          description: Canonical URL of the guide.
          type: str
        version:
          description: Its version. Empty when none is named.
          type: str
      sample:
        - canonical: https://fhir.dghs.gov.bd/core/ImplementationGuide/bd.fhir.core
          version: 0.3.0
    format:
      description: Format in which the statement came, V(json) or V(xml).
      type: str
      sample: json
    statement_date:
      description: C(date) of the statement.
      type: str
      sample: "2026-11-25T09:12:42.101+00:00"
    statement_age_seconds:
      description: Age of the statement by its date, as the server's clock has it. V(null) when either is not told.
      type: int
      sample: 0
    hikari:
      description: Figures of each Hikari pool, by the name of the pool. A figure that is not told is V(null).
      type: dict
      sample:
        HikariPool-1: {active: 0, idle: 5, max: 5, pending: 0, timeouts: 0, total: 5}
    figures:
      description: Whether its figures were read. When they were not, C(hikari), C(reads), C(jvm) and C(uptime_seconds) tell nothing about it.
      type: bool
      sample: true
    reads:
      description:
        - How it sends reads to a standby of its database, and how many it has sent where since it was started.
          V(null) for an image without the read data source, and as long as C(figures) is V(false).
        - C(lag_seconds) is V(null) as long as it is not known.
      type: dict
      sample: {enabled: true, lag_seconds: 0.0, primary: 12, standby: 5120, standby_up: true}
    jvm:
      description: Bytes of heap in use and at most. V(null) when not told.
      type: dict
      sample: {heap_max: 536870912, heap_used: 201326592}
    uptime_seconds:
      description: Age of the process. V(null) when not told.
      type: int
      sample: 5123
    build:
      description: Version and revision of the build by the actuator's info endpoint. Empty when not told.
      type: dict
      sample: {revision: 1a2b3c4, version: 1.4.0}
    error:
      description: Why the statement could not be read. Empty when it could.
      type: str
      sample: ""
summary:
  description: All replicas together.
  returned: success
  type: dict
  contains:
    count:
      description: Number of replicas, those that did not answer too.
      type: int
    answered:
      description: Number of replicas whose statement was read.
      type: int
    software_versions:
      description: Every C(software.version) that was read.
      type: list
      elements: str
    consistent:
      description: Whether there are replicas, every statement was read, and all say the same versions and guides.
      type: bool
  sample: {answered: 3, consistent: true, count: 3, software_versions: [0.3.0]}
findings:
  description:
    - What is not as it should be.
    - C(id) is one of V(no_replicas), V(replica_unreachable), V(statement_unreadable), V(replica_not_ready),
      V(software_version_differs), V(fhir_version_differs), V(ig_missing), V(ig_version_differs),
      V(replica_count_differs), V(versions_mixed) (severity V(error)), V(replica_unhealthy), V(statement_cached),
      V(health_not_exposed), V(health_unreadable), V(prometheus_not_exposed), V(prometheus_unreadable),
      V(certificates_not_checked) (severity V(warning)).
  returned: always, after the replicas were asked
  type: list
  elements: dict
  sample:
    - id: software_version_differs
      severity: error
      object: bd-fhir-national-hapi-2
      expected: 0.3.0
      found: 0.2.1
      hint: This replica runs another image or configuration. Roll it with compose_rollout.
"""

import contextlib
import datetime
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _prometheus
from ..module_utils._compose import ComposeError
from ..module_utils._fhir import (
    HTTP_ARGUMENTS,
    HTTP_EXCLUSIVE,
    HTTP_REQUIRED_BY,
    HTTP_TOGETHER,
    NO_ANSWER,
    Answer,
    Client,
    FhirError,
    HttpError,
    Statement,
    actuator_hint,
    build_info,
    join,
    module_client,
    out_of_range,
    parse_instant,
    public_url,
    read_json,
    read_statement,
    retry,
)
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, finding, summary
from ..module_utils._replicas import REPLICA_ARGUMENTS, REPLICA_EXCLUSIVE, REPLICA_ONE_OF, Replica, discover

EXPOSE = (
    "The application must have micrometer-registry-prometheus and spring-boot-starter-actuator on its class path and "
    "management.endpoints.web.exposure.include=health,info,prometheus "
    "(environment: MANAGEMENT_ENDPOINTS_WEB_EXPOSURE_INCLUDE). Check actuator_path, and the port if "
    "management.server.port is set."
)
EXPOSE_HEALTH = (
    "Set management.endpoint.health.probes.enabled=true and have health in management.endpoints.web.exposure.include, "
    "or correct actuator_path. Without it nobody can tell when a replica may get traffic."
)
RANGES = {"retries": (0, 1000), "retry_delay": (0, 3600), "timeout": (1, 3600), "port": (1, 65535)}


def statement_age(statement: Statement, answer: Answer, now: datetime.datetime) -> Optional[int]:
    """Return the age of a statement in seconds, by the server's own clock where the answer tells it, else by now."""
    made = parse_instant(statement.date)
    if made is None:
        return None
    told = parse_instant(answer.headers.get("date", "")) or now
    return max(0, int((told - made).total_seconds()))


def blank(replica: Replica, url: str) -> dict[str, Any]:
    """Return what is known of a replica that has not been asked yet."""
    return {
        "name": replica.name,
        "url": url,
        "address": replica.address,
        "reachable": False,
        "attempts": 0,
        "health": None,
        "readiness": None,
        "software_name": "",
        "software_version": "",
        "fhir_version": "",
        "implementation_guides": [],
        "format": "",
        "statement_date": "",
        "statement_age_seconds": None,
        "hikari": {},
        "figures": False,
        "reads": None,
        "jvm": {"heap_used": None, "heap_max": None},
        "uptime_seconds": None,
        "build": {"version": "", "revision": ""},
        "error": "",
    }


def ask(
    client: Client, replica: Replica, base_path: str, actuator_path: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ask one replica everything. Returns what it said, and the findings that need no expectation."""
    url = join(replica.url, base_path, "metadata") if replica.url else ""
    said = blank(replica, public_url(url))
    findings: list[dict[str, Any]] = []
    if not replica.running:
        said["error"] = replica.why_not()
        findings.append(unreachable(said, "Look at its log (docker logs %s), then start or remove it." % replica.name))
        return said, findings
    try:
        statement, answer = read_statement(client, url)
    except HttpError as error:
        said["error"] = str(error)
        said["reachable"] = error.kind not in NO_ANSWER
        if error.kind in NO_ANSWER:
            # The other endpoints are at the same server: asking them only waits for more time-outs.
            hint = "Is the application up (docker logs), does it listen on this port, and does ca_path fit?"
            findings.append(unreachable(said, hint))
            return said, findings
        findings.append(unreadable(said))
    except FhirError as error:
        said.update(reachable=True, error=str(error))
        findings.append(unreadable(said))
    else:
        said.update(
            reachable=True,
            software_name=statement.software_name,
            software_version=statement.software_version,
            fhir_version=statement.fhir_version,
            implementation_guides=statement.implementation_guides,
            format=statement.format,
            statement_date=statement.date,
            statement_age_seconds=statement_age(statement, answer, datetime.datetime.now(datetime.timezone.utc)),
        )
        age = answer.headers.get("age", "")
        if age.isdigit() and int(age) > 0:
            findings.append(
                finding(
                    "statement_cached",
                    "warning",
                    replica.name,
                    "an answer of the replica itself",
                    "an answer that a cache kept for %s s" % age,
                    "Something between stores answers: give the address of the replica itself.",
                )
            )
    actuator = join(replica.url, actuator_path)
    findings += ask_health(client, actuator, said)
    findings += ask_metrics(client, actuator, said)
    # Nobody depends on it, and the other endpoints tell what is wrong.
    with contextlib.suppress(HttpError, FhirError):
        said["build"] = build_info(read_json(client, join(actuator, "info"))[1])
    return said, findings


def unreachable(said: dict[str, Any], hint: str) -> dict[str, Any]:
    """Return the finding for a replica that did not answer."""
    return finding(
        "replica_unreachable", "error", said["name"], "an answer from %s" % (said["url"] or "it"), said["error"], hint
    )


def unreadable(said: dict[str, Any]) -> dict[str, Any]:
    """Return the finding for a replica that answered something else."""
    hint = "Ask the URL by hand from this host (curl -H 'Accept: application/fhir+json') and compare."
    return finding("statement_unreadable", "error", said["name"], "a capability statement", said["error"], hint)


def ask_health(client: Client, actuator: str, said: dict[str, Any]) -> list[dict[str, Any]]:
    """Fill in health and readiness; return findings."""
    findings = []
    for key, path in (("health", "health"), ("readiness", "health/readiness")):
        url = join(actuator, path)
        try:
            # 503 carries the status DOWN.
            status, answer = read_json(client, url, accept=(200, 503))
        except (HttpError, FhirError) as error:
            findings.append(
                finding(
                    "health_unreadable", "warning", said["name"], "the status at %s" % url, str(error), EXPOSE_HEALTH
                )
            )
            continue
        if status == 404:
            findings.append(
                finding(
                    "health_not_exposed", "warning", said["name"], "the status at %s" % url, "HTTP 404", EXPOSE_HEALTH
                )
            )
        elif not isinstance(answer.get("status"), str):
            hint = actuator_hint(status, EXPOSE_HEALTH)
            findings.append(
                finding(
                    "health_unreadable", "warning", said["name"], "the status at %s" % url, "HTTP %d" % status, hint
                )
            )
        else:
            said[key] = answer["status"]
            if answer["status"] != "UP":
                findings.append(not_up(said["name"], key, answer))
    return findings


def not_up(name: str, key: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the finding for a status other than UP; it names the components that are not UP, where they are shown."""
    parts = answer.get("components")
    down = sorted(
        "%s %s" % (part, value.get("status"))
        for part, value in (parts if isinstance(parts, dict) else {}).items()
        if isinstance(value, dict) and value.get("status") != "UP"
    )
    found = answer["status"] + (" (%s)" % ", ".join(down) if down else "")
    if key == "readiness":
        hint = "It is starting or stopping, or refuses traffic: look at its log. A balancer must not send it requests."
        return finding("replica_not_ready", "error", name, "UP", found, hint)
    hint = "It may still serve, readiness decides on that. Look at the component named, or at the replica's log."
    return finding("replica_unhealthy", "warning", name, "UP", found, hint)


def ask_metrics(client: Client, actuator: str, said: dict[str, Any]) -> list[dict[str, Any]]:
    """Fill in figures, hikari, reads, jvm and uptime_seconds; return findings."""
    url = join(actuator, "prometheus")
    try:
        samples = _prometheus.scrape(client, url)
    except HttpError as error:
        found = client.scrub(str(error))
        return [finding("prometheus_unreadable", "warning", said["name"], "figures at %s" % url, found, EXPOSE)]
    except _prometheus.PrometheusError as error:
        if error.status == 404:
            return [finding("prometheus_not_exposed", "warning", said["name"], "figures at %s" % url, str(error), EXPOSE)]
        hint = actuator_hint(error.status, EXPOSE)
        return [finding("prometheus_unreadable", "warning", said["name"], "figures at %s" % url, str(error), hint)]
    said["figures"] = True
    said["hikari"] = _prometheus.hikari(samples)
    said["reads"] = _prometheus.reads(samples)
    said["jvm"] = _prometheus.jvm(samples)
    said["uptime_seconds"] = _prometheus.whole(_prometheus.total(samples, "process_uptime_seconds"))
    return []


def differences(said: dict[str, Any], expect: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a finding for each thing that a replica says otherwise than expected, if its statement was read."""
    if said["error"]:
        return []
    findings = []
    age = said["statement_age_seconds"]
    old = age is not None and said["uptime_seconds"] is not None and age > said["uptime_seconds"] + 5
    doubt = (
        " The statement says it was made before this process started: something may answer from a store." if old else ""
    )
    hints = {
        "software_version": "This replica runs another image or configuration: roll it with compose_rollout. If all "
        "say a release of HAPI (such as 7.2.0), the application does not set its server version.",
        "fhir_version": "This replica serves another version of FHIR: check its image and configuration.",
    }
    for key, hint in hints.items():
        if expect.get(key) is not None and said[key] != expect[key]:
            found = said[key] or "nothing"
            findings.append(finding(key + "_differs", "error", said["name"], expect[key], found, hint + doubt))
    if expect.get("ig") is not None:
        found_versions = [
            item["version"] for item in said["implementation_guides"] if item["canonical"] == expect["ig"]
        ]
        listed = ", ".join("|".join(filter(None, item.values())) for item in said["implementation_guides"]) or "none"
        if not found_versions:
            hint = "The image lacks this guide's package, or the application does not list its guides in the statement."
            findings.append(finding("ig_missing", "error", said["name"], expect["ig"], listed, hint + doubt))
        elif expect.get("ig_version") is not None and expect["ig_version"] not in found_versions:
            hint = "It runs another image or configuration: image, package path and version must change together."
            found = ", ".join(version or "no version" for version in found_versions)
            findings.append(
                finding("ig_version_differs", "error", said["name"], expect["ig_version"], found, hint + doubt)
            )
    return findings


def identity(said: dict[str, Any]) -> dict[str, str]:
    """Return what all replicas must say alike."""
    guides = sorted("|".join(item.values()) for item in said["implementation_guides"])
    return {
        "software version": said["software_version"],
        "FHIR version": said["fhir_version"],
        "implementation guides": ", ".join(guides),
    }


def mixed(replicas: list[dict[str, Any]], service: str) -> list[dict[str, Any]]:
    """Return a finding for each thing that the replicas do not say alike, with who says what."""
    read = [said for said in replicas if not said["error"]]
    findings = []
    for key in ("software version", "FHIR version", "implementation guides"):
        names: dict[str, list[str]] = {}
        for said in read:
            names.setdefault(identity(said)[key], []).append(said["name"])
        if len(names) > 1:
            found = "; ".join("%s: %s" % (value or "nothing", ", ".join(who)) for value, who in sorted(names.items()))
            hint = "The same resource may be valid on one replica and not on another. Finish or undo the rollout."
            findings.append(finding("versions_mixed", "error", service, "one %s on all replicas" % key, found, hint))
    return findings


def summarise(replicas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the summary. A replica that was not read is never consistent, and neither are no replicas."""
    read = [said for said in replicas if not said["error"]]
    return {
        "count": len(replicas),
        "answered": len(read),
        "software_versions": sorted({said["software_version"] for said in read}),
        "consistent": bool(read)
        and len(read) == len(replicas)
        and all(identity(said) == identity(read[0]) for said in read),
    }


def look(
    client: Client, replicas: list[Replica], params: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ask all replicas at once, each again until it is as expected or the retries are used up."""
    expect = {key: value for key, value in (params["expect"] or {}).items() if value is not None}

    def persist(replica: Replica) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        last: dict[str, Any] = {}

        def once(number: int) -> bool:
            said, found = ask(client, replica, params["base_path"], params["actuator_path"])
            said["attempts"] = number
            found += differences(said, expect)
            last.update(said=said, found=found)
            # Asking a container again that does not run is of no use.
            return not replica.running or not failed_on(found, ["error"])

        retry(1 + params["retries"], params["retry_delay"], once)
        return last["said"], last["found"]

    with ThreadPoolExecutor(max_workers=8) as pool:
        results = list(pool.map(persist, replicas))
    said = [result[0] for result in results]
    findings = [item for result in results for item in result[1]]
    if not replicas:
        hint = "Check service, project_dir and project_name, and whether the project is up."
        findings.append(finding("no_replicas", "error", params["service"], "at least one container", "none", hint))
    count = expect.get("count")
    if count is not None and len(replicas) != count:
        hint = "Scale it with compose_rollout, or correct the expectation."
        findings.append(finding("replica_count_differs", "error", params["service"], count, len(replicas), hint))
    findings += mixed(said, params["service"])
    if not params["validate_certs"]:
        hint = "Give the CA's certificate as ca_path and leave validate_certs at true."
        findings.append(
            finding(
                "certificates_not_checked",
                "warning",
                params["service"],
                "checked certificates",
                "validate_certs=false",
                hint,
            )
        )
    return said, findings


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **REPLICA_ARGUMENTS,
            **HTTP_ARGUMENTS,
            **FINDINGS_OPTIONS,
            "base_path": {"type": "str", "default": "/fhir"},
            "retries": {"type": "int", "default": 3},
            "retry_delay": {"type": "float", "default": 2},
            "expect": {
                "type": "dict",
                "options": {
                    "software_version": {"type": "str"},
                    "fhir_version": {"type": "str"},
                    "ig": {"type": "str"},
                    "ig_version": {"type": "str"},
                    "count": {"type": "int"},
                },
                "required_by": {"ig_version": ("ig",)},
            },
        },
        mutually_exclusive=REPLICA_EXCLUSIVE + HTTP_EXCLUSIVE,
        required_one_of=REPLICA_ONE_OF,
        required_together=HTTP_TOGETHER,
        required_by=HTTP_REQUIRED_BY,
        supports_check_mode=True,
    )
    params = module.params
    problem = out_of_range(params, RANGES)
    if problem:
        module.fail_json(msg=problem)
    try:
        client = module_client(module)
        replicas, dummy = discover(module, params["base_path"])
    except (HttpError, ComposeError) as error:
        module.fail_json(msg=str(error))
    said, findings = look(client, replicas, params)
    result = {"changed": False, "replicas": said, "summary": summarise(said), "findings": findings}
    failed = failed_on(findings, params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
