"""Chromium without a screen, driven by its own protocol: what a page says, shows, and does when a pointer moves."""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any


class Browser:
    """A tab. Everything that the page logs, throws or breaks is kept in `complaints`."""

    def __init__(self, profile: Path):
        """Starts Chromium with a profile of its own."""
        assert shutil.which("chromium"), "no chromium here: apt-get install --no-install-recommends chromium"
        line = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        line += ["--remote-debugging-port=0", "--window-size=1280,1500", "--no-first-run", "about:blank"]
        self.process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.loop, self.numbers, self.complaints = asyncio.new_event_loop(), itertools.count(1), list[str]()
        self.socket = self.loop.run_until_complete(self._connect(profile / "DevToolsActivePort"))
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    async def _connect(self, told: Path) -> Any:
        from tornado.websocket import websocket_connect

        await_until(lambda: told.exists() and told.read_text().strip())
        port = told.read_text().split()[0]
        tabs: list[dict[str, Any]] = []
        await_until(lambda: tabs.extend(each for each in _tabs(port) if each["type"] == "page") or tabs)
        return await websocket_connect(tabs[0]["webSocketDebuggerUrl"], max_message_size=2**28)

    def ask(self, method: str, **given: Any) -> dict[str, Any]:
        """Returns what Chromium answers to a command of its protocol."""
        return self.loop.run_until_complete(self._ask(next(self.numbers), method, given))

    async def _ask(self, number: int, method: str, given: dict[str, Any]) -> dict[str, Any]:
        await self.socket.write_message(json.dumps({"id": number, "method": method, "params": given}))
        while True:
            answer = json.loads(await asyncio.wait_for(self.socket.read_message(), 60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(answer["params"])[:500])

    def open(self, address: str) -> None:
        """Shows a page."""
        self.ask("Page.navigate", url=address)
        await_until(lambda: self.value("document.readyState") == "complete")

    def value(self, expression: str) -> Any:
        """Returns the value of an expression of JavaScript on the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def pointer(self, kind: str, x: float, y: float, **given: Any) -> None:
        """Moves, presses, releases or turns the wheel of a mouse."""
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **given)

    def picture(self, path: Path) -> None:
        """Writes what is seen into a .png."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def close(self) -> None:
        """Ends it."""
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        self.loop.close()


def _tabs(port: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
        return json.load(answer)


def await_until(is_true: Any, seconds: float = 90) -> Any:
    """Returns the value of a condition as soon as it holds."""
    until = time.monotonic() + seconds
    while not (found := is_true()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)
    return found
