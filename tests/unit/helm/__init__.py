"""What the chart renders, checked offline: no cluster, no network."""
