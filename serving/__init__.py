"""Models for servers and for Python programs.

signatures          what a SavedModel answers: texts or ids in, answers out
serving_settings    settings of a served model besides its weights
graph_tokenization  the tokenizer as TensorFlow operations
text_model          a folder loaded for Python; texts made into batches
keras_layer         the encoder as a layer of Keras
text_answers        answers of any model to texts, as Python values
masked_words        words in the place of masks; how likely texts are
hub_encoder         encoders of TF Hub's interfaces, ours and others'
"""
