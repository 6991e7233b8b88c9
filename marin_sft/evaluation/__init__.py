"""Measuring an export. Importing this package imports no JAX."""
