"""Where work is done: in this process, or on Ray."""
