"""What a better closed-set model does to each method."""
