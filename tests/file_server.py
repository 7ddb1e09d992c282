"""A file server on this machine that can be told to misbehave."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google_crc32c


def goog_hash(content: bytes) -> str:
    """The header of the public server: checksums of the bytes."""
    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
    crc = google_crc32c.Checksum(content).digest()
    return f"crc32c={base64.b64encode(crc).decode()},md5={md5}"


@dataclass
class Served:
    """One file and how it is served.

    Attributes:
        faults: one for each GET, in order, then none: a status to answer, or ``drop N`` (close
            after N bytes), ``short N`` (say and send N bytes less), ``wrong`` (other bytes), or a
            function to call first.
        ranges: whether Range is understood.
        headers: more of them, by name; None leaves one of the usual out.
    """

    content: bytes
    faults: list[int | str | Callable[[], None]] = field(default_factory=list)
    head_faults: list[int] = field(default_factory=list)
    ranges: bool = True
    headers: dict[str, str | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def usual_headers(self) -> dict[str, str]:
        etag = hashlib.sha256(self.content).hexdigest()[:8]
        usual = {"ETag": f'"{etag}"', "x-goog-hash": goog_hash(self.content), **self.headers}
        return {name: value for name, value in usual.items() if value is not None}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, Served]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        served = self.files.get(self.path)
        status = 404 if served is None else 200
        if served is not None and served.head_faults:
            status = served.head_faults.pop(0)
        self.send_response(status)
        if served is not None and status == 200:
            length = {"Content-Length": str(len(served.content))}
            self._headers({**length, **served.usual_headers()})
        self.end_headers()

    def do_GET(self) -> None:
        served = self.files[self.path]
        wanted = self.headers.get("Range", "")
        served.asked.append(wanted)
        fault = served.faults.pop(0) if served.faults else ""
        if callable(fault):
            fault()
            fault = ""
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = served.content
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and served.ranges else 0
        if start >= len(content) > 0:
            self.send_response(416)
            self._headers({"Content-Length": "0", **served.usual_headers()})
            self.end_headers()
            return
        word, _, number = fault.partition(" ")
        body = content[start:]
        if word == "wrong":
            body = bytes(255 - byte for byte in body)
        if word == "short":
            body = body[: -int(number)]
        self.send_response(206 if start else 200)
        if start:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", span)
        self._headers({"Content-Length": str(len(body)), **served.usual_headers()})
        self.end_headers()
        self.wfile.write(body[: int(number)] if word == "drop" else body)
        if word == "drop":
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def _headers(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            if name != "Content-Length" or value != "unknown":
                self.send_header(name, value)


@contextmanager
def serving(files: dict[str, Served]) -> Iterator[str]:
    """Serve ``files`` by name under the address that is yielded."""
    paths = {f"/public/{name}": served for name, served in files.items()}
    handler = type("Handler", (_Handler,), {"files": paths})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/public"
    finally:
        server.shutdown()
        server.server_close()
