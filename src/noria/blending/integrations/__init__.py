"""One module for each outside tool, imported when it is used."""
