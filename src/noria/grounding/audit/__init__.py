"""Who answers without seeing, and what is wrong with a benchmark."""
