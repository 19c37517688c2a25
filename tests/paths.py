"""Places in the checkout."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
