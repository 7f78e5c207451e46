"""Pure core of Real-Time Prediction: features and ranking without I/O, clocks, logs or metrics."""
