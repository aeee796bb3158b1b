# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A careful HTTP client, and what a HAPI FHIR server says of itself: capability statement, health, build."""

from __future__ import annotations

import base64
import contextlib
import datetime
import email.utils
import http.client
import json
import re
import socket
import ssl
import time
import urllib.error
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Callable, Optional
from urllib.parse import urljoin, urlsplit, urlunsplit
from xml.etree import ElementTree
from xml.parsers import expat

from ansible.module_utils.urls import Request, make_context

HTTP_ARGUMENTS: dict[str, Any] = {
    "timeout": {"type": "int", "default": 10},
    "headers": {"type": "dict", "no_log": True, "default": {}},
    "bearer_token": {"type": "str", "no_log": True},
    "url_username": {"type": "str"},
    "url_password": {"type": "str", "no_log": True},
    "ca_path": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path", "no_log": False},
    "use_proxy": {"type": "bool", "default": False},
}
HTTP_EXCLUSIVE = [("bearer_token", "url_username")]
HTTP_TOGETHER = [("url_username", "url_password")]
HTTP_REQUIRED_BY = {"client_key": ("client_cert",)}

# Header values that may be shown. Every other value counts as a secret, whatever the header is called.
_OPEN_HEADERS = frozenset(
    (
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "content-type",
        "host",
        "origin",
        "pragma",
        "prefer",
        "referer",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
    )
)
# A capability statement of HAPI 7.2 with every resource type is 1.5 MB in JSON, 2.1 MB in XML.
_MAX_BODY = 32 * 1024 * 1024
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


# Kinds of HttpError with which nothing of the server was heard.
NO_ANSWER = ("request", "connect", "timeout", "tls", "proxy")


class HttpError(Exception):
    """No usable answer. The message says what was asked, what came back and what to do, and holds no secret.

    kind is one of: request, connect, timeout, tls, proxy, redirect, protocol, too_large.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class FhirError(Exception):
    """An answer came, but it does not hold what was asked for. The message says what came instead."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer of any status. Header names are in lower case; seconds is the time until it was complete."""

    status: int
    headers: dict[str, str]
    body: bytes
    url: str
    seconds: float

    def text(self) -> str:
        """Return the body as text; bytes that are no UTF-8 are replaced."""
        return self.body.decode("utf-8-sig", "replace")


def origin(url: str) -> tuple[str, str, int]:
    """Return (scheme, host, port) of an absolute http(s) URL. Raises HttpError for anything else."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
        port = parts.port or (443 if scheme == "https" else 80)
    except ValueError as error:
        raise HttpError("request", "This is not a URL (%s)." % error) from None
    if scheme not in ("http", "https") or not host:
        raise HttpError("request", "%s is not an absolute http or https URL." % (public_url(url) or "The empty text"))
    return scheme, host, port


def public_url(url: str) -> str:
    """Return a URL without a user, a password and a fragment, fit to be shown."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def check_url(url: str) -> None:
    """Raise HttpError for what is not an absolute http or https URL, or holds a user or password."""
    origin(url)
    if "@" in urlsplit(url).netloc:
        raise HttpError(
            "request",
            "The URL %s holds a user or password. Give them as url_username and url_password." % public_url(url),
        )


def may_follow(source: str, target: str) -> bool:
    """Tell whether a redirect stays at the server that was asked: the same origin, or its https side."""
    from_scheme, from_host, from_port = origin(source)
    to_scheme, to_host, to_port = origin(target)
    if from_host != to_host or "@" in urlsplit(target).netloc:
        return False
    if from_scheme == to_scheme:
        # Another port is another server: a token meant for one must not reach the other.
        return from_port == to_port
    return (from_scheme, to_scheme) == ("http", "https")


def join(base: str, *paths: str) -> str:
    """Append paths to a base URL, with one slash between them."""
    return "/".join([base.rstrip("/")] + [path.strip("/") for path in paths if path.strip("/")])


