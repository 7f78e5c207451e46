"""Load on the running system: latency and throughput, measured from the outside."""
