"""Questions with checkable answers, and the small reasoner that ships."""
