"""State of a run besides its weights: the JSON next to each checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from absl import logging
import numpy as np

from errors import UserError

_LARGEST_COUNT = 2**63 - 1
_LARGEST_NUMBER = float(np.finfo(np.float32).max)
_LONGEST_SHOWN = 60


@dataclasses.dataclass
class BestEvaluation:
  """The evaluation with the best score so far.

  Attributes:
    step: Step that it was made at.
    metric: Name of the score.
    value: The score.
    evaluations_since: Number of evaluations since then, none of them better.
  """

  step: int
  metric: str
  value: float
  evaluations_since: int = 0


@dataclasses.dataclass
class RunState:
  """State that a run needs to continue, besides its weights.

  Attributes:
    input_position: Place in the data where the next batch begins.
    train_batch_size: Batch size of the steps so far.
    loss_scale: Factor of a float16 loss, and number of good steps since it
      changed. None for other types.
    skipped_steps: Number of steps that changed nothing.
    best: The best evaluation, or None.
    evaluated_step: Step of the last evaluation.
    settings: Flags of the run when this was saved.
    model_config: Config of the model; empty if it has none.
    data_files: Path -> fingerprint of the files that it was last trained on.
    input_first_step: Step at which the run began to read its present data.
  """

  input_position: list[int] | None = None
  train_batch_size: int | None = None
  loss_scale: list[float] | None = None
  skipped_steps: int = 0
  best: BestEvaluation | None = None
  evaluated_step: int | None = None
  settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
  model_config: Mapping[str, object] = dataclasses.field(default_factory=dict)
  data_files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  input_first_step: int = 0

  @classmethod
  def from_json(cls, fields: Mapping[str, Any], path: str) -> RunState:
    """Returns the state that a file holds. Unknown fields are ignored.

    Args:
      fields: Content of the file.
      path: Path of the file, for error messages.

    Raises:
      UserError: A field has a value of another type.
    """
    # The file may also hold fields of later versions of the program.
    known = {}
    for name, is_valid in _FIELD_CHECKS.items():
      if name not in fields:
        continue
      value = fields[name]
      if not is_valid(value):
        shown = str(value)[:_LONGEST_SHOWN]
        raise UserError(
          f"{path} is damaged: it has {name}={shown}. Delete it, and the run "
          "continues from the weights next to it; its place in the data is "
          "then found by counting."
        )
      known[name] = value
    if known.get("best"):
      best = known["best"]
      names = [field.name for field in dataclasses.fields(BestEvaluation)]
      known["best"] = BestEvaluation(**{name: best[name] for name in names})
    return cls(**known)

  def to_json(self) -> dict[str, object]:
    """Returns the content of the file that `from_json` reads."""
    return dataclasses.asdict(self)

  def record_score(self, step: int, metric: str, value: float) -> bool:
    """Records the score of an evaluation.

    Args:
      step: Step of the evaluation.
      metric: Name of the score. The lowest value is the best if it ends in
        `loss`, otherwise the highest.
      value: The score. Scores that are not finite do not count.

    Returns:
      Whether it is the best score so far.
    """
    self.evaluated_step = step
    if not np.isfinite(value):
      logging.warning(
        "  %s is %s at step %d: not counted.", metric, value, step
      )
      return False
    sign = -1.0 if metric.endswith("loss") else 1.0
    best = self.best
    if best and sign * value <= sign * best.value:
      best.evaluations_since += 1
    else:
      best = self.best = BestEvaluation(step, metric, value)
    logging.info(
      "  best %s so far: %s at step %d", metric, best.value, best.step
    )
    return best.evaluations_since == 0

  def has_stopped_improving(self, patience: int) -> bool:
    """Returns whether `patience` evaluations in a row were not better.

    Args:
      patience: Number of evaluations; 0 for no limit.
    """
    if not patience or not self.best:
      return False
    return self.best.evaluations_since >= patience

  def is_evaluation_due(self, step: int, eval_every_steps: int) -> bool:
    """Returns whether the weights of a step still have to be evaluated."""
    if step == 0 or step == self.evaluated_step:
      return False
    return step % eval_every_steps == 0


# --- Checks of the fields in a file ------------------------------------------


def _is_count(value) -> bool:
  # A bool of Python is also an int.
  if isinstance(value, bool) or not isinstance(value, int):
    return False
  return 0 <= value <= _LARGEST_COUNT


def _is_number(value) -> bool:
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return False
  return abs(value) <= _LARGEST_NUMBER


def _is_position(value) -> bool:
  return isinstance(value, list) and all(map(_is_count, value))


def _is_loss_scale(value) -> bool:
  if not isinstance(value, list) or len(value) != 2:
    return False
  return all(map(_is_number, value))


def _is_best(value) -> bool:
  return (
    isinstance(value, dict)
    and _is_count(value.get("step"))
    and isinstance(value.get("metric"), str)
    and _is_number(value.get("value"))
    and _is_count(value.get("evaluations_since"))
  )


def _or_none(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
  return lambda value: value is None or is_valid(value)


_FIELD_CHECKS = {
  "input_position": _or_none(_is_position),
  "train_batch_size": _or_none(lambda value: _is_count(value) and value > 0),
  "loss_scale": _or_none(_is_loss_scale),
  "skipped_steps": _is_count,
  "best": _or_none(_is_best),
  "evaluated_step": _or_none(_is_count),
  "settings": lambda value: isinstance(value, dict),
  "model_config": lambda value: isinstance(value, dict),
  "data_files": lambda value: isinstance(value, dict),
  "input_first_step": _is_count,
}
