"""The tests: unit (a module), property (any input), scenario (parts), system (the product)."""
