"""The console: pages made on the server, and the forms by which an operator changes what serves."""
