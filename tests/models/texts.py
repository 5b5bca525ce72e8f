"""What the models are asked: texts to tokenize, prompts to go on from, prompts of any length."""

from __future__ import annotations

import json
from pathlib import Path

# Blanks, words, languages, combining marks, emoji, code and control tokens, escaped: most of them
# would look like something else in an editor.
TEXTS: list[str] = json.loads(Path(__file__).with_suffix(".json").read_text())

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "1, 2, 3, 4, 5, 6, 7,",
    "Monday, Tuesday, Wednesday,",
    "Water boils at a temperature of",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "import numpy as np\n\nx = np.",
    "Roses are red, violets are",
    "The quick brown fox jumps over the lazy",
    "To be, or not to be, that is the",
    "La capitale de l'Allemagne est",
    "Der schnellste Weg von Berlin nach M\u00fcnchen ist",
    "\u65e5\u672c\u306e\u9996\u90fd\u306f",
    "\u4e2d\u56fd\u7684\u9996\u90fd\u662f",
    "\u0421\u0442\u043e\u043b\u0438\u0446\u0430 \u0420\u043e\u0441\u0441\u0438\u0438 \u2014",
    "Q: What is 2 + 2?\nA: 4\nQ: What is 3 + 5?\nA:",
    '{"name": "Alice", "age": 30}\n{"name": "Bob", "age":',
    "| a | b |\n|---|---|\n| 1 | 2 |\n|",
    "Emoji: \U0001f600 \U0001f602 \U0001f60d",
    "<p>Hello</p>\n<p>",
)

_COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown")
_THINGS = ("apples", "pears", "plums", "nuts", "coins", "stones", "keys", "shells", "buttons")


def inventory(first: int, num_lines: int) -> str:
    """Text of a form that a model soon follows, so that most of its tokens lead clearly."""
    lines = [
        f"Box {number} is {_COLOURS[number % 7]} and holds {number * 7 % 90 + 2} "
        f"{_THINGS[number % 9]}.\n"
        for number in range(first, first + num_lines)
    ]
    return "".join(lines)
