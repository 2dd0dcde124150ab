"""Limits of a server, which protect it and its other clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from errors import UserError


class ServerLimits(NamedTuple):
  """Limits of a server.

  Attributes:
    max_batch_size: Largest number of rows that are answered together.
    batch_delay: Seconds that a row waits for others.
    max_body_bytes: Largest body of a request.
    max_rows: Largest number of rows of a request.
    max_text_bytes: Largest number of bytes of text of a row.
    max_queue_rows: Largest number of rows that wait.
    timeout: Seconds for the body of a request, and again for its answer.
    poll_seconds: Seconds between two looks for new versions.
  """

  max_batch_size: int = 32
  batch_delay: float = 0.002
  max_body_bytes: int = 2_000_000
  max_rows: int = 256
  max_text_bytes: int = 100_000
  max_queue_rows: int = 1024
  timeout: float = 60.0
  poll_seconds: float = 5.0

  def check_sizes(self, sizes: Sequence[int]) -> None:
    """Raises a UserError if a request has too many rows, or too long ones.

    Args:
      sizes: Bytes of text of each row, at least of one.
    """
    if len(sizes) > self.max_rows:
      raise UserError(
        f"The request has {len(sizes)} rows, more than the {self.max_rows} "
        "that this server takes at once. Send several requests."
      )
    if max(sizes) > self.max_text_bytes:
      raise UserError(
        f"A row has {max(sizes)} bytes of text, more than the "
        f"{self.max_text_bytes} that this server takes. Split the text."
      )
