"""Runs the REST API on a port, until a signal ends it."""

from __future__ import annotations

import socket
from typing import Any

from absl import logging
import h11
import uvicorn
from uvicorn.protocols.http import h11_impl

from errors import Interrupted
from errors import UserError

# After an answer to a request whose body still arrives, the client has this
# many seconds to read it.
_SECONDS_TO_READ = 1.0


def bind(host: str, port: int) -> socket.socket:
  """Returns a socket that listens on a port.

  Args:
    host: Name or address of the interface.
    port: The port; 0 for any that is free.

  Raises:
    UserError: The port is taken, or the host has no such address.
  """
  try:
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = addresses[0]
    listener = socket.socket(family, kind, protocol)
  except OSError as error:
    raise UserError(
      f"--host={host}: this machine has no such address ({error.strerror}). "
      "Pass 127.0.0.1 for this machine alone, or 0.0.0.0 for all networks."
    ) from error
  try:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen()
  except OSError as error:
    listener.close()
    raise UserError(
      f"--port={port}: cannot listen on {host} ({error.strerror}). Pass "
      "another --port, or end the program that has it."
    ) from error
  return listener


def is_private(listener: socket.socket) -> bool:
  """Returns whether only this machine reaches a socket."""
  address = listener.getsockname()[0]
  return address.startswith("127.") or address == "::1"


def address_of(listener: socket.socket) -> str:
  """Returns the address of a socket for a browser on this machine."""
  host, port = listener.getsockname()[:2]
  if host in ("0.0.0.0", "::"):
    host = "127.0.0.1"
  return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class ImpatientProtocol(h11_impl.H11Protocol):
  """Connections that end if a header, or the rest of a body, does not come."""

  seconds = 60.0
  _timer: Any = None
  _discards_body = False

  def connection_made(self, transport: Any) -> None:
    super().connection_made(transport)
    self._set_timer(self.seconds)

  def data_received(self, data: bytes) -> None:
    super().data_received(data)
    waits_for_header = self.conn.their_state is h11.IDLE
    if self._discards_body and waits_for_header:
      self._discards_body = False
      self._set_timer(self.seconds)
    elif not (self._discards_body or waits_for_header):
      self._set_timer(None)  # the application watches the time

  def on_response_complete(self) -> None:
    self._discards_body = self.conn.their_state is h11.SEND_BODY
    super().on_response_complete()
    if self._discards_body:
      self._set_timer(_SECONDS_TO_READ)
    elif self.conn.their_state is h11.IDLE:
      self._set_timer(self.seconds)

  def connection_lost(self, exc: Exception | None) -> None:
    super().connection_lost(exc)
    self._set_timer(None)

  def _set_timer(self, seconds: float | None) -> None:
    """Replaces the time after which the connection ends; None for never."""
    if self._timer:
      self._timer.cancel()
    self._timer = None
    if seconds is not None:
      self._timer = self.loop.call_later(seconds, self._give_up)

  def _give_up(self) -> None:
    if not self.transport.is_closing():
      self.transport.close()


def create_server(app: Any, timeout: float) -> uvicorn.Server:
  """Returns a server that answers what has begun before it ends.

  Args:
    app: The application.
    timeout: Seconds that a client may take for a header.
  """
  protocol = type("Protocol", (ImpatientProtocol,), {"seconds": timeout})
  config = uvicorn.Config(
    app,
    http=protocol,
    ws="none",
    log_config=None,
    log_level="error",
    access_log=False,
    server_header=False,
    # The application gives up on a request itself, after its timeout for the
    # body and that for the answer.
    timeout_graceful_shutdown=round(2 * timeout) + 1,
  )
  return uvicorn.Server(config)


def run(app: Any, listener: socket.socket, timeout: float) -> None:
  """Answers requests until a signal comes, and then those that have begun.

  Args:
    app: The application.
    listener: Socket that listens.
    timeout: Seconds that a client may take for a header.
  """
  try:
    create_server(app, timeout).run(sockets=[listener])
  except Interrupted:
    # uvicorn has answered what had begun, and then repeats the signal.
    logging.info("Stopped; requests that had begun were answered.")
