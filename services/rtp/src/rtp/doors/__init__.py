"""Where requests come in: HTTP to `Scorer` and back, and the admin port."""
