"""Today's release beside an earlier one: pools, streams and the control API, in both directions."""
