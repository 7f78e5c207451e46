"""Behavior data sets: readers, splits, instances and negatives."""
