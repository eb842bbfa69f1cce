"""The select job: filters, duplicates, sampling."""
