"""Selects documents and pairs, cuts those that are too long, and packs them into rows."""
