"""Pages about launches: a report in one file, and the same live. Made from the store alone."""
