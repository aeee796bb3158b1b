# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # HTTP_ARGUMENTS in plugins/module_utils/_fhir.py.
    DOCUMENTATION = r"""
options:
  timeout:
    description:
      - Seconds that one HTTP request may take, from connecting to the end of the answer.
    type: int
    default: 10
  headers:
    description:
      - Further request headers.
      - The values are treated as secrets, and masked wherever they appear in the result, save those of well-known
        harmless headers such as C(Accept), C(Host), C(User-Agent) and C(X-Forwarded-Proto).
    type: dict
    default: {}
  bearer_token:
    description:
      - 'Token that is sent as C(Authorization: Bearer).'
      - It is sent to the server that was asked and nowhere else, whatever redirect comes back.
      - Mutually exclusive with O(url_username).
    type: str
  url_username:
    description:
      - User for HTTP Basic authentication, sent with the first request.
    type: str
  url_password:
    description:
      - Password of O(url_username).
    type: str
  ca_path:
    description:
      - PEM file on the host with the certificates of the CA that is trusted, instead of those that the host trusts.
    type: path
  validate_certs:
    description:
      - Whether the certificate of an https server is checked.
      - V(false) makes the module warn. For a private CA use O(ca_path) instead.
    type: bool
    default: true
  client_cert:
    description:
      - PEM file on the host with a client certificate, and its key unless O(client_key) is set.
    type: path
  client_key:
    description:
      - PEM file on the host with the unencrypted key of O(client_cert).
    type: path
  use_proxy:
    description:
      - Whether the proxy that the environment of the remote user names (E(http_proxy), E(https_proxy)) is used for
        hosts that E(no_proxy) does not name.
      - By default no proxy is used, since replicas are asked at addresses inside of the host.
    type: bool
    default: false
notes:
  - Redirects are followed only to the same host and port, or from C(http) to C(https) of the same host.
"""

    # REPLICA_ARGUMENTS in plugins/module_utils/_replicas.py.
    # To be listed before dghs.bd_fhir.compose, where project_dir is required: the first one wins.
    REPLICAS = r"""
options:
  project_dir:
    description:
      - Directory of the compose project on the host, the one that holds the owner's compose file.
      - Exactly one of O(project_dir) and O(urls) is needed.
    type: path
    required: false
  service:
    description:
      - Compose service whose containers are the replicas. Each is asked at its own address in a Docker network.
    type: str
    default: hapi
  urls:
    description:
      - Replicas that are not containers of O(project_dir), each at its own address and never a balancer's.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of the replica in the result.
        type: str
        required: true
      url:
        description:
          - Root of the replica's server, such as V(http://10.0.1.5:8080), without a user and password.
        type: str
        required: true
  port:
    description:
      - Port inside of the containers of O(service).
    type: int
    default: 8080
  actuator_path:
    description:
      - Path of Spring Boot's actuator.
    type: str
    default: /actuator
"""
