"""Preparation: from raw documents to shards, the same bytes for any number of workers and through a kill."""
