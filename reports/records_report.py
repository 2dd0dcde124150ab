"""Makes a page of pre-training records: lengths, masks, and some as text."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import os
from typing import Any

from absl import logging
from google.protobuf import message
import tensorflow as tf

from data import file_io
from errors import UserError
from pretraining import shards
from reports import charts
from reports import overview
from reports import page
from reports import run_files
import tokenization

_NUM_SHOWN = 12
_MOST_RECORDS = 3000
_NUM_BARS = 32
_NEEDED = ("input_ids", "input_mask", "masked_lm_positions", "masked_lm_ids")
_LONGEST_SHOWN = 1024  # tokens of a record


def write(
  path: str,
  files: Sequence[str],
  vocab_file: str,
  command: run_files.Command,
) -> None:
  """Writes the page of records that a command made."""
  page.write(path, make_page(files, vocab_file, command))
  logging.info("%s shows the records.", path)


def make_page(
  files: Sequence[str],
  vocab_file: str,
  command: run_files.Command | None = None,
) -> str:
  """Returns the HTML of a page of records.

  Args:
    files: Paths of the files.
    vocab_file: Vocabulary that they were made with.
    command: The command that made them, if it is known.

  Raises:
    UserError: The files hold no pre-training records, or do not fit the
      vocabulary.
  """
  words = {
    number: token
    for token, number in tokenization.load_vocab(vocab_file).items()
  }
  records = _read_records(files)
  lengths = [sum(record["input_mask"]) for record in records]
  counts = collections.Counter(lengths)
  width = max(1, len(records[0]["input_ids"]) // _NUM_BARS)
  bars: collections.Counter[int] = collections.Counter()
  for length, count in counts.items():
    bars[length // width * width] += count
  chart = charts.line_chart(
    "Lengths",
    "tokens",
    [charts.Curve("records", sorted(bars.items()), has_dots=True)],
    from_zero=True,
  )
  tables = [_summarize(records, lengths)]
  report = _read_report(files)
  if report:
    columns = ["the whole build", "value"]
    tables.append(page.table(columns, report, are_numbers=True))
  shown = [
    _show_record(record, words, vocab_file) for record in records[:_NUM_SHOWN]
  ]
  parts = [
    page.Part(
      "Records",
      "records.html",
      {"tables": tables, "chart": chart, "num_read": len(records)},
    ),
    page.Part("As text", "record_texts.html", {"records": shown}),
  ]
  if command:
    parts.append(overview.make_commands_part([command], {}))
  title = os.path.basename(files[0])
  return page.render(title, f"Files of records: {len(files)}", parts)


def _read_records(files: Sequence[str]) -> list[dict[str, list[Any]]]:
  """Returns the features of the first records of all files.

  Raises:
    UserError: A file holds something else.
  """
  records = []
  dataset = tf.data.TFRecordDataset(list(files)).take(_MOST_RECORDS)
  try:
    for content in dataset.as_numpy_iterator():
      features = tf.train.Example.FromString(content).features.feature
      record = {}
      for name, feature in features.items():
        values = feature.int64_list.value or feature.float_list.value
        record[name] = list(values)
      records.append(record)
      missing = [name for name in _NEEDED if not record.get(name)]
      if missing:
        raise UserError(
          f"--run: {files[0]} holds records without {missing[0]}, so they are "
          "not for pre-training. Pass files of create_pretraining_data.py, or "
          "leave --vocab_file out for a run."
        )
  except (tf.errors.DataLossError, message.DecodeError) as error:
    raise UserError(
      f"--run: {files[0]} holds no records, or is damaged. Pass files of "
      "create_pretraining_data.py."
    ) from error
  if not records:
    raise UserError(f"--run: {files[0]} holds no records.")
  return records


def _read_report(files: Sequence[str]) -> list[tuple[str, Any]]:
  """Returns the entries of the report next to the files, if there is one."""
  output = shards.ShardedOutput(files, 1, 0, {})
  if not tf.io.gfile.exists(output.report_file):
    return []
  rows: list[tuple[str, Any]] = []
  for name, value in file_io.read_json(output.report_file).items():
    if isinstance(value, dict) and name != "settings":
      rows += [(f"{name}: {key}", _show(item)) for key, item in value.items()]
    elif name != "settings":
      rows.append((name, _show(value)))
  return rows


def _show(value: Any) -> str:
  """Returns an entry of the report for readers."""
  if isinstance(value, (int, float)):
    return charts.format_number(value)
  return str(value)


def _summarize(
  records: Sequence[Mapping[str, list[Any]]], lengths: Sequence[int]
) -> dict[str, Any]:
  """Returns a table about the records that were read."""
  room = sum(len(record["input_ids"]) for record in records)
  predictions = sum(len(_find_predictions(record)) for record in records)
  rows = [
    ("padding", f"{1 - sum(lengths) / room:.1%}"),
    ("predicted tokens", f"{predictions / max(1, sum(lengths)):.1%}"),
  ]
  labels = [
    label
    for record in records
    for label in record.get("next_sentence_labels", [])
  ]
  if labels:
    share = sum(labels) / len(labels)
    rows.append(("random next sentences", f"{share:.1%}"))
  return page.table(["the records read", "value"], rows, are_numbers=True)


def _find_predictions(record: Mapping[str, list[Any]]) -> dict[int, int]:
  """Returns position -> id of the token to predict there."""
  positions, ids = record["masked_lm_positions"], record["masked_lm_ids"]
  weights = record.get("masked_lm_weights", [1.0] * len(ids))
  return {
    position: token_id
    for position, token_id, weight in zip(positions, ids, weights)
    if weight
  }


def _show_record(
  record: Mapping[str, list[Any]], words: Mapping[int, str], vocab_file: str
) -> dict[str, Any]:
  """Returns the tokens of a record, each with what is predicted there."""
  predictions = _find_predictions(record)
  tokens = []
  length = min(sum(record["input_mask"]), _LONGEST_SHOWN)
  for place, token_id in enumerate(record["input_ids"][:length]):
    wanted = predictions.get(place)
    for number in (token_id, wanted):
      if number is not None and number not in words:
        raise UserError(
          f"--vocab_file={vocab_file} has no token {number}, but the records "
          "do. Pass the vocabulary that they were made with."
        )
    tokens.append(
      {
        "text": words[token_id],
        "wanted": None if wanted is None else words[wanted],
      }
    )
  labels = record.get("next_sentence_labels", [])
  names = ["random next sentence" if n else "next sentence" for n in labels]
  return {"tokens": tokens, "labels": ", ".join(names)}
