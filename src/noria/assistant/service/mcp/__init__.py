"""Tools for other assistants by the Model Context Protocol: asking, rating, making, and looks for operators."""
