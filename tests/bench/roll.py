# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service of three replaced by another release under load: by scale_hapi, and by plain compose on the same stack."""

from __future__ import annotations

import time

from _result import publish
from load import Load
from pilot_host import FIRST, PROJECT, SECOND, healthy, ok, on_host, until

IMAGES = ("registry:5000/bd-fhir/hapi:1.1.0", "registry:5000/bd-fhir/hapi:1.0.0")


def main() -> None:
    ok("tests/lab/pilot.yml")
    ok("scale_regional", *FIRST)
    until("three healthy replicas", 300, lambda: healthy(3))

    with Load(rate=24, workers=16) as rolled:
        started = time.monotonic()
        ok("scale_hapi", *SECOND)
        seconds = time.monotonic() - started
    lost = rolled.lost()

    # What the roadmap does: another image in .env, then a plain up.
    with Load(rate=24, workers=16) as plain:
        started = time.monotonic()
        on_host("bash", "-c", f"cd {PROJECT} && sed -i 's#^HAPI_IMAGE=.*#HAPI_IMAGE={IMAGES[1]}#; s#^HAPI_IG_VERSION=.*#HAPI_IG_VERSION=0.2.1#' .env"
                " && docker compose --env-file .env up -d --no-deps hapi")
        until("three healthy replicas", 300, lambda: healthy(3))
        plain_seconds = time.monotonic() - started

    publish("roll", {
        "failed": len(rolled.ledger.failures), "lost": len(lost), "seconds": seconds,
        "plain_failed": len(plain.ledger.failures), "plain_seconds": plain_seconds,
    }, {
        "sent": dict(rolled.ledger.sent), "rate": rolled.ledger.rate, "failures": rolled.ledger.failures[:20],
        "plain_sent": dict(plain.ledger.sent), "plain_rate": plain.ledger.rate, "plain_failures": plain.ledger.failures[:20],
        "plain_lost": len(plain.lost()),
    })


if __name__ == "__main__":
    main()
