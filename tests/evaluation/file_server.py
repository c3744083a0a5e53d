"""A web server on this machine that has one file, and faults that a test asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = 1 << 16


@dataclass
class FileServer:
    """What is served, how, and what was asked for."""

    content: bytes
    tag: str | None = '"one"'
    takes_ranges: bool = True
    states_length: bool = True
    cuts: list[int] = field(default_factory=list)
    """How many bytes each connection brings before it is cut, one after the other."""
    stop_at: int | None = None
    """Send nothing after so many bytes of the file, and keep the connection open."""
    status: int = 200
    requests: list[dict[str, str]] = field(default_factory=list)
    """The headers of every request."""
    sent_bytes: int = 0
    is_waiting: threading.Event = field(default_factory=threading.Event)
    """Set when `stop_at` is reached."""
    url: str = ""

    def start_of(self, headers: dict[str, str]) -> int:
        """The first byte that a request asks for."""
        is_same = headers.get("If-Range") == self.tag
        wanted = headers.get("Range", "bytes=0-")
        return int(wanted[6:-1]) if self.takes_ranges and is_same else 0


@contextmanager
def serve(server: FileServer) -> Iterator[FileServer]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = dict(self.headers.items())
            server.requests.append(headers)
            start = server.start_of(headers)
            size = len(server.content)
            if server.status != 200:
                self.send_error(server.status)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            if server.states_length:
                self.send_header("Content-Length", str(size - start))
            if server.tag:
                self.send_header("ETag", server.tag)
            self.end_headers()
            end = start + server.cuts.pop(0) if server.cuts else size
            for first in range(start, min(end, size), BLOCK):
                if server.stop_at is not None and first >= server.stop_at:
                    server.is_waiting.set()
                    ended.wait(60)
                    return
                block = server.content[first : min(first + BLOCK, end)]
                self.wfile.write(block)
                server.sent_bytes += len(block)

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server.url = f"http://127.0.0.1:{listening.server_port}/data.zip"
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        ended.set()
        listening.shutdown()
        listening.server_close()
