"""Encoders in the formats of TF Hub: SavedModels of TensorFlow 2 and 1.

Of TensorFlow 2, what follows the interface of text encoders: an object that is
called with `input_word_ids`, `input_mask` and `input_type_ids`. Of TensorFlow
1, the modules of BERT: a graph for training and one for use, each with the
signatures `tokens` and `tokenization_info`. TensorFlow 2 loads such graphs, but
finds no variables in them if they are older than resource variables; and the
two graphs have to share theirs. So they are read here: variables are created
from the checkpoint, and the part of a graph that leads to the output is put
into whatever calls it.

Dropout in these graphs draws from generators of its own: two runs differ.
"""

from collections.abc import Mapping
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
  """An encoder that can be trained, whatever it is made of.

  Attributes:
    vocab_file: its vocabulary, or None if it has none with it.
    do_lower_case: whether it reads lower-cased text; None likewise.
    encoder_variables: what is trained.
  """

  vocab_file: str | None = None
  do_lower_case: bool | None = None
  encoder_variables: list[tf.Variable]

  def __call__(
    self, input_ids, input_mask, token_type_ids, is_training: bool = False
  ) -> tf.Tensor:
    """Returns the pooled output, float32 [batch_size, hidden_size].

    Args:
      input_ids: int32 [batch_size, seq_length].
      input_mask: likewise, 0 where there is padding.
      token_type_ids: likewise.
      is_training: whether to apply dropout.
    """
    raise NotImplementedError

  def check(self, seq_length: int) -> int:
    """Returns hidden_size; to be called inside the strategy's scope.

    Raises:
      UserError: sequences of `seq_length` cannot be encoded.
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

  Like `modeling.BertForSequenceClassification`.

  Args:
    encoder: the encoder.
    hidden_size: of its pooled output.
    num_labels: how many logits to compute.
    seed: of the initial weights of the classifier.
  """

  def __init__(
    self, encoder: HubEncoder, hidden_size: int, num_labels: int, seed: int
  ):
    super().__init__()
    self.encoder = encoder
    self.output = modeling.OutputLayer(
      "", hidden_size, num_labels, modeling.Initializer(seed, stddev=0.02)
    )
    self._dropout = modeling.Dropout("output", rate=0.1)

  def __call__(self, input_ids, input_mask, token_type_ids, dropout_seed=None):
    """Returns logits, float32 [batch_size, num_labels]."""
    pooled_output = self.encoder(
      input_ids,
      input_mask,
      token_type_ids,
      is_training=dropout_seed is not None,
    )
    return self.output(self._dropout(pooled_output, dropout_seed))


def load(handle: str, flag: str) -> HubEncoder:
  """Loads an encoder.

  Args:
    handle: a folder, or an address, which takes tensorflow_hub.
    flag: what the user gave it with.

  Raises:
    UserError: there is none, or it cannot be trained.
  """
  folder = handle
  if not tf.io.gfile.isdir(folder):
    folder = _download(handle, flag)
  path = os.path.join(folder, "saved_model.pb")
  if not tf.io.gfile.exists(path):
    raise UserError(
      f"{flag}={handle}: there is no {path}. Name the folder "
      "of a SavedModel; of several versions, one of them."
    )
  try:
    with tf.io.gfile.GFile(path, "rb") as reader:
      graphs = saved_model_pb2.SavedModel.FromString(reader.read()).meta_graphs
    if graphs[0].HasField("object_graph_def"):
      encoder = _TensorFlow2Encoder(folder, f"{flag}={handle}")
    else:
      encoder = _TensorFlow1Encoder(folder, graphs, f"{flag}={handle}")
  except (message.DecodeError, IndexError, OSError, tf.errors.OpError) as error:
    raise UserError(
      f"{flag}={handle} cannot be read: {error}. Are its files whole?"
    ) from error
  names = [variable.name for variable in encoder.encoder_variables]
  if len(set(names)) < len(names):
    raise UserError(
      f"{flag}={handle}: several variables have the same name, "
      "by which checkpoints would tell them apart."
    )
  return encoder


