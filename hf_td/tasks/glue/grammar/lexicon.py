"""Words of the templates, grouped by the words that they combine with."""

PERSONS = (
    ("artist", "artists"),
    ("child", "children"),
    ("dancer", "dancers"),
    ("doctor", "doctors"),
    ("driver", "drivers"),
    ("farmer", "farmers"),
    ("guest", "guests"),
    ("lawyer", "lawyers"),
    ("neighbor", "neighbors"),
    ("nurse", "nurses"),
    ("painter", "painters"),
    ("pilot", "pilots"),
    ("singer", "singers"),
    ("soldier", "soldiers"),
    ("student", "students"),
    ("teacher", "teachers"),
    ("tourist", "tourists"),
    ("writer", "writers"),
)
"""People of no given gender: (singular, plural)."""

WOMEN = (
    ("actress", "actresses"),
    ("aunt", "aunts"),
    ("countess", "countesses"),
    ("daughter", "daughters"),
    ("girl", "girls"),
    ("grandmother", "grandmothers"),
    ("mother", "mothers"),
    ("nun", "nuns"),
    ("princess", "princesses"),
    ("queen", "queens"),
    ("sister", "sisters"),
    ("waitress", "waitresses"),
    ("widow", "widows"),
    ("woman", "women"),
)
"""Women and girls: (singular, plural)."""

MEN = (
    ("boy", "boys"),
    ("brother", "brothers"),
    ("duke", "dukes"),
    ("father", "fathers"),
    ("gentleman", "gentlemen"),
    ("grandfather", "grandfathers"),
    ("king", "kings"),
    ("man", "men"),
    ("monk", "monks"),
    ("nephew", "nephews"),
    ("prince", "princes"),
    ("son", "sons"),
    ("uncle", "uncles"),
    ("waiter", "waiters"),
)
"""Men and boys: (singular, plural)."""

WOMEN_NAMES = (
    "Alice", "Anna", "Carla", "Diana", "Emma", "Helen", "Julia", "Karen", "Linda", "Maria",
    "Nina", "Olivia", "Rachel", "Sarah", "Teresa", "Victoria",
)  # fmt: skip
MEN_NAMES = (
    "Adam", "Brian", "Carl", "David", "Edward", "Frank", "George", "Henry", "James", "Kevin",
    "Martin", "Oscar", "Peter", "Robert", "Steven", "Thomas",
)  # fmt: skip
NAMES = WOMEN_NAMES + MEN_NAMES

THINGS = (
    ("basket", "baskets"),
    ("bicycle", "bicycles"),
    ("blanket", "blankets"),
    ("boat", "boats"),
    ("box", "boxes"),
    ("cabinet", "cabinets"),
    ("camera", "cameras"),
    ("chair", "chairs"),
    ("clock", "clocks"),
    ("guitar", "guitars"),
    ("knife", "knives"),
    ("ladder", "ladders"),
    ("lamp", "lamps"),
    ("mirror", "mirrors"),
    ("shelf", "shelves"),
    ("table", "tables"),
    ("tent", "tents"),
    ("umbrella", "umbrellas"),
    ("violin", "violins"),
    ("watch", "watches"),
)
"""Things that can be bought, inspected, damaged and repaired: (singular, plural)."""

PAPERS = (
    "book", "calendar", "catalog", "diary", "document", "drawing", "letter", "list", "magazine",
    "map", "newspaper", "note", "photograph", "picture", "poem", "postcard", "recipe", "report",
)  # fmt: skip
"""Things that one person can show, send or give to another."""

SIZES = ("big", "small", "large", "tiny")
LOOKS = ("old", "new", "red", "blue", "green", "black", "white", "heavy", "cheap", "expensive")
THING_STATES = ("broken", "dirty", "dusty", "expensive", "heavy", "old", "useless", "wet")
PERSON_STATES = (
    "angry", "busy", "famous", "friendly", "happy", "hungry", "late", "nervous", "patient",
    "polite", "proud", "sad", "sick", "tired",
)  # fmt: skip
PERSON_TRAITS = ("clever", "famous", "friendly", "kind", "old", "polite", "tall", "young")

HANDLING = (
    ("admire", "admires", "admired", "admired", "admiring"),
    ("damage", "damages", "damaged", "damaged", "damaging"),
    ("destroy", "destroys", "destroyed", "destroyed", "destroying"),
    ("examine", "examines", "examined", "examined", "examining"),
    ("fix", "fixes", "fixed", "fixed", "fixing"),
    ("inspect", "inspects", "inspected", "inspected", "inspecting"),
    ("mention", "mentions", "mentioned", "mentioned", "mentioning"),
    ("purchase", "purchases", "purchased", "purchased", "purchasing"),
    ("repair", "repairs", "repaired", "repaired", "repairing"),
)
"""Verbs that need a thing as their object: (base, -s, past, participle, -ing)."""

MEETING = (
    ("admire", "admires", "admired", "admired", "admiring"),
    ("amuse", "amuses", "amused", "amused", "amusing"),
    ("annoy", "annoys", "annoyed", "annoyed", "annoying"),
    ("avoid", "avoids", "avoided", "avoided", "avoiding"),
    ("greet", "greets", "greeted", "greeted", "greeting"),
    ("help", "helps", "helped", "helped", "helping"),
    ("invite", "invites", "invited", "invited", "inviting"),
    ("praise", "praises", "praised", "praised", "praising"),
    ("respect", "respects", "respected", "respected", "respecting"),
    ("thank", "thanks", "thanked", "thanked", "thanking"),
    ("trust", "trusts", "trusted", "trusted", "trusting"),
    ("visit", "visits", "visited", "visited", "visiting"),
)
"""Verbs that take a person as their object: (base, -s, past, participle, -ing)."""

