"""Pages of HTML about runs, made from the files in their folders.

run_report             the page of a run: which parts it has
page                   parts made into one file; tables and lists of examples
charts                 curves and heat maps, laid out for the templates
overview               parts of all runs: scores, curves, data, commands
run_files, run_log     what a run left in its folder
example_files          evaluated examples that programs hand over for the page
classification_report  parts about texts with labels or values
tagging_report         parts about tagged words
question_report        parts about questions and answers
choice_report          parts about choices of what follows
mask_report            predictions for masked words while a model is pre-trained
grid_report            the part about the runs of run_glue.py
loss_plot              loss curves as a picture
comparison             a page of several runs next to each other
earlier_files          parts about runs without files of examples
records_report         a page of pre-training records
score_intervals        confidence intervals by resampling
"""
