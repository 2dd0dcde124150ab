"""Shows how training proceeds: on the screen, in TensorBoard and in JSON lines.

`training_log.jsonl` has a line for each call of the training graph, or for
several calls if there would be too many lines, and a line with the entry
`evaluation` for each evaluation during training. Losses and gradient norms are
averages over the steps since the line before. Steps only increase: when an
interrupted run resumes, lines about steps that it will repeat are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import json
import math
import os
import time
from typing import Any, NamedTuple

from absl import logging
import numpy as np
import tensorflow as tf

from command_line import messages
from data import file_io
from training import training_step

# The log of a run has about this many lines at most.
_MAX_LOG_LINES = 5000
# Weight of the newest call in the moving average of the speed.
_SPEED_SMOOTHING = 0.3


class _TimedReport(NamedTuple):
  """Report of the steps of a call of the graph, and the seconds they took."""

  report: training_step.StepReport
  num_steps: int
  seconds: float


class Progress:
  """Shows and logs how training proceeds; a context manager."""

  def __init__(
    self,
    model_dir: str | None,
    step: int,
    max_steps: int,
    batch_size: int,
    peak_flops: float | None,
  ):
    """Opens the logs.

    Args:
      model_dir: Folder of the logs; None to write none.
      step: Step at which training starts.
      max_steps: Step at which training ends.
      batch_size: Examples per step.
      peak_flops: Operations per second at a utilisation of 100 %; None to log
        neither utilisation nor tokens.
    """
    self._step = step
    self._max_steps = max_steps
    self._batch_size = batch_size
    self._peak_flops = peak_flops
    self._last_time = time.monotonic()
    self._steps_per_second = 0.0  # not known yet
    self._is_first = True
    self._line = messages.ProgressLine(last_time=0.0)
    self._pending: list[_TimedReport] = []  # not written yet
    self._facts: dict[str, float] = {}
    self._writer: Any = None
    self._log: Any = None
    if model_dir:
      path = os.path.join(model_dir, "training_log.jsonl")
      _drop_later_steps(path, step)
      self._writer = tf.summary.create_file_writer(model_dir)
      self._log = tf.io.gfile.GFile(path, "a")

  def __enter__(self) -> Progress:
    logging.info("  The first step compiles the graph, which takes a while.")
    return self

  def __exit__(self, *unused_exception) -> None:
    self._line.keep()
    self._write_pending()
    if self._log:
      self._log.close()
      self._writer.close()

  def report_steps(
    self,
    step: int,
    report: training_step.StepReport,
    learning_rate: float,
    skipped_steps: int,
  ) -> None:
    """Shows and logs the steps of one call of the graph.

    Args:
      step: Number of the last step.
      report: Report of the steps, with arrays.
      learning_rate: Learning rate of the last step.
      skipped_steps: Number of steps of the whole run that changed nothing.
    """
    now = time.monotonic()
    num_steps = len(report.gradient_norm)
    timed = _TimedReport(report, num_steps, max(now - self._last_time, 1e-9))
    self._last_time = now
    if not self._is_first:  # the first call includes compilation
      self._measure_speed(timed)
    self._is_first = False
    self._step = step
    self._pending.append(timed)
    self._facts = {"learning_rate": learning_rate}
    if skipped_steps:
      self._facts["skipped_steps"] = skipped_steps
    self._show(self._make_record([timed]), now)
    # Even a run of a week writes no more lines than a viewer can read.
    num_pending = sum(pending.num_steps for pending in self._pending)
    is_due = num_pending >= self._max_steps / _MAX_LOG_LINES
    if is_due or step == self._max_steps:
      self._write_pending()

  def report_evaluation(self, step: int, results: Mapping[str, float]) -> None:
    """Logs the scores of an evaluation during training."""
    self._write_pending()
    self._write({"step": step, "evaluation": dict(results)})
    self.restart_clock()

  def restart_clock(self) -> None:
    """Leaves the time since the last step out of that of the next one."""
    self._last_time = time.monotonic()

  def _measure_speed(self, timed: _TimedReport) -> None:
    rate = timed.num_steps / timed.seconds
    old_rate = self._steps_per_second or rate
    self._steps_per_second = (
      1.0 - _SPEED_SMOOTHING
    ) * old_rate + _SPEED_SMOOTHING * rate

  def _make_record(self, calls: Sequence[_TimedReport]) -> dict[str, Any]:
    """Returns the entries of a log line about some calls of the graph."""
    report = _join([call.report for call in calls])
    num_steps = sum(call.num_steps for call in calls)
    rate = num_steps / sum(call.seconds for call in calls)
    is_good = np.isfinite(report.loss)
    record = {"step": self._step, "loss": _mean(report.loss, is_good)}
    if len(report.parts) > 1:
      for name, part in report.parts.items():
        record[name] = _mean(part, is_good)
    record.update(self._facts)
    norm = report.gradient_norm
    record["gradient_norm"] = _mean(norm, np.isfinite(norm))
    record["examples_per_second"] = rate * self._batch_size
    if self._peak_flops:
      flops = float(np.mean(report.flops)) * rate
      record["tokens_per_second"] = float(np.mean(report.tokens)) * rate
      record["model_flops_per_second"] = flops
      record["model_flop_utilisation"] = flops / self._peak_flops
    if report.loss_scale[-1] != 1.0:
      record["loss_scale"] = float(report.loss_scale[-1])
    return record

  def _write_pending(self) -> None:
    """Writes a line about all calls that no line is about yet."""
    if not self._pending:
      return
    record = self._make_record(self._pending)
    self._pending = []
    self._write(record)
    if self._writer:
      with self._writer.as_default(step=self._step):
        for name, value in record.items():
          if name != "step" and value is not None:
            tf.summary.scalar(name, value)

  def _write(self, record: Mapping[str, Any]) -> None:
    if self._log:
      self._log.write(json.dumps(record) + "\n")
      self._log.flush()

  def _show(self, record: Mapping[str, Any], now: float) -> None:
    """Shows a record on the screen, but not too often."""
    is_last = self._step == self._max_steps
    if not (is_last or self._line.is_due(now)):
      return
    loss = math.nan if record["loss"] is None else record["loss"]
    fields = [
      f"step {record['step']}/{self._max_steps}",
      f"loss {loss:.4f}",
      f"learning rate {record['learning_rate']:.3g}",
      f"{record['examples_per_second']:.1f} examples/s",
    ]
    if "model_flop_utilisation" in record:
      fields.append(f"{record['model_flop_utilisation']:.0%} of peak")
    if "skipped_steps" in record:
      fields.append(f"{record['skipped_steps']} steps skipped")
    if self._steps_per_second and not is_last:
      seconds_left = (self._max_steps - self._step) / self._steps_per_second
      fields.append(f"{_format_duration(seconds_left)} left")
    self._line.show("  ".join(fields), now, is_last)


class Counter:
  """Shows how many things were processed, if it takes long."""

  def __init__(self, noun: str = "examples"):
    """Starts the clock.

    Args:
      noun: Name of the things.
    """
    self._noun = noun
    self._number = 0
    self._start = time.monotonic()
    self._line = messages.ProgressLine(self._start)

  def add(self, number: int) -> None:
    """Counts things, and shows their number now and then."""
    self._number += number
    now = time.monotonic()
    if self._line.is_due(now):
      rate = self._number / (now - self._start)
      text = f"  {self._number} {self._noun}, {rate:.1f} {self._noun}/s"
      self._line.show(text, now)

  def end(self) -> None:
    """Removes the number from the screen."""
    self._line.erase()


def _join(
  reports: Sequence[training_step.StepReport],
) -> training_step.StepReport:
  """Returns a report of the steps of several reports."""
  return tf.nest.map_structure(
    lambda *columns: np.concatenate(columns), *reports
  )


def _mean(values: np.ndarray, is_good: np.ndarray) -> float | None:
  """Returns the mean of the good values; None, which JSON has, without any."""
  return float(np.mean(values[is_good])) if is_good.any() else None


def _drop_later_steps(log_file: str, step: int) -> None:
  """Removes lines about steps after `step`, which will be made again."""
  if not tf.io.gfile.exists(log_file):
    return
  lines = file_io.read_bytes(log_file).splitlines(keepends=True)
  kept = []
  for line in lines:
    try:
      if json.loads(line)["step"] <= step:
        kept.append(line)
    except (ValueError, TypeError, KeyError, RecursionError):
      pass  # a killed process left half a line, or the line is damaged
  if kept != lines:
    file_io.write_bytes(log_file, b"".join(kept))


def _format_duration(seconds: float) -> str:
  """Returns hours, minutes and seconds as `h:mm:ss`."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"


def log_lines(title: str, lines: Iterable[str]) -> None:
  """Logs lines under a title."""
  logging.info("***** %s *****", title)
  for line in lines:
    logging.info("  %s", line)
