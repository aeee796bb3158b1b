#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: env_file
short_description: Set or remove names in the .env file of a compose project
version_added: 1.0.0
description:
  - Sets or removes names in a C(.env) file so that a container gets exactly the wanted bytes.
    Compose expands C($), quotes and backslashes in such a file; what is needed against that is done here.
  - Only the bytes of the named assignments change. Comments, order, line endings, owner, group and mode stay.
  - Before it writes, the module asks the Compose on the host how it reads the new text, and refuses when a value differs.
  - Can tell beforehand which services the next C(docker compose up) would recreate because of the change,
    and refuse when one of them is not expected, see O(guard_project_dir).
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows the names only; values are hidden unless O(secret=false).
  idempotent:
    support: full
extends_documentation_fragment:
  - dghs.bd_fhir.change
  - dghs.bd_fhir.attributes
options:
  path:
    description:
      - The file. A link is followed, the file that it points to is replaced.
    type: path
    required: true
  values:
    description:
      - Names and the values that a container shall get. Values must be strings.
        A YAML C(true), C(1.0) or C(0123) would arrive changed, so that anything but a string is refused.
    type: dict
    default: {}
  absent:
    description:
      - Names that shall not be in the file.
    type: list
    elements: str
    default: []
  secret:
    description:
      - Whether the values of O(values) are secrets that must not be shown anywhere.
      - This applies to all of them. Use two tasks for a mixture.
    type: bool
    default: true
  create:
    description:
      - Make the file, with mode 0600, if it does not exist.
    type: bool
    default: false
  backup:
    description:
      - Before a change, copy the file beside itself with the time in the copy's name and mode 0600.
    type: bool
    default: true
  validate:
    description:
      - Ask the Compose on this host, before the change, whether it reads each value of O(values) as it is meant.
      - Where there is no Compose, the module's own reader is asked, see RV(validated_by).
    type: bool
    default: true
  guard_project_dir:
    description:
      - Directory of a compose project that reads this file.
      - If given, the configuration hashes of its services are compared for the file as it is and as it would be.
        A service whose hash differs is recreated by the next C(docker compose up).
        If one is not named in O(guard_allow), the module fails before it changes anything.
    type: path
  guard_project_name:
    description:
      - Name of that project, if it is not the one under which its containers run.
    type: str
  guard_env_file:
    description:
      - The environment file that is given to Compose for that project. Defaults to C(.env) in O(guard_project_dir).
    type: path
  guard_allow:
    description:
      - Services that may change.
    type: list
    elements: str
    default: []
  project_name:
    description:
      - Name of the compose project whose lease is respected and in whose journal the change is recorded.
      - By default that of O(change_token), else that of O(guard_project_dir). With none of the three, nothing is recorded.
    type: str
  command_timeout:
    description:
      - Seconds after which one call of the C(docker) command is stopped and reported as failed.
    type: int
    default: 120
seealso:
  - module: dghs.bd_fhir.compose_fragment
  - module: dghs.bd_fhir.deployment_info
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Give the replica's password to Compose, byte for byte
  dghs.bd_fhir.env_file:
    path: /opt/bd-fhir-national/.env
    values:
      FHIR_REPLICA_PASSWORD: "{{ vault_fhir_replica_password }}"
    guard_project_dir: /opt/bd-fhir-national

- name: Take the new image; only hapi may be recreated by it
  dghs.bd_fhir.env_file:
    path: /opt/bd-fhir-national/.env
    values:
      HAPI_IMAGE: git.dghs.gov.bd/dghs/bd-fhir-national:v1.1.0
    secret: false
    guard_project_dir: /opt/bd-fhir-national
    guard_allow:
      - hapi

- name: Remove a name that nobody uses any more
  dghs.bd_fhir.env_file:
    path: /opt/bd-fhir-national/.env
    absent:
      - OLD_TOKEN
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /opt/bd-fhir-national/.env
names_set:
  description: Names whose value was changed or added.
  returned: success
  type: list
  elements: str
  sample: [HAPI_IMAGE]
previous:
  description:
    - The names of O(values) and O(absent) that differed, with the values that the file gave them before; null where it had none.
  returned: success and O(secret=false)
  type: dict
  sample:
    HAPI_IMAGE: git.dghs.gov.bd/dghs/bd-fhir-national:v1.0.0
