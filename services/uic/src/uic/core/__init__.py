"""Pure core of the User Interest Center: decisions without I/O, clocks, logs or metrics."""
