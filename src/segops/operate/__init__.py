"""Work in worktrees beside the main checkout."""