def base_url(address: str, port: Optional[int]) -> str:
    """Return the root URL of a server at a name or an IPv4 or IPv6 address."""
    return "http://%s%s" % ("[%s]" % address if ":" in address else address, ":%d" % port if port else "")


def first_words(text: str, length: int = 160) -> str:
    """Return the beginning of a text in one line: markup, scripts and control characters taken out."""
    text = re.sub(r"(?is)<(script|style)\b.*?(</\1\s*>|$)|<!--.*?(-->|$)", " ", text)
    text = re.sub(r"(?s)<[^>]*(>|$)", " ", text)
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= length else text[: length - 3] + "..."


def header_secrets(headers: Mapping[str, Any]) -> set[str]:
    """Return every text in these header values that must not be shown: the values, and what stands behind a scheme."""
    secrets: set[str] = set()
    for name, value in headers.items():
        if str(name).lower() in _OPEN_HEADERS:
            continue
        text = str(value)
        secrets.add(text)
        if str(name).lower() == "cookie":
            secrets.update(pair.partition("=")[2].strip() for pair in text.split(";"))
        scheme, space, credential = text.strip().partition(" ")
        if not space:
            continue
        secrets.add(credential.strip())
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):
                secrets.add(base64.b64decode(credential.strip()).decode("utf-8").partition(":")[2])
    return {secret for secret in secrets if secret}


def open_header_values(headers: Mapping[str, Any]) -> set[str]:
    """Return the header values that are no secrets, so that masking them does not spoil the result."""
    shown = {str(value) for name, value in headers.items() if str(name).lower() in _OPEN_HEADERS}
    return shown - header_secrets(headers)


