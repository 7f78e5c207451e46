"""Pure core of Real-Time Prediction: admission, freshness, requests; without I/O, clocks, logs or metrics."""
