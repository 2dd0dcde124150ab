"""Tests of tasks/metrics.py."""

import warnings

import numpy as np
import pytest
from scipy import stats
from seqeval import metrics as seqeval_metrics
from sklearn import metrics as sklearn_metrics

from tasks import metrics

# --- Classes -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_classes_match_scikit_learn(seed):
  rng = np.random.default_rng(seed)
  labels, predictions = rng.integers(0, 2, (2, 50))
  accuracy = sklearn_metrics.accuracy_score(labels, predictions)
  assert metrics.accuracy(labels, predictions) == {"accuracy": accuracy}
  assert metrics.accuracy_and_f1(labels, predictions) == pytest.approx(
    {
      "accuracy": accuracy,
      "f1": sklearn_metrics.f1_score(labels, predictions),
    }
  )
  # Many examples, in order that products of counts exceed 64 bits.
  for num_classes, num_examples in [(2, 50), (4, 50), (3, 100_000)]:
    labels, predictions = rng.integers(0, num_classes, (2, num_examples))
    accuracy = sklearn_metrics.accuracy_score(labels, predictions)
    assert metrics.matthews_correlation(labels, predictions) == pytest.approx(
      {
        "accuracy": accuracy,
        "matthews": sklearn_metrics.matthews_corrcoef(labels, predictions),
      }
    )
    assert metrics.accuracy_and_macro_f1(labels, predictions) == pytest.approx(
      {
        "accuracy": accuracy,
        "macro_f1": sklearn_metrics.f1_score(
          labels, predictions, average="macro"
        ),
      }
    )


def test_a_class_that_is_only_predicted_is_part_of_macro_f1():
  scores = metrics.accuracy_and_macro_f1(np.array([5, 5]), np.array([5, 7]))
  # F1 of class 5 is 2/3, that of class 7 is 0.
  assert scores == pytest.approx({"accuracy": 0.5, "macro_f1": 1 / 3})


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_many_labels_match_scikit_learn(seed):
  rng = np.random.default_rng(seed)
  labels, predictions = rng.integers(0, 2, (2, 50, 3))
  scores = metrics.multi_label_scores(
    labels.astype(np.float32), predictions.astype(np.float32)
  )
  f1_score = sklearn_metrics.f1_score
  assert scores == pytest.approx(
    {
      "exact_match": sklearn_metrics.accuracy_score(labels, predictions),
      "micro_f1": f1_score(labels, predictions, average="micro"),
      "macro_f1": f1_score(labels, predictions, average="macro"),
    }
  )


def test_rows_of_the_confusion_matrix_are_labels():
  labels = np.array([0, 0, 0, 1, 2])
  predictions = np.array([0, 2, 2, 0, 2])
  matrix = metrics.confusion_matrix(labels, predictions, 4)
  assert matrix.tolist() == [
    [1, 0, 2, 0],
    [1, 0, 0, 0],
    [0, 0, 1, 0],
    [0, 0, 0, 0],
  ]


@pytest.mark.parametrize("label", [0, 1])
def test_undefined_scores_of_classes_are_zero(label):
  constant = np.full(4, label)
  scores = metrics.accuracy_and_f1(constant, constant)
  assert scores == {"accuracy": 1.0, "f1": float(label)}
  for other in (constant, np.array([0, 1, 1, 1])):
    assert metrics.matthews_correlation(constant, other)["matthews"] == 0.0
    assert metrics.matthews_correlation(other, constant)["matthews"] == 0.0


# --- Numbers -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_numbers_match_scipy(seed):
  rng = np.random.default_rng(seed)
  # There are ties, as in scores that people give.
  labels = rng.integers(0, 11, 50) / 2
  predictions = np.round(labels + rng.normal(size=50), 1)
  scores = metrics.correlations_and_errors(
    labels.astype(np.float32), predictions
  )
  assert scores == pytest.approx(
    {
      "pearson": stats.pearsonr(labels, predictions).statistic,
      "spearman": stats.spearmanr(labels, predictions).statistic,
      "mse": sklearn_metrics.mean_squared_error(labels, predictions),
      "mae": sklearn_metrics.mean_absolute_error(labels, predictions),
    },
    abs=1e-12,
  )


def test_correlations_with_a_constant_are_zero():
  for labels, predictions in [
    (np.zeros(4), np.arange(4)),
    (np.arange(4), np.ones(4)),
  ]:
    scores = metrics.correlations_and_errors(labels, predictions)
    assert scores["pearson"] == scores["spearman"] == 0.0


def test_numbers_are_scored_in_float64():
  # The mean of these numbers is far off in float32.
  numbers = np.array([0, 1] * 50)
  large_numbers = (2**23 + numbers).astype(np.float32)
  for labels, predictions in [
    (numbers, large_numbers),
    (large_numbers, numbers),
  ]:
    scores = metrics.correlations_and_errors(labels, predictions)
    assert scores["pearson"] == pytest.approx(1.0)
    assert scores["mae"] == 2**23


# --- Entities ----------------------------------------------------------------


@pytest.mark.parametrize("prefixes", ["BI", "BIES"])
@pytest.mark.parametrize("seed", range(5))
def test_scores_of_entities_match_seqeval(seed, prefixes):
  # The tags are in any order, even an impossible one.
  tags = ["O", "O"] + [f"{p}-{kind}" for p in prefixes for kind in ("x", "yz")]
  rng = np.random.default_rng(seed)
  labels = [rng.choice(tags, n).tolist() for n in rng.integers(1, 12, 40)]
  predictions = [
    [label if rng.random() < 0.7 else str(rng.choice(tags)) for label in row]
    for row in labels
  ]
  ours = metrics.entity_scores(labels, predictions)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = seqeval_metrics.classification_report(
      labels, predictions, output_dict=True
    )
    accuracy = seqeval_metrics.accuracy_score(labels, predictions)
  expected = {"accuracy": accuracy}
  for name, prefix in [("micro avg", ""), ("x", "x_"), ("yz", "yz_")]:
    expected[f"{prefix}precision"] = theirs[name]["precision"]
    expected[f"{prefix}recall"] = theirs[name]["recall"]
    expected[f"{prefix}f1"] = theirs[name]["f1-score"]
  assert ours == pytest.approx(expected)