names_removed:
  description: Names that were taken out.
  returned: success
  type: list
  elements: str
  sample: []
created:
  description: Whether the file was made.
  returned: success
  type: bool
  sample: false
backup_file:
  description: Path of the copy that was made before the change, empty if none was. In check mode none is made.
  returned: success
  type: str
  sample: /opt/bd-fhir-national/.env.20261125T091500Z.bak
validated_by:
  description:
    - Who read the new text before it was written.
    - V(compose) is the Compose on this host, V(parser) the module's own reader, V(none) means that O(validate=false).
  returned: success
  type: str
  sample: compose
hash_changes:
  description: Services that the next C(docker compose up) recreates because of this change. Empty without O(guard_project_dir).
  returned: success
  type: list
  elements: dict
  sample:
    - service: hapi
      before: 2342948a4783bb5befc14de45d899cb084112c0cb526a15edb6bc4e5912ba749
      after: 37a55ba4de69fa75711c8f7bfcbbfa99edfb16f6d387753eb30cbc7d360b704e
      reason: changes in image
findings:
  description: What is wrong with the file besides, such as a name of O(values) that is set twice.
  returned: success
  type: list
  elements: dict
  sample: []
"""

import json
import os
import re

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import ComposeError, Docker, read_env_text
from ..module_utils._dotenv import DotenvError, parse, remove_name, set_value, valid_name, values_of
from ..module_utils._files import backup_file, replace_file, to_bytes
from ..module_utils._findings import finding
from ..module_utils._quoting import QuotingError, dotenv_quote

HIDDEN = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"


def check_input(values: dict[str, Any], absent: list[str]) -> Optional[str]:
    """Return what is wrong with the options, None if nothing is. The text holds no value."""
    for name in sorted(set(values) | set(absent)):
        if not valid_name(name):
            return "%r can't be the name of a variable. Use letters, digits and underscores, not starting with a digit." % name
    both = sorted(set(values) & set(absent))
    if both:
        return "%s stands in values and in absent. Decide for one." % ", ".join(both)
    for name, value in sorted(values.items()):
        if not isinstance(value, str):
            return (
                "The value of %s is not a string but of type %s. YAML changes such a value before it arrives here"
                " (yes becomes True, 0123 becomes 83). Put it in quotes, or use the string filter." % (name, type(value).__name__)
            )
        try:
            dotenv_quote(value)
        except QuotingError as exc:
            return "The value of %s can't be written to an environment file: %s." % (name, exc)
    return None


def wanted_text(text: str, values: dict[str, str], absent: list[str]) -> tuple[str, list[str], list[str]]:
    """Return the new text, the names set and the names removed. Pure. Raises DotenvError."""
    current = parse(text)
    have = values_of(current)
    names = {item.name for item in current}
    to_set = sorted(name for name, value in values.items() if have.get(name) != value)
    to_remove = sorted(name for name in set(absent) if name in names)
    # In the order of the option, so that new names land in the file as the operator wrote them.
    for name in [name for name in values if name in to_set]:
        text = set_value(text, name, values[name])
    for name in to_remove:
        text = remove_name(text, name)
    return text, to_set, to_remove


def duplicate_findings(text: str, names: list[str], path: str) -> list[dict[str, Any]]:
    """Return a finding for each of names that is set more than once. Pure. Raises DotenvError."""
    found = []
    for name in names:
        lines = [item.line for item in parse(text) if item.name == name]
        if len(lines) > 1:
            found.append(
                finding(
                    "env_name_twice",
                    "warning",
                    name,
                    "set once",
                    "set on lines %s" % ", ".join(str(line) for line in lines),
                    "Compose takes the last one; remove the others from %s, an old secret may stand there." % path,
                )
            )
    return found


def masked_diff(path: str, before: str, after: str, names: list[str], show: bool) -> dict[str, str]:
    """Return the diff of the named variables only, values hidden unless show. Pure. Raises DotenvError."""
    old, new = values_of(parse(before)), values_of(parse(after))

    def line(name: str, value: str, changed: bool) -> str:
        return "%s=%s\n" % (name, value if show else "(%shidden)" % ("changed, " if changed else ""))

    return {
        "before_header": path,
        "after_header": path,
        "before": "".join(line(name, old[name], False) for name in names if name in old),
        "after": "".join(line(name, new[name], name in old) for name in names if name in new),
    }


def recorded(module: AnsibleModule, values: dict[str, str], names_set: list[str], names_removed: list[str]) -> dict[str, Any]:
    """Return what the journal may know: the names, and the values unless they are secrets."""
    if module.params["secret"]:
        return {"names_set": names_set, "names_removed": names_removed}
    return dict({name: values[name] for name in names_set}, **dict.fromkeys(names_removed))


def read_by_compose(docker: Docker, text: str, names: list[str], tmpdir: str) -> dict[str, Optional[str]]:
    """Return name -> value as the Compose on this host gives them to a container. Raises ComposeError, OSError.

    Both ways are asked: an env_file of a service, and ${NAME}. Compose 2.24.7 to 2.27.0 does not show the first, and the
    second can't have every name; what neither shows is left out.
    """
    path = os.path.join(tmpdir, "candidate.env")
    # A variable of this process would win over the file, and Compose has its own say about COMPOSE_ ones.
    plain = [name for name in names if re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", name) and name not in os.environ and not name.startswith("COMPOSE_")]
    services = {
        "from_file": {"image": "none", "env_file": [path]},
        "interpolated": {"image": "none", "environment": {name: "${%s}" % name for name in plain}},
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(to_bytes(text))
        out = docker.compose(
            "config",
            "--format",
            "json",
            files=["-"],
            data=json.dumps({"services": services}),
            env_file=path,
            project_dir=tmpdir,
            name="env-file-check",
        )[1]
    finally:
        os.unlink(path)
    seen: dict[str, Optional[str]] = {}
    try:
        found = json.loads(out)["services"]
        for service in ("from_file", "interpolated"):
            for name, value in (found[service].get("environment") or {}).items():
                # `config` doubles each dollar sign so that its output can be read again.
                value = None if value is None else str(value).replace("$$", "$")
                if name in seen and seen[name] != value:
                    raise ComposeError("Compose reads %s in two ways, by env_file and by ${%s}." % (name, name))
                seen[name] = value
    except (ValueError, KeyError, AttributeError):
        raise ComposeError("Compose read the new file, but its answer has an unknown form.") from None
    return seen


def validate_text(module: AnsibleModule, text: str, values: dict[str, str]) -> str:
    """Prove that values arrive. Return who was asked. Raises ComposeError when one does not, naming it."""
    asked = "parser"
    seen: dict[str, Optional[str]] = dict(values_of(parse(text)))
    docker = Docker(module, module.tmpdir, "env-file-check", None, module.params["command_timeout"])
    if module.get_bin_path("docker") and docker.docker("compose", "version", check=False)[0] == 0:
        try:
            answer = read_by_compose(docker, text, list(values), module.tmpdir)
        except OSError as exc:
            raise ComposeError("A copy of the new file could not be made for Compose to read: %s." % exc) from None
        asked = "compose" if set(values) <= set(answer) else "parser"
        seen.update(answer)
    wrong = sorted(name for name, value in values.items() if seen.get(name) != value)
    if wrong:
        raise ComposeError(
            "Nothing was changed: %s would not give a container the wanted value of %s. This is a fault of this module;"
            " please report the version of Compose and the kinds of characters in the value." % (asked, ", ".join(wrong))
        )
    return asked


def guarded(module: AnsibleModule) -> Optional[Docker]:
    """Return the project that reads the file; None where there is none, or no docker to run it."""
    directory = module.params["guard_project_dir"]
    if not directory or not os.path.isdir(directory) or not module.get_bin_path("docker"):
        return None
    docker = Docker(
        module,
        directory,
        module.params["guard_project_name"],
        module.params["guard_env_file"],
        module.params["command_timeout"],
    )
    return docker if docker.files_default() else None


def guard(module: AnsibleModule, docker: Docker, path: str, text: str) -> list[dict[str, Any]]:
    """Return the services that change. Raises ComposeError when one changes that may not."""
    changes = docker.hash_changes({os.path.abspath(path): text})
    refused = [item for item in changes if item["service"] not in module.params["guard_allow"]]
    if refused:
        raise ComposeError(
            "Nothing was changed: the next `docker compose up` in %s would recreate services that guard_allow does not name."
            " %s. Name them in guard_allow if that interruption is wanted, or keep the variable out of those services."
            % (docker.project_dir, "; ".join("%s: %s" % (item["service"], item["reason"]) for item in refused))
        )
    return changes


def run(module: AnsibleModule, values: dict[str, str]) -> dict[str, Any]:
    """Converge the file and return the result. Raises ComposeError, ChangeError, DotenvError, OSError."""
    path, absent = module.params["path"], module.params["absent"]
    exists = os.path.lexists(path)
    if not exists and not module.params["create"]:
        raise ComposeError("%s does not exist. Check path, or set create to true to have it made." % path)
    before = read_env_text(path) if exists else ""
    after, names_set, names_removed = wanted_text(before, values, absent)
    changed = not exists or after != before
    result: dict[str, Any] = {
        "changed": changed,
        "path": path,
        "names_set": names_set,
        "names_removed": names_removed,
        "created": not exists,
        "backup_file": "",
        "validated_by": "none",
        "hash_changes": [],
        "findings": duplicate_findings(after, sorted(values), path),
        "diff": masked_diff(path, before, after, names_set + names_removed, not module.params["secret"]),
    }
    if not module.params["secret"]:
        had = values_of(parse(before))
        result["previous"] = {name: had.get(name) for name in names_set + names_removed}
    if module.params["validate"]:
        result["validated_by"] = validate_text(module, after, values)
    if not changed:
        return result
    docker = guarded(module)
    if docker:
        result["hash_changes"] = guard(module, docker, path, after)
    if module.check_mode:
        return result
    if module.params["project_name"] or docker is None:
        change = ChangeGuard.from_module(module, module.params["project_name"] or "")
    else:
        change = ChangeGuard.for_docker(module, docker)
    change.step("write", path, result.get("previous", ""), recorded(module, values, names_set, names_removed))
    if exists and module.params["backup"]:
        result["backup_file"] = backup_file(path)
    replace_file(path, after)
    if read_env_text(path) != after:
        raise ComposeError("%s was written, but reads back differently. Another program changes it too." % path)
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            # no_log keeps the values out of the host's own log, which is written before this module's code runs.
            "values": {"type": "dict", "default": {}, "no_log": True},
            "absent": {"type": "list", "elements": "str", "default": []},
            "secret": {"type": "bool", "default": True, "no_log": False},
            "create": {"type": "bool", "default": False},
            "backup": {"type": "bool", "default": True},
            "validate": {"type": "bool", "default": True},
            "guard_project_dir": {"type": "path"},
            "guard_project_name": {"type": "str"},
            "guard_env_file": {"type": "path"},
            "guard_allow": {"type": "list", "elements": "str", "default": []},
            "project_name": {"type": "str"},
            "command_timeout": {"type": "int", "default": 120},
            **CHANGE_ARGUMENTS,
        },
        required_by={"guard_project_name": "guard_project_dir", "guard_env_file": "guard_project_dir"},
        supports_check_mode=True,
    )
    values = module.params["values"]
    for value in list(module.no_log_values):
        # Masking a word such as 1 or true would only garble the result, and what is no secret may be seen.
        if len(value) < 4 or not module.params["secret"]:
            module.no_log_values.discard(value)
    if module.params["secret"]:
        module.params["values"] = dict.fromkeys(values, HIDDEN)
    problem = check_input(values, module.params["absent"])
    if problem:
        module.fail_json(msg=problem, path=module.params["path"])
    try:
        result = run(module, values)
    except DotenvError as exc:
        module.fail_json(
            msg="%s can't be read as an environment file: %s. Compose refuses it too. Correct that line by hand." % (module.params["path"], exc),
            path=module.params["path"],
        )
    except (ComposeError, ChangeError) as exc:
        module.fail_json(msg=str(exc), path=module.params["path"])
    except OSError as exc:
        module.fail_json(
            msg="%s could not be read or replaced: %s. Use become if the file belongs to another user." % (module.params["path"], exc),
            path=module.params["path"],
        )
    for item in result["findings"]:
        module.warn("%s: %s. %s" % (item["object"], item["found"], item["hint"]))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
