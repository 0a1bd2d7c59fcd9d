"""What several adapters hold to the outside alike: a connection, and what becomes of it when the other end dies."""