def test_schemes_of_tags_have_the_same_entities():
  expected = {("x", 0, 2), ("x", 2, 3), ("y", 4, 5)}
  for tags in (
    "B-x I-x B-x O B-y",
    "I-x I-x B-x O I-y",
    "B-x E-x S-x O S-y",
    "B-x L-x U-x O U-y",
    "B_x I_x B_x O B_y",
  ):
    assert metrics.find_entities(tags.split()) == expected
  tags = ["B-x", "M-x", "E-x", "S-x", "B", "M", "E", "S"]
  assert metrics.find_entities(tags) == {
    ("x", 0, 3),
    ("x", 3, 4),
    ("", 4, 7),
    ("", 7, 8),
  }


@pytest.mark.parametrize(
  "tags, expected",
  [
    # I- after O begins an entity, and so does another type.
    ("O I-x I-y", {("x", 1, 2), ("y", 2, 3)}),
    # After its end an entity does not continue.
    ("B-x E-x I-x", {("x", 0, 2), ("x", 2, 3)}),
    ("S-x I-x E-x", {("x", 0, 1), ("x", 1, 3)}),
    ("S-x O I-x", {("x", 0, 1), ("x", 2, 3)}),
    # An end alone is an entity; one of another type ends both.
    ("O E-x O", {("x", 1, 2)}),
    ("B-x E-y", {("x", 0, 1), ("y", 1, 2)}),
    # The end of the sentence is an end, too.
    ("O B-x I-x", {("x", 1, 3)}),
    ("O O", set()),
    # A tag of another form is outside of entities.
    ("B-x x I-x XX-x", {("x", 0, 1), ("x", 2, 3)}),
    ("B-x LOC I-x MISC", {("x", 0, 1), ("x", 2, 3)}),
    # A type may have a hyphen.
    ("B-a-b I-a-b I-a", {("a-b", 0, 2), ("a", 2, 3)}),
  ],
)
def test_entities_by_hand(tags, expected):
  assert metrics.find_entities(tags.split()) == expected
  # BILOU and BMES name the same places by other letters.
  for letters in ("ILU", "MES", "MEW"):
    renamed = tags.translate(str.maketrans("IES", letters))
    assert metrics.find_entities(renamed.split()) == expected


def test_scores_of_entities_by_hand():
  scores = metrics.entity_scores(
    [["B-x", "I-x", "O"], ["B-y", "O"]], [["B-x", "O", "O"], ["B-y", "B-z"]]
  )
  # One of the 2 entities is found; one of the 3 predictions is right.
  assert scores == pytest.approx(
    {
      "accuracy": 3 / 5,
      "precision": 1 / 3,
      "recall": 1 / 2,
      "f1": 2 / 5,
      "x_precision": 0.0,
      "x_recall": 0.0,
      "x_f1": 0.0,
      "y_precision": 1.0,
      "y_recall": 1.0,
      "y_f1": 1.0,
      "z_precision": 0.0,
      "z_recall": 0.0,
      "z_f1": 0.0,
    }
  )


def test_scores_of_entities_are_in_order():
  tags = [f"B-{kind}" for kind in "hgfedcba"]
  names = list(metrics.entity_scores([tags], [tags]))
  assert names[:4] == ["accuracy", "precision", "recall", "f1"]
  assert names[4:7] == ["a_precision", "a_recall", "a_f1"]
  assert names[4::3] == [f"{kind}_precision" for kind in "abcdefgh"]


def test_entities_without_types_have_scores_in_all_only():
  scores = metrics.entity_scores([["B", "I", "B"]], [["B", "I", "O"]])
  assert scores == pytest.approx(
    {"accuracy": 2 / 3, "precision": 1.0, "recall": 1 / 2, "f1": 2 / 3}
  )


def test_scores_without_entities_are_zero():
  scores = metrics.entity_scores([["O", "O"]], [["O", "O"]])
  assert scores == {"accuracy": 1.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_sentences_without_a_prediction_are_refused():
  with pytest.raises(ValueError, match="shorter"):
    metrics.entity_scores([["O"], ["O"]], [["O"]])


# --- Probabilities -----------------------------------------------------------


def test_probabilities_of_logits():
  logits = np.log([[[1.0, 2.0, 5.0]], [[2.0, 2.0, 4.0]]])
  np.testing.assert_allclose(
    np.exp(metrics.log_softmax(logits)),
    [[[0.125, 0.25, 0.625]], [[0.25, 0.25, 0.5]]],
  )
  np.testing.assert_allclose(
    metrics.log_softmax(np.array([[1000.0, 0.0], [0.0, 0.0]], np.float32)),
    [[0.0, -1000.0], [-np.log(2), -np.log(2)]],
  )
  np.testing.assert_allclose(
    metrics.sigmoid(np.array([-1000.0, 0.0, np.log(3), 1000.0])),
    [0.0, 0.5, 0.75, 1.0],
  )


def test_probabilities_are_float64():
  logits = np.zeros([1, 3], np.float32)
  for probabilities in (metrics.log_softmax(logits), metrics.sigmoid(logits)):
    assert probabilities.dtype == np.float64
