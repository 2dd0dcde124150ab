"""Times the page of a run, as a share of the time of the run.

    python benchmarks/report_cost.py --task_name=MRPC --data_dir=glue/MRPC \\
        --model=quickstart/minilm --do_train --do_eval --do_predict \\
        --max_seq_length=128 --train_batch_size=32 --restart \\
        --output_dir=/tmp/report_cost

It is run_classifier.py, with all of its flags, and with clocks. The page costs
the files of examples, the words that predictions rest on, and report.html.
Everything else is the run. Weights may be random: they do not change the time.
"""

import contextlib
import os
import sys
import time
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app
from absl import flags
from absl import logging
import result_files
import tensorflow as tf

import common_flags
from reports import classification_report
from reports import run_report
import run_classifier
from tasks import attribution

FLAGS = flags.FLAGS

# Timed functions: name -> module, function.
_TIMED = {
  "examples, with their words": (classification_report, "write_examples"),
  "words alone": (attribution, "attribute_words"),
  "page": (run_report, "write"),
}
# The words are part of the examples.
_SUM = ("examples, with their words", "page")


@contextlib.contextmanager
def _clocks():
  """Yields name -> seconds, which grow when the timed functions are called."""
  seconds = dict.fromkeys(_TIMED, 0.0)

  def time_calls(name, function):
    def timed(*args, **kwargs):
      start = time.perf_counter()
      try:
        return function(*args, **kwargs)
      finally:
        seconds[name] += time.perf_counter() - start

    return timed

  with contextlib.ExitStack() as stack:
    for name, (module, function) in _TIMED.items():
      timed = time_calls(name, getattr(module, function))
      stack.enter_context(mock.patch.object(module, function, timed))
    yield seconds


def main(_):
  logging.set_verbosity(logging.INFO)
  start = time.perf_counter()
  with _clocks() as seconds:
    run_classifier.main([])
  whole = time.perf_counter() - start
  config = common_flags.read_config(common_flags.model_files())
  model = f"{config.num_hidden_layers} layers of {config.hidden_size}"
  rows = []
  for name in _TIMED:
    share = 100 * seconds[name] / whole
    rows.append(
      {"part": name, "s": round(seconds[name], 2), "%": f"{share:.2f}"}
    )
  together = sum(seconds[name] for name in _SUM)
  share = 100 * together / whole
  rows.append({"part": "all", "s": round(together, 2), "%": f"{share:.2f}"})
  rows.append({"part": "the run", "s": round(whole, 1), "%": "100"})
  for row in rows:
    print("\t".join(str(value) for value in row.values()))
  size = tf.io.gfile.stat(os.path.join(FLAGS.output_dir, run_report.FILE))
  print(f"report.html: {size.length / 1e6:.2f} MB")
  result_files.write(
    section="Speed",
    title="The page of a run, as a share of a run on MRPC",
    rows=rows,
    note=f"A model of {model}; larger models take more time for the rest.",
  )


if __name__ == "__main__":
  run_classifier.define_flags()
  result_files.define_flag()
  app.run(main)
