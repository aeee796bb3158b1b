# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pgBouncer's auth_file: its text, and the file itself where a running pooler reads it."""

from __future__ import annotations

import os
import time

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from ._compose import last_lines, read_env_text
from ._files import overwrite_file, replace_file
from ._quoting import userlist_quote

if TYPE_CHECKING:
    from ._compose import Container, Docker

RENAMED, IN_PLACE = "rename", "in_place"


class UserlistError(Exception):
    """The file can't be read, understood or written. The text is complete and holds no part of it."""


@dataclass(frozen=True)
class Entry:
    """One user. begin: where its line starts in the text; start and end: where its password stands, quotes included."""

    user: str
    password: str
    line: int
    begin: int
    start: int
    end: int


def _quote_end(text: str, position: int) -> int:
    """Return where the quoted text that begins behind position ends, -1 when it does not. A doubled quote is one of its characters."""
    while True:
        position = text.find('"', position)
        if position < 0 or text[position + 1 : position + 2] != '"':
            return position
        position += 2


def parse(text: str) -> list[Entry]:
    """Return the users of an auth_file, in their order, by pgBouncer's own rules.

    Raises UserlistError for a line at which pgBouncer stops reading: it then knows no user that stands below.
    """
    entries: list[Entry] = []
    position = 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if position >= len(text):
            return entries
        if text[position] == ";":
            position = _line_end(text, position)
            continue
        line = text.count("\n", 0, position) + 1
        user_end = _quote_end(text, position + 1) if text[position] == '"' else -1
        start = text.find('"', user_end + 1) if user_end >= 0 else -1
        end = _quote_end(text, start + 1) if start >= 0 else -1
        if end < 0:
            raise UserlistError('line %d is not of the form "user" "password", and pgBouncer reads nothing from there on' % line)
        user = text[position + 1 : user_end].replace('""', '"')
        password = text[start + 1 : end].replace('""', '"')
        entries.append(Entry(user, password, line, position, start, end + 1))
        # What follows on the line is ignored.
        position = _line_end(text, end)


def _line_end(text: str, position: int) -> int:
    found = text.find("\n", position)
    return len(text) if found < 0 else found


def password_of(text: str, user: str) -> Optional[str]:
    """Return what the file holds for a user, None when it is not in it. Of several lines pgBouncer takes the last. Raises UserlistError."""
    found = [item.password for item in parse(text) if item.user == user]
    return found[-1] if found else None


def with_password(text: str, user: str, password: str) -> str:
    """Return the text in which the user has this password, on each line of its own; everything else stays. Raises UserlistError, QuotingError."""
    entries = [item for item in parse(text) if item.user == user]
    for item in reversed(entries):
        if item.password != password:
            text = text[: item.start] + userlist_quote(password) + text[item.end :]
    if not entries:
        text += "" if not text or text.endswith("\n") else "\n"
        text += "%s %s\n" % (userlist_quote(user), userlist_quote(password))
    return text


def without_user(text: str, user: str) -> str:
    """Return the text without the lines of a user. Raises UserlistError."""
    for item in reversed([item for item in parse(text) if item.user == user]):
        text = text[: item.begin] + text[_line_end(text, item.end) + 1 :]
    return text


def _unread(user: str) -> str:
    return "; %s was taken out by dghs.bd_fhir, and the pooler has not read that yet" % userlist_quote(user)


def taken_out(text: str, user: str) -> str:
    """Return the text without the lines of a user, and a remark in place of the first. Raises UserlistError, QuotingError.

    The pooler knows the user until it is told to read the file, and neither its console nor a login tells whether it still does.
    The remark comes and goes with the very text of which it speaks, and pgBouncer skips it.
    """
    found = [item for item in parse(text) if item.user == user]
    if not found:
        return text
    first = found[0]
    rest = without_user(text[_line_end(text, first.end) :], user)
    return text[: first.begin] + _unread(user) + rest


