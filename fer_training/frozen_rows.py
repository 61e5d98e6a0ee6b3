# SPDX-License-Identifier: Apache-2.0
"""Small frozen tables of the package, as JSON that a person can read."""

import json
from pathlib import Path

import numpy as np


def write_frozen_rows(
    path: Path, rows: np.ndarray, *, name: str, description: str, per_line: int
) -> None:
    """Write rows (N, C) under a name, with what they are, `per_line` of them a line."""
    texts = [json.dumps(row) for row in rows.tolist()]
    starts = range(0, len(texts), per_line)
    lines = [', '.join(texts[start : start + per_line]) for start in starts]
    body = ',\n    '.join(lines)
    text = (
        f'{{\n  "description": {json.dumps(description)},\n'
        f'  "{name}": [\n    {body}\n  ]\n}}\n'
    )
    path.write_text(text, encoding='utf-8')
