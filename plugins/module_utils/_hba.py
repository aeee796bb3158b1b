# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pg_hba.conf: one marked block in it, what its lines mean, and which of them is matched first. All pure.

The file is text with every byte kept (surrogateescape). Lines end at a newline only, as the server has it.
"""

from __future__ import annotations

import ipaddress
import re

from dataclasses import dataclass
from typing import Any, Optional, Union
from collections.abc import Mapping, Sequence

from ._files import to_bytes

TYPES = ("local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc")
METHODS = ("trust", "reject", "scram-sha-256", "md5", "password", "gss", "sspi", "ident", "peer", "ldap", "radius", "cert", "pam", "bsd")
# Words that mean something only without quotes.
DATABASE_WORDS = ("all", "sameuser", "samerole", "samegroup", "replication")
ADDRESS_WORDS = ("all", "samehost", "samenet")
# In the file they stand in clear; here they would come into a play, a difference and the journal too.
SECRET_OPTIONS = ("ldapbindpasswd", "radiussecrets")
# Directives of PostgreSQL 16 and newer, in the place of a type.
INCLUDES = ("include", "include_if_exists", "include_dir")
# What the server keeps of a name (NAMEDATALEN), so that a longer one is never matched.
NAME_BYTES = 63

BLOCK_NAME = re.compile(r"[a-z0-9_]{1,40}\Z")
BEGIN = "# BEGIN dghs.bd_fhir "
END = "# END dghs.bd_fhir "

_BARE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.$-]*\Z")
_HOSTNAME = re.compile(r"\.?(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SECRET = re.compile(r"((?:%s)=)(\"(?:[^\"]|\"\")*\"|[^\s\"]*)+" % "|".join(SECRET_OPTIONS), re.IGNORECASE)

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class HbaError(Exception):
    """A rule, a name or the file can't be taken as it is. The text is complete."""


# --- what a line says ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """One entry of a field. quoted: it begins with a quote, so that it is a name and no word of the language."""

    text: str
    quoted: bool = False

    def render(self) -> str:
        if not self.quoted and self.text.startswith("+"):
            # In front of the quote, where the plus keeps its meaning.
            return "+" + _quoted_unless_bare(self.text[1:])
        return _quoted(self.text) if self.quoted else _quoted_unless_bare(self.text)

    def is_word(self, *words: str) -> bool:
        return not self.quoted and self.text in words

    def open(self) -> bool:
        """Tell whether it stands for names that this text doesn't tell: a group, a file, an expression."""
        return self.text.startswith("/") or (not self.quoted and self.text.startswith(("+", "@")))


@dataclass(frozen=True)
class Rule:
    """One line that lets somebody in, or doesn't."""

    type: str
    databases: tuple[Word, ...]
    users: tuple[Word, ...]
    address: str  # "" for local; a network as CIDR, a word, or a host's name
    method: str
    options: tuple[tuple[str, str], ...] = ()

    def render(self) -> str:
        fields = [self.type, *(",".join(word.render() for word in words) for words in (self.databases, self.users))]
        fields += [self.address] if self.address else []
        fields += [self.method, *("%s=%s" % (name, _quoted_unless_bare(value)) for name, value in self.options)]
        return " ".join(fields)

    def network(self) -> Optional[Network]:
        """Return the network of its address, None for a word or a name."""
        try:
            return ipaddress.ip_network(self.address)
        except ValueError:
            return None


@dataclass(frozen=True)
class Entry:
    """A line of a file. rule is None for one that includes others, and for one that the server would not take."""

    number: int  # of its first line, from 1
    text: str
    rule: Optional[Rule]
    includes: bool = False


def _quoted(text: str) -> str:
    return '"%s"' % text.replace('"', '""')


def _quoted_unless_bare(text: str) -> str:
    return text if _BARE.match(text) else _quoted(text)


def fields_of(line: str) -> list[list[Word]]:
    """Return the fields of a line, each with its entries, as the server splits it: blanks, commas, quotes, comments. Pure."""
    fields: list[list[Word]] = []
    position, continued = 0, False
    while True:
        while position < len(line) and line[position] in " \t\r\n,":
            position += 1
        if position >= len(line) or line[position] == "#":
            return fields
        text: list[str] = []
        inside = was_quote = begins_quoted = False
        comma = False
        while position < len(line):
            char = line[position]
            if not inside and (char in " \t\r\n#"):
                break
            position += 1
            if char == "," and not inside:
                comma = True
                break
            if char != '"' or was_quote:
                text.append(char)
            was_quote = inside and char == '"' and not was_quote
            if char == '"':
                inside = not inside
                begins_quoted = begins_quoted or not text
        word = Word("".join(text), begins_quoted)
        if continued:
            fields[-1].append(word)
        else:
            fields.append([word])
        continued = comma


