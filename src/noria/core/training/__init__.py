"""What trainings share: advantages and losses, the loop, processes, the bridge to TRL."""
