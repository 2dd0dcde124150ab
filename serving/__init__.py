"""Models as graphs for servers.

signatures          what a SavedModel answers: texts or ids in, answers out
serving_settings    settings of a served model besides its weights
graph_tokenization  the tokenizer as TensorFlow operations
hub_encoder         encoders of TF Hub's interfaces, ours and others'
"""
