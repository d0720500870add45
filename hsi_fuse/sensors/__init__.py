"""The two instruments: what is known of them beforehand, and what the pair teaches."""
