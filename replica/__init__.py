"""The replica daemon: one copy of each of its pool's volumes, served over gRPC."""
