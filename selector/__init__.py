"""What to compute next, and the campaign's memory."""

__version__ = "0.1.0"
