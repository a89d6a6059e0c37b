"""Storage: result folders on disk, closed-set models, and MLflow."""
