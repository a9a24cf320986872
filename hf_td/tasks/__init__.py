"""The tasks that scripts and the command line fine-tune on.

Each kind of task has a folder: `glue`, `text_classification`, `language_modelling`,
`image_classification`, `question_answering`, `translation`. Its `task.py` builds a `task.Task`: a
model, data and a metric. `registry` lists the kinds. `experiment` fine-tunes and measures any
`Task`. `models` and `data` load pretrained models and data sets. `labels` reads labels of any kind.
"""
