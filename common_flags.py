"""Flags that several programs share, and the objects that they describe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import os
import sys
from typing import Any

from absl import flags
from absl import logging
import tensorflow as tf

import checkpoint
from command_line import flag_help
from command_line import input_paths
from data import checkpoint_folder
from data import text_decoding
from data import tokenizer_settings
from errors import repeat_warnings
from errors import UserError
from errors import warn_now_and_at_end
import estimator
import heads
import modeling
import optimization
from pretraining import corpus
from pretraining import masking
from reports import example_files
from reports import run_files
from reports import run_report
from tasks import classification
from tasks import classifier_config
from tasks import finetuning
from tasks import tables
import tokenization
from training import cluster
from training import cost
from training import model_folder
from training import run_folder

FLAGS = flags.FLAGS

# Split of the data -> the flag that makes a program read it.
_FLAGS_OF_SPLITS = {
  "train": "do_train",
  "dev": "do_eval",
  "test": "do_predict",
}


# --- Models and text ---------------------------------------------------------


@flag_help.group("Model")
def _define_model_name() -> None:
  if "model" not in FLAGS:
    flags.DEFINE_string(
      "model",
      None,
      "Folder of a model, or the name of a model that download_model.py put "
      f"into {model_folder.MODELS_DIR}/. It replaces --bert_config_file, "
      "--vocab_file and --init_checkpoint, each of which overrides it.",
    )
    input_paths.mark("model", model_folder.check_exists)


@flag_help.group("Model")
def define_model_flags() -> None:
  """Defines the flags that name a model."""
  _define_model_name()
  flags.DEFINE_string(
    "bert_config_file", None, "The bert_config.json of the model."
  )
  flags.DEFINE_string(
    "init_checkpoint",
    None,
    "Weights to start from: the prefix of a checkpoint (such as "
    "bert_model.ckpt) or its folder, or a file of transformers (.safetensors, "
    ".bin, .h5, or the .index.json of several).",
  )
  input_paths.mark("bert_config_file", input_paths.check_path)
  input_paths.mark("init_checkpoint", input_paths.check_checkpoint)
  define_precision_flag()


@flag_help.group("Model")
def define_precision_flag() -> None:
  """Defines the flag of the type of the activations."""
  flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16", "float16"],
    "Type of the activations; weights are always float32. bfloat16 is faster "
    "on TPUs, recent GPUs, and CPUs with AVX512-BF16 or AMX. float16 is for "
    "older GPUs, and scales the loss to keep gradients in its range.",
  )


@flag_help.group("Text")
def define_text_flags() -> None:
  """Defines the flags of programs that read plain text of any size."""
  flags.DEFINE_string(
    "input_file",
    None,
    "Text files, folders, patterns, or @lists (files with one name per line), "
    "separated by commas; plain, .gz, .bz2, .xz or .zst. Files of JSON lines "
    "hold one object per line, each a document. WikiExtractor's output is read "
    "as it is.",
    required=True,
  )
  input_paths.mark("input_file", input_paths.check_files)
  flags.DEFINE_string(
    "text_field", "text", "Field of a JSON object that holds the text."
  )
  flags.DEFINE_bool(
    "split_sentences",
    False,
    "Whether to split lines of prose into sentences.",
  )
  flags.DEFINE_enum(
    "errors",
    "strict",
    ["strict", "replace"],
    "How to handle a line that is not UTF-8, or not the JSON that it should "
    "be: stop, or continue with the readable part and count it.",
  )


def text_parser() -> corpus.TextParser:
  """Returns the parser of the text that the flags describe."""
  return corpus.TextParser(
    FLAGS.errors, FLAGS.split_sentences, FLAGS.text_field
  )


def define_encoding_flag(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines --encoding, for programs that read files of a task."""
  flags.DEFINE_string(
    "encoding",
    "utf-8",
    "Encoding of the files with examples, such as latin1, cp1252, gbk, big5 or "
    "shift_jis. Files with a byte order mark, such as UTF-16, are read as it "
    "says.",
    flag_values=flag_values,
  )


def text_encoding(flag_values: flags.FlagValues = FLAGS) -> str:
  """Returns the value of --encoding.

  Raises:
    UserError: It is no encoding.
  """
  encoding = str(flag_values["encoding"].value)
  text_decoding.check_encoding(encoding, "--encoding")
  return encoding


# The flags that say how the tables of a classifier are read.
TABLE_FLAGS = ("encoding", "delimiter", "missing", "skip_labels")


