"""The select job: filtering, deduplication, sampling."""
