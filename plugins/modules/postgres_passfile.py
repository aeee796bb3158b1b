#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_passfile
short_description: Keep a password file of libpq, with passwords from the environment file of a compose project
version_added: 1.0.0
description:
  - Converges a whole file in the format of C(.pgpass), for a server or a tool in a container that must not have its password in
    its environment or in its arguments.
  - Passwords are read on the host from the environment file. They are in no argument, no result and no diff.
  - A colon or a backslash in a value is escaped as libpq wants it.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows a mark in place of each password.
  idempotent:
    support: full
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.change
  - dghs.bd_fhir.attributes
options:
  path:
    description:
      - The file. Its directory has to exist.
    type: path
    required: true
  entries:
    description:
      - The lines. The first one that fits a login counts. Required with O(state=present).
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Name or address of the server, as the client names it, or C(*).
        type: str
        default: "*"
      port:
        description: Its port, or C(*).
        type: str
        default: "*"
      database:
        description: The database, C(replication) for a standby, or C(*).
        type: str
        default: "*"
      user:
        description: The user.
        type: str
        required: true
      password_variable:
        description: Name of the variable in the environment file that holds the password.
        type: str
        required: true
  owner:
    description:
      - Numeric id of the user who reads it, inside of the container. libpq ignores a file that others may read.
    type: int
  group:
    description:
      - Numeric id of the group.
    type: int
  state:
    description:
      - Whether the file shall be there.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: dghs.bd_fhir.env_file
  - module: dghs.bd_fhir.postgres_clone
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Lay the password with which a standby logs in to its primary
  dghs.bd_fhir.postgres_passfile:
    project_dir: /opt/bd-fhir-national
    path: /opt/bd-fhir-national/compose.d/postgres_replica/secret/passfile
    entries:
      - user: replicator
        password_variable: FHIR_REPLICA_PASSWORD
    owner: 999
    group: 999
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /opt/bd-fhir-national/compose.d/postgres_replica/secret/passfile
entries:
  description: How many lines it has afterwards.
  returned: success
  type: int
  sample: 1
"""

import os
import stat

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker
from ..module_utils._files import replace_file, sync_directory
from ..module_utils._postgres import PostgresError, secret_of
from ..module_utils._quoting import QuotingError, pgpass_escape

MODE = 0o600


def render(entries: list[dict[str, Any]], passwords: list[str]) -> str:
    """Return the text of the file. Raises QuotingError for what no line can carry; its text holds no password. Pure."""
    lines = []
    for entry, password in zip(entries, passwords):
        fields = [entry[name] for name in ("host", "port", "database", "user")]
        # A lone asterisk is meant: it fits everything. In a password it is itself.
        lines.append(":".join([field if field == "*" else pgpass_escape(field) for field in fields] + [pgpass_escape(password)]))
    return "".join(line + "\n" for line in lines)


def found_at(path: str) -> Optional[tuple[str, int, int, int]]:
    """Return the text, mode, owner and group of the file, None when there is none. Raises OSError for what is no file."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is there and is no ordinary file")
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
        return handle.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def shown(entries: Optional[list[dict[str, Any]]], same: bool, attributes: str) -> str:
    """Return what a diff shows: no password. Pure."""
    if entries is None:
        return ""
    mark = "(hidden)" if same else "(changed, hidden)"
    return "".join("%s:%s:%s:%s:%s\n" % (item["host"], item["port"], item["database"], item["user"], mark) for item in entries) + attributes


def run(module: AnsibleModule) -> dict[str, Any]:
    """Converge and return the result. Raises OSError and the errors that main() knows."""
    params, path = module.params, module.params["path"]
    docker = Docker.from_module(module)
    before = found_at(path)
    result: dict[str, Any] = {"changed": False, "path": path, "entries": 0}
    header = {"before_header": path, "after_header": path}
    if params["state"] == "absent":
        result["changed"] = before is not None
        result["diff"] = {**header, "before": "present\n" if before else "", "after": ""}
        if before is not None and not module.check_mode:
            ChangeGuard.for_docker(module, docker).step("remove", path)
            os.unlink(path)
            sync_directory(os.path.dirname(path))
        return result
    wanted = render(params["entries"], [secret_of(docker, None, item["password_variable"]) for item in params["entries"]])
    owner = os.geteuid() if params["owner"] is None else params["owner"]
    group = os.getegid() if params["group"] is None else params["group"]
    attributes = (MODE, owner, group)
    result["entries"] = len(params["entries"])
    result["changed"] = before is None or before != (wanted, *attributes)
    words = "mode %04o, owner %d, group %d\n"
    same = before is not None and before[0] == wanted
    result["diff"] = {
        **header,
        "before": shown(params["entries"] if same else None, True, words % before[1:]) if same and before else "(hidden)\n" if before else "",
        "after": shown(params["entries"], same, words % attributes),
    }
    if result["changed"] and not module.check_mode:
        ChangeGuard.for_docker(module, docker).step("write", path, None, {"lines": len(params["entries"])})
        if before is not None:
            # What is written keeps the attributes that the file has; so they are right before a password is in it.
            os.chmod(path, MODE)
            os.chown(path, owner, group)
        replace_file(path, wanted, MODE, (owner, group))
        if found_at(path) != (wanted, *attributes):
            raise OSError("it does not hold what was written; somebody changes it at the same time")
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **COMPOSE_ARGUMENTS,
            **CHANGE_ARGUMENTS,
            "path": {"type": "path", "required": True, "no_log": False},
            "entries": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "host": {"type": "str", "default": "*"},
                    "port": {"type": "str", "default": "*"},
                    "database": {"type": "str", "default": "*"},
                    "user": {"type": "str", "required": True},
                    "password_variable": {"type": "str", "required": True, "no_log": False},
                },
            },
            "owner": {"type": "int"},
            "group": {"type": "int"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    if module.params["state"] == "present" and not module.params["entries"]:
        module.fail_json(msg="entries is empty, and a password file without a line is of no use. Give at least one, or state: absent.")
    try:
        module.exit_json(**run(module))
    except OSError as exc:
        module.fail_json(msg="%s could not be read or written: %s. Look at the directory, its owner and the disk." % (module.params["path"], exc))
    except (QuotingError, PostgresError, ComposeError, ChangeError) as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
