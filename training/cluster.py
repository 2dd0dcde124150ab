"""The machines and accelerators of a run."""

from __future__ import annotations

import os

import tensorflow as tf

from data import file_io
from errors import UserError


def choose_strategy() -> tf.distribute.Strategy | None:
  """Returns how to use the CPUs and GPUs; None for a single one.

  Raises:
    UserError: TF_CONFIG is not of the form that TensorFlow reads.
  """
  if count_machines() > 1:
    return tf.distribute.MultiWorkerMirroredStrategy()
  if len(tf.config.list_logical_devices("GPU")) > 1:
    return tf.distribute.MirroredStrategy()
  return None


def count_machines(tf_config: str | None = None) -> int:
  """Returns the number of machines that TF_CONFIG names; 0 if it names none.

  Args:
    tf_config: Value of TF_CONFIG; None for that of the environment.

  Raises:
    UserError: it is not of the form that TensorFlow reads.
  """
  if tf_config is None:
    tf_config = os.environ.get("TF_CONFIG") or "{}"
  try:
    fields = file_io.parse_json(tf_config, "TF_CONFIG")
    cluster, task = fields.get("cluster", {}), fields.get("task", {})
    addresses = [cluster.get(role, []) for role in ("chief", "worker")]
    is_right = isinstance(task, dict) and all(map(_is_list_of_texts, addresses))
    if cluster:
      index, num_peers = task.get("index"), len(cluster.get(task["type"], []))
      is_right = is_right and isinstance(index, int) and 0 <= index < num_peers
  except (UserError, AttributeError, KeyError, TypeError):
    is_right = False
  if not is_right:
    raise UserError(
      f"The environment variable TF_CONFIG={tf_config} cannot be used. It "
      'looks like {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
      '"task": {"type": "worker", "index": 0}}.'
    )
  return sum(map(len, addresses))


def _is_list_of_texts(value) -> bool:
  return isinstance(value, list) and all(
    isinstance(item, str) for item in value
  )


def connect_tpu(
  address: str | None, zone: str | None, project: str | None, num_cores: int
) -> tf.distribute.Strategy:
  """Connects to a Cloud TPU.

  Args:
    address: Name or grpc:// address of the TPU; `local` on its own machine.
    zone: GCE zone; None for that of this machine.
    project: Cloud project; None for that of this machine.
    num_cores: Number of cores that the TPU should have.

  Raises:
    UserError: there is no such TPU, or it has another number of cores.
  """
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
      tpu=address, zone=zone, project=project
    )
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
  except (ValueError, RuntimeError, tf.errors.OpError) as error:
    raise UserError(
      f"There is no TPU at --tpu_name={address}: {str(error).splitlines()[0]}"
    ) from error
  strategy = tf.distribute.TPUStrategy(resolver)
  if strategy.num_replicas_in_sync != num_cores:
    raise UserError(
      f"The TPU has {strategy.num_replicas_in_sync} cores, not "
      f"--num_tpu_cores={num_cores}."
    )
  return strategy
