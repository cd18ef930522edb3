"""The agents: planner, chart maker, image searcher, writer, polisher, behind typed contracts."""
