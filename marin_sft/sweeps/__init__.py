"""Sweeps: one training in many settings, its results in one table, and the best of them."""
