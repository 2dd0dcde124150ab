"""The encoder as a layer of Keras, whose weights are trained with the model.

    import keras                     # Keras 3, or: import tf_keras as keras
    from serving import keras_layer
    inputs = keras_layer.create_inputs(keras)
    encoder = keras_layer.create_layer(keras, bert.model)
    outputs = keras.layers.Dense(2)(encoder(inputs))
    model = keras.Model(inputs, outputs)

Keras finds weights by their own methods, not in a `tf.Module`: a layer that
calls the encoder as it is would train nothing, and say nothing. So the layer
creates the weights, and the encoder takes them over.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from errors import UserError
import modeling

_ARGUMENTS = ("input_ids", "input_mask", "token_type_ids")
_POOLED_OUTPUT = "pooled_output"
_OUTPUTS = (_POOLED_OUTPUT, "sequence_output")


def create_inputs(keras: Any) -> dict[str, Any]:
  """Returns the inputs of a model whose first layer is the encoder, by name.

  Args:
    keras: The module `keras`, `tf_keras` or `tf.keras`.
  """
  return {
    name: keras.Input([None], dtype="int32", name=name) for name in _ARGUMENTS
  }


def create_layer(
  keras: Any,
  model: modeling.BertModel,
  output: str = _POOLED_OUTPUT,
  **options: Any,
) -> Any:
  """Returns a layer with the weights of an encoder.

  The layer takes a dictionary like that of `text_model.BatchTokenizer`, or the
  ids alone. It applies dropout while it is trained.

  Args:
    keras: The module `keras`, `tf_keras` or `tf.keras`.
    model: The encoder. Its weights are copied.
    output: `pooled_output`, [batch_size, hidden_size], or `sequence_output`,
      [batch_size, seq_length, hidden_size].
    **options: Further arguments of a layer, such as `name` and `trainable`.

  Raises:
    UserError: The model has no such output, or Keras does not run on
      TensorFlow.
  """
  if not isinstance(model, modeling.BertModel):
    raise UserError(
      f"The model of a layer is a modeling.BertModel, not {model!r}. Load it "
      f"with text_model.load_model(folder, head='encoder')."
    )
  if output == _POOLED_OUTPUT and model.pooler is None:
    raise UserError(
      f"The model has no pooler, so it has no {output}. Pass "
      "output='sequence_output'."
    )
  layer = layer_class(keras)(
    model.config.to_dict(), output, model.compute_dtype.name, **options
  )
  given = list(model.variables)
  if layer.encoder.pooler is None and model.pooler is not None:
    unused = {id(variable) for variable in model.pooler.variables}
    given = [variable for variable in given if id(variable) not in unused]
  # Two encoders of one config list their variables in the same order.
  for own, value in zip(layer.encoder.variables, given, strict=True):
    own.assign(value)
  return layer


@functools.cache
def layer_class(keras: Any) -> type:
  """Returns the class of the layer, which loads saved models of Keras.

  Args:
    keras: The module `keras`, `tf_keras` or `tf.keras`.

  Raises:
    UserError: Keras does not run on TensorFlow.
  """
  if keras.backend.backend() != "tensorflow":
    raise UserError(
      f"Keras runs on {keras.backend.backend()}. Set the environment variable "
      "KERAS_BACKEND=tensorflow before it is imported."
    )

  @keras.saving.register_keras_serializable(package="bert")
  class BertEncoder(keras.layers.Layer):
    """The layer; see `create_layer`."""

    # XLA would compile the model for every length of a batch.
    supports_jit = False

    def __init__(
      self,
      bert_config: dict[str, Any],
      output: str = _POOLED_OUTPUT,
      compute_dtype: str = "float32",
      **options: Any,
    ):
      if output not in _OUTPUTS:
        raise UserError(
          f"output={output!r} is not one of {', '.join(_OUTPUTS)}."
        )
      super().__init__(**options)
      self.bert_config = bert_config
      self.output_name = output
      self.encoder = modeling.BertModel(
        modeling.BertConfig.from_dict(bert_config),
        tf.as_dtype(compute_dtype),
        # Keras warns of weights that the loss does not depend on.
        add_pooler=output == _POOLED_OUTPUT,
      )
      _own_weights(self, self.encoder)

    def call(self, inputs, training=None):
      arguments = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
      dropout_seed = None
      if training:
        dropout_seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
      outputs = self.encoder(**arguments, dropout_seed=dropout_seed)
      return tf.cast(getattr(outputs, self.output_name), tf.float32)

    def get_config(self):
      return {
        **super().get_config(),
        "bert_config": self.bert_config,
        "output": self.output_name,
        "compute_dtype": self.encoder.compute_dtype.name,
      }

  return BertEncoder


def _own_weights(layer: Any, encoder: modeling.BertModel) -> None:
  """Replaces the variables of an encoder by weights of a layer."""
  for module in (encoder, *encoder.submodules):
    for attribute, variable in list(vars(module).items()):
      if not isinstance(variable, tf.Variable):
        continue
      value = variable.numpy()
      weight = layer.add_weight(
        # Keras does not allow slashes.
        name=variable.name.partition(":")[0].replace("/", "."),
        shape=variable.shape,
        dtype="float32",
        initializer=lambda *_, value=value, **__: tf.constant(value),
      )
      # Keras 3 wraps the variable of TensorFlow.
      is_variable = isinstance(weight, tf.Variable)
      setattr(module, attribute, weight if is_variable else weight.value)
