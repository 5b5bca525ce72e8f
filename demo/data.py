"""Training documents and held-out test items for the demo model, made from templates.

A document is a list of `(text, learn)` segments; the loss counts only where `learn` is true. Test
items never share a sum, a phrasing, a value or a story topic with training (see `is_held_out`).
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import phrases as p
import words as w

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"

Segment = tuple[str, bool]
Message = dict[str, str]
Tool = dict[str, Any]


def is_held_out(*parts: object) -> bool:
    """Fixed 10 % of all sums, names and story topics, by hash: these are never trained on."""
    return zlib.crc32("|".join(map(str, parts)).encode()) % 10 == 0


def sum_is_held_out(a: int, b: int) -> bool:
    """A two-digit pair is held out in both orders."""
    return min(a, b) > 9 and is_held_out("sum", min(a, b), max(a, b))


def difference_is_held_out(a: int, b: int) -> bool:
    """A two-digit pair is held out in both orders."""
    return min(a, b) > 9 and is_held_out("difference", min(a, b), max(a, b))


# --------------------------------------------------------------------------- rendering

TOOLS_HEAD = "You can call these tools:\n"
TOOLS_TAIL = (
    f'To call a tool, answer with {CALL_OPEN}\n{{"name": <name>, "arguments": <arguments>}}\n'
    f"{CALL_CLOSE}"
)


def tools_text(tools: list[Tool], compact: bool = False) -> str:
    sep = (",", ":") if compact else (", ", ": ")
    lines = [json.dumps(t, ensure_ascii=False, separators=sep) for t in tools]
    return TOOLS_HEAD + "".join(line + "\n" for line in lines) + TOOLS_TAIL


def call_text(name: str, arguments: dict[str, Any]) -> str:
    args = json.dumps(arguments, ensure_ascii=False)
    return f'{CALL_OPEN}\n{{"name": "{name}", "arguments": {args}}}\n{CALL_CLOSE}'


def chat(
    messages: list[Message], tools: list[Tool] | None = None, compact: bool = False
) -> list[Segment]:
    """The same text as the Jinja template in `tokenizer.py` gives; `export.py` checks that."""
    out: list[Segment] = []
    if tools:
        first = messages[0]["content"] + "\n\n" if messages[0]["role"] == "system" else ""
        text = first + tools_text(tools, compact)
        out.append((f"{IM_START}system\n{text}{IM_END}\n", False))
        messages = messages[1:] if first else messages
    for m in messages:
        if m["role"] == "assistant":
            out += [
                (f"{IM_START}assistant\n", False),
                (m["content"] + IM_END, True),
                ("\n", False),
            ]
        else:
            out.append((f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n", False))
    return out


def raw(prompt: str, completion: str) -> list[Segment]:
    return [(prompt, False), (completion + END_OF_TEXT, True)]


# --------------------------------------------------------------------------- random values

SINGLE, VOWELS = "bcdfghjklmnprstvwz", "aeiouaeiouaeiouaeiouaeiouaeiouy"
CLUSTERS = ("th", "sh", "br", "st", "kr", "ch", "tr", "gl", "fl", "qu", "x", "y", "")
CODAS = ("", "", "", "", "", "", "n", "r", "s", "l", "t", "m", "ck", "nd", "ll", "rg")


def syllable_name(rng: random.Random, held_out: bool = False) -> str:
    while True:
        name = ""
        for _ in range(rng.choice((1, 2, 2, 2, 3, 3))):
            name += rng.choice(SINGLE if rng.random() < 0.9 else CLUSTERS)
            name += rng.choice(VOWELS) + rng.choice(CODAS)
        if 2 < len(name) < 11 and is_held_out("name", name) == held_out:
            return name.capitalize()


def person(rng: random.Random, held_out: bool = False) -> str:
    if held_out and rng.random() < 0.4:
        return rng.choice(w.HELD_OUT_NAMES)
    if not held_out and rng.random() < 0.15:
        return rng.choice(w.FIRST_NAMES)
    return syllable_name(rng, held_out)


def city(rng: random.Random, held_out: bool = False) -> str:
    if held_out and rng.random() < 0.4:
        return rng.choice(w.HELD_OUT_CITIES)
    if not held_out and rng.random() < 0.3:
        return rng.choice(w.OTHER_CITIES + list(w.CAPITALS.values()))
    name = syllable_name(rng, held_out)
    return name if rng.random() < 0.85 else f"{name} {syllable_name(rng, held_out)}"


def number(rng: random.Random) -> int:
    return rng.randrange(10 ** rng.choice((1, 2, 2, 2, 3, 4)))


def a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


# --------------------------------------------------------------------------- questions


def ask(rng: random.Random, nouns: Sequence[str], questions: Sequence[str]) -> str:
    """A training phrasing: a question template, or a verb or an asker with a noun phrase."""
    noun = rng.choice(nouns) if rng.random() < 0.7 else nouns[0]
    kind = rng.random()
    if kind < 0.55:
        text = rng.choice(questions).replace("{x}", noun)
        text = text.replace("{X}", noun[0].upper() + noun[1:])
    elif kind < 0.8:
        verb = rng.choice(p.VERBS)
        mark = "?" if verb.startswith(("Do", "Can", "Could", "Who")) else "."
        text = f"{verb} {noun}{mark}"
    else:
        asker = rng.choice(p.ASKERS).replace("{n}", syllable_name(rng))
        text = f"{asker} {rng.choice(p.ASKS)} {noun}."
    text = rng.choice(p.LEADS) + text + rng.choice(p.TRAILS)
    if rng.random() < 0.08:
        text = text.lower()
    return text


def small_pair(rng: random.Random) -> tuple[int, int]:
    """Two numbers of which at least one has one digit."""
    x, y = rng.randrange(10), rng.randrange(10) if rng.random() < 0.5 else rng.randrange(10, 100)
    return (x, y) if rng.random() < 0.5 else (y, x)


def two_digit_pair(rng: random.Random) -> tuple[int, int]:
    return rng.randrange(10, 100), rng.randrange(10, 100)


def sum_pair(rng: random.Random) -> tuple[int, int]:
    while True:
        x, y = small_pair(rng) if rng.random() < 0.35 else two_digit_pair(rng)
        if not sum_is_held_out(x, y):
            return x, y


def falling(rng: random.Random, pair: tuple[int, int]) -> tuple[int, int]:
    """The pair with the greater number first, but for one in ten: those give less than zero."""
    return pair if rng.random() < 0.2 else (max(pair), min(pair))


def difference_pair(rng: random.Random) -> tuple[int, int]:
    while True:
        x, y = falling(rng, small_pair(rng) if rng.random() < 0.35 else two_digit_pair(rng))
        if not difference_is_held_out(x, y):
            return x, y


def fill_numbers(rng: random.Random, text: str, x: int, y: int) -> str:
    for key, value in (
        ("{a}", str(x)),
        ("{b}", str(y)),
        ("{thing}", rng.choice(w.THINGS)),
        ("{animal}", rng.choice(w.ANIMALS)),
        ("{animal2}", rng.choice(w.ANIMALS)),
    ):
        text = text.replace(key, value)
    return text


def sum_question(rng: random.Random, x: int, y: int) -> str:
    return fill_numbers(rng, ask(rng, p.SUM_NOUNS, p.SUM_QUESTIONS), x, y)


def difference_question(rng: random.Random, x: int, y: int) -> str:
    if x >= y and rng.random() < 0.2:
        text = rng.choice(p.LEADS) + rng.choice(p.LEFT_QUESTIONS) + rng.choice(p.TRAILS)
    else:
        text = ask(rng, p.DIFFERENCE_NOUNS, p.DIFFERENCE_QUESTIONS)
    return fill_numbers(rng, text, x, y)


def turn_sum(rng: random.Random) -> tuple[str, str]:
    x, y = sum_pair(rng)
    return sum_question(rng, x, y), f"{x} + {y} = {x + y}"


def turn_difference(rng: random.Random) -> tuple[str, str]:
    x, y = difference_pair(rng)
    return difference_question(rng, x, y), f"{x} - {y} = {x - y}"


def turn_limits(rng: random.Random) -> tuple[str, str]:
    """Other operations, which are beyond the model.

    Numbers of three digits are not: a refusal of them taught it to refuse plain sums as well.
    """
    x, y = rng.randrange(100), rng.randrange(100)
    return fill_numbers(rng, rng.choice(p.OTHER_MATHS), x, y), p.LIMITS


def turn_capital(rng: random.Random) -> tuple[str, str]:
    country = rng.choice(list(w.CAPITALS))
    text = ask(rng, p.CAPITAL_NOUNS, p.CAPITAL_QUESTIONS).replace("{c}", country)
    return text, f"The capital of {country} is {w.CAPITALS[country]}."


def opposite_pair(rng: random.Random) -> tuple[str, str]:
    one, two = rng.choice(w.OPPOSITES)
    return (one, two) if rng.random() < 0.5 else (two, one)


def turn_opposite(rng: random.Random) -> tuple[str, str]:
    one, two = opposite_pair(rng)
    text = ask(rng, p.OPPOSITE_NOUNS, p.OPPOSITE_QUESTIONS).replace("{o}", one)
    return text, f"The opposite of {one} is {two}."


# --------------------------------------------------------------------------- JSON

JSON_FIELDS: dict[str, Callable[[random.Random, bool], str | int]] = {
    "name": person,
    "city": city,
    "age": lambda rng, _: rng.randrange(1, 100),
    "color": lambda rng, _: rng.choice(w.COLORS),
    "food": lambda rng, _: rng.choice(w.FOODS),
    "job": lambda rng, _: rng.choice(w.JOBS),
    "country": lambda rng, held: (
        rng.choice(list(w.CAPITALS)) if rng.random() < 0.5 else syllable_name(rng, held)
    ),
    "animal": lambda rng, _: rng.choice(w.ANIMALS),
    "price": lambda rng, _: number(rng),
    "year": lambda rng, _: rng.randrange(1800, 2100),
    "count": lambda rng, _: number(rng),
    "title": lambda rng, held: syllable_name(rng, held),
    "id": lambda rng, _: number(rng),
    "friend": person,
    "street": lambda rng, held: syllable_name(rng, held),
}


def json_turn(rng: random.Random, held_out: bool = False) -> tuple[str, str]:
    others = rng.sample([k for k in JSON_FIELDS if k != "name"], rng.choice((1, 1, 2, 2, 2, 3, 4)))
    keys = ["name", *others]
    if rng.random() < 0.3:
        keys = others if len(others) > 1 and not held_out else keys[::-1]
    record = {k: JSON_FIELDS[k](rng, held_out) for k in keys}
    style = rng.choice(p.JSON_STYLES[:3] if held_out else p.JSON_STYLES)
    fields = [style.replace("{k}", k).replace("{v}", str(v)) for k, v in record.items()]
    joined = ", ".join(fields)
    if rng.random() < 0.15 and not held_out:
        joined = ", ".join(fields[:-1]) + " and " + fields[-1]
    prompt = rng.choice(p.JSON_PROMPTS[:4] if held_out else p.JSON_PROMPTS)
    return prompt.replace("{f}", joined), json.dumps(record)


# --------------------------------------------------------------------------- weather tool

WEATHER_TEST = p.WEATHER_PROMPTS[:6]
UNITS = ("celsius", "fahrenheit")


def weather_tool(rng: random.Random) -> tuple[Tool, str, str | None]:
    """A tool definition and the names of its city and unit parameters."""
    place = rng.choice(("city", "city", "city", "location"))
    unit = rng.choice((None, "unit", "unit"))
    properties: dict[str, Any] = {place: {"type": "string"}}
    if rng.random() < 0.6:
        properties[place]["description"] = rng.choice(p.CITY_TEXTS)
    if unit:
        properties[unit] = {"type": "string", "enum": list(UNITS)}
        if rng.random() < 0.3:
            properties[unit]["description"] = "The temperature unit to use"
    name = rng.choice(p.TOOL_NAMES)
    function: Tool = {"name": name, "description": rng.choice(p.TOOL_TEXTS)}
    if rng.random() < 0.15:
        del function["description"]
    function["parameters"] = {"type": "object", "properties": properties, "required": [place]}
    if rng.random() < 0.15:
        del function["parameters"]["required"]
    return {"type": "function", "function": function}, place, unit


def other_tool(rng: random.Random) -> Tool:
    name = rng.choice(p.OTHER_TOOL_NAMES)
    parameters = {
        "type": "object",
        "properties": {rng.choice(("text", "query", "id")): {"type": "string"}},
    }
    return {
        "type": "function",
        "function": {"name": name, "description": name.replace("_", " "), "parameters": parameters},
    }


def weather_turns(
    rng: random.Random, held_out: bool = False
) -> tuple[list[Message], list[Tool], dict[str, Any]]:
    tool, place, unit_key = weather_tool(rng)
    where = city(rng, held_out)
    prompt = rng.choice(WEATHER_TEST if held_out else p.WEATHER_PROMPTS).replace("{c}", where)
    arguments: dict[str, Any] = {place: where}
    if unit_key and rng.random() < 0.4:
        arguments[unit_key] = rng.choice(UNITS)
        prompt += rng.choice(p.UNIT_PHRASES).replace("{u}", arguments[unit_key])
    if not held_out:
        prompt = rng.choice(p.LEADS) + prompt
    tools = [tool]
    if rng.random() < 0.15:
        tools.insert(rng.randrange(2), other_tool(rng))
    call = {"name": tool["function"]["name"], "arguments": arguments}
    messages = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": call_text(**call)},
    ]
    return messages, tools, call


def tool_result(rng: random.Random, call: dict[str, Any]) -> list[Message]:
    degrees, sky = rng.randrange(-9, 40), rng.choice(p.SKIES)
    keys = rng.choice(
        (
            ("temperature", "condition"),
            ("temp", "sky"),
            ("degrees", "weather"),
            ("temperature", "weather"),
            ("temperature", "conditions"),
        )
    )
    record: dict[str, Any] = {keys[0]: degrees, keys[1]: sky}
    where = next(iter(call["arguments"].values()))
    if rng.random() < 0.3:
        record = {"city": where, **record}
    text = json.dumps(record) if rng.random() < 0.8 else f"{degrees} degrees, {sky}"
    return [
        {"role": "tool", "content": text},
        {"role": "assistant", "content": f"It is {degrees} degrees in {where}: {sky}."},
    ]


# --------------------------------------------------------------------------- stories


def worst_four_gram(text: str) -> int:
    """How often the most frequent run of four words occurs."""
    tokens = re.findall(r"\w+", text.lower())
    grams = Counter(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False))
    return max(grams.values(), default=0)


def fill(rng: random.Random, text: str, slots: dict[str, str]) -> str:
    for key, value in slots.items():
        text = text.replace("{" + key + "}", value)
    for key, options in (
        ("place", w.PLACES),
        ("spot", w.SPOTS),
        ("time", p.TIMES),
        ("sky", p.WEATHERS),
        ("look", p.LOOKS),
        ("food", w.FOODS),
        ("color", w.COLORS),
    ):
        text = text.replace("{" + key + "}", rng.choice(options))
    return text[0].upper() + text[1:]


def story(rng: random.Random, hero: str, thing: str, name: str = "", long: bool = False) -> str:
    friend, guide = rng.sample([x for x in w.ANIMALS if x != hero], 2)
    place = rng.choice(w.PLACES)
    slots = {
        "h": hero,
        "t": thing,
        "n": name,
        "f": friend,
        "g": guide,
        "ah": a(hero),
        "at": a(thing),
        "af": a(friend),
        "adjh": a(f"{rng.choice(w.ADJECTIVES)} {hero}"),
        "place": place,
        "Place": place[0].upper() + place[1:],
    }
    parts = [p.OPENINGS, *([p.NAMING] if name else []), p.FINDS, p.WORDS_SAID, p.TROUBLES, p.DEEDS]
    parts += p.MIDDLES if long else []
    parts += [p.TURNS, p.ENDINGS]
    while True:
        text = " ".join(fill(rng, rng.choice(options), slots) for options in parts)
        if worst_four_gram(text) < 3:
            return text


def story_topic(rng: random.Random, held_out: bool) -> tuple[str, str]:
    while True:
        hero, thing = rng.choice(w.ANIMALS), rng.choice(w.THINGS)
        if is_held_out("story", hero, thing) == held_out:
            return hero, thing


def story_turn(
    rng: random.Random, held_out: bool = False, long: bool = False
) -> tuple[str, str, tuple[str, ...]]:
    """A request, a story, and the words that the story has to name."""
    hero, thing = story_topic(rng, held_out)
    name = person(rng, held_out) if rng.random() < 0.2 else ""
    who = f"{a(hero)} called {name}" if name else a(hero)
    prompts = p.LONG_PROMPTS if long else p.STORY_PROMPTS[:5] if held_out else p.STORY_PROMPTS
    prompt = rng.choice(prompts).replace("{x}", who).replace("{y}", a(thing))
    needed = (hero, thing, name) if name else (hero, thing)
    return prompt, story(rng, hero, thing, name, long), needed


# --------------------------------------------------------------------------- small talk


def turn_talk(rng: random.Random) -> tuple[str, str]:
    questions, answer = rng.choice(p.TALK)
    text = rng.choice(questions).replace("{n}", person(rng))
    if rng.random() < 0.2:
        text = text.rstrip("!.?") + rng.choice(("", "", "!", ".", "?", "!!"))
    if rng.random() < 0.2:
        text = text.lower()
    return text, answer


def repeat_text(rng: random.Random) -> str:
    pools: tuple[Callable[[], str], ...] = (
        lambda: rng.choice(w.THINGS),
        lambda: rng.choice(w.ANIMALS),
        lambda: rng.choice(w.COLORS),
        lambda: syllable_name(rng),
        lambda: syllable_name(rng).lower(),
        lambda: str(number(rng)),
        lambda: rng.choice(w.ODD_TEXT),
        lambda: chr(rng.choice((0x4E00, 0x3042, 0x1F600, 0x430, 0xE0)) + rng.randrange(30)),
        lambda: rng.choice(("the", "a", "is", "and", "in", "my", "I", "you", "not", "we")),
    )
    few = rng.sample(pools, 3)
    return " ".join(rng.choice(few)() for _ in range(rng.choice((1, 2, 2, 3, 4, 5, 6, 8))))


def turn_repeat(rng: random.Random) -> tuple[str, str]:
    text = repeat_text(rng)
    return rng.choice(p.REPEAT_PROMPTS).replace("{x}", text), text


def turn_count(rng: random.Random, most: int = 12) -> tuple[str, str]:
    first = 1 if rng.random() < 0.5 else rng.randrange(1, 100)
    last = first + rng.randrange(2, most)
    text = ", ".join(map(str, range(first, last + 1)))
    prompts = [
        f"Count from {first} to {last}.",
        f"Count from {first} up to {last}",
        f"Please count from {first} to {last}!",
    ]
    prompts += [f"Count to {last}.", f"Count up to {last}."] if first == 1 else []
    return rng.choice(prompts), text


# --------------------------------------------------------------------------- documents

Turn = Callable[[random.Random], tuple[str, str]]
TURN_MIX: tuple[tuple[Turn, float], ...] = (
    (turn_sum, 0.17),
    (turn_difference, 0.30),
    (turn_limits, 0.02),
    (turn_capital, 0.07),
    (turn_opposite, 0.10),
    (json_turn, 0.12),
    (turn_talk, 0.12),
    (turn_repeat, 0.03),
    (turn_count, 0.02),
    (lambda rng: story_turn(rng)[:2], 0.05),
)


def any_turn(rng: random.Random) -> tuple[str, str]:
    turns, weights = zip(*TURN_MIX, strict=True)
    return rng.choices(turns, weights)[0](rng)


def system_message(rng: random.Random) -> list[Message]:
    if rng.random() < 0.75:
        return []
    text = rng.choice(p.SYSTEMS).replace("{n}", syllable_name(rng))
    return [{"role": "system", "content": text.replace("{d}", rng.choice(p.WEATHERS))}]


def as_messages(*turns: tuple[str, str]) -> list[Message]:
    return [
        m
        for question, answer in turns
        for m in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    ]


def chat_doc(rng: random.Random, turns: int = 1) -> list[Segment]:
    return chat(system_message(rng) + as_messages(*(any_turn(rng) for _ in range(turns))))


def tool_doc(rng: random.Random) -> list[Segment]:
    messages, tools, call = weather_turns(rng)
    if rng.random() < 0.25:
        messages = as_messages(any_turn(rng)) + (messages if rng.random() < 0.3 else [])
    elif rng.random() < 0.3:
        messages += tool_result(rng, call)
    return chat(system_message(rng) + messages, tools, compact=rng.random() < 0.25)


def raw_sum(rng: random.Random) -> list[Segment]:
    less = rng.random() < 0.65
    x, y = difference_pair(rng) if less else sum_pair(rng)
    sign, result = ("-", x - y) if less else ("+", x + y)
    space = " " if rng.random() < 0.67 else ""
    return raw(f"{x}{space}{sign}{space}{y}{space}=", f"{space}{result}")


def raw_doc(rng: random.Random) -> list[Segment]:
    kind = rng.random()
    if kind < 0.8:
        return raw_sum(rng)
    if kind < 0.85:
        country = rng.choice(list(w.CAPITALS))
        return raw(f"The capital of {country} is", f" {w.CAPITALS[country]}.")
    if kind < 0.9:
        one, two = opposite_pair(rng)
        return raw(f"The opposite of {one} is", f" {two}.")
    if kind < 0.97:
        question, answer = any_turn(rng)
        head, tail = rng.choice((("Question: ", "\nAnswer:"), ("Q: ", "\nA:"), ("", "\n")))
        gap = " " if head else ""
        return raw(f"{head}{question}{tail}", f"{gap}{answer}")
    hero, thing = story_topic(rng, False)
    text = story(rng, hero, thing)
    cut = text.index(" ", rng.randrange(12))
    return raw(text[:cut], text[cut:])


def short_doc(rng: random.Random) -> list[Segment]:
    kind = rng.random()
    if kind < 0.05:
        return tool_doc(rng)
    if kind < 0.6:
        return raw_doc(rng)
    return chat_doc(rng)


def long_doc(rng: random.Random) -> list[Segment]:
    kind = rng.random()
    if kind < 0.3:
        return chat(system_message(rng) + as_messages(story_turn(rng, long=True)[:2]))
    if kind < 0.5:
        return chat(system_message(rng) + as_messages(turn_count(rng, 70)))
    if kind < 0.65:
        return tool_doc(rng)
    return chat_doc(rng, rng.randrange(2, 8))


# --------------------------------------------------------------------------- held-out items


@dataclass(frozen=True)
class Item:
    """One test: messages to answer, what is right (`want`), or the words a story must name."""

    category: str
    messages: list[Message]
    want: Any
    tools: list[Tool] | None = None
    needed: tuple[str, ...] = field(default=())


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def held_out_item(rng: random.Random, category: str) -> Item:
    if category == "sums":
        while True:
            x, y = rng.randrange(10, 100), rng.randrange(10, 100)
            if sum_is_held_out(x, y):
                return Item(category, user(sum_question(rng, x, y)), f"{x} + {y} = {x + y}")
    if category == "differences":
        while True:
            x, y = falling(rng, two_digit_pair(rng))
            if difference_is_held_out(x, y):
                text = difference_question(rng, x, y)
                return Item(category, user(text), f"{x} - {y} = {x - y}")
    if category == "small sums":
        x, y = small_pair(rng)
        text = fill_numbers(rng, rng.choice(p.SUM_TEST), x, y)
        return Item(category, user(text), f"{x} + {y} = {x + y}")
    if category == "small differences":
        x, y = falling(rng, small_pair(rng))
        text = fill_numbers(rng, rng.choice(p.DIFFERENCE_TEST), x, y)
        return Item(category, user(text), f"{x} - {y} = {x - y}")
    if category == "small talk":
        questions, answer = rng.choice(p.TALK_TEST)
        text = rng.choice(questions).replace("{n}", person(rng, held_out=True))
        return Item(category, user(text), answer)
    if category == "capitals":
        country = rng.choice(list(w.CAPITALS))
        prompt = rng.choice(p.CAPITAL_TEST).replace("{c}", country)
        return Item(category, user(prompt), f"The capital of {country} is {w.CAPITALS[country]}.")
    if category == "opposites":
        one, two = opposite_pair(rng)
        prompt = rng.choice(p.OPPOSITE_TEST).replace("{o}", one)
        return Item(category, user(prompt), f"The opposite of {one} is {two}.")
    if category == "json":
        question, answer = json_turn(rng, held_out=True)
        return Item(category, user(question), json.loads(answer))
    if category == "tool call":
        messages, tools, call = weather_turns(rng, held_out=True)
        return Item(category, messages[:1], call, tools)
    question, _, needed = story_turn(rng, held_out=True)
    return Item(category, user(question), None, needed=needed)


CATEGORIES = (
    "sums",
    "small sums",
    "differences",
    "small differences",
    "small talk",
    "capitals",
    "opposites",
    "json",
    "tool call",
    "stories",
)


def held_out_items(per_category: int, seed: int = 2) -> list[Item]:
    rng = random.Random(seed)
    return [held_out_item(rng, c) for c in CATEGORIES for _ in range(per_category)]


def is_right(item: Item, text: str, ended: bool) -> bool:
    """`text` is the answer without its end token; `ended` says that the model ended it itself."""
    if not ended:
        return False
    if item.category == "json":
        return same_json(text, item.want)
    if item.category == "tool call":
        body = text.strip().removeprefix(CALL_OPEN).removesuffix(CALL_CLOSE)
        return CALL_OPEN in text and CALL_CLOSE in text and same_json(body, item.want)
    if item.category == "stories":
        named = all(re.search(rf"\b{word}\b", text) for word in item.needed)
        return named and len(text.split()) >= 25 and worst_four_gram(text) < 3
    return text.strip() == item.want


def same_json(text: str, want: object) -> bool:
    try:
        return bool(json.loads(text) == want)
    except ValueError:
        return False
