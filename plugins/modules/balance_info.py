#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: balance_info
short_description: Count which replica answers, and say why one gets nothing
version_added: 1.0.0
author: "The dghs.bd_fhir developers (@dghs-bd)"
description:
  - Sends tagged requests through the entry point of a service, counts them per replica at the replica, and says which
    replica gets none and why.
  - Two witnesses are heard. The header O(served_by_header), which the balancer adds to answers of tagged requests,
    tells exactly who answered; each replica's own request counter, read before and after, tells at least how many.
  - Where every answer has the header it decides, and the counters must not contradict it; otherwise the counters decide.
    Where neither can be had there is a finding of severity V(error), never a good verdict.
extends_documentation_fragment:
  - dghs.bd_fhir.http_client.replicas
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.http_client
  - dghs.bd_fhir.balancer
  - dghs.bd_fhir.findings
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.info_module
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  url:
    description:
      - What is asked, at the entry point that clients use. A redirect is followed once, before the tagged requests.
      - Without user and password.
    type: str
    required: true
  host_header:
    description:
      - Name to send as C(Host), and to check the certificate against, when O(url) holds an address.
    type: str
  method:
    description:
      - Method of the tagged requests.
    type: str
    choices:
      - GET
      - HEAD
    default: GET
  requests:
    description:
      - How many tagged requests are sent, V(1) to V(100000).
    type: int
    default: 300
  concurrency:
    description:
      - How many of them are under way at once, V(1) to V(64).
      - Each has a connection of its own, since a proxy may send all requests of one connection to one replica.
    type: int
    default: 4
  max_duration:
    description:
      - Seconds after which no further request is sent. Requests that were not sent are a finding.
    type: int
    default: 300
  metric:
    description:
      - Counter of requests in the Prometheus figures of a replica. Its series are summed, those whose C(uri) is below
        O(actuator_path) left out.
    type: str
    default: http_server_requests_seconds_count
  served_by_header:
    description:
      - Response header that says which replica answered, by address, by address and port, by the container's name,
        or by the name of the slot in O(balancer).
    type: str
    default: X-BD-Served-By
  min_share:
    description:
      - Share of the requests that each replica must get at least, as a part of an even share, V(0) to V(1).
    type: float
    default: 0.5
  expect_replicas:
    description:
      - Number of running replicas that must be found.
    type: int
  balancer:
    description:
      - HAProxy, whose slots are read to say why a replica gets nothing. Nothing is changed there.
notes:
  - The requests are real ones. In check mode they are sent as well, and a server that audits reads records them.
  - Each carries C(X-BD-Probe) with RV(run_id), and C(X-Request-ID) with RV(run_id), a hyphen and a number.
  - Ask for something cheap that no cache in between answers.
seealso:
  - module: dghs.bd_fhir.hapi_metadata_info
  - module: dghs.bd_fhir.compose_rollout
"""

EXAMPLES = r"""
- name: Fail unless each of the three replicas gets at least half of an even share
  dghs.bd_fhir.balance_info:
    project_dir: /opt/bd-fhir-national
    url: https://127.0.0.1/fhir/metadata
    host_header: fhir.dghs.gov.bd
    ca_path: /etc/ssl/private-ca.pem
    expect_replicas: 3
    balancer:
      socket: /opt/bd-fhir-national/haproxy/run/admin.sock
      backend: hapi
    fail_on:
      - error
  register: balance

- name: Show the counts
  ansible.builtin.debug:
    msg: "{{ balance.replicas }}"
"""

RETURN = r"""
run_id:
  description: Tag of this probe, to be found in logs.
  returned: always, after the probe
  type: str
  sample: bdp-3f2a9c01d7e4
url:
  description: What was asked, redirects followed.
  returned: always, after the probe
  type: str
  sample: https://127.0.0.1/fhir/metadata
requests:
  description: How many tagged requests were sent.
  returned: always, after the probe
  type: int
  sample: 300
succeeded:
  description: How many were answered with a status of 200 to 299.
  returned: always, after the probe
  type: int
  sample: 300
failed_requests:
  description: How many were not.
  returned: always, after the probe
  type: int
  sample: 0
failures:
  description:
    - What these came back with, and how often. Without an answer it is a word such as V(timeout), V(connect) or V(tls).
  returned: always, after the probe
  type: dict
  sample: {HTTP 502: 3, timeout: 1}
seconds:
  description: How long the tagged requests took.
  returned: always, after the probe
  type: float
  sample: 4.21
judged_by:
  description: Which witness decided, V(header), V(counter) or V(none).
  returned: always, after the probe
  type: str
  sample: header
