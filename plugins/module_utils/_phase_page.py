# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What phase_info returned as one page of HTML that opens without a network: no script, no font, nothing from elsewhere. Pure.

Every text is escaped. Charts are drawn as SVG; what they show is told in words or figures beside them, so that colours are not needed.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Optional

from ._phase_report import LABELS, LEVELS, STATUS, Result, ahead, day, figure, headline, items, load_of, mapping, number, planned, size, what_next

STYLE = """
:root{color-scheme:light dark;--back:#f6f7f9;--card:#fff;--ink:#1a1d21;--soft:#5a6472;--line:#d9dee5;--blue:#1f5fbf;--track:#e6eaf0;
--ok:#12683b;--okb:#dff3e7;--warn:#8a4b00;--warnb:#fdeccf;--bad:#a3201a;--badb:#fbe1df;--info:#274b7a;--infob:#e1ebf8}
@media (prefers-color-scheme:dark){:root{--back:#14171b;--card:#1d2127;--ink:#e8ebef;--soft:#a5afbc;--line:#363d47;--blue:#7fb0ff;--track:#2d333c;
--ok:#7fd8a4;--okb:#173425;--warn:#f3bd6b;--warnb:#3b2a10;--bad:#ff9d96;--badb:#421d1b;--info:#a9c9f5;--infob:#1b2c44}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
overflow-wrap:break-word}
main{max-width:1100px;margin:0 auto;padding:16px}
h1{font-size:1.5rem;margin:.2em 0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:0 0 .6em}
h3{font-size:1rem;margin:0 0 .2em}.bars~h3{margin-top:1.2em}
p{margin:.3em 0}.soft{color:var(--soft)}.small{font-size:.875rem}
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:16px;margin:16px 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:16px}
.card{border:1px solid var(--line);border-radius:8px;padding:12px;min-width:0}
.value{font-size:1.6rem;font-weight:600;line-height:1.2}
.tag{display:inline-block;border-radius:4px;padding:1px 8px;font-size:.875rem;font-weight:600;white-space:nowrap}
.ok{background:var(--okb);color:var(--ok)}.warning,.due{background:var(--warnb);color:var(--warn)}
.error,.critical{background:var(--badb);color:var(--bad)}.info,.partial{background:var(--infob);color:var(--info)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:6px 10px 6px 0;border-bottom:1px solid var(--line);overflow-wrap:break-word}
th{font-weight:600;color:var(--soft)}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font:11px system-ui,"DejaVu Sans",sans-serif}
.axis{stroke:var(--line)}.limit{stroke:var(--warn);stroke-dasharray:4 3}.limit-text{fill:var(--warn)!important}
.line{fill:none;stroke:var(--blue);stroke-width:2}.guess{fill:none;stroke:var(--blue);stroke-width:2;stroke-dasharray:2 4}.dot{fill:var(--blue)}
.range{fill:var(--blue);opacity:.15}
.bars{display:grid;gap:8px}.bar-text{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 12px;font-size:.9rem}
.bar-text span:first-child{overflow-wrap:anywhere}.bar-text span:last-child{white-space:nowrap;font-variant-numeric:tabular-nums}
.bar{height:10px}.bar .track{fill:var(--track)}.bar .part{fill:var(--blue)}.bar .part.warning{fill:var(--warn)}.bar .part.error{fill:var(--bad)}
time{white-space:nowrap}ul{margin:.3em 0;padding-left:1.2em}code{overflow-wrap:anywhere}td code{overflow-wrap:break-word}
@media (max-width:640px){main{padding:8px}section{padding:12px;margin:10px 0}.stack thead{display:none}.stack tr{display:block;padding:8px 0;
border-bottom:1px solid var(--line)}.stack td{display:block;border:0;padding:1px 0;text-align:left!important;white-space:normal!important}
.stack td[data-head]::before{content:attr(data-head) ": ";color:var(--soft)}}
@media print{:root{color-scheme:light;--back:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--blue:#1f5fbf;--track:#e6eaf0;--ok:#12683b;
--okb:#dff3e7;--warn:#8a4b00;--warnb:#fdeccf;--bad:#a3201a;--badb:#fbe1df;--info:#274b7a;--infob:#e1ebf8}
body{font-size:11pt}main{max-width:none;padding:0}section{border:0;padding:0;margin:14pt 0}.card,tr,svg,.bars>div{break-inside:avoid}
h2{break-after:avoid}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}.scroll{overflow:visible}}
"""

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 14, 26
# What a text may not hold even when it is escaped.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def esc(value: Any) -> str:
    """Return a text as it is, whatever it holds."""
    return html.escape(_CONTROL.sub("\ufffd", "" if value is None else str(value)), quote=True)


