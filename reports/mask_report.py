"""The part about masked words: predictions at the checkpoints of a run.

Training predicts the masked words of a few fixed records at its checkpoints.
`report_masks.json` keeps the likeliest words at some of these steps; the page
shows the first, a middle and the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import os
from typing import Any

import numpy as np
import tensorflow as tf

from data import file_io
from errors import UserError
from reports import example_files
from reports import page

FILE = "report_masks.json"
# Records that are predicted, and masks of each of them.
NUM_RECORDS = 6
_MOST_MASKS = 4
_NUM_CHOICES = 5
_MOST_TOKENS = 64  # of a record
# Steps that the file keeps, besides the first and the last one.
_MOST_STEPS = 8
_CONTINUES_WORD = "##"

# Function () -> predictions of records, each with the features of `predict`.
PredictRecords = Callable[[], Iterable[Mapping[str, np.ndarray]]]


def predict(
  masked_lm_logits: tf.Tensor, features: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
  """Returns the likeliest words at the masks of records, and the records.

  Args:
    masked_lm_logits: float Tensor of shape [B*P, V].
    features: Features of pre-training records, of shapes [B, S] and [B, P].

  Returns:
    `choices` and `probabilities` of shape [B, P, 5], and some of the features.
  """
  probabilities = tf.nn.softmax(tf.cast(masked_lm_logits, tf.float32))
  num_choices = min(_NUM_CHOICES, probabilities.shape[-1])
  best = tf.math.top_k(probabilities, num_choices)  # [B*P, 5]
  num_positions = features["masked_lm_positions"].shape[1]
  shape = [-1, num_positions, num_choices]
  return {
    "choices": tf.reshape(best.indices, shape),
    "probabilities": tf.reshape(best.values, shape),
    **{
      name: features[name]
      for name in (
        "input_ids",
        "input_mask",
        "masked_lm_positions",
        "masked_lm_ids",
        "masked_lm_weights",
      )
    },
  }


class MaskHistory:
  """Writes the file during training.

  A run that was interrupted and resumed leaves the same file as one that was
  not: the content is a function of the steps so far.
  """

  def __init__(
    self,
    folder: str,
    start_step: int,
    save_every: int,
    words: Mapping[int, str],
    predict_records: PredictRecords,
  ):
    """Forgets the steps after `start_step`, which will be made again.

    Args:
      folder: Folder of the run.
      start_step: Step of the weights at hand.
      save_every: Steps between checkpoints.
      words: Number of a token -> the token; empty if they are not known, and
        then nothing is written.
      predict_records: Predicts the masked words of the records.
    """
    self._path = os.path.join(folder, FILE)
    self._save_every = save_every
    self._words = words
    self._predict_records = predict_records
    self._content: dict[str, Any] = {"records": [], "steps": []}
    if not tf.io.gfile.exists(self._path):
      return
    if not start_step:
      tf.io.gfile.remove(self._path)
      return
    try:
      self._content = _read(folder)
    except UserError:
      return  # damaged; it begins again
    steps = self._content["steps"]
    self._content["steps"] = [e for e in steps if e["step"] <= start_step]

  def add(self, step: int) -> None:
    """Adds the predictions of a step, unless they are there.

    An error becomes a warning, because the training counts more.

    Args:
      step: Step of the weights at hand.
    """
    steps = self._content["steps"]
    if not self._words or (steps and steps[-1]["step"] == step):
      return
    with example_files.keep_running("The page of the run lacks masked words"):
      self._add(step)
      return
    # An error ends here. The next checkpoint would fail as well.
    self._words = {}

  def _add(self, step: int) -> None:
    steps = self._content["steps"]
    records, predictions = [], []
    for outputs in self._predict_records():
      places = _choose_masks(outputs)
      if places:
        records.append(self._show_record(outputs, places))
        predictions.append(self._show_choices(outputs, places))
    if not records:
      return
    if records != self._content["records"]:
      steps = []  # those of other data
    steps = [*steps, {"step": step, "predictions": predictions}]
    self._content = {
      "records": records,
      "steps": _thin_out(steps, self._save_every),
    }
    file_io.write_json(self._path, self._content)

  def _name(self, token_id: int) -> str:
    # A vocabulary may be smaller than the model.
    return self._words.get(token_id, f"[{token_id}]")

  def _show_record(self, outputs, places: Sequence[int]) -> dict[str, Any]:
    """Returns the tokens of a record, and position and word of its masks."""
    length = min(int(outputs["input_mask"].sum()), _MOST_TOKENS)
    ids = outputs["masked_lm_ids"]
    return {
      "tokens": [self._name(n) for n in outputs["input_ids"][:length].tolist()],
      "positions": [int(outputs["masked_lm_positions"][p]) for p in places],
      "correct": [self._name(int(ids[place])) for place in places],
    }

  def _show_choices(
    self, outputs, places: Sequence[int]
  ) -> list[list[tuple[str, float]]]:
    """Returns words with their probabilities for each mask."""
    shown = []
    for place in places:
      names = map(self._name, outputs["choices"][place].tolist())
      numbers = outputs["probabilities"][place].tolist()
      shown.append([(n, round(p, 4)) for n, p in zip(names, numbers)])
    return shown


def _choose_masks(outputs: Mapping[str, np.ndarray]) -> list[int]:
  """Returns the first masks of a record that lie in the shown tokens."""
  is_real = outputs["masked_lm_weights"] > 0
  is_shown = outputs["masked_lm_positions"] < _MOST_TOKENS
  return np.flatnonzero(is_real & is_shown)[:_MOST_MASKS].tolist()


def _thin_out(
  steps: Sequence[Mapping[str, Any]], save_every: int
) -> list[Mapping[str, Any]]:
  """Returns the first step, the last one, and evenly spaced ones between.

  Which they are depends on the last step alone. With `save_every` 10 and at
  most 4 steps between:

      step 40    10 20 30 40
      step 90    10 20    40    60    80 90
  """
  last = steps[-1]["step"]
  spacing = save_every
  while last // spacing > _MOST_STEPS:
    spacing *= 2
  kept = []
  for entry in steps:
    is_spaced = entry["step"] % spacing == 0
    if is_spaced or entry["step"] in (save_every, last):
      kept.append(entry)
  return kept


# --- Reading -----------------------------------------------------------------


def _read(folder: str) -> dict[str, Any]:
  """Returns the content of the file.

  Raises:
    UserError: It is damaged.
  """
  path = os.path.join(folder, FILE)
  content = file_io.read_json(path)
  num_masks = []
  for record in example_files.pick_list(content, "records", dict, path):
    tokens = example_files.pick_list(record, "tokens", str, path)
    positions = example_files.pick_list(record, "positions", int, path)
    correct = example_files.pick_list(record, "correct", str, path)
    is_inside = all(0 <= position < len(tokens) for position in positions)
    # -1 is no number of masks of a record.
    fits = is_inside and len(positions) == len(correct)
    num_masks.append(len(correct) if fits else -1)
  for entry in example_files.pick_list(content, "steps", dict, path):
    example_files.pick(entry, "step", int, path)
    predictions = example_files.pick_list(entry, "predictions", list, path)
    choices: list[Any] = []
    for masks in predictions:
      for of_mask in example_files.pick_list({FILE: masks}, FILE, list, path):
        choices += of_mask
    are_choices = all(map(_is_choice, choices))
    if not are_choices or [len(masks) for masks in predictions] != num_masks:
      raise UserError(
        f"{path}: the predictions of step {entry['step']} do not fit the "
        "records. Delete the file."
      )
  return content


def _is_choice(value: Any) -> bool:
  """Returns whether a value is a pair of a word and a probability."""
  if not isinstance(value, list) or len(value) != 2:
    return False
  word, probability = value
  is_number = isinstance(probability, (int, float))
  return isinstance(word, str) and is_number and 0 <= probability <= 1


def make_part(folder: str) -> page.Part | None:
  """Returns the part about masked words, or None without the file.

  Raises:
    UserError: The file is damaged.
  """
  if not tf.io.gfile.exists(os.path.join(folder, FILE)):
    return None
  content = _read(folder)
  steps = content["steps"]
  if not steps:
    return None
  middle = min(
    steps, key=lambda entry: abs(2 * entry["step"] - steps[-1]["step"])
  )
  shown_steps = []
  for entry in (steps[0], middle, steps[-1]):
    if entry not in shown_steps:
      shown_steps.append(entry)
  records = []
  for number, record in enumerate(content["records"]):
    masks = []
    for place, correct in enumerate(record["correct"]):
      choices = []
      for entry in shown_steps:
        shown = [
          {
            "word": word,
            "percent": f"{probability:.1%}",
            "is_correct": word == correct,
          }
          for word, probability in entry["predictions"][number][place]
        ]
        choices.append(shown)
      masks.append({"correct": correct, "choices": choices})
    records.append({"pieces": _join_tokens(record), "masks": masks})
  values = {
    "columns": [f"step {entry['step']}" for entry in shown_steps],
    "records": records,
  }
  return page.Part("Masked words", "masks.html", values)


def _join_tokens(record: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the tokens as text, in pieces: masks, with their number, and text.

  tokens   the un ##able [MASK] sat
  pieces   "the unable " | "[MASK]" (1) | " sat"
  """
  numbers = {p: number for number, p in enumerate(record["positions"], 1)}
  pieces: list[dict[str, Any]] = [{"text": "", "number": 0}]
  for position, token in enumerate(record["tokens"]):
    number = numbers.get(position, 0)
    is_start = not token.startswith(_CONTINUES_WORD)
    if position and is_start:
      if pieces[-1]["number"]:
        pieces.append({"text": "", "number": 0})
      pieces[-1]["text"] += " "
    if number:
      pieces.append({"text": token, "number": number})
      continue
    if pieces[-1]["number"]:
      pieces.append({"text": "", "number": 0})
    pieces[-1]["text"] += token if is_start else token[len(_CONTINUES_WORD) :]
  return [piece for piece in pieces if piece["text"]]
