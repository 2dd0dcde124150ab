"""Counters and timings of a server, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import prometheus_client
from prometheus_client import exposition
from prometheus_client import process_collector
from prometheus_client import registry

from serving import model_versions

_SECONDS = (
  *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
  *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Weight of the newest batch in the mean of the seconds per row.
_NEWEST = 0.1


class ServerMetrics:
  """Counters of one server."""

  def __init__(
    self,
    library: model_versions.ModelLibrary,
    count_waiting: Callable[[], int],
  ):
    """Makes the counters.

    Args:
      library: The models; requests for others are counted together.
      count_waiting: Returns the number of rows that wait.
    """
    self._library = library
    self._count_waiting = count_waiting
    self._registry = registry.CollectorRegistry()
    options: Any = {"registry": self._registry}
    self._requests = prometheus_client.Counter(
      "bert_requests",
      "Requests, by the status of their answers.",
      ["model", "method", "status"],
      **options,
    )
    self._seconds = prometheus_client.Histogram(
      "bert_request_seconds",
      "Time from the header of a request to its answer.",
      ["model", "method"],
      buckets=_SECONDS,
      **options,
    )
    self._batch_rows = prometheus_client.Histogram(
      "bert_batch_rows", "Rows of a batch.", buckets=_ROWS, **options
    )
    self._batch_seconds = prometheus_client.Histogram(
      "bert_batch_seconds",
      "Time that the model takes for a batch.",
      buckets=_SECONDS,
      **options,
    )
    waiting = prometheus_client.Gauge(
      "bert_waiting_rows", "Rows that wait for the model.", **options
    )
    waiting.set_function(count_waiting)
    self._versions = prometheus_client.Gauge(
      "bert_model_version",
      "Version of a model that answers; 0 while the first one is loaded.",
      ["model"],
      **options,
    )
    process_collector.ProcessCollector(**options)
    self._seconds_per_row = 0.0

  def observe_request(
    self, model: str, method: str, status: int, seconds: float
  ) -> None:
    """Counts a request that has been answered."""
    if model not in self._library.models:
      model = ""
    self._requests.labels(model, method, str(status)).inc()
    self._seconds.labels(model, method).observe(seconds)

  def observe_batch(self, num_rows: int, seconds: float) -> None:
    """Counts a batch."""
    self._batch_rows.observe(num_rows)
    self._batch_seconds.observe(seconds)
    change = seconds / num_rows - self._seconds_per_row
    self._seconds_per_row += _NEWEST * change

  def seconds_to_wait(self) -> str:
    """Returns the value of Retry-After: whole seconds for the waiting rows."""
    seconds = self._count_waiting() * self._seconds_per_row
    return str(max(1, math.ceil(seconds)))

  def format(self) -> tuple[bytes, str]:
    """Returns all metrics as Prometheus reads them, and their content type."""
    for model in self._library.models.values():
      number = model.current.number if model.current else 0
      self._versions.labels(model.name).set(number)
    return (
      exposition.generate_latest(self._registry),
      exposition.CONTENT_TYPE_LATEST,
    )