def define_table_flags(flag_values: flags.FlagValues = FLAGS) -> None:
  """Defines `TABLE_FLAGS`."""
  define_encoding_flag(flag_values)
  flags.DEFINE_string(
    "delimiter",
    None,
    "Character between the fields of a row, such as ';' or tab; by default the "
    "comma, semicolon, tab or pipe that the first line shows.",
    flag_values=flag_values,
  )
  flags.DEFINE_enum(
    "missing",
    classification.ERROR,
    [classification.ERROR, classification.SKIP],
    "How to handle rows without text or label, such as an empty field or a "
    "label nan: stop, or leave them out and count them.",
    flag_values=flag_values,
  )
  flags.DEFINE_list(
    "skip_labels",
    [],
    "Labels whose examples are left out, separated by commas, such as - where "
    "annotators did not agree.",
    flag_values=flag_values,
  )


def apply_table_flags(
  task: classification.ClassificationTask,
  flag_values: flags.FlagValues = FLAGS,
) -> classification.ClassificationTask:
  """Returns a task whose files are read as `TABLE_FLAGS` say.

  Raises:
    UserError: A flag has a bad value.
  """
  # Shells make it hard to pass a tab.
  values: dict[str, Any] = flag_values.flag_values_dict()
  delimiter = values["delimiter"]
  delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
  if delimiter is not None:
    tables.check_delimiter(delimiter, "--delimiter")
  return dataclasses.replace(
    task,
    table_format=tables.TableFormat(text_encoding(flag_values), delimiter),
    missing=values["missing"],
    skipped_labels=tuple(values["skip_labels"]),
  )


def mark_split_files() -> None:
  """Marks the flags of the files of splits as paths in --data_dir."""
  for split, needed_by in _FLAGS_OF_SPLITS.items():
    input_paths.mark(
      f"{split}_file", input_paths.check_path, needed_by, "data_dir"
    )


def define_unseen_labels_flag() -> None:
  """Defines --unseen_labels, for programs whose labels come from the data."""
  flags.DEFINE_enum(
    "unseen_labels",
    "error",
    ["error", "count"],
    "How to handle examples to evaluate whose label no training example has: "
    "stop, or count their predictions as wrong and report the labels.",
  )


# The flags of a masking rule; see `define_masking_flags`.
MASKING_FLAGS = ("masked_lm_prob", "do_whole_word_mask")


@flag_help.group("Masks")
def define_masking_flags(
  needed_flag: str | None = None, masked_lm_prob: float = 0.15
) -> None:
  """Defines `MASKING_FLAGS`, the fields of `masking.MaskingSettings`.

  The field `max_predictions_per_seq` is a flag of each program.

  Args:
    needed_flag: Flag without which these have no effect, for the help.
    masked_lm_prob: Default of the flag.
  """
  condition = f", with {needed_flag}" if needed_flag else ""
  flags.DEFINE_float(
    "masked_lm_prob",
    masked_lm_prob,
    f"Fraction of the tokens to predict{condition}.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_bool(
    "do_whole_word_mask",
    False,
    f"Mask all tokens of a word or none{condition}.",
  )


def masking_settings() -> masking.MaskingSettings:
  """Returns how the flags say to mask; each field has a flag of its name."""
  fields = dataclasses.fields(masking.MaskingSettings)
  values: dict[str, Any] = {}
  for field in fields:
    values[field.name] = FLAGS[field.name].value
  return masking.MaskingSettings(**values)


@flag_help.group("Model")
def define_vocab_flags(do_lower_case: bool | None = True) -> None:
  """Defines the flags of the tokenizer.

  Args:
    do_lower_case: Default of the flag; None if the vocabulary decides.
  """
  _define_model_name()
  default = " Default: as the vocabulary." if do_lower_case is None else ""
  flags.DEFINE_string("vocab_file", None, "The vocab.txt of the model.")
  input_paths.mark("vocab_file", input_paths.check_path)
  flags.DEFINE_bool(
    "do_lower_case",
    do_lower_case,
    "Whether to lower-case the text: True for uncased models, False for cased "
    "ones. A tokenizer_config.json next to the vocabulary replaces the "
    f"default.{default}",
  )
  define_token_flags()


def define_token_flags() -> None:
  """Defines the flags of the tokenizer next to vocabulary and casing."""
  flags.DEFINE_bool(
    "strip_accents",
    None,
    "Whether to drop accents. Default: as tokenizer_config.json next to the "
    "vocabulary says, or else as --do_lower_case.",
  )
  define_special_tokens_flag()


def define_special_tokens_flag() -> None:
  """Defines the flag that names the special tokens of a vocabulary."""
  flags.DEFINE_list(
    "special_tokens",
    [],
    "Special tokens of a vocabulary that does not call them [PAD], [UNK], "
    "[CLS], [SEP] and [MASK], such as cls=[START],sep=[END]; the names are "
    "pad, unk, cls, sep and mask. tokenizer_config.json next to the "
    "vocabulary may name them, too.",
  )


