"""The prediction server: one process that answers requests, and worker processes that predict."""
