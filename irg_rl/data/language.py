"""Tells whether a text is written in a given language.

Scripts are told apart by their characters. The languages of the Latin script are told apart by their most frequent
words, such as "the" or "und". This needs no model, and it is enough for a filter: a teacher that answers in another
language writes whole sentences in it.
"""

import re
from collections.abc import Iterable

SCRIPTS = {
    "latin": "A-Za-zÀ-ɏ",
    "cyrillic": "Ѐ-ӿ",
    "han": "㐀-䶿一-鿿",
    "kana": "぀-ヿ",
    "hangul": "가-힯",
    "other": "Ͱ-Ͽ֐-׿؀-ۿऀ-ॿ฀-๿",
}
"""Script -> its characters, as in a regular expression. The last entry has Greek, Hebrew, Arabic, Devanagari and
Thai."""
SCRIPTS_OF = {"ru": ("cyrillic",), "zh": ("han",), "ja": ("kana", "han"), "ko": ("hangul",)}
"""Language -> its scripts. All other known languages use the Latin script."""
LEAST_SHARE = 0.7
"""Least share of letters that must belong to the scripts of the language. The rest may be names and quotations."""
LEAST_HITS = 3
"""A text is taken for another language only if it has this many frequent words of it."""
FREQUENT = {
    "en": "the of and to is that it with are this be by which from or should must not has its at",
    "de": "der die das und ist nicht mit ein eine einen den dem von zu auf für sich auch wird sind",
    "fr": "le la les des et est une un dans pour que qui sur avec pas du au ce sont il elle",
    "es": "el la los las y es una un en que por con para del se no son al su",
    "it": "il la gli e è una un di che per con del nel sono della si lo alla",
    "pt": "os as e é uma um em que por com para da do não são ao na no se",
}
_WORD = re.compile(r"[^\W\d_]+")


def is_written_in(text: str, language: str, without: Iterable[str] = ()) -> bool:
    """Return whether the text may be written in the language, one of `config.data.LANGUAGES`. Words of `without` are
    not looked at: a prompt may ask for words of another language in the picture."""
    ignored = {word.casefold() for part in without for word in _WORD.findall(part)}
    words = [word for word in _WORD.findall(text) if word.casefold() not in ignored]
    letters = {script: len(re.findall(f"[{pattern}]", " ".join(words))) for script, pattern in SCRIPTS.items()}
    scripts = SCRIPTS_OF.get(language, ("latin",))
    total = sum(letters.values())
    if total and sum(letters[script] for script in scripts) < LEAST_SHARE * total:
        return False
    if language == "ja" and letters["han"] > 10 and not letters["kana"]:
        return False  # Chinese has the same characters, but Japanese sentences have kana too
    if language not in FREQUENT:
        return True
    hits = {name: sum(word.casefold() in frequent for word in words) for name, frequent in _frequent().items()}
    others = max(count for name, count in hits.items() if name != language)
    return others < LEAST_HITS or others <= hits[language]


def _frequent() -> dict[str, set[str]]:
    return {name: set(words.split()) for name, words in FREQUENT.items()}
