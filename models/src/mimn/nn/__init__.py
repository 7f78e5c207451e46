"""PyTorch models: the MIMN cell, its head and the encoders around them."""
