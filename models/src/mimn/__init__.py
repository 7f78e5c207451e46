"""MIMN: user state, model bundle, and the models that make them."""
