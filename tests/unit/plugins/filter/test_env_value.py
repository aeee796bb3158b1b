# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The interface; how a .env is read is tested in test__dotenv.py."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.dghs.bd_fhir.plugins.filter.env_value import FilterModule

env_value = FilterModule().filters()["env_value"]


def test_the_value_is_the_one_that_compose_gives() -> None:
    text = "A='x y'\nexport B=\"$A\\\"#z\" # note\nA2=${A}-2\nA3=\nA=অ\n"
    assert env_value(text, "B") == 'x y"#z'
    assert env_value(text, "A2") == "x y-2"
    assert env_value(text, "A3") == ""
    assert env_value(text, "A") == "অ"


def test_what_is_missing_or_torn_is_an_error_that_shows_no_value() -> None:
    with pytest.raises(AnsibleFilterError, match="has no FHIR_REPLICA_PASSWORD"):
        env_value("OTHER=s3cret\n", "FHIR_REPLICA_PASSWORD")
    with pytest.raises(AnsibleFilterError, match="line 2") as caught:
        env_value("A=1\nB='s3cret\n", "A")
    assert "s3cret" not in str(caught.value)