# --- Training, evaluation and prediction -------------------------------------


@flag_help.group("Training")
def define_training_flags(
  learning_rate: float,
  best_metric: str | None,
  evaluation_flag: str = "do_eval",
  best_metric_default: str = "",
) -> None:
  """Defines the flags of programs that train.

  Args:
    learning_rate: Default of the flag.
    best_metric: Default of the flag; None if it depends on the data.
    evaluation_flag: Name of the flag that makes the program evaluate.
    best_metric_default: Sentence about a default that depends on the data.
  """
  _define_run_flags()
  _define_step_flags()
  _define_optimizer_flags(learning_rate)
  flags.DEFINE_integer(
    "save_checkpoints_steps",
    1000,
    "Number of steps between checkpoints.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "keep_checkpoint_max",
    5,
    "Number of checkpoints to keep; 0 for all.",
    lower_bound=0,
  )
  _define_best_weights_flags(best_metric, evaluation_flag, best_metric_default)
  flags.DEFINE_bool(
    "skip_nonfinite_steps",
    False,
    "Whether to skip and count steps whose loss or gradient is not finite, "
    "instead of stopping.",
  )
  flags.DEFINE_integer(
    "iterations_per_loop",
    1000,
    "Largest number of steps per call of the training graph.",
    lower_bound=1,
  )
  flags.DEFINE_float(
    "dropout",
    None,
    "Dropout rate of all layers in this training, in place of the rates in the "
    "config. The config that is stored with the weights keeps its own.",
    lower_bound=0.0,
    upper_bound=0.99,
  )
  flags.DEFINE_integer(
    "seed", 12345, "Random seed for weights, data order and dropout."
  )
  flags.DEFINE_bool(
    "deterministic",
    False,
    "Whether to use only operations that always give the same result, even "
    "where a GPU has faster ones.",
  )


def _define_run_flags() -> None:
  """Defines the flags of the folder of a training, and of its start."""
  flags.DEFINE_string(
    "output_dir",
    None,
    "Folder for checkpoints, logs and results. A run that finds a checkpoint "
    "there resumes.",
    required=True,
  )
  flags.DEFINE_bool("do_train", False, "Whether to train.")
  flags.DEFINE_bool(
    "restart",
    False,
    "Whether to delete the checkpoints of an earlier run in --output_dir and "
    "to begin at step 0.",
  )


def _define_step_flags() -> None:
  """Defines the flags of a training step: its batch, memory and compiler."""
  flags.DEFINE_integer(
    "train_batch_size", 32, "Number of examples per step.", lower_bound=1
  )
  flags.DEFINE_integer(
    "gradient_accumulation_steps",
    1,
    "Number of parts into which a batch is split. They are processed one after "
    "the other, with the same result and the memory of one part.",
    lower_bound=1,
  )
  flags.DEFINE_bool(
    "recompute_activations",
    False,
    "Whether to keep only the input of each layer for the gradient, and to "
    "compute the rest again: less memory, a third more work.",
  )
  flags.DEFINE_bool(
    "xla",
    False,
    "Whether to compile the training step with XLA, with batches padded to "
    "--max_seq_length. For GPUs.",
  )


def _define_best_weights_flags(
  best_metric: str | None, evaluation_flag: str, best_metric_default: str
) -> None:
  """Defines the flags of evaluations during training.

  Args:
    best_metric: see `define_training_flags`.
    evaluation_flag: see there.
    best_metric_default: see there.
  """
  flags.DEFINE_integer(
    "eval_every_steps",
    0,
    f"Number of steps between evaluations during training, with "
    f"--{evaluation_flag}; 0 for none. The best weights are kept in best/, and "
    "are evaluated and exported at the end.",
    lower_bound=0,
  )
  flags.DEFINE_string(
    "best_metric",
    best_metric,
    "Score of --eval_every_steps that decides which weights are best: the "
    "lowest of a score that ends in `loss`, the highest of any other."
    + best_metric_default,
  )
  flags.DEFINE_integer(
    "early_stopping_patience",
    0,
    "Number of evaluations in a row without a better score after which "
    "training stops; 0 for never.",
    lower_bound=0,
  )


