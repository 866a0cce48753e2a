"""The failure promise, clause by clause."""
