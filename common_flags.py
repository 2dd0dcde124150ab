"""Flags that several programs share, and what follows from them."""

from collections.abc import Iterable, Mapping
import os
import re
import sys

from absl import flags
from absl import logging
import tensorflow as tf

import checkpoint
from data import file_io
from errors import UserError
import estimator
import modeling
import optimization
from pretraining import corpus
from tasks import classifier as classifier_lib
import tokenization
from training import model_folder

FLAGS = flags.FLAGS


def _define_model_name() -> None:
  if "model" not in FLAGS:
    flags.DEFINE_string(
      "model",
      None,
      "Folder of a model, or the name of a model that download_model.py put "
      f"into {model_folder.MODELS_DIR}/. It replaces --bert_config_file, "
      "--vocab_file and --init_checkpoint, each of which overrides it.",
    )


def define_model_flags() -> None:
  """Flags that name a model."""
  _define_model_name()
  flags.DEFINE_string(
    "bert_config_file", None, "The bert_config.json of the model."
  )
  flags.DEFINE_string(
    "init_checkpoint",
    None,
    "Weights to start from: the prefix of a "
    "checkpoint (such as bert_model.ckpt), or a file of PyTorch transformers "
    "(.safetensors, .bin).",
  )
  flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16", "float16"],
    "Type of the activations. Weights are float32 in any case. bfloat16 is "
    "faster on TPUs, recent GPUs, and CPUs with AVX512-BF16 or AMX; float16 "
    "is for older GPUs, and scales the loss so that gradients fit.",
  )


def define_text_flags() -> None:
  """Flags of programs that read text of any size."""
  flags.DEFINE_string(
    "input_file",
    None,
    "Text files or globs, separated by "
    "commas; plain, .gz or .zst. Files named .jsonl hold a "
    "JSON object a line, each a document.",
    required=True,
  )
  flags.DEFINE_string(
    "text_field", "text", "Field of a JSON object that holds the text."
  )
  flags.DEFINE_bool(
    "split_sentences",
    False,
    "Whether a line is prose that is to be split into sentences.",
  )
  flags.DEFINE_enum(
    "errors",
    "strict",
    ["strict", "replace"],
    "At a line that "
    "is not UTF-8, or not the JSON it should be: stop, or go "
    "on with what can be read, and count it.",
  )


def text_parser() -> corpus.Parser:
  """Returns what the flags say of the form of the text."""
  return corpus.Parser(FLAGS.errors, FLAGS.split_sentences, FLAGS.text_field)


def define_vocab_flags(do_lower_case: bool = True) -> None:
  """Flags of the tokenizer; `do_lower_case` is the default of the flag."""
  _define_model_name()
  flags.DEFINE_string("vocab_file", None, "The vocab.txt of the model.")
  flags.DEFINE_bool(
    "do_lower_case",
    do_lower_case,
    "Whether to lower-case the "
    "text: True for uncased models, False for cased ones.",
  )


