# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How properties are searched: the same examples in every run, so that a red one is red again; fresh ones on request.

And where modules that run in a test record their changes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.module_utils import _internal
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("fresh", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("PROPERTIES", "same"))


@pytest.fixture(autouse=True)
def journal_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What modules do in a test is not recorded on this machine."""
    monkeypatch.setattr(_change, "STATE_DIR", str(tmp_path / "journal"))


@pytest.fixture(autouse=True)
def as_on_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that imports an action plugin makes Ansible take every module for a part of the controller, and its warnings go there."""
    monkeypatch.setattr(_internal, "is_controller", False)
