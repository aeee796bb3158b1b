#!/usr/bin/python
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_fragment
short_description: Keep one compose file of ours beside the owner's, and loaded
version_added: 1.0.0
description:
  - Converges one file, C(compose.d/<name>.yml) in the project directory, and its membership in E(COMPOSE_FILE) in the environment file,
    so that the owner's plain C(docker compose --env-file .env up -d) loads it. The owner's compose files are never edited.
  - E(COMPOSE_FILE) then names every file that is loaded today, an override file included, and our fragments in the order of their names.
    The paths are absolute, since Compose resolves relative ones against the directory in which it is called.
  - With O(state=absent) the entry goes first and then the file.
    When the last fragment goes, the environment file gets back the bytes that it had before the first one came.
  - Before the first change, the candidate set is read by the Compose on the host in a private copy of the project directory,
    and the configuration hash of each service is compared. A service that would be recreated, made or dropped and is not named in
    O(allow_changed) stops the module.
  - No container is started, stopped or recreated by this module.
attributes:
  check_mode:
    support: full
    details:
      - The candidate set is validated as in a real run. Where there is no project or no Docker yet, only the file is predicted,
        see RV(validated).
  diff_mode:
    support: full
  idempotent:
    support: full
extends_documentation_fragment:
  - dghs.bd_fhir.compose
  - dghs.bd_fhir.change
  - dghs.bd_fhir.attributes
options:
  name:
    description:
      - Name of the fragment, letters, digits, C(-) and C(_). By custom, the name of the role that owns it.
    type: str
    required: true
  content:
    description:
      - The YAML text. Required with O(state=present).
      - A comment line that marks the file as ours is put above it.
      - Set a count with C(scale), not with C(deploy.replicas), which recreates the running container.
    type: str
  state:
    description:
      - Whether the fragment shall be there and loaded.
    type: str
    choices:
      - present
      - absent
    default: present
  allow_changed:
    description:
      - Services that may get another configuration hash by this, may be new, or may go.
    type: list
    elements: str
    default: []
  mode:
    description:
      - Permissions of the fragment, as an octal string. Owner and group are those of O(project_dir).
    type: str
    default: '0644'
notes:
  - A kill at any moment leaves either the old or the new set loaded, and the same call again finishes the work.
seealso:
  - module: dghs.bd_fhir.env_file
  - module: dghs.bd_fhir.deployment_info
  - module: dghs.bd_fhir.compose_rollout
author:
  - The dghs.bd_fhir developers (@dghs-bd)
"""

EXAMPLES = r"""
- name: Ask for three replicas of hapi; nothing that runs may be recreated
  dghs.bd_fhir.compose_fragment:
    project_dir: /opt/bd-fhir-national
    name: hapi
    content: |
      services:
        hapi:
          scale: 3

- name: Take away the fixed name that stops hapi from scaling; hapi itself is recreated by that
  dghs.bd_fhir.compose_fragment:
    project_dir: /opt/bd-fhir-national
    name: hapi
    content: |
      services:
        hapi:
          scale: 3
          container_name: !reset null
    allow_changed:
      - hapi

- name: The way back
  dghs.bd_fhir.compose_fragment:
    project_dir: /opt/bd-fhir-national
    name: hapi
    state: absent
    allow_changed:
      - hapi
"""

RETURN = r"""
path:
  description: Path of the fragment.
  returned: success
  type: str
  sample: /opt/bd-fhir-national/compose.d/hapi.yml
env_file:
  description: The environment file that holds E(COMPOSE_FILE).
  returned: success
  type: str
  sample: /opt/bd-fhir-national/.env
compose_files:
  description: The files that the owner's plain command loads afterwards, absolute. In check mode as predicted.
  returned: success
  type: list
  elements: str
  sample:
    - /opt/bd-fhir-national/docker-compose.yml
    - /opt/bd-fhir-national/compose.d/hapi.yml
hash_changes:
  description: Services whose containers the next C(docker compose up) recreates, makes or drops because of this change.
  returned: success
  type: list
  elements: dict
  sample: []
validated:
  description:
    - Whether the set was read by the Compose on the host.
    - Is V(false) only in check mode on a host that has no project or no Docker yet.
  returned: success
  type: bool
  sample: true
