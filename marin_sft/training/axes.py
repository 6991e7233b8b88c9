"""Names of the axes of batches."""

MICRO, BATCH, POSITION = "micro_batch", "batch", "position"
