"""A multimodal language model in this process as a judge of images (Qwen2.5-VL, Qwen3-VL and others of transformers).

It is asked the same questions as a judge over HTTP (rewards/judge.py), and its answers are read by the same rules
(rewards/judge_answer.py): the score is p(yes) / (p(yes) + p(no)) at the token of the answer, or the expected grade
there. All else is a failure, never a number. Nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image as PILImage
from pydantic import Field
from transformers import AutoModelForImageTextToText

from rewards.base import Score
from rewards.judge_answer import AnswerForm, Unanswered
from rewards.questions import AnswerKind, ImageQuestion, QuestionScorer
from rewards.released import WeightPrecision, load_released

ALTERNATIVES = 20
"""Number of alternatives per token from which the answer is read. Endpoints give at most 20, too."""


class MllmScorer(QuestionScorer):
    """Scores images with a local multimodal language model. The score, in [0, 1], says how sure the model is that the
    image shows the prompt, or how well it shows the prompt.

    `path` is a folder as `save_pretrained` writes it: model, tokenizer, processor and chat template. `batch_size` is
    the number of questions in one forward pass. `max_tokens` is the longest answer. Model and cache run in `precision`;
    the probabilities are computed in fp32. `max_pixels` is the largest number of pixels of an image (for models with
    Qwen's image processor). Larger images are made smaller. 0 means the limit in the folder.

    `answer` and the three questions are explained at `QuestionScorer`.
    """

    def __init__(
        self,
        path: str | Path,
        name: str = "mllm",
        answer: AnswerKind = "yes_no",
        question: str = "",
        reflection_question: str = "",
        edit_question: str = "",
        precision: WeightPrecision = "bf16",
        device: str = "cpu",
        batch_size: Annotated[int, Field(ge=1)] = 8,
        max_tokens: Annotated[int, Field(ge=1)] = 4,
        max_pixels: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(name, answer, question, reflection_question, edit_question)
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

    def models(self) -> list[torch.nn.Module]:
        return [self.model]

    def answers(self, asked: list[ImageQuestion], form: AnswerForm) -> list[Score]:
        scores: list[Score] = []
        for start in range(0, len(asked), self.batch_size):
            for completion in self._completions(asked[start : start + self.batch_size]):
                try:
                    scores.append(form.read(completion))
                except Unanswered as failure:
                    self.last_error = str(failure)
                    scores.append(None)
        return scores

    @torch.inference_mode()
    def _completions(self, asked: Sequence[ImageQuestion]) -> list[dict[str, Any]]:
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
        tokenizer, content, text, end = self.processor.tokenizer, [], "", "length"
        for chosen, (logprobs, alternatives) in zip(ids, likely):
            if chosen in self.special:
                end = "stop"
                break
            ranked = [
                {"token": tokenizer.decode([token]), "logprob": logprob}
                for token, logprob in zip(alternatives, logprobs, strict=True)
            ]
            content.append({"token": tokenizer.decode([chosen]), "top_logprobs": ranked})
            text += content[-1]["token"]
        said = {"message": {"content": text}, "logprobs": {"content": content}, "finish_reason": end}
        return {"choices": [said]}
