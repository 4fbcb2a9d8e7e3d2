"""What processes of one machine share without a socket: memory for large arrays, and tickets.
Imports protocol.
"""
