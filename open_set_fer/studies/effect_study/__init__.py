"""Effect study: why `ours` behaves as it does on a CPU."""
