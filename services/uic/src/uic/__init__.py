"""User Interest Center: folds behavior events into user states."""
