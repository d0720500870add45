"""What can be measured of a product, without truth or with it, and the verdict made of it."""
