"""Shows how training goes: on the screen, to TensorBoard, and in JSON lines.

`training_log.jsonl` has a line for each call of the training graph, or for
several if that would be too many, and one with the entry `evaluation` for each
evaluation on the way. Losses and gradient norms are means over the steps since
the line before. Steps rise: what an interrupted run will do again is dropped
when it goes on.
"""

from collections.abc import Iterable, Mapping, Sequence
import json
import math
import os
import sys
import time
from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow as tf

from data import file_io

_SECONDS_PER_LOG_LINE = 10.0
# About how many lines the log of a run has at the most.
_MAX_LOG_LINES = 5000


class Report(NamedTuple):
  """What steps report, float32 arrays with an entry for each.

  Attributes:
    parts: name -> the parts of the loss.
    gradient_norm: before clipping.
    loss_scale: what the loss was multiplied by.
    tokens: as in `Work`.
    flops: as in `Work`.
  """

  parts: dict[str, np.ndarray]
  gradient_norm: np.ndarray
  loss_scale: np.ndarray
  tokens: np.ndarray
  flops: np.ndarray

  @classmethod
  def from_rows(cls, rows: np.ndarray, names: Sequence[str]) -> "Report":
    """Reads rows [num_steps, len(names) + 4], in the order of attributes."""
    columns = rows.T
    return cls(dict(zip(names, columns)), *columns[len(names) :])

  @classmethod
  def joined(cls, reports: Sequence["Report"]) -> "Report":
    """Returns a report of all steps of several."""
    parts = {
      name: np.concatenate([report.parts[name] for report in reports])
      for name in reports[0].parts
    }
    return cls(
      parts,
      *(
        np.concatenate(columns)
        for columns in zip(*(report[1:] for report in reports))
      ),
    )

  @property
  def loss(self) -> np.ndarray:
    return sum(self.parts.values())

  @property
  def num_steps(self) -> int:
    return len(self.gradient_norm)


