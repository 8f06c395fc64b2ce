"""Load and proof: workloads, an open-loop client, reports, and the fleet in virtual time."""
