"""The service's log: checked frames on the disk, the events in them, and their export."""
