"""A stand-in for HAPI: listens late, is ready later, closes its listener on SIGTERM as Spring Boot does.

Environment: LISTEN_AFTER, READY_AFTER (s from start), CRASH_AFTER + CRASH_CODE, VERSION, EVENTS (append-only file
that every request that reached this process is written to).
"""

import http.server
import json
import os
import signal
import socket
import threading
import time

T0 = time.time()
LISTEN = float(os.environ.get("LISTEN_AFTER", "2"))
READY = float(os.environ.get("READY_AFTER", "4"))
CRASH = os.environ.get("CRASH_AFTER")
VERSION = os.environ.get("VERSION", "1")
EVENTS = os.environ.get("EVENTS", "/events/events.log")
HOST = socket.gethostname()
FD = os.open(EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666) if os.path.isdir(os.path.dirname(EVENTS)) else None
stopping = threading.Event()
active = 0
guard = threading.Lock()


def event(**kw):
    if FD is not None:
        os.write(FD, (json.dumps(dict(t=round(time.time(), 3), host=HOST, version=VERSION, **kw)) + "\n").encode())


class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, code, body):
        body = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Replica", HOST)
        if stopping.is_set():
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def work(self, method):
        global active
        with guard:
            active += 1
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if length:
                self.rfile.read(length)
            ready = time.time() - T0 >= READY
            if self.path == "/actuator/health/readiness":
                return self.answer(
                    200 if ready and not stopping.is_set() else 503, {"status": "UP" if ready else "DOWN"}
                )
            event(kind="request", method=method, path=self.path, ready=ready, stopping=stopping.is_set())
            if not ready:
                return self.answer(503, {"error": "not ready"})
            if self.path.startswith("/slow/"):
                time.sleep(float(self.path.split("/")[2]))
            self.answer(201 if method == "POST" else 200, {"host": HOST, "version": VERSION, "path": self.path})
        finally:
            with guard:
                active -= 1

    def do_GET(self):
        self.work("GET")

    def do_POST(self):
        self.work("POST")

    def log_message(self, *a):
        pass


class S(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that went away is not worth a traceback."""


def main():
    print("starting version %s, listening in %.1f s" % (VERSION, LISTEN), flush=True)
    if CRASH:
        time.sleep(float(CRASH))
        for i in range(30):
            print("line %d" % i, flush=True)
        print("FATAL: cannot load the IG package", flush=True)
        os._exit(int(os.environ.get("CRASH_CODE", "3")))
    state = {}

    def stop(*a):
        event(kind="sigterm")
        stopping.set()
        if "s" not in state:
            os._exit(143)
        threading.Thread(target=state["s"].shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    while time.time() - T0 < LISTEN:
        time.sleep(0.05)
    s = state["s"] = S(("0.0.0.0", 8080), H)
    event(kind="listening")
    print("listening", flush=True)
    s.serve_forever(0.05)
    s.socket.close()
    end = time.time() + 60
    while active and time.time() < end:
        time.sleep(0.02)
    event(kind="exit", active=active)
    os._exit(143)


main()
