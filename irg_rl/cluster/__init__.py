"""Everything that touches Ray: starting it, waiting with deadlines, restartable actors, ranks that act together, the
slot buffer.
"""
