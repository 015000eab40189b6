"""Decides on models: gate, evidence, ledger, versions, promotion and rollback."""
