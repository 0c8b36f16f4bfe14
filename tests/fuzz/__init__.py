"""Fuzzing of what strangers send: the login, the full feature phase and every CDB.

`harnesses` has one function for each, which takes any bytes; `seeds` makes the corpus out of what
real initiators send, `python -m tests.fuzz` has libFuzzer mutate it, and `test_fuzz` runs a little
of that.  See `docs/security.md`.
"""
