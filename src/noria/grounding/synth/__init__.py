"""SynthOCEAN: a world in which it is known what is shown."""
