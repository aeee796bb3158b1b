# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""nginx configurations: read as nginx reads them, pointed to another upstream, and taken back to the same bytes.

Texts are str in which every byte was kept (UTF-8 with surrogateescape). What is not edited is never rewritten: edits
are replacements at offsets, so comments, indentation and line ends stay.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import posixpath
import re
import time

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from ._files import replace_file, sync_directory, to_bytes
from ._findings import finding

VARIABLE = "bd_fhir_upstream"

_SPACE = " \t\r\n"
_ESCAPES = {'"': '"', "'": "'", "\\": "\\", "t": "\t", "r": "\r", "n": "\n"}
_LUA = re.compile(
    r"--\[(=*)\[.*?\]\1\]|--[^\n]*|\[(=*)\[.*?\]\2\]|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|[{}]", re.DOTALL
)
_ADDRESS = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*)(?::([0-9]{1,5}))?\Z")
# The part of a URL that names the server, and what follows it.
_URL = re.compile(r"(?:([a-z]+)://)?([^/?$]*)(.*)\Z", re.DOTALL)
# What follows the server in a URL, where it is a variable: only these are known not to be a part of the name.
_TAIL_VARIABLE = re.compile(r"\$\{?(?:request_uri|uri|document_uri|is_args)\b")
_OURS = re.compile(r"\$(?:%s\b|\{%s\})" % (VARIABLE, VARIABLE))
_HEADER = re.compile(r"^# configuration file (/[^\n]*):$", re.MULTILINE)
# These may end the rewrite phase of a location, and a `set` behind them is then not run.
_STOPS = ("rewrite", "return", "break", "if")
_PASSES = ("proxy_pass", "grpc_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass")
_REDIRECT = ("http://$proxy_host/", "/")


class NginxError(Exception):
    """Something about nginx could not be done. The text is complete and safe to show."""


