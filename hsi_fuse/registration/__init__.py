"""Where the HSI lies in the guide: mapping and sensors found together, and how far to trust them."""
