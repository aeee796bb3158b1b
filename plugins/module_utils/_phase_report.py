# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What phase_info returned, as JSON, as Markdown and as a textfile of Prometheus. Pure.

Names of vendors, tables and servers come from elsewhere: they are escaped wherever they are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Optional

Result = Mapping[str, Any]

FORMAT = 1
LABELS = {"vendors": "Vendors", "resources_per_day": "Resources a day", "resources": "Resources"}
LEVELS = {"pilot": "pilot", "regional": "regional", "regional_exceeded": "end of regional", "national": "national"}
STATUS = {"ok": "Nothing is due", "due": "Something is due", "critical": "Something is critical", "partial": "Not all could be read"}
QUALITY = {"exact": "", "estimate": "about ", "at_least": "at least ", "at_most": "at most ", "": ""}
RANKS = {"pilot": 0, "regional": 1, "regional_exceeded": 2, "national": 3}
PHASE_RANKS = {"pilot": 0, "regional": 1, "national": 2}
# What Ansible adds to a result.
NOT_TOLD = ("changed", "failed", "invocation", "ansible_facts", "warnings", "deprecations")


def items(value: Any) -> list[Any]:
    """Return a list, whatever is there."""
    return list(value) if isinstance(value, (list, tuple)) else []


def mapping(value: Any) -> Result:
    """Return a dictionary, whatever is there."""
    return value if isinstance(value, Mapping) else {}


def number(value: Any, digits: int = 0) -> str:
    """Return a number as people read it; what is not known is said."""
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return "not known"
    return format(value, ",.%df" % digits)


def size(value: Any) -> str:
    """Return bytes as people read them."""
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return "not known"
    left = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(left) < 1000:
            return "%.0f %s" % (left, unit) if unit == "B" or left >= 100 else "%.1f %s" % (left, unit)
        left /= 1000
    return "%.1f TB" % left


def day(text: Optional[str]) -> str:
    """Return the day of a moment."""
    return str(text)[:10] if text else ""


def load_of(result: Result) -> dict[str, Result]:
    """Return the metrics in our order: a result that went through Ansible may have another."""
    found = mapping(result.get("metrics"))
    return {name: mapping(found[name]) for name in [*(name for name in LABELS if name in found), *(name for name in found if name not in LABELS)]}


def figure(metric: Result) -> str:
    """Return the value of a metric with how sure it is."""
    return QUALITY.get(str(metric.get("quality") or ""), "") + number(metric.get("value"))


def ahead(limit: Result) -> str:
    """Return in words when a limit is reached."""
    if limit.get("reached"):
        return "reached"
    if limit.get("projected"):
        text = "%s (confidence %s" % (day(limit["projected"]), limit.get("confidence"))
        if limit.get("earliest") and limit.get("latest") and day(limit["earliest"]) != day(limit["latest"]):
            text += ", %s to %s" % (day(limit["earliest"]), day(limit["latest"]))
        return text + ")"
    return str(limit.get("why") or "not known")


def headline(result: Result) -> str:
    """Return the answer in one sentence."""
    phase = result.get("phase")
    if phase is None:
        return "Nothing of the load could be read, so no phase can be told."
    text = "The load asks for the phase %s%s" % (phase, " at least" if result.get("at_least") else "")
    if result.get("exceeded"):
        text += ", and is more than that was made for"
    metric = mapping(mapping(result.get("metrics")).get(str(result.get("decided_by"))))
    text += ", by %s (%s)." % (LABELS.get(str(result.get("decided_by")), "its figures").lower(), figure(metric))
    built = mapping(result.get("deployed"))
    return text + " Deployed is %s%s." % (built.get("phase"), ", as far as could be read" if built.get("at_least") else "")


def what_next(result: Result) -> str:
    """Return in a sentence what is due next."""
    step = mapping(result.get("next"))
    if not step:
        return "Nothing is known to come next."
    how = " Playbook: %s." % step["playbook"] if step.get("playbook") else ""
    when = "Now" if step.get("when") == "now" else "Until %s" % day(step.get("when"))
    return "%s: %s, because %s.%s" % (when, step.get("what"), step.get("why"), how)


def planned(plans: Result) -> str:
    """Return in a sentence which searches were planned."""
    whose = "the site's own searches" if plans.get("source") == "pg_stat_statements" else "a default set"
    return "Plans of %s: %d%s." % (whose, len(items(plans.get("searches"))), " (%s)" % plans["why"] if plans.get("why") else "")