@flag_help.group("Optimizer")
def _define_optimizer_flags(learning_rate: float) -> None:
  descriptions = [
    f"{name} {choice.description}"
    for name, choice in optimization.OPTIMIZERS.items()
  ]
  flags.DEFINE_enum(
    "optimizer",
    "adamw",
    list(optimization.OPTIMIZERS),
    f"Optimizer: {', or '.join(descriptions)}.",
  )
  flags.DEFINE_float(
    "learning_rate", learning_rate, "Highest learning rate.", lower_bound=0.0
  )
  flags.DEFINE_enum(
    "lr_decay",
    "linear",
    list(optimization.LR_DECAYS),
    "Shape in which the learning rate falls to 0; wsd falls only in the last "
    "fifth of the steps.",
  )
  flags.DEFINE_float(
    "lr_decay_power", 2.0, "Power of --lr_decay=poly.", lower_bound=0.0
  )
  flags.DEFINE_float(
    "layerwise_lr_decay",
    1.0,
    "Learning rate of a layer, as a multiple of that of the layer above; the "
    "embeddings are the lowest. 1 for the same rate everywhere.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_bool(
    "bias_correction",
    False,
    "Whether adamw corrects its averages for their start at 0, which BERT did "
    "not do. lamb always corrects.",
  )


@flag_help.group("Evaluation")
def define_evaluation_flags() -> None:
  """Defines the flags of programs that evaluate apart from predicting."""
  flags.DEFINE_bool("do_eval", False, "Whether to evaluate.")
  flags.DEFINE_integer(
    "eval_batch_size",
    8,
    "Number of examples per batch of the evaluation.",
    lower_bound=1,
  )


@flag_help.group("Fine-tuning")
def define_task_flags(max_seq_length: int) -> None:
  """Defines the flags of programs that fine-tune and predict.

  Args:
    max_seq_length: Default of the flag.
  """
  flags.DEFINE_integer(
    "max_seq_length",
    max_seq_length,
    "Length of the longest sequence, in tokens.",
  )
  flags.DEFINE_bool(
    "pad_to_max_length",
    False,
    "Whether to pad every batch to --max_seq_length, which is slower. TPUs and "
    "training with --xla always do.",
  )
  flags.DEFINE_bool("do_predict", False, "Whether to predict.")
  flags.DEFINE_integer(
    "predict_batch_size",
    8,
    "Number of sequences per batch of the prediction.",
    lower_bound=1,
  )
  flags.DEFINE_float(
    "num_train_epochs",
    3.0,
    "Number of passes over the training examples.",
    lower_bound=0.0,
  )
  flags.DEFINE_float(
    "warmup_proportion",
    0.1,
    "Share of the steps in which the learning rate rises.",
    lower_bound=0.0,
    upper_bound=1.0,
  )


@flag_help.group("TPU")
def define_tpu_flags() -> None:
  """Defines the flags that put a run on a Cloud TPU."""
  flags.DEFINE_bool("use_tpu", False, "Whether to run on a Cloud TPU.")
  flags.DEFINE_string(
    "tpu_name",
    None,
    "Name or grpc:// address of the TPU; `local` on its own machine.",
  )
  flags.DEFINE_string(
    "tpu_zone", None, "GCE zone of the TPU; by default that of this machine."
  )
  flags.DEFINE_string(
    "gcp_project",
    None,
    "Cloud project of the TPU; by default that of this machine.",
  )
  flags.DEFINE_string(
    "master", None, "Address of the TPU, in place of --tpu_name."
  )
  flags.DEFINE_integer(
    "num_tpu_cores",
    8,
    "Number of cores of the TPU; checked when the program connects to it.",
    lower_bound=1,
  )


# --- Checks ------------------------------------------------------------------


def wanted_splits() -> list[str]:
  """Returns the splits that are needed, of `train`, `dev` and `test`.

  Raises:
    UserError: none is needed.
  """
  wanted = [
    split for split, flag in _FLAGS_OF_SPLITS.items() if FLAGS[flag].value
  ]
  if not wanted:
    raise UserError(
      "Nothing to do: pass --do_train, --do_eval, --do_predict, or several of "
      "them."
    )
  return wanted


def check_training_flags(evaluation_flag: str = "do_eval") -> None:
  """Raises a UserError if flags of `define_training_flags` do not go together.

  Args:
    evaluation_flag: As for `define_training_flags`.
  """
  if FLAGS.restart and not FLAGS.do_train:
    raise UserError(
      "--restart begins the training again: pass --do_train as well."
    )
  if FLAGS.eval_every_steps and not FLAGS[evaluation_flag].value:
    raise UserError(
      f"--eval_every_steps={FLAGS.eval_every_steps} evaluates "
      f"while training: pass --{evaluation_flag} as well."
    )
  if FLAGS.early_stopping_patience and not FLAGS.eval_every_steps:
    raise UserError(
      f"--early_stopping_patience={FLAGS.early_stopping_patience} counts "
      "evaluations: pass --eval_every_steps as well."
    )
  has_power = optimization.LR_DECAYS[FLAGS.lr_decay].has_power
  check_belongs(["lr_decay_power"], has_power, "--lr_decay=poly")


