"""Draw the picture at the top of the README: one prompt of a run before and after RL, with all texts.

    python -m benchmarks.trajectory_strip RUN NUMBER OUT.png

NUMBER is the place of the prompt in the samples that the run's evaluations keep, from 0. The first column is the last
image of the SFT checkpoint. The other columns are all images of the RL checkpoint. Images are enlarged without
smoothing. Frames are green for right images and red for wrong ones. Under each image stands the text that led to it.
"""

import re
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from irg_rl.report.samples import SampledTrajectory, load_samples
from irg_rl.report.strips import RIGHT, WRONG

ZOOM = 18  # pixels of the picture for one pixel of the model
MARGIN, FRAME, LINE = 36, 8, 40
PAPER, INK, FAINT = (255, 255, 255), (25, 25, 25), (110, 110, 110)
WORDS = {True: "right", False: "wrong"}


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path(), "fonts/ttf", f"DejaVuSans{'-Bold' * bold}.ttf"), size)


def columns(before: SampledTrajectory, after: SampledTrajectory) -> list[tuple]:
    """Return one entry per column: (heading, image, verdict, texts). The text of a stop stands under the last image."""
    last = max(number for number, turn in enumerate(before.turns) if turn.image is not None)
    stop = before.turns[-1].text
    shown = [("after SFT", before.turns[last].image, before.turns[last].correct, ["looks, and stops:", stop])]
    for number, turn in enumerate(after.turns):
        if turn.image is not None:
            lead = f"after RL, image {number + 1}"
            shown.append((lead, turn.image, turn.correct, ["reflects:" if number else "thinks:", turn.text]))
        else:
            shown[-1][3].extend(["stops:", turn.text])
    return shown


def tidy(text: str) -> str:
    """Return a text without the marks of thinking. No line begins with a full stop, a comma or a colon."""
    bare = text.replace("<think>", "").replace("</think>", "").strip()
    return re.sub(r" (?=[.,:])", "\N{NO-BREAK SPACE}", bare)


def draw(before: SampledTrajectory, after: SampledTrajectory) -> Image.Image:
    shown = columns(before, after)
    side = shown[0][1].shape[0] * ZOOM + 2 * FRAME
    plain, bold, title = font(30), font(29, bold=True), font(38, bold=True)
    letters = int(side / plain.getlength("n") * 1.08)  # most letters are narrower than an n
    wrapped = [[line for text in texts for line in textwrap.wrap(tidy(text), letters)] for *_, texts in shown]
    height = 2 * MARGIN + 60 + 46 + side + 20 + LINE * max(map(len, wrapped))
    canvas = Image.new("RGB", (len(shown) * (side + MARGIN) + MARGIN, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), f"“{after.prompt}”", INK, title)
    for number, ((heading, pixels, correct, texts), lines) in enumerate(zip(shown, wrapped)):
        left, top = MARGIN + number * (side + MARGIN), MARGIN + 60
        pen.text((left, top), f"{heading}: {WORDS[correct]}", INK, bold)
        pen.rectangle((left, top + 46, left + side - 1, top + 46 + side - 1), RIGHT if correct else WRONG)
        image = Image.fromarray(pixels).resize((side - 2 * FRAME,) * 2, Image.Resampling.NEAREST)
        canvas.paste(image, (left + FRAME, top + 46 + FRAME))
        for row, line in enumerate(lines):
            pen.text((left, top + 66 + side + LINE * row), line, FAINT if line in texts else INK, plain)
    return canvas


if __name__ == "__main__":
    run, number, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    pair = [load_samples(run / "samples" / name)[number] for name in ("sft2", "rl")]
    draw(*pair).save(out, optimize=True)
