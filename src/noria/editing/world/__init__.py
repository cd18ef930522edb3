"""The proof's world: scenes of real sprites, events with exact outcomes, and an editor with quirks."""
