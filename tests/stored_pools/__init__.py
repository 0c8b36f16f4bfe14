"""Pools as a release wrote them, with what they hold: every later release opens them."""
