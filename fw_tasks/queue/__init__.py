"""A campaign's rockets as jobs of a SLURM cluster."""
