"""Groups of options that the verbs of `noria skills` share, and what they make of them."""