def define_training_flags(
  learning_rate: float, best_metric: str, evaluation_flag: str = "do_eval"
) -> None:
  """Flags of programs that train.

  Args:
    learning_rate: default of the flag.
    best_metric: likewise.
    evaluation_flag: the flag that makes the program evaluate.
  """
  flags.DEFINE_string(
    "output_dir",
    None,
    "Folder for checkpoints, logs and "
    "results. A run that finds a checkpoint there goes on.",
    required=True,
  )
  flags.DEFINE_bool("do_train", False, "Whether to train.")
  flags.DEFINE_bool(
    "restart",
    False,
    "Delete the checkpoints that an earlier "
    "run left in --output_dir, and begin at step 0.",
  )
  flags.DEFINE_integer(
    "train_batch_size", 32, "Examples per step.", lower_bound=1
  )
  flags.DEFINE_integer(
    "gradient_accumulation_steps",
    1,
    "Work through a batch "
    "in so many parts, one after the other: the same result "
    "with the memory of one part.",
    lower_bound=1,
  )
  flags.DEFINE_bool(
    "recompute_activations",
    False,
    "Keep only the input of "
    "each layer for the gradient and compute the rest again: "
    "less memory, a third more work.",
  )
  flags.DEFINE_bool(
    "xla",
    False,
    "Compile the training step with XLA, with "
    "batches padded to --max_seq_length. For GPUs.",
  )
  flags.DEFINE_enum(
    "optimizer",
    "adamw",
    ["adamw", "lamb"],
    "adamw as BERT used it, or lamb for batches of thousands.",
  )
  flags.DEFINE_float(
    "learning_rate", learning_rate, "Highest learning rate.", lower_bound=0.0
  )
  flags.DEFINE_enum(
    "lr_decay",
    "linear",
    ["linear", "poly", "cosine"],
    "How the learning rate falls to 0.",
  )
  flags.DEFINE_float(
    "lr_decay_power", 2.0, "Power of --lr_decay=poly.", lower_bound=0.0
  )
  flags.DEFINE_float(
    "layerwise_lr_decay",
    1.0,
    "Learning rate of a layer, as "
    "a multiple of the one above; the embeddings come last. "
    "1 for one rate for all.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_bool(
    "bias_correction",
    False,
    "Correct the averages of adamw "
    "for their start at 0, as BERT did not; lamb always does.",
  )
  flags.DEFINE_integer(
    "save_checkpoints_steps", 1000, "Steps between checkpoints.", lower_bound=1
  )
  flags.DEFINE_integer(
    "keep_checkpoint_max",
    5,
    "How many checkpoints to keep; 0 for all.",
    lower_bound=0,
  )
  flags.DEFINE_integer(
    "eval_every_steps",
    0,
    "Steps between evaluations while "
    f"training, with --{evaluation_flag}; the best weights "
    "are kept in best/, and are what is evaluated and "
    "exported at the end. 0 for none.",
    lower_bound=0,
  )
  flags.DEFINE_string(
    "best_metric",
    best_metric,
    "Score of --eval_every_steps "
    "that decides which weights are best: lower is better "
    "if it ends in `loss`, else higher.",
  )
  flags.DEFINE_integer(
    "early_stopping_patience",
    0,
    "Stop after so many evaluations in a row without a better one; 0 to go on.",
    lower_bound=0,
  )
  flags.DEFINE_bool(
    "skip_nonfinite_steps",
    False,
    "Leave out steps whose loss "
    "or gradient is not finite, and count them, instead of "
    "stopping.",
  )
  flags.DEFINE_integer(
    "iterations_per_loop",
    1000,
    "The most steps that one call of the training graph runs.",
    lower_bound=1,
  )
  flags.DEFINE_integer("seed", 12345, "Of initial weights, order and dropout.")
  flags.DEFINE_bool(
    "deterministic",
    False,
    "Use only operations that give the "
    "same result each time, where a GPU has faster ones.",
  )


def define_evaluation_flags() -> None:
  """Flags of programs that evaluate apart from predicting."""
  flags.DEFINE_bool("do_eval", False, "Whether to evaluate.")
  flags.DEFINE_integer(
    "eval_batch_size", 8, "Examples per batch of the evaluation.", lower_bound=1
  )


def define_task_flags(max_seq_length: int) -> None:
  """Flags of programs that fine-tune, train and predict.

  Args:
    max_seq_length: default of the flag.
  """
  flags.DEFINE_integer(
    "max_seq_length", max_seq_length, "Most tokens of a sequence."
  )
  flags.DEFINE_bool(
    "pad_to_max_length",
    False,
    "Pad every batch to "
    "--max_seq_length, as is always done on a TPU and for the "
    "training under --xla. Slower.",
  )
  flags.DEFINE_bool("do_predict", False, "Whether to predict.")
  flags.DEFINE_integer(
    "predict_batch_size",
    8,
    "Sequences per batch of the prediction.",
    lower_bound=1,
  )
  flags.DEFINE_float(
    "num_train_epochs",
    3.0,
    "How often to go over the training examples.",
    lower_bound=0.0,
  )
  flags.DEFINE_float(
    "warmup_proportion",
    0.1,
    "Share of the steps in which the learning rate rises.",
    lower_bound=0.0,
    upper_bound=1.0,
  )


