"""Deployed versions of functions: what is stored of them, and which one runs."""
