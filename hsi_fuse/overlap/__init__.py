"""Products over ground that only one of the two images shows, registered or not."""
