"""Deploying functions: from a file or a folder to a source that the server takes."""
