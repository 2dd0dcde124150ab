# %% [markdown]
# # Movie reviews, with an encoder of TF Hub
#
# The original code came with a notebook that classifies movie reviews with a
# module of TF Hub. This one does the same with an encoder of the interface
# that TF Hub has today.
#
# The 72 one-line reviews in `sample_data/reviews/` were written for this
# project, so that the notebook is quick without a GPU. The real data are the
# 50,000 reviews of the [Large Movie Review
# Dataset](https://ai.stanford.edu/~amaas/data/sentiment/) (Maas et al., 2011):
# write them to files `train.csv` and `dev.csv` with the columns `text` and
# `label`, and name their folder with `--data_dir`.
#
# Run `make quickstart` first, for the model; or set the environment variable
# `BERT` to the folder of another one.

# %%
import os
from pathlib import Path
import shutil
import sys

# The root of the project, so that paths are as in the documentation.
here = Path.cwd()
os.chdir(next(p for p in [here, *here.parents] if (p / "modeling.py").exists()))
sys.path.insert(0, os.getcwd())
# In commands, `python` is the interpreter of this notebook.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
os.environ.setdefault("BERT", "quickstart/minilm")
shutil.rmtree("runs/movie_reviews", ignore_errors=True)

# %% [markdown]
# ## The data
#
# A table with the columns `text` and `label`. We add a test file without
# labels, with reviews of our own.

# %%
shutil.copytree("sample_data/reviews", "runs/movie_reviews/data")
_ = Path("runs/movie_reviews/data/test.tsv").write_text("""text
That movie was absolutely awful.
The acting was a bit lacking.
The film was creative and surprising.
Absolutely fantastic!
""")

# %% magic_args="-e" language="bash"
# head -6 runs/movie_reviews/data/train.tsv

# %% [markdown]
# ## The encoder
#
# `export_saved_model.py` writes an encoder with TF Hub's interface. With `pip
# install -e '.[hub]'` the address of a published one works as well.

# %% magic_args="-e" language="bash"
# python export_saved_model.py --model=$BERT \
#     --export_dir=runs/movie_reviews/encoder 2> runs/movie_reviews/log.txt
# ls runs/movie_reviews/encoder/1

# %% [markdown]
# Without any code of this project, TensorFlow loads it and calls it with the
# three inputs of BERT. Its variables can be trained.

# %%
import tensorflow as tf

encoder = tf.saved_model.load("runs/movie_reviews/encoder/1")
ids = tf.constant([[101, 1996, 1998, 102]])
outputs = encoder(
  {
    "input_word_ids": ids,
    "input_mask": tf.ones_like(ids),
    "input_type_ids": tf.zeros_like(ids),
  }
)
for name in ("pooled_output", "sequence_output"):
  print(name, outputs[name].shape)
print(len(encoder.trainable_variables), "variables")

# %% [markdown]
# ## Training
#
# One command trains a classifier on top of the encoder, evaluates it, and
# predicts the labels of the test file. It takes the flags of
# `run_classifier.py`.

# %% magic_args="-e" language="bash"
# python run_classifier_with_tfhub.py \
#     --bert_hub_module_handle=runs/movie_reviews/encoder/1 --task_name=custom \
#     --do_train --do_eval --do_predict --data_dir=runs/movie_reviews/data \
#     --max_seq_length=32 --train_batch_size=8 --num_train_epochs=10 \
#     --learning_rate=1e-4 --seed=1 --output_dir=runs/movie_reviews/run \
#     2> runs/movie_reviews/log.txt
# cat runs/movie_reviews/run/eval_results.txt

# %% [markdown]
# With 48 examples, a good score is luck; on all of the real data it would not
# be. The matrix shows which labels are taken for which, and the mistakes are
# worth reading.

# %% magic_args="-e" language="bash"
# cat runs/movie_reviews/run/confusion_matrix.tsv
# head -4 runs/movie_reviews/run/worst_mistakes.tsv

# %% [markdown]
# ## Predictions

# %%
reviews = Path("runs/movie_reviews/data/test.tsv").read_text().splitlines()
rows = Path("runs/movie_reviews/run/test_predictions.tsv").read_text()
for review, row in zip(reviews[1:], rows.splitlines()[1:]):
  _, label, *probabilities = row.split("\t")
  print(f"{label} {max(map(float, probabilities)):.2f}  {review}")

# %% [markdown]
# `runs/movie_reviews/run/report.html` shows all of this in a browser. To serve
# such a model, train it with `run_classifier.py` in place of the encoder of TF
# Hub, and export it: see [Serving](../serving.md).