class ConfigError(NginxError):
    """A text is not an nginx configuration that this collection understands. Has the line, from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__("line %d: %s" % (line, message))
        self.line = line


# -- reading a configuration


@dataclass(frozen=True)
class Token:
    """One word as nginx reads it, or one of `;`, `{`, `}`; start and end are offsets in the text."""

    kind: str  # word, ; { or }
    start: int
    end: int
    value: str  # without quotes and escapes


@dataclass(eq=False)
class Directive:
    """One directive. children is None for a simple one, the directives inside for a block."""

    path: str
    words: list[Token]
    parent: Optional[Directive]
    line: int
    start: int
    end: int = 0  # behind the semicolon or the closing brace
    children: Optional[list[Directive]] = None

    @property
    def name(self) -> str:
        """The first word."""
        return self.words[0].value

    @property
    def args(self) -> list[str]:
        """The other words."""
        return [word.value for word in self.words[1:]]

    @property
    def where(self) -> str:
        """The place, as file:line."""
        return "%s:%d" % (self.path, self.line)


def line_of(text: str, offset: int) -> int:
    """Return the number, from 1, of the line in which an offset lies. Pure."""
    return text.count("\n", 0, offset) + 1


def next_token(text: str, position: int) -> Optional[Token]:
    """Return the first token at or behind an offset, None at the end. Pure. Raises ConfigError.

    The rules are those of ngx_conf_read_token(): a comment starts only where a word could start, `}` ends nothing
    inside of a word, `{` does unless it follows `$`.
    """
    size = len(text)
    while position < size:
        char = text[position]
        if char in _SPACE:
            position += 1
        elif char == "#":
            position = text.find("\n", position)
            if position < 0:
                return None
        else:
            break
    if position >= size:
        return None
    if char in ";{}":
        return Token(char, position, position + 1, char)
    start = position
    if char in "\"'":
        position += 1
        while position < size and text[position] != char:
            position += 2 if text[position] == "\\" else 1
        if position >= size:
            raise ConfigError(line_of(text, start), "a quoted word has no end")
        position += 1
        if position < size and text[position] not in _SPACE + ";{)":
            raise ConfigError(line_of(text, position), "a quoted word is followed by another character")
        return Token("word", start, position, _unescape(text[start + 1 : position - 1]))
    variable = False
    while position < size:
        char = text[position]
        if char in _SPACE or char == ";" or (char == "{" and not variable):
            break
        variable = char == "$"
        position += 2 if char == "\\" else 1
    position = min(position, size)
    return Token("word", start, position, _unescape(text[start:position]))


def _unescape(raw: str) -> str:
    return re.sub(r"\\([\"'\\trn])", lambda match: _ESCAPES[match.group(1)], raw)


def parse(text: str, path: str = "") -> list[Directive]:
    """Return the directives of one file. Pure. Raises ConfigError for what nginx would not load either."""
    roots: list[Directive] = []
    block: Optional[Directive] = None
    words: list[Token] = []
    position = 0
    while True:
        token = next_token(text, position)
        if token is None:
            break
        position = token.end
        if token.kind == "word":
            words.append(token)
            continue
        line = line_of(text, token.start)
        if token.kind == "}":
            if words or block is None:
                raise ConfigError(line, 'unexpected "}"')
            block.end = token.end
            block = block.parent
            continue
        if not words:
            raise ConfigError(line, 'unexpected "%s"' % token.kind)
        directive = Directive(path, words, block, line_of(text, words[0].start), words[0].start, token.end)
        if block is None:
            roots.append(directive)
        elif block.children is not None:
            block.children.append(directive)
        words = []
        if token.kind == "{":
            directive.children = []
            if directive.name.endswith("_by_lua_block"):
                # Lua code has other rules for words and comments.
                position = directive.end = _lua_end(text, token.end)
            else:
                block = directive
    if words or block is not None:
        raise ConfigError(line_of(text, len(text)), "unexpected end of file, expecting ; or }")
    return roots


def _lua_end(text: str, position: int) -> int:
    depth = 1
    for match in _LUA.finditer(text, position):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return match.end()
    raise ConfigError(line_of(text, position), "a block of Lua code has no end")


def walk(directives: list[Directive]) -> Iterator[Directive]:
    """Yield all directives, a block before what is in it."""
    for directive in directives:
        yield directive
        if directive.children:
            yield from walk(directive.children)


def parse_dump(dump: str, read: Callable[[str], Optional[str]]) -> dict[str, str]:
    """Return path -> text of the files that `nginx -T` prints, the main one first. Raises NginxError.

    read: returns the text that a path of the container has on the host, None if unknown. Where the dump continues with
    just that text, it is taken as a whole, so that a file which itself holds a line like our separator is read right.
    """
    files: dict[str, str] = {}
    position = 0
    while position < len(dump):
        match = _HEADER.match(dump, position)
        if match is None:
            break
        path, body = match.group(1), match.end() + 1
        known = read(path)
        end = body + len(known) + 1 if known is not None else 0
        if known is None or dump[body:end] != known + "\n" or (end < len(dump) and not _HEADER.match(dump, end)):
            following = _HEADER.search(dump, body)
            end = following.start() if following else len(dump)
            known = dump[body : max(body, end - 1)]
        files.setdefault(path, known)
        position = end
    if not files:
        raise NginxError("The answer of `nginx -T` names no configuration file. Is this an nginx?")
    return files


# -- where things are


@dataclass(frozen=True)
class Address:
    """A server as host and port; text is how it was written."""

    host: str  # in lower case
    port: int
    text: str

    def same(self, other: Optional[Address]) -> bool:
        """Tell whether both name the same server."""
        return other is not None and (self.host, self.port) == (other.host, other.port)


def parse_address(text: str, port: int = 80) -> Optional[Address]:
    """Return the address that host or host:port names, None for something else. port: where none is named. Pure."""
    match = _ADDRESS.match(text)
    if match is None:
        return None
    number = int(match.group(2)) if match.group(2) else port
    return Address(match.group(1).lower(), number, text) if 0 < number < 65536 else None


@dataclass(frozen=True)
class Place:
    """Where a directive names a server: the text of host and port and its offsets, and what surrounds it."""

    kind: str  # proxy_pass, server (of an upstream) or stream (proxy_pass without a scheme)
    scheme: str
    authority: str
    start: int
    end: int
    tail: str


class Config:
    """The files of one nginx, with what includes what."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """files: path in the container -> text, the main file first. Raises NginxError, naming file and line."""
        self.files = dict(files)
        self.main = next(iter(files))
        self.trees: dict[str, list[Directive]] = {}
        for path, text in files.items():
            try:
                self.trees[path] = parse(text, path)
            except ConfigError as exc:
                raise NginxError("%s can't be read: %s." % (path, exc)) from None
        self._uses: dict[str, list[Directive]] = {}
        for directive in self.all():
            for path in self._included(directive):
                self._uses.setdefault(path, []).append(directive)
        self.upstreams = {
            item.args[0].lower(): item for item in self.all() if item.name == "upstream" and item.children and item.args
        }

    def all(self) -> Iterator[Directive]:
        """Yield all directives of all files."""
        for tree in self.trees.values():
            yield from walk(tree)

    def _included(self, directive: Directive) -> list[str]:
        if directive.name != "include" or directive.children is not None or len(directive.words) != 2:
            return []
        pattern = posixpath.normpath(posixpath.join(posixpath.dirname(self.main), directive.args[0]))
        depth = pattern.count("/")
        return [
            path
            for path in self.files
            if posixpath.normpath(path).count("/") == depth and fnmatch.fnmatchcase(posixpath.normpath(path), pattern)
        ]

    def flat(self, directives: list[Directive], depth: int = 0) -> list[Directive]:
        """Return the directives of a block as nginx sees them: in order, an include replaced by what it names."""
        found = []
        for directive in directives:
            included = self._included(directive) if depth < 20 else []
            if not included:
                found.append(directive)
            for path in included:
                found += self.flat(self.trees[path], depth + 1)
        return found

    def chains(self, directive: Directive, depth: int = 0) -> list[list[tuple[str, list[Directive]]]]:
        """Return the blocks around a directive, innermost first, each as (its name, its directives).

        More than one chain when its file is included in several places, none when nothing includes its file.
        """
        if directive.parent is not None:
            inner = [(directive.parent.name, self.flat(directive.parent.children or []))]
            return [inner + outer for outer in self.chains(directive.parent, depth)]
        if directive.path == self.main or depth > 20:
            return [[("", self.flat(self.trees[self.main]))]]
        return [chain for user in self._uses.get(directive.path, []) for chain in self.chains(user, depth + 1)]

    def inside(self, directive: Directive, name: str) -> bool:
        """Tell whether a block of this name is around a directive, in its own file or in one that includes it."""
        return any(block[0] == name for chain in self.chains(directive) for block in chain)

    def place(self, directive: Directive) -> Optional[Place]:
        """Return where a directive names the server that it passes requests to, None if it does not."""
        if directive.children is not None or len(directive.words) < 2:
            return None
        word = directive.words[1]
        raw = self.files[directive.path][word.start : word.end]
        quoted = raw[0] in "\"'"
        if (raw[1:-1] if quoted else raw) != word.value:
            return None
        match = _URL.match(word.value)
        if match is None:
            return None
        scheme, authority, tail = match.group(1) or "", match.group(2), match.group(3)
        ours = _OURS.match(tail) if not authority else None
        if ours:
            port = re.match(r":[0-9]+", tail[ours.end() :])
            authority = ours.group() + (port.group() if port else "")
            tail = tail[len(authority) :]
        if directive.name == "server":
            kind = "server"
            if directive.parent is None or directive.parent.name != "upstream" or scheme or (tail and not ours):
                return None
        elif directive.name == "proxy_pass":
            kind = "proxy_pass" if scheme else "stream"
        else:
            return None
        start = word.start + (1 if quoted else 0) + (len(scheme) + 3 if scheme else 0)
        return Place(kind, scheme, authority, start, start + len(authority), tail)

    def address(self, place: Place) -> Optional[Address]:
        """Return the server that a place names directly, None for a variable or for an upstream block."""
        if place.kind != "server" and place.authority.lower() in self.upstreams:
            return None
        return parse_address(place.authority, 443 if place.scheme == "https" else 80)


# -- editing


@dataclass(frozen=True)
class Wanted:
    """From which server to which, and who resolves the name."""

    original: Address
    target: Address
    resolver: str  # '' for a name that nginx resolves once, at load
    valid: int  # seconds


@dataclass(frozen=True)
class Edit:
    """A replacement of text[start:end] in one file."""

    start: int
    end: int
    text: str


@dataclass
class Plan:
    """What is to be done to a configuration."""

    edits: dict[str, list[Edit]] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    pointed: list[str] = field(default_factory=list)  # file:line of what names the target already

    def add(self, directive: Directive, edit: Edit) -> None:
        """Add an edit of the file of a directive."""
        self.edits.setdefault(directive.path, []).append(edit)

    def text(self, path: str, text: str) -> str:
        """Return the text of a file with the edits done."""
        return apply(text, self.edits.get(path, []))


def apply(text: str, edits: list[Edit]) -> str:
    """Return text with the edits done; they must not overlap. Pure."""
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _parameters(directive: Directive) -> tuple[set[str], bool]:
    """Return the name servers of a resolver directive, and whether it limits how long an answer is kept."""
    servers = {re.sub(r":53\Z", "", arg) for arg in directive.args if "=" not in arg}
    return servers, any(arg.startswith("valid=") for arg in directive.args)


def _variable_form(config: Config, directive: Directive, place: Place, wanted: Wanted) -> tuple[str, str, Directive]:
    """Return (why not, the directives to insert, before which directive) for a name that is resolved while nginx runs.

    why not is '' when it can be done. What stood there stays right in every place that includes the file.
    """
    if not wanted.resolver:
        return "no resolver is wanted", "", directive
    runtime = "$" in place.tail
    if place.tail and not runtime:
        return "with a variable nginx would no longer replace the location by the URI part", "", directive
    chains = config.chains(directive)
    if not chains:
        return "it could not be found out what includes this file", "", directive
    need_resolver: set[bool] = set()
    need_redirect: set[bool] = set()
    anchors: set[Directive] = set()
    names = set(wanted.resolver.split())
    for chain in chains:
        block, siblings = chain[0]
        if block != "location":
            return "nginx does not allow what is needed inside of %s" % (block or "this block"), "", directive
        own = [item for item in siblings if item.name == "resolver"]
        outer = next((item for _name, items in chain[1:] for item in items if item.name == "resolver"), None)
        if own and _parameters(own[0])[0] != names:
            return "the location has another resolver (%s)" % own[0].where, "", directive
        # A resolver further out stays as it is; one that asks others, or keeps answers for Docker's 600 s, is
        # overridden for this location only.
        need_resolver.add(not own and (outer is None or _parameters(outer) != (names, True)))
        redirects = next((found for found in (_named(items, "proxy_redirect") for _name, items in chain) if found), [])
        if any(item.args == ["default"] for item in redirects):
            return "nginx refuses `proxy_redirect default` beside a variable", "", directive
        need_redirect.add(not runtime and not redirects and not _has_host(chain))
        for sibling in siblings:
            if sibling is directive or sibling.name in _STOPS:
                anchors.add(sibling)
                break
    if len(need_resolver) > 1 or len(need_redirect) > 1 or len(anchors) > 1:
        return "the places that include this file differ", "", directive
    anchor = anchors.pop()
    if anchor.path != directive.path or anchor.parent is not directive.parent:
        return "%s may skip a `set` in this file" % anchor.where, "", directive
    inserted = "set $%s %s; " % (VARIABLE, wanted.target.text.partition(":")[0])
    if need_resolver.pop():
        inserted += "resolver %s valid=%ds; " % (wanted.resolver, wanted.valid)
    if need_redirect.pop():
        # What nginx does by default for a name without a variable.
        inserted += "proxy_redirect %s; " % " ".join(_REDIRECT)
    return "", inserted, anchor


def _named(directives: list[Directive], name: str) -> list[Directive]:
    return [item for item in directives if item.name == name]


def _has_host(chain: list[tuple[str, list[Directive]]]) -> bool:
    """Tell whether the server is sent another Host than its own name, so that it can't answer with its own name."""
    headers = next((found for found in (_named(items, "proxy_set_header") for _name, items in chain) if found), [])
    return any(
        item.args[0].lower() == "host" and "$proxy_host" not in item.args[-1] for item in headers if len(item.args) > 1
    )


