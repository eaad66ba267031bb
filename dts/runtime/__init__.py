"""What every process needs: services with one life, a main that handles signals, logging."""