def wanted_splits() -> list[str]:
  """Returns which of `train`, `dev` and `test` there is something to do with.

  Raises:
    UserError: none.
  """
  wanted = [
    split
    for split, flag in [
      ("train", "do_train"),
      ("dev", "do_eval"),
      ("test", "do_predict"),
    ]
    if FLAGS[flag].value
  ]
  if not wanted:
    raise UserError(
      "Nothing to do: pass --do_train, --do_eval, --do_predict, "
      "or several of them."
    )
  return wanted


def record_file(split: str) -> str:
  """Returns the path of the records of a split, under their published names."""
  kind, *rest = split.split("_", 1)
  names = {"train": "train", "dev": "eval", "test": "predict"}
  return os.path.join(
    FLAGS.output_dir, "_".join([names[kind], *rest]) + ".tf_record"
  )


def log_training(num_examples: int, num_sequences: int, num_steps: int) -> None:
  """Logs what a training is about to do."""
  log_lines(
    "Running training",
    [
      f"Num examples = {num_examples}",
      f"Num sequences = {num_sequences}",
      f"Batch size = {FLAGS.train_batch_size}",
      f"Num steps = {num_steps}",
    ],
  )


def num_task_steps(num_sequences: int) -> int:
  """Returns how many steps the epochs of the flags have.

  Raises:
    UserError: there are none.
  """
  result = int(num_sequences / FLAGS.train_batch_size * FLAGS.num_train_epochs)
  if not result:
    raise UserError(
      f"{num_sequences} examples, --num_train_epochs={FLAGS.num_train_epochs}"
      f" and --train_batch_size={FLAGS.train_batch_size} make no single step."
      " Train for more epochs or with smaller batches."
    )
  return result


def task_optimizer(
  config: modeling.BertConfig, num_train_steps: int
) -> optimization.AdamWeightDecayOptimizer | None:
  """Returns the optimizer of a fine-tuning, or None if there are no steps."""
  if not num_train_steps:
    return None
  return create_optimizer(
    config, num_train_steps, int(num_train_steps * FLAGS.warmup_proportion)
  )


def static_shapes(is_training: bool) -> bool:
  """Whether all batches are to have one shape."""
  return FLAGS.use_tpu or FLAGS.pad_to_max_length or (is_training and FLAGS.xla)


def define_tpu_flags() -> None:
  """Flags that put a run on a Cloud TPU."""
  flags.DEFINE_bool("use_tpu", False, "Whether to run on a Cloud TPU.")
  flags.DEFINE_string(
    "tpu_name", None, "Name or grpc:// address of the TPU; `local` on a TPU VM."
  )
  flags.DEFINE_string(
    "tpu_zone",
    None,
    "GCE zone of the TPU; the one of this machine if not given.",
  )
  flags.DEFINE_string(
    "gcp_project",
    None,
    "Cloud project of the TPU; the one of this machine if not given.",
  )
  flags.DEFINE_string(
    "master", None, "Address of the TPU, in place of --tpu_name."
  )
  flags.DEFINE_integer(
    "num_tpu_cores",
    8,
    "How many cores the TPU has; checked when it is found.",
    lower_bound=1,
  )


