"""A headless Chromium, driven over its DevTools pipe: nothing to install but the browser."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_SECONDS = 30.0


def chromium() -> str | None:
    """The path of a Chromium, None if this machine has none."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a browser; ``events`` collects what it reports, requests among it."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._buffer, self._last, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something and wait for its answer."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._reader], [], [], _SECONDS)[0]:
                raise TimeoutError("the browser does not answer")
            block = os.read(self._reader, 1 << 20)
            if not block:
                raise RuntimeError("the browser has closed")
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, a promise's result included."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:600])
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 15.0) -> Any:
        """The first true value of an expression.

        Raises:
            TimeoutError: it has none in time.
        """
        end = time.monotonic() + seconds
        # While a page loads, what the expression asks for may not be there yet.
        patient = f"(() => {{ try {{ return {script} }} catch {{ return null }} }})()"
        while not (value := self.run(patient)):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {script}")
            time.sleep(0.02)
        return value

    def open(self, page: Path, address: str = "") -> None:
        """Load a page from disk afresh."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.resolve().as_uri() + address)

    def press(self, key: str) -> None:
        """Press and release one key."""
        text = key if len(key) == 1 else ""
        named = {"Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "Tab": 9}
        code = named.get(key, ord(key.upper()) if text else 0)
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def look(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """Save a screenshot."""
        self.size(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        time.sleep(0.3)
        shot = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def size(self, width: int, height: int) -> None:
        """Give the window a size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def requested(self) -> set[str]:
        """Every address that was asked for since the start."""
        self.run("0")  # so that events on their way are here
        return {
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        }

    def complaints(self) -> list[str]:
        """What the console says: errors, exceptions, violations of the policy."""
        self.run("0")
        found = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"])[:400])
            if event.get("method") == "Log.entryAdded":
                found.append(event["params"]["entry"]["text"])
        return found


@contextmanager
def browser(executable: str, profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile; it ends with the block."""
    to_browser, from_us = os.pipe()
    from_browser, to_us = os.pipe()
    command = f'exec "$@" 3</dev/fd/{to_browser} 4>/dev/fd/{to_us}'
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", executable, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(to_browser, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser)
    os.close(to_us)
    try:
        page = Browser(from_browser, from_us)
        yield page
        page._session = ""
        page.call("Browser.close")
        process.wait(10)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(from_us)
        os.close(from_browser)
