# SPDX-License-Identifier: Apache-2.0
"""Text from files and messages that nobody has checked, made fit to be shown."""

import re

SHOWN_CHARACTERS = 60
# A _ within a word is none.
MARKDOWN_MARKS = re.compile(r'[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)')


def quoted(value: object) -> str:
    """Quote a value in an error: one line, no control characters, cut if it is long."""
    text = str(value)
    cut = text[:SHOWN_CHARACTERS]
    return repr(cut) if cut == text else f'{cut!r}...'


def one_line(text: str) -> str:
    """Make one line of a text and replace what a terminal would not show as it is."""
    return ''.join(item if item.isprintable() else '?' for item in ' '.join(text.split()))


def markdown(text: str) -> str:
    """Escape a text for Markdown, within tables too: it shows as it is and does nothing."""
    escaped = MARKDOWN_MARKS.sub(r'\\\g<0>', one_line(text))
    return escaped.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
