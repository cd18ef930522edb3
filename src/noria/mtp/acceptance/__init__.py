"""Which drafts are accepted, how tokens are drawn and verified, and whether drafting pays: mathematics alone."""
