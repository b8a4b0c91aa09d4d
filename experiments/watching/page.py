"""The page of a sweep: one file, alive where a server stands behind it, or as it was when it was exported."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kleiber.experiments.watching.access import is_allowed, new_token
from kleiber.experiments.watching.state import Watch


def page(state: dict[str, Any], is_live: bool) -> str:
    """Returns the page that shows a state, and asks for newer ones if it is live."""
    text = json.dumps({**state, "is_live": is_live}).replace("<", "\\u003c")  # no text of a run ends the script
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8").replace("__STATE__", text)


class Server:
    """Serves the page of one sweep, and answers nothing but GET."""

    def __init__(self, watch: Watch, host: str, port: int):
        """Takes a port, any free one if it is 0.

        Raises:
          ValueError: the port is taken, or the host is none of this machine.
        """
        self.watch, self.lock = watch, threading.Lock()
        self.token = new_token(host)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        try:
            self.server = ThreadingHTTPServer((host, port), Handler)
        except OSError as problem:
            raise ValueError(f"no page on {host}:{port} ({problem.strerror}); give another --port or --host.") from None
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.address = f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def look(self) -> dict[str, Any]:
        """Returns the state of the sweep; one look at a time."""
        with self.lock:
            return self.watch.look()

    def serve(self) -> None:
        """Answers, in a thread of its own, until the process ends."""
        threading.Thread(target=self.server.serve_forever, name="kleiber-page", daemon=True).start()

    def close(self) -> None:
        """Answers no more."""
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answers one request: the page, or its state."""
        asked = urlsplit(request.path)
        given = parse_qs(asked.query).get("token", [""])[0]
        if not is_allowed(self.token, given, request.headers.get("Host", "")):
            return self._send(request, 403, "text/plain", "not for you: use the address that kleiber watch printed")
        try:
            if asked.path == "/":
                return self._send(request, 200, "text/html", page(self.look(), is_live=True))
            if asked.path == "/state.json":
                return self._send(request, 200, "application/json", json.dumps(self.look()))
        except (OSError, ValueError) as problem:
            return self._send(request, 503, "text/plain", str(problem))
        return self._send(request, 404, "text/plain", "there is / and /state.json")

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, code: int, kind: str, text: str) -> None:
        body = text.encode()
        request.send_response(code)
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
        headers |= {"Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        headers |= {"X-Content-Type-Options": "nosniff"}
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)
