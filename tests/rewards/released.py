"""Tiny models with random weights, in the folders that transformers writes for released ones."""

import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

LETTERS = sorted(ByteLevel.alphabet())  # one letter per byte
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def merged(*words: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of all bytes and of these words, and the merges that spell the words."""
    vocabulary = {letter: number for number, letter in enumerate(LETTERS)}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            vocabulary.setdefault(word[:end], len(vocabulary))
    return vocabulary, merges


def qwen_vl(folder, answers: tuple[str, str] | None, ends: bool = False) -> None:
    """Qwen2.5-VL with two small layers. With `answers` each of its tokens is one of these two words, and what it sees
    decides how probable each is: dimension 0 of every state is large, and only the two have an output weight there.
    With `ends` the text ends after one of them: dimension 1 is large for these two alone."""
    vocabulary, merges = merged("yes", "no", "1", "2")
    tokenizer = Qwen2Tokenizer(vocabulary, merges)
    tokenizer.add_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.chat_template = CHAT
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "initializer_range": 0.2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            "bos_token_id": None, "eos_token_id": ids("<|im_end|>"), "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
            "window_size": 16, "out_hidden_size": 32, "fullatt_block_indexes": [1], "initializer_range": 0.2,
        },
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    if answers:
        with torch.no_grad():
            model.get_input_embeddings().weight[:, 0] = 10.0
            head = model.lm_head.weight
            head.zero_()
            first, second = ids(list(answers))
            head[first] = 0.3 * torch.randn(head.shape[1])
            head[second] = -head[first]
            head[[first, second], 0] = 3.0
            if ends:
                model.get_input_embeddings().weight[[first, second], 1] = 40.0
                head[ids("<|im_end|>"), 1] = 3.0
    sides = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    size = {"shortest_edge": 64, "longest_edge": 4096}
    model.save_pretrained(folder)
    Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=size, **sides), tokenizer, Qwen2VLVideoProcessor(size=size, **sides),
        chat_template=CHAT,
    ).save_pretrained(folder)  # fmt: skip


def pickscore(folder) -> None:
    """A CLIP model with two small layers per tower, in the layout of PickScore_v1."""
    letters = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    tokenizer = CLIPTokenizer(vocabulary, [], model_max_length=16)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=tower | {
            "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_dim": 8,
            "bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": vocabulary["<|endoftext|>"],
        },
        vision_config=tower | {"image_size": 16, "patch_size": 8, "projection_dim": 8},
        projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(config)
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    model.save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)
