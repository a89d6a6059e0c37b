"""What the published numbers rest on."""
