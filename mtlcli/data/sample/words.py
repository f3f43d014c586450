"""The lexicon of the sample world: every content word that its sentences use."""

from __future__ import annotations

WOMEN = ("Anna", "Clara", "Emma", "Julia", "Maria", "Nora")
MEN = ("Adam", "David", "Hugo", "Jacob", "Oscar", "Peter")
PEOPLE = WOMEN + MEN
JOBS = (
    "baker",
    "barber",
    "cook",
    "doctor",
    "farmer",
    "judge",
    "lawyer",
    "nurse",
    "painter",
    "pilot",
    "sailor",
    "teacher",
)
HOBBIES = ("chess", "dancing", "fishing", "hiking", "music", "reading")

CITIES_OF = {
    "Italy": ("Rome", "Milan"),
    "France": ("Paris", "Lyon"),
    "Spain": ("Madrid", "Seville"),
    "England": ("London", "Leeds"),
}
COUNTRY_OF = {city: country for country, cities in CITIES_OF.items() for city in cities}
THINGS_OF = {
    "vehicle": ("car", "bike", "boat"),
    "instrument": ("piano", "guitar", "drum"),
    "garment": ("coat", "hat", "shirt"),
    "toy": ("doll", "kite", "ball"),
}
KIND_OF = {thing: kind for kind, things in THINGS_OF.items() for thing in things}
TIMES = ("in the morning", "at noon", "in the evening", "at midnight")

VERBS = {
    "like": (
        ("like", "liked", "liked"),
        ("love", "loved", "loved"),
        ("enjoy", "enjoyed", "enjoyed"),
    ),
    "hate": (
        ("hate", "hated", "hated"),
        ("dislike", "disliked", "disliked"),
        ("despise", "despised", "despised"),
    ),
    "buy": (("buy", "bought", "bought"), ("purchase", "purchased", "purchased")),
    "sell": (("sell", "sold", "sold"),),
    "find": (("find", "found", "found"), ("discover", "discovered", "discovered")),
    "lose": (("lose", "lost", "lost"), ("misplace", "misplaced", "misplaced")),
    "fix": (("fix", "fixed", "fixed"), ("repair", "repaired", "repaired")),
    "break": (("break", "broke", "broken"), ("damage", "damaged", "damaged")),
}
"""Meaning -> the verbs that express it: base, past, participle."""

QUALITIES = {
    "good": ("good", "great", "wonderful", "lovely"),
    "bad": ("bad", "awful", "terrible", "horrible"),
    "big": ("big", "large"),
    "small": ("small", "little"),
    "old": ("old", "ancient"),
    "new": ("new", "modern"),
    "cheap": ("cheap", "inexpensive"),
    "costly": ("costly", "expensive"),
}
SYNONYM_OF = {
    "car": ("car", "automobile"),
    "bike": ("bike", "bicycle"),
    "boat": ("boat", "ship"),
    "coat": ("coat", "jacket"),
}
_OPPOSITES = (
    *(("like", "hate"), ("buy", "sell"), ("find", "lose"), ("fix", "break")),
    *(("good", "bad"), ("big", "small"), ("old", "new"), ("cheap", "costly")),
)
OPPOSITE_OF = {one: other for pair in _OPPOSITES for one, other in (pair, pair[::-1])}

PRAISE = (
    *QUALITIES["good"],
    "brilliant",
    "charming",
    "funny",
    "moving",
    "clever",
    "superb",
    "excellent",
    "fresh",
    "witty",
)
BLAME = (
    *QUALITIES["bad"],
    "boring",
    "dull",
    "silly",
    "clumsy",
    "tedious",
    "weak",
    "stale",
    "messy",
    "shallow",
)
WORKS = ("film", "story", "plot", "script", "cast", "show", "play", "novel")
