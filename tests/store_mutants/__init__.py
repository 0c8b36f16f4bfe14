"""Mistakes that are planted in the store, one at a time: each has to be noticed."""
