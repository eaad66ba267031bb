"""The deployed versions of functions on this host: fetched, checked, and given the packages that they need."""