def without_remark(text: str, user: str) -> str:
    """Return the text without the remark of taken_out(), which is what without_user() leaves. Raises QuotingError."""
    begin = text.find(_unread(user))
    return text if begin < 0 else text[:begin] + text[_line_end(text, begin) + 1 :]


class AuthFile:
    """The auth_file of one running pooler. Its methods raise UserlistError, ComposeError for a docker that does not answer."""

    def __init__(self, docker: Docker, container: Container, path: str) -> None:
        """path: as pgBouncer names it, inside of the container."""
        self._docker = docker
        self._container = container
        self.path = path
        self.host_path, self._alone = host_path(container, path)
        self._user: Optional[str] = None

    @property
    def method(self) -> str:
        """How the file is replaced."""
        return IN_PLACE if self._alone else RENAMED

    def read(self) -> str:
        """Return the text with every byte kept."""
        if self.host_path:
            try:
                return read_env_text(self.host_path)
            except OSError as exc:
                raise UserlistError(
                    "%s, which the service %s mounts as %s, can't be read: %s. Use become."
                    % (self.host_path, self._container.service, self.path, exc.strerror)
                ) from None
        return self._exec("cat", self.path)

    def write(self, text: str) -> None:
        """Replace the text, so that a kill leaves the old one or the new one, and read it back."""
        try:
            if self.host_path and self._alone:
                moment = max(time.time(), os.stat(self.host_path).st_mtime + 1)
                overwrite_file(self.host_path, text)
                # The inode stays: only a second that differs tells pgBouncer that the file is another one.
                os.utime(self.host_path, (moment, moment))
            elif self.host_path:
                replace_file(self.host_path, text)
            else:
                self._replace_inside(text)
        except OSError as exc:
            raise UserlistError(
                "%s, which the service %s mounts as %s, can't be written: %s. Use become."
                % (self.host_path, self._container.service, self.path, exc.strerror)
            ) from None
        if self.read().rstrip("\n") != text.rstrip("\n"):
            raise UserlistError(
                "%s of %s was written, but reads back differently. Another program changes it too." % (self.path, self._container.name)
            )

    def _replace_inside(self, text: str) -> None:
        real = self._exec("readlink", "-f", self.path).strip() or self.path
        candidate = real + ".dghs-bd-fhir"
        # The copy brings owner and mode along before there is a secret in it.
        self._exec("cp", "-p", real, candidate)
        self._exec("dd", "of=" + candidate, data=text)
        # pgBouncer skips a file whose inode, size and second of change are those that it has read.
        self._exec("mv", "-f", candidate, real)

    def _exec(self, *argv: str, data: Optional[str] = None) -> str:
        """Run a command in the container as whoever may: its own user, else root. Returns what it prints."""
        said = ""
        for user in [self._user] if self._user is not None else ["", "0"]:
            options = (["-i"] if data is not None else []) + (["-u", user] if user else [])
            rc, out, err = self._docker.docker("exec", *options, self._container.id, *argv, check=False, data=data)
            if rc == 0:
                self._user = user
                return out
            said = last_lines(self._docker.clean(err), 2) or "nothing"
        raise UserlistError(
            "`%s` in the container %s failed: %s. The image has to have cat, cp, dd, mv and readlink, or the file has to be mounted"
            " from the host." % (" ".join(argv), self._container.name, said)
        )


def host_path(container: Container, path: str) -> tuple[str, bool]:
    """Return where a file of a container lies on the host, "" if it is not bind-mounted, and whether it is a mount of its own. Pure.

    A file that is a mount of its own can't be renamed over: the container would go on reading the old one.
    """
    best, alone, length = "", False, -1
    for mount in container.mounts:
        destination = mount["destination"].rstrip("/")
        inside = path == destination or path.startswith(destination + "/")
        if inside and len(destination) > length:
            length = len(destination)
            alone = path == destination
            best = mount["source"] + path[len(destination) :] if mount["type"] == "bind" else ""
    return best, bool(best) and alone