def check_belongs(names: Iterable[str], is_allowed: bool, to: str) -> None:
  """Raises a UserError if flags are given that would have no effect.

  Args:
    names: Names of the flags.
    is_allowed: Whether they have an effect.
    to: The flag that gives them an effect.
  """
  for name in names:
    if FLAGS[name].present and not is_allowed:
      given = FLAGS[name].serialize().replace("\n", " ")  # of repeated flags
      raise UserError(f"{given} belongs to {to}: pass both, or neither.")


def num_task_steps(num_sequences: int) -> int:
  """Returns the number of steps of --num_train_epochs.

  Raises:
    UserError: there is not a single step.
  """
  result = int(num_sequences / FLAGS.train_batch_size * FLAGS.num_train_epochs)
  if not result:
    raise UserError(
      f"{num_sequences} examples, --num_train_epochs={FLAGS.num_train_epochs}"
      f" and --train_batch_size={FLAGS.train_batch_size} make no single step."
      " Train for more epochs or with smaller batches."
    )
  return result


# --- The model ---------------------------------------------------------------


def model_files(*needed: str) -> model_folder.ModelFiles:
  """Returns the files of the model that the flags name.

  A flag of a single file takes precedence over --model.

  Args:
    *needed: Names of the files that are required.

  Raises:
    UserError: there is no such model, or a required file is not named.
  """
  files = model_folder.ModelFiles()
  if FLAGS.model:
    files = model_folder.find_model(FLAGS.model)
  given: dict[str, Any] = {
    name: FLAGS[name].value
    for name in files._fields
    if name in FLAGS and FLAGS[name].value is not None
  }
  files = files._replace(**given)
  if files.init_checkpoint:
    # Everything that lies next to the weights is found by this path, and a
    # training that is still running may write newer ones.
    weights = checkpoint.find_weights(files.init_checkpoint)
    files = files._replace(init_checkpoint=weights)
  for name in needed:
    if not getattr(files, name):
      file_name = getattr(model_folder.FILE_NAMES, name)
      raise UserError(
        f"Pass --{name}, or --model, the folder with its {file_name}."
      )
  return files


def read_config(files: model_folder.ModelFiles) -> modeling.BertConfig:
  """Returns the config of a model.

  Raises:
    UserError: the file is missing or damaged.
  """
  return modeling.BertConfig.from_json_file(files.bert_config_file)


def config_to_train(config: modeling.BertConfig) -> modeling.BertConfig:
  """Returns the config of the model in training: --dropout is in effect."""
  if FLAGS.dropout is None:
    return config
  return dataclasses.replace(
    config,
    hidden_dropout_prob=FLAGS.dropout,
    attention_probs_dropout_prob=FLAGS.dropout,
  )


def text_settings(
  files: model_folder.ModelFiles,
  trained: tokenizer_settings.TokenizerSettings | None = None,
) -> tokenizer_settings.TokenizerSettings:
  """Returns the settings of the tokenizer of a model.

  Flags that are given take precedence; then the settings that the model was
  trained with, or those next to its vocabulary; then the defaults of flags.

  Args:
    files: The files of the model.
    trained: Settings that the model was trained with, if they are known.

  Raises:
    UserError: a flag, or a file next to the vocabulary, has a bad value.
  """
  if trained:
    fields = trained.to_fields()
    source = "the model was trained with"
  else:
    folder = os.path.dirname(files.vocab_file)
    fields = tokenizer_settings.read_fields(folder)
    source = f"the files next to {files.vocab_file} say"
  given = given_text_fields()
  for name, value in given.items():
    known = fields.get(name, value)
    if known != value:
      logging.warning(
        "The flags say %s=%s, but %s %s. The flags decide.",
        name,
        value,
        source,
        known,
      )
  defaults = {}
  if "do_lower_case" in FLAGS:
    defaults["do_lower_case"] = FLAGS.do_lower_case
  return tokenizer_settings.TokenizerSettings.from_fields(
    {**defaults, **fields, **given}
  )


def given_text_fields() -> dict[str, Any]:
  """Returns the settings of the tokenizer that are given by flags."""
  given: dict[str, Any] = {}
  for name in ("do_lower_case", "strip_accents"):
    if name in FLAGS and FLAGS[name].present:
      given[name] = FLAGS[name].value
  tokens = tokenizer_settings.parse_special_tokens(
    FLAGS.special_tokens, "--special_tokens"
  )
  return {**given, **tokens}


