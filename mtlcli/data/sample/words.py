"""The lexicon of the sample world: every content word that its sentences use."""

from __future__ import annotations

WOMEN = ("Anna", "Clara", "Dora", "Emma", "Julia", "Laura", "Maria", "Nora", "Paula", "Vera")
MEN = ("Adam", "Bruno", "David", "Felix", "Hugo", "Jacob", "Lucas", "Oscar", "Peter", "Simon")
PEOPLE = WOMEN + MEN

JOBS = (
    *("baker", "barber", "butcher", "carpenter", "cook", "dentist", "doctor", "driver", "farmer", "gardener"),
    *("judge", "lawyer", "nurse", "painter", "pilot", "plumber", "sailor", "singer", "tailor", "teacher"),
)

COUNTRY = {
    "Rome": "Italy", "Milan": "Italy", "Paris": "France", "Lyon": "France", "Berlin": "Germany", "Hamburg": "Germany",
    "Madrid": "Spain", "Seville": "Spain", "London": "England", "Leeds": "England", "Oslo": "Norway", "Bergen": "Norway",
}
CITIES = tuple(COUNTRY)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
HOBBIES = ("chess", "dancing", "fishing", "hiking", "music", "reading", "sailing", "swimming")

KIND = {
    "car": "vehicle", "truck": "vehicle", "bike": "vehicle", "boat": "vehicle",
    "piano": "instrument", "guitar": "instrument", "violin": "instrument", "drum": "instrument",
    "coat": "garment", "hat": "garment", "shirt": "garment", "dress": "garment",
    "hammer": "tool", "saw": "tool", "axe": "tool", "shovel": "tool",
    "doll": "toy", "kite": "toy", "puzzle": "toy", "ball": "toy",
    "phone": "device", "camera": "device", "radio": "device", "clock": "device",
}
THINGS = tuple(KIND)

VERBS = {
    "buy": (("buy", "buys", "bought", "bought"), ("purchase", "purchases", "purchased", "purchased")),
    "find": (("find", "finds", "found", "found"), ("discover", "discovers", "discovered", "discovered")),
    "fix": (("fix", "fixes", "fixed", "fixed"), ("repair", "repairs", "repaired", "repaired")),
    "choose": (("choose", "chooses", "chose", "chosen"), ("select", "selects", "selected", "selected")),
    "hide": (("hide", "hides", "hid", "hidden"), ("conceal", "conceals", "concealed", "concealed")),
    "make": (("make", "makes", "made", "made"), ("produce", "produces", "produced", "produced")),
    "break": (("break", "breaks", "broke", "broken"), ("damage", "damages", "damaged", "damaged")),
    "clean": (("clean", "cleans", "cleaned", "cleaned"), ("wash", "washes", "washed", "washed")),
    "draw": (("draw", "draws", "drew", "drawn"), ("sketch", "sketches", "sketched", "sketched")),
    "sell": (("sell", "sells", "sold", "sold"),),
}
"""Meaning -> the verbs that express it: base, third person, past, participle."""

QUALITIES = {
    "big": ("big", "large"),
    "small": ("small", "little"),
    "old": ("old", "ancient"),
    "new": ("new", "modern"),
    "cheap": ("cheap", "inexpensive"),
    "costly": ("costly", "expensive"),
    "clean": ("clean", "spotless"),
    "dirty": ("dirty", "filthy"),
    "pretty": ("pretty", "beautiful"),
    "ugly": ("ugly", "hideous"),
}
OPPOSITE = {
    "big": "small", "small": "big", "old": "new", "new": "old", "cheap": "costly", "costly": "cheap",
    "clean": "dirty", "dirty": "clean", "pretty": "ugly", "ugly": "pretty",
}
SAME_THING = {
    "car": "automobile", "bike": "bicycle", "boat": "ship", "coat": "jacket", "phone": "telephone", "ball": "sphere",
}

PRAISE = (
    *("good", "great", "wonderful", "brilliant", "charming", "funny", "moving", "clever", "superb", "delightful"),
    *("excellent", "fresh", "gripping", "lovely", "touching", "witty"),
)
BLAME = (
    *("bad", "awful", "terrible", "boring", "dull", "silly", "clumsy", "tedious", "weak", "dreadful"),
    *("horrible", "stale", "tiresome", "messy", "shallow", "flat"),
)
LIKES = ("liked", "loved", "enjoyed", "admired")
DISLIKES = ("disliked", "hated", "regretted", "despised")
WORKS = ("film", "story", "plot", "acting", "music", "script", "cast", "ending", "show", "play", "novel", "comedy")
