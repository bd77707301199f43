"""Learning SC[RPA; IPA] from crystal structures: torch only, no database, no FireWorks."""
