"""Reports over HTTP: a request becomes a job of the core, its result a report."""