class Progress:
  """Shows and records how training goes; a context manager."""

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
      model_dir: folder of the logs; None for none.
      step: that training starts from.
      max_steps: that it ends at.
      batch_size: examples per step.
      peak_flops: operations per second that utilisation is measured against;
        None to log neither it nor tokens.
    """
    self._step = step
    self._max_steps = max_steps
    self._batch_size = batch_size
    self._peak_flops = peak_flops
    self._last_time = time.monotonic()
    self._last_line_time = 0.0
    self._steps_per_second = None
    self._is_first = True
    self._in_place = sys.stderr.isatty()
    self._pending = []  # (report, seconds) of calls that are not written yet
    self._writer = self._log = None
    if model_dir:
      path = os.path.join(model_dir, "training_log.jsonl")
      _forget_later_steps(path, step)
      self._writer = tf.summary.create_file_writer(model_dir)
      self._log = tf.io.gfile.GFile(path, "a")

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *unused_exception) -> None:
    self._write_pending()
    if self._log:
      self._log.close()
      self._writer.close()

  def report(
    self, step: int, report: Report, learning_rate: float, skipped_steps: int
  ) -> None:
    """Takes note of steps, the last of which made `step`."""
    now = time.monotonic()
    seconds = max(now - self._last_time, 1e-9)
    self._last_time = now
    if not self._is_first:  # the first call was spent compiling
      rate = report.num_steps / seconds
      old = self._steps_per_second or rate
      self._steps_per_second = 0.7 * old + 0.3 * rate
    self._is_first = False
    self._step = step
    self._pending.append((report, seconds))
    self._facts = {"learning_rate": learning_rate}
    if skipped_steps:
      self._facts["skipped_steps"] = skipped_steps
    self._show(self._record([(report, seconds)]), now)
    # A run of a week writes no more than a viewer can read.
    num_pending = sum(report.num_steps for report, _ in self._pending)
    if num_pending >= self._max_steps / _MAX_LOG_LINES or (
      step == self._max_steps
    ):
      self._write_pending()

  def _record(self, calls) -> dict[str, float]:
    """Returns what there is to say of some calls, up to the present step."""
    report = Report.joined([report for report, _ in calls])
    rate = report.num_steps / sum(seconds for _, seconds in calls)
    is_good = np.isfinite(report.loss)
    record = {"step": self._step, "loss": _mean(report.loss, is_good)}
    if len(report.parts) > 1:
      record.update(
        (name, _mean(part, is_good)) for name, part in report.parts.items()
      )
    record.update(
      **self._facts,
      gradient_norm=_mean(
        report.gradient_norm, np.isfinite(report.gradient_norm)
      ),
      examples_per_second=rate * self._batch_size,
    )
    if self._peak_flops:
      flops = float(np.mean(report.flops)) * rate
      record.update(
        tokens_per_second=float(np.mean(report.tokens)) * rate,
        model_flops_per_second=flops,
        model_flop_utilisation=flops / self._peak_flops,
      )
    if report.loss_scale[-1] != 1.0:
      record["loss_scale"] = float(report.loss_scale[-1])
    return record

  def _write_pending(self) -> None:
    if not self._pending:
      return
    record = self._record(self._pending)
    self._pending = []
    self._write(record)
    if self._writer:
      with self._writer.as_default(step=self._step):
        for name, value in record.items():
          if name != "step" and value is not None:
            tf.summary.scalar(name, value)

  def report_evaluation(self, step: int, results: Mapping[str, float]) -> None:
    """Takes note of the scores of an evaluation during training."""
    self._write_pending()
    self._write({"step": step, "evaluation": dict(results)})
    # The time that it took is not that of a step.
    self._last_time = time.monotonic()

  def _write(self, record) -> None:
    if self._log:
      self._log.write(json.dumps(record) + "\n")
      self._log.flush()

  def _show(self, record, now) -> None:
    done = self._step == self._max_steps
    if not (
      self._in_place
      or done
      or now - self._last_line_time > _SECONDS_PER_LOG_LINE
    ):
      return
    self._last_line_time = now
    line = (
      f"step {record['step']}/{self._max_steps}  "
      f"loss {record['loss'] or math.nan:.4f}  "
      f"learning rate {record['learning_rate']:.3g}  "
      f"{record['examples_per_second']:.1f} examples/s"
    )
    if "model_flop_utilisation" in record:
      line += f"  {record['model_flop_utilisation']:.0%} of peak"
    if "skipped_steps" in record:
      line += f"  {record['skipped_steps']} steps skipped"
    if self._steps_per_second and not done:
      line += (
        "  "
        + _duration((self._max_steps - self._step) / self._steps_per_second)
        + " left"
      )
    if self._in_place:
      sys.stderr.write("\r\x1b[K" + line + ("\n" if done else ""))
      sys.stderr.flush()
    else:
      logging.info("%s", line)


def _mean(values: np.ndarray, is_good: np.ndarray) -> float | None:
  """Returns the mean of good values; None if there are none, as in JSON."""
  return float(np.mean(values[is_good])) if is_good.any() else None


def _forget_later_steps(log_file: str, step: int) -> None:
  """Drops what a log says of steps that will be made again."""
  if not tf.io.gfile.exists(log_file):
    return
  lines = file_io.read_bytes(log_file).splitlines(keepends=True)
  kept = []
  for line in lines:
    try:
      if json.loads(line)["step"] <= step:
        kept.append(line)
    except (ValueError, TypeError, KeyError, RecursionError):
      pass  # a kill cut the line off, or it is damaged
  if kept != lines:
    file_io.write_bytes(log_file, b"".join(kept))


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"


def log_lines(title: str, lines: Iterable[str]) -> None:
  """Logs lines under a title."""
  logging.info("***** %s *****", title)
  for line in lines:
    logging.info("  %s", line)
