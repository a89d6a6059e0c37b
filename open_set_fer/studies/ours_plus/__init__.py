"""When `ours-plus` is of use and when not."""
