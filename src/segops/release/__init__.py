"""What releases: versions, the gate, the ledger, promotion and rollback."""