def _address_of(words: Sequence[str]) -> tuple[str, int]:
    """Return the address of a line in one form, and how many fields it takes: a mask may be a field of its own."""
    first = words[0]
    if "/" not in first and len(words) > 1:
        try:
            ipaddress.ip_address(first)
            prefix = _prefix_of(words[1])
            return str(ipaddress.ip_network("%s/%d" % (first, prefix), strict=False)), 2
        except ValueError:
            return first, 1
    try:
        return str(ipaddress.ip_network(first, strict=False)), 1
    except ValueError:
        return first, 1


def _prefix_of(mask: str) -> int:
    """Return how many bits a mask such as 255.255.255.0 or ffff:: has. Raises ValueError."""
    address = ipaddress.ip_address(mask)
    bits = bin(int(address))[2:].zfill(address.max_prefixlen)
    if "01" in bits:
        raise ValueError("no mask")
    return bits.count("1")


def _rule_from(fields: list[list[Word]]) -> Optional[Rule]:
    kind = fields[0][0].text
    if kind not in TYPES or len(fields) < 4:
        return None
    rest = [field[0].text for field in fields[3:]]
    address = ""
    if kind != "local":
        address, count = _address_of(rest)
        rest = rest[count:]
    if not rest:
        return None
    options = tuple((item.partition("=")[0], item.partition("=")[2]) for item in rest[1:])
    return Rule(kind, tuple(fields[1]), tuple(fields[2]), address, rest[0], options)


def entries(text: str) -> list[Entry]:
    """Return what the lines of a file say; a backslash at the end of a line takes the next one along, even in a comment. Pure."""
    found = []
    joined, start = "", 0
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        start = start or number
        if line.endswith("\\") and number < len(lines):
            joined += line[:-1]
            continue
        joined += line
        fields = fields_of(joined)
        if fields:
            includes = fields[0][0].text in INCLUDES
            found.append(Entry(start, " ".join(joined.split()), None if includes else _rule_from(fields), includes))
        joined, start = "", 0
    return found


def hidden(text: str) -> str:
    """Return text without the passwords that options in it hold. Pure."""
    return _SECRET.sub(r"\1********", text)


# --- rules that are asked for --------------------------------------------------------------------------------------


