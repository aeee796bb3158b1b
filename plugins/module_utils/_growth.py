# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Samples of what was measured, one JSON object a line, and when the growth in them reaches a limit. Pure.

A file of samples may have been cut by a full disk or a kill: the lines that are whole count, the others are named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Optional

FORMAT = 1
# What a sample keeps of the figures that can grow.
FIGURES = ("vendors", "resources", "resources_per_day", "database_bytes")
# More than this many samples say nothing more about a growth, and would make a long argument of a module.
MOST = 1000

# What a projection needs: samples of so many days, and from the first to the last so long.
LEAST_DAYS = 3
LEAST_SPAN = 7.0
# A week of weekdays and weekends four times.
GOOD_SPAN = 28.0
# Further ahead than so many times the history is a guess.
FAR = 4.0
# Fifty years: whatever comes then is not told as a date.
HORIZON = 50 * 365.25

NOT_ENOUGH = "not enough history"


@dataclass(frozen=True)
class Sample:
    """What was measured at one moment. A figure that could not be read is not in it."""

    at: datetime
    # Which database: cluster and database, so that a restored one does not continue the history of another.
    database: str
    figures: dict[str, float]


@dataclass(frozen=True)
class Fault:
    """A line that is no sample."""

    line: int
    why: str
    # The last one, as an interrupted writer leaves it.
    cut: bool


@dataclass(frozen=True)
class Projection:
    """When a limit is reached. date is None when nobody can say, and why tells the reason."""

    date: Optional[datetime]
    earliest: Optional[datetime]
    latest: Optional[datetime]
    per_day: Optional[float]
    confidence: str
    why: str


def moment(text: Any) -> datetime:
    """Return a moment that was written with its offset. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("the moment is no text")
    # Python 3.9 does not know the Z.
    found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    if found.tzinfo is None:
        raise ValueError("the moment %s has no offset" % text)
    return found.astimezone(timezone.utc)


def iso(value: Optional[datetime]) -> Optional[str]:
    """Return a moment as a text in UTC, to the second."""
    return None if value is None else value.astimezone(timezone.utc).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def number(value: Any) -> Optional[float]:
    """Return a figure of a sample; None for what is no figure."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def sample_of(item: Any) -> Sample:
    """Return a sample from a line of text, or from what a line holds. Raises ValueError that says what is wrong with it."""
    if isinstance(item, str):
        try:
            item = json.loads(item)
        except (ValueError, RecursionError):
            raise ValueError("it is no JSON") from None
    if not isinstance(item, dict):
        raise ValueError("it is no object")
    if item.get("format") != FORMAT:
        raise ValueError("its format is %r, not %d" % (item.get("format"), FORMAT))
    try:
        at = moment(item.get("at"))
    except (ValueError, OverflowError) as exc:
        raise ValueError("its moment can't be read: %s" % exc) from None
    figures = {name: number(item.get(name)) for name in FIGURES if item.get(name) is not None}
    wrong = sorted(name for name, value in figures.items() if value is None)
    if wrong:
        raise ValueError("%s is no number of at least 0" % ", ".join(wrong))
    return Sample(at, str(item.get("database") or ""), {name: value for name, value in figures.items() if value is not None})


def read_samples(items: Iterable[Any]) -> tuple[list[Sample], list[Fault]]:
    """Return the samples among lines, in the order of time, and the lines that are none. An empty line is nothing."""
    samples, faults = [], []
    lines = [(line, item) for line, item in enumerate(items, 1) if not (isinstance(item, str) and not item.strip("\x00 \t\r\n"))]
    for line, item in lines:
        try:
            samples.append(sample_of(item))
        except ValueError as exc:
            faults.append(Fault(line, str(exc), line == lines[-1][0]))
    return sorted(samples, key=lambda sample: sample.at)[-MOST:], faults


def history_of(samples: Sequence[Sample], database: str, now: datetime) -> list[Sample]:
    """Return the samples of this very database up to now. Those before it was another one (a restore) do not count."""
    found: list[Sample] = []
    for sample in samples:
        if sample.at > now:
            # A clock that was wrong.
            continue
        if database and sample.database != database:
            found = []
        else:
            found.append(sample)
    return found


def sample_line(now: datetime, database: str, figures: dict[str, Optional[float]]) -> dict[str, Any]:
    """Return a new sample as its line holds it."""
    known = {name: figures[name] for name in FIGURES if figures.get(name) is not None}
    return {"format": FORMAT, "at": iso(now), "database": database, **known}


def daily(points: Sequence[tuple[datetime, float]]) -> list[tuple[float, float]]:
    """Return the last point of each day, as days since the first one: many samples of one day say no more than one."""
    last: dict[Any, tuple[datetime, float]] = {}
    for at, value in points:
        last[at.date()] = (at, value)
    kept = [last[day] for day in sorted(last)]
    return [((at - kept[0][0]).total_seconds() / 86400, value) for at, value in kept]


def slopes(points: Sequence[tuple[float, float]]) -> list[float]:
    """Return the slopes between all pairs of points, sorted. Of many points only every so many count, so that this stays quick."""
    step = max(1, len(points) // 150)
    chosen = list(points[::step])
    if chosen[-1] != points[-1]:
        chosen.append(points[-1])
    found = [(y2 - y1) / (x2 - x1) for index, (x1, y1) in enumerate(chosen) for x2, y2 in chosen[index + 1 :] if x2 > x1]
    return sorted(found)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of sorted values lies."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def _when(now: datetime, left: float, per_day: float) -> Optional[datetime]:
    if per_day <= 0 or left / per_day > HORIZON:
        return None
    return now + timedelta(days=max(0.0, left / per_day))


def project(history: Sequence[Sample], figure: str, limit: float, value: Optional[float], now: datetime) -> Projection:
    """Return when a figure reaches a limit, if it goes on as in its history.

    The growth is the median of the slopes between all pairs of days, which single wrong samples do not move; the quarter of the
    slopes above and below tell how early and how late.
    """
    if value is not None and value >= limit:
        return Projection(None, None, None, None, "certain", "reached")
    points = [(sample.at, sample.figures[figure]) for sample in history if figure in sample.figures]
    if value is not None:
        points.append((now, value))
    elif points:
        value = points[-1][1]
    days = daily(points) if points else []
    span = days[-1][0] if days else 0.0
    if value is None or len(days) < LEAST_DAYS or span < LEAST_SPAN:
        why = "%s: samples of %d days over %.1f days, %d days over %g days are needed" % (NOT_ENOUGH, len(days), span, LEAST_DAYS, LEAST_SPAN)
        return Projection(None, None, None, None, "none", why)
    found = slopes(days)
    middle, slow, fast = quantile(found, 0.5), quantile(found, 0.25), quantile(found, 0.75)
    left = limit - value
    date = _when(now, left, middle)
    earliest, latest = _when(now, left, fast), _when(now, left, slow)
    if date is None:
        why = "it does not grow" if middle <= 0 else "it is more than fifty years away"
        return Projection(None, earliest, None, round(middle, 4), confidence(span, HORIZON, slow, fast), why)
    ahead = (date - now).total_seconds() / 86400
    return Projection(date, earliest, latest, round(middle, 4), confidence(span, ahead, slow, fast), "as in the last %.0f days" % span)


def confidence(span: float, ahead: float, slow: float, fast: float) -> str:
    """Return how much a projection is worth: low, medium or high. A longer history never makes it less, a longer way never more."""
    steady = slow > 0 and fast <= 3 * slow
    if span < GOOD_SPAN or ahead > FAR * span or not steady:
        return "low"
    return "high" if ahead <= span else "medium"
