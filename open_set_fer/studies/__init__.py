"""Evidence: write-ups of this suite's own studies, each with its profile and template."""
