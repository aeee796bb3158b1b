#!/usr/bin/python

# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hfj_partition
short_description: Partition one of HAPI's large tables while HAPI works on, and bring it back
version_added: 1.0.0
author:
  - The dghs.bd_fhir developers (@dghs-bd)
description:
  - Does one step with one table. A role or a play goes through the tables, so that its list of tasks is the progress.
  - The table becomes the first partition of a new parent without a row being copied. What takes long is done before, while HAPI works on. The
    swap itself holds its locks for a moment, whatever the size of the table.
  - All locks are asked for before anything is done, HFJ_RESOURCE first, as HAPI writes. Who does not get them in time gives way and tries again,
    and names who holds them.
  - Owner, grants, also those on columns, and comments go over as they are at that moment, on the way there and on the way back. Extended
    statistics stay with the first partition.
  - How far a table is, is read from the catalog alone. Each part is one transaction or one statement. After a kill at any moment the next run
    goes on, or goes back.
extends_documentation_fragment:
  - dghs.bd_fhir.hfj_tables
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.postgres_login
  - dghs.bd_fhir.attributes
  - dghs.bd_fhir.change
attributes:
  check_mode:
    support: full
    details:
      - RV(plan) is then what a real run does. Every refusal comes as in a real run, but for a C(swap) of a table that is not prepared yet, and for
        a copy while HAPI still works, which are findings then.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  login_user:
    description:
      - User to log in with, a superuser, or a member of the role that owns the tables.
  table:
    description:
      - The table, as it is written in the catalog, such as V(hfj_spidx_token).
    type: str
    required: true
  step:
    description:
      - V(prepare) builds a unique index, the parent with partitions from O(first_bound) on, and a CHECK that proves where the rows belong. HAPI
        works on.
      - V(swap) puts the parent into the place of the table under a lock of a moment, then validates foreign keys and analyzes online.
      - V(extend) makes more partitions ahead of the sequence, O(ahead) of them, and one more where these don't last for O(alarm_days).
      - V(undo) goes back to a plain table, from wherever it is.
      - V(watch) drops the CHECK of a table that waits for its swap, when the sequence comes near it. From V(prepare) on until V(swap) it must run at
        least every hour, as by cron, since HAPI's inserts are refused from O(first_bound) on. It waits for no other run and for nobody's change,
        and breaks off a V(prepare) that still validates. No bulk load should begin in that time.
      - V(verify) changes nothing and proves the result in another way than it was made.
      - V(rewrite) is the other method, for those who want partitions of one size. It copies all rows of a plain table into O(modulus) partitions by
        HASH of the resource's id, compares them with the old ones, and drops the old table, in one transaction. HAPI has to be stopped, for it waits
        as long as that takes. V(undo) is then a copy back, and needs O(allow_copy).
    type: str
    required: true
    choices:
      - prepare
      - swap
      - extend
      - undo
      - watch
      - verify
      - rewrite
  modulus:
    description:
      - Into how many partitions V(rewrite) copies. Every search visits every partition.
    type: int
    default: 8
  allow_copy:
    description:
      - Whether V(undo) may copy rows, of further partitions into the first one, or of a rewritten table. HAPI waits for as long as that takes.
    type: bool
    default: false
  lock_timeout_seconds:
    description:
      - For how long locks are waited for at a time. It has to be less than the server's C(deadlock_timeout), so that nobody of HAPI is
        chosen to give way.
    type: float
    default: 0.5
  lock_tries:
    description:
      - How many times locks are asked for.
    type: int
    default: 20
  hold_seconds:
    description:
      - For how long locks may be held at most, by everything that is done under them together. What takes longer is put back. Copying
        by O(allow_copy) or V(rewrite) is not limited.
    type: float
    default: 5
  cancel_autovacuum:
    description:
      - Whether an autovacuum that holds one of the locks is cancelled, as the server itself does for whoever waits. One that prevents wraparound
        never is.
    type: bool
    default: true
  parallel_workers:
    description:
      - How many helpers the server may use to build the index.
    type: int
    default: 0
  lag_wait_seconds:
    description:
      - For how long V(prepare) waits, before each of its parts, for a standby that is more than O(max_lag_bytes) behind.
    type: int
    default: 600
  verify_rows:
    description:
      - How many of the newest rows of each partition V(verify) looks up.
    type: int
    default: 10000
  expected_foreign_keys:
    description:
      - The foreign keys of and to the table from before, as RV(foreign_keys) told them. V(verify) compares.
    type: list
    elements: dict
    default: []
