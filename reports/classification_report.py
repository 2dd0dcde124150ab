"""Parts of the page about texts with labels or values."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import numpy as np

from errors import UserError
import heads
from reports import charts
from reports import example_files
from reports import page
from reports import score_intervals
from tasks import attribution
from tasks import classification
from tasks import classifier_config
from tasks import metrics

KINDS = (heads.SINGLE_LABEL, heads.MULTI_LABEL, heads.REGRESSION)
_MOST_MATRIX_LABELS = 25
_MOST_TABLE_LABELS = 200
_NUM_BINS = 10
_NUMBER = (int, float)
# Mistakes, and other predictions, whose words are explained.
_NUM_EXPLAINED = 12
# Shares below this part of the largest one are not marked.
_SMALLEST_SHARE = 0.1
_NUM_SHADES = 4
_NUM_LISTED_WORDS = 3

# Function (texts of examples, numbers of outputs) -> shares of the words.
Explain = Callable[
  [Sequence[Sequence[str]], Sequence[int]],
  list[list[list[attribution.WordShare]]],
]


def write_examples(
  output_dir: str,
  split: str,
  classifier: classifier_config.ClassifierConfig,
  examples: Sequence[classification.Example],
  predictions: Sequence[Any],
  logits: np.ndarray,
  scores: Mapping[str, float] | None = None,
  explain: Explain | None = None,
) -> None:
  """Writes the examples of a split for the page.

  Args:
    output_dir: Folder of the run.
    split: Name of the split.
    classifier: Kind of the predictions, and their labels.
    examples: The examples.
    predictions: Label, list of labels, or number for each example.
    logits: float [num_examples, num_outputs].
    scores: Scores of the examples, under their names in `eval_results.txt`.
    explain: Like `attribution.attribute_words` of the model; None to leave out
      which words its predictions rest on.
  """
  num_labels = len(classifier.labels)  # 0 for regression
  probabilities = classifier.problem.probabilities(logits)[:, :num_labels]
  words_by_number: dict[int, Any] = {}
  if explain:
    with example_files.keep_running():
      words_by_number = _explain_some(
        classifier.problem_type,
        examples,
        predictions,
        probabilities,
        logits,
        explain,
      )

  def make_row(number: int) -> dict[str, Any]:
    example = examples[number]
    row = {
      "id": str(example.id),
      "text_a": example.text_a,
      "text_b": example.text_b,
      "label": example.label,
      "prediction": predictions[number],
      "probabilities": probabilities[number].tolist(),
    }
    if number in words_by_number:
      row["words"] = words_by_number[number]
    return row

  example_files.write(
    output_dir,
    split,
    classifier.problem_type,
    len(examples),
    make_row,
    classifier.labels,
    scores,
    words_by_number,
  )


def _explain_some(
  kind: str,
  examples: Sequence[classification.Example],
  predictions: Sequence[Any],
  probabilities: np.ndarray,
  logits: np.ndarray,
  explain: Explain,
) -> dict[int, list[list[attribution.WordShare]]]:
  """Returns number of an example -> shares of the words of its texts."""
  badness = []
  for example, prediction, row in zip(examples, predictions, probabilities):
    badness.append(_measure_badness(kind, example.label, prediction, row))
  numbers = _choose_explained(np.array(badness))
  texts, outputs = [], []
  for number in numbers:
    example = examples[number]
    texts.append(_list_texts(example.text_a, example.text_b))
    outputs.append(int(np.argmax(logits[number])))
  return dict(zip(numbers, explain(texts, outputs)))


def _choose_explained(badness: np.ndarray) -> list[int]:
  """Returns the numbers of the worst mistakes, and of other predictions."""
  order = np.argsort(-badness, kind="stable")
  worst = [n for n in order[:_NUM_EXPLAINED].tolist() if badness[n] > 0]
  others = np.setdiff1d(np.arange(len(badness)), worst)
  places = np.linspace(0, len(others) - 1, _NUM_EXPLAINED).astype(int)
  chosen = others[np.unique(places)].tolist() if len(others) else []
  return sorted([*worst, *chosen])


def _measure_badness(kind: str, label, prediction, probabilities) -> float:
  """Returns how wrong a prediction is; at most 0 if it is right or unknown."""
  if kind == heads.REGRESSION:
    return abs(prediction - label) if label is not None else 0.0
  if kind == heads.MULTI_LABEL:
    if label is None:
      return 0.0
    return len(set(label) ^ set(prediction)) - 0.5
  # The surest of the wrong ones come first, and the least sure right ones.
  largest = float(max(probabilities, default=0.0))
  is_wrong = label is not None and label != prediction
  return largest if is_wrong else -largest


def _list_texts(text_a: str, text_b: str | None) -> list[str]:
  """Returns a text, or the texts of a pair."""
  return [text_a, text_b] if text_b else [text_a]


# --- Reading -----------------------------------------------------------------


class ClassifiedTexts:
  """The examples of a split as arrays.

  Attributes:
    labels: Labels that can be predicted, then others that occur.
    rows: The rows of the file, checked.
    has_labels: Whether the examples have labels.
    targets: Correct labels in the form of the problem type.
    decisions: Predictions in the same form.
  """

  def __init__(self, content: example_files.ExampleFile):
    """Reads the rows.

    Raises:
      UserError: A row is damaged.
    """
    self.kind = content.kind
    self.rows = content.rows
    place = f"report_{content.split}.jsonl"
    for row in content.rows:
      self._check_row(row, len(content.labels), place)
    self.has_labels = bool(self.rows) and all(
      row["label"] is not None for row in self.rows
    )
    names = list(content.labels)
    for row in self.rows:
      names += [*_as_labels(row["label"]), *_as_labels(row["prediction"])]
    self.labels = list(dict.fromkeys(names))
    self.targets = self._to_array("label") if self.has_labels else None
    self.decisions = self._to_array("prediction")

  def _check_row(self, row, num_labels: int, place: str) -> None:
    example_files.pick(row, "id", str, place)
    example_files.pick(row, "text_a", str, place)
    example_files.pick(row, "text_b", (str, type(None)), place)
    values = example_files.pick_list(row, "probabilities", _NUMBER, place)
    if len(values) != num_labels:
      raise UserError(
        f"{place}: a row has {len(values)} probabilities, but there are "
        f"{num_labels} labels. Run the evaluation again."
      )
    self._check_words(row, place)
    for name in ("label", "prediction"):
      if row.get(name) is None and name == "label":
        row[name] = None
      elif self.kind == heads.MULTI_LABEL:
        example_files.pick_list(row, name, str, place)
      else:
        is_number = self.kind == heads.REGRESSION
        example_files.pick(row, name, _NUMBER if is_number else str, place)

  def _check_words(self, row, place: str) -> None:
    """Checks the shares of words, and that they follow each other."""
    texts = _list_texts(row["text_a"], row["text_b"])
    of_texts = [[] for _ in texts]
    if row.setdefault("words", None) is not None:
      of_texts = example_files.pick_list(row, "words", list, place)
    is_right = len(of_texts) == len(texts)
    for text, words in zip(texts, of_texts):
      last = 0
      for word in words:
        is_word = (
          isinstance(word, list)
          and len(word) == 3
          and isinstance(word[0], int)
          and isinstance(word[1], int)
          and isinstance(word[2], _NUMBER)
          and abs(word[2]) <= example_files.LARGEST_NUMBER
        )
        is_right = is_right and is_word and last <= word[0] <= word[1]
        if is_right:
          last = word[1]
    if not is_right:
      raise UserError(
        f"{place}: the words of a text are no places in it. Run the evaluation "
        "again."
      )

  def _to_array(self, name: str) -> np.ndarray:
    values = [row[name] for row in self.rows]
    if self.kind == heads.REGRESSION:
      return np.array(values, np.float64)
    ids = {label: number for number, label in enumerate(self.labels)}
    if self.kind == heads.SINGLE_LABEL:
      return np.array([ids[label] for label in values], np.int64)
    table = np.zeros([len(values), len(self.labels)], np.float32)
    for number, names in enumerate(values):
      table[number, [ids[label] for label in names]] = 1.0
    return table

  def compute_scores(self, numbers: np.ndarray | slice) -> dict[str, float]:
    """Returns all scores of a choice of examples."""
    assert self.targets is not None
    arrays = self.targets[numbers], self.decisions[numbers]
    if self.kind == heads.REGRESSION:
      return metrics.correlations_and_errors(*arrays)
    if self.kind == heads.MULTI_LABEL:
      return metrics.multi_label_scores(*arrays)
    scores = metrics.accuracy_and_macro_f1(*arrays)
    if len(self.labels) == 2:
      scores.update(metrics.accuracy_and_f1(*arrays))
    scores.update(metrics.matthews_correlation(*arrays))
    return scores

  def find_wrong(self) -> np.ndarray:
    """Returns whether each prediction is wrong, bool [num_examples]."""
    if self.targets is None:
      return np.zeros(len(self.rows), bool)
    is_different = self.targets != self.decisions
    return is_different.any(axis=1) if is_different.ndim > 1 else is_different


def _as_labels(value: Any) -> list[str]:
  """Returns the labels in a label or prediction."""
  if isinstance(value, str):
    return [value]
  return value if isinstance(value, list) else []


def compute_intervals(content: example_files.ExampleFile) -> dict[str, str]:
  """Returns the intervals of the recorded scores of a split, as text."""
  texts = ClassifiedTexts(content)
  if not texts.has_labels or not content.is_whole:
    return {}
  return score_intervals.describe_intervals(
    content.scores,
    texts.compute_scores,
    len(texts.rows),
    max(1, len(texts.labels)),
  )


# --- Parts -------------------------------------------------------------------


def make_part(content: example_files.ExampleFile, budget: int) -> page.Part:
  """Returns the part about a split.

  Args:
    content: The examples of the split.
    budget: Bytes that the examples may take on the page.

  Raises:
    UserError: A row is damaged.
  """
  texts = ClassifiedTexts(content)
  list_id = f"examples-{content.split}"
  values: dict[str, Any] = {
    "has_words": any(row["words"] for row in texts.rows),
    "is_regression": texts.kind == heads.REGRESSION,
    "has_labels": texts.has_labels,
    "matrix": None,
    "label_table": None,
    "charts": [],
    "examples": _make_list(content, texts, list_id, budget),
  }
  if texts.has_labels:
    if texts.kind == heads.REGRESSION:
      values["charts"] = [_draw_values(texts)]
    else:
      values["label_table"] = _score_labels(texts)
      values["charts"] = [_draw_calibration(texts)]
    if texts.kind == heads.SINGLE_LABEL:
      values["matrix"] = _make_matrix(texts, content, list_id)
  elif texts.kind != heads.REGRESSION:
    values["label_table"] = _count_predictions(texts)
  values["charts"] = [chart for chart in values["charts"] if chart]
  return page.Part(
    f"Examples of {content.split}", "classification.html", values
  )


def _make_matrix(texts, content, list_id: str) -> dict[str, Any]:
  """Returns the confusion matrix as a heat map with links to examples."""
  num_labels = len(texts.labels)
  table = metrics.confusion_matrix(texts.targets, texts.decisions, num_labels)
  chosen = list(range(num_labels))
  caption = "Rows are labels, columns are predictions."
  if not content.is_whole:
    caption += " Counts are those of a sample; confusion_matrix.tsv has all."
  if num_labels > _MOST_MATRIX_LABELS:
    # Labels with the most mistakes tell the most.
    mistakes = table.sum(axis=0) + table.sum(axis=1) - 2 * np.diagonal(table)
    order = np.argsort(-mistakes, kind="stable")[:_MOST_MATRIX_LABELS]
    chosen = sorted(order.tolist())
    caption += (
      f" The {_MOST_MATRIX_LABELS} labels with the most mistakes, of "
      f"{num_labels}; confusion_matrix.tsv has all."
    )
  totals = np.maximum(table.sum(axis=1), 1)
  rows = []
  for i in chosen:
    cells = []
    for j in chosen:
      facets = {"label": texts.labels[i], "prediction": texts.labels[j]}
      count = int(table[i, j])
      share = count / totals[i]
      cells.append(charts.Cell(str(count), share, facets if count else None))
    rows.append((texts.labels[i], cells))
  columns = [texts.labels[j] for j in chosen]
  return charts.heat_map(
    caption, "label / predicted", columns, rows, list_id=list_id
  )


def _score_labels(texts) -> dict[str, Any]:
  """Returns a table of the scores of each label."""
  rows = []
  for number, label in enumerate(texts.labels):
    if texts.kind == heads.SINGLE_LABEL:
      is_label = texts.targets == number
      is_predicted = texts.decisions == number
    else:
      is_label = texts.targets[:, number] > 0
      is_predicted = texts.decisions[:, number] > 0
    right = int(np.sum(is_label & is_predicted))
    wanted, found = int(is_label.sum()), int(is_predicted.sum())
    scores = [
      right / found if found else 0.0,
      right / wanted if wanted else 0.0,
      2 * right / (wanted + found) if wanted + found else 0.0,
    ]
    shown = [f"{score:.4f}" for score in scores]
    rows.append((label, wanted, found, *shown))
  rows.sort(key=lambda row: -row[1])
  columns = ["label", "examples", "predicted", "precision", "recall", "F1"]
  return page.table(columns, rows[:_MOST_TABLE_LABELS], are_numbers=True)


def _count_predictions(texts) -> dict[str, Any]:
  """Returns a table of how often each label is predicted."""
  counts = collections.Counter(
    label for row in texts.rows for label in _as_labels(row["prediction"])
  )
  return page.table(["label", "predicted"], counts.most_common(200))


def _draw_calibration(texts) -> dict[str, Any] | None:
  """Returns a chart: how often predictions of some probability are right."""
  num_known = len(texts.rows[0]["probabilities"])
  if not num_known:
    return None
  table = np.array([row["probabilities"] for row in texts.rows])
  if texts.kind == heads.SINGLE_LABEL:
    confidence, is_right = table.max(axis=1), ~texts.find_wrong()
  else:  # each label of each example is a prediction
    confidence = table.ravel()
    is_right = (texts.targets[:, :num_known] > 0).ravel()
  bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
  points, error = [], 0.0
  for number in range(_NUM_BINS):
    is_here = bins == number
    if is_here.any():
      mean = float(confidence[is_here].mean())
      share = float(is_right[is_here].mean())
      points.append((mean, share))
      error += abs(mean - share) * float(is_here.mean())
  return charts.line_chart(
    f"Calibration: error {charts.format_number(error)}",
    "probability",
    [
      charts.Curve("share that is right", points, has_dots=True),
      charts.Curve("perfect calibration", [(0.0, 0.0), (1.0, 1.0)]),
    ],
  )


def _draw_values(texts) -> dict[str, Any] | None:
  """Returns a chart of predicted against correct values."""
  pairs = zip(texts.targets.tolist(), texts.decisions.tolist())
  low, high = float(texts.targets.min()), float(texts.targets.max())
  return charts.line_chart(
    "Predicted against correct values",
    "correct value",
    [
      charts.Curve("predicted", sorted(pairs), is_line=False, has_dots=True),
      charts.Curve("perfect prediction", [(low, low), (high, high)]),
    ],
  )


# --- Examples ----------------------------------------------------------------


def _make_list(content, texts, list_id: str, budget: int) -> dict[str, Any]:
  """Returns the list of examples, the worst mistakes first."""
  is_wrong = texts.find_wrong()
  badness = [
    _measure_badness(
      texts.kind,
      row["label"] if texts.has_labels else None,
      row["prediction"],
      row["probabilities"],
    )
    for row in texts.rows
  ]
  # The worst of each pair of label and prediction, then the second worst, ...
  order = sorted(range(len(texts.rows)), key=lambda i: -badness[i])
  ranks: collections.Counter[tuple[str, str]] = collections.Counter()
  keys = []
  for number in order:
    row = texts.rows[number]
    pair = (_show_value(row["label"]), _show_value(row["prediction"]))
    if texts.kind == heads.REGRESSION:
      pair = ("", "")
    is_explained = row["words"] is not None
    keys.append((-1 if is_explained else ranks[pair], number))
    ranks[pair] += 1
  by_rank = [number for _, number in sorted(keys, key=lambda key: key[0])]
  items = [_make_item(texts, i, bool(is_wrong[i]), badness[i]) for i in by_rank]
  filters = []
  if texts.kind != heads.REGRESSION:
    filters.append(page.Filter("prediction", "prediction", texts.labels))
    if texts.has_labels:
      filters.insert(0, page.Filter("label", "label", texts.labels))
      filters.append(page.Filter("state", "right or wrong", ["wrong", "right"]))
  if any(row["words"] for row in texts.rows):
    filters.append(page.Filter("words", "words", ["marked"]))
  shown = page.example_list(
    list_id, "examples", filters, items, content.num_examples, budget
  )
  shown["entries"].sort(key=lambda item: -item["badness"])
  return shown


def _make_item(texts, number: int, is_wrong: bool, badness: float):
  """Returns an example as an item of the list."""
  row = texts.rows[number]
  facets = []
  if texts.has_labels and texts.kind != heads.REGRESSION:
    facets += [("label", label) for label in _as_labels(row["label"])]
    facets.append(("state", "wrong" if is_wrong else "right"))
  facets += [("prediction", label) for label in _as_labels(row["prediction"])]
  if row["words"]:
    facets.append(("words", "marked"))
  pairs = sorted(zip(row["probabilities"], texts.labels), reverse=True)[:3]
  shown = [f"{label} {probability:.1%}" for probability, label in pairs]
  return {
    "facets": facets,
    "badness": badness,
    "is_wrong": is_wrong and texts.kind != heads.REGRESSION,
    "id": row["id"],
    "texts": _mark_words(row),
    "words": _list_words(row, texts.kind == heads.REGRESSION),
    "label": _show_value(row["label"]) if texts.has_labels else None,
    "prediction": _show_value(row["prediction"]),
    "probabilities": ", ".join(shown),
  }


def _mark_words(row: Mapping[str, Any]) -> list[list[dict[str, str]]]:
  """Returns the texts as pieces: marked words, and what is between them.

  The class of a mark is `for` or `against`, with a shade from s1 to s4.
  """
  texts = _list_texts(row["text_a"], row["text_b"])
  words_of_texts = row["words"] or [[] for _ in texts]
  shares = [abs(word[2]) for words in words_of_texts for word in words]
  largest = max(shares, default=0.0)
  marked = []
  for text, words in zip(texts, words_of_texts):
    pieces, place = [], 0
    for begin, end, share in words:
      part = abs(share) / largest if largest else 0.0
      if part < _SMALLEST_SHARE or end > len(text):
        continue
      pieces.append({"text": text[place:begin], "mark": ""})
      shade = math.ceil(part * _NUM_SHADES)
      side = "for" if share > 0 else "against"
      pieces.append({"text": text[begin:end], "mark": f"{side} s{shade}"})
      place = end
    pieces.append({"text": text[place:], "mark": ""})
    marked.append([piece for piece in pieces if piece["text"]])
  return marked


def _list_words(
  row: Mapping[str, Any], is_regression: bool
) -> list[tuple[str, str]]:
  """Returns the words with the largest shares, after what they do."""
  words = []
  texts = _list_texts(row["text_a"], row["text_b"])
  for text, shares in zip(texts, row["words"] or ()):
    words += [(share, text[begin:end]) for begin, end, share in shares]
  words.sort(key=lambda word: -abs(word[0]))
  lines = []
  sides = ("words for it", "words against it")
  if is_regression:
    sides = ("raised by", "lowered by")
  for sign, side in zip((1, -1), sides):
    of_side = [word for word in words if sign * word[0] > 0]
    shown = [
      f"{text} ({share:+.2g})" for share, text in of_side[:_NUM_LISTED_WORDS]
    ]
    if shown:
      lines.append((side, ", ".join(shown)))
  return lines


def _show_value(value: Any) -> str:
  """Returns a label, labels or a number for readers."""
  if isinstance(value, list):
    return ", ".join(value) or "no label"
  return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)