def forward(config: Config, wanted: Wanted) -> Plan:
    """Return the edits that point everything that names the original to the target, and what can't be done. Pure."""
    plan = Plan()
    handled: set[Directive] = set()
    foreign = _foreign_upstreams(config)
    for directive in config.all():
        place = config.place(directive)
        if place is None:
            continue
        address = config.address(place)
        if wanted.target.same(address):
            plan.pointed.append(directive.where)
            if "resolve" not in directive.args and "$" not in place.tail:
                plan.findings.append(_static(directive, wanted, "it names the target without a variable"))
        if not wanted.original.same(address):
            continue
        handled.add(directive)
        if place.kind == "stream" and not config.inside(directive, "stream"):
            continue
        if place.scheme == "https" or (place.kind == "server" and directive.parent in foreign):
            plan.findings.append(_other_protocol(config, directive, wanted))
            continue
        if place.tail.startswith("$") and not _TAIL_VARIABLE.match(place.tail):
            plan.findings.append(_not_understood(directive, wanted, "a variable directly behind the name"))
            continue
        if place.kind == "proxy_pass":
            reason, inserted, anchor = _variable_form(config, directive, place, wanted)
        else:
            reason, inserted, anchor = "it stands in a list of servers that is read at load", "", directive
        if not reason:
            port = "".join(wanted.target.text.partition(":")[1:])
            plan.add(directive, Edit(place.start, place.end, "$" + VARIABLE + port))
            plan.add(directive, Edit(anchor.start, anchor.start, inserted))
            continue
        if "$" in place.tail and not all(
            any(_named(items, "resolver") for _name, items in chain) for chain in config.chains(directive)
        ):
            text = "a name with a variable behind it needs a resolver, and %s" % reason
            plan.findings.append(_not_understood(directive, wanted, text))
            continue
        plan.add(directive, Edit(place.start, place.end, wanted.target.text))
        if "resolve" not in directive.args and "$" not in place.tail:
            plan.findings.append(_static(directive, wanted, reason))
    for directive in config.all():
        if directive not in handled:
            plan.findings += _elsewhere(config, directive, wanted)
    return plan


