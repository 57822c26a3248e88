"""`modelyard …`: an HTTP client of the service for people and scripts; imports nothing of the server's side."""
