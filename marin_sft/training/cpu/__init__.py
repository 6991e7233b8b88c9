"""What is computed in another way on one CPU, because it is faster there: see `one_cpu`."""