replicas:
  description: Every replica, those that got nothing too.
  returned: always, after the probe
  type: list
  elements: dict
  contains:
    name:
      description: Name of the container, or as given in O(urls).
      type: str
      sample: bd-fhir-national-hapi-1
    address:
      description: Address of the replica.
      type: str
      sample: 172.20.0.5
    ready:
      description: Whether its readiness endpoint says UP. V(null) when it does not tell.
      type: bool
      sample: true
    tagged:
      description: Tagged requests that it answered by the header. V(null) when no answer had the header.
      type: int
      sample: 100
    counted:
      description: How far its own counter went, other traffic included. V(null) when it could not be read.
      type: int
      sample: 104
    share:
      description: Its share of all, by the witness that decided. V(null) when none did.
      type: float
      sample: 0.3333
    slot_state:
      description:
        - State of its slot in O(balancer), V(up), V(down), V(drain) or V(maint).
        - V(null) when no slot holds its address or none was asked.
      type: str
      sample: up
findings:
  description:
    - What is not as it should be.
    - C(id) is one of V(replica_gets_none), V(share_low), V(requests_failed), V(requests_not_sent),
      V(entry_unreachable), V(unknown_server), V(counts_disagree), V(cannot_judge), V(no_replicas),
      V(replica_count_differs), V(replica_unreachable), V(counter_missing) (severity V(error); the last two V(warning)
      where the header has told all the same), V(balancer_unreadable), V(certificates_not_checked)
      (severity V(warning)).
  returned: always, after the probe
  type: list
  elements: dict
  sample:
    - id: replica_gets_none
      severity: error
      object: bd-fhir-national-hapi-2
      expected: at least 16.7 % of the requests
      found: none of 300
      hint: nginx was started before this replica and resolves the name once. Reload it.
"""

import dataclasses
import datetime
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._balance import (
    Count,
    Slot,
    Tally,
    View,
    delta,
    find_entry,
    host_of,
    judge,
    read_count,
    send,
)
from ..module_utils._compose import ComposeError
from ..module_utils._fhir import (
    HTTP_ARGUMENTS,
    HTTP_EXCLUSIVE,
    HTTP_REQUIRED_BY,
    HTTP_TOGETHER,
    Client,
    FhirError,
    HttpError,
    check_url,
    join,
    module_client,
    out_of_range,
    public_url,
    read_json,
)
from ..module_utils._findings import FINDINGS_OPTIONS, failed_on, finding, summary
from ..module_utils._haproxy import BALANCER_OPTIONS, HAProxy, HAProxyError, Server
from ..module_utils._replicas import REPLICA_ARGUMENTS, REPLICA_EXCLUSIVE, REPLICA_ONE_OF, Replica, discover

RANGES = {
    "requests": (1, 100000),
    "concurrency": (1, 64),
    "max_duration": (1, 86400),
    "min_share": (0, 1),
    "expect_replicas": (0, 1000),
    "timeout": (1, 3600),
    "port": (1, 65535),
}


def readiness(client: Client, replica: Replica, actuator_path: str) -> Optional[bool]:
    """Tell whether a replica says that it is ready; None when it does not tell."""
    if not replica.running:
        return False
    try:
        status = read_json(client, join(replica.url, actuator_path, "health/readiness"), accept=(200, 503))[1].get(
            "status"
        )
    except (HttpError, FhirError):
        return None
    return status == "UP" if isinstance(status, str) else None


def with_vanished(before: Sequence[Replica], after: Sequence[Replica]) -> list[Replica]:
    """Return the replicas of the end, and behind them those that were gone by then: they may have answered some."""
    names = {replica.name for replica in after}
    return list(after) + [dataclasses.replace(item, state="removed") for item in before if item.name not in names]


def resolve(client: Client, url: str, method: str, headers: dict[str, str]) -> str:
    """Return where a redirect of the entry point leads to, so that each tagged request is one request."""
    return public_url(client.get(url, headers=headers, method=method).url)


def read_slots(balancer: Optional[dict[str, str]]) -> tuple[Optional[list[Slot]], list[dict[str, Any]]]:
    """Read the balancer's slots. A balancer that cannot be read takes the reasons away, not the verdict."""
    if not balancer:
        return None, []
    try:
        return [to_slot(server) for server in HAProxy(balancer["socket"]).servers(balancer["backend"])], []
    except HAProxyError as error:
        hint = "Without it the cause of a missing share is a guess."
        return None, [
            finding("balancer_unreadable", "warning", balancer["backend"], "the slots of the backend", str(error), hint)
        ]


def to_slot(server: Server) -> Slot:
    """Return a server of HAProxy as judge() wants it. Somebody's own order stands above what its check says."""
    if server.drained:
        state = "drain"
    elif server.forced_maint:
        state = "maint"
    else:
        state = "up" if server.up else "down"
    return Slot(server.name, "" if server.unresolved else (server.address or ""), state, server.check_status)


