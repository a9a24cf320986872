"""Shows that sharded training equals that of one process, and computes what it takes at scale."""
