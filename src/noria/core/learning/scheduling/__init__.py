"""When a turn is due: by volume, by drift, by hand."""
