"""Skills as folders: reading, checking, editing, versions, the ledger."""
