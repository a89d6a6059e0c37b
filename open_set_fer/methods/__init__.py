"""Open-set detection methods, one file each, and their shared parts."""
