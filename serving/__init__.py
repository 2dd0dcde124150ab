"""Models for servers and for Python programs.

signatures          what a SavedModel answers: texts or ids in, answers out
serving_settings    settings of a served model besides its weights
graph_tokenization  the tokenizer as TensorFlow operations
text_model          a folder loaded for Python; texts made into batches
keras_layer         the encoder as a layer of Keras
text_answers        answers of any model to texts, as Python values
masked_words        words in the place of masks; how likely texts are
hub_encoder         encoders of TF Hub's interfaces, ours and others'
exported_model      a SavedModel for Python, with its head found again

The server of serve.py:

model_versions      names and versions of models; new ones are loaded meanwhile
rest_format         bodies of requests and answers, as TensorFlow Serving's
server_limits       limits of requests
row_batches         rows of concurrent requests, answered in batches
rest_app            paths, limits and errors: the application
rest_server         the application on a port, until a signal ends it
server_metrics      counters for Prometheus
openapi             the description of the paths
text_page           the page for people
"""
