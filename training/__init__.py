"""Parts of the estimator, and of the folders of runs.

cluster         machines, GPUs and TPUs
cost            operations and memory of a training step
model_folder    the files that make up a model: found and exported
run_folder      the names of files in --output_dir
interruption    ends a call of the training graph early: clock or signal
training_log    the lines, files and curves that show a training
"""
