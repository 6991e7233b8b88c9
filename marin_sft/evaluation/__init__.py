"""Evaluation of exports. Importing this package imports no JAX."""
