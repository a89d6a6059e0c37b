"""Tables: which there are, their entries, LaTeX, Markdown and CSV."""
