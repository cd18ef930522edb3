"""Products of a shop: feeds in the merchants' formats, a catalogue that is searched by words and pictures, a tool."""
