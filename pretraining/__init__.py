"""From plain text to batches of pre-training records.

corpus          text files of any size, in blocks of documents; sentences
compression     files of gzip, bzip2, xz and Zstandard
instances       documents to pairs, rows and serialized records
masking         which tokens are masked, and what replaces them
altered_copies  pairs of a text and an altered copy, made while training
shards          records to shuffled files; resumes interrupted builds
workers         a function mapped over items in several processes
beam_pipeline   the same records made with Apache Beam
record_formats  the features of records, and checks of their values
recipe          settings that fit a text, a machine and a time
learning_check  warns if losses stay at those of token frequencies
input_pipeline  batches of records
training_order  the order of their records, which can be resumed
"""
