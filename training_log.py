"""Shows how training goes: on the screen, to TensorBoard, and in JSON lines.

`training_log.jsonl` has a line for each call of the training graph, and one
with the entry `evaluation` for each evaluation on the way. Its steps rise: what
an interrupted run will do again is dropped when it goes on.
"""

import json
import math
import os
import sys
import time
from typing import Mapping, NamedTuple, Optional, Sequence

from absl import logging
import numpy as np
import tensorflow as tf

_SECONDS_PER_LOG_LINE = 10.0


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
    columns = rows.T
    return cls(dict(zip(names, columns)), *columns[len(names):])

  @property
  def loss(self) -> np.ndarray:
    return sum(self.parts.values())

  @property
  def num_steps(self) -> int:
    return len(self.gradient_norm)


class Progress:
  """Shows and records how training goes."""

  def __init__(self, model_dir, step, max_steps, batch_size, peak_flops):
    self._step = step
    self._max_steps = max_steps
    self._batch_size = batch_size
    self._peak_flops = peak_flops
    self._last_time = time.monotonic()
    self._last_line_time = 0.0
    self._steps_per_second = None
    self._is_first = True
    self._in_place = sys.stderr.isatty()
    self._writer = self._log = None
    if model_dir:
      path = os.path.join(model_dir, "training_log.jsonl")
      _forget_later_steps(path, step)
      self._writer = tf.summary.create_file_writer(model_dir)
      self._log = tf.io.gfile.GFile(path, "a")

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *unused_exception) -> None:
    if self._log:
      self._log.close()
      self._writer.close()

  def report(self, step: int, report: Report, learning_rate: float,
             skipped_steps: int) -> None:
    """Takes note of steps, the last of which made `step`."""
    now = time.monotonic()
    rate = report.num_steps / max(now - self._last_time, 1e-9)
    self._last_time = now
    if not self._is_first:  # the first call was spent compiling
      old = self._steps_per_second or rate
      self._steps_per_second = 0.7 * old + 0.3 * rate
    self._is_first = False
    self._step = step
    is_good = np.isfinite(report.loss)
    record = {"step": step, "loss": _mean(report.loss, is_good)}
    if len(report.parts) > 1:
      record.update((name, _mean(part, is_good))
                    for name, part in report.parts.items())
    record.update(
        learning_rate=learning_rate,
        gradient_norm=_finite(report.gradient_norm[-1]),
        examples_per_second=rate * self._batch_size)
    if self._peak_flops:
      flops = float(np.mean(report.flops)) * rate
      record.update(tokens_per_second=float(np.mean(report.tokens)) * rate,
                    model_flops_per_second=flops,
                    model_flop_utilisation=flops / self._peak_flops)
    if report.loss_scale[-1] != 1.0:
      record["loss_scale"] = float(report.loss_scale[-1])
    if skipped_steps:
      record["skipped_steps"] = skipped_steps
    self._write(record)
    if self._writer:
      with self._writer.as_default(step=step):
        for name, value in record.items():
          if name != "step" and value is not None:
            tf.summary.scalar(name, value)
    self._show(record, now)

  def report_evaluation(self, step: int, results: Mapping[str, float]) -> None:
    """Takes note of the scores of an evaluation during training."""
    self._write({"step": step, "evaluation": dict(results)})
    # The time that it took is not that of a step.
    self._last_time = time.monotonic()

  def _write(self, record) -> None:
    if self._log:
      self._log.write(json.dumps(record) + "\n")
      self._log.flush()

  def _show(self, record, now) -> None:
    done = self._step == self._max_steps
    if not (self._in_place or done
            or now - self._last_line_time > _SECONDS_PER_LOG_LINE):
      return
    self._last_line_time = now
    line = (f"step {record['step']}/{self._max_steps}  "
            f"loss {record['loss'] or math.nan:.4f}  "
            f"learning rate {record['learning_rate']:.3g}  "
            f"{record['examples_per_second']:.1f} examples/s")
    if "model_flop_utilisation" in record:
      line += f"  {record['model_flop_utilisation']:.0%} of peak"
    if "skipped_steps" in record:
      line += f"  {record['skipped_steps']} steps skipped"
    if self._steps_per_second and not done:
      line += "  " + _duration(
          (self._max_steps - self._step) / self._steps_per_second) + " left"
    if self._in_place:
      sys.stderr.write("\r\x1b[K" + line + ("\n" if done else ""))
      sys.stderr.flush()
    else:
      logging.info("%s", line)


def _finite(value: float) -> Optional[float]:
  """Returns a number, or None, as JSON has no other name for the rest."""
  return float(value) if np.isfinite(value) else None


def _mean(values: np.ndarray, is_good: np.ndarray) -> Optional[float]:
  return float(np.mean(values[is_good])) if is_good.any() else None


def _forget_later_steps(log_file: str, step: int) -> None:
  """Drops what a log says of steps that will be made again."""
  if not tf.io.gfile.exists(log_file):
    return
  with tf.io.gfile.GFile(log_file) as reader:
    lines = reader.read().splitlines(keepends=True)
  kept = []
  for line in lines:
    try:
      if json.loads(line)["step"] <= step:
        kept.append(line)
    except json.JSONDecodeError:
      pass  # a line that was cut off by a kill
  if kept != lines:
    with tf.io.gfile.GFile(log_file + ".tmp", "w") as writer:
      writer.write("".join(kept))
    tf.io.gfile.rename(log_file + ".tmp", log_file, overwrite=True)


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"