seealso:
  - module: dghs.bd_fhir.hfj_partition_info
  - module: dghs.bd_fhir.hfj_upgrade_check
"""

EXAMPLES = r"""
- name: The part that takes long, while HAPI works on
  dghs.bd_fhir.hfj_partition:
    project_dir: /opt/bd-fhir-national
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    table: hfj_spidx_token
    step: prepare
  async: 86400
  poll: 30

- name: The lock of a moment
  dghs.bd_fhir.hfj_partition:
    project_dir: /opt/bd-fhir-national
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    table: hfj_spidx_token
    step: swap
  register: swapped

- name: Prove it
  dghs.bd_fhir.hfj_partition:
    project_dir: /opt/bd-fhir-national
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    table: hfj_spidx_token
    step: verify
    expected_foreign_keys: "{{ swapped.foreign_keys.before }}"

- name: HFJ_RESOURCE too, before the tables that refer to it
  dghs.bd_fhir.hfj_partition:
    project_dir: /opt/bd-fhir-national
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    table: hfj_resource
    unique_guard: true
    step: "{{ item }}"
  loop: [prepare, swap, verify]

- name: The other method, in a window in which HAPI is stopped
  dghs.bd_fhir.hfj_partition:
    project_dir: /opt/bd-fhir-national
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    table: hfj_spidx_token
    step: rewrite
    modulus: 8

- name: Back to a plain table
  dghs.bd_fhir.hfj_partition:
    project_dir: /opt/bd-fhir-national
    login_password_variable: FHIR_DB_SUPERUSER_PASSWORD
    table: hfj_spidx_token
    step: undo
"""

RETURN = r"""
state:
  description:
    - The state before and after, as M(dghs.bd_fhir.hfj_partition_info) tells it. In check mode as predicted.
  returned: success, and on failure as far as it was read
  type: dict
  sample: {before: prepared, after: swapped}
plan:
  description: What was done, in order, with the seconds that each part took. In check mode what would be done.
  returned: success, and on failure what was done until then
  type: list
  elements: dict
  contains:
    action:
      description:
        - V(drop_check), V(drop_parent), V(drop_index), V(drop_guard), V(build_index), V(create_guard), V(fill_guard), V(create_parent),
          V(add_partition), V(add_check), V(validate_check), V(swap), V(validate_key), V(analyze), V(swap_back), V(rewrite) or V(rewrite_back).
      type: str
      sample: swap
    object:
      description: The table, partition, index or constraint.
      type: str
      sample: hfj_spidx_token
    why:
      description: Why it is needed.
      type: str
      sample: it becomes the first partition, up to 5400000
    seconds:
      description: How long it took. V(null) in check mode.
      type: float
      sample: 0.09
lock:
  description: How often locks were asked for, the longest wait for them, and the longest time that they were held, in milliseconds.
  returned: success, and on failure
  type: dict
  sample: {tries: 1, waited_ms: 3.1, held_ms: 61.0, blockers: []}
bounds:
  description: Where the first partition ends, how wide the next ones are, and how many there are to be ahead.
  returned: success, and on failure as far as it was read
  type: dict
  sample: {first: 5400000, width: 3800000, ahead: 2}
partitions:
  description: The partitions afterwards, the lowest first. In check mode those that are there.
  returned: success
  type: list
  elements: dict
  sample:
    - name: hfj_spidx_token_p0
      lower: null
      upper: 5400000
      bytes: 2147483648
      rows: 5000000
foreign_keys:
  description: The foreign keys of and to the table, by C(name), C(table) and C(foreign_table), before and after.
  returned: success, and on failure as far as it was read
  type: dict
  sample:
    before:
      - name: fk_sp_token_res
        table: hfj_spidx_token
        foreign_table: hfj_resource
    after:
      - name: fk_sp_token_res
        table: hfj_spidx_token
        foreign_table: hfj_resource
rows_copied:
  description: How many rows V(undo) or V(rewrite) has copied.
  returned: success, and on failure
  type: int
  sample: 0
