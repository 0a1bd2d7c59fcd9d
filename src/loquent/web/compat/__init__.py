"""Other people's APIs, spoken exactly; files named by the path that a client calls."""
