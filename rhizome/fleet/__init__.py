"""What the cluster is asked to run and what runs: the records that all processes share."""
