"""Prediction of millions of structures, a shard at a time (docs/prediction.md)."""