# --- JSON ----------------------------------------------------------------------------------------------------------


def as_json(result: Result, about: Result) -> str:
    """Return all of it for a program, in a stable order."""
    told = {key: value for key, value in result.items() if key not in NOT_TOLD and not str(key).startswith("_ansible")}
    return json.dumps({"report_format": FORMAT, **about, **told}, indent=2, sort_keys=True, default=str) + "\n"


# --- Markdown ------------------------------------------------------------------------------------------------------

UNKNOWN = ("Not known.", "")
_MARKS = re.compile(r"([\\`*_\[\]#|~<>&])")


def mark(value: Any) -> str:
    """Return a text that stands for itself in Markdown, on one line."""
    return _MARKS.sub(r"\\\1", " ".join(str(value).split()))


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    if not rows:
        return ["Nothing.", ""]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return [*lines, *("| " + " | ".join(mark(value) for value in row) + " |" for row in rows), ""]


def as_markdown(result: Result, about: Result) -> str:
    """Return it for people who read text."""
    lines = [
        "# %s" % mark(about.get("title") or "Assessment"),
        "",
        "%s. %s" % (STATUS.get(str(result.get("status")), "Not known"), mark(result.get("now"))),
        "",
    ]
    lines += [mark(headline(result)), "", mark(what_next(result)), ""]
    if result.get("partial"):
        lines += ["## Not read", "", "The answer is partial. Nothing of this counts as healthy.", ""]
        lines += _table(
            ("What", "Where", "Why"), [(item["what"], item["service"], item["why"]) for item in map(mapping, items(result.get("unread")))]
        )
    rows: list[Sequence[Any]] = [
        (step["what"], step["severity"], step["why"], step.get("playbook") or "by hand") for step in map(mapping, items(result.get("due")))
    ]
    lines += ["## Due", "", *_table(("What", "How urgent", "Why", "Playbook"), rows)]
    rows = []
    for name, metric in load_of(result).items():
        for limit in items(metric.get("limits")):
            rows.append((LABELS.get(name, name), figure(metric), LEVELS.get(limit["to"], limit["to"]), number(limit["limit"]), ahead(limit)))
    lines += ["## Load", "", *_table(("Metric", "Now", "To", "Limit", "Reached"), rows)]
    rows = [(name, item["found"], item["phase"] or "not known") for name, item in mapping(mapping(result.get("deployed")).get("aspects")).items()]
    lines += ["## Deployed", "", *_table(("Part", "Found", "Phase"), rows)]
    rows = [(item["service"], item["used"], item["usable"], "%s %%" % item["percent"]) for item in map(mapping, items(result.get("connections")))]
    lines += ["## Connections", "", *_table(("Server", "Taken", "Usable", "Share"), rows)]
    rows = [
        (item["name"], number(item["rows"]), size(item["total_bytes"]), "%s %%" % item["dead_percent"])
        for item in map(mapping, items(result.get("tables"))[:15])
    ]
    lines += ["## Tables", "", *_table(("Table", "Rows", "Size", "Dead"), rows)]
    parts = mapping(result.get("partitioning"))
    lines += ["Partitioning: %s, %s." % (mark(parts.get("state", "unknown")), mark(parts.get("why", ""))), ""]
    if mapping(result.get("plans")).get("searches"):
        lines += [mark(planned(mapping(result["plans"]))), ""]
    months = mapping(result.get("partitions"))
    rows = [
        (item["table"], number(item["days_left"], 1), number(item["gaps"]), size(item["bytes"])) for item in map(mapping, items(months.get("tables")))
    ]
    lines += ["## Audit partitions", "", *(_table(("Table", "Days left", "Gaps", "Size"), rows) if months else UNKNOWN)]
    rows = [(item["client"], item["events"], item["rejected"], "%s %%" % item["percent"]) for item in map(mapping, items(months.get("rejections")))]
    known = isinstance(months.get("rejections"), (list, tuple))
    lines += ["## Rejected", "", *(_table(("Vendor", "Events", "Rejected", "Share"), rows) if known else UNKNOWN)]
    found = [(item["severity"], item["id"], item["object"], item["found"], item["hint"]) for item in map(mapping, items(result.get("findings")))]
    lines += ["## Findings", "", *_table(("Severity", "Id", "Object", "Found", "What to do"), found)]
    return "\n".join(lines).rstrip("\n") + "\n"


