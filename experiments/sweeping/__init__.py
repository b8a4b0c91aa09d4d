"""Running a plan to its end: workers, locks, retries, the law stage."""
