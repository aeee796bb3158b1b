#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: balancer_window
short_description: Let the balancer itself answer 503 with Retry-After for a short, announced time
version_added: 1.0.0
description:
  - For the seconds in which a database restarts, the HAProxy that the role P(dghs.bd_fhir.balancer#role) has started answers each new
    request itself. Clients get status 503 with C(Retry-After) and a FHIR C(OperationOutcome), which they know how to handle, and
    nothing reaches HAPI, which would answer 500 and may have done half of the work.
  - A window ends by itself at the time that is written into it, also when the play, this module or the whole control node is dead.
  - Requests that were let through before are not cut. With O(drain) the module waits for their end.
  - The balancer's own check C(/balancer-health) stays good in a window for all requests.
  - The window is set in the running HAProxy, without a reload, and in the map file, so that a restarted one keeps it.
attributes:
  check_mode:
    support: full
    details:
      - Where there is no balancer yet, the window is predicted with a warning.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - With O(state=open), see O(tolerance).
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.change
options:
  socket:
    description:
      - HAProxy's runtime API on the host, with C(level admin).
      - Defaults to C(compose.d/balancer/run/admin.sock) in O(project_dir).
    type: str
  map_path:
    description:
      - The map file on the host, in the folder that HAProxy has mounted. HAProxy knows it by the same name in its own folder.
      - Defaults to C(compose.d/balancer/etc/window.map) in O(project_dir).
    type: path
  backend:
    description:
      - HAProxy's backend, whose requests O(drain) and whose servers O(ready_timeout) wait for.
    type: str
    default: hapi
  state:
    description:
      - Whether the window shall be open.
      - With V(open), a window that is open already never gets shorter or narrower.
      - With V(closed), each request is served again, whoever opened the window.
    type: str
    choices:
      - open
      - closed
    required: true
  seconds:
    description:
      - For how many seconds from now on the window shall be open, from 1 to 900. Required with O(state=open).
      - Give it more than the work takes, and close the window when the work is done.
    type: int
  scope:
    description:
      - Which requests the balancer answers itself.
      - With V(writes), reads are still served. These are C(GET), C(HEAD), C(OPTIONS) and a search by C(POST) to C(_search).
        That is no good when the database restarts, for reads then fail as well.
    type: str
    choices:
      - all
      - writes
    default: all
  retry_after:
    description:
      - Seconds that clients are told to wait, from 0 to 900. With V(0), those that are left of the window.
    type: int
    default: 0
  tolerance:
    description:
      - An open window is left as it is if it ends at most this number of seconds earlier than asked for,
        so that the same call right afterwards changes nothing. It is never more than half of O(seconds).
      - With V(0), the window is open for the full time in any case.
    type: int
    default: 10
  drain:
    description:
      - Seconds to wait, with O(state=open), until all requests that were let through before have ended. With V(0) it is not waited.
      - What is left then is in RV(in_flight) and in a warning. The window stays open.
      - Has to be less than O(seconds), and needs O(scope=all), as otherwise reads keep coming.
      - Requests in an HAProxy process that was replaced by a reload are not seen.
    type: int
    default: 0
  ready_timeout:
    description:
      - Seconds to wait, with O(state=closed), until at least one server of O(backend) is up, before the window is closed.
        A replica that has lost its database is out for some seconds longer than the database.
      - The window is closed afterwards in any case. It is never waited beyond its end.
    type: int
    default: 30
seealso:
  - module: dghs.bd_fhir.postgres_parameter
  - module: dghs.bd_fhir.compose_rollout
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Answer 503 for two minutes at most, and wait up to 20 seconds for what is in flight
  dghs.bd_fhir.balancer_window:
    project_dir: /opt/bd-fhir-national
    state: open
    seconds: 120
    drain: 20

- name: Restart the database
  ansible.builtin.command:
    argv: [docker, restart, --time, "60", bd-fhir-national-postgres-fhir-1]
  changed_when: true

- name: Serve again
  dghs.bd_fhir.balancer_window:
    project_dir: /opt/bd-fhir-national
    state: closed

- name: Refuse writes for a minute; clients come back after ten seconds
  dghs.bd_fhir.balancer_window:
    project_dir: /opt/bd-fhir-national
    state: open
    seconds: 60
    scope: writes
    retry_after: 10
"""

RETURN = r"""
state:
  description: Whether a window is open afterwards, V(open) or V(closed). In check mode as predicted.
  returned: success
  type: str
  sample: open
scope:
  description: Widest scope that is open, empty if none is.
  returned: success
  type: str
  sample: all
until:
  description: When the window ends by itself, in UTC. Empty if none is open.
  returned: success
  type: str
  sample: "2026-11-25T23:10:00Z"
seconds_left:
  description: Seconds until then.
  returned: success
  type: int
  sample: 119
map_path:
  description: The map file on the host.
  returned: success
  type: str
  sample: /opt/bd-fhir-national/compose.d/balancer/etc/window.map
in_flight:
  description: Requests that had not ended after O(drain) seconds. Null if it was not waited for them.
  returned: success
  type: int
  sample: 0
served:
  description: Whether a server was up when the window was closed. Null if it was not waited for one.
  returned: success
  type: bool
  sample: true
"""

import os
import time

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _window
from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._haproxy import HAProxy, HAProxyError


def complaint(params: dict[str, Any]) -> str:
    """Return what is wrong with the options, "" if nothing is. Pure."""
    most = _window.MAX_SECONDS
    for name in ("retry_after", "tolerance", "drain", "ready_timeout"):
        if not 0 <= params[name] <= most:
            return "%s is %d, but has to be from 0 to %d." % (name, params[name], most)
    if params["state"] == "closed":
        return ""
    if not 1 <= params["seconds"] <= most:
        return "seconds is %d, but has to be from 1 to %d. What takes longer is no window, but an outage to be agreed on." % (
            params["seconds"],
            most,
        )
    if params["drain"] >= params["seconds"]:
        return "drain is %d, but has to be less than seconds (%d): the window would end while it is waited." % (
            params["drain"],
            params["seconds"],
        )
    if params["drain"] and params["scope"] != "all":
        return "drain needs scope=all: with scope=%s other requests keep coming, so that the backend never gets idle." % params["scope"]
    return ""


def fill(result: dict[str, Any], window: _window.Window, now: int) -> None:
    """Put what a window says into the result. Pure."""
    scope = window.scope(now)
    until = window.at(now).until
    result["state"] = "open" if scope else "closed"
    result["scope"] = scope
    result["until"] = _window.iso(until)
    result["seconds_left"] = max(0, until - now)


def predict(module: AnsibleModule, address: str, result: dict[str, Any]) -> None:
    """Fill the result for a host that has no balancer yet; in check mode only."""
    params = module.params
    module.warn("There is no balancer at %s yet, so that the window is only predicted. A real run would fail." % address)
    now = int(time.time())
    after = _window.Window()
    if params["state"] == "open":
        after = _window.opened(after, now, params["seconds"], params["scope"], params["retry_after"], params["tolerance"])
    result["changed"] = after != _window.Window()
    result["diff"] = {"before": _window.Window().lines(now), "after": after.lines(now)}
    fill(result, after, now)


def run(module: AnsibleModule, haproxy: HAProxy, result: dict[str, Any]) -> None:
    """Converge; fills result. Raises HAProxyError, ComposeError, ChangeError."""
    params = module.params
    opens = params["state"] == "open"
    path = result["map_path"]
    if params["drain"]:
        # A wrong name is told before the first request is refused.
        haproxy.sessions(params["backend"])
    if opens:
        plan = _window.plan_open(haproxy, path, params["seconds"], params["scope"], params["retry_after"], params["tolerance"])
    else:
        plan = _window.plan_close(haproxy, path)
    result["changed"] = plan.changed
    result["diff"] = {"before": plan.before.lines(plan.now), "after": plan.after.lines(plan.now)}
    fill(result, plan.after, plan.now)
    if module.check_mode:
        return
    if plan.changed:
        guard = ChangeGuard.from_module(module, Docker.from_module(module).project_name())
        guard.verify()
        if not opens and plan.before.until and params["ready_timeout"]:
            wait = min(params["ready_timeout"], plan.before.until - plan.now)
            result["served"] = _window.wait_served(haproxy, params["backend"], wait)
            if not result["served"]:
                module.warn(
                    "The window is closed although no server of the backend %s was up after %d s: clients now get the balancer's own"
                    " 503. Look at the replicas and their database." % (params["backend"], wait)
                )
        before, after = (item.lines(plan.now).splitlines() for item in (plan.before, plan.after))
        guard.step("open window" if opens else "close window", "%s of %s" % (plan.reference, haproxy.address), before, after)
        _window.apply(haproxy, plan)
    if params["drain"] and opens:
        result["in_flight"] = _window.wait_idle(haproxy, params["backend"], params["drain"])
        if result["in_flight"]:
            module.warn(
                "%d requests that were let through before are still in flight after drain (%d s). What follows may cut them."
                % (result["in_flight"], params["drain"])
            )
    fill(result, plan.after, int(time.time()))


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            socket={"type": "str"},
            map_path={"type": "path"},
            backend={"type": "str", "default": "hapi"},
            state={"type": "str", "choices": ["open", "closed"], "required": True},
            seconds={"type": "int"},
            scope={"type": "str", "choices": list(_window.SCOPES), "default": "all"},
            retry_after={"type": "int", "default": 0},
            tolerance={"type": "int", "default": _window.DEFAULT_TOLERANCE},
            drain={"type": "int", "default": 0},
            ready_timeout={"type": "int", "default": 30},
            **CHANGE_ARGUMENTS,
        ),
        required_if=[("state", "open", ["seconds"])],
        supports_check_mode=True,
    )
    params = module.params
    wrong = complaint(params)
    if wrong:
        module.fail_json(msg="Nothing was changed: %s" % wrong)
    folder = os.path.join(params["project_dir"], "compose.d", "balancer")
    address = params["socket"] or os.path.join(folder, "run", "admin.sock")
    result: dict[str, Any] = {
        "changed": False,
        "map_path": params["map_path"] or os.path.join(folder, "etc", "window.map"),
        "in_flight": None,
        "served": None,
    }
    try:
        if module.check_mode and address.startswith("/") and not os.path.exists(address):
            predict(module, address, result)
        else:
            run(module, HAProxy(address), result)
    except (HAProxyError, ComposeError, ChangeError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