# --- Prometheus ----------------------------------------------------------------------------------------------------


def label(value: Any) -> str:
    """Return a value of a label as the text format takes it."""
    return str(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def moment(text: Any) -> Optional[float]:
    """Return a moment in seconds since 1970."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


class Metrics:
    """A textfile: each metric with its help and type once, whatever is not known left out."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.told: set[str] = set()

    def add(self, name: str, text: str, value: Any, **labels: Any) -> None:
        """Add one sample of a gauge."""
        if isinstance(value, bool):
            value = int(value)
        if not isinstance(value, (int, float)):
            return
        if name not in self.told:
            self.told.add(name)
            self.lines += ["# HELP bd_fhir_%s %s" % (name, text), "# TYPE bd_fhir_%s gauge" % name]
        marks = ",".join('%s="%s"' % (key, label(part)) for key, part in labels.items())
        self.lines.append("bd_fhir_%s%s %s" % (name, "{%s}" % marks if marks else "", repr(float(value)) if isinstance(value, float) else value))


def as_prometheus(result: Result, about: Result) -> str:
    """Return it for the textfile collector of node_exporter. What could not be read has no sample, and is counted."""
    out = Metrics()
    out.add("assess_timestamp_seconds", "When it was assessed.", moment(result.get("now")))
    out.add("assess_partial", "Whether something could not be read.", bool(result.get("partial")))
    out.add("assess_unread", "What could not be read.", len(items(result.get("unread"))))
    out.add("assess_exit_code", "0 nothing due, 1 due, 2 critical, 3 partial.", result.get("exit_code"))
    out.add("load_level", "Load: 0 pilot, 1 regional, 2 regional exceeded, 3 national.", RANKS.get(str(result.get("level"))))
    out.add("deployed_phase", "Deployed: 0 pilot, 1 regional, 2 national.", PHASE_RANKS.get(str(mapping(result.get("deployed")).get("phase"))))
    metrics = load_of(result)
    for name, metric in metrics.items():
        out.add("load", "What was measured.", metric.get("value"), metric=name)
    for name, metric in metrics.items():
        for limit in items(metric.get("limits")):
            out.add("load_limit", "Limits of the phases.", limit.get("limit"), metric=name, to=limit.get("to"))
    for name, metric in metrics.items():
        for limit in items(metric.get("limits")):
            out.add(
                "load_limit_projected_timestamp_seconds", "When a limit is projected to be reached.", moment(limit.get("projected")),
                metric=name, to=limit.get("to"), confidence=limit.get("confidence"),
            )  # fmt: skip
    out.add("writes_per_day", "Versions written a day.", result.get("writes_per_day"))
    for item in map(mapping, items(result.get("connections"))):
        out.add("connections_used", "Client connections, idle ones included.", item.get("used"), service=item.get("service"))
    for item in map(mapping, items(result.get("connections"))):
        out.add("connections_usable", "Connections that ordinary users can have.", item.get("usable"), service=item.get("service"))
    months = mapping(result.get("partitions"))
    for item in map(mapping, items(months.get("tables"))):
        # Not the name that the job for the partitions uses: node_exporter leaves out what two files describe differently.
        out.add("assess_audit_partition_days_left", "Days with partitions from now on.", item.get("days_left"), table=item.get("table"))
    for item in map(mapping, items(months.get("rejections"))):
        out.add(
            "rejected_percent",
            "Rejected events of a vendor.",
            item.get("percent"),
            vendor=item.get("client"),
            enough=str(bool(item.get("enough"))).lower(),
        )
    for name, base in mapping(result.get("databases")).items():
        out.add("database_bytes", "Size of a database.", mapping(base).get("bytes"), database=name)
    for item in map(mapping, items(result.get("due"))):
        out.add("due", "What is due.", 1, what=item.get("what"), severity=item.get("severity"), playbook=item.get("playbook") or "")
    for severity in ("error", "warning", "info"):
        found = [item for item in items(result.get("findings")) if mapping(item).get("severity") == severity]
        out.add("assess_findings", "Findings.", len(found), severity=severity)
    return "\n".join(out.lines) + "\n"
