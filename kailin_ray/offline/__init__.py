"""Demo assets; wheels, models and assets packed for machines without internet."""
