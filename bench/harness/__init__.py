"""What all benchmarks share: running, storing, printing, plotting, comparing.
It knows benchmarks by name only.
"""
