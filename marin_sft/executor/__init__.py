"""A script's `main` as a Ray task, under the names of eformer."""
