"""Fetch demo assets; pack wheels, models and assets for machines without internet."""
