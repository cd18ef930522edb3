"""The index of a journal of traces, and what is read from it: lists, figures of experiments, scores, costs."""
