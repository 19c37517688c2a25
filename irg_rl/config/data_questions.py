"""The questions that `irg-rl data build` asks its teacher, unless the recipe has others. The teacher is the model that
writes thinking and reflections."""

IRG_HEADINGS = (
    "Detailed Explanation of Required Improvements:",
    "Step-by-Step Modification Guidance:",
    "Final Comprehensive Prompt for the Improved Image:",
)
"""The headings of a reflection in IRG's published template."""
THINK = (
    'Somebody will draw an image for this prompt: "{prompt}" Write the plan for the image: what it shows, in which '
    "style and in which mood. Where the prompt leaves something open, leave it open too. Write the plan alone, in one "
    "or two paragraphs of {language}, without a greeting and without tags."
)
THINK_OF_IMAGE = (
    'This image was drawn for the prompt "{prompt}" Write the plan that would lead to this image: what it shows, in '
    "which style and in which mood. Write as if the image did not exist yet. Write the plan alone, in one or two "
    "paragraphs of {language}, without a greeting and without tags."
)
_LOOK = (
    "First write one paragraph about what the {image} shows and where it falls short of the prompt. Say only what can "
    "be seen. Then say what has to change{in_it}, and leave everything else as it is.{{headings}} If nothing has to "
    "change, write one sentence about what the {image} shows, and then the sentence \"{{stop}}\" and nothing else. "
    "Write in {{language}}, without a greeting and without tags."
)
REFLECT = 'This image was drawn for the prompt "{prompt}" Look at it and compare it with the prompt. ' + _LOOK.format(
    image="image", in_it=""
)
REFLECT_WITH_TARGET = (
    'Both images were drawn for the prompt "{prompt}" The second image is better. Write as somebody who sees the first '
    "image alone, and never mention the second one. "
) + _LOOK.format(image="first image", in_it=" in it, so that it becomes like the second image")
SECTIONS = " Use these headings, each in a line of its own that begins with ###, and write below each: {names}."
"""The sentence that stands for {headings} in a question, if there are headings."""
LANGUAGES = {
    "en": "English", "de": "German", "es": "Spanish", "fr": "French", "it": "Italian", "pt": "Portuguese",
    "ru": "Russian", "zh": "Chinese", "ja": "Japanese", "ko": "Korean",
}  # fmt: skip
"""Languages that the filter of the teacher's texts can tell apart."""
