"""How a model is trained, whatever it is trained on: one loop, its schedule, its optimizers and its checkpoints.

`mimn.train` (drawn negatives) and `mimn.impressions.train` (labelled impressions) are the two tasks that go through
`loop.fit`. Nothing here knows a data set.
"""