def _foreign_upstreams(config: Config) -> set[Optional[Directive]]:
    """Return the upstream blocks that are talked to in another protocol than plain HTTP."""
    found: set[Optional[Directive]] = set()
    for directive in config.all():
        if directive.name in _PASSES and directive.args:
            match = re.match(r"(?:([a-z]+)://)?([^/?$]+)", directive.args[0])
            plain = directive.name == "proxy_pass" and match is not None and match.group(1) != "https"
            if match is not None and not plain and match.group(2).lower() in config.upstreams:
                found.add(config.upstreams[match.group(2).lower()])
    return found


def _static(directive: Directive, wanted: Wanted, reason: str) -> dict[str, Any]:
    return finding(
        "static_upstream",
        "warning",
        directive.where,
        "a name that nginx resolves again every few seconds",
        "a name that nginx resolves once at load: %s" % reason,
        "When %s comes back under another address, nginx has to be reloaded (`nginx -s reload`) before it finds it."
        " nginx then also keeps the address for the other lines that name the same server." % wanted.target.text,
    )


def _other_protocol(config: Config, directive: Directive, wanted: Wanted) -> dict[str, Any]:
    return finding(
        "other_protocol",
        "warning",
        directive.where,
        "plain HTTP to %s" % wanted.original.text,
        "another protocol: %s" % config.files[directive.path][directive.start : directive.end],
        "This line was left as it is, and its requests do not go through %s." % wanted.target.text,
    )


