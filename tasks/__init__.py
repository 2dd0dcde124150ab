"""Fine-tuning: data sets, the recipe, metrics, result files, distillation.

finetuning              the recipe: train, evaluate, predict, in order
classification          texts and labels: tasks, examples, targets
classification_records  texts to records, logits of windows to logits of texts
classification_targets  labels as numbers, also those that training lacks
classification_results  files of predictions and mistakes
classifier_config       `classifier.json`: labels and settings of a classifier
problem_types           one label, several labels, or a value
attribution             which words a classification rests on
distillation            learning from the logits of a teacher
glue, xnli              published data sets of texts and labels
ner, squad, swag        words and tags; questions; choices
ner_files, ner_json     files of words, and of objects, to sentences
ner_tags                schemes of tags, such as IOB and BIOES
squad_windows           questions and paragraphs to sequences
squad_records           sequences to records, records to logits
squad_answers           logits to answers
tables                  separated values, JSON and Parquet, with checks
text_files              lines with checks, and values in messages
metrics                 scores as NumPy functions
squad_evaluation        the official scores of SQuAD
"""
