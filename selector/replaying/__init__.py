"""A campaign on known labels in virtual time: `virtual` runs it, `figures` says what it was worth."""
