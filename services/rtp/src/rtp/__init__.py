"""Real-Time Prediction: scores candidate ads from stored user states."""