class Client:
    """Sends HTTP requests, one connection each, on ansible.module_utils.urls.

    - No redirect leaves the server that was asked, so no credential does.
    - No cookie is kept: a balancer's sticky cookie would make every request land on one replica.
    - No ~/.netrc, and no proxy unless asked for: what is sent is what the options say.
    - A client may be used by several threads.
    """

    def __init__(
        self,
        timeout: float = 10,
        headers: Optional[Mapping[str, Any]] = None,
        bearer_token: Optional[str] = None,
        url_username: Optional[str] = None,
        url_password: Optional[str] = None,
        ca_path: Optional[str] = None,
        validate_certs: bool = True,
        client_cert: Optional[str] = None,
        client_key: Optional[str] = None,
        use_proxy: bool = False,
        server_name: Optional[str] = None,
        agent: str = "dghs.bd_fhir",
    ) -> None:
        """Take the options. timeout is in seconds, for one whole request with its redirects. server_name replaces the
        URL's host in TLS (SNI and the check of the certificate).

        Raises HttpError when a header, the CA file or the client certificate is unusable.
        """
        self.timeout = timeout
        self.ca_path = ca_path
        self.client_cert = client_cert
        self.use_proxy = use_proxy
        self.server_name = server_name
        self.headers = _checked_headers(headers or {}, "headers")
        self._secrets = header_secrets(self.headers)
        self.credential = self._credential(bearer_token, url_username, url_password)
        self._context = self._make_context(ca_path, validate_certs, client_cert, client_key, server_name)
        self._agent = agent

    @classmethod
    def from_params(cls, params: Mapping[str, Any], **more: Any) -> Client:
        """Build a client from the options in HTTP_ARGUMENTS."""
        return cls(**{name: params[name] for name in HTTP_ARGUMENTS}, **more)

    @property
    def secrets(self) -> set[str]:
        """Every text that must not be shown; modules add it to no_log_values."""
        return set(self._secrets)

    def _credential(self, token: Optional[str], username: Optional[str], password: Optional[str]) -> str:
        """Set the Authorization header; return words that say which credential that is."""
        names = {name.lower() for name in self.headers}
        if (token or username) and "authorization" in names:
            raise HttpError(
                "request",
                "Option headers holds Authorization, and so does bearer_token or url_username. Give only one.",
            )
        if token:
            self.headers.update(_checked_headers({"Authorization": "Bearer " + token.strip()}, "bearer_token"))
            self._secrets.update({token, token.strip()})
            return "the token of option bearer_token"
        if username:
            pair = "%s:%s" % (username, password or "")
            encoded = base64.b64encode(pair.encode("utf-8")).decode("ascii")
            # Sent with the first request: a server need not ask for it, and one that does gets no request too many.
            self.headers["Authorization"] = "Basic " + encoded
            self._secrets.update(filter(None, (encoded, password)))
            return "the user %s of option url_username" % username
        if "authorization" in names:
            return "the Authorization header of option headers"
        if self.client_cert:
            return "the client certificate %s" % self.client_cert
        return "no credential"

    @staticmethod
    def _make_context(
        ca_path: Optional[str],
        validate_certs: bool,
        client_cert: Optional[str],
        client_key: Optional[str],
        server_name: Optional[str],
    ) -> ssl.SSLContext:
        for option, path in (("ca_path", ca_path), ("client_cert", client_cert), ("client_key", client_key)):
            try:
                if path is not None:
                    with open(path, "rb"):
                        pass
            except OSError as error:
                raise HttpError(
                    "tls", "Cannot read %s, the file of option %s: %s." % (path, option, error.strerror)
                ) from None
        try:
            context: ssl.SSLContext = make_context(cafile=ca_path, validate_certs=validate_certs)
        except (ssl.SSLError, ValueError) as error:
            raise HttpError(
                "tls", "%s, the file of option ca_path, holds no usable PEM certificates: %s." % (ca_path, error)
            ) from None
        if client_cert is not None:
            try:
                # An encrypted key would make OpenSSL ask at the terminal, which a module does not have.
                context.load_cert_chain(client_cert, keyfile=client_key, password=lambda: b"")
            except (ssl.SSLError, ValueError) as error:
                raise HttpError(
                    "tls",
                    "The client certificate %s and its key cannot be used: %s. Both must be PEM, belong together, "
                    "and the key must not be encrypted." % (client_cert, error),
                ) from None
        if server_name is not None:
            _set_server_name(context, server_name)
        return context

    def scrub(self, text: str) -> str:
        """Return a text with every known secret replaced: a server may repeat the token in its error."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "********")
        return text

    def get(
        self,
        url: str,
        headers: Optional[Mapping[str, Any]] = None,
        method: str = "GET",
        follow: bool = True,
        max_body: int = _MAX_BODY,
    ) -> Answer:
        """Send one request and return the answer of any status. With follow, go after redirects at the same server.

        Raises HttpError when no answer came, it could not be read in time, or a redirect leads elsewhere.
        """
        check_url(url)
        sent = {**self.headers, **_checked_headers(headers or {}, "headers")}
        started = time.monotonic()
        target = url
        for _dummy in range(_MAX_REDIRECTS + 1):
            answer = self._once(target, sent, method, max_body, started)
            if not follow or answer.status not in _REDIRECTS or "location" not in answer.headers:
                return answer
            target = self._redirected(target, answer)
        raise HttpError(
            "redirect",
            "%s %s was redirected more than %d times, at last to %s. The server sends its callers in a circle: look at "
            "its rewrite rules and at what it makes of X-Forwarded-Proto."
            % (method, public_url(url), _MAX_REDIRECTS, public_url(target)),
        )

    def send(self, method: str, url: str, resource: Optional[Mapping[str, Any]] = None, headers: Optional[Mapping[str, Any]] = None) -> Answer:
        """Send one request that may write, with a resource as its body, and return the answer of any status. No redirect is followed.

        Raises HttpError when no answer came, or it could not be read in time. The server may have done it all the same.
        """
        check_url(url)
        sent = {**self.headers, **_checked_headers(headers or {}, "headers")}
        data = None if resource is None else json.dumps(resource).encode("utf-8")
        return self._once(url, sent, method, _MAX_BODY, time.monotonic(), data)

    def _redirected(self, source: str, answer: Answer) -> str:
        location = self.scrub(first_words(answer.headers["location"]))
        try:
            target = self._at_source(source, urljoin(source, answer.headers["location"].replace(" ", "%20")))
            allowed = may_follow(source, target)
        except (HttpError, ValueError):
            allowed = False
        if not allowed:
            raise HttpError(
                "redirect",
                "%s answered %d and points to %s. That is not the server that was asked, so it was not followed and "
                "nothing was sent there. Ask that address itself if it is the right one."
                % (public_url(source), answer.status, public_url(location)),
            )
        return target

    def _at_source(self, source: str, target: str) -> str:
        """A server that is called by another name than the URL's points to that name: stay at the URL's host."""
        parts = urlsplit(target)
        if not self.server_name or (parts.hostname or "").lower() != self.server_name.lower() or "@" in parts.netloc:
            return target
        host = base_url(origin(source)[1], parts.port).partition("://")[2]
        return urlunsplit(parts._replace(netloc=host))

    def _once(self, url: str, headers: dict[str, str], method: str, max_body: int, started: float, data: Optional[bytes] = None) -> Answer:
        asked = "%s %s" % (method, public_url(url))
        request = Request(
            http_agent=self._agent,
            use_proxy=self.use_proxy,
            use_netrc=False,
            follow_redirects="none",
            context=self._context,
            # A policy that takes no cookie: Request would make a jar of its own, and urllib's opener is global, so
            # that threads use each other's.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            decompress=False,
        )
        try:
            try:
                response = request.open(method, url, data=data, headers=headers, timeout=self._left(started))
            except urllib.error.HTTPError as error:
                # Kept as a whole: it closes its fp when it goes.
                response = error
            stream = response.fp if isinstance(response, urllib.error.HTTPError) else response
            try:
                lowered: dict[str, str] = {}
                for name, value in response.headers.items():
                    key = name.lower()
                    lowered[key] = "%s, %s" % (lowered[key], value) if key in lowered else value
                body = self._read(stream, lowered, method, max_body, started)
            finally:
                stream.close()
            status = int(response.code)
        except HttpError as error:
            raise HttpError(error.kind, "%s: %s" % (asked, error)) from None
        except Exception as error:  # pylint: disable=broad-except
            # urllib lets through whatever a layer below it raises; each is turned into words here, secrets taken out.
            kind, words = explain(error, self.timeout, self.ca_path, self.use_proxy)
            raise HttpError(kind, self.scrub("%s: %s" % (asked, words))) from None
        return Answer(status, lowered, body, url, time.monotonic() - started)

    def _left(self, started: float) -> float:
        """Return the seconds that this request may still take. Raises TimeoutError when there are none."""
        left = self.timeout - (time.monotonic() - started)
        if left <= 0:
            raise socket.timeout()
        return left

    def _read(self, stream: Any, headers: Mapping[str, str], method: str, max_body: int, started: float) -> bytes:
        """Read the body piece by piece, so that a server that trickles it cannot hold us for ever."""
        if method == "HEAD":
            return b""
        length = headers.get("content-length", "")
        wanted = int(length) if length.isdigit() and "transfer-encoding" not in headers else None
        pieces: list[bytes] = []
        size = 0
        while wanted is None or size < wanted:
            self._left(started)
            piece = stream.read1(65536)
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
            if size > max_body:
                raise HttpError(
                    "too_large", "the answer is larger than %d bytes and was not read to its end." % max_body
                )
        if wanted is not None and size < wanted:
            raise HttpError("protocol", "the answer broke off after %d of %d bytes." % (size, wanted))
        body = b"".join(pieces)
        if headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip"):
            # Not asked for, but some proxies compress all the same.
            unpacker = zlib.decompressobj(31)
            body = unpacker.decompress(body, max_body)
            if unpacker.unconsumed_tail:
                raise HttpError("too_large", "the unpacked answer is larger than %d bytes." % max_body)
        return body


def _checked_headers(headers: Mapping[str, Any], option: str) -> dict[str, str]:
    """Return headers as text. Raises HttpError, without the value, for what cannot be sent as it is."""
    result: dict[str, str] = {}
    for name, value in headers.items():
        if not _TOKEN.fullmatch(str(name)):
            raise HttpError("request", "Option %s: %r is not the name of a header." % (option, str(name)[:40]))
        if isinstance(value, (dict, list, bool)) or value is None:
            raise HttpError(
                "request", "Option %s: the value of %s must be a string. Put it in quotes." % (option, name)
            )
        text = str(value).strip()
        if any(ord(char) < 32 or ord(char) == 127 or ord(char) > 255 for char in text):
            raise HttpError(
                "request",
                "Option %s: the value of %s holds a line break or another character that no header can carry."
                % (option, name),
            )
        result[str(name)] = text
    return result


def _set_server_name(context: ssl.SSLContext, server_name: str) -> None:
    """Make a context check the certificate against server_name (and send it as SNI) whatever host the URL names."""
    original = context.wrap_socket

    def wrap_socket(*args: Any, **kwargs: Any) -> ssl.SSLSocket:
        kwargs["server_hostname"] = server_name
        return original(*args, **kwargs)

    context.wrap_socket = wrap_socket  # type: ignore[method-assign]


def explain(error: BaseException, timeout: float, ca_path: Optional[str], use_proxy: bool) -> tuple[str, str]:
    """Return (kind, words) for what a request raised: what came back and what to do next."""
    reason: Any = error
    while isinstance(reason, urllib.error.URLError) and not isinstance(reason, urllib.error.HTTPError):
        reason = reason.reason
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "tls", _explain_certificate(reason, ca_path)
    if isinstance(reason, socket.timeout) or "timed out" in str(reason):
        return (
            "timeout",
            "no complete answer within %g s. The server is overloaded or still starting, or a firewall drops the "
            "packets; a larger value of option timeout waits longer." % timeout,
        )
    if isinstance(reason, ssl.SSLError):
        words = "the TLS handshake failed: %s." % (reason.reason or reason)
        if "WRONG_VERSION_NUMBER" in str(reason) or "HTTP_REQUEST" in str(reason):
            words += " The port speaks plain http: use an http URL or the port of https."
        elif "CERTIFICATE_REQUIRED" in str(reason) or "HANDSHAKE_FAILURE" in str(reason):
            words += " The server may want a client certificate: options client_cert and client_key."
        return "tls", words
    if isinstance(reason, OSError) and "unnel connection failed" in str(reason):
        words = "the proxy of the environment refused: %s." % first_words(str(reason))
        return "proxy", words + " Name the host in no_proxy, or set use_proxy to false, to go there directly."
    if isinstance(reason, socket.gaierror):
        return (
            "connect",
            "the name is not known here (%s). Check the spelling and the host's name server." % reason.strerror,
        )
    hint = " A proxy was allowed (use_proxy): the refusal may be the proxy's." if use_proxy else ""
    if isinstance(reason, ConnectionRefusedError):
        return "connect", "the connection was refused: nothing listens there (yet).%s" % hint
    if isinstance(
        reason, (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected, http.client.IncompleteRead)
    ):
        return "connect", "the server closed the connection without a complete answer.%s" % hint
    if isinstance(reason, http.client.InvalidURL):
        return "request", "the URL holds a character that must be percent-encoded, or an impossible port."
    if isinstance(reason, http.client.HTTPException):
        return "protocol", "what came back is not HTTP (%s). The port may speak https or something else." % type(
            reason
        ).__name__
    if isinstance(reason, OSError):
        return "connect", "no connection: %s.%s" % (reason.strerror or first_words(str(reason)), hint)
    # The text of a ValueError can hold a header's value: only its type is told.
    return "request", "the request could not be made (%s)." % type(reason).__name__


def _explain_certificate(error: ssl.SSLCertVerificationError, ca_path: Optional[str]) -> str:
    message = error.verify_message
    words = "the server's certificate was not accepted: %s." % message.rstrip(".")
    if "self-signed" in message or "self signed" in message or "local issuer" in message:
        if ca_path:
            return (
                words
                + " It was not signed by a CA in %s (option ca_path): get the CA's certificate from who made it."
                % ca_path
            )
        return words + " It comes from a CA that this host does not know: give the CA's certificate as option ca_path."
    if "expired" in message or "not yet valid" in message:
        return words + " Renew it, or set this host's clock."
    if "mismatch" in message or "not valid for" in message:
        return words + " Use the name that stands in the certificate (balance_info: option host_header)."
    return words


# -- what the server says of itself


@dataclass(frozen=True)
class Statement:
    """What a capability statement says. Texts are empty where it says nothing; date is as written there."""

    format: str
    software_name: str
    software_version: str
    fhir_version: str
    implementation_guides: list[dict[str, str]] = field(default_factory=list)
    date: str = ""


def split_canonical(canonical: str) -> dict[str, str]:
    """Split canonical|version into its two parts."""
    url, dummy, version = canonical.strip().partition("|")
    return {"canonical": url, "version": version}


def parse_statement(body: bytes) -> Statement:
    """Read a CapabilityStatement (DSTU2: Conformance) in JSON or XML, told apart by what it is, not by its label.

    Raises FhirError for anything else (HTML, an OperationOutcome, another resource, a broken document).
    """
    text = _decoded(body)
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("{"):
        return _statement_from_json(start)
    if is_html(start):
        raise FhirError(
            "an HTML page came instead of a capability statement, beginning: '%s'. A login page, a proxy or the "
            "server's own web pages answered: check base_path and the port, and that the address is the replica itself."
            % first_words(start)
        )
    if start.startswith("<"):
        return _statement_from_xml(body)
    raise FhirError(
        "neither JSON nor XML came instead of a capability statement, beginning: '%s'. Check base_path and the port."
        % first_words(start)
    )


def _decoded(body: bytes) -> str:
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "replace")
    return body.decode("utf-8-sig", "replace")


def is_html(text: str) -> bool:
    """Tell whether a text is a web page (XHTML with an XML declaration too)."""
    head = re.sub(r"(?s)\A(\s|<\?.*?\?>|<!--.*?-->)*", "", text[:4096]).lower()
    return bool(re.match(r"<!doctype\s+html|<html[\s>]|<(head|body)[\s>]", head))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _statement_from_json(text: str) -> Statement:
    try:
        resource = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FhirError("broken JSON came instead of a capability statement (%s)." % error) from None
    kind = _text(resource.get("resourceType"))
    if kind == "OperationOutcome":
        raise FhirError("the server answered with an OperationOutcome: %s" % outcome(resource))
    if kind not in ("CapabilityStatement", "Conformance"):
        raise FhirError(
            "JSON came, but it is %s, not a CapabilityStatement. Check base_path: it must be the root of the FHIR API."
            % ("the resource %s" % first_words(kind, 40) if kind else "no FHIR resource")
        )
    software = resource.get("software")
    software = software if isinstance(software, dict) else {}
    guides = resource.get("implementationGuide")
    return Statement(
        format="json",
        software_name=_text(software.get("name")),
        software_version=_text(software.get("version")),
        fhir_version=_text(resource.get("fhirVersion")),
        implementation_guides=[
            split_canonical(guide) for guide in (guides if isinstance(guides, list) else []) if isinstance(guide, str)
        ],
        date=_text(resource.get("date")),
    )


def parse_xml(body: bytes) -> ElementTree.Element:
    """Parse XML that holds no document type: entities are declared there, and a capability statement has none.

    Raises FhirError for a document type and for broken XML.
    """

    def refuse(*dummy: Any) -> None:
        raise FhirError("the XML has a document type declaration (DTD), which FHIR forbids; it was not parsed.")

    checker = expat.ParserCreate()
    checker.StartDoctypeDeclHandler = refuse
    try:
        checker.Parse(body, True)
        return ElementTree.fromstring(body)  # noqa: S314 (no DTD got this far, so there are no entities)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise FhirError("broken XML came instead of a FHIR resource (%s)." % error) from None


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [child for child in element if isinstance(child.tag, str) and _local(child) == name]


def _value(element: Optional[ElementTree.Element], name: str) -> str:
    for child in _children(element, name) if element is not None else []:
        return child.get("value", "")
    return ""


def _statement_from_xml(body: bytes) -> Statement:
    root = parse_xml(body)
    kind = _local(root)
    if kind == "OperationOutcome":
        issues = [
            {"diagnostics": _value(issue, "diagnostics"), "code": _value(issue, "code")}
            for issue in _children(root, "issue")
        ]
        raise FhirError("the server answered with an OperationOutcome: %s" % outcome({"issue": issues}))
    if kind not in ("CapabilityStatement", "Conformance"):
        raise FhirError(
            "XML came, but its root is %s, not a CapabilityStatement. Check base_path: it must be the root of the FHIR "
            "API." % first_words(kind, 40)
        )
    software = next(iter(_children(root, "software")), None)
    return Statement(
        format="xml",
        software_name=_value(software, "name"),
        software_version=_value(software, "version"),
        fhir_version=_value(root, "fhirVersion"),
        implementation_guides=[
            split_canonical(child.get("value", "")) for child in _children(root, "implementationGuide")
        ],
        date=_value(root, "date"),
    )


def outcome(resource: Mapping[str, Any]) -> str:
    """Return the issues of an OperationOutcome in one line."""
    issues = resource.get("issue")
    texts = []
    for issue in issues if isinstance(issues, list) else []:
        if isinstance(issue, dict):
            texts.append(first_words(_text(issue.get("diagnostics")) or _text(issue.get("code"))))
    return "; ".join(filter(None, texts[:3])) or "no issue is named"


def complaint(answer: Answer, credential: str) -> str:
    """Return words for an answer whose status is not 200: what the server said and what to do."""
    words = "HTTP %d" % answer.status
    said = answer.text().lstrip()
    if said.startswith("{"):
        try:
            resource = json.loads(said)
            said = outcome(resource) if resource.get("resourceType") == "OperationOutcome" else said
        except (ValueError, RecursionError):
            pass
    said = first_words(said)
    if said:
        words += ", '%s'" % said
    if answer.status == 401:
        wanted = answer.headers.get("www-authenticate", "").partition(",")[0].split(" ")[0]
        words += ". %s was sent%s." % (
            credential[:1].upper() + credential[1:],
            "; the server asks for %s" % first_words(wanted, 20) if wanted else "",
        )
        if credential == "no credential":
            return words + " Give bearer_token, or url_username and url_password."
        return words + " It is wrong, expired, or meant for another server."
    if answer.status == 403:
        return words + ". %s was sent and is known, but may not do this." % (credential[:1].upper() + credential[1:])
    if answer.status == 404:
        return words + ". Nothing is at that path: check base_path."
    if answer.status == 407:
        return words + ". The proxy wants a login: name the host in no_proxy, or set use_proxy to false."
    if answer.status in _REDIRECTS:
        return words + ". It points to %s." % public_url(first_words(answer.headers.get("location", "nowhere")))
    if answer.status in (502, 503, 504):
        return words + ". The server is starting, overloaded, or cannot reach what it needs."
    return words + "."


def parse_instant(text: str) -> Optional[datetime.datetime]:
    """Return a FHIR instant, a Docker time or an HTTP date as an aware datetime; None when it is none of them."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d+))?\s*(Z|[+-]\d\d:?\d\d)", text.strip())
    try:
        if match:
            zone = match.group(3).replace(":", "")
            # Docker writes nine digits, which no version's fromisoformat and no strptime reads.
            fraction = (match.group(2) or "0")[:6].ljust(6, "0")
            stamp = "%s.%s%s" % (match.group(1).replace(" ", "T"), fraction, "+0000" if zone == "Z" else zone)
            moment = datetime.datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%f%z")
        else:
            moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else None


