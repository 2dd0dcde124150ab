"""Opens pages in a headless Chromium, for tests."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ERRORS = (
  "Runtime.exceptionThrown",
  "Runtime.consoleAPICalled",
  "Log.entryAdded",
)


class Browser:
  """A page in Chromium, which speaks the DevTools protocol over pipes.

  Attributes:
    errors: What the page wrote to the console, and its exceptions.
    requests: Addresses that the page asked for.
  """

  def __init__(self, reader, writer):
    """Opens an empty page."""
    self._reader, self._writer = reader, writer
    self._number, self._session, self._loaded = 0, None, False
    self.errors, self.requests = [], []
    target = self._call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self._call(
      "Target.attachToTarget", targetId=target, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self._call(f"{domain}.enable")

  def _call(self, method, **parameters):
    """Returns the result of a method; events that come before are kept."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": parameters}
    if self._session:
      message["sessionId"] = self._session
    self._writer.write(json.dumps(message).encode() + b"\0")
    self._writer.flush()
    while True:
      answer = self._read()
      if answer.get("id") == self._number:
        assert "error" not in answer, answer
        return answer["result"]

  def _read(self):
    content = b""
    while not content.endswith(b"\0"):
      byte = self._reader.read(1)
      assert byte, "Chromium ended"
      content += byte
    message = json.loads(content[:-1])
    method, parameters = message.get("method"), message.get("params")
    if method == "Network.requestWillBeSent":
      self.requests.append(parameters["request"]["url"])
    elif method in _ERRORS:
      self.errors.append(parameters)
    elif method == "Page.loadEventFired":
      self._loaded = True
    return message

  def open(self, path):
    """Opens a file, and waits until it is loaded."""
    self.open_address(f"file://{path}")

  def open_address(self, address):
    """Opens an address, and waits until it is loaded."""
    self._loaded = False
    self._call("Page.navigate", url=address)
    while not self._loaded:
      self._read()

  def resize(self, width):
    """Gives the page the width of another screen."""
    self._call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=800,
      deviceScaleFactor=1,
      mobile=False,
    )

  def evaluate(self, script):
    """Returns the value of an expression in the page, or of its promise."""
    result = self._call(
      "Runtime.evaluate",
      expression=script,
      returnByValue=True,
      awaitPromise=True,
    )
    assert "exceptionDetails" not in result, result
    return result["result"].get("value")

  def wait_for(self, script):
    """Waits until an expression in the page is true."""
    self.evaluate(
      "new Promise((resolve) => { const look = () => "
      f"({script}) ? resolve() : setTimeout(look, 10); look(); }})"
    )

  def write(self, text):
    """Writes text where the cursor is."""
    self._call("Input.insertText", text=text)

  def press(self, key, code, control=False):
    """Presses a key, such as ("Enter", 13)."""
    for kind in ("rawKeyDown", "keyUp"):
      self._call(
        "Input.dispatchKeyEvent",
        type=kind,
        key=key,
        code=key,
        windowsVirtualKeyCode=code,
        modifiers=2 if control else 0,
      )

  def drop_file(self, path, selector):
    """Drops a file on an element."""
    box = self.evaluate(
      f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
      "e.scrollIntoView(); const b = e.getBoundingClientRect();"
      "return [b.left + b.width / 2, b.top + b.height / 2]; })()"
    )
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
      self._call(
        "Input.dispatchDragEvent", type=kind, x=box[0], y=box[1], data=data
      )

  def show(self, width, height, is_dark=False):
    """Sets the size of the screen in pixels, and whether it is dark."""
    self._call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=width < 600,
    )
    scheme = "dark" if is_dark else "light"
    feature = {"name": "prefers-color-scheme", "value": scheme}
    self._call("Emulation.setEmulatedMedia", features=[feature])

  def save_screenshot(self, path):
    """Writes a picture of the whole page, as PNG."""
    result = self._call("Page.captureScreenshot", captureBeyondViewport=True)
    path.write_bytes(base64.b64decode(result["data"]))

  def allow_downloads(self, folder):
    """Lets the page save files in a folder."""
    self._call(
      "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder)
    )


@contextlib.contextmanager
def opened():
  """Yields a `Browser`, or skips the test if Chromium is not installed."""
  program = next(filter(None, map(shutil.which, _NAMES)), None)
  if not program:
    pytest.skip("no Chromium is installed")
  # Chromium reads commands from the file 3, and writes answers to the file 4.
  command_out, command_in = os.pipe()
  answer_out, answer_in = os.pipe()
  # The browser may still write to its folder while it ends.
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    process = subprocess.Popen(
      [
        *("bash", "-c", f'exec "$@" 3<&{command_out} 4>&{answer_in}', "bash"),
        *(program, "--headless", "--no-sandbox", "--disable-gpu"),
        *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
      ],
      pass_fds=(command_out, answer_in),
      stderr=subprocess.DEVNULL,
    )
    os.close(command_out)
    os.close(answer_in)
    try:
      with os.fdopen(answer_out, "rb") as reader:
        with os.fdopen(command_in, "wb") as writer:
          yield Browser(reader, writer)
    finally:
      process.terminate()
      process.wait()
