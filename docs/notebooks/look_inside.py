# %% [markdown]
# # A look inside
#
# What does BERT compute on the way from words to an answer? This notebook
# trains a small classifier of movie reviews and looks at its tokens, its
# attention, its layers, and the words that an answer rests on.
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
shutil.rmtree("runs/look_inside", ignore_errors=True)
os.makedirs("runs/look_inside")

# %% magic_args="-e" language="bash"
# python run_classifier.py --task_name=custom --do_train --do_eval \
#     --data_dir=sample_data/reviews --model=$BERT --max_seq_length=32 \
#     --train_batch_size=8 --num_train_epochs=10 --learning_rate=1e-4 --seed=1 \
#     --output_dir=runs/look_inside/run 2> runs/look_inside/log.txt
# cat runs/look_inside/run/eval_results.txt

# %% [markdown]
# ## Tokens
#
# `load_model` returns the model with its tokenizer, for programs and
# notebooks.

# %%
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from serving import text_model

review = "The script is sharp, but the ending is a bore."
classifier = text_model.load_model("runs/look_inside/run/export")
tokenizer = classifier.tokenizer.tokenizer
batch = classifier.tokenizer(review)
tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][0].numpy().tolist())
print(tokens)

# %% [markdown]
# ## Attention
#
# The model is plain TensorFlow, so its parts can be called one by one. A layer
# multiplies queries with keys; the softmax of the products says how much each
# token takes from each other token.

# %%
encoder = classifier.model.bert
outputs = encoder(**batch)
# The input of a layer is the output of the one before it.
inputs = [outputs.embedding_output, *outputs.all_encoder_layers]


def compute_attention(number):
  """Returns the attention of a layer, [num_heads, seq_length, seq_length]."""
  attention = encoder.layers[number].attention
  states = inputs[number][0]  # [S, H]
  num_heads = encoder.config.num_attention_heads
  shape = [len(tokens), num_heads, encoder.config.hidden_size // num_heads]
  query = tf.reshape(attention.query(states), shape)  # [S, N, D]
  key = tf.reshape(attention.key(states), shape)  # [S, N, D]
  scores = tf.einsum("qnd,knd->nqk", query, key) / shape[2] ** 0.5
  return tf.nn.softmax(scores).numpy()


figure, axes = plt.subplots(1, 3, figsize=(11, 4), sharey=True)
num_layers = encoder.config.num_hidden_layers
for axis, number in zip(axes, (0, num_layers // 2, num_layers - 1)):
  axis.imshow(compute_attention(number).mean(axis=0), cmap="Blues")
  axis.set_title(f"layer {number + 1}, mean of the heads")
  axis.set_xticks(range(len(tokens)), tokens, rotation=90)
  axis.set_yticks(range(len(tokens)), tokens)
figure.tight_layout()
plt.show()

# %% [markdown]
# A row shows where a token looks. Much of the attention goes to one token,
# here `[CLS]` and in BERT Base `[SEP]`, which serves as a place to look when
# nothing else matters ([Clark et al.,
# 2019](https://arxiv.org/abs/1906.04341)).

# %% [markdown]
# ## Layers
#
# The embedding of a word is the same in every sentence; each layer adds more
# of its surroundings. The curves compare the word *bank* in three sentences.

# %%
bert = text_model.load_model(os.environ["BERT"], head="encoder")
sentences = [
  "She opened an account at the bank .",
  "The bank raised its interest rates .",
  "He sat on the bank of the river .",
]


def encode_word(sentence, word):
  """Returns the vector of a word after each layer, [num_layers + 1, H]."""
  batch = bert.tokenizer(sentence)
  ids = batch["input_ids"][0].numpy().tolist()
  first_piece = bert.tokenizer.tokenizer.encode(word)[0]
  outputs = bert.model(**batch)
  layers = [outputs.embedding_output, *outputs.all_encoder_layers]
  return np.stack([layer[0, ids.index(first_piece)] for layer in layers])


def compare(a, b):
  """Returns the cosine of vectors in each layer."""
  norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
  return (a * b).sum(axis=1) / norms


money, rates, river = [encode_word(text, "bank") for text in sentences]
plt.figure(figsize=(6, 3.5))
plt.plot(compare(money, rates), marker="o", label="money and money")
plt.plot(compare(money, river), marker="o", label="money and river")
plt.xlabel("layer (0: embeddings)")
plt.ylabel("cosine of the two vectors of “bank”")
plt.legend()
plt.show()

# %% [markdown]
# ## Which words an answer rests on
#
# The gradient of the score of a label, multiplied with the embedding of a
# word, says to first order how much the word contributes. `report.html` of
# every classifier marks words by it. It is fast, but a hint, not a proof: a
# model is not linear. A slower way is to leave out each word and to see how
# the score changes. A bar above 0 speaks for the label.

# %%
from tasks import attribution

logits = classifier.model(**batch).numpy()[0]
label = int(np.argmax(logits))
print(f"{review} -> {classifier.labels[label]}")
(shares,) = attribution.attribute_words(
  classifier.model, tokenizer, classifier.classifier, [[review]], [label]
)
words = [review[word.begin : word.end] for word in shares[0]]
by_gradient = [word.share for word in shares[0]]

without = [review[: word.begin] + review[word.end :] for word in shares[0]]
changed = classifier.model(**classifier.tokenizer(without)).numpy()


def score(logits):
  """Returns the logit of the label, compared with the mean of all."""
  return logits[..., label] - logits.mean(axis=-1)


by_leaving_out = score(logits) - score(changed)

figure, axes = plt.subplots(2, 1, figsize=(8, 4.5), sharex=True)
titles = ("gradient times input", "leaving out the word")
for axis, title, values in zip(axes, titles, (by_gradient, by_leaving_out)):
  colors = ["tab:green" if value > 0 else "tab:red" for value in values]
  axis.bar(range(len(words)), values, color=colors)
  axis.axhline(0, color="gray", linewidth=0.5)
  axis.set_title(title)
axes[1].set_xticks(range(len(words)), words, rotation=45)
figure.tight_layout()
plt.show()

# %% [markdown]
# The two may disagree, as here: the score depends on *bore* by far the most,
# but the gradient, which sees small changes alone, does not show it.
