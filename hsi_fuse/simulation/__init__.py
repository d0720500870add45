"""Pairs whose truth is known: what the two instruments would have seen of a scene."""
