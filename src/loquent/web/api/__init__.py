"""Our own API, /api/v1: one router a noun."""
