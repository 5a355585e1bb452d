"""The way of the data: raw documents, prepared shards, global order, packing, loading."""
