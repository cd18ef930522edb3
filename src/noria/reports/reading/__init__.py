"""Reading of files and packages: text, tables and pictures of documents, within bounds on their size."""
