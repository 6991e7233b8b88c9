"""Trained weights -> a Hugging Face directory, verified. Importing this package imports no JAX."""
