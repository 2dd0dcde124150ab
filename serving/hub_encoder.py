"""Encoders in the formats of TF Hub: SavedModels of TensorFlow 2 and 1.

For TensorFlow 2, an encoder is an object with the interface of text encoders:
it is called with `input_word_ids`, `input_mask` and `input_type_ids`.

For TensorFlow 1, it is one of the published modules of BERT: a graph for
training and one for inference, each with the signatures `tokens` and
`tokenization_info`. TensorFlow 2 loads such graphs, but finds no variables in
those that are older than resource variables, and the two graphs have to share
their variables. Therefore this module reads them itself: it creates variables
from the checkpoint, and imports the part of a graph that leads to the output
into the function that calls it.

Dropout in these graphs draws from generators of their own, so two runs differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os

from google.protobuf import message
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

import checkpoint
from errors import UserError
import modeling

_TOKENS, _TOKENIZATION_INFO = "tokens", "tokenization_info"
_TRAIN_TAG = "train"
_VARIABLE_OPS = ("VarHandleOp", "VariableV2", "Variable")


class HubEncoder(tf.Module):
  """An encoder that can be trained, in any of the formats.

  Attributes:
    vocab_file: Its vocabulary, or None if it comes without one.
    do_lower_case: Whether it reads lower-cased text; None if it does not say.
    encoder_variables: The variables to train.
  """

  vocab_file: str | None = None
  do_lower_case: bool | None = None
  encoder_variables: list[tf.Variable]

  def __call__(
    self,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    token_type_ids: tf.Tensor,
    is_training: bool = False,
  ) -> tf.Tensor:
    """Returns the pooled output, float32 [batch_size, hidden_size].

    Args:
      input_ids: int32 Tensor of shape [batch_size, seq_length].
      input_mask: int32 Tensor of the same shape, 0 where there is padding.
      token_type_ids: int32 Tensor of the same shape.
      is_training: Whether to apply dropout.
    """
    raise NotImplementedError

  def find_hidden_size(self, seq_length: int) -> int:
    """Returns hidden_size, found by encoding a sequence.

    To be called inside the scope of the distribution strategy.

    Raises:
      UserError: Sequences of `seq_length` cannot be encoded.
    """

    def encode():
      ids = tf.zeros([1, seq_length], tf.int32)
      return self(ids, tf.ones_like(ids), ids)

    strategy = tf.distribute.get_strategy()
    try:
      outputs = strategy.experimental_local_results(strategy.run(encode))
      return outputs[0].shape[-1]
    except (ValueError, TypeError, KeyError, tf.errors.OpError) as error:
      raise UserError(
        f"The encoder cannot read {seq_length} tokens: "
        f"{getattr(error, 'message', error)}. Is --max_seq_length too large, "
        "or is it not an encoder of texts?"
      ) from error


class HubClassifier(tf.Module):
  """An encoder with a classifier over its pooled output.

  It is called like `modeling.BertForSequenceClassification`.

  Args:
    encoder: The encoder.
    hidden_size: Width of its pooled output.
    num_labels: Number of logits.
    seed: Random seed of the initial weights of the classifier.
  """

  def __init__(
    self, encoder: HubEncoder, hidden_size: int, num_labels: int, seed: int
  ):
    super().__init__()
    self.encoder = encoder
    init = modeling.Initializer(seed, stddev=0.02)
    self.output = modeling.OutputLayer("", hidden_size, num_labels, init)
    self._dropout = modeling.Dropout("output", rate=0.1)

  def __call__(
    self,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    token_type_ids: tf.Tensor,
    dropout_seed: tf.Tensor | None = None,
  ) -> tf.Tensor:
    """Returns logits, float32 [batch_size, num_labels]."""
    pooled_output = self.encoder(
      input_ids,
      input_mask,
      token_type_ids,
      is_training=dropout_seed is not None,
    )
    return self.output(self._dropout(pooled_output, dropout_seed))


def load_encoder(handle: str, flag: str) -> HubEncoder:
  """Returns the encoder of a SavedModel.

  Args:
    handle: Path of a folder, or an address, which requires tensorflow_hub.
    flag: Flag that the handle was given with, for error messages.

  Raises:
    UserError: There is no encoder, or it cannot be trained.
  """
  folder = handle
  if not tf.io.gfile.isdir(folder):
    folder = _download(handle, flag)
  path = os.path.join(folder, "saved_model.pb")
  if not tf.io.gfile.exists(path):
    raise UserError(
      f"{flag}={handle}: there is no {path}. Pass the folder of a SavedModel; "
      "if it has several versions, the folder of one version."
    )
  try:
    with tf.io.gfile.GFile(path, "rb") as reader:
      graphs = saved_model_pb2.SavedModel.FromString(reader.read()).meta_graphs
    encoder: HubEncoder
    if graphs[0].HasField("object_graph_def"):
      encoder = _TensorFlow2Encoder(folder, f"{flag}={handle}")
    else:
      encoder = _TensorFlow1Encoder(folder, graphs, f"{flag}={handle}")
  except (message.DecodeError, IndexError, OSError, tf.errors.OpError) as error:
    raise UserError(
      f"{flag}={handle} cannot be read: {error}. Are its files complete?"
    ) from error
  names = [variable.name for variable in encoder.encoder_variables]
  if len(set(names)) < len(names):
    raise UserError(
      f"{flag}={handle}: several variables have the same name, so checkpoints "
      "could not tell them apart. Use another encoder."
    )
  return encoder


def _download(handle: str, flag: str) -> str:
  """Returns the folder with the files from an address."""
  if "://" not in handle:
    raise UserError(
      f"{flag}={handle}: there is no such folder, and an address looks like "
      "https://..."
    )
  try:
    import tensorflow_hub as hub  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise UserError(
      f"{flag}={handle} is an address. Run pip install -e "
      "'.[hub]' in the folder of the project to download from there, or "
      "download the files yourself and pass their folder."
    ) from error
  try:
    return hub.resolve(handle)
  except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
    raise UserError(
      f"{flag}={handle} cannot be downloaded: {error}."
    ) from error


class _TensorFlow2Encoder(HubEncoder):
  """An object that is called with a dictionary."""

  def __init__(self, folder: str, name: str):
    """Loads the encoder; `name` is its name in error messages."""
    super().__init__()
    self._encoder = tf.saved_model.load(folder)
    self.encoder_variables = list(
      getattr(self._encoder, "trainable_variables", ())
    )
    if not callable(self._encoder) or not self.encoder_variables:
      raise UserError(
        f"{name} is no encoder that can be trained: it cannot be called, or "
        "has no trainable_variables."
      )
    if hasattr(self._encoder, "vocab_file"):
      vocab_file = self._encoder.vocab_file.asset_path.numpy()
      self.vocab_file = os.fsdecode(vocab_file)
      self.do_lower_case = bool(self._encoder.do_lower_case.numpy())

  def __call__(self, input_ids, input_mask, token_type_ids, is_training=False):
    inputs = {
      "input_word_ids": input_ids,
      "input_mask": input_mask,
      "input_type_ids": token_type_ids,
    }
    return self._encoder(inputs, training=is_training)["pooled_output"]


class _TensorFlow1Encoder(HubEncoder):
  """A graph for training and one for inference, which share variables."""

  def __init__(
    self,
    folder: str,
    meta_graphs: Sequence[meta_graph_pb2.MetaGraphDef],
    name: str,
  ):
    """Creates the variables.

    Args:
      folder: Path of the SavedModel.
      meta_graphs: Its graphs.
      name: Name of the encoder in error messages.
    """
    super().__init__()
    inference, training = None, None
    for graph in meta_graphs:
      if "pooled_output" in graph.signature_def[_TOKENS].outputs:
        if _TRAIN_TAG in graph.meta_info_def.tags:
          training = graph
        else:
          inference = graph
    if not inference:
      raise UserError(
        f"{name} has no signature {_TOKENS!r} with a pooled_output, which "
        "modules of BERT have."
      )
    self._inference = inference
    self._training = training or inference
    reader = checkpoint.open_checkpoint(
      os.path.join(folder, "variables", "variables"), name.partition("=")[0]
    )
    self._variables = {}
    for graph in (self._inference, self._training):
      output = graph.signature_def[_TOKENS].outputs["pooled_output"].name
      for node in _subgraph(graph, output).node:
        if node.op in _VARIABLE_OPS and node.name not in self._variables:
          value = reader.get_tensor(node.name)
          self._variables[node.name] = tf.Variable(
            value, trainable=value.dtype.kind == "f", name=node.name
          )
    self.encoder_variables = list(self._variables.values())
    self._read_tokenization_info(folder)

  def _read_tokenization_info(self, folder: str) -> None:
    """Sets `vocab_file` and `do_lower_case` if the module knows them."""
    graph = self._inference
    info = graph.signature_def.get(_TOKENIZATION_INFO)
    if not info:
      return
    assets = list(graph.asset_file_def)
    for value in graph.collection_def["saved_model_assets"].any_list.value:
      assets.append(meta_graph_pb2.AssetFileDef())
      value.Unpack(assets[-1])
    files = {asset.tensor_info.name: asset.filename for asset in assets}
    vocab_name = info.outputs["vocab_file"].name
    if vocab_name in files:
      self.vocab_file = os.path.join(folder, "assets", files[vocab_name])
    case_name = info.outputs["do_lower_case"].name

    @tf.function(autograph=False)
    def read_case():
      return _compute(_subgraph(graph, case_name), case_name, {})

    self.do_lower_case = bool(read_case().numpy())

  # A gradient tape does not see what is imported into a graph. It sees the
  # call of a function, and then follows the graph of that function.
  @tf.function(reduce_retracing=True, autograph=False)
  def __call__(self, input_ids, input_mask, token_type_ids, is_training=False):
    graph = self._training if is_training else self._inference
    signature = graph.signature_def[_TOKENS]
    inputs = {
      "input_ids": input_ids,
      "input_mask": input_mask,
      "segment_ids": token_type_ids,
    }
    values = {
      info.name: inputs[name] for name, info in signature.inputs.items()
    }
    output = signature.outputs["pooled_output"].name
    nodes = _subgraph(graph, output)
    for node in nodes.node:
      if node.op in _VARIABLE_OPS:
        variable = self._variables[node.name]
        # The read tells the tape that the variable is used.
        value = tf.convert_to_tensor(variable)
        is_handle = node.op == "VarHandleOp"
        values[f"{node.name}:0"] = variable.handle if is_handle else value
    return _compute(nodes, output, values)


def _subgraph(
  graph: meta_graph_pb2.MetaGraphDef, name: str
) -> tf.compat.v1.GraphDef:
  """Returns the part of a graph that leads to a tensor."""
  return tf.compat.v1.graph_util.extract_sub_graph(
    graph.graph_def, [name.partition(":")[0]]
  )


def _compute(
  nodes: tf.compat.v1.GraphDef, name: str, values: Mapping[str, tf.Tensor]
) -> tf.Tensor:
  """Returns a tensor of a graph, computed inside of a `tf.function`.

  Args:
    nodes: The graph that leads to the tensor; it is changed.
    name: Name of the tensor.
    values: Name of another tensor -> a value that replaces it.
  """
  kept = [node for node in nodes.node if f"{node.name}:0" not in values]
  del nodes.node[:]
  nodes.node.extend(kept)
  used = set()
  for node in nodes.node:
    node.attr.pop("_class", None)  # may refer to a node that is left out
    used.update(f"{source.partition(':')[0]}:0" for source in node.input)
  # A value from outside of this graph has to enter it first.
  inputs = {
    key: tf.identity(value) for key, value in values.items() if key in used
  }
  [tensor] = tf.graph_util.import_graph_def(
    nodes, input_map=inputs, return_elements=[name]
  )
  return tensor
