"""Loquent: the self-hosted backend for AI features."""

__version__ = "0.1.0"
