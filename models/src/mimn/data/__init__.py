"""Behavior data sets and the protocol that turns them into instances: readers, split, targets and negatives, windows.

Numpy and pyarrow only: whoever replays or serves the data (the demo does) needs no torch to know which users are test
users, where a history ends and what was asked.
"""