def probe(module: AnsibleModule) -> dict[str, Any]:
    """Look, send, look again, judge. Returns the result of the module."""
    params = module.params
    server_name = host_of(params["host_header"]) if params["host_header"] else None
    client = module_client(module, server_name=server_name, agent="dghs.bd_fhir.balance_info")
    # Replicas are asked at their addresses, under no other name than that.
    direct = module_client(module)
    extra = {"Host": params["host_header"]} if params["host_header"] else {}
    actuator, metric = params["actuator_path"], params["metric"]
    check_url(params["url"])
    replicas, docker = discover(module)
    started = datetime.datetime.now(datetime.timezone.utc)
    findings: list[dict[str, Any]] = []
    tally = Tally()
    url = public_url(params["url"])
    run_id = "bdp-" + uuid.uuid4().hex[:12]
    with ThreadPoolExecutor(max_workers=8) as pool:

        def counts(asked: Sequence[Replica]) -> dict[str, Count]:
            found = pool.map(lambda item: read_count(direct, item, actuator, metric), asked)
            return {item.name: count for item, count in zip(asked, found)}

        entry_error = ""
        try:
            url = resolve(client, params["url"], params["method"], extra)
        except HttpError as error:
            entry_error = str(error)
        before_replicas = replicas
        before = counts(replicas)
        if entry_error:
            hint = "No tagged request was sent. Is the entry point up, and does url name it as clients do?"
            findings.append(finding("entry_unreachable", "error", url, "an answer", entry_error, hint))
        else:
            tally = send(
                client,
                url,
                run_id,
                params["requests"],
                params["concurrency"],
                params["max_duration"],
                params["served_by_header"],
                params["method"],
                params["host_header"],
            )
            if tally.sent < params["requests"]:
                hint = "Raise max_duration or concurrency, or find out why the answers are so slow."
                found = "%d sent in %d s" % (tally.sent, params["max_duration"])
                findings.append(
                    finding("requests_not_sent", "error", url, "%d requests" % params["requests"], found, hint)
                )
        if docker is not None:
            replicas = with_vanished(before_replicas, discover(module)[0])
        for replica in replicas:
            # It was not there before, so its process has counted nothing then.
            before.setdefault(replica.name, Count())
        after = counts(replicas)
        if tally.succeeded > sum(delta(before[item.name], after[item.name])[0] or 0 for item in replicas):
            # A server counts a request when it is done with it, which can be just after the client has the answer.
            time.sleep(1)
            after = counts(replicas)
        ready = dict(
            zip([item.name for item in replicas], pool.map(lambda item: readiness(direct, item, actuator), replicas))
        )
    slots, problems = read_slots(params["balancer"])
    view = View(
        service=params["service"],
        replicas=replicas,
        tally=tally,
        ready=ready,
        before=before,
        after=after,
        slots=slots,
        entry=find_entry(url, docker.containers(), params["service"]) if docker is not None else None,
        started=started,
        served_by_header=params["served_by_header"],
        metric=metric,
        min_share=params["min_share"],
        expect_replicas=params["expect_replicas"],
        backend=params["balancer"]["backend"] if params["balancer"] else "",
    )
    rows, judged_by, judged = judge(view)
    findings += problems + judged
    if not params["validate_certs"]:
        hint = "Give the CA's certificate as ca_path and leave validate_certs at true."
        findings.append(
            finding("certificates_not_checked", "warning", url, "checked certificates", "validate_certs=false", hint)
        )
    return {
        "changed": False,
        "run_id": run_id,
        "url": url,
        "requests": tally.sent,
        "succeeded": tally.succeeded,
        "failed_requests": tally.failed,
        "failures": dict(tally.failures),
        "seconds": round(tally.seconds, 2),
        "judged_by": judged_by,
        "replicas": rows,
        "findings": findings,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **REPLICA_ARGUMENTS,
            **HTTP_ARGUMENTS,
            **FINDINGS_OPTIONS,
            "url": {"type": "str", "required": True},
            "host_header": {"type": "str"},
            "method": {"type": "str", "choices": ["GET", "HEAD"], "default": "GET"},
            "requests": {"type": "int", "default": 300},
            "concurrency": {"type": "int", "default": 4},
            "max_duration": {"type": "int", "default": 300},
            "metric": {"type": "str", "default": "http_server_requests_seconds_count"},
            "served_by_header": {"type": "str", "default": "X-BD-Served-By"},
            "min_share": {"type": "float", "default": 0.5},
            "expect_replicas": {"type": "int"},
            "balancer": {"type": "dict", "options": BALANCER_OPTIONS},
        },
        mutually_exclusive=REPLICA_EXCLUSIVE + HTTP_EXCLUSIVE,
        required_one_of=REPLICA_ONE_OF,
        required_together=HTTP_TOGETHER,
        required_by=HTTP_REQUIRED_BY,
        supports_check_mode=True,
    )
    problem = out_of_range(module.params, RANGES)
    if problem:
        module.fail_json(msg=problem)
    try:
        result = probe(module)
    except (HttpError, ComposeError) as error:
        module.fail_json(msg=str(error))
    failed = failed_on(result["findings"], module.params["fail_on"])
    if failed:
        module.fail_json(msg=summary(failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
