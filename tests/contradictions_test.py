"""Tests of `check_flags` of every program, each in its own process."""

import builders
import pytest

_MODEL = ("--bert_config_file={config}", "--vocab_file={vocab}")
_TEXT = ("--input_file={text}", "--output_dir={out}")
_COLA = ("--task_name=cola", "--data_dir={folder}", "--output_dir={out}")
_GLUE = ("--data_dir={folder}", "--output_dir={out}")


@pytest.mark.parametrize(
  "program, flags, message",
  [
    (
      "create_pretraining_data",
      ["--vocab_file={vocab}", "--input_file={text}", "--output_file={out}"]
      + ["--word_separator=_"],
      "--word_separator=_ is for whole words",
    ),
    (
      "create_vocabulary",
      [*_TEXT, "--vocab_size=50"],
      "--vocab_size=50 leaves no room",
    ),
    (
      "create_vocabulary",
      [*_TEXT, "--model_size=tiny", "--bert_config_file={config}"],
      "--model_size and --bert_config_file both name a config",
    ),
    (
      "run_pretraining",
      [*_MODEL, *_TEXT, "--do_train", "--train_hours=1"]
      + ["--num_train_steps=5"],
      "--train_hours=1 and --num_train_steps=5 both",
    ),
    (
      "run_pretraining",
      [*_MODEL, *_TEXT, "--do_eval", "--restart"],
      "--restart begins the training again",
    ),
    ("from_scratch", _TEXT, "Pass either --hours or --num_train_steps"),
    ("run_classifier", [*_MODEL, *_COLA], "Nothing to do"),
    (
      "run_classifier",
      [*_MODEL, *_COLA, "--do_train", "--class_weights=spam"],
      "'spam' is not of the form label=weight",
    ),
    (
      "run_classifier",
      [*_MODEL, *_COLA, "--do_train", "--eval_every_steps=5"],
      "--eval_every_steps=5 evaluates while training: pass --do_eval",
    ),
    (
      "run_classifier_with_tfhub",
      [*_COLA, "--bert_hub_module_handle={folder}", "--do_train"]
      + ["--layerwise_lr_decay=0.5"],
      "--layerwise_lr_decay=0.5 needs a model whose layers are known",
    ),
    (
      "run_squad",
      [*_MODEL, "--do_train", "--train_file={text}", "--output_dir={out}"]
      + ["--max_query_length=400"],
      "leaves no room next to --max_query_length=400",
    ),
    (
      "run_ner",
      [*_MODEL, *_GLUE, "--do_train", "--lr_decay_power=2"],
      "--lr_decay_power=2.0 belongs to --lr_decay=poly",
    ),
    ("run_swag", [*_MODEL, *_GLUE], "Nothing to do"),
    (
      "run_glue",
      [*_MODEL, *_GLUE, "--learning_rates=fast"],
      "--learning_rates=fast is not a list of positive numbers",
    ),
    (
      "run_glue",
      [*_MODEL, *_GLUE, "--classifier_flags=--drpout=0"],
      "run_classifier.py ended with status 1",
    ),
    (
      "run_glue",
      [*_MODEL, *_GLUE, "--classifier_flags='"],
      "--classifier_flags=': No closing quotation",
    ),
    (
      "predict",
      [*_MODEL, "--text=a", "--input_file={text}"],
      "--text and --input_file both give texts",
    ),
    (
      "extract_features",
      [*_MODEL, "--input_file={text}", "--output_file={out}"]
      + ["--pooling=pooled", "--layers=-1"],
      "--layers=-1 does nothing with --pooling=pooled",
    ),
    (
      "serve",
      ["--model={folder}", "--max_rows=9", "--max_queue_rows=8"],
      "--max_rows=9 is more than --max_queue_rows=8",
    ),
    (
      "report",
      ["--run={folder}", "--loss=masked_lm_loss"],
      "--loss is about a picture of curves",
    ),
  ],
)
def test_contradictions_are_answered_before_tensorflow_is_loaded(
  program, flags, message, tmp_path, config_file, vocab_file
):
  text = tmp_path / "text.txt"
  text.write_text("the cat\n")
  places = dict(
    text=text,
    folder=tmp_path,
    out=tmp_path / "out",
    config=config_file,
    vocab=vocab_file,
  )
  last_line = builders.refuse_at_once(
    program, *(flag.format(**places) for flag in flags)
  )
  assert last_line.startswith(f"{program}.py: ") and message in last_line
  assert not (tmp_path / "out").exists()
