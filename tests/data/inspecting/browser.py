"""A real headless Chromium, driven by its DevTools protocol."""

import base64
import contextlib
import itertools
import json
from pathlib import Path
import shutil
import subprocess
import time
import urllib.request

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_SECONDS = 60


class Page:
    """One open page; `errors` are what its scripts threw and what its console was told of as an error."""

    def __init__(self, socket):
        self._socket, self._numbers, self.errors, self.requests = socket, itertools.count(1), [], []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Sends a command and waits for its answer; hears events on the way."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._hear(message)

    def _hear(self, message):
        what, about = message["method"], message["params"]
        if what == "Runtime.exceptionThrown" or (what == "Log.entryAdded" and about["entry"]["level"] == "error"):
            self.errors.append(about)
        elif what == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif what == "Page.loadEventFired":
            self.loaded = True

    def open(self, path):
        self.loaded = False
        self.call("Page.navigate", url=Path(path).absolute().as_uri())
        while not self.loaded:
            self._hear(json.loads(self._socket.recv()))

    def run(self, script):
        """The value of an expression of JavaScript."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def place(self, element):
        """The middle of an element, brought into view; `element` is an expression of JavaScript."""
        self.run(f"({element}).scrollIntoView({{block: 'center'}})")
        box = json.loads(self.run(f"JSON.stringify(({element}).getBoundingClientRect())"))
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def move_mouse(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x, y):
        for what in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=what, x=x, y=y, button="left", clickCount=1)

    def screenshot(self):
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def opened(folder):
    """A page of a browser of its own, whose profile lies in `folder`."""
    import websocket

    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1300,1000"]
    ports = ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder}"]
    program = subprocess.Popen([PROGRAM, *options, *ports, "about:blank"], stderr=subprocess.DEVNULL)
    try:
        port = _wait_for(Path(folder) / "DevToolsActivePort").split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_SECONDS) as answer:
            target = next(page for page in json.load(answer) if page["type"] == "page")
        socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=_SECONDS)
        yield Page(socket)
        socket.close()
    finally:
        program.terminate()
        program.wait()


def _wait_for(path):
    deadline = time.monotonic() + _SECONDS
    while not (path.exists() and path.read_text().count("\n")):
        assert time.monotonic() < deadline, "Chromium does not open its port"
        time.sleep(0.05)
    return path.read_text()
