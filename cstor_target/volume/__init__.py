"""The replication engine: one order of entries, a quorum of replicas, epochs and members."""
