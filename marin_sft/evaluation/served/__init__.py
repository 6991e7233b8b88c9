"""Exports, checked in the servers that people use: see `served.served`."""
