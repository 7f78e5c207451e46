"""How a model is trained, whatever it is trained on: one procedure and its loop, schedule, optimizers and checkpoints.

`mimn.train` (drawn negatives) and `mimn.impressions.train` (labelled impressions) are the two tasks that go through
`procedure.train_run`. Nothing here knows a data set.
"""
