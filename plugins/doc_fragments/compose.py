# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  project_dir:
    description:
      - Directory of the compose project on the host, the one that holds the owner's compose file.
    type: path
    required: true
  project_name:
    description:
      - Name of the compose project.
      - By default the name under which containers of this directory exist;
        if there are none, the name that Compose itself resolves (E(COMPOSE_PROJECT_NAME) in the environment file,
        the top-level C(name) of the compose file, or the name of the directory).
    type: str
  env_file:
    description:
      - Environment file that is given to Compose.
      - Defaults to C(.env) in O(project_dir).
    type: path
  command_timeout:
    description:
      - Seconds after which one call of the C(docker) command is stopped and reported as failed.
    type: int
    default: 120
requirements:
  - the C(docker) command, version 20.10 or newer, with the Compose plugin, version 2.20 or newer, on the host
notes:
  - E(COMPOSE_FILE), E(COMPOSE_PROFILES) and every other E(COMPOSE_*) variable in the environment of the remote user are ignored,
    so that the environment file alone decides, as it does for C(docker compose --env-file .env up -d) in a plain shell.
"""