def read_statement(client: Client, url: str) -> tuple[Statement, Answer]:
    """Ask a FHIR API for its capability statement, past every cache. url is .../metadata.

    Raises HttpError when no answer came, FhirError when it is not a statement.
    """
    answer = client.get(
        url + "?_format=json",
        headers={
            "Accept": "application/fhir+json, application/json;q=0.9",
            "Cache-Control": "no-cache",
            "Pragma": "no-cache",
        },
    )
    if answer.status != 200:
        raise FhirError("GET %s: %s" % (public_url(url), client.scrub(complaint(answer, client.credential))))
    try:
        return parse_statement(answer.body), answer
    except FhirError as error:
        raise FhirError("GET %s: %s" % (public_url(url), client.scrub(str(error)))) from None


def read_json(client: Client, url: str, accept: Iterable[int] = (200,)) -> tuple[int, dict[str, Any]]:
    """GET a JSON object. Returns (status, object); the object is empty for a status that is not in accept.

    Raises HttpError when no answer came, FhirError when an accepted answer is not a JSON object.
    """
    answer = client.get(url, headers={"Accept": "application/json"})
    if answer.status not in accept:
        return answer.status, {}
    try:
        result = json.loads(answer.text())
    except (ValueError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise FhirError("GET %s: not a JSON object: '%s'" % (public_url(url), client.scrub(first_words(answer.text()))))
    return answer.status, result


def actuator_hint(status: int, otherwise: str) -> str:
    """Return what to do about an answer of an actuator that says nothing, which is otherwise unless it wants to know who asks."""
    return "Give a credential that may read the actuator." if status in (401, 403) else otherwise


def build_info(info: Mapping[str, Any]) -> dict[str, str]:
    """Return version and revision of /actuator/info, which has them in one of several shapes."""
    build, git = info.get("build"), info.get("git")
    build = build if isinstance(build, dict) else {}
    git = git if isinstance(git, dict) else {}
    commit = git.get("commit")
    revision = commit.get("id") if isinstance(commit, dict) else None
    if isinstance(revision, dict):
        revision = revision.get("full") or revision.get("abbrev")
    return {
        "version": _text(build.get("version")),
        "revision": _text(revision) or _text(build.get("revision")) or _text(build.get("commit")),
    }


def out_of_range(params: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> str:
    """Return what is wrong with the first number that is not in its range, '' when all are."""
    for option, (low, high) in ranges.items():
        if params[option] is not None and not low <= params[option] <= high:
            return "Option %s is %s, but must be from %s to %s." % (option, params[option], low, high)
    return ""


def module_client(module: Any, **more: Any) -> Client:
    """Build the client of an AnsibleModule with HTTP_ARGUMENTS, and make the module mask its secrets, and no more.

    no_log on the option headers masks harmless values too (the word hapi in a Host header, say), all over the result.
    Raises HttpError for options that cannot be used.
    """
    urls = [item["url"] for item in module.params.get("urls") or []] + [module.params.get("url") or ""]
    for url in urls:
        userinfo = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
        module.no_log_values.update(filter(None, (userinfo, userinfo.partition(":")[2])))
    client = Client.from_params(module.params, **more)
    module.no_log_values.difference_update(open_header_values(module.params["headers"]) - client.secrets)
    module.no_log_values.update(client.secrets)
    return client


def retry(attempts: int, delay: float, ask: Callable[[int], bool], sleep: Callable[[float], None] = time.sleep) -> None:
    """Call ask(number) up to attempts times, delay seconds apart, until it returns true."""
    for number in range(1, attempts + 1):
        if ask(number):
            return
        if number < attempts:
            sleep(delay)