def run_config(evaluation_flag: str = "do_eval") -> estimator.RunConfig:
  """Returns what the flags say of where and how a run happens.

  The first thing that a program calls: several machines have to find each
  other before TensorFlow does anything else.

  Args:
    evaluation_flag: as for `define_training_flags`.

  Raises:
    UserError: flags that do not go together.
  """
  if FLAGS.deterministic:
    tf.config.experimental.enable_op_determinism()
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
  return estimator.RunConfig(
    model_dir=FLAGS.output_dir,
    save_checkpoints_steps=FLAGS.save_checkpoints_steps,
    keep_checkpoint_max=FLAGS.keep_checkpoint_max,
    iterations_per_loop=FLAGS.iterations_per_loop,
    seed=FLAGS.seed,
    strategy=_strategy(),
    compute_dtype=compute_dtype(),
    gradient_accumulation_steps=FLAGS.gradient_accumulation_steps,
    xla=FLAGS.xla,
    skip_nonfinite_steps=FLAGS.skip_nonfinite_steps,
    eval_every_steps=FLAGS.eval_every_steps,
    best_metric=FLAGS.best_metric,
    early_stopping_patience=FLAGS.early_stopping_patience,
    settings=_settings(),
    restart=FLAGS.restart,
  )


def find_newest_checkpoint(init_checkpoint: str | None) -> str | None:
  """Returns the checkpoint from which the run continues, or None.

  Args:
    init_checkpoint: the weights to start from, or None.

  Raises:
    UserError: the checkpoints in the folder contradict their list; or one that
      --restart would delete is the one to start from.
  """
  if not FLAGS.restart:
    return checkpoint.latest(FLAGS.output_dir)
  if init_checkpoint and os.path.realpath(os.path.dirname(init_checkpoint)) in (
    os.path.realpath(FLAGS.output_dir),
    os.path.realpath(os.path.join(FLAGS.output_dir, "best")),
  ):
    raise UserError(
      f"--restart would delete --init_checkpoint={init_checkpoint}. "
      "Choose another --output_dir."
    )
  return None


def _settings() -> dict[str, object]:
  """Returns the values of our own flags, without those of libraries."""
  main_module = sys.modules["__main__"]
  here = os.path.dirname(os.path.abspath(__file__))
  return {
    flag.name: flag.value
    for module, module_flags in FLAGS.flags_by_module_dict().items()
    for flag in module_flags
    if os.path.dirname(
      os.path.abspath(
        getattr(sys.modules.get(module, main_module), "__file__", "")
      )
    )
    == here
  }


def _strategy() -> tf.distribute.Strategy | None:
  """Returns how to use the devices there are; None for one CPU or GPU."""
  if FLAGS.use_tpu:
    _check_tpu_paths()
    return tpu_strategy()
  if num_machines(os.environ.get("TF_CONFIG") or "{}") > 1:
    return tf.distribute.MultiWorkerMirroredStrategy()
  if len(tf.config.list_logical_devices("GPU")) > 1:
    return tf.distribute.MirroredStrategy()
  return None


def num_machines(tf_config: str) -> int:
  """Returns how many machines TF_CONFIG names, 0 if it names none.

  Raises:
    UserError: it does not have the form that TensorFlow reads.
  """
  try:
    fields = file_io.parse_json(tf_config, "TF_CONFIG")
    cluster, task = fields.get("cluster", {}), fields.get("task", {})
    machines = [cluster.get(role, []) for role in ("chief", "worker")]
    is_right = isinstance(task, dict) and all(
      isinstance(some, list) and all(isinstance(one, str) for one in some)
      for some in machines
    )
    if cluster:
      index, role = task.get("index"), task.get("type")
      is_right = (
        is_right
        and isinstance(index, int)
        and (0 <= index < len(cluster.get(role, [])))
      )
  except (UserError, AttributeError, TypeError):
    is_right = False
  if not is_right:
    raise UserError(
      f"The environment variable TF_CONFIG={tf_config} cannot be used. It "
      'looks like {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
      '"task": {"type": "worker", "index": 0}}.'
    )
  return sum(map(len, machines))


def is_remote_tpu() -> bool:
  """Whether the work is done by a TPU, and the machine of it is another."""
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


