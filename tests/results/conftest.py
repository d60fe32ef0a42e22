"""Makes made_sweeps importable, which several tests here share: pytest's import mode leaves this folder off the
path.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