def create_tokenizer(
  files: model_folder.ModelFiles,
  config: modeling.BertConfig | None = None,
  settings: tokenizer_settings.TokenizerSettings | None = None,
) -> tokenization.FullTokenizer:
  """Returns the tokenizer of a model.

  Args:
    files: The files of the model.
    config: Config to check the vocabulary against, or None.
    settings: Settings of the tokenizer; None for those of `text_settings`.

  Raises:
    UserError: the vocabulary does not fit the config, the casing, or the names
      of the special tokens.
  """
  if settings is None:
    settings = text_settings(files)
  tokenizer = tokenization.FullTokenizer.from_settings(
    files.vocab_file, settings
  )
  given = [text.partition("=")[0] for text in FLAGS.special_tokens]
  tokenizer.check_special_tokens(*given)
  tokenization.validate_case_matches_vocab(
    settings.do_lower_case, tokenizer.vocab, files.vocab_file
  )
  if config:
    check_vocab_size(len(tokenizer.inv_vocab), config, files)
  return tokenizer


def check_vocab_size(
  num_tokens: int,
  config: modeling.BertConfig,
  files: model_folder.ModelFiles,
) -> None:
  """Raises a UserError if the vocabulary is larger than that of the model."""
  if num_tokens > config.vocab_size:
    raise UserError(
      f"--vocab_file={files.vocab_file} has {num_tokens} tokens, but "
      f"vocab_size={config.vocab_size} in {files.bert_config_file}. Use the "
      "two files of one model."
    )


def check_max_seq_length(
  max_seq_length: int,
  config: modeling.BertConfig,
  files: model_folder.ModelFiles,
  flag: str = "max_seq_length",
) -> None:
  """Raises a UserError if sequences would not fit the model."""
  if not 3 <= max_seq_length <= config.max_position_embeddings:
    raise UserError(
      f"--{flag}={max_seq_length} must be from 3 to "
      f"{config.max_position_embeddings}, which is max_position_embeddings "
      f"in {files.bert_config_file}."
    )


def compute_dtype() -> tf.DType:
  """Returns the type of the activations."""
  return tf.as_dtype(FLAGS.precision if "precision" in FLAGS else "float32")


def model_options(params: Mapping[str, object]) -> dict[str, object]:
  """Returns the arguments that all models take after their sizes."""
  return {
    "compute_dtype": compute_dtype(),
    "seed": params["seed"],
    "recompute_activations": FLAGS.recompute_activations,
  }


# --- The run -----------------------------------------------------------------


def run_config() -> estimator.RunConfig:
  """Returns where and how the run happens.

  Programs call this first: several machines must find each other before
  TensorFlow does anything else.

  Raises:
    UserError: there are not the devices that the flags name.
  """
  if FLAGS.deterministic:
    tf.config.experimental.enable_op_determinism()
  return estimator.RunConfig(
    model_dir=FLAGS.output_dir,
    save_checkpoints_steps=FLAGS.save_checkpoints_steps,
    keep_checkpoint_max=FLAGS.keep_checkpoint_max,
    iterations_per_loop=FLAGS.iterations_per_loop,
    seed=FLAGS.seed,
    strategy=_create_strategy(),
    compute_dtype=compute_dtype(),
    gradient_accumulation_steps=FLAGS.gradient_accumulation_steps,
    xla=FLAGS.xla,
    skip_nonfinite_steps=FLAGS.skip_nonfinite_steps,
    eval_every_steps=FLAGS.eval_every_steps,
    best_metric=FLAGS.best_metric,
    early_stopping_patience=FLAGS.early_stopping_patience,
    settings=_own_settings(),
    restart=FLAGS.restart,
  )


def _own_settings() -> dict[str, object]:
  """Returns the values of our own flags, without those of libraries."""
  main_module = sys.modules["__main__"]
  here = os.path.dirname(os.path.abspath(__file__))
  settings = {}
  for name, module_flags in FLAGS.flags_by_module_dict().items():
    module = sys.modules.get(name, main_module)
    path = os.path.abspath(getattr(module, "__file__", ""))
    if os.path.dirname(path) == here:
      settings.update({flag.name: flag.value for flag in module_flags})
  return settings


def _create_strategy() -> tf.distribute.Strategy | None:
  """Returns how to use the devices; None for a single CPU or GPU."""
  if FLAGS.use_tpu:
    _check_tpu_paths()
    return connect_tpu()
  return cluster.choose_strategy()


def is_remote_tpu() -> bool:
  """Returns whether a TPU on another machine does the work."""
  return FLAGS.use_tpu and (FLAGS.tpu_name or FLAGS.master) != "local"


