"""The REST handlers: thin, over one base; each module serves one resource."""
