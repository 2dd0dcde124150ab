"""Parts of the estimator, and of the folders of runs.

training_step  losses, gradients and update; the loop of steps in the graph
training_data  batches from where the last checkpoint left off
devices        machines and devices; splitting batches, adding up results
evaluation     functions of batches; averages and predictions
run_state      the JSON next to each checkpoint; which evaluation was best
run_inputs     the config and the data files of a run, compared with before
step_errors    errors of steps, explained to the user
interruption   ends a call of the training graph early: clock or signal
training_log   lines, files and curves that show how training proceeds
time_budget    the number of steps that fits into a time
cost           operations and memory of a training step
cluster        machines, GPUs and TPUs that the flags and TF_CONFIG name
model_folder   the files that make up a model: found and exported
run_folder     the names of files in --output_dir
"""