def _check_tpu_paths() -> None:
  """Raises a UserError if the machine of the TPU could not read the files."""
  if not is_remote_tpu():
    return
  for name in (
    "input_file",
    "eval_input_file",
    "output_dir",
    "init_checkpoint",
  ):
    paths = FLAGS[name].value if name in FLAGS else None
    for path in filter(None, (paths or "").split(",")):
      if "://" not in path:
        raise UserError(
          f"--{name}={path} is a path of this machine, which a Cloud TPU "
          "cannot read: its own machine reads and writes the files. Put "
          "them into a bucket and give a path that starts with gs://, or "
          "run this on the machine of the TPU with --tpu_name=local."
        )


def connect_tpu() -> tf.distribute.Strategy:
  """Connects to the TPU of the flags.

  Raises:
    UserError: there is none, or it has another number of cores.
  """
  return cluster.connect_tpu(
    FLAGS.tpu_name or FLAGS.master,
    FLAGS.tpu_zone,
    FLAGS.gcp_project,
    FLAGS.num_tpu_cores,
  )


def find_newest_checkpoint(init_checkpoint: str | None) -> str | None:
  """Returns the checkpoint from which the run continues, or None.

  Args:
    init_checkpoint: The weights to start from, or None.

  Raises:
    UserError: the checkpoints in the folder contradict their list; or
      --restart would delete the weights to start from.
  """
  if not FLAGS.restart:
    return checkpoint_folder.find_latest(FLAGS.output_dir)
  if init_checkpoint:
    output_dir = os.path.realpath(FLAGS.output_dir)
    folder = os.path.realpath(os.path.dirname(init_checkpoint))
    if folder in (output_dir, os.path.join(output_dir, "best")):
      raise UserError(
        f"--restart would delete --init_checkpoint={init_checkpoint}. "
        "Choose another --output_dir."
      )
  return None


# --- Training ----------------------------------------------------------------


def create_optimizer(
  config: modeling.BertConfig | None,
  num_train_steps: int,
  num_warmup_steps: int,
) -> optimization.AdamWeightDecayOptimizer:
  """Returns the optimizer.

  Args:
    config: Config of the model; only --layerwise_lr_decay needs it.
    num_train_steps: Number of steps of the training.
    num_warmup_steps: Number of steps in which the learning rate rises.
  """
  if num_warmup_steps >= num_train_steps:
    logging.warning(
      "The warm-up takes %d steps and the training %d: the learning rate "
      "never reaches --learning_rate=%g.",
      num_warmup_steps,
      num_train_steps,
      FLAGS.learning_rate,
    )
  multiplier = None
  if config and FLAGS.layerwise_lr_decay != 1.0:
    multiplier = optimization.layerwise_multiplier(
      config.num_hidden_layers, FLAGS.layerwise_lr_decay
    )
  return optimization.create_optimizer(
    FLAGS.learning_rate,
    num_train_steps,
    num_warmup_steps,
    FLAGS.optimizer,
    FLAGS.lr_decay,
    FLAGS.lr_decay_power,
    FLAGS.bias_correction,
    multiplier,
  )


def training_cost(
  config: modeling.BertConfig,
  num_positions: int | None = None,
  num_predictions: int = 0,
  num_sequences: int = 1,
  seq_length: int | None = None,
) -> dict[str, Callable]:
  """Returns the fields of an `EstimatorSpec` about the cost of training.

  Args:
    config: Config of the model.
    num_positions: See `cost.training_flops`.
    num_predictions: See `cost.training_flops`.
    num_sequences: Number of sequences per example.
    seq_length: Number of tokens of a sequence; None for --max_seq_length.
  """

  def work_fn(features) -> estimator.Work:
    # Each of several sequences of an example counts.
    ids = features["input_ids"]
    seq_length = tf.cast(tf.shape(ids)[-1], tf.float32)
    num_rows = tf.cast(tf.size(ids), tf.float32) / seq_length
    num_tokens = tf.cast(tf.reduce_sum(features["input_mask"]), tf.float32)
    flops = cost.training_flops(
      config, num_rows, seq_length, num_positions, num_predictions
    )
    return estimator.Work(num_tokens, flops)

  def activation_bytes(num_examples: int) -> int:
    return cost.activation_bytes(
      config,
      num_sequences * num_examples,
      seq_length or FLAGS.max_seq_length,
      compute_dtype(),
      FLAGS.recompute_activations,
      num_predictions,
    )

  return {"work_fn": work_fn, "activation_bytes": activation_bytes}


def _warn_of_random_weights() -> None:
  """Warns if fine-tuning begins without pre-trained weights."""
  if FLAGS.restart or not checkpoint_folder.find_latest(FLAGS.output_dir):
    warn_now_and_at_end(
      "There is no --init_checkpoint and no --model: this training starts from "
      "random weights. Scores are far better from pre-trained ones."
    )


