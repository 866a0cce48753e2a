"""The only room that knows registries: image references, and the store of unpacked images."""
