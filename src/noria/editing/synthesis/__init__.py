"""What a chat model writes: references, checklists, tasks of a taxonomy."""
