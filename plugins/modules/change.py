#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: change
short_description: Open, note in and close an operator's change on a deployment
version_added: 1.0.0
description:
  - Takes a lease on a compose project, so that no second operator changes it at the same time, and keeps an append-only journal
    of what was done to it. Both lie on the host, in O(state_dir).
  - The lease is renewed by each step of the modules that are given its token, and now and then while a long one goes on. One that has
    not been renewed for O(ttl) seconds is taken over by the next who asks. So is, at once, one of a C(ansible-playbook) on the same
    controller whose process has ended.
  - Who was superseded is stopped at the next step, by a token whose number only grows.
  - Taking and giving back the lease is not a change. The journal says that a change was opened when its first real step comes, so
    that a run that changes nothing leaves it as it was.
  - The role P(dghs.bd_fhir.change_record#role) does this for playbooks.
attributes:
  check_mode:
    support: full
    details:
      - Nothing is opened, written or waited for. RV(held) and RV(held_by) say what a real run would meet.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - Never reports a change of the deployment. Each call with O(state=opened) and without O(token) takes a new lease, though.
  action:
    description: Has an action plugin, which tells the host which process on the controller asks, and whether the holder's has ended.
    support: full
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.attributes.actiongroup_fhir
options:
  state:
    description:
      - V(opened) takes the lease. With a valid O(token), it is only renewed, see RV(nested).
      - V(noted) adds a line to the journal, for steps that are done by modules that know nothing of it.
      - V(closed) gives the lease back.
    type: str
    choices:
      - opened
      - noted
      - closed
    default: opened
  token:
    description:
      - What O(state=opened) returned. Required with O(state=closed).
      - With O(state=noted), without it, the line is recorded as nobody's, and is refused while somebody holds the deployment.
    type: str
    default: ''
  verb:
    description:
      - What is being done, by the name of the playbook. Required with O(state=opened).
    type: str
    default: ''
  why:
    description:
      - The reason, such as the number of a ticket.
    type: str
    default: ''
  owner:
    description:
      - Who does it, in a form by which a colleague reaches them, such as C(rahim@ops-laptop).
      - By default the user and the name of the controller.
    type: str
    default: ''
  ttl:
    description:
      - Seconds without a step after which the lease is over.
      - Must be longer than the longest single step, such as the start of a replica or the download of an image.
    type: int
    default: 900
  wait:
    description:
      - Seconds to wait for the present holder to end; with V(0) the task fails at once and names the holder.
    type: int
    default: 0
  force_owner:
    description:
      - Take the lease from this owner, whose name must be exactly that of the present holder. Anybody else's is left alone.
    type: str
    default: ''
  result:
    description:
      - How it ended, with O(state=closed).
    type: str
    choices:
      - succeeded
      - failed
    default: succeeded
  text:
    description:
      - A sentence for the journal, with O(state=noted) or O(state=closed). No secrets.
    type: str
    default: ''
  object:
    description:
      - What a note is about, such as a file or a service.
    type: str
    default: ''
  details:
    description:
      - Further values of a note. No secrets.
    type: dict
    default: {}
  backup_id:
    description:
      - The backup that was made before the change. A note with one is recorded as V(backup).
    type: str
    default: ''
  state_dir:
    description:
      - Directory on the host below which each project has a directory for its lease and journal.
    type: path
    default: /var/lib/dghs-bd-fhir
  controller:
    description:
      - The process on the controller that asks. Filled in by the action plugin.
    type: dict
    default: {}
  dead:
    description:
      - Id of the change whose process on the controller has ended. Filled in by the action plugin.
    type: str
    default: ''
seealso:
  - module: dghs.bd_fhir.change_info
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Take the deployment, or stop and say who has it
  dghs.bd_fhir.change:
    project_dir: /opt/bd-fhir-national
    verb: scale_hapi
    why: CHG-1042
    owner: rahim@ops-laptop
  register: opened

- name: Work under that change
  dghs.bd_fhir.compose_fragment:
    project_dir: /opt/bd-fhir-national
    name: hapi
    content: |
      services:
        hapi:
          scale: 3
    change_token: "{{ opened.token }}"

- name: Write down what another collection's module is about to do
  dghs.bd_fhir.change:
    project_dir: /opt/bd-fhir-national
    state: noted
    token: "{{ opened.token }}"
    object: /etc/nginx/nginx.conf
    text: The certificate is replaced.

- name: Give it back
  dghs.bd_fhir.change:
    project_dir: /opt/bd-fhir-national
    state: closed
    token: "{{ opened.token }}"

- name: Take it from a colleague who has confirmed that their run is dead
  dghs.bd_fhir.change:
    project_dir: /opt/bd-fhir-national
    verb: rollback_scale_hapi
    owner: karim@ops-laptop
    force_owner: rahim@ops-laptop
"""

RETURN = r"""
token:
  description: What the modules of this change are given as C(change_token). Empty in check mode.
  returned: success
  type: str
  sample: 7:0c9d5a3e-5f0e-4f3c-9a52-0a1f6cbb2f9e:/var/lib/dghs-bd-fhir/bd-fhir
opened:
  description: Whether this call took the lease.
  returned: success
  type: bool
  sample: true
nested:
  description: Whether the lease was held already, by O(token).
  returned: success
  type: bool
  sample: false
took_over:
  description:
    - Why the lease was taken from somebody, empty if it was free.
    - V(expired), V(dead) or V(forced).
  returned: success
  type: str
  sample: ''
taken_from:
  description: The holder from whom it was taken, with C(owner), C(verb), C(opened_at) and C(renewed_at); empty if it was free.
  returned: success
  type: dict
  sample: {}
waited:
  description: Seconds for which the holder was waited for.
  returned: always
  type: float
  sample: 0.0
held:
  description: Whether somebody else holds the deployment.
  returned: always
  type: bool
  sample: false
held_by:
  description: One sentence about that holder, empty if there is none.
  returned: always
  type: str
  sample: ''
lease:
  description: The lease as it is now, empty if there is none.
  returned: always
  type: dict
  sample:
    state: open
    token: 7
    id: 0c9d5a3e-5f0e-4f3c-9a52-0a1f6cbb2f9e
    verb: scale_hapi
    why: CHG-1042
    owner: rahim@ops-laptop
    opened_at: '2026-11-25T20:15:00Z'
    renewed_at: '2026-11-25T20:15:00Z'
    ttl: 900
    recorded: false
journal:
  description: Path of the journal.
  returned: always
  type: str
  sample: /var/lib/dghs-bd-fhir/bd-fhir/journal.jsonl
"""

import time

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _change
from ..module_utils._change import ChangeError, Now, Store, Token, Wish
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError

POLL = 1.0  # seconds between two looks at the lease of another


def store_of(module: AnsibleModule) -> Optional[Store]:
    """Return where the lease lies, None where there is no project. Raises ComposeError, ChangeError for a bad token."""
    if module.params["token"]:
        return Store(Token.parse(module.params["token"]).directory)
    project = _change.project_of(module)
    return Store(_change.directory_of(project, module.params["state_dir"])) if project else None


def look(store: Store, result: dict[str, Any]) -> None:
    """Put the lease as it is into the result."""
    lease, now = store.lease(), Now.read()
    result["lease"] = lease or {}
    if lease and _change.live(lease, now):
        result["held"] = True
        result["held_by"] = _change.describe(lease, now)


def opened(module: AnsibleModule, store: Store, result: dict[str, Any]) -> None:
    """Take the lease, or renew it. Raises ChangeError when somebody holds it, with the holder in the result."""
    params = module.params
    if params["token"]:
        result["lease"] = _change.renew(store, Token.parse(params["token"]))
        result.update(token=params["token"], nested=True)
        return
    wish = Wish(
        params["verb"],
        params["why"],
        params["owner"],
        params["controller"],
        params["ttl"],
        params["force_owner"],
        params["dead"],
    )
    started = time.monotonic()
    while True:
        taken = _change.take(store, wish)
        result["waited"] = round(time.monotonic() - started, 1)
        if taken.token or time.monotonic() - started + POLL > params["wait"]:
            break
        time.sleep(POLL)
    result["lease"] = taken.lease
    if taken.token is None:
        now = Now.read()
        result.update(held=True, held_by=_change.describe(taken.lease, now))
        text = _change.held_text(taken.lease, now, result["waited"])
        if params["force_owner"]:
            text += " force_owner names %s, who is not the holder." % params["force_owner"]
        raise ChangeError(text)
    result.update(token=str(taken.token), opened=True, took_over=taken.reason)
    if taken.previous:
        result["taken_from"] = {key: taken.previous[key] for key in ("owner", "verb", "opened_at", "renewed_at")}


def noted(module: AnsibleModule, store: Store) -> None:
    """Add a line to the journal. Raises ChangeError."""
    params = module.params
    kind = "backup" if params["backup_id"] else "note"
    values = {
        "action": "note",
        "object": params["object"],
        "message": params["text"],
        "after": _change.bounded(params["details"]),
        "backup_id": params["backup_id"],
        "module": "change",
    }
    if params["token"]:
        _change.write_down(store, Token.parse(params["token"]), kind, **values)
    else:
        _change.write_down_alone(store, kind, **values)


def run(module: AnsibleModule, result: dict[str, Any]) -> None:
    """Do it; fills result. Raises ChangeError, ComposeError."""
    store = store_of(module)
    if store is None:
        if module.check_mode:
            # Nothing is there yet that anybody could hold.
            return
        raise ChangeError(
            "Nothing was changed: there is no compose project in %s on this host. Check project_dir and the inventory."
            % module.params["project_dir"]
        )
    result["journal"] = store.journal_path
    if module.check_mode:
        look(store, result)
        if result["held"] and module.params["token"] and result["lease"]["id"] == Token.parse(module.params["token"]).change:
            result.update(held=False, held_by="", nested=True, token=module.params["token"])
        return
    if module.params["state"] == "opened":
        opened(module, store, result)
    elif module.params["state"] == "noted":
        noted(module, store)
        result["token"] = module.params["token"]
        result["lease"] = store.lease() or {}
    else:
        params = module.params
        result["lease"] = _change.close(store, Token.parse(params["token"]), params["result"], params["text"], params["backup_id"]) or {}


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            state={"type": "str", "choices": ["opened", "noted", "closed"], "default": "opened"},
            token={"type": "str", "default": "", "no_log": False},
            verb={"type": "str", "default": ""},
            why={"type": "str", "default": ""},
            owner={"type": "str", "default": ""},
            ttl={"type": "int", "default": _change.DEFAULT_TTL},
            wait={"type": "int", "default": 0},
            force_owner={"type": "str", "default": ""},
            result={"type": "str", "choices": ["succeeded", "failed"], "default": "succeeded"},
            text={"type": "str", "default": ""},
            object={"type": "str", "default": ""},
            details={"type": "dict", "default": {}},
            backup_id={"type": "str", "default": ""},
            state_dir={"type": "path", "default": _change.STATE_DIR},
            controller={"type": "dict", "default": {}},
            dead={"type": "str", "default": ""},
        ),
        supports_check_mode=True,
    )
    params = module.params
    result: dict[str, Any] = {
        "changed": False,
        "token": "",
        "opened": False,
        "nested": False,
        "took_over": "",
        "taken_from": {},
        "waited": 0.0,
        "held": False,
        "held_by": "",
        "lease": {},
        "journal": "",
    }
    needed = {"opened": ("verb",), "noted": ("text",), "closed": ("token",)}[params["state"]]
    missing = [name for name in needed if not params[name]]
    if missing and not (params["state"] == "opened" and params["token"]):
        module.fail_json(msg="state %s needs %s, which must not be empty." % (params["state"], " and ".join(missing)), **result)
    if params["ttl"] < 60 or params["wait"] < 0:
        text = "ttl must be at least 60 seconds (is %d), and wait can't be negative (is %d)."
        module.fail_json(msg=text % (params["ttl"], params["wait"]), **result)
    try:
        run(module, result)
    except (ChangeError, ComposeError) as exc:
        module.fail_json(msg=str(exc), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