"""

import contextlib
import os

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._change import CHANGE_ARGUMENTS, ChangeError, ChangeGuard
from ..module_utils._compose import COMPOSE_ARGUMENTS, ComposeError, Docker, default_files, read_env_text
from ..module_utils._dotenv import DotenvError, parse, values_of
from ..module_utils._files import replace_file, sync_directory
from ..module_utils._fragments import (
    HEADER,
    env_with,
    fragment_path,
    fragment_text,
    fragments_in,
    wanted_files,
)


def read_optional(path: str) -> Optional[str]:
    """Return the text of a file, None when it is not there. Raises OSError."""
    try:
        return read_env_text(path)
    except FileNotFoundError:
        return None


def compose_file_of(text: Optional[str]) -> str:
    """Return the COMPOSE_FILE line for a diff: its value holds paths, no secrets. Pure."""
    value = values_of(parse(text or "")).get("COMPOSE_FILE")
    return "" if value is None else "COMPOSE_FILE=%s\n" % value


def make_diff(path: str, env_file: str, old: tuple[Any, Any], new: tuple[Any, Any]) -> list[dict[str, str]]:
    """Return the diffs of the fragment and of COMPOSE_FILE; each pair is (fragment text, environment text). Pure."""
    return [
        {"before_header": path, "after_header": path, "before": old[0] or "", "after": new[0] or ""},
        {
            "before_header": env_file,
            "after_header": env_file,
            "before": compose_file_of(old[1]),
            "after": compose_file_of(new[1]),
        },
    ]


def refuse(changes: list[dict[str, Any]], allowed: list[str], path: str) -> None:
    """Raise ComposeError when a service changes that may not."""
    refused = [item for item in changes if item["service"] not in allowed]
    if refused:
        raise ComposeError(
            "Nothing was changed: with this change to %s the next `docker compose up` would recreate, make or drop services"
            " that allow_changed does not name. %s. Name them in allow_changed if that interruption is wanted."
            % (path, "; ".join("%s: %s" % (item["service"], item["reason"]) for item in refused))
        )


def read_back(docker: Docker, files: list[str]) -> None:
    """Prove with the real Compose that a plain call loads exactly files. Raises ComposeError when it does not."""
    docker.invalidate()
    if docker.files_default() != files:
        raise ComposeError(
            "COMPOSE_FILE in %s was written, but now names other files: %s. Another program changes it too."
            % (docker.env_file, ", ".join(docker.files_default()))
        )
    if not files:
        return
    plain = docker.compose("config", "--format", "json")[1]
    named = docker.compose("config", "--format", "json", files=files)[1]
    if plain != named:
        raise ComposeError(
            "The Compose on this host does not load the files that COMPOSE_FILE in %s names: %s. Run `docker compose"
            " --env-file %s config` in %s and compare." % (docker.env_file, ", ".join(files), docker.env_file, docker.project_dir)
        )


def run(module: AnsibleModule, docker: Docker) -> dict[str, Any]:
    """Converge and return the result. Raises ComposeError, ChangeError, DotenvError, OSError."""
    present = module.params["state"] == "present"
    directory = docker.project_dir
    path = fragment_path(directory, module.params["name"])
    result: dict[str, Any] = {
        "changed": False,
        "path": path,
        "env_file": docker.env_file,
        "compose_files": [],
        "hash_changes": [],
        "validated": False,
    }
    new_fragment = fragment_text(module.params["content"]) if present else None
    if not os.path.isdir(directory) or not module.get_bin_path("docker") or not docker.files_default():
        missing = (
            "the directory %s does not exist" % directory
            if not os.path.isdir(directory)
            else "there is no compose file in %s" % directory
            if module.get_bin_path("docker")
            else "there is no docker command"
        )
        if present and not module.check_mode:
            raise ComposeError("Nothing was changed: %s on this host. Check project_dir and the inventory." % missing)
        if present:
            module.warn("The fragment %s was not validated: %s on this host." % (path, missing))
        if present or not os.path.lexists(path):
            result["changed"] = present
            result["diff"] = make_diff(path, docker.env_file, (None, None), (new_fragment, None))
            return result
    old_fragment, old_env = read_optional(path), read_optional(docker.env_file)
    if old_fragment is not None and not old_fragment.startswith(HEADER):
        raise ComposeError("%s exists and was not written by this module. Move it away, or choose another name for the fragment." % path)
    loaded = docker.files_default()
    ours = fragments_in(os.path.dirname(path))
    files = wanted_files(loaded, path, present, ours)
    new_env = env_with(old_env, files, present or any(item in ours for item in files), directory)
    after_values = values_of(parse(new_env or ""))
    result["compose_files"] = default_files(directory, after_values)
    result["changed"] = new_fragment != old_fragment or new_env != old_env
    result["diff"] = make_diff(path, docker.env_file, (old_fragment, old_env), (new_fragment, new_env))
    if result["changed"]:
        ignored = docker.ignored_in_env_file() if present else []
        if "COMPOSE_FILE" in ignored:
            raise ComposeError(
                "Nothing was changed: the Compose on this host, version %s, ignores COMPOSE_FILE in a file given by --env-file, so"
                " that the fragment would not be loaded. Upgrade the package docker-compose-plugin; 2.27.1 is known for it."
                % docker.compose_version()
            )
        # A fragment that a killed run left in COMPOSE_FILE without its file would make even today's set unreadable.
        today = [item for item in loaded if item != path or old_fragment is not None]
        result["hash_changes"] = docker.hash_changes({path: new_fragment, docker.env_file: new_env}, result["compose_files"], today)
        refuse(result["hash_changes"], module.params["allow_changed"], path)
    result["validated"] = True
    if result["changed"] and not module.check_mode:
        seen = [{"fragment": item[0], "compose_file": compose_file_of(item[1])} for item in ((old_fragment, old_env), (new_fragment, new_env))]
        ChangeGuard.for_docker(module, docker).step("write" if present else "remove", path, *seen)
        apply(module, docker, path, (old_fragment, old_env), (new_fragment, new_env))
    if not module.check_mode:
        read_back(docker, files)
    return result


def apply(module: AnsibleModule, docker: Docker, path: str, old: tuple[Any, Any], new: tuple[Any, Any]) -> None:
    """Write in the order that keeps what COMPOSE_FILE names readable at each moment. Raises OSError."""
    stat = os.stat(docker.project_dir)
    owner = (stat.st_uid, stat.st_gid)

    def write_env() -> None:
        if new[1] is None:
            if old[1] is not None:
                os.unlink(docker.env_file)
        elif new[1] != old[1]:
            replace_file(docker.env_file, new[1], 0o600, owner)

    if new[0] is None:
        write_env()
        if old[0] is not None:
            os.unlink(path)
            sync_directory(os.path.dirname(path))
            with contextlib.suppress(OSError):
                # Fails when other files are in it, and that is right.
                os.rmdir(os.path.dirname(path))
        return
    if not os.path.isdir(os.path.dirname(path)):
        os.mkdir(os.path.dirname(path), 0o755)
        if owner != (os.geteuid(), os.getegid()):
            os.chown(os.path.dirname(path), *owner)
    if new[0] != old[0]:
        replace_file(path, new[0], int(module.params["mode"], 8), owner)
    write_env()


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            COMPOSE_ARGUMENTS,
            name={"type": "str", "required": True},
            content={"type": "str"},
            state={"type": "str", "choices": ["present", "absent"], "default": "present"},
            allow_changed={"type": "list", "elements": "str", "default": []},
            mode={"type": "str", "default": "0644"},
            **CHANGE_ARGUMENTS,
        ),
        required_if=[("state", "present", ["content"])],
        supports_check_mode=True,
    )
    if not module.params["mode"].isdigit() or not set(module.params["mode"]) <= set("01234567"):
        module.fail_json(msg="mode must be an octal number in quotes, such as '0644', and not %r." % module.params["mode"])
    docker = Docker.from_module(module)
    try:
        result = run(module, docker)
    except DotenvError as exc:
        module.fail_json(msg="%s can't be read: %s. Correct that line by hand." % (docker.env_file, exc))
    except (ComposeError, ChangeError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg="The fragment could not be read or written: %s. Use become if the files belong to another user." % exc)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
