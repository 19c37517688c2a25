"""Texts in the wanted language pass, whole sentences in another one do not."""

import pytest

from irg_rl.data.language import is_written_in

TEXTS = {
    "en": "The image shows a dog that is running over the beach, and the sky is full of clouds.",
    "de": "Das Bild zeigt einen Hund, der über den Strand läuft, und der Himmel ist voll von Wolken.",
    "fr": "L'image montre un chien qui court sur la plage, et le ciel est plein de nuages dans le vent.",
    "es": "La imagen muestra un perro que corre por la playa, y el cielo es gris con las nubes.",
    "it": "L'immagine mostra un cane che corre sulla spiaggia, e il cielo è pieno di nuvole con la luce del sole.",
    "pt": "A imagem mostra um cão que corre na praia, e o céu não é azul, com as nuvens do mar para trás.",
    "ru": "На картинке собака бежит по пляжу, и небо полно облаков.",
    "zh": "图片中有一只狗在海滩上奔跑，天空布满了云。",
    "ja": "この絵には、浜辺を走る犬と、雲でいっぱいの空が描かれています。",
    "ko": "이 그림에는 해변을 달리는 개와 구름이 가득한 하늘이 있습니다.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_is_of_its_own_language_and_of_no_other(language):
    assert [name for name, text in TEXTS.items() if is_written_in(text, language)] == [language]


def test_names_and_short_texts_are_of_every_latin_language():
    assert is_written_in("Château de Chambord, La Tour", "en")
    assert is_written_in("", "en")


def test_words_that_the_prompt_asks_for_do_not_count():
    words = "Das ist die Bäckerei der Familie von Stein"
    assert not is_written_in(f"A green sign: {words}", "en")
    assert is_written_in(f"A green sign: {words}", "en", without=[words])
