"""The service's formats: requests, events and answers as JSON, columns or Arrow, and their description."""
