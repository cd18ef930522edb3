"""Clips in and out: files, sizes and numbers of frames that Wan takes and gives back, masks."""
