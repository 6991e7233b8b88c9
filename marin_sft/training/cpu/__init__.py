"""Code for training on one CPU, where it is faster: see `one_cpu`."""