def tpu_strategy() -> tf.distribute.Strategy:
  """Connects to the TPU of the flags.

  Raises:
    UserError: there is none, or it has another number of cores.
  """
  address = FLAGS.tpu_name or FLAGS.master
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
      tpu=address, zone=FLAGS.tpu_zone, project=FLAGS.gcp_project
    )
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
  except (ValueError, RuntimeError, tf.errors.OpError) as error:
    raise UserError(
      f"There is no TPU at --tpu_name={address}: {str(error).splitlines()[0]}"
    ) from error
  strategy = tf.distribute.TPUStrategy(resolver)
  if strategy.num_replicas_in_sync != FLAGS.num_tpu_cores:
    raise UserError(
      f"The TPU has {strategy.num_replicas_in_sync} cores, not "
      f"--num_tpu_cores={FLAGS.num_tpu_cores}."
    )
  return strategy


def create_optimizer(
  config: modeling.BertConfig, num_train_steps: int, num_warmup_steps: int
) -> optimization.AdamWeightDecayOptimizer:
  """Returns the optimizer of the flags.

  Raises:
    UserError: flags that do not go together.
  """
  check_belongs(["lr_decay_power"], FLAGS.lr_decay == "poly", "--lr_decay=poly")
  if num_warmup_steps >= num_train_steps:
    logging.warning(
      "The warm-up takes %d steps and the training %d: the learning rate "
      "never reaches --learning_rate=%g.",
      num_warmup_steps,
      num_train_steps,
      FLAGS.learning_rate,
    )
  multiplier = None
  if FLAGS.layerwise_lr_decay != 1.0:
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


def model_options(params: Mapping[str, object]) -> dict[str, object]:
  """Returns the arguments that all models take after their sizes."""
  return {
    "compute_dtype": compute_dtype(),
    "seed": params["seed"],
    "recompute_activations": FLAGS.recompute_activations,
  }


def costs(
  config: modeling.BertConfig,
  num_outputs: int | None = None,
  num_predictions: int = 0,
) -> dict[str, object]:
  """Returns what an `EstimatorSpec` says of the cost of training.

  Args:
    config: the shape of the model.
    num_outputs: see `modeling.training_flops`.
    num_predictions: likewise.
  """

  def work_fn(features):
    # Of several sequences an example, each counts.
    ids = features["input_ids"]
    size, seq_length = (
      tf.cast(x, tf.float32) for x in (tf.size(ids), tf.shape(ids)[-1])
    )
    return estimator.Work(
      tf.cast(tf.reduce_sum(features["input_mask"]), tf.float32),
      modeling.training_flops(
        config, size / seq_length, seq_length, num_outputs, num_predictions
      ),
    )

  def activation_bytes(num_examples):
    return modeling.activation_bytes(
      config,
      num_examples,
      FLAGS.max_seq_length,
      compute_dtype(),
      FLAGS.recompute_activations,
      num_predictions,
    )

  return {"work_fn": work_fn, "activation_bytes": activation_bytes}


def export_model(
  trained: estimator.TPUEstimator,
  config: modeling.BertConfig,
  vocab_file: str | None,
  classifier: classifier_lib.Classifier | None = None,
) -> None:
  """Writes a folder like those of released models: `export` in the output.

  The index of the checkpoint is removed first and written last, so that new
  weights never stand next to an old config.

  Args:
    trained: has the weights.
    config: config of the model.
    vocab_file: path of its vocabulary, or None.
    classifier: what the head predicts, if it needs to be known.
  """
  if not trained.is_chief:
    return
  folder = os.path.join(FLAGS.output_dir, "export")
  prefix = os.path.join(folder, "bert_model.ckpt")
  file_io.remove_leftovers(folder)
  file_io.remove_if_there([prefix + ".index"])
  file_io.write_text(
    os.path.join(folder, "bert_config.json"), config.to_json_string()
  )
  if vocab_file:
    file_io.write_bytes(
      os.path.join(folder, "vocab.txt"), file_io.read_bytes(vocab_file)
    )
  if classifier:
    classifier.write(folder)
  trained.export_weights(prefix)


