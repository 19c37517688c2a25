from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from irg_rl.shapes_world.corpus import corpus
from irg_rl.shapes_world.prompts import make_prompts

TEXTS = list(corpus(1200))


def _words(text: str) -> set[str]:
    return set(text.replace(",", " ").replace(".", " ").replace("?", " ").split())


def test_the_vocabulary_is_small():
    assert len(set().union(*map(_words, TEXTS))) < 120


def test_held_out_prompts_use_no_new_word():
    known = set().union(*map(_words, TEXTS))
    assert set().union(*(_words(prompt.text) for prompt in make_prompts(500, "test", 0))) <= known


def test_at_a_vocabulary_of_512_every_word_is_one_token():
    """With the pre-tokenizer of Qwen2, which splits off digits and the signs of <think>."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, show_progress=False)
    )
    first = {text.split()[0] for text in TEXTS}
    for word in sorted(set().union(*map(_words, TEXTS)) - {"<think>", "</think>"}):
        assert len(tokenizer.encode(" " + word).ids) == 1 or word in first, word
    assert max(len(tokenizer.encode(text).ids) for text in TEXTS) <= 160
