# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small HTTP servers on loopback addresses that play a HAPI replica, a proxy or a wrong server."""

from __future__ import annotations

import http.client
import itertools
import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Optional

FIXTURES = Path(__file__).parent / "fixtures" / "hapi"


class Asked:
    """One request that a server got."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body


# What a route answers: status, headers, body.
Reply = tuple[int, dict[str, str], bytes]


class Server:
    """A server whose routes are a dict from path (without query) to a Reply or a function from Asked to one."""

    def __init__(
        self,
        routes: Optional[dict[str, Any]] = None,
        address: str = "127.0.0.1",
        port: int = 0,
        context: Optional[ssl.SSLContext] = None,
        fallback: Optional[Callable[[Asked], Reply]] = None,
    ) -> None:
        self.routes: dict[str, Any] = dict(routes or {})
        self.asked: list[Asked] = []
        self.fallback = fallback
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = Asked(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                outer.asked.append(asked)
                route = outer.routes.get(self.path.partition("?")[0], outer.fallback)
                if route is None:
                    route = (404, {"Content-Type": "application/json"}, b'{"status":404,"error":"Not Found"}')
                reply = route(asked) if callable(route) else route
                if reply is None:  # hang up
                    self.close_connection = True
                    return
                status, headers, body = reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address, self.port = self._server.server_address[:2]
        self.url = "%s://%s:%d" % ("https" if context else "http", self.address, self.port)
        # A failed TLS handshake is what some tests are about: no traceback for it.
        self._server.handle_error = lambda *args: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *args: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


def reply(body: Any, kind: str = "application/json", status: int = 200, **headers: str) -> Reply:
    """Build a Reply; a dict becomes JSON."""
    raw = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    raw = raw.encode() if isinstance(raw, str) else raw
    return status, {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}, raw


def statement(
    version: str = "0.3.0", ig: Optional[str] = "https://ig.example/core|0.3.0", fhir: str = "4.0.1"
) -> dict[str, Any]:
    """A short CapabilityStatement."""
    result = {
        "resourceType": "CapabilityStatement",
        "date": "2026-11-25T09:12:42.101+00:00",
        "software": {"name": "HAPI FHIR Server", "version": version},
        "fhirVersion": fhir,
    }
    if ig is not None:
        result["implementationGuide"] = [ig]
    return result


def statement_xml(version: str = "0.3.0", ig: str = "https://ig.example/core|0.3.0") -> bytes:
    """The same in XML."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<CapabilityStatement xmlns="http://hl7.org/fhir">'
        '<date value="2026-11-25T09:12:42.101+00:00"/><software><name value="HAPI FHIR Server"/><version value="%s"/>'
        '</software><fhirVersion value="4.0.1"/><implementationGuide value="%s"/></CapabilityStatement>' % (version, ig)
    ).encode()


class Hapi(Server):
    """A replica: statement, health, figures; it counts what it answers below /fhir, as the real one does."""

    def __init__(self, version: str = "0.3.0", counts: bool = True, ready: str = "UP", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lock = threading.Lock()
        self.served = 0
        self.counts = counts
        self.lie = 0  # added to the count
        self.ready = ready
        self.routes.update(
            {
                "/fhir/metadata": self._counted(lambda asked: reply(statement(version), "application/fhir+json")),
                "/actuator/health": reply({"status": "UP", "groups": ["liveness", "readiness"]}),
                "/actuator/health/readiness": lambda asked: reply(
                    {"status": self.ready}, status=200 if self.ready == "UP" else 503
                ),
                "/actuator/info": reply({"build": {"version": "1.4.0"}, "git": {"commit": {"id": "1a2b3c4"}}}),
                "/actuator/prometheus": lambda asked: reply(self.figures(), "text/plain;version=0.0.4;charset=utf-8"),
            }
        )

    def _counted(self, route: Callable[[Asked], Reply]) -> Callable[[Asked], Reply]:
        def answer(asked: Asked) -> Reply:
            with self.lock:
                self.served += 1
            return route(asked)

        return answer

    def figures(self) -> str:
        """What /actuator/prometheus says."""
        lines = [
            'hikaricp_connections_max{pool="HikariPool-1"} 5.0',
            'jvm_memory_used_bytes{area="heap",id="Eden Space"} 1.0E7',
            "process_uptime_seconds 12.5",
            'http_server_requests_seconds_count{method="GET",status="200",uri="/actuator/health/**"} 977',
        ]
        if self.served and self.counts:
            value = self.served + self.lie
            lines.append('http_server_requests_seconds_count{method="GET",status="200",uri="UNKNOWN"} %d' % value)
        if not self.counts:
            lines.pop()
        return "\n".join(lines) + "\n"


class Balancer(Server):
    """An entry point that passes requests to replicas in turn, or as `choose` says; it can tell who answered."""

    def __init__(
        self, replicas: list[Server], header: Optional[str] = "X-BD-Served-By", every: int = 1, **kwargs: Any
    ) -> None:
        self.turn = itertools.cycle(replicas)
        self.lock = threading.Lock()
        self.header, self.every, self.number = header, every, 0
        super().__init__(fallback=self._pass, **kwargs)

    def _pass(self, asked: Asked) -> Reply:
        with self.lock:
            replica = next(self.turn)
            self.number += 1
            marked = self.header and self.number % self.every == 0
        connection = http.client.HTTPConnection(replica.address, replica.port, timeout=5)
        connection.request(asked.method, asked.path, headers=asked.headers)
        answer = connection.getresponse()
        headers = {"Content-Type": answer.headers["Content-Type"]}
        if marked:
            headers[str(self.header)] = "%s:%d" % (replica.address, replica.port)
        body = answer.read()
        connection.close()
        return answer.status, headers, body


def make_ca(directory: Path) -> dict[str, str]:
    """Make a private CA, a certificate for fhir.example and 127.0.0.1, and one for a client, by openssl."""

    def run(*argv: str) -> None:
        subprocess.run(["openssl", *argv], check=True, capture_output=True, cwd=directory)

    (directory / "server.ext").write_text("subjectAltName=DNS:fhir.example,IP:127.0.0.1\n")
    (directory / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca_ext = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    run("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA", *ca_ext)
    run(
        "req", "-x509", *curve, "-keyout", "other.key", "-out", "other.pem", "-days", "2", "-subj", "/CN=Other", *ca_ext
    )
    for name in ("server", "client"):
        run("req", *curve, "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=" + name)
        run("x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", name + ".ext", "-out", name + ".pem")  # fmt: skip
    return {item.name: str(item) for item in directory.iterdir()}


def server_context(files: dict[str, str], client_ca: bool = False) -> ssl.SSLContext:
    """Return the TLS settings of a server; with client_ca it wants a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["server.pem"], files["server.key"])
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files["ca.pem"])
    return context
