"""Other programs at their best, for the benchmarks to be measured beside."""
