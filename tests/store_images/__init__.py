"""The store on a disk that may stop at any moment, and keep any part of what was not flushed."""
