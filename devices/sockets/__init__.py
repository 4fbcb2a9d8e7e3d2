"""Sockets: how they are made, used, guarded and flushed. Imports protocol."""