REFLEXIVES = ("admired", "blamed", "criticized", "defended", "described", "hurt", "praised")
"""Past tenses of verbs that take a reflexive."""

SOLO = (
    ("arrive", "arrived", "arriving"),
    ("blush", "blushed", "blushing"),
    ("complain", "complained", "complaining"),
    ("faint", "fainted", "fainting"),
    ("frown", "frowned", "frowning"),
    ("giggle", "giggled", "giggling"),
    ("hesitate", "hesitated", "hesitating"),
    ("kneel", "knelt", "kneeling"),
    ("shiver", "shivered", "shivering"),
    ("sneeze", "sneezed", "sneezing"),
    ("snore", "snored", "snoring"),
    ("yawn", "yawned", "yawning"),
)
"""Verbs that never take an object: (base, past and participle, -ing)."""

WITH_PREPOSITION = (
    ("apologized", "to"),
    ("laughed", "at"),
    ("listened", "to"),
    ("looked", "at"),
    ("pointed", "at"),
    ("relied", "on"),
    ("smiled", "at"),
    ("waited", "for"),
)
"""Verbs that reach a person through a preposition."""

ROOMS = (
    "in the garden", "in the kitchen", "in the library", "in the office", "in the hotel",
    "in the museum", "in the park", "in the village", "at the airport", "at the station",
    "at the market", "near the church", "near the school",
)  # fmt: skip
EXPERIENCES = (
    "visited Athens", "visited Berlin", "visited Boston", "visited Chicago", "visited Dublin",
    "visited London", "visited Madrid", "visited Paris", "visited Rome", "ridden a camel",
    "seen a whale", "climbed a mountain", "written a poem", "driven a tractor", "won a prize",
    "missed a train", "told a lie", "crossed the desert", "stolen a bicycle", "worn a uniform",
)  # fmt: skip
"""Participle phrases of experiences."""

PAST_TIMES = ("yesterday", "last week", "last night", "on Monday", "in April", "this morning", "")
HABITS = ("often", "usually", "always", "never", "rarely", "sometimes", "")
NEARNESS = ("near", "behind", "beside", "next to", "in front of")
NUMBERS = ("two", "three", "four", "five", "six")

IRREGULAR = (
    ("break", "broke", "broken", "breaked", ("bottle", "chair", "lamp", "mirror", "vase")),
    ("choose", "chose", "chosen", "choosed", ("carpet", "dress", "gift", "painting", "ring")),
    ("draw", "drew", "drawn", "drawed", ("circle", "flower", "horse", "map", "picture")),
    ("drive", "drove", "driven", "drived", ("bus", "taxi", "tractor", "truck", "van")),
    ("eat", "ate", "eaten", "eated", ("apple", "cake", "orange", "pie", "sandwich")),
    ("ride", "rode", "ridden", "rided", ("bicycle", "camel", "horse", "pony", "scooter")),
    ("shake", "shook", "shaken", "shaked", ("blanket", "bottle", "box", "branch", "rug")),
    ("steal", "stole", "stolen", "stealed", ("bicycle", "necklace", "painting", "ring", "wallet")),
    ("take", "took", "taken", "taked", ("coat", "key", "photograph", "ticket", "umbrella")),
    ("tear", "tore", "torn", "teared", ("blanket", "curtain", "letter", "shirt", "ticket")),
    ("throw", "threw", "thrown", "throwed", ("ball", "bottle", "pillow", "stick", "stone")),
    ("wear", "wore", "worn", "weared", ("coat", "hat", "helmet", "sweater", "uniform")),
    ("write", "wrote", "written", "writed", ("letter", "poem", "report", "song", "story")),
)
"""Irregular verbs: (base, past, participle, an over-regular form, objects)."""

IRREGULAR_PLURALS = (
    ("child", "children", "childs"),
    ("foot", "feet", "foots"),
    ("goose", "geese", "gooses"),
    ("knife", "knives", "knifes"),
    ("leaf", "leaves", "leafs"),
    ("loaf", "loaves", "loafs"),
    ("man", "men", "mans"),
    ("mouse", "mice", "mouses"),
    ("shelf", "shelves", "shelfs"),
    ("thief", "thieves", "thiefs"),
    ("tooth", "teeth", "tooths"),
    ("wife", "wives", "wifes"),
    ("wolf", "wolves", "wolfs"),
    ("woman", "women", "womans"),
)
"""Nouns with irregular plurals: (singular, plural, an over-regular plural)."""

MASSES = (
    "advice", "bread", "cheese", "equipment", "flour", "furniture", "homework", "jewelry",
    "luggage", "milk", "money", "rice", "sugar", "water",
)  # fmt: skip
"""Mass nouns."""

COMPARED = (
    ("tall", "taller", "tallest"),
    ("young", "younger", "youngest"),
    ("old", "older", "oldest"),
    ("kind", "kinder", "kindest"),
    ("strong", "stronger", "strongest"),
    ("rich", "richer", "richest"),
    ("wise", "wiser", "wisest"),
    ("loud", "louder", "loudest"),
)
"""Adjectives with their comparative and superlative."""
