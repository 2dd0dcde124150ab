"""Tests of rest_server.py: clients that misbehave harm nobody else."""

import contextlib
import json
import socket
import urllib.parse
import urllib.request

import pytest
import served_models

from errors import UserError
from serving import rest_server

BODY = b'{"rows": ["a cat"]}'
HEADER = (
  b"POST /v1/models/one:answer HTTP/1.1\r\nHost: x\r\n"
  b"Content-Length: %d\r\n\r\n" % len(BODY)
)


def ask(address):
  """Returns the answer to a request of a client that behaves."""
  request = urllib.request.Request(address + "v1/models/one:answer", BODY)
  with urllib.request.urlopen(request, timeout=60) as answer:
    return json.load(answer)["answers"]


@contextlib.contextmanager
def connection(address):
  parts = urllib.parse.urlsplit(address)
  with socket.create_connection((parts.hostname, parts.port), 60) as opened:
    yield opened


def read_all(opened):
  """Returns all bytes until the server closes the connection."""
  content = b""
  with contextlib.suppress(ConnectionResetError):
    while part := opened.recv(65536):
      content += part
  return content


def test_slow_clients_are_given_up_and_others_answered():
  library = served_models.fake_library("one")
  starts = [b"", b"POST /v1/mod", HEADER[:-2], HEADER, HEADER + BODY[:5]]
  with served_models.running(library, timeout=0.5) as address:
    with contextlib.ExitStack() as stack:
      opened = [stack.enter_context(connection(address)) for _ in starts]
      for one, start in zip(opened, starts):
        one.sendall(start)
      assert ask(address)[0]["label"] == "short"
      answers = [read_all(one) for one in opened]
  # Before a whole header there is nothing to answer.
  assert answers[:3] == [b"", b"", b""]
  for answer in answers[3:]:
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'{"error":"The body did not arrive' in answer


def test_dropped_and_malformed_requests_harm_nobody():
  library = served_models.fake_library("one")
  with served_models.running(library) as address:
    for start in (b"", HEADER[:20], HEADER, HEADER + BODY[:5], HEADER + BODY):
      with connection(address) as opened:
        opened.sendall(start)
    for wrong in (b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" * 40):
      with connection(address) as opened:
        opened.sendall(wrong + b"\r\n\r\n")
        assert read_all(opened).startswith(b"HTTP/1.1 400 ")
    assert ask(address)[0]["label"] == "short"


def test_a_large_body_is_refused_before_it_is_read():
  library = served_models.fake_library("one")
  size = 10**12
  header = HEADER.replace(b"Length: %d" % len(BODY), b"Length: %d" % size)
  with served_models.running(library) as address:
    with connection(address) as opened:
      opened.sendall(header + b"{")
      # The server closes the connection, although the rest never comes.
      assert read_all(opened).startswith(b"HTTP/1.1 413 ")
    assert ask(address)[0]["label"] == "short"


def test_a_connection_answers_many_requests():
  library = served_models.fake_library("one")
  request = HEADER + BODY
  with served_models.running(library) as address:
    with connection(address) as opened:
      for number in (1, 3):
        opened.sendall(request * number)  # also without waiting for answers
        content = b""
        while content.count(b"answers") < number:
          content += opened.recv(65536)
        assert content.count(b"HTTP/1.1 200 ") == number


def test_ports_and_hosts_that_cannot_be_used_are_explained():
  with rest_server.bind("127.0.0.1", 0) as listener:
    port = listener.getsockname()[1]
    assert rest_server.is_private(listener)
    assert rest_server.address_of(listener) == f"http://127.0.0.1:{port}/"
    with pytest.raises(UserError, match=f"--port={port}: cannot listen"):
      rest_server.bind("127.0.0.1", port)
  with pytest.raises(UserError, match="--host=no.such.host.invalid"):
    rest_server.bind("no.such.host.invalid", 0)
  with rest_server.bind("0.0.0.0", 0) as listener:
    assert not rest_server.is_private(listener)
    assert rest_server.address_of(listener).startswith("http://127.0.0.1:")
