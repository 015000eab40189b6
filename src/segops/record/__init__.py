"""What records: runs, artifacts and lineage in MLflow, through one way to talk to it."""
