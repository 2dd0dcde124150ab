"""Records of windows over paragraphs, and the logits of windows."""

from __future__ import annotations

import collections
import itertools
import json
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data import batching
from data import file_io
from data import record_files
from tasks import finetuning
from tasks import squad_windows
from training import training_log


class WindowRecords(NamedTuple):
  """The records of the windows of all questions.

  Attributes:
    records: The file of records.
    places: For each record, the number of its question, and of the window
      among those of the question.
    lengths: Number of tokens of each record.
  """

  records: finetuning.TaskRecords
  places: list[tuple[int, int]]
  lengths: list[int]


def write_records(maker: squad_windows.WindowMaker, path: str) -> WindowRecords:
  """Writes the windows of all questions, unless the same are there already.

  Args:
    maker: Maker of the windows; its counts are set.
    path: Path of the file.
  """

  def write() -> dict[str, Any]:
    places, lengths = [], []

    def create_record(window: squad_windows.QuestionWindow) -> bytes:
      places.append((window.question, window.number))
      lengths.append(len(window.features.input_ids))
      return batching.create_task_record(window.features)

    record_files.write_records(path, map(create_record, maker.cut_windows()))
    return {"places": places, "lengths": lengths, "counts": maker.counts}

  digest = _compute_digest(maker)
  stamped = record_files.reuse_or_write_file(path, digest, write)
  maker.counts = collections.Counter(stamped.facts["counts"])
  places = [tuple(place) for place in stamped.facts["places"]]
  records = finetuning.TaskRecords(
    path, len(places), stamped.checksum, maker.settings.max_seq_length, {}
  )
  return WindowRecords(records, places, stamped.facts["lengths"])


def write_training_records(
  maker: squad_windows.WindowMaker, path: str, skip_missing_answers: bool
) -> finetuning.TaskRecords:
  """Writes the training windows, unless the same are there already.

  Args:
    maker: Maker of the windows; its counts are set.
    path: Path of the file.
    skip_missing_answers: Whether to skip questions whose answer is not in the
      paragraph.

  Raises:
    UserError: A question has no answer but needs one.
  """

  def create_record(
    window: squad_windows.QuestionWindow, positions: tuple[int, int]
  ) -> bytes:
    start, end = positions
    return batching.create_task_record(
      window.features, start_positions=[start], end_positions=[end]
    )

  def write() -> dict[str, Any]:
    windows = maker.cut_training_windows(skip_missing_answers)
    records = itertools.starmap(create_record, windows)
    num_records = record_files.write_records(path, records)
    return {"num_records": num_records, "counts": maker.counts}

  digest = _compute_digest(maker, skip_missing_answers)
  stamped = record_files.reuse_or_write_file(path, digest, write)
  maker.counts = collections.Counter(stamped.facts["counts"])
  position = tf.io.FixedLenFeature([], tf.int64)
  return finetuning.TaskRecords(
    path,
    stamped.facts["num_records"],
    stamped.checksum,
    maker.settings.max_seq_length,
    {"start_positions": position, "end_positions": position},
  )


def _compute_digest(maker: squad_windows.WindowMaker, *settings: Any) -> str:
  """Returns a digest of everything that the records depend on."""
  return record_files.compute_digest(
    "questions",
    maker.dataset.paragraphs,
    maker.dataset.questions,
    maker.settings,
    record_files.compute_tokenizer_digest(maker.tokenizer),
    *settings,
  )


def write_report(maker: squad_windows.WindowMaker, path: str) -> None:
  """Logs the counts of windows and of remarks, and writes them as JSON."""
  counts = dict(sorted(maker.counts.items()))
  lines = [f"{name} = {count}" for name, count in counts.items()]
  training_log.log_lines(f"Questions of {maker.dataset.path}", lines)
  file_io.write_text(path, json.dumps(counts, indent=2) + "\n")


def predict_logits(
  recipe: finetuning.Recipe, windows: WindowRecords, batch_size: int
) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
  """Returns start logits and end logits, float [length], of each window.

  Args:
    recipe: The recipe, with the head `heads.SPAN`.
    windows: Records of the windows.
    batch_size: Number of windows of a batch.

  Returns:
    Numbers of the question and of the window -> its logits.
  """
  logits = {}
  if windows.places:
    columns = recipe.predict(windows.records, batch_size)
    for place, length, start_logits, end_logits in zip(
      windows.places,
      windows.lengths,
      columns["start_logits"],
      columns["end_logits"],
    ):
      # The rest belongs to padding.
      logits[place] = start_logits[:length], end_logits[:length]
  return logits