def tag(kind: str, text: str) -> str:
    """Return a word in a coloured box; the word itself says it all."""
    known = kind if kind in ("ok", "warning", "due", "error", "critical", "info", "partial") else "info"
    return '<span class="tag %s">%s</span>' % (known, esc(text))


def dated(value: Any) -> str:
    """Return a text whose days stay in one piece."""
    return re.sub(r"\b(\d{4}-\d{2}-\d{2})\b", r"<time>\1</time>", esc(value))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table of cells that are HTML already. On a phone each row becomes a block with its headings."""
    if not rows:
        return '<p class="soft">Nothing.</p>'

    def kind(place: int) -> str:
        return ' class="n"' if place in numbers else ""

    head = "".join("<th%s>%s</th>" % (kind(place), esc(text)) for place, text in enumerate(header))
    heads = [' data-head="%s"' % esc(text) if text else "" for text in header]
    body = "".join("<tr>%s</tr>" % "".join("<td%s%s>%s</td>" % (kind(place), heads[place], cell) for place, cell in enumerate(row)) for row in rows)
    return '<div class="scroll"><table class="stack"><thead><tr>%s</tr></thead><tbody>%s</tbody></table></div>' % (head, body)


def section(title: str, *parts: str) -> str:
    """Return a part of the page."""
    return "<section><h2>%s</h2>%s</section>" % (esc(title), "".join(parts))


# --- charts --------------------------------------------------------------------------------------------------------


def bars(rows: Sequence[tuple[str, float, str, str]], full: float) -> str:
    """Return horizontal bars: name, value, what it says, and how bad it is. full is the value of a whole bar."""
    if not rows:
        return '<p class="soft">Nothing.</p>'
    out = []
    for name, value, text, kind in rows:
        part = 0.0 if full <= 0 or not math.isfinite(value) else max(0.0, min(100.0, 100.0 * value / full))
        out.append(
            '<div><div class="bar-text"><span>%s</span><span>%s</span></div><svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" '
            'role="img" aria-label="%s"><rect class="track" width="100" height="10" rx="1"/>'
            '<rect class="part %s" width="%.2f" height="10" rx="1"/></svg></div>'
            % (esc(name), esc(text), esc("%s: %s" % (name, text)), esc(kind), part)
        )
    return '<div class="bars">%s</div>' % "".join(out)


def moment(text: Any) -> Optional[datetime]:
    """Return a moment, None for what is none."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")) if text else None
    except ValueError:
        return None


