"""Real servers, workers, commands and browsers, each a process of its own."""
