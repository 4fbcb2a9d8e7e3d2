"""Addresses and keys, as users write them. Imports nothing of zflow but errors and suggest."""
