"""Quality and speed of the methods on real scenes. Not installed."""