def _not_understood(directive: Directive, wanted: Wanted, found: str) -> dict[str, Any]:
    return finding(
        "not_understood",
        "error",
        directive.where,
        "a line that names %s by itself" % wanted.original.text,
        found,
        "Put %s in place of %s there by hand, run `nginx -t` and reload nginx; then run this again."
        % (wanted.target.text, wanted.original.text),
    )


def _names(value: str, address: Address, bare: bool) -> bool:
    """Tell whether a word names the host of address; with another port it does not. bare: the name alone counts too."""
    for match in re.finditer(r"(//|\A)([A-Za-z0-9_][A-Za-z0-9._-]*)(?::([0-9]+))?(?=\Z|[/?$])", value):
        if match.group(2).lower() == address.host:
            if match.group(3):
                return int(match.group(3)) == address.port
            return bool(match.group(1)) or bare
    return False


def _elsewhere(config: Config, directive: Directive, wanted: Wanted) -> list[dict[str, Any]]:
    """Return a finding when a directive that is not edited has to do with the original."""
    if directive.name in ("server_name", "upstream", "location", "include"):
        return []
    block = directive.parent.name if directive.parent else ""
    variable = ""
    if directive.name == "set" and len(directive.args) == 2:
        variable = directive.args[0]
    elif block in ("map", "geo", "split_clients") and directive.parent and directive.parent.args:
        variable = directive.parent.args[-1]
    values = directive.args if not block or block not in ("map", "geo", "split_clients") else directive.args[-1:]
    if not any(_names(value, wanted.original, bool(variable) or directive.name in _PASSES) for value in values):
        return []
    if variable:
        pattern = re.compile(r"\$(?:%s\b|\{%s\})" % (re.escape(variable.lstrip("$")), re.escape(variable.lstrip("$"))))
        users = [item for item in config.all() if _uses(item, pattern)]
        return [_not_understood(directive, wanted, "a variable, used in %s" % users[0].where)] if users else []
    if directive.name in _PASSES:
        name = directive.args[0].partition("://")[2] or directive.args[0]
        if name.lower() in config.upstreams:
            return []
        if directive.name == "proxy_pass" and config.place(directive) is None:
            return [_not_understood(directive, wanted, "a name in an unusual spelling")]
        return [_other_protocol(config, directive, wanted)]
    if directive.name == "server" and block == "upstream":
        return []
    return [
        finding(
            "named_elsewhere",
            "warning",
            directive.where,
            "%s named only where requests are passed to it" % wanted.original.text,
            "%s names it too" % directive.name,
            "This line was left as it is. Look whether it should name %s." % wanted.target.text,
        )
    ]


def _uses(directive: Directive, pattern: re.Pattern[str]) -> bool:
    """Tell whether the value of a variable may get into the name of a server here."""
    mapped = directive.parent is not None and directive.parent.name in ("map", "split_clients")
    words = directive.args[1:] if directive.name == "set" else directive.args[-1:] if mapped else directive.args
    return (directive.name == "set" or directive.name in _PASSES or mapped) and any(map(pattern.search, words))


def servers(config: Config) -> list[str]:
    """Return what nginx passes requests to, as written, sorted; for telling what there is."""
    found = set()
    for directive in config.all():
        place = config.place(directive)
        if place is not None and (place.authority or place.tail):
            found.add(place.authority or place.tail)
        elif directive.name in _PASSES and directive.args:
            found.add(directive.args[0])
    return sorted(found - set(config.upstreams))


