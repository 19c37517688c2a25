import pytest

from irg_rl.redact import names_a_secret, redact, redact_text, remember_secret


@pytest.mark.parametrize(
    "key",
    [
        "api_key",
        "WANDB_API_KEY",
        "apiKey".lower(),
        "hf_token",
        "secret",
        "db.password",
        "client-secret",
        "JUDGE_KEY",
        "MY_KEY",
    ],
)
def test_names_of_secrets_are_known(key):
    assert names_a_secret(key)


@pytest.mark.parametrize(
    "key", ["api_key_env", "max_text_tokens", "tokens_per_pack", "keep_checkpoints", "tokenizer", "keys"]
)
def test_names_that_only_sound_like_secrets_are_left(key):
    assert not names_a_secret(key)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://me:pass@host:80/v1", "http://***@host:80/v1"),
        ("header Authorization: Bearer abcdefgh1234", "header Authorization: Bearer ***"),
        ("GET /x?api_key=abc&n=2", "GET /x?api_key=***&n=2"),
        ("sk-abcdefghijklmnopqrstu was refused", "*** was refused"),
        ("nothing here: 3 tokens, a sk-8 board", "nothing here: 3 tokens, a sk-8 board"),
    ],
)
def test_secrets_in_text_are_blotted_out(text, left):
    assert redact_text(text, {}) == left


def test_values_of_secret_variables_are_found_wherever_they_stand():
    environ = {"MY_TOKEN": "long-and-secret", "SHORT_TOKEN": "1", "PATH": "/usr/bin-and-more"}
    assert redact_text("x long-and-secret 1 /usr/bin-and-more", environ) == "x *** 1 /usr/bin-and-more"


def test_settings_lose_secrets_at_any_depth_and_keep_the_rest():
    settings = {
        "a": [{"token": 123, "url": "http://u:p@h"}],
        "api_key_env": "KEY",
        "max_text_tokens": 64,
        "api_key": None,
    }
    assert redact(settings, {}) == {
        "a": [{"token": "***", "url": "http://***@h"}], "api_key_env": "KEY", "max_text_tokens": 64, "api_key": None,
    }  # fmt: skip


def test_the_variable_that_a_recipe_names_is_a_secret_whatever_its_name():
    environ = {"HORSE": "blue-1", "OTHER": "green-1"}
    remember_secret("HORSE", environ)
    remember_secret("HORSE", environ)
    assert redact_text("blue-1 green-1", environ) == "*** green-1"


@pytest.mark.parametrize("echo", ['a/b"c', 'a\\/b"c', 'a/b\\"c', "a%2Fb%22c"])
def test_a_secret_is_found_as_json_and_addresses_write_it(echo):
    environ = {"MY_KEY": 'a/b"c-long'}
    assert redact_text(f"<{echo}-long>", environ) == "<***>"
