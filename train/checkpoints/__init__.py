"""Arrays on disk, verified: manifests, identities, replicas, and when to save."""