def _signature(directive: Directive) -> tuple[str, ...]:
    """Return the blocks around a directive and its name: what stays the same when it is edited."""
    parts = [directive.name]
    block = directive.parent
    while block is not None:
        parts.append(" ".join(word.value for word in block.words))
        block = block.parent
    return tuple(parts)


def _places(config: Config, path: str) -> dict[tuple[str, ...], list[tuple[Directive, Place]]]:
    found: dict[tuple[str, ...], list[tuple[Directive, Place]]] = {}
    for directive in walk(config.trees[path]):
        place = config.place(directive)
        if place is not None:
            found.setdefault(_signature(directive), []).append((directive, place))
    return found


def backward(config: Config, wanted: Wanted, originals: Mapping[str, str], static: bool) -> Plan:
    """Return the edits that take back what forward() did, and nothing else. Pure.

    originals: path -> text before the first edit, where it is known: it tells how a server was spelled, and which of
    the lines that name the target are the owner's own. static: lines that name the target are taken back also where
    no such text is known.
    """
    plan = Plan()
    for path in config.trees:
        known: dict[tuple[str, ...], list[tuple[Directive, Place]]] = {}
        old: Optional[Config] = None
        if path in originals:
            try:
                old = Config({path: originals[path]})
                # The names of upstream blocks come from all files.
                old.upstreams = config.upstreams
                known = _places(old, path)
            except NginxError:
                old = None
        for key, items in _places(config, path).items():
            before = known.get(key, [])
            for index, (directive, place) in enumerate(items):
                spelled = before[index][1].authority if len(before) == len(items) else None
                was = parse_address(spelled) if spelled else None
                if _OURS.match(place.authority):
                    authority = spelled if spelled and wanted.original.same(was) else wanted.original.text
                elif wanted.target.same(config.address(place)) and place.scheme != "https":
                    if spelled and wanted.original.same(was):
                        authority = spelled
                    elif static and not (was and wanted.target.same(was)):
                        authority = wanted.original.text
                    else:
                        continue
                else:
                    continue
                plan.add(directive, Edit(place.start, place.end, authority))
        for directive in walk(config.trees[path]):
            if directive.name == "set" and directive.args and _OURS.match(directive.args[0]):
                for edit in _remove_group(config, directive):
                    plan.add(directive, edit)
    return plan


def _remove_group(config: Config, directive: Directive) -> list[Edit]:
    """Return the edits that remove our `set` and what we put behind it."""
    text = config.files[directive.path]
    siblings = config.trees[directive.path] if directive.parent is None else directive.parent.children or []
    position = siblings.index(directive)
    group = [directive]
    following: Optional[Directive] = None
    for sibling in siblings[position + 1 :]:
        # forward() puts its group before a proxy_pass or a directive in _STOPS, so what lies between is ours.
        ours = sibling.name == "resolver" and _parameters(sibling)[1]
        if not ours and not (sibling.name == "proxy_redirect" and sibling.args == list(_REDIRECT)):
            following = sibling
            break
        group.append(sibling)
    gaps = [text[one.end : two.start] for one, two in zip(group, group[1:] + ([following] if following else []))]
    if following is not None and not "".join(gaps).strip():
        return [Edit(directive.start, following.start, "")]
    return [Edit(item.start, item.end, "") for item in group]


def concerned(config: Config, wanted: Wanted) -> list[str]:
    """Return the files that have to do with the original or the target, in the order of the configuration. Pure."""
    found = []
    for path in config.trees:
        for directive in walk(config.trees[path]):
            place = config.place(directive)
            if place is not None:
                address = config.address(place)
                if _OURS.match(place.authority) or wanted.original.same(address) or wanted.target.same(address):
                    found.append(path)
                    break
    return found


def edited(files: Mapping[str, str], plan: Plan) -> dict[str, str]:
    """Return path -> text with the edits of a plan done, for all files. Pure."""
    return {path: plan.text(path, text) for path, text in files.items()}


def describe(before: str, after: str) -> list[dict[str, Any]]:
    """Return what differs between two texts, directive by directive: line (in before), before and after. Pure.

    Only the directives that changed are shown: a line may hold other things, and a configuration may hold secrets.
    """
    old, new = _statements(before), _statements(after)
    found = []
    matcher = difflib.SequenceMatcher(None, [item[1] for item in old], [item[1] for item in new], autojunk=False)
    for tag, low, high, new_low, new_high in matcher.get_opcodes():
        if tag == "equal":
            continue
        line = old[low][0] if low < len(old) else line_of(before, len(before))
        found.append(
            {
                "line": line,
                "before": " ".join(item[1] for item in old[low:high]),
                "after": " ".join(item[1] for item in new[new_low:new_high]),
            }
        )
    return found


