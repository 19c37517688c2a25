"""A multimodal language model in this process as a judge of images (Qwen2.5-VL, Qwen3-VL and others of transformers).

It is asked the same yes/no questions as a judge over HTTP (rewards/judge.py), and its answers are read by the same
rules (rewards/judge_answer.py): the score is p(yes) / (p(yes) + p(no)) at the token of the answer. All else is a
failure, never a number. Nothing is downloaded.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image as PILImage
from pydantic import Field
from transformers import AutoModelForImageTextToText

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import Image, Preference, Score, require_pairs
from rewards.judge import IS_DONE, IS_TRUE, WHICH, YES_NO
from rewards.judge_answer import Unanswered, probability
from rewards.released import WeightPrecision, load_released

ALTERNATIVES = 20
"""Number of alternatives per token from which the answer is read. Endpoints give at most 20, too."""
Words = tuple[str, str]
Asked = tuple[str, Sequence[Image]]
"""A question and the images that it is about."""


class MllmScorer:
    """Scores images with a local multimodal language model. The score, in [0, 1], says how sure the model is that the
    image shows the prompt.

    `path` is a folder as `save_pretrained` writes it: model, tokenizer, processor and chat template. `batch_size` is
    the number of questions in one forward pass. `max_tokens` is the longest answer. Model and cache run in `precision`;
    the probabilities are computed in fp32. `max_pixels` is the largest number of pixels of an image (for models with
    Qwen's image processor). Larger images are made smaller. 0 means the limit in the folder.

    There are three questions. `question` is about an image, `reflection_question` about a reflection, and
    `edit_question` about an edit (the change from one image to the next). In a question, {prompt} stands for the prompt
    and {reflection} for the text of the reflection.
    """

    def __init__(
        self,
        path: str | Path,
        name: str = "mllm",
        question: str = YES_NO,
        reflection_question: str = IS_TRUE,
        edit_question: str = IS_DONE,
        precision: WeightPrecision = "bf16",
        device: str = "cpu",
        batch_size: Annotated[int, Field(ge=1)] = 8,
        max_tokens: Annotated[int, Field(ge=1)] = 4,
        max_pixels: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        if "{prompt}" not in question:
            raise InputError(f"the question {question!r} lacks {{prompt}}: the model would not know what to look for")
        for about in (reflection_question, edit_question):
            if "{reflection}" not in about:
                raise InputError(f"the question {about!r} lacks {{reflection}}, the text that it is about")
        self.name, self.last_error = name, ""
        self.question, self.reflection_question, self.edit_question = question, reflection_question, edit_question
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.processor, self.model = load_released(
            path, AutoModelForImageTextToText, precision, device, "multimodal model"
        )
        known = self.processor.tokenizer.added_tokens_decoder
        self.special = {number: token.content for number, token in known.items() if token.special}
        if max_pixels:  # the image processors of Qwen's models call numbers of pixels edges
            size = self.processor.image_processor.size
            size["longest_edge"], size["shortest_edge"] = max_pixels, min(size["shortest_edge"], max_pixels)

    def check(self) -> None:
        """Do nothing, because the constructor has already loaded the model."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        return self._yes([(_filled(self.question, p), (i,)) for i, p in zip(images, prompts, strict=True)])

    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        """Return one score in [0, 1] per reflection. It says how sure the model is that all statements of the text
        `texts[i]` about `images[i]` are true."""
        require_pairs(images, prompts)
        return self._yes([
            (_filled(self.reflection_question, prompt, text), (image,))
            for image, prompt, text in zip(images, prompts, texts, strict=True)
        ])  # fmt: skip

    def score_edits(
        self, before: list[Image], texts: list[str], after: list[Image], prompts: list[Prompt]
    ) -> list[Score]:
        """Return one score in [0, 1] per refined image. The reflection `texts[i]` asks for changes of `before[i]`. The
        score says how sure the model is that `after[i]` makes these changes and no others."""
        require_pairs(before, prompts)
        require_pairs(after, prompts)
        return self._yes([
            (_filled(self.edit_question, prompt, text), (first, second))
            for first, text, second, prompt in zip(before, texts, after, prompts, strict=True)
        ])  # fmt: skip

    def prefer(self, prompts: list[Prompt], first: list[Image], second: list[Image]) -> list[Preference | None]:
        """Return one Preference per prompt: the probability that `first[i]` fits the prompt better than `second[i]`.
        The model is asked in both orders of the images. The entry is None if one of the two questions failed."""
        require_pairs(first, prompts)
        require_pairs(second, prompts)
        asked: list[Asked] = []
        for prompt, a, b in zip(prompts, first, second, strict=True):
            asked += [(_filled(WHICH, prompt), (a, b)), (_filled(WHICH, prompt), (b, a))]
        answers = self._ask(asked, ("1", "2"))
        pairs = zip(answers[::2], answers[1::2], strict=True)
        return [None if a is None or b is None else Preference(a, 1 - b) for a, b in pairs]

    def _yes(self, asked: list[Asked]) -> list[Score]:
        return self._ask(asked, ("yes", "no"))

    def _ask(self, asked: list[Asked], words: Words) -> list[Score]:
        """Return for each question the probability that the answer is words[0]. It is None if the answer is neither of
        the words."""
        scores: list[Score] = []
        for start in range(0, len(asked), self.batch_size):
            for completion in self._completions(asked[start : start + self.batch_size]):
                try:
                    scores.append(probability(completion, words))
                except Unanswered as failure:
                    self.last_error = str(failure)
                    scores.append(None)
        return scores

    @torch.inference_mode()
    def _completions(self, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """Answer questions without randomness. Return each answer in the form of an OpenAI chat completion, with the
        log-probabilities of the most likely alternatives of every token."""
        chats = [
            [{"role": "user", "content": [*({"type": "image"} for _ in images), {"type": "text", "text": text}]}]
            for text, images in ((self._as_text(question), images) for question, images in asked)
        ]
        inputs = self.processor(
            text=[self.processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats],
            images=[[PILImage.fromarray(image) for image in images] for _, images in asked],
            padding=True, padding_side="left", return_tensors="pt",
        ).to(self.model.device, self.model.dtype)  # fmt: skip
        made = self.model.generate(
            **inputs, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=self.max_tokens,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        chosen = made.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        likely = [step.float().log_softmax(dim=-1).topk(min(ALTERNATIVES, step.shape[-1])) for step in made.logits]
        return [
            self._completion(ids, [(top.values[row].tolist(), top.indices[row].tolist()) for top in likely])
            for row, ids in enumerate(chosen)
        ]

    def _as_text(self, question: str) -> str:
        """Return the question with a blank inside the names of special tokens. A reflection that contains such a name
        could otherwise end the question, or stand for an image that is not there."""
        for name in self.special.values():
            question = question.replace(name, f"{name[0]} {name[1:]}")
        return question

    def _completion(self, ids: list[int], likely: list[tuple[list[float], list[int]]]) -> dict[str, Any]:
        tokenizer, content, text = self.processor.tokenizer, [], ""
        for chosen, (logprobs, alternatives) in zip(ids, likely):
            if chosen in self.special:
                break
            ranked = [
                {"token": tokenizer.decode([token]), "logprob": logprob}
                for token, logprob in zip(alternatives, logprobs, strict=True)
            ]
            content.append({"token": tokenizer.decode([chosen]), "top_logprobs": ranked})
            text += content[-1]["token"]
        return {"choices": [{"message": {"content": text}, "logprobs": {"content": content}}]}


def _filled(question: str, prompt: Prompt, reflection: str = "") -> str:
    parts = {"prompt": prompt.text, "reflection": reflection}
    return re.sub(r"\{(prompt|reflection)\}", lambda found: parts[found[1]], question)
