# %% [markdown]
# # A language of your own
#
# A vocabulary is learned from text, a small model is pre-trained on it from
# random weights, and then fills in masked words. This is quick even on two
# cores, because the text is simple: sentences that a few lines of Python put
# together from some 20 words of Esperanto.

# %%
import os
from pathlib import Path
import random
import shutil
import sys

# The root of the project, so that paths are as in the documentation.
here = Path.cwd()
os.chdir(next(p for p in [here, *here.parents] if (p / "modeling.py").exists()))
# In commands, `python` is the interpreter of this notebook.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
shutil.rmtree("runs/own_language", ignore_errors=True)
os.makedirs("runs/own_language")

# %% [markdown]
# ## The text
#
# The language has three rules. The word of time decides the end of the verb
# (*hieraŭ manĝis*, *hodiaŭ manĝas*, *morgaŭ manĝos*). An object ends in *-n*
# (*la kato*, *la fiŝon*). And a verb has its own objects: one eats bread, and
# reads books.

# %%
SUBJECTS = ["kato", "hundo", "knabo", "virino", "birdo", "amiko"]
OBJECTS = {
  "manĝ": ["fiŝo", "pano", "pomo", "kuko"],
  "leg": ["libro", "letero", "gazeto"],
  "trink": ["akvo", "lakto", "teo"],
}
ENDINGS = {"hieraŭ": "is", "hodiaŭ": "as", "morgaŭ": "os"}
rng = random.Random(1)


def make_sentence():
  time = rng.choice(list(ENDINGS))
  verb = rng.choice(list(OBJECTS))
  subject, thing = rng.choice(SUBJECTS), rng.choice(OBJECTS[verb])
  return f"{time} la {subject} {verb}{ENDINGS[time]} la {thing}n ."


# A sentence per line, and a blank line between documents.
documents = [[make_sentence() for _ in range(6)] for _ in range(400)]
text = "\n\n".join("\n".join(sentences) for sentences in documents)
_ = Path("runs/own_language/text.txt").write_text(text + "\n", encoding="utf-8")

# %% magic_args="-e" language="bash"
# head -8 runs/own_language/text.txt

# %% [markdown]
# ## The vocabulary
#
# `--do_lower_case=false` keeps accents, and so *ŭ* and *ĝ* apart from *u* and
# *g*; the programs below find this in the folder. The config of a model is
# written next to the vocabulary.

# %% magic_args="-e" language="bash"
# cd runs/own_language
# python ../../create_vocabulary.py --input_file=text.txt \
#     --output_dir=vocabulary --vocab_size=200 --num_unused_tokens=0 \
#     --do_lower_case=false --model_size=tiny 2> log.txt
# tail -n +35 vocabulary/vocab.txt | tr '\n' ' '

# %% [markdown]
# ## Records, and training
#
# The records hold sentences with masked words. They follow each other by
# chance, so predicting the next one would teach nothing. The model has 2
# layers of 128 units.

# %% magic_args="-e" language="bash"
# cd runs/own_language
# python ../../create_pretraining_data.py --input_file=text.txt \
#     --output_file=records --vocab_file=vocabulary/vocab.txt \
#     --next_sentence_prediction=false --max_seq_length=20 \
#     --max_predictions_per_seq=4 --dupe_factor=10 2> log.txt
# python ../../run_pretraining.py --do_train --do_eval --input_file=records \
#     --bert_config_file=vocabulary/bert_config.json \
#     --vocab_file=vocabulary/vocab.txt --output_dir=model --max_seq_length=20 \
#     --max_predictions_per_seq=4 --train_batch_size=64 --num_train_steps=1000 \
#     --num_warmup_steps=100 --learning_rate=1e-3 --seed=1 2> log.txt
# cat model/eval_results.txt

# %% [markdown]
# What does this loss mean? Three of the seven places of a sentence always hold
# the same word, and the others one of 3 times, 6 subjects, 9 verbs or 10
# objects. A model that knows this and nothing else has the loss (ln 3 + ln 6 +
# ln 9 + ln 10) / 7 = 1.06. So the model has learned the form of a sentence.
# The rules that join two words come later in a training.
#
# ## Masked words
#
# Each kind of word appears in its place, the object with its *-n*. But any end
# of the verb is as likely after *hieraŭ* as after *morgaŭ*:

# %% magic_args="-e" language="bash"
# python predict.py --model=runs/own_language/model --top_k=4 2> /dev/null \
#     --text='hieraŭ la virino [MASK] la libron .' \
#     --text='morgaŭ la virino [MASK] la libron .' \
#     --text='[MASK] la hundo trinkas la akvon .'

# %% [markdown]
# An object is an object, whatever the verb:

# %% magic_args="-e" language="bash"
# python predict.py --model=runs/own_language/model --top_k=4 2> /dev/null \
#     --text='hodiaŭ la kato manĝas la [MASK] .' \
#     --text='hodiaŭ la kato trinkas la [MASK] .' \
#     --text='hodiaŭ la [MASK] trinkas la lakton .'

# %% [markdown]
# `--score` says how likely the model finds a text. The first one is right; the
# second has the wrong time, which the model does not notice; the third lacks
# the *-n*, which costs much:

# %% magic_args="-e" language="bash"
# python predict.py --model=runs/own_language/model --score 2> /dev/null \
#     --text='hodiaŭ la kato manĝas la fiŝon .' \
#     --text='hodiaŭ la kato manĝos la fiŝon .' \
#     --text='hodiaŭ la kato manĝas la fiŝo .'

# %% [markdown]
# The same commands work for a real language, with more text, a larger
# `--model_size`, and many more steps: see [Pre-training
# data](../pretraining_data.md) and [A vocabulary of your
# own](../vocabulary.md).