def create_recipe(
  head: heads.Head,
  run_config: estimator.RunConfig,
  num_train_steps: int,
  config: modeling.BertConfig | None,
  init_checkpoint: str | None,
  num_outputs: int | None = None,
  num_sequences: int = 1,
  named_losses: Callable[..., heads.NamedSums] | None = None,
  create_model: finetuning.CreateModel | None = None,
) -> finetuning.Recipe:
  """Returns the recipe of fine-tuning that the flags describe.

  Args:
    head: The head of the model.
    run_config: Where and how the run happens.
    num_train_steps: Number of steps; 0 if there is no training.
    config: Config of the model; None if the model is not ours.
    init_checkpoint: Weights to start from, or None.
    num_outputs: See `Head.create_model`.
    num_sequences: Number of sequences per example.
    named_losses: Function like `Head.named_losses`; None for that of the head.
    create_model: Function (params) -> model; None for our model of the head.

  Raises:
    UserError: flags do not go together, or the weights do not fit.
  """
  if create_model is None:
    assert config is not None  # every model of ours has one
    if num_train_steps and not init_checkpoint:
      _warn_of_random_weights()

    add_pooler = _adds_pooler(head, init_checkpoint)
    trained_config = config_to_train(config)

    def create_model(params: Mapping[str, Any]) -> tf.Module:
      return head.create_model(
        trained_config,
        num_outputs,
        add_pooler=add_pooler,
        **model_options(params),
      )

  is_tpu = FLAGS.use_tpu or FLAGS.pad_to_max_length
  spec: dict[str, Any] = {"init_checkpoint": init_checkpoint}
  if num_train_steps:
    num_warmup_steps = int(num_train_steps * FLAGS.warmup_proportion)
    spec["optimizer"] = create_optimizer(
      config, num_train_steps, num_warmup_steps
    )
  if config:
    spec["model_config"] = config.to_dict()
    spec.update(
      training_cost(config, head.num_positions, num_sequences=num_sequences)
    )
  batch_settings = finetuning.BatchSettings(
    FLAGS.train_batch_size,
    pads_training=is_tpu or FLAGS.xla,
    pads_prediction=is_tpu,
  )
  return finetuning.Recipe(
    head,
    create_model,
    run_config,
    batch_settings,
    named_losses,
    **spec,
  )


def _adds_pooler(head: heads.Head, init_checkpoint: str | None) -> bool:
  """Returns whether the model of a run has a pooler; see `Head.adds_pooler`."""
  newest = find_newest_checkpoint(init_checkpoint)
  if newest:
    reader = checkpoint.open_checkpoint(newest, "--output_dir")
  elif init_checkpoint:
    reader = checkpoint.open_checkpoint(init_checkpoint)
  else:
    return True  # as in released models
  return head.adds_pooler(reader.shapes)


def export_model(
  trained: estimator.TPUEstimator,
  config: modeling.BertConfig,
  vocab_file: str,
  settings: tokenizer_settings.TokenizerSettings | None,
  classifier: classifier_config.ClassifierConfig | None = None,
) -> None:
  """Writes `export`, a folder like those of released models, in --output_dir.

  Args:
    trained: Has the weights.
    config: Config of the model.
    vocab_file: Path of its vocabulary; empty for none.
    settings: Settings of its tokenizer; None if they are not known.
    classifier: Config of the head, for heads that need one.
  """
  if trained.is_chief:
    model_folder.export_model(
      os.path.join(FLAGS.output_dir, model_folder.EXPORT_DIR),
      config.to_json_string(),
      vocab_file,
      settings,
      classifier.write if classifier else None,
      trained.export_weights,
    )


# --- The page of a run -------------------------------------------------------


def write_report(seconds: float, warnings: list[str]) -> None:
  """Writes `report.html`, the page of the run, and shows what the run made.

  The last lines are the warnings, a table of the scores, and the places of the
  files and of the page. An error of the page becomes a warning, because the run
  is complete.

  Args:
    seconds: Time that the program took.
    warnings: Warnings that it logged.
  """
  if not tf.io.gfile.isdir(FLAGS.output_dir):
    return
  path = ""
  with example_files.keep_running():
    command = describe_command()._replace(seconds=seconds, warnings=warnings)
    run_files.add_command(FLAGS.output_dir, command)
    path = run_report.write(FLAGS.output_dir)
  repeat_warnings()
  for line in run_folder.summarize(FLAGS.output_dir):
    logging.info("%s", line)
  if path:
    logging.info("Report: %s", path)


def describe_command() -> run_files.Command:
  """Returns the command of this process, with the flags that were given."""
  program = os.path.basename(sys.argv[0])
  arguments = []
  for name in sorted(_own_settings()):
    if FLAGS[name].present:
      arguments.append(run_files.format_flag(name, FLAGS[name].value))
  return run_files.Command(program, arguments)
