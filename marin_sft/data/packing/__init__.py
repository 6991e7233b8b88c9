"""Which documents and pairs are trained, what is kept of those too long, and which share a row."""
