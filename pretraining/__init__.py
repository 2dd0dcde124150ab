"""From plain text to batches of pre-training records.

corpus          text files of any size, in blocks of documents; sentences
instances       documents to pairs, packed rows and serialized records
masking         which tokens are masked, and by what they are replaced
shards          records to shuffled files; which parts of a build are done
workers         a function mapped over items in several processes
beam_pipeline   the same records made by Apache Beam
record_formats  the features of the records, and checks of their values
input_pipeline  batches of the records, in an order that can be resumed
"""
