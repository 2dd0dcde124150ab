"""Names of the original code that have another name or place here.

A module of the original code answers for each of them with what to write now.
The page docs/porting.md shows the same table.
"""

from __future__ import annotations

import sys
from typing import NoReturn

# Module -> name -> what to write now.
REPLACEMENTS: dict[str, dict[str, str]] = {
  "modeling": {
    "gelu": '`operations.ACTIVATIONS["gelu"]`',
    "get_activation": "`operations.ACTIVATIONS[name]`",
    "dropout": "`modeling.Dropout(path, rate)(x, seed)`; the rate is that of "
    "elements to drop",
    "layer_norm": "`operations.layer_norm(x, gamma, beta)`, or "
    "`modeling.LayerNorm` with its variables",
    "layer_norm_and_dropout": "`modeling.LayerNorm`, then `modeling.Dropout`",
    "create_initializer": "`modeling.Initializer(seed, stddev)`",
    "embedding_lookup": "`operations.embedding_lookup(table, ids)`, or "
    "`modeling.Embeddings` with its variables",
    "embedding_postprocessor": "`modeling.Embeddings`, which adds segments and "
    "positions, norm and dropout",
    "create_attention_mask_from_input_mask": "nothing: `modeling.BertModel` "
    "takes `input_mask`",
    "attention_layer": "`modeling.SelfAttention`",
    "transformer_model": "`modeling.TransformerLayer`, one for each layer, as "
    "in `modeling.BertModel`",
    "get_assignment_map_from_checkpoint": "`checkpoint.restore("
    "checkpoint.variables_by_name(model), path)`, which reads the values and "
    "logs what matched",
    "get_shape_list": "`tf.shape(x)`, or `x.shape.as_list()`",
    "reshape_to_matrix": "`tf.reshape(x, [-1, x.shape[-1]])`",
    "reshape_from_matrix": "`tf.reshape(rows, shape)`",
    "assert_rank": "`tf.debugging.assert_rank(x, rank)`",
  },
  "run_classifier": {
    "InputExample": "`tasks.classification.Example`",
    "InputFeatures": "`data.encoding.InputFeatures`",
    "PaddingInputExample": "nothing: `data.batching.task_dataset` fills up "
    "batches, and the feature `is_real_example` tells",
    "DataProcessor": "`tasks.classification.ClassificationTask`: the columns "
    "of files as data. For files of your own no code is needed: "
    "`--task_name=custom`",
    "ColaProcessor": '`tasks.glue.TASKS["CoLA"]`',
    "MnliProcessor": '`tasks.glue.TASKS["MNLI"]`',
    "MrpcProcessor": '`tasks.glue.TASKS["MRPC"]`',
    "XnliProcessor": '`tasks.glue.TASKS["XNLI"]`',
    "convert_single_example": "`data.encoding.encode_pair`, or "
    "`serving.text_model.BatchTokenizer` for padded batches",
    "convert_examples_to_features": "`serving.text_model.BatchTokenizer`",
    "file_based_convert_examples_to_features": "`tasks.classification_records."
    "write_records`",
    "file_based_input_fn_builder": "`data.batching.task_dataset`",
    "input_fn_builder": "`data.batching.features_dataset`",
    "create_model": "`modeling.BertForSequenceClassification`; its loss is in "
    "`heads.HEADS`",
    "model_fn_builder": "`tasks.finetuning.Recipe`",
  },
  "run_squad": {
    "SquadExample": "`tasks.squad.Question`",
    "InputFeatures": "`tasks.squad_windows.QuestionWindow`",
    "read_squad_examples": "`tasks.squad.read_dataset`",
    "convert_examples_to_features": "`tasks.squad_windows.WindowMaker`",
    "FeatureWriter": "`tasks.squad_records.write_records`",
    "create_model": "`modeling.BertForQuestionAnswering`",
    "model_fn_builder": "`tasks.finetuning.Recipe`",
    "input_fn_builder": "`data.batching.task_dataset`",
    "RawResult": "`tasks.squad_records.predict_logits`, which returns arrays",
    "write_predictions": "`tasks.squad_answers.choose_answers`, then "
    "`tasks.squad_answers.write_predictions`",
    "get_final_text": "nothing: windows keep the places of their tokens in the "
    "text, see `tokenization.FullTokenizer.encode_with_offsets`",
    "validate_flags_or_throw": "nothing: `run_squad.main` checks its flags "
    "before the work",
  },
  "create_pretraining_data": {
    "TrainingInstance": "`pretraining.instances.Pair`",
    "MaskedLmInstance": "`pretraining.masking.MaskedRows`, for many at once",
    "create_training_instances": "`pretraining.corpus.TextParser`, then "
    "`pretraining.instances.InstanceMaker`",
    "create_instances_from_document": "`pretraining.instances.draw_pairs`",
    "create_masked_lm_predictions": "`pretraining.masking.Masker`",
    "truncate_seq_pair": "`pretraining.instances.truncate_pairs`",
    "write_instance_to_example_files": "`pretraining.instances.InstanceMaker."
    "make_records`, then `data.record_files.write_records`",
    "create_int_feature": "`data.serialization.serialize_example`, which takes "
    "numbers",
    "create_float_feature": "`data.serialization.serialize_example`, which "
    "takes numbers",
  },
  "extract_features": {
    "InputExample": "nothing: `extract_features.encode_lines` takes files",
    "InputFeatures": "`data.encoding.InputFeatures`",
    "read_examples": "`extract_features.encode_lines`",
    "convert_examples_to_features": "`extract_features.encode_lines`, or "
    "`serving.text_model.BatchTokenizer` for padded batches",
    "input_fn_builder": "`data.batching.features_dataset`",
    "model_fn_builder": "`extract_features.create_estimator`; in a program of "
    "your own, `serving.text_model.load_model`",
  },
  "run_pretraining": {
    "get_masked_lm_output": "`modeling.BertForPreTraining`, then "
    "`losses.masked_lm_loss`",
    "get_next_sentence_output": "`modeling.BertForPreTraining`, then "
    "`losses.classification_loss`",
    "gather_indexes": "`tf.gather(x, positions, axis=1, batch_dims=1)`",
  },
  "run_classifier_with_tfhub": {
    "create_model": "`serving.hub_encoder.HubClassifier`",
    "model_fn_builder": "`tasks.finetuning.Recipe`",
    "create_tokenizer_from_hub_module": "`serving.hub_encoder.load_encoder`, "
    "which knows `vocab_file` and `do_lower_case`",
  },
}


def explain_missing_names(module_name: str) -> None:
  """Makes a module answer for names that it had in the original code.

  Args:
    module_name: `__name__` of the module, which calls this while it is loaded.
  """
  replacements = REPLACEMENTS.get(module_name)
  if replacements is None:
    return  # a program that runs has the name `__main__`

  def get_missing(name: str) -> NoReturn:
    message = f"module {module_name!r} has no attribute {name!r}"
    if name in replacements:
      message += (
        f". The original code had it; write now: {replacements[name]}. More "
        "names are in docs/porting.md."
      )
    raise AttributeError(message)

  vars(sys.modules[module_name])["__getattr__"] = get_missing
