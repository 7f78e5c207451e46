"""Models of labelled impressions: from `dataset.toml` with `[impressions]` to calibrated click probabilities.

config  what to train    data    impressions as the model reads them    train, evaluate, calibrate  the three steps
"""
