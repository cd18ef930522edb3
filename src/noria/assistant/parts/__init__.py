"""Parts of the pipeline: one module a system, imported when the configuration or a bundle names it."""