findings:
  description: What was found, as M(dghs.bd_fhir.hfj_partition_info) tells it, and what V(verify) found. Errors are the reason of a failure.
  returned: success, and on failure
  type: list
  elements: dict
  sample: []
"""

import time

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _hfj as hfj
from ..module_utils import _hfj_catalog as catalog
from ..module_utils import _hfj_guard as guarding
from ..module_utils import _hfj_rewrite as copying
from ..module_utils import _hfj_sql as work
from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._findings import failed_on, finding, summary
from ..module_utils._hfj_catalog import HFJ_ARGUMENTS
from ..module_utils._postgres import LOGIN_ARGUMENTS, Login, PostgresError, Session, address_of, connect, container_of, secret_of

PORT = 5432
# No limit on statements: an index of a large table takes hours. What holds locks has a limit of its own.
NO_TIMEOUT = 0
# Seconds between two looks at a standby that is behind.
LAG_PAUSE = 5.0
# A plan is made anew after each part; more rounds than parts would mean that somebody works against us.
ROUNDS = 200
PARTITIONED = ("swapped", "unfinished")
# What each step refuses of what judge() finds. The way back and the watch must always be possible.
STRICT = ("prepare", "swap", "rewrite")
RANGES = {
    "lock_timeout_seconds": (0.01, 3600),
    "lock_tries": (1, 1000),
    "hold_seconds": (0.1, 3600),
    "parallel_workers": (0, 64),
    "lag_wait_seconds": (0, 86400),
    "verify_rows": (1, 1000000),
    "modulus": (2, 256),
}


def key_rows(table: hfj.Table) -> list[dict[str, str]]:
    """Return the foreign keys of and to a table in the form that verify compares. Pure."""
    keys = [*(table.main.keys if table.main else ()), *(item.key for item in table.inbound)]
    return sorted(
        ({"name": key.name, "table": key.table, "foreign_table": key.foreign_table} for key in keys), key=lambda row: (row["table"], row["name"])
    )


def lines_of(table: hfj.Table) -> str:
    """Return a table in lines, for a difference. Pure."""
    lines = ["%s.%s: %s\n" % (table.schema, table.name, table.state)]
    for part in table.main.parts if table.main else ():
        lower = "the beginning" if part.lower is None else part.lower
        lines.append("%s: %s to %s\n" % (part.name, lower, "the end" if part.upper is None else part.upper))
    return "".join(lines)


class Partitioning:
    """One call of the module."""

    def __init__(self, module: AnsibleModule, result: dict[str, Any]) -> None:
        self.module = module
        self.params = params = module.params
        self.result = result
        catalog.check_ranges(params)
        for name, (least, most) in RANGES.items():
            if not least <= params[name] <= most:
                raise hfj.HfjError("%s is %s. It takes %g to %g." % (name, params[name], least, most))
        self.docker = Docker.from_module(module)
        self.guard = ChangeGuard.for_docker(module, self.docker)
        password = secret_of(self.docker, params["login_password"], params["login_password_variable"])
        self.container = container_of(self.docker, params["service"])
        host = address_of(self.container, PORT)
        self.login = Login(host, PORT, params["login_user"], password, params["database"], params["connect_timeout"])
        self.limits = work.Limits(params["lock_timeout_seconds"], params["lock_tries"], params["hold_seconds"], params["cancel_autovacuum"])
        self.told = work.Locking()
        self.growth: tuple[Any, float] = (None, 0.0)

    def run(self) -> None:
        """Do the step, or as much of it as can be done. Raises what main() knows."""
        with connect(self.login, NO_TIMEOUT) as session:
            # The server notices within seconds when this module was killed, and ends what it was doing for it.
            session.execute("SET client_connection_check_interval = '5s'")
            session.execute("SET max_parallel_maintenance_workers = %d" % self.params["parallel_workers"])
            server = session.rows(catalog.SERVER)[0]
            if server["in_recovery"]:
                raise hfj.HfjError(
                    "Nothing was changed: the server of %s is a standby, which follows another one. Name the service of the primary."
                    % self.params["service"]
                )
            if self.limits.lock_timeout >= server["deadlock_timeout"]:
                raise hfj.HfjError(
                    "Nothing was changed: lock_timeout_seconds is %g, and the server's deadlock_timeout is %g s. It has to be less, or the server may"
                    " choose a request of HAPI to break a deadlock with us." % (self.limits.lock_timeout, server["deadlock_timeout"])
                )
            table = self.read(session)
            self.result["state"] = {"before": table.state, "after": table.state}
            self.result["foreign_keys"] = {"before": key_rows(table), "after": key_rows(table)}
            try:
                # The watch must come through whoever is at work: each minute may be one in which inserts are refused.
                with nullcontext() if self.params["step"] == "watch" else work.alone(session, table), self.guard.kept():
                    after = self.step(session, self.read(session), server)
            finally:
                lock = self.told
                self.result["lock"] = {
                    "tries": lock.tries,
                    "waited_ms": round(lock.waited * 1000, 1),
                    "held_ms": round(lock.held * 1000, 1),
                    "blockers": lock.blockers,
                }
        self.result["diff"] = {"before": lines_of(table), "after": self.predicted(table) if self.module.check_mode else lines_of(after)}

    # -- reading

    def read(self, session: Session) -> hfj.Table:
        """Return the table as it is now."""
        return catalog.read_table(session, self.params["schema"], self.params["table"])

    def sequence(self, session: Session, growth: bool = False) -> hfj.Sequence:
        """Return the sequence as it is now, with the growth as it was measured last; growth: measure it now."""
        found = catalog.read_sequence(session, self.params["schema"], self.params["sequence"], growth)
        if growth:
            self.growth = (found.per_day, found.peak_hour)
        return replace(found, per_day=self.growth[0], peak_hour=self.growth[1])

    def plan(self, table: hfj.Table, sequence: hfj.Sequence, bounds: hfj.Bounds) -> list[hfj.Step]:
        """Return what is left of the step."""
        name = self.params["step"]
        if name == "prepare":
            steps, used = hfj.plan_prepare(table, sequence, bounds, bool(self.params["first_bound"]))
            self.result["bounds"] = {"first": used.first, "width": used.width, "ahead": used.ahead}
            return steps
        if name == "swap":
            return hfj.plan_swap(table)
        if name == "extend":
            return hfj.plan_extend(table, sequence, self.params["width"], self.params["ahead"], self.params["alarm_days"])
        if name == "undo":
            return hfj.plan_undo(table)
        if name == "rewrite":
            return hfj.plan_rewrite(table, self.params["modulus"])
        return hfj.plan_watch(table, sequence) if name == "watch" else []

    # -- the step

    def step(self, session: Session, table: hfj.Table, server: dict[str, Any]) -> hfj.Table:
        """Judge, plan and carry out; return the table afterwards."""
        params = self.params
        sequence = self.sequence(session, True)
        # In a call that goes on with what is there, the operator's own bound may have been reached meanwhile.
        waiting = params["step"] == "prepare" and table.state not in PARTITIONED
        own = params["first_bound"] if waiting else 0
        if waiting and not own and hfj.bound_unknown(table, sequence):
            raise hfj.HfjError(
                "Nothing was changed: there are resources of less than a day, so it is not known how quickly ids are given out, and a bound can't be"
                " computed. Give first_bound, far beyond what the sequence %s, which is at %d, can reach until the swap, and width."
                % (sequence.name, sequence.used)
            )
        bounds = hfj.propose(sequence, params["wait_days"], params["months"], params["ahead"], own, params["width"])
        self.result["bounds"] = {"first": bounds.first, "width": bounds.width, "ahead": bounds.ahead}
        if params["step"] == "verify":
            self.result["findings"] = self.verify(session, table, sequence)
            self.refuse(self.result["findings"])
            self.result["partitions"] = catalog.parts_report(table.main.parts if table.main else ())
            return table
        self.judge(session, table, sequence, bounds, server)
        if params["step"] in ("prepare", "swap") and table.state == "rewritten":
            raise hfj.HfjError("Nothing was changed: %s was rewritten by hash. Run step=undo first, if it is to be attached." % table.name)
        steps = self.plan(table, sequence, bounds)
        if params["step"] == "swap" and table.state in ("plain", "preparing"):
            self.not_prepared(table)
            steps = [hfj.Step("swap", table.name, "it is to be prepared first")]
        if params["step"] == "extend" and table.state not in PARTITIONED:
            text = "Nothing was changed: %s is %s, and only a partitioned table can be extended. Run prepare and swap."
            raise hfj.HfjError(text % (table.name, table.state))
        self.result["changed"] = bool(steps)
        if self.module.check_mode:
            self.result["plan"] = [self.told_step(step, None) for step in steps]
            after = hfj.STATES_AFTER.get(params["step"], table.state)
            self.result["state"]["after"] = after if steps else table.state
            self.result["partitions"] = catalog.parts_report(table.main.parts if table.main else ())
            return table
        if steps and params["step"] != "watch":
            self.guard.verify()
        self.result["changed"] = False
        for _round in range(ROUNDS):
            if not steps:
                break
            step = steps[0]
            self.throttle(session, step)
            self.carry_out(session, table, step)
            # What comes next is decided by what is there now.
            table = self.read(session)
            self.result["state"]["after"] = table.state
            self.result["foreign_keys"]["after"] = key_rows(table)
            steps = self.plan(table, sequence if params["step"] != "prepare" else self.sequence(session), bounds)
        if steps:
            raise hfj.HfjError("%s is changed by somebody else again and again. Find out who, and run this again." % table.name)
        self.result["partitions"] = catalog.parts_report(table.main.parts if table.main else ())
        return table

    def judge(self, session: Session, table: hfj.Table, sequence: hfj.Sequence, bounds: hfj.Bounds, server: dict[str, Any]) -> None:
        """Put what is to be said into the result. Raises HfjError for what is in the way of this step."""
        params = self.params
        table = catalog.with_taken(session, table, bounds)
        # A table that is copied into partitions gets no guard.
        found = hfj.judge(table, bounds, params["unique_guard"] and params["step"] != "rewrite")
        # Being half done, or near the bound, is what these steps are there for.
        if params["step"] in STRICT:
            found += hfj.judge_guard_server(table, server["version"], params["unique_guard"])
            found += hfj.judge_server(
                params["service"], server["version"], False, catalog.hapi_partitions(session, params["schema"]), sequence,
                catalog.read_standbys(session) if params["step"] in ("swap", "rewrite") else [], params["max_lag_bytes"],
            )  # fmt: skip
        if params["step"] == "prepare" and table.state == "plain":
            found += hfj.judge_disk(params["service"], catalog.free_bytes(self.docker, self.container, session), hfj.needs(table, None)["disk_bytes"])
        if params["step"] == "prepare" and table.state in ("plain", "preparing", "prepared"):
            found += hfj.judge_waiting(table)
        copies = params["step"] == "rewrite" and table.state == "plain" or params["step"] == "undo" and table.state == "rewritten"
        if copies and table.main is not None:
            free = catalog.free_bytes(self.docker, self.container, session)
            found += hfj.judge_disk(params["service"], free, hfj.COPY_BYTES * table.main.bytes)
        back = hfj.judge_back(table) if params["step"] == "undo" else []
        self.result["findings"] = found + back
        self.refuse(back)
        if copies:
            self.refuse(found)
            self.refuse_copying(session, table)
        elif params["step"] == "undo" and table.state not in ("missing", "foreign", "plain"):
            # What the server would refuse in the middle is refused before the first change, also in check mode.
            work.refuse_building(session, table)
            if table.state in PARTITIONED and not params["allow_copy"]:
                work.refuse_copying(work.filled_ones(session, table))
        if params["step"] in STRICT or table.state in ("missing", "foreign"):
            self.refuse(found)

    def refuse_copying(self, session: Session, table: hfj.Table) -> None:
        """Raise HfjError when a table can't be copied as a whole, or HAPI still runs."""
        if self.params["step"] == "undo" and not self.params["allow_copy"]:
            raise hfj.HfjError(
                "Nothing was changed: %s was rewritten by hash, so the way back means to copy all of its rows while HAPI is stopped. Allow it with"
                " allow_copy, in a window." % table.name
            )
        gone = copying.lost(session, table)
        if gone:
            what = ", ".join(gone)
            raise hfj.HfjError("Nothing was changed: %s of %s would not be on the copy. Drop it, and make it anew after." % (what, table.name))
        busy = copying.at_work(session, table)
        if busy and self.module.check_mode:
            self.result["findings"].append(
                finding(
                    "hapi_at_work", "info", "%s.%s" % (table.schema, table.name), "nobody who did something within %d s" % copying.QUIET_SECONDS,
                    ", ".join(busy), "Stop HAPI before a real run, which refuses to copy as long as HAPI works.",
                )
            )  # fmt: skip
        elif busy:
            raise hfj.HfjError(
                "Nothing was changed: HAPI still works: %s has sessions that did something within %d s: %s. Stop HAPI, and run this again."
                % (table.main.owner if table.main else "", copying.QUIET_SECONDS, ", ".join(busy))
            )

    def refuse(self, found: list[dict[str, Any]]) -> None:
        """Raise HfjError when there is an error among findings."""
        errors = failed_on(found, ["error"])
        if errors:
            head = "It is not as it should be" if self.params["step"] == "verify" else "Nothing was changed"
            raise hfj.HfjError("%s: %s" % (head, summary(errors)))

    def not_prepared(self, table: hfj.Table) -> None:
        """A swap needs a prepared table; in check mode a play has not prepared it, and that is no failure."""
        if not self.module.check_mode:
            raise hfj.HfjError("Nothing was changed: %s is %s, and a swap needs it prepared. Run step=prepare first." % (table.name, table.state))
        name = "%s.%s" % (table.schema, table.name)
        self.result["findings"].append(
            finding("partition_not_prepared", "info", name, "prepared", table.state, "step=prepare comes first in a real run.")
        )

    def throttle(self, session: Session, step: hfj.Step) -> None:
        """Wait until every standby has caught up, before a part that writes much. Raises HfjError when it does not."""
        if step.action not in ("build_index", "fill_guard", *copying.ACTIONS):
            return
        end = time.monotonic() + self.params["lag_wait_seconds"]
        while True:
            behind = [
                row for row in catalog.read_standbys(session) if row["lag_bytes"] is None or row["lag_bytes"] > self.params["max_lag_bytes"]
            ]
            if not behind:
                return
            if time.monotonic() >= end:
                what = ", ".join("%s (%s)" % (row["application"], row["lag_bytes"]) for row in behind)
                raise hfj.HfjError(
                    "%s was not begun: standbys are behind for longer than lag_wait_seconds: %s bytes. Find out why, and run this again: it goes on."
                    % (step.action, what)
                )
            time.sleep(min(LAG_PAUSE, max(0.05, end - time.monotonic())))

    def carry_out(self, session: Session, table: hfj.Table, step: hfj.Step) -> None:
        """Carry out one part and tell it."""
        bounds = {"lower": step.lower, "upper": step.upper} if step.upper else None
        try:
            self.guard.step(step.action, "%s.%s" % (table.schema, step.object), table.state, bounds)
        except ChangeError:
            # Somebody else's change is open, which is no reason to let inserts be refused.
            if self.params["step"] != "watch":
                raise
        begun = time.monotonic()
        # Each batch may be one too many for a standby.
        self.limits.between = lambda: self.throttle(session, step)
        try:
            if step.action in copying.ACTIONS:
                self.result["rows_copied"] += copying.rebuild(session, table, step, self.limits, self.told)
            else:
                self.result["rows_copied"] += work.carry_out(
                    session, table, step, self.sequence, lambda: connect(self.login, NO_TIMEOUT), self.limits, self.told, self.params["allow_copy"]
                )
        except (PostgresError, hfj.HfjError) as exc:
            text = "%s of %s: %s" % (step.action, step.object, exc)
            raise PostgresError(text, exc.kind, exc.sqlstate) if isinstance(exc, PostgresError) else hfj.HfjError(text) from None
        self.result["changed"] = True
        self.result["plan"].append(self.told_step(step, time.monotonic() - begun))

    @staticmethod
    def told_step(step: hfj.Step, seconds: Any) -> dict[str, Any]:
        """Return a part as the result tells it."""
        return {"action": step.action, "object": step.object, "why": step.why, "seconds": None if seconds is None else round(seconds, 3)}

    def predicted(self, table: hfj.Table) -> str:
        """Return the table in lines as it would be."""
        if not self.result["plan"]:
            return lines_of(table)
        head = "%s.%s: %s\n" % (table.schema, table.name, self.result["state"]["after"])
        return head + "".join("%(action)s %(object)s: %(why)s\n" % step for step in self.result["plan"])

    # -- proof

    def verify(self, session: Session, table: hfj.Table, sequence: hfj.Sequence) -> list[dict[str, Any]]:
        """Return what is wrong with a partitioned table, looked at in other ways than it was made. Nothing is changed."""
        params = self.params
        name = "%s.%s" % (table.schema, table.name)
        found = hfj.judge_sequence(table, sequence, params["alarm_days"])

        def say(id: str, expected: Any, what: Any, hint: str) -> None:
            found.append(finding(id, "error", name, expected, what, hint))

        if params["expected_foreign_keys"]:
            fields = ("name", "table", "foreign_table")
            wanted = sorted(tuple(str(row.get(key, "")) for key in fields) for row in params["expected_foreign_keys"])
            have = sorted(tuple(row[key] for key in fields) for row in key_rows(table))
            if wanted != have:
                say("foreign_keys_differ", wanted, have, "A foreign key was lost or is new: make it again, or find out who did it.")
        if sequence.highest > sequence.last + sequence.increment:
            say("sequence_behind", "at least %d" % sequence.highest, sequence.last, "It will give out ids that exist: setval() it.")
        if table.main is None or table.state not in (*PARTITIONED, "rewritten"):
            if table.state != "plain":
                found += hfj.judge(table, hfj.Bounds(1, 1, 1))
            return found
        found += hfj.judge_guard(table)
        if table.guard is not None:
            differing = guarding.differences(session, table)
            if differing:
                hint = "It was written past its triggers, as by a session that had them off. Find out who; doubles have to be looked at by hand."
                say("guard_differs", "the type and FHIR id of each resource, once", differing, hint)
        if table.state == "unfinished":
            left = ", ".join("%s %s" % (step.action, step.object) for step in hfj.leftovers(table))
            say("partition_unfinished", "nothing left to do", left, "Run step=swap again: it goes on online.")
        first = table.first
        lost = [key.name for source, target, key in catalog.read_keys(session, first.oid) if not key.inherited] if first else []
        if lost:
            say("key_on_first_partition", "every foreign key on the parent", ", ".join(lost), "It sees no rows of others: move it over.")
        broken = work.index_partners(session, table)
        if broken:
            say("parent_index_invalid", "each index in every partition", ", ".join(broken), "A partition lacks it: make it there and attach it.")
        parts = [part.name for part in table.main.parts]
        for part in parts:
            bad = work.orphans(session, table, part, params["verify_rows"])
            if bad:
                what = "%d of the newest rows of %s without" % (bad, part)
                say("orphan_rows", "a resource for each row", what, "They were written past the foreign key.")
            others = [other for other in parts if other != part]
            double = work.twice(session, table, part, others, params["verify_rows"])
            if double:
                what = "%d of the newest of %s in another partition" % (double, part)
                say("ids_twice", "each %s once" % table.pk, what, "The sequence was set back.")
        visited = work.pruned(session, table, sequence.highest or 1)
        if len(visited) > 1:
            say("pruning_missing", "a look-up by %s visits one partition" % table.key, ", ".join(visited), "Is enable_partition_pruning off?")
        return found


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            **HFJ_ARGUMENTS,
            table={"type": "str", "required": True},
            step={"type": "str", "required": True, "choices": ["prepare", "swap", "extend", "undo", "watch", "verify", "rewrite"]},
            modulus={"type": "int", "default": 8},
            allow_copy={"type": "bool", "default": False},
            lock_timeout_seconds={"type": "float", "default": 0.5},
            lock_tries={"type": "int", "default": 20},
            hold_seconds={"type": "float", "default": 5},
            cancel_autovacuum={"type": "bool", "default": True},
            parallel_workers={"type": "int", "default": 0},
            lag_wait_seconds={"type": "int", "default": 600},
            verify_rows={"type": "int", "default": 10000},
            expected_foreign_keys={"type": "list", "elements": "dict", "default": [], "no_log": False},
            **LOGIN_ARGUMENTS,
            **CHANGE_ARGUMENTS,
        ),
        supports_check_mode=True,
    )
    result: dict[str, Any] = {"changed": False, "plan": [], "rows_copied": 0, "findings": []}
    try:
        Partitioning(module, result).run()
    except (ChangeError, ComposeError, PostgresError, hfj.HfjError) as exc:
        # What was done until then stays, and the next run goes on from there.
        result["changed"] = bool(result["plan"]) and not module.check_mode
        module.fail_json(msg=str(exc), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