def _statements(text: str) -> list[tuple[int, str]]:
    found = []
    for directive in walk(parse(text)):
        end = directive.end if directive.children is None else directive.words[-1].end
        found.append((directive.line, text[directive.start : end]))
    return found


# -- a host's files, and the processes of a container


def on_host(path: str, mounts: list[dict[str, Any]]) -> Optional[str]:
    """Return the path on the host of a path in a container, None when no bind mount holds it. Pure.

    mounts: as in Container.mounts; the innermost one counts, so that a volume inside of a bind mount hides it.
    """
    best: Optional[dict[str, Any]] = None
    for mount in mounts:
        destination = mount["destination"].rstrip("/")
        longer = best is None or len(destination) > len(best["destination"].rstrip("/"))
        if longer and (path == destination or path.startswith(destination + "/")):
            best = mount
    if best is None or best["type"] != "bind":
        return None
    return (best["source"].rstrip("/") + path[len(best["destination"].rstrip("/")) :]) or "/"


def locate(path: str, mounts: list[dict[str, Any]], readlink: Callable[[str], Optional[str]]) -> Optional[str]:
    """Return the file on the host that a container sees as path, None when it lies in the image or a volume.

    Links are followed as the container would, where their targets are paths of its own. readlink: returns the target
    of a link on the host, None for anything else.
    """
    path = posixpath.normpath(path)
    destinations = {mount["destination"].rstrip("/") for mount in mounts}
    for _attempt in range(40):
        parts = path.split("/")[1:]
        for count in range(1, len(parts) + 1):
            prefix = "/" + "/".join(parts[:count])
            host = on_host(prefix, mounts)
            # What is mounted was looked up by Docker, on the host, when the container started.
            target = readlink(host) if host is not None and prefix not in destinations else None
            if target is not None:
                path = posixpath.normpath(posixpath.join(posixpath.dirname(prefix), target, *parts[count:]))
                break
        else:
            return on_host(path, mounts)
    return None


def same_file(pid: int, path: str, host_path: str) -> Optional[bool]:
    """Tell whether a process sees, as path, the very file of the host; None where that can't be found out."""
    inner = "/proc/%d/root" % pid
    for part in path.split("/")[1:]:
        inner += "/" + part
        if os.path.islink(inner):
            # Followed from here, an absolute link would lead to a file of the host.
            return None
    try:
        return os.path.samestat(os.stat(inner), os.stat(host_path))
    except OSError:
        return None


def read_link(path: str) -> Optional[str]:
    """Return the target of a symbolic link, None for anything else."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def command(argv: list[str]) -> list[str]:
    """Return how to call the nginx of a container again: program and the options that say which configuration. Pure.

    argv: what the container runs, entrypoint included.
    """
    for position, word in enumerate(argv):
        if posixpath.basename(word) in ("nginx", "nginx-debug", "openresty"):
            found = [word]
            rest = iter(argv[position + 1 :])
            for option in rest:
                if option in ("-c", "-p", "-g", "-e"):
                    found += [option, next(rest, "")]
                elif option[:2] in ("-c", "-p", "-g", "-e"):
                    found.append(option)
            return found
    return ["nginx"]


@dataclass(frozen=True)
class Process:
    """One process of a container as the host sees it."""

    pid: int
    parent: int
    started: float  # seconds since the epoch, to about 10 ms
    title: str


def parse_stat(text: str) -> tuple[int, int]:
    """Return parent and start (clock ticks since boot) of a /proc/<pid>/stat. Pure. Raises ValueError, IndexError."""
    # The name in parentheses may hold anything.
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), int(fields[19])


def processes(root: int, proc: str = "/proc") -> list[Process]:
    """Return a process and its descendants; none when it can't be seen."""
    now, since_boot, ticks = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), os.sysconf("SC_CLK_TCK")
    found: dict[int, Process] = {}
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            with open("%s/%s/stat" % (proc, name), encoding="utf-8", errors="replace") as handle:
                parent, start = parse_stat(handle.read())
            with open("%s/%s/cmdline" % (proc, name), encoding="utf-8", errors="replace") as handle:
                title = handle.read().replace("\0", " ").strip()
        except (OSError, ValueError, IndexError):
            # It has ended meanwhile.
            continue
        found[int(name)] = Process(int(name), parent, now - (since_boot - start / ticks), title)
    family = {root} if root in found else set()
    size = 0
    while len(family) != size:
        size = len(family)
        family |= {process.pid for process in found.values() if process.parent in family}
    return [found[pid] for pid in sorted(family)]


def masters(family: list[Process]) -> list[Process]:
    """Return the nginx masters among processes. Pure."""
    return [process for process in family if process.title.startswith("nginx: master process")]


