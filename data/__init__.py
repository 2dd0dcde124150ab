"""Files, records and batches.

file_io              text and JSON; atomic, durable files
file_names           the files that a flag names: folders, patterns, lists
text_decoding        encodings, byte order marks, advice on both
original_names       what to write for names of the original code
locks                one writer at a time in a folder
unfinished           parts of an output while it is made
row_files            rows of JSON, JSON lines and Parquet files
record_files         TFRecord files: written, reused, searched for damage
serialization        features to serialized `tf.train.Example`s
encoding             `[CLS] a [SEP] b [SEP]`, cut to a length
sliding_windows      overlapping windows over long texts
batching             batches of similar lengths, in a reproducible order
input_shares         which part of the data each of several machines reads
released_models      names, sizes and other names of the released models
feature_files        extracted features as JSON, NumPy, TFRecord or Parquet
checkpoint_folder    the checkpoints of a run: which there are, which is newest
tokenizer_settings   case, accents and special tokens, kept with a vocabulary
transformers_format, transformers_config  weights and configs of transformers
pytorch_checkpoint, safetensors_checkpoint, keras_checkpoint  tensors from the
                     files of PyTorch and Keras
model_garden         released names for checkpoints of the Model Garden
"""
