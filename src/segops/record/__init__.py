"""Records runs, artifacts and lineage in MLflow."""
