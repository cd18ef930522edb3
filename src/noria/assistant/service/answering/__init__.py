"""What answering a request takes: asking its backend, streaming, the caller's money, the trace, and the shadow."""
