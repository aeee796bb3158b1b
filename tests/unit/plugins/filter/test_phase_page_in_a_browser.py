# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The page of assess as a real browser lays it out: on a screen and on a telephone nothing sticks out, and the browser has nothing to say."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.filter.test_phase_report import FIXTURE, bare, hostile, report

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not on PATH (apt-get install chromium)"),
]

# A screen, and a telephone: the window of a browser can't be as narrow, a frame in it can.
WIDTHS = (1200, 400)
# The page is in the frames as it is, with its own policy of content. What measures it is outside: the width of the frame, of the page in it and of
# what the page shows, and the innermost parts whose content sticks out of them, but for boxes that scroll by themselves, and texts in
# charts, of which a browser tells another width from one time to the next.
MEASURE = """addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    const root = frame.contentDocument.documentElement;
    const parts = [...root.querySelectorAll("body *")].filter((item) => item.clientWidth && !item.closest(".scroll, svg"));
    const out = parts.filter((item) => item.scrollWidth > item.clientWidth + 1);
    const inner = out.filter((item) => !out.some((other) => other !== item && item.contains(other)));
    const words = inner.slice(0, 5).map((item) => item.tagName + " " + item.textContent.slice(0, 40));
    return [frame.contentWindow.innerWidth, root.clientWidth, root.scrollWidth, words];
  });
  document.documentElement.setAttribute("data-found", JSON.stringify(found));
})"""


def faults(folder: Path, page: str) -> list[str]:
    """What the browser has against a page."""
    frames = "".join(f'<iframe style="border:0;height:900px;width:{width}px" srcdoc="{html.escape(page)}"></iframe>' for width in WIDTHS)
    (folder / "page.html").write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{frames}<script>{MEASURE}</script>')
    argv = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--window-size=1300,1000",
            "--enable-logging=stderr", "--dump-dom", (folder / "page.html").as_uri()]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    told = re.search(r'<html[^>]* data-found="([^"]*)"', done.stdout)
    assert told, f"{done.returncode}: {done.stdout[:500]}\n{done.stderr[-3000:]}"
    measured = json.loads(html.unescape(told.group(1)))
    assert [item[0] for item in measured] == list(WIDTHS)
    # There is no script, so whatever is said there is said by the browser.
    found = [f"console: {line}" for line in re.findall(r":CONSOLE[:(]\d+[\])]+ (.*)", done.stderr)]
    return found + [f"{width}: {shown} wide of {inner}, by {out}" for width, inner, shown, out in measured if shown > inner or out]


@pytest.mark.parametrize(
    "result",
    # Names as long as PostgreSQL's may be, and a text that can't be broken.
    [FIXTURE, bare(), hostile(FIXTURE, "hfj_a_table_" + 51 * "n"), hostile(FIXTURE, 300 * "w")],
    ids=["full", "bare", "long names", "one long word"],
)
def test_nothing_sticks_out_and_the_browser_is_silent(tmp_path: Path, result: dict[str, Any]) -> None:
    assert faults(tmp_path, report(result, "html", "BD FHIR National", "fhir1")) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ('<div style="width:900px">wide</div>', ["400: 908 wide", "MAIN wide"]),
        ('<img src="http://127.0.0.1:9/a.png" alt="">', ["console: ", "img-src"]),
        ("<script>1</script>", ["console: ", "inline script"]),
    ],
    ids=["wide", "image", "script"],
)
def test_a_damaged_page_goes_red(tmp_path: Path, damage: str, words: list[str]) -> None:
    page = report(FIXTURE, "html", "BD FHIR National", "fhir1")
    assert "<main>" in page
    found = faults(tmp_path, page.replace("<main>", f"<main>{damage}", 1))
    assert found
    for word in words:
        assert all(word in line for line in found), found
