"""The tests: unit (a module), property (any input), scenario (several parts), system (all of it)."""
