"""What steerkit costs, as ratios in one run against the naive way and against installed peers."""
