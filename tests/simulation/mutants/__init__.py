"""Mistakes in the engine and in the replica service, planted one at a time."""
