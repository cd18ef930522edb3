"""The transformer: stock Wan-VACE with timed actions in cross-attention and a hand branch."""
