"""FireWorks adapters: thin, no decisions."""
