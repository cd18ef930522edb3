"""Who proposes a change, and what a proposal may not do."""
