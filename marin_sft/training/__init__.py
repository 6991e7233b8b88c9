"""Packed batches -> train state -> checkpoint. Importing this package, or a config from it, imports no JAX."""
