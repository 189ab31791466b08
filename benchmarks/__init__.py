"""The toolkit beside its peers, in one process and one run: ``make bench``."""
