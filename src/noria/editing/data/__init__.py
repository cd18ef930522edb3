"""Tasks of reasoning edits, their files and their pictures."""