def short(value: float) -> str:
    """Return a number for an axis."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return "%g%s" % (round(value / factor, 1), unit)
    return "%g" % round(value, 1)


class Chart:
    """Growth over time against the limits. The upright axis is logarithmic: limits are ten times apart."""

    def __init__(self, start: datetime, end: datetime, low: float, high: float) -> None:
        self.start, self.seconds = start, max(1.0, (end - start).total_seconds())
        self.low, self.high = math.log10(max(low, 1.0)), math.log10(max(high, 10.0))
        if self.high - self.low < 0.5:
            self.low = self.high - 0.5

    def x(self, at: datetime) -> float:
        share = (at - self.start).total_seconds() / self.seconds
        return LEFT + max(0.0, min(1.0, share)) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (math.log10(max(value, 1.0)) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - max(0.0, min(1.0, share)) * (HEIGHT - TOP - BOTTOM)


def growth(name: str, metric: Result, history: Sequence[Result], now: datetime) -> str:
    """Return the chart of a metric: its samples, the limits, and where its growth leads, as far as that is known."""
    points = [(at, float(item[name])) for item in history if (at := moment(item.get("at"))) and isinstance(item.get(name), (int, float))]
    value = metric.get("value")
    if isinstance(value, (int, float)):
        points.append((now, float(value)))
    if not points:
        return '<p class="soft">Not known: %s</p>' % esc(metric.get("why") or "no sample")
    limits = [(str(item["to"]), float(item["limit"]), item) for item in items(metric.get("limits"))]
    start = min(at for at, _value in points)
    span = max(now - start, timedelta(days=14))
    crossings = [(at, limit, item) for _to, limit, item in limits if (at := moment(item.get("projected")))]
    # As far as the first crossing, and not so far that the history becomes a dot.
    end = now + max(span / 3, min((at - now for at, _limit, _item in crossings), default=timedelta()) * 1.1)
    end = min(end, now + span * 8)
    values = [amount for _at, amount in points]
    chart = Chart(now - span if len(points) == 1 else start, end, min(values) / 2, max([*values, *(limit for _to, limit, _item in limits)]) * 1.3)
    out = []
    shown: dict[float, list[str]] = {}
    for to, limit, _item in limits:
        shown.setdefault(limit, []).append(LEVELS.get(to, to))
    for limit, names in shown.items():
        y = chart.y(limit)
        out.append('<line class="limit" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>' % (LEFT, WIDTH - RIGHT, y, y))
        out.append('<text class="limit-text" x="%d" y="%.1f">%s</text>' % (LEFT + 4, y - 3, esc(names[-1])))
        out.append('<text x="%d" y="%.1f" text-anchor="end">%s</text>' % (LEFT - 4, y + 4, esc(short(limit))))
    for at, anchor in ((chart.start, "start"), (end, "end")):
        out.append('<text x="%.1f" y="%d" text-anchor="%s">%s</text>' % (chart.x(at), HEIGHT - 8, anchor, at.date().isoformat()))
    out.append('<line class="axis" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>' % (chart.x(now), chart.x(now), TOP, HEIGHT - BOTTOM))
    if abs(chart.x(now) - LEFT) > 80 and WIDTH - RIGHT - chart.x(now) > 80:
        out.append('<text x="%.1f" y="%d" text-anchor="middle">now</text>' % (chart.x(now), HEIGHT - 8))
    if len(points) > 1:
        out.append('<polyline class="line" points="%s"/>' % " ".join("%.1f,%.1f" % (chart.x(at), chart.y(amount)) for at, amount in points))
    rate = next((item.get("per_day") for _to, _limit, item in limits if item.get("per_day")), None)
    if isinstance(rate, (int, float)) and rate > 0:
        last = points[-1][1]
        steps = [now + (end - now) * place / 24 for place in range(25)]
        path = " ".join("%.1f,%.1f" % (chart.x(at), chart.y(last + rate * (at - now).total_seconds() / 86400)) for at in steps)
        out.append('<polyline class="guess" points="%s"/>' % path)
    for at, limit, item in crossings:
        if at > end:
            continue
        early, late = moment(item.get("earliest")) or at, moment(item.get("latest")) or end
        out.append(
            '<rect class="range" x="%.1f" width="%.1f" y="%.1f" height="8"/>'
            % (chart.x(early), max(2.0, chart.x(late) - chart.x(early)), chart.y(limit) - 4)
        )
        out.append('<circle class="dot" cx="%.1f" cy="%.1f" r="4"/>' % (chart.x(at), chart.y(limit)))
    out.append('<circle class="dot" cx="%.1f" cy="%.1f" r="3"/>' % (chart.x(points[-1][0]), chart.y(points[-1][1])))
    words = "%s: %s now; %s" % (
        LABELS.get(name, name),
        figure(metric),
        "; ".join("%s at %s: %s" % (to, number(limit), ahead(item)) for to, limit, item in limits),
    )
    return '<svg viewBox="0 0 %d %d" role="img" aria-label="%s"><title>%s</title>%s</svg>' % (WIDTH, HEIGHT, esc(words), esc(words), "".join(out))


# --- the page ------------------------------------------------------------------------------------------------------


def _head(result: Result, about: Result) -> str:
    status = str(result.get("status"))
    out = ["<h1>%s</h1>" % esc(about.get("title") or "Assessment")]
    out.append('<p class="soft small">%s</p>' % esc(" · ".join(filter(None, (str(about.get("host") or ""), str(result.get("now") or ""))))))
    out.append("<p>%s</p>" % tag(status, STATUS.get(status, status)))
    out.append("<p><strong>%s</strong></p><p>%s</p>" % (esc(headline(result)), esc(what_next(result))))
    return "<section>%s</section>" % "".join(out)


def _unread(result: Result) -> str:
    rows = [(esc(item["what"]), esc(item["service"]), esc(item["why"])) for item in map(mapping, items(result.get("unread")))]
    if not rows:
        return ""
    return section(
        "Not read", "<p>%s Nothing of this counts as healthy.</p>" % tag("partial", "This answer is partial."), table(("What", "Where", "Why"), rows)
    )


def _load(result: Result, now: datetime) -> str:
    cards = []
    history = [mapping(item) for item in items(mapping(result.get("history")).get("samples"))]
    for name, metric in load_of(result).items():
        limits = [("%s at %s" % (LEVELS.get(item["to"], item["to"]), number(item["limit"])), ahead(item)) for item in items(metric.get("limits"))]
        if len({when for _limit, when in limits}) == 1:
            # The same of all, such as a history that is too short, is said once.
            limits = [(", ".join(limit for limit, _when in limits), limits[0][1])]
        lines = "".join("<li>%s: %s</li>" % (esc(limit), dated(when)) for limit, when in limits)
        how = " · ".join(
            filter(
                None,
                (
                    str(metric.get("method") or ""),
                    "statistics of %s" % day(metric.get("as_of")) if metric.get("as_of") else "",
                    str(metric.get("why") or ""),
                ),
            )
        )
        decided = " " + tag("info", "decides") if name == result.get("decided_by") else ""
        cards.append(
            '<div class="card"><h3>%s%s</h3><p class="value">%s</p><p class="soft small">%s</p>%s<ul class="small">%s</ul></div>'
            % (esc(LABELS.get(name, name)), decided, esc(figure(metric)), esc(how), growth(name, metric, history, now), lines)
        )
    return section("Load against the limits", '<div class="cards">%s</div>' % "".join(cards))


def _due(result: Result) -> str:
    rows = [
        (tag(step["severity"], step["severity"]), esc(step["what"]), esc(step["why"]),
         "<code>%s</code>" % esc(step["playbook"]) if step.get("playbook") else "by hand")
        for step in map(mapping, items(result.get("due")))
    ]  # fmt: skip
    return section("Due", table(("How urgent", "What", "Why", "Playbook"), rows))


def _deployed(result: Result) -> str:
    built = mapping(result.get("deployed"))
    rows = [
        (esc(name), esc(item["found"]), esc(item["phase"] or "not known"), "holds it back" if name in items(built.get("held_by")) else "")
        for name, item in mapping(built.get("aspects")).items()
    ]
    return section("Deployed: %s" % built.get("phase"), table(("Part", "Found", "Phase", ""), rows))


def _connections(result: Result) -> str:
    rows = []
    for item in map(mapping, items(result.get("connections"))):
        kind = "error" if item["used"] >= item["usable"] else "warning" if item["percent"] >= 80 else ""
        rows.append((str(item["service"]), float(item["percent"]), "%d of %d usable, %s %%" % (item["used"], item["usable"], item["percent"]), kind))
    note = '<p class="soft small">Sessions in every state, of the slots that ordinary users can have.</p>'
    return section("Connections", bars(rows, 100.0), note)


def _tables(result: Result) -> str:
    found = [mapping(item) for item in items(result.get("tables"))]
    found = [item for item in found if item.get("total_bytes")][:12]
    most = max((float(item["total_bytes"]) for item in found), default=0.0)
    rows = [
        (
            str(item["name"]),
            float(item["total_bytes"]),
            "%s, %s rows, %s %% dead" % (size(item["total_bytes"]), number(item["rows"]), item["dead_percent"]),
            "",
        )
        for item in found
    ]
    parts = mapping(result.get("partitioning"))
    note = "<p>Partitioning: <strong>%s</strong>, %s.</p>" % (esc(parts.get("state", "unknown")), esc(parts.get("why", "")))
    plans = mapping(result.get("plans"))
    lines = []
    for search in map(mapping, items(plans.get("searches"))):
        for scan in map(mapping, items(search.get("scans"))):
            lines.append(
                (esc(search.get("name")), esc(scan["table"]), esc(scan["reason"]), esc(scan["detail"]), esc(scan["hint"]))
            )
    told = ""
    if plans.get("searches"):
        told = "<h3>Searches that read a table whole</h3>" + table(("Search", "Table", "Reason", "Found", "What to do"), lines)
        told += '<p class="soft small">%s</p>' % esc(planned(plans))
    return section("HAPI's tables", note, bars(rows, most), told)


def _partitions(result: Result) -> str:
    months = result.get("partitions")
    if not months:
        return section("Audit partitions", '<p class="soft">Not known.</p>')
    out = []
    for item in map(mapping, items(mapping(months).get("tables"))):
        if item.get("readable") is False:
            out.append('<h3>%s</h3><p class="soft">Not known.</p>' % esc(item.get("table")))
            continue
        parts = [mapping(part) for part in items(item.get("partitions"))]
        filled = [part for part in parts if (part.get("rows") or 0) > 0 or (part.get("bytes") or 0) > 1_000_000][-18:]
        most = max((float(part.get("bytes") or 0) for part in filled), default=0.0)
        gaps = tag("error", "1 gap" if item["gaps"] == 1 else "%d gaps" % item["gaps"]) if item.get("gaps") else tag("ok", "no gap")
        out.append(
            "<h3>%s</h3><p>%s %s days left, until %s; %s in %d partitions</p>"
            % (
                esc(item.get("table")),
                gaps,
                esc(number(item.get("days_left"), 0)),
                esc(day(item.get("covered_until"))),
                esc(size(item.get("bytes"))),
                len(parts),
            )
        )
        rows = [(str(part["name"]), float(part.get("bytes") or 0), size(part.get("bytes")), "") for part in filled]
        out.append(bars(rows, most) if rows else '<p class="soft small">No partition holds much yet.</p>')
    return section("Audit partitions", *out)


def _rejections(result: Result) -> str:
    found = mapping(result.get("partitions")).get("rejections")
    if not isinstance(found, (list, tuple)):
        return section("Rejected, by vendor", '<p class="soft">Not known.</p>')
    rows = []
    for item in map(mapping, found[:25]):
        few = "" if item.get("enough") else ", too few to judge"
        kind = "warning" if item.get("enough") and float(item["percent"]) >= 10 else ""
        text = "%s %%, %s of %s%s" % (item["percent"], number(item["rejected"]), number(item["events"]), few)
        rows.append((str(item["client"]), float(item["percent"]), text, kind))
    return section("Rejected, by vendor", bars(rows, 100.0))


def _findings(result: Result) -> str:
    rows = [
        (tag(item["severity"], item["severity"]), "<code>%s</code>" % esc(item["id"]), esc(item["object"]),
         esc(item["found"]), esc(item["expected"]), esc(item["hint"]))
        for item in map(mapping, items(result.get("findings")))
    ]  # fmt: skip
    return section("Findings", table(("Severity", "Id", "Object", "Found", "Expected", "What to do"), rows))


def as_html(result: Result, about: Result) -> str:
    """Return the page."""
    now = moment(result.get("now"))
    body = [_head(result, about), _unread(result), _due(result)]
    body += [_load(result, now) if now else "", _deployed(result), _connections(result), _tables(result), _partitions(result)]
    body += [_rejections(result), _findings(result)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing may be fetched, and nothing run, whatever a name of a vendor holds.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<link rel="icon" href="data:,"><title>%s</title><style>%s</style></head>\n<body><main>%s</main></body></html>\n'
        % (esc(about.get("title") or "Assessment"), STYLE, "\n".join(filter(None, body)))
    )
