"""XNLI (Conneau et al., 2018): natural language inference in 15 languages."""

from __future__ import annotations

from collections.abc import Sequence

from errors import UserError
from tasks import classification
from tasks.classification import Columns

LANGUAGES = (
  "ar",
  "bg",
  "de",
  "el",
  "en",
  "es",
  "fr",
  "hi",
  "ru",
  "sw",
  "th",
  "tr",
  "ur",
  "vi",
  "zh",
)
# Names of columns in the published `xnli.dev.tsv` and `xnli.test.tsv`.
_HEADER = (
  "language",
  "gold_label",
  "sentence1_binary_parse",
  "sentence2_binary_parse",
  "sentence1_parse",
  "sentence2_parse",
  "sentence1",
  "sentence2",
  "promptID",
  "pairID",
  "genre",
  "label1",
  "label2",
  "label3",
  "label4",
  "label5",
  "sentence1_tokenized",
  "sentence2_tokenized",
  "match",
)


def xnli_task(
  languages: Sequence[str],
  train_language: str | None = None,
) -> classification.ClassificationTask:
  """Returns the task for one or several languages.

  Training reads `multinli/multinli.train.<language>.tsv`, the translations of
  MultiNLI that are published with XNLI. In the language of the evaluation this
  is the setting "translate-train" of the paper; in English, it is zero-shot
  transfer.

  Evaluation reads `dev-<language>.tsv` and `test-<language>.tsv` (premise,
  hypothesis and label, without header). If they do not exist, it reads
  `xnli.dev.tsv` and `xnli.test.tsv`, whose rows are in all languages.

  Args:
    languages: Languages of evaluation. The splits of the first are `dev` and
      `test`, those of the others `dev_<language>` and `test_<language>`.
    train_language: Language of training; None for the first of `languages`.

  Raises:
    UserError: There is no language, or one that is not in `LANGUAGES`.
  """
  if not languages:
    raise UserError("--language names no language.")
  train_language = train_language or languages[0]
  for language in (*languages, train_language):
    if language not in LANGUAGES:
      raise UserError(
        f"XNLI has no language {language!r}. It has: {', '.join(LANGUAGES)}."
      )
  train_file = f"multinli/multinli.train.{train_language}.tsv"
  header = ("premise", "hypo", "label")
  splits = {"train": [Columns(train_file, 0, 1, label=2, header=header)]}
  for kind in ("dev", "test"):
    for number, language in enumerate(languages):
      split = f"{kind}_{language}" if number else kind
      splits[split] = [
        Columns(f"{kind}-{language}.tsv", 0, 1, label=2, has_header=False),
        Columns(
          f"xnli.{kind}.tsv",
          6,
          7,
          label=1,
          header=_HEADER,
          only=(0, language),
        ),
      ]
  return classification.ClassificationTask(
    name="xnli",
    labels=("contradiction", "entailment", "neutral"),
    splits=splits,
    renamed_labels={"contradictory": "contradiction"},
  )
