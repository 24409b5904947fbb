"""A server of files that runs within a test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `texts` by path, else `content`; can break off, ignore ranges, or fail."""

    def __init__(self, content: bytes = b""):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.break_after: list[int] = []  # bytes to send before hanging up, one entry per answer
        self.knows_ranges = True
        self.status = 200
        self.asked: list[str] = []
        self.sent = 0
        self.texts: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server: Server = self.server
        wanted = self.headers.get("Range", "")
        server.asked.append(wanted)
        content = server.texts.get(self.path, server.content)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.knows_ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if wanted and server.knows_ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        length = server.break_after.pop(0) if server.break_after else len(content)
        self.wfile.write(content[start : start + length])
        server.sent += len(content[start : start + length])
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def running_server(content: bytes = b"") -> Iterator[Server]:
    """A server that stops at the end of the block."""
    with Server(content) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()
