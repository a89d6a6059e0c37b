"""Data of reports: one typed frame of results, published numbers, display names, statistics."""
