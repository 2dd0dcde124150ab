"""XNLI (Conneau et al., 2018): natural language inference in 15 languages."""

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


def xnli_task(
  languages: Sequence[str],
  train_language: str | None = None,
) -> classification.ClassificationTask:
  """Returns the task that is evaluated in one language or several.

  Training reads `multinli/multinli.train.<language>.tsv`, the translations of
  MultiNLI that come with XNLI: in the language of the evaluation this is what
  the paper calls translate-train; in English, zero-shot transfer.
  `xnli.dev.tsv` and `xnli.test.tsv` hold all languages, a row each;
  `dev-<language>.tsv` and `test-<language>.tsv`, of premise, hypothesis and
  label without header, are read in their place where they are.

  Args:
    languages: of dev and test; the first are `dev` and `test`, the others
      `dev_<language>` and `test_<language>`.
    train_language: None for the first of `languages`.

  Raises:
    UserError: there is no language, or one that is not one of `LANGUAGES`.
  """
  if not languages:
    raise UserError("--language names no language.")
  train_language = train_language or languages[0]
  for language in (*languages, train_language):
    if language not in LANGUAGES:
      raise UserError(
        f"XNLI has no language {language!r}. It has: {', '.join(LANGUAGES)}."
      )
  splits = {
    "train": [
      Columns(f"multinli/multinli.train.{train_language}.tsv", 0, 1, label=2)
    ]
  }
  for kind in ("dev", "test"):
    for number, language in enumerate(languages):
      splits[f"{kind}_{language}" if number else kind] = [
        Columns(f"{kind}-{language}.tsv", 0, 1, label=2, has_header=False),
        # language, gold_label, ..., sentence1, sentence2, promptID, pairID
        Columns(f"xnli.{kind}.tsv", 6, 7, label=1, only=(0, language)),
      ]
  return classification.ClassificationTask(
    name="xnli",
    labels=("contradiction", "entailment", "neutral"),
    splits=splits,
    renamed_labels={"contradictory": "contradiction"},
  )
