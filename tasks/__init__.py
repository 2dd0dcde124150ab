"""Fine-tuning: data sets, metrics, result files, and distillation.

classification          tables of texts and labels
glue, xnli              published data sets of that kind
ner, squad, swag        words and tags; questions; choices
squad_windows           questions and paragraphs to sequences
squad_answers           logits to answers
text_files              tables and lines, with checks
classifier              examples to records, a loss, and predictions
distillation            the logits of a teacher, computed once
metrics                 scores as NumPy functions
squad_evaluation        the official scores of SQuAD
classification_results  files of predictions and mistakes
"""
