"""FlowTracer (arXiv 2606.10646): credit for tokens that carry a question to its answer, traced through attention."""