def workers(family: list[Process]) -> list[Process]:
    """Return the nginx workers that take new connections: not those that only end what they began. Pure."""
    parents = {process.pid for process in masters(family)}
    return [
        process
        for process in family
        if process.parent in parents
        and process.title.startswith("nginx: worker process")
        and "shutting down" not in process.title
    ]


def replaced(before: list[Process], now: list[Process]) -> bool:
    """Tell whether no worker of before takes connections any more, and others do. Pure."""
    old = {(process.pid, round(process.started)) for process in before}
    old |= {(pid, second + step) for pid, second in old for step in (-1, 1)}
    return bool(now) and not any((process.pid, round(process.started)) in old for process in now)


def read_text(path: str) -> str:
    """Return the text of a file with every byte kept. Raises OSError."""
    with open(path, "rb") as handle:
        return handle.read().decode("utf-8", "surrogateescape")


def overwrite(path: str, text: str) -> None:
    """Put text into an existing file, in place. Raises OSError.

    Owner, mode and inode stay. A single-file bind mount follows the inode, so a file that takes the place of the old
    one by a rename would never be seen in the container.
    """
    data = to_bytes(text)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], written)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def state_of(current: str, before: str, after: str) -> str:
    """Return how far overwrite() came from before to after: before, after, torn, or other for other bytes. Pure.

    A kill leaves the start of the one and the end of the other; a power cut any mixture of their blocks.
    """
    if current == before:
        return "before"
    if current == after:
        return "after"
    now, old, new = to_bytes(current), to_bytes(before), to_bytes(after)
    if not min(len(old), len(new)) <= len(now) <= max(len(old), len(new)):
        return "other"
    mixed = all(byte in (old[index : index + 1] + new[index : index + 1]) for index, byte in enumerate(now))
    return "torn" if mixed else "other"


class Store:
    """What is kept beside the fragments of a project: the file before our first edit, and a write that is under way.

    For each file of the host: `.orig`, and while a change is made `.before` and `.after`. The pair means that the file
    holds the one or the other or a mixture, and that nginx is not known to have loaded it yet.
    """

    def __init__(self, project_dir: str) -> None:
        self.project_dir = project_dir
        self.directory = os.path.join(project_dir, "compose.d", "nginx-upstream")

    def path(self, host_path: str, kind: str) -> str:
        """Return where a text is kept. kind: orig, before or after."""
        inside = host_path.startswith(self.project_dir.rstrip("/") + "/")
        name = os.path.relpath(host_path, self.project_dir) if inside else host_path
        return os.path.join(self.directory, "%s.%s" % (name.replace("~", "~0").replace("/", "~1"), kind))

    def kept(self, kind: str) -> list[str]:
        """Return the paths on the host for which a text of this kind is kept, sorted. Raises OSError."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            stem, dot, suffix = name.rpartition(".")
            if dot and suffix == kind and not name.startswith("."):
                path = stem.replace("~1", "/").replace("~0", "~")
                found.append(path if path.startswith("/") else os.path.join(self.project_dir, path))
        return sorted(found)

    def read(self, host_path: str, kind: str) -> Optional[str]:
        """Return a kept text, None when there is none. Raises OSError."""
        try:
            return read_text(self.path(host_path, kind))
        except FileNotFoundError:
            return None

    def keep(self, host_path: str, kind: str, text: str) -> None:
        """Keep a text, safe against a power cut once this returns. Raises OSError.

        It may be read by whoever may read the file, and belongs to the same user.
        """
        for directory in (os.path.dirname(self.directory), self.directory):
            if not os.path.isdir(directory):
                like = os.stat(self.project_dir)
                os.mkdir(directory, 0o755)
                if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                    os.chown(directory, like.st_uid, like.st_gid)
                sync_directory(os.path.dirname(directory))
        like = os.stat(host_path)
        replace_file(self.path(host_path, kind), text, like.st_mode & 0o644, (like.st_uid, like.st_gid))

    def drop(self, host_path: str, kind: str) -> None:
        """Forget a text, and the directories when it was the last."""
        try:
            os.unlink(self.path(host_path, kind))
            sync_directory(self.directory)
            os.rmdir(self.directory)
            os.rmdir(os.path.dirname(self.directory))
        except OSError:
            # Not there, or others are kept.
            pass

    def begin(self, host_path: str, before: str, after: str) -> None:
        """Note that a file is about to be overwritten. Raises OSError."""
        self.keep(host_path, "before", before)
        self.keep(host_path, "after", after)

    def end(self, host_path: str) -> None:
        """Note that the change of a file is done, or undone."""
        # In this order: without `.after` the note means nothing.
        self.drop(host_path, "after")
        self.drop(host_path, "before")
