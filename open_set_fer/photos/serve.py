"""Local web page for photographs, `osfer detect --serve`; uploads are never written to disk."""

from __future__ import annotations

import base64
import io
import json
import secrets
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from open_set_fer.benchmark.storage.detectors import Detector
from open_set_fer.console import console, log
from open_set_fer.errors import SuiteError, summary
from open_set_fer.photos.detect import annotated, detect_faces
from open_set_fer.photos.find import read_photo
from open_set_fer.templates import templates

HOST = "127.0.0.1"
MOST_BYTES = 20 << 20  # of a photograph
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def serve_page(detector: Detector, port: int) -> None:
    """Serve until Ctrl-C."""
    try:
        server = Server(detector, port)
    except OSError as error:
        raise SuiteError(f"port {port} is not free: {error.strerror}", "choose another with --port") from error
    console.print(f"drop photographs on http://{HOST}:{server.server_port} ; Ctrl-C ends it", highlight=False)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


class Server(ThreadingHTTPServer):
    """Server of the page and its predictions, on the loopback interface alone."""

    daemon_threads = True

    def __init__(self, detector: Detector, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        self.nonce = secrets.token_urlsafe(16)
        template = templates().get_template("photos/page.html.jinja")
        self.page = template.render(nonce=self.nonce, detector=detector.description, most=MOST_BYTES).encode()
        self._detector, self._lock = detector, threading.Lock()

    def predict(self, content: bytes) -> dict[str, Any]:
        """Faces of a photograph, with its annotated picture."""
        photo = read_photo(content)
        with self._lock:  # torch has its own threads; one photograph at a time is quickest
            faces = detect_faces(self._detector, photo)
        file = io.BytesIO()
        annotated(photo, faces).save(file, "JPEG", quality=90)
        picture = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        return {"faces": [face.content() for face in faces], "picture": picture}


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "osfer", ""
    timeout = 60

    def do_GET(self) -> None:
        if self._is_same_origin() and urlsplit(self.path).path == "/":
            self._send(200, self.server.page, "text/html; charset=utf-8")
        else:
            self._refuse(404, "the only page is /")

    def do_POST(self) -> None:
        if not self._is_same_origin():
            return self._refuse(403, "the request comes from another site")
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self._refuse(411, "the request has no Content-Length")
        if not 0 < length <= MOST_BYTES:
            self.close_connection = True  # the body is not read
            return self._refuse(413, f"a photograph has at most {MOST_BYTES >> 20} MiB")
        try:
            content = self.server.predict(self.rfile.read(length))
        except SuiteError as error:
            return self._refuse(422, error.message)
        except Exception as error:
            log.warning("a photograph failed: %s", summary(error))
            return self._refuse(500, "this photograph failed; the terminal has the reason")
        self._json(200, content)

    def _is_same_origin(self) -> bool:
        """Whether the host is a name of this machine (no DNS rebinding) and a page's request comes from this page."""
        host = urlsplit(f"//{self.headers.get('Host', '')}")
        origin = self.headers.get("Origin")
        return f"{host.hostname}" in (HOST, "localhost", "::1") and origin in (None, f"http://{host.netloc}")

    def _refuse(self, status: int, reason: str) -> None:
        self._json(status, {"error": reason})

    def _json(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "X-Content-Type-Options": "nosniff"}
        headers |= {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
        self.send_response(status)
        for name, value in (headers | {"Content-Security-Policy": POLICY.format(self.server.nonce)}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log no request: photographs are private."""
