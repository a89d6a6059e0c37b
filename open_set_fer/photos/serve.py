"""A page on the loopback interface to drop photographs on: `osfer detect --serve`. Nothing that comes in is written to disk."""

from __future__ import annotations

import base64
import io
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import jinja2

from open_set_fer.benchmark.storage.detectors import Detector
from open_set_fer.console import console, log
from open_set_fer.errors import SuiteError, summary
from open_set_fer.photos.detect import annotated, detect_faces
from open_set_fer.photos.find import read_photo

HOST = "127.0.0.1"
MOST_BYTES = 20 << 20
"""Of a photograph."""


def serve_page(detector: Detector, port: int) -> None:
    """Serve until Ctrl-C."""
    try:
        server = make_server(detector, port)
    except OSError as error:
        raise SuiteError(f"port {port} is not free: {error.strerror}", "choose another with --port") from error
    console.print(f"drop photographs on http://{HOST}:{server.server_port} ; Ctrl-C ends it", highlight=False)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def make_server(detector: Detector, port: int) -> ThreadingHTTPServer:
    """A server on the loopback interface alone."""
    lock, nonce = threading.Lock(), secrets.token_urlsafe(16)
    template = jinja2.Environment(autoescape=True).from_string(
        files("open_set_fer.photos").joinpath("page.html.jinja").read_text("utf-8")
    )
    described = detector.description
    page = template.render(nonce=nonce, described=described, most=MOST_BYTES).encode()

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "osfer", ""
        timeout = 60

        def do_GET(self) -> None:
            if self._is_ours() and urlsplit(self.path).path == "/":
                self._send(200, page, "text/html; charset=utf-8")
            else:
                self._refuse(404, "there is only one page here: /")

        def do_POST(self) -> None:
            if not self._is_ours():
                return self._refuse(403, "another site asks")
            try:
                length = int(self.headers.get("Content-Length", ""))
            except ValueError:
                return self._refuse(411, "the request does not say how long it is")
            if not 0 < length <= MOST_BYTES:
                self.close_connection = True  # what follows is not read
                return self._refuse(413, f"a photograph has at most {MOST_BYTES >> 20} MiB")
            try:
                photo = read_photo(self.rfile.read(length))
                with lock:  # torch has its own threads; one photograph at a time is quickest
                    faces = detect_faces(detector, photo)
            except SuiteError as error:
                return self._refuse(422, error.message)
            except Exception as error:
                log.warning("a photograph could not be answered: %s", summary(error))
                return self._refuse(500, "this photograph could not be answered; the terminal says why")
            file = io.BytesIO()
            annotated(photo, faces).save(file, "JPEG", quality=90)
            picture = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
            self._json(200, {"faces": [face.content() for face in faces], "picture": picture})

        def _is_ours(self) -> bool:
            """Asked for under a name of this machine, not one that somebody points here, and by its own page where a page asks."""
            host = urlsplit(f"//{self.headers.get('Host', '')}")
            origin = self.headers.get("Origin")
            return f"{host.hostname}" in (HOST, "localhost", "::1") and origin in (None, f"http://{host.netloc}")

        def _refuse(self, status: int, why: str) -> None:
            self._json(status, {"error": why})

        def _json(self, status: int, content: dict[str, Any]) -> None:
            self._send(status, json.dumps(content).encode(), "application/json")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            policy = (
                f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
                "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
            for name, value in {
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                "Content-Security-Policy": policy,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-store",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are nobody's business."""

    server = ThreadingHTTPServer((HOST, port), Handler)
    server.daemon_threads = True
    return server
