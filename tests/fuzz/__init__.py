"""Inputs that nobody thought of, made by the thousand: of the service by its own document, of readers of files."""