def _download(handle: str, flag: str) -> str:
  """Returns the folder with what is at an address."""
  if "://" not in handle:
    raise UserError(
      f"{flag}={handle}: there is no such folder, and an address"
      " looks like https://..."
    )
  try:
    import tensorflow_hub as hub  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise UserError(
      f"{flag}={handle} is an address: `pip install -r requirements-hub.txt`"
      " downloads from there, or download it yourself and name the folder."
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
    super().__init__()
    self._encoder = tf.saved_model.load(folder)
    self.encoder_variables = list(
      getattr(self._encoder, "trainable_variables", ())
    )
    if not callable(self._encoder) or not self.encoder_variables:
      raise UserError(
        f"{name} is no encoder that can be trained: it cannot "
        "be called, or has no trainable_variables."
      )
    if hasattr(self._encoder, "vocab_file"):
      self.vocab_file = os.fsdecode(self._encoder.vocab_file.asset_path.numpy())
      self.do_lower_case = bool(self._encoder.do_lower_case.numpy())

  def __call__(self, input_ids, input_mask, token_type_ids, is_training=False):
    return self._encoder(
      dict(
        input_word_ids=input_ids,
        input_mask=input_mask,
        input_type_ids=token_type_ids,
      ),
      training=is_training,
    )["pooled_output"]


class _TensorFlow1Encoder(HubEncoder):
  """A graph for training and one for use, which share variables."""

  def __init__(self, folder: str, meta_graphs, name: str):
    super().__init__()
    self._use = self._training = None
    for graph in meta_graphs:
      if "pooled_output" in graph.signature_def[_TOKENS].outputs:
        is_training = _TRAIN_TAG in graph.meta_info_def.tags
        setattr(self, "_training" if is_training else "_use", graph)
    if not self._use:
      raise UserError(
        f"{name} has no signature {_TOKENS!r} with a pooled_output, as "
        "modules of BERT have."
      )
    self._training = self._training or self._use
    reader = checkpoint.open_checkpoint(
      os.path.join(folder, "variables", "variables"), name.partition("=")[0]
    )
    self._variables = {}
    for graph in (self._use, self._training):
      output = graph.signature_def[_TOKENS].outputs["pooled_output"].name
      for node in _nodes_of(graph, output).node:
        if node.op in _VARIABLE_OPS and node.name not in self._variables:
          value = reader.get_tensor(node.name)
          self._variables[node.name] = tf.Variable(
            value, trainable=value.dtype.kind == "f", name=node.name
          )
    self.encoder_variables = list(self._variables.values())
    self._read_tokenization_info(folder)

  def _read_tokenization_info(self, folder: str) -> None:
    """Finds out how text is tokenized, if that is there."""
    info = self._use.signature_def.get(_TOKENIZATION_INFO)
    if not info:
      return
    assets = list(self._use.asset_file_def)
    for value in self._use.collection_def["saved_model_assets"].any_list.value:
      assets.append(meta_graph_pb2.AssetFileDef())
      value.Unpack(assets[-1])
    files = {asset.tensor_info.name: asset.filename for asset in assets}
    name = info.outputs["vocab_file"].name
    if name in files:
      self.vocab_file = os.path.join(folder, "assets", files[name])
    name = info.outputs["do_lower_case"].name
    self.do_lower_case = bool(
      tf.function(
        lambda: _compute(_nodes_of(self._use, name), name, {})
      )().numpy()
    )

  # A tape does not see what is imported into a graph, but the call of a
  # function, whose graph it then looks at.
  @tf.function(reduce_retracing=True)
  def __call__(self, input_ids, input_mask, token_type_ids, is_training=False):
    graph = self._training if is_training else self._use
    signature = graph.signature_def[_TOKENS]
    inputs = dict(
      input_ids=input_ids, input_mask=input_mask, segment_ids=token_type_ids
    )
    values = {
      info.name: inputs[name] for name, info in signature.inputs.items()
    }
    output = signature.outputs["pooled_output"].name
    nodes = _nodes_of(graph, output)
    for node in nodes.node:
      if node.op in _VARIABLE_OPS:
        variable = self._variables[node.name]
        value = tf.convert_to_tensor(variable)  # tells the tape that it is used
        values[f"{node.name}:0"] = (
          variable.handle if node.op == "VarHandleOp" else value
        )
    return _compute(nodes, output, values)


def _nodes_of(
  graph: meta_graph_pb2.MetaGraphDef, name: str
) -> tf.compat.v1.GraphDef:
  """Returns the part of a graph that leads to a tensor."""
  return tf.compat.v1.graph_util.extract_sub_graph(
    graph.graph_def, [name.partition(":")[0]]
  )


def _compute(
  nodes: tf.compat.v1.GraphDef, name: str, values: Mapping[str, tf.Tensor]
) -> tf.Tensor:
  """Computes a tensor of a graph, inside of a `tf.function`.

  Args:
    nodes: what leads to it; is changed.
    name: of the tensor.
    values: of other tensors, by their names.
  """
  kept = [node for node in nodes.node if f"{node.name}:0" not in values]
  del nodes.node[:]
  nodes.node.extend(kept)
  used = set()
  for node in nodes.node:
    node.attr.pop("_class", None)  # what it stood beside may be left out
    used.update(f"{source.partition(':')[0]}:0" for source in node.input)
  # What comes from outside of this graph has to come in first.
  inputs = {
    key: tf.identity(value) for key, value in values.items() if key in used
  }
  [tensor] = tf.graph_util.import_graph_def(
    nodes, input_map=inputs, return_elements=[name]
  )
  return tensor