# What programs that train write into --output_dir.
_OUTPUT_NAME = re.compile(
  r"checkpoint|checkpoint\.journal|model\.ckpt-.*|classifier\.json|"
  r"(train|eval|predict)(_\w+)?\.tf_record(\.stamp\.json)?|"
  r"training_log\.jsonl|eval_results\.txt|(train|predict)\.report\.json|"
  r"(nbest_)?predictions\.json|null_odds\.json|"
  r"test_(results|predictions|scores)(_\w+)?\.(tsv|txt|jsonl)|"
  r"(confusion_matrix|worst_mistakes)(_\w+)?\.tsv"
)


def check_inputs_are_kept(inputs: Mapping[str, Iterable[str]]) -> None:
  """Checks that no input file has the name of a file that will be written.

  Args:
    inputs: flag -> paths that are read.

  Raises:
    UserError: an input is in --output_dir and has such a name.
  """
  output_dir = os.path.realpath(FLAGS.output_dir)
  for flag, paths in inputs.items():
    for path in paths:
      folder, name = os.path.split(os.path.realpath(path))
      if folder == output_dir and _OUTPUT_NAME.fullmatch(name):
        raise UserError(
          f"{flag}: {path} is in --output_dir={FLAGS.output_dir} and has the "
          "name of a file that is written there. Choose another "
          "--output_dir."
        )


def check_belongs(names: Iterable[str], is_allowed: bool, to: str) -> None:
  """Raises a UserError if flags are given that would do nothing.

  Args:
    names: of the flags.
    is_allowed: whether they do something.
    to: what they belong to.
  """
  for name in names:
    if FLAGS[name].present and not is_allowed:
      raise UserError(
        f"--{name}={FLAGS[name].value} belongs to {to}: pass both, or neither."
      )


def model_files(*needed: str) -> model_folder.ModelFiles:
  """Returns the files of the model that the flags name.

  A flag of a single file takes precedence over --model.

  Args:
    *needed: names of the files that are required.

  Raises:
    UserError: there is no such model, or a required file is not named.
  """
  files = model_folder.ModelFiles()
  if FLAGS.model:
    files = model_folder.find_model(FLAGS.model)
  given = {
    name: FLAGS[name].value
    for name in files._fields
    if name in FLAGS and FLAGS[name].value is not None
  }
  files = files._replace(**given)
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
    UserError: no file is named, or it is damaged.
  """
  return modeling.BertConfig.from_json_file(files.bert_config_file)


def compute_dtype() -> tf.DType:
  """Returns the type of the activations."""
  return tf.as_dtype(FLAGS.precision if "precision" in FLAGS else "float32")


def create_tokenizer(
  files: model_folder.ModelFiles,
  config: modeling.BertConfig | None = None,
  do_lower_case: bool | None = None,
) -> tokenization.FullTokenizer:
  """Returns the tokenizer of a model.

  Args:
    files: the files of the model.
    config: config to check the vocabulary against, or None.
    do_lower_case: whether to lower-case; None for --do_lower_case.

  Raises:
    UserError: the vocabulary does not fit the config or the casing.
  """
  if do_lower_case is None:
    do_lower_case = FLAGS.do_lower_case
  tokenizer = tokenization.FullTokenizer(files.vocab_file, do_lower_case)
  tokenization.validate_case_matches_vocab(
    do_lower_case, tokenizer.vocab, files.vocab_file
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
) -> None:
  """Raises a UserError if sequences would not fit the model."""
  if not 3 <= max_seq_length <= config.max_position_embeddings:
    raise UserError(
      f"--max_seq_length={max_seq_length} must be from 3 to "
      f"{config.max_position_embeddings}, which is max_position_embeddings "
      f"in {files.bert_config_file}."
    )


def write_results(path: str, results: Mapping[str, float]) -> None:
  """Logs results and writes them as `name = value`, sorted by name."""
  lines = [f"{name} = {value}" for name, value in sorted(results.items())]
  log_lines("Results", lines)
  file_io.write_text(path, "\n".join(lines) + "\n")


def log_lines(title: str, lines: Iterable[str]) -> None:
  """Logs lines under a title."""
  logging.info("***** %s *****", title)
  for line in lines:
    logging.info("  %s", line)
