"""Behavior data sets and the protocol that turns them into instances: readers, split, targets and negatives, windows.

It needs numpy and pyarrow only: a program that replays or serves the data, such as the demo, needs no torch to know the
test users, where each history ends and which candidates are scored.
"""