def rules_of(items: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """Return the rules of the option `rules`. Pure. Raises HbaError that names the rule and what is wrong with it."""
    if not items:
        raise HbaError("Nothing was changed: rules is empty. Give the lines of the block, or take it away with state: absent.")
    found = []
    for number, item in enumerate(items, 1):
        try:
            found.append(_wanted_rule(item))
        except HbaError as exc:
            raise HbaError("Nothing was changed: rule %d of rules: %s" % (number, exc)) from None
    return found


def _wanted_rule(item: Mapping[str, Any]) -> Rule:
    kind, method = item["type"], item["method"]
    address = item.get("address") or ""
    if kind == "local" and address:
        raise HbaError("a rule of type local is about the server's own socket and has no address, and this one has %s." % address)
    if kind != "local" and not address:
        raise HbaError("a rule of type %s needs an address, such as 10.0.0.0/8, samenet or all." % kind)
    if method == "peer" and kind != "local":
        raise HbaError("peer asks who is at the other end of a local socket, so it works with type local only.")
    if method in ("gss", "ident") and kind == "local":
        raise HbaError("%s does not work with type local; peer does." % method)
    if method == "cert" and kind != "hostssl":
        raise HbaError("cert asks for a client's certificate, so it works with type hostssl only.")
    options = []
    for name, value in sorted((item.get("options") or {}).items()):
        options.append((_option_name(name), _option_value(name, value)))
    return Rule(
        kind,
        tuple(_name_of("databases", value) for value in item["databases"]) or _empty("databases"),
        tuple(_name_of("users", value) for value in item["users"]) or _empty("users"),
        _wanted_address(address) if address else "",
        method,
        tuple(options),
    )


def _empty(what: str) -> tuple[Word, ...]:
    raise HbaError("%s is empty. Name at least one, or all." % what)


def _name_of(what: str, value: str) -> Word:
    """Return the entry that a text of the option stands for: as in the file, a name in double quotes is never a word of the language."""
    if _CONTROL.search(value):
        raise HbaError("%s holds a name with a line break or another control character, which the file can't hold: %r." % (what, value))
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    text = value[1:-1].replace('""', '"') if quoted else value
    if not text or (not quoted and text == "+"):
        raise HbaError("%s holds an empty name." % what)
    if text.startswith("/"):
        raise HbaError(
            "%s holds %s, which is an expression for PostgreSQL 16 and newer and a name for older ones, in quotes or not. Name"
            " each of them." % (what, value)
        )
    if not quoted and text.startswith("@"):
        raise HbaError("%s holds %s, a file of names, which the block does not bring along. Name each, or write it in double quotes." % (what, value))
    name = text[1:] if not quoted and text.startswith("+") else text
    if len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES:
        raise HbaError("%s holds a name of more than %d bytes, which no %s can have: %s." % (what, NAME_BYTES, what[:-1], value))
    if not quoted and not text.startswith("+") and not _BARE.match(text):
        # With a blank, a comma or the like it is written in quotes, and then can't be anything but a name.
        quoted = True
    return Word(text, quoted)


def _wanted_address(text: str) -> str:
    if text in ADDRESS_WORDS:
        return text
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        wider = ipaddress.ip_network(text, strict=False)
    except ValueError:
        wider = None
    if wider is not None:
        raise HbaError("the address %s has bits set behind its prefix. Write %s for the network, or %s for the one host." % (
            text, wider, "%s/%d" % (text.partition("/")[0], wider.max_prefixlen)))  # fmt: skip
    if not _HOSTNAME.match(text) or re.match(r"[0-9.]+\Z", text):
        raise HbaError(
            "the address %r is none: give a network such as 10.0.0.0/8 or fd00::/8, an address, the name of a host, or %s."
            % (text, ", ".join(ADDRESS_WORDS))
        )
    return text


def _option_name(name: Any) -> str:
    if not re.match(r"[a-z][a-z0-9_]*\Z", str(name)):
        raise HbaError("%r is no name of an option." % (name,))
    if name in SECRET_OPTIONS:
        raise HbaError("the option %s is a password, which would come into differences and the journal. Write such a line by hand." % name)
    return str(name)


def _option_value(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise HbaError("the value of the option %s is %r; YAML has read it so. Write it as a text in quotes." % (name, value))
    text = str(value)
    if not text or _CONTROL.search(text):
        raise HbaError("the value of the option %s is empty, or has a line break or another control character in it." % name)
    return text


# --- who is reached ------------------------------------------------------------------------------------------------


def check_reach(rules: Sequence[Rule], addresses: Sequence[str]) -> list[str]:
    """Return the addresses that only a rule with a name or samenet may match. Pure. Raises HbaError for one that no rule lets in."""
    unproven = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise HbaError("Nothing was changed: reached_from has %r, which is no IP address." % text) from None
        found = None
        maybe = False
        for rule in rules:
            network = rule.network()
            if rule.address == "all" or (network is not None and address in network):
                found = rule
                break
            maybe = maybe or (bool(rule.address) and network is None)
        if found is not None and found.method == "reject":
            raise HbaError("Nothing was changed: %s of reached_from is rejected by the first rule that it matches: %s." % (text, found.render()))
        if found is None and maybe:
            unproven.append(text)
        elif found is None:
            families = {network.version for network in (rule.network() for rule in rules) if network is not None}
            if families and address.version not in families:
                raise HbaError(
                    "Nothing was changed: address family mismatch: %s of reached_from is an IPv%d address, and the rules are for IPv%d only (%s)."
                    " Add a rule for its network, such as %s."
                    % (
                        text, address.version, next(iter(families)), ", ".join(rule.address for rule in rules if rule.address),
                        ipaddress.ip_network("%s/%d" % (address, 64 if address.version == 6 else 24), strict=False),
                    )
                )  # fmt: skip
            raise HbaError(
                "Nothing was changed: no rule matches %s of reached_from; the rules are for %s."
                % (text, ", ".join(rule.address or rule.type for rule in rules))
            )
    return unproven


# --- which line is matched first -----------------------------------------------------------------------------------


def meets(one: Rule, other: Rule) -> bool:
    """Tell whether a connection may match both rules. Where a text alone can't tell (groups, names of hosts), it may. Pure."""
    return (
        _types_meet(one.type, other.type)
        and any(_databases_meet(left, right) for left in one.databases for right in other.databases)
        and any(_users_meet(left, right) for left in one.users for right in other.users)
        and _addresses_meet(one, other)
    )


def _types_meet(one: str, other: str) -> bool:
    if "local" in (one, other):
        return one == other
    # An encrypted session is by TLS or by GSSAPI, never both.
    apart = ({"hostssl", "hostnossl"}, {"hostgssenc", "hostnogssenc"}, {"hostssl", "hostgssenc"})
    return {one, other} not in apart


def _databases_meet(one: Word, other: Word) -> bool:
    if one.is_word("replication") or other.is_word("replication"):
        return (one.is_word("replication") and other.is_word("replication")) or any(
            word.text.startswith("@") and not word.quoted for word in (one, other)
        )
    return any(word.open() or word.is_word(*DATABASE_WORDS) for word in (one, other)) or one.text == other.text


def _users_meet(one: Word, other: Word) -> bool:
    return any(word.open() or word.is_word("all") for word in (one, other)) or one.text == other.text


def _addresses_meet(one: Rule, other: Rule) -> bool:
    left, right = one.network(), other.network()
    if left is None or right is None:
        return True
    return left.version == right.version and left.overlaps(right)


@dataclass(frozen=True)
class Clash:
    """A rule of ours and the line of somebody else that counts first, or would have counted without ours."""

    rule: Rule
    entry: Entry


def clashes(before: Sequence[Entry], rules: Sequence[Rule], after: Sequence[Entry]) -> tuple[list[Clash], list[Clash]]:
    """Return which lines before the rules may be matched in their place, and which reject behind them no longer counts. Pure."""
    shadowed, overruled = [], []
    for rule in rules:
        for entry in before:
            other = entry.rule
            if entry.includes or (other and meets(other, rule) and (other.method, other.options) != (rule.method, rule.options)):
                shadowed.append(Clash(rule, entry))
        for entry in after:
            if rule.method != "reject" and entry.rule and entry.rule.method == "reject" and meets(entry.rule, rule):
                overruled.append(Clash(rule, entry))
    return shadowed, overruled


# --- the block -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """A file with its block. The three parts put together are the file."""

    before: str
    block: str
    after: str

    def text(self) -> str:
        return self.before + self.block + self.after

    def lines(self) -> tuple[int, int]:
        """Return the numbers of the first and the last line of the block, (0, 0) without one."""
        if not self.block:
            return 0, 0
        # At the end of a file without a last newline, the block begins with the one that it needs.
        first = self.before.count("\n") + 1 + self.block.startswith("\n")
        return first, first + self.block.strip("\n").count("\n")

    def outer(self) -> tuple[list[Entry], list[Entry]]:
        """Return the lines before and behind the block, with their numbers in the file."""
        first, last = self.lines()
        found = entries(self.text())
        return [entry for entry in found if entry.number < first], [entry for entry in found if entry.number > last]


def markers(text: str, name: str) -> list[tuple[int, str, int, int]]:
    """Return the markers of a block: number of the line, begin or end, where it starts and where the next line does. Pure."""
    found, position = [], 0
    for number, line in enumerate(text.split("\n"), 1):
        end = min(position + len(line) + 1, len(text))
        bare = line.strip(" \t\r")
        # Behind the name comes what the block says of itself.
        for mark, kind in ((BEGIN, "begin"), (END, "end")):
            if bare == mark + name or bare.startswith(mark + name + " "):
                found.append((number, kind, position, end))
        position = end
    return found


def split(text: str, name: str) -> Layout:
    """Return a file in three parts; without a block all of it is in the last one. Pure. Raises HbaError for markers that are not a pair."""
    found = markers(text, name)
    if not found:
        return Layout("", "", text)
    if [kind for _number, kind, _start, _end in found] != ["begin", "end"]:
        raise HbaError(
            "Nothing was changed: the markers of the block %s are not one pair: %s. Correct these lines by hand, or remove them all."
            % (name, ", ".join("line %d is its %s" % (number, kind) for number, kind, _start, _end in found))
        )
    start, end = found[0][2], found[1][3]
    if start and end == len(text) and not text.endswith("\n"):
        # The newline before it is ours: that file had none at its end.
        start -= 1
    return Layout(text[:start], text[start:end], text[end:])


def block_text(name: str, rules: Sequence[Rule], newline: str = "\n") -> str:
    """Return a block. Pure."""
    lines = [BEGIN + name + " (made by postgres_hba, the first line that matches counts)", *(rule.render() for rule in rules), END + name]
    return newline.join(lines) + newline


def converge(text: str, name: str, rules: Optional[Sequence[Rule]], position: str) -> Layout:
    """Return the file as it shall be; rules None takes the block away. Pure. Raises HbaError.

    Everything else keeps its bytes. A block stays where it is if only comments and other blocks of ours are between it and the end
    that position names, so that two blocks do not overtake each other for ever.
    """
    now = split(text, name)
    rest = now.before + now.after
    if rules is None:
        return Layout("", "", rest)
    newline = "\r\n" if rest.partition("\n")[0].endswith("\r") else "\n"
    block = block_text(name, rules, newline)
    if now.block and not foreign(now.before if position == "first" else now.after):
        if now.block.startswith("\n") or not now.block.endswith("\n"):
            block = ("\n" if now.block.startswith("\n") else "") + block.rstrip("\r\n")
        return Layout(now.before, block, now.after)
    if position == "first":
        return Layout("", block, rest)
    if rest and not rest.endswith("\n"):
        block = "\n" + block.rstrip("\r\n")
    return Layout(rest, block, "")


def foreign(text: str) -> bool:
    """Tell whether a part of a file has lines that count and are in no block of ours. Pure."""
    inside = False
    for line in text.split("\n"):
        bare = line.strip(" \t\r")
        if bare.startswith(BEGIN):
            inside = True
        elif bare.startswith(END):
            inside = False
        elif not inside and bare and not bare.startswith("#"):
            return True
    return False


def torn(text: str, old: str, new: str) -> bool:
    """Tell whether a text is what a kill leaves of overwrite_file() on its way from old to new, and neither of them. Pure."""
    if text in (old, new):
        return False
    found, former = to_bytes(text), to_bytes(old)
    full = to_bytes(new).ljust(len(former), b"\n")
    same = 0
    while same < min(len(found), len(full)) and found[same] == full[same]:
        same += 1
    # New up to some place, and old from there on.
    return found[same:] == former[same:]


# --- what the server says of it ------------------------------------------------------------------------------------


def faults(rows: Sequence[Mapping[str, Any]], path: str, own: tuple[int, int], new: bool) -> list[str]:
    """Return the errors in pg_hba_file_rules as file:line and why. Pure.

    own: the first and the last line of the block in the file at path; new: whether it is to be judged, or about to be replaced.
    """
    found = []
    for row in rows:
        file, number = row.get("file_name") or path, row["line_number"] or 0
        ours = file == path and own[0] <= number <= own[1]
        # A line that has a type in spite of its error is loaded and never matches, such as hostssl without TLS: the owner's business.
        if row["error"] and (new if ours else row["type"] is None):
            found.append("%s:%d: %s" % (file, number, hidden(str(row["error"]))))
    return found


def _server_address(row: Mapping[str, Any]) -> str:
    return _address_of([row["address"], *([row["netmask"]] if row["netmask"] else [])])[0] if row["address"] else ""


def missing(rows: Sequence[Mapping[str, Any]], path: str, layout: Layout, rules: Sequence[Rule]) -> list[str]:
    """Return the rules that the server does not read from the lines where they stand. Pure."""
    first, _last = layout.lines()
    seen = {
        row["line_number"]: (
            row["type"], tuple(row["database"] or ()), tuple(row["user_name"] or ()), _server_address(row), row["auth_method"],
        )
        for row in rows
        if not row["error"] and (row.get("file_name") or path) == path
    }  # fmt: skip
    return [
        "line %d: %s" % (number, rule.render())
        for number, rule in enumerate(rules, first + 1)
        if seen.get(number)
        != (rule.type, tuple(word.text for word in rule.databases), tuple(word.text for word in rule.users), rule.address, rule.method)
    ]
