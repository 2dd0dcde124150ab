"""Parts of the estimator: how training is stopped and shown.

interruption    ends a call of the training graph early: clock or signal
training_log    the lines, files and curves that show a training
"""
