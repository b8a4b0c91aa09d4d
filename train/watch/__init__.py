"""What a run tells while it runs: metrics, goodput, heartbeats, signals."""
