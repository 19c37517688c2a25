"""Everything that uses Ray: starting it, waiting for results with deadlines, actors that can be restarted, ranks that
work together, and a buffer that limits how many groups of samples are in progress.
"""
