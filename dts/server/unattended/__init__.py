"""Jobs that DTS submits on behalf of users while no client is there: schedules, and what follows a run."""
