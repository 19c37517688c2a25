"""How long the fuzzing takes: seconds in CI, as long as one likes by hand.

    FUZZ_EXAMPLES=20000 pytest tests/fuzz -m fuzz --hypothesis-profile=long --hypothesis-seed=1 --timeout=0
"""

import os

from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("ci", max_examples=40, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=int(os.environ.get("FUZZ_EXAMPLES", "3000")), **COMMON)
settings.load_profile("ci")
