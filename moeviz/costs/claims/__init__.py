"""The ledger of claims and their verdicts."""
