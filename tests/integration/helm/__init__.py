"""What the chart renders, run for real as far as that goes without a cluster."""
