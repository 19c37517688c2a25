"""Everything that uses Ray. This package starts Ray, and waits for results with deadlines. It also contains actors that
can be restarted, and ranks (processes) that work together. A buffer limits how many groups of samples are in progress.
"""
