"""Presets as TOML files; `hsi_fuse.preset` reads them."""
