"""Which packed rows and pairs each training step takes, as arrays."""
