"""What holds for all tests: none asserts on time, so no example of a property has a deadline."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")
