"""The scheduler's extender as a process: feeds the scheduler's door from the API server and serves it."""
