"""The models that were released: sizes, names, and other names people use."""

from __future__ import annotations

# (num_hidden_layers, hidden_size) of every released English size: the 24 of
# Turc et al. (2019) and the two of the paper. All have one attention head for
# each 64 units and an intermediate size of 4 times hidden_size.
_SMALL_SIZES = [
  (layers, hidden)
  for layers in (2, 4, 6, 8, 10, 12)
  for hidden in (128, 256, 512, 768)
]


def _shape_name(num_hidden_layers: int, hidden_size: int) -> str:
  heads = hidden_size // 64
  return f"L-{num_hidden_layers}_H-{hidden_size}_A-{heads}"


# Name of a size -> (num_hidden_layers, hidden_size).
SIZES: dict[str, tuple[int, int]] = {
  **{_shape_name(*size): size for size in [*_SMALL_SIZES, (24, 1024)]},
  "tiny": (2, 128),
  "mini": (4, 256),
  "small": (4, 512),
  "medium": (8, 512),
  "base": (12, 768),
  "large": (24, 1024),
}

# The models of the paper, those with whole words masked, multilingual, Chinese.
_PUBLISHED_PATHS = (
  # The uncased Base model of the paper comes last, because it has the name of
  # one of the 24 small ones.
  "2018_10_18/cased_L-12_H-768_A-12.zip",
  "2018_10_18/uncased_L-24_H-1024_A-16.zip",
  "2018_10_18/cased_L-24_H-1024_A-16.zip",
  "2019_05_30/wwm_uncased_L-24_H-1024_A-16.zip",
  "2019_05_30/wwm_cased_L-24_H-1024_A-16.zip",
  "2018_11_23/multi_cased_L-12_H-768_A-12.zip",
  "2018_11_03/multilingual_L-12_H-768_A-12.zip",
  "2018_11_03/chinese_L-12_H-768_A-12.zip",
  "2018_10_18/uncased_L-12_H-768_A-12.zip",
)


def _paths() -> dict[str, str]:
  names = [f"uncased_{_shape_name(*size)}" for size in _SMALL_SIZES]
  paths = {name: f"2020_02_20/{name}.zip" for name in names}
  for path in _PUBLISHED_PATHS:
    name = path.rpartition("/")[2].removesuffix(".zip")
    paths[name] = path
  return paths


# Name of a released model -> path on the server.
PATHS: dict[str, str] = _paths()

# Name in the transformers library -> name of the same weights here.
ALIASES: dict[str, str] = {
  "bert-base-uncased": "uncased_L-12_H-768_A-12",
  "bert-base-cased": "cased_L-12_H-768_A-12",
  "bert-large-uncased": "uncased_L-24_H-1024_A-16",
  "bert-large-cased": "cased_L-24_H-1024_A-16",
  "bert-large-uncased-whole-word-masking": "wwm_uncased_L-24_H-1024_A-16",
  "bert-large-cased-whole-word-masking": "wwm_cased_L-24_H-1024_A-16",
  "bert-base-multilingual-cased": "multi_cased_L-12_H-768_A-12",
  "bert-base-multilingual-uncased": "multilingual_L-12_H-768_A-12",
  "bert-base-chinese": "chinese_L-12_H-768_A-12",
  **{
    f"google/bert_uncased_{_shape_name(*size)}": f"uncased_{_shape_name(*size)}"
    for size in _SMALL_SIZES
  },
}


def find_name(name: str) -> str:
  """Returns the name here of a model that may be given by its other name."""
  return ALIASES.get(name.removeprefix("google-bert/"), name)
